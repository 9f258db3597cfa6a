"""Schemathesis makes requests out of /openapi.json, right and wrong; none is a fault of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from scripted import ScriptedLLM
from scripted_fleet import ScriptedFleet
from serving import running


@pytest.mark.parametrize("served", [ScriptedLLM(max_model_len=64), ScriptedFleet.of("a", "b/c")])
def test_every_answer_is_documented_and_none_is_a_5xx(
    served: ScriptedLLM | ScriptedFleet, tmp_path: Path
) -> None:
    with running(served) as url:
        command = [
            str(Path(sys.executable).with_name("schemathesis")),
            *(
                "run",
                f"{url}/openapi.json",
                "--phases=fuzzing",
                "--max-examples=20",
                "--seed=1",
                "--no-color",
            ),
            # The schema cannot say everything that makes a request valid.
            *("--exclude-checks=positive_data_acceptance", "--request-timeout=20"),
        ]
        found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert found.returncode == 0, found.stdout
