"""A good checkpoint lands exactly; every kind of bad one is named before a byte is loaded."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from device_half import Device, aligned, save_random
from safetensors.torch import load_file, save_file

from ellm.core.errors import CheckpointError, ConfigError, ModelError, ModelNotFound
from ellm.kernels.reference import ReferenceOps
from ellm.models.parameters import parameters
from ellm.models.registry import describe
from ellm.runtime.checkpoint import Checkpoint
from ellm.runtime.loader import choose_dtype, load, weight_bytes

TINY = {
    "vocab_size": 37,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}


def tiny(**more: Any) -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**TINY | more))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    save_random(tiny(), tmp_path)
    return tmp_path


def try_to_load(directory: Path) -> None:
    """All that happens before serving."""
    checkpoint = Checkpoint.open(directory)
    spec = describe(checkpoint.config)
    memory = aligned(weight_bytes(spec, torch.float32))
    load(checkpoint, spec, torch.float32, memory.data_ptr(), ReferenceOps())


def test_weights_land_merged_and_exact(directory: Path) -> None:
    checkpoint = Checkpoint.open(directory)
    spec = describe(checkpoint.config)
    stored = load_file(directory / "model.safetensors")
    need = weight_bytes(spec, torch.float32)
    memory = aligned(need + 64)
    seen: list[tuple[int, int]] = []
    weights = load(
        checkpoint,
        spec,
        torch.float32,
        memory.data_ptr(),
        ReferenceOps(),
        progress=lambda *at: seen.append(at),
    )
    prefix = "model.layers.1."
    qkv = [stored[f"{prefix}self_attn.{name}_proj.weight"] for name in "qkv"]
    up = [stored[f"{prefix}mlp.{name}_proj.weight"] for name in ("gate", "up")]
    assert torch.equal(weights.layers[1].qkv.weight, torch.cat(qkv))
    assert torch.equal(weights.layers[1].up.weight, torch.cat(up))
    assert torch.equal(weights.head, stored["lm_head.weight"])
    total = sum(tensor.nbytes for tensor in stored.values())
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert bool((memory[need:] == 0xFF).all()), "wrote beyond weight_bytes"


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kept", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_dtype_loads_into_every_other(
    tmp_path: Path, stored: torch.dtype, kept: torch.dtype
) -> None:
    save_random(tiny(tie_word_embeddings=True).to(stored), tmp_path)
    checkpoint = Checkpoint.open(tmp_path)
    spec = describe(checkpoint.config)
    assert choose_dtype("auto", spec, checkpoint) == stored
    memory = aligned(weight_bytes(spec, kept))
    weights = load(checkpoint, spec, kept, memory.data_ptr(), ReferenceOps())
    original = load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(weights.embed, original.to(kept))
    assert weights.head is weights.embed


def test_shards_are_read_like_a_single_file(tmp_path: Path) -> None:
    model = save_random(tiny(), tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    tokens = [3, 1, 4, 1, 5]
    (logits,) = Device(tmp_path).logits([(0, tokens, 0)])
    with torch.no_grad():
        wanted = model(torch.tensor([tokens])).logits[0]
    torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=0)


def test_weight_bytes_are_the_aligned_sum(directory: Path) -> None:
    spec = describe(Checkpoint.open(directory).config)
    sizes = [2 * one.numel for one in parameters(spec)]
    assert weight_bytes(spec, torch.bfloat16) == sum(-(-size // 64) * 64 for size in sizes)


def test_an_unknown_dtype_is_a_config_error(directory: Path) -> None:
    checkpoint = Checkpoint.open(directory)
    with pytest.raises(ConfigError, match="float64"):
        choose_dtype("float64", describe(checkpoint.config), checkpoint)


def _rewrite(directory: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def _header(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = directory / "model.safetensors"
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def _config(directory: Path, **change: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def _cut(directory: Path, keep: int) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])


def _append(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"x")


def _only_bin(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(b"pickle")


def _lost_shard(directory: Path) -> None:
    save_random(tiny(), directory, max_shard_size="8KB")
    (directory / "model.safetensors").unlink(missing_ok=True)
    sorted(directory.glob("model-*.safetensors"))[1].unlink()


def _mixed_shards(directory: Path) -> None:
    save_random(tiny(), directory, max_shard_size="8KB")
    (directory / "model.safetensors").unlink(missing_ok=True)
    first, second = sorted(directory.glob("model-*.safetensors"))[:2]
    first.write_bytes(second.read_bytes())


NORM = "model.norm.weight"
BREAKAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (lambda d: _cut(d, -100), r"model\.safetensors is corrupt: .*truncated"),
    "cut in the header": (lambda d: _cut(d, 200), "corrupt: its header claims"),
    "empty file": (lambda d: _cut(d, 0), "corrupt"),
    "appended to": (
        _append,
        "longer than its header says",
    ),
    "not safetensors": (
        lambda d: (d / "model.safetensors").write_bytes(struct.pack("<Q", 9) + b"not json!"),
        "header is not JSON",
    ),
    "header is a list": (
        lambda d: (d / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"[]"),
        "not a JSON object",
    ),
    "malformed entry": (
        lambda d: _header(d, lambda h: h[NORM].pop("shape")),
        rf"entry of {NORM} is malformed",
    ),
    "lying offsets": (
        lambda d: _header(d, lambda h: h[NORM].update(shape=[17])),
        rf"{NORM} F32\[17\] needs 68 bytes, its entry gives 64",
    ),
    "unknown dtype": (
        lambda d: _header(d, lambda h: h[NORM].update(dtype="F9")),
        f"{NORM} has the unknown dtype F9",
    ),
    "integer weights": (
        lambda d: _header(d, lambda h: h[NORM].update(dtype="I32")),
        f"{NORM} is I32; eLLM loads",
    ),
    "missing tensor": (
        lambda d: _rewrite(d, lambda t: t.pop("model.layers.1.mlp.up_proj.weight")),
        r"model\.layers\.1\.mlp\.up_proj\.weight is missing",
    ),
    "unexpected tensor": (
        lambda d: _rewrite(d, lambda t: t.update({"model.extra.weight": torch.ones(2)})),
        r"model\.extra\.weight is in the checkpoint but not in the architecture",
    ),
    "wrong shape": (
        lambda d: _rewrite(d, lambda t: t.update({NORM: torch.ones(15)})),
        rf"{NORM} has shape \[15\], config.json implies \[16\]",
    ),
    "config of another model": (
        lambda d: _config(d, num_hidden_layers=3),
        r"model\.layers\.2\..* and 4 more are missing",
    ),
    "no config": (lambda d: (d / "config.json").unlink(), "has no config.json"),
    "config not JSON": (lambda d: (d / "config.json").write_text("{"), "not valid JSON"),
    "config a list": (lambda d: (d / "config.json").write_text("[]"), "must hold a JSON object"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "weights were not downloaded"),
    "only a pickle": (_only_bin, r"only pytorch_model\.bin .*save_pretrained"),
    "lost shard": (_lost_shard, r"model-00002-of-\d+\.safetensors is missing of \d+ shards"),
    "mixed shards": (_mixed_shards, "shards are of different downloads"),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_a_broken_checkpoint_is_named_with_its_fix(directory: Path, name: str) -> None:
    breakage, message = BREAKAGES[name]
    breakage(directory)
    with pytest.raises(CheckpointError, match=message) as caught:
        try_to_load(directory)
    assert str(directory) in str(caught.value)


def test_a_missing_directory_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="nowhere"):
        Checkpoint.open(tmp_path / "nowhere")


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "no architecture": ({"architectures": None}, "names no architecture"),
    "other architecture": (
        {"architectures": ["BertModel"]},
        "BertModel is not implemented; eLLM serves LlamaForCausalLM, MistralForCausalLM",
    ),
    "quantized": ({"quantization_config": {"bits": 4}}, "checkpoint is quantized"),
    "yarn": (
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}},
        "rotary scaling 'yarn' is not implemented; eLLM implements default, linear",
    ),
    "activation": ({"hidden_act": "mish"}, "hidden_act is 'mish'; eLLM implements silu"),
    "text for a number": ({"hidden_size": "16"}, "hidden_size must be a whole number"),
    "zero": ({"num_attention_heads": 0}, "num_attention_heads must be .* at least 1, not 0"),
    "null": ({"vocab_size": None}, "no 'vocab_size'"),
    "uneven heads": ({"num_key_value_heads": 3}, "4 attention heads cannot share 3"),
    "flag": ({"tie_word_embeddings": "no"}, "tie_word_embeddings must be true or false"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_we_cannot_serve_says_why(name: str) -> None:
    change, message = CONFIGS[name]
    config = {"architectures": ["LlamaForCausalLM"]} | TINY | change
    with pytest.raises(ModelError, match=message):
        describe(config)


@pytest.mark.parametrize(
    "change",
    [
        {"do_layer_norm_before": False},
        {"word_embed_proj_dim": 8},
        {"_remove_final_layer_norm": True},
    ],
    ids=str,
)
def test_the_odd_opt_is_refused(change: dict[str, Any]) -> None:
    config = {"architectures": ["OPTForCausalLM"], "ffn_dim": 24} | TINY
    assert describe(config).positions == TINY["max_position_embeddings"] + 2
    with pytest.raises(ModelError, match="every OPT size but 350m"):
        describe(config | change)
