"""The engine over a tier below: parking, fetching and layers, with every byte looked at."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from parked_scene import CONTEXT, ParkedBench, TierKind

from ellm.core.config import (
    ALL_PARTS,
    ElasticPart,
    KvLayout,
    MemoryConfig,
    MemoryMode,
    SchedulerConfig,
    SchedulingPolicy,
)
from ellm.core.objectives import Objectives
from ellm.core.units import KIB

left_out = st.sets(st.sampled_from(list(ElasticPart)), max_size=2)
seconds = st.sampled_from([None, 0.01, 0.05, 0.3, 2.0])
sizes = st.sampled_from([1, 30, 100, 100, 300, 300, 2000])


@st.composite
def benches(draw: st.DrawFn) -> ParkedBench:
    static = draw(st.integers(0, 7)) == 0
    memory = MemoryConfig(
        layout=draw(st.sampled_from(list(KvLayout))),
        chunk_bytes=draw(st.sampled_from([4 * KIB, 4 * KIB, 8 * KIB])),
        block_size=draw(st.sampled_from([4, 16])),
        prefix_caching=draw(st.booleans()),
        mode=MemoryMode.STATIC if static else MemoryMode.ELASTIC,
        parts=ALL_PARTS - draw(left_out),
    )
    limits = SchedulerConfig(
        max_num_seqs=draw(st.sampled_from([1, 2, 4, 6])),
        max_num_batched_tokens=draw(st.sampled_from([64, 5] if static else [None, None, 7, 40])),
        chunked_prefill=draw(st.integers(0, 3)) > 0,
        max_model_len=CONTEXT,
        policy=draw(st.sampled_from(list(SchedulingPolicy))),
        ttft_slo=draw(seconds),
        tpot_slo=draw(seconds),
    )
    tier = TierKind(
        base=draw(sizes) * KIB,
        top=draw(st.sampled_from([0, 0, 20, 100])) * KIB,
        rate=draw(st.sampled_from([3e5, 3e6, 1e8])),
        keeps=draw(st.integers(0, 4)) > 0,
    )
    return ParkedBench(
        memory,
        limits,
        tier,
        draw(st.integers(130 if static else 96, 190)) * KIB,
        layers_per_group=draw(st.sampled_from([1, 1, 2, 4])),
    )


def ask(bench: ParkedBench, data: st.DataObject, turn: int) -> None:
    """Submit a request of one of a few families of prompts."""
    prompt = [data.draw(st.integers(0, 2))] * data.draw(st.integers(1, 60)) + [turn]
    own = None
    if data.draw(st.booleans()):
        own = Objectives(ttft=data.draw(seconds), tpot=data.draw(seconds))
    bench.submit(
        prompt,
        data.draw(st.integers(1, 30)),
        data.draw(st.sampled_from([1, 1, 1, 3])),
        data.draw(st.sampled_from([0, 0, 1])),
        data.draw(st.sampled_from([None, None, "salt"])),
        own,
    )


@settings(max_examples=40)
@given(bench=benches(), data=st.data())
def test_whatever_goes_below_every_byte_and_every_token_is_right(
    bench: ParkedBench, data: st.DataObject
) -> None:
    refused = False
    kinds = ["nothing", "nothing", "abort", "resize", "write", "read", "refuse"]
    for turn in range(data.draw(st.integers(1, 8))):
        for _ in range(data.draw(st.integers(0, 4))):
            ask(bench, data, turn)
        what = data.draw(st.sampled_from(kinds))
        if what == "abort" and bench.asked:
            bench.abort(data.draw(st.sampled_from(sorted(bench.asked))))
        elif what == "resize":
            bench.pool.resize(data.draw(st.integers(bench.least, bench.most)))
        elif what in ("write", "read") and bench.stores:
            data.draw(st.sampled_from(bench.stores)).arm(what, data.draw(st.integers(1, 3)))
        elif what == "refuse":
            refused = True
            bench.driver.arm(
                data.draw(st.sampled_from(["create", "map"])), data.draw(st.integers(1, 3))
            )
        for _ in range(data.draw(st.integers(0, 6))):
            bench.step()
    bench.drain(refused=refused)
    bench.end()
