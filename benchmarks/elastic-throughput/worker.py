"""One arm: an engine that is filled with requests and then decodes.

opening    {"arguments": EngineArgs, "work": {"parameters": 462_000_000, "attention_width": 21_504},
            "layers": 28}; `work` may say what device it is (skipped.Work)
question   {"input": 1024, "outputs": [256], "requests": 64, "rehearse": 128, "steps": 6},
           and "computing" if a prompt among those steps shall be computed, as it is in a server
answer     tokens a second in those steps, and memory by owner after them; sequences at once and
           time in driver calls over all steps since everyone who fits was decoding

Nothing is computed until every sequence that fits is decoding, and for `rehearse` steps after
that; then come `steps` steps in which every decoding is.  With outputs of many lengths sequences
end meanwhile and others take their place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter

from skipped import SkippedPrefill, SkippingClock, Work

from ellm.core.executor import Executor
from ellm.core.request import Request
from ellm.core.sampling import SamplingParams
from ellm.engine.engine import Engine
from ellm.llm.args import EngineArgs
from ellm.llm.build import build
from harness.worker import Json, serve

# So many decoding steps in a row without a prompt: nobody else fits.
SETTLED = 4
# Real steps before the measured ones: shapes are met for the first time.
WARM_UP = 2


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did, and what of its time went to the driver."""

    decoding: int
    prefilling: int
    seconds: float
    critical: float
    tidy: float


class Bench:
    """An engine, stepped by hand."""

    def __init__(self, opening: Json) -> None:
        self.clock = SkippingClock()
        work = Work(**opening["work"])
        made: list[SkippedPrefill] = []

        def around(runner: Executor) -> Executor:
            made.append(SkippedPrefill(runner, self.clock, work, opening["layers"]))
            return made[-1]

        args = EngineArgs(**opening["arguments"])
        self.engine: Engine = build(args, clock=self.clock, around=around).engine
        (self.executor,) = made

    def step(self) -> Step:
        elastic = self.engine.stats.elastic
        critical, tidy = elastic.critical_driver.total, elastic.tidy_driver.total
        self.executor.decoding = self.executor.prefilling = 0
        start = perf_counter()
        self.engine.step()
        seconds = perf_counter() - start
        assert self.engine.obstacle is None, self.engine.obstacle
        return Step(
            self.executor.decoding,
            self.executor.prefilling,
            seconds,
            elastic.critical_driver.total - critical,
            elastic.tidy_driver.total - tidy,
        )

    def submit(self, question: Json) -> list[str]:
        prompt = tuple(3 + index % 200 for index in range(question["input"]))
        outputs, names = question["outputs"], []
        for index in range(question["requests"]):
            params = SamplingParams(
                max_tokens=outputs[index % len(outputs)], temperature=0, ignore_eos=True
            )
            names.append(str(index))
            self.engine.submit(
                Request(
                    request_id=names[-1], prompt=prompt, params=params, arrival=self.clock.now()
                )
            )
        return names

    def fill(self) -> list[Step]:
        """Step without computing until everyone who fits decodes."""
        steps: list[Step] = []
        while len(steps) < SETTLED or any(step.prefilling for step in steps[-SETTLED:]):
            steps.append(self.step())
        return steps

    def clear(self, names: list[str]) -> None:
        """End every request and give all memory back."""
        for name in names:
            self.engine.abort(name)
        self.engine.step()
        self.engine.rest()
        self.engine.check()

    def answer(self, question: Json) -> Json:
        names = self.submit(question)
        before = self.engine.stats.preemptions
        self.executor.rehearsing = True
        filling = self.fill()
        later = [self.step() for _ in range(question["rehearse"])]
        self.executor.rehearsing = False
        self.executor.computing = question.get("computing", False)
        later += [self.step() for _ in range(WARM_UP + question["steps"])]
        self.executor.computing = False
        steps = later[-question["steps"] :]
        memory = self.memory()
        preemptions = self.engine.stats.preemptions - before
        self.clear(names)
        return {
            "batch": median(step.decoding for step in later),
            "most": max(step.decoding for step in filling + later),
            "tokens_per_second": median(step.decoding / step.seconds for step in steps),
            "step_seconds": [round(step.seconds, 5) for step in steps],
            "prompts_in_steps": sum(step.prefilling for step in steps),
            "preemptions": preemptions,
            "memory": memory,
            "critical_driver": percentiles([step.critical for step in later]),
            "tidy_driver": percentiles([step.tidy for step in later]),
        }

    def memory(self) -> Json:
        """Bytes by owner, what could be given back, and what nobody holds."""
        now = self.engine.snapshot()
        size = now.memory.chunk_bytes
        return {
            **{name: count * size for name, count in now.owners.items()},
            "idle": {name: count * size for name, count in now.idle.items() if count},
            "free": now.memory.free * size,
            "below": now.tier.used if now.tier is not None else 0,
            "kv_waste": round(now.kv_waste, 4),
        }


def percentiles(values: list[float]) -> Json:
    """Median and 99th percentile, in microseconds."""
    ordered = sorted(values)
    return {
        "p50_us": round(1e6 * median(ordered), 1),
        "p99_us": round(1e6 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 1),
    }


def load(opening: Json) -> Callable[[Json], Json]:
    return Bench(opening).answer


if __name__ == "__main__":
    serve(load)
