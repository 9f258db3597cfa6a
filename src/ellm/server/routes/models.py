"""The models: what is served, and orders to change it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter

from ellm.core.errors import ModelError
from ellm.server.errors import ApiError
from ellm.server.inflight import stopping
from ellm.server.protocol.models import ErrorBody, LoadRequest, ModelCard, ModelList
from ellm.server.routes.openai import ERRORS
from ellm.server.service import Service

_BUSY: dict[int | str, dict[str, Any]] = {
    409: {"model": ErrorBody, "description": "The model has requests, or is changing already."}
}


def model_routes(service: Service) -> APIRouter:
    """An id may contain slashes.  An order is answered when it has been carried out."""
    router = APIRouter(tags=["Models"], responses=ERRORS)

    @router.get("/v1/models")
    async def list_models() -> ModelList:
        cards = [ModelCard.of(info, service.own_name(info.name)) for info in service.models]
        return ModelList(data=cards)

    @router.get("/v1/models/{name:path}")
    async def retrieve_model(name: str) -> ModelCard:
        return _card(service, name)

    @router.post("/v1/models/{name:path}/load", responses=_BUSY)
    async def load_model(name: str, body: LoadRequest | None = None) -> ModelCard:
        """Take in a model under this name, beside those that are served."""
        _require_open(service)
        if any(info.name == name for info in service.models):
            message = f"The model {name!r} is served already; unload it first."
            raise ApiError(409, message, param="model", code="model_busy")
        order = body or LoadRequest()
        options = order.options() | {"served_model_name": name}
        try:
            await service.fleet.load(order.model or name, **options)
        except ModelError as error:
            raise ApiError(400, str(error), param="model") from error
        return _card(service, name)

    @router.post("/v1/models/{name:path}/unload", responses=_BUSY, status_code=204)
    async def unload_model(name: str) -> None:
        """Send a model away once the requests it has have ended; it takes no more."""
        _require_open(service)
        await service.fleet.unload(service.own_name(name))

    @router.post("/v1/models/{name:path}/sleep", responses=_BUSY)
    async def lay_model_to_sleep(name: str) -> ModelCard:
        """Give back all memory of an idle model; its next request wakes it."""
        return await _change(service, name, service.fleet.sleep)

    @router.post("/v1/models/{name:path}/wake", responses=_BUSY)
    async def wake_model(name: str) -> ModelCard:
        """Have a model's weights in memory before a request needs them."""
        return await _change(service, name, service.fleet.wake)

    return router


async def _change(
    service: Service, name: str, order: Callable[[str], Awaitable[None]]
) -> ModelCard:
    _require_open(service)
    await order(service.own_name(name))
    return _card(service, name)


def _card(service: Service, name: str) -> ModelCard:
    return ModelCard.of(service.model(name), service.own_name(name))


def _require_open(service: Service) -> None:
    if service.inflight.draining:
        raise stopping()
