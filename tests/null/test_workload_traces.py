"""Traces are read by what they hold, as far as they go, and what is wrong with them is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ellm.core.errors import ConfigError
from ellm.sim.workload.formats import FORMATS
from ellm.sim.workload.item import BLOCK_TOKENS, Item
from ellm.sim.workload.recording import line_of, write_trace
from ellm.sim.workload.traces import Trace, read_trace

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
SAME = {
    "azure 2023": f"{AZURE}2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109",
    "azure 2024": f"{AZURE}2024-05-10 00:00:00+00:00,374,44\n"
    "2024-05-10 00:00:04.314579+00:00,396,109\n",
    "azure elsewhere": f"{AZURE}2024-05-10 00:00:00+02:00,374,44\n"
    "2024-05-09 20:00:04.314579-02:00,396,109\n",
    "apex": "ContextTokens,GeneratedTokens,StartTimeOffset_ns\r\n"
    "374,44,1000000000\r\n396,109,5314579000\r\n",
    "mooncake": '{"timestamp": 0, "input_length": 374, "output_length": 44, "hash_ids": [1]}\n'
    '{"timestamp": 4314.579, "input_length": 396, "output_length": 109, "hash_ids": [1]}\n',
    "prism": "arrived_at_s,model_index,prompt_tokens,output_tokens\n"
    "1.0,3,374,44\n5.314579,0,396,109",
    "ours": '\n{"prompt_tokens": 374, "output_tokens": 44, "arrived_at_s": 1, "model_index": 3}\n\n'
    '{"prompt_tokens": 396, "output_tokens": 109, "arrived_at_s": 5.314579, "model_index": 0}\n',
    "sharegpt": "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n"
    "374,44,418,8.5\n396,109,505,3.6\n",
    "ours, lengths": '{"prompt_tokens": 374, "output_tokens": 44}\n'
    '{"prompt_tokens": 396, "output_tokens": 109}\n',
}
UNTIMED = {"sharegpt", "ours, lengths"}
MODELS = {"prism": [3, 0], "ours": [3, 0]}

Read = Callable[..., Trace]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads a text; the file's name says nothing."""

    def read(text: str, *args: object, **named: object) -> Trace:
        path = tmp_path / "trace"
        path.write_bytes(text.encode())
        return read_trace(path, *args, **named)  # type: ignore[arg-type]

    return read


@pytest.mark.parametrize("name", SAME)
def test_a_format_is_known_by_its_columns(read: Read, name: str) -> None:
    trace = read(SAME[name])
    first, second = trace.items
    assert (first.prompt_tokens, first.output_tokens, first.arrival) == (374, 44, 0.0)
    assert (second.prompt_tokens, second.output_tokens) == (396, 109)
    assert trace.timed == (name not in UNTIMED)
    assert second.arrival == pytest.approx(4.314579 * trace.timed, abs=2e-6)
    assert [item.model for item in trace.items] == MODELS.get(name, [None, None])
    assert [item.blocks for item in trace.items] == [(1,) if name == "mooncake" else ()] * 2
    assert trace.warnings == ()
    assert len(read(SAME[name], 1).items) == 1
    assert read("\ufeff" + SAME[name]) == trace


def test_every_format_has_an_example(read: Read) -> None:
    columns = " ".join(SAME.values())
    assert all(name in columns for known in FORMATS for name in known.required)


def test_no_more_is_read_than_is_wanted(read: Read) -> None:
    """A fault further down is not even seen."""
    for text in (SAME["azure 2024"] + "x\ny\n", SAME["mooncake"] + "x\ny\n"):
        assert len(read(text, 2).items) == 2
        with pytest.raises(ConfigError, match="line"):
            read(text)


def test_lengths_are_scaled_and_at_least_one(read: Read) -> None:
    items = read(SAME["mooncake"], scale=0.01).items
    assert [(item.prompt_tokens, item.output_tokens) for item in items] == [(4, 1), (4, 1)]
    assert {item.block_tokens for item in items} == {BLOCK_TOKENS * 0.01}


def test_a_request_beyond_the_context_is_refused_or_left_out(read: Read) -> None:
    text = SAME["azure 2023"]
    assert read(text, context=505).warnings == ()
    with pytest.raises(ConfigError, match=r"line 3: 396 prompt and 109 output tokens .* of 504"):
        read(text, context=504)
    trace = read(text, context=504, drop_longer=True)
    assert [item.prompt_tokens for item in trace.items] == [374]
    assert len(trace.warnings) == 1
    assert "left out 1 of 2 requests" in trace.warnings[0]
    with pytest.raises(ConfigError, match="all 2 requests"):
        read(text, context=100, drop_longer=True)
    assert len(read(text, scale=0.5, context=253).items) == 2
    longest = f"{AZURE}2024-05-10 00:00:00,9000,1\n2024-05-10 00:00:07,5,1\n"
    assert read(longest, context=100, drop_longer=True).items == (Item(5, 1),)


CUT = {
    "json": (SAME["mooncake"] + '{"timestamp": 5000, "input_len', 3),
    "json and a blank line": (SAME["mooncake"] + '{"timestamp": 5000, "input_len\n\n', 3),
    "fields": (SAME["azure 2024"] + "2024-05-10 00:00:09+00:00,12", 4),
    "half a time": (SAME["azure 2024"] + "2024-05-", 4),
    "nothing of the last": (SAME["azure 2024"] + "2024-05-10 00:00:09+00:00,12,", 4),
    "end of line": (SAME["prism"] + "\n9.5,0\n", 4),
}


@pytest.mark.parametrize("name", CUT)
def test_a_trace_that_breaks_off_is_read_up_to_there(read: Read, name: str) -> None:
    text, line = CUT[name]
    trace = read(text)
    assert len(trace.items) == 2
    assert trace.warnings == (trace.warnings[0],)
    assert f"in the middle of line {line}: read 2 requests" in trace.warnings[0]
    assert read(text, 2).warnings == ()


@given(end=st.integers(1))
def test_wherever_it_breaks_off_whole_requests_before_are_kept(
    tmp_path_factory: pytest.TempPathFactory, end: int
) -> None:
    """Of JSON lines: each is either whole or none."""
    whole = "".join(map(line_of, (Item(5, 6, t, 1, (t,), 64) for t in range(4))))
    text = whole[: end % len(whole) + 1]
    path = tmp_path_factory.getbasetemp() / "broken off"
    path.write_text(text)
    complete = [line for line in text.splitlines() if line.endswith("}")]
    if not complete:
        with pytest.raises(ConfigError, match="broken off ends in the middle of its first request"):
            read_trace(path)
        return
    trace = read_trace(path)
    assert len(trace.items) == len(complete)
    assert len(trace.warnings) == (len(text.splitlines()) > len(complete))


def row(**changed: object) -> str:
    whole = {"prompt_tokens": 3, "output_tokens": 4, "arrived_at_s": 1.0, "hash_ids": [1]}
    found = {name: value for name, value in (whole | changed).items() if value != "absent"}
    return json.dumps(found) + "\n"


WRONG = {
    "": "is empty",
    "\n \n": "is empty",
    AZURE: "no whole request",
    '{"prompt_tok': "middle of its first",
    "[\n" + row() + "]": "one JSON list",
    "a,b\n1,2\n": "columns a, b, .*Azure has ContextTokens, GeneratedTokens, TIMESTAMP",
    "374,44\n396,109\n": "columns 374, 44, .*num_prefill_tokens",
    '{"prompt": "x"}\n': "columns prompt, .*Mooncake has input_length",
    f"{AZURE}now,1,2\n": "line 2: TIMESTAMP is 'now'",
    f"{AZURE}2024-05-10,x,2\n": "line 2: ContextTokens is 'x'",
    f"{AZURE}2024-05-10,1.5,2\n": r"line 2: ContextTokens is '1\.5'",
    f"{AZURE}2024-05-10,-1,2\n": "line 2: ContextTokens is -1",
    f"{AZURE}2024-05-10,,2\n": "line 2: ContextTokens is missing",
    f"{AZURE},1,2\n": "line 2: TIMESTAMP is missing",
    f"{AZURE}2024-05-10,1,\n2024-05-10,1,2\n": "line 2: GeneratedTokens is missing",
    f"{AZURE}2024-05-10,1\n2024-05-10,1,2\n": "line 2: 2 values under 3 columns",
    f"{AZURE}2024-05-10,1,2,3\n": "line 2: 4 values under 3 columns",
    f"{AZURE}2024-05-10,1,2\n2024-05-09,1,2\n": "line 3: TIMESTAMP .*86400 s before .*sort",
    row() + row(arrived_at_s=0.5): "line 2: arrived_at_s is 0.5, 0.5 s before .*sort",
    row() + "\n" + "nonsense\n" + row(): r"line 3: not JSON \(Expecting value at column 1\)",
    row() + "[" * 100_000 + "\n" + row(): "line 2: not JSON",
    '""\n': "columns no name at all",
    row() + "7\n": "line 2: 7 is no JSON object",
    row(prompt_tokens="absent"): "columns",
    row() + row(prompt_tokens="absent"): "line 2: prompt_tokens is missing",
    row() + row(output_tokens=None): "line 2: output_tokens is missing",
    row(prompt_tokens=True): "line 1: prompt_tokens is True",
    row(prompt_tokens=1.5): "line 1: prompt_tokens is 1.5",
    row(prompt_tokens=10**400): "line 1: prompt_tokens is 1000",
    row(arrived_at_s=-1): "line 1: arrived_at_s is -1",
    row(arrived_at_s=float("nan")): "line 1: arrived_at_s is nan",
    row(arrived_at_s=[]): r"line 1: arrived_at_s is \[\]",
    row() + row(arrived_at_s="absent"): "line 2: arrived_at_s is missing",
    row(arrived_at_s="absent") + row(): "line 2: it has arrived_at_s",
    row() + row(model_index=3): "line 2: it has model_index",
    row(model_index=-3): "line 1: model_index is -3",
    row(hash_ids=[1, "a"]): "line 1: hash_ids is .* no list of whole numbers",
    row(hash_ids=7): "line 1: hash_ids is 7",
    row(block_tokens=0): "line 1: block_tokens is 0",
    row(block_tokens="x"): "line 1: block_tokens is 'x'",
    f"{AZURE}2024-05-10,\0,2\n": "line 2: ",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_said_in_one_line(read: Read, tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=WRONG[text]) as caught:
        read(text)
    said = str(caught.value)
    assert str(tmp_path / "trace") in said
    assert "\n" not in said
    assert len(said) < 600


def test_what_is_no_text_or_no_file_is_said(read: Read, tmp_path: Path) -> None:
    (tmp_path / "packed").write_bytes(b"\x1f\x8b\x08\xff" * 9)
    with pytest.raises(ConfigError, match="packed is no UTF-8 text"):
        read_trace(tmp_path / "packed")
    with pytest.raises(ConfigError, match=r"nowhere does not exist: .* a bundled trace: "):
        read_trace(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="is a folder"):
        read_trace(tmp_path)


@st.composite
def recorded(draw: st.DrawFn) -> list[Item]:
    """Requests as they come, all of them for a named model or none."""
    gaps = draw(st.lists(st.floats(0, 1e6), max_size=8))
    named = st.integers(0, 99) if draw(st.booleans()) else st.none()
    items = [Item(draw(st.integers(1, 1 << 40)), draw(st.integers(1, 99)), 0.0, draw(named))]
    for gap in gaps:
        blocks = tuple(draw(st.lists(st.integers(-1, 1 << 70), max_size=3)))
        covered = draw(st.integers(1, 999) | st.floats(0.01, 99)) if blocks else BLOCK_TOKENS
        lengths = draw(st.tuples(st.integers(1, 9999), st.integers(1, 9999)))
        when = items[-1].arrival + gap
        items.append(Item(*lengths, when, draw(named), blocks, covered))
    return items


@given(items=recorded())
def test_what_is_recorded_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, items: list[Item]
) -> None:
    path = tmp_path_factory.getbasetemp() / "recorded"
    write_trace(path, items)
    assert read_trace(path) == Trace(tuple(items), timed=True)


def test_a_trace_that_cannot_be_written_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write"):
        write_trace(tmp_path, [])
