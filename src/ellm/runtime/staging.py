"""A block of host memory through which weights reach where they belong."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from ellm.core.units import MIB

BLOCK_BYTES = 8 * MIB


class Staging:
    """One block on its way to `device`.

    To a GPU it goes on a stream of its own, so that who serves meanwhile and who reads a file do
    not wait for one another.  What was given to the device before this was made may still read the
    memory that is written, and is waited for there.
    """

    def __init__(self, device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        self._block = torch.empty(BLOCK_BYTES, dtype=torch.uint8, pin_memory=on_gpu)
        self._stream: torch.cuda.Stream | None = None
        if on_gpu:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def room(self, count: int, dtype: torch.dtype) -> Tensor:
        """For so many numbers, at most a block of them."""
        return self._block[: count * dtype.itemsize].view(dtype)

    def send(self, room: Tensor, target: Tensor) -> None:
        """Copy what `room` gave, as the target's dtype; the block is free on return."""
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            target.copy_(room, non_blocking=True)
        if self._stream is not None:
            self._stream.synchronize()
