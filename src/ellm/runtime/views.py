"""The only place where an address becomes a tensor.

A view owns nothing and touches nothing: it may cover a reservation of which most is unmapped, and
it stays valid while chunks come and go behind it.  Reading or writing an unmapped part is a fault.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor


class _CudaRange:
    """A device range in the words of the CUDA array interface, which torch reads."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (address, False),
            "strides": None,
            "version": 3,
        }


def view(
    address: int,
    nbytes: int,
    dtype: torch.dtype = torch.uint8,
    device: torch.device | str = "cpu",
) -> Tensor:
    """A flat tensor over `nbytes` bytes at `address`; `nbytes` is a multiple of the item size."""
    assert nbytes % dtype.itemsize == 0, (nbytes, dtype)
    if nbytes == 0:
        return torch.empty(0, dtype=dtype, device=device)
    place = torch.device(device)
    if place.type == "cpu":
        buffer = (ctypes.c_uint8 * nbytes).from_address(address)
        return torch.frombuffer(buffer, dtype=dtype)
    raw = torch.as_tensor(_CudaRange(address, nbytes), device=place)
    return raw.view(dtype)
