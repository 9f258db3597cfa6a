"""Collectives over fabrics and over nodes of devices: measured, computed, and composed."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ellm.core.errors import ConfigError
from ellm.sim.fabrics import collectives, known
from ellm.sim.fabrics.collective import REGISTERED, register
from ellm.sim.fabrics.discovery import find_collective, known_collectives
from ellm.sim.fabrics.fabric import Fabric
from ellm.sim.fabrics.interconnect import Interconnect
from ellm.sim.fabrics.known import find_fabric, known_fabrics
from ellm.sim.fabrics.measured import Measured

FILES = sorted(Path(known.__file__).with_name("catalogue").glob("*.toml"))
JOINING = [name for name in known_fabrics() if find_fabric(name).bandwidth]
SIZES = st.integers(0, 2**32)
OWN = """
name = "mine"
bandwidth = 1e9
efficiency = 0.5
launch = 1e-6
latency = 2e-6

[measured.all_reduce]
bytes = [1000, 2000]
2 = [10, 20]

[sources]
bandwidth = "a guess"
"""


def plain(
    name: str = "plain",
    bandwidth: float = 1e9,
    launch: float = 0.0,
    latency: float = 0.0,
    **measured: dict[int, Measured],
) -> Fabric:
    """A fabric that reaches all of its bandwidth."""
    return Fabric(
        name=name,
        bandwidth=bandwidth,
        efficiency=1.0,
        launch=launch,
        latency=latency,
        measured=MappingProxyType(dict(measured)),
        sources=MappingProxyType({}),
    )


def own(folder: Path, old: str = "", new: str = "") -> Path:
    """Somebody's file, with `old` replaced."""
    assert old in OWN
    path = folder / "mine.toml"
    path.write_text(OWN.replace(old, new) if old else OWN, encoding="utf-8")
    return path


# The catalogue.


def test_every_file_is_a_fabric_that_is_found_by_its_name() -> None:
    assert set(known_fabrics()) >= {
        *("nvlink3", "nvlink4", "nvlink5", "pcie4", "pcie5", "none"),
        *("infiniband-200", "infiniband-400", "tpu-ici"),
    }
    assert len(known_fabrics()) == len(FILES)
    for path in FILES:
        fabric = find_fabric(path)
        assert find_fabric(fabric.name) == fabric
        assert fabric.name == path.stem


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_figure_has_a_source_and_every_source_a_figure(path: Path) -> None:
    sources = find_fabric(path).sources
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    every = set(table) - {"name", "sources"}
    assert every <= set(sources)
    rows = {f"measured.{name}" for name in table.get("measured", ())}
    assert set(sources) <= every | rows
    if "measured" in every:
        assert "https://github.com/" in sources["measured"]
    if find_fabric(path).bandwidth:
        assert "https://" in sources["bandwidth"]


def measured_points() -> Iterator[tuple[str, str, int, int, float]]:
    for path in FILES:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        for collective, rows in table.get("measured", {}).items():
            for devices, times in rows.items():
                if devices != "bytes":
                    for size, microseconds in zip(rows["bytes"], times, strict=True):
                        yield table["name"], collective, int(devices), size, microseconds


def test_measured_points_are_hit() -> None:
    points = list(measured_points())
    assert len(points) > 500
    for fabric, collective, devices, size, microseconds in points:
        assert find_fabric(fabric).seconds(collective, devices, size) == microseconds * 1e-6


@given(st.sampled_from(JOINING), st.sampled_from(known_collectives()), st.data())
def test_more_bytes_never_cost_less(fabric: str, collective: str, data: st.DataObject) -> None:
    joined = find_fabric(fabric)
    devices = data.draw(st.integers(1, 64))
    less, more = sorted((data.draw(SIZES), data.draw(SIZES)))
    quick = joined.seconds(collective, devices, less)
    assert 0 <= quick <= joined.seconds(collective, devices, more)


@pytest.mark.parametrize("collective", ["all_reduce", "captured_all_reduce"])
@pytest.mark.parametrize("fabric", JOINING)
def test_a_small_sum_never_costs_less_among_more_devices(fabric: str, collective: str) -> None:
    joined = find_fabric(fabric)
    for size in (0, 512, 4096, 16384, 65536):
        times = [joined.seconds(collective, devices, size) for devices in range(1, 65)]
        assert times == sorted(times)


@pytest.mark.parametrize("name", ["nvlink3", "nvlink4", "nvlink5"])
def test_a_serving_engines_own_sum_is_quicker_while_small(name: str) -> None:
    fabric = find_fabric(name)
    for devices in (2, 4, 8):
        small = fabric.seconds("captured_all_reduce", devices, 16384)
        assert small < 0.72 * fabric.seconds("all_reduce", devices, 16384)
        large = fabric.seconds("captured_all_reduce", devices, 2**29)
        assert large == pytest.approx(fabric.seconds("all_reduce", devices, 2**29), rel=0.15)


def test_a_fabric_may_know_no_other_sum_than_the_librarys() -> None:
    path = Path(__file__).parents[2] / "benchmarks/published-h100/nvlink4-nccl.toml"
    fabric, usual = find_fabric(path), find_fabric("nvlink4")
    for devices in (2, 4, 8):
        small = fabric.seconds("captured_all_reduce", devices, 16384)
        assert small == fabric.seconds("all_reduce", devices, 16384)
        assert small > 1.5 * usual.seconds("captured_all_reduce", devices, 16384)


@pytest.mark.parametrize(
    ("name", "least", "most"), [("infiniband-400", 46e9, 48e9), ("infiniband-200", 23.5e9, 24.5e9)]
)
def test_a_network_card_reaches_what_is_seen(name: str, least: float, most: float) -> None:
    seconds = find_fabric(name).seconds("all_reduce", 2, 2**33)
    assert least < 2**33 / seconds < most


# Reading off, and computing.


def test_between_points_the_time_is_linear_and_outside_it_is_flat_or_proportional() -> None:
    row = Measured((100.0, 200.0, 400.0), (1.0, 3.0, 4.0))
    assert [row.at(size) for size in (0, 50, 100, 150, 200, 300, 400, 800)] == [
        *(1.0, 1.0, 1.0, 2.0, 3.0, 3.5, 4.0, 8.0)
    ]


def test_without_measurements_the_time_is_launch_steps_and_bytes() -> None:
    fabric = plain(launch=1e-6, latency=1e-3)
    assert fabric.seconds("all_reduce", 4, 4e9) == pytest.approx(1e-6 + 6e-3 + 4e9 * 1.5 / 1e9)
    assert fabric.seconds("all_gather", 4, 4e9) == pytest.approx(1e-6 + 3e-3 + 4e9 * 0.75 / 1e9)
    assert fabric.seconds("all_to_all", 4, 4e9) == pytest.approx(1e-6 + 2e-3 + 4e9 * 0.75 / 1e9)
    assert fabric.seconds("send_recv", 2, 4e9) == pytest.approx(1e-6 + 1e-3 + 4e9 / 1e9)
    assert fabric.seconds("reduce_scatter", 4, 4e9) == fabric.seconds("all_gather", 4, 4e9)


def test_a_number_of_devices_that_was_not_measured_is_read_off_at_the_nearest_smaller() -> None:
    rows = {2: Measured((100.0, 1000.0), (1.0, 10.0)), 8: Measured((100.0, 1000.0), (5.0, 50.0))}
    fabric = plain(latency=0.25, all_gather=rows)
    # 3 of 4 parts instead of 1 of 2, and two steps more.
    assert fabric.seconds("all_gather", 4, 400) == pytest.approx(1.0 + 5.0 + 2 * 0.25)
    assert fabric.seconds("all_gather", 8, 100) == 5.0
    # No more than the next larger number that was measured.
    slow = plain(latency=9.0, all_gather=rows)
    assert slow.seconds("all_gather", 4, 400) == pytest.approx(20.0)
    only = plain(all_gather={8: rows[8]})
    assert only.seconds("all_gather", 2, 875) == pytest.approx(25.0)


def test_a_collective_that_was_not_measured_is_replaced_by_what_it_is_like() -> None:
    row = Measured((100.0, 1000.0), (1.0, 10.0))
    fabric = plain(all_reduce={2: row})
    assert fabric.seconds("captured_all_reduce", 2, 100) == 1.0
    assert plain().seconds("captured_all_reduce", 4, 1e9) == plain().seconds("all_reduce", 4, 1e9)
    both = plain(all_reduce={2: row}, captured_all_reduce={2: Measured((100.0,), (0.5,))})
    assert both.seconds("captured_all_reduce", 2, 100) == 0.5


def test_one_device_exchanges_nothing() -> None:
    for name in known_fabrics():
        for collective in known_collectives():
            assert find_fabric(name).seconds(collective, 1, 2**30) == 0.0


def test_a_fabric_that_joins_nobody_says_so() -> None:
    with pytest.raises(ConfigError, match="fabric none joins no devices, and all_reduce wants 2"):
        find_fabric("none").seconds("all_reduce", 2, 1)


# Nodes.


def test_a_group_inside_a_node_and_one_across_nodes_use_one_fabric_each() -> None:
    nodes = Interconnect(find_fabric("nvlink4"), find_fabric("infiniband-400"), 8)
    for collective in known_collectives():
        inside = nodes.inner.seconds(collective, 4, 2**20)
        across = nodes.outer.seconds(collective, 4, 2**20)
        assert nodes.seconds(collective, 4, 2**20) == inside
        assert nodes.seconds(collective, 4, 2**20, stride=2) == inside
        assert nodes.seconds(collective, 4, 2**20, stride=8) == across
        assert nodes.seconds(collective, 4, 2**20, stride=64) == across
        assert nodes.seconds(collective, 1, 2**20) == 0.0


def test_large_messages_go_through_both_levels_side_by_side() -> None:
    nodes = Interconnect(plain(bandwidth=8e9), plain(bandwidth=1e9), 4)
    # Of 8 GB 3/4 twice inside at 8 GB/s; between two nodes 1/4, half of it twice, at 1 GB/s.
    assert nodes.seconds("all_reduce", 8, 8e9) == pytest.approx(max(1.5, 2.0))
    assert nodes.seconds("all_gather", 8, 8e9) == pytest.approx(max(0.75, 1.0))
    assert nodes.seconds("reduce_scatter", 8, 8e9) == pytest.approx(max(0.75, 1.0))
    # Half of all parts for the other node; of the other half 3/4 for neighbours.
    assert nodes.seconds("all_to_all", 8, 8e9) == pytest.approx(max(0.375, 4.0))
    assert nodes.seconds("send_recv", 8, 8e9) == pytest.approx(8.0)


def test_small_messages_wait_for_the_start_of_both_levels() -> None:
    nodes = Interconnect(plain(launch=1.0), plain(launch=10.0), 4)
    assert nodes.seconds("all_reduce", 8, 0) == 1.0 + 10.0 + 1.0
    assert nodes.seconds("all_gather", 8, 0) == 10.0 + 1.0


def test_members_of_a_node_are_counted_by_stride_and_the_last_node_is_taken_as_full() -> None:
    inner, outer = plain("inner", launch=1.0), plain("outer", latency=1.0)
    nodes = Interconnect(inner, outer, 8)
    # Devices 0, 3 and 6 share a node; four such nodes hold ten members.
    assert nodes.seconds("all_gather", 10, 0, stride=3) == 1.0 + 3.0
    assert nodes.seconds("all_gather", 9, 0, stride=1) == 1.0 + 1.0


@given(st.sampled_from(known_collectives()), st.integers(1, 300), st.integers(1, 9), SIZES, SIZES)
def test_more_bytes_never_cost_less_across_nodes(
    collective: str, devices: int, stride: int, one: int, other: int
) -> None:
    nodes = Interconnect(find_fabric("nvlink4"), find_fabric("infiniband-400"), 8)
    less, more = sorted((one, other))
    quick = nodes.seconds(collective, devices, less, stride)
    assert 0 <= quick <= nodes.seconds(collective, devices, more, stride)


# Collectives.


@pytest.mark.parametrize("name", known_collectives())
def test_a_collective_moves_something_in_steps_that_do_not_fall(name: str) -> None:
    kind = find_collective(name)
    steps = [kind.steps(devices) for devices in range(2, 65)]
    assert steps == sorted(steps)
    assert steps[0] >= 1
    assert all(0 < kind.bus_factor(devices) <= 2 for devices in range(2, 65))
    assert kind.between
    for stage in (*kind.within, *kind.between):
        assert find_collective(stage.collective)
        assert 0 < stage.share(8, 4) <= 1


SIXTH = '''"""One tells everybody.  Size: what it tells."""

from ellm.sim.fabrics.collective import Collective, Stage, doublings, register, whole

register(
    Collective(
        name="broadcast",
        bus_factor=lambda devices: 1.0,
        steps=doublings,
        within=(Stage("broadcast", whole),),
        between=(Stage("broadcast", whole),),
    )
)
'''


@pytest.fixture
def sixth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "broadcast.py").write_text(SIXTH, encoding="utf-8")
    monkeypatch.setattr(collectives, "__path__", [*collectives.__path__, str(tmp_path)])
    yield "broadcast"
    REGISTERED.pop("broadcast", None)
    sys.modules.pop(f"{collectives.__name__}.broadcast", None)


def test_a_new_file_is_a_new_collective(sixth: str, tmp_path: Path) -> None:
    assert plain(launch=1.0).seconds(sixth, 8, 1e9) == 1.0 + 1.0
    nodes = Interconnect(plain(bandwidth=2e9), plain(latency=0.5), 8)
    assert nodes.seconds(sixth, 32, 1e9) == pytest.approx(1.0 + 2 * 0.5)
    assert sixth in known_collectives()
    mine = find_fabric(own(tmp_path, "all_reduce", sixth))
    assert mine.seconds(sixth, 2, 1500) == pytest.approx(15e-6)


def test_a_name_is_given_once_only() -> None:
    with pytest.raises(ConfigError, match="there is a collective all_reduce already: choose"):
        register(find_collective("all_reduce"))


def test_an_unknown_collective_or_fabric_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match="no collective is called 'gossip': known are all_g"):
        find_fabric("nvlink4").seconds("gossip", 2, 1)
    with pytest.raises(
        ConfigError, match="no fabric is called 'nvlink9': did you mean nvlink"
    ) as it:
        find_fabric("nvlink9")
    assert all(name in str(it.value) for name in known_fabrics())
    with pytest.raises(ConfigError, match="'infiniband' may be any of infiniband-200, inf"):
        find_fabric("infiniband")


# Somebody's own file.


def test_an_own_fabric_is_read_by_its_path(tmp_path: Path) -> None:
    mine = find_fabric(own(tmp_path))
    assert mine.seconds("all_reduce", 2, 1500) == pytest.approx(15e-6)
    assert mine.seconds("all_gather", 2, 1e9) == pytest.approx(1e-6 + 2e-6 + 1.0)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("latency = 2e-6\n", "", "latency is missing"),
        ("launch = 1e-6", "launch = -1", "launch must be a number of at least 0, not -1"),
        ("efficiency = 0.5", "efficiency = 2", "efficiency must be a number from 0 to 1, not 2"),
        ("efficiency = 0.5", "speed = 2", "speed means nothing here: known are name, bandwidth"),
        ("[1000, 2000]", "[2000, 1000]", "measured.all_reduce.bytes must rise from above 0"),
        ("[1000, 2000]", "[0, 1000]", "measured.all_reduce.bytes must rise from above 0"),
        ("[1000, 2000]", "[]", "measured.all_reduce.bytes must rise from above 0"),
        ("[1000, 2000]", "7", "measured.all_reduce.bytes must be a list of numbers, not 7"),
        ("[10, 20]", "[20, 10]", "measured.all_reduce.2 falls: a larger message must not be"),
        ("[10, 20]", "[10]", "measured.all_reduce.2 has 1 times for 2 sizes"),
        ("[10, 20]", '[10, "20"]', "measured.all_reduce.2 must be a number of at least 0"),
        ("2 = [10", "1 = [10", "measured.all_reduce.1 must be a number of devices, at least 2"),
        ("2 = [10", "two = [10", "measured.all_reduce.two must be a number of devices"),
        ("2 = [10, 20]\n", "", "measured.all_reduce has sizes and no times: add a list"),
        ("bytes = [1000, 2000]\n", "", "measured.all_reduce.bytes is missing"),
        (".all_reduce", ".all_reduced", "measured.all_reduced is not a collective: known are"),
        ('"a guess"', "1", "sources.bandwidth must be a text, not 1"),
    ],
)
def test_a_malformed_file_is_refused_by_its_key(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        find_fabric(own(tmp_path, old, new))
    assert said in str(caught.value)
    assert "mine.toml" in str(caught.value)
