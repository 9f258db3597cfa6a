"""What every engine of a run is opened with."""

from __future__ import annotations

from dataclasses import dataclass

# What engines that reserve KV once are given, and those that keep finished prompts.
KV_BYTES = 1 << 30
# Most tokens of one step, where an engine asks for that.
STEP_TOKENS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """`model` is a Hugging Face directory, `context` the longest a sequence gets, `sequences` the
    most at once.  `reuse` keeps the KV of a finished prompt for the next that begins alike."""

    model: str
    threads: int
    context: int
    sequences: int
    reuse: bool = False
