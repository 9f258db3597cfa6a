"""The questions that are asked, by name."""

from __future__ import annotations

from dataclasses import replace

from long import Long
from scenario import Scenario
from streaming import Streaming
from throughput import Throughput

from harness.random_llama import LLAMA_1B, LLAMA_168M, RandomLlama

# Enough to see that a runner works.
TINY = RandomLlama(
    name="llama-tiny",
    hidden=128,
    layers=2,
    heads=2,
    kv_heads=1,
    mlp=256,
    vocab=1024,
    positions=33 << 10,
)
QUICK_BATCH = {"model": TINY, "decode": 16, "output": 16}
CALLED = ("ellm", "transformers", "openvino", "llama.cpp", "vllm")
_ALL: tuple[Scenario, ...] = (
    Throughput(
        name="throughput",
        model=LLAMA_168M,
        arms=(*CALLED, "transformers-cb"),
        baseline="transformers",
        rounds=5,
        once=frozenset({"transformers-cb"}),
        smaller=QUICK_BATCH,
    ),
    Throughput(
        name="large",
        model=LLAMA_1B,
        arms=CALLED,
        baseline="transformers",
        rounds=3,
        decode=32,
        output=32,
        smaller=QUICK_BATCH,
    ),
    Long(
        name="long",
        model=replace(LLAMA_168M, positions=33 << 10),
        arms=CALLED,
        baseline="transformers",
        rounds=3,
        once=frozenset({"llama.cpp"}),
        # What a call costs anyway hides what a tiny model saves.
        smaller={
            "model": TINY,
            "prefill": 2048,
            "lengths": (4096, 8192),
            "output": 8,
            "kept": float("inf"),
        },
    ),
    Streaming(
        name="http",
        model=LLAMA_168M,
        arms=("ellm", "llama.cpp", "vllm"),
        baseline="vllm",
        rounds=5,
        smaller={"model": TINY, "output": 16},
    ),
)
SCENARIOS = {scenario.name: scenario for scenario in _ALL}
# In one order, so that an engine looks the same in every figure.
ARMS = tuple(dict.fromkeys(arm for scenario in _ALL for arm in scenario.arms))
