"""Runners of a GPU work on a CPU with tiny models, and write what they have when stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RUNNERS = {
    "gpu/run.py": ("--parts", "8b", "--arms", "graph"),
    "gpu-elastic/run.py": ("--rates", "1.6"),
    "multi-model/bursts.py": (),
}


def command(name: str, output: Path) -> list[str]:
    options = ["--device", "cpu", "--quick", "--threads", "1", "--output", str(output)]
    return [sys.executable, "-u", str(BENCHMARKS / name), *RUNNERS[name], *options]


def recorded(output: Path) -> dict[str, Any]:
    (line,) = output.read_text().splitlines()
    return dict(json.loads(line))


@pytest.mark.parametrize("name", RUNNERS)
def test_a_runner_measures_every_arm(name: str, tmp_path: Path) -> None:
    done = subprocess.run(command(name, tmp_path / "out"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run = recorded(tmp_path / "out")
    arms = {trial["arm"] for trial in run["trials"]}
    wanted = {
        "gpu/run.py": {"graph"},
        "multi-model/bursts.py": {"static", "shared"},
        "gpu-elastic/run.py": {
            "static", "static+chunked", "elastic", "elastic+tier", "elastic+slo",
            "elastic+tier+slo",
        },
    }  # fmt: skip
    assert arms == wanted[name]
    assert not any(trial.get("errors") for trial in run["trials"])
    for arm in arms:
        assert f"| {arm} |" in done.stdout


def test_a_runner_that_is_stopped_writes_what_it_has(tmp_path: Path) -> None:
    """As by timeout(1)."""
    asked = command("gpu-elastic/run.py", tmp_path / "out")
    with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if b"'part': 'online'" in line:
                running.send_signal(signal.SIGTERM)
                break
        running.stdout.read()
    assert running.returncode != 0
    parts = [trial["part"] for trial in recorded(tmp_path / "out")["trials"]]
    assert "online" in parts
    assert "layers" not in parts
