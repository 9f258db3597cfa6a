"""The devices there are figures for; `catalogue/` has a file for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from types import MappingProxyType

from ellm.sim.catalogue import Catalogue
from ellm.sim.devices.device import NUMBER_FORMATS, Device, DriverCalls, Efficiency, Overhead
from ellm.sim.table import Table


def find_device(name_or_path: str | Path) -> Device:
    """The device of this name ("H100", "a100-80gb"), or of somebody's own .toml file.

    Raises ConfigError with the names that are close, or the key that is wrong in the file.
    """
    return _CATALOGUE.find(name_or_path)


def known_devices() -> tuple[str, ...]:
    return _CATALOGUE.names()


def read_device(table: Table) -> Device:
    """A device as a table has it.  Raises ConfigError, naming the key that is wrong."""
    table.only(_names(Device))
    table.needs(_NEEDED, "examples/simulate/my-gpu.toml has them all")
    idle, busy = table.number("idle_watts"), table.number("busy_watts")
    if idle > busy:
        raise table.wrong("idle_watts", f"({idle:g}) is more than busy_watts ({busy:g})")
    return Device(
        name=table.text("name"),
        memory=table.integer("memory"),
        bandwidth=table.positive("bandwidth"),
        flops=_flops(table),
        host_bandwidth=table.positive("host_bandwidth"),
        per_node=table.integer("per_node"),
        fabric=table.text("fabric"),
        network=table.text("network"),
        idle_watts=idle,
        busy_watts=busy,
        efficiency=_efficiency(table.table("efficiency")),
        overhead=_overhead(table.table("overhead")),
        sources=MappingProxyType(table.optional_table("sources").texts()),
        driver=_driver(table.optional_table("driver")),
    )


def _flops(table: Table) -> Mapping[str, float]:
    flops = table.table("flops")
    flops.only(NUMBER_FORMATS)
    if not flops:
        raise table.wrong("flops", f"is empty: give at least one of {', '.join(NUMBER_FORMATS)}")
    return MappingProxyType({key: flops.positive(key) for key in flops})


def _efficiency(table: Table) -> Efficiency:
    table.only(_names(Efficiency))
    formats = table.optional_table("formats")
    formats.only(NUMBER_FORMATS)
    return Efficiency(
        matmul=table.share("matmul"),
        attention=table.share("attention"),
        bandwidth=table.share("bandwidth"),
        formats=MappingProxyType({key: formats.share(key) for key in formats}),
    )


def _overhead(table: Table) -> Overhead:
    table.only(_names(Overhead))
    return Overhead(**{name: table.number(name) for name in table})


def _driver(table: Table) -> DriverCalls | None:
    names = _names(DriverCalls)
    table.only(names)
    return DriverCalls(**{name: table.number(name) for name in names}) if len(table) else None


def _names(
    kind: type[Device] | type[Efficiency] | type[Overhead] | type[DriverCalls],
) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def _needed() -> Iterator[str]:
    """Keys that every device has, those of its tables with dots in them."""
    inner = {
        "efficiency": ("matmul", "attention", "bandwidth"),
        "overhead": [field.name for field in fields(Overhead) if field.default is MISSING],
    }
    for field in fields(Device):
        if field.name in inner:
            yield from (f"{field.name}.{key}" for key in inner[field.name])
        elif field.name not in ("sources", "driver"):
            yield field.name


_NEEDED = tuple(_needed())
_CATALOGUE = Catalogue("device", Path(__file__).with_name("catalogue"), read_device)
