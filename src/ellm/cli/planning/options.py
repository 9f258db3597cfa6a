"""The flags that only `ellm plan` has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ellm.core.units import parse_count
from ellm.planner.objective import Objective

DeviceName = Annotated[
    str, typer.Option("--device", help="A device by name as H100, or its .toml.")
]
MaxGpus = Annotated[
    int | None,
    typer.Option(
        "--max-gpus", parser=parse_count, metavar="N", help="Most devices; default those of a node."
    ),
]
ObjectiveName = Annotated[
    Objective | None,
    typer.Option("--objective", help="Default goodput if there is an SLO, else throughput."),
]
MinGoodput = Annotated[
    str | None,
    typer.Option(
        "--min-goodput",
        metavar="RATE|SHARE",
        help="Fewest devices that reach so many good requests/s, as 7.5, or a share, as 95%.",
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option("--jobs", parser=parse_count, metavar="N", help="Processes; default the cores."),
]
Thorough = Annotated[
    bool,
    typer.Option("--thorough", help="Simulate all that bounds cannot exclude on the whole trace."),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="Folder for plan.json, the report and a plot.")
]
