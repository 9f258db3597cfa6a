"""Pictures of a simulation, where matplotlib is installed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ellm.core.errors import ConfigError
from ellm.core.objectives import Objectives
from ellm.core.units import GIB
from ellm.sim.scenario import Outcome
from ellm.sim.served import Served

_COLOURS = {
    "weights": "#323f4b",
    "KV": "#0b6e4f",
    "KV kept for later": "#95d5b2",
    "activations": "#b08900",
    "free": "#e4e7eb",
}
_BELOW = "#7b8794"
_WIDTH, _HEIGHT = 9.0, 5.6


def draw(outcome: Outcome, wished: Objectives, folder: Path, title: str) -> Iterator[Path]:
    """Memory over time and latencies, as SVG and PNG; yields the files.

    Raises ConfigError where matplotlib is missing.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ConfigError("no plots: pip install matplotlib") from error
    mpl.rcParams.update({"svg.hashsalt": "ellm", "font.size": 9, "axes.titlesize": 9})
    for name, painter in (("memory", _memory), ("latency", _latency)):
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        painter(figure, outcome, wished)
        figure.suptitle(title, fontsize=9)
        for axis in figure.axes:
            axis.spines[["top", "right"]].set_visible(False)
        for suffix in ("svg", "png"):
            file = folder / f"{name}.{suffix}"
            figure.savefig(file, metadata={"Date": None} if suffix == "svg" else None, dpi=120)
            yield file


def _memory(figure: Any, outcome: Outcome, wished: Objectives) -> None:
    """Who held the memory of a device, the mean over replicas and ranks, and who ran and waited.

    A tier below has a panel of its own: it may be many times as large.
    """
    samples = outcome.report.memory
    tiered = any(sample.below for sample in samples)
    axes = figure.subplots(2 + tiered, 1, sharex=True, height_ratios=(2, *(0.7,) * tiered, 1))
    above, *middle, below = axes
    times = [sample.time for sample in samples]
    heights = [(s.weights, s.used, s.kv - s.used, s.activations, max(0, s.free)) for s in samples]
    layers = [[size / GIB for size in layer] for layer in zip(*heights, strict=True)]
    above.stackplot(times, *layers, labels=list(_COLOURS), colors=list(_COLOURS.values()))
    above.set_ylabel("GiB of a device (mean)")
    above.legend(loc="upper center", ncols=5, bbox_to_anchor=(0.5, 1.14), frameon=False)
    for tier in middle:
        tier.fill_between(times, [s.below / GIB for s in samples], color=_BELOW)
        tier.set(ylabel="GiB in the tier", ylim=(0, None))
    below.plot(times, [s.running for s in samples], color="#0b6e4f", label="running")
    below.plot(times, [s.waiting for s in samples], color="#323f4b", ls="--", label="waiting")
    below.set(xlabel="simulated seconds", ylabel="requests")
    below.legend(frameon=False)


def _latency(figure: Any, outcome: Outcome, wished: Objectives) -> None:
    """Which share of requests was at least as fast, and how TTFT went over time."""
    done = [each for each in outcome.served if each.finished]
    (ttft, tpot), (over, e2e) = figure.subplots(2, 2)
    _shares(ttft, [each.ttft for each in done], "time to first token (s)", wished.ttft)
    paces = [each.tpot for each in done if each.tpot is not None]
    _shares(tpot, [1e3 * pace for pace in paces], "time per output token (ms)", _ms(wished.tpot))
    _shares(e2e, [each.latency for each in done], "end-to-end latency (s)", None)
    _over_time(over, done, wished.ttft)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def _shares(axis: Any, values: Sequence[float], label: str, objective: float | None) -> None:
    ordered = sorted(values)
    axis.plot(ordered, [100 * (i + 1) / len(ordered) for i in range(len(ordered))], color="#0b6e4f")
    if objective is not None:
        axis.axvline(objective, color="#b08900", ls="--", label="objective")
        axis.legend(frameon=False)
    axis.set(xlabel=label, ylabel="% of requests", ylim=(0, 100))


def _over_time(axis: Any, done: Sequence[Served], objective: float | None) -> None:
    axis.plot(
        [each.arrival for each in done],
        [each.ttft for each in done],
        ".",
        markersize=2,
        color="#323f4b",
    )
    if objective is not None:
        axis.axhline(objective, color="#b08900", ls="--")
    axis.set(xlabel="arrival (s)", ylabel="time to first token (s)")
