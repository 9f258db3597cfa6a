"""Text to tokens and back, without generating anything."""

from __future__ import annotations

from fastapi import APIRouter

from ellm.core.errors import RequestError
from ellm.server.backend import Backend
from ellm.server.prompts import read_chat, tokenize
from ellm.server.protocol.tokens import (
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
)
from ellm.server.routes.openai import ERRORS
from ellm.server.service import Service


def token_routes(service: Service) -> APIRouter:
    router = APIRouter(tags=["Tokens"], responses=ERRORS)

    @router.post("/tokenize", response_model_exclude_unset=True)
    async def tokenize_text(body: TokenizeRequest) -> TokenizeResponse:
        _, llm = service.route(body.model)
        body.refuse_unsupported()
        tokens = await _tokens(llm, body, service.settings.trust_request_chat_template)
        answer = TokenizeResponse(count=len(tokens), max_model_len=llm.max_model_len, tokens=tokens)
        if body.return_token_strs:
            answer.token_strs = [llm.tokenizer.token_text(token) for token in tokens]
        return answer

    @router.post("/detokenize")
    async def detokenize_tokens(body: DetokenizeRequest) -> DetokenizeResponse:
        _, llm = service.route(body.model)
        tokenizer = llm.tokenizer
        for place, token in enumerate(body.tokens):
            if not 0 <= token < 2**31 or tokenizer.piece(token) is None:
                reason = f"token {token} is not in the vocabulary"
                raise RequestError(reason, f"tokens.{place}")
        text = tokenizer.decode(body.tokens, skip_special_tokens=False)
        return DetokenizeResponse(prompt=text)

    return router


async def _tokens(llm: Backend, body: TokenizeRequest, trust_template: bool) -> list[int]:
    if (body.prompt is None) == (body.messages is None):
        raise RequestError("give either prompt or messages", "prompt")
    if body.prompt is not None:
        return await tokenize(llm, body.prompt, body.add_special_tokens is not False)
    prompt = await read_chat(
        llm,
        body.messages or [],
        body,
        trust_template=trust_template,
        add_special_tokens=body.add_special_tokens,
    )
    return prompt.token_ids
