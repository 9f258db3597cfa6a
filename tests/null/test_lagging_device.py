"""An engine far ahead of its device: work is done long after it was launched, copies wait for it.

The device of these tests does nothing before somebody waits for one of its fences, and never more
than that fence asks for.  So whatever moves bytes or takes memory away without waiting is caught:
a copy finds rows that were not written yet, and work finds rows overwritten or unmapped.
"""

from __future__ import annotations

import pytest
from fake_stream import FakeStream, Mark, Pace, Worker
from hypothesis import given, settings
from hypothesis import strategies as st
from parked_scene import ParkedBench
from test_layered_engine import Ride, bench_of
from test_parked_engine import benches, play

from ellm.kv.layered import WINDOWS


@settings(max_examples=25)
@given(bench=benches(lags=True), data=st.data())
def test_every_byte_and_every_token_is_right_however_late_the_device_is(
    bench: ParkedBench, data: st.DataObject
) -> None:
    play(bench, data)


@settings(max_examples=15)
@given(data=st.data())
def test_layers_are_ferried_past_a_late_device(data: st.DataObject) -> None:
    stream = FakeStream(Pace.LAZY)
    per_group = data.draw(st.sampled_from([1, 2]))
    bench = bench_of(chunks=60, base=800, layers_per_group=per_group, stream=stream)
    ride = Ride(bench, data.draw(st.integers(0, 7)))
    counts = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=5))
    for count in (20, *counts):
        assert ride.step(count)
        if data.draw(st.booleans()):
            ride.layers.release(data.draw(st.integers(1, 6)))
    assert ride.return_()
    assert ride.step(1)
    ride.end()


def test_layers_are_ferried_beside_a_device_that_works() -> None:
    stream = FakeStream(Pace.BY_HAND)
    worker = Worker(stream, seed=0)
    bench = bench_of(chunks=60, base=800, stream=stream)
    ride = Ride(bench, 3)
    for count in (30, 1, 1, 8):
        assert ride.step(count)
    assert ride.return_()
    ride.end()
    worker.stop()


def test_a_step_waits_for_layers_on_their_way_up_and_for_windows_alone() -> None:
    """The first groups are launched though nothing is computed; the next one needs a window."""
    stream = FakeStream(Pace.BY_HAND)
    bench = bench_of(chunks=60, base=800, stream=stream)
    ride = Ride(bench, 0)
    ride.kv.begin(0.0)
    assert ride.kv.reserve(7, 20, 0) is not None
    ferry = ride.layers.ferry({7: (0, 20)})
    for layer in range(WINDOWS - 1):
        ferry.enter(layer)
        stream.launch(lambda: None)
        ferry.leave(layer)
    assert len(stream) == 2 * (WINDOWS - 1), "the work of each layer, and a fence behind it"
    worker = Worker(stream, seed=0)
    for layer in range(WINDOWS - 1, 8):
        ferry.enter(layer)
        ferry.leave(layer)
    assert ferry.finish() == []
    worker.stop()
    ride.end()


def passed(stream: FakeStream) -> Mark:
    """A fence that never held anybody up."""
    mark = Mark(stream)
    mark.reach(None)
    return mark


def test_without_fences_copies_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = FakeStream(Pace.LAZY)
    bench = bench_of(chunks=60, base=800, stream=stream)
    monkeypatch.setattr(bench.tiers, "_fence", lambda: passed(stream))
    ride = Ride(bench, 3)
    ride.step(20)
    ride.step(1)
    with pytest.raises(AssertionError, match="7: group"):
        stream.drain()
    stream._queue.clear()
    bench.engine.close()


def test_without_fences_unmapping_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = FakeStream(Pace.LAZY)
    bench = bench_of(chunks=60, base=800, stream=stream)
    monkeypatch.setattr(bench.pool.unmaps, "_fence", lambda: passed(stream))
    bench.submit([1] * 30, 5)
    bench.step()
    bench.abort("r0")
    bench.engine.rest()
    with pytest.raises(AssertionError, match="0: layer 0"):
        stream.drain()
    stream._queue.clear()
    bench.engine.close()
