"""The addresses that OpenAI's clients know."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from ellm.core.errors import RequestError
from ellm.server.backend import Backend
from ellm.server.chat import ChatAnswer
from ellm.server.completions import CompletionAnswer
from ellm.server.protocol.chat import ChatCompletion, ChatRequest
from ellm.server.protocol.completions import Completion, CompletionRequest
from ellm.server.protocol.models import ErrorBody
from ellm.server.request_log import LONGEST_ID
from ellm.server.service import Service, Ticket
from ellm.server.sse import EventStream

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "The request is wrong; `param` names the field."},
    401: {"model": ErrorBody, "description": "The API key is missing or wrong."},
    404: {"model": ErrorBody, "description": "No such model."},
    413: {"model": ErrorBody, "description": "The body is too large."},
    503: {
        "model": ErrorBody,
        "description": "Not now: the queue is full, or a model is not ready.",
    },
}
_STREAMED = {"content": {"text/event-stream": {"schema": {"type": "string"}}}}


def openai_routes(service: Service) -> APIRouter:
    router = APIRouter(tags=["OpenAI"], responses=ERRORS)

    @router.post("/v1/chat/completions", response_model=ChatCompletion, responses={200: _STREAMED})
    async def create_chat_completion(body: ChatRequest, request: Request) -> Response:
        ticket, llm = _ticket(service, "chatcmpl", body, request)
        trust = service.settings.trust_request_chat_template
        answer = ChatAnswer(llm, body, body.params(), ticket, trust)
        if body.stream:
            return EventStream(answer.events(), service.inflight)
        whole = await service.inflight.run(request.receive, answer.whole())
        return _json(whole.model_dump_json(exclude_unset=True))

    @router.post("/v1/completions", response_model=Completion, responses={200: _STREAMED})
    async def create_completion(body: CompletionRequest, request: Request) -> Response:
        ticket, llm = _ticket(service, "cmpl", body, request)
        answer = CompletionAnswer(llm, body, body.params(), ticket)
        if body.stream:
            return EventStream(answer.events(), service.inflight)
        whole = await service.inflight.run(request.receive, answer.whole())
        return _json(whole.model_dump_json(exclude_unset=True))

    return router


def _ticket(
    service: Service, prefix: str, body: ChatRequest | CompletionRequest, request: Request
) -> tuple[Ticket, Backend]:
    name = body.request_id or request.state.request_id
    if not name.isprintable() or len(name) > LONGEST_ID:
        reason = f"request_id must be at most {LONGEST_ID} printable characters"
        raise RequestError(reason, "request_id")
    model, llm = service.route(body.model)
    return Ticket(f"{prefix}-{name}", model), llm


def _json(body: str) -> Response:
    return Response(body, media_type="application/json")
