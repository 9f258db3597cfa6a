"""Step times kept on disk between runs."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ellm.scheduling.cost import StepCost

_log = logging.getLogger(__name__)


def load_cost(path: Path, provenance: Mapping[str, str]) -> StepCost:
    """The step times in `path`, or fresh ones if there is no such file.

    A file that cannot be read, or whose times belong to something else than `provenance`, is
    ignored with one warning.
    """
    try:
        cost = StepCost.from_json(path.read_text(encoding="utf-8"))
        if cost.provenance != dict(provenance):
            raise ValueError(f"they belong to {cost.provenance}, not {dict(provenance)}")
    except FileNotFoundError:
        return StepCost(provenance)
    except (OSError, ValueError, RecursionError) as error:
        _log.warning("ignoring the step times in %s: %s; learning them afresh", path, error)
        return StepCost(provenance)
    return cost


def save_cost(path: Path, cost: StepCost) -> bool:
    """Write step times so that a reader sees the old file or the new one, never half of one.

    False, with a warning, if the machine refuses: times can be learned again.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".new")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(cost.to_json())
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        _log.warning("cannot keep the step times in %s: %s", path, error)
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        return False
    return True
