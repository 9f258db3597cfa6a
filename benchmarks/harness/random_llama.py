"""A Llama of any shape with random weights, made on first use and kept in the user's cache; or all
but the weights."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

WEIGHTS_SEED = 1234
SPECIAL = ("<s>", "</s>", "<pad>")


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomLlama:
    """A shape.  Weights are bf16.

    Text becomes one token a byte; every id stands for text, a byte or a word.
    """

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int = 64
    mlp: int
    vocab: int = 32_000
    positions: int = 8192
    tied: bool = True

    def cached(self) -> Path:
        """The model's directory, under `$XDG_CACHE_HOME` (`~/.cache`)."""
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ellm"
        digest = hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:8]
        directory = cache / f"{self.name}-{digest}"
        if not directory.exists():
            cache.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(dir=cache))
            try:
                self.make(partial)
                partial.rename(directory)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return directory

    def prompt(self, length: int, rng: random.Random) -> list[int]:
        """Random token ids, no special one among them."""
        return [rng.randrange(len(SPECIAL), self.vocab) for _ in range(length)]

    @property
    def parameters(self) -> int:
        return sum(rows * max(1, columns) for _, rows, columns in self._matrices())

    @property
    def kv_token_bytes(self) -> int:
        """KV bytes of one token over all layers."""
        return self.layers * 2 * self.kv_heads * self.head_dim * 2

    def make(self, directory: Path) -> None:
        """Write config, weights and tokenizer."""
        import torch
        from safetensors.torch import save_file

        torch.manual_seed(WEIGHTS_SEED)
        tensors = {}
        for name, rows, columns in self._matrices():
            if columns:
                tensors[name] = torch.empty(rows, columns, dtype=torch.bfloat16).normal_(0, 0.02)
            else:
                tensors[name] = torch.ones(rows, dtype=torch.bfloat16)
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        (directory / "config.json").write_text(json.dumps(self.config(), indent=2))
        _write_tokenizer(directory, self.vocab)

    def _matrices(self) -> Iterator[tuple[str, int, int]]:
        """Name, rows and columns of every tensor; 0 columns for a vector."""
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        yield "model.embed_tokens.weight", self.vocab, self.hidden
        yield "model.norm.weight", self.hidden, 0
        if not self.tied:
            yield "lm_head.weight", self.vocab, self.hidden
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}"
            yield f"{prefix}.input_layernorm.weight", self.hidden, 0
            yield f"{prefix}.post_attention_layernorm.weight", self.hidden, 0
            yield f"{prefix}.self_attn.q_proj.weight", wide, self.hidden
            yield f"{prefix}.self_attn.k_proj.weight", narrow, self.hidden
            yield f"{prefix}.self_attn.v_proj.weight", narrow, self.hidden
            yield f"{prefix}.self_attn.o_proj.weight", self.hidden, wide
            yield f"{prefix}.mlp.gate_proj.weight", self.mlp, self.hidden
            yield f"{prefix}.mlp.up_proj.weight", self.mlp, self.hidden
            yield f"{prefix}.mlp.down_proj.weight", self.hidden, self.mlp

    def described(self) -> Path:
        """The directory of `described_in` in the user's cache."""
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ellm"
        return self.described_in(cache / f"{self.name}-shape")

    def described_in(self, directory: Path) -> Path:
        """Write all but the weights, for engines that make them up (load_format dummy)."""
        directory.mkdir(parents=True, exist_ok=True)
        _write_tokenizer(directory, self.vocab)
        (directory / "config.json").write_text(json.dumps(self.config(), indent=2))
        return directory

    def config(self) -> dict[str, object]:
        """As Hugging Face has it."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "torch_dtype": "bfloat16",
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.mlp,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.positions,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0,
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": self.tied,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 2,
        }


# The model of benchmarks/engine, and of others that want something small and not tiny.
LLAMA_168M = RandomLlama(name="llama-168m", hidden=1024, layers=12, heads=16, kv_heads=4, mlp=2816)


LLAMA_8B = RandomLlama(
    name="llama-8b",
    hidden=4096,
    layers=32,
    heads=32,
    kv_heads=8,
    head_dim=128,
    mlp=14336,
    vocab=128_256,
    positions=16384,
    tied=False,
)
# The dimensions of Qwen2.5-0.5B.
LLAMA_HALF_B = RandomLlama(
    name="llama-half-b", hidden=896, layers=24, heads=14, kv_heads=2, mlp=4864, vocab=151_936
)
# To see that something works.
LLAMA_TINY = RandomLlama(
    name="llama-tiny", hidden=128, layers=2, heads=4, kv_heads=2, head_dim=32, mlp=256, vocab=9000,
    positions=32768,
)  # fmt: skip


# The shape of TinyLlama 1.1B.
LLAMA_1B = RandomLlama(
    name="llama-1b", hidden=2048, layers=22, heads=32, kv_heads=4, mlp=5632, tied=False
)


def _word(number: int) -> str:
    """A space, in the spelling of byte-level vocabularies, and letters that no other number has."""
    letters = "".join(chr(ord("a") + number // 26**place % 26) for place in range(4))
    return f"Ġ{letters}"


def _write_tokenizer(directory: Path, vocab: int) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    known = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    # No merge makes a word; they are there so that a server has something to send for each token.
    known += [_word(number) for number in range(len(known), vocab)]
    vocabulary = {token: number for number, token in enumerate(known)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(directory / "tokenizer.json"))
    names = dict(zip(("bos_token", "eos_token", "pad_token"), SPECIAL, strict=True))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
