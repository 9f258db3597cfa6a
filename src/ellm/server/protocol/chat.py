"""Chat completions: messages in, messages out."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from ellm.core.errors import RequestError
from ellm.core.sampling import SamplingParams
from ellm.server.protocol.base import SamplingBody, TemplateBody
from ellm.server.protocol.usage import Usage


class Message(BaseModel):
    """One turn.  Fields we do not know reach the template as they are."""

    model_config = ConfigDict(strict=True, extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[str | dict[str, Any]] | None = None

    def turn(self, place: int) -> dict[str, Any]:
        """As the template takes it; raises RequestError where it is missing or not text."""
        if self.content is None and self.role != "assistant":
            param = f"messages.{place}.content"
            raise RequestError(f"{param} is missing", param)
        for number, part in enumerate(self.content if isinstance(self.content, list) else ()):
            if isinstance(part, dict) and not isinstance(part.get("text"), str):
                param = f"messages.{place}.content.{number}"
                kind = part.get("type")
                reason = f"has no text (its type is {kind!r}); eLLM takes text only"
                raise RequestError(f"{param} {reason}", param)
        return {**(self.model_extra or {}), "role": self.role, "content": self.content}


class ChatRequest(SamplingBody, TemplateBody):
    """The body of POST /v1/chat/completions."""

    messages: list[Message]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    echo: bool | None = None

    def params(self) -> SamplingParams:
        """Raises RequestError.  Without a limit the answer may fill the context."""
        top = self.top_logprobs
        if self.echo:
            raise RequestError("echo is not supported for chats", "echo")
        if top is not None and not 0 <= top <= 20:
            raise RequestError(f"top_logprobs must be from 0 to 20, not {top}", "top_logprobs")
        if top and not self.logprobs:
            raise RequestError("top_logprobs needs logprobs: true", "top_logprobs")
        limit = self.max_completion_tokens
        return self.sampling(
            max_tokens=self.max_tokens if limit is None else limit,
            logprobs=(top or 0) if self.logprobs else None,
            prompt_logprobs=self.prompt_logprobs,
        )


class ScoredToken(BaseModel):
    """A token's text, its log-probability and its bytes in UTF-8."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatLogprob(ScoredToken):
    top_logprobs: list[ScoredToken]


class ChatLogprobs(BaseModel):
    content: list[ChatLogprob]
    refusal: None = None


class ChatMessage(BaseModel):
    role: Literal["assistant"]
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """`stop_reason` is the stop string or token id that ended the text, if one did."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: str | None
    stop_reason: int | str | None
    token_ids: list[int] | None = None


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_logprobs: list[Any] | None = None
    prompt_token_ids: list[int] | None = None


class ChatDelta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChunkChoice(BaseModel):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: str | None
    stop_reason: int | str | None = None
    token_ids: list[int] | None = None


class ChatChunk(BaseModel):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    prompt_token_ids: list[int] | None = None
