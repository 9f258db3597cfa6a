"""How well a model predicts text: bits per byte, comparable across tokenizers."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from .model import Llama


@torch.inference_mode()
def bits_per_byte(model: Llama, stream: NDArray[np.uint16], size: float, length: int) -> float:
    """The code length of a stream of `size` bytes, cut into windows that share no context.

    The stream's very first id is not predicted. Windows overlap by one id, so that every other
    one is predicted exactly once.
    """
    total = 0.0
    for start in range(0, len(stream) - 1, length):
        window = torch.from_numpy(stream[start : start + length + 1].astype(np.int64))
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(window[None, :-1])[0]
        total += float(functional.cross_entropy(logits.float(), window[1:], reduction="sum"))
    return total / math.log(2) / size


@torch.inference_mode()
def acceptance(
    draft: Llama, base: Llama, stream: NDArray[np.uint16], length: int
) -> dict[str, float]:
    """How often the base takes a draft's token: sampling at temperature 1, and greedily."""
    overlap = same = count = 0.0
    for start in range(0, len(stream) - length, length):
        window = torch.from_numpy(stream[start : start + length].astype(np.int64))[None]
        guess, truth = draft.distribution(window), base.distribution(window)
        overlap += float(torch.minimum(guess, truth).sum())
        same += float((guess.argmax(-1) == truth.argmax(-1)).sum())
        count += length
    return {"accepted when sampling": overlap / count, "same greedy token": same / count}
