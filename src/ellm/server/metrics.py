"""The engine's counters as Prometheus reads them, under vLLM's names where it has one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ellm.obs.histogram import Histogram
from ellm.obs.snapshot import EngineSnapshot, MemorySnapshot
from ellm.server.service import Service

_COUNTERS: Final[Mapping[str, tuple[str, str]]] = {
    "prompt_tokens": ("vllm:prompt_tokens", "Prompt tokens processed."),
    "generation_tokens": ("vllm:generation_tokens", "Tokens generated."),
    "cached_tokens": ("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache."),
    "prefix_queries": ("vllm:prefix_cache_queries", "Prompt tokens looked up there."),
    "preemptions": ("vllm:num_preemptions", "Sequences put back to make room."),
    "steps": ("ellm:engine_steps", "Steps the engine ran."),
}
_HISTOGRAMS: Final[Mapping[str, tuple[str, str]]] = {
    "time_to_first_token": ("vllm:time_to_first_token_seconds", "Arrival to first token."),
    "inter_token_latency": ("vllm:inter_token_latency_seconds", "Token to next token."),
    "time_per_output_token": (
        "vllm:request_time_per_output_token_seconds",
        "Mean time between a request's tokens.",
    ),
    "e2e_latency": ("vllm:e2e_request_latency_seconds", "Arrival to last token."),
    "queue_time": ("vllm:request_queue_time_seconds", "Arrival to first being scheduled."),
    "prefill_time": ("vllm:request_prefill_time_seconds", "First scheduled to first token."),
    "decode_time": ("vllm:request_decode_time_seconds", "First token to last token."),
    "inference_time": ("vllm:request_inference_time_seconds", "First scheduled to last token."),
    "request_max_tokens": ("vllm:request_params_max_tokens", "Tokens a request allowed."),
    "request_max_generation_tokens": (
        "vllm:request_max_num_generation_tokens",
        "Tokens of a request's choices.",
    ),
    "request_prompt_tokens": ("vllm:request_prompt_tokens", "Prompt tokens of a request."),
    "request_generation_tokens": ("vllm:request_generation_tokens", "Tokens made for a request."),
    "request_n": ("vllm:request_params_n", "Choices a request asked for."),
    "request_preemptions": ("vllm:request_num_preemptions", "Preemptions of a request."),
    "iteration_tokens": ("vllm:iteration_tokens_total", "Tokens in a step."),
    "step_time": ("ellm:step_seconds", "Time of a step."),
}


class Metrics:
    """One engine's registry; labelled as vLLM labels, `model_name` and `engine`."""

    def __init__(self, service: Service) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(EngineCollector(service))
        ProcessCollector(registry=self._registry)

    def expose(self, accept: str) -> tuple[bytes, str]:
        """The scrape and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class EngineCollector(Collector):
    """Reads the engine's plain numbers when asked; the step loop never waits for it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._labels = {"model_name": service.model_names[0], "engine": "0"}

    def describe(self) -> Iterable[Metric]:
        return ()  # spares a scrape at registration

    def collect(self) -> Iterator[Metric]:
        stats = self._service.llm.stats
        for field, (name, text) in _COUNTERS.items():
            yield self._counter(name, text, getattr(stats, field))
        text = "Prompt tokens that were not computed again."
        yield self._counter("vllm:prompt_tokens_cached", text, stats.cached_tokens)
        # The step loop may add a reason meanwhile, so look at a copy.
        finished = dict(list(stats.finished.items()))
        yield self._counter("vllm:request_success", "Requests ended.", finished, "finished_reason")
        rejected = {"queue_full": stats.rejections}
        yield self._counter("vllm:admission_rejections", "Requests refused.", rejected, "reason")
        for field, (name, text) in _HISTOGRAMS.items():
            yield self._histogram(name, text, getattr(stats, field))
        snapshot = self._service.llm.snapshot()
        yield from self._queues(snapshot)
        yield from self._memory(snapshot.memory)

    def _queues(self, now: EngineSnapshot) -> Iterator[Metric]:
        yield self._gauge("vllm:num_requests_running", "Sequences in the batch.", now.running)
        yield self._gauge("vllm:num_requests_waiting", "Sequences in the queue.", now.waiting)
        reasons = {"capacity": now.waiting, "deferred": 0}
        name = "vllm:num_requests_waiting_by_reason"
        yield self._gauge(name, "Sequences in the queue, by reason.", reasons, "reason")
        yield self._gauge("vllm:kv_cache_usage_perc", "KV cache in use, 0 to 1.", now.kv_usage)
        text = "Share of mapped KV bytes that hold no token."
        yield self._gauge("ellm:kv_internal_fragmentation", text, now.kv_waste)

    def _memory(self, memory: MemorySnapshot) -> Iterator[Metric]:
        chunks = {**memory.held, "free": memory.free}
        sizes = {owner: count * memory.chunk_bytes for owner, count in chunks.items()}
        yield self._gauge("ellm:memory_chunks", "Chunks of the pool by holder.", chunks, "owner")
        yield self._gauge("ellm:memory_bytes", "Bytes of the pool by holder.", sizes, "owner")
        yield self._gauge("ellm:memory_chunk_bytes", "Bytes of one chunk.", memory.chunk_bytes)
        text = "Bytes that the machine says are behind the pool."
        yield self._gauge("ellm:memory_physical_bytes", text, memory.physical_bytes)

    def _counter(
        self, name: str, text: str, values: Mapping[str, float] | float, label: str | None = None
    ) -> Metric:
        extra = [] if label is None else [label]
        family = CounterMetricFamily(name, text, labels=[*self._labels, *extra])
        for labels, value in self._rows(values):
            family.add_metric(labels, value)
        return family

    def _gauge(
        self, name: str, text: str, values: Mapping[str, float] | float, label: str | None = None
    ) -> Metric:
        extra = [] if label is None else [label]
        family = GaugeMetricFamily(name, text, labels=[*self._labels, *extra])
        for labels, value in self._rows(values):
            family.add_metric(labels, value)
        return family

    def _rows(self, values: Mapping[str, float] | float) -> Iterator[tuple[list[str], float]]:
        common = list(self._labels.values())
        if isinstance(values, Mapping):
            yield from (([*common, key], value) for key, value in values.items())
        else:
            yield common, values

    def _histogram(self, name: str, text: str, histogram: Histogram) -> Metric:
        family = HistogramMetricFamily(name, text, labels=list(self._labels))
        bounds = [*(str(float(bound)) for bound in histogram.bounds), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(histogram.counts)), strict=True))
        family.add_metric(list(self._labels.values()), buckets, histogram.total)
        return family
