"""Who else decodes: a plain PyTorch decoder, eager and compiled, and `transformers`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter
from typing import Any

import plain
import torch

from harness.random_llama import RandomLlama

# Steps of which the first meet everything for the first time (a graph is captured in the third).
WARM, MEASURED = 8, 24
# Of a foreign error, so many characters are told.
SAID = 200


def ours_in_pytorch(
    shape: RandomLlama, context: int, device: str, compiled: bool, quick: bool
) -> float:
    """Milliseconds of a step of one sequence, its token on the host."""
    model = plain.build(shape, 1, context + 2 * (WARM + MEASURED), device)
    work: Callable[..., torch.Tensor] = model
    if compiled:
        work = torch.compile(model, mode="reduce-overhead", fullgraph=True)
    token = torch.zeros(1, dtype=torch.int64, device=device)
    place = torch.full((1,), context, dtype=torch.int64, device=device)
    times = []
    with torch.no_grad():
        for _ in range(3 if quick else WARM + MEASURED):
            start = perf_counter()
            token.copy_(work(token, place))
            place.add_(1)
            int(token)
            times.append(perf_counter() - start)
    return 1e3 * median(times[1 if quick else WARM :])


def in_transformers() -> bool:
    """Whether it is here; if not, a line says so."""
    if importlib.util.find_spec("transformers") is None:
        print("transformers is not installed: its arm is left out", file=sys.stderr)
        return False
    return True


def transformers_steps(
    shape: RandomLlama, batches: tuple[int, ...], context: int, device: str, quick: bool
) -> Iterator[tuple[int, float, bool]]:
    """Batch, milliseconds of a decoding step of `generate` with a static cache, and whether its
    forward pass was compiled: alone a sequence has that, as `generate` does by itself on a GPU.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(LlamaConfig(**shape.config())).eval()
    finally:
        torch.set_default_dtype(usual)
    model.generation_config.eos_token_id = None
    for batch in batches:
        with alone(f"transformers, {batch} of {context} tokens"):
            ms = _generated(model, batch, context, compiled=batch == 1, quick=quick)
            yield batch, ms, batch == 1 and hasattr(model, "_compiled_call")
        torch.cuda.empty_cache()


@contextmanager
def alone(what: str) -> Iterator[None]:
    """Whatever fails within is said, and the run goes on: it is somebody else's code."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:SAID]
        print(f"{what}: left out ({type(error).__name__}: {reason})", file=sys.stderr, flush=True)


def _generated(model: Any, batch: int, context: int, compiled: bool, quick: bool) -> float:
    from transformers import StoppingCriteria, StoppingCriteriaList

    class Watch(StoppingCriteria):
        """Is asked after every token."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            input_ids[0, -1].item()
            self.times.append(perf_counter())
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    watch = Watch()
    ids = torch.randint(16, 1000, (batch, context), device=model.device)
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=3 if quick else WARM + MEASURED,
        do_sample=False,
        cache_implementation="static",
        disable_compile=not compiled,
        stopping_criteria=StoppingCriteriaList([watch]),
    )
    gaps = [after - before for before, after in zip(watch.times, watch.times[1:], strict=False)]
    return 1e3 * median(gaps[1 if quick else WARM :])
