"""A burst ten times the budget: everybody is answered as if alone, and the memory goes back."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from ellm.core.config import KvLayout
from ellm.core.plan import StepShape
from ellm.core.request import Request
from ellm.core.sampling import SamplingParams
from ellm.core.units import MIB
from ellm.engine.engine import Engine
from ellm.llm.args import EngineArgs
from ellm.llm.build import build

BUDGET = 16 * MIB
SMALL = EngineArgs(
    model="ellm-draft", dtype="float32", memory=BUDGET, max_num_seqs=64, max_model_len=1024
)
OUTPUT = 8


def burst() -> list[Request]:
    """Prompts that would take ten times the small budget if they ran at once."""
    rng = random.Random(3)
    params = SamplingParams(max_tokens=OUTPUT, temperature=0, ignore_eos=True)
    lengths = [rng.randrange(300, 1000) for _ in range(120)]
    return [
        Request(
            request_id=str(number),
            prompt=tuple(rng.randrange(100, 8000) for _ in range(length)),
            params=params,
        )
        for number, length in enumerate(lengths)
    ]


def demand(engine: Engine, requests: list[Request]) -> int:
    """Bytes of KV and activations that all of them take at once."""
    tokens = sum(request.max_length for request in requests)
    longest = max(request.max_length for request in requests)
    shape = StepShape(tokens, len(requests), longest, longest)
    kv = tokens * engine._memory.kv.token_bytes
    return kv + engine._executor.activation_bytes(shape)


def answers(engine: Engine, requests: list[Request]) -> dict[str, list[int]]:
    for request in requests:
        engine.submit(request)
    tokens: dict[str, list[int]] = {}
    while engine.has_work:
        for news in engine.step():
            if news.token is not None:
                tokens.setdefault(news.request_id, []).append(news.token)
    return tokens


def resident_chunks() -> int:
    """Bytes of memory files resident in this process, as the kernel counts them."""
    status = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in status if line.startswith("RssShmem:"))
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize(
    ("layout", "below"),
    [(KvLayout.CONTIGUOUS, 256 * MIB), (KvLayout.CONTIGUOUS, 0), (KvLayout.PAGED, 0)],
)
def test_a_burst_of_ten_times_the_budget(layout: KvLayout, below: int, tmp_path: Path) -> None:
    requests = burst()
    unconstrained = build(replace(SMALL, memory=1024 * MIB))
    assert demand(unconstrained.engine, requests) > 10 * BUDGET
    truth = answers(unconstrained.engine, requests)
    assert all(len(tokens) == OUTPUT for tokens in truth.values())
    unconstrained.engine.close()
    before = resident_chunks()
    args = replace(SMALL, kv_layout=layout, kv_offloading_size=below)
    small = build(replace(args, kv_offloading_dir=str(tmp_path)))
    assert answers(small.engine, requests) == truth
    engine = small.engine
    weights = engine.snapshot().owners["weights"]
    engine.release_idle()
    memory = engine.snapshot().memory
    assert memory.total - memory.free == weights
    assert memory.physical_bytes == weights * memory.chunk_bytes
    # Copying below goes through two buffers of its own.
    staging = 2 * 4 * MIB if below else 0
    assert resident_chunks() - before <= memory.physical_bytes + staging
    engine.close()
