"""Mooncake's conversations on its nodes: what beginnings that are kept, and where, are worth."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from capacity import curve
from setting import ARMS, DEVICE, MODEL, WIDTH, at_rate, conversations
from trial import line, trial

from ellm.sim.cluster import Dispatch
from harness.options import parser
from harness.results import append

HERE = Path(__file__).resolve().parent
PARTS = ("rates", "nodes", "capacity")
# Of `rates`: the beginning of the trace on one node, requests a second.
REQUESTS, RATES = 1000, (0.2, 0.35, 0.5)
# Arms with objectives come at this rate alone: their steps take the processor four times as long.
PACED = 0.35
# Of `nodes`: its beginning as recorded, on the nodes that Mooncake replayed it on.
NODES, NODES_ARM = 16, "host"


def over_rates(arms: Sequence[str], rates: Sequence[float], count: int) -> list[dict[str, Any]]:
    items, trials = conversations(count), []
    for rate in rates:
        for name in arms:
            if ARMS[name].pace is not None and rate != PACED:
                continue
            trials.append({"part": "rates", **trial(name, at_rate(items, rate), rate)})
            print(line(trials[-1]), file=sys.stderr)
    return trials


def over_nodes(nodes: int, count: int) -> list[dict[str, Any]]:
    items, trials = conversations(count), []
    rate = round(len(items) / items[-1].arrival, 3)
    for dispatch in Dispatch:
        trials.append({"part": "nodes", **trial(NODES_ARM, items, rate, nodes, dispatch)})
        print(line(trials[-1]), file=sys.stderr)
    return trials


def table(trials: Sequence[dict[str, Any]]) -> str:
    """The run in Markdown; times in seconds."""
    rows = [
        "| part | nodes, dispatch | rate | arm | found | prefill | TTFT mean, p50, p90, p99 "
        "| TPOT p50, p99 | effective at 100, 200, 300 ms | tokens/s | busy |",
        "| --- | --- | --: | --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    rows += [
        f"| {t['part']} | {t['nodes']}, {t['dispatch']} | {t['rate']:g} | {t['arm']} "
        f"| {t['found']:.1%} | {t['prefill_seconds']:.0f} | {t['ttft_mean']:.2f}, "
        f"{t['ttft_p50']:.2f}, {t['ttft_p90']:.2f}, {t['ttft_p99']:.2f} "
        f"| {t['tpot_p50']:.3f}, {t['tpot_p99']:.3f} "
        f"| {', '.join(format(each['mean'], '.1%') for each in t['effective'].values())} "
        f"| {t['output_rate']:.0f} | {t['busy']:.0%} |"
        for t in trials
    ]
    return "\n".join(rows)


def main() -> None:
    options = parser(__doc__ or "", HERE, list(ARMS), rounds=1)
    options.add_argument("--parts", type=_names, default=PARTS, help=", ".join(PARTS))
    options.add_argument("--rates", type=_numbers, default=RATES, help="of one node")
    options.add_argument("--requests", type=int, default=REQUESTS, help="the beginning of it")
    options.add_argument("--nodes", type=int, default=NODES, help="of the part nodes")
    asked = options.parse_args()
    if asked.quick:
        asked.requests, asked.rates, asked.nodes = 100, (PACED,), 2
    trials: list[dict[str, Any]] = []
    if "rates" in asked.parts:
        trials += over_rates(asked.arms, asked.rates, asked.requests)
    if "nodes" in asked.parts:
        trials += over_nodes(asked.nodes, asked.requests)
    found = curve(conversations(None)) if "capacity" in asked.parts else None
    append(
        asked.output,
        seed=asked.seed,
        trials=trials,
        capacity=found,
        model=MODEL,
        device=DEVICE,
        width=WIDTH,
        requests=asked.requests,
    )
    print(table(trials))
    for each in found or ():
        print(f"{each['tokens'] or 'any'} tokens: {each['found']:.1%} found")


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


if __name__ == "__main__":
    main()
