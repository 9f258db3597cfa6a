"""The command `ellm`: find the verb, run it, and turn an error into one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import ellm
from ellm.cli import chat, complete, environment, serve
from ellm.cli.bench import commands as bench
from ellm.core.errors import DriverError, DriverUnavailable, EllmError, EngineDead

_REMEDIES = {
    "--gpu-memory-utilization": "eLLM needs no fraction: give a budget with --memory, as 4GiB",
    "--kv-cache-memory-bytes": "weights, activations and KV share one budget: --memory, as 4GiB",
}
_EXTRAS = {"fastapi": "serve", "uvicorn": "serve", "prometheus_client": "serve", "httpx": "serve"}


def application() -> typer.Typer:
    """Every command and its options."""
    app = typer.Typer(
        name="ellm",
        help="LLM serving on elastic memory.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    app.command("serve")(serve.serve)
    app.command("chat")(chat.chat)
    app.command("complete")(complete.complete)
    app.add_typer(bench.group(), name="bench")
    app.command("collect-env")(environment.collect_env)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(ellm.__version__)
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print it.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """LLM serving on elastic memory."""


def run(argv: Sequence[str]) -> int:
    """The exit status: 0, 2 for what the user can mend, 1 for the rest, 130 when interrupted."""
    try:
        status = application()(args=list(argv), prog_name="ellm", standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except Exception as error:
        if os.environ.get("ELLM_DEBUG") == "1":
            raise
        text, status = explain(error)
        print(text if text.startswith("Usage: ") else f"error: {text}", file=sys.stderr)
    return int(status or 0)


def explain(error: Exception) -> tuple[str, int]:
    """One line for a person, and the exit status."""
    if hasattr(error, "format_message"):  # the command line itself could not be read
        remedy = _REMEDIES.get(getattr(error, "option_name", ""))
        said = error.format_message().rstrip(".").replace("Value error, ", "")
        return remedy or said, 2
    if isinstance(error, EllmError):
        broke = isinstance(error, (EngineDead, DriverError))
        mendable = not broke or isinstance(error, DriverUnavailable)
        return " ".join(str(error).split()), 2 if mendable else 1
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        return f"{error.name} is not installed: pip install 'ellm[{_EXTRAS[error.name]}]'", 2
    if isinstance(error, OSError):
        return str(error), 1
    return f"{type(error).__name__}: {error} (ELLM_DEBUG=1 shows where)", 1


def main() -> None:
    """Entry point of the installed command."""
    sys.exit(run(sys.argv[1:]))
