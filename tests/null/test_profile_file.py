"""A profile read back, what is wrong with other files, and what the simulator makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ellm.core.config import MemoryConfig, SchedulerConfig
from ellm.core.errors import ConfigError
from ellm.core.load import StepLoad
from ellm.core.units import GIB, KIB, MIB
from ellm.memory.budget import choose_chunk_bytes, default_budget
from ellm.scheduling.coefficients import Coefficients
from ellm.scheduling.cost_fit import Accuracy
from ellm.sim.anatomy.formats import Formats
from ellm.sim.anatomy.shapes import find_transformer
from ellm.sim.deployment import CHUNK_BYTES, Deployment
from ellm.sim.device_fit import NO_OVERHEAD, StepRun, fit_overhead, roofline_error
from ellm.sim.devices.device import Device, Efficiency
from ellm.sim.devices.known import find_device
from ellm.sim.file_tier import FileTier
from ellm.sim.host import Host
from ellm.sim.parallel.plan import uniform
from ellm.sim.profile import Modelled, Profile
from ellm.sim.scenario import Scenario, simulate
from ellm.sim.workload.item import Item

BASE, DRAFT = find_transformer("ellm-base"), find_transformer("ellm-draft")
STEPS = Coefficients.even(token=1e-4, attention=1e-8, kv_token=2e-7, sequence=3e-5, step=1e-3)
SERVING = Coefficients.even(sequence=5e-5, step=2e-4)
MACHINE = Device(
    name="a machine, 1 thread",
    memory=32 * GIB,
    bandwidth=2e10,
    flops={"bf16": 2e11, "fp32": 1e11},
    host_bandwidth=2e10,
    per_node=1,
    fabric="none",
    network="none",
    idle_watts=0.0,
    busy_watts=0.0,
    efficiency=Efficiency(matmul=0.9, attention=0.5, bandwidth=0.8, formats={}),
    overhead=replace(NO_OVERHEAD, step=1e-4, layer=2e-5, request=3e-3, start=2e-3),
    sources={"flops": "Measured."},
)
PROFILE = Profile(
    model=Modelled.of(BASE, Formats()),
    device=MACHINE,
    host=Host(20 * GIB, 65_530, 1, FileTier(down=1e9, up=5e8)),
    coefficients=STEPS,
    serving=SERVING,
    made={"date": "2025-01-01", "threads": 1},
    accuracy={"decode": Accuracy(40, 0.03, 0.1)},
    steps=[[1, 100, 100, 1, 0.0012, -0.02]],
    decoding=[(1, 0.0014)],
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "deep" / "profile.json"
    PROFILE.save(path)
    return path


def test_what_was_saved_is_there_again(file: Path) -> None:
    again = Profile.load(file)
    assert replace(again, where=PROFILE.where, steps=PROFILE.steps, decoding=PROFILE.decoding) == (
        replace(PROFILE, device=again.device)
    )
    assert replace(again.device, overhead=MACHINE.overhead) == MACHINE
    assert vars_of(again.device) == vars_of(MACHINE)
    assert [list(row) for row in again.steps] == PROFILE.steps
    assert again.decoding == ((1.0, 0.0014),)


def vars_of(device: Device) -> dict[str, float]:
    return {name: getattr(device.overhead, name) for name in ("step", "layer", "request", "start")}


def test_a_profile_without_a_host_has_none(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    replace(PROFILE, host=None).save(path)
    assert Profile.load(path).host is None


def without(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda values: values.pop(key)


def changed(*path: str, to: object) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        for key in path[:-1]:
            values = values[key]
        values[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (changed("format", to=0), "is no profile in format 1: measure again with ellm profile"),
        (without("model"), "model is missing"),
        (without("coefficients"), "coefficients is missing"),
        (changed("coefficients", "slopes", to=[1e-4]), "coefficients.slopes has 1 numbers"),
        (changed("coefficients", "step", to=-1), "coefficients.step must be a number of at least"),
        (changed("device", "flops", to={}), "device.flops is empty"),
        (changed("device", "overhead", "strat", to=1), "did you mean start?"),
        (changed("host", "tier", to={"down": 1e9}), "tier.up is missing"),
        (changed("host", "budget", to=0.5), "host.budget must be a whole number"),
        (changed("steps", to=[[1, 2, 3]]), "steps has rows that are not 6 numbers"),
        (changed("decoding", to=[["a", 1]]), "decoding must be a number"),
        (changed("stages", to=1), "stages means nothing here: did you mean steps?"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(
    file: Path, spoil: Callable[[dict[str, Any]], None], complaint: str
) -> None:
    values = json.loads(file.read_text())
    spoil(values)
    file.write_text(json.dumps(values))
    with pytest.raises(ConfigError) as found:
        Profile.load(file)
    assert complaint in str(found.value)
    assert str(file) in str(found.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, "No such file"), ("{", "is not JSON"), ("[1]", "is no profile in format 1")],
)
def test_what_is_no_profile_says_what_to_do(
    tmp_path: Path, content: str | None, complaint: str
) -> None:
    path = tmp_path / "other.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match="measure again with ellm profile") as found:
        Profile.load(path)
    assert complaint in str(found.value)


def test_a_place_that_cannot_be_written_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write the profile"):
        PROFILE.save(tmp_path / "file" / "profile.json")


def seconds(deployment: Deployment, load: StepLoad) -> float:
    return deployment.stages[0].seconds([load])


LOAD = StepLoad.of([(100, 20), (1, 400), (1, 30)])


def test_the_measured_model_takes_what_was_measured() -> None:
    deployment = Deployment.by_profile(BASE, PROFILE)
    expected = STEPS.seconds(LOAD) + SERVING.seconds(LOAD)
    assert seconds(deployment, LOAD) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("transformer", "formats"), [(DRAFT, Formats()), (BASE, Formats("fp32", "fp32", "fp32"))]
)
def test_another_model_or_format_takes_what_the_roofline_says(
    transformer: Any, formats: Formats
) -> None:
    profiled = Deployment.by_profile(transformer, PROFILE, formats=formats)
    plain = Deployment.by_roofline(transformer, MACHINE, formats=formats)
    assert seconds(profiled, LOAD) == seconds(plain, LOAD)
    assert seconds(profiled, LOAD) != pytest.approx(STEPS.seconds(LOAD), rel=0.1)


def test_several_machines_take_what_the_roofline_says() -> None:
    plan = uniform(BASE, 2)
    profiled = Deployment.by_profile(BASE, PROFILE, plan=plan)
    plain = Deployment.by_roofline(BASE, MACHINE, plan=plan)
    assert seconds(profiled, LOAD) == seconds(plain, LOAD)


def test_a_longer_context_is_the_same_model() -> None:
    longer = replace(BASE, max_positions=2 * BASE.max_positions, name="longer")
    assert PROFILE.knows(longer, Formats())
    assert not PROFILE.knows(replace(BASE, hidden=BASE.hidden + 64), Formats())


def test_a_tier_that_was_not_measured_is_refused() -> None:
    assert PROFILE.host is not None
    alone = replace(PROFILE, host=replace(PROFILE.host, tier=None))
    Deployment.by_profile(BASE, alone)
    with pytest.raises(ConfigError, match="run ellm profile with --kv-offloading-size"):
        Deployment.by_profile(BASE, alone, memory=MemoryConfig(offload_bytes=GIB))


@pytest.mark.parametrize(
    ("sequences", "context"), [(64, 2048), (64, 128 * KIB), (256, 512 * KIB), (2, 64)]
)
def test_memory_is_cut_as_the_engine_would_cut_it(sequences: int, context: int) -> None:
    limits = SchedulerConfig(max_num_seqs=sequences, max_model_len=context)
    deployment = Deployment.by_profile(BASE, PROFILE, limits=limits)
    assert deployment.budget == 20 * GIB
    (lane,) = deployment.lanes()
    token = sum(layer.token_bytes for layer in BASE.layers(2))
    useful = 2 * BASE.parameters + sequences * context * token
    expected = choose_chunk_bytes(min(20 * GIB, useful), 65_530)
    memory = lane.ranks[0].snapshot().memory
    assert memory.chunk_bytes == expected
    assert memory.total == 20 * GIB // expected


def test_a_named_budget_counts_more_than_the_machines() -> None:
    deployment = Deployment.by_profile(BASE, PROFILE, memory=MemoryConfig(budget=64 * MIB))
    assert deployment.budget == 64 * MIB


def test_a_known_processor_is_its_own_host_and_a_gpu_is_not() -> None:
    xeon, h100 = find_device("xeon-8480+"), find_device("h100")
    on_host, on_gpu = (Deployment.by_roofline(BASE, each) for each in (xeon, h100))
    assert on_host.budget == default_budget(xeon.memory)
    chunks = [each.lanes()[0].ranks[0].snapshot().memory.chunk_bytes for each in (on_host, on_gpu)]
    assert chunks == [64 * KIB, CHUNK_BYTES]


def test_a_floor_under_prompts_is_kept_in_the_file_and_simulated(tmp_path: Path) -> None:
    """One with a prompt takes a second; those that decode after it do not."""
    floored = replace(PROFILE, launched=Coefficients.even(step=1.0))
    floored.save(tmp_path / "profile.json")
    read = Profile.load(tmp_path / "profile.json")
    assert read.launched == floored.launched
    (served,) = simulate(
        Scenario(deployment=Deployment.by_profile(BASE, read), items=[Item(10, 5)])
    ).served
    assert served.ttft == pytest.approx(1.0, abs=0.2)
    assert served.tpot is not None
    assert served.tpot < 0.1


def test_a_request_that_begins_holds_everyone_up() -> None:
    """Two requests at once: both first tokens are later by what both take to begin."""
    items = [Item(10, 1), Item(10, 1)]
    quick = replace(PROFILE, device=replace(MACHINE, overhead=NO_OVERHEAD))
    slow = replace(PROFILE, device=replace(MACHINE, overhead=replace(NO_OVERHEAD, start=0.25)))
    times = [
        [
            each.ttft
            for each in simulate(
                Scenario(deployment=Deployment.by_profile(BASE, p), items=items)
            ).served
        ]
        for p in (quick, slow)
    ]
    assert times[1][0] == times[1][1]
    # The first to arrive begins alone where the other comes after it.
    assert times[1][0] == pytest.approx(times[0][0] + 0.5)


def test_overheads_are_found_again_in_what_they_made() -> None:
    bare = replace(MACHINE, overhead=NO_OVERHEAD)
    made = replace(NO_OVERHEAD, step=4e-4, layer=3e-5, sequence=2e-5)
    loads = [StepLoad.of([(1, 100)] * count) for count in (1, 2, 4, 8, 16)]
    loads += [StepLoad.of([(tokens, 0)]) for tokens in (16, 64, 256)]
    runs = []
    for transformer in (BASE, DRAFT):
        deployment = Deployment.by_roofline(transformer, replace(bare, overhead=made))
        steps = [(load, seconds(deployment, load)) for load in loads]
        runs.append(StepRun(transformer, Formats(), steps))
    found = fit_overhead(bare, runs)
    for name in ("step", "layer", "sequence"):
        assert getattr(found, name) == pytest.approx(getattr(made, name), rel=1e-3)
    assert max(roofline_error(replace(bare, overhead=found), run) for run in runs) < 1e-3
    assert found.launch == 0.0
    runs[0] = replace(runs[0], launched=found.step + 1e-3 * len(BASE.blocks))
    assert fit_overhead(bare, runs).launch == pytest.approx(1e-3)
