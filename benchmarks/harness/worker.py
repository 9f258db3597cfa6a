"""A script in a process of its own, asked line by line, so that memory and threads are its own.

parent                               script
Worker(script, opening) ── opening ─▶ serve(open)       loads
                        ◀─ ready ────
ask(question) ─────────── question ─▶ answer(question)  works
                        ◀─ answer ───                   with cpu, peak_rss and other_cpus
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

from harness.machine import busy_seconds, cpu_seconds, forget_peak, peak_rss

Json = dict[str, Any]
LOG_TAIL = 3000
BENCHMARKS = Path(__file__).resolve().parents[1]


class Worker:
    """`script`, which calls `serve`, run by `python` and loaded with `opening`.

    A fresh one for every trial, or one for all: they are as many processes as there are workers.
    `environment` is added to this process's.
    """

    def __init__(
        self,
        script: Path,
        opening: Mapping[str, Any],
        python: str = sys.executable,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._script = script
        self._log = os.memfd_create("log")
        self._process = subprocess.Popen(
            [python, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "PYTHONPATH": _search_path(), **environment},
            text=True,
        )
        ready = self._exchange(opening)
        self.load_seconds: float = ready["load_seconds"]
        self.load_peak_rss: int = ready["peak_rss"]

    def ask(self, question: Mapping[str, Any]) -> Json:
        """The script's answer, with `cpu` (its seconds), `peak_rss` (bytes, while it answered),
        both with its children, and `other_cpus` (cores that everybody else kept busy)."""
        before, start = busy_seconds(), time.perf_counter()
        answer = self._exchange(question)
        wall = time.perf_counter() - start
        others = busy_seconds() - before - answer["cpu"]
        return {**answer, "other_cpus": round(max(others, 0.0) / wall, 3)}

    def _exchange(self, line: Mapping[str, Any]) -> Json:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # the log will say why
            self._process.stdin.write(json.dumps(line) + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            self._process.wait()
            raise SystemExit(f"{self._script} stopped:\n{self._tail()}")
        decoded: Json = json.loads(answer)
        return decoded

    def _tail(self) -> str:
        """The end of what the script has written to its standard error."""
        end = os.fstat(self._log).st_size
        return os.pread(self._log, LOG_TAIL, max(0, end - LOG_TAIL)).decode(errors="replace")

    def stop(self) -> None:
        """End the process; twice is harmless."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        os.close(self._log)

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def serve(load: Callable[[Json], Callable[[Json], Json]]) -> None:
    """Be a worker: `load(opening)` returns what answers every question, until there are no more."""
    protocol = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints goes to the log
    start = time.perf_counter()
    answer = load(json.loads(sys.stdin.readline()))
    ready = {"load_seconds": time.perf_counter() - start, "peak_rss": peak_rss()}
    print(json.dumps(ready), file=protocol)
    for line in sys.stdin:
        forget_peak()
        cpu = cpu_seconds()
        reply = answer(json.loads(line))
        spent = {"cpu": cpu_seconds() - cpu, "peak_rss": peak_rss()}
        print(json.dumps({**reply, **spent}), file=protocol)


def _search_path() -> str:
    known = os.environ.get("PYTHONPATH")
    return f"{BENCHMARKS}{os.pathsep}{known}" if known else str(BENCHMARKS)
