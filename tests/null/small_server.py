"""A server of a few lines in virtual time, to see what a policy does to those it serves.

It plans as the scheduler does: everyone who decodes gets a token, then prompts in the policy's
order get what the policy grants, while there is memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

from ellm.core.load import StepLoad
from ellm.core.objectives import Objectives
from ellm.core.request import Request
from ellm.core.sampling import SamplingParams
from ellm.core.sequence import FinishReason, Sequence, SequenceStatus
from ellm.obs.goodput import Goodput
from ellm.scheduling.coefficients import Coefficients
from ellm.scheduling.cost import StepCost
from ellm.scheduling.policy import Policy
from ellm.scheduling.queue import WaitingQueue

# A thousand tokens of prompt take 0.11 s, a decoding step with a few sequences 0.01 s.
MACHINE = Coefficients.even(token=1e-4, attention=0.0, kv_token=1e-7, sequence=1e-4, step=0.01)


def known_cost() -> StepCost:
    """A step-time model that knows MACHINE from the start."""
    return StepCost(prior=MACHINE)


@dataclass(slots=True)
class SmallServer:
    """Runs `policy` on MACHINE and teaches `cost`; `memory` is in tokens of KV."""

    policy: Policy
    objectives: Objectives = field(default_factory=Objectives)
    memory: int = 10**9
    cost: StepCost = field(default_factory=known_cost)
    now: float = 0.0
    running: list[Sequence] = field(default_factory=list)
    done: list[Sequence] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    ids: count[int] = field(default_factory=count)
    queue: WaitingQueue = field(init=False)
    goodput: Goodput = field(init=False)

    def __post_init__(self) -> None:
        self.queue = WaitingQueue(self.policy.rank)
        self.goodput = Goodput(self.objectives, 0.0)

    def submit(
        self,
        prompt: int,
        output: int,
        arrival: float | None = None,
        priority: int = 0,
        objectives: Objectives | None = None,
    ) -> Sequence:
        """A request that ends after exactly `output` tokens."""
        number = next(self.ids)
        request = Request(
            request_id=f"r{number}",
            prompt=(0,) * prompt,
            params=SamplingParams(max_tokens=output),
            arrival=self.now if arrival is None else arrival,
            priority=priority,
            objectives=objectives,
        )
        sequence = Sequence(number, request)
        self.queue.push(sequence)
        return sequence

    def step(self) -> None:
        """One step; time passes a little even if nobody can run."""
        decoding = [s for s in self.running if s.uncomputed == 1 and s.num_output]
        load = StepLoad()
        for sequence in decoding:
            load = load.with_sequence(1, len(sequence.tokens))
        grants = dict.fromkeys(decoding, 1)
        load = self._prefill(load, decoding, grants)
        seconds = MACHINE.seconds(load) if load.sequences else 0.001
        self.now += seconds
        if not load.sequences:
            return
        self.steps.append(seconds)
        for sequence, tokens in grants.items():
            sequence.computed += tokens
            if sequence.uncomputed == 0:
                self._emit(sequence)
        self.cost.observe(load, seconds)
        self.policy.stepped(load, seconds)

    def _prefill(
        self, load: StepLoad, decoding: list[Sequence], grants: dict[Sequence, int]
    ) -> StepLoad:
        begun = [s for s in self.running if s not in grants]
        for sequence in sorted(begun, key=lambda s: self.policy.rank(s, self.now)):
            load = self._grant(sequence, load, decoding, grants)
        skipped = []
        for sequence in self.queue.drain(self.now):
            room = self.memory - sum(s.request.max_length for s in self.running)
            before = load
            if sequence.request.max_length <= room:
                load = self._grant(sequence, load, decoding, grants)
            if load is before:
                skipped.append(sequence)
                stuck = self.policy.must_wait_for(sequence, self.now)
                if stuck or not self.policy.skips or len(skipped) > 16:
                    break
            else:
                sequence.status = SequenceStatus.RUNNING
                if sequence.first_scheduled is None:
                    sequence.first_scheduled = self.now
                self.running.append(sequence)
        for sequence in skipped:
            self.queue.push(sequence)
        return load

    def _grant(
        self,
        sequence: Sequence,
        load: StepLoad,
        decoding: list[Sequence],
        grants: dict[Sequence, int],
    ) -> StepLoad:
        most = min(sequence.uncomputed, 8192 - load.tokens)
        tokens = self.policy.prefill_tokens(sequence, load, decoding, self.now, most)
        assert 0 <= tokens <= most
        if not tokens:
            return load
        grants[sequence] = tokens
        return load.with_sequence(tokens, sequence.computed + tokens)

    def _emit(self, sequence: Sequence) -> None:
        sequence.tokens.append(0)
        self.policy.token(sequence, self.now)
        if sequence.first_token is None:
            sequence.first_token = self.now
        sequence.last_token = self.now
        if sequence.num_output == sequence.request.max_tokens:
            sequence.finish_reason = FinishReason.LENGTH
            self.running.remove(sequence)
            self.done.append(sequence)
            self.policy.finished(sequence)
            self.goodput.finished(sequence, self.now)

    def finish(self, most: int = 100_000) -> None:
        """Step until everyone is served."""
        for _ in range(most):
            if not self.running and not len(self.queue):
                return
            self.step()
        raise AssertionError(f"{len(self.running)} run and {len(self.queue)} wait at {self.now}")
