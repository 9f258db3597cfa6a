"""The rows of a text file, and where each stands: an object a line, or values under a header."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from ellm.core.errors import ConfigError

Row = tuple[int, Sequence[object]]


class Rows(Protocol):
    """`columns` are those of the first row.

    `cut` is the line in the middle of which the file ends, once that has been reached.
    """

    columns: Sequence[str]
    cut: int | None

    def values(self, names: Sequence[str | None]) -> Iterator[Row]:
        """The line and these values of every row, None where it has none.

        To be called once.  Raises ConfigError for a row that cannot be read and is not the last.
        """


def open_rows(path: Path, file: Iterable[str]) -> Rows:
    """What the first line with anything in it looks like decides.

    Raises ConfigError when there is none, or it is neither.
    """
    lines = iter(file)
    before = 0
    for line in lines:
        if line.strip():
            break
        before += 1
    else:
        raise ConfigError(f"the trace {path} is empty: it needs one request at least")
    if line.lstrip().startswith("["):
        raise ConfigError(f"the trace {path} is one JSON list: write one object a line instead")
    kind = ObjectRows if line.lstrip().startswith("{") else SeparatedRows
    return kind(path, chain([line], lines), before)


class ObjectRows:
    """A JSON object a line."""

    def __init__(self, path: Path, lines: Iterator[str], before: int) -> None:
        self.cut: int | None = None
        self._path = path
        self._objects = self._read(enumerate(lines, before + 1))
        first = next(self._objects, None)
        if first is None:
            raise ConfigError(
                f"the trace {path} ends in the middle of its first request: copy all of it"
            )
        self._first = first
        self.columns: Sequence[str] = list(first[1])

    def values(self, names: Sequence[str | None]) -> Iterator[Row]:
        for line, found in chain([self._first], self._objects):
            yield line, [found.get(name) for name in names]

    def _read(self, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, dict[Any, object]]]:
        for line, text in lines:
            if not text.strip():
                continue
            try:
                found = json.loads(text)
            except (ValueError, RecursionError) as error:
                if not any(more.strip() for _, more in lines):
                    self.cut = line
                    return
                why = str(error)
                if isinstance(error, json.JSONDecodeError):
                    why = f"{error.msg} at column {error.colno}"
                raise ConfigError(
                    f"{self._path}, line {line}: not JSON ({why}): mend or delete this line"
                ) from error
            if not isinstance(found, dict):
                raise ConfigError(
                    f"{self._path}, line {line}: {text.strip():.60} is no JSON object: mend or "
                    "delete this line"
                )
            yield line, found


class SeparatedRows:
    """Values with commas between them, under a header that names them."""

    def __init__(self, path: Path, lines: Iterator[str], before: int) -> None:
        self.cut: int | None = None
        self._path = path
        self._before = before
        self._rows = self._read(csv.reader(lines, skipinitialspace=True))
        self.columns: Sequence[str] = [name.strip() for name in next(self._rows, (0, []))[1]]

    def values(self, names: Sequence[str | None]) -> Iterator[Row]:
        columns = {name: place for place, name in enumerate(self.columns)}
        places = [None if name is None else columns.get(name) for name in names]
        width = len(self.columns)
        for line, fields in self._rows:
            # In the middle of a file, an empty value that is wanted is the caller's error.
            short = len(fields) < width or (width - 1 in places and not fields[-1])
            if short and not any(True for _ in self._rows):
                self.cut = line
                return
            if len(fields) != width:
                raise ConfigError(
                    f"{self._path}, line {line}: {len(fields)} values under {width} columns: mend "
                    "or delete this line"
                )
            yield line, [None if place is None else fields[place] for place in places]

    def _read(self, reader: Any) -> Iterator[tuple[int, list[str]]]:
        try:
            for fields in reader:
                if len(fields) > 1 or "".join(fields).strip():
                    yield self._before + reader.line_num, fields
        except csv.Error as error:
            line = self._before + reader.line_num
            raise ConfigError(f"{self._path}, line {line}: {error}: mend this line") from error
