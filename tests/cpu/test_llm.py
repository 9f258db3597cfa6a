"""`LLM` from text to text: what transformers would say, and every promise of its own."""

from __future__ import annotations

import inspect
import os
import signal
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_model import CONTEXT, save_toy_model
from transformers import AutoModelForCausalLM

import ellm
from ellm import LLM, AsyncLLM, SamplingParams
from ellm.core.config import KvLayout
from ellm.core.errors import ConfigError, ContextOverflow, EngineDead, ModelNotFound, RequestError
from ellm.llm.args import EngineArgs
from ellm.llm.outputs import RequestOutput
from ellm.llm.progress import loading_bar

PROMPTS = ["hello world", "the fox", "naïve 日本 été stop", "x", "hello " * 20]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_toy_model(tmp_path_factory.mktemp("toy"))


def load(directory: Path, **options: Any) -> LLM:
    return LLM(str(directory), memory="64MiB", threads=1, **options)


@pytest.fixture(scope="module")
def llm(directory: Path) -> Iterator[LLM]:
    with load(directory) as one:
        yield one


@pytest.fixture(scope="module")
def reference(directory: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def ask(llm: LLM, prompts: Any, **params: Any) -> list[RequestOutput]:
    chosen = SamplingParams(**{"max_tokens": 24, "temperature": 0, **params})
    return llm.generate(prompts, chosen, use_tqdm=False)


def tokens(outputs: list[RequestOutput]) -> list[list[int]]:
    return [choice.token_ids for output in outputs for choice in output.outputs]


@torch.inference_mode()
def greedy(reference: Any, prompt: list[int], count: int) -> list[int]:
    ids = torch.tensor([prompt])
    made = reference.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return made[0, len(prompt) :].tolist()


def test_greedy_text_is_that_of_transformers(llm: LLM, reference: Any) -> None:
    outputs = ask(llm, PROMPTS, max_tokens=64, ignore_eos=True)
    for text, output in zip(PROMPTS, outputs, strict=True):
        assert output.prompt == text
        assert output.prompt_token_ids == llm.tokenizer.encode(text)
        choice = output.outputs[0]
        assert choice.token_ids == greedy(reference, output.prompt_token_ids, 64)
        assert choice.text == llm.tokenizer.decode(choice.token_ids)
        assert (choice.finish_reason, output.finished) == ("length", True)


def test_logprobs_are_those_of_transformers(llm: LLM, reference: Any) -> None:
    output = ask(llm, PROMPTS[2], logprobs=4, prompt_logprobs=2, ignore_eos=True)[0]
    choice = output.outputs[0]
    whole = torch.tensor([output.prompt_token_ids + choice.token_ids])
    with torch.inference_mode():
        raw = reference(whole).logits[0].log_softmax(-1)
    start = len(output.prompt_token_ids)
    assert choice.logprobs is not None
    assert output.prompt_logprobs is not None
    assert output.prompt_logprobs[0] is None
    tables = [*output.prompt_logprobs[1:], *choice.logprobs]
    for place, (table, token) in enumerate(zip(tables, whole[0, 1:].tolist(), strict=True)):
        assert table is not None
        assert table[token].logprob == pytest.approx(float(raw[place, token]), abs=1e-4)
        count = 2 if place < start - 1 else 4
        best = raw[place].topk(count)
        got = [table[t].logprob for t in best.indices.tolist()]
        assert got == pytest.approx(best.values.tolist(), abs=1e-4)
        assert table[token].decoded_token == llm.tokenizer.token_text(token)
    assert choice.cumulative_logprob == pytest.approx(
        sum(table[t].logprob for table, t in zip(choice.logprobs, choice.token_ids, strict=True))
    )


def test_a_seed_decides_whatever_the_company(llm: LLM) -> None:
    alone = [
        ask(llm, text, temperature=1.0, seed=7, top_p=0.9, ignore_eos=True) for text in PROMPTS
    ]
    together = ask(llm, PROMPTS, temperature=1.0, seed=7, top_p=0.9, ignore_eos=True)
    assert tokens(together) == [ids for output in alone for ids in tokens(output)]
    other = ask(llm, PROMPTS, temperature=1.0, seed=8, top_p=0.9, ignore_eos=True)
    assert tokens(other) != tokens(together)


def test_the_engines_seed_stands_in(directory: Path) -> None:
    runs = []
    for seed in (1, 1, 2):
        with load(directory, seed=seed) as llm:
            runs.append(tokens(ask(llm, PROMPTS, temperature=1.0, ignore_eos=True)))
    assert runs[0] == runs[1] != runs[2]


def test_choices_differ_and_share_their_prompt(llm: LLM) -> None:
    output = ask(llm, PROMPTS[4], n=4, temperature=1.5, seed=1, ignore_eos=True)[0]
    assert [choice.index for choice in output.outputs] == [0, 1, 2, 3]
    assert len({tuple(choice.token_ids) for choice in output.outputs}) == 4
    again = ask(llm, [PROMPTS[0], PROMPTS[4]], n=4, temperature=1.5, seed=1, ignore_eos=True)[1]
    assert tokens([again]) == tokens([output])
    first = ask(llm, PROMPTS[4], temperature=1.5, seed=1, ignore_eos=True)
    assert tokens(first) == tokens([output])[:1]


def test_stop_strings_cut_the_text_and_end_the_work(llm: LLM) -> None:
    text = ask(llm, PROMPTS[0], max_tokens=60, ignore_eos=True)[0].outputs[0].text
    stop = text[10:13]
    before = llm._engine.stats.generation_tokens
    choice = ask(llm, PROMPTS[0], max_tokens=60, ignore_eos=True, stop=[stop])[0].outputs[0]
    assert choice.text == text[: text.index(stop)]
    assert (choice.finish_reason, choice.stop_reason) == ("stop", stop)
    assert len(choice.token_ids) <= llm._engine.stats.generation_tokens - before < 60
    kept = ask(llm, PROMPTS[0], max_tokens=60, ignore_eos=True, stop=[stop], min_tokens=50)[0]
    assert len(kept.outputs[0].token_ids) >= 50


def test_stop_tokens_and_end_tokens(llm: LLM) -> None:
    ids = tokens(ask(llm, PROMPTS[0], ignore_eos=True))[0]
    stop = ids[5]
    choice = ask(llm, PROMPTS[0], ignore_eos=True, stop_token_ids=[stop])[0].outputs[0]
    assert choice.token_ids == ids[: ids.index(stop) + 1]
    assert (choice.finish_reason, choice.stop_reason) == ("stop", stop)
    eos = llm.tokenizer.eos_token_id
    assert eos is not None
    forced = ask(llm, PROMPTS[0], logit_bias={eos: 100.0}, min_tokens=3)[0].outputs[0]
    assert forced.token_ids[3:] == [eos]
    assert eos not in forced.token_ids[:3]
    assert (forced.finish_reason, forced.stop_reason) == ("stop", None)


@pytest.mark.parametrize("layout", ["contiguous", "paged"])
def test_batches_chunks_and_caches_change_no_token(directory: Path, llm: LLM, layout: str) -> None:
    want = tokens(ask(llm, PROMPTS, ignore_eos=True))
    for options in (
        {"max_num_seqs": 2, "max_num_batched_tokens": 5, "enable_prefix_caching": False},
        {"block_size": 4},
    ):
        with load(directory, kv_layout=layout, **options) as other:
            assert tokens(ask(other, PROMPTS, ignore_eos=True)) == want
            again = ask(other, PROMPTS, ignore_eos=True)
            assert tokens(again) == want
            cached = sum(output.num_cached_tokens for output in again)
            assert (cached > 0) == options.get("enable_prefix_caching", True)


def test_the_shapes_of_prompts(llm: LLM) -> None:
    ids = llm.tokenizer.encode(PROMPTS[0])
    want = tokens(ask(llm, PROMPTS[0]))
    for prompts in (ids, [ids], {"prompt_token_ids": ids}, [{"prompt": PROMPTS[0]}]):
        assert tokens(ask(llm, prompts)) == want
    assert llm.generate([], use_tqdm=False) == []
    assert len(llm.generate(PROMPTS[0], use_tqdm=False)[0].outputs[0].token_ids) <= 16


def test_params_are_for_all_or_one_for_each(llm: LLM) -> None:
    params = [SamplingParams(max_tokens=n, ignore_eos=True) for n in (3, 5)]
    outputs = llm.generate(PROMPTS[:2], params, use_tqdm=False)
    assert [len(ids) for ids in tokens(outputs)] == [3, 5]
    with pytest.raises(RequestError, match="2 sampling params for 1"):
        llm.generate(PROMPTS[:1], params, use_tqdm=False)


def test_a_bad_prompt_stops_the_call_before_anything_runs(llm: LLM) -> None:
    steps = llm._engine.stats.steps
    with pytest.raises(ContextOverflow, match=f"context of {CONTEXT}"):
        ask(llm, [PROMPTS[0], [1] * CONTEXT])
    with pytest.raises(RequestError, match="empty"):
        ask(llm, [PROMPTS[0], ""])
    assert llm._engine.stats.steps == steps


def test_chat_goes_through_the_template(llm: LLM) -> None:
    talk = [{"role": "user", "content": "hello"}]
    params = SamplingParams(max_tokens=4, temperature=0)
    output = llm.chat(talk, params, use_tqdm=False)[0]
    assert output.prompt == "<|user|>hello"
    assert output.prompt_token_ids == llm.tokenizer.encode(
        "<|user|>hello", add_special_tokens=False
    )
    two = llm.chat([talk, talk], params, use_tqdm=False)
    assert tokens(two) == tokens([output]) * 2
    own = llm.chat(
        talk, params, use_tqdm=False, chat_template="{{ x }}", chat_template_kwargs={"x": "fox"}
    )
    assert own[0].prompt == "fox"


def test_a_progress_bar_goes_to_stderr(llm: LLM, capfd: pytest.CaptureFixture[str]) -> None:
    llm.generate(PROMPTS[:2], SamplingParams(max_tokens=2, ignore_eos=True))
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "2/2" in captured.err
    ask(llm, PROMPTS[0])
    assert capfd.readouterr().err == ""


def test_ctrl_c_frees_everything(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    step = type(llm._engine).step
    calls = 0

    def interrupted(engine: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return step(engine)

    want = tokens(ask(llm, PROMPTS, max_tokens=8, ignore_eos=True))
    with monkeypatch.context() as patch:
        patch.setattr(type(llm._engine), "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ask(llm, PROMPTS, max_tokens=100, ignore_eos=True)
    assert calls == 3
    snapshot = llm._engine.snapshot()
    assert (snapshot.running, snapshot.waiting) == (0, 0)
    assert snapshot.owners["kv"] == snapshot.idle["warm"] + snapshot.idle["prefixes"]
    llm._engine.check()
    assert tokens(ask(llm, PROMPTS, max_tokens=8, ignore_eos=True)) == want
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_options_are_those_of_engine_args() -> None:
    names = [name for name in inspect.signature(LLM.__init__).parameters if name != "self"]
    assert names == [*(entry.name for entry in fields(EngineArgs)), "progress"]
    assert inspect.signature(AsyncLLM.__init__) == inspect.signature(LLM.__init__)
    with pytest.raises(TypeError, match="gpu_fraction"):
        LLM("x", gpu_fraction=0.9)  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", [LLM, AsyncLLM])
def test_another_engines_options_bring_their_remedy(kind: Any) -> None:
    with pytest.raises(ConfigError, match=r"gpu_memory_utilization.*4GiB"):
        kind("x", gpu_memory_utilization=0.9)
    with pytest.raises(ConfigError, match=r"tensor_parallel_size.*one device"):
        kind("x", tensor_parallel_size=2)


def test_engine_args_are_read_on_construction_and_stand_alone(directory: Path) -> None:
    args = EngineArgs(model=str(directory), memory="64MiB", kv_layout="paged", threads=1)
    assert (args.memory, args.kv_layout) == (64 << 20, KvLayout.PAGED)
    with LLM(args) as llm:
        assert repr(llm) == f"LLM({str(directory)!r}, max_model_len={CONTEXT})"
    with pytest.raises(ConfigError, match="4GiB"):
        EngineArgs(memory="lots")
    with pytest.raises(ConfigError, match="beside EngineArgs"):
        LLM(args, seed=1)


def test_a_closed_engine_says_so_at_once(
    directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    llm = load(directory)
    llm.close()
    for use in (llm.generate, llm.chat):
        with pytest.raises(EngineDead, match="closed"):
            use("hello")
    assert "prompts" not in capfd.readouterr().err
    llm.close()


def test_what_is_no_prompt_and_no_params_is_refused(llm: LLM) -> None:
    with pytest.raises(RequestError, match="not int"):
        llm.generate(5)  # type: ignore[arg-type]
    for prompts in ("a", ["a"], ["a", "b"]):
        with pytest.raises(RequestError, match=r"SamplingParams.*not dict"):
            llm.generate(prompts, {"max_tokens": 2})  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="not str"):
        llm.generate(["a"], ["b"])  # type: ignore[list-item]
    for talk in (5, "hello", [5]):
        with pytest.raises(RequestError):
            llm.chat(talk)  # type: ignore[arg-type]


def test_the_loading_bar_waits_for_the_total(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    with loading_bar("loading"):
        pass
    assert "loading" not in capfd.readouterr().err
    with loading_bar("loading") as progress:
        progress(1, 2)
    assert "1/2 bytes" in capfd.readouterr().err


def test_more_threads_than_cores_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    cores = len(os.sched_getaffinity(0))
    for threads, said in ((1, ""), (cores + 1, f"{cores + 1} threads will share {cores}")):
        with pytest.raises(ModelNotFound):
            LLM("/no/such/model", threads=threads)
        assert said in caplog.text
        assert bool(said) == bool(caplog.records)


def test_the_package_lists_its_names() -> None:
    assert set(ellm.__all__) <= set(dir(ellm))
    assert ellm.EngineArgs is EngineArgs


def test_bad_options_are_said_with_the_remedy(directory: Path) -> None:
    with pytest.raises(ConfigError, match="contiguous, paged"):
        load(directory, kv_layout="round")
    with pytest.raises(ConfigError, match="4GiB"):
        LLM(str(directory), memory="lots")
    with pytest.raises(ModelNotFound):
        LLM("/no/such/model")
    with pytest.raises(ConfigError, match="chat template"):
        load(directory, chat_template="{% for %}")
