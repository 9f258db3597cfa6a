"""A load run's figures for a person and for a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ellm.cli.bench.statistics import Attainment, Summary

_SPREADS = (
    ("ttft", "time to first token"),
    ("tpot", "time per output token after the first"),
    ("itl", "inter-token latency"),
    ("e2el", "end-to-end latency"),
)


def lines(summary: Summary) -> Iterator[str]:
    """The report, a line at a time."""
    yield f"{'requests completed':<32}{summary.completed:>12}"
    yield f"{'requests failed':<32}{summary.failed:>12}"
    for status, count in sorted(summary.errors.items()):
        yield f"{f'  with status {status}':<32}{count:>12}"
    for reason, count in sorted(summary.reasons.items(), key=lambda item: -item[1])[:3]:
        yield f"  {count} said: {reason}"
    yield f"{'duration (s)':<32}{summary.duration:>12.2f}"
    yield f"{'prompt tokens':<32}{summary.prompt_tokens:>12}"
    yield f"{'output tokens':<32}{summary.output_tokens:>12}"
    yield f"{'requests/s':<32}{summary.request_rate:>12.2f}"
    yield f"{'output tokens/s':<32}{summary.output_rate:>12.2f}"
    yield f"{'total tokens/s':<32}{summary.total_rate:>12.2f}"
    if summary.attainment is not None:
        yield f"{'goodput (requests/s)':<32}{summary.attainment.goodput:>12.2f}"
        for name, share in summary.attainment.shares.items():
            what = "every objective" if name == "all" else name
            yield f"{f'  met {what} (%)':<32}{1e2 * share:>12.1f}"
    yield ""
    yield f"{'milliseconds':<40}{'mean':>10}{'median':>10}{'p90':>10}{'p99':>10}"
    for name, title in _SPREADS:
        spread = getattr(summary, name)
        figures = "".join(
            f"{value:>10.2f}" for value in (spread.mean, spread.median, spread.p90, spread.p99)
        )
        yield f"{name.upper() + ', ' + title:<40}{figures}"
    if summary.per_model:
        yield ""
        yield from _per_model(summary.per_model)


def _per_model(found: Mapping[str, Attainment]) -> Iterator[str]:
    """A line for each; the share that met each objective is in percent."""
    named = [name for name in next(iter(found.values())).shares if name != "all"]
    titles = "".join(f"{f'{name} %':>10}" for name in ([*named, "all"] if named else ()))
    yield f"{'model':<32}{'requests':>10}{'completed':>10}{titles}"
    for model, its in found.items():
        shares = [1e2 * its.shares[name] for name in ([*named, "all"] if named else ())]
        figures = "".join(f"{share:>10.1f}" for share in shares)
        yield f"{model:<32}{its.requests:>10}{its.completed:>10}{figures}"


def write_json(path: Path, figures: Mapping[str, Any]) -> None:
    """One JSON object, for whoever compares runs."""
    path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
