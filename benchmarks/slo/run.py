"""Request rates against what every arm makes of them, in virtual time or --real on this CPU."""

from __future__ import annotations

import argparse
import random
import sys
from multiprocessing import Pool
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from arms import ARMS
from compared import table
from served import Served, figures
from settings import SETTINGS, SMALL, Setting
from simulated import Simulation
from workload import TRACES, shapes

from ellm.sim.workload.item import Item
from harness import traces
from harness.options import parser
from harness.results import Trial, append
from harness.worker import Worker

HERE = Path(__file__).resolve().parent
# The setting that this machine is.
REAL = "cpu-azure"
QUICK_REQUESTS = 24
# Processes that simulate at once.
AT_ONCE = 2


def arguments() -> argparse.Namespace:
    options = parser(str(__doc__), HERE, list(ARMS), rounds=1)
    options.add_argument("--real", action="store_true", help=f"run {REAL} on this machine")
    options.add_argument("--settings", default=",".join(SETTINGS), help="comma-separated")
    asked = options.parse_args()
    asked.settings = [REAL] if asked.real else asked.settings.split(",")
    return asked


def points(asked: argparse.Namespace) -> list[tuple[str, float, str]]:
    """Setting, rate and arm of each trial; every rate begins with another arm."""
    found = []
    for name in asked.settings:
        rates = SETTINGS[name].rates
        for number, rate in enumerate(rates[1:2] if asked.quick else rates):
            first = number % len(asked.arms)
            arms = [*asked.arms[first:], *asked.arms[:first]]
            found += [(name, rate, arm) for arm in arms]
    return found


def requests(name: str, asked: argparse.Namespace) -> list[Item]:
    setting = SETTINGS[name]
    count = QUICK_REQUESTS if asked.quick else setting.requests
    return shapes(setting.trace, count, setting.divide)


def simulated(job: tuple[str, float, str, argparse.Namespace]) -> Trial:
    name, rate, arm, asked = job
    items = requests(name, asked)
    setting = SETTINGS[name]
    wished = setting.wished(setting.alone(items))
    simulation = Simulation(setting, ARMS[arm], wished)
    served = simulation.serve(items, rate, asked.seed)
    return trial(name, rate, arm, figures(served, rate, wished), **simulation.counts)


def trial(name: str, rate: float, arm: str, measured: dict[str, float], **more: Any) -> Trial:
    line = f"{name} {rate:g}/s {arm}: goodput {measured['goodput']:.3g}/s"
    print(f"{line}, p99 TTFT {measured['ttft_p99']:.3g} s", file=sys.stderr)
    return {"round": 0, "arm": arm, "setting": name, "rate": rate, **measured, **more}


def simulate(asked: argparse.Namespace) -> list[Trial]:
    jobs = [(*point, asked) for point in points(asked)]
    with Pool(AT_ONCE) as pool:
        return pool.map(simulated, jobs, chunksize=1)


def measure(asked: argparse.Namespace) -> list[Trial]:
    """The same trials on the engine itself, each in a process of its own."""
    setting, items = SETTINGS[REAL], requests(REAL, asked)
    wished = setting.wished(setting.alone(items))
    rng = random.Random(asked.seed)
    prompts = [SMALL.prompt(item.prompt_tokens, rng) for item in items]
    trials = []
    for name, rate, arm in points(asked):
        served = [Served(item.arrival / rate, item.output_tokens) for item in items]
        question = {
            "arrivals": [one.arrival for one in served],
            "prompts": prompts,
            "outputs": [one.output for one in served],
        }
        with opened(setting, arm, asked) as worker:
            answer = worker.ask(question)
        for one, (first, last) in zip(served, answer.pop("served"), strict=True):
            one.first, one.last = first, last
        trials.append(trial(name, rate, arm, figures(served, rate, wished), **answer))
    return trials


def opened(setting: Setting, arm: str, asked: argparse.Namespace) -> Worker:
    wished = setting.wished(setting.alone(requests(REAL, asked)))
    weights = 2 * SMALL.parameters + setting.chunk
    shared = {"model": str(SMALL.cached()), "dtype": "bfloat16", "threads": asked.threads}
    changes = ARMS[arm].arguments(setting, wished, weights)
    return Worker(HERE / "worker.py", {"arguments": {**shared, **changes}})


def main() -> None:
    asked = arguments()
    for name in asked.settings:  # here, because a pool waits for ever for a process that has ended
        traces.find(TRACES[SETTINGS[name].trace])
    trials = measure(asked) if asked.real else simulate(asked)
    objectives = {}
    for name in asked.settings:
        wished = SETTINGS[name].wished(SETTINGS[name].alone(requests(name, asked)))
        objectives[name] = {"ttft": wished.ttft, "tpot": wished.tpot}
    how = "real" if asked.real else "simulated"
    append(asked.output, seed=asked.seed, trials=trials, how=how, objectives=objectives)
    for name in asked.settings:
        print(table(name, [t for t in trials if t["setting"] == name]))


if __name__ == "__main__":
    main()
