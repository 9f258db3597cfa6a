"""How libraries say that a device is full."""

from __future__ import annotations

import torch


def is_shortage(error: RuntimeError) -> bool:
    """Whether `error` says so: PyTorch's allocator has a class for it, CUDA itself only words."""
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error)
