"""PyTorch's CUDA memory out of stitching allocators, through C callbacks and no compiler.

    PyTorch, any thread      allocate(size, device, stream) ──┐  waits for the lock
                             free(address) ──┐                │
                             use(address, stream) ┴─ a queue ─┴─ emptied by who holds it

PyTorch calls addresses of functions, which ctypes makes of methods; ctypes takes the interpreter's
lock (GIL) around each call.  A free may come at any moment, also in the middle of an allocation in
the same thread, when Python's garbage collector drops a tensor.  So frees and uses only join a
queue, in order, and whoever has the lock works it off.  Nothing called under the lock calls PyTorch
back, and a thread that waits for it gives the GIL up: neither can wait for the other.

It becomes PyTorch's current allocator.  A `torch.cuda.MemPool` could be entered and left at will,
but behind it PyTorch's caching allocator still cuts and keeps the segments, so that nothing is won.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from ellm.core.units import format_bytes
from ellm.memory.stitching import AllocatorStats, StitchingAllocator

_log = logging.getLogger(__name__)

_ALLOCATE = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)
_FREE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)
_USE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
_EMPTY = ctypes.CFUNCTYPE(None)


class Binding(Protocol):
    """What PyTorch must let us do."""

    def custom_allocator(self, allocate: int, free: int) -> Any:
        """An allocator made of two function addresses."""
        ...

    def change_current_allocator(self, allocator: Any) -> None:
        """Take all CUDA memory from it from now on; only before the first was taken."""
        ...


class TorchBinding:
    """The two entry points of `torch._C`."""

    def custom_allocator(self, allocate: int, free: int) -> Any:
        return torch._C._cuda_customAllocator(allocate, free)

    def change_current_allocator(self, allocator: Any) -> None:
        torch._C._cuda_changeCurrentAllocator(allocator)


class TorchAllocator:
    """One stitching allocator a device, made by `open_device(index)` when it is first wanted."""

    def __init__(self, open_device: Callable[[int], StitchingAllocator]) -> None:
        self._open_device = open_device
        self._devices: dict[int, StitchingAllocator] = {}
        self._lock = threading.Lock()
        self._holder: int | None = None
        self._inside: set[int] = set()
        # (address, stream) of a use on another stream, (address, None) of a free.
        self._queue: deque[tuple[int, int | None]] = deque()
        self._callbacks = (
            _ALLOCATE(self._allocate),
            _FREE(self._free),
            _USE(self._use),
            _EMPTY(self._empty),
        )

    def install(self, binding: Binding) -> None:
        """Make PyTorch take all its CUDA memory from here, for as long as the process lives."""
        allocate, free, use, empty = (_address(callback) for callback in self._callbacks)
        allocator = binding.custom_allocator(allocate, free)
        allocator.set_record_stream_fn(use)
        allocator.set_reset_fn(empty)
        binding.change_current_allocator(allocator)
        # PyTorch keeps bare addresses: what is behind them must never be collected.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))

    @property
    def busy(self) -> bool:
        """Whether this thread is inside a callback, which nothing may interrupt."""
        return threading.get_ident() in self._inside

    def stats(self, device: int = 0) -> AllocatorStats | None:
        """Of one device; None before its first allocation."""
        with self._locked():
            memory = self._devices.get(device)
            return None if memory is None else memory.stats

    def trim(self) -> int:
        """Give what no tensor holds and no kernel uses back to the devices; how many bytes."""
        with self._locked():
            given = 0
            for memory in self._devices.values():
                memory.trim()
                given += memory.pool.trim()
            return given

    def check(self) -> None:
        """The books of every device balance."""
        with self._locked():
            for memory in self._devices.values():
                memory.check()

    def _allocate(self, size: int, device: int, stream: int | None) -> int | None:
        """Called by PyTorch, which does not look whether it got NULL: so the log says why."""
        with self._no_exception_leaves():
            if not size:
                return None
            address = self._take(size, device, stream or 0)
            if address is None:
                # Tensors in reference cycles may be garbage.
                gc.collect()
                address = self._take(size, device, stream or 0)
            if address is None:
                self._explain(size, device)
            return address
        return None

    def _free(self, address: int | None, size: int, device: int, stream: int | None) -> None:
        with self._no_exception_leaves():
            self._enqueue(address, None)

    def _use(self, address: int | None, stream: int | None) -> None:
        with self._no_exception_leaves():
            self._enqueue(address, stream or 0)

    def _empty(self) -> None:
        with self._no_exception_leaves():
            self.trim()

    def _take(self, size: int, device: int, stream: int) -> int | None:
        with self._locked():
            if device not in self._devices:
                self._devices[device] = self._open_device(device)
            return self._devices[device].allocate(size, stream)

    def _explain(self, size: int, device: int) -> None:
        stats, refusal = self.stats(device), self._devices[device].refusal
        assert stats is not None
        _log.error(
            "out of memory on CUDA device %d: %s more were asked for, tensors hold %s, and %s are "
            "reserved (%s). PyTorch will now fail on an illegal address: use less, or restart "
            "with a larger memory=",
            device,
            format_bytes(size),
            format_bytes(stats.active),
            format_bytes(stats.reserved),
            refusal or "all that memory= allows",
        )

    def _enqueue(self, address: int | None, stream: int | None) -> None:
        if address is None:
            return
        self._queue.append((address, stream))
        # Who has the lock works the queue off before and after; nobody waits here.
        if self._lock.acquire(blocking=False):
            with self._alone():
                pass

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if self._holder == threading.get_ident():
            raise RuntimeError("the garbage collector allocates CUDA memory during an allocation")
        self._lock.acquire()
        with self._alone():
            yield

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """With the lock, which is released in the end; the queue is worked off before and after."""
        self._holder = threading.get_ident()
        try:
            self._work_off()
            yield
            self._work_off()
        finally:
            self._holder = None
            self._lock.release()

    def _work_off(self) -> None:
        while self._queue:
            address, stream = self._queue.popleft()
            for memory in self._devices.values():
                if memory.size_of(address) is None:
                    continue
                if stream is None:
                    memory.free(address)
                else:
                    memory.note_use(address, stream)
                break

    @contextmanager
    def _no_exception_leaves(self) -> Iterator[None]:
        """C cannot catch what is raised in a callback, so the log has it."""
        me = threading.get_ident()
        outermost = me not in self._inside
        self._inside.add(me)
        try:
            yield
        except BaseException:
            _log.exception("the CUDA allocator of PyTorch failed")
        finally:
            if outermost:
                self._inside.discard(me)


def _address(callback: Any) -> int:
    address = ctypes.cast(callback, ctypes.c_void_p).value
    assert address is not None, callback
    return address
