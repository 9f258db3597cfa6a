"""Calls of the memory driver in virtual time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ellm.core.config import MemoryConfig, MemoryMode, SchedulerConfig
from ellm.core.units import GIB, MIB
from ellm.sim.anatomy.shapes import find_transformer
from ellm.sim.charged import ChargedDriver
from ellm.sim.clock import VirtualClock
from ellm.sim.cluster import Cluster
from ellm.sim.deployment import Deployment
from ellm.sim.devices.device import DriverCalls
from ellm.sim.devices.known import find_device
from ellm.sim.workload.lengths import fixed

CALLS = DriverCalls(
    create=1.0, destroy=2.0, map_run=100.0, map_chunk=10.0, unmap_run=1000.0, unmap_chunk=20.0
)
A100 = find_device("A100-80GB")


@given(st.lists(st.integers(0, 9), max_size=8))
def test_a_run_costs_one_call_and_every_chunk_of_it(runs: list[int]) -> None:
    clock = VirtualClock()
    driver = ChargedDriver(100 * MIB, MIB, CALLS, clock.advance)
    driver.charges = True
    span, due = driver.reserve(10), 0.0
    for count in runs:
        chunks = driver.create(count)
        driver.map(span, 1, chunks)
        driver.unmap(span, 1, count)
        driver.destroy(chunks)
        due += (1.0 + 2.0 + 10.0 + 20.0) * count + (1100.0 if count else 0.0)
    assert clock.now() == due
    assert driver.physical_bytes() == 0


def test_nothing_is_charged_before_it_is_asked_for() -> None:
    clock = VirtualClock()
    driver = ChargedDriver(100 * MIB, MIB, CALLS, clock.advance)
    driver.map(driver.reserve(4), 0, driver.create(4))
    assert clock.now() == 0.0


def served(memory: MemoryConfig, calls: DriverCalls | None) -> Cluster:
    """Four requests, all at once, on an A100 whose driver's calls take that long."""
    deployment = Deployment.by_roofline(
        find_transformer("llama-3.1-8b"),
        replace(A100, driver=calls),
        memory=memory,
        limits=SchedulerConfig(max_model_len=8192),
    )
    lanes = deployment.lanes()
    assert lanes[0].clock.now() == 0.0, "starting takes no time"
    cluster = Cluster(lanes, A100.overhead)
    cluster.run(fixed(4, 1000, 50))
    return cluster


def test_an_elastic_engine_waits_for_its_driver() -> None:
    free, charged = (served(MemoryConfig(), calls) for calls in (None, A100.driver))
    stats = charged.engines[0].stats.elastic
    spent = stats.critical_driver.total + stats.tidy_driver.total
    assert spent > 0.0
    assert charged.now == pytest.approx(free.now + spent)
    # 63 chunks of rows for each prompt, 3 more for each answer, and the workspace beside.
    assert A100.driver is not None
    assert spent > 4 * 66 * (A100.driver.create + A100.driver.map_chunk)


def test_fixed_shares_are_mapped_before_they_serve() -> None:
    memory = MemoryConfig(budget=40 * GIB, mode=MemoryMode.STATIC)
    assert served(memory, A100.driver).now == served(memory, None).now
