"""Groups of owners in the ledger, against books that are added up afresh each time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ellm.core.errors import BudgetError
from ellm.memory.ledger import Lack, Ledger

TOTAL = 20
# Two models, and two owners that belong to nobody.
HOMES = {"a/kv": "a", "a/act": "a", "b/kv": "b", "b/act": "b", "cache": None, "other": None}
GROUPS = ("a", "b")
owners = st.sampled_from(sorted(HOMES))
counts = st.integers(0, TOTAL // 2)
limits = st.tuples(st.sampled_from([*sorted(HOMES), *GROUPS]), counts, st.none() | counts)


def members(group: str | None) -> list[str]:
    return [owner for owner, home in HOMES.items() if home == group]


@dataclass
class Books:
    """What there is to know, and nothing that can be worked out from it."""

    total: int = TOTAL
    held: dict[str, int] = field(default_factory=lambda: dict.fromkeys(HOMES, 0))
    floor: dict[str, int] = field(default_factory=dict)
    ceiling: dict[str, int | None] = field(default_factory=dict)

    @property
    def free(self) -> int:
        return self.total - sum(self.held.values())

    def held_by(self, name: str) -> int:
        """Of an owner, or of a group."""
        return sum(self.held[owner] for owner in HOMES if name in (owner, HOMES[owner]))

    def unmet(self, name: str) -> int:
        return max(0, self.floor.get(name, 0) - self.held_by(name))

    def room(self, name: str | None) -> int:
        ceiling = self.ceiling.get(name) if name else None
        return 99 if name is None or ceiling is None else ceiling - self.held_by(name)

    def promised(self, owner: str | None, home: str | None) -> int:
        """Free chunks that others than `owner`, who is at `home`, have a right to."""
        near = {*members(None), *members(home)} - {owner}
        kept = sum(self.unmet(other) for other in near)
        for group in set(GROUPS) - {home}:
            kept += max(self.unmet(group), sum(self.unmet(other) for other in members(group)))
        return kept

    def available(self, owner: str) -> int:
        siblings = set(members(HOMES[owner])) - {owner}
        room = self.room(HOMES[owner]) - sum(self.unmet(other) for other in siblings)
        return max(0, min(self.free - self.promised(owner, HOMES[owner]), self.room(owner), room))

    def floors(self) -> int:
        """Chunks promised in all: unmet if nobody held anything."""
        return Books(floor=self.floor).promised(None, None)

    def possible(self, wants: Mapping[str, int]) -> bool:
        """Whether everybody can be served, whoever comes first."""
        for order in permutations(wants):
            world = Books(self.total, dict(self.held), self.floor, self.ceiling)
            for owner in order:
                if wants[owner] > world.available(owner):
                    return False
                world.held[owner] += wants[owner]
        return True


def agree(ledger: Ledger, books: Books) -> None:
    ledger.check()
    assert (ledger.total, ledger.free) == (books.total, books.free)
    assert {o: n for o, n in ledger.holdings().items() if n} == {
        o: n for o, n in books.held.items() if n
    }
    for owner in HOMES:
        assert ledger.held(owner) == books.held[owner]
        assert ledger.available(owner) == books.available(owner), owner
        # Everybody else at the floor, and nothing more.
        low = {other: books.floor.get(other, 0) for other in HOMES} | {owner: 0}
        alone = Books(books.total, low, books.floor, books.ceiling)
        assert max(0, ledger.reach(owner)) == alone.available(owner), owner
    for group in GROUPS:
        held = books.held_by(group)
        floor = max(books.floor.get(group, 0), sum(books.floor.get(o, 0) for o in members(group)))
        assert (ledger.group_held(group), ledger.group_spare(group)) == (held, max(0, held - floor))
        others = {name: n for name, n in books.floor.items() if not name.startswith(group)}
        most = books.total - Books(floor=others).promised(None, None)
        ceiling = books.ceiling.get(group)
        assert ledger.group_reach(group) == (most if ceiling is None else min(most, ceiling))


class Play:
    """A ledger and its books, and what can happen to both."""

    def __init__(self) -> None:
        self.ledger, self.books = Ledger(TOTAL), Books()
        for owner, home in HOMES.items():
            if home is not None:
                self.ledger.join(owner, home)

    def limit(self, name: str, floor: int, ceiling: int | None) -> None:
        call = self.ledger.limit_group if name in GROUPS else self.ledger.limit
        floors = {**self.books.floor, name: floor}
        asked = Books(floor=floors).floors()
        home = name if name in GROUPS else HOMES[name]
        most = {**self.books.ceiling, name: ceiling}.get(home or "")
        crowded = most is not None and sum(floors.get(o, 0) for o in members(home)) > most
        low = ceiling is not None and ceiling < floor
        try:
            call(name, floor, ceiling)
        except BudgetError:
            assert asked > self.books.total or low or crowded
        else:
            assert asked <= self.books.total
            assert not low
            assert not crowded
            self.books.floor[name], self.books.ceiling[name] = floor, ceiling

    def charge(self, owner: str, count: int) -> None:
        count = min(count, self.books.available(owner))
        self.ledger.charge(owner, count)
        self.books.held[owner] += count

    def refund(self, owner: str, count: int) -> None:
        count = min(count, self.books.held[owner])
        self.ledger.refund(owner, count)
        self.books.held[owner] -= count

    def resize(self, total: int) -> None:
        try:
            self.ledger.resize(total)
        except BudgetError:
            assert self.books.floors() > total
        else:
            assert self.books.floors() <= total
            self.books.total = total


@settings(max_examples=40)
@given(data=st.data())
def test_limits_of_owners_and_groups_are_those_of_the_books(data: st.DataObject) -> None:
    play = Play()
    for _ in range(data.draw(st.integers(1, 10))):
        what = data.draw(st.sampled_from(["limit", "charge", "charge", "refund", "resize"]))
        if what == "limit":
            play.limit(*data.draw(limits))
        elif what == "resize":
            play.resize(data.draw(st.integers(1, 2 * TOTAL)))
        else:
            getattr(play, what)(data.draw(owners), data.draw(counts))
        agree(play.ledger, play.books)


@settings(max_examples=50)
@given(
    first=st.lists(limits, max_size=3),
    charges=st.lists(st.tuples(owners, counts), max_size=5),
    then=st.lists(limits, max_size=1),
    total=st.integers(TOTAL // 2, TOTAL),
    group=st.sampled_from([*GROUPS, None]),
    one=counts,
    two=counts,
)
def test_what_lacks_is_exactly_what_must_be_given_back(
    first: list[tuple[str, int, int | None]],
    charges: list[tuple[str, int]],
    then: list[tuple[str, int, int | None]],
    total: int,
    group: str | None,
    one: int,
    two: int,
) -> None:
    play = Play()
    for args in first:
        play.limit(*args)
    for owner, count in charges:
        play.charge(owner, count)
    for args in then:
        play.limit(*args)
    play.resize(total)
    ledger, books = play.ledger, play.books
    wants = dict(zip(members(group), (one, two), strict=True))
    lack = ledger.lacking(wants)
    if not one + two:
        assert lack == Lack(max(0, books.promised(None, None) - books.free))
        return
    if not lack:
        assert books.possible(wants)
    # A group's ceiling leaves room for what its owners lack to their floors.
    whole = sum(max(count, books.unmet(owner)) for owner, count in wants.items())
    over = {owner: count - books.room(owner) for owner, count in wants.items() if count}
    assert lack.owners == {owner: count for owner, count in over.items() if count > 0}
    assert lack.group == max(0, whole - books.room(group))
    if lack.group or lack.owners:
        return
    # So many chunks more, and not one less, are enough.
    ledger.resize(books.total + lack.pool)
    assert not ledger.lacking(wants)
    if lack:
        assert not books.possible(wants) or books.free < books.promised(None, None)
        if books.floors() < books.total + lack.pool:
            ledger.resize(books.total + lack.pool - 1)
            assert ledger.lacking(wants) == Lack(1)


def test_a_group_floor_binds_others_and_its_own_members_do_not_wait_for_it() -> None:
    ledger = Ledger(10)
    for owner in ("a/kv", "a/act"):
        ledger.join(owner, "a")
    ledger.limit_group("a", floor=6, ceiling=8)
    assert [ledger.available(owner) for owner in ("a/kv", "a/act", "cache")] == [8, 8, 4]
    ledger.limit("a/act", floor=2)
    assert [ledger.available(owner) for owner in ("a/kv", "a/act", "cache")] == [6, 8, 4]
    ledger.charge("a/kv", 6)
    assert [ledger.available(owner) for owner in ("a/kv", "a/act", "cache")] == [0, 2, 2]
    assert (ledger.reach("a/kv"), ledger.reach("a/act"), ledger.group_reach("a")) == (6, 8, 8)


def test_an_owner_may_leave_and_join_elsewhere_once_it_holds_nothing() -> None:
    ledger = Ledger(10)
    ledger.join("kv", "a")
    ledger.limit_group("a", floor=4, ceiling=5)
    ledger.limit("kv", floor=3)
    ledger.charge("kv", 5)
    with pytest.raises(AssertionError):
        ledger.leave("kv")
    with pytest.raises(AssertionError):
        ledger.join("kv", "b")
    ledger.refund("kv", 5)
    ledger.leave("kv")
    assert (ledger.available("kv"), ledger.available("cache")) == (10, 10)
    assert "kv" not in ledger.holdings()
    ledger.join("kv", "b")
    ledger.charge("kv", 7)
    assert (ledger.group_held("a"), ledger.group_held("b")) == (0, 7)
    ledger.check()


def test_a_group_keeps_its_limits_while_others_come_and_go() -> None:
    ledger = Ledger(10)
    ledger.limit_group("b", floor=6)
    ledger.join("kv", "a")
    ledger.leave("kv")
    assert ledger.available("kv") == 4
    ledger.leave("never seen")
    ledger.join("b/kv", "b")
    assert (ledger.available("b/kv"), ledger.available("kv")) == (10, 4)
