"""A workload on the server itself: `ellm serve` and the client of `ellm bench serve`."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from ellm.cli.bench.client import Endpoint, Outcome, Target
from ellm.cli.bench.load import apply_load
from ellm.cli.bench.question import Question, questions
from ellm.sim.workload.item import Item
from ellm.sim.workload.lengths import fixed
from harness.machine import busy_seconds, cpu_seconds

HOST = "127.0.0.1"
ELLM = (sys.executable, "-m", "ellm")
LOG_TAIL = 3000
# Asked before anything counts: heights of steps are met, memory is touched.
WARM_UP = ((8, 64, 16), (4, 200, 8), (16, 16, 8))


class Server:
    """Started with `args` of EngineArgs, and waited for."""

    def __init__(self, args: Mapping[str, Any], home: Path) -> None:
        self._log = os.memfd_create("log")
        port = _free_port()
        self.url = f"http://{HOST}:{port}"
        self._process = subprocess.Popen(
            [*ELLM, "serve", *flags(args), "--host", HOST, "--port", str(port)],
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, "XDG_CACHE_HOME": str(home)},
        )
        self._wait()

    def serve(
        self, items: Sequence[Item], model: str, seed: int
    ) -> tuple[list[Outcome], float, float]:
        """What became of each request, after some that do not count; seconds in all, and cores
        that other processes kept busy meanwhile."""
        target = Target(self.url, (model,), Endpoint.COMPLETIONS, ignore_eos=True)
        for number, (count, prompt, output) in enumerate(WARM_UP):
            self._ask(target, questions(fixed(count, prompt, output), -1 - number))
        busy, own = busy_seconds(), self._cpu_seconds()
        outcomes, duration = self._ask(target, questions(items, seed))
        others = busy_seconds() - busy - (self._cpu_seconds() - own)
        return outcomes, duration, round(max(0.0, others) / duration, 3)

    def _ask(self, target: Target, asked: Sequence[Question]) -> tuple[list[Outcome], float]:
        outcomes, duration = asyncio.run(apply_load(target, asked, None, lambda: None))
        for outcome in outcomes:
            assert outcome.error is None, outcome.error
        return outcomes, duration

    def _cpu_seconds(self) -> float:
        """The server's and the client's, which is this process."""
        return cpu_seconds(self._process.pid) + time.process_time()

    def _wait(self) -> None:
        while self._process.poll() is None:
            try:
                with urlopen(f"{self.url}/health"):
                    return
            except (URLError, OSError):
                time.sleep(0.1)
        size = os.fstat(self._log).st_size
        tail = os.pread(self._log, LOG_TAIL, max(0, size - LOG_TAIL))
        raise SystemExit(f"the server stopped:\n{tail.decode(errors='replace')}")

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._log)


def flags(args: Mapping[str, Any]) -> list[str]:
    """As the command line has them."""
    found = []
    for name, value in args.items():
        flag = f"--{name.replace('_', '-')}"
        if value is False:
            found.append(flag.replace("--", "--no-", 1))
        else:
            found += [flag, str(value)]
    return found


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((HOST, 0))
        return int(found.getsockname()[1])
