"""Compiled modules give the bits that eager ones give, whatever lane is slow."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ellm import aot
from ellm.aot import compiled
from ellm.aot.plan import Plan
from ellm.aot.replay import Lanes
from ellm.aot.streams import assign
from ellm.aot.trace import Trace
from ellm.core.errors import ConfigError


class Inception(nn.Module):
    """Four branches of one input, side by side."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        few = channels // 4
        self.one = nn.Conv2d(channels, few, 1)
        self.three = self._branch(channels, few, 3)
        self.five = self._branch(channels, few, 5)
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(channels, few, 1))
        self.norm = nn.BatchNorm2d(channels)

    @staticmethod
    def _branch(channels: int, few: int, size: int) -> nn.Module:
        last = nn.Conv2d(few, few, size, padding=size // 2)
        return nn.Sequential(nn.Conv2d(channels, few, 1), nn.ReLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.one(x), self.three(x), self.five(x), self.pool(x)]
        return torch.relu(self.norm(torch.cat(branches, 1)) + x)


class Cell(nn.Module):
    """As architecture search finds them: every node adds two transformed earlier ones."""

    def __init__(self, width: int = 24, nodes: int = 5) -> None:
        super().__init__()
        self.edges = nn.ModuleList(
            nn.ModuleList(nn.Linear(width, width) for _ in range(node + 2)) for node in range(nodes)
        )

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        made = [a, b]
        for edges in self.edges:
            parts = [torch.tanh(edge(x)) for edge, x in zip(edges, made, strict=True)]  # type: ignore[arg-type]
            made.append(sum(parts[1:], parts[0]))
        return torch.cat(made[2:], -1)


class Experts(nn.Module):
    """Dense mixture: every expert sees every token, a router weighs them."""

    def __init__(self, width: int = 16, count: int = 4) -> None:
        super().__init__()
        self.router = nn.Linear(width, count)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for _ in range(count)
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        weights = torch.softmax(self.router(x), -1)
        made = torch.stack([expert(x) for expert in self.experts], -1)
        return {"out": (made * weights[..., None, :]).sum(-1), "weights": weights}


class Counter(nn.Module):
    """Changes itself, and hands back what it was given."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))
        self.drop = nn.Dropout()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        same = self.drop(x * 2)
        return same + self.calls, same.view(-1)[::2]


BRANCHY: dict[str, tuple[nn.Module, tuple[Any, ...]]] = {
    "inception": (Inception(), (torch.randn(2, 16, 9, 9),)),
    "cell": (Cell(), (torch.randn(3, 24), torch.randn(3, 24))),
    "experts": (Experts(), (torch.randn(5, 16),)),
}


@pytest.fixture(params=BRANCHY)
def branchy(request: pytest.FixtureRequest) -> tuple[nn.Module, tuple[Any, ...]]:
    module, inputs = BRANCHY[request.param]
    return module.eval(), inputs


def same(found: Any, wanted: Any) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("lanes", [None, 2, 3])
@torch.no_grad()
def test_bits_are_those_of_eager(
    branchy: tuple[nn.Module, tuple[Any, ...]], lanes: int | None
) -> None:
    module, inputs = branchy
    compiled = aot.compile(module, inputs, lanes=lanes)
    for seed in range(4):
        torch.manual_seed(seed)
        fresh = tuple(torch.randn_like(one) for one in inputs)
        same(compiled(*fresh), module(*fresh))
    report = compiled.report
    assert report.streams >= report.concurrency >= 2
    assert report.arena_bytes > 0


@pytest.mark.parametrize("seed", range(5))
@torch.no_grad()
def test_order_does_not_rest_on_speed(
    branchy: tuple[nn.Module, tuple[Any, ...]], seed: int
) -> None:
    """Some operations are held up at random: whoever did not wait would read what is not there."""
    module, inputs = branchy
    trace = Trace.of(module, inputs, {})
    streams = assign(trace.graph())
    plan = Plan.of(trace, streams, inputs, {})
    rng = random.Random(seed)
    slow = {node for node in range(len(plan.steps)) if rng.random() < 0.3}
    replay = Lanes(plan, 4, lambda node: time.sleep(0.003 if node in slow else 0))
    for _ in range(2):
        slots = plan.begin(inputs, {})
        replay.run(slots)
        same(plan.end(slots), module(*inputs))


@torch.no_grad()
def test_a_module_may_change_itself_and_hand_back_what_it_was_given() -> None:
    module = Counter().eval()
    compiled = aot.compile(module, (torch.ones(4, 4),))
    assert float(module.calls) == 0, "compiling counted"
    first = compiled(torch.ones(4, 4))
    assert float(module.calls) == 1
    second = compiled(torch.full((4, 4), 3.0))
    same(first, (torch.full((4, 4), 3.0), torch.full((8,), 2.0)))
    same(second, (torch.full((4, 4), 8.0), torch.full((8,), 6.0)))


def test_other_shapes_are_refused_with_both_named() -> None:
    compiled = aot.compile(nn.Linear(4, 4), (torch.ones(2, 4),))
    with pytest.raises(ConfigError, match=r"\(2, 4\), not torch.float32 of \(3, 4\)"):
        compiled(torch.ones(3, 4))
    with pytest.raises(ConfigError, match="nesting"):
        compiled(torch.ones(2, 4), torch.ones(2, 4))


def test_what_depends_on_data_is_refused() -> None:
    class Fork(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ConfigError, match="cannot follow Fork"):
        aot.compile(Fork(), (torch.ones(2),))


@torch.no_grad()
def test_an_error_in_a_lane_reaches_the_caller() -> None:
    module, inputs = BRANCHY["cell"]
    trace = Trace.of(module, inputs, {})
    plan = Plan.of(trace, assign(trace.graph()), inputs, {})

    def fail(node: int) -> None:
        if node == len(plan.steps) // 2:
            raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        Lanes(plan, 3, fail).run(plan.begin(inputs, {}))


@pytest.mark.parametrize(("one", "several", "chosen"), [(3.0, 2.0, "all"), (2.0, 1.99, "one")])
def test_a_graph_has_several_streams_where_that_is_faster(
    one: float, several: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Timed:
        """A graph of which only the time is known."""

        def __init__(self, plan: Plan, args: object, kwargs: object) -> None:
            self.plan = plan

        def seconds(self) -> float:
            return one if self.plan.streams.count == 1 else several

    monkeypatch.setattr(compiled, "GraphReplay", Timed)
    module, inputs = BRANCHY["inception"]
    trace = Trace.of(module.eval(), inputs, {})
    streams = assign(trace.graph())
    graph, seconds = compiled._fastest_graph(trace, streams, inputs, {}, None)
    assert graph.plan.streams.count == (streams.count if chosen == "all" else 1)
    assert seconds == {1: one, streams.count: several}
    for lanes in (1, 4):
        graph, seconds = compiled._fastest_graph(trace, streams, inputs, {}, lanes)
        assert graph.plan.streams.count == (1 if lanes == 1 else streams.count)
        assert not seconds
