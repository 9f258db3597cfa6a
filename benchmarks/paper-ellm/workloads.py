"""Whose requests: the paper's kinds of workload, as far as they can be had (README.md)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from arms import ELASTIC

from ellm.core.load import StepLoad
from ellm.core.objectives import Objectives
from ellm.obs.spread import percentile
from ellm.sim.deployment import expected
from ellm.sim.workload.arrivals import arrivals, timed
from ellm.sim.workload.item import Item
from ellm.sim.workload.lengths import LogNormal, drawn, fixed
from ellm.sim.workload.traces import read_trace
from harness import traces

TRACE = "sharegpt/sharegpt_8k_filtered_stats_llama2_tokenizer.csv"
# The first token is due after so many times what the median prompt takes alone, or LEAST_TTFT
# seconds if that is later; the others come in TPOT seconds, 8 times what one sequence takes alone.
TTFT_TIMES, LEAST_TTFT, TPOT = 10.0, 2.0, 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """`lengths` makes so many requests by a seed; they arrive by a Poisson process at `rates` a
    second.
    """

    lengths: Callable[[int, int], Sequence[Item]]
    count: int
    rates: Sequence[float]

    def items(self, count: int, rate: float, seed: int) -> list[Item]:
        return timed(self.lengths(count, seed), arrivals(count, rate, seed))

    def wished(self, count: int, seed: int) -> Objectives:
        alone = expected(ELASTIC.deployment(Objectives()).stages)
        prompts = (item.prompt_tokens for item in self.lengths(count, seed))
        first = [alone.seconds(StepLoad().with_sequence(each, each)) for each in prompts]
        return Objectives(ttft=max(LEAST_TTFT, TTFT_TIMES * percentile(first, 0.5)), tpot=TPOT)


def _recorded(count: int, seed: int) -> Sequence[Item]:
    return random.Random(seed).sample(read_trace(traces.find(TRACE)).items, count)


def _summaries(count: int, seed: int) -> Sequence[Item]:
    prompts = LogNormal(7900, 0.476, shortest=100, longest=32_000)
    return drawn(count, prompts, LogNormal(230, 0.452, longest=1000), seed)


def _questions(count: int, seed: int) -> Sequence[Item]:
    prompts = LogNormal(9000, 0.7, shortest=1000, longest=32_000)
    return drawn(count, prompts, LogNormal(128, 0.8, longest=512), seed)


WORKLOADS = {
    "fixed": Workload(
        lengths=lambda count, seed: fixed(count, 2048, 1024),
        count=500,
        rates=(1.8, 2.0, 2.2, 2.4, 2.6, 2.8, 3.2, 4.0),
    ),
    "sharegpt": Workload(lengths=_recorded, count=600, rates=(2.5, 3, 3.5, 4, 4.5, 5)),
    "arxiv": Workload(lengths=_summaries, count=400, rates=(0.8, 1, 1.2, 1.4, 1.6)),
    "longbench": Workload(lengths=_questions, count=400, rates=(0.5, 0.7, 0.9, 1.1, 1.3)),
}
# The only one that needs no file, and where memory is what is short.
TIGHT = "fixed"
