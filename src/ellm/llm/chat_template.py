"""Jinja templates that turn a conversation into a prompt, rendered as transformers renders them.

A template comes with a model, so it is code from strangers: it runs in Jinja's immutable sandbox.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ellm.core.errors import ConfigError, RequestError

Message = Mapping[str, Any]

PLAIN = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
"""What a model without a template gets."""

_CONTINUED = "\ue000continued\ue000 "


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks what training looks at; transparent here."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A compiled template.  `names` are what it sees beside the messages (`bos_token`, …).

    Raises ConfigError where Jinja cannot read `source`.
    """

    def __init__(self, source: str, names: Mapping[str, str] | None = None) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self.source = source
        self._names = dict(names or {})
        try:
            self._template = environment.from_string(source)
        except TemplateSyntaxError as error:
            raise ConfigError(f"chat template, line {error.lineno}: {error.message}") from error

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **extra: Any,
    ) -> str:
        """The prompt.  With `continue_final_message` it ends where the last message ends.

        Raises RequestError for what the template refuses.
        """
        if not isinstance(messages, Sequence):
            kind = type(messages).__name__
            raise RequestError(f"messages must be a list, not {kind}", "messages")
        if not messages:
            raise RequestError("messages is empty", "messages")
        turns = [_flatten(message, place) for place, message in enumerate(messages)]
        if continue_final_message:
            if add_generation_prompt:
                raise RequestError(
                    "add_generation_prompt and continue_final_message exclude each other",
                    "continue_final_message",
                )
            turns[-1]["content"] += _CONTINUED
        try:
            text = self._template.render(
                **{"tools": None, "documents": None, **self._names, **extra},
                messages=turns,
                add_generation_prompt=add_generation_prompt,
            )
        except Exception as error:  # whatever a stranger's code may raise
            raise RequestError(f"the chat template refuses: {error}", "messages") from error
        return _cut_at_mark(text) if continue_final_message else text


def _cut_at_mark(text: str) -> str:
    place = text.rfind(_CONTINUED.strip())
    if place < 0:
        raise RequestError(
            "the chat template does not show the last message, so it cannot be continued",
            "continue_final_message",
        )
    # A template that trims messages would have trimmed this one too.
    return text[:place] if text.startswith(_CONTINUED, place) else text[:place].rstrip()


def _flatten(message: Message, place: int) -> dict[str, Any]:
    """The message with its content as one text, parts joined by line breaks as vLLM does."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise RequestError(f"message {place} has no role", "messages")
    content = message.get("content")
    if content is None:
        content = ""
    if not isinstance(content, str):
        content = "\n".join(_part(part, place) for part in content)
    return {**message, "content": content}


def _part(part: Any, place: int) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return str(part["text"])
    raise RequestError(f"message {place} has a part that is not text", "messages")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
