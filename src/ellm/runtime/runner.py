"""The executor that owns a device: takes a plan, runs the decoder, samples."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ellm.core.executor import Ferry, Flight
from ellm.core.layers import KvArena
from ellm.core.plan import SamplingTask, SequenceStep, StepPlan, StepShape
from ellm.core.result import SequenceResult, StepResult, TokenLogprobs
from ellm.kernels.heights import height
from ellm.kernels.ops import KvPlanes, Ops, Program, Segment
from ellm.kernels.scratch import Scratch, scope
from ellm.kernels.shortage import is_shortage
from ellm.models.decoder import Buffers, Decoder, Inputs, Rows
from ellm.models.spec import DecoderSpec
from ellm.models.weights import Weights
from ellm.runtime import sampler as sampling
from ellm.runtime.batch import InputRoom
from ellm.runtime.feedback import Feedback, Sent
from ellm.runtime.programs import Programs
from ellm.runtime.views import put, view
from ellm.runtime.workspace import Workspace, WorkspaceCounter

# Rows that reach the vocabulary at once: bounds the logits of a long prompt that is scored.
LOGIT_BLOCK = 64
# A GPU would read the head once for each block, and wait for the tokens of each.
_BLOCKS_ON_GPU = 4
_REMEMBERED_SHAPES = 4096


class Sampler(Protocol):
    """Chooses and scores tokens; takes its room from the workspace."""

    def sample(self, logits: Tensor, tasks: Sequence[SamplingTask], out: Tensor) -> None:
        """A token for each row of [R, vocab], into int64 [R]."""
        ...

    def report(
        self, logits: Tensor, tokens: Sequence[int], wanted: Sequence[int | None]
    ) -> list[TokenLogprobs | None]:
        """Log-probabilities of the tokens chosen, where a number of the likeliest is wanted."""
        ...

    def score(self, logits: Tensor, targets: Sequence[int], top: int) -> list[TokenLogprobs]:
        """Log-probability of a given token for each row, and the `top` likeliest."""
        ...


def _rounded(shape: StepShape, block: int) -> StepShape:
    """A shape that is at least as large in every respect, of which there are few.

    Of its logits, `block` rows exist at once.
    """
    return StepShape(
        height(shape.tokens),
        height(min(shape.logit_rows, block)),
        height(shape.longest_query),
        height(shape.longest_kv),
        shape.gathers,
    )


class Answers:
    """core.executor.Flight: tokens on their way, and log-probabilities that are there already."""

    def __init__(
        self,
        plan: StepPlan,
        tokens: Sent,
        reports: Sequence[TokenLogprobs | None],
        scores: Sequence[tuple[TokenLogprobs, ...]],
    ) -> None:
        self._plan = plan
        self._tokens = tokens
        self._reports = reports
        self._scores = scores

    def result(self) -> StepResult:
        chosen = zip(self._tokens(), self._reports, strict=True)
        results = []
        for step, scores in zip(self._plan.steps, self._scores, strict=True):
            token, report = next(chosen) if step.task else (None, None)
            results.append(SequenceResult(step.seq_id, token, report, scores))
        return StepResult(tuple(results))


class Runner:
    """core.executor.Executor on PyTorch.

    The arena and the workspace are addresses: the caller has memory mapped behind the rows of
    every table of a plan, and behind the workspace as far as `activation_bytes` says.  A step
    has at most `tasks` of them.  By default it runs `ahead` on a GPU.  `on_shortage` is called
    when the device has no memory for what libraries take beside the workspace, before the step is
    tried once more.
    """

    def __init__(
        self,
        spec: DecoderSpec,
        weights: Weights,
        arena: KvArena,
        workspace: Workspace,
        ops: Ops,
        sampler: Sampler,
        *,
        tasks: int,
        ahead: bool | None = None,
        on_shortage: Callable[[], object] = lambda: None,
    ) -> None:
        self._ops = ops
        self._decoder = Decoder(spec, weights, ops)
        self._workspace = workspace
        self._sampler = sampler
        self._vocab_size = spec.vocab_size
        self._kv = kv_planes(arena, spec.num_layers, weights.embed.dtype, weights.embed.device)
        self._on_gpu = weights.embed.device.type == "cuda"
        self._feedback = Feedback(tasks, weights.embed.device)
        self.ahead = self._on_gpu if ahead is None else ahead
        self._on_shortage = on_shortage
        self._counted: dict[StepShape, int] = {}
        self._programs = Programs(dear=self._on_gpu)

    @property
    def _block(self) -> int:
        return LOGIT_BLOCK * (_BLOCKS_ON_GPU if self._on_gpu else 1)

    def activation_bytes(self, shape: StepShape) -> int:
        """Exact for a step that samples; what scoring leaves of the sampler's room is unused."""
        shape = _rounded(shape, self._block)
        known = self._counted.get(shape)
        if known is None:
            counter = WorkspaceCounter()
            self._take(counter, shape)
            if shape.logit_rows:
                self._take_logits(counter, self._ops.padded(shape.logit_rows))
                sampling.Buffers.take(counter, self._ops, shape.logit_rows, self._vocab_size)
            if len(self._counted) >= _REMEMBERED_SHAPES:
                self._counted.clear()
            known = self._counted[shape] = counter.peak
        return known

    @torch.inference_mode()
    def launch(self, plan: StepPlan, ferry: Ferry | None = None) -> Flight:
        if self._on_gpu:
            torch.cuda.set_device(self._feedback.latest.device)  # of this thread
        try:
            return self._launch(plan, ferry)
        except RuntimeError as error:
            if ferry is not None or not is_shortage(error):  # layers have come and gone
                raise
            self._on_shortage()
            return self._launch(plan, ferry)

    def _launch(self, plan: StepPlan, ferry: Ferry | None) -> Answers:
        shape = _rounded(plan.shape, self._block)
        self._workspace.reset()
        room, buffers = self._workspace.again(shape, lambda scratch: self._take(scratch, shape))
        inputs = room.fill(plan)
        if self.ahead:
            self._ops.follow(inputs.ids, self._feedback.latest)
        self._forward(room, inputs, buffers, shape, ferry)
        pairs = list(zip(plan.steps, inputs.segments, strict=True))
        reports = self._sample(pairs, buffers, shape)
        scores = [
            self._score(step, segment.first, buffers, shape) if step.targets else ()
            for step, segment in pairs
        ]
        # Last of all: what fails before can be launched again.
        return Answers(plan, self._feedback.send(len(reports)), reports, scores)

    def _take(self, scratch: Scratch, shape: StepShape) -> tuple[InputRoom, Buffers]:
        return InputRoom.take(scratch, shape), self._decoder.take(scratch, shape)

    def _forward(
        self,
        room: InputRoom,
        inputs: Inputs,
        buffers: Buffers,
        shape: StepShape,
        ferry: Ferry | None,
    ) -> None:
        """Run all layers: as recorded, where the backend can record and no layer is ferried."""

        def work(inputs: Inputs) -> None:
            self._decoder.forward(inputs, self._kv, buffers, ferry)

        def whole() -> None:
            work(room.whole(inputs.segments))

        # As many rows, and the first buffer behind all that depend on anything else.
        places = (len(buffers.rows.hidden), buffers.rows.hidden.data_ptr())
        key = self._ops.key(shape, inputs.segments) if ferry is None else None
        program = self._recorded(places, key, shape, whole)
        if program is None:
            work(inputs)
        else:
            program.run(len(inputs.ids), inputs.segments)

    def _recorded(
        self,
        places: tuple[int, ...],
        key: Hashable | None,
        shape: StepShape,
        work: Callable[[], None],
    ) -> Program | None:
        if key is None:
            return None
        return self._programs.find((places, key), lambda: self._ops.trace(work, shape))

    def _sample(
        self,
        pairs: Sequence[tuple[SequenceStep, Segment]],
        buffers: Buffers,
        shape: StepShape,
    ) -> list[TokenLogprobs | None]:
        """Choose tokens for the steps that have a task, and report on them, in their order."""
        tasks = [step.task for step, _ in pairs if step.task]
        rows = [segment.first + segment.count - 1 for step, segment in pairs if step.task]
        reports: list[TokenLogprobs | None] = []
        for begin in range(0, len(rows), self._block):
            some = slice(begin, min(begin + self._block, len(rows)))
            wanted = [task.params.logprobs for task in tasks[some]]
            with scope(self._workspace):
                logits, out = self._logits(rows[some], buffers, shape), self._feedback.fresh[some]
                self._sampler.sample(logits, tasks[some], out)
                if all(count is None for count in wanted):
                    reports += [None] * len(wanted)
                else:
                    reports += self._sampler.report(logits, out.tolist(), wanted)
        return reports

    def _score(
        self, step: SequenceStep, first: int, buffers: Buffers, shape: StepShape
    ) -> tuple[TokenLogprobs, ...]:
        scores: list[TokenLogprobs] = []
        for begin in range(0, len(step.targets), self._block):
            targets = step.targets[begin : begin + self._block]
            rows = range(first + begin, first + begin + len(targets))
            with scope(self._workspace):
                logits = self._logits(rows, buffers, shape)
                scores += self._sampler.score(logits, targets, step.target_logprobs)
        return tuple(scores)

    def _logits(self, rows: Sequence[int], buffers: Buffers, shape: StepShape) -> Tensor:
        count = self._ops.padded(len(rows))
        index, last, logits = self._workspace.again(
            ("logits", count), lambda scratch: self._take_logits(scratch, count)
        )
        put(array("q", [*rows, *[0] * (count - len(rows))]), index)

        def work(index: Tensor) -> None:
            self._decoder.logits(index, buffers, last, logits)

        places = (count, last.hidden.data_ptr(), buffers.rows.hidden.data_ptr())
        key = self._ops.key(shape, ())
        program = self._recorded(places, key, shape, lambda: work(index))
        if program is None:
            work(index[: len(rows)])
        else:
            program.run(len(rows), ())
        return logits if len(rows) == count else logits[: len(rows)]

    def _take_logits(self, scratch: Scratch, rows: int) -> tuple[Tensor, Rows, Tensor]:
        """For so many rows, padded already."""
        return (
            scratch.take((rows,), torch.int64),
            self._decoder.take_rows(scratch, rows),
            scratch.take((rows, self._vocab_size), self._decoder.dtype),
        )


def kv_planes(
    arena: KvArena, layers: int, dtype: torch.dtype, device: torch.device | str
) -> KvPlanes:
    """The arena as tensors, by core/layers.py's address formula."""
    spec = arena.layer
    assert spec.itemsize == dtype.itemsize, (spec, dtype)
    assert arena.row_bytes % dtype.itemsize == 0, arena
    base = view(arena.address, arena.rows * arena.row_bytes, dtype, device)
    row, plane = arena.row_bytes // dtype.itemsize, spec.kv_heads * spec.head_dim
    planes = []
    for layer in range(layers):
        rows = arena.rows - layer // arena.layers_per_group * arena.group_rows
        planes.append(
            base.as_strided(
                (rows, 2, spec.kv_heads, spec.head_dim),
                (row, plane, spec.head_dim, 1),
                arena.layer_offset(layer) // dtype.itemsize,
            )
        )
    return KvPlanes(tuple(planes))
