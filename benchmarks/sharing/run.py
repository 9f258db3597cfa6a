"""How much of what requests have in common is computed only once, and what that is worth."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

import ideal
from replay import BLOCK, SCALE, Replay

from ellm.cli.bench.question import Question, questions
from ellm.sim.workload.traces import read_trace
from harness import traces
from harness.arm import Arm
from harness.options import parser
from harness.random_llama import LLAMA_168M
from harness.results import Run, Trial, append, medians, ratios
from harness.rounds import alternate
from harness.worker import Worker

HERE = Path(__file__).resolve().parent
TRACE = traces.HOME / "mooncake/conversation_trace.jsonl"
SOURCE = (
    "https://raw.githubusercontent.com/kvcache-ai/Mooncake/"
    "3b5a594133958449a1feaf1c9e0fc1b553e34a28/FAST25-release/traces/conversation_trace.jsonl"
)
ALL_REQUESTS = 12_031
# Blocks of memory; the tier has so many times as many.
SIZES = (4_000, 8_000, 16_000)
BELOW = 4

ARMS = (
    Arm("tier", {"kv_offloading_size": "1GiB"}),
    Arm("device"),
    Arm("off", {"enable_prefix_caching": False}),
)
USERS, FIRST, MORE, OUTPUT = 8, 384, 32, 8
# Memory beside the weights: whole conversations that fit, and room for a step's activations.
FITTING, STEP_BYTES = 3, 32 * 2**20


def replayed(items: Sequence[Question], sizes: Sequence[int], arms: Sequence[str]) -> list[Trial]:
    """Every arm at every size, and what ideal caches would have found in its place.

    Without a cache the size makes no difference, and the smallest speaks for all.
    """
    requests = ideal.numbered([item.prompt for item in items], BLOCK)
    share = BLOCK / sum(len(item.prompt) for item in items)
    unbounded = share * ideal.least_recently_used(requests, sys.maxsize)
    trials: list[Trial] = []
    for size in sizes:
        for arm in arms if size == sizes[0] else [arm for arm in arms if arm != "off"]:
            below = BELOW * size if arm == "tier" else 0
            done = Replay(items, size, below, arm != "off").run()
            room = size + below
            trial = {
                "round": 0,
                "arm": arm,
                "blocks": size,
                "below": below,
                "hit_rate": done.figures["cached_tokens"] / done.figures["prompt_tokens"],
                "ideal": share * ideal.alongside(requests, done.events, room),
                "lru": share * ideal.least_recently_used(requests, room),
                "clairvoyant": share * ideal.clairvoyant(requests, room),
                "unbounded": unbounded,
                **done.figures,
            }
            trials.append(trial)
            told = f"{trial['hit_rate']:.4f} of tokens found, the ideal {trial['ideal']:.4f}"
            print(f"{size} blocks, {arm}: {told}", file=sys.stderr)
    return trials


def chats(arms: Sequence[Arm], rounds: int, threads: int, seed: int, turns: int) -> list[Trial]:
    """A process of its own for every trial; in a round all have the same conversations."""
    longest = FIRST + (turns - 1) * MORE + turns * OUTPUT
    memory = 2 * LLAMA_168M.parameters + FITTING * longest * LLAMA_168M.kv_token_bytes + STEP_BYTES
    shared = {
        "model": str(LLAMA_168M.cached()),
        "memory": memory,
        "max_model_len": longest,
        "threads": threads,
    }
    trials: list[Trial] = []
    for number, arm in alternate(rounds, arms):
        rng = random.Random(f"{seed} {number}")
        lengths = [FIRST, *[MORE] * (turns - 1)]
        users = [[LLAMA_168M.prompt(n, rng) for n in lengths] for _ in range(USERS)]
        with Worker(HERE / "worker.py", arm.arguments(shared)) as worker:
            answer = worker.ask({"users": users, "output": OUTPUT})
        trials.append({"round": number, "arm": arm.name, **answer})
        print(f"chat, {arm.name}: {answer['seconds']:.1f} s", file=sys.stderr)
    return trials


def replay_table(trials: Sequence[Trial]) -> str:
    rows = [
        "| blocks of memory | arm | tokens found | ideal | of the ideal | LRU alone | Belady "
        "| mean TTFT, virtual s |",
        "| --: | --- | --: | --: | --: | --: | --: | --: |",
    ]
    for trial in trials:
        if trial["arm"] == "off":
            cells = ["0 %", *[""] * 4]
        else:
            rates = [trial[name] for name in ("ideal", "lru", "clairvoyant")]
            ideally, lru, belady = (f"{100 * rate:.1f} %" for rate in rates)
            part = f"{100 * trial['hit_rate'] / trial['ideal']:.1f} %"
            cells = [f"{100 * trial['hit_rate']:.1f} %", ideally, part, lru, belady]
        cells.append(f"{trial['mean_ttft']:.2f}")
        rows.append(f"| {trial['blocks']} | {trial['arm']} | " + " | ".join(cells) + " |")
    return "\n".join([*rows, "", f"unbounded: {100 * trials[0]['unbounded']:.1f} % of tokens"])


def chat_table(run: Run) -> str:
    trials: Sequence[Trial] = run["chat"]
    times = medians(trials, "seconds")
    firsts = medians(trials, "mean_ttft")
    faster = {key: 1 / value for key, value in ratios(trials, "seconds", "off").items()}
    found: Mapping[Any, float] = medians(trials, "cached_tokens")
    asked: Mapping[Any, float] = medians(trials, "prompt_tokens")
    rows = [
        "| arm | end to end, s | times as fast as off | mean TTFT, s | tokens found |",
        "| --- | --: | --: | --: | --: |",
    ]
    for key in times:
        rate = f"{100 * found[key] / asked[key]:.0f} %"
        speed = f"{faster[key]:.2f}" if key in faster else ""
        rows.append(f"| {key[0]} | {times[key]:.1f} | {speed} | {firsts[key]:.2f} | {rate} |")
    return "\n".join(rows)


def main() -> None:
    options = parser(__doc__ or "", HERE, [arm.name for arm in ARMS], rounds=2)
    options.add_argument("--trace", type=Path, default=TRACE)
    options.add_argument("--requests", type=int, default=ALL_REQUESTS)
    options.add_argument("--turns", type=int, default=6)
    options.add_argument("--parts", default="replay,chat", help="which of the two to measure")
    asked = options.parse_args()
    sizes = SIZES
    if asked.quick:
        asked.requests, asked.turns, sizes = 500, 2, SIZES[:1]
    replays: list[Trial] = []
    if "replay" in asked.parts and asked.trace.exists():
        trace = read_trace(asked.trace, asked.requests, scale=1 / SCALE)
        replays = replayed(questions(trace.items, asked.seed), sizes, asked.arms)
    elif "replay" in asked.parts:
        print(f"no trace, so only the chat: curl -o {asked.trace} {SOURCE}", file=sys.stderr)
    arms = [arm for arm in ARMS if arm.name in asked.arms]
    chat: list[Trial] = []
    if "chat" in asked.parts:
        chat = chats(arms, asked.rounds, asked.threads, asked.seed, asked.turns)
    run = append(
        asked.output,
        seed=asked.seed,
        trials=replays,
        chat=chat,
        threads=asked.threads,
        rounds=asked.rounds,
        requests=asked.requests,
        turns=asked.turns,
    )
    if replays:
        print(replay_table(replays) + "\n")
    if chat:
        print(chat_table(run))


if __name__ == "__main__":
    main()
