"""What the columns of public traces, and of our own, are called and mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from textwrap import shorten

from ellm.core.errors import ConfigError

# Whole numbers up to here are exact when a factor is applied to them.
_LARGEST = 1 << 53


def whole(value: object) -> int:
    """A whole number, 0 or more.  Raises ValueError: how it is not."""
    if value is None or value == "":
        raise ValueError("is missing")
    number = None
    # True and False are int too.
    if isinstance(value, int | str) and not isinstance(value, bool):
        with suppress(ValueError):
            number = int(value)
    if number is None:
        raise ValueError(f"is {_shown(value)}, which is no whole number")
    if not 0 <= number <= _LARGEST:
        raise ValueError(f"is {_shown(number)}, which is not between 0 and {_LARGEST}")
    return number


def number(value: object) -> float:
    """A number, 0 or more.  Raises ValueError: how it is not."""
    if value is None or value == "":
        raise ValueError("is missing")
    found = None
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            found = float(value)
    if found is None or not math.isfinite(found):
        raise ValueError(f"is {_shown(value)}, which is no number")
    if found < 0:
        raise ValueError(f"is {_shown(value)}, which is below 0")
    return found


def factor(value: object) -> float:
    """A number above 0.  Raises ValueError: how it is not."""
    found = number(value)
    if found == 0:
        raise ValueError("is 0, and must be above")
    return found


def identifiers(value: object) -> tuple[int, ...]:
    """Whole numbers of any size.  Raises ValueError: how they are not."""
    if not isinstance(value, list) or not all(type(each) is int for each in value):
        raise ValueError(f"is {_shown(value)}, which is no list of whole numbers")
    return tuple(value)


def timestamp(value: object) -> float:
    """Seconds since the epoch; a time without an offset is taken for UTC.

    Azure wrote `2023-11-16 18:15:46.6805900` in 2023 and `2024-05-10 00:00:00.009930+00:00` in
    2024, without the fraction where it is 0.  Raises ValueError: how it is neither.
    """
    if value is None or value == "":
        raise ValueError("is missing")
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        raise ValueError(
            f"is {_shown(value)}, which is no time like 2024-05-10 00:00:00.009930+00:00"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _shown(value: object) -> str:
    return f"{value!r:.60}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """Names of the columns for lengths, time, model and prefix blocks, where a format has them.

    `seconds` is what a time means.  All but the lengths may be missing where `bare`.
    """

    name: str
    prompt: str
    output: str
    time: str | None = None
    seconds: Callable[[object], float] = number
    model: str | None = None
    blocks: str | None = None
    block_tokens: str | None = None
    bare: bool = False

    @property
    def columns(self) -> tuple[str | None, ...]:
        """All of them, in the order of the fields."""
        lengths = (self.prompt, self.output)
        return (*lengths, self.time, self.model, self.blocks, self.block_tokens)

    @property
    def required(self) -> tuple[str, ...]:
        """The columns by which the format is known."""
        timed = () if self.time is None or self.bare else (self.time,)
        return (self.prompt, self.output, *timed)


FORMATS = (
    Format(
        name="Azure",
        prompt="ContextTokens",
        output="GeneratedTokens",
        time="TIMESTAMP",
        seconds=timestamp,
    ),
    Format(
        name="APEX",
        prompt="ContextTokens",
        output="GeneratedTokens",
        time="StartTimeOffset_ns",
        seconds=lambda value: number(value) / 1e9,
    ),
    Format(
        name="Mooncake",
        prompt="input_length",
        output="output_length",
        time="timestamp",
        seconds=lambda value: number(value) / 1e3,
        blocks="hash_ids",
    ),
    Format(name="ShareGPT", prompt="num_prefill_tokens", output="num_decode_tokens"),
    Format(
        name="eLLM or Prism",
        prompt="prompt_tokens",
        output="output_tokens",
        time="arrived_at_s",
        model="model_index",
        blocks="hash_ids",
        block_tokens="block_tokens",
        bare=True,
    ),
)


def format_of(path: Path, columns: Sequence[str]) -> Format:
    """The first format whose columns are all there in the file at `path`.

    Raises ConfigError, which lists what is there and what is known.
    """
    for known in FORMATS:
        if set(known.required) <= set(columns):
            return known
    found = shorten(", ".join(columns), 200, placeholder=" …") or "no name at all"
    listed = "; ".join(f"{known.name} has {', '.join(known.required)}" for known in FORMATS)
    raise ConfigError(f"{path} has the columns {found}, of no known trace: rename them ({listed})")
