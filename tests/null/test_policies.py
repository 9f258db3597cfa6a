"""Who goes first and how far, policy by policy: what is asked of one sequence at a time."""

from __future__ import annotations

import math
import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_server import MACHINE, known_cost

from ellm.core.load import StepLoad
from ellm.core.objectives import Objectives
from ellm.core.request import Request
from ellm.core.sampling import SamplingParams
from ellm.core.sequence import FinishReason, Sequence
from ellm.scheduling.cost import StepCost
from ellm.scheduling.fcfs import FcfsPolicy
from ellm.scheduling.logical_buffer import LogicalBuffer
from ellm.scheduling.pace import AIM, Decoding, Progress
from ellm.scheduling.quantile import Quantile
from ellm.scheduling.queue import WaitingQueue
from ellm.scheduling.slo import OVERDUE_EVERY, PATIENCE, SMALLEST_CHUNK, SloPolicy

OBJECTIVES = Objectives(ttft=1.0, tpot=0.05)


def waiting(
    number: int,
    arrival: float = 0.0,
    prompt: int = 100,
    priority: int = 0,
    own: Objectives | None = None,
    most: int = 1000,
) -> Sequence:
    request = Request(
        request_id=f"r{number}",
        prompt=(0,) * prompt,
        params=SamplingParams(max_tokens=most),
        arrival=arrival,
        priority=priority,
        objectives=own,
    )
    return Sequence(number, request)


def decoding(number: int, outputs: int, first: float, last: float, **more: object) -> Sequence:
    sequence = waiting(number, **more)  # type: ignore[arg-type]
    sequence.tokens += [0] * outputs
    sequence.computed = len(sequence.tokens) - 1
    sequence.first_token, sequence.last_token = first, last
    return sequence


def load_of(sequences: list[Sequence]) -> StepLoad:
    load = StepLoad()
    for sequence in sequences:
        load = load.with_sequence(1, len(sequence.tokens))
    return load


def in_order(policy: SloPolicy | FcfsPolicy, sequences: list[Sequence], now: float) -> list[int]:
    queue = WaitingQueue(policy.rank)
    for sequence in sequences:
        queue.push(sequence)
    return [sequence.seq_id for sequence in queue.drain(now)]


def slo(objectives: Objectives = OBJECTIVES, buffer: LogicalBuffer | None = None) -> SloPolicy:
    return SloPolicy(objectives, known_cost(), buffer)


# First come, first served


def test_fcfs_is_arrival_within_a_priority_and_nobody_passes() -> None:
    policy = FcfsPolicy()
    everyone = [waiting(i, priority=p) for i, p in enumerate([1, 0, 1, 0])]
    assert in_order(policy, everyone, 99.0) == [1, 3, 0, 2]
    assert not policy.skips
    assert policy.must_wait_for(everyone[0], 0.0)
    assert policy.admits(everyone[0], 10**12, 10**12, 0.0)


def test_fcfs_takes_one_whole_prompt_while_nobody_decodes() -> None:
    policy = FcfsPolicy(stall_tokens=512)
    prompt = waiting(0, prompt=10_000)
    assert policy.prefill_tokens(prompt, StepLoad(), [], 0.0, 10_000) == 10_000
    short = StepLoad().with_sequence(300, 300)
    assert policy.prefill_tokens(prompt, short, [], 0.0, 10_000) == 212
    long = StepLoad().with_sequence(3000, 3000)
    assert policy.prefill_tokens(prompt, long, [], 0.0, 10_000) == 0, "it would end with both"


def test_fcfs_keeps_those_who_decode_waiting_for_no_more_than_it_may() -> None:
    policy = FcfsPolicy(stall_tokens=512)
    prompt = waiting(0, prompt=10_000)
    others = [decoding(i, 5, 0.0, 0.1) for i in range(1, 13)]
    assert policy.prefill_tokens(prompt, load_of(others), others, 0.0, 10_000) == 500
    assert policy.prefill_tokens(prompt, load_of(others), others, 0.0, 7) == 7
    full = load_of(others).with_sequence(600, 600)
    assert policy.prefill_tokens(prompt, full, others, 0.0, 10_000) == 0


# Order by objectives


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0.5, 50)), min_size=1, max_size=8))
def test_those_who_can_make_it_go_by_deadline(parts: list[tuple[float, float]]) -> None:
    everyone = [
        waiting(i, arrival, prompt=10, own=Objectives(ttft=ttft + 5))
        for i, (arrival, ttft) in enumerate(parts)
    ]
    # As the policy adds it up, to the last bit.
    deadlines = {i: arrival + (ttft + 5) for i, (arrival, ttft) in enumerate(parts)}
    order = in_order(slo(Objectives()), everyone, 5.0)
    assert [deadlines[i] for i in order] == sorted(deadlines.values())


def test_lost_causes_stand_behind_in_order_of_arrival() -> None:
    # 9000 tokens take 0.91 s: too long for 1 from 0.1 s after its arrival on.
    long = waiting(1, arrival=9.8, prompt=9000)
    short = waiting(2, arrival=9.9)
    expired = waiting(0, arrival=0.0)
    assert in_order(slo(), [expired, long, short], 9.85) == [1, 2, 0]
    assert in_order(slo(), [expired, long, short], 9.95) == [2, 0, 1]


def test_without_objectives_it_is_arrival() -> None:
    everyone = [waiting(i, arrival=float(i), prompt=1000 - i) for i in range(5)]
    assert in_order(slo(Objectives()), everyone[::-1], 2.0) == [0, 1, 2, 3, 4]
    assert in_order(slo(Objectives(tpot=0.1)), everyone[::-1], 2.0) == [0, 1, 2, 3, 4]


def test_a_request_brings_its_own_objectives() -> None:
    ordinary = waiting(0, arrival=5.0)
    patient = waiting(1, arrival=5.0, own=Objectives(ttft=20.0))
    eager = waiting(2, arrival=5.1, own=Objectives(ttft=0.5))
    assert in_order(slo(), [ordinary, patient, eager], 5.2) == [2, 0, 1]
    assert in_order(slo(Objectives()), [ordinary, patient, eager], 5.2) == [2, 1, 0]


def test_priorities_beat_deadlines_and_age() -> None:
    urgent = waiting(0, arrival=99.9, priority=1)
    overdue = waiting(1, arrival=0.0, priority=1)
    important = waiting(2, arrival=0.0, prompt=5000, own=Objectives(ttft=500.0))
    assert in_order(slo(), [urgent, overdue, important], 100.0) == [2, 1, 0]


def test_who_had_begun_resumes_before_newcomers() -> None:
    preempted = decoding(5, outputs=3, first=1.0, last=1.2, arrival=0.5)
    preempted.computed = 0
    policy = slo()
    assert in_order(policy, [waiting(0, arrival=1.9), preempted], 2.0) == [5, 0]
    assert policy.must_wait_for(preempted, 2.0)
    assert not policy.must_wait_for(waiting(0, arrival=1.9), 2.0)


def test_one_overdue_sequence_at_a_time_goes_first() -> None:
    policy, now = slo(), PATIENCE + 10.0
    old = [waiting(i, arrival=float(i)) for i in range(3)]
    new = waiting(9, arrival=now - 0.1)
    assert in_order(policy, [*old, new], now) == [0, 1, 2, 9]  # each is asked with the turn free
    assert policy.prefill_tokens(old[0], StepLoad(), [], now, 50) == 50
    assert in_order(policy, [*old[1:], new], now) == [9, 1, 2]
    assert policy.must_wait_for(old[0], now)
    assert not policy.must_wait_for(old[1], now)
    policy.token(old[0], now)
    for number in range(OVERDUE_EVERY):
        assert in_order(policy, [*old[1:], new], now) == [9, 1, 2]
        policy.token(waiting(10 + number, arrival=now - 0.1), now)
    assert in_order(policy, [*old[1:], new], now)[0] == 1


def test_a_turn_ends_with_an_abort_and_gives_way_to_a_higher_priority() -> None:
    policy, now = slo(), PATIENCE + 10.0
    low, high, other = waiting(0, priority=5), waiting(1, priority=1), waiting(2, priority=5)
    policy.prefill_tokens(low, StepLoad(), [], now, 50)
    assert policy.must_wait_for(high, now)
    assert not policy.must_wait_for(other, now)
    low.finish_reason = FinishReason.ABORT
    policy.finished(low)
    assert policy.must_wait_for(other, now)


# Delay that others can bear


def test_allowed_delay_is_what_was_saved_and_surely_will_be() -> None:
    some = Progress(tpot=0.05, past=10, elapsed=0.2, sure=20, likely=100)
    assert some.allowed_delay(0.02) == pytest.approx(AIM * 0.05 * (10 + 20) - (0.2 + 20 * 0.02))
    assert some.allowed_delay(0.06) == pytest.approx(AIM * 0.05 * (10 + 20) - (0.2 + 20 * 0.06))
    # 2 s behind: 100 likely tokens will save 3 s, 20 sure ones do not.
    behind = Progress(tpot=0.05, past=10, elapsed=2.5, sure=20, likely=100)
    assert behind.allowed_delay(0.02) < 0
    lost = Progress(tpot=0.05, past=10, elapsed=3.6, sure=20, likely=100)
    assert lost.allowed_delay(0.02) == math.inf
    assert behind.allowed_delay(0.05) == math.inf
    both = Decoding.of([10, 20], [some, lost], now=0.0)
    assert both.allowed_delay(0.02) == some.allowed_delay(0.02)
    assert both.load == StepLoad(tokens=2, attention=30, kv_tokens=30, sequences=2)
    assert Decoding.of([10], [], now=0.0).allowed_delay(0.02) == math.inf


def test_progress_counts_from_the_first_token() -> None:
    policy = slo()
    sequence = decoding(0, outputs=11, first=2.0, last=2.3, most=20)
    # It may not make more than nine, so these are both sure and likely.
    assert policy.progress(sequence, 2.5) == Progress(0.05, 10, 0.5, sure=9, likely=9)
    assert slo(Objectives(ttft=1.0)).progress(sequence, 2.4) is None


def test_expectations_follow_those_who_finished() -> None:
    policy = slo()
    for outputs in [40, 60, 50] * 100:
        sequence = decoding(0, outputs, 0.0, 1.0)
        sequence.finish_reason = FinishReason.STOP
        policy.finished(sequence)
        sequence.tokens += [0] * 900
        sequence.finish_reason = FinishReason.ABORT
        policy.finished(sequence)
    progress = policy.progress(decoding(1, 10, 0.0, 0.1), 0.1)
    assert progress is not None
    assert progress.likely == pytest.approx(40, abs=3)
    assert progress.sure == pytest.approx(30, abs=6)


@settings(max_examples=50)
@given(
    others=st.lists(st.tuples(st.integers(1, 300), st.floats(0, 3)), min_size=1, max_size=12),
    computed=st.integers(0, 3000),
    most=st.integers(1, 3000),
)
def test_a_chunk_keeps_the_step_within_what_everyone_can_bear(
    others: list[tuple[int, float]], computed: int, most: int
) -> None:
    policy, now = slo(Objectives(tpot=0.05)), 10.0
    running = [decoding(i + 1, n, now - ago, now) for i, (n, ago) in enumerate(others)]
    prompt = waiting(0, arrival=9.9, prompt=6000)
    prompt.computed = computed
    load = load_of(running)
    limit = policy.longest_step(prompt, running, now)
    pace = MACHINE.seconds(load.with_sequence(1, 6001))
    bearable = [p.allowed_delay(pace) for one in running if (p := policy.progress(one, now))]
    assert limit == pytest.approx(pace + min(bearable))
    chunk = policy.prefill_tokens(prompt, load, running, now, most)
    assert 0 <= chunk <= most
    if chunk:
        assert MACHINE.seconds(load.with_sequence(chunk, computed + chunk)) <= limit
    larger = max(chunk + 1, SMALLEST_CHUNK)
    if larger <= most:
        assert MACHINE.seconds(load.with_sequence(larger, computed + larger)) > limit * 0.999


def test_nobody_is_bound_by_an_objective_that_is_not_there() -> None:
    prompt = waiting(0, prompt=5000)
    running = [decoding(1, 5, 0.0, 0.1)]
    assert slo(Objectives()).prefill_tokens(prompt, load_of(running), running, 0.1, 5000) == 5000
    assert slo(Objectives(tpot=0.05)).prefill_tokens(prompt, StepLoad(), [], 0.1, 5000) == 5000


def test_steps_stay_short_enough_for_the_next_newcomer() -> None:
    policy, load = slo(Objectives(ttft=1.0)), StepLoad()
    chunk = policy.prefill_tokens(waiting(0, prompt=9000), load, [], 0.0, 9000)
    assert MACHINE.seconds(load.with_sequence(chunk, chunk)) == pytest.approx(0.2, rel=0.01)


def test_a_prompt_that_ends_in_a_step_is_not_held_up_past_its_deadline() -> None:
    policy, now = slo(Objectives(ttft=1.0)), 10.0
    urgent = waiting(0, arrival=now - 0.9, prompt=500)
    load = StepLoad().with_sequence(policy.prefill_tokens(urgent, StepLoad(), [], now, 500), 500)
    chunk = policy.prefill_tokens(waiting(1, arrival=now, prompt=5000), load, [], now, 5000)
    assert 0 < chunk < 400
    assert MACHINE.seconds(load.with_sequence(chunk, chunk)) <= 0.1


def test_a_machine_too_slow_for_its_objectives_still_gets_on() -> None:
    policy = SloPolicy(Objectives(ttft=1e-3, tpot=1e-3), StepCost(prior=MACHINE.times(1000)))
    assert policy.prefill_tokens(waiting(0), StepLoad(), [], 0.0, 100) >= SMALLEST_CHUNK
    running = [decoding(1, 5, 0.0, 9.0)]
    assert policy.prefill_tokens(waiting(0), load_of(running), running, 9.0, 100) >= SMALLEST_CHUNK


def test_who_goes_first_gets_a_little_in_any_step() -> None:
    policy, now = slo(), PATIENCE + 10.0
    running = [decoding(i, 5, now - 1.5, now) for i in range(1, 100)]  # behind, and not lost
    load = load_of(running)
    assert policy.prefill_tokens(waiting(0, arrival=now), load, running, now, 500) == 0
    old = waiting(300)
    assert policy.prefill_tokens(old, load, running, now, 500) == SMALLEST_CHUNK
    more = load.with_sequence(SMALLEST_CHUNK, SMALLEST_CHUNK)
    assert policy.prefill_tokens(old, more, running, now, 500) == 0


# Memory below


def naive_buffer(events: list[tuple[bool | None, bool | None]]) -> list[int]:
    """Sizes after each step: eLLM's rule written out, between 100 and 1600."""
    ttft: deque[bool] = deque()
    tpot: deque[bool] = deque()
    size, sizes = 1600, []
    for first, other in events:
        ttft += [] if first is None else [first]
        tpot += [] if other is None else [other]
        if list(tpot)[-5:].count(True) >= 3:
            size = max(100, size // 2)
            ttft.clear()
            tpot.clear()
        elif list(ttft)[-5:].count(True) >= 3:
            size = min(1600, size * 2)
            ttft.clear()
            tpot.clear()
        sizes.append(size)
    return sizes


@given(
    st.lists(
        st.tuples(st.sampled_from([None, True, False]), st.sampled_from([None, True, False])),
        max_size=60,
    )
)
def test_the_logical_buffer_moves_as_described(
    events: list[tuple[bool | None, bool | None]],
) -> None:
    buffer = LogicalBuffer(physical=1600, smallest=100)
    sizes = []
    for event in events:
        buffer.push(*event)
        sizes.append(buffer.size)
    assert sizes == naive_buffer(events)


def test_three_breaches_of_five_move_the_buffer() -> None:
    buffer = LogicalBuffer(physical=1000, smallest=300)
    for breach in (True, True, False, False, False, True, True):
        buffer.push(None, breach)
    assert buffer.size == 1000  # never three among the last five
    buffer.push(None, True)
    assert buffer.size == 500
    for _ in range(3):
        buffer.push(True, True)
    assert buffer.size == 300  # both breached: tokens that follow come first
    for _ in range(6):
        buffer.push(True, None)
    assert buffer.size == 1000


def test_newcomers_fill_the_logical_buffer_and_no_more() -> None:
    buffer = LogicalBuffer(physical=1000, smallest=100)
    policy = slo(buffer=buffer)
    newcomer = waiting(0, arrival=10.0)
    assert policy.admits(newcomer, 400, 600, 10.0)
    assert not policy.admits(newcomer, 401, 600, 10.0)
    assert policy.admits(newcomer, 5000, 0, 10.0)  # or it would wait for ever
    assert policy.admits(newcomer, 5000, 600, 11.0 + PATIENCE)
    assert policy.admits(decoding(1, 5, 0.0, 1.0), 5000, 600, 10.0)
    assert slo().admits(newcomer, 5000, 600, 10.0)


def test_slow_tokens_shrink_the_buffer_and_late_first_ones_grow_it() -> None:
    buffer = LogicalBuffer(physical=1000, smallest=100)
    policy = slo(buffer=buffer)
    load = StepLoad().with_sequence(1, 10)
    for last in (0.0, 0.04, 0.08):  # met: 40 ms each
        policy.token(decoding(0, 5, 0.0, last), last + 0.04)
        policy.stepped(load, 0.04)
    for last in (0.24, 0.3, 0.4):  # four tokens in more than 0.25 s, and one to come at most
        policy.token(decoding(0, 5, 0.0, last, most=6), last + 0.04)
        policy.token(decoding(1, 5, 0.0, 0.1, most=6), 0.14)  # one of two is enough
        policy.stepped(load, 0.06)
    assert buffer.size == 500
    for number in range(3):
        policy.token(waiting(number), 1.1)
        policy.stepped(load, 0.06)
    assert buffer.size == 1000


def test_a_pause_that_will_be_made_up_for_does_not_shrink_the_buffer() -> None:
    buffer = LogicalBuffer(physical=1000, smallest=100)
    policy = slo(buffer=buffer)
    load = StepLoad().with_sequence(1, 10)
    for _ in range(5):  # 1.8 s behind, of which each of some 120 tokens will save 0.04
        policy.token(decoding(0, 5, 0.0, 1.96), 2.0)
        policy.stepped(load, 0.04)
    assert buffer.size == 1000
    for _ in range(3):  # 5.8 s behind
        policy.token(decoding(0, 5, 0.0, 5.96), 6.0)
        policy.stepped(load, 0.04)
    assert buffer.size == 500


def test_a_quantile_is_where_the_first_few_are() -> None:
    quantile = Quantile(0.1, start=1e4)
    for number in range(1, 11):
        quantile.observe(number)
    assert quantile.value == 2


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_quantile_is_followed(share: float) -> None:
    rng = random.Random(0)
    quantile = Quantile(share, start=100.0)
    seen = []
    for _ in range(3000):
        quantile.observe(rng.random())
        seen.append(quantile.value)
    assert sum(seen[1000:]) / 2000 == pytest.approx(share, abs=0.05)
