"""Which figures of a model are exposed, and under which names: vLLM's where it has one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Final

from ellm.obs.goodput import Goodput
from ellm.obs.models import ModelState
from ellm.obs.snapshot import TierSnapshot
from ellm.server.families import Family, Kind, Reading, Value


def _of_stats(kind: Kind, rows: Mapping[str, tuple[str, str]]) -> list[Family]:
    """Families that are an attribute of the stats each."""
    return [
        Family(kind, name, text, attrgetter(f"stats.{field}"))
        for field, (name, text) in rows.items()
    ]


def _split(kind: Kind, name: str, text: str, label: str, **fields: str) -> Family:
    """A family whose rows are attributes of the reading, by the value of their label."""
    found = {key: attrgetter(path) for key, path in fields.items()}
    return Family(kind, name, text, lambda r: {key: of(r) for key, of in found.items()}, label)


def _copy(path: str) -> Callable[[Reading], Value]:
    """A table as it is now: the step loop may add a row meanwhile."""
    of = attrgetter(path)
    return lambda reading: dict(list(of(reading).items()))


def _of_tier(field: str) -> Callable[[Reading], Value]:
    """A figure of the tier below; nothing to tell where there is none."""
    of = attrgetter(f"tier.stats.{field}")
    return lambda reading: None if reading.tier is None else of(reading)


def _failures(tier: TierSnapshot | None) -> dict[str, float]:
    if tier is None:
        return {}
    return {"store": tier.stats.store_failures, "load": tier.stats.load_failures}


def _outcomes(goodput: Goodput | None) -> dict[str, float]:
    """Every outcome, also those that have not occurred, so that a rate of them can be had."""
    if goodput is None:
        return {}
    return {outcome: goodput.outcomes[outcome] for outcome in ("met", "ttft", "tpot", "both")}


COUNTERS: Final = (
    *_of_stats(
        Kind.COUNTER,
        {
            "prompt_tokens": ("vllm:prompt_tokens", "Prompt tokens processed."),
            "generation_tokens": ("vllm:generation_tokens", "Tokens generated."),
            "cached_tokens": ("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache."),
            "prefix_queries": ("vllm:prefix_cache_queries", "Prompt tokens looked up there."),
            "fetched_tokens": (
                "vllm:external_prefix_cache_hits",
                "Prompt tokens found in the tier below.",
            ),
            "preemptions": ("vllm:num_preemptions", "Sequences put back to make room."),
            "steps": ("ellm:engine_steps", "Steps the engine ran."),
            "elastic.inflations": (
                "ellm:inflations",
                "Times KV took chunks that others had given back.",
            ),
            "elastic.deflations": (
                "ellm:deflations",
                "Times activations took chunks that KV had given back.",
            ),
        },
    ),
    Family(
        Kind.COUNTER,
        "vllm:prompt_tokens_cached",
        "Prompt tokens that were not computed again.",
        attrgetter("stats.cached_tokens"),
    ),
    Family(
        Kind.COUNTER,
        "vllm:request_success",
        "Requests ended.",
        _copy("stats.finished"),
        "finished_reason",
    ),
    _split(
        Kind.COUNTER,
        "vllm:admission_rejections",
        "Requests refused.",
        "reason",
        queue_full="stats.rejections",
    ),
    Family(
        Kind.COUNTER,
        "ellm:goodput_requests",
        "Sequences by whether they met their objectives: met, or which was missed.",
        lambda r: _outcomes(r.stats.goodput),
        "outcome",
    ),
    _split(
        Kind.COUNTER,
        "ellm:preemptions",
        "Sequences that yielded their memory, by what became of their KV.",
        "kind",
        swap="stats.elastic.swapped",
        recompute="stats.elastic.recomputed",
    ),
    Family(
        Kind.COUNTER,
        "ellm:moved_chunks",
        "Chunks given back, by who gave them.",
        _copy("stats.elastic.moved_chunks"),
        "giver",
    ),
    *(
        Family(Kind.COUNTER, f"vllm:kv_offload_{name}", text, _of_tier(field))
        for field, name, text in (
            ("store_bytes", "store_bytes", "Bytes sent to the tier below."),
            ("load_bytes", "load_bytes", "Bytes fetched from the tier below."),
            ("store_time", "store_time", "Seconds of sending."),
            ("load_time", "load_time", "Seconds of fetching."),
            ("refusals", "allocation_failure", "Blocks that found no room in the tier below."),
        )
    ),
    Family(
        Kind.COUNTER,
        "ellm:kv_offload_failures",
        "Transfers that did not end well; nothing was lost by them.",
        lambda r: _failures(r.tier),
        "operation",
    ),
)
HISTOGRAMS: Final = (
    *_of_stats(
        Kind.HISTOGRAM,
        {
            "time_to_first_token": ("vllm:time_to_first_token_seconds", "Arrival to first token."),
            "inter_token_latency": ("vllm:inter_token_latency_seconds", "Token to next token."),
            "time_per_output_token": (
                "vllm:request_time_per_output_token_seconds",
                "Mean time between a request's tokens.",
            ),
            "e2e_latency": ("vllm:e2e_request_latency_seconds", "Arrival to last token."),
            "queue_time": (
                "vllm:request_queue_time_seconds",
                "Arrival to first being scheduled.",
            ),
            "prefill_time": (
                "vllm:request_prefill_time_seconds",
                "First scheduled to first token.",
            ),
            "decode_time": ("vllm:request_decode_time_seconds", "First token to last token."),
            "inference_time": (
                "vllm:request_inference_time_seconds",
                "First scheduled to last token.",
            ),
            "request_max_tokens": ("vllm:request_params_max_tokens", "Tokens a request allowed."),
            "request_max_generation_tokens": (
                "vllm:request_max_num_generation_tokens",
                "Tokens of a request's choices.",
            ),
            "request_prompt_tokens": ("vllm:request_prompt_tokens", "Prompt tokens of a request."),
            "request_generation_tokens": (
                "vllm:request_generation_tokens",
                "Tokens made for a request.",
            ),
            "request_n": ("vllm:request_params_n", "Choices a request asked for."),
            "request_preemptions": (
                "vllm:request_num_preemptions",
                "Preemptions of a request.",
            ),
            "iteration_tokens": ("vllm:iteration_tokens_total", "Tokens in a step."),
            "step_time": ("ellm:step_seconds", "Time of a step."),
        },
    ),
    _split(
        Kind.HISTOGRAM,
        "ellm:driver_seconds",
        "Driver calls of a step: while it waited for them, and between steps.",
        "when",
        critical="stats.elastic.critical_driver",
        tidy="stats.elastic.tidy_driver",
    ),
)
GAUGES: Final = (
    Family(
        Kind.GAUGE,
        "vllm:num_requests_running",
        "Sequences in the batch.",
        attrgetter("now.running"),
    ),
    Family(
        Kind.GAUGE,
        "vllm:num_requests_waiting",
        "Sequences in the queue.",
        attrgetter("now.waiting"),
    ),
    Family(
        Kind.GAUGE,
        "vllm:num_requests_waiting_by_reason",
        "Sequences in the queue, by reason.",
        lambda r: {"capacity": r.now.waiting, "deferred": 0},
        "reason",
    ),
    Family(
        Kind.GAUGE,
        "ellm:num_requests_parked",
        "Sequences that wait with their KV in the tier.",
        attrgetter("now.parked"),
    ),
    Family(
        Kind.GAUGE,
        "vllm:kv_cache_usage_perc",
        "KV cache in use, 0 to 1.",
        attrgetter("now.kv_usage"),
    ),
    Family(
        Kind.GAUGE,
        "ellm:kv_internal_fragmentation",
        "Share of mapped KV bytes that hold no token.",
        attrgetter("now.kv_waste"),
    ),
    Family(
        Kind.GAUGE,
        "ellm:step_time_error_ratio",
        "How far predicted step times are off, as a share of the time taken.",
        attrgetter("stats.step_time_error"),
    ),
    Family(
        Kind.GAUGE,
        "ellm:memory_idle_bytes",
        "Bytes held that could be given back, by what they are.",
        lambda r: {k: n * r.now.memory.chunk_bytes for k, n in list(r.now.idle.items())},
        "kind",
    ),
    Family(
        Kind.GAUGE,
        "ellm:tier_bytes",
        "Bytes of the tier below the memory.",
        lambda r: _tier(r.tier),
        "state",
    ),
    Family(
        Kind.GAUGE,
        "vllm:engine_sleep_state",
        "Whether the weights are in memory.",
        lambda r: _sleep_state(r.info.state),
        "sleep_state",
    ),
    Family(
        Kind.GAUGE,
        "ellm:model_wake_seconds",
        "Time the model last took to wake.",
        attrgetter("info.wake_seconds"),
    ),
)
HELD: Final = Family(
    Kind.GAUGE,
    "ellm:memory_bytes",
    "Bytes of the budget by holder; what is free belongs to no model.",
    attrgetter("info.held"),
    "owner",
)


def _tier(tier: TierSnapshot | None) -> dict[str, float]:
    return {} if tier is None else {"used": tier.used, "free": tier.capacity - tier.used}


def _sleep_state(state: ModelState) -> dict[str, float]:
    """vLLM's levels; a model that sleeps here reads its weights again."""
    awake = state in (ModelState.AWAKE, ModelState.LEAVING)
    return {"awake": awake, "weights_offloaded": 0, "discard_all": not awake}
