"""What is done for memory between steps, and when there is no work."""

from __future__ import annotations

from unittest.mock import patch

import pytest
from parked_scene import CONTEXT, ParkedBench, TierKind

from ellm.core.config import KvLayout, MemoryConfig, SchedulerConfig
from ellm.core.units import KIB
from ellm.engine import housekeeper


def bench_of(layout: KvLayout = KvLayout.CONTIGUOUS) -> ParkedBench:
    return ParkedBench(
        MemoryConfig(chunk_bytes=4 * KIB, layout=layout),
        SchedulerConfig(max_num_seqs=8, max_model_len=CONTEXT),
        TierKind(KIB),
        budget=800 * KIB,
    )


def test_all_sequences_together_have_no_more_mapped_ahead_than_allowed() -> None:
    bench, seen = bench_of(), set()
    for _ in range(8):
        bench.submit([1] * 20, 60)
    with patch.object(housekeeper, "MOST_AHEAD", 12 * 4 * KIB):
        for _ in range(50):
            bench.step()
            seen.add(bench.memory.kv.ahead)
    assert max(seen) == 12, "four chunks for each of three"
    bench.drain()
    bench.end()


@pytest.mark.parametrize("kind", ["unmap", "destroy"])
def test_a_machine_that_takes_nothing_back_does_not_end_the_loop(kind: str) -> None:
    bench = bench_of()
    bench.submit([1] * 20, 2)
    bench.drain()
    bench.driver.arm(kind, 1)
    bench.engine.rest()
    assert not bench.driver.armed
    assert "refused by the test" in str(bench.pool.refusal)
    bench.engine.rest()
    assert bench.driver.physical_bytes() == 0
    bench.submit([1] * 20, 2)
    bench.drain()
    bench.end()
