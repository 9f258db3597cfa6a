"""The bundled trace has a name, and is what its script makes and promises."""

from __future__ import annotations

import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest

from ellm.core.errors import ConfigError
from ellm.sim.workload.bundled import HOME, find_trace
from ellm.sim.workload.item import Item
from ellm.sim.workload.prompts import token_ids
from ellm.sim.workload.recording import line_of, write_trace
from ellm.sim.workload.traces import read_trace

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))

from make_example_trace import BLOCK_TOKENS, chat


def test_the_file_is_what_the_script_makes() -> None:
    assert find_trace("chat").read_text(encoding="utf-8") == "".join(map(line_of, chat()))


def test_it_goes_by_its_name_unless_a_file_has_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(read_trace(Path("chat")).items) == 400
    with pytest.raises(ConfigError, match="or a bundled trace: chat"):
        read_trace("chatt")
    (tmp_path / "chat").mkdir()
    assert find_trace("chat") == find_trace(Path("chat")) == HOME / "chat.jsonl"
    (tmp_path / "chat").rmdir()
    write_trace(tmp_path / "chat", [Item(1, 2)])
    assert len(read_trace("chat").items) == 1


def test_it_is_a_chat_service() -> None:
    trace = read_trace("chat")
    assert (len(trace.items), trace.timed, trace.warnings) == (400, True, ())
    assert max(item.prompt_tokens for item in trace.items) <= 4000
    assert max(item.output_tokens for item in trace.items) <= 800
    assert 399 / trace.items[-1].arrival == pytest.approx(4, rel=0.1)


def test_a_turn_begins_with_all_of_the_turn_before() -> None:
    turns = defaultdict(list)
    for number, item in enumerate(read_trace("chat").items):
        if item.blocks:
            turns[item.blocks[0]].append((item, token_ids(item, number, 0)))
    several = [conversation for conversation in turns.values() if len(conversation) > 1]
    assert len(several) > 5
    for conversation in several:
        for (before, said), (after, says) in pairwise(conversation):
            assert after.prompt_tokens > before.prompt_tokens + before.output_tokens
            shared = before.prompt_tokens // BLOCK_TOKENS * BLOCK_TOKENS
            assert says[:shared] == said[:shared]
            assert len(before.blocks) == shared // BLOCK_TOKENS
