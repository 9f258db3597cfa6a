"""vLLM on the CPU, filled with the same requests as the other arms.

opening    {"model": directory, "kv_bytes": 1_700_000_000, "token_bytes": 28_672, "context": 32768,
            "sequences": 128, "threads": 2}
question   as worker.py's
answer     tokens a second and sequences at once

Runs in vLLM's own environment.  KV gets exactly `kv_bytes`, activations come on top: more than
what the other arms have.  As in them, nothing is computed until the measured steps; every KV
block is written once before, since memory never written is one page of zeros that the cache holds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

from harness.worker import Json, serve

BLOCK = 128
# After so many steps in which nobody joined nobody else fits: longer than any prompt's chunks.
SETTLED = 24
# Real steps before the measured ones, as in worker.py.
WARM_UP = 2


class Filler:
    """vLLM's model runner, which computes only while `computing`."""

    def __init__(self, runner: Any) -> None:
        self.computing = False
        self._runner = runner
        self._forward = runner._model_forward
        runner._model_forward = self._maybe
        for cache in runner.kv_caches:
            cache.fill_(0.01)

    def _maybe(self, *args: Any, **named: Any) -> Any:
        if self.computing:
            return self._forward(*args, **named)
        import torch

        config = self._runner.model_config
        tokens = named["positions"].shape[-1]
        return torch.zeros(tokens, config.get_hidden_size(), dtype=config.dtype)


def load(opening: Json) -> Callable[[Json], Json]:
    os.environ |= {
        "OMP_NUM_THREADS": str(opening["threads"]),
        "VLLM_CPU_KVCACHE_SPACE": str(-(-opening["kv_bytes"] // 2**30)),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    from vllm import LLM, SamplingParams

    llm = LLM(
        opening["model"],
        dtype="bfloat16",
        max_model_len=opening["context"],
        max_num_seqs=opening["sequences"],
        block_size=BLOCK,
        num_gpu_blocks_override=opening["kv_bytes"] // (BLOCK * opening["token_bytes"]),
        enable_prefix_caching=False,
        async_scheduling=False,
        seed=0,
    )
    engine = llm.llm_engine
    executor: Any = engine.engine_core.engine_core.model_executor
    filler = Filler(executor.driver_worker.worker.model_runner)

    def answer(question: Json) -> Json:
        prompt = [3 + index % 200 for index in range(question["input"])]
        names = [str(index) for index in range(question["requests"])]
        for name, output in zip(names, question["outputs"] * len(names), strict=False):
            params = SamplingParams(
                max_tokens=output, temperature=0, ignore_eos=True, detokenize=False
            )
            engine.add_request(name, {"prompt_token_ids": prompt}, params)
        filler.computing = False
        sizes: list[int] = []
        while len(sizes) < SETTLED or len(set(sizes[-SETTLED:])) > 1 or not sizes[-1]:
            sizes.append(len(engine.step()))
        sizes += [len(engine.step()) for _ in range(question["rehearse"] - SETTLED)]
        filler.computing = True
        speeds, batches = [], []
        for _ in range(WARM_UP + question["steps"]):
            start = perf_counter()
            batches.append(len(engine.step()))
            speeds.append(batches[-1] / (perf_counter() - start))
        engine.abort_request(names)
        while engine.has_unfinished_requests():
            engine.step()
        return {
            "batch": median(batches[WARM_UP:]),
            "most": max(sizes + batches),
            "tokens_per_second": median(speeds[WARM_UP:]),
        }

    return answer


if __name__ == "__main__":
    serve(load)
