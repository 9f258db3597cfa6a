"""What is served here, and how that may change."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from ellm.obs.models import ModelInfo


class ModelCard(BaseModel):
    """One name a request may give.  `max_model_len` is in tokens, prompt and answer together.

    `root` is where the model was loaded from; `bytes` are those it holds, by kind.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "ellm"
    root: str
    parent: str | None = None
    max_model_len: int | None
    permission: list[Any] = []
    state: str
    bytes: dict[str, int]
    last_wake_seconds: float | None

    @classmethod
    def of(cls, info: ModelInfo, own_name: str) -> ModelCard:
        return cls(
            id=info.name,
            created=int(info.created),
            root=info.root or own_name,
            max_model_len=info.max_model_len,
            state=info.state.value,
            bytes=dict(info.held),
            last_wake_seconds=info.wake_seconds,
        )


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class LoadRequest(BaseModel):
    """Which model to take in and its own limits, as the flags of `ellm serve` have them.

    `model` is a directory or a hub id; where it is left out, the name to serve it under is.
    `floor` and `ceiling` are its shares of the memory, in bytes or as 1GiB.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    model: str | None = None
    tokenizer: str | None = None
    dtype: str | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_num_queued_reqs: int | None = None
    enable_prefix_caching: bool | None = None
    ttft_slo: str | float | None = None
    tpot_slo: str | float | None = None
    chat_template: str | None = None
    floor: str | int | None = None
    ceiling: str | int | None = None

    def options(self) -> dict[str, Any]:
        """What was given beside the model."""
        return self.model_dump(exclude_none=True, exclude={"model"})


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail
