"""Profile this machine once for each model; then serve workloads, and simulate them."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

sys.path.append(str(Path(__file__).resolve().parents[1]))

from compared import Times, figures, mape, per_request, rank_agreement, table
from measured import ELLM, Server, flags
from simulated import replay
from workloads import AZURE, MODELS, Model, Workload, model_of

from ellm.cli.bench.client import Outcome
from ellm.sim.profile import Profile
from ellm.sim.served import Served
from harness import traces
from harness.options import parser
from harness.results import Trial, append

HERE = Path(__file__).resolve().parent
QUICK_REQUESTS, QUICK_SECONDS = 12, 4
# Who is served where nobody says.
ON_CPU, ON_GPU = ("bundled", "168m"), ("bundled", "1b")


def arguments() -> argparse.Namespace:
    options = parser(str(__doc__), HERE, MODELS, rounds=1)
    # One core computes, the other one has the server's other threads and the client.
    options.set_defaults(threads=1, arms=())
    options.add_argument("--device", default="cpu", help="cpu or cuda")
    options.add_argument("--seconds", type=float, default=60.0, help="how long to measure steps")
    options.add_argument("--profiles", type=Path, help="a folder: use those that are there")
    options.add_argument("--workloads", default="", help="comma-separated; else all")
    asked = options.parse_args()
    asked.arms = asked.arms or (ON_CPU if asked.device == "cpu" else ON_GPU)
    if "azure" in asked.workloads:
        traces.find(AZURE)  # before anything is measured
    asked.seconds = QUICK_SECONDS if asked.quick else asked.seconds
    return asked


def chosen(model: Model, asked: argparse.Namespace) -> list[Workload]:
    names = [name for name in asked.workloads.split(",") if name]
    found = [each for each in model.workloads if not names or each.name in names]
    if not names and not (traces.HOME / AZURE).exists():
        print(f"{traces.HOME / AZURE} is missing: its workload is left out", file=sys.stderr)
        found = [each for each in found if each.divide is None]
    if asked.quick:
        found = [replace(each, count=min(each.count, QUICK_REQUESTS)) for each in found]
    return found


def profiled(model: Model, name: str, asked: argparse.Namespace, home: Path) -> Profile:
    """What `ellm profile` measures, with a tier; or what it has measured before."""
    folder = asked.profiles or home
    file = folder / f"{name}-{asked.threads}.json"
    if not (asked.profiles and file.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        args = model.arguments(asked.threads, asked.device)
        more = {"kv_offloading_size": "1GiB", "seconds": asked.seconds, "output": file}
        subprocess.run(
            [*ELLM, "profile", *flags({**args, **more})],
            check=True,
            stdout=sys.stderr,
            env={**os.environ, "XDG_CACHE_HOME": str(home)},
        )
    return Profile.load(file)


def trial(
    model: Model, workload: Workload, number: int, profile: Profile, asked: Any, home: Path
) -> Trial:
    args = {**model.arguments(asked.threads, asked.device), **workload.args}
    items = workload.items(asked.seed)
    with Server(args, home) as server:
        outcomes, duration, others = server.serve(items, model.path, asked.seed)
        preemptions = preempted(server.url)
    # As they were sent: the client is late where it shares a core.
    sent = [replace(item, arrival=each.sent) for item, each in zip(items, outcomes, strict=True)]
    order = sorted(range(len(sent)), key=lambda place: sent[place].arrival)
    served, report, seconds = replay(profile, args, [sent[i] for i in order], asked.seed)
    measured = of_outcomes([outcomes[i] for i in order])
    simulated = of_served(served)
    return {
        "round": number,
        "workload": workload.name,
        "rate": workload.rate,
        "requests": len(items),
        "duration": round(duration, 2),
        "simulated_duration": round(report.duration, 2),
        "simulated_in": round(seconds, 2),
        "measured": figures(measured),
        "simulated": figures(simulated),
        "per_request": per_request(measured, simulated),
        "preemptions": preemptions,
        "simulated_preemptions": report.preemptions,
        "cached_tokens": report.cached_tokens,
        "other_cpus": others,
        "times": {
            "measured": {name: _rounded(times) for name, times in measured.items()},
            "simulated": {name: _rounded(times) for name, times in simulated.items()},
        },
    }


def of_outcomes(outcomes: Sequence[Outcome]) -> Times:
    return {
        "ttft": [each.ttft for each in outcomes],
        "tpot": [each.tpot for each in outcomes if each.tpot is not None],
        "e2e": [each.latency for each in outcomes],
    }


def of_served(served: Sequence[Served]) -> Times:
    """To the last token, as the client has it."""
    served = sorted(served, key=lambda each: each.arrival)
    return {
        "ttft": [each.ttft for each in served],
        "tpot": [each.tpot for each in served if each.tpot is not None],
        "e2e": [each.last - each.arrival for each in served if each.last is not None],
    }


def _rounded(times: Sequence[float]) -> list[float]:
    return [round(time, 5) for time in times]


def preempted(url: str) -> int:
    """As the server counts them."""
    with urlopen(f"{url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    (found,) = (line for line in lines if line.startswith("vllm:num_preemptions_total{"))
    return int(float(found.rpartition(" ")[2]))


def main() -> None:
    asked = arguments()
    trials: list[Trial] = []
    known: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for name in asked.arms:
            model = model_of(name)
            profile = profiled(model, name, asked, home)
            known[name] = json.loads(_without_steps(profile))
            for number in range(asked.rounds):
                for workload in chosen(model, asked):
                    done = trial(model, workload, number, profile, asked, home)
                    trials.append({"arm": name, **done})
                    print(table(name, [trials[-1]]).splitlines()[2], file=sys.stderr)
    for name in asked.arms:
        print(table(name, [each for each in trials if each["arm"] == name]))
    append(
        asked.output,
        seed=asked.seed,
        trials=trials,
        threads=asked.threads,
        device=asked.device,
        profiles=known,
        mape={name: mape([t for t in trials if t["arm"] == name]) for name in asked.arms},
        ranks={
            name: rank_agreement([t for t in trials if t["arm"] == name]) for name in asked.arms
        },
    )


def _without_steps(profile: Profile) -> str:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "profile.json"
        replace(profile, steps=()).save(file)
        return file.read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
