"""Who was served as soon as was wished, and how many of them a second."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ellm.core.objectives import Objectives
from ellm.core.request import Request
from ellm.core.sampling import SamplingParams
from ellm.core.sequence import FinishReason, Sequence
from ellm.obs.goodput import WINDOW, Goodput


def ended(
    first: float | None,
    last: float | None = None,
    tokens: int = 1,
    arrival: float = 0.0,
    own: Objectives | None = None,
    reason: FinishReason = FinishReason.STOP,
) -> Sequence:
    request = Request(
        request_id="r", prompt=(1,), params=SamplingParams(), arrival=arrival, objectives=own
    )
    sequence = Sequence(0, request, first_token=first, last_token=first if last is None else last)
    sequence.tokens += [1] * (tokens if first is not None else 0)
    sequence.finish_reason = reason
    return sequence


@pytest.mark.parametrize(
    ("sequence", "outcome"),
    [
        (ended(1.0), "met"),
        (ended(1.01), "ttft"),
        (ended(101.0, arrival=100.0), "met"),
        (ended(1.0, 2.0, tokens=11), "met"),
        (ended(1.0, 2.01, tokens=11), "tpot"),
        (ended(1.5, 2.51, tokens=11), "both"),
        (ended(1.5, own=Objectives(ttft=2.0)), "met"),
        (ended(1.0, 2.0, tokens=11, own=Objectives(tpot=0.05)), "tpot"),
    ],
)
def test_both_objectives_are_judged(sequence: Sequence, outcome: str) -> None:
    goodput = Goodput(Objectives(ttft=1.0, tpot=0.1), started=0.0)
    goodput.finished(sequence, 3.0)
    assert goodput.outcomes == {outcome: 1}


def test_who_gave_up_is_judged_by_what_is_certain() -> None:
    goodput = Goodput(Objectives(ttft=1.0, tpot=0.1), started=0.0)
    for first, now in [(None, 0.5), (0.5, 9.0), (2.0, 9.0)]:
        goodput.finished(ended(first, tokens=9, reason=FinishReason.ABORT), now)
    assert goodput.outcomes == {}
    goodput.finished(ended(None, reason=FinishReason.ABORT), 1.5)
    assert goodput.outcomes == {"ttft": 1}


def test_without_objectives_nobody_is_judged() -> None:
    goodput = Goodput(Objectives(), started=0.0)
    goodput.finished(ended(1000.0, 9000.0, tokens=2), 9000.0)
    assert not goodput.outcomes


def test_only_those_who_met_their_objectives_make_goodput() -> None:
    goodput = Goodput(Objectives(ttft=1.0), started=100.0)
    assert goodput.rate(100.0) == 0.0
    for _ in range(6):
        goodput.finished(ended(0.5), 101.0)
        goodput.finished(ended(1.5), 101.0)
    assert goodput.rate(102.0) == 3.0
    assert goodput.rate(101.0 + WINDOW) == 0.0


@given(
    moments=st.lists(st.floats(0, 300), max_size=60).map(sorted),
    later=st.floats(0, 100),
)
def test_the_rate_is_over_the_last_whole_seconds(moments: list[float], later: float) -> None:
    goodput = Goodput(Objectives(ttft=1.0), started=0.0)
    for moment in moments:
        goodput.finished(ended(0.0), moment)
    now = (moments[-1] if moments else 0.0) + later
    oldest = max(0, int(now) - WINDOW + 1)
    expected = sum(1 for moment in moments if int(moment) >= oldest)
    assert goodput.rate(now) == pytest.approx(expected / max(1.0, now - oldest))
