"""An engine to call from a script: prompts in, finished outputs back."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from types import TracebackType
from typing import Any, cast

from ellm.core.errors import BudgetError, EngineDead, RequestError
from ellm.core.sampling import SamplingParams
from ellm.llm.args import EngineArgs
from ellm.llm.build import Progress, build
from ellm.llm.configured import Configured
from ellm.llm.frontend import Frontend
from ellm.llm.interrupt import Interrupt
from ellm.llm.outputs import RequestOutput
from ellm.llm.processor import Prompt
from ellm.llm.progress import generation_bar, loading_bar
from ellm.llm.request_tracker import RequestTracker
from ellm.llm.tokenizer import Tokenizer

Conversation = Sequence[Mapping[str, Any]]


class LLM(Configured):
    """One model in this process, stepped by the thread that calls `generate`.

        with LLM("path/to/model", memory="4GiB") as llm:
            outputs = llm.generate(["Hello", "World"], SamplingParams(max_tokens=32))

    `progress` replaces the bar that otherwise shows on a terminal.
    """

    def _open(self, args: EngineArgs, progress: Progress | None) -> None:
        if progress is not None:
            built = build(args, progress)
        else:
            with loading_bar(f"loading {args.model}") as progress:
                built = build(args, progress)
        self._engine = built.engine
        self._frontend = Frontend.of(built.blueprint, built.engine)
        self._ids = count()
        self._busy = threading.Lock()
        self._closed = False
        self.model_name = built.blueprint.args.name
        self.max_model_len = built.engine.config.max_model_len

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
        ends after the current step, and leaves the engine ready for other prompts.  Raises
        EngineDead after `close`.
        """
        self._require_open()
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
        self._require_open()
        many = isinstance(messages, Sequence) and all(isinstance(m, Sequence) for m in messages)
        conversations = cast("Sequence[Conversation]", messages if many else [messages])
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
        self._closed = True
        self._engine.close()

    def _require_open(self) -> None:
        if self._closed:
            raise EngineDead("this LLM is closed: create another")

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """A list of numbers is one prompt, of token ids."""
    if isinstance(prompts, (str, Mapping)) or not isinstance(prompts, Iterable):
        return [prompts]  # a prompt that is none is refused with the others
    items = cast("list[Prompt]", list(prompts))
    if items and all(isinstance(item, int) for item in items):
        return [cast("list[int]", items)]
    return items


def _spread(
    params: SamplingParams | Sequence[SamplingParams] | None, prompts: int
) -> list[SamplingParams]:
    if params is None:
        params = SamplingParams()
    if isinstance(params, SamplingParams) or not isinstance(params, Sequence):
        return [params] * prompts
    if len(params) != prompts:
        raise RequestError(f"{len(params)} sampling params for {prompts} prompts: give one or each")
    return list(params)
