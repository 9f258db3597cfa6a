"""From a trace's name to a file on this machine."""

from __future__ import annotations

from pathlib import Path

from ellm.core.errors import ConfigError

HOME = Path(__file__).parents[2] / "bundled" / "traces"


def find_trace(name: Path | str) -> Path:
    """A local file, or else the bundled trace of that name.

    Raises ConfigError, saying which there are.
    """
    path = Path(name).expanduser()
    if path.exists() and not path.is_dir():
        return path
    bundled = {found.stem: found for found in sorted(HOME.glob("*.jsonl"))}
    if str(name) in bundled:
        return bundled[str(name)]
    what = "is a folder" if path.is_dir() else "does not exist"
    raise ConfigError(
        f"the trace {path} {what}: give the path of a file, or a bundled trace: "
        f"{', '.join(bundled) or 'this installation has none'}"
    )
