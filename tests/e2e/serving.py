"""A server on a socket for the length of a `with` block, and raw HTTP to talk to it badly."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ellm.server.app import create_app
from ellm.server.backend import Fleet, LoneBackend
from ellm.server.inflight import InFlight
from ellm.server.serve import DrainingServer, address, bind, uvicorn_config
from ellm.server.settings import ServerSettings
from ellm.server.sole import SoleModel


@contextmanager
def running(served: Fleet | LoneBackend, **options: Any) -> Iterator[str]:
    """The server's URL."""
    with running_server(served, **options) as (url, _):
        yield url


@contextmanager
def running_server(
    served: Fleet | LoneBackend, **options: Any
) -> Iterator[tuple[str, DrainingServer]]:
    fleet = served if hasattr(served, "models") else SoleModel(served)
    settings = ServerSettings(port=0, **options)
    listener = bind(settings)
    inflight = InFlight()
    config = uvicorn_config(create_app(fleet, settings, inflight), settings)
    server = DrainingServer(config, inflight, settings.shutdown_timeout)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        eventually(lambda: server.started)
        yield address(settings, listener), server
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the server did not stop"


def eventually(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until `condition` holds; fail when it does not in time."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"not within {seconds} s"
        time.sleep(0.005)


def connect(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def post_and_keep(url: str, path: str, body: bytes) -> socket.socket:
    """Send a request and return the open connection, nothing read yet."""
    connection = connect(url)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    return connection
