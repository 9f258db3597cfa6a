"""A device half assembled by hand: tiny Hugging Face models, an arena without a pool, a runner."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from backends import BACKENDS, NATIVE, computes
from torch import Tensor

from ellm.core.layers import KvArena, KvTable
from ellm.core.plan import SamplingTask, SequenceStep, StepPlan, StepShape
from ellm.core.result import SequenceResult, TokenLogprobs
from ellm.core.sampling import SamplingParams
from ellm.kernels.ops import Ops
from ellm.models.registry import describe
from ellm.models.spec import DecoderSpec
from ellm.runtime.checkpoint import Checkpoint
from ellm.runtime.loader import choose_dtype, load, weight_bytes
from ellm.runtime.runner import Runner
from ellm.runtime.sampler import Sampler
from ellm.runtime.workspace import Workspace

GREEDY = SamplingParams(temperature=0)


def ops_for(dtype: torch.dtype) -> Ops:
    """The fastest there is, as in the engine."""
    return next(
        (ops for name, ops in NATIVE.items() if computes(name, dtype)), BACKENDS["reference"]
    )


def aligned(nbytes: int) -> Tensor:
    """Bytes at an address that is a multiple of 64, poisoned: what nobody wrote is not a number."""
    raw = torch.full((nbytes + 64,), 0xFF, dtype=torch.uint8)
    skip = -raw.data_ptr() % 64
    return raw[skip : skip + nbytes]


class HandArena:
    """KV memory for a few sequences: one range each (`page` 0), or scattered pages."""

    def __init__(
        self,
        spec: DecoderSpec,
        itemsize: int,
        *,
        sequences: int = 4,
        tokens: int = 64,
        page: int = 0,
        groups: int = 1,
    ) -> None:
        layer = spec.layers(itemsize)[0]
        per_group = spec.num_layers // groups
        self._span = page or tokens
        pages = -(-tokens // self._span)
        slot_rows = self._span * groups
        slots = list(range(sequences * pages))
        random.Random(page).shuffle(slots)
        self._starts = [
            tuple(slot * slot_rows for slot in slots[index * pages : (index + 1) * pages])
            for index in range(sequences)
        ]
        row_bytes = per_group * layer.token_bytes
        self.memory = aligned(len(slots) * slot_rows * row_bytes)
        self.arena = KvArena(
            address=self.memory.data_ptr(),
            rows=len(slots) * slot_rows,
            row_bytes=row_bytes,
            group_rows=self._span,
            layers_per_group=per_group,
            layer=layer,
        )

    def table(self, sequence: int, length: int) -> KvTable:
        pages = -(-length // self._span)
        return KvTable(self._starts[sequence][:pages], self._span)

    @property
    def gathers(self) -> bool:
        return any(len(starts) > 1 for starts in self._starts)


class Recorder:
    """A greedy sampler that keeps every row of logits it sees, by the order of the calls."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = []

    def sample(self, logits: Tensor, tasks: Sequence[SamplingTask], out: Tensor) -> None:
        assert len(logits) == len(tasks) == len(out)
        self.rows.append(logits.float().clone())
        out.copy_(logits.argmax(-1))

    def report(
        self, logits: Tensor, tokens: Sequence[int], wanted: Sequence[int | None]
    ) -> list[TokenLogprobs | None]:
        raise AssertionError("nobody wants reports")

    def score(self, logits: Tensor, targets: Sequence[int], top: int) -> list[TokenLogprobs]:
        assert len(logits) == len(targets)
        self.rows.append(logits.float().clone())
        return [TokenLogprobs(target, 0.0, 1) for target in targets]


class Device:
    """A checkpoint directory, loaded and ready to take plans; `recorder` sees its logits."""

    def __init__(
        self,
        directory: Path,
        dtype: str = "auto",
        *,
        ops: Ops | None = None,
        samples: bool = False,
        ahead: bool = False,
        **layout: int,
    ) -> None:
        checkpoint = Checkpoint.open(directory)
        self.spec = describe(checkpoint.config)
        self.dtype = choose_dtype(dtype, self.spec, checkpoint)
        ops = ops or ops_for(self.dtype)
        self._weights = aligned(weight_bytes(self.spec, self.dtype))
        weights = load(checkpoint, self.spec, self.dtype, self._weights.data_ptr(), ops)
        self.arena = HandArena(self.spec, self.dtype.itemsize, **layout)
        self._room = aligned(16 << 20)
        self.workspace = Workspace(self._room.data_ptr(), len(self._room))
        self.recorder = Recorder()
        sampler = Sampler(self.spec.vocab_size, self.workspace, ops) if samples else self.recorder
        arena = self.arena.arena
        self.runner = Runner(
            self.spec, weights, arena, self.workspace, ops, sampler, tasks=64, ahead=ahead
        )

    def step(
        self, parts: Sequence[tuple[int, Sequence[int], int]], *, score: bool = False
    ) -> tuple[StepPlan, tuple[SequenceResult, ...]]:
        """Run (sequence, tokens, start) triples as one step; each samples, or scores every row."""
        plan = self.plan(parts, score=score)
        return plan, self.runner.launch(plan).result().sequences

    def plan(
        self, parts: Sequence[tuple[int, Sequence[int], int]], *, score: bool = False
    ) -> StepPlan:
        shape, steps = StepShape(), []
        for sequence, tokens, start in parts:
            length = start + len(tokens)
            task = None if score else SamplingTask(GREEDY, tokens, len(tokens), 0)
            targets = tokens if score else ()
            table = self.arena.table(sequence, length)
            steps.append(SequenceStep(sequence, tokens, start, table, task, targets))
            rows = len(targets) + (task is not None)
            shape = shape.with_sequence(len(tokens), length, rows, len(table.starts) > 1)
        return StepPlan(tuple(steps), shape)

    def logits(self, parts: Sequence[tuple[int, Sequence[int], int]]) -> list[Tensor]:
        """Every row of logits of the step, as one tensor for each part."""
        self.recorder.rows.clear()
        self.step(parts, score=True)
        rows = torch.cat(self.recorder.rows)
        return list(rows.split([len(tokens) for _, tokens, _ in parts]))


def save_random(model: Any, directory: Path, **options: Any) -> Any:
    """Give every parameter noticeable random values and write the model out; returns it."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.2 if parameter.dim() > 1 else 0.5
            noise = torch.randn(parameter.shape, generator=generator) * spread
            parameter.copy_(noise + (1.0 if "norm" in name and "bias" not in name else 0.0))
    model.eval().save_pretrained(directory, **options)
    return model
