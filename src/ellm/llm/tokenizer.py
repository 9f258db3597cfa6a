"""Text to token ids and back, on the `tokenizers` package alone.

Texts are encoded by the package's batch call, one text each: unlike the single call it computes no
offsets (a fifth of the time) and lets other threads run meanwhile.  Its own threads are turned off,
for they forbid a later fork.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from ellm.core.errors import ConfigError, ModelError, RequestError
from ellm.llm.chat_template import PLAIN, ChatTemplate, Message

_log = logging.getLogger(__name__)

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")
_BYTE_PIECE = {f"<0x{value:02X}>": bytes([value]) for value in range(256)}


def _byte_alphabet() -> dict[str, int]:
    """The printable character that stands for each byte in a byte-level vocabulary (GPT-2)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    alphabet = {chr(byte): byte for byte in plain}
    return alphabet | {chr(256 + place): byte for place, byte in enumerate(others)}


class Tokenizer:
    """A `tokenizer.json` with the names of its special tokens and a chat template.

    `byte_level` tells whether each token is a fixed run of bytes (GPT-2's scheme); of others
    (SentencePiece's) the spelling may depend on the token before.
    """

    def __init__(
        self,
        core: tokenizers.Tokenizer,
        names: Mapping[str, str] | None = None,
        chat_template: str | None = None,
    ) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        core.no_truncation()  # a prompt is never cut silently
        core.no_padding()
        self._core = core
        self._names = dict(names or {})
        self._template = None if chat_template is None else ChatTemplate(chat_template, names)
        self._alphabet = _byte_alphabet()
        self._bytes: dict[int, bytes] = {}
        added = core.get_added_tokens_decoder()
        self.special_ids = frozenset(token for token, entry in added.items() if entry.special)
        self.byte_level = isinstance(core.decoder, tokenizers.decoders.ByteLevel)

    @classmethod
    def load(cls, directory: Path, chat_template: str | None = None) -> Tokenizer:
        """From a Hugging Face directory; `chat_template` (a path, or text) replaces its own.

        Raises ModelError for a missing or broken file, ConfigError for a template not found.
        """
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise ModelError(
                f"{directory} has no tokenizer.json: copy the model's own there, or write one with "
                "transformers: AutoTokenizer.from_pretrained(MODEL).save_pretrained(DIR)"
            )
        try:
            core = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises nothing narrower
            raise ModelError(f"cannot read {path}: {error}") from error
        config = {
            **_read_json(directory / "special_tokens_map.json"),
            **_read_json(directory / "tokenizer_config.json"),
        }
        names = {name: text for name in _NAMED if (text := _content(config.get(name))) is not None}
        template = _own_template(directory, config)
        return cls(core, names, template if chat_template is None else _given(chat_template))

    @property
    def vocab_size(self) -> int:
        """One more than the largest id, added tokens included."""
        return max(self._core.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @property
    def eos_token_id(self) -> int | None:
        return self._core.token_to_id(self._names["eos_token"]) if self._has("eos_token") else None

    @property
    def bos_token_id(self) -> int | None:
        return self._core.token_to_id(self._names["bos_token"]) if self._has("bos_token") else None

    def _has(self, name: str) -> bool:
        return name in self._names

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids, with the special tokens that the tokenizer's post-processor adds.

        Raises RequestError for text that has no UTF-8 (half of a surrogate pair).
        """
        try:
            [encoding] = self._core.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        except (UnicodeEncodeError, TypeError) as error:
            reason = "prompt is not valid Unicode text: it has half of a surrogate pair"
            raise RequestError(reason, "prompt") from error
        return list(encoding.ids)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of `ids`; unknown ids have none, broken UTF-8 reads as U+FFFD."""
        return str(self._core.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def piece(self, token: int) -> str | None:
        """The entry of the vocabulary, in the vocabulary's own spelling."""
        found = self._core.id_to_token(token)
        return None if found is None else str(found)

    def token_bytes(self, token: int) -> bytes:
        """What a token stands for where it does not begin a text; b"" if it is unknown."""
        found = self._bytes.get(token)
        if found is None:
            found = self._bytes[token] = self._spell(token)
        return found

    def token_text(self, token: int) -> str:
        """`token_bytes` as text; half a character reads as U+FFFD."""
        return self.token_bytes(token).decode(errors="replace")

    def is_byte(self, token: int) -> bool:
        """Whether a token of a vocabulary that is not byte-level stands for a single byte."""
        return not self.byte_level and self.piece(token) in _BYTE_PIECE

    def _spell(self, token: int) -> bytes:
        piece = self.piece(token)
        if piece is None:
            return b""
        if self.byte_level:
            if all(char in self._alphabet for char in piece):
                return bytes(self._alphabet[char] for char in piece)
            return piece.encode()
        if piece in _BYTE_PIECE:
            return _BYTE_PIECE[piece]
        twice = self.decode([token, token], skip_special_tokens=False)
        once = self.decode([token], skip_special_tokens=False)
        return twice[len(once) :].encode()

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **extra: Any,
    ) -> str:
        """The conversation as a prompt; `chat_template` replaces the model's, `extra` is for it.

        Raises RequestError for messages or a template that cannot be used.
        """
        template = self._template
        if chat_template is not None:
            try:
                template = ChatTemplate(chat_template, self._names)
            except ConfigError as error:
                raise RequestError(str(error), "chat_template") from error
        if template is None:
            _log.warning("the model has no chat template; using a plain 'role: content' one")
            template = self._template = ChatTemplate(PLAIN, self._names)
        return template.render(
            messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            **extra,
        )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"cannot read {path}: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object")
    return value


def _content(token: Any) -> str | None:
    """A special token is a string, or an object with its text in `content`."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _own_template(directory: Path, config: Mapping[str, Any]) -> str | None:
    path = directory / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _given(template: str) -> str:
    if "{" in template or "\n" in template:
        return template
    path = Path(template)
    if not path.is_file():
        raise ConfigError(f"no chat template at {path}, and it does not look like one itself")
    return path.read_text(encoding="utf-8")
