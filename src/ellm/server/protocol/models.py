"""What is served here."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class ModelCard(BaseModel):
    """One name a request may give.  `max_model_len` is in tokens, prompt and answer together."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "ellm"
    root: str
    parent: str | None = None
    max_model_len: int
    permission: list[Any] = []


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail
