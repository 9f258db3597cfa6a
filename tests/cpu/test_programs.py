"""Which steps are recorded, and for how long they are kept."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ellm.kernels.ops import Program, Segment
from ellm.runtime import programs
from ellm.runtime.programs import Programs


class Tape:
    """A program that does nothing."""

    def run(self, rows: int, segments: Sequence[Segment]) -> None: ...


class Studio:
    """Counts what it records."""

    def __init__(self, able: bool = True) -> None:
        self.recorded = 0
        self.able = able

    def __call__(self) -> Program | None:
        self.recorded += 1
        return Tape() if self.able else None


def test_what_is_cheap_is_recorded_at_once_and_what_is_dear_when_it_comes_again() -> None:
    studio, cheap, dear = Studio(), Programs(dear=False), Programs(dear=True)
    first = cheap.find("a", studio)
    assert first is not None
    assert cheap.find("a", studio) is first
    assert studio.recorded == 1
    assert dear.find("a", studio) is None
    assert (studio.recorded, len(dear)) == (1, 0)
    again = dear.find("a", studio)
    assert again is not None
    assert dear.find("a", studio) is again
    assert (studio.recorded, len(dear)) == (2, 1)


def test_what_cannot_be_recorded_is_done_without() -> None:
    for one in (Programs(dear=False), Programs(dear=True)):
        assert [one.find("a", Studio(able=False)) for _ in range(4)] == [None] * 4
        assert len(one) == 0


def test_what_could_not_be_recorded_is_tried_again_after_a_while() -> None:
    """A device that was full need not stay so, but asking costs."""
    studio, kept = Studio(able=False), Programs(dear=True)
    for _ in range(programs.PATIENCE):
        assert kept.find("a", studio) is None
    assert studio.recorded == 1
    studio.able = True
    for _ in range(3):
        found = kept.find("a", studio)
    assert studio.recorded == 2
    assert found is not None


def test_those_met_longest_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "MOST_PROGRAMS", 3)
    studio, kept = Studio(), Programs(dear=False)
    for key in "abcabd":
        kept.find(key, studio)
    assert (studio.recorded, len(kept)) == (4, 3)
    for key in "abd":
        kept.find(key, studio)
    assert studio.recorded == 4
    kept.find("c", studio)
    assert studio.recorded == 5
