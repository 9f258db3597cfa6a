"""One arm: a model behind its step thread, asked as a client would.

opening    arguments of AsyncLLM
question   {"prompts": [[[ids], [ids], …], …], "output": 64}
answer     mean seconds to the first token and between tokens, the same to the first token of an
           engine that had come to rest, and what a step asked of the driver

Prompts of one list are asked at once, the lists one after another.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from statistics import fmean

from ellm import AsyncLLM, SamplingParams
from ellm.engine.engine import Engine
from ellm.memory.metered import MeteredDriver
from harness.worker import Json, serve

# Longer than an engine waits before it gives idle memory back.
REST = 0.7


async def one(llm: AsyncLLM, prompt: list[int], output: int) -> tuple[float, float]:
    """Seconds to the first token, and from token to token after it."""
    params = SamplingParams(max_tokens=output, temperature=0, ignore_eos=True, detokenize=False)
    start, first, tokens = time.perf_counter(), 0.0, 0
    async for answer in llm.generate({"prompt_token_ids": prompt}, params, "trial"):
        tokens = len(answer.outputs[0].token_ids)
        first = first or time.perf_counter()
    last = time.perf_counter()
    assert tokens == output, (tokens, output)
    return first - start, (last - first) / (output - 1)


async def several(
    llm: AsyncLLM, batches: list[list[list[int]]], output: int
) -> list[tuple[float, float]]:
    answers: list[tuple[float, float]] = []
    for prompts in batches:
        answers += await asyncio.gather(*(one(llm, prompt, output) for prompt in prompts))
    return answers


def spent(engine: Engine) -> Json:
    """What the engine has done so far, and what it has cost."""
    # The driver is nobody's business but the engine's, and this table's.
    driver = engine._memory.pool.driver
    assert isinstance(driver, MeteredDriver)
    elastic = engine.stats.elastic
    return {
        "steps": engine.stats.steps,
        "critical_us": 1e6 * elastic.critical_driver.total,
        "tidy_us": 1e6 * elastic.tidy_driver.total,
        **{name: driver.calls[name] for name in ("create", "map", "unmap", "destroy")},
    }


def load(opening: Json) -> Callable[[Json], Json]:
    llm = AsyncLLM(**opening)
    _, engine, *_ = llm.parts

    def answer(question: Json) -> Json:
        time.sleep(REST)
        prompts, output = question["prompts"], question["output"]
        [(cold, _), *_] = asyncio.run(several(llm, prompts[:1], output))
        before = spent(engine)
        answers = asyncio.run(several(llm, prompts[1:], output))
        after = spent(engine)
        steps = after["steps"] - before["steps"]
        return {
            "ttft": fmean(first for first, _ in answers),
            "tpot": fmean(each for _, each in answers),
            "ttft_after_rest": cold,
            "steps": steps,
            "per_step": {
                name: (after[name] - before[name]) / steps for name in before if name != "steps"
            },
        }

    return answer


if __name__ == "__main__":
    serve(load)
