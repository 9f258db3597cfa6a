"""Machines whose steps take times that no line in tokens describes, and what they are asked."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from ellm.core.load import StepLoad
from ellm.scheduling.coefficients import Coefficients

Machine = Callable[[StepLoad], float]

# A line in tokens after all.
MACHINE = Coefficients.even(token=3e-5, attention=2e-9, kv_token=8e-8, sequence=3e-5, step=4e-3)
BESIDE = Coefficients.even(attention=2e-9, kv_token=8e-8, sequence=3e-5, step=1e-3)


def roofline(load: StepLoad) -> float:
    """A dense model: weights are read in 5 ms, and 156 tokens are computed in the same time."""
    return 5e-3 * max(1.0, load.tokens / 156) + BESIDE.seconds(load)


def experts(load: StepLoad) -> float:
    """A mixture of 8 experts, 2 for a token: so many of them are read, until all are."""
    read = 12e-3 * (1 - 0.75**load.tokens)
    return max(read, 12e-3 * load.tokens / 156 / 4) + BESIDE.seconds(load)


def staircase(load: StepLoad) -> float:
    """Kernels in tiles of 64 rows: what is begun is paid for."""
    return 3e-3 + 1e-3 * math.ceil(load.tokens / 64) + BESIDE.seconds(load)


def rows(load: StepLoad) -> float:
    """A CPU: a row costs little while the weights' way from memory takes longer, then much."""
    dear = max(0, load.tokens - 14)
    return 8e-3 + 1e-4 * min(load.tokens, 14) + 6e-4 * dear + BESIDE.seconds(load)


def decoding(rng: random.Random) -> StepLoad:
    return StepLoad.of([(1, rng.randrange(8000)) for _ in range(rng.randint(1, 32))])


def mixed(rng: random.Random) -> StepLoad:
    load = decoding(rng)
    if rng.random() < 0.3:
        chunk = rng.randint(16, 2048)
        load = load.with_sequence(chunk, chunk + rng.choice([0, 0, rng.randint(0, 16000)]))
    return load


def varied(rng: random.Random) -> StepLoad:
    """As `mixed`, with as many short chunks as long ones."""
    load = decoding(rng)
    if rng.random() < 0.3:
        chunk = int(2 ** rng.uniform(4, 12))
        load = load.with_sequence(chunk, chunk + rng.choice([0, 0, rng.randint(0, 16000)]))
    return load
