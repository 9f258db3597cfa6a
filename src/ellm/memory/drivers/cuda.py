"""CUDA device memory through the driver's virtual memory calls (the `cuda-bindings` package).

    reserve   cuMemAddressReserve                    addresses; free of cost
    create    cuMemCreate                            the only call that takes memory
    map       cuMemMap each, cuMemSetAccess once     one access call for the whole run
    unmap     cuMemUnmap once                        whole mappings, any number of them
    destroy   cuMemRelease                           only here and at close

These calls are not ordered with streams.  A slot may be unmapped only after the work that reads it
has finished; mapping slots that nothing reads yet needs no wait.  `copy`, `copy_in` and `copy_out`
are ordered with the default stream, where frameworks compute unless they are told otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import count as count_from
from typing import Any

from ellm.core.errors import ConfigError, DriverError
from ellm.core.units import format_bytes
from ellm.memory.driver import Chunk, Span
from ellm.memory.drivers.cuda_calls import PrimaryContext, call, find_device, import_bindings
from ellm.memory.mappings import Mappings
from ellm.memory.runs import adjacent_runs


class CudaDriver:
    """Chunks of one device; `chunk_bytes` None takes the device's own granularity.

    The device's primary context, which frameworks use too, is made current for each call in
    whatever thread makes it.  `on_shortage` is called once when the device has no memory left, to
    empty a framework's cache, before creating is tried again.  `bindings` None imports
    `cuda.bindings.driver`.  Raises DriverUnavailable where there is no such package, driver or
    device, or the device cannot do this.
    """

    def __init__(
        self,
        device: int = 0,
        *,
        chunk_bytes: int | None = None,
        on_shortage: Callable[[], None] | None = None,
        bindings: Any = None,
    ) -> None:
        cuda = self._cuda = import_bindings() if bindings is None else bindings
        self._on_shortage = on_shortage
        handle = self._number = find_device(cuda, device)
        self._property = cuda.CUmemAllocationProp()
        self._property.type = cuda.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        self._property.location.type = cuda.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        self._property.location.id = device
        self._access = cuda.CUmemAccessDesc()
        self._access.location.type = cuda.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        self._access.location.id = device
        self._access.flags = cuda.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        smallest = cuda.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM
        granularity = int(self._call(cuda.cuMemGetAllocationGranularity, self._property, smallest))
        chunk_bytes = granularity if chunk_bytes is None else chunk_bytes
        if chunk_bytes < 1 or chunk_bytes % granularity:
            raise ConfigError(
                f"chunk size must be a multiple of the device's {granularity}, not {chunk_bytes}"
            )
        self._context = PrimaryContext(cuda, handle)
        self._mappings = Mappings(chunk_bytes)
        self._handles: dict[Chunk, Any] = {}
        self._numbers = count_from()

    @property
    def chunk_bytes(self) -> int:
        return self._mappings.chunk_bytes

    @property
    def total_bytes(self) -> int:
        """Memory of the whole device, whoever uses it."""
        return int(self._call(self._cuda.cuDeviceTotalMem, self._number))

    def fence(self, stream: int) -> CudaFence:
        """A mark behind the work queued on a stream, given by its handle; 0 is the default one."""
        return CudaFence(self._cuda, self._context.current, stream)

    def reserve(self, slots: int) -> Span:
        if slots < 1:
            raise DriverError(f"cannot reserve {slots} slots")
        with self._context.current():
            address = self._call(
                self._cuda.cuMemAddressReserve, slots * self.chunk_bytes, self.chunk_bytes, 0, 0
            )
        span = Span(int(address), slots)
        self._mappings.reserved(span)
        return span

    def create(self, count: int) -> list[Chunk]:
        if count < 0:
            raise DriverError(f"cannot create {count} chunks")
        handles: list[Any] = []
        with self._context.current():
            result = self._fill(handles, count)
            if result == self._cuda.CUresult.CUDA_ERROR_OUT_OF_MEMORY and self._on_shortage:
                self._on_shortage()
                result = self._fill(handles, count)
            if result != self._cuda.CUresult.CUDA_SUCCESS:
                for handle in handles:
                    self._call(self._cuda.cuMemRelease, handle)
                size = format_bytes(count * self.chunk_bytes)
                raise DriverError(f"the device refused {size}: {result.name}; lower --memory")
        chunks = [Chunk(next(self._numbers)) for _ in handles]
        self._handles.update(zip(chunks, handles, strict=True))
        self._mappings.create(chunks)
        return chunks

    def map(self, span: Span, slot: int, chunks: Sequence[Chunk]) -> None:
        self._mappings.require_free(span, slot, chunks)
        if not chunks:
            return
        size, cuda = self.chunk_bytes, self._cuda
        start = span.address + slot * size
        end = start
        with self._context.current():
            try:
                for chunk in chunks:
                    self._call(cuda.cuMemMap, end, size, 0, self._handles[chunk], 0)
                    end += size
                self._call(cuda.cuMemSetAccess, start, end - start, [self._access], 1)
            except DriverError:
                if end > start:
                    self._call(cuda.cuMemUnmap, start, end - start)
                raise
        self._mappings.mapped(span, slot, chunks)

    def enlarge_pages(self, span: Span, slot: int, count: int) -> None:
        pass

    def unmap(self, span: Span, slot: int, count: int) -> None:
        self._mappings.require_mapped(span, slot, count)
        if count:
            with self._context.current():
                start = span.address + slot * self.chunk_bytes
                self._call(self._cuda.cuMemUnmap, start, count * self.chunk_bytes)
        self._mappings.unmapped(span, slot, count)

    def destroy(self, chunks: Sequence[Chunk]) -> None:
        self._mappings.require_idle(chunks)
        with self._context.current():
            for index, chunk in enumerate(chunks):
                try:
                    self._call(self._cuda.cuMemRelease, self._handles[chunk])
                except DriverError:
                    self._restore(chunks[:index])
                    raise
        self._mappings.destroyed(chunks)
        for chunk in chunks:
            del self._handles[chunk]

    def release(self, span: Span) -> None:
        self._mappings.require_empty(span)
        with self._context.current():
            size = span.slots * self.chunk_bytes
            self._call(self._cuda.cuMemAddressFree, span.address, size)
        self._mappings.released(span)

    def copy(self, target: int, source: int, count: int) -> None:
        self._mappings.resolve(source, count)
        self._mappings.resolve(target, count)
        if count:
            with self._context.current():
                self._call(self._cuda.cuMemcpyDtoD, target, source, count)

    def copy_in(self, target: int, data: bytes) -> None:
        self._mappings.resolve(target, len(data))
        if data:
            with self._context.current():
                self._call(self._cuda.cuMemcpyHtoD, target, data, len(data))

    def copy_out(self, source: int, count: int) -> bytes:
        self._mappings.resolve(source, count)
        out = bytearray(count)
        if count:
            with self._context.current():
                self._call(self._cuda.cuMemcpyDtoH, out, source, count)
        return bytes(out)

    def physical_bytes(self) -> int:
        return self._mappings.created * self.chunk_bytes

    def close(self) -> None:
        """As any driver's, once the device has done what it was given."""
        if not self._context.held:
            return
        cuda, size = self._cuda, self.chunk_bytes
        with self._context.current():
            # Where work has failed none is left, and the device may refuse the rest: all is tried.
            self._try(cuda.cuCtxSynchronize)
            for span in self._mappings.spans:
                for start, stop in adjacent_runs(sorted(self._mappings.slots(span))):
                    first = span.address + start * size
                    self._try(cuda.cuMemUnmap, first, (stop - start) * size)
                self._try(cuda.cuMemAddressFree, span.address, span.slots * size)
            for handle in self._handles.values():
                self._try(cuda.cuMemRelease, handle)
        self._context.release()
        self._handles.clear()
        self._mappings.clear()

    def _fill(self, handles: list[Any], count: int) -> Any:
        """Create until there are `count` handles; the first result that is no success."""
        success = self._cuda.CUresult.CUDA_SUCCESS
        while len(handles) < count:
            result, handle = self._cuda.cuMemCreate(self.chunk_bytes, self._property, 0)
            if result != success:
                return result
            handles.append(handle)
        return success

    def _restore(self, chunks: Sequence[Chunk]) -> None:
        """New memory behind chunks whose old memory is gone already."""
        for chunk in chunks:
            self._handles[chunk] = self._call(
                self._cuda.cuMemCreate, self.chunk_bytes, self._property, 0
            )

    def _try(self, function: Callable[..., Any], *arguments: Any) -> None:
        with suppress(DriverError):
            self._call(function, *arguments)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return call(self._cuda, function, *arguments)


class CudaFence:
    """An event recorded on a stream; it is destroyed when it has passed, or nobody asks any more.

    Whoever waits for it sleeps.  Any thread may, one at a time.
    """

    _event: Any = None

    def __init__(
        self, cuda: Any, current: Callable[[], AbstractContextManager[None]], stream: int
    ) -> None:
        self._cuda = cuda
        self._current = current
        flags = cuda.CUevent_flags
        sleepy = flags.CU_EVENT_BLOCKING_SYNC.value | flags.CU_EVENT_DISABLE_TIMING.value
        with current():
            self._event = call(cuda, cuda.cuEventCreate, sleepy)
            try:
                call(cuda, cuda.cuEventRecord, self._event, stream)
            except DriverError:
                self._destroy()
                raise

    def __del__(self) -> None:
        # A transfer that was cancelled in line never waits for its fence.
        with suppress(DriverError):
            if self._event is not None:
                with self._current():
                    self._destroy()

    def passed(self) -> bool:
        """Raises DriverError if earlier work on the device has failed."""
        cuda = self._cuda
        if self._event is None:
            return True
        with self._current():
            (result,) = cuda.cuEventQuery(self._event)
            if result == cuda.CUresult.CUDA_ERROR_NOT_READY:
                return False
            if result != cuda.CUresult.CUDA_SUCCESS:
                raise DriverError(f"cuEventQuery was refused: {result.name}")
            self._destroy()
        return True

    def wait(self) -> None:
        """Raises DriverError if earlier work on the device has failed."""
        if self._event is not None:
            with self._current():
                call(self._cuda, self._cuda.cuEventSynchronize, self._event)
                self._destroy()

    def _destroy(self) -> None:
        event, self._event = self._event, None
        call(self._cuda, self._cuda.cuEventDestroy, event)
