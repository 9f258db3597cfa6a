"""One arm: an engine that is filled with requests and then decodes.

opening    {"arguments": EngineArgs, "parameters": 462_000_000, "attention_width": 21_504}
question   {"input": 1024, "outputs": [256], "steps": 10, "requests": 64, "fill": true}
answer     tokens a second, sequences at once, memory by owner, time in driver calls

With `fill` nothing is computed until every sequence that fits is decoding; then `steps` steps are.
Without, every decoding is computed from the first, while sequences end and others take their place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

from harness.worker import Json, serve
from skipped import SkippedPrefill, SkippingClock, Work

from ellm.core.request import Request
from ellm.core.sampling import SamplingParams
from ellm.engine.engine import Engine
from ellm.llm.args import EngineArgs
from ellm.llm.build import build

# So many decoding steps in a row without a prompt: nobody else fits.
SETTLED = 4
# Real steps before the measured ones: shapes are met for the first time.
WARM_UP = 2
MOST_STEPS = 20_000


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
        clock = SkippingClock()
        work = Work(opening["parameters"], opening["attention_width"])
        holder: list[SkippedPrefill] = []

        def around(runner: Any) -> SkippedPrefill:
            holder.append(SkippedPrefill(runner, clock, work))
            return holder[0]

        built = build(EngineArgs(**opening["arguments"]), clock=clock, around=around)
        self.engine: Engine = built.engine
        self.executor = holder[0]
        self.clock = clock

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

    def fill(self) -> int:
        """Step without computing until everyone who fits decodes; most sequences at once."""
        self.executor.rehearsing = True
        in_a_row = most = 0
        for _ in range(MOST_STEPS):
            step = self.step()
            most = max(most, step.decoding)
            in_a_row = 0 if step.prefilling else in_a_row + 1
            if in_a_row == SETTLED:
                return most
        raise AssertionError(f"not settled after {MOST_STEPS} steps")

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
        most = self.fill() if question["fill"] else 0
        self.executor.rehearsing = False
        for _ in range(WARM_UP):
            self.step()
        steps = [self.step() for _ in range(question["steps"])]
        memory = self.memory()
        preemptions = self.engine.stats.preemptions - before
        self.clear(names)
        pure = [step for step in steps if not step.prefilling] if question["fill"] else steps
        tokens = sum(step.decoding for step in pure)
        return {
            "batch": median(step.decoding for step in pure),
            "most": max(most, *(step.decoding for step in steps)),
            "tokens_per_second": (
                median(step.decoding / step.seconds for step in pure)
                if question["fill"]
                else tokens / sum(step.seconds for step in pure)
            ),
            "step_seconds": [round(step.seconds, 5) for step in steps],
            "prompts_in_steps": sum(step.prefilling for step in steps),
            "preemptions": preemptions,
            "memory": memory,
            "critical_driver": percentiles([step.critical for step in steps]),
            "tidy_driver": percentiles([step.tidy for step in steps]),
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
