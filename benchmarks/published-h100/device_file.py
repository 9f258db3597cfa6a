"""Devices as TOML files, as `find_device` reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

from ellm.sim.devices.device import Device, Efficiency, Overhead

FORMATS = "efficiency.formats."


def changed(device: Device, figures: Mapping[str, float]) -> Device:
    """The device with those shares and overheads instead of its own."""
    for name, value in figures.items():
        if name.startswith(FORMATS):
            formats = {**device.efficiency.formats, name.removeprefix(FORMATS): value}
            device = replace(device, efficiency=replace(device.efficiency, formats=formats))
        else:
            table, key = name.split(".")
            part = replace(getattr(device, table), **{key: value})
            device = replace(device, **{table: part})
    return device


def write(path: Path, device: Device, what: str, sources: Mapping[str, str]) -> None:
    """`what` is the comment in the first line."""
    tables = ("flops", "efficiency", "overhead", "sources")
    plain = [field.name for field in fields(Device) if field.name not in tables]
    lines = [f"# {what}", *(_line(name, getattr(device, name)) for name in plain)]
    shares = {f.name: getattr(device.efficiency, f.name) for f in fields(Efficiency)}
    overhead = {f.name: getattr(device.overhead, f.name) for f in fields(Overhead)}
    formats = shares.pop("formats")
    for title, table in (
        ("flops", device.flops),
        ("efficiency", shares),
        ("efficiency.formats", formats),
        ("overhead", overhead),
        ("sources", {f'"{name}"': text for name, text in sources.items()}),
    ):
        lines += ["", f"[{title}]", *(_line(key, value) for key, value in table.items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _line(key: str, value: str | float) -> str:
    return f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value!r}"
