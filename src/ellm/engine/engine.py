"""The loop: plan, launch, land.

    step    tidy      what the last step left undone: unmap, map ahead, keep some memory free
            plan      the scheduler grants tokens, KV rows and a workspace, all or none
            launch    the executor computes them
            land      tokens are told, prefixes published, the finished freed

An executor that runs ahead computes one step while the next is planned and launched: then it is the
step before that lands (engine/underway.py).

One thread calls this.  Nothing here knows what a tensor is.
"""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import count

from ellm.core.clock import Clock
from ellm.core.config import ElasticPart, MemoryMode, SchedulerConfig
from ellm.core.errors import ContextOverflow, DriverError, QueueFull
from ellm.core.executor import Executor
from ellm.core.objectives import Objectives
from ellm.core.output import SequenceOutput
from ellm.core.plan import SequenceStep, StepPlan, awaited
from ellm.core.request import Request
from ellm.core.result import SequenceResult
from ellm.core.sequence import FinishReason, Sequence, choices_of
from ellm.engine.assembly import EngineMemory
from ellm.engine.finish import finish_reason
from ellm.engine.fit import fix_shares, require_context
from ellm.engine.housekeeper import Housekeeper
from ellm.engine.news import fresh_scores, news_of
from ellm.engine.recorder import Recorder
from ellm.engine.underway import UnderWay
from ellm.obs.goodput import Goodput
from ellm.obs.snapshot import EngineSnapshot
from ellm.obs.stats import EngineStats
from ellm.scheduling.choose import choose_displacement, choose_policy
from ellm.scheduling.cost import StepCost
from ellm.scheduling.scheduler import Scheduler

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
        if parks and memory.bytes_below:
            displacement = choose_displacement(self._policy, memory.kv, self._cost)
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
        self._under_way: UnderWay | None = None
        self._landed = clock.now()

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to run or to report."""
        return bool(self._sequences) or bool(self._news)

    @property
    def is_idle(self) -> bool:
        """Whether no request is here."""
        return not self._sequences

    @property
    def request_ids(self) -> list[str]:
        """Requests that have not ended."""
        return list(self._requests)

    @property
    def obstacle(self) -> DriverError | None:
        """Why the last step ran nothing though there was work; None if it did, or there was none.

        The budget always holds one sequence: it is the machine that has less.
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
        self.check_request(request)
        self.enqueue(request)

    def enqueue(self, request: Request) -> None:
        """Queue a request that `check_request` has let in."""
        assert request.request_id not in self._requests, request.request_id
        self._latest = None
        if (seed := request.params.seed) is None:
            seed = self._random.getrandbits(SEED_BITS)
        sequences = self._requests[request.request_id] = choices_of(request, self._ids, seed)
        for sequence in sequences:
            self._sequences[sequence.seq_id] = sequence
            self._scheduler.add(sequence)

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
                if sequence.awaits_token:  # it will never be told
                    sequence.tokens.pop()
                self._end(sequence, reason)
                self._news.append(news_of(sequence))

    def step(self) -> list[SequenceOutput]:
        """Run one step if anything can run, and report what happened since the last call."""
        plan = self.begin()
        return self.news() if plan is None else self.finish(plan)

    def begin(self) -> StepPlan | None:
        """The next step with all its memory, to be given to `finish`; None if nothing can run.

        Whoever runs several engines as one (the simulator) looks at all their plans in between.
        """
        self._latest = None
        if self._under_way is not None and not self._under_way.foreseeable:
            self._land()
        self._keeper.tidy(self._scheduler.running)
        with self._keeper.critical():
            plan = self._plan()
            self._stalled = bool(self._sequences) and (plan is None or not self._inflate(plan))
        return None if self._stalled else plan

    def finish(self, plan: StepPlan) -> list[SequenceOutput]:
        """Run what `begin` has planned, and report what happened since the last report.

        If the executor runs ahead, the tokens of this step are told by the next call.
        """
        step = self._launch(plan)
        self._land()
        self._count_on(step)
        self._under_way = step
        if not self._executor.ahead:
            self._land()
        return self.news()

    def news(self) -> list[SequenceOutput]:
        """What happened between steps and was not reported yet."""
        news, self._news = self._news, []
        return news

    def _plan(self) -> StepPlan | None:
        """The next step; None if nothing can run."""
        while self._memory.pool.free < 0:  # the budget was lowered
            self._memory.kv.room.step_is_over()
            if not self._memory.balloon.shrink() and not self._scheduler.yield_memory():
                break
        plan = self._scheduler.schedule(self.clock.now())
        while plan is None and self._something_ends():
            plan = self._scheduler.schedule(self.clock.now())
        return plan

    def _something_ends(self) -> bool:
        """Wait for the step under way, or for a copy; False if nothing could make a difference."""
        if self._under_way is not None:
            self._land()
            return True
        return self._scheduler.has_work and self._memory.kv.wait()

    def _inflate(self, plan: StepPlan) -> bool:
        """Give the step its workspace; False only if the machine has less than the budget says."""
        need = self._executor.activation_bytes(plan.shape)
        workspace, pool = self._memory.workspace, self._memory.pool
        try:
            return workspace.grow(need)
        except DriverError as refusal:
            pool.refusal = refusal
            self._land()
            return False

    def _launch(self, plan: StepPlan) -> UnderWay:
        started = self.clock.now()
        sequences = [self._sequences[step.seq_id] for step in plan.steps]
        self._recorder.planned(sequences)
        ferry = self._memory.kv.ferry(plan)
        flight = self._executor.launch(plan, ferry)
        lost = () if ferry is None else ferry.finish()
        return UnderWay(plan, sequences, flight, started, lost)

    def _count_on(self, step: UnderWay) -> None:
        """Book what a step will have done when it lands."""
        ahead, place = self._executor.ahead, 0
        for sequence, part in zip(step.sequences, step.plan.steps, strict=True):
            task = part.task
            if task is not None:
                place += 1
            if sequence.finish_reason is not None:
                continue  # it has ended with the step before
            if part.seq_id in step.lost:
                self._scheduler.start_over(sequence)
                continue
            sequence.computed = part.length
            if task is None:
                continue
            sequence.tokens.append(awaited(place - 1))
            if ahead:
                step.foreseeable &= not task.params.reads_output
                if sequence.is_full:
                    self._scheduler.let_land(sequence)

    def _land(self) -> None:
        """Wait for the step under way, if there is one, and take down what it answers."""
        step, self._under_way = self._under_way, None
        if step is None:
            return
        answers = step.flight.result().sequences
        now = self.clock.now()
        for sequence, part, answer in zip(step.sequences, step.plan.steps, answers, strict=True):
            assert part.seq_id == answer.seq_id, (part.seq_id, answer.seq_id)
            if sequence.finish_reason is None and part.seq_id not in step.lost:
                self._take_down(sequence, part, answer, now)
        self._note_time(step)

    def _take_down(
        self, sequence: Sequence, part: SequenceStep, answer: SequenceResult, now: float
    ) -> None:
        token, length = answer.token, part.length
        scores = fresh_scores(sequence, part.start, answer.scores) if answer.scores else ()
        if token is not None:
            sequence.tokens[length] = token
        if sequence.computed >= length:  # it has not yielded its memory meanwhile
            self._memory.kv.publish(part.seq_id, sequence.tokens, length, sequence.salt)
        if token is not None:
            self._policy.token(sequence, now)
            self._recorder.token(sequence, now)
            reason = finish_reason(sequence)
            if reason is not None:
                self._end(sequence, reason)
        if token is not None or scores:
            self._news.append(news_of(sequence, answer, scores))

    def _note_time(self, step: UnderWay) -> None:
        """A step took from its launch, or from when the one before had landed, until now."""
        began, self._landed = max(step.started, self._landed), self.clock.now()
        seconds, load = self._landed - began, step.plan.load
        self._recorder.stepped(load.tokens, seconds, self._scheduler.preemptions)
        self._cost.observe(load, seconds)
        self.stats.step_time_error = self._cost.error
        self._policy.stepped(load, seconds)

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

    def rest(self) -> int:
        """Give idle memory back to the machine, kept prefixes left out; how many bytes.

        For when there is no work.
        """
        self._land()
        self._memory.workspace.clear()
        self._memory.kv.rest()
        self._keeper.settle()
        released, tiers = self._memory.pool.trim(), self._memory.tiers
        if tiers is not None:
            tiers.trim()
        self._memory.kv.check()
        return released

    def release_idle(self) -> int:
        """As `rest`, and kept prefixes go too: below, or for good where that has no room."""
        self._land()
        if (kept := self._memory.kv.kept) is not None:
            kept.sink()
        return self.rest()

    def yield_memory(self) -> bool:
        """Let the latest arrival that runs give up its memory for a while; whether one did."""
        return self._scheduler.yield_memory()

    def require_context(self) -> None:
        """Raise BudgetError if the longest context does not fit the budget as it is now."""
        limit = self.config.max_model_len
        require_context(self._memory, self._executor.activation_bytes, limit)

    def dispose(self) -> None:
        """Give KV and activations back, with their addresses; of no use afterwards."""
        self._land()
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
        self._memory.close()
