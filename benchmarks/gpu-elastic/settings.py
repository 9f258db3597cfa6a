"""What is compared, and on what: the paper's model and budget on a GPU, something tiny on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ellm.core.units import GIB, MIB
from harness.arm import Arm
from harness.random_llama import LLAMA_8B, LLAMA_TINY, RandomLlama

# LayerKV's objectives in seconds; the policy knows them in arms that are told.
TTFT, TPOT = 3.0, 0.2
CHUNK = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A model (`name` None: `shape` itself, its config alone), and `room`, bytes that are more than
    enough for `static` to start; the budget is what it needs at the least.

    Prompts of each of `inputs` are filled in until nobody fits; those of `prompt` tokens come one
    after another, with answers of `output`, for `seconds`.  A skipped step is taken to be computed
    at `flops` and read at `bandwidth`.
    """

    shape: RandomLlama
    name: str | None
    dtype: str
    room: int
    tier: int
    context: int
    inputs: tuple[int, ...]
    prompt: int
    output: int
    seconds: float
    most: int
    rehearse: int
    flops: float
    bandwidth: float

    def model(self, place: Path) -> str:
        return self.name or str(self.shape.described_in(place / self.shape.name))

    def requests(self, length: int) -> int:
        """More than could ever fit."""
        return min(self.most, 2 + self.room // (length * self.shape.kv_token_bytes))


# The budget comes to 72.1 GiB: 0.9 of the paper's device, as benchmarks/paper-ellm simulates it.
GPU = Setting(
    shape=LLAMA_8B,
    name="llama-3-8b-262k",
    dtype="bfloat16",
    room=75 * GIB,
    tier=40 * GIB,
    context=262_144,
    inputs=(2048, 8192, 32_768, 65_536, 131_072),
    prompt=8192,
    output=1024,
    seconds=12.0,
    most=256,
    rehearse=256,
    flops=4.5e14,
    bandwidth=3.5e12,
)
CPU = Setting(
    shape=LLAMA_TINY,
    name=None,
    dtype="float32",
    room=32 * MIB,
    tier=16 * MIB,
    context=2048,
    inputs=(64, 512),
    prompt=256,
    output=64,
    seconds=1.5,
    most=64,
    rehearse=8,
    flops=4e10,
    bandwidth=1e10,
)


def arms(setting: Setting) -> Mapping[str, Arm]:
    """By name; those that end with slo know the objectives."""
    static: dict[str, Any] = {"memory_mode": "static"}
    below = {"kv_offloading_size": setting.tier}
    told = {"ttft_slo": TTFT, "tpot_slo": TPOT}
    chunk = min(CHUNK, setting.context // 8)
    return {
        "static": Arm("static", {**static, "enable_chunked_prefill": False}),
        "static+chunked": Arm("static+chunked", {**static, "max_num_batched_tokens": chunk}),
        "elastic": Arm("elastic"),
        "elastic+tier": Arm("elastic+tier", below),
        "elastic+slo": Arm("elastic+slo", told),
        "elastic+tier+slo": Arm("elastic+tier+slo", {**below, **told}),
    }


# Who fits, and how fast they decode.
MEMORIES = ("static", "static+chunked", "elastic", "elastic+tier")
# Who is served in time when fixed shares run short, and when elastic memory does.
ONLINE = ("static", "static+chunked", "elastic", "elastic+tier+slo")
LAYERS = ("elastic+slo", "elastic+tier+slo")


def opening(
    arm: Arm, setting: Setting, budget: int, device: str, model: str, threads: int
) -> dict[str, Any]:
    """What elastic-throughput's Bench takes."""
    shared = {
        "model": model,
        "load_format": "dummy",
        "device": device,
        "dtype": setting.dtype,
        "memory": budget,
        "max_model_len": setting.context,
        "max_num_seqs": setting.most,
        "enable_prefix_caching": False,
        "threads": threads,
    }
    shape = setting.shape
    return {
        "arguments": arm.arguments(shared),
        "work": {
            "parameters": shape.parameters,
            "attention_width": shape.layers * shape.heads * shape.head_dim,
            "flops": setting.flops,
            "token_bytes": shape.kv_token_bytes,
            "bandwidth": setting.bandwidth,
        },
        "layers": shape.layers,
    }
