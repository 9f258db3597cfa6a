"""The server in this process, and a client of it in another one."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from ellm.core.errors import EngineDead
from ellm.llm.args import EngineArgs
from ellm.llm.fleet import AsyncFleet
from ellm.server.app import create_app
from ellm.server.inflight import InFlight
from ellm.server.process import settle_process
from ellm.server.serve import DrainingServer, address, bind, uvicorn_config
from ellm.server.settings import ServerSettings

# How long the server may take to listen and to stop, in seconds.
_PATIENCE = 30.0


@contextmanager
def serving(args: EngineArgs) -> Iterator[str]:
    """Its URL, on a port that is free."""
    fleet = AsyncFleet([args])
    try:
        settings = ServerSettings(port=0)
        listener, inflight = bind(settings), InFlight()
        config = uvicorn_config(create_app(fleet, settings, inflight), settings)
        settle_process()
        server = DrainingServer(config, inflight, settings.shutdown_timeout)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            _await(server)
            yield address(settings, listener)
        finally:
            server.should_exit = True
            thread.join(_PATIENCE)
    finally:
        fleet.close()


def _await(server: DrainingServer) -> None:
    limit = time.monotonic() + _PATIENCE
    while not server.started:
        if time.monotonic() > limit:
            raise EngineDead(f"the server does not listen after {_PATIENCE:g} s")
        time.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Heard:
    """What one request went through: `sent` on the client's clock, the rest in seconds after.

    `ended` is when the whole answer was there; `gaps` are those between tokens.
    """

    sent: float
    ttft: float
    last: float
    ended: float
    gaps: Sequence[float]

    @property
    def tokens(self) -> list[float]:
        """When each token came, on the client's clock."""
        return list(accumulate(self.gaps, initial=self.sent + self.ttft))


class Client:
    """Asks `url` from a process of its own."""

    def __init__(self, url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ellm.cli.profiling.caller", url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(
        self,
        prompts: Sequence[Sequence[int]],
        output: int,
        beside: Sequence[Sequence[int]] = (),
    ) -> list[Heard]:
        """All `prompts` at once, each for `output` tokens; until one of them is answered those
        `beside` them, one after the other, for one token each.  Answers come in that order."""
        return self._exchange({"prompts": prompts, "output": output, "beside": beside})

    def _exchange(self, question: dict[str, Any]) -> list[Heard]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise EngineDead("the client of the profile has stopped")
        return [Heard(*answer) for answer in json.loads(line)]

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(_PATIENCE)
        self._process.stdout.close()
