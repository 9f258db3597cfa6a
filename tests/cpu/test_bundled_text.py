"""The bundled models say what transformers makes them say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ellm import LLM, SamplingParams
from ellm.core.bundled import MODELS
from ellm.llm.model_source import resolve_model

PROMPTS = [
    "def fibonacci(n):\n",
    "import os\n\n\ndef walk(path):\n    for",
    'class Stack:\n    """A stack, naïve 日本."""\n',
    "The",
]
CHAT = [
    {"role": "user", "content": "Return the sum of two numbers."},
    {"role": "assistant", "content": "def add(a, b):"},
]


@pytest.mark.parametrize("name", MODELS)
def test_greedy_text_equals_transformers(name: str) -> None:
    directory = resolve_model(name)
    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    theirs = AutoTokenizer.from_pretrained(directory)
    with LLM(name, memory="512MiB", dtype="float32", threads=1) as llm:
        params = SamplingParams(max_tokens=64, temperature=0, ignore_eos=True)
        for text, output in zip(
            PROMPTS, llm.generate(PROMPTS, params, use_tqdm=False), strict=True
        ):
            ids = torch.tensor([theirs(text)["input_ids"]])
            assert output.prompt_token_ids == ids[0].tolist()
            with torch.inference_mode():
                made = model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=64,
                    do_sample=False,
                    eos_token_id=None,
                    pad_token_id=2,
                )[0, ids.shape[1] :].tolist()
            assert output.outputs[0].token_ids == made
            assert output.outputs[0].text == theirs.decode(made, skip_special_tokens=True)


@pytest.mark.parametrize("name", MODELS)
def test_the_chat_template_and_its_end_are_known(name: str) -> None:
    directory = resolve_model(name)
    theirs = AutoTokenizer.from_pretrained(directory)
    with LLM(name, memory="256MiB", threads=1) as llm:
        for generate in (True, False):
            ours = llm.tokenizer.apply_chat_template(CHAT, add_generation_prompt=generate)
            assert ours == theirs.apply_chat_template(
                CHAT, tokenize=False, add_generation_prompt=generate
            )
        end = llm.tokenizer.encode("<|end|>", add_special_tokens=False)
        assert len(end) == 1
        forced = SamplingParams(temperature=0, logit_bias={end[0]: 100.0})
        output = llm.chat(CHAT[:1], forced, use_tqdm=False)[0]
        assert output.outputs[0].token_ids == end
        assert (output.outputs[0].finish_reason, output.outputs[0].text) == ("stop", "")
