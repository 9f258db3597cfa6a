"""Make the bundled example trace: an imagined chat service, 400 requests in about 100 seconds.

    python tools/make_example_trace.py        # writes src/ellm/bundled/traces/chat.jsonl

Nobody was asked: lengths are log-normal, arrivals a Poisson process.  Some requests begin a
conversation, and some of the later ones continue one, so that their prompts begin with everything
said before.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from ellm.sim.workload.arrivals import arrivals
from ellm.sim.workload.bundled import HOME
from ellm.sim.workload.item import Item
from ellm.sim.workload.lengths import LogNormal
from ellm.sim.workload.recording import write_trace

REQUESTS, RATE, SEED = 400, 4.0, 0
# Tokens of a first prompt, of what is added in a later turn, and of an answer.
FIRST = LogNormal(520, shortest=8, longest=4000)
MORE = LogNormal(90, shortest=4, longest=1000)
ANSWER = LogNormal(180, deviation=0.9, shortest=4, longest=800)
LONGEST_PROMPT = 4000
BLOCK_TOKENS = 64
# How many first requests begin a conversation, and how many requests continue one that can be.
BEGIN, CONTINUE = 0.1, 0.3
# Seconds after which a user has read the answer and written on.
READING = 12.0


@dataclass(slots=True)
class Conversation:
    """What was said so far, in tokens, and the ids of its whole blocks; `ready` is a time."""

    said: int = 0
    ready: float = 0.0
    blocks: list[int] = field(default_factory=list)

    def ask(self, more: int, answer: int, now: float, ids: Iterator[int]) -> Item:
        """The request in which a user adds `more` tokens and gets `answer`."""
        prompt = self.said + more
        while (len(self.blocks) + 1) * BLOCK_TOKENS <= prompt:
            self.blocks.append(next(ids))
        self.said = prompt + answer
        self.ready = now + READING
        return Item(prompt, answer, now, None, tuple(self.blocks), BLOCK_TOKENS)


def chat() -> Iterator[Item]:
    """The requests, in order of arrival."""
    rng = random.Random(SEED)
    firsts, more, answers = (each.draws(rng) for each in (FIRST, MORE, ANSWER))
    ids = count()
    begun: list[Conversation] = []
    for arrival in arrivals(REQUESTS, RATE, SEED):
        now = round(arrival, 3)
        added, answer = next(more), next(answers)
        waiting = (c for c in begun if c.ready <= now and c.said + added <= LONGEST_PROMPT)
        ready = next(waiting, None)
        if ready is not None and rng.random() < CONTINUE:
            yield ready.ask(added, answer, now, ids)
        elif rng.random() < BEGIN:
            begun.append(Conversation())
            yield begun[-1].ask(next(firsts), answer, now, ids)
        else:
            yield Item(next(firsts), answer, now)


def main() -> None:
    HOME.mkdir(exist_ok=True)
    write_trace(HOME / "chat.jsonl", chat())


if __name__ == "__main__":
    main()
