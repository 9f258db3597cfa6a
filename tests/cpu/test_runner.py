"""What a runner answers to a plan: tokens, scores and their order, in blocks or at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from device_half import GREEDY, Device, save_random

from ellm.core.plan import SamplingTask, SequenceStep, StepPlan, StepShape, awaited
from ellm.runtime import runner

PROMPTS = {0: [3, 1, 4, 1, 5, 9, 2], 1: [6], 2: [5, 3, 5, 8, 9], 3: [7, 9, 3]}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("llama")
    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=32, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    save_random(transformers.LlamaForCausalLM(config), place)
    return place


def plan(device: Device) -> StepPlan:
    """Sequence 0 scores and samples, 1 samples, 2 is only computed, 3 scores a part."""
    wants = {0: (True, 6), 1: (True, 0), 2: (False, 0), 3: (False, 2)}
    steps, shape = [], StepShape()
    for sequence, tokens in PROMPTS.items():
        samples, scored = wants[sequence]
        task = SamplingTask(GREEDY, tokens, len(tokens), 0) if samples else None
        table = device.arena.table(sequence, len(tokens))
        targets = tuple(tokens[1 : 1 + scored])
        steps.append(SequenceStep(sequence, tokens, 0, table, task, targets, 2))
        gathers = len(table.starts) > 1
        shape = shape.with_sequence(len(tokens), len(tokens), scored + samples, gathers)
    return StepPlan(tuple(steps), shape)


@pytest.mark.parametrize("block", [1, 2, 64])
def test_answers_stand_where_they_were_asked_for(
    directory: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(directory, samples=True)
    wanted = Device(directory).logits([(key, tokens, 0) for key, tokens in PROMPTS.items()])
    monkeypatch.setattr(runner, "LOGIT_BLOCK", block)
    step = plan(device)
    results = device.runner.launch(step).result().sequences
    assert [result.seq_id for result in results] == list(PROMPTS)
    assert device.workspace.peak <= device.runner.activation_bytes(step.shape)
    for result, asked, logits in zip(results, step.steps, wanted, strict=True):
        best = int(logits[-1].argmax()) if asked.task else None
        assert result.token == best
        assert [score.token for score in result.scores] == list(asked.targets)
        logprobs = torch.log_softmax(logits.double(), -1)
        for score, row in zip(result.scores, logprobs, strict=False):
            assert score.logprob == pytest.approx(float(row[score.token]), abs=1e-4)
            assert score.top[0][0] == int(row.argmax())


def test_blocks_need_less_room(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The logits of a long prompt that is scored never exist all at once."""
    # Few tokens, or this model's layers would need more than its small vocabulary.
    shape = StepShape(tokens=20, logit_rows=2000, longest_query=20, longest_kv=20)
    bounded = Device(directory, samples=True).runner.activation_bytes(shape)
    monkeypatch.setattr(runner, "LOGIT_BLOCK", 4000)
    whole = Device(directory, samples=True).runner.activation_bytes(shape)
    assert whole - bounded >= (2000 - 64) * 61 * 4


def test_nothing_outside_the_tables_is_written(directory: Path) -> None:
    device = Device(directory, samples=True, page=4)
    device.runner.launch(plan(device))
    arena = device.arena.arena
    named = {
        device.arena.table(key, len(tokens)).row(token)
        for key, tokens in PROMPTS.items()
        for token in range(len(tokens))
    }
    rows = device.arena.memory.view(arena.rows, arena.row_bytes)
    written = {row for row in range(arena.rows) if not bool((rows[row] == 0xFF).all())}
    assert written == named


def test_a_step_is_tried_again_when_the_device_was_full(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What libraries take for themselves is in no budget; idle memory is given back for it."""
    device = Device(directory, samples=True)
    wanted = device.runner.launch(plan(device)).result()
    calls: list[str] = []
    sample = device.runner._sampler.sample

    def full(*args: Any) -> None:
        calls.append("sample")
        if calls.count("sample") < 2:
            raise torch.OutOfMemoryError
        sample(*args)

    monkeypatch.setattr(device.runner._sampler, "sample", full)
    monkeypatch.setattr(device.runner, "_on_shortage", lambda: calls.append("give back"))
    assert device.runner.launch(plan(device)).result() == wanted
    assert calls == ["sample", "give back", "sample"]
    calls.clear()
    monkeypatch.setattr(device.runner, "_on_shortage", lambda: calls.clear())
    with pytest.raises(torch.OutOfMemoryError):
        device.runner.launch(plan(device))


@pytest.mark.parametrize("page", [0, 4])
def test_a_step_takes_tokens_that_the_host_has_not_seen(directory: Path, page: int) -> None:
    """Launched one behind the other, and only then asked: as if each had been waited for."""
    device = Device(directory, samples=True, ahead=True, page=page, sequences=3)
    texts = {0: [3, 1, 4, 1, 5], 1: [6, 2], 2: [9]}
    flights, told = [], []
    for turn in range(4):
        parts = []
        # In another order each time, and the last of a longer run of tokens too.
        for place, key in enumerate(sorted(texts, reverse=turn % 2 == 0)):
            tokens = texts[key]
            start = 0 if turn == 0 or (turn == 2 and key == 1) else len(tokens) - 1
            parts.append((key, tokens[start:], start))
            texts[key] = [*tokens, awaited(place)]
        flights.append(device.runner.launch(device.plan(parts)))
        if turn:
            told.append(tuple(one.token for one in flights[turn - 1].result().sequences))
            for key, tokens in texts.items():
                place = sorted(texts, reverse=turn % 2 == 1).index(key)
                tokens[-2] = told[-1][place]
    device = Device(directory, samples=True, page=page, sequences=3)
    texts = {0: [3, 1, 4, 1, 5], 1: [6, 2], 2: [9]}
    for turn in range(3):
        keys = sorted(texts, reverse=turn % 2 == 0)
        parts = [(key, texts[key], 0) for key in keys]
        answers = device.runner.launch(device.plan(parts)).result().sequences
        assert told[turn] == tuple(one.token for one in answers)
        for key, one in zip(keys, answers, strict=True):
            texts[key] = [*texts[key], one.token]


def test_a_step_that_is_tried_again_takes_the_tokens_it_awaits(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it had chosen its own already, and the step before had not landed."""

    def told(fails: int | None) -> list[list[int | None]]:
        device = Device(directory, samples=True, ahead=True, sequences=2)
        report, left = device.runner._sampler.report, fails

        def full(*args: Any) -> Any:
            nonlocal left
            if left is not None:
                left -= 1
                if left == 0:
                    raise torch.OutOfMemoryError
            return report(*args)

        monkeypatch.setattr(device.runner._sampler, "report", full)
        params = replace(GREEDY, logprobs=1)
        texts, flights = {0: [3, 1, 4], 1: [6, 2]}, []
        for turn in range(4):
            steps, shape = [], StepShape()
            for place, (key, tokens) in enumerate(texts.items()):
                start = 0 if turn == 0 else len(tokens) - 1
                task = SamplingTask(params, tokens, len(tokens), 0)
                table = device.arena.table(key, len(tokens))
                steps.append(SequenceStep(key, tokens[start:], start, table, task))
                shape = shape.with_sequence(len(tokens) - start, len(tokens), 1, False)
                texts[key] = [*tokens, awaited(place)]
            flights.append(device.runner.launch(StepPlan(tuple(steps), shape)))
        return [[one.token for one in flight.result().sequences] for flight in flights]

    assert told(fails=2) == told(fails=None)
