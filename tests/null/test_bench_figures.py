"""The load client's arithmetic: rates, goodput, and what it sends."""

from __future__ import annotations

import json

import pytest

from ellm.cli.bench.client import Endpoint, Outcome, Target
from ellm.cli.bench.question import Question, questions
from ellm.cli.bench.report import lines
from ellm.cli.bench.statistics import parse_objectives, summarize
from ellm.core.errors import ConfigError
from ellm.sim.workload.item import Item


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


def test_each_endpoint_gets_its_own_body() -> None:
    item = Question((5, 6), 9)
    completions = Target("http://x", ("m",), Endpoint.COMPLETIONS, ignore_eos=True).body(item)
    assert completions["prompt"] == [5, 6]
    assert completions["max_tokens"] == 9
    assert completions["ignore_eos"] is True
    chat = Target("http://x", ("m",), Endpoint.CHAT).body(item)
    assert len(chat["messages"][0]["content"].split()) == 2
    assert chat["max_completion_tokens"] == 9
    assert "ignore_eos" not in chat


def test_a_question_is_for_its_items_model_or_each_takes_its_turn() -> None:
    target = Target("http://x", ("a", "b"), Endpoint.COMPLETIONS)
    asked = questions([Item(1, 1)] * 5, seed=0)
    assert [target.model(question) for question in asked] == ["a", "b", "a", "b", "a"]
    named = questions([Item(2, 3, arrival=4.0, model=7)] * 2, seed=0)
    assert [target.body(question)["model"] for question in named] == ["b", "b"]
    assert [(len(q.prompt), q.output_len, q.arrival) for q in named] == [(2, 3, 4.0)] * 2
    assert named[0].prompt != named[1].prompt


def test_questions_repeat_under_their_seed_and_differ_under_another() -> None:
    items = [Item(7, 5), Item(9, 1)]
    assert questions(items, seed=1) == questions(items, seed=1)
    assert questions(items, seed=1) != questions(items, seed=2)
    assert json.loads(json.dumps(list(questions(items, seed=1)[0].prompt)))
