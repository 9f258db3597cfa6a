"""Streamed text equals the text of all tokens at once, and never has half a character."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_tokenizers import KINDS

from ellm.llm.detokenizer import detokenizer
from ellm.llm.tokenizer import Tokenizer

TOKENIZERS = {kind: Tokenizer(make()) for kind, make in KINDS.items()}
TEXTS = st.text() | st.text(alphabet="hello wrd日本étï😀\ufffd\n👩‍🚀<>", max_size=30)


def stream(tokenizer: Tokenizer, ids: list[int], skip: bool = True) -> list[str]:
    machine = detokenizer(tokenizer, (), skip)
    return [*(machine.push(token) for token in ids), machine.finish()]


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_random_tokens(kind: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[kind]
    token = st.integers(0, tokenizer.vocab_size + 3)
    # Of a vocabulary with single bytes, runs of them are the hard case.
    token |= st.integers(3, 258)
    ids = data.draw(st.lists(token, max_size=40))
    skip = data.draw(st.booleans())
    assert "".join(stream(tokenizer, ids, skip)) == tokenizer.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXTS)
@settings(max_examples=150, deadline=None)
def test_random_text_has_no_half_characters(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = stream(tokenizer, ids)
    whole = tokenizer.decode(ids)
    assert "".join(pieces) == whole
    if "\ufffd" not in whole:
        assert not any("\ufffd" in piece for piece in pieces)


def test_text_is_not_held_back_for_long() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    ids = tokenizer.encode("日本 hello", add_special_tokens=False)
    assert stream(tokenizer, ids)[-1] == ""
    assert all(stream(tokenizer, tokenizer.encode("the fox", add_special_tokens=False))[:-1])


@pytest.mark.parametrize("kind", ["byte_fallback", "metaspace"])
def test_a_continuation_keeps_its_space(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    prompt = tokenizer.encode("hello")
    ids = tokenizer.encode("world the fox", add_special_tokens=False)
    machine = detokenizer(tokenizer, prompt)
    assert "".join(machine.push(token) for token in ids) == " world the fox"


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_does_not_grow(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode("the naïve fox ", add_special_tokens=False)
    machine = detokenizer(tokenizer)
    for token in ids * 3:
        machine.push(token)
    tracemalloc.start()
    for token in ids * 500:
        machine.push(token)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 4096
