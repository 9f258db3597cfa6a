"""For those who run the server: is it well, how busy is it, what is it."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

import ellm
from ellm.obs.models import ModelState
from ellm.server.inflight import stopping
from ellm.server.metrics import CONTENT_TYPE, Metrics
from ellm.server.protocol.models import ErrorBody
from ellm.server.service import Service


class Version(BaseModel):
    version: str


class Load(BaseModel):
    """Requests that a client waits for now."""

    server_load: int


def operation_routes(service: Service) -> APIRouter:
    router = APIRouter(tags=["Operations"])
    metrics = Metrics(service)
    unwell: dict[int | str, dict[str, Any]] = {
        503: {"model": ErrorBody, "description": "The engine is dead, hung or stopping."}
    }

    @router.get("/health", response_class=Response, responses=unwell)
    async def health() -> Response:
        """200 after a round trip to every model's step loop."""
        await _check_health(service)
        return Response()

    @router.head("/health", include_in_schema=False)
    async def probe_health() -> Response:
        await _check_health(service)
        return Response()

    @router.get("/ping", response_class=Response, responses=unwell)
    async def ping() -> Response:
        """As `/health`, under the name some platforms ask for."""
        await _check_health(service)
        return Response()

    @router.get("/version")
    async def version() -> Version:
        return Version(version=ellm.__version__)

    @router.get("/load")
    async def load() -> Load:
        return Load(server_load=len(service.inflight))

    async def scrape(request: Request) -> Response:
        """Prometheus text."""
        return Response(metrics.expose(), headers={"content-type": CONTENT_TYPE})

    async def welcome(request: Request) -> Response:
        """What this is and where to look next."""
        paths: dict[str, dict[str, Any]] = request.app.openapi()["paths"]
        described = [f"{verb.upper()} {path}" for path in paths for verb in paths[path]]
        return JSONResponse(
            {
                "name": "eLLM",
                "version": ellm.__version__,
                "models": [info.name for info in service.models],
                "endpoints": [*described, "GET /metrics", "GET /openapi.json"],
            }
        )

    # Plain routes answer HEAD too, which load generators try first.
    router.add_route("/metrics", scrape)
    router.add_route("/", welcome)
    return router


async def _check_health(service: Service) -> None:
    if service.inflight.draining:
        raise stopping()
    timeout = service.settings.health_timeout
    ready = [info.name for info in service.fleet.models if info.state is not ModelState.LOADING]
    await asyncio.gather(*(service.fleet.backend(name).health(timeout) for name in ready))
