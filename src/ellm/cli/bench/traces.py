"""Recorded request lengths and times, read from the columns that public traces have."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path

from ellm.cli.bench.workload import WorkItem, random_prompt
from ellm.core.errors import ConfigError

HASHED_TOKENS = 512  # tokens per entry of Mooncake's `hash_ids`


@dataclass(frozen=True, slots=True)
class _Columns:
    """Names of the columns for prompt length, answer length, time and model, if there are any.

    `seconds` is what the text of a time means.
    """

    prompt: str
    output: str
    time: str | None
    seconds: Callable[[str], float]
    model: str | None = None


def _timestamp(text: str) -> float:
    """Seconds since the epoch; Azure writes seven decimals, Python reads six."""
    head, _, fraction = text.partition(".")
    whole = datetime.fromisoformat(head).timestamp()
    digits = fraction.split("+")[0]
    return whole + (float("0." + digits) if digits else 0.0)


_KNOWN = (
    _Columns("ContextTokens", "GeneratedTokens", "TIMESTAMP", _timestamp),
    _Columns("ContextTokens", "GeneratedTokens", "StartTimeOffset_ns", lambda t: float(t) / 1e9),
    _Columns("input_length", "output_length", "timestamp", lambda t: float(t) / 1e3),
    _Columns("prompt_tokens", "output_tokens", "arrived_at_s", float, "model_index"),
    _Columns("prompt_tokens", "output_tokens", "arrived_at_s", float),
    _Columns("num_prefill_tokens", "num_decode_tokens", None, float),
)


def read_trace(path: Path, count: int, seed: int, scale: float = 1.0) -> list[WorkItem]:
    """The first `count` requests of an Azure, Mooncake, APEX, Prism or ShareGPT-length file.

    Lengths are multiplied by `scale`, and are at least 1.  Arrivals are seconds after the first
    request; all zero where the file has no times.  Models are those of Prism's `model_index`,
    otherwise each in turn.  Prompts are random; those that share leading Mooncake `hash_ids` share
    the tokens these stand for.

    Raises ConfigError when the file or its columns cannot be read.
    """
    try:
        rows = list(islice(_rows(path), count))
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(f"cannot read the trace {path}: {error}") from error
    if not rows:
        raise ConfigError(f"the trace {path} has no requests")
    columns = _columns(path, rows[0])
    rng = random.Random(seed)
    items: list[WorkItem] = []
    first: float | None = None
    for number, row in enumerate(rows, 1):
        try:
            time = columns.seconds(str(row[columns.time])) if columns.time else 0.0
            length = _scaled(row[columns.prompt], scale)
            output = _scaled(row[columns.output], scale)
            prompt = _prompt(length, row.get("hash_ids"), seed, rng, scale)
            model = int(str(row[columns.model])) if columns.model else number - 1
        except (KeyError, ValueError, TypeError) as error:
            raise ConfigError(f"{path}: request {number} is malformed: {error}") from error
        first = time if first is None else first
        items.append(WorkItem(prompt, output, max(time - first, 0.0), model))
    return items


def _rows(path: Path) -> Iterator[Mapping[str, object]]:
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            yield from (json.loads(line) for line in file if line.strip())
        else:
            yield from csv.DictReader(file)


def _columns(path: Path, row: Mapping[str, object]) -> _Columns:
    for known in _KNOWN:
        names = (known.prompt, known.output, known.time, known.model)
        if {name for name in names if name is not None} <= set(row):
            return known
    pairs = ", ".join(dict.fromkeys(f"{known.prompt} and {known.output}" for known in _KNOWN))
    raise ConfigError(f"{path} has the columns {', '.join(row)}; a trace has {pairs}")


def _scaled(length: object, scale: float) -> int:
    return max(round(int(str(length)) * scale), 1)


def _prompt(
    length: int, hashes: object, seed: int, rng: random.Random, scale: float
) -> tuple[int, ...]:
    """`length` tokens; each hash stands for the same tokens wherever it is found.

    A hash at place i of a prompt covers what becomes of tokens i·512 … (i + 1)·512 under `scale`.
    """
    if not isinstance(hashes, list):
        return random_prompt(length, rng)
    shared: list[int] = []
    for place, block in enumerate(hashes):
        end = min(round((place + 1) * HASHED_TOKENS * scale), length)
        shared += random_prompt(end - len(shared), random.Random(f"{seed}:{block}"))
    return (*shared, *random_prompt(length - len(shared), rng))
