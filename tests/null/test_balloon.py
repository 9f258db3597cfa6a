"""The balloon asks the right owners, in the right order, for the right number of chunks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ellm.memory.balloon import Balloon
from ellm.memory.driver import Chunk
from ellm.memory.drivers.null import NullDriver
from ellm.memory.pool import ChunkPool


class Owners:
    """Owners that hold chunks and write down what they were asked for."""

    def __init__(self, total: int, **held: int) -> None:
        self.pool = ChunkPool(NullDriver(total * 4096, 4096), total * 4096)
        self.balloon = Balloon(self.pool)
        self.asked: list[tuple[str, int]] = []
        self.chunks: dict[str, list[Chunk]] = {}
        for owner, count in held.items():
            self.chunks[owner] = self.pool.take(owner, count) or []

    def register(self, owner: str, cost: float, at_most: int = 10**6) -> None:
        self.balloon.register(owner, self._giver(owner, at_most), cost)

    def _giver(self, owner: str, at_most: int) -> Callable[[int], int]:
        def give(count: int) -> int:
            self.asked.append((owner, count))
            given = self.chunks[owner][: min(count, at_most)]
            del self.chunks[owner][: len(given)]
            self.pool.drop(owner, given)
            return len(given)

        return give


def test_nobody_is_asked_while_there_is_room() -> None:
    owners = Owners(10, kv=6)
    owners.register("kv", 1)
    assert owners.balloon.make_room(4, "weights")
    assert owners.asked == []


def test_the_cheapest_give_first_and_only_what_lacks() -> None:
    owners = Owners(10, kv=5, cache=3, weights=1)
    owners.register("kv", cost=10)
    owners.register("cache", cost=1)
    assert owners.balloon.make_room(6, "activations")
    assert owners.asked == [("cache", 3), ("kv", 2)]
    assert owners.pool.available("activations") == 6
    owners.pool.check()


def test_an_owner_that_gives_little_is_followed_by_the_next() -> None:
    owners = Owners(10, kv=5, cache=5)
    owners.register("cache", cost=1, at_most=1)
    owners.register("kv", cost=2, at_most=1)
    assert not owners.balloon.make_room(4, "activations")
    assert owners.asked == [("cache", 4), ("kv", 3)]
    assert owners.balloon.make_room(4, "activations")


def test_an_owner_may_give_in_several_ways() -> None:
    owners = Owners(8, kv=8)
    owners.register("kv", cost=5)
    owners.register("kv", cost=1, at_most=2)
    assert owners.balloon.make_room(3, "activations")
    assert owners.asked == [("kv", 3), ("kv", 1)]


def test_the_one_who_asks_is_not_asked() -> None:
    owners = Owners(10, kv=8, cache=2)
    owners.register("kv", cost=1)
    owners.register("cache", cost=2)
    assert owners.balloon.make_room(2, "kv")
    assert owners.asked == [("cache", 2)]


def test_floors_are_kept() -> None:
    owners = Owners(10, kv=10)
    owners.pool.ledger.limit("kv", floor=7)
    owners.register("kv", cost=1)
    assert owners.balloon.make_room(3, "activations")
    assert owners.asked == [("kv", 3)]
    assert owners.pool.held("kv") == 7


@pytest.mark.parametrize("ceiling", [3, None])
def test_nobody_suffers_for_what_cannot_be(ceiling: int | None) -> None:
    owners = Owners(10, kv=10)
    owners.pool.ledger.limit("kv", floor=7 if ceiling is None else 0)
    owners.pool.ledger.limit("activations", ceiling=ceiling)
    owners.register("kv", cost=1)
    assert not owners.balloon.make_room(4, "activations")
    assert owners.asked == []
