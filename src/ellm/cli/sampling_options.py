"""Flags that say how tokens are chosen."""

from __future__ import annotations

from typing import Annotated

import typer

from ellm.core.units import parse_count

MaxTokens = Annotated[
    int,
    typer.Option("--max-tokens", parser=parse_count, metavar="N", help="Most tokens to generate."),
]
Temperature = Annotated[float, typer.Option("--temperature", help="0 is greedy.")]
TopP = Annotated[float, typer.Option("--top-p", help="Keep the likeliest tokens of this mass.")]
TopK = Annotated[int, typer.Option("--top-k", help="Keep this many; 0 keeps all.")]
