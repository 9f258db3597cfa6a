"""What the machine reaches in single operators, so that other models can be predicted on it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from types import MappingProxyType

import torch
from torch import Tensor

from ellm.core.units import GIB, MIB
from ellm.kernels.ops import Ops
from ellm.llm.build import choose_ops
from ellm.models.spec import DecoderSpec


@dataclass(frozen=True, slots=True)
class Sizes:
    """Large enough that what surrounds a product counts for nothing.

    wide        rows and columns of a square matrix
    many_rows   rows of which some reach the most operations a second
    stream      bytes read in one go to see how fast memory is: no cache holds as much
    copies      bytes that the copies of one matrix may take when a model's own are measured
    """

    wide: int
    many_rows: tuple[int, ...]
    stream: int
    copies: int


ON_CPU = Sizes(2048, (64, 256, 1024), 512 * MIB, 256 * MIB)
ON_DEVICE = Sizes(8192, (1024, 4096), 4 * GIB, 2 * GIB)
REPEATS = 5
# By the names that sim/devices/device.py has for them.
_FORMATS: Mapping[torch.dtype, str] = MappingProxyType(
    {torch.bfloat16: "bf16", torch.float32: "fp32"}
)


@dataclass(frozen=True, slots=True)
class Product:
    """So many rows through `inputs` × `outputs`, in `seconds`."""

    rows: int
    inputs: int
    outputs: int
    seconds: float

    @property
    def flops(self) -> float:
        """Operations a second."""
        return 2.0 * self.rows * self.inputs * self.outputs / self.seconds

    def bandwidth(self, itemsize: int) -> float:
        """Bytes a second of the matrix and what goes in and out."""
        numbers = self.inputs * self.outputs + self.rows * (self.inputs + self.outputs)
        return numbers * itemsize / self.seconds


class OperatorBench:
    """Times operators of `ops` in one dtype on one device."""

    def __init__(self, ops: Ops, dtype: torch.dtype, device: str) -> None:
        self._ops = ops
        self._dtype = dtype
        self._device = device
        self.sizes = ON_CPU if device == "cpu" else ON_DEVICE

    def peak_flops(self) -> float:
        """Operations a second that products reach at best."""
        wide = self.sizes.wide
        (weight,) = self._matrices(wide, wide, 1)
        return max(self._product(rows, [weight]).flops for rows in self.sizes.many_rows)

    def peak_bandwidth(self) -> float:
        """Bytes a second that one row reads of matrices which no cache holds."""
        wide, itemsize = self.sizes.wide, self._dtype.itemsize
        count = math.ceil(self.sizes.stream / (wide * wide * itemsize))
        return self._product(1, self._matrices(wide, wide, count)).bandwidth(itemsize)

    def products(self, spec: DecoderSpec) -> list[Product]:
        """Those of a layer of `spec`, with a copy for each layer as far as memory allows."""
        shapes = (
            (spec.hidden_size, spec.qkv_width),
            (spec.query_width, spec.hidden_size),
            (spec.hidden_size, spec.up_width),
            (spec.intermediate_size, spec.hidden_size),
        )
        found = []
        for inputs, outputs in dict.fromkeys(shapes):
            most = max(1, self.sizes.copies // (inputs * outputs * self._dtype.itemsize))
            weights = self._matrices(inputs, outputs, min(spec.num_layers, most))
            found += [self._product(rows, weights) for rows in (1, *self.sizes.many_rows[:2])]
        return found

    def _matrices(self, inputs: int, outputs: int, count: int) -> list[Tensor]:
        found = []
        for _ in range(count):
            weight = torch.full((outputs, inputs), 0.01, dtype=self._dtype, device=self._device)
            self._ops.pack(weight)
            found.append(weight)
        return found

    def _product(self, rows: int, weights: Sequence[Tensor]) -> Product:
        """Of one of `weights`, each read in turn."""
        outputs, inputs = weights[0].shape
        padded = self._ops.padded(rows)
        x = torch.full((padded, inputs), 0.01, dtype=self._dtype, device=self._device)
        out = torch.empty((padded, outputs), dtype=self._dtype, device=self._device)

        def work() -> None:
            for weight in weights:
                self._ops.linear(x, weight, None, out)

        return Product(rows, inputs, outputs, self._seconds(work) / len(weights))

    def _seconds(self, work: Callable[[], None]) -> float:
        """The median over some repetitions, after one that does not count."""
        work()
        if self._device != "cpu":
            work = _captured(work, self._device)
        times = []
        for _ in range(1 + REPEATS):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return median(times[1:])


def _captured(work: Callable[[], None], device: str) -> Callable[[], None]:
    """The same, waited for, without what its launches take the host."""
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()

    def replayed() -> None:
        graph.replay()
        torch.cuda.synchronize(device)

    return replayed


@dataclass(frozen=True, slots=True)
class OperatorTimes:
    """Operations a second by number format, bytes a second, and which shares (0 to 1) of them a
    model's own products reach."""

    flops: Mapping[str, float]
    bandwidth: float
    matmul_share: float
    bandwidth_share: float

    @classmethod
    def of(cls, spec: DecoderSpec, dtype: torch.dtype, device: str) -> OperatorTimes:
        """Of a model in `dtype`; other formats are measured at their best only."""
        benches = {
            each: OperatorBench(choose_ops(device, each, spec.head_dim), each, device)
            for each in dict.fromkeys((dtype, *_FORMATS))
        }
        flops = {_FORMATS.get(each, _name(each)): b.peak_flops() for each, b in benches.items()}
        bench, own = benches[dtype], flops[_FORMATS.get(dtype, _name(dtype))]
        bandwidth, products = bench.peak_bandwidth(), bench.products(spec)
        large = [each.flops / own for each in products if each.rows > 1]
        single = [each.bandwidth(dtype.itemsize) / bandwidth for each in products if each.rows == 1]
        return cls(flops, bandwidth, min(1.0, median(large)), min(1.0, median(single)))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
