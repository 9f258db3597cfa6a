"""What an engine counts while it runs.

Plain numbers that one thread writes and any thread may read; the server translates them into
Prometheus families (names and buckets follow vLLM 0.33, so that existing dashboards work).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial

from ellm.obs.goodput import Goodput
from ellm.obs.histogram import Histogram

TTFT = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
    1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
)  # fmt: skip
ITL = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75,
    1, 2.5, 5, 7.5, 10, 20, 40, 80,
)  # fmt: skip
LATENCY = (
    0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60,
    120, 240, 480, 960, 1920, 7680,
)  # fmt: skip
TOKENS = (
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000,
    10_000, 20_000, 50_000, 100_000, 200_000,
)  # fmt: skip
COUNTS = (1, 2, 5, 10, 20, 50, 100)


DRIVER = (1e-6, 1e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.5)


@dataclass(slots=True)
class ElasticStats:
    """What the memory of one engine did since start.

    inflations       times KV took chunks that activations or idle owners had given back
    deflations       times activations took chunks that KV had given back
    moved_chunks     chunks given back, by who gave them: premapped, workspace, warm, leaving,
                     prefixes, model
    swapped, recomputed   sequences that yielded their memory, by what became of their KV
    critical_driver  seconds in driver calls while a step waited for them, a step
    tidy_driver      seconds in driver calls between steps
    """

    inflations: int = 0
    deflations: int = 0
    moved_chunks: Counter[str] = field(default_factory=Counter)
    swapped: int = 0
    recomputed: int = 0
    critical_driver: Histogram = field(default_factory=partial(Histogram, DRIVER))
    tidy_driver: Histogram = field(default_factory=partial(Histogram, DRIVER))


@dataclass(slots=True)
class EngineStats:
    """Totals since start.  Times are seconds.

    `cached_tokens` of `prefix_queries` prompt tokens had their KV, `fetched_tokens` of them below.
    `goodput` None says that nobody counts it.  `step_time_error` is the running mean of how far
    the predicted time of a step was off, as a share of the time it took; 0 before any prediction.
    """

    elastic: ElasticStats = field(default_factory=ElasticStats)
    goodput: Goodput | None = None
    step_time_error: float = 0.0
    steps: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    cached_tokens: int = 0
    fetched_tokens: int = 0
    prefix_queries: int = 0
    preemptions: int = 0
    rejections: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    time_to_first_token: Histogram = field(default_factory=partial(Histogram, TTFT))
    inter_token_latency: Histogram = field(default_factory=partial(Histogram, ITL))
    time_per_output_token: Histogram = field(default_factory=partial(Histogram, ITL))
    e2e_latency: Histogram = field(default_factory=partial(Histogram, LATENCY))
    queue_time: Histogram = field(default_factory=partial(Histogram, LATENCY))
    prefill_time: Histogram = field(default_factory=partial(Histogram, LATENCY))
    decode_time: Histogram = field(default_factory=partial(Histogram, LATENCY))
    inference_time: Histogram = field(default_factory=partial(Histogram, LATENCY))
    request_prompt_tokens: Histogram = field(default_factory=partial(Histogram, TOKENS))
    request_generation_tokens: Histogram = field(default_factory=partial(Histogram, TOKENS))
    request_max_tokens: Histogram = field(default_factory=partial(Histogram, TOKENS))
    request_max_generation_tokens: Histogram = field(default_factory=partial(Histogram, TOKENS))
    request_n: Histogram = field(default_factory=partial(Histogram, COUNTS))
    request_preemptions: Histogram = field(default_factory=partial(Histogram, COUNTS))
    iteration_tokens: Histogram = field(default_factory=partial(Histogram, TOKENS))
    step_time: Histogram = field(default_factory=partial(Histogram, ITL))
