"""From messages or text to token ids, off the event loop when it takes long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ellm.core.errors import RequestError
from ellm.server.backend import Backend
from ellm.server.protocol.base import TemplateBody
from ellm.server.protocol.chat import Message

# Below this many characters a thread costs more than the work.
_LONG = 4096
# What a request says elsewhere, or may not say.
_RESERVED = frozenset(
    {"self", "messages", "chat_template", "add_generation_prompt", "continue_final_message"}
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prompt:
    """`text` is what the client or the template wrote, None where it gave token ids."""

    token_ids: list[int]
    text: str | None = None

    @property
    def inputs(self) -> dict[str, Any]:
        """In the shape that the engine takes."""
        return {"prompt_token_ids": self.token_ids, "prompt": self.text}


async def tokenize(llm: Backend, text: str, add_special_tokens: bool) -> list[int]:
    """Raises RequestError for text that has no UTF-8."""
    encode = llm.tokenizer.encode
    return await _off_loop(len(text), lambda: encode(text, add_special_tokens=add_special_tokens))


async def read_prompt(
    llm: Backend,
    prompt: str | list[int],
    *,
    add_special_tokens: bool | None = None,
    keep_last: int | None = None,
) -> Prompt:
    """Special tokens are added to text unless told otherwise; `keep_last` cuts, None never does.

    Raises RequestError for an empty prompt.
    """
    if not prompt:
        raise RequestError("prompt is empty", "prompt")
    if isinstance(prompt, str):
        ids = await tokenize(llm, prompt, add_special_tokens is not False)
        return _cut(Prompt(ids, prompt), keep_last)
    return _cut(Prompt(prompt), keep_last)


async def read_chat(
    llm: Backend,
    messages: Sequence[Message],
    body: TemplateBody,
    *,
    trust_template: bool,
    add_special_tokens: bool | None = None,
    keep_last: int | None = None,
) -> Prompt:
    """The messages through the chat template; it writes its own special tokens.

    Raises RequestError, naming the field.
    """
    text = await _render(llm, messages, body, trust_template)
    if not text:
        raise RequestError("the chat template made an empty prompt of the messages", "messages")
    return _cut(Prompt(await tokenize(llm, text, bool(add_special_tokens)), text), keep_last)


async def _render(
    llm: Backend, messages: Sequence[Message], body: TemplateBody, trust_template: bool
) -> str:
    if not messages:
        raise RequestError("messages is empty", "messages")
    if body.chat_template is not None and not trust_template:
        hint = "start the server with --trust-request-chat-template to allow it"
        raise RequestError(
            f"a request may not bring its own chat template; {hint}", "chat_template"
        )
    extra = body.chat_template_kwargs or {}
    if reserved := _RESERVED.intersection(extra):
        reason = f"chat_template_kwargs may not set {', '.join(sorted(reserved))}"
        raise RequestError(reason, "chat_template_kwargs")
    continues = bool(body.continue_final_message)
    turns = [message.turn(place) for place, message in enumerate(messages)]

    def render() -> str:
        return llm.tokenizer.apply_chat_template(
            turns,
            chat_template=body.chat_template,
            add_generation_prompt=body.add_generation_prompt
            or (body.add_generation_prompt is None and not continues),
            continue_final_message=continues,
            **extra,
        )

    return await _off_loop(sum(len(turn["content"] or "") for turn in turns), render)


def _cut(prompt: Prompt, keep_last: int | None) -> Prompt:
    if keep_last is None or len(prompt.token_ids) <= keep_last:
        return prompt
    return Prompt(prompt.token_ids[-keep_last:])


async def _off_loop(size: int, work: Callable[[], T]) -> T:
    return work() if size < _LONG else await asyncio.to_thread(work)
