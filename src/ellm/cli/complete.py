"""`ellm complete`: continue one prompt without a server."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from ellm.cli.engine_options import takes_engine_args
from ellm.cli.sampling_options import MaxTokens, Temperature, TopK, TopP
from ellm.llm.args import EngineArgs


@takes_engine_args(without=("served_model_name", "max_num_queued_reqs", "chat_template"))
def complete(
    args: EngineArgs,
    prompt: Annotated[str, typer.Argument(help="Text to continue; - reads standard input.")],
    max_tokens: MaxTokens = 128,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", help="Text that ends it; may be repeated.")
    ] = None,
    stream: Annotated[
        bool | None,
        typer.Option("--stream/--no-stream", help="Print as it comes; default on a terminal."),
    ] = None,
) -> int:
    """Continue one prompt.  Standard output gets the completion alone."""
    from ellm import AsyncLLM, SamplingParams
    from ellm.llm.progress import loading_bar

    text = sys.stdin.read() if prompt == "-" else prompt
    params = SamplingParams(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        stop=stop or (),
        seed=args.seed,
    )
    with loading_bar(f"loading {args.model}") as progress:
        llm = AsyncLLM(args, progress=progress)
    at_once = sys.stdout.isatty() if stream is None else stream

    async def run() -> None:
        pieces: list[str] = []
        async for output in llm.generate({"prompt": text}, params, "complete", delta=True):
            pieces.append(output.outputs[0].text)
            if at_once:
                sys.stdout.write(pieces[-1])
                sys.stdout.flush()
        print("" if at_once else "".join(pieces))

    try:
        asyncio.run(run())
    finally:
        llm.close()
    return 0
