"""The flags of `ellm bench`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from ellm.cli.bench.client import Endpoint
from ellm.core.units import parse_count


class Dataset(Enum):
    """Where the lengths of prompts and answers come from."""

    RANDOM = "random"
    SHAREGPT_LENGTHS = "sharegpt-lengths"
    TRACE = "trace"


def _count(name: str, text: str) -> Any:
    return typer.Option(name, parser=parse_count, metavar="N", help=text)


InputLen = Annotated[int, _count("--input-len", "Tokens per prompt.")]
OutputLen = Annotated[int, _count("--output-len", "Tokens per answer.")]
BatchSize = Annotated[int, _count("--batch-size", "Prompts at once.")]
NumIters = Annotated[int, _count("--num-iters", "Measured rounds.")]
NumItersWarmup = Annotated[int, _count("--num-iters-warmup", "Unmeasured rounds.")]
NumPrompts = Annotated[int, _count("--num-prompts", "Requests in all.")]
MaxRequests = Annotated[
    int,
    typer.Option(
        "--num-prompts",
        "--max-requests",
        parser=parse_count,
        metavar="N",
        help="Requests in all; of a trace the first so many.",
    ),
]
OutputJson = Annotated[
    Path | None, typer.Option("--output-json", help="Write the figures to this file.")
]

BaseUrl = Annotated[
    str | None, typer.Option("--base-url", help="Server, instead of --host and --port.")
]
Host = Annotated[str, typer.Option("--host", help="Server's address.")]
Port = Annotated[int, typer.Option("--port", help="Server's port.")]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model", help="Repeat it to spread the load; default the first that the server lists."
    ),
]
EndpointName = Annotated[Endpoint, typer.Option("--endpoint", help="Which dialect to speak.")]
DatasetName = Annotated[
    Dataset, typer.Option("--dataset-name", help="Where lengths and arrivals come from.")
]
DatasetPath = Annotated[
    Path | None,
    typer.Option(
        "--dataset-path",
        help="Trace: a file of Azure, Mooncake, Prism, APEX, of ShareGPT's lengths or of eLLM's "
        "own (JSON lines); or `chat`, which is bundled.",
    ),
]
ScaleLengths = Annotated[
    float | None,
    typer.Option("--scale-lengths", metavar="F", help="Multiply a trace's lengths by this."),
]
RateScale = Annotated[
    float | None,
    typer.Option("--rate-scale", metavar="F", help="Replay a trace so many times as fast."),
]
RequestRate = Annotated[
    float | None,
    typer.Option(
        "--request-rate", help="Requests/s, or inf (the default; a trace's default is its own)."
    ),
]
Burstiness = Annotated[float, typer.Option("--burstiness", help="1 is Poisson, less is burstier.")]
MaxConcurrency = Annotated[
    int | None, typer.Option("--max-concurrency", help="Most requests in flight.")
]
IgnoreEos = Annotated[bool, typer.Option("--ignore-eos", help="Generate the full length.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of prompts and arrivals.")]
Goodput = Annotated[
    list[str] | None,
    typer.Option("--goodput", metavar="NAME:MS", help="Objectives: ttft:500 tpot:50 e2el:3000."),
]
# What follows the first objective, so that vLLM's `--goodput ttft:500 tpot:50` is understood.
MoreGoodput = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME:MS", help="More objectives, after --goodput."),
]
