"""The fabrics there are figures for; `catalogue/` has a file for each."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

from ellm.sim.catalogue import Catalogue
from ellm.sim.fabrics.discovery import known_collectives
from ellm.sim.fabrics.fabric import Fabric
from ellm.sim.fabrics.measured import Measured
from ellm.sim.table import Table

MICROSECOND = 1e-6


def find_fabric(name_or_path: str | Path) -> Fabric:
    """The fabric of this name ("nvlink4"), or of somebody's own .toml file.

    Raises ConfigError with the names that are close, or the key that is wrong in the file.
    """
    return _CATALOGUE.find(name_or_path)


def known_fabrics() -> tuple[str, ...]:
    return _CATALOGUE.names()


def _read(table: Table) -> Fabric:
    table.only(("name", "bandwidth", "efficiency", "launch", "latency", "measured", "sources"))
    measured = table.optional_table("measured")
    return Fabric(
        name=table.text("name"),
        bandwidth=table.number("bandwidth"),
        efficiency=table.share("efficiency"),
        launch=table.number("launch"),
        latency=table.number("latency"),
        measured=MappingProxyType({key: _rows(measured, key) for key in measured}),
        sources=MappingProxyType(table.optional_table("sources").texts()),
    )


def _rows(measured: Table, collective: str) -> Mapping[int, Measured]:
    """By number of devices; times are microseconds in the file."""
    if collective not in known_collectives():
        known = ", ".join(known_collectives())
        raise measured.wrong(collective, f"is not a collective: known are {known}")
    table = measured.table(collective)
    sizes = table.numbers("bytes")
    if not sizes or sizes[0] <= 0 or any(right <= left for left, right in pairwise(sizes)):
        raise table.wrong("bytes", "must rise from above 0")
    rows = {_devices(table, key): _row(table, key, sizes) for key in table if key != "bytes"}
    if not rows:
        raise measured.wrong(collective, "has sizes and no times: add a list by number of devices")
    return MappingProxyType(rows)


def _devices(table: Table, key: str) -> int:
    if not key.isdecimal() or int(key) < 2:
        raise table.wrong(key, "must be a number of devices, at least 2")
    return int(key)


def _row(table: Table, key: str, sizes: tuple[float, ...]) -> Measured:
    times = table.numbers(key)
    if len(times) != len(sizes):
        raise table.wrong(key, f"has {len(times)} times for {len(sizes)} sizes")
    if any(right < left for left, right in pairwise(times)):
        raise table.wrong(key, "falls: a larger message must not be quicker")
    return Measured(sizes, tuple(time * MICROSECOND for time in times))


_CATALOGUE = Catalogue("fabric", Path(__file__).with_name("catalogue"), _read)
