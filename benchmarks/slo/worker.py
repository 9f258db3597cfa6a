"""One arm of the real engine, asked for one rate at a time (harness/worker.py's protocol).

opening   {"arguments": what EngineArgs takes}
question  {"arrivals": seconds, "prompts": token ids, "outputs": lengths}
answer    {"served": [[first, last], …] in seconds after the start, "cost": Coefficients.values}
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ellm.core.request import Request
from ellm.core.sampling import SamplingParams
from ellm.engine.engine import Engine
from ellm.llm.args import EngineArgs
from ellm.llm.build import build
from harness.worker import serve

Json = dict[str, Any]


def load(opening: Json) -> Callable[[Json], Json]:
    engine = build(EngineArgs(**opening["arguments"])).engine
    replay(engine, [0.0] * 8, [[3 + n] * 200 for n in range(8)], [16] * 8)  # warm up

    def answer(asked: Json) -> Json:
        served = replay(engine, asked["arrivals"], asked["prompts"], asked["outputs"])
        stats = engine.stats
        return {
            "served": served,
            "cost": engine._cost.coefficients.values,
            "error": engine._cost.error,
            "preemptions": stats.preemptions,
            "swapped": stats.elastic.swapped,
        }

    return answer


def replay(
    engine: Engine, arrivals: list[float], prompts: list[list[int]], outputs: list[int]
) -> list[list[float]]:
    """First and last token of each request, in seconds after the start."""
    start = engine.clock.now()
    served = [[0.0, 0.0] for _ in arrivals]
    coming = 0
    while coming < len(arrivals) or engine.has_work:
        while coming < len(arrivals) and start + arrivals[coming] <= engine.clock.now():
            params = SamplingParams(max_tokens=outputs[coming], temperature=0, ignore_eos=True)
            prompt = tuple(prompts[coming])
            due = start + arrivals[coming]
            name = str(coming)
            engine.submit(Request(request_id=name, prompt=prompt, params=params, arrival=due))
            coming += 1
        for news in engine.step():
            if news.token is not None:
                now = engine.clock.now() - start
                one = served[int(news.request_id)]
                one[0], one[1] = one[0] or now, now
        if not engine.has_work and coming < len(arrivals):
            time.sleep(max(0.0, start + arrivals[coming] - engine.clock.now()))
    return served


if __name__ == "__main__":
    serve(load)
