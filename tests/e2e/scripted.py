"""An engine that follows a script: slow, hung, dead or full on demand; no model, no memory.

python scripted.py PORT SHUTDOWN_TIMEOUT STEP_SECONDS       serves it in a process of its own
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from ellm.core.errors import ContextOverflow, EngineDead, QueueFull, RequestError
from ellm.core.objectives import Objectives
from ellm.core.sampling import SamplingParams
from ellm.llm.outputs import CompletionOutput, Logprob, RequestMetrics, RequestOutput
from ellm.llm.processor import Prompt
from ellm.llm.tokenizer import Tokenizer
from ellm.obs.snapshot import EngineSnapshot, MemorySnapshot, TierSnapshot
from ellm.obs.stats import EngineStats
from ellm.server.serve import serve
from ellm.server.settings import ServerSettings
from ellm.server.sole import SoleModel


def byte_tokenizer() -> Tokenizer:
    """One token a byte, in byte order of the alphabet; id 256 is the end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = tokenizers.Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<end>"])
    return Tokenizer(core, {"eos_token": "<end>"})


@dataclass
class ScriptedLLM:
    """Says `script` over and over, a token every `step` seconds, `slots` requests at a time.

    `fault` is raised after `fault_after` tokens of every request.
    """

    script: str = "abcdefghij"
    step: float = 0.0
    slots: int = 4
    queue: int = 1000
    fault: Exception | None = None
    fault_after: int = 0
    hung: bool = False
    dead: bool = False
    model_name: str = "scripted"
    max_model_len: int = 512
    tokenizer: Tokenizer = field(default_factory=byte_tokenizer)
    stats: EngineStats = field(default_factory=EngineStats)
    seen: list[tuple[str, list[int], SamplingParams, int]] = field(default_factory=list)
    terms: list[tuple[Objectives | None, str | None]] = field(default_factory=list)
    tier: TierSnapshot | None = None
    running: set[str] = field(default_factory=set)
    waiting: set[str] = field(default_factory=set)
    finished: list[str] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    closed: bool = False

    async def generate(
        self,
        prompt: Prompt,
        params: SamplingParams,
        request_id: str,
        *,
        priority: int = 0,
        delta: bool = False,
        objectives: Objectives | None = None,
        cache_salt: str | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        assert delta
        assert isinstance(prompt, Mapping)
        ids: list[int] = prompt["prompt_token_ids"]
        self.seen.append((request_id, ids, params, priority))
        self.terms.append((objectives, cache_salt))
        self._check(ids, params)
        try:
            await self._admit(request_id)
            async for output in self._say(ids, params):
                yield output
            self.finished.append(request_id)
        finally:
            self.running.discard(request_id)
            self.waiting.discard(request_id)
            if request_id not in self.finished:
                self.aborted.append(request_id)

    def _check(self, ids: list[int], params: SamplingParams) -> None:
        if self.dead:
            raise EngineDead("the engine stopped with OSError: scripted")
        for place, token in enumerate(ids):
            if not 0 <= token < 257:
                raise RequestError(f"prompt token {place} is {token}, not in 0 to 256", "prompt")
        if len(ids) >= self.max_model_len:
            limit = self.max_model_len
            raise ContextOverflow(f"{len(ids)} prompt tokens do not fit {limit}", "prompt")
        if len(ids) + (params.max_tokens or 1) > self.max_model_len:
            raise ContextOverflow(f"max_tokens={params.max_tokens} does not fit", "max_tokens")
        if len(self.waiting) >= self.queue:
            raise QueueFull(f"{len(self.waiting)} requests wait already", retry_after=1.5)

    async def _admit(self, request_id: str) -> None:
        self.waiting.add(request_id)
        while len(self.running) >= self.slots:
            await asyncio.sleep(0.005)
        self.waiting.discard(request_id)
        self.running.add(request_id)

    async def _say(
        self, ids: list[int], params: SamplingParams
    ) -> AsyncGenerator[RequestOutput, None]:
        limit = params.max_tokens or self.max_model_len - len(ids)
        if params.prompt_logprobs is not None:
            scores = [self._scores(t, params.prompt_logprobs) for t in ids[1:]]
            yield _output(ids, [], [None, *scores])
        for place in range(limit):
            await asyncio.sleep(self.step)
            if self.fault is not None and place >= self.fault_after:
                raise self.fault
            text = self.script[place % len(self.script)]
            token = self.tokenizer.encode(text)[0]
            table = None
            if params.logprobs is not None:
                table = [self._scores(token, params.logprobs)]
            end = "length" if place == limit - 1 else None
            yield _output(
                ids,
                [CompletionOutput(i, text, [token], None, table, end) for i in range(params.n)],
            )

    def _scores(self, token: int, top: int) -> dict[int, Logprob]:
        """The chosen token is the likeliest, the next ids follow."""
        others = [token, *((token + i) % 256 for i in range(1, top))]
        spell = self.tokenizer.token_text
        return {t: Logprob(-0.5 * (i + 1), i + 1, spell(t)) for i, t in enumerate(others)}

    async def health(self, timeout: float) -> None:
        if self.dead:
            raise EngineDead("the engine stopped with OSError: scripted")
        if self.hung:
            await asyncio.sleep(timeout)
            raise EngineDead(f"the step thread has not answered for {timeout:g} s")

    def snapshot(self) -> EngineSnapshot:
        held = {"weights": 10, "kv": len(self.running)}
        free = 100 - sum(held.values())
        memory = MemorySnapshot(65536, 100, free, 0, held, 65536 * sum(held.values()))
        idle = {"workspace": 2, "warm": 1}
        return EngineSnapshot(
            len(self.running), len(self.waiting), 0.25, 0.125, memory, idle=idle, tier=self.tier
        )

    def close(self) -> None:
        self.closed = True
        print("closed", flush=True)


def _output(
    ids: list[int],
    choices: list[CompletionOutput],
    scores: list[dict[int, Logprob] | None] | None = None,
) -> RequestOutput:
    ended = all(choice.finished for choice in choices)
    return RequestOutput("", None, ids, scores, choices, ended, 0, RequestMetrics(0.0))


if __name__ == "__main__":
    number, patience, seconds = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    settings = ServerSettings(port=number, shutdown_timeout=patience)
    sys.exit(serve(SoleModel(ScriptedLLM(step=seconds)), settings))
