"""Requests written down, so that they can be asked again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from ellm.core.errors import ConfigError
from ellm.sim.workload.item import Item


def line_of(item: Item) -> str:
    """One line of a trace in our own format: a JSON object and its end of line.

        {"prompt_tokens": 374, "output_tokens": 44, "arrived_at_s": 1.5, "model_index": 0,
         "hash_ids": [3, 7], "block_tokens": 64}

    `model_index`, `hash_ids` and `block_tokens` are there if the item has them.  Whoever records as
    requests come appends such lines in order of arrival.
    """
    found: dict[str, object] = {
        "prompt_tokens": item.prompt_tokens,
        "output_tokens": item.output_tokens,
        "arrived_at_s": item.arrival,
    }
    if item.model is not None:
        found["model_index"] = item.model
    if item.blocks:
        found["hash_ids"] = item.blocks
        whole = int(item.block_tokens)
        found["block_tokens"] = whole if whole == item.block_tokens else item.block_tokens
    return json.dumps(found) + "\n"


def write_trace(path: Path, items: Iterable[Item]) -> None:
    """A whole trace, for `read_trace`.  Raises ConfigError when the file cannot be written."""
    try:
        with path.open("w", encoding="utf-8") as file:
            file.writelines(map(line_of, items))
    except OSError as error:
        raise ConfigError(f"cannot write the trace {path}: {error.strerror}") from error
