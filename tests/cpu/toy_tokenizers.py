"""Small tokenizers of the three kinds that models come with, made in memory."""

from __future__ import annotations

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

WORDS = ["hello", "world", "the", "fox", "naïve", "日本", "été", "stop", "ing", "fo", "x"]


def byte_level() -> tokenizers.Tokenizer:
    """GPT-2's scheme: every byte a token, some merged, and added tokens of both sorts."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {char: place for place, char in enumerate(alphabet)}
    merges: list[tuple[str, str]] = []
    for word in [" " + w for w in WORDS] + WORDS:
        symbols = [
            *pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(
                word
            )[0][0]
        ]
        left = symbols[0]
        for right in symbols[1:]:
            if left + right not in vocab:
                vocab[left + right] = len(vocab)
                merges.append((left, right))
            left += right
    core = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<bos>", "<eos>", "<|user|>"])
    core.add_tokens([AddedToken("日 x"), AddedToken("<think>")])
    bos = core.token_to_id("<bos>")
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", bos)]
    )
    return core


def byte_fallback() -> tokenizers.Tokenizer:
    """Llama 2's scheme: SentencePiece pieces, unknown characters as single bytes."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for value in range(256):
        vocab[f"<0x{value:02X}>"] = len(vocab)
    merges: list[tuple[str, str]] = []
    for char in "▁abcdefghilnoprstvwxéï":
        vocab[char] = len(vocab)
    for word in ["▁" + w for w in WORDS if w != "日本"] + ["▁▁"]:
        left = word[0]
        for right in word[1:]:
            if left + right not in vocab:
                vocab[left + right] = len(vocab)
                merges.append((left, right))
            left += right
    core = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    core.add_special_tokens(["<unk>", "<s>", "</s>"])
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return core


def metaspace() -> tokenizers.Tokenizer:
    """T5's scheme: a unigram model over pieces, no bytes."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0)]
    pieces += [("▁" + word, -1.0 - place) for place, word in enumerate(WORDS)]
    pieces += [(char, -20.0) for char in "▁abcdefghilnoprstvwxéï日本�"]
    core = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    core.add_special_tokens(["<unk>", "<s>"])
    return core


KINDS = {"byte_level": byte_level, "byte_fallback": byte_fallback, "metaspace": metaspace}
