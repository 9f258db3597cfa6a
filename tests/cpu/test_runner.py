"""What a runner answers to a plan: tokens, scores and their order, in blocks or at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from device_half import GREEDY, Device, save_random

from ellm.core.plan import SamplingTask, SequenceStep, StepPlan, StepShape
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
