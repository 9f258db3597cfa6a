"""The command `ellm`: find the verb, run it, and turn an error into one line."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import ellm
from ellm.cli import chat, complete, environment, serve
from ellm.cli.bench import commands as bench
from ellm.cli.planning import command as planning
from ellm.cli.profiling import command as profiling
from ellm.cli.simulation import command as simulation
from ellm.core.errors import DriverError, DriverUnavailable, EllmError, EngineDead
from ellm.llm.remedies import REMEDIES

# `-tp 2` is read as the option `-t`.
_SHORT = {"-t": "--tensor-parallel-size", "-q": "--quantization"}
_BROKEN_PIPE = 128 + signal.SIGPIPE
# Modules that a command may lack.
_OF_THE_SERVER = ("fastapi", "uvicorn", "prometheus_client", "httpx")


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
    app.command("simulate")(simulation.simulate)
    app.command("plan")(planning.plan)
    app.command("profile")(profiling.profile)
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
    """The exit status: 0, 2 for what the user can mend, 1 for the rest, 130 when interrupted.

    It is 141, as of a process that SIGPIPE ends, when whoever reads the output has gone.
    """
    try:
        status = application()(args=list(argv), prog_name="ellm", standalone_mode=False)
        sys.stdout.flush()
    except SystemExit as left:  # what typer makes of a broken pipe
        if not isinstance(left.__context__, BrokenPipeError):
            raise
        return _drop_output()
    except BrokenPipeError:
        return _drop_output()
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except Exception as error:
        if os.environ.get("ELLM_DEBUG") == "1":
            raise
        text, status = explain(error)
        print(text if text.startswith("Usage: ") else f"error: {text}", file=sys.stderr)
    return int(status or 0)


def _drop_output() -> int:
    """Leave nothing for the interpreter to write at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
    return _BROKEN_PIPE


def explain(error: Exception) -> tuple[str, int]:
    """One line for a person, and the exit status."""
    if hasattr(error, "format_message"):  # the command line itself could not be read
        return _explain_usage(error, error.format_message()), 2
    if isinstance(error, EllmError):
        broke = isinstance(error, (EngineDead, DriverError))
        mendable = not broke or isinstance(error, DriverUnavailable)
        return " ".join(str(error).split()), 2 if mendable else 1
    if isinstance(error, ModuleNotFoundError) and error.name in _OF_THE_SERVER:
        package = error.name.replace("_", "-")
        return f"{package} is not installed: pip install {package}", 2
    if isinstance(error, OSError):
        return str(error), 1
    return f"{type(error).__name__}: {error} (ELLM_DEBUG=1 shows where)", 1


def _explain_usage(error: Exception, message: str) -> str:
    said = message.rstrip(".").replace("Value error, ", "")
    option = getattr(error, "option_name", "")
    full = _SHORT.get(option, option)
    if remedy := REMEDIES.get(full.removeprefix("--").replace("-", "_")):
        return f"{full}: {remedy}"
    if said.startswith("No such command"):
        commands = getattr(getattr(error, "ctx", None), "command", None)
        return f"{said}: it is one of {', '.join(getattr(commands, 'commands', ()))}"
    if said.startswith("Got unexpected extra argument"):
        return f"{said}: put quotes around text that has spaces"
    return said


def main() -> None:
    """Entry point of the installed command."""
    sys.exit(run(sys.argv[1:]))
