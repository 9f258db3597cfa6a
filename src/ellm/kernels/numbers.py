"""Numbers of Python on their way to a device."""

from __future__ import annotations

from array import array

import torch
from torch import Tensor

from ellm.core.units import KIB

# Bytes of ordinary memory that a copy to the device takes along.
_WITH_THE_CALL = 64 * KIB


def send(numbers: array[int], into: Tensor) -> None:
    """Begin to write int64 numbers to the beginning of a tensor; what is queued is not waited for.

    A little of ordinary memory travels with the call; for more the driver may wait until the device
    has done what is queued.  PyTorch keeps pinned memory until it has been read.
    """
    fresh = torch.frombuffer(numbers, dtype=torch.int64)
    if into.is_cuda and len(numbers) * numbers.itemsize > _WITH_THE_CALL:
        fresh = fresh.pin_memory()
    into[: len(numbers)].copy_(fresh, non_blocking=True)


def arrive(numbers: Tensor, device: torch.device) -> Tensor:
    """`numbers`, which are in ordinary memory, on `device`, as soon as what is queued is done."""
    if device.type == "cuda":
        numbers = numbers.pin_memory()
    return numbers.to(device, non_blocking=True)
