"""One engine in a process of its own (harness/worker.py).

opening    {"engine": name, "setting": what Setting takes}
question   {"prompts": [[ids], ...], "n": 128}
answer     {"seconds": 1.5, "tokens": 2048}
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from setting import KV_BYTES, STEP_TOKENS, Setting

from harness.worker import Json, serve

Prompts = Sequence[Sequence[int]]
Generate = Callable[[Prompts, int], int]
"""Continue every prompt by n tokens, greedily; returns how many tokens that made."""


def ellm(setting: Setting) -> Generate:
    from ellm import LLM, SamplingParams

    # What is kept grows with the budget; other engines keep what their reserved KV holds.
    weights = sum(file.stat().st_size for file in Path(setting.model).glob("*.safetensors"))
    llm = LLM(
        setting.model,
        dtype="bfloat16",
        max_model_len=setting.context,
        max_num_seqs=setting.sequences,
        threads=setting.threads,
        enable_prefix_caching=setting.reuse,
        memory=weights + 2 * KV_BYTES if setting.reuse else None,
    )
    return _llm(llm, SamplingParams)


def vllm(setting: Setting) -> Generate:
    """vLLM's CPU engine, in this process."""
    import os

    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM, SamplingParams

    llm = LLM(
        setting.model,
        dtype="bfloat16",
        max_model_len=setting.context,
        max_num_seqs=setting.sequences,
        max_num_batched_tokens=STEP_TOKENS,
        enable_prefix_caching=setting.reuse,
        seed=0,
    )
    return _llm(llm, SamplingParams)


def _llm(llm: Any, params_of: Any) -> Generate:
    """The call that vLLM has and eLLM takes over."""

    def generate(prompts: Prompts, n: int) -> int:
        params = params_of(max_tokens=n, temperature=0, ignore_eos=True, detokenize=False)
        inputs = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        answers = llm.generate(inputs, params, use_tqdm=False)
        return sum(len(answer.outputs[0].token_ids) for answer in answers)

    return generate


def _reference(setting: Setting) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(setting.threads)
    loaded = AutoModelForCausalLM.from_pretrained(
        setting.model, dtype=torch.bfloat16, attn_implementation="sdpa"
    ).eval()
    loaded.generation_config.eos_token_id = None
    loaded.generation_config.pad_token_id = 2
    return loaded


def transformers(setting: Setting) -> Generate:
    """`generate`, one static batch; `reuse` continues a cache that the last prompt filled."""
    import torch
    from transformers import DynamicCache

    loaded = _reference(setting)
    last: list[int] = []
    kept = DynamicCache()

    def cache(prompt: Sequence[int]) -> DynamicCache | None:
        if not setting.reuse:
            return None
        if (extra := kept.get_seq_length() - _shared(last, prompt)) > 0:
            kept.crop(-extra)
        last[:] = prompt
        return kept

    def generate(prompts: Prompts, n: int) -> int:
        ids = torch.tensor(prompts)
        with torch.inference_mode():
            answer = loaded.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                past_key_values=cache(prompts[0]),
                max_new_tokens=n,
                do_sample=False,
            )
        return int(answer.shape[0] * (answer.shape[1] - ids.shape[1]))

    return generate


def _shared(known: Sequence[int], prompt: Sequence[int]) -> int:
    """How many tokens the two begin with alike, and at least one of `prompt` is left."""
    same = 0
    while same < min(len(known), len(prompt) - 1) and known[same] == prompt[same]:
        same += 1
    return same


def transformers_cb(setting: Setting) -> Generate:
    """`generate_batch`, continuous batching with a pool large enough for every request."""
    from transformers import GenerationConfig
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    loaded = _reference(setting)
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


def openvino(setting: Setting) -> Generate:
    """OpenVINO GenAI, continuous batching."""
    import numpy as np
    import openvino_genai as genai
    from openvino import Tensor

    pool = genai.SchedulerConfig()
    pool.cache_size = KV_BYTES >> 30
    pool.max_num_batched_tokens = STEP_TOKENS
    pool.max_num_seqs = setting.sequences
    pool.enable_prefix_caching = setting.reuse
    properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": setting.threads}
    if _computes_bf16():
        properties |= {"INFERENCE_PRECISION_HINT": "bf16", "KV_CACHE_PRECISION": "bf16"}
    pipeline = genai.ContinuousBatchingPipeline(setting.model, pool, "CPU", properties)

    def generate(prompts: Prompts, n: int) -> int:
        config = genai.GenerationConfig()
        config.max_new_tokens = n
        config.ignore_eos = True
        config.do_sample = False
        ids = [Tensor(np.array([prompt], dtype=np.int64)) for prompt in prompts]
        answers = pipeline.generate(ids, [config] * len(prompts))
        return sum(len(answer.m_generation_ids[0]) for answer in answers)

    return generate


def _computes_bf16() -> bool:
    """Whether the processor multiplies bf16 itself; OpenVINO's float32 is faster than emulation."""
    flags = Path("/proc/cpuinfo").read_text().split()
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


ENGINES = {
    "ellm": ellm,
    "transformers": transformers,
    "transformers-cb": transformers_cb,
    "vllm": vllm,
    "openvino": openvino,
}


def load(opening: Json) -> Callable[[Json], Json]:
    setting = Setting(**opening["setting"])
    generate = ENGINES[opening["engine"]](setting)

    def answer(question: Json) -> Json:
        start = time.perf_counter()
        tokens = generate(question["prompts"], question["n"])
        return {"seconds": time.perf_counter() - start, "tokens": tokens}

    return answer


if __name__ == "__main__":
    serve(load)
