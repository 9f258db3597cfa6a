"""The load client's arithmetic: percentiles, rates, goodput, arrivals and traces."""

from __future__ import annotations

import json
import random
import statistics
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ellm.cli.bench.client import Endpoint, Outcome, Target
from ellm.cli.bench.report import lines
from ellm.cli.bench.statistics import parse_objectives, percentile, summarize
from ellm.cli.bench.traces import HASHED_TOKENS, read_trace
from ellm.cli.bench.workload import (
    WorkItem,
    arrivals,
    fixed_lengths,
    hastened,
    in_turn,
    sharegpt_lengths,
    timed,
)
from ellm.core.errors import ConfigError

finite = st.floats(0, 1e6)


@given(st.lists(finite, min_size=1))
def test_percentiles_lie_between_the_extremes_and_agree_with_the_median(
    values: list[float],
) -> None:
    assert percentile(values, 0.0) == min(values)
    assert percentile(values, 1.0) == max(values)
    assert percentile(values, 0.5) == pytest.approx(statistics.median(values))
    assert percentile(values, 0.9) <= percentile(values, 0.99)


def test_percentiles_interpolate_linearly() -> None:
    assert percentile([10.0, 20.0], 0.25) == 12.5
    assert percentile([], 0.5) == 0.0


def outcome(ttft: float, gaps: list[float]) -> Outcome:
    return Outcome(
        status=200,
        prompt_tokens=10,
        output_tokens=1 + len(gaps),
        ttft=ttft,
        latency=ttft + sum(gaps),
        gaps=gaps,
    )


def test_a_run_is_summed_up_by_hand() -> None:
    good = [outcome(0.1, [0.02, 0.04]), outcome(0.3, [0.1]), outcome(0.2, [])]
    bad = [
        Outcome(status=503, error="busy"),
        Outcome(status=503, error="busy"),
        Outcome(status=200, error="broke off"),
        Outcome(error="refused"),
    ]
    summary = summarize(good + bad, 2.0, {"ttft": 0.25, "tpot": 0.05})
    assert summary.attainment is not None
    # of all seven: the four that failed met nothing, and an answer of one token has no tpot to miss
    assert summary.attainment.shares == {"ttft": 2 / 7, "tpot": 2 / 7, "all": 2 / 7}
    assert summary.per_model == {}
    assert any(line.split() == ["met", "ttft", "(%)", "28.6"] for line in lines(summary))
    assert (summary.completed, summary.failed) == (3, 4)
    assert summary.errors == {"503": 2, "stream": 1, "0": 1}
    assert (summary.prompt_tokens, summary.output_tokens) == (30, 6)
    assert summary.request_rate == 1.5
    assert summary.output_rate == 3.0
    assert summary.total_rate == 18.0
    assert summary.goodput == 1.0  # the second breaks both objectives
    assert summary.ttft.mean == pytest.approx(200)
    assert summary.ttft.median == pytest.approx(200)
    assert summary.tpot.median == pytest.approx(65)  # of 30 and 100: one token has no TPOT
    assert summary.itl.mean == pytest.approx(160 / 3)
    assert summary.e2el.median == pytest.approx(200)
    assert json.loads(json.dumps(summary.as_json()))["errors"]["503"] == 2
    assert any("503" in line for line in lines(summary))


def test_a_run_without_success_or_objectives_still_has_a_report() -> None:
    summary = summarize([Outcome(status=500, error="x")], 1.0, {})
    assert summary.goodput is None
    assert summary.ttft.p99 == 0.0
    assert not any("goodput" in line for line in lines(summary))


def test_each_model_has_its_share() -> None:
    fast, slow = outcome(0.1, [0.02]), outcome(0.9, [0.02])
    fast.model, slow.model = "a", "b"
    lost = Outcome(model="b", status=503, error="busy")
    summary = summarize([fast, slow, lost, fast], 2.0, {"ttft": 0.5})
    assert summary.goodput == 1.0
    a, b = summary.per_model["a"], summary.per_model["b"]
    assert (a.requests, a.completed, a.goodput, a.shares["ttft"]) == (2, 2, 1.0, 1.0)
    assert (b.requests, b.completed, b.goodput, b.shares["ttft"]) == (2, 1, 0.0, 0.0)
    assert json.loads(json.dumps(summary.as_json()))["per_model"]["b"]["shares"]["all"] == 0.0
    table = list(lines(summary))[-3:]
    assert [line.split()[0] for line in table] == ["model", "a", "b"]
    plain = summarize([fast, slow], 2.0, {})
    assert list(lines(plain))[-2].split() == ["a", "1", "1"]


def test_objectives_are_milliseconds_by_name() -> None:
    assert parse_objectives(["ttft:500", "tpot:50,e2el:3000"]) == {
        "ttft": 0.5,
        "tpot": 0.05,
        "e2el": 3.0,
    }
    assert parse_objectives([]) == {}


@pytest.mark.parametrize(
    "text", ["ttft", "ttft:", "ttft:x", "ttft:0", "ttft:-1", "ttft:nan", "p:1"]
)
def test_a_wrong_objective_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_objectives([text])


@pytest.mark.parametrize("burstiness", [0.5, 1.0, 4.0])
def test_arrivals_have_the_asked_rate_and_spread(burstiness: float) -> None:
    times = list(arrivals(20_000, 5.0, burstiness, random.Random(1)))
    gaps = [b - a for a, b in pairwise(times)]
    assert times[0] == 0.0
    assert statistics.mean(gaps) == pytest.approx(0.2, rel=0.05)
    # the coefficient of variation of a gamma distribution is 1 / sqrt(shape)
    assert statistics.stdev(gaps) / 0.2 == pytest.approx(burstiness**-0.5, rel=0.05)


def test_an_infinite_rate_sends_all_at_once() -> None:
    assert set(arrivals(5, float("inf"), 1.0, random.Random(0))) == {0.0}


def test_workloads_repeat_under_their_seed_and_differ_under_another() -> None:
    assert fixed_lengths(3, 7, 5, seed=1) == fixed_lengths(3, 7, 5, seed=1)
    assert fixed_lengths(3, 7, 5, seed=1) != fixed_lengths(3, 7, 5, seed=2)
    assert {len(item.prompt) for item in fixed_lengths(3, 7, 5, seed=1)} == {7}
    lengths = [len(item.prompt) for item in sharegpt_lengths(2000, seed=0)]
    assert len(set(lengths)) > 100
    assert statistics.mean(lengths) == pytest.approx(161, rel=0.15)


def test_each_endpoint_gets_its_own_body() -> None:
    item = WorkItem((5, 6), 9)
    completions = Target("http://x", ("m",), Endpoint.COMPLETIONS, ignore_eos=True).body(item)
    assert completions["prompt"] == [5, 6]
    assert completions["max_tokens"] == 9
    assert completions["ignore_eos"] is True
    chat = Target("http://x", ("m",), Endpoint.CHAT).body(item)
    assert len(chat["messages"][0]["content"].split()) == 2
    assert chat["max_completion_tokens"] == 9
    assert "ignore_eos" not in chat


TRACES = {
    "azure.csv": "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n",
    "apex.csv": "ContextTokens,GeneratedTokens,StartTimeOffset_ns\n"
    "374,44,1000000000\n396,109,5314579000\n",
    "mooncake.jsonl": '{"timestamp": 0, "input_length": 374, "output_length": 44, "hash_ids": [1]}'
    "\n"
    '{"timestamp": 4314.579, "input_length": 396, "output_length": 109, "hash_ids": [1]}\n',
    "prism.csv": "arrived_at_s,model_index,prompt_tokens,output_tokens\n"
    "1.0,3,374,44\n5.314579,0,396,109\n",
}


@pytest.mark.parametrize("name", TRACES)
def test_public_traces_are_read_by_their_columns(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(TRACES[name])
    first, second = read_trace(path, 10, seed=0)
    assert (len(first.prompt), first.output_len, first.arrival) == (374, 44, 0.0)
    assert (len(second.prompt), second.output_len) == (396, 109)
    assert second.arrival == pytest.approx(4.314579, abs=1e-4)
    assert len(read_trace(path, 1, seed=0)) == 1


def test_prompts_share_what_their_hashes_share(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    rows = [([0, 1], 700), ([0, 2], 700), ([0, 1, 3], 1100)]
    path.write_text(
        "\n".join(
            json.dumps({"timestamp": 0, "input_length": n, "output_length": 1, "hash_ids": h})
            for h, n in rows
        )
    )
    a, b, c = (item.prompt for item in read_trace(path, 3, seed=0))
    assert a[:HASHED_TOKENS] == b[:HASHED_TOKENS] == c[:HASHED_TOKENS]
    assert a[HASHED_TOKENS:] != b[HASHED_TOKENS:]
    assert c[:700] == a


def test_a_trace_names_its_models_or_each_takes_its_turn(tmp_path: Path) -> None:
    for name, numbers in (("prism.csv", [3, 0]), ("azure.csv", [0, 1]), ("mooncake.jsonl", [0, 1])):
        path = tmp_path / name
        path.write_text(TRACES[name])
        assert [item.model for item in read_trace(path, 2, seed=0)] == numbers
    target = Target("http://x", ("a", "b"), Endpoint.COMPLETIONS)
    names = [target.model(item) for item in in_turn([WorkItem((5,), 1)] * 5)]
    assert names == ["a", "b", "a", "b", "a"]
    assert target.body(WorkItem((5,), 1, model=7))["model"] == "b"


@given(
    scale=st.floats(0.001, 3.0),
    common=st.integers(0, 4),
    lengths=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
)
def test_scaled_prompts_share_what_their_hashes_share(
    tmp_path_factory: pytest.TempPathFactory,
    scale: float,
    common: int,
    lengths: tuple[int, int],
) -> None:
    """Lengths scale and stay at least 1; equal hashes are equal tokens, to the token."""
    blocks = [-(-length // HASHED_TOKENS) for length in lengths]
    common = min(common, *blocks)
    rows = [
        {
            "timestamp": 0,
            "input_length": length,
            "output_length": 7,
            "hash_ids": [*range(common), *range(10 * k + 10, 10 * k + 10 + count - common)],
        }
        for k, (length, count) in enumerate(zip(lengths, blocks, strict=True))
    ]
    path = tmp_path_factory.getbasetemp() / "scaled.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    items = read_trace(path, 2, seed=0, scale=scale)
    for item, length in zip(items, lengths, strict=True):
        assert len(item.prompt) == max(1, round(length * scale))
        assert item.output_len == max(1, round(7 * scale))
    shared = min(round(common * HASHED_TOKENS * scale), *(len(item.prompt) for item in items))
    assert items[0].prompt[:shared] == items[1].prompt[:shared]


@pytest.mark.parametrize(
    "text", ["", "a,b\n1,2\n", "TIMESTAMP,ContextTokens,GeneratedTokens\nnow,1,2\n"]
)
def test_a_trace_that_cannot_be_read_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"trace\.csv"):
        read_trace(path, 3, seed=0)


def test_a_schedule_keeps_the_requests() -> None:
    items = fixed_lengths(2, 3, 4, seed=0)
    assert [(i.prompt, i.arrival) for i in timed(items, [1.0, 2.0])] == [
        (items[0].prompt, 1.0),
        (items[1].prompt, 2.0),
    ]
    assert [item.arrival for item in hastened(timed(items, [1.0, 2.0]), 4.0)] == [0.25, 0.5]
