"""One table of a TOML file, read with types and clear complaints."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from math import inf, isfinite
from pathlib import Path
from typing import Any

from ellm.core.errors import ConfigError


class Table:
    """Typed look-ups in `values`, which stand at `path` in the file called `where`.

    Every look-up raises ConfigError naming the file and the key when the key is missing or its
    value is not what was asked for.
    """

    def __init__(self, where: str, values: Mapping[str, Any], path: str = "") -> None:
        self.where = where
        self._values = values
        self._path = path

    @classmethod
    def of_file(cls, path: Path) -> Table:
        """The whole of a file.  Raises ConfigError when it cannot be read, or is not TOML."""
        try:
            return cls(str(path), tomllib.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not TOML: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def wrong(self, key: str, complaint: str) -> ConfigError:
        """The error that says what is wrong with `key`."""
        return ConfigError(f"{self.where}: {self._path}{key} {complaint}")

    def only(self, allowed: Iterable[str]) -> None:
        """Raise ConfigError for a key that is not `allowed`."""
        known = list(allowed)
        for key in self._values:
            if key not in known:
                close = get_close_matches(key, known, n=1)
                mend = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
                raise self.wrong(key, f"means nothing here: {mend}")

    def needs(self, keys: Iterable[str], mend: str) -> None:
        """Raise ConfigError with all of `keys` that are missing; those of inner tables have dots
        in them."""
        missing = [f"{self._path}{key}" for key in keys if not self._has(key)]
        if missing:
            are = "is" if len(missing) == 1 else "are"
            raise ConfigError(f"{self.where}: {', '.join(missing)} {are} missing: {mend}")

    def _has(self, key: str) -> bool:
        """Also where a table is something else, of which `table` complains."""
        first, dot, rest = key.partition(".")
        inner = self._values.get(first)
        if dot and isinstance(inner, Mapping):
            return Table(self.where, inner)._has(rest)
        return first in self._values

    def text(self, key: str) -> str:
        value = self._get(key)
        if not isinstance(value, str) or not value:
            raise self.wrong(key, f"must be a text, not {value!r}")
        return value

    def integer(self, key: str, least: int = 1) -> int:
        value = self._get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.wrong(key, f"must be a whole number of at least {least}, not {value!r}")
        return value

    def number(self, key: str, least: float = 0.0, most: float = inf) -> float:
        """A finite number from `least` to `most`."""
        return self._number(key, self._get(key), least, most)

    def share(self, key: str) -> float:
        """A number above 0 and at most 1."""
        value = self.number(key, most=1.0)
        if not value:
            raise self.wrong(key, "must be above 0 and at most 1, not 0")
        return value

    def positive(self, key: str) -> float:
        value = self.number(key)
        if not value:
            raise self.wrong(key, "must be above 0")
        return value

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of numbers of at least 0."""
        value = self._get(key)
        if not isinstance(value, list):
            raise self.wrong(key, f"must be a list of numbers, not {value!r}")
        return tuple(self._number(key, each, 0.0, inf) for each in value)

    def rows(self, key: str) -> tuple[tuple[float, ...], ...]:
        """A list of lists of finite numbers."""
        value = self._get(key)
        if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
            raise self.wrong(key, "must be a list of rows of numbers")
        return tuple(tuple(self._number(key, each, -inf, inf) for each in row) for row in value)

    def texts(self) -> dict[str, str]:
        """All of this table, whose values are texts."""
        return {key: self.text(key) for key in self._values}

    def table(self, key: str) -> Table:
        value = self._get(key)
        if not isinstance(value, dict):
            raise self.wrong(key, f"must be a table, not {value!r}")
        return Table(self.where, value, f"{self._path}{key}.")

    def optional_table(self, key: str) -> Table:
        """An empty table where there is none."""
        return self.table(key) if key in self._values else Table(self.where, {})

    def _get(self, key: str) -> Any:
        if key not in self._values:
            raise self.wrong(key, "is missing")
        return self._values[key]

    def _number(self, key: str, value: Any, least: float, most: float) -> float:
        wrong = isinstance(value, bool) or not isinstance(value, int | float)
        if wrong or not isfinite(value) or not least <= value <= most:
            bounds = f"of at least {least:g}" if most == inf else f"from {least:g} to {most:g}"
            raise self.wrong(key, f"must be a number {bounds}, not {value!r}")
        return float(value)
