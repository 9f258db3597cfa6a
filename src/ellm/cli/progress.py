"""A progress bar on stderr, so that stdout stays fit for a pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def counting_bar(title: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar that is told of one finished piece at a time; it vanishes when done."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)
