"""A long greedy answer of the bundled model is the same by every kernel there is."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from backends import BACKENDS, NATIVE
from device_half import Device
from tokenizers import Tokenizer

import ellm

MODEL = Path(ellm.__file__).parent / "bundled" / "base"
# What the model goes on with here does not fall into a loop soon.
PROMPT = "import os\nimport sys\n\n\ndef main():\n    parser = argparse.ArgumentParser()\n"
LENGTH = 256


@cache
def answer(backend: str) -> list[int]:
    device = Device(MODEL, "float32", ops=BACKENDS[backend], tokens=LENGTH + 64)
    tokens: list[int] = Tokenizer.from_file(str(MODEL / "tokenizer.json")).encode(PROMPT).ids
    given, computed = len(tokens), 0
    while len(tokens) < given + LENGTH:
        _, (result,) = device.step([(0, tokens[computed:], computed)])
        computed = len(tokens)
        assert result.token is not None
        tokens.append(result.token)
    return tokens[given:]


@pytest.mark.skipif(not NATIVE, reason="built without a C++ compiler")
@pytest.mark.parametrize("level", NATIVE)
def test_native_kernels_say_what_the_reference_says(level: str) -> None:
    text = answer("reference")
    assert len(set(text)) > LENGTH // 8, text
    assert answer(level) == text
