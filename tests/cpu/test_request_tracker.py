"""From the engine's tokens to the caller's outputs, whole or piece by piece."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_tokenizers import byte_level

from ellm.core.output import SequenceOutput
from ellm.core.request import Request
from ellm.core.result import TokenLogprobs
from ellm.core.sampling import SamplingParams
from ellm.core.sequence import FinishReason
from ellm.llm.outputs import Logprob, RequestOutput
from ellm.llm.request_tracker import RequestTracker
from ellm.llm.tokenizer import Tokenizer

TOKENIZER = Tokenizer(byte_level())
EOS = 257


class Ticks:
    """A clock that counts its readings."""

    def __init__(self) -> None:
        self._count = count()

    def now(self) -> float:
        return float(next(self._count))


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def track(
    delta: bool = False, prompt: tuple[int, ...] = (1, 2, 3), **fields: object
) -> RequestTracker:
    params = SamplingParams(**{"max_tokens": 100, **fields})  # type: ignore[arg-type]
    request = Request(request_id="engine-1", prompt=prompt, params=params)
    return RequestTracker(request, "mine", "a prompt", TOKENIZER, Ticks(), delta)


def news(token: int | None, index: int = 0, **fields: object) -> SequenceOutput:
    return SequenceOutput("engine-1", index, token, **fields)  # type: ignore[arg-type]


def say(tracker: RequestTracker, text: str, index: int = 0) -> list[bool]:
    return [tracker.add(news(token, index)) for token in ids(text)]


def test_an_output_has_everything_so_far() -> None:
    tracker = track()
    say(tracker, "hello")
    first = tracker.output()
    say(tracker, " world")
    assert tracker.has_news
    second = tracker.output()
    assert not tracker.has_news
    assert (first.request_id, first.prompt, first.prompt_token_ids) == (
        "mine",
        "a prompt",
        [1, 2, 3],
    )
    assert first.outputs[0].text == "hello"
    assert second.outputs[0].text == "hello world"
    assert second.outputs[0].token_ids == ids("hello world")
    assert not second.finished
    assert second.outputs[0].logprobs is None
    assert second.outputs[0].cumulative_logprob is None
    assert second.metrics.arrival_time == 0.0
    assert second.metrics.first_token_time == 0.0
    assert second.metrics.last_token_time == float(len(ids("hello world")) - 1)


def test_deltas_have_only_what_is_new_of_those_with_news() -> None:
    tracker = track(delta=True, n=3)
    say(tracker, "hello", 0)
    say(tracker, "fox", 2)
    first = tracker.output()
    assert [(o.index, o.text) for o in first.outputs] == [(0, "hello"), (2, "fox")]
    say(tracker, " x", 2)
    tracker.add(news(None, 1, finish_reason=FinishReason.ABORT))
    second = tracker.output()
    got = [(o.index, o.text, o.token_ids, o.finish_reason) for o in second.outputs]
    assert got == [(1, "", [], "abort"), (2, " x", ids(" x"), None)]
    assert not tracker.has_news


def test_a_stop_string_ends_the_choice_and_asks_for_its_abort() -> None:
    tracker = track(stop=["stop", "zzz"], n=2)
    asked = say(tracker, "hello stop x")
    assert asked.count(True) == 1
    output = tracker.output().outputs[0]
    assert (output.text, output.finish_reason, output.stop_reason) == ("hello ", "stop", "stop")
    assert not tracker.add(news(5, finish_reason=FinishReason.ABORT))
    assert tracker.output().outputs[0].text == "hello "
    assert not tracker.finished
    tracker.add(news(None, 1, finish_reason=FinishReason.ABORT))
    assert tracker.finished


def test_a_stop_string_may_stay_in_the_text() -> None:
    tracker = track(stop="wor", include_stop_str_in_output=True)
    say(tracker, "hello world")
    assert tracker.output().outputs[0].text == "hello wor"


def test_a_stop_string_in_the_last_token_needs_no_abort() -> None:
    tracker = track(stop="x")
    assert not tracker.add(news(ids("x")[0], finish_reason=FinishReason.LENGTH))
    output = tracker.output().outputs[0]
    assert (output.text, output.finish_reason, output.stop_reason) == ("", "stop", "x")


def test_stop_strings_wait_for_min_tokens() -> None:
    text = "xxx hello x"
    tracker = track(stop="x", min_tokens=len(ids("xxx hello")) + 1)
    say(tracker, text)
    assert tracker.output().outputs[0].text == "xxx hello "


def test_held_back_text_comes_at_the_end() -> None:
    tracker = track(stop="world peace")
    say(tracker, "hello world")
    assert tracker.output().outputs[0].text == "hello "
    tracker.add(news(ids(" fox")[0], finish_reason=FinishReason.LENGTH))
    assert tracker.output().outputs[0].text == "hello world fox"
    assert tracker.output().outputs[0].finish_reason == "length"


def test_end_and_stop_tokens_are_not_text() -> None:
    tracker = track(stop_token_ids=[ids("x")[0]])
    say(tracker, "hello")
    tracker.add(news(ids("x")[0], finish_reason=FinishReason.STOP))
    output = tracker.output().outputs[0]
    assert (output.text, output.stop_reason) == ("hello", ids("x")[0])
    assert output.token_ids[-1] == ids("x")[0]
    tracker = track(stop_token_ids=[ids("x")[0]], include_stop_str_in_output=True)
    tracker.add(news(ids("x")[0], finish_reason=FinishReason.STOP))
    assert tracker.output().outputs[0].text == "x"
    tracker = track()
    tracker.add(news(EOS, finish_reason=FinishReason.STOP))
    assert tracker.output().outputs[0].stop_reason is None
    assert tracker.output().outputs[0].text == ""


def test_half_a_character_at_the_end_is_shown_as_such() -> None:
    tracker = track()
    half = ids("😀")[0]
    tracker.add(news(half))
    assert tracker.output().outputs[0].text == ""
    tracker.add(news(None, finish_reason=FinishReason.ABORT))
    assert tracker.output().outputs[0].text == "\ufffd"


def test_without_detokenizing_there_is_no_text() -> None:
    tracker = track(detokenize=False)
    say(tracker, "hello")
    assert tracker.output().outputs[0].text == ""
    assert tracker.output().outputs[0].token_ids == ids("hello")


def test_logprobs_are_tables_by_token() -> None:
    x, fox = ids("x")[0], ids(" fox")[0]
    for delta in (True, False):
        tracker = track(delta, logprobs=2)
        report = TokenLogprobs(x, -2.5, 7, ((fox, -0.1), (9, -1.0)))
        tracker.add(news(x, logprobs=report))
        tracker.add(news(fox, logprobs=TokenLogprobs(fox, -0.5, 1, ((fox, -0.5), (x, -3.0)))))
        output = tracker.output().outputs[0]
        assert output.cumulative_logprob == pytest.approx(-3.0)
        assert output.logprobs == [
            {
                x: Logprob(-2.5, 7, "x"),
                fox: Logprob(-0.1, 1, " fox"),
                9: Logprob(-1.0, 2, TOKENIZER.token_text(9)),
            },
            {fox: Logprob(-0.5, 1, " fox"), x: Logprob(-3.0, 2, "x")},
        ]
        assert list(output.logprobs[0]) == [x, fox, 9]


def test_prompt_logprobs_come_complete_and_once() -> None:
    tracker = track(delta=True, prompt_logprobs=0)
    tracker.add(news(None, scores=(TokenLogprobs(2, -1.0, 1),)))
    assert not tracker.has_news
    tracker.add(news(7, scores=(TokenLogprobs(3, -2.0, 4),), cached_tokens=2))
    output = tracker.output()
    assert output.num_cached_tokens == 2
    assert output.prompt_logprobs is not None
    assert [t and {k: v.logprob for k, v in t.items()} for t in output.prompt_logprobs] == [
        None,
        {2: -1.0},
        {3: -2.0},
    ]
    tracker.add(news(7))
    assert tracker.output().prompt_logprobs is None
    assert track().output().prompt_logprobs is None
    assert track(prompt=(1,), prompt_logprobs=1).output().prompt_logprobs == [None]


@given(
    tokens=st.lists(st.integers(0, 332), max_size=30),
    reads=st.lists(st.booleans(), min_size=31, max_size=31),
    stop=st.lists(st.text(alphabet="abcxo ", min_size=1, max_size=3), max_size=3),
    include=st.booleans(),
)
@settings(max_examples=100)
def test_deltas_add_up_to_the_whole(
    tokens: list[int], reads: list[bool], stop: list[str], include: bool
) -> None:
    """However seldom they are read."""
    whole = track(stop=stop, include_stop_str_in_output=include, logprobs=0)
    parts = track(True, stop=stop, include_stop_str_in_output=include, logprobs=0)
    outputs: list[RequestOutput] = []
    for place, token in enumerate(tokens):
        reason = FinishReason.LENGTH if place == len(tokens) - 1 else None
        item = news(token, logprobs=TokenLogprobs(token, -1.0, 1), finish_reason=reason)
        assert whole.add(item) == parts.add(item)
        if reads[place] and parts.has_news:
            outputs.append(parts.output())
    if parts.has_news:
        outputs.append(parts.output())
    final = whole.output().outputs[0]
    pieces = [output.outputs[0] for output in outputs]
    assert "".join(piece.text for piece in pieces) == final.text
    assert [token for piece in pieces for token in piece.token_ids] == final.token_ids
    assert [t for piece in pieces for t in piece.logprobs or ()] == final.logprobs
    if pieces:
        assert (
            pieces[-1].finish_reason
            == final.finish_reason
            == whole.output().outputs[0].finish_reason
        )
        assert outputs[-1].finished
