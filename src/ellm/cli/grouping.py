"""Flags that belong together, as one dataclass that several commands take."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, get_type_hints


def grouped(*groups: type) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Turn each parameter of a command whose type is one of `groups` into flags, one for each of
    its fields, which are annotated as typer wants it.  Every field has a default.
    """

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        own = inspect.signature(command, eval_str=True)
        made = {p.name: p.annotation for p in own.parameters.values() if p.annotation in groups}
        flags = {name: _flags(group) for name, group in made.items()}
        rest = [
            p.replace(kind=p.KEYWORD_ONLY) for p in own.parameters.values() if p.name not in made
        ]

        def wrapper(*args: Any, **given: Any) -> int:
            for name, group in made.items():
                given[name] = group(**{flag.name: given.pop(flag.name) for flag in flags[name]})
            return command(*args, **given)

        every = [*rest, *(flag for some in flags.values() for flag in some)]
        # Where typer looks for flags; functions are not declared to have one.
        wrapper.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in every}
        wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
        return wrapper

    return decorate


def _flags(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    found = []
    for field in fields(group):
        assert field.default is not MISSING, (group, field.name)
        found.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=hints[field.name],
            )
        )
    return found
