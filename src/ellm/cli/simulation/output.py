"""Where files will be written, looked at before there is anything to write."""

from __future__ import annotations

import os
from pathlib import Path

from ellm.core.errors import ConfigError


def require_writable(folder: Path) -> None:
    """Raise ConfigError where `--output` could not be made or written to; nothing is created."""
    there = folder.absolute()
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise ConfigError(
            f"cannot write to --output {folder}: {there} is no folder; name another with --output"
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(
            f"cannot write to --output {folder}: no permission in {there}; name another with "
            "--output"
        )
