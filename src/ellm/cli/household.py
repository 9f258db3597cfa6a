"""The models of one server and their shares of its memory, as the command line states them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from ellm.cli.engine_options import MODEL_HELP
from ellm.core.errors import BudgetError, ConfigError
from ellm.core.units import format_bytes, parse_bytes, parse_seconds
from ellm.llm.args import EngineArgs

if TYPE_CHECKING:
    from ellm.server.backend import Fleet

Models = Annotated[
    list[str] | None,
    typer.Argument(metavar="MODEL", help=f"{MODEL_HELP}  Several share the memory."),
]
MoreModels = Annotated[
    list[str] | None,
    typer.Option("--model", help="The same, as a flag.  [default: ellm-base]"),
]
Names = Annotated[
    list[str] | None,
    typer.Option(
        "--served-model-name",
        help="The name that clients ask for; repeat it for each model, or for more names of one.",
    ),
]
IdleRelease = Annotated[
    float | None,
    typer.Option(
        "--idle-release",
        parser=parse_seconds,
        metavar="TIME",
        help="Let a model sleep that had no request for so long, as 5m; default never.",
    ),
]
Floors = Annotated[
    list[str] | None,
    typer.Option(
        "--model-floor", metavar="NAME=SIZE", help="Memory that others cannot take from a model."
    ),
]
Ceilings = Annotated[
    list[str] | None,
    typer.Option("--model-ceiling", metavar="NAME=SIZE", help="Most memory of a model."),
]


def name_models(
    args: EngineArgs, models: Sequence[str], names: Sequence[str]
) -> tuple[EngineArgs, ...]:
    """`args` for each of `models`, called by `names`: the first of them if there is one model.

    Raises ConfigError when names do not match, or are not unique.
    """
    if names and len(models) > 1 and len(names) != len(models):
        raise ConfigError(
            f"{len(models)} models and {len(names)} names: give --served-model-name once for each "
            "model, in their order"
        )
    called = [*names, *models[len(names) :]][: len(models)]
    for name in called:
        if called.count(name) > 1:
            raise ConfigError(
                f"{called.count(name)} models are called {name}: give --served-model-name once "
                "for each model, in their order"
            )
    return tuple(
        replace(args, model=model, served_model_name=name)
        for model, name in zip(models, called, strict=True)
    )


def read_shares(flag: str, texts: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """Bytes by model from `NAME=SIZE`.

    Raises ConfigError for other text, and for a model that is not among `names`.
    """
    shares: dict[str, int] = {}
    for text in texts:
        name, _, size = text.rpartition("=")
        if not name or not size:
            raise ConfigError(f"{flag} takes NAME=SIZE, as {names[0]}=512MiB, not {text!r}")
        if name not in names:
            raise ConfigError(
                f"{flag} {text}: no model is called {name}; served: {', '.join(names)}"
            )
        shares[name] = parse_bytes(size)
    return shares


@dataclass(frozen=True, slots=True)
class Household:
    """Models that share one memory.  `idle_release` is in seconds, None for never."""

    models: tuple[EngineArgs, ...]
    idle_release: float | None
    floors: Mapping[str, int]
    ceilings: Mapping[str, int]

    @classmethod
    def of(
        cls,
        models: tuple[EngineArgs, ...],
        idle_release: float | None,
        floors: Sequence[str],
        ceilings: Sequence[str],
    ) -> Household:
        """Raises ConfigError or BudgetError for shares that cannot be kept."""
        names = [str(args.served_model_name) for args in models]
        low = read_shares("--model-floor", floors, names)
        high = read_shares("--model-ceiling", ceilings, names)
        for name in low.keys() & high.keys():
            if low[name] > high[name]:
                floor, ceiling = format_bytes(low[name]), format_bytes(high[name])
                raise ConfigError(
                    f"{name} has a floor of {floor} above its ceiling of {ceiling}: lower "
                    "--model-floor or raise --model-ceiling"
                )
        memory, needed = models[0].memory, sum(low.values())
        assert not isinstance(memory, str), memory
        if memory is not None and needed > memory:
            raise BudgetError(
                f"the floors of {', '.join(low)} add up to {format_bytes(needed)}, and --memory is "
                f"{format_bytes(memory)}: lower --model-floor or raise --memory"
            )
        return cls(models, idle_release, low, high)

    @property
    def names(self) -> list[str]:
        return [str(args.served_model_name) for args in self.models]

    def open(self, progress: Callable[[int, int], None]) -> Fleet:
        """Load them all; raises what the engine raises."""
        from ellm.llm.fleet import AsyncFleet

        return AsyncFleet(
            self.models,
            idle_release=self.idle_release,
            floors=self.floors,
            ceilings=self.ceilings,
            progress=progress,
        )
