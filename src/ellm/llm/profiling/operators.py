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

from ellm.core.units import MIB
from ellm.kernels.ops import Ops
from ellm.llm.build import choose_ops
from ellm.models.spec import DecoderSpec

# A square matrix large enough that what surrounds a product counts for nothing.
WIDE = 2048
# Rows of which some reach the most operations a second.
MANY_ROWS = (64, 256, 1024)
# Bytes read in one go to see how fast memory is: no cache holds as much.
STREAM_BYTES = 512 * MIB
# Bytes that the copies of one matrix may take when a model's own are measured.
MOST_COPIES = 256 * MIB
ROWS = (1, 64, 256)
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

    def peak_flops(self) -> float:
        """Operations a second that products reach at best."""
        (weight,) = self._matrices(WIDE, WIDE, 1)
        return max(self._product(rows, [weight]).flops for rows in MANY_ROWS)

    def peak_bandwidth(self) -> float:
        """Bytes a second that one row reads of matrices which no cache holds."""
        count = math.ceil(STREAM_BYTES / (WIDE * WIDE * self._dtype.itemsize))
        return self._product(1, self._matrices(WIDE, WIDE, count)).bandwidth(self._dtype.itemsize)

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
            most = max(1, MOST_COPIES // (inputs * outputs * self._dtype.itemsize))
            weights = self._matrices(inputs, outputs, min(spec.num_layers, most))
            found += [self._product(rows, weights) for rows in ROWS]
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
        times = []
        for _ in range(1 + REPEATS):
            start = time.perf_counter()
            work()
            if self._device != "cpu":
                torch.cuda.synchronize(self._device)
            times.append(time.perf_counter() - start)
        return median(times[1:])


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
        large = [each.flops / own for each in products if each.rows >= MANY_ROWS[0]]
        single = [each.bandwidth(dtype.itemsize) / bandwidth for each in products if each.rows == 1]
        return cls(flops, bandwidth, min(1.0, median(large)), min(1.0, median(single)))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
