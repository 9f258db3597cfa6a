"""Room for a step: rows of KV and a workspace, to be had at once or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ellm.core.units import ceil_div
from ellm.kv.sources import CalledSource, WorkspaceSource
from ellm.memory.balloon import Balloon, Cost, Source
from ellm.memory.pool import ChunkPool
from ellm.memory.virtual import VirtualTensor
from ellm.obs.stats import ElasticStats


@dataclass(frozen=True, slots=True)
class Owners:
    """Under which names one engine's chunks are in the ledger, all in the group `engine`."""

    engine: str
    weights: str
    kv: str
    activations: str

    @classmethod
    def of(cls, engine: str) -> Owners:
        prefix = f"{engine}/" if engine else ""
        return cls(engine, f"{prefix}weights", f"{prefix}kv", f"{prefix}activations")


class Room:
    """The pool as one engine asks it for chunks.  With `fixed` shares its workspace never shrinks.

    `stats` counts what was moved to make room.
    """

    def __init__(
        self,
        pool: ChunkPool,
        balloon: Balloon,
        owners: Owners,
        workspace: VirtualTensor,
        fixed: bool = False,
    ) -> None:
        self.pool = pool
        self.owners = owners
        self.fixed = fixed
        self.stats = ElasticStats()
        # A model that sleeps holds none of its weights, and will need room for all of them.
        self._weights = pool.held(owners.weights)
        self._balloon = balloon
        self._workspace = workspace
        self._idle_workspace = WorkspaceSource(workspace, owners.engine)
        self._sources: list[WorkspaceSource | CalledSource] = []
        if not fixed:
            self._register(self._idle_workspace)

    def offer(
        self, name: str, cost: Cost, has: Callable[[], int], give: Callable[[int], int]
    ) -> None:
        """Let the balloon know of chunks of KV that can be given back."""
        self._register(CalledSource(name, self.owners.engine, self.owners.kv, cost, has, give))

    def withdraw(self) -> None:
        """The engine is going: nothing more can be had from it."""
        for source in self._sources:
            self._balloon.unregister(source)
        self._sources.clear()

    def touch(self, now: float) -> None:
        """The engine works at `now`, in seconds: others are asked before it."""
        for source in self._sources:
            source.used = now

    def step_is_over(self) -> None:
        """The workspace of the last step is not needed any more, until `make` asks for one."""
        self._idle_workspace.keep = 0

    def make(
        self, missing: Callable[[], int], activation_bytes: int, most: Cost = Cost.MODEL
    ) -> bool:
        """Whether `missing` chunks of KV and a workspace can be had, now or after asking.

        Sources that cost more than `most` are not asked.
        """
        if activation_bytes > self._workspace.capacity:  # the budget was smaller at the start
            return False
        self._idle_workspace.keep = activation_bytes
        want = ceil_div(activation_bytes, self.pool.chunk_bytes)

        def wants() -> Mapping[str, int]:
            more = max(0, want - self._workspace.mapped)
            return {self.owners.kv: missing(), self.owners.activations: more}

        # A budget that was lowered must not stop a step that takes nothing.
        if not any(wants().values()):
            return True
        return self._balloon.make_room(wants, self.owners.engine, most, self._moved)

    def could_have(self, chunks: int, soon: bool = True) -> bool:
        """Whether `chunks` of KV are free or idle now, or, with `soon`, once copies have ended."""
        room = self.pool.available(self.owners.kv)
        return chunks <= room or chunks <= room + self._idle_chunks(soon)

    def spare(self, activation_bytes: int) -> int:
        """Chunks of KV that are free or idle beside such a workspace."""
        want = ceil_div(activation_bytes, self.pool.chunk_bytes)
        room = self.pool.available(self.owners.kv) + self._idle_chunks(soon=False)
        return room - self._idle_workspace.idle() + self._workspace.mapped - want

    @property
    def spare_soon(self) -> int:
        """Chunks that are free, idle, or on their way below, kept prefixes not counted."""
        kept = self._balloon.idle_at(Cost.PREFIX) + self._balloon.idle_at(Cost.MODEL)
        return self.pool.available(self.owners.kv) + self._balloon.idle() - kept

    def _idle_chunks(self, soon: bool) -> int:
        return self._balloon.idle() - (0 if soon else self._balloon.idle_at(Cost.LEAVING))

    def fits(self, chunks: int, activation_bytes: int) -> bool:
        """Whether `chunks` of KV and a workspace fit when the engine has the pool to itself."""
        ledger, owners = self.pool.ledger, self.owners
        room = ceil_div(activation_bytes, self.pool.chunk_bytes)
        weights = max(self._weights, ledger.held(owners.weights))
        return (
            chunks <= ledger.reach(owners.kv)
            and room <= ledger.reach(owners.activations)
            and chunks + room <= ledger.group_reach(owners.engine) - weights
        )

    @property
    def idle(self) -> Mapping[str, int]:
        """Chunks that could be given back, by source."""
        return {source.name: source.idle() for source in self._sources}

    def _register(self, source: WorkspaceSource | CalledSource) -> None:
        self._sources.append(source)
        self._balloon.register(source)

    def _moved(self, source: Source, wants: Mapping[str, int], count: int) -> None:
        self.stats.moved_chunks[source.name] += count
        if source.cost is Cost.WORKSPACE and wants[self.owners.kv]:
            self.stats.inflations += 1
        elif source.cost is not Cost.WORKSPACE and wants[self.owners.activations]:
            self.stats.deflations += 1
