"""The cells of measured.json: what was sent to which servers, and what came back."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apex import NANOSECONDS, Request, answers

from ellm.sim.workload.item import Item

HERE = Path(__file__).resolve().parent
METRICS = ("ttft_ms", "tpot_ms", "e2e_s")
# What the fits see, one set a kind of server; every other cell is held out.
CALIBRATING = {
    "llama": ("lmsys_05-8TP", "lmsys_05-4DP2TP", "creation_05-8TP", "summarization_05-4DP2TP"),
    "mistral": (
        "lmsys_05-8TP",
        "lmsys_05-4DP2TP",
        "creation_05-8TP",
        "summarization_05-8TP",
        "summarization_05-4DP2TP",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One load on one plan.

    `chunk` None is for prompts taken whole; `context` None for the model's own.  `own_all_reduce`
    is vLLM's kernel for small sums.  `measured` are means over all requests.  `sources` are result
    files of its replicas.
    """

    family: str
    load: str
    plan: str
    replicas: int
    tensor: int
    chunk: int | None
    context: int | None
    max_num_seqs: int
    utilization: float
    weights: str
    own_all_reduce: bool
    measured: Mapping[str, float]
    sources: Sequence[str]

    @property
    def name(self) -> str:
        return f"{self.family}-{self.load}-{self.plan}"

    @property
    def calibrates(self) -> bool:
        return f"{self.load}-{self.plan}" in CALIBRATING[self.family]


def cells() -> list[Cell]:
    """All that vLLM served, in the order of measured.json."""
    known = json.loads((HERE / "measured.json").read_text(encoding="utf-8"))["cells"]
    return [_cell(one) for one in known if one["engine"].startswith("vLLM")]


def _cell(one: Mapping[str, Any]) -> Cell:
    family, load, plan = one["id"].split("-")
    return Cell(
        family=family,
        load=load,
        plan=plan,
        replicas=one["replicas_read"],
        tensor=one["plan"]["tensor"],
        chunk=one["chunk_tokens"],
        context=one["max_model_len"],
        max_num_seqs=one["max_num_seqs"],
        utilization=one["gpu_memory_utilization"],
        weights=one["weights"],
        own_all_reduce=one["custom_all_reduce"],
        measured={metric: one[metric] for metric in METRICS},
        sources=[replica["source"] for replica in one["replicas"]],
    )


def home() -> Path:
    """$APEX_HOME: a checkout of apex_plus, or the folder that derive.py wrote of one."""
    root = Path(os.environ.get("APEX_HOME", Path.home() / ".cache/apex_plus"))
    if not any((root / part).is_dir() for part in ("served", "vllm/results")):
        raise SystemExit(
            f"{root} has neither served/ nor vllm/results/: set APEX_HOME to a checkout of "
            "https://github.com/microsoft/apex_plus (commit 8769096), or to what derive.py wrote "
            "of one"
        )
    return root


def sent(root: Path, cell: Cell) -> list[list[Item]]:
    """What each replica served, by arrival."""
    return [[_item(one) for one in _served(root, source)] for source in cell.sources]


def _served(root: Path, source: str) -> Sequence[Request]:
    path = root / "served" / f"{Path(source).stem.replace('_validation', '')}.csv"
    if not (root / "served").is_dir():
        return answers(root, root / source).served
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [Request(*map(int, row)) for row in list(csv.reader(file))[1:]]
    except OSError as error:
        raise SystemExit(f"{path}: {error.strerror}: run derive.py again") from error


def _item(one: Request) -> Item:
    return Item(one.prompt, one.output, one.offset / NANOSECONDS)
