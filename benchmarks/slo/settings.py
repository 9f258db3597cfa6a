"""Which model on which machine: what it keeps, what its steps take, how long its contexts are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ellm.core.layers import LayerSpec
from ellm.core.units import GIB, KIB, MIB
from ellm.scheduling.cost import Coefficients
from ellm.sim.replay import SimModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """`room` bytes are left for KV and activations beside the weights."""

    model: SimModel
    context: int
    room: int
    tier: int
    chunk: int
    max_num_seqs: int = 256
    ttft_times: float = 5.0
    tpot_times: float = 3.0


# Llama-3-8B with 262144 tokens of context on one A100 80 GB, as eLLM has it: 0.9 of the memory
# less 15 GiB of weights; activations of an unchunked prefill are 100 KB a token.  Times are from
# the data sheet: 190 TFLOP/s of 312 in products, 150 in attention, 1.6 TB/s, 12 ms for the
# weights and the rest of an empty step; 25 GB/s to host memory.
A100 = Setting(
    model=SimModel(
        layers=(LayerSpec(8, 128, 2),) * 32,
        vocab_size=128_256,
        cost=Coefficients(8.6e-5, 3.5e-9, 8.2e-8, 2e-5, 12e-3),
        activation_bytes_per_token=100_000,
        activation_bytes_per_row=6 * 128_256,
        tier_bandwidth=25e9,
    ),
    context=262_144,
    room=57 * GIB,
    tier=256 * GIB,
    chunk=2 * MIB,
)
SETTINGS = {"a100": A100}
