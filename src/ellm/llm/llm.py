"""An engine to call from a script: prompts in, finished outputs back."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from itertools import count
from types import TracebackType
from typing import Any, cast

from ellm.core.config import KvLayout
from ellm.core.errors import BudgetError, ConfigError, RequestError
from ellm.core.sampling import SamplingParams
from ellm.core.units import parse_bytes
from ellm.llm.args import EngineArgs
from ellm.llm.frontend import start
from ellm.llm.interrupt import Interrupt
from ellm.llm.outputs import RequestOutput
from ellm.llm.processor import Prompt
from ellm.llm.progress import generation_bar, loading_bar
from ellm.llm.request_tracker import RequestTracker
from ellm.llm.tokenizer import Tokenizer

Conversation = Sequence[Mapping[str, Any]]


class LLM:
    """One model in this process, stepped by the thread that calls `generate`.

        with LLM("path/to/model", memory="4GiB") as llm:
            outputs = llm.generate(["Hello", "World"], SamplingParams(max_tokens=32))

    The options are those of `EngineArgs`; `memory` is also read as text.  Raises ModelError,
    ConfigError or BudgetError, saying what to do.
    """

    def __init__(
        self,
        model: str = "ellm-base",
        *,
        tokenizer: str | None = None,
        served_model_name: str | None = None,
        dtype: str = "auto",
        device: str = "cpu",
        max_model_len: int | None = None,
        max_num_seqs: int = 64,
        max_num_batched_tokens: int = 2048,
        max_num_queued_reqs: int | None = None,
        memory: str | int | None = None,
        kv_layout: str | KvLayout = KvLayout.CONTIGUOUS,
        block_size: int = 16,
        chunk_bytes: int | None = None,
        enable_prefix_caching: bool = False,
        chat_template: str | None = None,
        seed: int = 0,
        threads: int | None = None,
    ) -> None:
        args = EngineArgs(
            model=model,
            tokenizer=tokenizer,
            served_model_name=served_model_name,
            dtype=dtype,
            device=device,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            max_num_queued_reqs=max_num_queued_reqs,
            memory=None if memory is None else parse_bytes(memory),
            kv_layout=_layout(kv_layout),
            block_size=block_size,
            chunk_bytes=chunk_bytes,
            enable_prefix_caching=enable_prefix_caching,
            chat_template=chat_template,
            seed=seed,
            threads=threads,
        )
        with loading_bar(f"loading {model}") as progress:
            built, self._frontend = start(args, progress)
        self._engine = built.engine
        self._ids = count()
        self._busy = threading.Lock()
        self.model_name = built.model_name
        self.max_model_len = built.max_model_len

    @property
    def tokenizer(self) -> Tokenizer:
        return self._frontend.tokenizer

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Continue one prompt or several; outputs come in the order of the prompts.

        `sampling_params` are for all prompts, or one for each; None are the defaults.  All
        prompts are checked before any is started: RequestError means that nothing ran.  Ctrl-C
        ends after the current step, and leaves the engine ready for other prompts.
        """
        items = _as_list(prompts)
        params = _spread(sampling_params, len(items))
        trackers: dict[str, RequestTracker] = {}
        for prompt, chosen in zip(items, params, strict=True):
            name = str(next(self._ids))
            trackers[name] = self._frontend.track(name, name, prompt, chosen)
        with self._busy:
            self._run(trackers, use_tqdm)
        return [tracker.output() for tracker in trackers.values()]

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer one conversation or several; `chat_template` is the text of another template."""
        one = bool(messages) and isinstance(messages[0], Mapping)
        conversations = cast("Sequence[Conversation]", [messages] if one else messages)
        prompts = [
            self._frontend.chat_prompt(
                conversation,
                chat_template=chat_template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                **(chat_template_kwargs or {}),
            )
            for conversation in conversations
        ]
        return self.generate(prompts, sampling_params, use_tqdm)

    def _run(self, trackers: Mapping[str, RequestTracker], use_tqdm: bool) -> None:
        """Submit all and step until all have ended."""
        running = dict(trackers)
        with generation_bar(len(running), use_tqdm) as advance, Interrupt() as interrupt:
            try:
                for tracker in trackers.values():
                    self._engine.submit(tracker.request)
                while running and not interrupt.pending:
                    advance(*self._step(running))
            finally:
                for name in running:
                    self._engine.abort(name)
        if interrupt.pending:
            raise KeyboardInterrupt

    def _step(self, running: dict[str, RequestTracker]) -> tuple[int, int]:
        """One step; how many requests it ended, and how many tokens it made."""
        finished = tokens = 0
        news_of_step = self._engine.step()
        if self._engine.obstacle is not None:
            raise BudgetError(
                f"the machine refuses memory that the budget allows: {self._engine.obstacle}; "
                "free some, or set a smaller memory="
            )
        for news in news_of_step:
            tracker = running.get(news.request_id)
            if tracker is None:
                continue
            tokens += news.token is not None
            if tracker.add(news):
                self._engine.stop(news.request_id, news.index)
            if tracker.finished:
                del running[news.request_id]
                finished += 1
        return finished, tokens

    def close(self) -> None:
        """Release all memory.  The object is of no use afterwards; twice is harmless."""
        self._engine.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _layout(layout: str | KvLayout) -> KvLayout:
    try:
        return KvLayout(layout)
    except ValueError as error:
        names = ", ".join(known.value for known in KvLayout)
        raise ConfigError(f"kv_layout must be one of {names}, not {layout!r}") from error


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """A list of numbers is one prompt, of token ids."""
    if isinstance(prompts, (str, Mapping)):
        return [prompts]
    items = cast("list[Prompt]", list(prompts))
    if items and all(isinstance(item, int) for item in items):
        return [cast("list[int]", items)]
    return items


def _spread(
    params: SamplingParams | Sequence[SamplingParams] | None, prompts: int
) -> list[SamplingParams]:
    if params is None:
        params = SamplingParams()
    if isinstance(params, SamplingParams):
        return [params] * prompts
    if len(params) != prompts:
        raise RequestError(f"{len(params)} sampling params for {prompts} prompts: give one or each")
    return list(params)
