"""Fine-tune under three allocators of CUDA memory, and append the run to results.jsonl."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from finetuning import ON_CPU, WORKLOADS, Workload
from verdict import figures, objection, table

from harness.options import parser
from harness.results import Trial, append
from harness.rounds import alternate
from harness.traces import HOME
from harness.worker import Worker

HERE = Path(__file__).resolve().parent
EXPANDABLE = "expandable_segments:True"
# By name, what each adds to the environment; before PyTorch 2.9 the setting had another name.
ARMS = {
    "default": {},
    "expandable": {"PYTORCH_ALLOC_CONF": EXPANDABLE, "PYTORCH_CUDA_ALLOC_CONF": EXPANDABLE},
    "ellm": {},
}
TRACE = HOME / "azure/AzureLLMInferenceTrace_conv.csv"
QUICK_STEPS = 8


def measure(
    workload: Workload, arm: str, device: str, threads: int, question: dict[str, Any]
) -> dict[str, Any]:
    """One trial, in a process of its own."""
    opening = {"arm": arm, "device": device, "threads": threads}
    with Worker(HERE / "worker.py", opening, environment=ARMS[arm]) as worker:
        return figures(worker.ask({**question, "workload": workload.name}))


def main() -> None:
    options = parser(__doc__ or "", HERE, list(ARMS), rounds=2)
    options.with_device()
    asked = options.parse_args()
    on_cpu = asked.device == "cpu"
    arms = ["default"] if on_cpu else asked.arms
    trace = str(TRACE) if TRACE.exists() else None
    trials: list[Trial] = []
    for workload in ON_CPU if on_cpu else WORKLOADS:
        steps = min(QUICK_STEPS, workload.steps) if asked.quick else workload.steps
        question = {"steps": steps, "seed": asked.seed, "trace": trace}
        for number, arm in alternate(asked.rounds, arms):
            found = measure(workload, arm, asked.device, asked.threads, question)
            trials.append({"round": number, "arm": arm, "workload": workload.name, **found})
            print(f"{workload.name}, {arm}: {found}", file=sys.stderr, flush=True)
    print(table(trials))
    if (why := objection(trials)) is not None:
        raise SystemExit(why)
    lengths = "azure conversations" if trace else "lognormal"
    append(asked.output, seed=asked.seed, trials=trials, device=asked.device, lengths=lengths)


if __name__ == "__main__":
    main()
