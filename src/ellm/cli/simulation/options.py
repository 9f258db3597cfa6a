"""The flags of `ellm simulate` and `ellm plan`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from ellm.core.units import parse_count
from ellm.sim.cluster import Dispatch


class Lengths(Enum):
    """Made-up requests, by what their lengths are like."""

    FIXED = "fixed"
    SHAREGPT = "sharegpt"
    ALPACA = "alpaca"


def _count(name: str, text: str, *more: str) -> Any:
    return typer.Option(name, *more, parser=parse_count, metavar="N", help=text)


ModelName = Annotated[
    str,
    typer.Option(
        "--model", help="A config.json, a model's directory, or a known shape as llama-3.1-8b."
    ),
]
DeviceName = Annotated[
    str,
    typer.Option(
        "--device", help="A device by name as A100-80GB, its .toml, or what ellm profile wrote."
    ),
]
TraceName = Annotated[
    str | None,
    typer.Option(
        "--trace",
        metavar="FILE",
        help="Recorded requests, of any known format; default chat, bundled.",
    ),
]
LengthsName = Annotated[
    Lengths | None, typer.Option("--lengths", help="Made-up requests instead of recorded ones.")
]
InputLen = Annotated[
    int | None, _count("--input-len", "Tokens per prompt of fixed lengths; default 1024.")
]
OutputLen = Annotated[
    int | None, _count("--output-len", "Tokens per answer of fixed lengths; default 256.")
]
NumPrompts = Annotated[
    int | None,
    _count("--num-prompts", "Requests; default all of a trace, 500 without.", "--max-requests"),
]
Rate = Annotated[
    float | None,
    typer.Option(
        "--rate", "--request-rate", help="Requests/s; default a trace's own times, else 1."
    ),
]
Burstiness = Annotated[
    float | None,
    typer.Option("--burstiness", help="Of --rate: 1, the default, is Poisson, less is burstier."),
]
RateScale = Annotated[
    float | None, typer.Option("--rate-scale", metavar="F", help="Replay so many times as fast.")
]
ScaleLengths = Annotated[
    float, typer.Option("--scale-lengths", metavar="F", help="Multiply all lengths by this.")
]
DropLonger = Annotated[
    bool, typer.Option("--drop-longer", help="Leave out requests longer than the context.")
]
WeightFormat = Annotated[
    str, typer.Option("--dtype", help="Of weights: bf16, fp16, fp32, fp8, int8, int4 or fp4.")
]
KvFormat = Annotated[
    str,
    typer.Option("--kv-cache-dtype", help="Of the KV cache: auto, bf16, fp16, fp32, fp8 or int8."),
]
TensorParallel = Annotated[
    int, _count("--tensor-parallel-size", "Devices that share each layer.", "-tp")
]
PipelineParallel = Annotated[
    int, _count("--pipeline-parallel-size", "Parts of the layers, one after another.", "-pp")
]
DataParallel = Annotated[
    int, _count("--data-parallel-size", "Copies, each with its own requests.", "-dp")
]
ExpertParallel = Annotated[
    bool, typer.Option("--enable-expert-parallel", help="Divide experts whole, not in slices.")
]
PlanFile = Annotated[
    Path | None,
    typer.Option("--plan", metavar="FILE", help="How the model is divided, as ellm plan wrote it."),
]
DispatchName = Annotated[Dispatch, typer.Option("--dispatch", help="Which copy a request goes to.")]
Extension = Annotated[
    list[Path] | None,
    typer.Option("--extension", help="A Python file with cells or collectives of your own."),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the report and plots.")]
