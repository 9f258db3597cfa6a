"""The only place where an address becomes a tensor, and numbers of Python become a tensor's.

A view owns nothing and touches nothing: it may cover a reservation of which most is unmapped, and
it stays valid while chunks come and go behind it.  Reading or writing an unmapped part is a fault.
"""

from __future__ import annotations

from array import array
from ctypes import memmove
from typing import cast

import torch
from torch import Tensor

from ellm.kernels.numbers import send


def view(
    address: int,
    nbytes: int,
    dtype: torch.dtype = torch.uint8,
    device: torch.device | str = "cpu",
) -> Tensor:
    """A flat tensor over `nbytes` bytes at `address`; `nbytes` is a multiple of the item size."""
    assert nbytes % dtype.itemsize == 0, (nbytes, dtype)
    empty = torch.empty(0, dtype=dtype, device=device)
    if nbytes == 0:
        return empty
    # The way of PyTorch's own graph trees.  DLPack needs a capsule whose deleter can outlive the
    # interpreter, and the CUDA array interface asks the driver about addresses not mapped yet.
    storage = torch._C._construct_storage_from_data_pointer(address, empty.device, nbytes)
    return empty.set_(cast(torch.UntypedStorage, storage), 0, (nbytes // dtype.itemsize,), (1,))


def put(numbers: array[int], into: Tensor) -> None:
    """Write int64 numbers to the beginning of a contiguous int64 tensor."""
    size = len(numbers) * numbers.itemsize
    assert numbers.typecode == "q", numbers.typecode
    assert len(numbers) <= into.numel(), (len(numbers), into.shape)
    if into.is_cpu:
        # A step does this between kernels, when the caches hold nothing of PyTorch.
        memmove(into.data_ptr(), numbers.buffer_info()[0], size)
    else:
        send(numbers, into)
