"""A device as its data sheet has it, and what measured kernels make of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ellm.core.errors import ConfigError

# In which format two numbers are multiplied; sums may be wider.
NUMBER_FORMATS = ("fp32", "bf16", "fp8", "int8", "fp4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """Shares (above 0, at most 1) of the peaks that good kernels reach.

    `matmul` and `bandwidth` are meant together: a product of matrices takes
    constant + max(bytes / (peak bandwidth × bandwidth), operations / (peak × matmul)).  The
    constant, a few microseconds a product, is in `Overhead.layer`: shares fitted without one would
    have small products pay it twice.  `attention` is the share of the multiplying peak that
    attention over a prompt reaches; attention of a decoding sequence is bound by `bandwidth`.
    `formats` has the number formats whose products reach another share of their own peak than
    `matmul`.
    """

    matmul: float
    attention: float
    bandwidth: float
    formats: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """Seconds that pass beside the kernels.

    step          once a step: planning, launching, sampling, synchronizing
    layer         once a layer of a step: launches, the constant of each product (see
                  `Efficiency`), and what else no roofline sees
    launch        once a layer of a step with a prompt in it, at least: where no graph holds that
                  step, its kernels are called one by one, beside those that compute already
    sequence      once a sequence of a step
    request       once a request, before it is in the queue
    start         once a request, in its first step: it holds up everyone in that step
    completion    once a request, after its last token
    prompt_token  once a token of a prompt, before the request is in the queue
    output_token  once a token sent to the client; it delays the token, not the device
    """

    step: float
    layer: float
    launch: float = 0.0
    sequence: float
    request: float
    completion: float
    prompt_token: float
    output_token: float
    start: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverCalls:
    """Seconds of the calls that move chunks of memory, of CUDA's granularity (2 MiB).

    Creating and destroying cost so much a chunk.  A run of neighbours is mapped, or unmapped, in
    one call: `map_run` and `map_chunk` for each chunk in it.
    """

    create: float
    destroy: float
    map_run: float
    map_chunk: float
    unmap_run: float
    unmap_chunk: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One accelerator (or socket).

    name            as vendors write it
    memory          bytes, as the vendor's tool shows them
    bandwidth       peak of that memory, bytes/s
    flops           dense peak by number format, operations/s (a multiply-add is two)
    host_bandwidth  to host memory, bytes/s each way
    per_node        devices that `fabric` joins
    fabric          name of the fabric inside a node
    network         name of the fabric between nodes, per device
    idle_watts      board power with a model in memory and nothing to do
    busy_watts      board power limit, 0 where neither is known
    sources         where each figure is from, by its name ("efficiency.matmul")
    driver          what calls of its memory driver take; None where nobody says
    """

    name: str
    memory: int
    bandwidth: float
    flops: Mapping[str, float]
    host_bandwidth: float
    per_node: int
    fabric: str
    network: str
    idle_watts: float
    busy_watts: float
    efficiency: Efficiency
    overhead: Overhead
    sources: Mapping[str, str]
    driver: DriverCalls | None = None

    def matmul_flops(self, number_format: str) -> float:
        """Operations/s that products of matrices in this format reach.

        Raises ConfigError when the device does not multiply in it.
        """
        if number_format not in self.flops:
            raise ConfigError(
                f"{self.name} does not multiply in {number_format}: it has {', '.join(self.flops)}"
            )
        share = self.efficiency.formats.get(number_format, self.efficiency.matmul)
        return self.flops[number_format] * share

    def reached_bandwidth(self) -> float:
        """Bytes/s of its memory that kernels reach."""
        return self.bandwidth * self.efficiency.bandwidth
