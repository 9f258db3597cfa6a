"""The memory that all models share: how much there is, and an order to change that."""

from __future__ import annotations

from fastapi import APIRouter

from ellm.core.errors import ConfigError
from ellm.core.units import parse_bytes
from ellm.server.errors import ApiError
from ellm.server.protocol.memory import MemoryOrder, MemoryReport
from ellm.server.routes.openai import ERRORS
from ellm.server.service import Service


def memory_routes(service: Service) -> APIRouter:
    router = APIRouter(tags=["Operations"], responses=ERRORS)

    @router.get("/admin/memory")
    async def show_memory() -> MemoryReport:
        """The budget, who holds how much of it, and what the machine says is behind it."""
        return _report(service)

    @router.post("/admin/memory")
    async def change_memory(body: MemoryOrder) -> MemoryReport:
        """Change the budget; a lower one is reached as models give memory back."""
        try:
            await service.fleet.set_memory(parse_bytes(body.memory))
        except ConfigError as error:
            raise ApiError(400, str(error), param="memory") from error
        return _report(service)

    return router


def _report(service: Service) -> MemoryReport:
    models = {info.name: dict(info.held) for info in service.fleet.models}
    return MemoryReport.of(service.fleet.memory(), models)
