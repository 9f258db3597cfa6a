"""Latency and throughput of the engine in this process, without a server."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ellm.cli.bench.question import Question
from ellm.cli.progress import counting_bar
from ellm.core.sampling import SamplingParams
from ellm.llm.args import EngineArgs
from ellm.obs.spread import percentile

if TYPE_CHECKING:
    from ellm.llm.llm import LLM


def latency(
    args: EngineArgs, items: Sequence[Question], warmups: int, rounds: int
) -> dict[str, Any]:
    """Seconds per batch over `rounds`, after `warmups` that are not counted."""
    llm = _load(args)
    times: list[float] = []
    with counting_bar("rounds", warmups + rounds) as tick:
        for number in range(warmups + rounds):
            seconds = _run(llm, items)
            if number >= warmups:
                times.append(seconds)
            tick()
    return {
        "batch_size": len(items),
        "rounds": rounds,
        "latency_mean_s": sum(times) / len(times),
        "latency_median_s": percentile(times, 0.5),
        "latency_p90_s": percentile(times, 0.9),
        "latency_p99_s": percentile(times, 0.99),
        "latencies_s": times,
    }


def throughput(args: EngineArgs, items: Sequence[Question]) -> dict[str, Any]:
    """Rates over all of `items` given at once, after a short unmeasured warm-up."""
    llm = _load(args)
    _run(llm, [Question(items[0].prompt, 2)])
    seconds = _run(llm, items)
    prompt = sum(len(item.prompt) for item in items)
    output = sum(item.output_len for item in items)
    return {
        "requests": len(items),
        "duration_s": seconds,
        "requests_per_s": len(items) / seconds,
        "output_tokens_per_s": output / seconds,
        "total_tokens_per_s": (prompt + output) / seconds,
    }


def _load(args: EngineArgs) -> LLM:
    from ellm import LLM

    return LLM(args)


def _run(llm: LLM, items: Sequence[Question]) -> float:
    """Seconds for one batch in which every answer has its full length."""
    prompts = [{"prompt_token_ids": list(item.prompt)} for item in items]
    params = [
        SamplingParams(max_tokens=item.output_len, temperature=0, ignore_eos=True, detokenize=False)
        for item in items
    ]
    start = time.perf_counter()
    llm.generate(prompts, params, use_tqdm=False)
    return time.perf_counter() - start
