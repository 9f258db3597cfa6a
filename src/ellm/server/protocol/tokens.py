"""Text to tokens and back."""

from __future__ import annotations

from pydantic import BaseModel

from ellm.server.protocol.base import Body, TemplateBody
from ellm.server.protocol.chat import Message


class TokenizeRequest(TemplateBody):
    """Either `prompt` or `messages`; special tokens are added to a prompt unless told otherwise."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class TokenizeResponse(BaseModel):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(Body):
    model: str | None = None
    tokens: list[int]


class DetokenizeResponse(BaseModel):
    prompt: str
