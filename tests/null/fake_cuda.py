"""A stand-in for `cuda.bindings.driver` that has no device and forgives nothing.

It answers the calls the CUDA driver makes with tuples, as the real bindings do, and refuses what
the real driver refuses: a call before cuInit or without a current context, a map that is not a
whole handle at an aligned address, access to what has no access set, unmapping part of a mapping.
Where the real one would let a mistake pass (releasing a handle that is still mapped), it refuses.
"""

from __future__ import annotations

import ctypes
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from fake_stream import FakeStream, Mark

from ellm.core.errors import DriverError


class CUresult(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NOT_INITIALIZED = 3
    CUDA_ERROR_INVALID_DEVICE = 101
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_NOT_READY = 600
    CUDA_ERROR_ILLEGAL_ADDRESS = 700
    CUDA_ERROR_UNKNOWN = 999


class CUmemAllocationType(IntEnum):
    CU_MEM_ALLOCATION_TYPE_INVALID = 0
    CU_MEM_ALLOCATION_TYPE_PINNED = 1


class CUmemLocationType(IntEnum):
    CU_MEM_LOCATION_TYPE_INVALID = 0
    CU_MEM_LOCATION_TYPE_DEVICE = 1


class CUmemAccess_flags(IntEnum):
    CU_MEM_ACCESS_FLAGS_PROT_NONE = 0
    CU_MEM_ACCESS_FLAGS_PROT_READWRITE = 3


class CUmemAllocationGranularity_flags(IntEnum):
    CU_MEM_ALLOC_GRANULARITY_MINIMUM = 0


class CUdevice_attribute(IntEnum):
    CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED = 102


class CUstream_flags(IntEnum):
    CU_STREAM_DEFAULT = 0
    CU_STREAM_NON_BLOCKING = 1


class CUevent_flags(IntEnum):
    CU_EVENT_BLOCKING_SYNC = 1
    CU_EVENT_DISABLE_TIMING = 2


@dataclass
class Location:
    type: CUmemLocationType = CUmemLocationType.CU_MEM_LOCATION_TYPE_INVALID
    id: int = -1


@dataclass
class CUmemAllocationProp:
    type: CUmemAllocationType = CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_INVALID
    location: Location = field(default_factory=Location)


@dataclass
class CUmemAccessDesc:
    location: Location = field(default_factory=Location)
    flags: CUmemAccess_flags = CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_NONE


@dataclass(eq=False)
class Handle:
    """One physical allocation; `mappings` counts where it is mapped."""

    data: bytearray
    mappings: int = 0


@dataclass(eq=False)
class Mapping:
    handle: Handle
    access: bool = False


@dataclass(eq=False)
class Stream:
    """Copies that were begun; they happen when something waits for them."""

    pending: list[Callable[[], tuple[Any, ...]]] = field(default_factory=list)


@dataclass(eq=False)
class Event:
    """What a stream had still to do when the event was recorded.

    A stream of copies is a `Stream`; a stream of computation is a number, with counts of what was
    `queued` and what is `done`, or with a `FakeStream` in which the event is a `mark`.
    """

    flags: int = 0
    pending: list[Callable[[], tuple[Any, ...]]] = field(default_factory=list)
    stream: int = -1
    at: int = 0
    mark: Mark | None = None


class CUdeviceptr(int):
    """An address as the bindings return it."""


OK = (CUresult.CUDA_SUCCESS,)
INVALID = (CUresult.CUDA_ERROR_INVALID_VALUE,)


def _told(ask: Callable[[], bool | None]) -> tuple[CUresult]:
    """What a fence says, as a result."""
    try:
        return (CUresult.CUDA_ERROR_NOT_READY,) if ask() is False else OK
    except DriverError:
        return (CUresult.CUDA_ERROR_ILLEGAL_ADDRESS,)


class FakeCuda:
    """One device of `capacity` bytes, of which a framework's cache holds `cached`."""

    CUresult = CUresult
    CUmemAllocationType = CUmemAllocationType
    CUmemLocationType = CUmemLocationType
    CUmemAccess_flags = CUmemAccess_flags
    CUmemAllocationGranularity_flags = CUmemAllocationGranularity_flags
    CUdevice_attribute = CUdevice_attribute
    CUmemAllocationProp = CUmemAllocationProp
    CUmemAccessDesc = CUmemAccessDesc
    CUstream_flags = CUstream_flags
    CUevent_flags = CUevent_flags

    def __init__(
        self, capacity: int, granularity: int = 1 << 16, cached: int = 0, devices: int = 1
    ) -> None:
        self.capacity = capacity
        self.granularity = granularity
        self.cached = cached
        self.devices = devices
        self.virtual_memory = 1
        self.calls: Counter[str] = Counter()
        self.failures: dict[tuple[str, int], CUresult] = {}
        self.handles: set[Handle] = set()
        self.reservations: dict[int, int] = {}
        self.mappings: dict[int, Mapping] = {}
        self.pinned: dict[int, ctypes.Array[ctypes.c_char]] = {}
        self.pinned_limit = 1 << 40
        self.streams: set[Stream] = set()
        self.events: set[Event] = set()
        self.retained = 0
        self.queued: Counter[int] = Counter()
        self.done: Counter[int] = Counter()
        self.computing: dict[int, FakeStream] = {}
        self.recorded: list[Event] = []
        self._initialised = False
        self._next_address = 1 << 44
        self._thread = threading.local()

    def fail(
        self, call: str, after: int = 0, result: CUresult = CUresult.CUDA_ERROR_UNKNOWN
    ) -> None:
        """Let `call` fail once, after that many more calls of it have been answered."""
        self.failures[call, self.calls[call] + after + 1] = result

    @property
    def idle(self) -> bool:
        """Nothing is reserved, created, mapped, pinned or retained, and no context is current."""
        device = (self.handles, self.reservations, self.mappings, self.retained, self._contexts)
        host = (self.pinned, self.streams, self.events)
        return not any(device) and not any(host)

    @property
    def _contexts(self) -> list[str]:
        if not hasattr(self._thread, "contexts"):
            self._thread.contexts = []
        contexts: list[str] = self._thread.contexts
        return contexts

    def _trouble(self, call: str, context: bool = True) -> tuple[CUresult] | None:
        """Why this call fails before it looks at its arguments."""
        self.calls[call] += 1
        planned = self.failures.pop((call, self.calls[call]), None)
        if planned is not None:
            return (planned,)
        if not self._initialised:
            return (CUresult.CUDA_ERROR_NOT_INITIALIZED,)
        if context and not self._contexts:
            return (CUresult.CUDA_ERROR_INVALID_CONTEXT,)
        return None

    def cuInit(self, flags: int) -> tuple[Any, ...]:
        self._initialised = True
        return self._trouble("cuInit", context=False) or OK

    def cuDeviceGetCount(self) -> tuple[Any, ...]:
        return self._trouble("cuDeviceGetCount", context=False) or (*OK, self.devices)

    def cuDeviceGet(self, ordinal: int) -> tuple[Any, ...]:
        return self._trouble("cuDeviceGet", context=False) or (*OK, f"device {ordinal}")

    def cuDeviceGetAttribute(self, attribute: CUdevice_attribute, device: str) -> tuple[Any, ...]:
        return self._trouble("cuDeviceGetAttribute", context=False) or (*OK, self.virtual_memory)

    def cuDevicePrimaryCtxRetain(self, device: str) -> tuple[Any, ...]:
        trouble = self._trouble("cuDevicePrimaryCtxRetain", context=False)
        if trouble:
            return trouble
        self.retained += 1
        return (*OK, f"primary context of {device}")

    def cuDevicePrimaryCtxRelease(self, device: str) -> tuple[Any, ...]:
        trouble = self._trouble("cuDevicePrimaryCtxRelease", context=False)
        if trouble:
            return trouble
        self.retained -= 1
        return OK

    def cuCtxPushCurrent(self, context: str) -> tuple[Any, ...]:
        trouble = self._trouble("cuCtxPushCurrent", context=False)
        if trouble:
            return trouble
        self._contexts.append(context)
        return OK

    def cuCtxPopCurrent(self) -> tuple[Any, ...]:
        trouble = self._trouble("cuCtxPopCurrent")
        return trouble or (*OK, self._contexts.pop())

    def cuCtxSynchronize(self) -> tuple[Any, ...]:
        trouble = self._trouble("cuCtxSynchronize")
        for stream in self.computing.values():
            stream.drain()
        return trouble or OK

    def cuDeviceTotalMem(self, device: str) -> tuple[Any, ...]:
        return self._trouble("cuDeviceTotalMem", context=False) or (*OK, self.capacity)

    def cuEventQuery(self, event: Event) -> tuple[Any, ...]:
        trouble = self._trouble("cuEventQuery")
        if trouble or event not in self.events:
            return trouble or INVALID
        if event.mark is not None:
            return _told(event.mark.passed)
        passed = self.done[event.stream] >= event.at
        return OK if passed else (CUresult.CUDA_ERROR_NOT_READY,)

    def cuMemGetAllocationGranularity(
        self, prop: CUmemAllocationProp, option: CUmemAllocationGranularity_flags
    ) -> tuple[Any, ...]:
        trouble = self._trouble("cuMemGetAllocationGranularity", context=False)
        return trouble or (*OK, self.granularity)

    def cuMemAddressReserve(
        self, size: int, alignment: int, address: int, flags: int
    ) -> tuple[Any, ...]:
        trouble = self._trouble("cuMemAddressReserve")
        if trouble:
            return trouble
        if size <= 0 or size % self.granularity or alignment & (alignment - 1) or flags:
            return INVALID
        start = -(-self._next_address // alignment) * alignment
        self._next_address = start + size
        self.reservations[start] = size
        return (*OK, CUdeviceptr(start))

    def cuMemAddressFree(self, address: int, size: int) -> tuple[Any, ...]:
        trouble = self._trouble("cuMemAddressFree")
        if trouble:
            return trouble
        if self.reservations.get(address) != size:
            return INVALID
        if any(address <= at < address + size for at in self.mappings):
            return INVALID
        del self.reservations[address]
        return OK

    def cuMemCreate(self, size: int, prop: CUmemAllocationProp, flags: int) -> tuple[Any, ...]:
        trouble = self._trouble("cuMemCreate")
        if trouble:
            return (*trouble, None)
        pinned = CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        device = Location(CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE, 0)
        wrong = prop.type != pinned or prop.location != device or flags
        if size <= 0 or size % self.granularity or wrong:
            return (*INVALID, None)
        used = sum(len(handle.data) for handle in self.handles) + self.cached
        if used + size > self.capacity:
            return (CUresult.CUDA_ERROR_OUT_OF_MEMORY, None)
        handle = Handle(bytearray(b"\xcd" * size))
        self.handles.add(handle)
        return (*OK, handle)

    def cuMemRelease(self, handle: Handle) -> tuple[Any, ...]:
        trouble = self._trouble("cuMemRelease")
        if trouble:
            return trouble
        if handle not in self.handles or handle.mappings:
            return INVALID
        self.handles.remove(handle)
        return OK

    def cuMemMap(
        self, address: int, size: int, offset: int, handle: Handle, flags: int
    ) -> tuple[Any, ...]:
        trouble = self._trouble("cuMemMap")
        if trouble:
            return trouble
        whole = handle in self.handles and size == len(handle.data) and not offset and not flags
        reserved = any(
            start <= address and address + size <= start + length
            for start, length in self.reservations.items()
        )
        taken = any(
            at < address + size and address < at + len(mapping.handle.data)
            for at, mapping in self.mappings.items()
        )
        if not whole or not reserved or taken or address % self.granularity:
            return INVALID
        self.mappings[address] = Mapping(handle)
        handle.mappings += 1
        return OK

    def cuMemSetAccess(
        self, address: int, size: int, descriptions: list[CUmemAccessDesc], count: int
    ) -> tuple[Any, ...]:
        trouble = self._trouble("cuMemSetAccess")
        if trouble:
            return trouble
        mappings = self._whole(address, size)
        if mappings is None or len(descriptions) != count or count != 1:
            return INVALID
        device = Location(CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE, 0)
        write = CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        if descriptions[0].location != device or descriptions[0].flags != write:
            return INVALID
        for mapping in mappings:
            mapping.access = True
        return OK

    def cuMemUnmap(self, address: int, size: int) -> tuple[Any, ...]:
        trouble = self._trouble("cuMemUnmap")
        if trouble:
            return trouble
        mappings = self._whole(address, size)
        if mappings is None:
            return INVALID
        for mapping in mappings:
            mapping.handle.mappings -= 1
            del self.mappings[address]
            address += len(mapping.handle.data)
        return OK

    def cuMemcpyHtoD(self, target: int, source: bytes, count: int) -> tuple[Any, ...]:
        trouble = self._trouble("cuMemcpyHtoD")
        return trouble or self._write(target, bytes(source[:count]))

    def cuMemcpyDtoH(self, target: bytearray, source: int, count: int) -> tuple[Any, ...]:
        trouble = self._trouble("cuMemcpyDtoH")
        if trouble:
            return trouble
        data = self._read(source, count)
        if data is None:
            return (CUresult.CUDA_ERROR_ILLEGAL_ADDRESS,)
        target[:count] = data
        return OK

    def cuMemcpyDtoD(self, target: int, source: int, count: int) -> tuple[Any, ...]:
        trouble = self._trouble("cuMemcpyDtoD")
        if trouble:
            return trouble
        data = self._read(source, count)
        return (CUresult.CUDA_ERROR_ILLEGAL_ADDRESS,) if data is None else self._write(target, data)

    def cuMemHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        trouble = self._trouble("cuMemHostAlloc")
        if trouble:
            return (*trouble, None)
        if sum(map(len, self.pinned.values())) + size > self.pinned_limit:
            return (CUresult.CUDA_ERROR_OUT_OF_MEMORY, None)
        pages = ctypes.create_string_buffer(size + 4096)
        address = -(-ctypes.addressof(pages) // 4096) * 4096
        self.pinned[address] = pages
        return (*OK, address)

    def cuMemFreeHost(self, address: int) -> tuple[Any, ...]:
        trouble = self._trouble("cuMemFreeHost")
        if trouble:
            return trouble
        return OK if self.pinned.pop(address, None) is not None else INVALID

    def cuStreamCreate(self, flags: int) -> tuple[Any, ...]:
        trouble = self._trouble("cuStreamCreate")
        if trouble or flags != CUstream_flags.CU_STREAM_NON_BLOCKING:
            return (*(trouble or INVALID), None)
        stream = Stream()
        self.streams.add(stream)
        return (*OK, stream)

    def cuStreamDestroy(self, stream: Stream) -> tuple[Any, ...]:
        trouble = self._trouble("cuStreamDestroy")
        if trouble or stream.pending or stream not in self.streams:
            return trouble or INVALID
        self.streams.remove(stream)
        return OK

    def cuEventCreate(self, flags: int) -> tuple[Any, ...]:
        trouble = self._trouble("cuEventCreate")
        if trouble:
            return (*trouble, None)
        event = Event(int(flags))
        self.events.add(event)
        return (*OK, event)

    def cuEventRecord(self, event: Event, stream: Stream | int) -> tuple[Any, ...]:
        trouble = self._trouble("cuEventRecord")
        if trouble or event not in self.events:
            return trouble or INVALID
        if isinstance(stream, int):
            event.stream, event.at = stream, self.queued[stream]
            if stream in self.computing:
                event.mark = self.computing[stream].fence()
            self.recorded.append(event)
            return OK
        event.pending, stream.pending = event.pending + stream.pending, []
        return OK

    def cuEventSynchronize(self, event: Event) -> tuple[Any, ...]:
        trouble = self._trouble("cuEventSynchronize")
        if event.mark is not None and not trouble:
            return _told(event.mark.wait)
        if not trouble:
            self.done[event.stream] = max(self.done[event.stream], event.at)
        pending, event.pending = event.pending, []
        results = [copy() for copy in pending]
        return trouble or next((result for result in results if result != OK), OK)

    def cuEventDestroy(self, event: Event) -> tuple[Any, ...]:
        trouble = self._trouble("cuEventDestroy")
        if trouble or event not in self.events:
            return trouble or INVALID
        self.events.remove(event)
        return OK

    def cuMemcpyDtoHAsync(
        self, target: int, source: int, count: int, stream: Stream
    ) -> tuple[Any, ...]:
        trouble = self._trouble("cuMemcpyDtoHAsync")
        if trouble or stream not in self.streams or not self._is_pinned(target, count):
            return trouble or INVALID

        def copy() -> tuple[Any, ...]:
            data = self._read(source, count)
            if data is None:
                return (CUresult.CUDA_ERROR_ILLEGAL_ADDRESS,)
            ctypes.memmove(target, data, count)
            return OK

        stream.pending.append(copy)
        return OK

    def cuMemcpyHtoDAsync(
        self, target: int, source: int, count: int, stream: Stream
    ) -> tuple[Any, ...]:
        trouble = self._trouble("cuMemcpyHtoDAsync")
        if trouble or stream not in self.streams or not self._is_pinned(source, count):
            return trouble or INVALID
        stream.pending.append(lambda: self._write(target, ctypes.string_at(source, count)))
        return OK

    def _is_pinned(self, address: int, count: int) -> bool:
        """Copies of other memory would not run beside anything."""
        return any(
            start <= address and address + count <= start + len(pages)
            for start, pages in list(self.pinned.items())
        )

    def _whole(self, address: int, size: int) -> list[Mapping] | None:
        """The mappings that make up exactly this range; None if there is a gap or a part."""
        mappings, end = [], address + size
        while address < end:
            mapping = self.mappings.get(address)
            if mapping is None:
                return None
            mappings.append(mapping)
            address += len(mapping.handle.data)
        return mappings if mappings and address == end else None

    def _at(self, address: int) -> tuple[bytearray, int] | None:
        """The handle's bytes and the offset in them, where the device may touch them."""
        for start, mapping in self.mappings.items():
            if start <= address < start + len(mapping.handle.data):
                return (mapping.handle.data, address - start) if mapping.access else None
        return None

    def _read(self, address: int, count: int) -> bytes | None:
        out = bytearray()
        while len(out) < count:
            place = self._at(address + len(out))
            if place is None:
                return None
            data, offset = place
            out += data[offset : offset + count - len(out)]
        return bytes(out)

    def _write(self, address: int, source: bytes) -> tuple[Any, ...]:
        done = 0
        while done < len(source):
            place = self._at(address + done)
            if place is None:
                return (CUresult.CUDA_ERROR_ILLEGAL_ADDRESS,)
            data, offset = place
            size = min(len(source) - done, len(data) - offset)
            data[offset : offset + size] = source[done : done + size]
            done += size
        return OK
