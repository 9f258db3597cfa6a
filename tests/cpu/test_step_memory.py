"""A step takes exactly the bytes it announced, and the framework hands out next to none beside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from backends import BACKENDS, NATIVE
from device_half import Device, save_random
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile

from ellm.core.plan import StepShape

MODELS = {
    "full": transformers.LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    ),
    "window": transformers.MistralConfig(
        vocab_size=97, hidden_size=32, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=5,
    ),
    "learned positions": transformers.OPTConfig(
        vocab_size=97, hidden_size=32, word_embed_proj_dim=32, ffn_dim=40, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=64,
    ),
}  # fmt: skip

WIDE = transformers.LlamaConfig(
    vocab_size=97, hidden_size=256, intermediate_size=2048, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2,
)  # fmt: skip


def save(config: transformers.PretrainedConfig, directory: Path) -> Path:
    save_random(transformers.AutoModelForCausalLM.from_config(config), directory)
    return directory


@pytest.fixture(scope="module", params=MODELS)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(MODELS[request.param], tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module", params=[0, 4], ids=["contiguous", "paged"])
def device(request: pytest.FixtureRequest, directory: Path) -> Device:
    return Device(directory, samples=True, page=request.param)


steps = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), min_size=1, max_size=4)


def prepared(device: Device, lengths: list[tuple[int, int]]) -> list[tuple[int, list[int], int]]:
    """Compute what each sequence is to have already; the parts of the step that follows."""
    before = [(index, [7] * start, 0) for index, (start, _) in enumerate(lengths) if start]
    if before:
        device.step(before)
    return [(index, [5] * now, start) for index, (start, now) in enumerate(lengths)]


def test_a_step_that_samples_takes_what_it_announced(device: Device) -> None:
    @settings(max_examples=25)
    @given(steps)
    def check(lengths: list[tuple[int, int]]) -> None:
        plan, _ = device.step(prepared(device, lengths))
        assert device.workspace.peak == device.runner.activation_bytes(plan.shape)

    check()


def test_a_step_that_scores_never_takes_more(device: Device) -> None:
    @settings(max_examples=10)
    @given(steps)
    def check(lengths: list[tuple[int, int]]) -> None:
        plan, _ = device.step(prepared(device, lengths), score=True)
        assert 0 < device.workspace.peak <= device.runner.activation_bytes(plan.shape)

    check()


shapes = st.builds(
    StepShape,
    tokens=st.integers(1, 3000),
    logit_rows=st.integers(0, 3000),
    longest_query=st.integers(0, 3000),
    longest_kv=st.integers(0, 3000),
    gathers=st.booleans(),
)


def test_a_larger_step_never_announces_less(device: Device) -> None:
    @given(shapes, st.sampled_from(StepShape.__slots__), st.integers(1, 500))
    def check(shape: StepShape, field: str, more: int) -> None:
        larger = replace(
            shape, **{field: True if field == "gathers" else getattr(shape, field) + more}
        )
        announced = device.runner.activation_bytes
        assert announced(larger) >= announced(shape)

    check()


def framework_peak(device: Device, parts: list[tuple[int, list[int], int]]) -> int:
    """Most bytes that PyTorch's allocator had handed out at once during the step."""
    device.step(parts)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        device.step(parts)
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def framework_bound(device: Device, shape: StepShape) -> int:
    """What docs/architecture.md admits: see "Activations"."""
    spec, itemsize = device.spec, device.dtype.itemsize
    assert spec.rope is not None
    answer = shape.longest_query * (spec.query_width * itemsize + 8 * spec.num_heads)
    once = shape.tokens * (8 * spec.rope.dim + 64)
    return answer + once + torch.get_num_threads() * (768 << 10)


PARTS = {
    "prefill": [(0, [3] * 500, 0)],
    "chunk": [(0, [3] * 250, 250), (1, [4] * 100, 0)],
    "decode": [(0, [5], 500), (1, [6], 100)],
}


@pytest.mark.skipif(not NATIVE, reason="built without a C++ compiler")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_native_kernels_need_nothing_beside_the_workspace(tmp_path: Path, dtype: str) -> None:
    device = Device(save(WIDE, tmp_path), dtype, samples=True, tokens=512)
    for name, parts in PARTS.items():
        assert framework_peak(device, parts) == 0, name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_framework_allocates_little_beside_the_workspace(tmp_path: Path, dtype: str) -> None:
    device = Device(save(WIDE, tmp_path), dtype, ops=BACKENDS["reference"], tokens=512)
    for parts in PARTS.values():
        plan, _ = device.step(parts)
        bound = framework_bound(device, plan.shape)
        assert 0 < framework_peak(device, parts) <= bound
    plan, _ = device.step(PARTS["prefill"])
    up = plan.shape.tokens * device.spec.up_width * device.dtype.itemsize
    assert framework_bound(device, plan.shape) < up, "the bound would not see an op without out="
