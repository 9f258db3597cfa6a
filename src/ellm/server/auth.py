"""Lets a request in when it carries the key."""

from __future__ import annotations

import hashlib
import hmac

from starlette.types import ASGIApp, Receive, Scope, Send

from ellm.server.errors import ApiError
from ellm.server.request_log import local_path

_OPEN_PATHS = ("/health",)


class Auth:
    """`Authorization: Bearer KEY` on every route but `/health`, compared in constant time."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app = app
        self._digest = _digest(key.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and local_path(scope) not in _OPEN_PATHS:
            # Bytes, for a key need not be ASCII.
            header = dict(scope["headers"]).get(b"authorization", b"")
            scheme, _, key = header.partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(_digest(key), self._digest):
                await self._refuse(bool(key))(scope, receive, send)
                return
        await self.app(scope, receive, send)

    @staticmethod
    def _refuse(had_key: bool) -> ASGIApp:
        message = (
            "The API key is wrong."
            if had_key
            else "This server needs an API key: send Authorization: Bearer KEY."
        )
        headers = {"WWW-Authenticate": "Bearer"}
        return ApiError(401, message, code="invalid_api_key", headers=headers).response()


def _digest(key: bytes) -> bytes:
    # Digests have one length, so that the comparison does not tell the key's.
    return hashlib.sha256(key).digest()
