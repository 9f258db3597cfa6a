"""The routes and the layers around them, as one ASGI application."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

import ellm
from ellm.server import errors
from ellm.server.auth import Auth
from ellm.server.backend import Fleet
from ellm.server.body_limit import BodyLimit
from ellm.server.inflight import InFlight
from ellm.server.request_log import RequestLog
from ellm.server.routes.memory import memory_routes
from ellm.server.routes.models import model_routes
from ellm.server.routes.openai import openai_routes
from ellm.server.routes.operations import operation_routes
from ellm.server.routes.tokens import token_routes
from ellm.server.service import Service
from ellm.server.settings import ServerSettings


def create_app(
    fleet: Fleet, settings: ServerSettings | None = None, inflight: InFlight | None = None
) -> FastAPI:
    """An application that serves `fleet`; `inflight` lets the caller drain it."""
    settings = settings or ServerSettings()
    aliases = dict.fromkeys(settings.served_model_names, fleet.models[0].name)
    service = Service(fleet, settings, InFlight() if inflight is None else inflight, aliases)
    app = FastAPI(
        title="eLLM",
        version=ellm.__version__,
        docs_url=None,  # this page and the next load scripts from other hosts
        redoc_url=None,
        middleware=_layers(settings),
    )
    errors.install(app)
    app.include_router(openai_routes(service))
    app.include_router(model_routes(service))
    app.include_router(token_routes(service))
    app.include_router(memory_routes(service))
    app.include_router(operation_routes(service))
    _describe_errors(app)
    return app


def _layers(settings: ServerSettings) -> list[Middleware]:
    """Outermost first."""
    layers = [Middleware(RequestLog, log_requests=settings.enable_log_requests)]
    if settings.allowed_origins:
        anything = ["*"]
        layers.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(settings.allowed_origins),
                allow_methods=anything,
                allow_headers=anything,
            )
        )
    if settings.api_key is not None:
        layers.append(Middleware(Auth, key=settings.api_key))
    layers.append(Middleware(BodyLimit, max_bytes=settings.max_body_bytes))
    return layers


def _describe_errors(app: FastAPI) -> None:
    """Take the framework's 422 out of the schema: a wrong field is a 400 here."""
    schema: dict[str, Any] = app.openapi()
    for path in schema["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
