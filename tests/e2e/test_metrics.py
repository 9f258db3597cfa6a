"""What Prometheus reads, under the names that dashboards ask for."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from harness import running
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse
from scripted import ScriptedLLM

LABELS = {"model_name": "served", "engine": "0"}


@pytest.fixture(scope="module")
def llm() -> ScriptedLLM:
    llm = ScriptedLLM()
    llm.stats.prompt_tokens = 7
    llm.stats.cached_tokens = 3
    llm.stats.finished.update(stop=2, length=1)
    for seconds in (0.0005, 0.03, 0.03, 5000.0):
        llm.stats.time_to_first_token.observe(seconds)
    return llm


@pytest.fixture(scope="module")
def url(llm: ScriptedLLM) -> Iterator[str]:
    with running(llm, served_model_names=("served", "alias")) as url:
        yield url


def scrape(url: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Values by sample name and labels beyond the common ones."""
    response = httpx.get(url + "/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in parse(response.text):
        for sample in family.samples:
            extra = tuple(sorted(sample.labels.items() - LABELS.items()))
            if not sample.name.startswith("process_"):
                assert LABELS.items() <= sample.labels.items(), sample
            found.setdefault(sample.name, {})[extra] = sample.value
    return found


def test_counters(url: str) -> None:
    found = scrape(url)
    assert found["vllm:prompt_tokens_total"] == {(): 7}
    assert found["vllm:prompt_tokens_cached_total"] == found["vllm:prefix_cache_hits_total"]
    assert found["vllm:prefix_cache_hits_total"] == {(): 3}
    reasons = {(("finished_reason", "stop"),): 2, (("finished_reason", "length"),): 1}
    assert found["vllm:request_success_total"] == reasons
    for name in ("generation_tokens", "prefix_cache_queries", "num_preemptions"):
        assert found[f"vllm:{name}_total"] == {(): 0}
    assert found["vllm:admission_rejections_total"] == {(("reason", "queue_full"),): 0}


def test_histograms(url: str) -> None:
    found = scrape(url)
    buckets = found["vllm:time_to_first_token_seconds_bucket"]
    assert buckets[(("le", "0.001"),)] == 1
    assert buckets[(("le", "0.02"),)] == 1
    assert buckets[(("le", "0.04"),)] == 3
    assert buckets[(("le", "2560.0"),)] == 3
    assert buckets[(("le", "+Inf"),)] == 4
    assert found["vllm:time_to_first_token_seconds_count"] == {(): 4}
    assert found["vllm:time_to_first_token_seconds_sum"] == {(): pytest.approx(5000.0605)}
    for name in (
        "inter_token_latency_seconds", "request_time_per_output_token_seconds",
        "e2e_request_latency_seconds", "request_queue_time_seconds", "request_prefill_time_seconds",
        "request_decode_time_seconds", "request_prompt_tokens", "request_generation_tokens",
        "request_params_n", "request_num_preemptions", "iteration_tokens_total",
    ):  # fmt: skip
        assert found[f"vllm:{name}_count"] == {(): 0}


def test_gauges(url: str) -> None:
    found = scrape(url)
    assert found["vllm:num_requests_running"] == found["vllm:num_requests_waiting"] == {(): 0}
    assert set(found["vllm:num_requests_waiting_by_reason"]) == {
        (("reason", "capacity"),), (("reason", "deferred"),)
    }  # fmt: skip
    assert found["vllm:kv_cache_usage_perc"] == {(): 0.25}
    assert found["ellm:kv_internal_fragmentation"] == {(): 0.125}
    chunks = found["ellm:memory_chunks"]
    assert chunks == {(("owner", "weights"),): 10, (("owner", "kv"),): 0, (("owner", "free"),): 90}
    assert sum(found["ellm:memory_bytes"].values()) == 100 * 65536
    assert found["ellm:memory_chunk_bytes"] == {(): 65536}
    assert found["ellm:memory_physical_bytes"] == {(): 10 * 65536}


def test_the_process(url: str) -> None:
    found = scrape(url)
    assert found["process_resident_memory_bytes"][()] > 1e6
    assert found["process_open_fds"][()] > 3


def test_openmetrics_where_asked(url: str) -> None:
    accept = {"accept": "application/openmetrics-text; version=1.0.0"}
    response = httpx.get(url + "/metrics", headers=accept)
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    names = {family.name for family in parse_openmetrics(response.text)}
    assert {"vllm:prompt_tokens", "ellm:memory_chunks"} <= names


def test_probes(url: str) -> None:
    for path in ("/metrics", "/", "/health"):
        response = httpx.head(url + path)
        assert (response.status_code, response.content) == (200, b"")
