"""Requests that come one after another to an engine that is full already.

A queue that begins with an empty engine needs minutes until memory is short.  So as many requests
as fit are put in first, with answers of which less and less is left, and their prompts are not
computed; from then on everything is.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from settings import TPOT, TTFT
from worker import SETTLED, Bench

from ellm.core.request import Request
from ellm.core.sampling import SamplingParams
from ellm.obs.spread import percentile
from ellm.sim.workload.arrivals import arrivals

Json = dict[str, Any]
# Seconds after the last arrival in which first tokens still count.
GRACE = 4.0
# Computed steps before the first request: kernels are compiled, the first heights captured.
WARM_UP = 6


@dataclass(slots=True)
class Told:
    """When a request came, and when its tokens did; seconds after the start."""

    arrival: float
    first: float | None = None
    last: float = 0.0
    tokens: int = 0

    def token(self, now: float) -> None:
        self.first = now if self.first is None else self.first
        self.last = now
        self.tokens += 1


class Online:
    """Loads one engine, at one rate after the other."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._engine = bench.engine

    def prompt_seconds(self, tokens: int) -> float:
        """Of one prompt, computed alone; the second of two."""
        self._bench.executor.computing = True
        seconds = 0.0
        for number in range(2):
            self._submit(f"alone {number}", tokens, 1)
            start = time.perf_counter()
            while self._engine.has_work:
                self._engine.step()
            seconds = time.perf_counter() - start
        self._bench.executor.computing = False
        return seconds

    def run(
        self, *, rate: float, prompt: int, output: int, standing: int, seconds: float, seed: int
    ) -> Json:
        """What became of those who came within `seconds`, `rate` a second on average."""
        rng = random.Random(seed)
        names = [f"standing {number}" for number in range(standing)]
        left = sorted((rng.randrange(output // 8, output) for _ in names), reverse=True)
        self._bench.executor.rehearsing = True
        # One by one, as if each had come when there was room: nobody is late who has an objective.
        # Those with the most to say first, for they say some of it meanwhile.
        for name, tokens in zip(names, left, strict=True):
            self._submit(name, prompt, tokens)
            settle(self._bench, quiet=1)
        settle(self._bench, quiet=SETTLED)
        self._bench.executor.rehearsing = False
        self._bench.executor.computing = True
        for _ in range(WARM_UP):
            self._bench.step()
        before = self._engine.stats.preemptions
        came = arrivals(2 + round(2 * rate * seconds), rate, seed)
        due = [at for at in came if at < seconds] or [0.0]
        told, produced, lasted = self._serve(due, prompt, output, seconds)
        self._bench.executor.computing = False
        self._bench.clear([*names, *told])
        return {
            **figures(list(told.values()), rate, lasted),
            "standing": standing,
            "output_rate": produced / lasted,
            "preemptions": self._engine.stats.preemptions - before,
            "swapped": self._engine.stats.elastic.swapped,
        }

    def _submit(self, name: str, prompt: int, output: int, arrival: float | None = None) -> None:
        tokens = tuple(3 + place % 200 for place in range(prompt))
        params = SamplingParams(max_tokens=output, temperature=0, ignore_eos=True)
        now = self._engine.clock.now() if arrival is None else arrival
        self._engine.submit(Request(request_id=name, prompt=tokens, params=params, arrival=now))

    def _serve(
        self, due: Sequence[float], prompt: int, output: int, seconds: float
    ) -> tuple[Mapping[str, Told], int, float]:
        """Step until the window and its grace are over, or nobody who came in it waits; requests by
        name, tokens that all had, and how long it lasted."""
        clock, told, produced = self._engine.clock, dict[str, Told](), 0
        start = clock.now()
        now = 0.0
        while now < seconds + GRACE:
            while len(told) < len(due) and due[len(told)] <= now:
                name, arrival = f"came {len(told)}", due[len(told)]
                told[name] = Told(arrival)
                self._submit(name, prompt, output, start + arrival)
            if now > seconds and all(each.first is not None for each in told.values()):
                break
            if not self._engine.has_work:
                time.sleep(0.001)  # nothing to do until the next one is due
            for news in self._engine.step() if self._engine.has_work else ():
                if news.token is not None:
                    produced += 1
                    if news.request_id in told:
                        told[news.request_id].token(clock.now() - start)
            now = clock.now() - start
        return told, produced, now


def settle(bench: Bench, quiet: int) -> None:
    """Step without computing until there were so many steps without a prompt: everyone who fits
    decodes."""
    passed = 0
    while passed < quiet and bench.engine.has_work:
        passed = 0 if bench.step().prefilling else passed + 1


def figures(told: Sequence[Told], rate: float, lasted: float) -> Json:
    """Seconds.  Who has no token yet has waited until the end, and counts with that."""
    ttfts = [(lasted if each.first is None else each.first) - each.arrival for each in told]
    tpots = [
        (each.last - each.first) / (each.tokens - 1)
        for each in told
        if each.first is not None and each.tokens > 1
    ]
    met = sum(
        each.first is not None
        and each.first - each.arrival <= TTFT
        and (each.last - each.first) / max(1, each.tokens - 1) <= TPOT
        for each in told
    )
    return {
        "requests": len(told),
        "unanswered": sum(each.first is None for each in told),
        "met": met / len(told),
        "goodput": met / len(told) * rate,
        "ttft_mean": fmean(ttfts),
        "ttft_p50": percentile(ttfts, 0.5),
        "ttft_p99": percentile(ttfts, 0.99),
        "tpot_mean": fmean(tpots) if tpots else None,
    }
