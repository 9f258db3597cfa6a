"""One flag for each field of `EngineArgs`, given to every command that starts an engine."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any

import typer

from ellm.core.config import KvLayout, MemoryMode
from ellm.core.units import parse_bytes, parse_count, parse_objective
from ellm.llm.args import EngineArgs, LoadFormat


def context_length(text: str) -> int:
    """`auto` is 0, which asks for the longest context that fits the budget."""
    return 0 if text == "auto" else parse_count(text)


def _count(name: str, text: str) -> Any:
    return Annotated[int, typer.Option(name, parser=parse_count, metavar="N", help=text)]


def _maybe(name: str, parser: Callable[[str], int], metavar: str, text: str) -> Any:
    return Annotated[int | None, typer.Option(name, parser=parser, metavar=metavar, help=text)]


def _objective(name: str, text: str) -> Any:
    return Annotated[
        float | None, typer.Option(name, parser=parse_objective, metavar="TIME", help=text)
    ]


MODEL_HELP = "A Hugging Face directory, a hub id, or ellm-base or ellm-draft."
_FLAGS: dict[str, Any] = {
    "model": Annotated[str, typer.Option("--model", help=MODEL_HELP)],
    "tokenizer": Annotated[
        str | None, typer.Option("--tokenizer", help="Directory of another tokenizer.")
    ],
    "served_model_name": Annotated[
        str | None, typer.Option("--served-model-name", help="The name that clients ask for.")
    ],
    "load_format": Annotated[
        LoadFormat,
        typer.Option(
            "--load-format",
            help="dummy: random weights by --seed, for any config.json or a known shape as "
            "llama-3.1-8b; auto: the model's own.",
        ),
    ],
    "dtype": Annotated[
        str,
        typer.Option("--dtype", help="auto, float32, bfloat16 or float16; auto is the model's."),
    ],
    "device": Annotated[str, typer.Option("--device", help="Where to run: cpu, cuda or cuda:N.")],
    "max_model_len": _maybe(
        "--max-model-len",
        context_length,
        "N|auto",
        "Context length; default the model's, auto the longest that fits the memory.",
    ),
    "max_num_seqs": _count("--max-num-seqs", "Most sequences in one step."),
    "max_num_batched_tokens": _maybe(
        "--max-num-batched-tokens",
        parse_count,
        "N",
        "Most tokens in one step; default what memory and objectives allow.",
    ),
    "enable_chunked_prefill": Annotated[
        bool,
        typer.Option(
            "--enable-chunked-prefill/--no-enable-chunked-prefill",
            help="Compute a prompt in several steps where that helps.",
        ),
    ],
    "max_num_queued_reqs": _maybe(
        "--max-num-queued-reqs", parse_count, "N", "Most requests that wait; default unbounded."
    ),
    "scheduling_policy": Annotated[
        str | None,
        typer.Option(
            "--scheduling-policy", metavar="fcfs|slo", help="Default slo if an objective is given."
        ),
    ],
    "ttft_slo": _objective("--ttft-slo", "Objective for the time to the first token, as 500ms."),
    "tpot_slo": _objective("--tpot-slo", "Objective for the time per output token, as 50ms."),
    "memory": _maybe(
        "--memory",
        parse_bytes,
        "SIZE",
        "Budget for weights, activations and KV, as 4GiB; default what is free less a margin.",
    ),
    "memory_mode": Annotated[
        MemoryMode,
        typer.Option("--memory-mode", help="Move memory where it is needed, or fix the shares."),
    ],
    "ablate": Annotated[
        list[str] | None,
        typer.Option(
            "--ablate",
            metavar="PART",
            help="Leave an elastic part out, to see what it is worth: warm (ranges), premap, defer "
            "(unmapping), prefill, park, layers.  May be repeated.",
        ),
    ],
    "kv_offloading_size": _maybe(
        "--kv-offloading-size", parse_bytes, "SIZE", "Tier below the memory; default none."
    ),
    "kv_offloading_dir": Annotated[
        str | None, typer.Option("--kv-offloading-dir", help="Where the tier's file lies.")
    ],
    "kv_layout": Annotated[
        KvLayout, typer.Option("--kv-layout", help="One address range a sequence, or pages.")
    ],
    "block_size": _count("--block-size", "Tokens per page of the paged layout."),
    "chunk_bytes": _maybe(
        "--chunk-size", parse_bytes, "SIZE", "Bytes per chunk; default chosen from the budget."
    ),
    "enable_prefix_caching": Annotated[
        bool,
        typer.Option(
            "--enable-prefix-caching/--no-enable-prefix-caching",
            help="Keep KV of finished prompts for others that begin alike.",
        ),
    ],
    "chat_template": Annotated[
        str | None, typer.Option("--chat-template", help="File with a chat template, or its text.")
    ],
    "seed": Annotated[int, typer.Option("--seed", help="Seed of requests that bring none.")],
    "threads": _maybe("--threads", parse_count, "N", "Compute threads; default the cores."),
}


def takes_engine_args(
    *, without: tuple[str, ...] = ()
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Turn `command(args: EngineArgs, ...)` into one whose flags are the fields of EngineArgs.

    `without` names fields that make no sense for the command, or that it reads itself; they keep
    their defaults.
    """
    assert set(_FLAGS) == {field.name for field in fields(EngineArgs)}, "a field lacks its flag"
    defaults: dict[str, Any] = {field.name: field.default for field in fields(EngineArgs)}
    defaults["ablate"] = None
    chosen = [name for name in _FLAGS if name not in without]
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults[name],
            annotation=_FLAGS[name],
        )
        for name in chosen
    ]

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        own = inspect.signature(command, eval_str=True)

        def wrapper(**given: Any) -> int:
            engine = {name: given.pop(name) for name in chosen}
            engine["ablate"] = engine.get("ablate") or ()
            return command(EngineArgs(**engine), **given)

        rest = [p.replace(kind=p.KEYWORD_ONLY) for p in list(own.parameters.values())[1:]]
        merged = inspect.Signature([*rest, *parameters])
        wrapper.__signature__ = merged  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in merged.parameters.values()}
        wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
        return wrapper

    return decorate
