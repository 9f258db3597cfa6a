"""What was measured on a machine, for one model: the file that `ellm profile` writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ellm.core.errors import ConfigError
from ellm.core.load import StepLoad
from ellm.scheduling.coefficients import KNOTS, Coefficients
from ellm.scheduling.cost_fit import Accuracy
from ellm.sim.anatomy.formats import Formats
from ellm.sim.anatomy.transformer import Transformer
from ellm.sim.costs.stage import StageTime
from ellm.sim.devices.device import Device
from ellm.sim.devices.known import read_device
from ellm.sim.file_tier import FileTier
from ellm.sim.host import Host
from ellm.sim.table import Table

FORMAT = 1
_AGAIN = "measure again with ellm profile"
_KEYS = (
    "format", "made", "model", "device", "host", "coefficients", "serving", "accuracy",
    "steps", "decoding", "launched",
)  # fmt: skip
_OTHERS = ("attention", "kv_token", "sequence", "step")


@dataclass(frozen=True, slots=True)
class Modelled:
    """Which model, by name and by shape, and the format it is computed in."""

    name: str
    shape: str
    dtype: str

    @classmethod
    def of(cls, transformer: Transformer, formats: Formats) -> Modelled:
        return cls(transformer.name, shape_of(transformer), formats.activations)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """`coefficients` are those of the engine's steps; `serving` is what a server adds to them.
    A step with a prompt takes at least `launched` beside `serving`, where that was seen.

    `device` is the machine for other models, its overheads those of a server.  `made` says when,
    where and with what.  For a reader's eye only: `accuracy` by kind of step, some `steps` (tokens,
    attention, kv_tokens, sequences, seconds, and by how much the fit is off, 0.1 for 10 % above),
    and `decoding`: seconds a step while a server sends tokens to so many clients.
    """

    model: Modelled
    device: Device
    host: Host | None
    coefficients: Coefficients
    serving: Coefficients
    made: Mapping[str, Any]
    accuracy: Mapping[str, Accuracy]
    steps: Sequence[Sequence[float]]
    decoding: Sequence[Sequence[float]]
    launched: Coefficients | None = None
    where: str = "the profile"

    @property
    def formats(self) -> Formats:
        """Everything in the format that was measured."""
        return Formats(self.model.dtype, self.model.dtype, self.model.dtype)

    @property
    def served(self) -> StageTime:
        """Steps as a server runs them."""
        launched = None if self.launched is None else self.launched + self.serving
        return StageTime.of(1, {1: self.coefficients + self.serving}, (), launched)

    def knows(self, transformer: Transformer, formats: Formats) -> bool:
        """Whether it was measured with this model, in these formats."""
        same = replace(Modelled.of(transformer, formats), name=self.model.name) == self.model
        return same and formats == self.formats

    @classmethod
    def load(cls, path: Path) -> Profile:
        """What `save` wrote.  Raises ConfigError, saying what is wrong and what to do."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}; {_AGAIN}") from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path} is not JSON ({error}): {_AGAIN}") from error
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise ConfigError(f"{path} is no profile in format {FORMAT}: {_AGAIN}")
        return _read(Table(str(path), values), values)

    def save(self, path: Path) -> None:
        """Raises ConfigError where it cannot be written."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_lines(_as_json(self)) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot write the profile to {path}: {error.strerror}") from error


def shape_of(transformer: Transformer) -> str:
    """Everything of a model that its times depend on, as text."""
    blocks = (f"{count} x {block}" for block, count in transformer.kinds.items())
    ends = f"hidden {transformer.hidden}, vocabulary {transformer.vocab_size}"
    tied = ", tied" if transformer.tied else ""
    learned = f", {transformer.positions} positions" if transformer.positions else ""
    return f"{'; '.join(blocks)}; {ends}{tied}{learned}"


def is_profile(name: str) -> bool:
    """Whether what a user calls a device is the path of a profile."""
    return name.endswith(".json")


def _read(table: Table, values: Mapping[str, Any]) -> Profile:
    table.only(_KEYS)
    model, accuracy = table.table("model"), table.table("accuracy")
    return Profile(
        model=Modelled(model.text("name"), model.text("shape"), model.text("dtype")),
        device=read_device(table.table("device")),
        host=_host(table.table("host")) if "host" in values else None,
        coefficients=_coefficients(table.table("coefficients")),
        serving=_coefficients(table.table("serving")),
        made=values.get("made", {}),
        accuracy={kind: _accuracy(accuracy.table(kind)) for kind in accuracy},
        steps=_rows(table, "steps", len(StepLoad._fields) + 2),
        decoding=_rows(table, "decoding", 2),
        launched=_coefficients(table.table("launched")) if "launched" in values else None,
        where=str(table.where),
    )


def _host(table: Table) -> Host:
    table.only(("budget", "mappings", "threads", "tier"))
    tier = table.optional_table("tier")
    return Host(
        budget=table.integer("budget"),
        mappings=table.integer("mappings"),
        threads=table.integer("threads") if "threads" in tuple(table) else None,
        tier=FileTier(tier.positive("down"), tier.positive("up")) if len(tier) else None,
    )


def _coefficients(table: Table) -> Coefficients:
    table.only(("slopes", *_OTHERS))
    slopes = table.numbers("slopes")
    if len(slopes) != len(KNOTS):
        raise table.wrong("slopes", f"has {len(slopes)} numbers and not {len(KNOTS)}: {_AGAIN}")
    return Coefficients(slopes, *(table.number(name) for name in _OTHERS))


def _accuracy(table: Table) -> Accuracy:
    return Accuracy(table.integer("steps"), table.number("mean"), table.number("largest"))


def _rows(table: Table, key: str, width: int) -> tuple[tuple[float, ...], ...]:
    rows = table.rows(key)
    if any(len(row) != width for row in rows):
        raise table.wrong(key, f"has rows that are not {width} numbers: {_AGAIN}")
    return rows


def _as_json(profile: Profile) -> dict[str, Any]:
    host = profile.host
    found: dict[str, Any] = {
        "format": FORMAT,
        "made": dict(profile.made),
        "model": asdict(profile.model),
        "device": _device(profile.device),
        "coefficients": _values(profile.coefficients),
        "serving": _values(profile.serving),
        "accuracy": {kind: asdict(one) for kind, one in profile.accuracy.items()},
        "steps": profile.steps,
        "decoding": profile.decoding,
    }
    if profile.launched is not None:
        found["launched"] = _values(profile.launched)
    if host is not None:
        parts: dict[str, Any] = {
            "budget": host.budget,
            "mappings": host.mappings,
            "threads": host.threads,
            "tier": None if host.tier is None else asdict(host.tier),
        }
        found["host"] = {key: value for key, value in parts.items() if value is not None}
    return found


def _device(device: Device) -> dict[str, Any]:
    efficiency = {**asdict(replace(device.efficiency, formats={}))}
    efficiency["formats"] = dict(device.efficiency.formats)
    flat = {
        name: getattr(device, name)
        for name in Device.__dataclass_fields__
        if name not in ("flops", "efficiency", "overhead", "sources", "driver")
    }
    return flat | {
        "flops": dict(device.flops),
        "efficiency": efficiency,
        "overhead": asdict(device.overhead),
        "sources": dict(device.sources),
    }


def _values(coefficients: Coefficients) -> dict[str, Any]:
    others = {name: getattr(coefficients, name) for name in _OTHERS}
    return {"slopes": list(coefficients.slopes), **others}


def _lines(values: Any, depth: int = 0) -> str:
    """JSON with a line for each entry of an object, and for each row of a table."""
    inner = "\n" + " " * (depth + 1)
    if isinstance(values, dict) and values:
        entries = (f"{json.dumps(key)}: {_lines(values[key], depth + 1)}" for key in values)
        return "{" + inner + f",{inner}".join(entries) + "\n" + " " * depth + "}"
    if isinstance(values, list | tuple) and values and isinstance(values[0], list | tuple):
        rows = (json.dumps(row) for row in values)
        return "[" + inner + f",{inner}".join(rows) + "\n" + " " * depth + "]"
    return json.dumps(values)
