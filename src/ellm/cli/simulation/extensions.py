"""Files of a user's own that register cells, collectives or other parts."""

from __future__ import annotations

import runpy
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from traceback import extract_tb

from ellm.core.errors import ConfigError


def load_extensions(files: Iterable[Path]) -> None:
    """Run them, each once a process.  Raises ConfigError with the line that failed."""
    for file in files:
        _load(file.absolute())


@cache
def _load(file: Path) -> None:
    """Not again: a name can be registered only once."""
    if not file.is_file():
        raise ConfigError(f"the extension {file} is no file")
    try:
        runpy.run_path(str(file))
    except Exception as error:
        what = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ConfigError(
            f"the extension {file} failed{_line(file, error)}: {type(error).__name__}: {what}"
        ) from error


def _line(file: Path, error: Exception) -> str:
    """Where in the file, as far as it is known."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return f" in line {error.lineno}"
    lines = [each.lineno for each in extract_tb(error.__traceback__) if each.filename == str(file)]
    return f" in line {lines[-1]}" if lines else ""
