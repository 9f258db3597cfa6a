"""An engine that runs beside this process, and what it was seen to take."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from peers import environment, python
from setting import Setting

from harness.worker import Worker

Prompts = Sequence[Sequence[int]]
HERE = Path(__file__).resolve().parent


class Engine(ABC):
    """`peak_rss` is bytes of its whole process tree; `other_cpus` has, for each call since the
    warm-up, how many cores others kept busy."""

    name: str
    load_seconds: float
    peak_rss: int
    other_cpus: list[float]

    @abstractmethod
    def seconds(self, prompts: Prompts, n: int) -> float:
        """Time in which the engine continues every prompt, all given at once, by n tokens."""

    @abstractmethod
    def stop(self) -> None:
        """End its processes."""

    def report(self) -> dict[str, Any]:
        return {
            "peak_rss": self.peak_rss,
            "load_seconds": self.load_seconds,
            "other_cpus": median(self.other_cpus),
        }


class InProcess(Engine):
    """A Python engine in a worker process, called without HTTP."""

    def __init__(self, name: str, setting: Setting) -> None:
        self.name = name
        opening = {"engine": name, "setting": asdict(setting)}
        self._worker = Worker(HERE / "worker.py", opening, python(name), environment(name, setting))
        self.load_seconds = self._worker.load_seconds
        self.peak_rss = self._worker.load_peak_rss
        self.other_cpus: list[float] = []

    def seconds(self, prompts: Prompts, n: int) -> float:
        answer = self._worker.ask({"prompts": prompts, "n": n})
        assert answer["tokens"] == n * len(prompts), (self.name, answer, n, len(prompts))
        self.peak_rss = max(self.peak_rss, answer["peak_rss"])
        self.other_cpus.append(answer["other_cpus"])
        return float(answer["seconds"])

    def stop(self) -> None:
        self._worker.stop()
