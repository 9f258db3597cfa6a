"""Without a CUDA device these files are not even imported, and one line says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

LEFT_OUT = pytest.StashKey[str]()


class LeftOut(pytest.File):
    """A file of which nothing is collected."""

    def collect(self) -> Iterator[pytest.Item]:
        return iter(())


def pytest_pycollect_makemodule(
    module_path: Path, parent: pytest.Collector
) -> pytest.Collector | None:
    import torch

    if torch.cuda.is_available():
        return None
    why = f"no CUDA device here (torch {torch.__version__} finds none)"
    parent.config.stash[LEFT_OUT] = why
    return LeftOut.from_parent(parent, path=module_path)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if why := config.stash.get(LEFT_OUT, None):
        terminalreporter.write_line(f"tests/gpu: {why}; nothing of it was run")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Nothing to run is no failure where nothing could be run."""
    empty = session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED
    if empty and LEFT_OUT in session.config.stash:
        session.exitstatus = pytest.ExitCode.OK
