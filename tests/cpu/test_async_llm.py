"""`AsyncLLM`: many callers, each with its own fate."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from toy_model import save_toy_model

from ellm import LLM, AsyncLLM, SamplingParams
from ellm.core.errors import ContextOverflow, EngineDead, QueueFull, RequestError
from ellm.core.output import SequenceOutput
from ellm.llm.args import EngineArgs
from ellm.llm.outputs import RequestOutput
from ellm.llm.request_tracker import RequestTracker

PROMPTS = ["hello world", "the fox", "naïve 日本 été stop", "x"]
BUDGET = 64 << 20


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_toy_model(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def wanted(directory: Path) -> dict[str, list[int]]:
    with LLM(str(directory), memory=BUDGET, threads=1) as llm:
        outputs = llm.generate(PROMPTS, long(40), use_tqdm=False)
    return {text: o.outputs[0].token_ids for text, o in zip(PROMPTS, outputs, strict=True)}


def long(count: int = 200, **fields: Any) -> SamplingParams:
    return SamplingParams(max_tokens=count, temperature=0, ignore_eos=True, **fields)


@asynccontextmanager
async def serving(directory: Path, **options: Any) -> AsyncIterator[AsyncLLM]:
    llm = AsyncLLM(str(directory), memory="64MiB", threads=1, **options)
    try:
        yield llm
    finally:
        await asyncio.to_thread(llm.close)


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await body()

    asyncio.run(limited())


async def collect(
    llm: AsyncLLM, prompt: Any, params: SamplingParams, **options: Any
) -> list[RequestOutput]:
    return [output async for output in llm.generate(prompt, params, "id", **options)]


async def until_idle(llm: AsyncLLM) -> None:
    """Nothing runs, waits or needs its KV; a limit on the whole test ends a wait for ever."""
    while True:
        snapshot = llm.snapshot()
        kv = snapshot.owners["kv"] - snapshot.idle["warm"] - snapshot.idle["prefixes"]
        if snapshot.running == snapshot.waiting == kv == 0:
            return
        await asyncio.sleep(0.01)


def test_many_at_once_say_what_each_says_alone(
    directory: Path, wanted: dict[str, list[int]]
) -> None:
    async def body() -> None:
        async with serving(directory, max_num_seqs=3) as llm:
            answers = await asyncio.gather(
                *(
                    collect(llm, text, long(40), delta=i % 2 == 0)
                    for i, text in enumerate(PROMPTS * 3)
                )
            )
            for i, (text, outputs) in enumerate(zip(PROMPTS * 3, answers, strict=True)):
                assert [output.finished for output in outputs] == [False] * (len(outputs) - 1) + [
                    True
                ]
                assert all(output.request_id == "id" for output in outputs)
                last = outputs[-1].outputs[0]
                if i % 2 == 0:
                    ids = [token for output in outputs for token in output.outputs[0].token_ids]
                    spoken = "".join(output.outputs[0].text for output in outputs)
                else:
                    ids, spoken = last.token_ids, last.text
                assert ids == wanted[text]
                assert spoken == llm.tokenizer.decode(ids)
                assert last.finish_reason == "length"
            await until_idle(llm)

    run(body)


def test_closing_or_cancelling_frees_the_request_at_once(directory: Path) -> None:
    async def body() -> None:
        async with serving(directory) as llm:
            async with aclosing(llm.generate(PROMPTS[0], long(n=3), "a", delta=True)) as stream:
                async for _ in stream:
                    break
            await until_idle(llm)
            task = asyncio.create_task(collect(llm, PROMPTS[1], long()))
            while llm.snapshot().running == 0:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until_idle(llm)
            assert llm.stats.generation_tokens < 400

    run(body)


def test_a_stop_string_ends_the_request_in_the_engine(
    directory: Path, wanted: dict[str, list[int]]
) -> None:
    async def body() -> None:
        async with serving(directory) as llm:
            text = llm.tokenizer.decode(wanted[PROMPTS[0]])
            stop = text[8:10]
            outputs = await collect(llm, PROMPTS[0], long(stop=stop), delta=True)
            assert "".join(o.outputs[0].text for o in outputs) == text[: text.index(stop)]
            assert outputs[-1].outputs[0].stop_reason == stop
            await until_idle(llm)
            assert llm.stats.generation_tokens < 100

    run(body)


def test_a_slow_reader_finds_its_news_merged(directory: Path, wanted: dict[str, list[int]]) -> None:
    async def body() -> None:
        async with serving(directory) as llm:
            outputs = []
            async for output in llm.generate(PROMPTS[0], long(40), "slow", delta=True):
                outputs.append(output)
                await until_idle(llm)
            assert len(outputs) <= 3
            assert [t for o in outputs for t in o.outputs[0].token_ids] == wanted[PROMPTS[0]]

    run(body)


def test_one_bad_request_is_one_callers_trouble(
    directory: Path, wanted: dict[str, list[int]]
) -> None:
    async def body() -> None:
        async with serving(directory) as llm:
            good = asyncio.create_task(collect(llm, PROMPTS[0], long(40)))
            for prompt, error in (
                ("", RequestError),
                ([1] * 500, ContextOverflow),
                ([-1], RequestError),
            ):
                with pytest.raises(error):
                    await collect(llm, prompt, SamplingParams())
            assert (await good)[-1].outputs[0].token_ids == wanted[PROMPTS[0]]

    run(body)


def test_trouble_with_one_text_is_not_shared(
    directory: Path, wanted: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    add = RequestTracker.add

    def broken(tracker: RequestTracker, news: SequenceOutput) -> bool:
        if tracker.output().prompt == PROMPTS[1] and news.token is not None:
            raise RuntimeError("bad text")
        return add(tracker, news)

    async def body() -> None:
        async with serving(directory) as llm:
            monkeypatch.setattr(RequestTracker, "add", broken)
            answers = await asyncio.gather(
                *(collect(llm, text, long(40)) for text in PROMPTS), return_exceptions=True
            )
            assert isinstance(answers[1], RuntimeError)
            for place in (0, 2, 3):
                answer = answers[place]
                assert isinstance(answer, list)
                assert answer[-1].outputs[0].token_ids == wanted[PROMPTS[place]]
            await until_idle(llm)

    run(body)


def test_a_full_queue_refuses_and_the_others_go_on(directory: Path) -> None:
    async def body() -> None:
        async with serving(directory, max_num_seqs=1, max_num_queued_reqs=1) as llm:
            tasks = [asyncio.create_task(collect(llm, text, long(60))) for text in PROMPTS]
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            refused = [answer for answer in answers if isinstance(answer, QueueFull)]
            assert refused
            assert sum(isinstance(answer, list) for answer in answers) == 4 - len(refused) > 0
            assert await collect(llm, PROMPTS[0], long(2))

    run(body)


def test_ids_need_not_be_unique(directory: Path, wanted: dict[str, list[int]]) -> None:
    async def body() -> None:
        async with serving(directory) as llm:
            for _ in range(3):
                async with aclosing(llm.generate(PROMPTS[1], long(), "same")) as stream:
                    await anext(stream)
            outputs = await collect(llm, PROMPTS[0], long(40))
            assert outputs[-1].outputs[0].token_ids == wanted[PROMPTS[0]]

    run(body)


def test_health_is_a_round_trip(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        async with serving(directory) as llm:
            await llm.health()
            gate, reached = threading.Event(), threading.Event()
            step = llm._engine.step

            def hang() -> Any:
                reached.set()
                gate.wait(30)
                return step()

            monkeypatch.setattr(llm._engine, "step", hang)
            task = asyncio.create_task(collect(llm, PROMPTS[0], long(3)))
            await asyncio.to_thread(reached.wait)
            with pytest.raises(EngineDead, match="has not answered"):
                await llm.health(timeout=0.05)
            gate.set()
            await llm.health()
            assert (await task)[-1].finished

    run(body)


def test_death_is_told_to_everyone(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        async with serving(directory) as llm:
            tasks = [asyncio.create_task(collect(llm, text, long())) for text in PROMPTS]
            while llm.snapshot().running == 0:
                await asyncio.sleep(0)

            def explode() -> Any:
                raise RuntimeError("boom")

            monkeypatch.setattr(llm._engine, "step", explode)
            for answer in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(answer, EngineDead)
                assert "boom" in str(answer)
            with pytest.raises(EngineDead, match="boom"):
                await llm.health()
            with pytest.raises(EngineDead, match="boom"):
                await collect(llm, PROMPTS[0], long())

    run(body)


def test_draining_ends_what_runs_and_takes_nothing_new(directory: Path) -> None:
    async def body() -> None:
        async with serving(directory) as llm:
            task = asyncio.create_task(collect(llm, PROMPTS[0], long(100)))
            while llm.snapshot().running == 0:
                await asyncio.sleep(0)
            assert not await llm.drain(timeout=0.0)
            assert llm.is_draining
            with pytest.raises(QueueFull):
                await collect(llm, PROMPTS[0], long())
            assert await llm.drain()
            assert (await task)[-1].finished

    run(body)


def test_closing_fails_what_still_runs(directory: Path) -> None:
    async def body() -> None:
        async with serving(directory) as llm:
            task = asyncio.create_task(collect(llm, PROMPTS[0], long()))
            while llm.snapshot().running == 0:
                await asyncio.sleep(0)
            await asyncio.to_thread(llm.close)
            with pytest.raises(EngineDead, match="closed"):
                await task
            with pytest.raises(EngineDead, match="stopped"):
                await collect(llm, PROMPTS[0], long())

    run(body)


def test_an_event_loop_may_go_away(directory: Path, wanted: dict[str, list[int]]) -> None:
    """A caller whose event loop is gone harms nobody, and the next loop is as good."""
    llm = AsyncLLM(EngineArgs(model=str(directory), memory=BUDGET, threads=1))
    try:
        loop = asyncio.new_event_loop()
        stream = llm.generate(PROMPTS[0], long(), "lost")
        loop.run_until_complete(anext(stream))
        loop.close()
        for _ in range(2):
            outputs = asyncio.run(collect(llm, PROMPTS[0], long(40)))
            assert outputs[-1].outputs[0].token_ids == wanted[PROMPTS[0]]
        asyncio.run(asyncio.wait_for(until_idle(llm), 30))
    finally:
        llm.close()
        llm.close()
