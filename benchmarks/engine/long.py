"""Tokens a second of a long prompt, and of decoding after tens of thousands of tokens.

One prompt a round grows from length to length; every engine keeps its KV, so that the same
prompt can be asked again for more tokens at the price of its end:

    prefill │━━━━━━━▶│                                     timed, all of it new
    decode  │ known  │━━━━━━━▶│                            its KV, once
            │ known           │▶ 1        again            a cost of both, that is subtracted
            │ known           │▶ 1 + 32   more
            │ known           │━━━━━━━━━━━━━━━━━▶│         and so on
"""

from __future__ import annotations

from dataclasses import dataclass

from engines import Engine
from scenario import Prompt, Scenario
from setting import Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Long(Scenario):
    """Prefill is measured at one length, decoding of `output` tokens at the others.

    A prompt whose KV was `kept` comes back in less than this share of the time.
    """

    prefill: int = 8 << 10
    lengths: tuple[int, ...] = (16 << 10, 32 << 10)
    output: int = 32
    kept: float = 0.25

    @property
    def figures(self) -> dict[str, str]:
        decode = {f"decode_{n}": f"decode tokens/s after {n}" for n in self.lengths}
        return {"prefill": f"prefill tokens/s at {self.prefill}", **decode}

    def setting(self, model: str, threads: int) -> Setting:
        context = self.lengths[-1] + 256
        return Setting(model=model, threads=threads, context=context, sequences=1, reuse=True)

    def warm_up(self, engine: Engine, prompt: Prompt) -> None:
        engine.seconds([prompt(1024)], 4)

    def trial(self, engine: Engine, prompt: Prompt) -> dict[str, float]:
        text = prompt(self.lengths[-1])
        found = {"prefill": self.prefill / engine.seconds([text[: self.prefill]], 1)}
        for length in self.lengths:
            known = [text[:length]]
            new, again = engine.seconds(known, 1), engine.seconds(known, 1)
            assert again < self.kept * new, (engine.name, length, new, again)
            more = engine.seconds(known, 1 + self.output)
            found[f"decode_{length}"] = self.output / (more - again)
            found[f"again_{length}"] = again / new
        return found
