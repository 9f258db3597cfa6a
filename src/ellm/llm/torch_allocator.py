"""Any PyTorch program on CUDA with stitched memory: `with ellm.torch_allocator(): ...`."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from ellm.core.errors import ConfigError, DriverUnavailable
from ellm.core.units import format_bytes, parse_bytes
from ellm.memory.drivers.cuda import CudaDriver
from ellm.memory.pool import ChunkPool
from ellm.memory.stitching import StitchingAllocator
from ellm.runtime.torch_allocator import Binding, TorchAllocator, TorchBinding

_MOMENT = 0.05


@contextmanager
def torch_allocator(
    memory: str | int | None = None, *, binding: Binding | None = None
) -> Iterator[TorchAllocator]:
    """Let PyTorch take its CUDA memory from stitching allocators (GMLake), one a device.

        with ellm.torch_allocator(memory="70GiB") as allocator:
            train()
            print(allocator.stats().fragmentation)

    `memory` bounds each device; None is all of it.  PyTorch cannot change its allocator twice: it
    must be entered before the process first uses CUDA, and stays in force after the block, which
    then gives back what is cached.  PyTorch's own memory statistics do not work with any foreign
    allocator, nor do CUDA graphs; when memory runs out, the log says so and PyTorch fails on an
    illegal address.  `binding` None is PyTorch itself.

    Raises DriverUnavailable without CUDA, and ConfigError when it comes too late.
    """
    if binding is None:
        _require_cuda()
    limit = None if memory is None else parse_bytes(memory)

    def open_device(index: int) -> StitchingAllocator:
        driver = CudaDriver(index)
        budget = driver.total_bytes if limit is None else min(limit, driver.total_bytes)
        return StitchingAllocator(ChunkPool(driver, budget), "torch", fence=driver.fence)

    allocator = TorchAllocator(open_device)
    allocator.install(TorchBinding() if binding is None else binding)
    try:
        with _undisturbed(allocator):
            yield allocator
    finally:
        allocator.trim()


@contextmanager
def _undisturbed(allocator: TorchAllocator) -> Iterator[None]:
    """A Ctrl-C that meets the allocator at work comes again a moment later."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, main = signal.getsignal(signal.SIGINT), threading.get_ident()

    def strike(number: int, frame: FrameType | None) -> None:
        if allocator.busy:
            threading.Timer(_MOMENT, signal.pthread_kill, (main, number)).start()
        elif callable(before):
            before(number, frame)

    signal.signal(signal.SIGINT, strike)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _require_cuda() -> None:
    if not hasattr(torch._C, "_cuda_customAllocator") or not torch.cuda.is_available():
        raise DriverUnavailable(
            f"torch_allocator() serves CUDA memory, and PyTorch {torch.__version__} finds no CUDA "
            "device here: leave it out, or install PyTorch for CUDA"
        )
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        raise ConfigError(
            "torch_allocator() comes too late, CUDA is in use already "
            f"({format_bytes(torch.cuda.memory_allocated())} of tensors): enter it before the "
            "first CUDA tensor, in a process of its own"
        )
