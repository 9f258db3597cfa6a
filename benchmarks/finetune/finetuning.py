"""Steps of fine-tuning whose batches differ in length, as those of real texts do.

full     the bundled model, all weights, AdamW on all of them
LRO      a random Llama of 1 B in bfloat16: adapters alone are trained (LoRA), layers are
         recomputed, and what they keep for that waits in pinned host memory
"""

from __future__ import annotations

import csv
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from llama import LLAMA_1B, LLAMA_7M, Llama, Recomputed, Shape, adapt, bundled, weights_of
from torch import Tensor
from torch.nn import functional

RANK = 16
# Few tokens, so that a few steps suffice to learn which they are.
ALPHABET = 16
_LEAST = 64


@dataclass(frozen=True, slots=True)
class Workload:
    """`steps` of `rows` sequences of at most `longest` tokens; `shape` None is the bundled model.

    Of a random model adapters alone are trained, and its layers recomputed.
    """

    name: str
    shape: Shape | None
    steps: int
    rows: int
    longest: int
    rate: float


WORKLOADS = (
    Workload("ellm-base full", None, steps=30, rows=16, longest=2048, rate=1e-4),
    Workload("llama-1b LRO", LLAMA_1B, steps=20, rows=4, longest=4096, rate=1e-3),
)
ON_CPU = (
    Workload("ellm-base full", None, steps=8, rows=2, longest=128, rate=1e-4),
    Workload("llama-7m LRO", LLAMA_7M, steps=8, rows=2, longest=128, rate=3e-3),
)


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one step took, in seconds, its loss, and how many tokens it was, padding included."""

    seconds: float
    loss: float
    tokens: int


def train(
    workload: Workload, steps: int, device: str, seed: int, lengths: list[int]
) -> list[Lesson]:
    """The first `steps` of a workload, with batches of the given lengths."""
    torch.manual_seed(seed)
    model = _model(workload, device)
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=workload.rate, foreach=True)
    dice = random.Random(seed)
    lessons = []
    for number in range(steps):
        batch = _batch(dice, lengths[number * workload.rows :][: workload.rows], device)
        _finish(device)
        start = time.perf_counter()
        loss = _loss(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value = float(loss.detach())
        del loss
        _finish(device)
        lessons.append(Lesson(time.perf_counter() - start, value, batch.numel()))
    return lessons


def lengths_of(trace: Path | None, count: int, longest: int, seed: int) -> list[int]:
    """Prompt lengths of a trace in its order, from a place that the seed names.

    Without a trace they are lognormal, with a median of 512 tokens.  All are cut to `longest`.
    """
    if trace is None:
        dice = random.Random(seed)
        drawn = [round(dice.lognormvariate(6.24, 1.0)) for _ in range(count)]
    else:
        with trace.open(encoding="utf-8", newline="") as lines:
            known = [int(row["ContextTokens"]) for row in csv.DictReader(lines)]
        first = random.Random(seed).randrange(len(known))
        drawn = [known[(first + number) % len(known)] for number in range(count)]
    return [min(longest, max(_LEAST, each)) for each in drawn]


def _batch(dice: random.Random, lengths: list[int], device: str) -> Tensor:
    """Rows that count upwards, each in strides of its own, padded to the longest with -1."""
    rows = torch.full((len(lengths), max(lengths)), -1, dtype=torch.int64)
    for row, length in zip(rows, lengths, strict=True):
        first, stride = dice.randrange(ALPHABET), dice.randrange(1, 4)
        row[:length] = (first + stride * torch.arange(length)) % ALPHABET
    return rows.to(device)


def _loss(model: Llama, batch: Tensor) -> Tensor:
    logits = model(batch.clamp(min=0)[:, :-1])
    return functional.cross_entropy(
        logits.float().flatten(0, 1), batch[:, 1:].flatten(), ignore_index=-1
    )


def _model(workload: Workload, device: str) -> Llama:
    if workload.shape is None:
        return bundled(device)
    with torch.device(device), weights_of(torch.bfloat16):
        model = Recomputed(workload.shape)
    # The usual beginning: what PyTorch gives embeddings would drown everything else.
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.02)
    adapt(model, RANK)
    return model


def _finish(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
