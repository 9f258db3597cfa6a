"""What Prometheus reads, under the names that dashboards ask for."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse
from scripted import ScriptedLLM
from scripted_fleet import CHUNK, ScriptedFleet
from serving import running

from ellm.core.objectives import Objectives
from ellm.obs.goodput import Goodput
from ellm.obs.models import ModelState
from ellm.obs.snapshot import TierSnapshot
from ellm.obs.tiers import TierStats

LABELS = {"model_name": "served", "engine": "0"}
EVERYONE = {"model_name": "", "engine": "0"}


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
            extra = tuple(sorted(sample.labels.items() - LABELS.items() - EVERYONE.items()))
            if not sample.name.startswith("process_"):
                mine = sample.labels["model_name"] != ""
                common = LABELS if mine else EVERYONE
                assert common.items() <= sample.labels.items(), sample
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
    assert found["ellm:memory_bytes"] == {
        (("owner", "weights"),): 10 * CHUNK,
        (("owner", "kv"),): 0,
        (("owner", "free"),): 90 * CHUNK,
    }
    assert found["ellm:memory_budget_bytes"] == {(): 100 * CHUNK}
    assert found["ellm:memory_chunk_bytes"] == {(): CHUNK}
    assert found["ellm:memory_physical_bytes"] == {(): 10 * CHUNK}
    assert found["ellm:memory_idle_bytes"] == {
        (("kind", "workspace"),): 2 * CHUNK,
        (("kind", "warm"),): CHUNK,
    }
    assert found["ellm:num_requests_parked"] == {(): 0}
    states = found["vllm:engine_sleep_state"]
    assert {key[0][1]: value for key, value in states.items()} == {
        "awake": 1,
        "weights_offloaded": 0,
        "discard_all": 0,
    }


def test_elastic_memory(url: str, llm: ScriptedLLM) -> None:
    elastic = llm.stats.elastic
    elastic.inflations, elastic.deflations = 5, 4
    llm.stats.fetched_tokens = 6
    elastic.moved_chunks.update(workspace=3, warm=2)
    elastic.swapped, elastic.recomputed = 7, 1
    elastic.critical_driver.observe(0.0003)
    assert "vllm:kv_offload_store_bytes_total" not in scrape(url)
    moved = TierStats(
        store_bytes=4096, load_bytes=2048, store_time=0.5, load_time=0.25, store_failures=1
    )
    llm.tier = TierSnapshot(capacity=1000, used=400, stats=moved)
    found = scrape(url)
    assert found["vllm:external_prefix_cache_hits_total"] == {(): 6}
    assert found["ellm:inflations_total"] == {(): 5}
    assert found["ellm:deflations_total"] == {(): 4}
    assert found["ellm:moved_chunks_total"] == {
        (("giver", "workspace"),): 3,
        (("giver", "warm"),): 2,
    }
    kinds = {(("kind", "swap"),): 7, (("kind", "recompute"),): 1}
    assert found["ellm:preemptions_total"] == kinds
    assert found["vllm:kv_offload_store_bytes_total"] == {(): 4096}
    assert found["vllm:kv_offload_load_bytes_total"] == {(): 2048}
    assert found["vllm:kv_offload_store_time_total"] == {(): 0.5}
    assert found["vllm:kv_offload_load_time_total"] == {(): 0.25}
    failures = {(("operation", "store"),): 1, (("operation", "load"),): 0}
    assert found["ellm:kv_offload_failures_total"] == failures
    counts = {(("when", "critical"),): 1, (("when", "tidy"),): 0}
    assert found["ellm:driver_seconds_count"] == counts
    assert found["ellm:tier_bytes"] == {(("state", "used"),): 400, (("state", "free"),): 600}


def test_objectives(url: str, llm: ScriptedLLM) -> None:
    assert "ellm:goodput_requests_total" not in scrape(url)
    llm.stats.goodput = Goodput(Objectives(ttft=1.0), 0.0)
    llm.stats.goodput.outcomes.update(met=8, ttft=2)
    llm.stats.step_time_error = 0.03
    found = scrape(url)
    assert {key[0][1]: n for key, n in found["ellm:goodput_requests_total"].items()} == {
        "met": 8,
        "ttft": 2,
        "tpot": 0,
        "both": 0,
    }
    assert found["ellm:step_time_error_ratio"] == {(): 0.03}


def test_every_model_has_its_rows() -> None:
    fleet = ScriptedFleet.of("alpha", "org/beta")
    fleet.unready = "gamma"
    fleet.members["org/beta"].llm.stats.prompt_tokens = 9
    fleet.members["org/beta"].state = ModelState.ASLEEP
    fleet.members["org/beta"].wake_seconds = 0.5
    with running(fleet) as url:
        families = {f.name: f for f in parse(httpx.get(url + "/metrics").text)}

    def rows(name: str, *labels: str) -> dict[tuple[str, ...], float]:
        samples = families[name].samples
        return {tuple(s.labels[k] for k in ("model_name", *labels)): s.value for s in samples}

    assert rows("vllm:prompt_tokens") == {("alpha",): 0, ("org/beta",): 9}
    assert rows("ellm:model_wake_seconds") == {("org/beta",): 0.5}
    held = rows("ellm:memory_bytes", "owner")
    assert held["alpha", "weights"] == 10 * CHUNK
    assert held["", "free"] == 80 * CHUNK
    assert sum(held.values()) == rows("ellm:memory_budget_bytes")[("",)]
    asleep = rows("vllm:engine_sleep_state", "sleep_state")
    assert asleep["org/beta", "discard_all"] == asleep["alpha", "awake"] == 1
    assert asleep["org/beta", "awake"] == 0
    states = rows("ellm:model_state", "state")
    assert [key for key, value in states.items() if value] == [
        ("alpha", "awake"),
        ("org/beta", "asleep"),
        ("gamma", "loading"),
    ]


def test_the_process(url: str) -> None:
    found = scrape(url)
    assert found["process_resident_memory_bytes"][()] > 1e6
    assert found["process_open_fds"][()] > 3


def test_names_are_the_same_whatever_is_asked_for(url: str) -> None:
    """The header is that of a Prometheus 2 server."""
    accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4"
    response = httpx.get(url + "/metrics", headers={"accept": accept})
    assert "vllm:prompt_tokens_total{" in response.text
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")


def test_probes(url: str) -> None:
    for path in ("/metrics", "/", "/health"):
        response = httpx.head(url + path)
        assert (response.status_code, response.content) == (200, b"")
