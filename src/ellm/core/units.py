"""Sizes and counts as people type them."""

from __future__ import annotations

import re

from ellm.core.errors import ConfigError

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

_BINARY = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": 1 << 40}
_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SECONDS = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_TIME = re.compile(r"\s*(\d+(?:\.\d+)?(?:e-?\d+)?)\s*(ms|s|m|h|)\s*", re.IGNORECASE)
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?\s*", re.IGNORECASE)


def parse_bytes(text: str | int) -> int:
    """Bytes in `"4GiB"`, `"512M"`, `"1.5g"` or a plain number; units are powers of 1024."""
    match = _SIZE.fullmatch(str(text))
    if match is None:
        raise ConfigError(f"cannot read {text!r} as a size: write for example 4GiB or 512MiB")
    return int(float(match[1]) * _BINARY[match[2].lower()])


def parse_count(text: str | int) -> int:
    """A count as vLLM's flags take it: `"32K"` is 32 × 1024, `"32k"` is 32 × 1000."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)([kmgKMG]?)\s*", str(text))
    if match is None:
        raise ConfigError(f"cannot read {text!r} as a count: write for example 2048, 32k or 32K")
    table = _BINARY if match[2].isupper() else _DECIMAL
    return int(float(match[1]) * table[match[2].lower()])


def parse_seconds(text: str | float) -> float:
    """Seconds in `"500ms"`, `"0.5s"`, `"2m"`, `"1h"` or a plain number of seconds."""
    match = _TIME.fullmatch(str(text))
    if match is None:
        raise ConfigError(f"cannot read {text!r} as a time: write for example 500ms or 2s")
    return float(match[1]) * _SECONDS[match[2].lower()]


def parse_objective(text: str | float) -> float:
    """Seconds in a time with its unit, above 0: a bare 50 might be either 50ms or 50s."""
    seconds = parse_seconds(text)
    if not seconds:
        raise ConfigError(f"an objective must be above 0, not {text}: write for example 500ms")
    if str(text).replace(".", "", 1).isdigit():
        raise ConfigError(f"{text} of what? write {text}ms or {text}s")
    return seconds


def format_bytes(count: int) -> str:
    """`"1.5 GiB"`: three significant figures, binary units."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" or abs(size) >= 100 else f"{size:.3g} {unit}"


def ceil_div(value: int, by: int) -> int:
    """The least whole number not below value / by."""
    return -(-value // by)


def round_up(value: int, to: int) -> int:
    """The least multiple of `to` not below `value`."""
    return ceil_div(value, to) * to
