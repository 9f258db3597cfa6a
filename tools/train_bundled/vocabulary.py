"""The byte-level BPE tokenizer that both models share, and the chat format they are trained on.

Promises: any text round-trips exactly, ids are the same for the same training text, and
`encode_pair` produces the ids that the shipped chat template renders to.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from .corpus import Document

VOCABULARY_SIZE = 8192
BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
USER, ASSISTANT, END = "<|user|>", "<|assistant|>", "<|end|>"
SPECIAL_TOKENS = [BOS, EOS, PAD, USER, ASSISTANT, END]

# Line breaks and indentation are separate tokens, so that a prompt that ends with a line break
# splits just as it did in training. One space belongs to the word that follows it.
WORDS = (
    r"[\r\n]+"
    r"|[^\S\r\n]{2,}"
    r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
    r"| ?\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+"
    r"|\s"
)

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|assistant|>' + message['content'] + '<|end|>' }}"
    "{% else %}"
    "{{ '<|user|>' + message['content'] + '<|end|>' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A byte-level BPE of `VOCABULARY_SIZE` entries whose first six are the special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode_document(tokenizer: Tokenizer, document: Document) -> list[int]:
    """A file as `bos text eos`, a pair as the chat template renders it."""
    text = ordinary(tokenizer, document.text)
    if document.answer is None:
        return [marker(tokenizer, BOS), *text, marker(tokenizer, EOS)]
    end = marker(tokenizer, END)
    return [
        marker(tokenizer, BOS),
        marker(tokenizer, USER),
        *text,
        end,
        marker(tokenizer, ASSISTANT),
        *ordinary(tokenizer, document.answer),
        end,
    ]


def ordinary(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text that is not meant to hold special tokens."""
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def marker(tokenizer: Tokenizer, token: str) -> int:
    """The id of one special token."""
    identifier = tokenizer.token_to_id(token)
    if identifier is None:
        raise KeyError(token)
    return int(identifier)
