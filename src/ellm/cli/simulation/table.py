"""A report as lines for a person."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ellm.core.units import format_bytes
from ellm.sim.report import Report

_SPREADS = (
    ("ttft", "TTFT, time to first token"),
    ("tpot", "TPOT, time per output token"),
    ("e2el", "E2E, end-to-end latency"),
)

_RANKS = ("mean", "median", "p90", "p95", "p99")


def lines(report: Report) -> Iterator[str]:
    """Counts and rates, then latencies, then memory."""
    yield _line("requests finished", f"{report.finished} of {report.requests}")
    for reason, count in report.reasons.items():
        yield f"  {count} refused: {reason}"
    yield _line("simulated time", f"{report.duration:.1f} s")
    yield _line("requests/s", f"{report.request_rate:.2f}")
    yield _line("output tokens/s", f"{report.output_rate:.1f}")
    yield _line("devices", f"{report.devices}, busy {1e2 * report.busy:.0f} %")
    if report.joules:
        tokens = max(1, report.output_tokens)
        yield _line("energy", f"{report.joules / tokens:.2f} J/token")
    if report.goodput is not None:
        good = report.goodput
        yield _line("goodput", f"{good.rate:.2f} requests/s, {1e2 * good.met:.1f} %")
        yield _line("met TTFT, TPOT", f"{1e2 * good.ttft_met:.1f} %, {1e2 * good.tpot_met:.1f} %")
    yield ""
    yield _row("milliseconds", _RANKS)
    for name, title in _SPREADS:
        spread = getattr(report, name)
        yield _row(title, [f"{getattr(spread, rank):.1f}" for rank in _RANKS])
    yield ""
    yield from _memory(report)


def _memory(report: Report) -> Iterator[str]:
    peaks = {
        kind: max((getattr(sample, kind) for sample in report.memory), default=0)
        for kind in ("weights", "kv", "activations", "below", "running", "waiting")
    }
    for kind in ("weights", "kv", "activations", "below"):
        if peaks[kind]:
            name = {"kv": "KV", "below": "in the tier"}.get(kind, kind)
            yield _line(f"most {name}, of a device", format_bytes(peaks[kind]))
    yield _line("most running, waiting", f"{peaks['running']}, {peaks['waiting']}")
    yield _line("preemptions", f"{report.preemptions}, {report.swapped} of them swapped")
    if report.stored_bytes:
        moved = f"{format_bytes(report.stored_bytes)} down, {format_bytes(report.loaded_bytes)} up"
        yield _line("offloaded", moved)
    if report.cached_tokens:
        share = report.cached_tokens / max(1, report.prompt_tokens)
        yield _line("prompt tokens cached", f"{1e2 * share:.1f} %")
    yield _line("steps", f"{report.steps}")


def _row(title: str, cells: Iterable[str]) -> str:
    return f"{title:<30}" + "".join(f"{cell:>10}" for cell in cells)


def _line(title: str, value: str) -> str:
    return f"{title:<30}{value}"
