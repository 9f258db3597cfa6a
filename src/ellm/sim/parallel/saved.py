"""Plans in files, from `ellm plan` to `ellm simulate --plan`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ellm.core.errors import ConfigError
from ellm.sim.anatomy.transformer import Transformer
from ellm.sim.parallel.plan import CellPlan, Plan

_SIZES = ("replicas", "stages", "width")


def plan_as_json(plan: Plan, transformer: Transformer) -> dict[str, Any]:
    """What `read_plan` reads; cells are in the order in which a token meets them first."""
    pairs = zip(transformer.cells, plan.cells, strict=True)
    return {
        "model": transformer.name,
        "describe": plan.describe(transformer),
        **{name: getattr(plan, name) for name in _SIZES},
        "cells": [
            {"cell": cell.name, "copies": one.copies, "split": one.split} for cell, one in pairs
        ],
    }


def read_plan(file: Path, transformer: Transformer) -> Plan:
    """The plan in `file`, or under its key `plan`.

    Raises ConfigError where it is no plan, or not one for this model, which it names.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the plan {file}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"the plan {file} is not JSON: {error}") from error
    if isinstance(found, Mapping) and isinstance(found.get("plan"), Mapping):
        found = found["plan"]
    if not isinstance(found, Mapping):
        raise ConfigError(f"the plan {file} must be an object with {', '.join(_SIZES)} and cells")
    made_for = found.get("model", transformer.name)
    if str(made_for).lower() != transformer.name.lower():
        raise ConfigError(
            f"the plan {file} was made for {made_for}, and the model is {transformer.name}: make "
            "one with ellm plan"
        )
    replicas, stages, width = (_whole(file, found, name) for name in _SIZES)
    plan = Plan(replicas, stages, width, _cells(file, found, transformer))
    if stages > len(transformer.blocks):
        raise ConfigError(
            f"the plan {file} has {stages} stages, and {transformer.name} "
            f"{len(transformer.blocks)} layers"
        )
    for place, cell in enumerate(transformer.cells):
        if plan.split(transformer, place) is None:
            one = plan.cells[place]
            raise ConfigError(
                f"the plan {file} cannot be: {one.copies} copies of {cell.name} over {width} "
                f"devices, each divided as {one.split}"
            )
    return plan


def _cells(file: Path, found: Mapping[str, Any], model: Transformer) -> tuple[CellPlan, ...]:
    cells = found.get("cells")
    names = [cell.name for cell in model.cells]
    if not isinstance(cells, list) or not all(isinstance(cell, Mapping) for cell in cells):
        raise ConfigError(f"the plan {file} must have a list of cells: {', '.join(names)}")
    if [cell.get("cell") for cell in cells] != names:
        raise ConfigError(
            f"the plan {file} is for a model with {', '.join(str(c.get('cell')) for c in cells)}, "
            f"and {model.name} has {', '.join(names)}"
        )
    return tuple(CellPlan(_whole(file, cell, "copies"), str(cell.get("split"))) for cell in cells)


def _whole(file: Path, found: Mapping[str, Any], name: str) -> int:
    number = found.get(name)
    if type(number) is not int or number < 1:
        raise ConfigError(f"the plan {file}: {name} must be a whole number above 0, not {number!r}")
    return number
