"""How many sequences of one length run to their end together, and how fast they decode."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from arms import DEVICE, ELASTIC, MEMORIES, MODEL, MOST_SEQUENCES, STATIC, Arm
from simulated import Run, served

from ellm.core.load import StepLoad
from ellm.core.objectives import Objectives
from ellm.core.plan import StepShape
from ellm.sim.deployment import Deployment, expected
from ellm.sim.workload.lengths import fixed
from harness.results import Trial

INPUTS = tuple(1 << bits for bits in range(11, 18))
OUTPUT = 512
# How many requests an offline run has, times what elastic memory holds.
OFFLINE = 1.5
NOBODY = Objectives()
# What the host may need for a step at the least, and what share of its bandwidth KV may be read at.
HOST_SECONDS = (0.0, 0.01, 0.02, 0.03, 0.04)
BANDWIDTHS = (0.66, 0.76, 0.9)


def measured(name: str, prompt: int) -> Trial:
    """One arm at one length: a batch that fits, alone, and more requests than fit."""
    arm = MEMORIES[name]
    most = fitting(arm, prompt)
    run = served(arm, fixed(most, prompt, OUTPUT), NOBODY)
    assert run.report.finished == most
    count = max(4, round(OFFLINE * fitting(ELASTIC, prompt)))
    offline = served(arm, fixed(count, prompt, OUTPUT), NOBODY)
    decoding = [step for step in offline.steps if step.decodes]
    return {
        "arm": name,
        "input": prompt,
        "sequences": most,
        "preemptions": run.report.preemptions,
        "decode_rate": full_rate(run, most),
        "offline_requests": count,
        "offline_rate": offline.report.output_rate,
        "offline_preemptions": offline.report.preemptions,
        "offline_batch": sum(s.sequences * s.seconds for s in decoding)
        / sum(s.seconds for s in decoding),
    }


def fitting(arm: Arm, prompt: int) -> int:
    """The most sequences whose prompts and answers fit side by side, by the engine's own books."""
    (lane,) = arm.deployment(NOBODY).lanes()
    (engine,) = lane.ranks
    kv, price = engine._memory.kv, engine._executor.activation_bytes
    length = prompt + OUTPUT
    count = 1
    while count < MOST_SEQUENCES and kv.room.fits(
        (count + 1) * kv.chunks(length), price(StepShape(count + 1, count + 1, 1, length))
    ):
        count += 1
    return count


def full_rate(run: Run, sequences: int) -> float:
    """Tokens a second of the steps in which all of them decode."""
    full = [step for step in run.steps if step.decodes and step.sequences == sequences]
    return sum(step.sequences for step in full) / sum(step.seconds for step in full)


def hosts() -> list[dict[str, Any]]:
    """Decode rates of static and elastic at the longest input, if a step took the host longer."""
    prompt = INPUTS[-1]
    arms = (("static", STATIC), ("elastic", ELASTIC))
    batches = {name: fitting(arm, prompt) for name, arm in arms}
    found = []
    for share in BANDWIDTHS:
        efficiency = replace(DEVICE.efficiency, bandwidth=share)
        device = replace(DEVICE, efficiency=efficiency)
        cost = expected(Deployment.by_roofline(MODEL, device).stages)
        for host in HOST_SECONDS:
            rates = {
                name: batch / max(host, cost.seconds(decoding(batch, prompt + OUTPUT // 2)))
                for name, batch in batches.items()
            }
            found.append({"bandwidth": share, "host": host, **rates})
    return found


def decoding(sequences: int, length: int) -> StepLoad:
    return StepLoad(sequences, sequences * length, sequences * length, sequences)
