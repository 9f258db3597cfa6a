"""Which model on which machine: what it keeps, what its steps take, what is asked of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ellm.core.layers import LayerSpec
from ellm.core.load import StepLoad
from ellm.core.objectives import Objectives
from ellm.core.units import GIB, KIB, MIB
from ellm.obs.spread import percentile
from ellm.scheduling.coefficients import Coefficients
from ellm.sim.activations import Activations
from ellm.sim.replay import SimModel
from ellm.sim.workload.item import Item
from harness.random_llama import RandomLlama


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A machine that serves one model to one crowd.

    `room` bytes are left for KV and activations beside the weights; prompts and answers of the
    trace are `divide` times shorter.  `ttft` and `tpot` are seconds, or None for so many times
    (`ttft_times`, `tpot_times`) what half of the requests take alone.
    """

    model: SimModel
    context: int
    room: int
    tier: int
    chunk: int
    trace: str
    rates: Sequence[float]
    requests: int = 800
    divide: float = 1
    max_num_seqs: int = 256
    ttft_times: float = 5.0
    tpot_times: float = 3.0
    ttft: float | None = None
    tpot: float | None = None

    def alone(self, items: Sequence[Item]) -> Objectives:
        """TTFT and TPOT of the median request that has the machine to itself."""
        cost = self.model.cost.seconds
        first = [cost(StepLoad().with_sequence(i.prompt_tokens, i.prompt_tokens)) for i in items]
        later = [
            cost(StepLoad().with_sequence(1, i.prompt_tokens + i.output_tokens // 2 + 1))
            for i in items
        ]
        return Objectives(ttft=percentile(first, 0.5), tpot=percentile(later, 0.5))

    def wished(self, alone: Objectives) -> Objectives:
        assert alone.ttft is not None
        assert alone.tpot is not None
        return Objectives(
            ttft=self.ttft or self.ttft_times * alone.ttft,
            tpot=self.tpot or self.tpot_times * alone.tpot,
        )


# Llama-3-8B with 262144 tokens of context on one A100 80 GB, as eLLM has it: 0.9 of the memory
# less 15 GiB of weights; activations of an unchunked prefill are 100 KB a token.  Times are from
# the data sheet: 190 TFLOP/s of 312 in products, 150 in attention, 1.6 TB/s, 12 ms for the
# weights and the rest of an empty step; 25 GB/s to host memory.
_LLAMA3 = SimModel(
    layers=(LayerSpec(8, 128, 2),) * 32,
    cost=Coefficients.even(8.6e-5, 3.5e-9, 8.2e-8, 2e-5, 12e-3),
    activations=Activations(100_000, 6 * 128_256),
    tier_bandwidth=25e9,
)
# Llama-2-7B on one L20, as LayerKV has it: 512 KiB of KV a token.  70 TFLOP/s of 119 in products,
# 55 in attention, 750 GB/s, 20 GB/s to host memory.
_LLAMA2 = SimModel(
    layers=(LayerSpec(32, 128, 2),) * 32,
    cost=Coefficients.even(1.9e-4, 9.5e-9, 7e-7, 5e-5, 20e-3),
    activations=Activations(100_000, 6 * 32_000),
    tier_bandwidth=20e9,
)
# Deep and narrow, so that a token's KV is to its activations as in a large model (0.8 there).
SMALL = RandomLlama(
    name="llama-slo", hidden=128, layers=8, heads=2, kv_heads=2, mlp=352, vocab=1024, positions=4096
)
# Measured by --real on one thread of an AMD EPYC core.
_SMALL = SimModel(
    layers=(LayerSpec(2, 64, 2),) * 8,
    cost=Coefficients.even(4e-5, 5.6e-8, 3.6e-6, 2e-4, 3e-3),
    activations=Activations(4_600, 0),
    tier_bandwidth=1e9,
)

SETTINGS = {
    "a100-azure": Setting(
        model=_LLAMA3,
        context=262_144,
        room=57 * GIB,
        tier=256 * GIB,
        chunk=2 * MIB,
        trace="azure",
        rates=(2, 3, 4, 5, 6, 8),
    ),
    "a100-mooncake": Setting(
        model=_LLAMA3,
        context=262_144,
        room=57 * GIB,
        tier=256 * GIB,
        chunk=2 * MIB,
        trace="mooncake",
        rates=(0.1, 0.15, 0.2, 0.3, 0.4),
        requests=250,
    ),
    "l20-azure": Setting(
        model=_LLAMA2,
        context=16_384,
        room=28 * GIB,
        tier=128 * GIB,
        chunk=2 * MIB,
        trace="azure",
        rates=(0.75, 1, 1.25, 1.5, 2, 2.5),
        ttft=3.0,
        tpot=0.2,
    ),
    "l20-long": Setting(
        model=_LLAMA2,
        context=32_768,
        room=28 * GIB,
        tier=256 * GIB,
        chunk=2 * MIB,
        trace="azure",
        rates=(0.3, 0.4, 0.5, 0.6),
        requests=200,
        divide=1 / 2,
        ttft=3.0,
        tpot=0.2,
    ),
    "cpu-azure": Setting(
        model=_SMALL,
        context=4096,
        room=42 * MIB,
        tier=512 * MIB,
        chunk=64 * KIB,
        trace="azure",
        rates=(4, 6, 8, 10, 12),
        requests=200,
        divide=4,
        ttft_times=14.0,
        tpot_times=10.0,
    ),
}
