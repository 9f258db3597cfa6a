"""Sequences that decode are granted together: from the front, as far as rows and memory go."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from ellm.core.layers import KvTable
from ellm.core.load import StepLoad
from ellm.core.plan import StepShape
from ellm.core.request import Request
from ellm.core.sampling import SamplingParams
from ellm.core.sequence import Sequence, SequenceStatus
from ellm.kv.manager import KvManager
from ellm.scheduling.decoding import decode_together, load_of
from ellm.scheduling.draft import Draft

PROMPT = 3


@dataclass
class Rows:
    """A KV manager in which some sequences have no rows, and a workspace has so many at most."""

    without: set[int]
    most: int
    asked: list[int] = field(default_factory=list)

    @property
    def room(self) -> Rows:
        return self

    def make(self, missing: Callable[[], int], activation_bytes: int) -> bool:
        assert missing() == 0
        return activation_bytes <= self.most

    def go_on(self, seq_id: int, tokens: int) -> KvTable | None:
        self.asked.append(tokens)
        return None if seq_id in self.without else KvTable((100 * seq_id,), 1000)

    def gathers(self, tokens: int) -> bool:
        return False


def sequence(number: int, behind: int, running: bool) -> Sequence:
    """One with 2 generated tokens, or with so many of its last ones to compute."""
    params = SamplingParams(max_tokens=8, temperature=0)
    request = Request(request_id=str(number), prompt=(7,) * PROMPT, params=params)
    one = Sequence(number, request, tokens=[7, 7, 7, 8, 9])
    one.computed = len(one.tokens) - behind
    one.status = SequenceStatus.RUNNING if running else SequenceStatus.WAITING
    return one


def together(
    sequences: list[Sequence], without: set[int], most: int, left: int
) -> tuple[bool, Draft, deque[Sequence]]:
    draft, turn = Draft(left, StepLoad()), deque(sequences)
    kv = cast(KvManager[Any], Rows(without, most))
    return decode_together(turn, draft, kv, lambda shape: shape.tokens), draft, turn


@given(
    st.lists(st.tuples(st.sampled_from([1, 1, 1, 2, 3]), st.booleans()), max_size=12),
    st.sets(st.integers(0, 11)),
    st.integers(0, 12),
    st.integers(0, 12),
)
def test_the_front_goes_as_far_as_it_can(
    kinds: list[tuple[int, bool]], without: set[int], most: int, left: int
) -> None:
    sequences = [sequence(n, behind, running) for n, (behind, running) in enumerate(kinds)]
    done, draft, turn = together(sequences, without, most, left)
    count = len(sequences) - len(turn)
    ready = 0
    while ready < len(sequences) and kinds[ready] == (1, True) and ready not in without:
        ready += 1
    ready = min(ready, left)
    # All who are ready, or at least half of what the workspace holds.
    assert count == len(draft) == draft.shape.tokens == draft.shape.logit_rows
    assert count == ready if ready <= most else most // 2 <= count <= most
    assert done is (count > 0)
    assert list(turn) == sequences[count:]
    assert draft.left == left - count
    plan = draft.plan()
    for step, one in zip(plan.steps if plan else (), sequences, strict=False):
        assert (step.seq_id, step.start, step.tokens) == (one.seq_id, 4, [9])
        assert step.task is one.task


def test_a_task_follows_its_sequence() -> None:
    one = sequence(1, 1, True)
    assert list(one.task.output) == [8, 9]
    one.tokens.append(4)
    assert list(one.task.output) == [8, 9, 4]
    assert list(one.task.prompt) == [7] * PROMPT


def test_end_tokens_are_banned_until_the_least_is_out() -> None:
    params = SamplingParams(max_tokens=8, min_tokens=2, stop_token_ids=[5])
    request = Request(request_id="a", prompt=(1,), params=params, end_token_ids=frozenset({2}))
    one = Sequence(0, request)
    assert list(one.task.banned) == [2, 5]
    one.tokens += [3, 3]
    assert list(one.task.banned) == []


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 50)), max_size=8))
def test_a_load_is_the_sum_of_its_parts(parts: list[tuple[int, int]]) -> None:
    load = StepLoad()
    for count, before in parts:
        load = load.with_sequence(count, before + count)
    assert StepLoad.of(parts) == load


def test_decoding_costs_one_token_each() -> None:
    some = [sequence(n, 1, True) for n in range(3)]
    assert load_of(some) == StepLoad(3, 15, 15, 3)
    assert StepShape().with_decoding(3, 5, False) == StepShape(3, 3, 1, 5, False)
