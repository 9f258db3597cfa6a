"""One engine in a process of its own (harness/worker.py), and how long its decoding steps take.

opening    {"engine": name, "model": directory or name, "threads": 2}
question   {"batch": 16, "steps": 64}
answer     {"step_us": 310.0, "kernels_us": 95.0}       medians; kernels of ellm only
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

from harness.worker import Json, serve

Steps = Callable[[int, int], Json]
"""Decode a batch for some steps; the answer."""
PROMPT = list(range(10, 26))
WARM_UP = 8


class Stopwatch:
    """Seconds inside the functions it is wrapped around."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            start = perf_counter()
            answer = call(*arguments)
            self.seconds += perf_counter() - start
            return answer

        return timed


def ellm(model: str) -> Steps:
    """`Engine.step` with everything in it, and the time that its native kernels take."""
    from ellm.core.request import Request
    from ellm.core.sampling import SamplingParams
    from ellm.kernels.cpu.library import library
    from ellm.llm.args import EngineArgs
    from ellm.llm.build import build

    watch, native = Stopwatch(), library()
    assert native is not None, "built without a C++ compiler"
    native.run, native.replay = watch.around(native.run), watch.around(native.replay)
    args = EngineArgs(model=model, dtype="bfloat16", max_model_len=512, max_num_seqs=1024)
    engine = build(args).engine

    def steps(batch: int, count: int) -> Json:
        params = SamplingParams(max_tokens=count + WARM_UP + 1, temperature=0, ignore_eos=True)
        for number in range(batch):
            prompt = (*PROMPT, 30 + number % 100)
            engine.submit(Request(request_id=str(number), prompt=prompt, params=params))
        whole, inside = [], []
        while engine.has_work:
            watch.seconds, start = 0.0, perf_counter()
            engine.step()
            whole.append(perf_counter() - start)
            inside.append(watch.seconds)
        last = slice(-count, None)
        return {"step_us": 1e6 * median(whole[last]), "kernels_us": 1e6 * median(inside[last])}

    return steps


def _transformers(model: str, compiled: bool) -> Steps:
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache, StaticCache

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()
    forward = torch.compile(loaded) if compiled else loaded

    @torch.inference_mode()
    def steps(batch: int, count: int) -> Json:
        ids = torch.tensor([PROMPT] * batch)
        length = len(PROMPT) + WARM_UP + count + 1
        cache = StaticCache(loaded.config, length) if compiled else DynamicCache()
        logits = loaded(ids, past_key_values=cache).logits
        whole = []
        for _ in range(WARM_UP + count):
            start = perf_counter()
            token = logits[:, -1].argmax(-1, keepdim=True)
            token.tolist()
            logits = forward(token, past_key_values=cache).logits
            whole.append(perf_counter() - start)
        return {"step_us": 1e6 * median(whole[-count:])}

    return steps


def eager(model: str) -> Steps:
    """The model called as it is, a token at a time, with its cache."""
    return _transformers(model, compiled=False)


def compiled(model: str) -> Steps:
    """The same through `torch.compile`, with a cache of fixed size."""
    return _transformers(model, compiled=True)


ENGINES = {"ellm": ellm, "eager": eager, "compiled": compiled}


def load(opening: Json) -> Callable[[Json], Json]:
    import torch

    torch.set_num_threads(opening["threads"])
    steps = ENGINES[opening["engine"]](opening["model"])
    return lambda question: steps(question["batch"], question["steps"])


if __name__ == "__main__":
    serve(load)
