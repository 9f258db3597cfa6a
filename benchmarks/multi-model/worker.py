"""All models in one process (harness/worker.py): who is asked when, what came back, who held what.

opening    {"models": [EngineArgs as JSON, …], "idle_release": seconds or null}
question   {"replay": {"seed", "speed", "count"}}   the trace, at its times
           {"bursts": {"items"}}                    others than the trace's (bursts.py)
           {"alone": {"seed", "each"}}              some requests of each model, one at a time
           {"wait": seconds}                        nothing, to see what is still held afterwards
answer     see Replay.answer, alone, wait
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from household import name_of, workload

from ellm.cli.bench.question import Question
from ellm.core.sampling import SamplingParams
from ellm.llm.args import EngineArgs
from ellm.llm.fleet import AsyncFleet
from ellm.obs.models import ModelState
from harness.worker import Json, serve

SAMPLE_SECONDS = 0.5
PACE_TOKENS = 8
# How long to wait for the last answers after the last request: beyond it, something hangs.
PATIENCE_SECONDS = 600.0


def resident_bytes() -> int:
    """Real memory of this process, shared mappings included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Replay:
    """One run through the trace."""

    def __init__(self, fleet: AsyncFleet, items: list[Question]) -> None:
        self._fleet = fleet
        self._items = items
        self._start = 0.0
        self._requests: list[Json] = [{} for _ in items]
        self._memory: list[Json] = []
        self._wakes: list[float] = []

    async def run(self) -> None:
        sampler = asyncio.create_task(self._sample())
        self._start = time.perf_counter()
        asked = [self._ask(number, item) for number, item in enumerate(self._items)]
        last = self._items[-1].arrival
        await asyncio.wait_for(asyncio.gather(*asked), last + PATIENCE_SECONDS)
        sampler.cancel()
        with suppress(asyncio.CancelledError):
            await sampler

    async def _ask(self, number: int, item: Question) -> None:
        """Times count from when the request was due, so that a late client is not forgiven."""
        due = self._start + item.arrival
        await asyncio.sleep(due - time.perf_counter())
        outcome = self._requests[number]
        outcome["model"] = item.model
        try:
            outcome["ttft"], outcome["tpot"] = await ask(self._fleet, item, due)
        except Exception as error:
            outcome["error"] = f"{type(error).__name__}: {error}"

    async def _sample(self) -> None:
        """Bytes by model and in all, and how long those took to wake that did."""
        last = {info.name: info.wake_seconds for info in self._fleet.models}
        while True:
            models = self._fleet.models
            self._memory.append(
                {
                    "t": round(time.perf_counter() - self._start, 2),
                    "held": [sum(info.held.values()) for info in models],
                    "asleep": sum(info.state is ModelState.ASLEEP for info in models),
                    "physical": self._fleet.memory().physical_bytes,
                    "rss": resident_bytes(),
                }
            )
            for info in models:
                if info.wake_seconds is not None and info.wake_seconds != last[info.name]:
                    self._wakes.append(info.wake_seconds)
                    last[info.name] = info.wake_seconds
            await asyncio.sleep(SAMPLE_SECONDS)

    def answer(self) -> Json:
        return {
            "requests": self._requests,
            "memory": self._memory,
            "wakes": self._wakes,
            "seconds": time.perf_counter() - self._start,
        }


async def ask(fleet: AsyncFleet, item: Question, due: float) -> tuple[float, float]:
    """Seconds from `due` to the first token, and between those that follow (0 for a single one)."""
    params = SamplingParams(
        max_tokens=item.output_len, temperature=0, ignore_eos=True, detokenize=False
    )
    prompt = {"prompt_token_ids": list(item.prompt)}
    first = last = 0.0
    made = 0
    async for output in fleet.backend(name_of(item.model)).generate(
        prompt, params, "request", delta=True
    ):
        last = time.perf_counter()
        first = first or last
        made += sum(len(choice.token_ids) for choice in output.outputs)
    assert made == item.output_len, (made, item.output_len)
    return first - due, (last - first) / max(1, made - 1)


async def alone(fleet: AsyncFleet, seed: int, each: int) -> Json:
    """(ttft, tpot) of up to `each` requests of every model, with nobody else there.

    Answers are long enough to have a pace.
    """
    found: dict[int, list[tuple[float, float]]] = {}
    for short in workload(seed):
        item = replace(short, output_len=max(short.output_len, PACE_TOKENS))
        times = found.setdefault(item.model, [])
        if not times:  # the first one of a model warms it up
            await ask(fleet, item, time.perf_counter())
        if len(times) < each:
            times.append(await ask(fleet, item, time.perf_counter()))
    return {"alone": found}


def wait(fleet: AsyncFleet, seconds: float) -> Json:
    time.sleep(seconds)
    states = [info.state for info in fleet.models]
    return {
        "physical": fleet.memory().physical_bytes,
        "rss": resident_bytes(),
        "asleep": sum(state is ModelState.ASLEEP for state in states),
    }


def given(items: Sequence[Sequence[Any]]) -> list[Question]:
    """From what JSON carried: prompt, output_len, arrival and model of each."""
    return [Question(*item) for item in items]


def load(opening: Json) -> Callable[[Json], Json]:
    before = resident_bytes()
    models = [EngineArgs(**arguments) for arguments in opening["models"]]
    fleet = AsyncFleet(models, idle_release=opening["idle_release"])

    def answer(question: Json) -> Json:
        ((kind, settings),) = question.items()
        if kind == "wait":
            return wait(fleet, settings)
        if kind == "alone":
            return asyncio.run(alone(fleet, **settings))
        items = workload(**settings) if kind == "replay" else given(**settings)
        replay = Replay(fleet, items)
        asyncio.run(replay.run())
        return {**replay.answer(), "rss_before": before}

    return answer


if __name__ == "__main__":
    serve(load)
