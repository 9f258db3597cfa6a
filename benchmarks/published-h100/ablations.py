"""What the model of Llama's servers needs: without each part in turn, all else fitted again.

    APEX_HOME=path/to/apex_plus python benchmarks/published-h100/ablations.py

By the quick replay of calibrate.py, with its cells to fit and the others to judge by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from calibrate import ENGINE_ALONE, KINDS, LAUNCH, calibrate, replayed
from cells import METRICS, Cell, cells, home, sent
from device_file import changed
from simulated import wired

from ellm.sim.devices.known import find_device

# Constants that stay as in the catalogue.
FIXED: Mapping[str, str] = {
    "launches": LAUNCH,
    "time a sequence": "overhead.sequence",
    "time a request": "overhead.request",
    "share of bandwidth": "efficiency.bandwidth",
    "share of operations": "efficiency.matmul",
}
# Settings of servers that are taken for others.
MISTAKEN: Mapping[str, Callable[[Cell], Cell]] = {
    "chunks": lambda cell: replace(cell, chunk=None),
    "NCCL": lambda cell: replace(cell, own_all_reduce=True),
}


def main() -> None:
    root = home()
    whole = KINDS[0]
    base = changed(find_device("H100"), {**ENGINE_ALONE, "overhead.request": 0.0})
    every = [cell for cell in cells() if cell.weights == whole.weights]
    for name in ("nothing", *FIXED, *MISTAKEN):
        kind = replace(whole, free=[one for one in whole.free if one != FIXED.get(name)])
        pairs = [(MISTAKEN.get(name, replace)(cell), sent(root, cell)) for cell in every]
        device, _ = calibrate(kind, base, [pair for pair in pairs if pair[0].calibrates])
        errors = [
            {m: abs(found[m] / cell.measured[m] - 1) for m in METRICS}
            for cell, found in (
                (cell, replayed(cell, wired(device, cell), items))
                for cell, items in pairs
                if not cell.calibrates
            )
        ]
        means = (sum(each[m] for each in errors) / len(errors) for m in METRICS)
        largest = (max(each[m] for each in errors) for m in METRICS)
        figures = (f"{a:6.1%} ({b:.1%})" for a, b in zip(means, largest, strict=True))
        print(f"{name:20}", *figures, flush=True)


if __name__ == "__main__":
    main()
