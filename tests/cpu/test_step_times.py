"""Step times survive the process that measured them, and are believed only where they belong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ellm.core.load import StepLoad
from ellm.llm.args import EngineArgs
from ellm.llm.blueprint import Blueprint
from ellm.llm.step_times import WORTH_KEEPING, StepTimes


@pytest.fixture
def blueprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Blueprint:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return Blueprint.draw(EngineArgs(model="ellm-draft"))


def learn(times: StepTimes, steps: int) -> None:
    for number in range(steps):
        load = StepLoad().with_sequence(1 + number % 50, 100 + number)
        times.cost.observe(load, 0.001 + 1e-5 * load.tokens)


def test_what_was_learned_is_there_again(blueprint: Blueprint) -> None:
    first = StepTimes(blueprint, "cpu", "some")
    learn(first, WORTH_KEEPING)
    first.save()
    load = StepLoad().with_sequence(20, 200)
    again = StepTimes(blueprint, "cpu", "some")
    assert again.cost.observations == WORTH_KEEPING
    assert again.cost.predict(load) == first.cost.predict(load)


def test_little_is_not_kept(blueprint: Blueprint, tmp_path: Path) -> None:
    times = StepTimes(blueprint, "cpu", "some")
    learn(times, WORTH_KEEPING - 1)
    times.save()
    assert not list(tmp_path.rglob("*.json"))


def test_another_dtype_other_threads_and_other_kernels_learn_for_themselves(
    blueprint: Blueprint,
) -> None:
    times = StepTimes(blueprint, "cpu", "some")
    learn(times, WORTH_KEEPING)
    times.save()
    other = replace(blueprint, dtype=torch.float32)
    assert StepTimes(other, "cpu", "some").cost.observations == 0
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    assert StepTimes(blueprint, "cpu", "some").cost.observations == 0
    torch.set_num_threads(threads)
    assert StepTimes(blueprint, "cpu", "others").cost.observations == 0
    assert StepTimes(blueprint, "cpu", "some").cost.observations == WORTH_KEEPING
