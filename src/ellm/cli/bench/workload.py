"""What to ask a server for: prompts, answer lengths and arrival times."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

# Ids that every byte-level vocabulary has, past the special tokens at its start.
FIRST_ID, LAST_ID = 3, 255
_WORDS = (
    "the", "of", "and", "to", "in", "is", "it", "for", "on", "with", "as", "at", "by", "from", "or",
    "an", "be", "this", "that", "are", "was", "not", "can", "has", "all", "if", "when", "which",
)  # fmt: skip

# ShareGPT's mean lengths (Kwon et al. 2023, figure 11) and limit per side as vLLM filters it.  The
# deviation of the natural logarithm is our assumption.
_SHAREGPT_INPUT, _SHAREGPT_OUTPUT = 161.0, 338.0
_SHAREGPT_DEVIATION = 1.0
_SHAREGPT_LIMIT = 1024


@dataclass(frozen=True, slots=True)
class WorkItem:
    """Token ids, tokens to generate, and seconds after the start at which to send it.

    `model` is the number of the model to ask, modulo how many there are.
    """

    prompt: tuple[int, ...]
    output_len: int
    arrival: float = 0.0
    model: int = 0

    @property
    def text(self) -> str:
        """The prompt for an endpoint that takes no token ids: about one token a word."""
        return " ".join(_WORDS[token % len(_WORDS)] for token in self.prompt)


def random_prompt(length: int, rng: random.Random) -> tuple[int, ...]:
    """`length` ids that no other prompt shares a prefix with, but by chance."""
    return tuple(rng.choices(range(FIRST_ID, LAST_ID + 1), k=length))


def fixed_lengths(count: int, input_len: int, output_len: int, seed: int) -> list[WorkItem]:
    """`count` random prompts of one length."""
    rng = random.Random(seed)
    return [WorkItem(random_prompt(input_len, rng), output_len) for _ in range(count)]


def sharegpt_lengths(count: int, seed: int) -> list[WorkItem]:
    """`count` random prompts whose lengths spread about as those of ShareGPT conversations."""
    rng = random.Random(seed)

    def draw(mean: float) -> int:
        middle = math.log(mean) - _SHAREGPT_DEVIATION**2 / 2
        length = round(rng.lognormvariate(middle, _SHAREGPT_DEVIATION))
        return min(max(length, 4), _SHAREGPT_LIMIT)

    return [
        WorkItem(random_prompt(draw(_SHAREGPT_INPUT), rng), draw(_SHAREGPT_OUTPUT))
        for _ in range(count)
    ]


def arrivals(count: int, rate: float, burstiness: float, rng: random.Random) -> Iterator[float]:
    """Seconds at which `count` requests arrive, `rate` a second on average.

    Gaps follow a gamma distribution of shape `burstiness`: 1 is a Poisson process, below 1
    clusters, above 1 evens out (vLLM's `--burstiness`).  An infinite rate sends all at once.
    """
    now = 0.0
    for _ in range(count):
        yield now
        if math.isfinite(rate):
            now += rng.gammavariate(burstiness, 1.0 / (rate * burstiness))


def in_turn(items: Sequence[WorkItem]) -> list[WorkItem]:
    """The same requests, each to the model after the one before."""
    return [replace(item, model=number) for number, item in enumerate(items)]


def hastened(items: Sequence[WorkItem], factor: float) -> list[WorkItem]:
    """The same requests, `factor` times as many a second."""
    return [replace(item, arrival=item.arrival / factor) for item in items]


def timed(items: Sequence[WorkItem], times: Iterable[float]) -> list[WorkItem]:
    """The same requests at other times."""
    return [replace(item, arrival=time) for item, time in zip(items, times, strict=True)]
