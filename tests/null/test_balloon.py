"""Who is asked for chunks when some are lacking, in which order, and how far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ellm.memory.balloon import Balloon, Cost, Source
from ellm.memory.driver import Chunk
from ellm.memory.drivers.null import NullDriver
from ellm.memory.pool import ChunkPool

CHUNK = 4096
TOTAL = 20


@dataclass(eq=False)
class Holder:
    """Chunks of `owner` that it can do without, and a diary of what was asked."""

    pool: ChunkPool
    diary: list[tuple[str, int]]
    name: str
    cost: Cost = Cost.WARM
    used: float = 0.0
    group: str = ""
    chunks: list[Chunk] = field(default_factory=list)
    says: int | None = None

    @property
    def owner(self) -> str:
        return f"{self.group}/{self.name}" if self.group else self.name

    def idle(self) -> int:
        return len(self.chunks) if self.says is None else self.says

    def release(self, count: int) -> int:
        self.diary.append((self.name, count))
        given, self.chunks = self.chunks[:count], self.chunks[count:]
        self.pool.drop(self.owner, given)
        return len(given)


class Scene:
    """A pool of 20 chunks, a balloon, and holders of some of them."""

    def __init__(self) -> None:
        self.pool = ChunkPool(NullDriver(2 * TOTAL * CHUNK, CHUNK), TOTAL * CHUNK)
        self.balloon = Balloon(self.pool)
        self.diary: list[tuple[str, int]] = []

    def holder(
        self, name: str, count: int, cost: Cost = Cost.WARM, used: float = 0.0, group: str = ""
    ) -> Holder:
        holder = Holder(self.pool, self.diary, name, cost, used, group)
        if group:
            self.pool.ledger.join(holder.owner, group)
        holder.chunks = self.pool.take(holder.owner, count) or []
        assert len(holder.chunks) == count
        self.balloon.register(holder)
        return holder

    def asked(self) -> list[str]:
        """Who was asked, each once."""
        return list(dict.fromkeys(name for name, _ in self.diary))

    def room(self, group: str = "", most: Cost = Cost.MODEL, **wants: int) -> bool:
        owners = {f"{group}/{name}" if group else name: count for name, count in wants.items()}
        for owner in owners if group else ():
            if not self.pool.held(owner):
                self.pool.ledger.join(owner, group)
        return self.balloon.make_room(lambda: owners, group, most)


def test_nobody_is_asked_while_nothing_lacks() -> None:
    scene = Scene()
    scene.holder("warm", 15)
    assert scene.room(kv=5)
    assert scene.room(kv=3, activations=2)
    assert scene.balloon.shrink()
    assert scene.diary == []


def test_the_cheapest_is_asked_first_and_then_the_longest_unused() -> None:
    scene = Scene()
    scene.holder("prefix", 4, Cost.PREFIX, used=1)
    scene.holder("late", 4, Cost.WARM, used=9)
    scene.holder("early", 4, Cost.WARM, used=2)
    scene.holder("workspace", 4, Cost.WORKSPACE, used=50)
    assert (scene.balloon.idle(), scene.balloon.idle_at(Cost.WARM)) == (16, 8)
    assert scene.room(kv=17)
    assert scene.asked() == ["workspace", "early", "late", "prefix"]
    assert scene.diary[0] == ("workspace", 13)
    assert scene.diary[-1] == ("prefix", 1)
    assert scene.pool.available("kv") == 17


def test_what_costs_too_much_is_left_alone() -> None:
    scene = Scene()
    scene.holder("warm", 4, Cost.WARM)
    scene.holder("prefix", 8, Cost.PREFIX)
    assert not scene.room(most=Cost.WARM, kv=13)
    assert scene.asked() == ["warm"]
    assert scene.pool.held("prefix") == 8
    assert scene.room(kv=13)
    assert scene.pool.held("prefix") == 7


def test_a_source_that_has_gone_is_not_asked() -> None:
    scene = Scene()
    gone = scene.holder("gone", 20)
    scene.balloon.unregister(gone)
    assert not scene.room(kv=1)
    assert (scene.diary, scene.balloon.idle()) == ([], 0)


def test_what_is_wanted_is_asked_again_after_every_release() -> None:
    """A newcomer may need fewer chunks once a range has been given back, or more."""
    scene = Scene()
    first, second = scene.holder("first", 8), scene.holder("second", 8, used=1)
    third = scene.holder("third", 4, used=2)

    def wants() -> Mapping[str, int]:
        return {"kv": 8 if first.chunks else 10}

    told: list[tuple[str, Mapping[str, int], int]] = []

    def moved(source: Source, wanted: Mapping[str, int], count: int) -> None:
        told.append((source.name, wanted, count))

    assert scene.balloon.make_room(wants, moved=moved)
    assert told == [("first", {"kv": 10}, 8), ("second", {"kv": 10}, 2)]
    assert (len(second.chunks), len(third.chunks)) == (6, 4)


@pytest.mark.parametrize("says", [0, 100])
def test_what_a_source_says_it_has_decides_nothing(says: int) -> None:
    scene = Scene()
    scene.holder("empty", 0).says = 50
    scene.holder("full", 20, used=1).says = says
    assert scene.room(kv=6)
    assert scene.asked() == ["empty", "full"]
    assert not scene.room(kv=21)


def test_another_group_keeps_its_floor() -> None:
    scene = Scene()
    rich = scene.holder("kv", 12, group="rich")
    scene.pool.ledger.limit_group("rich", floor=7)
    scene.holder("kv", 8, Cost.PREFIX, group="poor")
    assert not scene.room("poor", Cost.WARM, activations=6)
    assert scene.diary == [("kv", 5)]
    assert len(rich.chunks) == 7
    assert scene.pool.available("poor/activations") == 5
    # Its own group may be asked for more than is beyond the floor.
    assert scene.room("rich", Cost.WARM, activations=8)
    assert len(rich.chunks) == 4
    scene.pool.ledger.check()


def test_floors_of_another_groups_owners_are_kept_too() -> None:
    scene = Scene()
    rich = scene.holder("kv", 12, group="rich")
    scene.pool.ledger.limit("rich/kv", floor=10)
    scene.holder("other", 8, Cost.MODEL)
    assert scene.room(cache=2)
    assert not scene.room(most=Cost.WARM, cache=5)
    assert len(rich.chunks) == 10


def test_only_the_own_group_can_help_below_a_ceiling() -> None:
    scene = Scene()
    other = scene.holder("kv", 8, Cost.WORKSPACE, group="other")
    own = scene.holder("kv", 6, group="own")
    scene.pool.ledger.limit_group("own", ceiling=8)
    assert scene.room("own", activations=5)
    assert scene.diary == [("kv", 3)]
    assert (len(other.chunks), len(own.chunks)) == (8, 3)
    scene.pool.ledger.limit("own/activations", ceiling=4)
    assert not scene.room("own", activations=5)
    assert (len(other.chunks), len(own.chunks)) == (8, 3), "nobody can help below its own ceiling"


def test_below_an_owners_own_ceiling_only_its_own_chunks_help() -> None:
    scene = Scene()
    workspace = scene.holder("activations", 4, Cost.WORKSPACE, group="own")
    rows = scene.holder("kv", 6, Cost.PREFIX, group="own")
    scene.pool.ledger.limit("own/kv", ceiling=8)
    assert scene.room("own", kv=5)
    assert scene.diary == [("kv", 3)]
    assert (len(workspace.chunks), len(rows.chunks)) == (4, 3)
    scene.diary.clear()
    assert scene.room("own", activations=11, kv=5), "what the pool lacks anyone may give"
    assert scene.diary == [("activations", 3)]


def test_a_lowered_budget_is_reached_by_asking_everyone() -> None:
    scene = Scene()
    warm = scene.holder("warm", 3, Cost.WARM)
    model = scene.holder("weights", 6, Cost.MODEL, group="model")
    scene.pool.ledger.limit_group("model", floor=2)
    assert scene.pool.take("kv", 9) is not None
    scene.pool.resize(16)
    assert scene.balloon.shrink()
    assert (len(warm.chunks), len(model.chunks), scene.pool.free) == (1, 6, 0)
    scene.pool.resize(12)
    assert scene.balloon.shrink()
    assert (len(warm.chunks), len(model.chunks), scene.pool.free) == (0, 3, 0)
    scene.pool.resize(10)
    assert not scene.balloon.shrink()
    assert (len(model.chunks), scene.pool.free) == (2, -1)
    assert scene.pool.warm == 0
    scene.pool.check()


@settings(max_examples=60)
@given(
    holders=st.lists(
        st.tuples(
            st.sampled_from(list(Cost)),
            st.integers(0, 3),
            st.integers(0, 6),
            st.sampled_from(["", "a", "b"]),
        ),
        max_size=5,
    ),
    floors=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    ceiling=st.none() | st.integers(6, 12),
    total=st.integers(12, TOTAL + 5),
    most=st.sampled_from(list(Cost)),
    want=st.integers(1, 12),
)
def test_all_is_tried_and_no_more_than_needed(
    holders: list[tuple[Cost, int, int, str]],
    floors: tuple[int, int],
    ceiling: int | None,
    total: int,
    most: Cost,
    want: int,
) -> None:
    scene = Scene()
    ledger = scene.pool.ledger
    made = [
        scene.holder(f"h{i}", min(count, scene.pool.free), cost, used, group)
        for i, (cost, used, count, group) in enumerate(holders)
    ]
    ledger.limit_group("a", floors[0], None if ceiling is None else max(ceiling, floors[0]))
    ledger.limit_group("b", floors[1])
    scene.pool.resize(total)
    kept = max(0, floors[1] - ledger.group_held("b"))
    possible = scene.room("a", most, new=want)
    assert possible == (ledger.available("a/new") >= want)
    asked = [next(h for h in made if h.name == name) for name in scene.asked()]
    assert all(h.cost <= most for h in asked)
    assert [(h.cost, h.used) for h in asked] == sorted((h.cost, h.used) for h in asked)
    assert max(0, floors[1] - ledger.group_held("b")) == kept
    if not possible:
        own = [h for h in made if h.group == "a" and h.cost <= most]
        others = [h for h in made if h.group != "a" and h.cost <= most]
        assert not any(h.chunks for h in own)
        if ledger.lacking({"a/new": want}).pool:
            spare = ledger.group_spare("b")
            assert not any(h.chunks for h in others if not h.group or spare)
    elif scene.diary:
        assert 0 in (ledger.available("a/new") - want, scene.pool.free - want)
    scene.pool.check()
