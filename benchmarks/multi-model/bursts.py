"""Three large models on one GPU, busy in bursts: memory split for good, or shared."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from household import name_of

from ellm.cli.bench.question import Question, questions
from ellm.core.units import GIB, MIB
from ellm.obs.spread import percentile
from ellm.sim.workload.arrivals import arrivals, timed
from ellm.sim.workload.lengths import fixed
from harness.arm import Arm
from harness.options import parser
from harness.random_llama import LLAMA_8B, LLAMA_TINY, RandomLlama
from harness.results import Run, append, medians
from harness.rounds import alternate
from harness.worker import Worker

HERE = Path(__file__).resolve().parent
MODELS = 3
ARMS = (Arm("static", {"memory_mode": "static"}), Arm("shared"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Each model in turn is asked `count` times within a second or so, one `gap` seconds after the
    other; `background` requests a second come meanwhile, to all in turn."""

    shape: RandomLlama
    name: str | None
    dtype: str
    memory: int
    prompt: int
    output: int
    count: int
    gap: float
    background: float
    context: int

    def items(self, seed: int) -> list[Question]:
        """In order of arrival."""
        asked = []
        for model in range(MODELS):
            burst = fixed(self.count, self.prompt, self.output)
            times = [model * self.gap + at for at in arrivals(self.count, self.count, seed + model)]
            for item in questions(timed(burst, times), seed + model):
                asked.append(Question(item.prompt, item.output_len, item.arrival, model))
        few = fixed(round(MODELS * self.gap * self.background), self.prompt, self.output // 4)
        times = arrivals(len(few), self.background, seed + MODELS)
        for number, item in enumerate(questions(timed(few, times), seed + MODELS)):
            asked.append(Question(item.prompt, item.output_len, item.arrival, number % MODELS))
        return sorted(asked, key=lambda item: item.arrival)

    def arguments(self, model: int, path: str, shared: dict[str, Any]) -> dict[str, Any]:
        """What `EngineArgs` takes."""
        return {
            "model": path,
            "served_model_name": name_of(model),
            "load_format": "dummy",
            "dtype": self.dtype,
            "max_model_len": self.context,
            "max_num_batched_tokens": min(2048, self.context),
            "max_num_seqs": 256,
            "enable_prefix_caching": False,
            "memory": self.memory,
            **shared,
        }


# 45 GiB of weights, and 27 of KV and activations between them.
GPU = Setting(
    shape=LLAMA_8B, name="llama-3.1-8b", dtype="bfloat16", memory=72 * GIB, prompt=512, output=768,
    count=110, gap=9.0, background=1.0, context=4096,
)  # fmt: skip
CPU = Setting(
    shape=LLAMA_TINY, name=None, dtype="float32", memory=56 * MIB, prompt=64, output=192,
    count=60, gap=1.0, background=4.0, context=256,
)  # fmt: skip


def trial(
    arm: Arm, setting: Setting, path: str, shared: dict[str, Any], seed: int
) -> dict[str, Any]:
    """One arm through all bursts, in a process of its own."""
    models = [setting.arguments(m, path, arm.arguments(shared)) for m in range(MODELS)]
    with Worker(HERE / "worker.py", {"models": models, "idle_release": None}) as worker:
        # A few of each model before: kernels are compiled, heights of steps met.
        worker.ask({"bursts": {"items": flat(warm_up(setting))}})
        answer = worker.ask({"bursts": {"items": flat(setting.items(seed))}})
        loaded = worker.load_seconds
    requests = answer["requests"]
    ttfts = [request["ttft"] for request in requests if "error" not in request]
    tpots = [request["tpot"] for request in requests if "error" not in request]
    held = [sample["held"] for sample in answer["memory"]]
    return {
        "requests": len(requests),
        "errors": len(requests) - len(ttfts),
        "errors_said": sorted({r["error"] for r in requests if "error" in r})[:3],
        "ttft_mean": sum(ttfts) / len(ttfts),
        **{f"ttft_p{share}": percentile(ttfts, share / 100) for share in (50, 95, 99)},
        "tpot_p50": percentile(tpots, 0.5),
        "tpot_p95": percentile(tpots, 0.95),
        "seconds": answer["seconds"],
        "load_seconds": loaded,
        "most_held": [max(each) for each in zip(*held, strict=True)],
        "wakes": len(answer["wakes"]),
        "other_cpus": answer["other_cpus"],
    }


def warm_up(setting: Setting) -> list[Question]:
    counts = [8] * MODELS
    return [
        Question(item.prompt, 16, 0.0, model)
        for model, count in enumerate(counts)
        for item in questions(fixed(count, setting.prompt, 16), -1 - model)
    ]


def flat(items: list[Question]) -> list[tuple[Any, ...]]:
    """As JSON can carry them."""
    return [(list(item.prompt), item.output_len, item.arrival, item.model) for item in items]


def table(run: Run) -> str:
    names = ("ttft_mean", "ttft_p50", "ttft_p95", "ttft_p99", "tpot_p50", "seconds")
    figures = {name: medians(run["trials"], name) for name in names}
    base = figures["ttft_p95"].get(("static",))
    rows = [
        "| arm | mean TTFT s | p50 | p95 | p99 | TPOT p50 ms | all took s | p95 lower by |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for (arm,), p95 in figures["ttft_p95"].items():
        value = {name: figures[name][(arm,)] for name in names}
        rows.append(
            f"| {arm} | {value['ttft_mean']:.2f} | {value['ttft_p50']:.2f} | {p95:.2f} "
            f"| {value['ttft_p99']:.2f} | {1e3 * value['tpot_p50']:.1f} | {value['seconds']:.0f} "
            f"| {f'{base / p95:.1f}' if base else ''} |"
        )
    return "\n".join(rows)


def main() -> None:
    options = parser(__doc__ or "", HERE, [arm.name for arm in ARMS], rounds=1)
    options.with_device()
    options.set_defaults(output=HERE / "bursts.jsonl")
    asked = options.parse_args()
    setting = GPU if asked.device == "cuda" else CPU
    shared = {"device": asked.device, "threads": asked.threads}
    arms = {arm.name: arm for arm in ARMS}
    trials: list[dict[str, Any]] = []
    try:
        with tempfile.TemporaryDirectory() as place:
            path = setting.name or str(setting.shape.described_in(Path(place) / "shape"))
            for number, name in alternate(asked.rounds, asked.arms):
                found = trial(arms[name], setting, path, shared, asked.seed + number)
                trials.append({"round": number, "arm": name, **found})
                print(trials[-1], file=sys.stderr, flush=True)
    finally:
        run = append(
            asked.output, seed=asked.seed, trials=trials, device=asked.device, memory=setting.memory
        )
    print(table(run))


if __name__ == "__main__":
    main()
