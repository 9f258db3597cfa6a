"""Both bundled models on one budget: the words of each alone, and memory that follows the load."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ellm import LLM, SamplingParams
from ellm.core.errors import (
    BudgetError,
    ConfigError,
    ModelBusy,
    ModelNotFound,
    WakeFailed,
)
from ellm.core.units import MIB
from ellm.llm.args import EngineArgs
from ellm.llm.fleet import AsyncFleet, ModelInfo
from ellm.llm.model_source import resolve_model
from ellm.obs.models import ModelState

MODELS = ("ellm-base", "ellm-draft")
PROMPTS = ["def fib(n):", "Once upon a time", "The pool owns", "x = [", "import os\n", "A"]
GREEDY = SamplingParams(max_tokens=24, temperature=0, ignore_eos=True)
# In float32 the base model's weights take 48 MiB, the draft's 9, and one sequence of 512 tokens
# beside the base's about 8.
BUDGET = 66 * MIB


def args(model: str, **options: Any) -> EngineArgs:
    shared: dict[str, Any] = {"dtype": "float32", "threads": 1, "max_model_len": 512}
    return EngineArgs(model=model, **shared | {"memory": BUDGET} | options)


@pytest.fixture(scope="module")
def truth() -> dict[tuple[str, str], list[int]]:
    """What each model says of each prompt when it has the machine to itself."""
    said = {}
    for model in MODELS:
        with LLM(args(model, memory=512 * MIB)) as llm:
            outputs = llm.generate(PROMPTS, GREEDY, use_tqdm=False)
        for prompt, output in zip(PROMPTS, outputs, strict=True):
            said[model, prompt] = output.outputs[0].token_ids
    return said


@asynccontextmanager
async def serving(*models: EngineArgs, **options: Any) -> AsyncIterator[AsyncFleet]:
    fleet = await asyncio.to_thread(AsyncFleet, models or [args(m) for m in MODELS], **options)
    try:
        yield fleet
    finally:
        await asyncio.to_thread(fleet.close)


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(120):
            await body()

    asyncio.run(limited())


async def say(
    fleet: AsyncFleet, model: str, prompt: str, params: SamplingParams = GREEDY
) -> list[int]:
    outputs = fleet.backend(model).generate(prompt, params, "id")
    return [output async for output in outputs][-1].outputs[0].token_ids


def info(fleet: AsyncFleet, name: str) -> ModelInfo:
    return next(model for model in fleet.models if model.name == name)


async def until(fact: Callable[[], bool]) -> None:
    """A limit on the whole test ends a wait for ever."""
    while not fact():
        await asyncio.sleep(0.01)


def shared_bytes() -> int:
    """Resident pages of the memory file, as the kernel counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssShmem"))


def test_both_say_what_each_says_alone(truth: dict[tuple[str, str], list[int]]) -> None:
    async def body() -> None:
        async with serving() as fleet:
            asked = [(model, prompt) for prompt in PROMPTS for model in MODELS] * 2
            answers = await asyncio.gather(*(say(fleet, *one) for one in asked))
            for one, answer in zip(asked, answers, strict=True):
                assert answer == truth[one], one
            assert fleet.memory().total * fleet.memory().chunk_bytes == BUDGET
            for name in MODELS:
                assert fleet.backend(name).stats.finished["length"] == 2 * len(PROMPTS)

    run(body)


def test_models_that_do_not_fit_together(truth: dict[tuple[str, str], list[int]]) -> None:
    async def body() -> None:
        async with serving(*(args(m, max_model_len=256) for m in MODELS), memory=56 * MIB) as fleet:
            assert info(fleet, MODELS[0]).state is ModelState.ASLEEP
            for prompt in PROMPTS[:3]:
                for model in MODELS:
                    assert await say(fleet, model, prompt) == truth[model, prompt]
            assert info(fleet, MODELS[0]).wake_seconds is not None

    run(body)


def test_idle_models_give_their_memory_back(truth: dict[tuple[str, str], list[int]]) -> None:
    async def body() -> None:
        before = shared_bytes()
        async with serving(idle_release=0.1) as fleet:
            for model in MODELS:
                await say(fleet, model, PROMPTS[0])
            await until(lambda: {m.state for m in fleet.models} == {ModelState.ASLEEP})
            await until(lambda: fleet.memory().physical_bytes == 0)
            assert fleet.memory().free == fleet.memory().total
            assert shared_bytes() <= before
            held = info(fleet, MODELS[0]).held
            assert held == {"weights": 0, "kv": 0, "activations": 0}
            for model in MODELS:
                assert await say(fleet, model, PROMPTS[1]) == truth[model, PROMPTS[1]]

    run(body)


def test_a_failed_wake_rolls_back(tmp_path: Path, truth: dict[tuple[str, str], list[int]]) -> None:
    place = tmp_path / "draft"
    shutil.copytree(resolve_model("ellm-draft"), place)
    weights, away = place / "model.safetensors", place / "away"

    async def body() -> None:
        mine = args(str(place), served_model_name="mine")
        async with serving(args("ellm-base"), mine) as fleet:
            await fleet.sleep("mine")
            assert info(fleet, "mine").state is ModelState.ASLEEP
            used = fleet.memory().total - fleet.memory().free
            weights.rename(away)
            answers = await asyncio.gather(
                *(say(fleet, "mine", prompt) for prompt in PROMPTS[:2]),
                say(fleet, "ellm-base", PROMPTS[0]),
                return_exceptions=True,
            )
            assert answers[2] == truth["ellm-base", PROMPTS[0]]
            for answer in answers[:2]:
                assert isinstance(answer, WakeFailed)
                assert "model.safetensors" in str(answer)
            with pytest.raises(WakeFailed):
                await fleet.wake("mine")
            assert info(fleet, "mine").state is ModelState.ASLEEP
            assert info(fleet, "mine").held == {"weights": 0, "kv": 0, "activations": 0}
            base = info(fleet, "ellm-base").held
            assert base is not None
            assert used == base["weights"] // fleet.memory().chunk_bytes
            away.rename(weights)
            said = await say(fleet, "mine", PROMPTS[0])
            assert said == truth["ellm-draft", PROMPTS[0]]

    run(body)


def test_models_come_and_go_while_others_serve(truth: dict[tuple[str, str], list[int]]) -> None:
    async def body() -> None:
        async with serving(args("ellm-base")) as fleet:
            talk = asyncio.create_task(say(fleet, "ellm-base", PROMPTS[0]))
            options = {"dtype": "float32", "max_model_len": 512}
            assert await fleet.load("ellm-draft", floor="16MiB", **options) == "ellm-draft"
            assert await talk == truth["ellm-base", PROMPTS[0]]
            assert [model.name for model in fleet.models] == list(MODELS)
            assert await say(fleet, "ellm-draft", PROMPTS[0]) == truth["ellm-draft", PROMPTS[0]]
            with pytest.raises(ConfigError, match="already"):
                await fleet.load("ellm-draft")
            with pytest.raises(ConfigError, match="shared"):
                await fleet.load("ellm-draft", served_model_name="other", memory="1GiB")
            with pytest.raises(ModelNotFound):
                await fleet.load("/no/such/directory")
            with pytest.raises(BudgetError, match="raise --memory"):
                await fleet.load("ellm-base", served_model_name="twin", floor="60MiB", **options)
            assert not any(name.startswith("twin/") for name in fleet.memory().held)
            await fleet.unload("ellm-draft")
            assert [model.name for model in fleet.models] == ["ellm-base"]
            with pytest.raises(ModelNotFound, match="served: ellm-base"):
                fleet.backend("ellm-draft")
            assert not any("draft" in owner for owner in fleet.memory().held)

    run(body)


def test_a_busy_model_is_left_alone() -> None:
    async def body() -> None:
        async with serving(args("ellm-draft")) as fleet:
            # Long enough to be seen running on a machine that is busy with other things.
            long = replace(GREEDY, max_tokens=480)
            talk = asyncio.create_task(say(fleet, "ellm-draft", PROMPTS[0], long))
            backend = fleet.backend("ellm-draft")
            await until(lambda: backend.snapshot().running == 1)
            with pytest.raises(ModelBusy, match="1 requests"):
                await fleet.sleep("ellm-draft")
            leaving = asyncio.create_task(fleet.unload("ellm-draft"))
            assert len(await talk) == long.max_tokens
            await leaving
            with pytest.raises(ModelNotFound):
                await say_through(backend)

    async def say_through(backend: Any) -> None:
        async for _ in backend.generate(PROMPTS[0], GREEDY, "id"):
            raise AssertionError("served after it was unloaded")

    run(body)


def test_the_budget_follows_orders(truth: dict[tuple[str, str], list[int]]) -> None:
    async def body() -> None:
        async with serving(memory=256 * MIB) as fleet:
            talks = [
                asyncio.create_task(say(fleet, model, prompt))
                for prompt in PROMPTS
                for model in MODELS
            ]
            await until(lambda: fleet.backend("ellm-base").snapshot().running > 0)
            with pytest.raises(BudgetError, match="context"):
                await fleet.set_memory("20MiB")
            await fleet.set_memory(BUDGET)
            assert fleet.memory().free >= 0
            assert fleet.memory().physical_bytes <= BUDGET
            with pytest.raises(BudgetError, match="more than"):
                await fleet.set_memory("900TiB")
            await fleet.set_memory("300MiB")
            answers = await asyncio.gather(*talks)
            asked = [(model, prompt) for prompt in PROMPTS for model in MODELS]
            for one, answer in zip(asked, answers, strict=True):
                assert answer == truth[one], one

    run(body)


def test_static_shares_are_equal_and_final() -> None:
    async def body() -> None:
        models = [args(m, memory_mode="static", max_num_batched_tokens=64) for m in MODELS]
        async with serving(*models, memory=160 * MIB) as fleet:
            await asyncio.gather(*(say(fleet, model, PROMPTS[0]) for model in MODELS))
            half = fleet.memory().total // 2
            ledger = fleet._house.pool.ledger
            assert [ledger.group_reach(model) for model in MODELS] == [half, half]
            with pytest.raises(ConfigError, match="static"):
                await fleet.load("ellm-draft", served_model_name="third")
            with pytest.raises(ConfigError, match="static"):
                await fleet.set_memory("200MiB")

    run(body)


def test_what_cannot_be_started_is_refused() -> None:
    for models, options, reason in (
        ([], {}, "at least one"),
        ([args("ellm-draft"), args("ellm-draft")], {}, "two models are called"),
        ([args("ellm-base"), args("ellm-draft", memory=BUDGET + 1)], {}, "memory is shared"),
        ([args("ellm-draft")], {"floors": {"other": 1}}, "none of ellm-draft"),
        ([args("ellm-draft")], {"floors": {"ellm-draft": "1GiB"}}, "floor"),
        ([args("ellm-draft")], {"ceilings": {"ellm-draft": "5MiB"}}, "raise --memory"),
    ):
        with pytest.raises(ConfigError, match=reason):
            AsyncFleet(models, **options)
