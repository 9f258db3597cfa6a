"""One arm: an engine, and users who each go on as soon as they are answered.

opening    arguments of EngineArgs
question   {"users": [[[ids of a turn], …], …], "output": 24}
answer     seconds from the first question to the last answer, seconds to the first token of every
           turn, and where the tokens of the prompts came from
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean, median
from time import perf_counter

from ellm.core.request import Request
from ellm.core.sampling import SamplingParams
from ellm.engine.engine import Engine
from ellm.llm.args import EngineArgs
from ellm.llm.build import build
from harness.worker import Json, serve


@dataclass(slots=True)
class User:
    """Everything said so far, and what is still to be said."""

    turns: list[list[int]]
    said: list[int] = field(default_factory=list)
    asked: float = 0.0
    waits: bool = False


class Chat:
    """All users at one engine; nobody has said anything to it before."""

    def __init__(self, engine: Engine, turns: list[list[list[int]]], output: int, trial: int):
        self.engine = engine
        self.trial = trial
        self.users = [User(list(each)) for each in turns]
        self.params = SamplingParams(max_tokens=output, temperature=0, ignore_eos=True)
        self.firsts: list[float] = []

    def run(self) -> float:
        """Seconds until everyone has been answered to the end."""
        start = perf_counter()
        for number in range(len(self.users)):
            self._ask(number)
        while self.engine.has_work:
            for news in self.engine.step():
                number = int(news.request_id)
                user = self.users[number]
                if user.waits:
                    self.firsts.append(perf_counter() - user.asked)
                    user.waits = False
                if news.token is not None:
                    user.said.append(news.token)
                if news.finish_reason is not None and user.turns:
                    self._ask(number)
            assert self.engine.obstacle is None, self.engine.obstacle
        return perf_counter() - start

    def _ask(self, number: int) -> None:
        user = self.users[number]
        user.said += user.turns.pop(0)
        user.asked, user.waits = perf_counter(), True
        self.engine.submit(
            Request(
                request_id=str(number),
                prompt=tuple(user.said),
                params=self.params,
                arrival=self.engine.clock.now(),
                cache_salt=str(self.trial),
            )
        )


def load(opening: Json) -> Callable[[Json], Json]:
    engine = build(EngineArgs(**opening)).engine
    trials = 0

    def answer(question: Json) -> Json:
        nonlocal trials
        trials += 1
        stats = engine.stats
        before = (stats.prefix_queries, stats.cached_tokens, stats.fetched_tokens)
        preemptions = stats.preemptions
        chat = Chat(engine, question["users"], question["output"], trials)
        seconds = chat.run()
        after = (stats.prefix_queries, stats.cached_tokens, stats.fetched_tokens)
        prompt, cached, fetched = (b - a for a, b in zip(before, after, strict=True))
        return {
            "seconds": seconds,
            "mean_ttft": fmean(chat.firsts),
            "median_ttft": median(chat.firsts),
            "prompt_tokens": prompt,
            "cached_tokens": cached,
            "fetched_tokens": fetched,
            "preemptions": stats.preemptions - preemptions,
        }

    return answer


if __name__ == "__main__":
    serve(load)
