"""Choose a token from each row of logits, and report how likely tokens were.

Rows that ask for nothing but the likeliest token share one argmax.  The others are treated in
blocks, in float32, in the order of vLLM:

    logits → bias, bans → repetition, frequency, presence → temperature → min_p, top_k, top_p → draw
       └ log-probabilities and ranks are those of this, unmodified

Each filter is a *floor*: tokens below it cannot be drawn, and equal tokens are treated alike (so a
tie at a floor keeps every tied token).  The draw inverts the cumulative distribution in id order
at one number that seed and position decide, hence it does not depend on the rest of the batch.

NaN counts as minus infinity and +infinity as a very large number; a row with nothing left gives
token 0.  A broken row spoils its own text and nothing else.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ellm.core.plan import SamplingTask
from ellm.core.result import TokenLogprobs
from ellm.core.sampling import MAX_LOGPROBS, SamplingParams
from ellm.kernels.heights import height
from ellm.kernels.ops import Ops
from ellm.kernels.scratch import Scratch, scope
from ellm.runtime.uniform import uniform

_BLOCK_ELEMENTS = 2**19
_CANDIDATES = 1024
_LARGEST = 1e30
_NOTHING = -math.inf

assert _CANDIDATES >= MAX_LOGPROBS


@dataclass(frozen=True, slots=True)
class Buffers:
    """Room for one block of B rows over a vocabulary of V, of whose likeliest K are looked at.

    work, raw, mass   [B, V] float32: logits under change, log-probabilities, weights of the draw
    mask              [B, V] bool
    top, top_ids      [B, K] float32 and int64
    ranked, order     [V]    float32 and int64: one whole row, sorted
    ids               [R]    int64: a token for every row, not only of a block
    """

    work: Tensor
    raw: Tensor
    mass: Tensor
    mask: Tensor
    top: Tensor
    top_ids: Tensor
    ranked: Tensor
    order: Tensor
    ids: Tensor

    @classmethod
    def take(cls, scratch: Scratch, rows: int, vocab_size: int) -> Buffers:
        """The same bytes for the same `rows`, whatever the requests ask for."""
        block = min(rows, block_rows(vocab_size))
        full, few = (block, vocab_size), (block, min(_CANDIDATES, vocab_size))
        return cls(
            work=scratch.take(full, torch.float32),
            raw=scratch.take(full, torch.float32),
            mass=scratch.take(full, torch.float32),
            mask=scratch.take(full, torch.bool),
            top=scratch.take(few, torch.float32),
            top_ids=scratch.take(few, torch.int64),
            ranked=scratch.take((vocab_size,), torch.float32),
            order=scratch.take((vocab_size,), torch.int64),
            ids=scratch.take((rows,), torch.int64),
        )

    def of(self, rows: int) -> Buffers:
        """The first `rows` rows."""
        return Buffers(
            self.work[:rows],
            self.raw[:rows],
            self.mass[:rows],
            self.mask[:rows],
            self.top[:rows],
            self.top_ids[:rows],
            self.ranked,
            self.order,
            self.ids,
        )


def block_rows(vocab_size: int) -> int:
    """Most rows that are treated at once, so that the buffers stay within some megabytes."""
    return max(1, _BLOCK_ELEMENTS // vocab_size)


class Sampler:
    """Stateless between calls; all its room is `Buffers.take(workspace, rows, vocab_size)`."""

    def __init__(self, vocab_size: int, workspace: Scratch, ops: Ops) -> None:
        self._vocab_size = vocab_size
        self._workspace = workspace
        self._ops = ops

    def sample(
        self, logits: Tensor, tasks: Sequence[SamplingTask]
    ) -> list[tuple[int, TokenLogprobs | None]]:
        """A token for each task, and its log-probabilities where the task's params ask for them.

        `logits` is [R, V] in any floating dtype, row i for `tasks[i]`.
        """
        assert logits.shape == (len(tasks), self._vocab_size), (logits.shape, len(tasks))
        params = [task.params for task in tasks]
        plain = [p.plain_greedy and not t.banned for p, t in zip(params, tasks, strict=True)]
        kinds = (
            [row for row, p in enumerate(params) if p.greedy and not plain[row]],
            [row for row, p in enumerate(params) if not p.greedy],
        )
        results: list[tuple[int, TokenLogprobs | None]] = [(0, None)] * len(tasks)
        with scope(self._workspace) as scratch:
            buffers = Buffers.take(scratch, height(len(tasks)), self._vocab_size)
            if any(plain):
                results = [(token, None) for token in self._argmax(logits, buffers)]
            size = block_rows(self._vocab_size)
            for kind in kinds:
                for start in range(0, len(kind), size):
                    rows = kind[start : start + size]
                    block = buffers.of(len(rows))
                    for slot, row in enumerate(rows):
                        block.work[slot].copy_(logits[row])
                    chosen = _choose(block, [tasks[row] for row in rows])
                    for row, choice in zip(rows, chosen, strict=True):
                        results[row] = choice
        return results

    def _argmax(self, logits: Tensor, buffers: Buffers) -> list[int]:
        ids = buffers.ids[: len(logits)]
        self._ops.argmax(logits, ids)
        tokens: list[int] = ids.tolist()
        for row, token in enumerate(tokens):
            if token < 0:
                work = buffers.work[:1]
                work[0].copy_(logits[row])
                _repair(work)
                tokens[row] = int(work[0].argmax())
        return tokens

    def score(self, logits: Tensor, targets: Sequence[int], top: int) -> list[TokenLogprobs]:
        """How likely `targets[i]` was in row i, and the `top` likeliest tokens of that row.

        `logits` is [R, V] in any floating dtype.
        """
        assert logits.shape == (len(targets), self._vocab_size), (logits.shape, len(targets))
        scores: list[TokenLogprobs] = []
        with scope(self._workspace) as scratch:
            buffers = Buffers.take(scratch, height(len(targets)), self._vocab_size)
            size = block_rows(self._vocab_size)
            for start in range(0, len(targets), size):
                some = list(targets[start : start + size])
                block = buffers.of(len(some))
                block.work.copy_(logits[start : start + size])
                _repair(block.work)
                torch.log_softmax(block.work, -1, out=block.raw)
                scores += _report(block, some, [top] * len(some))
        return scores


def _choose(
    block: Buffers, tasks: Sequence[SamplingTask]
) -> list[tuple[int, TokenLogprobs | None]]:
    """`block.work` holds the raw logits of these tasks: all of them greedy, or none."""
    wanted = [task.params.logprobs for task in tasks]
    report = any(count is not None for count in wanted)
    if report:
        _repair(block.work)
        torch.log_softmax(block.work, -1, out=block.raw)
    for row, task in zip(block.work, tasks, strict=True):
        _adjust(row, task)
    if tasks[0].params.greedy:
        _repair(block.work)
        tokens = block.work.argmax(-1).tolist()
    else:
        tokens = _draw(block, tasks)
    if not report:
        return [(token, None) for token in tokens]
    reports = _report(block, tokens, [count or 0 for count in wanted])
    return [
        (token, None if count is None else one)
        for token, one, count in zip(tokens, reports, wanted, strict=True)
    ]


def _adjust(row: Tensor, task: SamplingTask) -> None:
    """Bias, bans and penalties on one row [V].  Repetition looks at the prompt too, as vLLM's."""
    params = task.params
    if params.logit_bias:
        ids = torch.tensor(list(params.logit_bias), device=row.device)
        row.index_add_(0, ids, row.new_tensor(list(params.logit_bias.values())))
    if task.banned:
        row[torch.tensor(list(task.banned), device=row.device)] = _NOTHING
    if params.repetition_penalty != 1.0:
        ids = torch.tensor(list(set(task.tokens)), device=row.device)
        seen, penalty = row[ids], params.repetition_penalty
        row[ids] = torch.where(seen > 0, seen / penalty, seen * penalty)
    if task.output and (params.frequency_penalty or params.presence_penalty):
        counts = Counter(task.output)
        ids = torch.tensor(list(counts), device=row.device)
        times = row.new_tensor(list(counts.values()))
        row[ids] -= times * params.frequency_penalty + params.presence_penalty


def _repair(work: Tensor) -> Tensor:
    """Make the rows finite at the top, in place; returns each row's largest value [B, 1]."""
    peak = work.amax(-1, keepdim=True)
    for row, sane in enumerate((peak.abs() <= _LARGEST)[:, 0].tolist()):
        if not sane:
            line = work[row].nan_to_num_(nan=_NOTHING, posinf=_LARGEST, neginf=_NOTHING)
            line.clamp_(max=_LARGEST)
            if float(line.amax()) < -_LARGEST:
                line.fill_(_NOTHING)[0] = 0.0
            peak[row, 0] = line.amax()
    return peak


def _draw(block: Buffers, tasks: Sequence[SamplingTask]) -> list[int]:
    """`block.work` holds adjusted logits."""
    work, mass = block.work, block.mass
    params = [task.params for task in tasks]
    work.div_(work.new_tensor([[p.temperature] for p in params]))
    peak = _repair(work)
    floor = _floors(block, params, peak)
    torch.sub(work, peak, out=mass).exp_()
    if any(p.min_p or p.top_k > 0 for p in params):
        mass.masked_fill_(torch.lt(work, floor, out=block.mask), 0.0)
    if any(p.top_p < 1.0 for p in params):
        nucleus = _nucleus(block, params, peak, floor)
        mass.masked_fill_(torch.lt(work, nucleus, out=block.mask), 0.0)
    torch.cumsum(mass, -1, out=mass)
    points = [[uniform(task.seed, len(task.tokens))] for task in tasks]
    heights = mass.new_tensor(points) * mass[:, -1:]
    return [int(token) for token in torch.searchsorted(mass, heights, right=True)[:, 0].tolist()]


def _floors(block: Buffers, params: Sequence[SamplingParams], peak: Tensor) -> Tensor:
    """The least logit [B, 1] that min_p and top_k let through."""
    vocab_size = block.work.shape[-1]
    floor = peak + peak.new_tensor([[p.min_p] for p in params]).log_()
    ranks = [p.top_k if 0 < p.top_k < vocab_size else 0 for p in params]
    few = max((rank for rank in ranks if rank <= _CANDIDATES), default=0)
    if few:
        best = block.top[:, :few], block.top_ids[:, :few]
        torch.topk(block.work, few, dim=-1, out=best)
    for row, rank in enumerate(ranks):
        if rank:
            best_of_row = block.top[row] if rank <= few else _ranked(block, row)
            floor[row, 0].clamp_(min=best_of_row[rank - 1])
    return floor


def _nucleus(
    block: Buffers, params: Sequence[SamplingParams], peak: Tensor, floor: Tensor
) -> Tensor:
    """The least logit [B, 1] of the smallest set that has a share `top_p` of the mass.

    `block.mass` holds exp(work - peak), zero below `floor`.  Each row is summed by itself: a
    sum over a matrix rounds differently with the number of rows.
    """
    totals = torch.stack([row.sum() for row in block.mass])[:, None]
    needed = totals * totals.new_tensor([[p.top_p] for p in params])
    torch.topk(block.work, block.top.shape[-1], dim=-1, out=(block.top, block.top_ids))
    bound, reached = _cut(block.top, peak, floor, needed)
    for row, (p, done) in enumerate(zip(params, reached.tolist(), strict=True)):
        if p.top_p == 1.0:
            bound[row] = _NOTHING
        elif not done:
            one = slice(row, row + 1)
            bound[one], _ = _cut(_ranked(block, row)[None], peak[one], floor[one], needed[one])
    return bound


def _cut(best: Tensor, peak: Tensor, floor: Tensor, needed: Tensor) -> tuple[Tensor, Tensor]:
    """Where falling logits `best` [B, K] reach the mass `needed` [B, 1], and whether they do."""
    weights = torch.exp(best - peak).masked_fill_(best < floor, 0.0).cumsum_(-1)
    place = (weights < needed).sum(-1, keepdim=True).clamp_(max=best.shape[-1] - 1)
    reached = (weights[:, -1:] >= needed) | (best[:, -1:] < floor)
    return best.gather(-1, place), reached[:, 0]


def _ranked(block: Buffers, row: int) -> Tensor:
    """All of a row [V] in falling order, for the few rows that K tokens do not settle."""
    if block.work.is_cuda:
        torch.sort(block.work[row], descending=True, out=(block.ranked, block.order))
        return block.ranked
    # On the CPU, numpy sorts bare values about ten times faster than torch values with indices.
    line = torch.neg(block.work[row], out=block.ranked).numpy()
    line.sort()
    return block.ranked.neg_()


def _report(block: Buffers, tokens: Sequence[int], tops: Sequence[int]) -> list[TokenLogprobs]:
    """`block.raw` holds log-probabilities; `tops` is how many of the likeliest each row reports."""
    ids = torch.tensor(tokens, device=block.raw.device)[:, None]
    chosen = block.raw.gather(-1, ids)
    ranks = torch.gt(block.raw, chosen, out=block.mask).sum(-1).tolist()
    most = min(max(tops), block.raw.shape[-1])
    best = block.top[:, :most], block.top_ids[:, :most]
    values, likeliest = torch.topk(block.raw, most, dim=-1, out=best) if most else best
    reports = []
    for row, (token, count) in enumerate(zip(tokens, tops, strict=True)):
        pairs = zip(likeliest[row, :count].tolist(), values[row, :count].tolist(), strict=True)
        reports.append(TokenLogprobs(token, float(chosen[row, 0]), ranks[row] + 1, tuple(pairs)))
    return reports
