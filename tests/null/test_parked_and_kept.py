"""A sequence that waits for its KV below, and prefixes that are kept where it was."""

from __future__ import annotations

from ellm.core.config import MemoryConfig, SchedulerConfig
from ellm.core.request import Request
from ellm.core.sampling import SamplingParams
from ellm.core.units import KIB, MIB
from ellm.scheduling.coefficients import Coefficients
from ellm.sim.clock import VirtualClock
from ellm.sim.replay import SimModel, simulated_engine

# A token's KV is half a chunk: computing is dear, and fetching cheap.
MODEL = SimModel(cost=Coefficients.even(token=0.01, step=0.01), tier_bandwidth=1e9)


def ask(engine: object, number: int, prompt: int, output: int) -> None:
    params = SamplingParams(max_tokens=output, temperature=0, ignore_eos=True)
    tokens = tuple(range(1000 * number, 1000 * number + prompt))
    engine.submit(  # type: ignore[attr-defined]
        Request(request_id=str(number), prompt=tokens, params=params)
    )


def test_kept_prefixes_give_way_to_who_waits_for_its_kv() -> None:
    """Or it would wait, and everyone behind it, until nobody runs any more."""
    clock = VirtualClock()
    memory = MemoryConfig(
        budget=256 * KIB, chunk_bytes=4 * KIB, prefix_caching=True, offload_bytes=MIB
    )
    limits = SchedulerConfig(max_num_seqs=8, max_model_len=512, max_num_batched_tokens=64)
    engine = simulated_engine(MODEL, memory, limits, clock)
    for number, output in enumerate((300, 400, 400, 400)):
        ask(engine, number, prompt=80, output=output)
    while "0" in engine.request_ids:
        engine.step()
    parked, memory_kept = engine.snapshot().parked, engine.snapshot().idle["prefixes"]
    assert parked > 0
    assert memory_kept > 20
    for _ in range(10):
        engine.step()
    assert engine.snapshot().parked < parked, "it waits though the first one's KV is only kept"
    while engine.has_work:
        engine.step()
    engine.check()
