"""Several simulated models over one pool: nobody is lost, nobody starves, the books balance."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from fleet_world import CHUNK, World
from hypothesis import given, settings
from hypothesis import strategies as st

from ellm.core.errors import (
    BudgetError,
    CheckpointError,
    ConfigError,
    ModelBusy,
    ModelNotFound,
    WakeFailed,
)
from ellm.core.objectives import Objectives
from ellm.core.request import Request
from ellm.core.sampling import SamplingParams
from ellm.obs.models import ModelState


def test_models_are_stepped_in_turn() -> None:
    world = World(200)
    world.load("a", 10)
    world.load("b", 10)
    for _ in range(4):
        world.ask("a", tokens=20)
    late = world.ask("b", tokens=20)
    for _ in range(20):
        world.step()
    assert 8 <= len(world.said[late]) <= 11
    world.settle()
    world.check_words()
    assert set(world.ended.values()) == {"length"}


def test_the_model_whose_objective_can_wait_least_is_stepped_first() -> None:
    world = World(300, tpot_slo=0.1)
    for name in "abc":
        world.load(name, 10)
        world.ask(name, tokens=30)
    for _ in range(9):
        world.step()
    for name in "cab":
        pressed = world.ask(name, tokens=1, wished=Objectives(ttft=0.015))
        world.step()
        assert world.ended[pressed] == "length"
    world.settle()
    for name in "abc":
        assert world.fleet.model(name).engine.goodput.outcomes == {"met": 2}
    world.check_words()


def test_a_model_whose_objectives_are_lost_is_not_starved() -> None:
    world = World(300, ttft_slo=0.05)
    world.load("a", 10)
    world.load("b", 10)
    late = world.ask("a")
    world.clock.advance(1.0)
    for _ in range(100):
        if len(world.fleet.model("b").engine.request_ids) < 3:
            world.ask("b", tokens=1)
        world.step()
    assert world.ended[late] == "length"
    assert world.fleet.model("b").engine.goodput.outcomes.keys() == {"met"}
    world.settle()
    world.check_words()


def test_an_idle_model_gives_all_back_and_is_woken_by_its_next_request() -> None:
    world = World(200, idle_release=30.0)
    world.load("a", 40)
    world.ask("a")
    world.settle()
    assert world.fleet.patience() == 0
    world.step()
    assert world.fleet.patience() == 0.5
    world.clock.advance(1.0)
    world.step()
    assert world.fleet.patience() == pytest.approx(29.0, abs=0.2)
    assert world.pool.driver.physical_bytes() == 40 * CHUNK
    world.clock.advance(30.0)
    world.step()
    assert world.fleet.states == {"a": ModelState.ASLEEP}
    assert world.pool.driver.physical_bytes() == 0
    assert world.fleet.patience() is None
    world.ask("a")
    world.step()
    assert world.fleet.states == {"a": ModelState.WAKING}
    assert not world.fleet.has_work
    world.clock.advance(0.3)
    world.settle()
    assert world.fleet.model("a").wake_seconds == pytest.approx(0.3)
    world.check_words()
    assert set(world.ended.values()) == {"length"}


def test_weights_go_below_and_come_back() -> None:
    world = World(200, below=100)
    world.load("a", 40)
    sleeping = world.fleet.sleep("a")
    world.step()
    assert world.fleet.states == {"a": ModelState.FALLING_ASLEEP}
    assert world.pool.held("a/weights") == 40
    world.clock.advance(1.0)
    world.step()
    assert sleeping.done()
    assert world.fleet.states == {"a": ModelState.ASLEEP}
    assert world.pool.free == world.pool.total
    world.ask("a")
    world.step()
    assert len(world.helper) == 0
    world.settle()
    world.check()
    assert world.house.tiers is not None
    assert world.house.tiers.used == 0
    assert world.ended == {"r0": "length"}


def test_who_is_asked_for_while_falling_asleep_is_awake_at_once() -> None:
    world = World(200, below=100)
    world.load("a", 40)
    sleeping = world.fleet.sleep("a")
    with pytest.raises(ModelBusy, match="falling asleep"):
        world.fleet.unload("a")
    world.ask("a", tokens=1)
    world.step()
    assert world.ended == {"r0": "length"}
    with pytest.raises(ModelBusy, match="meanwhile"):
        sleeping.result(0)
    world.check()


def test_who_is_short_of_memory_does_not_wait_for_a_copy() -> None:
    world = World(100, below=100)
    world.load("a", 60)
    world.load("b", 60)
    wanted = world.ask("a")
    sleeping = world.fleet.sleep("b")
    world.step()
    sleeping.result(0)
    assert world.fleet.states == {"a": ModelState.WAKING, "b": ModelState.ASLEEP}
    world.settle()
    assert world.ended[wanted] == "length"


def test_a_failed_wake_leaves_nothing_and_the_next_request_tries_again() -> None:
    world = World(200)
    world.load("a", 40)
    world.fleet.sleep("a")
    lost = [world.ask("a"), world.ask("a")]
    world.step()
    assert world.pool.held("a/weights") == 40
    world.helper.finish(CheckpointError("the file is gone"))
    world.step()
    for request_id in lost:
        assert isinstance(world.ended[request_id], WakeFailed)
        assert "the file is gone" in str(world.ended[request_id])
    assert world.fleet.states == {"a": ModelState.ASLEEP}
    assert world.pool.free == world.pool.total
    world.check()
    good = world.ask("a")
    world.settle()
    assert world.ended[good] == "length"


def test_a_wake_that_the_machine_has_no_memory_for_fails() -> None:
    world = World(200, machine=60)
    world.load("a", 40)
    world.load("b", 20)
    world.fleet.sleep("a")
    hog = world.pool.driver.create(30)
    waking = world.fleet.wake("a")
    with pytest.raises(WakeFailed, match="machine refuses"):
        waking.result(0)
    assert world.pool.held("a/weights") == 0
    world.pool.driver.destroy(hog)
    again = world.fleet.wake("a")
    world.helper.finish()
    again.result(0)
    assert world.fleet.states["a"] is ModelState.AWAKE


def test_a_busy_model_does_not_sleep() -> None:
    world = World(200)
    world.load("a", 10)
    world.ask("a")
    with pytest.raises(ModelBusy, match="1 requests"):
        world.fleet.sleep("a")
    with pytest.raises(ModelNotFound, match="served: a"):
        world.fleet.sleep("b")
    world.settle()
    world.fleet.sleep("a")
    world.fleet.sleep("a")
    assert world.pool.free == world.pool.total


def test_unloading_waits_for_what_runs_and_takes_nothing_new() -> None:
    world = World(200)
    world.load("a", 10)
    world.load("b", 10)
    running = world.ask("a")
    world.step()
    leaving = world.fleet.unload("a")
    assert world.fleet.unload("a") is leaving
    with pytest.raises(ModelNotFound, match="unloaded"):
        world.ask("a")
    assert not leaving.done()
    world.settle()
    world.step()
    leaving.result(0)
    assert world.ended[running] == "length"
    assert world.fleet.states == {"b": ModelState.AWAKE}
    assert not any(owner.startswith("a/") for owner in world.pool.snapshot().held)
    world.load("a", 12)
    world.fleet.unload("a")
    world.fleet.unload("b")
    world.step()
    world.check()
    assert world.pool.driver._mappings.spans == []


def test_a_request_that_arrives_too_late_is_told_so() -> None:
    world = World(200)
    world.load("a", 10)
    world.fleet.unload("a")
    request = Request(request_id="late", prompt=(1,), params=SamplingParams(max_tokens=1))
    world.fleet.enqueue("a", request)
    [refusal] = world.fleet.take_refusals()
    assert refusal.request_ids == ["late"]
    assert isinstance(refusal.error, ModelNotFound)


def test_a_failed_load_leaves_nothing() -> None:
    world = World(200)
    world.load("a", 10)
    used = world.pool.total - world.pool.free
    broken = world.begin("b", 10)
    assert world.fleet.states == {"a": ModelState.AWAKE, "b": ModelState.LOADING}
    with pytest.raises(ConfigError, match="already"):
        world.begin("b", 10)
    world.helper.finish(CheckpointError("truncated"))
    with pytest.raises(CheckpointError, match="truncated"):
        broken.result(0)
    with pytest.raises(BudgetError, match="take"):
        world.begin("b", 300).result(0)
    short = world.begin("b", 170, context=1024)
    while len(world.helper):
        world.helper.finish()
    with pytest.raises(BudgetError, match="context"):
        short.result(0)
    assert world.fleet.states == {"a": ModelState.AWAKE}
    assert world.pool.total - world.pool.free == used
    world.check()
    world.load("b", 10)


@pytest.mark.parametrize("below", [0, 300])
def test_models_that_do_not_fit_together_take_turns(below: int) -> None:
    world = World(100, below=below, step_seconds=0.1)
    world.load("a", 60)
    world.load("b", 60)
    assert world.fleet.states == {"a": ModelState.ASLEEP, "b": ModelState.AWAKE}
    for _ in range(16):
        world.ask("a", tokens=40)
        world.ask("b", tokens=40)
    turns = [world.fleet.states]
    for _ in range(20000):
        world.go_on()
        if world.fleet.states != turns[-1]:
            turns.append(world.fleet.states)
        if len(world.ended) == len(world.asked):
            break
    assert len(turns) > 6
    assert set(world.ended.values()) == {"length"}
    world.check_words()
    world.check()


def test_running_sequences_yield_to_a_model_that_is_wanted() -> None:
    world = World(100)
    world.load("a", 10)
    world.load("b", 50)
    world.fleet.sleep("b")
    for _ in range(4):
        world.ask("a", prompt=20, tokens=44)
    for _ in range(3):
        world.step()
    wanted = world.ask("b")
    world.settle()
    assert world.ended[wanted] == "length"
    assert set(world.ended.values()) == {"length"}
    world.check_words()


def test_a_floor_is_kept_for_a_model_that_sleeps() -> None:
    world = World(120)
    world.load("a", 20)
    world.load("b", 20, floor=60, ceiling=60)
    world.fleet.sleep("b")
    for _ in range(8):
        world.ask("a", prompt=20, tokens=44)
    for _ in range(40):
        world.step()
        assert world.pool.total - world.pool.free <= 60
    with pytest.raises(BudgetError, match="promised"):
        world.fleet.resize(50 * CHUNK)
    with pytest.raises(BudgetError, match="floor"):
        world.begin("c", 10, floor=70).result(0)
    wanted = world.ask("b")
    world.step()
    assert world.fleet.states["b"] is ModelState.WAKING
    world.settle()
    assert world.ended[wanted] == "length"


def test_the_budget_changes_while_models_run() -> None:
    world = World(200)
    world.load("a", 30)
    world.load("b", 30)
    for _ in range(4):
        world.ask("a", prompt=20, tokens=44)
        world.ask("b", prompt=20, tokens=44)
    for _ in range(8):
        world.step()
    with pytest.raises(BudgetError, match="context"):
        world.fleet.resize(40 * CHUNK)
    assert world.pool.total == 200
    world.fleet.resize(62 * CHUNK)
    assert world.pool.free >= 0
    assert world.pool.driver.physical_bytes() <= 62 * CHUNK
    world.check()
    for _ in range(20):
        world.step()
    world.fleet.resize(400 * CHUNK)
    world.settle(20000)
    assert set(world.ended.values()) == {"length"}
    world.check_words()


MODELS = {"a": 20, "b": 40, "c": 60}
OPERATIONS = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from("abc"), st.integers(1, 20), st.integers(1, 40)),
    st.tuples(st.just("ask"), st.sampled_from("abc"), st.integers(1, 20), st.integers(1, 40)),
    st.tuples(st.just("step"), st.integers(1, 12)),
    st.tuples(st.just("pass"), st.sampled_from([0.1, 1.0, 6.0])),
    st.tuples(st.just("finish"), st.booleans()),
    st.tuples(st.just("sleep"), st.sampled_from("abc")),
    st.tuples(st.just("wake"), st.sampled_from("abc")),
    st.tuples(st.just("reload"), st.sampled_from("abc")),
    st.tuples(st.just("abort"), st.integers(0, 50)),
    st.tuples(st.just("resize"), st.integers(90, 260)),
)


class Wild(World):
    """A world in which anything may be asked for at any time."""

    def do(self, operation: tuple[Any, ...]) -> None:
        """Whatever is refused on purpose may be."""
        name, *values = operation
        with contextlib.suppress(ModelBusy, ModelNotFound, BudgetError):
            getattr(self, f"do_{name}")(*values)

    def do_ask(self, name: str, prompt: int, tokens: int) -> None:
        self.ask(name, prompt, tokens)

    def do_step(self, count: int) -> None:
        for _ in range(count):
            self.step()

    def do_pass(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def do_finish(self, well: bool) -> None:
        if len(self.helper):
            self.helper.finish(None if well else CheckpointError("unreadable"))

    def do_sleep(self, name: str) -> None:
        self.fleet.sleep(name)

    def do_wake(self, name: str) -> None:
        self.fleet.wake(name)

    def do_reload(self, name: str) -> None:
        """Send a model away; bring it in if it is away."""
        if name in self.fleet.states:
            self.fleet.unload(name)
        else:
            self.begin(name, MODELS[name])

    def do_abort(self, number: int) -> None:
        for name in MODELS:
            self.fleet.abort(name, f"r{number}")

    def do_resize(self, total: int) -> None:
        self.fleet.resize(total * CHUNK)
        waking = [n for n, s in self.fleet.states.items() if s.value in ("waking", "loading")]
        assert self.pool.free >= 0 or waking

    def check_promises(self) -> None:
        """Others have left `c` what it was promised."""
        if self.pool.free >= 0 and "c" in self.fleet.states:
            lacks = max(0, self.floor - self.pool.ledger.group_held("c"))
            assert self.pool.free >= lacks, (self.pool.free, lacks)

    floor = 0


@settings(max_examples=60)
@given(
    st.lists(OPERATIONS, max_size=40),
    st.sampled_from([None, 5.0]),
    st.sampled_from([0, 85]),
    st.sampled_from([0, 70, 300]),
    st.booleans(),
)
def test_whatever_happens_nobody_is_lost(
    operations: list[tuple[Any, ...]],
    idle_release: float | None,
    floor: int,
    below: int,
    ahead: bool,
) -> None:
    world = Wild(200, idle_release=idle_release, below=below, ahead=ahead)
    for name, chunks in MODELS.items():
        world.load(name, chunks, floor=floor if name == "c" else 0)
    world.floor = floor
    for operation in operations:
        if operation == ("reload", "c"):
            continue  # would come back without its floor
        world.do(operation)
        world.check()
        world.check_promises()
    world.settle(20000)
    world.check()
    world.check_words()
    for how in world.ended.values():
        assert how in ("length", "abort") or isinstance(how, WakeFailed | ModelNotFound), how
    # One that waits for room to wake gets it when another sleeps, and sleeps in the next turn.
    for _ in MODELS:
        world.clock.advance(10.0)
        world.settle(20000)
        for name in [n for n, s in world.fleet.states.items() if s is ModelState.AWAKE]:
            world.fleet.sleep(name)
    world.clock.advance(10.0)
    world.step()
    assert world.pool.free == world.pool.total
