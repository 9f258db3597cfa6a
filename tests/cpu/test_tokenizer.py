"""The tokenizer does what transformers' does with the same directory."""

from __future__ import annotations

import json
import logging
import warnings
from datetime import datetime
from pathlib import Path

import pytest
from toy_tokenizers import KINDS, byte_fallback, byte_level
from transformers import PreTrainedTokenizerFast

from ellm.core.errors import ConfigError, ModelError, RequestError
from ellm.llm.tokenizer import Tokenizer

CHATML = (
    "{%- if messages[0]['role'] == 'system' %}\n{{ messages[0]['content'] }}\n{%- endif %}\n"
    "{% for message in messages %}\n"
    "{{ bos_token + '<|user|>' + message.role + '\n' + message.content + eos_token }}\n"
    "    {% generation %}{{ loop.index }}{% endgeneration %}\n"
    "{% if loop.index > 5 %}{% break %}{% endif %}\n"
    "{% endfor %}\n"
    "{{ {'a': [1, '<é>']} | tojson }}{{ tools | tojson(indent=2) }}\n"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
TRIMMING = "{% for m in messages %}[{{ m['content'] | trim }}]\n{% endfor %}"
CHAT = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "hello <world>"},
    {"role": "assistant", "content": "  the fox "},
]


def save(directory: Path, template: str | None = None, **config: object) -> Path:
    byte_level().save(str(directory / "tokenizer.json"))
    names = {"bos_token": "<bos>", "eos_token": {"content": "<eos>", "__type": "AddedToken"}}
    if template is not None:
        names["chat_template"] = template
    (directory / "tokenizer_config.json").write_text(json.dumps({**names, **config}))
    return directory


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("special", [True, False])
def test_encode_and_decode_equal_transformers(kind: str, special: bool) -> None:
    core = KINDS[kind]()
    ours, theirs = Tokenizer(core), PreTrainedTokenizerFast(tokenizer_object=core)
    for text in [
        "",
        "hello world",
        "  the  fox\n",
        "日本 naïve 😀",
        "<bos>x<eos>日 x</s>",
        "\x00é",
    ]:
        ids = ours.encode(text, add_special_tokens=special)
        assert ids == theirs.encode(text, add_special_tokens=special)
        for skip in (True, False):
            got = ours.decode(ids, skip_special_tokens=skip)
            assert got == theirs.decode(
                ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False
            )


def test_nothing_is_ever_cut_or_padded() -> None:
    core = byte_level()
    core.enable_truncation(3)
    core.enable_padding(length=20)
    assert len(Tokenizer(core).encode("hello world the fox x x x")) == 8


def test_token_bytes_spell_the_text() -> None:
    for make in (byte_level, byte_fallback):
        tokenizer = Tokenizer(make())
        ids = tokenizer.encode("hello 日本 😀 fox", add_special_tokens=False)
        spelled = b"".join(tokenizer.token_bytes(token) for token in ids).decode()
        assert spelled.lstrip() == "hello 日本 😀 fox"
    fox = tokenizer.encode("fox", add_special_tokens=False)
    assert [tokenizer.token_text(token) for token in fox] == [" fox"]
    assert tokenizer.token_bytes(10**6) == b""


def test_half_a_surrogate_pair_is_the_callers_error() -> None:
    with pytest.raises(RequestError, match="Unicode"):
        Tokenizer(byte_level()).encode("a\ud800b")


@pytest.mark.parametrize("template", [CHATML, TRIMMING])
@pytest.mark.parametrize("mode", ["prompt", "bare", "continue"])
def test_chat_templates_render_as_transformers(tmp_path: Path, template: str, mode: str) -> None:
    directory = save(tmp_path, template)
    ours, theirs = Tokenizer.load(directory), PreTrainedTokenizerFast.from_pretrained(directory)
    flags = {"add_generation_prompt": mode == "prompt"}
    if mode == "continue":
        flags["continue_final_message"] = True
    assert ours.apply_chat_template(CHAT, **flags) == theirs.apply_chat_template(
        CHAT, tokenize=False, **flags
    )


def test_the_template_file_wins_and_a_given_one_beats_both(tmp_path: Path) -> None:
    directory = save(tmp_path, "config")
    assert Tokenizer.load(directory).apply_chat_template(CHAT) == "config"
    (directory / "chat_template.jinja").write_text("file")
    assert Tokenizer.load(directory).apply_chat_template(CHAT) == "file"
    own = tmp_path / "own.jinja"
    own.write_text("own")
    tokenizer = Tokenizer.load(directory, str(own))
    assert tokenizer.apply_chat_template(CHAT) == "own"
    assert Tokenizer.load(directory, "{{ 1 + 1 }}").apply_chat_template(CHAT) == "2"
    assert tokenizer.apply_chat_template(CHAT, chat_template="{{ x }}", x=3) == "3"
    with pytest.raises(ConfigError, match=r"nowhere\.jinja"):
        Tokenizer.load(directory, "nowhere.jinja")
    with pytest.raises(ConfigError, match="line 1"):
        Tokenizer.load(directory, "{% for %}")


def test_named_templates_use_the_default(tmp_path: Path) -> None:
    named = [{"name": "rag", "template": "a"}, {"name": "default", "template": "b"}]
    directory = save(tmp_path, None, chat_template=named)
    assert Tokenizer.load(directory).apply_chat_template(CHAT) == "b"


def test_a_plain_template_stands_in_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = Tokenizer.load(save(tmp_path))
    assert caplog.records == []
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            text = tokenizer.apply_chat_template(CHAT[:2])
    assert text == "system: be kind\nuser: hello <world>\nassistant:"
    assert len(caplog.records) == 1


def test_templates_can_refuse_and_cannot_escape(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(save(tmp_path))
    for template in (
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages[9].content.x }}",
        "{% if %}",
        "{{ 1 / 0 }}",
    ):
        with pytest.raises(RequestError):
            tokenizer.apply_chat_template(CHAT, chat_template=template)
    with pytest.raises(RequestError, match="alternate"):
        tokenizer.apply_chat_template(
            CHAT, chat_template="{{ raise_exception('roles must alternate') }}"
        )
    now = tokenizer.apply_chat_template(CHAT, chat_template="{{ strftime_now('%Y') }}")
    assert now == str(datetime.now().year)


def test_content_may_come_in_parts(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(save(tmp_path, TRIMMING))
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert tokenizer.apply_chat_template([{"role": "user", "content": parts}]) == "[a\nb]\n"
    assert tokenizer.apply_chat_template([{"role": "assistant", "content": None}]) == "[]\n"
    for bad in ([{"type": "image_url", "image_url": "x"}], [3]):
        with pytest.raises(RequestError, match="not text"):
            tokenizer.apply_chat_template([{"role": "user", "content": bad}])
    for messages in ([], [{"content": "x"}], ["x"]):
        with pytest.raises(RequestError):
            tokenizer.apply_chat_template(messages)


def test_continuing_needs_the_message_in_the_prompt(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(save(tmp_path, "fixed"))
    with pytest.raises(RequestError, match="cannot be continued"):
        tokenizer.apply_chat_template(
            CHAT, add_generation_prompt=False, continue_final_message=True
        )
    with pytest.raises(RequestError, match="exclude"):
        tokenizer.apply_chat_template(CHAT, continue_final_message=True)


def test_a_broken_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tokenizer\.json.*save_pretrained"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="cannot read"):
        Tokenizer.load(tmp_path)
    save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[")
    with pytest.raises(ModelError, match="cannot read"):
        Tokenizer.load(tmp_path)


def test_ids_of_special_tokens(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(save(tmp_path))
    assert tokenizer.piece(tokenizer.eos_token_id or 0) == "<eos>"
    assert tokenizer.piece(tokenizer.bos_token_id or 0) == "<bos>"
    assert Tokenizer(byte_level()).eos_token_id is None
    assert tokenizer.vocab_size == byte_level().get_vocab_size()


def test_no_warnings(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Tokenizer.load(save(tmp_path)).encode("hello")
