"""Listens until told to stop, then lets running requests finish."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import time
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from ellm.core.errors import ConfigError
from ellm.server.app import create_app
from ellm.server.backend import Fleet
from ellm.server.inflight import InFlight
from ellm.server.process import settle_process
from ellm.server.settings import ServerSettings
from ellm.server.watch import Watch

# How long answers of aborted requests may take to reach their clients, in seconds.
_FAREWELL = 5
# Launchers such as timeout(1) signal a process and then its group: in this many seconds after a
# signal another one is taken for its echo.
_ECHO = 1.0
# Above the idle time of common clients' connection pools, so that they close first.
_KEEP_ALIVE = 75
_BACKLOG = 2048
_log = logging.getLogger("ellm.server")


def bind(settings: ServerSettings) -> socket.socket:
    """The listening socket, so that a taken port is found before a model is loaded.

    Raises ConfigError.
    """
    try:
        if settings.uds is not None:
            return _bind_unix(settings.uds)
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((settings.host, settings.port))
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        place = settings.uds or f"{settings.host}:{settings.port}"
        hint = "choose another with --host, --port or --uds"
        raise ConfigError(f"cannot listen on {place}: {error.strerror}; {hint}") from error
    return listener


def serve(fleet: Fleet, settings: ServerSettings, listener: socket.socket | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit status for the process.

    The first signal drains: new work gets 503, running work has `shutdown_timeout` seconds.  One
    that comes more than a second later ends the process at once.  `fleet` is closed on return.
    Logs go to stderr unless the caller has set up logging: faults, changes of models and memory,
    and where asked for a line for each request.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    _log.setLevel(logging.INFO if settings.enable_log_requests else logging.WARNING)
    logging.getLogger(Watch.__module__).setLevel(logging.INFO)
    try:
        listener = bind(settings) if listener is None else listener
        inflight = InFlight()
        config = uvicorn_config(create_app(fleet, settings, inflight), settings)
        settle_process()
        own = [info.name for info in fleet.models]
        names = ", ".join([*(settings.served_model_names or own[:1]), *own[1:]])
        banner = f"eLLM serves {names} on {address(settings, listener)}"
        server = DrainingServer(config, inflight, settings.shutdown_timeout, banner, Watch(fleet))
        server.run(sockets=[listener])
    finally:
        fleet.close()
        if settings.uds is not None:
            Path(settings.uds).unlink(missing_ok=True)
    return 0


def uvicorn_config(app: FastAPI, settings: ServerSettings) -> uvicorn.Config:
    """Quiet, and patient with clients that keep connections for later."""
    return uvicorn.Config(
        app,
        root_path=settings.root_path,
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=_FAREWELL,
        backlog=_BACKLOG,
    )


def address(settings: ServerSettings, listener: socket.socket) -> str:
    """Where a client on this machine finds the server."""
    if settings.uds is not None:
        return f"unix:{settings.uds}"
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class DrainingServer(uvicorn.Server):
    """Stops in two stages: it keeps answering (503 to new work) until running work is done.

    `banner` is printed once requests and signals are taken, None prints nothing.  `watch` None logs
    no changes of the fleet.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        inflight: InFlight,
        timeout: float,
        banner: str | None = None,
        watch: Watch | None = None,
    ) -> None:
        super().__init__(config)
        self._inflight = inflight
        self._timeout = timeout
        self._banner = banner
        self._watch = watch
        self._watching: asyncio.Task[None] | None = None
        self._signalled = -math.inf
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drain: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self._watch is not None:
            self._watching = self._loop.create_task(self._watch.run())
        if self._banner is not None:
            print(self._banner, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._loop is None:
            os._exit(128 + sig)
        if not self._inflight.draining:
            self._signalled = now
            self.stop()
        elif now - self._signalled > _ECHO:
            os._exit(128 + sig)

    def stop(self) -> None:
        """Begin to drain, from any thread."""
        assert self._loop is not None, "the server has not started"
        self._inflight.begin_drain()
        self._loop.call_soon_threadsafe(self._start_drain)

    def _start_drain(self) -> None:
        if self._drain is None:
            self._drain = asyncio.get_running_loop().create_task(self._finish())

    async def _finish(self) -> None:
        left = len(self._inflight)
        if left:
            line = "stopping: %g s for %s to finish; another signal stops at once"
            _log.warning(line, self._timeout, _requests(left))
        if not await self._inflight.idle(self._timeout):
            _log.warning("stopping: aborted %s", _requests(len(self._inflight)))
            self._inflight.abort()
            await self._inflight.idle(_FAREWELL)
        self.should_exit = True


def _requests(count: int) -> str:
    return f"{count} request{'' if count == 1 else 's'}"


def _bind_unix(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if Path(path).is_socket() and probe.connect_ex(path) != 0:
                Path(path).unlink()  # left behind by a server that was killed
        listener.bind(path)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
