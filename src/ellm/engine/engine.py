"""The loop: plan, execute, commit.

    step    tidy      what the last step left undone: unmap, map ahead, keep some memory free
            plan      the scheduler grants tokens, KV rows and a workspace, all or none
            execute   the executor computes them
            commit    tokens are appended, prefixes published, the finished freed

One thread calls this.  Nothing here knows what a tensor is.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import replace
from itertools import count

from ellm.core.clock import Clock
from ellm.core.config import ElasticPart, MemoryMode, SchedulerConfig
from ellm.core.errors import ContextOverflow, DriverError, QueueFull
from ellm.core.executor import Executor
from ellm.core.objectives import Objectives
from ellm.core.output import SequenceOutput
from ellm.core.plan import SequenceStep, StepPlan
from ellm.core.request import Request
from ellm.core.result import SequenceResult, StepResult, TokenLogprobs
from ellm.core.sequence import FinishReason, Sequence
from ellm.engine.assembly import EngineMemory
from ellm.engine.finish import finish_reason
from ellm.engine.fit import fix_shares, require_context
from ellm.engine.housekeeper import Housekeeper
from ellm.engine.recorder import Recorder
from ellm.obs.goodput import Goodput
from ellm.obs.snapshot import EngineSnapshot
from ellm.obs.stats import EngineStats
from ellm.scheduling.choose import choose_policy
from ellm.scheduling.cost import StepCost
from ellm.scheduling.displacement import Displacement
from ellm.scheduling.scheduler import Scheduler
from ellm.scheduling.slo import SloPolicy

SEED_BITS = 63


class Engine:
    """Requests in, tokens out, over one memory and one executor.

    Raises BudgetError when the longest context cannot fit the memory.  `seed` decides the seeds
    of requests that bring none.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        memory: EngineMemory,
        executor: Executor,
        clock: Clock,
        seed: int = 0,
        cost: StepCost | None = None,
    ) -> None:
        if memory.config.mode is MemoryMode.STATIC:
            fix_shares(memory, executor.activation_bytes, config)
        require_context(memory, executor.activation_bytes, config.max_model_len)
        if config.max_num_batched_tokens or not memory.config.uses(ElasticPart.PREFILL):
            config = replace(config, max_num_batched_tokens=config.step_tokens)
        self.config = config
        self.clock = clock
        wished = Objectives(ttft=config.ttft_slo, tpot=config.tpot_slo)
        self.goodput = Goodput(wished, clock.now())
        self.stats = EngineStats(elastic=memory.kv.room.stats, goodput=self.goodput)
        self._memory = memory
        self._executor = executor
        self._keeper = Housekeeper(memory)
        self._cost = cost or StepCost()
        self._policy = choose_policy(config, self._cost, memory.bytes_below)
        parks = memory.config.uses(ElasticPart.PARK)
        displacement = None
        if parks and memory.bytes_below and isinstance(self._policy, SloPolicy):
            displacement = Displacement(memory.kv, self._policy, self._cost)
        self._scheduler = Scheduler(
            config,
            memory.kv,
            executor.activation_bytes,
            self._policy,
            self._cost,
            parks,
            displacement,
        )
        self._recorder = Recorder(self.stats, clock)
        self._random = random.Random(seed)
        self._ids = count()
        self._requests: dict[str, list[Sequence]] = {}
        self._sequences: dict[int, Sequence] = {}
        self._news: list[SequenceOutput] = []
        self._stalled = False
        self._latest: float | None = None

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to run or to report."""
        return bool(self._sequences) or bool(self._news)

    @property
    def request_ids(self) -> list[str]:
        """Requests that have not ended."""
        return list(self._requests)

    @property
    def obstacle(self) -> DriverError | None:
        """Why the last step ran nothing though there was work; None if it did, or there was none.

        The budget always holds one sequence, so it is the machine that has less than the budget.
        """
        if not self._stalled:
            return None
        return self._memory.pool.refusal or DriverError("no memory for a single step")

    @property
    def latest_step(self) -> float:
        """When the next step must begin to keep every objective that can be kept, as of the last
        step or request.  Infinite if none depends on it.
        """
        if self._latest is None:
            self._latest = self._policy.latest_step(self._sequences.values(), self.clock.now())
        return self._latest

    @property
    def num_waiting(self) -> int:
        return len(self._scheduler.waiting)

    def check_request(self, request: Request, queued: int = 0) -> None:
        """Raise ContextOverflow or QueueFull if `submit` would; `queued` are on their way in."""
        if request.max_length > self.config.max_model_len:
            raise ContextOverflow(
                f"{len(request.prompt)} prompt tokens and {request.max_tokens} to generate make "
                f"{request.max_length}, above the context of {self.config.max_model_len} tokens",
                "max_tokens",
            )
        limit = self.config.max_num_queued_reqs
        # A request that can start at once does not queue.
        idle = max(0, self.config.max_num_seqs - len(self._scheduler.running))
        if limit is not None and self.num_waiting + queued >= limit + idle:
            self.stats.rejections += 1
            raise QueueFull(f"{self.num_waiting + queued} requests wait already; try again later")

    def submit(self, request: Request) -> None:
        """Queue a request.  Raises ContextOverflow or QueueFull, changing nothing."""
        assert request.request_id not in self._requests, request.request_id
        self.check_request(request)
        self.enqueue(request)

    def enqueue(self, request: Request) -> None:
        """Queue a request that `check_request` has let in."""
        self._latest = None
        seed = request.params.seed
        seed = self._random.getrandbits(SEED_BITS) if seed is None else seed
        sequences: list[Sequence] = []
        for index in range(request.params.n):
            parent = sequences[0] if sequences else None
            sequence = Sequence(next(self._ids), request, index, seed + index, parent)
            sequences.append(sequence)
            self._sequences[sequence.seq_id] = sequence
            self._scheduler.add(sequence)
        self._requests[request.request_id] = sequences

    def abort(self, request_id: str, index: int | None = None) -> None:
        """End a request, or one choice of it.  Its memory is free on return.

        An unknown or finished one is ignored.  The next `step` reports the end.
        """
        self._cut(request_id, index, FinishReason.ABORT)

    def stop(self, request_id: str, index: int) -> None:
        """End a choice whose text has reached a stop string; otherwise as `abort`."""
        self._cut(request_id, index, FinishReason.STOP)

    def _cut(self, request_id: str, index: int | None, reason: FinishReason) -> None:
        self._latest = None
        for sequence in list(self._requests.get(request_id, ())):
            if index is None or sequence.index == index:
                self._end(sequence, reason)
                self._news.append(_news(sequence))

    def step(self) -> list[SequenceOutput]:
        """Run one step if anything can run, and report what happened since the last call."""
        plan = self.begin()
        return self.news() if plan is None else self.finish(plan)

    def begin(self) -> StepPlan | None:
        """The next step with all its memory, to be given to `finish`; None if nothing can run.

        Whoever runs several engines as one (the simulator) looks at all their plans in between.
        """
        self._latest = None
        self._keeper.tidy(self._scheduler.running)
        with self._keeper.critical():
            plan = self._plan()
            self._stalled = bool(self._sequences) and (plan is None or not self._inflate(plan))
        return None if self._stalled else plan

    def finish(self, plan: StepPlan) -> list[SequenceOutput]:
        """Run what `begin` has planned, and report what happened since the last report."""
        news = self.news()
        started = self.clock.now()
        self._recorder.planned(self._planned(plan))
        news += self._commit(plan, *self._execute(plan))
        self._recorder.stepped(plan.shape.tokens, started, self._scheduler.preemptions)
        seconds = self.clock.now() - started
        self._cost.observe(plan.load, seconds)
        self.stats.step_time_error = self._cost.error
        self._policy.stepped(plan.load, seconds)
        return news

    def news(self) -> list[SequenceOutput]:
        """What happened between steps and was not reported yet."""
        news, self._news = self._news, []
        return news

    def _plan(self) -> StepPlan | None:
        """The next step; None if nothing can run, though it may when copies have ended."""
        while self._memory.pool.free < 0:  # the budget was lowered
            self._memory.kv.room.step_is_over()
            if not self._memory.balloon.shrink() and not self._scheduler.yield_memory():
                break
        plan = self._scheduler.schedule(self.clock.now())
        while plan is None and self._scheduler.has_work and self._memory.kv.wait():
            plan = self._scheduler.schedule(self.clock.now())
        return plan

    def _inflate(self, plan: StepPlan) -> bool:
        """Give the step its workspace; False only if the machine has less than the budget says."""
        need = self._executor.activation_bytes(plan.shape)
        workspace, pool = self._memory.workspace, self._memory.pool
        try:
            return workspace.grow(need)
        except DriverError as refusal:
            pool.refusal = refusal
            return False

    def _execute(self, plan: StepPlan) -> tuple[StepResult, Collection[int]]:
        """The step's results, and the sequences whose KV was lost while it ran."""
        ferry = self._memory.kv.ferry(plan)
        if ferry is None:
            return self._executor.execute(plan), ()
        result = self._executor.execute(plan, ferry)
        return result, ferry.finish()

    def _planned(self, plan: StepPlan) -> list[Sequence]:
        return [self._sequences[step.seq_id] for step in plan.steps]

    def _commit(
        self, plan: StepPlan, result: StepResult, lost: Collection[int]
    ) -> list[SequenceOutput]:
        now = self.clock.now()
        for seq_id in lost:
            self._scheduler.start_over(self._sequences[seq_id])
        pairs = zip(plan.steps, result.sequences, strict=True)
        outputs = [
            self._commit_one(step, answer, now) for step, answer in pairs if step.seq_id not in lost
        ]
        return [output for output in outputs if output is not None]

    def _commit_one(
        self, step: SequenceStep, answer: SequenceResult, now: float
    ) -> SequenceOutput | None:
        assert step.seq_id == answer.seq_id, (step.seq_id, answer.seq_id)
        sequence = self._sequences[step.seq_id]
        scores = _fresh(sequence, answer.scores) if answer.scores else ()
        sequence.computed = step.length
        self._memory.kv.publish(step.seq_id, sequence.tokens, step.length, sequence.salt)
        if answer.token is None:
            return _news(sequence, answer, scores) if scores else None
        sequence.tokens.append(answer.token)
        self._policy.token(sequence, now)
        self._recorder.token(sequence, now)
        reason = finish_reason(sequence)
        if reason is not None:
            self._end(sequence, reason)
        return _news(sequence, answer, scores)

    def _end(self, sequence: Sequence, reason: FinishReason) -> None:
        """Take a sequence out and free its memory."""
        sequence.finish_reason = reason
        self._scheduler.remove(sequence, keep_prefix=reason is not FinishReason.ABORT)
        self._policy.finished(sequence)
        self._recorder.finished(sequence)
        self.goodput.finished(sequence, self.clock.now())
        del self._sequences[sequence.seq_id]
        siblings = self._requests[sequence.request.request_id]
        siblings.remove(sequence)
        if not siblings:
            del self._requests[sequence.request.request_id]

    @property
    def is_idle(self) -> bool:
        """Whether no request is here."""
        return not self._sequences

    def rest(self) -> int:
        """Give idle memory back to the machine; how many bytes.  For when there is no work.

        Kept prefixes stay.
        """
        self._memory.workspace.clear()
        self._memory.kv.rest()
        self._keeper.settle()
        released = self._memory.pool.trim()
        if self._memory.tiers is not None:
            self._memory.tiers.trim()
        self._memory.kv.check()
        return released

    def release_idle(self) -> int:
        """As `rest`, and kept prefixes go too: below, or for good where that has no room."""
        if self._memory.kv.kept is not None:
            self._memory.kv.kept.sink()
        return self.rest()

    def yield_memory(self) -> bool:
        """Let the latest arrival that runs give up its memory for a while; whether one did."""
        return self._scheduler.yield_memory()

    def require_context(self) -> None:
        """Raise BudgetError if the longest context does not fit the budget as it is now."""
        price = self._executor.activation_bytes
        require_context(self._memory, price, self.config.max_model_len)

    def dispose(self) -> None:
        """Give KV and activations back, with their addresses; of no use afterwards."""
        self._memory.dispose()

    def check(self) -> None:
        """Assert that the books balance."""
        self._memory.kv.check()
        self._memory.workspace.check()

    def snapshot(self) -> EngineSnapshot:
        kv = self._memory.kv
        return EngineSnapshot(
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            parked=kv.parked,
            tier=self._memory.tier,
            kv_usage=kv.usage,
            kv_waste=kv.waste,
            memory=self._memory.pool.snapshot(),
            owners=self._memory.holdings,
            idle=kv.room.idle,
            running_bytes=kv.token_bytes * sum(each.computed for each in self._scheduler.running),
        )

    def close(self) -> None:
        """Release all memory at once.  The engine is of no use afterwards."""
        if self._memory.tiers is not None:
            self._memory.tiers.close()
        self._memory.pool.driver.close()


def _news(
    sequence: Sequence,
    answer: SequenceResult | None = None,
    scores: tuple[TokenLogprobs, ...] = (),
) -> SequenceOutput:
    """What just happened to `sequence`, its end included."""
    return SequenceOutput(
        sequence.request.request_id,
        sequence.index,
        answer.token if answer else None,
        answer.logprobs if answer else None,
        scores,
        sequence.finish_reason,
        sequence.cached,
    )


def _fresh(sequence: Sequence, scores: tuple[TokenLogprobs, ...]) -> tuple[TokenLogprobs, ...]:
    """Those that were not reported before a preemption, after which they are computed again."""
    fresh = scores[max(0, sequence.prompt_scored - sequence.computed) :]
    sequence.prompt_scored += len(fresh)
    return fresh
