"""One question to every engine: on which model, what is asked of each, and which figures result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from engines import Engine, InProcess
from formats import converted
from server import Server
from setting import Setting

from harness.random_llama import RandomLlama

Prompt = Callable[[int], list[int]]
"""A new prompt of so many random tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario(ABC):
    """`arms` are the engines it is for, fastest to load first; ratios are to `baseline`.

    `once` has arms that only the first round measures: at minutes a trial and far from the others,
    more says nothing.  `smaller` is what a quick run changes.
    """

    name: str
    model: RandomLlama
    arms: tuple[str, ...]
    baseline: str
    rounds: int
    once: frozenset[str] = frozenset()
    smaller: Mapping[str, Any] = field(default_factory=dict)
    # Over HTTP even where an engine can be called.
    served: ClassVar[bool] = False

    @property
    @abstractmethod
    def figures(self) -> dict[str, str]:
        """What a trial measures, and in words."""

    @abstractmethod
    def warm_up(self, engine: Engine, prompt: Prompt) -> None:
        """Reach the shapes that are measured."""

    @abstractmethod
    def trial(self, engine: Engine, prompt: Prompt) -> dict[str, float]:
        """One value of every figure, and whatever else a reader may ask for."""

    @abstractmethod
    def setting(self, model: str, threads: int) -> Setting:
        """What the engines are opened with."""

    def shares(
        self, figures: Mapping[str, Any], limits: Mapping[str, Any] | None
    ) -> dict[str, float]:
        """How much of the machine's limits an engine's figures are, where that can be said."""
        return {}

    def open(self, arm: str, threads: int) -> Engine:
        """The engine, loaded; what it reads is converted first if this is the first time."""
        setting = self.setting(str(converted(self.model.cached(), arm)), threads)
        return (Server if self.served or arm == "llama.cpp" else InProcess)(arm, setting)

    def quick(self) -> Self:
        return replace(self, **self.smaller)
