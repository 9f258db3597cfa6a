"""`ellm chat`: a conversation in the terminal."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from ellm.cli.bench.load import find_model
from ellm.cli.engine_options import takes_engine_args
from ellm.cli.sampling_options import MaxTokens, Temperature, TopK, TopP
from ellm.cli.serve import ApiKey
from ellm.cli.speaker import LocalSpeaker, Message, RemoteSpeaker, Speaker
from ellm.core.errors import RequestError
from ellm.core.sampling import SamplingParams
from ellm.llm.args import EngineArgs


@takes_engine_args(without=("max_num_queued_reqs",))
def chat(
    args: EngineArgs,
    url: Annotated[
        str | None, typer.Option("--url", help="Talk to this server instead of loading a model.")
    ] = None,
    api_key: ApiKey = None,
    system_prompt: Annotated[
        str | None, typer.Option("--system-prompt", help="What the model is told first.")
    ] = None,
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.7,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
) -> int:
    """Chat in the terminal.  Ctrl-C stops an answer, Ctrl-D ends the chat."""
    params = SamplingParams(
        max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=args.seed
    )
    opening = [{"role": "system", "content": system_prompt}] if system_prompt else []
    with asyncio.Runner() as runner, contextlib.ExitStack() as stack:
        speaker: Speaker
        if url is not None:
            base = url.rstrip("/").removesuffix("/v1")
            model = args.served_model_name or runner.run(find_model(base, api_key))
            speaker = RemoteSpeaker(base, model, api_key, params)
        else:
            speaker = stack.enter_context(_local(args, params))
        _converse(runner, speaker, opening)
    return 0


@contextlib.contextmanager
def _local(args: EngineArgs, params: SamplingParams) -> Iterator[Speaker]:
    from ellm import AsyncLLM
    from ellm.llm.progress import loading_bar

    with loading_bar(f"loading {args.model}") as progress:
        llm = AsyncLLM(args, progress=progress)
    try:
        yield LocalSpeaker(llm, params)
    finally:
        llm.close()


def _converse(runner: asyncio.Runner, speaker: Speaker, opening: list[Message]) -> None:
    """Turn by turn until end of input; an answer that was stopped stays in the conversation."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  line editing and history for input()
    messages = list(opening)
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            text = input(prompt)
        except KeyboardInterrupt:
            print("\n(Ctrl-D ends the chat)", file=sys.stderr)
            continue
        except EOFError:
            return
        if not text.strip():
            continue
        messages.append({"role": "user", "content": text})
        pieces: list[str] = []
        try:
            runner.run(_say(speaker, messages, pieces))
        except KeyboardInterrupt:
            print("\n(stopped)", file=sys.stderr)
        except RequestError as error:
            print(f"error: {error}\n(the conversation starts afresh)", file=sys.stderr)
            messages = list(opening)
            continue
        messages.append({"role": "assistant", "content": "".join(pieces)})


async def _say(speaker: Speaker, messages: list[Message], pieces: list[str]) -> None:
    """Print an answer as it comes, and keep it in `pieces` even when interrupted."""
    answer = speaker.answer(messages)
    try:
        async for piece in answer:
            pieces.append(piece)
            print(piece, end="", flush=True)
        print()
    finally:
        await answer.aclose()
