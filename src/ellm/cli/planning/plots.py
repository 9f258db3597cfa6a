"""A picture of all plans that were simulated, where matplotlib is installed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ellm.cli.planning.table import mark
from ellm.core.errors import ConfigError
from ellm.planner.objective import Wish
from ellm.planner.search import Found, Trial

_WIDTH, _HEIGHT = 9.0, 4.2
_NAMES = ("best", "runner-up", "heuristic")
_MARKERS = "osD^vPX*<>"


def draw(found: Found, wish: Wish, folder: Path, title: str) -> Iterator[Path]:
    """Throughput against p95 TPOT, and energy against what was wished for, as SVG and PNG; yields
    the files.

    Raises ConfigError where matplotlib is missing.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ConfigError("no plots: pip install matplotlib") from error
    mpl.rcParams.update({"svg.hashsalt": "ellm", "font.size": 9, "axes.titlesize": 9})
    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    left, right = figure.subplots(1, 2)
    _scatter(left, found, [1e3 * trial.figures.tpot for trial in found.trials], "TPOT p95 (ms)")
    if wish.slo.tpot is not None:
        left.axvline(
            1e3 * wish.slo.tpot, color="#b08900", ls="--", lw=1, label="objective for TPOT"
        )
    _scatter(right, found, [trial.figures.joules for trial in found.trials], "energy (J/token)")
    left.legend(frameon=False, fontsize=7)
    figure.suptitle(title, fontsize=9)
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    for suffix in ("svg", "png"):
        file = folder / f"plans.{suffix}"
        figure.savefig(file, metadata={"Date": None} if suffix == "svg" else None, dpi=120)
        yield file


def _scatter(axis: Any, found: Found, xs: Sequence[float], label: str) -> None:
    """A marker for each number of devices; whoever is on the front is filled."""
    counts = sorted({trial.figures.devices for trial in found.trials})
    for number, count in enumerate(counts):
        for on_front in (False, True):
            points = [
                (x, trial.figures.output_rate)
                for x, trial in zip(xs, found.trials, strict=True)
                if trial.figures.devices == count and _is_in(trial, found.front) == on_front
            ]
            if points:
                axis.plot(
                    *zip(*points, strict=True),
                    _MARKERS[number % len(_MARKERS)],
                    color="#0b6e4f" if on_front else "#9aa5b1",
                    fillstyle="full" if on_front else "none",
                    label=f"{_devices(count)}{', on the front' if on_front else ''}",
                )
    for x, trial in zip(xs, found.trials, strict=True):
        names = [name for name in _NAMES if name in mark(found, trial)]
        place = (x, trial.figures.output_rate)
        axis.annotate(", ".join(names), place, (5, 5), textcoords="offset points", fontsize=8)
    axis.margins(0.1)
    axis.set(xlabel=label, ylabel="output tokens/s")


def _devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"


def _is_in(trial: Trial, trials: Sequence[Trial]) -> bool:
    return any(trial is one for one in trials)
