"""What attention costs over virtual tensors, pages and plain memory."""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))

from beds import Bed

from ellm.core.layers import LayerSpec
from ellm.core.plan import StepShape
from ellm.core.units import KIB, MIB
from ellm.kernels.ops import Dims, Segment
from ellm.kv.geometry import choose_geometry
from ellm.llm.build import choose_ops
from ellm.runtime.workspace import Workspace, WorkspaceCounter
from harness.options import parser
from harness.results import Run, append, medians, ratios
from harness.rounds import alternate

HERE = Path(__file__).resolve().parent
HEADS, KV_HEADS, WIDTH, LAYERS = 16, 4, 64, 2
BASE = "torch.empty"
ARMS = {
    BASE: (BASE, 64 * KIB),
    "sequential-64KiB": ("sequential", 64 * KIB),
    "shuffled-64KiB": ("shuffled", 64 * KIB),
    "shuffled-2MiB": ("shuffled", 2 * MIB),
    "paged": ("paged", 64 * KIB),
}
# A sample repeats the call for at least this many seconds.
SAMPLE = 0.03


@dataclass(frozen=True, slots=True)
class Point:
    """`batch` sequences of `length` tokens, of which each computes the last `queries`."""

    batch: int
    queries: int
    length: int

    @property
    def name(self) -> str:
        if self.queries == 1:
            return f"decode, batch {self.batch}"
        return f"prefill, chunk of {self.queries}"

    @property
    def shape(self) -> StepShape:
        return StepShape(self.batch * self.queries, 0, self.queries, self.length, True)


POINTS = (
    *(Point(1, 1, length) for length in (512, 2048, 8192, 32_768)),
    *(Point(8, 1, length) for length in (512, 2048, 8192, 32_768)),
    *(Point(1, 256, length) for length in (512, 2048, 8192)),
)
QUICK = (Point(1, 1, 512), Point(8, 1, 2048), Point(1, 256, 512))


def attention(bed: Bed, point: Point) -> Callable[[], None]:
    """One step's attention in all layers, through the op table."""
    ops = choose_ops("cpu", torch.bfloat16, WIDTH)
    dims = Dims(
        hidden=HEADS * WIDTH,
        heads=HEADS,
        kv_heads=KV_HEADS,
        head_dim=WIDTH,
        rotary_dim=WIDTH,
        windows=(None,),
        dtype=torch.bfloat16,
    )
    counter = WorkspaceCounter()
    ops.temp(counter, dims, point.shape)
    room = torch.empty(counter.peak + 64, dtype=torch.uint8)
    workspace = Workspace(room.data_ptr() + -room.data_ptr() % 64, counter.peak)
    temp = ops.temp(workspace, dims, point.shape)
    tokens = point.batch * point.queries
    queries = torch.randn(tokens, HEADS, WIDTH).bfloat16()
    out = torch.empty_like(queries)
    segments = [
        Segment(index * point.queries, point.queries, point.length - point.queries, table)
        for index, table in enumerate(bed.tables[: point.batch])
    ]

    def run(keep: torch.Tensor = room) -> None:
        plan = ops.plan_attention(bed.kv, (None,) * LAYERS, segments, temp)
        for layer in range(LAYERS):
            plan.run(layer, queries, out)

    return run


def microseconds(call: Callable[[], None], times: int) -> float:
    start = perf_counter()
    for _ in range(times):
        call()
    return 1e6 * (perf_counter() - start) / times


def repeats(call: Callable[[], None]) -> int:
    """How often `call` must run for a sample to be long enough; warms it up too."""
    call()
    return max(1, round(SAMPLE * 1e6 / microseconds(call, 1)))


def table(run: Run) -> str:
    """Medians in microseconds, and time against torch.empty in the same round, as Markdown."""
    times = medians(run["trials"], "microseconds", ("what", "length"))
    against = ratios(run["trials"], "microseconds", BASE, ("what", "length"))
    arms = list(dict.fromkeys(arm for arm, *_ in times))
    rows = [
        "| attention | tokens | " + " | ".join(arms) + " |",
        "| --- | --: |" + " --: |" * len(arms),
    ]
    for what, length in dict.fromkeys((what, length) for _, what, length in times):
        cells = [
            f"{times[arm, what, length]:.0f} µs ({against[arm, what, length]:.3f})" for arm in arms
        ]
        rows.append(f"| {what} | {length} | " + " | ".join(cells) + " |")
    worst = {
        arm: statistics.median(value for (name, *_), value in against.items() if name == arm)
        for arm in arms
    }
    cells = [f"{worst[arm]:.3f}" for arm in arms]
    return "\n".join([*rows, "| median | | " + " | ".join(cells) + " |"])


def main() -> None:
    asked = parser(__doc__ or "", HERE, list(ARMS), rounds=20).parse_args()
    torch.set_num_threads(asked.threads)
    points = QUICK if asked.quick else POINTS
    rounds = 3 if asked.quick else asked.rounds
    rng = random.Random(asked.seed)
    layers = (LayerSpec(KV_HEADS, WIDTH, 2),) * LAYERS
    sequences = max(point.batch for point in points)
    longest = max(point.length for point in points)
    # Rows are laid out as the engine would on its smallest chunks, the same in every arm.
    geometry = choose_geometry(layers, 64 * KIB)
    beds = {
        arm: Bed.make(kind, geometry, sequences, longest, chunk_bytes, rng)
        for arm, (kind, chunk_bytes) in ARMS.items()
        if arm in asked.arms
    }
    trials = []
    with torch.inference_mode():
        for point in points:
            calls = {arm: attention(bed, point) for arm, bed in beds.items()}
            times = {arm: repeats(call) for arm, call in calls.items()}
            for number, arm in alternate(rounds, list(beds)):
                spent = round(microseconds(calls[arm], times[arm]), 2)
                place = {"what": point.name, "length": point.length}
                trials.append({"round": number, "arm": arm, **place, "microseconds": spent})
            print(f"{point.name}, {point.length} tokens: done", file=sys.stderr)
    run = append(asked.output, seed=asked.seed, trials=trials, threads=asked.threads, rounds=rounds)
    print(table(run))


if __name__ == "__main__":
    main()
