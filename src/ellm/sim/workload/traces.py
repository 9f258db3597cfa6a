"""Recorded requests, read by their lengths and times from files of several formats."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from ellm.core.errors import ConfigError
from ellm.sim.workload.bundled import find_trace
from ellm.sim.workload.formats import Format, factor, format_of, identifiers, whole
from ellm.sim.workload.item import BLOCK_TOKENS, Item
from ellm.sim.workload.rows import Rows, open_rows

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in order of arrival; the first comes at 0 s.

    Without times in the file (`timed`) all do.  `warnings` are a line each, for a person.
    """

    items: Sequence[Item]
    timed: bool
    warnings: Sequence[str] = ()


def read_trace(
    source: Path | str,
    count: int | None = None,
    *,
    scale: float = 1.0,
    context: int | None = None,
    drop_longer: bool = False,
) -> Trace:
    """The first `count` requests of a file, or of the bundled trace of that name; None is all.

    Which format it is, its columns say (formats.py).  Rows are read one after another, and none
    beyond the last that is wanted.  A file that ends in the middle of a row is read up to there.

    Lengths are multiplied by `scale`, and are at least 1.  A request whose lengths together are
    more than `context` is an error, or left out where `drop_longer`.

    Raises ConfigError, with line and column, when the file cannot be read, a value is missing,
    negative or no number, a time is before the one above it, or no request is left.
    """
    path = find_trace(source)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = open_rows(path, file)
            reader = _Reader(path, rows, format_of(path, rows.columns), scale, context, drop_longer)
            items = tuple(islice(reader.items(), count))
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"the trace {path} is no UTF-8 text ({error.reason}): unpack it if it is packed"
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot read the trace {path}: {error.strerror}") from error
    if not items:
        raise ConfigError(reader.emptiness())
    return Trace(items, reader.timed, tuple(reader.warnings()))


@dataclass(slots=True)
class _Reader:
    """Makes requests of rows, and counts what it leaves out; `last` is the time of the last row."""

    path: Path
    rows: Rows
    format: Format
    scale: float
    context: int | None
    drop_longer: bool
    last: float = -math.inf
    kept: int = 0
    dropped: int = 0

    @property
    def timed(self) -> bool:
        return self.format.time in self.rows.columns

    def items(self) -> Iterator[Item]:
        known = self.format
        first = None
        for line, values in self.rows.values(known.columns):
            prompt, output, arrived, model, blocks, covered = values
            prompt_tokens = self._length(line, known.prompt, prompt)
            output_tokens = self._length(line, known.output, output)
            time = self._time(line, arrived)
            number = self._optional(line, known.model, whole, model)
            shared = self._shared(line, blocks, covered)
            if not self._fits(line, prompt_tokens, output_tokens):
                self.dropped += 1
                continue
            first = time if first is None else first
            self.kept += 1
            yield Item(prompt_tokens, output_tokens, time - first, number, *shared)

    def warnings(self) -> Iterator[str]:
        if self.dropped:
            yield (
                f"{self.path}: left out {self.dropped} of {self.dropped + self.kept} requests, "
                f"which are longer than the context of {self.context} tokens"
            )
        if self.rows.cut is not None:
            yield (
                f"{self.path} ends in the middle of line {self.rows.cut}: read {self.kept} "
                "requests up to there"
            )

    def emptiness(self) -> str:
        """Why there is no request at all."""
        if self.dropped:
            return (
                f"all {self.dropped} requests of {self.path} are longer than the context of "
                f"{self.context} tokens: allow more with --max-model-len, or shorten them with "
                "--scale-lengths"
            )
        return f"the trace {self.path} has no whole request: it needs one at least"

    def _length(self, line: int, column: str, value: object) -> int:
        return max(round(self._read(line, column, whole, value) * self.scale), 1)

    def _time(self, line: int, value: object) -> float:
        """Not before that of the row above; 0 where there are none."""
        column = self.format.time
        time = self._optional(line, column, self.format.seconds, value)
        if time is None:
            return 0.0
        if time < self.last:
            raise ConfigError(
                f"{self.path}, line {line}: {column} is {value!r:.60}, {self.last - time:g} s "
                f"before the request above: sort the file by {column}"
            )
        self.last = time
        return time

    def _fits(self, line: int, prompt: int, output: int) -> bool:
        context = self.context
        if context is None or prompt + output <= context:
            return True
        if self.drop_longer:
            return False
        raise ConfigError(
            f"{self.path}, line {line}: {prompt} prompt and {output} output tokens are more than "
            f"the context of {context}: allow more with --max-model-len, shorten them with "
            "--scale-lengths, or leave out what is longer with --drop-longer"
        )

    def _shared(
        self, line: int, blocks: object, covered: object
    ) -> tuple[tuple[int, ...], float] | tuple[()]:
        """Ids of prefix blocks and what one covers, where there are any."""
        known = self.format
        if blocks is None or known.blocks is None:
            return ()
        ids = self._read(line, known.blocks, identifiers, blocks)
        tokens: float = BLOCK_TOKENS
        if covered is not None and known.block_tokens is not None:
            tokens = self._read(line, known.block_tokens, factor, covered)
        return (ids, tokens * self.scale) if ids else ()

    def _optional(
        self, line: int, column: str | None, read: Callable[[object], T], value: object
    ) -> T | None:
        """What is read, where the first row has that column: then all must."""
        if column in self.rows.columns:
            assert column is not None
            return self._read(line, column, read, value)
        if value is not None:
            raise ConfigError(
                f"{self.path}, line {line}: it has {column}, and the first request has not: give "
                "it to all or to none"
            )
        return None

    def _read(self, line: int, column: str, read: Callable[[object], T], value: object) -> T:
        try:
            return read(value)
        except ValueError as error:
            raise ConfigError(
                f"{self.path}, line {line}: {column} {error}: mend or delete this line"
            ) from error
