"""What happens beside a kernel: who waits, and what an address means afterwards."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from calls import SIZES, Device, spread, timed

from ellm.core.units import GIB, MIB
from ellm.runtime.views import view

KERNEL_CYCLES = 200_000_000
CHUNK = SIZES[0]
HEADS, KV_HEADS, WIDTH = 32, 8, 128
LENGTH, SEQUENCES = 8192, 16


def during_a_kernel(cuda: Any) -> Iterator[dict[str, Any]]:
    """Map and unmap at addresses that the running kernel does not use."""
    device = Device(cuda, CHUNK)
    base, handles = device.reserve(64), [device.create() for _ in range(64)]
    torch.cuda.synchronize()
    start = time.perf_counter()
    torch.cuda._sleep(KERNEL_CYCLES)
    torch.cuda.synchronize()
    alone = time.perf_counter() - start
    for what in ("map", "unmap"):
        torch.cuda._sleep(KERNEL_CYCLES)
        times = []
        for index, handle in enumerate(handles):
            address = base + index * CHUNK
            if what == "map":
                times.append(timed(device.place, address, [handle])[0])
            else:
                times.append(timed(device.unmap, address, 1)[0])
        running = not torch.cuda.current_stream().query()
        torch.cuda.synchronize()
        yield {"what": f"{what} beside a kernel", "still_running": running, **spread(times)}
    yield {"what": "that kernel alone", "seconds": round(alone, 4)}
    for handle in handles:
        device.release(handle)
    device.free(base, 64)


def twice_mapped(cuda: Any) -> Iterator[dict[str, Any]]:
    """One chunk at two addresses: what is written at one is read at the other."""
    device = Device(cuda, CHUNK)
    base, handle = device.reserve(2), device.create()
    device.place(base, [handle, handle])
    first, second = (view(base + n * CHUNK, CHUNK, torch.int32, "cuda") for n in range(2))
    first.copy_(torch.arange(first.numel(), dtype=torch.int32))
    same = bool(torch.equal(first, second))
    second.fill_(7)
    yield {"what": "one chunk at two addresses", "same": same and bool((first == 7).all())}
    torch.cuda.synchronize()
    device.unmap(base, 2)
    device.release(handle)
    device.free(base, 2)


def replayed_after_remapping(cuda: Any) -> Iterator[dict[str, Any]]:
    """A captured graph reads what lies behind its addresses now, not when it was captured."""
    device = Device(cuda, CHUNK)
    base, handles = device.reserve(1), [device.create(), device.create()]
    source = view(base, CHUNK, torch.float32, "cuda")
    out = torch.zeros_like(source)
    found = []
    device.place(base, handles[:1])
    source.fill_(1)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        torch.mul(source, 3, out=out)
    for number, handle in enumerate(handles):
        torch.cuda.synchronize()
        device.unmap(base, 1)
        device.place(base, [handle])
        source.fill_(number + 1)
        graph.replay()
        found.append(bool((out == 3 * (number + 1)).all()))
    torch.cuda.synchronize()
    yield {"what": "a graph replayed after remapping", "right": all(found)}
    device.unmap(base, 1)
    for handle in handles:
        device.release(handle)
    device.free(base, 1)


def attention(cuda: Any) -> Iterator[dict[str, Any]]:
    """Decoding over KV in shuffled chunks, in chunks of 2 and 32 MiB, and as PyTorch allocates."""
    shape = (SEQUENCES, LENGTH, 2, KV_HEADS, WIDTH)
    size = torch.Size(shape).numel() * 2
    queries = torch.randn(SEQUENCES, HEADS, 1, WIDTH, dtype=torch.bfloat16, device="cuda")
    plain = torch.randn(shape, dtype=torch.bfloat16, device="cuda")
    places = {"allocated": plain}
    kept: list[tuple[Device, int, list[Any]]] = []
    for chunk in (SIZES[0], SIZES[-1]):
        device = Device(cuda, chunk)
        count = size // chunk
        handles = [device.create() for _ in range(count)]
        random.Random(0).shuffle(handles)
        base = device.reserve(count)
        device.place(base, handles)
        there = view(base, size, torch.bfloat16, "cuda").view(shape)
        there.copy_(plain)
        places[f"chunks of {chunk // MIB} MiB"] = there
        kept.append((device, base, handles))
    times: dict[str, list[float]] = {name: [] for name in places}
    for _ in range(12):
        for name, planes in places.items():
            times[name].append(_milliseconds(lambda p=planes: _decode(queries, p)))
    for name, each in times.items():
        ms = median(each[2:])
        yield {
            "what": f"decode attention, {name}",
            "ms": round(ms, 4),
            "gb_s": round(size / ms / 1e6, 1),
            "ratio": round(ms / median(times["allocated"][2:]), 4),
        }
    torch.cuda.synchronize()
    for device, base, handles in kept:
        device.unmap(base, len(handles))
        for handle in handles:
            device.release(handle)
        device.free(base, len(handles))


def _decode(queries: torch.Tensor, planes: torch.Tensor) -> torch.Tensor:
    keys, values = planes.permute(0, 2, 3, 1, 4).unbind(1)
    return F.scaled_dot_product_attention(queries, keys, values, enable_gqa=True)


def _milliseconds(work: Callable[[], Any], repeats: int = 10) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repeats):
        work()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / repeats


def copies(cuda: Any) -> Iterator[dict[str, Any]]:
    """Lists of pieces between the device and pinned memory, one way and both at once."""
    total = GIB
    host = [torch.empty(total, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
    there = [torch.empty(total, dtype=torch.uint8, device="cuda") for _ in range(2)]
    streams = [torch.cuda.Stream() for _ in range(2)]

    def way(number: int, piece: int) -> None:
        source, target = (there, host) if number == 0 else (host, there)
        with torch.cuda.stream(streams[number]):
            for start in range(0, total, piece):
                target[number][start : start + piece].copy_(
                    source[number][start : start + piece], non_blocking=True
                )

    for piece in (64 << 10, 256 << 10, *SIZES):
        for name, ways in (("down", (0,)), ("up", (1,)), ("both", (0, 1))):
            rates = []
            for _ in range(3):
                torch.cuda.synchronize()
                start = time.perf_counter()
                for number in ways:
                    way(number, piece)
                torch.cuda.synchronize()
                rates.append(len(ways) * total / (time.perf_counter() - start) / 1e9)
            yield {"what": f"copies {name}", "piece": piece, "gb_s": round(median(rates), 2)}
