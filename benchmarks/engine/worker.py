"""One engine in a process of its own (harness/worker.py).

opening    {"engine": name, "model": directory, "threads": 2}
question   {"prompts": [[ids], ...], "n": 128}
answer     {"seconds": 1.5, "tokens": 2048}
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from harness.worker import Json, serve

Prompts = Sequence[Sequence[int]]
Generate = Callable[[Prompts, int], int]
"""Continue every prompt by n tokens, greedily; returns how many tokens that made."""


def ellm(model: str) -> Generate:
    from ellm import LLM, SamplingParams

    # A prompt is asked twice, for one token and for all, and must cost the same both times.
    llm = LLM(
        model,
        dtype="bfloat16",
        max_model_len=4096,
        max_num_seqs=32,
        enable_prefix_caching=False,
    )

    def generate(prompts: Prompts, n: int) -> int:
        params = SamplingParams(max_tokens=n, temperature=0, ignore_eos=True, detokenize=False)
        inputs = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        answers = llm.generate(inputs, params, use_tqdm=False)
        return sum(len(answer.outputs[0].token_ids) for answer in answers)

    return generate


def _reference(model: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.bfloat16, attn_implementation="sdpa"
    ).eval()
    loaded.generation_config.eos_token_id = None
    loaded.generation_config.pad_token_id = 2
    return loaded


def transformers(model: str) -> Generate:
    """`generate`, one static batch."""
    import torch

    loaded = _reference(model)

    def generate(prompts: Prompts, n: int) -> int:
        ids = torch.tensor(prompts)
        with torch.inference_mode():
            answer = loaded.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, do_sample=False
            )
        return int(answer.shape[0] * (answer.shape[1] - ids.shape[1]))

    return generate


def transformers_cb(model: str) -> Generate:
    """`generate_batch`, continuous batching with a pool large enough for every request."""
    from transformers import GenerationConfig
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    loaded = _reference(model)
    pool = ContinuousBatchingConfig(
        page_size=256, num_blocks=64, max_batch_tokens=2048, allow_block_sharing=False
    )

    def generate(prompts: Prompts, n: int) -> int:
        config = GenerationConfig(
            max_new_tokens=n, do_sample=False, eos_token_id=-1, pad_token_id=2
        )
        answers = loaded.generate_batch(
            [list(prompt) for prompt in prompts],
            generation_config=config,
            continuous_batching_config=pool,
            progress_bar=False,
            persistent_manager=True,
        )
        return sum(len(answer.generated_tokens) for answer in answers.values())

    return generate


def vllm(model: str) -> Generate:
    """vLLM's CPU engine, in this process; runs in an environment of its own."""
    import os

    os.environ |= {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    from vllm import LLM, SamplingParams

    llm = LLM(
        model,
        dtype="bfloat16",
        max_model_len=4096,
        max_num_seqs=32,
        max_num_batched_tokens=4096,
        enable_prefix_caching=False,
        seed=0,
    )

    def generate(prompts: Prompts, n: int) -> int:
        params = SamplingParams(max_tokens=n, temperature=0, ignore_eos=True, detokenize=False)
        inputs = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        answers = llm.generate(inputs, params, use_tqdm=False)
        return sum(len(answer.outputs[0].token_ids) for answer in answers)

    return generate


ENGINES = {"ellm": ellm, "transformers": transformers, "transformers-cb": transformers_cb}
# In environments of their own, where these are installed.
PEERS = {"vllm": vllm}


def load(opening: Json) -> Callable[[Json], Json]:
    import os

    os.environ["OMP_NUM_THREADS"] = str(opening["threads"])
    import torch

    torch.set_num_threads(opening["threads"])
    generate = (ENGINES | PEERS)[opening["engine"]](opening["model"])

    def answer(question: Json) -> Json:
        start = time.perf_counter()
        tokens = generate(question["prompts"], question["n"])
        return {"seconds": time.perf_counter() - start, "tokens": tokens}

    return answer


if __name__ == "__main__":
    serve(load)
