"""One continuation of a request, as the engine tracks it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from ellm.core.plan import SamplingTask
from ellm.core.request import Request


class SequenceStatus(Enum):
    """Where a sequence is.  A preempted one waits again, at its old place.

    Whether its KV was lost or is parked below is the KV manager's to know; RETURNING is one whose
    KV is on its way up, LANDING one whose last token is being computed.
    """

    WAITING = "waiting"
    RETURNING = "returning"
    RUNNING = "running"
    LANDING = "landing"
    FINISHED = "finished"


class FinishReason(Enum):
    """Why a sequence ended, in OpenAI's words where it has one."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


@dataclass(slots=True, eq=False)
class Sequence:
    """Tokens known, and how many of them have their KV computed.

        tokens    │ prompt ················│ output ······│
        computed  │ ·······················→
                                           └ scheduling closes this gap; there are no phases

    `index` tells the choices of one request (`n > 1`) apart; `parent` is choice 0, whose prompt
    KV the others share.  `cached` prompt tokens were found computed, `fetched` of them in the tier
    below; `prompt_scored` tokens have had their log-probability reported.  Times are in the engine
    clock's seconds.  `task` asks for the token after the last.  Two sequences share a prefix only
    if their `salt` is the same.  The last token may be one that a step under way will tell, and
    what that step computes counts as computed.
    """

    seq_id: int
    request: Request
    index: int = 0
    seed: int = 0
    parent: Sequence | None = None
    tokens: list[int] = field(default_factory=list)
    computed: int = 0
    cached: int = 0
    fetched: int = 0
    status: SequenceStatus = SequenceStatus.WAITING
    finish_reason: FinishReason | None = None
    preemptions: int = 0
    first_scheduled: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    prompt_scored: int = 0
    task: SamplingTask = field(init=False, repr=False)
    salt: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        request, params = self.request, self.request.params
        if not self.tokens:
            self.tokens = list(request.prompt)
        ends = sorted({*request.end_token_ids, *(params.stop_token_ids or ())})
        self.salt = (request.cache_salt or "").encode()
        self.task = SamplingTask(params, self.tokens, len(request.prompt), self.seed, ends)

    @property
    def uncomputed(self) -> int:
        return len(self.tokens) - self.computed

    @property
    def num_prompt(self) -> int:
        return len(self.request.prompt)

    @property
    def num_output(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    @property
    def awaits_token(self) -> bool:
        """Whether nobody knows the last token yet."""
        return bool(self.tokens) and self.tokens[-1] < 0

    @property
    def is_in_memory(self) -> bool:
        """Whether its KV is where others can share it."""
        return self.status in (SequenceStatus.RUNNING, SequenceStatus.LANDING)

    @property
    def is_full(self) -> bool:
        """Whether it has as many tokens as it may have."""
        return self.num_output >= self.request.max_tokens

    @property
    def wants_scores(self) -> bool:
        """Whether the prompt's log-probabilities are asked for (of choice 0 alone)."""
        return self.index == 0 and self.request.params.prompt_logprobs is not None

    @property
    def order(self) -> tuple[int, int]:
        """Sort key of first come, first served within a priority (lower is sooner)."""
        return (self.request.priority, self.seq_id)

    @property
    def waits_for_parent(self) -> bool:
        """Whether the prompt this sequence could share is still to be computed by another."""
        parent = self.parent
        return (
            parent is not None
            and self.num_output == 0
            and not parent.finished
            and parent.computed < parent.num_prompt
        )

    @property
    def finished(self) -> bool:
        return self.status is SequenceStatus.FINISHED


def choices_of(request: Request, ids: Iterator[int], seed: int) -> list[Sequence]:
    """A sequence for each choice that a request wants: seeds count up from `seed`."""
    first = Sequence(next(ids), request, 0, seed)
    others = range(1, request.params.n)
    return [first, *(Sequence(next(ids), request, i, seed + i, first) for i in others)]
