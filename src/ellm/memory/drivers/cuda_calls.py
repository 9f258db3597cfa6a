"""The CUDA driver API as the rest of us call it: results checked, one context, one device."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ellm.core.errors import DriverError, DriverUnavailable


def call(cuda: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """What one driver call returns beside its result (None if nothing); DriverError if refused."""
    result, *values = function(*arguments)
    if result != cuda.CUresult.CUDA_SUCCESS:
        raise DriverError(f"{function.__name__} was refused: {result.name}")
    return values[0] if values else None


def import_bindings() -> Any:
    try:
        return importlib.import_module("cuda.bindings.driver")
    except ImportError as error:
        raise DriverUnavailable(
            "CUDA memory needs the cuda-bindings package: pip install cuda-bindings"
        ) from error


def find_device(cuda: Any, ordinal: int) -> Any:
    """The device's handle, or DriverUnavailable with what is missing."""
    try:
        call(cuda, cuda.cuInit, 0)
        found = call(cuda, cuda.cuDeviceGetCount)
    # The bindings raise an error of their own, no result, where there is no driver library.
    except (RuntimeError, DriverError) as error:
        raise DriverUnavailable(
            f"no CUDA driver on this machine ({error}): install one, or serve from host memory"
        ) from error
    if not 0 <= ordinal < found:
        raise DriverUnavailable(f"there is no CUDA device {ordinal}: {found} found")
    device = call(cuda, cuda.cuDeviceGet, ordinal)
    virtual = cuda.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
    if not call(cuda, cuda.cuDeviceGetAttribute, virtual, device):
        raise DriverUnavailable(f"CUDA device {ordinal} has no virtual memory management")
    return device


class PrimaryContext:
    """The context of a device that frameworks use too, retained until `release`."""

    def __init__(self, cuda: Any, device: Any) -> None:
        self._cuda = cuda
        self._device = device
        self._context = call(cuda, cuda.cuDevicePrimaryCtxRetain, device)
        self.held = True

    @contextmanager
    def current(self) -> Iterator[None]:
        """Current in this thread, and afterwards whatever was before."""
        if not self.held:
            raise DriverError("the driver is closed")
        call(self._cuda, self._cuda.cuCtxPushCurrent, self._context)
        try:
            yield
        finally:
            call(self._cuda, self._cuda.cuCtxPopCurrent)

    def release(self) -> None:
        call(self._cuda, self._cuda.cuDevicePrimaryCtxRelease, self._device)
        self.held = False
