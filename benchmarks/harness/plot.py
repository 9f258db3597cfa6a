"""The house style of figures: SVG, the same bytes for the same data, readable without colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from harness.results import Run


@dataclass(frozen=True, slots=True)
class Style:
    """One series: its colour, and what tells it from the others in black and white."""

    colour: str
    dash: str
    marker: str
    hatch: str


# The first is what a figure is about.
STYLES = (
    Style("#0b6e4f", "-", "o", ""),
    Style("#323f4b", "--", "s", "//"),
    Style("#7b8794", "-.", "^", ".."),
    Style("#52b788", ":", "D", "xx"),
    Style("#b08900", (0, (5, 1, 1, 1, 1, 1)), "v", "\\\\"),  # type: ignore[arg-type]
    Style("#9aa5b1", (0, (1, 3)), "P", "--"),  # type: ignore[arg-type]
)


def styles(names: Sequence[str]) -> dict[str, Style]:
    """A style for each name, in order."""
    return {name: STYLES[index % len(STYLES)] for index, name in enumerate(names)}


def panels(
    rows: int, columns: int, width: float = 9.0, height: float = 2.8
) -> tuple[Any, list[Any]]:
    """A figure of `rows` × `columns` axes, row by row; width of all, height of each, in inches."""
    mpl.rcParams.update({"svg.hashsalt": "ellm", "font.size": 9, "axes.titlesize": 9})
    figure, axes = plt.subplots(
        rows, columns, figsize=(width, height * rows), layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes.flat)


def lines(
    axis: Any, series: Mapping[str, Sequence[tuple[float, float]]], look: Mapping[str, Style]
) -> None:
    """A line of points for each name."""
    for name, points in series.items():
        style = look[name]
        xs, ys = zip(*sorted(points), strict=True)
        axis.plot(
            xs,
            ys,
            label=name,
            color=style.colour,
            linestyle=style.dash,
            marker=style.marker,
            markersize=4,
        )


def bars(axis: Any, values: Mapping[str, float], look: Mapping[str, Style]) -> None:
    """A horizontal bar for each name, with its value."""
    names = list(values)
    drawn = axis.barh(names, list(values.values()))
    for bar, name in zip(drawn, names, strict=True):
        bar.set(facecolor=look[name].colour, hatch=look[name].hatch, edgecolor="white")
    said = [f" {value:.0f}" if value >= 100 else f" {value:.3g}" for value in values.values()]
    axis.bar_label(drawn, said)
    axis.set_xlim(0, 1.2 * max(values.values()))
    axis.invert_yaxis()
    axis.spines["bottom"].set_visible(False)
    axis.tick_params(bottom=False, labelbottom=False, left=False)


def save(figure: Any, file: Path, run: Run, caption: str) -> None:
    """Write the SVG; the caption says what, the rest where and with which commit."""
    machine = run["machine"]
    where = f"{machine['cores']} cores of {machine['cpu']}; {run['commit']}"
    figure.suptitle(f"{caption}; {where}", fontsize=8)
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
