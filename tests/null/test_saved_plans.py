"""Plans in files: what was written is read, and what cannot be is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ellm.core.errors import ConfigError
from ellm.planner.space import plans
from ellm.sim.anatomy.shapes import find_transformer
from ellm.sim.parallel.saved import plan_as_json, read_plan

MIXTRAL = find_transformer("mixtral-8x7b")


def written(folder: Path, content: Any) -> Path:
    file = folder / "plan.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_every_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    for plan in plans(MIXTRAL, 8, 8):
        content = plan_as_json(plan, MIXTRAL)
        assert read_plan(written(tmp_path, content), MIXTRAL) == plan
        assert read_plan(written(tmp_path, {"plan": content, "other": 1}), MIXTRAL) == plan


GOOD = plan_as_json(next(iter(plans(MIXTRAL, 1, 8))), MIXTRAL)
ATTENTION, EXPERTS = GOOD["cells"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ([], "must be an object with replicas, stages, width"),
        ({}, "replicas must be a whole number above 0, not None"),
        ({**GOOD, "model": "llama-9"}, "made for llama-9, and the model is mixtral-8x7b"),
        ({**GOOD, "stages": 0}, "stages must be a whole number above 0, not 0"),
        ({**GOOD, "width": True}, "width must be a whole number above 0, not True"),
        ({**GOOD, "width": 3}, "1 copies of attention over 3 devices"),
        ({**GOOD, "stages": 33}, "33 stages, and mixtral-8x7b 32 layers"),
        ({**GOOD, "cells": 7}, "list of cells: attention, experts"),
        ({**GOOD, "cells": [ATTENTION]}, "a model with attention, and mixtral-8x7b has"),
        ({**GOOD, "cells": [ATTENTION, {**EXPERTS, "copies": "two"}]}, "copies must be"),
        ({**GOOD, "cells": [ATTENTION, {**EXPERTS, "split": "odd"}]}, "divided as odd"),
    ],
)
def test_what_is_no_plan_is_refused(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(ConfigError, match="the plan") as refusal:
        read_plan(written(tmp_path, content), MIXTRAL)
    assert said in str(refusal.value)


def test_a_missing_plan_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the plan .*nowhere\.json"):
        read_plan(tmp_path / "nowhere.json", MIXTRAL)
