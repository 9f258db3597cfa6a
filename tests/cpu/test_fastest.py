"""Products of few rows: the faster way is kept, and was timed once, on cold matrices."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ellm.kernels.cuda import products
from ellm.kernels.cuda.fastest import Fastest
from ellm.kernels.cuda.products import Products, Way


def test_the_fastest_is_kept_of_each_kind() -> None:
    asked: list[str] = []
    seconds = {"a": 3.0, "b": 1.0, "c": 1.0}

    def time(way: str) -> float:
        asked.append(way)
        return seconds[way]

    fastest = Fastest[str]()
    assert fastest.known(1) is None
    assert fastest.measure(1, ("a", "b", "c"), time) == "b"
    assert asked == ["a", "b", "c"]
    seconds["a"] = 0.0
    assert fastest.known(1) == "b"
    assert fastest.measure(2, ("a", "b"), time) == "a"


class Clock:
    """Takes so many seconds for each product of each way, and counts what it was asked."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self.passed = 0.0
        self.timings = 0
        self.done: list[tuple[str, int]] = []

    def way(self, name: str) -> Way:
        def multiply(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
            self.passed += self.seconds[name]
            self.done.append((name, weight.data_ptr()))
            products.whole(x, weight, bias, out)

        return multiply

    def time(self, work: Callable[[], None]) -> float:
        self.timings += 1
        before = self.passed
        work()
        return self.passed - before


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock({"whole": 2.0, "few": 1.0, "one": 3.0})
    ways = tuple(clock.way(name) for name in ("whole", "few"))
    monkeypatch.setattr(products, "SOME", ways)
    monkeypatch.setattr(products, "SINGLE", (*ways, clock.way("one")))
    return clock


def test_each_kind_of_product_is_timed_once(clock: Clock) -> None:
    mine, weights = Products(Fastest()), [torch.randn(5, 7) for _ in range(3)]
    for weight in weights:
        mine.note(weight)
    for rows in (1, 3, 4, 3, 1, 16):
        x, out = torch.randn(rows, 7), torch.empty(rows, 5)
        mine.linear(x, weights[0], None, out, clock.time)
        assert clock.done[-1] == ("few", weights[0].data_ptr())
        assert torch.equal(out, x @ weights[0].t())
    # One row by three ways, 4 and 16 by two; 3 are as 4.
    assert clock.timings == 3 + 2 + 2
    assert clock.done[:3] == [("whole", weight.data_ptr()) for weight in weights]
    other = Products(mine._fastest)
    other.linear(x, weights[1], None, out, clock.time)
    assert clock.timings == 7, "another model of the process measured again"


def test_many_rows_are_not_timed(clock: Clock) -> None:
    x, weight, out = torch.randn(17, 7), torch.randn(5, 7), torch.empty(17, 5)
    Products(Fastest()).linear(x, weight, torch.ones(5), out, clock.time)
    assert clock.timings == 0
    assert torch.equal(out, torch.addmm(torch.ones(5), x, weight.t()))


def test_matrices_that_nobody_has_are_not_read(clock: Clock) -> None:
    mine, gone, kept = Products(Fastest()), torch.randn(5, 7), torch.randn(5, 7)
    mine.note(gone)
    place = gone.data_ptr()
    del gone
    mine.linear(torch.randn(2, 7), kept, None, torch.empty(2, 5), clock.time)
    assert {where for _, where in clock.done} == {kept.data_ptr()}
    assert place != kept.data_ptr()
