"""The simulator is the server's engine: one trace, the same steps, with or without a device."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ellm.core.config import KvLayout, SchedulingPolicy
from ellm.core.executor import Executor, Ferry, Flight
from ellm.core.plan import StepPlan, StepShape
from ellm.core.request import Request
from ellm.core.sampling import SamplingParams
from ellm.core.units import MIB
from ellm.engine.engine import Engine
from ellm.llm import build as root
from ellm.llm.args import EngineArgs
from ellm.llm.blueprint import Blueprint
from ellm.llm.build import Built, build, choose_ops, prepare_device
from ellm.llm.step_times import StepTimes
from ellm.memory.budget import default_budget
from ellm.memory.extents import HostAccess
from ellm.memory.stores.file import FileStore
from ellm.memory.tiers import Tiers
from ellm.memory.timed_copier import TimedCopier
from ellm.memory.transfer import Direction
from ellm.scheduling.coefficients import Coefficients
from ellm.sim.anatomy.formats import Formats
from ellm.sim.anatomy.shapes import find_transformer
from ellm.sim.clock import VirtualClock
from ellm.sim.costs.stage import StageTime
from ellm.sim.deployment import Deployment
from ellm.sim.devices.device import Device, Efficiency, Overhead
from ellm.sim.executor import SimExecutor, Telltale
from ellm.sim.file_tier import FileTier
from ellm.sim.host import Host
from ellm.sim.lane import Lane, Pipeline, UntilEnd
from ellm.sim.profile import Modelled, Profile

MODEL = "ellm-draft"
# Prompts of a hundred tokens take 0.1 s, and as long as two dozen tokens of all who decode.
TIMES = Coefficients.even(token=1e-3, attention=1e-7, kv_token=1e-6, sequence=1e-4, step=2e-3)
TIER = FileTier(down=4e6, up=8e6)
QUIET = Overhead(
    step=0, layer=0, sequence=0, request=0, completion=0, prompt_token=0, output_token=0
)
Step = list[tuple[int, int, int]]


class Watched:
    """An executor whose plans are written down: who, from where, how many tokens."""

    def __init__(self, inner: Executor) -> None:
        self.inner = inner
        self.steps: list[Step] = []

    def activation_bytes(self, shape: StepShape) -> int:
        return self.inner.activation_bytes(shape)

    @property
    def ahead(self) -> bool:
        return self.inner.ahead

    def launch(self, plan: StepPlan, ferry: Ferry | None = None) -> Flight:
        self.steps.append([(step.seq_id, step.start, len(step.tokens)) for step in plan.steps])
        return self.inner.launch(plan, ferry)


@contextmanager
def timed_tier(clock: VirtualClock) -> Iterator[None]:
    """The tier that a server opens, whose copies take virtual time."""

    def open_tier(size: int, directory: str | None, device: str, fence: object) -> Tiers | None:
        assert (device, fence) == ("cpu", None)
        if not size:
            return None
        rates = {Direction.DOWN: TIER.down, Direction.UP: TIER.up}
        copier = TimedCopier(clock, clock.advance, rates)
        access = HostAccess()
        return Tiers(FileStore(size, access, directory), access, copier)

    usual, root.open_tier = root.open_tier, open_tier
    try:
        yield
    finally:
        root.open_tier = usual


def real(args: EngineArgs) -> tuple[Lane, Built]:
    """The server's engine over the host's memory, its steps in virtual time."""
    clock = VirtualClock()
    time = UntilEnd(clock)
    layers = find_transformer(MODEL).layers(2)

    def scripted(runner: Executor) -> Executor:
        return SimExecutor(clock, time, runner.activation_bytes, Telltale(), len(layers))

    # A server starts with what a profile has left it, and so does the simulated one.
    blueprint = Blueprint.draw(args)
    prepare_device(args.device, args.threads)
    ops = choose_ops(args.device, blueprint.dtype, blueprint.spec.head_dim)
    StepTimes(blueprint, args.device, ops.name).know(TIMES)
    with timed_tier(clock):
        built = build(args, clock=clock, around=scripted)
    stages = (StageTime.of(1, {1: TIMES}, ()),)
    return Lane(clock, [built.engine], Pipeline(stages), time), built


def profile(args: EngineArgs) -> Profile:
    """As `ellm profile` would have it of this machine, with times that are easy to follow."""
    transformer, formats = find_transformer(MODEL), Formats()
    free = default_budget(2**30 * 8)
    device = Device(
        name="here",
        memory=2**33,
        bandwidth=1e10,
        flops={"bf16": 1e11},
        host_bandwidth=1e10,
        per_node=1,
        fabric="none",
        network="none",
        idle_watts=0,
        busy_watts=0,
        efficiency=Efficiency(matmul=1, attention=1, bandwidth=1, formats={}),
        overhead=QUIET,
        sources={},
    )
    mappings = int(Path("/proc/sys/vm/max_map_count").read_text())
    return Profile(
        model=Modelled.of(transformer, formats),
        device=device,
        host=Host(free, mappings, args.threads, TIER),
        coefficients=TIMES,
        serving=Coefficients.even(),
        made={},
        accuracy={},
        steps=(),
        decoding=(),
    )


def simulated(args: EngineArgs) -> Lane:
    transformer = find_transformer(MODEL)
    deployment = Deployment.by_profile(
        transformer,
        profile(args),
        memory=args.memory_config,
        limits=args.limits(transformer.max_positions),
    )
    return deployment.lanes()[0]


def requests(count: int) -> list[Request]:
    """Bursts of prompts that often begin alike, some with two answers."""
    rng = random.Random(2)
    beginnings = [[rng.randrange(100, 150) for _ in range(160)] for _ in range(3)]
    found, now = [], 0.0
    for number in range(count):
        shared = rng.choice(beginnings)[: rng.choice([0, 0, 37, 160])]
        rest = [rng.randrange(100, 150) for _ in range(rng.randrange(1, 220))]
        params = SamplingParams(
            max_tokens=rng.randrange(1, 90), temperature=0, ignore_eos=True, n=rng.choice([1, 1, 2])
        )
        found.append(
            Request(request_id=f"r{number}", prompt=(*shared, *rest), params=params, arrival=now)
        )
        now += rng.expovariate(25) if number % 20 else 1.5
    return found


def drive(lane: Lane, wanted: list[Request]) -> tuple[list[Step], Engine]:
    """Serve all in virtual time; what was planned for each step."""
    (engine,) = lane.ranks
    watched = engine._executor = Watched(engine._executor)
    coming = list(wanted)
    while coming or lane.has_work:
        if not lane.has_work:
            lane.wake(coming[0].arrival)
        while coming and coming[0].arrival <= lane.clock.now():
            engine.submit(coming.pop(0))
        list(lane.step())
    return watched.steps, engine


def arguments(**more: object) -> EngineArgs:
    args = EngineArgs(model=MODEL, memory=8 * MIB, max_model_len=640, threads=2)
    return replace(args, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("tier", [0, 8 * MIB], ids=["alone", "tier"])
@pytest.mark.parametrize("policy", list(SchedulingPolicy))
@pytest.mark.parametrize("prefix_caching", [False, True], ids=["fresh", "prefixes"])
@pytest.mark.parametrize("layout", list(KvLayout))
def test_same_trace_same_steps(
    layout: KvLayout,
    prefix_caching: bool,
    policy: SchedulingPolicy,
    tier: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    args = arguments(
        kv_layout=layout,
        enable_prefix_caching=prefix_caching,
        scheduling_policy=policy,
        ttft_slo=1.0 if policy is SchedulingPolicy.SLO else None,
        tpot_slo=0.2 if policy is SchedulingPolicy.SLO else None,
        kv_offloading_size=tier or None,
        kv_offloading_dir=str(tmp_path),
    )
    lane, built = real(args)
    wanted = requests(60)
    steps, engine = drive(lane, wanted)
    twins, twin = drive(simulated(args), wanted)
    assert steps == twins
    # What the trace is for has happened: yielding, parking, sharing, and prompts in parts.
    assert engine.stats.preemptions == twin.stats.preemptions > 0
    assert (engine.stats.elastic.swapped > 0) == bool(tier)
    assert (engine.stats.cached_tokens > 0) == prefix_caching
    assert any(start and tokens > 1 for step in steps for _, start, tokens in step)
    assert max(map(len, steps)) > 4
    built.engine.close()
