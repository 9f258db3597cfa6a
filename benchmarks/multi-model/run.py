"""Replay Prism's 27-model trace on one budget, split for good or elastic."""

from __future__ import annotations

import math
import sys
from itertools import product
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from household import IDLE_SECONDS, MODELS, REQUESTS, arguments_of, smallest_share
from judged import Solo, figures, solo_medians

from harness.arm import Arm
from harness.options import parser
from harness.results import append, medians
from harness.rounds import alternate
from harness.worker import Worker

HERE = Path(__file__).resolve().parent
ARMS = (
    Arm("static", {"memory_mode": "static"}),
    Arm("static-paged", {"memory_mode": "static", "kv_layout": "paged"}),
    Arm("elastic"),
    Arm("elastic with a tier", {"kv_offloading_size": "1GiB"}),
    Arm("elastic on half"),
)
# What an arm has of the budget, where that is not all.
PARTS = {"elastic on half": 0.5}
# How many times as fast as it was recorded the trace is replayed: 300 s to 100 s.
SPEEDS = (2.0, 3.0, 4.0, 6.0)
# Objectives, in times of what a model takes alone to its first token, and for each one after.
SCALE = (10.0, 10.0)
# Requests of each model that are asked alone.
ALONE = 7
# The wait after the last answer, at the end of which nobody should hold anything.
WAIT_SECONDS = 60.0
SERIES_POINTS = 100


def main() -> None:
    options = parser(__doc__ or "", HERE, [arm.name for arm in ARMS], rounds=2)
    options.add_argument("--speeds", type=_numbers, default=SPEEDS, help="comma-separated")
    options.add_argument("--requests", type=int, default=REQUESTS, help="of the trace")
    options.add_argument("--share", type=float, default=1.0, help="times the smallest share")
    options.set_defaults(threads=1)
    asked = options.parse_args()
    if asked.quick:
        asked.speeds, asked.requests = (8.0,), 40
    each = 1 if asked.quick else ALONE
    share = int(asked.share * smallest_share(asked.threads))
    shared: dict[str, Any] = {"memory": MODELS * share, "threads": asked.threads}
    solo = measure_alone(shared, asked.seed, each)
    arms = {arm.name: arm for arm in ARMS}
    waits = 1.0 if asked.quick else WAIT_SECONDS
    trials = []
    for number, (speed, name) in alternate(asked.rounds, list(product(asked.speeds, asked.arms))):
        question = {"seed": asked.seed + number, "speed": speed, "count": asked.requests}
        trial = {"round": number, "arm": name, "speed": speed}
        wait = waits if not number and speed == max(asked.speeds) else None
        trial |= replay(arms[name], shared, solo, question, wait, series=not number)
        trials.append(trial)
        print(line(trial), file=sys.stderr, flush=True)
    run = append(
        asked.output,
        seed=asked.seed,
        trials=trials,
        threads=asked.threads,
        share=share,
        scale=SCALE,
        alone={str(model): times for model, times in solo.items()},
    )
    print(table(run))


def measure_alone(shared: dict[str, Any], seed: int, each: int) -> Solo:
    """Median TTFT and TPOT of every model while no other has requests."""
    opening = {"models": [arguments_of(m, shared) for m in range(MODELS)], "idle_release": None}
    with Worker(HERE / "worker.py", opening) as worker:
        return solo_medians(worker.ask({"alone": {"seed": seed, "each": each}})["alone"])


def replay(
    arm: Arm,
    shared: dict[str, Any],
    solo: Solo,
    question: dict[str, Any],
    wait: float | None,
    series: bool,
) -> dict[str, Any]:
    """One arm through the trace, in a process of its own; what it still held after as many
    seconds as it shall `wait`, and in any case the idle time.
    """
    arguments = arm.arguments(shared)
    arguments["memory"] = int(PARTS.get(arm.name, 1.0) * arguments["memory"])
    models = []
    for model in range(MODELS):
        ttft, tpot = solo[model]
        wished = {"ttft_slo": SCALE[0] * ttft, "tpot_slo": SCALE[1] * tpot}
        models.append(arguments_of(model, {**arguments, **wished}))
    static = arguments.get("memory_mode") == "static"
    idle = None if static else IDLE_SECONDS / question["speed"]
    with Worker(HERE / "worker.py", {"models": models, "idle_release": idle}) as worker:
        answer = worker.ask({"replay": question})
        after = {} if wait is None else worker.ask({"wait": max(wait, (idle or 0.0) + 1.0)})
    memory = answer["memory"]
    thinner = max(1, len(memory) // SERIES_POINTS)
    peak = max(sample["physical"] for sample in memory)
    peak_rss = max(sample["rss"] for sample in memory)
    return {
        **figures(answer["requests"], solo, SCALE, answer["seconds"]),
        "seconds": answer["seconds"],
        "other_cpus": answer["other_cpus"],
        "peak_bytes": peak,
        "peak_rss": peak_rss,
        "rss_before": answer["rss_before"],
        "idle_bytes": after.get("physical"),
        "idle_rss": after.get("rss"),
        "idle_share": after["physical"] / peak if after else None,
        "asleep_after": after.get("asleep"),
        "wakes": len(answer["wakes"]),
        "wake_seconds": sorted(round(seconds, 4) for seconds in answer["wakes"]),
        "errors_said": sorted({r["error"] for r in answer["requests"] if "error" in r})[:5],
        "memory": _series(memory[::thinner]) if series else None,
    }


def _series(samples: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Column by column, in MiB."""
    return {
        "t": [sample["t"] for sample in samples],
        "held": [[round(held / 2**20, 1) for held in sample["held"]] for sample in samples],
        "physical": [round(sample["physical"] / 2**20, 1) for sample in samples],
        "asleep": [sample["asleep"] for sample in samples],
    }


def line(trial: dict[str, Any]) -> str:
    """One trial for whoever looks on."""
    return (
        f"round {trial['round'] + 1}, {trial['speed']:g}x, {trial['arm']}: "
        f"attainment {trial['attainment']:.1%} (ttft {trial['ttft_attainment']:.0%}, "
        f"tpot {trial['tpot_attainment']:.0%}; strict {trial['strict_attainment']:.0%}), "
        f"goodput {trial['goodput']:.2f}/s, "
        f"ttft {1e3 * trial['ttft_p50']:.0f}/{1e3 * trial['ttft_p95']:.0f} ms, "
        f"tpot {1e3 * trial['tpot_p50']:.1f}/{1e3 * trial['tpot_p95']:.1f} ms, "
        f"{trial['errors']} errors, {trial['seconds']:.0f} s, "
        f"peak {trial['peak_bytes'] / 2**20:.0f} MiB, afterwards {percent(trial['idle_share'])}, "
        f"{trial['wakes']} wakes, others {trial['other_cpus']:.2f}"
    )


def table(run: dict[str, Any]) -> str:
    """The run as a Markdown table; gains are over the better static arm."""
    rows = [
        "| speed | arm | attainment | goodput /s | gain | TTFT p50 / p95 ms | TPOT p50 / p95 ms "
        "| afterwards |",
        "| --: | --- | --: | --: | --: | --: | --: | --: |",
    ]
    names = ("attainment", "goodput", "ttft_p50", "ttft_p95", "tpot_p50", "tpot_p95", "idle_share")
    figure = {name: medians(run["trials"], name, ["speed"]) for name in names}
    goodput = figure["goodput"]
    for speed in sorted({speed for _, speed in goodput}):
        statics = [goodput[key] for key in goodput if key[1] == speed and "static" in key[0]]
        base = max(statics, default=math.nan)
        for arm in [arm for arm, at in goodput if at == speed]:
            value = {name: figure[name].get((arm, speed)) for name in names}
            rows.append(
                f"| {speed:g} | {arm} | {value['attainment']:.1%} | {value['goodput']:.2f} "
                f"| {value['goodput'] / base if base else math.inf:.2f}x "
                f"| {1e3 * value['ttft_p50']:.0f} / {1e3 * value['ttft_p95']:.0f} "
                f"| {1e3 * value['tpot_p50']:.1f} / {1e3 * value['tpot_p95']:.1f} "
                f"| {percent(value['idle_share'])} |"
            )
    return "\n".join(rows)


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


if __name__ == "__main__":
    main()
