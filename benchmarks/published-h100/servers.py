"""How the servers of every cell were started: what the scripts of apex_plus/vllm say."""

from __future__ import annotations

from typing import Any

# Cells of the plans below ran on 8 GPUs; 4TP and 2TP are one server on 4 or 2 of them.
SCALED = ("4TP", "2TP")
BASE, INSTRUCT = "meta-llama/Meta-Llama-3.1-70B", "meta-llama/Llama-3.1-70B-Instruct"
ORIGINAL = "mistralai/Mistral-Large-Instruct-2407"
QUANTIZED = "alpindale/Mistral-Large-Instruct-2407-FP8"
# Loads and plans that llama.sh and fideility.sh run with the instructed model.
INSTRUCTED = {
    ("creation_05", "2DP4TP"),
    ("creation_05", "4DP2TP"),
    ("creation_025", "8TP"),
    ("creation_025", "2DP4TP"),
    ("creation_025", "4DP2TP"),
}


def setting(family: str, load: str, plan: str) -> dict[str, Any]:
    """Model, number formats and options of the server.

    `max_model_len` is null where it is the model's own. `max_num_seqs` and the chunk of 512 tokens
    are defaults of vLLM 0.6.0 (config.py, arg_utils.py): without an option it cuts prompts in
    chunks where the longest context is above 32768 tokens, and takes them whole elsewhere. The
    scripts name no clock.
    """
    return {
        "engine": "vLLM 0.6.0",
        "gpu": "H100-SXM-80GB",
        "clock_mhz": None,
        **(_llama(load, plan) if family == "llama" else _mistral(plan)),
        "max_num_seqs": 256,
    }


def _llama(load: str, plan: str) -> dict[str, Any]:
    two = plan.endswith("2TP")
    instructed = plan in SCALED or (load, plan) in INSTRUCTED
    return {
        "model": INSTRUCT if instructed else BASE,
        "weights": "bf16",
        "kv_cache": "bf16",
        "gpu_memory_utilization": 0.97,
        "max_model_len": 24272 if two else None,
        "custom_all_reduce": not two,
        "chunk_tokens": None if two else 512,
    }


def _mistral(plan: str) -> dict[str, Any]:
    two = "2TP" in plan
    stored = two or plan in SCALED
    return {
        "model": QUANTIZED if stored else ORIGINAL,
        # Without a stored scale, that of activations is found at every matrix product.
        "weights": "fp8, as stored" if stored else "fp8, quantized when loaded",
        "kv_cache": "fp8",
        "gpu_memory_utilization": 0.85 if two else 0.97,
        "max_model_len": 20560 if two else None,
        "custom_all_reduce": not two,
        "chunk_tokens": None if two else 512,
    }


def mixture(plan: str) -> dict[str, Any]:
    """Mixtral by SGLang, without CUDA graphs, its attention in Triton; more is not said."""
    experts = plan.startswith("ep")
    return {
        "engine": "SGLang, 0.4.4.post2 or later",
        "gpu": "H100-SXM-80GB",
        "clock_mhz": None,
        "model": "mistralai/Mixtral-8x22B-Instruct-v0.1",
        "weights": "bf16",
        "kv_cache": "bf16",
        "plan": {"data": 1, "tensor": 8, "pipeline": 1, "expert": 8 if experts else 1},
    }
