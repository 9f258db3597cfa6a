"""Draw sharing.svg from the last run in results.jsonl, or in a file named as argument."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from harness.plot import bars, lines, panels, save, styles
from harness.results import load, medians

HERE = Path(__file__).resolve().parent
SERIES = ("tier", "device", "tier, ideal", "device, ideal")


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results.jsonl"
    run = load(file)[-1]
    figure, (found, seconds, first) = panels(1, 3, width=11)
    rates: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for trial in run["trials"]:
        if trial["arm"] != "off":
            size = trial["blocks"]
            rates[trial["arm"]].append((size, 100 * trial["hit_rate"]))
            rates[f"{trial['arm']}, ideal"].append((size, 100 * trial["ideal"]))
    if rates:
        lines(found, rates, styles(SERIES))
        unbounded = 100 * run["trials"][0]["unbounded"]
        found.axhline(unbounded, color="#9aa5b1", linewidth=0.8, linestyle=":", label="unbounded")
        sizes = sorted({trial["blocks"] for trial in run["trials"]})
        found.set_xscale("log", base=2)
        found.set_xticks(sizes, [f"{size / 1000:g}K" for size in sizes])
        found.set_xlabel("blocks of 512 tokens in memory")
        found.set_ylim(bottom=0)
        found.legend(fontsize=7)
    found.set_title(f"% of prompt tokens found, {run['requests']} requests")
    look = styles(("tier", "device", "off"))
    for axis, name, title in (
        (seconds, "seconds", "chat, seconds end to end"),
        (first, "mean_ttft", "chat, mean seconds to the first token"),
    ):
        values = {arm: value for (arm,), value in medians(run["chat"], name).items()}
        bars(axis, {arm: values[arm] for arm in look if arm in values}, look)
        axis.set_title(title)
    caption = f"prefix cache; chat: bf16, {run['threads']} threads, {run['rounds']} rounds"
    save(figure, HERE / "sharing.svg", run, caption)


if __name__ == "__main__":
    main()
