"""Runs as lines of results.jsonl: commit, date, machine, seed, command and every trial.

A trial is a mapping with `round`, `arm`, what was asked (the *point*: a length, a batch) and what
was measured.  Speeds are compared by ratios within a round, which drift does not touch.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from harness.machine import ROOT, commit, describe, gpu

Run = dict[str, Any]
Trial = Mapping[str, Any]
Key = tuple[Any, ...]


def append(file: Path, *, seed: int, trials: Sequence[Trial], **settings: Any) -> Run:
    """Add a run to `file`; `settings` is whatever else a reader must know."""
    script = Path(sys.argv[0]).resolve().relative_to(ROOT)
    run = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": {**describe(), **gpu()},
        "command": shlex.join(["python", str(script), *sys.argv[1:]]),
        "seed": seed,
        **settings,
        "trials": list(trials),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(run) + "\n")
    return run


def load(file: Path) -> list[Run]:
    """Every run in `file`, oldest first."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def medians(trials: Sequence[Trial], figure: str, point: Sequence[str] = ()) -> dict[Key, float]:
    """Over the rounds, by (arm, *point)."""
    values: dict[Key, list[float]] = defaultdict(list)
    for trial in trials:
        if trial.get(figure) is not None:
            values[_key(trial, ("arm", *point))].append(trial[figure])
    return {key: median(each) for key, each in values.items()}


def ratios(
    trials: Sequence[Trial], figure: str, base: str, point: Sequence[str] = ()
) -> dict[Key, float]:
    """By (arm, *point): median over the rounds of a figure over `base`'s in the same round."""
    theirs = {
        _key(trial, ("round", *point)): trial[figure]
        for trial in trials
        if trial["arm"] == base and trial.get(figure)
    }
    values: dict[Key, list[float]] = defaultdict(list)
    for trial in trials:
        other = theirs.get(_key(trial, ("round", *point)))
        if other and trial.get(figure) is not None:
            values[_key(trial, ("arm", *point))].append(trial[figure] / other)
    return {key: median(each) for key, each in values.items()}


def _key(trial: Trial, names: Sequence[str]) -> Key:
    return tuple(trial[name] for name in names)
