"""Copies between device memory and pinned host memory, beside the computation.

    down   cuMemcpyDtoHAsync ... cuEventRecord, cuEventSynchronize     one stream
    up     cuMemcpyHtoDAsync ... cuEventRecord, cuEventSynchronize     another

These streams wait for nothing: the work that wrote what is copied down, or still reads what is
copied over, must have finished.  Tiers see to that, with a fence for each transfer; and what is
launched after a copy was seen to end finds its bytes, since the host has waited for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ellm.core.errors import DriverError
from ellm.core.units import format_bytes
from ellm.memory.drivers.cuda_calls import PrimaryContext, call, find_device, import_bindings
from ellm.memory.extents import Extent, HostBuffer


class CudaAccess:
    """Extents are addresses of one device.  Any thread may copy; the wait sleeps, it does not spin.

    Raises DriverUnavailable where there is no such package, driver or device.
    """

    def __init__(self, device: int = 0, *, bindings: Any = None) -> None:
        cuda = self._cuda = import_bindings() if bindings is None else bindings
        self._context = PrimaryContext(cuda, find_device(cuda, device))
        self._buffers: set[int] = set()
        flags = cuda.CUevent_flags
        sleepy = flags.CU_EVENT_BLOCKING_SYNC.value | flags.CU_EVENT_DISABLE_TIMING.value
        aside = cuda.CUstream_flags.CU_STREAM_NON_BLOCKING.value
        self._streams: list[Any] = []
        self._events: list[Any] = []
        try:
            with self._context.current():
                for _ in range(2):
                    self._streams.append(call(cuda, cuda.cuStreamCreate, aside))
                    self._events.append(call(cuda, cuda.cuEventCreate, sleepy))
        except DriverError:
            self.close()
            raise

    def read(self, extents: Sequence[Extent], target: int) -> None:
        cuda, stream = self._cuda, self._streams[0]
        with self._context.current():
            try:
                for address, count in extents:
                    call(cuda, cuda.cuMemcpyDtoHAsync, target, address, count, stream)
                    target += count
            finally:
                self._wait(0)

    def write(self, source: int, extents: Sequence[Extent]) -> None:
        cuda, stream = self._cuda, self._streams[1]
        with self._context.current():
            try:
                for address, count in extents:
                    call(cuda, cuda.cuMemcpyHtoDAsync, address, source, count, stream)
                    source += count
            finally:
                self._wait(1)

    def allocate(self, size: int) -> HostBuffer:
        with self._context.current():
            try:
                address = int(call(self._cuda, self._cuda.cuMemHostAlloc, size, 0))
            except DriverError as error:
                raise DriverError(
                    f"the machine refused {format_bytes(size)} of pinned memory: {error}"
                ) from error
        self._buffers.add(address)
        return HostBuffer(address, size)

    def free(self, buffer: HostBuffer) -> None:
        self._buffers.remove(buffer.address)
        with self._context.current():
            call(self._cuda, self._cuda.cuMemFreeHost, buffer.address)

    def close(self) -> None:
        if not self._context.held:
            return
        cuda = self._cuda
        with self._context.current():
            for address in self._buffers:
                call(cuda, cuda.cuMemFreeHost, address)
            for event in self._events:
                call(cuda, cuda.cuEventDestroy, event)
            for stream in self._streams:
                call(cuda, cuda.cuStreamDestroy, stream)
        self._buffers.clear()
        self._context.release()

    def _wait(self, way: int) -> None:
        """Until everything that was begun on a stream has ended, also when more was refused."""
        cuda = self._cuda
        call(cuda, cuda.cuEventRecord, self._events[way], self._streams[way])
        call(cuda, cuda.cuEventSynchronize, self._events[way])
