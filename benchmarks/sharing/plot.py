"""Draw sharing.svg from the last replay and the last chat in results.jsonl, or in a file named."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from harness.plot import bars, lines, panels, save, styles
from harness.results import Run, load, medians

HERE = Path(__file__).resolve().parent
SERIES = ("tier", "device", "tier, ideal", "device, ideal")


def newest(runs: list[Run], part: str) -> Run:
    """The last run that measured `part`; where none did, the last."""
    return next((run for run in reversed(runs) if run[part]), runs[-1])


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results.jsonl"
    runs = load(file)
    replay = newest(runs, "trials")
    chat = newest(runs, "chat")
    figure, (found, seconds, first) = panels(1, 3, width=11)
    rates: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for trial in replay["trials"]:
        if trial["arm"] != "off":
            size = trial["blocks"]
            rates[trial["arm"]].append((size, 100 * trial["hit_rate"]))
            rates[f"{trial['arm']}, ideal"].append((size, 100 * trial["ideal"]))
    if rates:
        lines(found, rates, styles(SERIES))
        unbounded = 100 * replay["trials"][0]["unbounded"]
        found.axhline(unbounded, color="#9aa5b1", linewidth=0.8, linestyle=":", label="unbounded")
        sizes = sorted({trial["blocks"] for trial in replay["trials"]})
        found.set_xscale("log", base=2)
        found.set_xticks(sizes, [f"{size / 1000:g}K" for size in sizes])
        found.set_xlabel("blocks of 512 tokens in memory")
        found.set_ylim(bottom=0)
        found.legend(fontsize=7)
    found.set_title(f"% of prompt tokens found, {replay['requests']} requests")
    look = styles(("tier", "device", "off"))
    for axis, name, title in (
        (seconds, "seconds", "chat, seconds end to end"),
        (first, "mean_ttft", "chat, mean seconds to the first token"),
    ):
        if not chat["chat"]:
            continue
        values = {arm: value for (arm,), value in medians(chat["chat"], name).items()}
        bars(axis, {arm: values[arm] for arm in look if arm in values}, look)
        axis.set_title(title)
    caption = f"prefix cache; chat: bf16, {chat['threads']} threads, {chat['rounds']} rounds"
    save(figure, HERE / "sharing.svg", chat, caption)


if __name__ == "__main__":
    main()
