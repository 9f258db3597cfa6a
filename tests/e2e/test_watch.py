"""What the log tells an operator, and what it does not."""

from __future__ import annotations

import logging

import pytest
from scripted import ScriptedLLM
from scripted_fleet import Member, ScriptedFleet

from ellm.obs.models import ModelState
from ellm.obs.snapshot import TierSnapshot
from ellm.obs.tiers import TierStats
from ellm.server.watch import Watch


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "ellm.server.watch")
    return caplog


def said(log: pytest.LogCaptureFixture) -> list[str]:
    """The lines since the last call."""
    texts = list(log.messages)
    log.clear()
    return texts


def test_nothing_changes_and_nothing_is_said(log: pytest.LogCaptureFixture) -> None:
    watch = Watch(ScriptedFleet.of("alpha", "beta"))
    watch.look()
    assert said(log) == []


def test_sleeping_and_waking(log: pytest.LogCaptureFixture) -> None:
    fleet = ScriptedFleet.of("alpha", "beta")
    watch = Watch(fleet)
    beta = fleet.members["beta"]
    beta.state, beta.chunks = ModelState.ASLEEP, 0
    watch.look()
    assert said(log) == ["beta fell asleep and gave back 640 KiB"]
    beta.state = ModelState.WAKING
    watch.look()
    beta.state, beta.chunks, beta.wake_seconds = ModelState.AWAKE, 10, 0.0125
    watch.look()
    assert said(log) == ["beta woke in 12 ms"]
    beta.wake_seconds = 0.5  # it slept and woke between two looks
    watch.look()
    assert said(log) == ["beta woke in 500 ms"]


def test_coming_and_going(log: pytest.LogCaptureFixture) -> None:
    fleet = ScriptedFleet.of("alpha")
    watch = Watch(fleet)
    fleet.unready = "gamma"
    watch.look()
    fleet.unready = None
    fleet.members["gamma"] = Member(ScriptedLLM(model_name="gamma"))
    watch.look()
    assert said(log) == ["gamma is loading", "gamma is awake"]
    fleet.members["gamma"].state = ModelState.LEAVING
    watch.look()
    del fleet.members["gamma"]
    watch.look()
    leaving, gone = said(log)
    assert "takes no more requests" in leaving
    assert gone == "gamma was unloaded"


def test_the_budget(log: pytest.LogCaptureFixture) -> None:
    fleet = ScriptedFleet.of("alpha")
    watch = Watch(fleet)
    fleet.total = 50
    watch.look()
    assert said(log) == ["the memory budget changed from 6.25 MiB to 3.12 MiB"]


def test_a_full_tier_is_told_once(log: pytest.LogCaptureFixture) -> None:
    fleet = ScriptedFleet.of("alpha")
    watch = Watch(fleet)
    for refusals in (0, 1, 1, 5):
        tier = TierSnapshot(capacity=1 << 20, used=0, stats=TierStats(refusals=refusals))
        fleet.members["alpha"].llm.tier = tier
        watch.look()
    [line] = said(log)
    assert line.startswith("alpha: the tier")
    assert "--kv-offloading-size" in line
