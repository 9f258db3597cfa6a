"""Choose a token from each row of logits, and report how likely tokens were.

The order is vLLM's:

    logits → bias, bans → repetition, frequency, presence → temperature → min_p, top_k, top_p → draw
       └ log-probabilities and ranks are those of this, unmodified

Logits are read where they lie: the few that bias, bans and penalties change are handed to the
backend beside them (kernels/logits.py has the rest).  The draw takes the place that seed and
position decide, hence it does not depend on the rest of the batch.

A broken row (NaN, infinity) spoils its own text and nothing else.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ellm.core.plan import SamplingTask
from ellm.core.result import TokenLogprobs
from ellm.core.sampling import MAX_LOGPROBS
from ellm.kernels.heights import height
from ellm.kernels.logits import DEEPEST, OCTAVE
from ellm.kernels.numbers import arrive
from ellm.kernels.ops import Changes, Ops, Temp
from ellm.kernels.scratch import Scratch, scope
from ellm.runtime.uniform import uniform

_REPORTED_ROWS = 16
_GREEDY = (0.0, DEEPEST, 0, 1.0, 0.0)


@dataclass(frozen=True, slots=True)
class Buffers:
    """Room for R rows over a vocabulary of V, of which so many at a time are reported.

    line             [V] float32: where changed logits stand by id; the others mean nothing
    values, likeliest    float32 and int64: what the rows of a report can have
    """

    line: Tensor
    values: Tensor
    likeliest: Tensor
    temp: Temp

    @classmethod
    def take(cls, scratch: Scratch, ops: Ops, rows: int, vocab_size: int) -> Buffers:
        """The same bytes for the same `rows`, whatever the requests ask for."""
        top = min(MAX_LOGPROBS, vocab_size)
        reported = min(rows, _REPORTED_ROWS) * (1 + top)
        return cls(
            line=scratch.take((vocab_size,), torch.float32),
            values=scratch.take((reported,), torch.float32),
            likeliest=scratch.take((reported,), torch.int64),
            temp=ops.logit_temp(scratch, rows, vocab_size, top),
        )


class Sampler:
    """Stateless between calls; its room is `Buffers.take(workspace, ops, rows, vocab_size)`."""

    def __init__(self, vocab_size: int, workspace: Scratch, ops: Ops) -> None:
        self._vocab_size = vocab_size
        self._workspace = workspace
        self._ops = ops
        self._plainly: dict[int, tuple[Tensor, Changes]] = {}

    def sample(self, logits: Tensor, tasks: Sequence[SamplingTask], out: Tensor) -> None:
        """A token for each task, into `out` (int64 [R]); nobody waits for it.

        `logits` is [R, V] in any floating dtype, row i for `tasks[i]`.
        """
        assert logits.shape == (len(tasks), self._vocab_size), (logits.shape, len(tasks))
        with scope(self._workspace) as scratch:
            buffers = self._buffers(scratch, len(tasks))
            touched = [_touched(task) for task in tasks]
            if not any(touched) and all(task.params.greedy for task in tasks):
                how, changes = self._plain(len(tasks), logits.device)
            else:
                how, changes = _how(tasks), _changes(logits, tasks, touched, buffers.line)
            self._ops.sample(logits, how, changes, out, buffers.temp)

    def report(
        self, logits: Tensor, tokens: Sequence[int], wanted: Sequence[int | None]
    ) -> list[TokenLogprobs | None]:
        """How likely `tokens[i]` was in row i, and the `wanted[i]` likeliest; None for None."""
        with scope(self._workspace) as scratch:
            return self._report(logits, tokens, wanted, self._buffers(scratch, len(tokens)))

    def score(self, logits: Tensor, targets: Sequence[int], top: int) -> list[TokenLogprobs]:
        """How likely `targets[i]` was in row i, and the `top` likeliest tokens of that row.

        `logits` is [R, V] in any floating dtype.
        """
        assert logits.shape == (len(targets), self._vocab_size), (logits.shape, len(targets))
        with scope(self._workspace) as scratch:
            buffers = self._buffers(scratch, len(targets))
            reports = self._report(logits, targets, [top] * len(targets), buffers)
        return [report for report in reports if report is not None]

    def _buffers(self, scratch: Scratch, rows: int) -> Buffers:
        rows = height(rows)
        return scratch.again(
            ("sampler", rows),
            lambda scratch: Buffers.take(scratch, self._ops, rows, self._vocab_size),
        )

    def _plain(self, count: int, device: torch.device) -> tuple[Tensor, Changes]:
        """How `count` rows are sampled of which only the likeliest token is wanted."""
        found = self._plainly.get(count)
        if found is None:
            how = torch.tensor([_GREEDY] * count, dtype=torch.float64)
            nowhere = torch.zeros(count + 1, dtype=torch.int64)
            nothing = torch.empty(0, dtype=torch.float32, device=device)
            found = self._plainly[count] = how, Changes(nowhere, nowhere[:0], nothing)
        return found

    def _report(
        self,
        logits: Tensor,
        tokens: Sequence[int],
        tops: Sequence[int | None],
        buffers: Buffers,
    ) -> list[TokenLogprobs | None]:
        """For each row its token and as many of the likeliest; None where no number is asked."""
        reports: list[TokenLogprobs | None] = []
        wide = 1 + min(max(top or 0 for top in tops), self._vocab_size)
        for start in range(0, len(tokens), _REPORTED_ROWS):
            some = slice(start, start + _REPORTED_ROWS)
            asked = list(zip(tokens[some], tops[some], strict=True))
            targets = torch.tensor([-1 if top is None else token for token, top in asked])
            shape = len(asked), wide
            values = buffers.values[: len(asked) * wide].view(shape)
            ids = buffers.likeliest[: len(asked) * wide].view(shape)
            self._ops.score(logits[some], targets.to(logits.device), values, ids, buffers.temp)
            for (token, top), row, who in zip(asked, values.tolist(), ids.tolist(), strict=True):
                best = tuple(zip(who[1:], row[1:], strict=True))[:top]
                report = TokenLogprobs(token, row[0], who[0], best)
                reports.append(None if top is None else report)
        return reports


def _how(tasks: Sequence[SamplingTask]) -> Tensor:
    """`how` for `Ops.sample`."""
    numbers = array("d")
    for task in tasks:
        params = task.params
        if params.greedy:
            numbers.extend(_GREEDY)
            continue
        point = uniform(task.seed, len(task.tokens))
        deepest = _depth(params.min_p)
        numbers.extend((params.temperature, deepest, params.top_k, params.top_p, point))
    # torch.tensor takes a hundred times as long for 64 rows.
    return torch.frombuffer(numbers, dtype=torch.float64).view(-1, len(_GREEDY))


def _depth(min_p: float) -> int:
    """How deep below the likeliest token a token with `min_p` of its probability is."""
    return min(DEEPEST, int(-math.log2(min_p) * OCTAVE)) if min_p else DEEPEST


def _changes(
    logits: Tensor, tasks: Sequence[SamplingTask], touched: Sequence[Sequence[int]], line: Tensor
) -> Changes:
    """What `_adjust` makes of the logits that each task touches."""
    starts, ids, values = array("q", (0,)), array("q"), []
    for row, (task, own) in enumerate(zip(tasks, touched, strict=True)):
        if own:
            some = arrive(torch.tensor(own), logits.device)
            line[some] = logits[row, some].float()
            _adjust(line, task)
            ids.extend(own)
            values.append(line[some])
        starts.append(len(ids))
    begins = torch.frombuffer(starts, dtype=torch.int64)
    if not values:
        return Changes(begins, begins[:0], line[:0])
    return Changes(begins, torch.frombuffer(ids, dtype=torch.int64), torch.cat(values))


def _touched(task: SamplingTask) -> list[int]:
    """Ids whose logits are not taken as they are."""
    params = task.params
    repeats = params.repetition_penalty != 1.0
    counts = params.frequency_penalty or params.presence_penalty
    if not (repeats or counts or params.logit_bias or task.banned):
        return []
    ids = {*(params.logit_bias or ()), *task.banned}
    if repeats:
        ids.update(task.prompt)
    if repeats or counts:
        ids.update(task.output)
    return list(ids)


def _adjust(row: Tensor, task: SamplingTask) -> None:
    """Bias, bans and penalties on a row [V].  Repetition looks at the prompt too, as vLLM's."""
    params = task.params
    if params.logit_bias:
        ids = arrive(torch.tensor(list(params.logit_bias)), row.device)
        values = torch.tensor(list(params.logit_bias.values()), dtype=row.dtype)
        row.index_add_(0, ids, arrive(values, row.device))
    if task.banned:
        row.index_fill_(0, arrive(torch.tensor(list(task.banned)), row.device), -math.inf)
    if params.repetition_penalty != 1.0:
        ids = arrive(torch.tensor(list(set(task.tokens))), row.device)
        seen, penalty = row[ids], params.repetition_penalty
        row[ids] = torch.where(seen > 0, seen / penalty, seen * penalty)
    if task.output and (params.frequency_penalty or params.presence_penalty):
        counts = Counter(task.output)
        ids = arrive(torch.tensor(list(counts)), row.device)
        times = arrive(torch.tensor(list(counts.values()), dtype=row.dtype), row.device)
        row[ids] -= times * params.frequency_penalty + params.presence_penalty
