"""The figures of every model and of their memory, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ellm.core.errors import ModelNotFound
from ellm.obs.models import ModelState
from ellm.obs.snapshot import MemorySnapshot
from ellm.server.families import EVERYONE, Kind, Reading, family
from ellm.server.figures import COUNTERS, GAUGES, HELD, HISTOGRAMS
from ellm.server.service import Service

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Whatever a client prefers: in OpenMetrics prometheus_client 0.26 writes `vllm:` as `vllm_`."""


class Metrics:
    """One server's registry."""

    def __init__(self, service: Service) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(FleetCollector(service))
        ProcessCollector(registry=self._registry)

    def expose(self) -> bytes:
        """The scrape, in `CONTENT_TYPE`."""
        return generate_latest(self._registry)


class FleetCollector(Collector):
    """Reads the engines' plain numbers when asked; no step loop waits for it."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def describe(self) -> Iterable[Metric]:
        return ()  # spares a scrape at registration

    def collect(self) -> Iterator[Metric]:
        readings = list(self._read())
        for each in (*COUNTERS, *HISTOGRAMS, *GAUGES):
            yield each.collect(readings)
        yield from self._memory(readings, self._service.fleet.memory())
        yield self._states()

    def _read(self) -> Iterator[Reading]:
        """Every model that has been loaded."""
        fleet, found = self._service.fleet, 0
        for info in fleet.models:
            if info.state is ModelState.LOADING:
                continue
            try:
                llm = fleet.backend(info.name)
            except ModelNotFound:  # it has left meanwhile
                continue
            name = self._service.names(info.name)[0]
            yield Reading(name, info, llm.stats, llm.snapshot(), is_first=not found)
            found += 1

    def _memory(self, readings: list[Reading], memory: MemorySnapshot) -> Iterator[Metric]:
        size = memory.chunk_bytes
        yield HELD.collect(readings, {"free": memory.free * size})
        for name, text, value in (
            ("budget_bytes", "Bytes there may be in all.", memory.total * size),
            ("chunk_bytes", "Bytes of one chunk.", size),
            ("physical_bytes", "Bytes the machine says are there.", memory.physical_bytes),
        ):
            yield family(Kind.GAUGE, f"ellm:memory_{name}", text, [(EVERYONE, value)])

    def _states(self) -> Metric:
        rows = [
            (self._service.names(info.name)[0], {s.value: s is info.state for s in ModelState})
            for info in self._service.fleet.models
        ]
        return family(Kind.GAUGE, "ellm:model_state", "1 for the state it is in.", rows, "state")
