"""What examples/simulate adds can be used as docs/simulate.md says."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ellm.core.config import SchedulerConfig
from ellm.core.errors import ModelError, UnsupportedModel
from ellm.sim.anatomy import reader
from ellm.sim.anatomy.shapes import find_transformer
from ellm.sim.deployment import Deployment
from ellm.sim.devices.known import find_device
from ellm.sim.fabrics.collective import REGISTERED
from ellm.sim.fabrics.known import find_fabric
from ellm.sim.parallel.plan import uniform
from ellm.sim.scenario import Scenario, simulate
from ellm.sim.workload.item import Item

HOME = Path(__file__).parents[2] / "examples" / "simulate"
LFM2 = str(HOME / "lfm2-1.2b.json")


@pytest.fixture
def extended(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All extensions, for one test."""
    monkeypatch.setattr(reader, "_mixers", list(reader._mixers))
    monkeypatch.setattr(reader, "_channels", list(reader._channels))
    for name in ("short_convolution", "ring_broadcast", "ring_mlp"):
        runpy.run_path(str(HOME / f"{name}.py"))
    yield
    del REGISTERED["ring_broadcast"]


@pytest.mark.usefixtures("extended")
def test_a_cell_of_ones_own_is_weighed_divided_and_simulated() -> None:
    lfm2 = find_transformer(LFM2)
    # 1.17 thousand million, as its makers say.
    assert lfm2.parameters == 1_170_339_840
    assert len(lfm2.layers(2)) == 6
    limits = SchedulerConfig(max_num_seqs=8, max_model_len=4096)
    times = {}
    for ways in (1, 2):
        plan = uniform(lfm2, tensor=ways)
        made = Deployment.by_roofline(
            lfm2, find_device(HOME / "my-gpu.toml"), plan=plan, limits=limits
        )
        outcome = simulate(Scenario(deployment=made, items=[Item(2000, 8)] * 12))
        assert outcome.report.finished == 12
        times[ways] = outcome.report.duration
    assert times[2] < times[1]


@pytest.mark.usefixtures("extended")
def test_a_collective_of_ones_own_takes_time_by_its_steps() -> None:
    fabric = find_fabric("nvlink4")
    few, many = (fabric.seconds("ring_broadcast", devices, 1 << 20) for devices in (4, 8))
    assert few < many


@pytest.mark.usefixtures("extended")
def test_a_cell_may_name_a_collective_of_ones_own() -> None:
    fabric, times = find_fabric("nvlink4"), {}
    llama, limits = find_transformer("llama-3.1-8b"), SchedulerConfig(max_model_len=4096)
    assert [cell.name for cell in llama.cells] == ["attention", "mlp"]
    for factor in (1.0, 3.0):
        ring = REGISTERED["ring_broadcast"]
        REGISTERED[ring.name] = replace(ring, bus_factor=lambda devices, f=factor: f)  # type: ignore[misc]
        made = Deployment.by_roofline(
            llama, find_device("H100"), plan=uniform(llama, tensor=4), limits=limits
        )
        outcome = simulate(Scenario(deployment=made, items=[Item(2000, 1)]))
        times[factor] = outcome.report.duration
    # Twice more of each token's numbers crosses the link for each layer.
    further = 32 * 2 * 2000 * llama.hidden * 2 / (fabric.bandwidth * fabric.efficiency)
    assert times[3.0] - times[1.0] == pytest.approx(further, rel=0.05)


def test_without_the_extension_the_layer_is_named_that_nobody_knows() -> None:
    with pytest.raises(UnsupportedModel, match=r"layer 0 is conv.*--extension"):
        find_transformer(LFM2)


def test_an_incomplete_model_names_the_key(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 2}')
    with pytest.raises(ModelError, match="hidden_size"):
        find_transformer(str(tmp_path))
