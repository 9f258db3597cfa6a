"""eLLM's own experiment on the engine itself: who fits, how fast they decode, who is served."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[1] / "elastic-throughput"))

from online import Online
from settings import CPU, GPU, LAYERS, MEMORIES, ONLINE, Setting, arms, opening
from worker import Bench

from ellm.core.errors import BudgetError
from ellm.core.units import GIB, ceil_div
from ellm.engine.fit import largest_step
from harness.options import parser
from harness.results import Trial, append, medians, ratios

HERE = Path(__file__).resolve().parent
PARTS = ("batch", "online", "layers")
# Steps that are computed and timed once everyone who fits decodes.
STEPS = 8
# Rates, in times of what `static` can serve; and of what `elastic` can, where that runs short.
RATES, OVERLOAD = (1.2, 1.6), 1.4
# Of those who fit, so many are there when the first request comes.
STANDING = 0.95


class Experiment:
    """All parts, one engine at a time; `trials` are good for something whenever it ends."""

    def __init__(self, asked: argparse.Namespace, place: Path) -> None:
        self.setting: Setting = GPU if asked.device == "cuda" else CPU
        self.trials: list[Trial] = []
        self._asked = asked
        self._model = self.setting.model(place)
        self._began = perf_counter()
        self.budget = self.setting.room
        with self._open("static") as bench:
            self.budget = least_budget(bench)
        print(f"a budget of {self.budget / GIB:.3f} GiB", flush=True)

    @contextmanager
    def _open(self, name: str) -> Iterator[Bench]:
        arm, asked = arms(self.setting)[name], self._asked
        start = perf_counter()
        bench = Bench(
            opening(arm, self.setting, self.budget, asked.device, self._model, asked.threads)
        )
        print(f"{name}: an engine after {perf_counter() - start:.1f} s", flush=True)
        try:
            yield bench
        finally:
            bench.engine.close()

    def _add(self, **found: Any) -> None:
        self.trials.append({"round": 0, **found})
        print(f"{perf_counter() - self._began:.0f} s: {self.trials[-1]}", flush=True)

    def batch(self) -> None:
        """The most sequences of each length, and their speed."""
        setting = self.setting
        for name in MEMORIES:
            try:
                with self._open(name) as bench:
                    for length in self._asked.inputs or setting.inputs:
                        answer = bench.answer(self._question(length))
                        self._add(part="batch", arm=name, input=length, **answer)
            except BudgetError as error:
                print(f"{name}: {error}", file=sys.stderr)

    def _question(self, length: int) -> dict[str, Any]:
        return {
            "input": length,
            # Nobody ends meanwhile.
            "outputs": [min(4096, self.setting.context - length)],
            "requests": self.setting.requests(length),
            "rehearse": self.setting.rehearse,
            "steps": STEPS,
            "computing": True,
        }

    def online(self) -> None:
        """Rates about what `static` can serve."""
        for share in self._asked.rates:
            self._serve("online", ONLINE, "static", share)

    def layers(self) -> None:
        """A rate above what `elastic` can serve, with a tier below and without."""
        self._serve("layers", LAYERS, "elastic", OVERLOAD)

    def _serve(self, part: str, names: tuple[str, ...], base: str, share: float) -> None:
        setting = self.setting
        most, rate = self._capacity(base)
        for name in names:
            try:
                with self._open(name) as bench:
                    found = Online(bench).run(
                        rate=share * rate,
                        prompt=setting.prompt,
                        output=setting.output,
                        standing=max(1, int(STANDING * most)),
                        seconds=setting.seconds,
                        seed=self._asked.seed,
                    )
                    self._add(part=part, arm=name, share=share, rate=share * rate, **found)
            except BudgetError as error:
                print(f"{name}: {error}", file=sys.stderr)

    def _capacity(self, name: str) -> tuple[int, float]:
        """How many of the workload's sequences an arm holds when they have half of their answers,
        and how many a second it can serve: each needs its prompt computed alone, and its share of
        the steps in which all decode."""
        known = [t for t in self.trials if (t["part"], t["arm"]) == ("capacity", name)]
        if not known:
            setting = self.setting
            with self._open(name) as bench:
                question = self._question(setting.prompt + setting.output // 2)
                answer = bench.answer({**question, "rehearse": 8})
                prompt = Online(bench).prompt_seconds(setting.prompt)
            seconds = prompt + setting.output / answer["tokens_per_second"]
            self._add(
                part="capacity", arm=name, batch=answer["batch"], prompt_seconds=prompt,
                decode_rate=answer["tokens_per_second"], rate=1 / seconds,
            )  # fmt: skip
            known = self.trials[-1:]
        return known[0]["batch"], known[0]["rate"]


def least_budget(bench: Bench) -> int:
    """Bytes in which an engine with fixed shares can just start: weights, activations of its
    largest step, and KV of one whole context."""
    engine = bench.engine
    memory, config = engine._memory, engine.config
    pool, context = memory.pool, config.max_model_len
    step = largest_step(config, memory.kv.gathers(context))
    activations = ceil_div(bench.executor.activation_bytes(step), pool.chunk_bytes)
    weights = pool.held(memory.owners.weights)
    return (weights + activations + memory.kv.chunks(context)) * pool.chunk_bytes


def batches(trials: list[Trial]) -> str:
    """By input: sequences at once, and decoded tokens a second."""
    mine = [each for each in trials if each["part"] == "batch"]
    speeds, sizes = (medians(mine, name, ["input"]) for name in ("tokens_per_second", "batch"))
    against = {base: ratios(mine, "tokens_per_second", base, ["input"]) for base in MEMORIES[:2]}
    rows = [
        "| input | arm | sequences at once | decode tokens/s | times static's | static+chunked's |",
        "| --: | --- | --: | --: | --: | --: |",
    ]
    for arm, length in sorted(speeds, key=lambda key: (key[1], MEMORIES.index(key[0]))):
        times = [found.get((arm, length)) for found in against.values()]
        cells = [str(length), arm, f"{sizes[arm, length]:g}", f"{speeds[arm, length]:.0f}"]
        cells += [f"{ratio:.2f}" if ratio else "" for ratio in times]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def served(trials: list[Trial]) -> str:
    """By part and rate: how long first tokens took, and who met the objectives."""
    rows = [
        "| part | times capacity | arm | mean TTFT s | p99 | met | goodput/s | tokens/s "
        "| unanswered |",
        "| --- | --: | --- | --: | --: | --: | --: | --: | --: |",
    ]
    for each in trials:
        if each["part"] in ("online", "layers"):
            rows.append(
                f"| {each['part']} | {each['share']:g} ({each['rate']:.2f}/s) | {each['arm']} "
                f"| {each['ttft_mean']:.2f} | {each['ttft_p99']:.2f} | {each['met']:.0%} "
                f"| {each['goodput']:.2f} | {each['output_rate']:.0f} | {each['unanswered']} |"
            )
    return "\n".join(rows)


def main() -> None:
    options = parser(__doc__ or "", HERE, MEMORIES, rounds=1)
    options.with_device()
    options.with_parts(PARTS)
    options.add_argument("--inputs", type=int, nargs="*", help="lengths other than the usual")
    options.add_argument("--rates", type=float, nargs="*", default=RATES, help="times capacity")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as place:
        experiment = Experiment(asked, Path(place))
        try:
            for part in asked.parts:
                getattr(experiment, part)()
        finally:
            append(
                asked.output,
                seed=asked.seed,
                trials=experiment.trials,
                device=asked.device,
                budget=experiment.budget,
                tier=experiment.setting.tier,
            )
            print(batches(experiment.trials))
            print(served(experiment.trials))


if __name__ == "__main__":
    main()
