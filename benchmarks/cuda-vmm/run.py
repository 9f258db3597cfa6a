"""What a GPU's virtual memory costs, and what may be done beside a running kernel."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

import torch
from beside import attention, copies, during_a_kernel, replayed_after_remapping, twice_mapped
from calls import runs, single_calls

from ellm.memory.drivers.cuda_calls import call, find_device, import_bindings
from harness.results import append

HERE = Path(__file__).resolve().parent
PARTS: tuple[Callable[[Any], Iterator[dict[str, Any]]], ...] = (
    single_calls,
    runs,
    during_a_kernel,
    twice_mapped,
    replayed_after_remapping,
    attention,
    copies,
)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--output", type=Path, default=HERE / "results.jsonl")
    asked = options.parse_args()
    if not torch.cuda.is_available():
        options.error(f"PyTorch {torch.__version__} finds no CUDA device")
    cuda = import_bindings()
    find_device(cuda, 0)
    torch.zeros(1, device="cuda")  # the context that both share
    trials = []
    for part in PARTS:
        for found in part(cuda):
            print(found, flush=True)
            trials.append(found)
    append(
        asked.output,
        seed=0,
        trials=trials,
        device=torch.cuda.get_device_name(),
        driver=call(cuda, cuda.cuDriverGetVersion),
    )


if __name__ == "__main__":
    main()
