"""Numbers of Python reach a busy device as they were when they were sent."""

from __future__ import annotations

from array import array

import pytest
import torch

from ellm.core.units import KIB
from ellm.kernels.numbers import arrive, send
from ellm.runtime.feedback import Feedback


@pytest.mark.parametrize("size", [1, 1000, 8 * KIB, 8 * KIB + 1, 300_000])
def test_whoever_sent_them_may_change_them_at_once(size: int) -> None:
    """Whatever the size: what travels with the call, and what goes through pinned memory."""
    place = torch.zeros(size, dtype=torch.int64, device="cuda")
    torch.cuda.synchronize()
    torch.cuda._sleep(200_000_000)
    numbers = array("q", range(size))
    send(numbers, place)
    for at in range(size):
        numbers[at] = -1
    first = place.clone()
    send(numbers, place)
    del numbers
    assert first.tolist() == list(range(size))
    assert place.tolist() == [-1] * size


def test_sending_does_not_wait_for_a_busy_device() -> None:
    place = torch.zeros(300_000, dtype=torch.int64, device="cuda")
    there = torch.zeros(4, device="cuda")
    done = torch.cuda.Event()
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000_000)
    done.record()
    send(array("q", range(300)), place)
    send(array("q", range(300_000)), place)
    there.copy_(arrive(torch.ones(4), there.device))
    assert not done.query(), "the host has waited"
    assert there.tolist() == [1.0] * 4


def test_tokens_of_two_steps_are_kept_apart() -> None:
    feedback = Feedback(8, torch.device("cuda"))
    sent = []
    for turn in range(4):
        torch.cuda._sleep(50_000_000)
        feedback.fresh.copy_(torch.arange(8, device="cuda") + 10 * turn)
        sent.append(feedback.send(5))
        if turn:
            assert sent[turn - 1]() == [10 * (turn - 1) + at for at in range(5)]
    assert sent[3]() == [30 + at for at in range(5)]
