"""What is known of one kind of thing, a TOML file each, found by name or by path."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from ellm.core.errors import ConfigError
from ellm.sim.table import Table


class Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


class Catalogue(Generic[T]):
    """The `*.toml` of a folder, each read into a `kind` ("device", "fabric") by `read`."""

    def __init__(self, kind: str, folder: Path, read: Callable[[Table], T]) -> None:
        self._kind = kind
        self._folder = folder
        self._read = read

    def names(self) -> tuple[str, ...]:
        return tuple(self._entries)

    def find(self, name_or_path: str | Path) -> T:
        """What is called so, or what somebody's own .toml file describes.

        Case and punctuation of a name count for nothing, and a part of a name will do where only
        one has it: "h100", "rtx 4090", "8480".  Raises ConfigError when no name fits or several
        do, and for a file that cannot be read.
        """
        text = str(name_or_path)
        if isinstance(name_or_path, Path) or text.endswith(".toml") or os.sep in text:
            return self._read(Table.of_file(Path(text)))
        wanted = _plain(text)
        plain = {_plain(name): name for name in self._entries}
        if wanted in plain:
            return self._entries[plain[wanted]]
        fitting = [name for key, name in plain.items() if wanted and wanted in key]
        if len(fitting) > 1:
            raise ConfigError(f"{text!r} may be any of {', '.join(fitting)}: write the whole name")
        if not fitting:
            raise self._unknown(text, plain)
        return self._entries[fitting[0]]

    def _unknown(self, text: str, plain: Mapping[str, str]) -> ConfigError:
        close = [plain[key] for key in get_close_matches(_plain(text), list(plain), cutoff=0.5)]
        guess = f"did you mean {' or '.join(close)}?  " if close else ""
        return ConfigError(
            f"no {self._kind} is called {text!r}: {guess}Known are {', '.join(self._entries)}; "
            "the path of a .toml file works too"
        )

    @cached_property
    def _entries(self) -> Mapping[str, T]:
        read = [self._read(Table.of_file(path)) for path in sorted(self._folder.glob("*.toml"))]
        entries = {entry.name: entry for entry in read}
        assert len({_plain(name) for name in entries}) == len(read), sorted(entries)
        return entries


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
