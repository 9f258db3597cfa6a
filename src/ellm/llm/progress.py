"""Progress bars on stderr, so that stdout stays fit for a pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)


@contextmanager
def loading_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that a loader feeds with (bytes done, bytes in all); it vanishes when done.

    It shows from the first call, when the total is known.  Where stderr is
    no terminal nothing is written.
    """
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(title, total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=True)


@contextmanager
def generation_bar(total: int, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar over `total` requests that is fed with (newly finished, new tokens)."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[tokens]} tokens"),
        console=Console(stderr=True),
        disable=not shown,
    )
    with bar:
        task = bar.add_task("prompts", total=total, tokens=0)
        tokens = 0

        def advance(finished: int, new_tokens: int) -> None:
            nonlocal tokens
            tokens += new_tokens
            bar.update(task, advance=finished, tokens=tokens)

        yield advance
