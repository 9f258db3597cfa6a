"""The engine benchmark runs where no other engine is installed, and records what it found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

RUNNER = str(Path(__file__).resolve().parents[2] / "benchmarks/engine/run.py")


def test_this_engine_is_called_and_served(tmp_path: Path) -> None:
    output = tmp_path / "results.jsonl"
    asked = ["--quick", "--arms", "ellm,vllm", "--output", str(output), "throughput", "http"]
    done = subprocess.run(
        [sys.executable, RUNNER, *asked],
        env={**os.environ, "PEERS_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert "vllm is left out" in done.stderr
    runs = [json.loads(line) for line in output.read_text().splitlines()]
    assert [run["scenario"] for run in runs] == ["throughput", "http"]
    for run in runs:
        (trial,) = run["trials"]
        assert trial["arm"] == "ellm"
        assert {*run["figures"]} <= {*trial}
        assert run["engines"]["ellm"]["peak_rss"] > 64 << 20
    # Steps of so small a model are done before their tokens are sent, so that some share a chunk.
    assert 0 < runs[1]["trials"][0]["chunks_per_token"] <= 1
    assert done.stdout.count("| ellm |") == len(runs)
