"""Devices: the figures of the catalogue, and finding one among them or in somebody's file."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ellm.core.errors import ConfigError
from ellm.sim.devices import known
from ellm.sim.devices.device import Device
from ellm.sim.devices.known import find_device, known_devices
from ellm.sim.fabrics.known import known_fabrics

FILES = sorted(Path(known.__file__).with_name("catalogue").glob("*.toml"))
H100 = next(path for path in FILES if path.stem == "h100")
# What benchmarks/published-h100 fits.
CALIBRATED = sorted(Path(__file__).parents[2].glob("benchmarks/published-h100/h100-*.toml"))
OWN = """
name = "Mine"
memory = 1_000_000
bandwidth = 1e9
host_bandwidth = 1e8
per_node = 2
fabric = "pcie4"
network = "none"
idle_watts = 1
busy_watts = 10

[flops]
bf16 = 1e12
fp8 = 2e12

[efficiency]
matmul = 0.5
attention = 0.25
bandwidth = 0.8

[efficiency.formats]
fp8 = 0.4

[overhead]
step = 1e-4
layer = 1e-5
launch = 0
sequence = 0
request = 0.0
completion = 0.0
prompt_token = 0.0
output_token = 0.0
"""


def figures(table: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The path of every figure of a file."""
    for key, value in table.items():
        if path or key not in ("name", "sources"):
            yield from figures(value, f"{path}{key}.") if isinstance(value, dict) else [path + key]


def value_of(table: Mapping[str, Any], path: str) -> Any:
    for key in path.split("."):
        table = table[key]
    return table


def own(folder: Path, old: str = "", new: str = "") -> Path:
    """Somebody's file, with `old` replaced."""
    assert old in OWN
    path = folder / "mine.toml"
    path.write_text(OWN.replace(old, new) if old else OWN, encoding="utf-8")
    return path


def complaint(folder: Path, old: str, new: str) -> str:
    with pytest.raises(ConfigError) as caught:
        find_device(own(folder, old, new))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_file_is_a_device_that_is_found_by_its_name() -> None:
    assert len(known_devices()) == len(FILES) >= 12
    for path in FILES:
        device = find_device(path)
        assert find_device(device.name) == device
        assert device.fabric in known_fabrics()
        assert device.network in known_fabrics()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_figure_has_a_source_and_every_source_a_figure(path: Path) -> None:
    sources = find_device(path).sources
    every = set(figures(tomllib.loads(path.read_text(encoding="utf-8"))))
    parents = {"flops"}
    for figure in every:
        assert figure in sources or figure.split(".")[0] in parents, figure
    assert set(sources) <= every | parents
    assert "https://" in sources["bandwidth"]
    assert "https://" in sources["flops"]
    assert "https://" in sources["busy_watts"]


@pytest.mark.parametrize("path", CALIBRATED, ids=lambda path: path.stem)
def test_a_calibrated_device_differs_in_what_its_sources_say(path: Path) -> None:
    ours, sheet = (tomllib.loads(file.read_text(encoding="utf-8")) for file in (path, H100))
    assert find_device(path).fabric in known_fabrics()
    changed = {name for name in figures(ours) if value_of(ours, name) != value_of(sheet, name)}
    fitted = {name for name, text in ours["sources"].items() if text.startswith("Fitted")}
    assert fitted <= changed
    assert {"overhead.layer", "overhead.launch"} <= fitted


@pytest.mark.parametrize("name", known_devices())
def test_a_device_is_plausible(name: str) -> None:
    device = find_device(name)
    # Operations by byte at which products turn from the memory's pace to the multipliers'.
    ridge = device.matmul_flops("bf16") / device.reached_bandwidth()
    assert 100 < ridge < 400
    assert device.host_bandwidth <= device.bandwidth
    assert device.idle_watts < device.busy_watts / 2
    assert 2**33 < device.memory < 2**40
    assert device.flops["bf16"] >= device.flops.get("fp32", 0)
    for faster in ("fp8", "int8"):
        if faster in device.flops:
            assert device.flops[faster] / device.flops["bf16"] == pytest.approx(2, rel=0.02) or (
                name == "RTX-4090"  # its sums of fp8 are wider than those of int8
            )
            assert device.matmul_flops(faster) >= device.matmul_flops("bf16")


def test_later_devices_are_faster() -> None:
    devices = [find_device(name) for name in ("A100-80GB", "H100", "H200", "B200")]
    for earlier, later in pairwise(devices):
        assert later.reached_bandwidth() > earlier.reached_bandwidth()
        assert later.matmul_flops("bf16") >= earlier.matmul_flops("bf16") * 0.97
    small, large = find_device("A100-40GB"), find_device("A100-80GB")
    assert small.flops == large.flops
    assert (small.memory, small.bandwidth) < (large.memory, large.bandwidth)


# Microseconds of products of (m, 8192) with (8192, n) in bfloat16, measured in vLLM 0.14 (A100)
# and 0.24: https://github.com/ai-dynamo/aiconfigurator (commit 095f58a), systems/data/*/gemm.
MEASURED = {
    "A100-80GB": (96.9, 122.2, 100.8, 990.8, 4716.8),
    "H100": (51.6, 62.7, 47.4, 366.3, 1842.9),
    "H200": (34.9, 47.3, 37.0, 337.2, 1847.4),
    "B200": (23.8, 31.3, 23.3, 186.0, 855.5),
    "L40S": (193.6, 239.3, 235.9, 1134.8, 5294.1),
}
# Microseconds that such a product takes whatever its size: "efficiency.matmul" of the sources.
CONSTANT = {"A100-80GB": 7.0, "H100": 4.0, "H200": 4.5, "B200": 4.0, "L40S": 0.5}
SHAPES = ((1, 8192), (16, 10240), (64, 8192), (2048, 8192), (8192, 10240))


@pytest.mark.parametrize("name", MEASURED)
def test_the_shares_give_measured_products(name: str) -> None:
    device = find_device(name)
    for (m, n), microseconds in zip(SHAPES, MEASURED[name], strict=True):
        moved = 2 * (m * 8192 + 8192 * n + m * n) / device.reached_bandwidth()
        multiplied = 2 * m * n * 8192 / device.matmul_flops("bf16")
        modelled = CONSTANT[name] + max(moved, multiplied) * 1e6
        assert modelled == pytest.approx(microseconds, rel=0.15)


@pytest.mark.parametrize("name", CONSTANT)
def test_the_overhead_of_a_layer_holds_the_constant_of_its_products(name: str) -> None:
    device = find_device(name)
    assert f"Constant {CONSTANT[name]} µs a product" in device.sources["efficiency.matmul"]
    # Four: queries with keys and values, output, gate with up, down.
    assert 4 * CONSTANT[name] * 1e-6 <= device.overhead.layer


def test_a_format_has_its_own_share_or_the_common_one(tmp_path: Path) -> None:
    device = find_device(own(tmp_path))
    assert device.matmul_flops("bf16") == 1e12 * 0.5
    assert device.matmul_flops("fp8") == 2e12 * 0.4
    assert device.reached_bandwidth() == 1e9 * 0.8
    with pytest.raises(ConfigError, match="Mine does not multiply in fp4: it has bf16, fp8"):
        device.matmul_flops("fp4")


@given(st.sampled_from(known_devices()), st.data())
def test_case_and_punctuation_of_a_name_count_for_nothing(name: str, data: st.DataObject) -> None:
    written = ""
    for letter in name:
        written += data.draw(st.sampled_from((letter.lower(), letter.upper())))
        written += data.draw(st.sampled_from(("", "-", "_", " ")))
    assert find_device(written).name == name


@pytest.mark.parametrize(
    ("part", "name"), [("l4", "L4"), ("4090", "RTX-4090"), ("8480", "Xeon-8480+"), ("b2", "B200")]
)
def test_a_part_of_a_name_will_do_where_one_has_it(part: str, name: str) -> None:
    assert find_device(part).name == name


def test_what_may_be_several_is_refused_with_their_names() -> None:
    with pytest.raises(ConfigError, match="'a100' may be any of A100-40GB, A100-80GB: write"):
        find_device("a100")


@pytest.mark.parametrize("name", ["H300", "h10o", "", "--"])
def test_an_unknown_name_is_refused_with_all_that_are_known(name: str) -> None:
    with pytest.raises(ConfigError, match=f"no device is called '{name}'") as caught:
        find_device(name)
    for known_name in known_devices():
        assert known_name in str(caught.value)
    if name:
        assert ("did you mean" in str(caught.value)) == (name != "--")


def test_the_closest_name_comes_first() -> None:
    with pytest.raises(ConfigError, match="did you mean H100"):
        find_device("h10o")


def test_somebodys_own_file_is_read_by_its_path(tmp_path: Path) -> None:
    path = own(tmp_path)
    assert find_device(str(path)) == find_device(path)
    device = find_device(path)
    assert isinstance(device, Device)
    assert (device.name, device.overhead.sequence, device.sources) == ("Mine", 0.0, {})
    assert device.driver is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("memory = 1_000_000\n", "", "memory is missing"),
        ("memory = 1_000_000", "memory = 1.5", "memory must be a whole number of at least 1"),
        ("memory = 1_000_000", "memory = true", "memory must be a whole number"),
        ("per_node = 2", "per_node = 0", "per_node must be a whole number of at least 1, not 0"),
        ("bandwidth = 1e9", "bandwidth = 0", "bandwidth must be above 0"),
        ("bandwidth = 1e9", "bandwidth = -1", "bandwidth must be a number of at least 0, not -1"),
        ("bandwidth = 1e9", "bandwidth = nan", "bandwidth must be a number of at least 0"),
        ("bandwidth = 1e9", 'bandwidth = "1e9"', "bandwidth must be a number of at least 0"),
        ('"pcie4"', "4", "fabric must be a text, not 4"),
        ('"Mine"', '""', "name must be a text, not ''"),
        ("idle_watts = 1", "idle_watts = 11", "idle_watts (11) is more than busy_watts (10)"),
        ("idle_watts", "idle_wats", "idle_wats means nothing here: did you mean idle_watts?"),
        ("[flops]", "[speeds]", "speeds means nothing here: known are name, memory"),
        ("bf16 = 1e12\nfp8 = 2e12\n", "", "flops is empty: give at least one of fp32, bf16"),
        ("bf16 = 1e12", "bf61 = 1e12", "flops.bf61 means nothing here: did you mean bf16?"),
        ("matmul = 0.5", "matmul = 1.4", "efficiency.matmul must be a number from 0 to 1, not 1.4"),
        ("matmul = 0.5", "matmul = 0", "efficiency.matmul must be above 0 and at most 1, not 0"),
        ("fp8 = 0.4", "fp8 = 4", "efficiency.formats.fp8 must be a number from 0 to 1, not 4"),
        ("layer = 1e-5\n", "", "overhead.layer is missing"),
        ("memory = 1_000_000\nbandwidth = 1e9\n", "", "memory, bandwidth are missing"),
        ("[overhead]", "[sources]\nmemory = 1\n[overhead]", "sources.memory must be a text, not 1"),
        ("per_node = 2", "efficiency = 2\nper_node = 2", "is not TOML"),
        ("[efficiency.formats]\nfp8 = 0.4", "formats = 4", "efficiency.formats must be a table"),
        ("[overhead]", "[driver]\ncreate = 1\n[overhead]", "driver.destroy is missing"),
        ("[overhead]", "[driver]\nfree = 1\n[overhead]", "driver.free means nothing here"),
        ("name = ", "name ", "is not TOML"),
    ],
)
def test_a_malformed_file_is_refused_by_its_key(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    message = complaint(tmp_path, old, new)
    assert said in message
    assert "mine.toml" in message


def test_all_keys_that_are_missing_are_named_at_once(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('name = "Mine"\n')
    with pytest.raises(ConfigError, match=r"memory, bandwidth, flops, .*my-gpu\.toml") as refusal:
        find_device(file)
    assert "efficiency.matmul, efficiency.attention" in str(refusal.value)
    assert "overhead.output_token" in str(refusal.value)


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*absent\.toml: No such file"):
        find_device(str(tmp_path / "absent.toml"))
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not TOML"):
        find_device(binary)
