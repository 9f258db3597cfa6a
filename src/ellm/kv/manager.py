"""Who holds which KV, and whether one step's memory can all be had at once.

A step needs KV rows for its new tokens *and* a workspace for its activations, from one pool.
`reserve` grants rows only while the workspace the step would need can be had as well, so that a
step whose plan is complete never runs short (eLLM's atomic acquisition, arXiv 2506.15155).  When
chunks are short the balloon asks whoever has some to spare; this engine's sources are

    workspace ▸ rows mapped ahead ▸ warm ranges ▸ prefixes kept for later
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

from ellm.core.layers import KvArena, KvTable
from ellm.core.units import ceil_div
from ellm.kv.kept import KeptPrefixes
from ellm.kv.prefix import PrefixIndex
from ellm.kv.sources import CalledSource, WorkspaceSource
from ellm.kv.store import Holding, KvStore
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


class KvManager(Generic[Holding]):
    """The KV of every sequence by its id, over one layout.  `None` means not now.

    `fixed` is for memory in fixed shares: nobody is asked for anything but kept prefixes.
    """

    def __init__(
        self,
        pool: ChunkPool,
        balloon: Balloon,
        owners: Owners,
        store: KvStore[Holding],
        workspace: VirtualTensor,
        prefixes: PrefixIndex | None = None,
        fixed: bool = False,
    ) -> None:
        self.stats = ElasticStats()
        self._pool = pool
        self._balloon = balloon
        self._owners = owners
        self._store = store
        self._workspace = workspace
        self._index = prefixes
        self._held: dict[int, Holding] = {}
        self._kept = None if prefixes is None else KeptPrefixes(store, prefixes)
        self._granting: Holding | None = None
        self._idle_workspace = WorkspaceSource(workspace, owners.engine)
        self._sources = self._make_sources(fixed)
        for source in self._sources:
            balloon.register(source)

    def _make_sources(self, fixed: bool) -> list[WorkspaceSource | CalledSource]:
        group, store = self._owners.engine, self._store
        made: list[WorkspaceSource | CalledSource] = []
        if not fixed:
            made = [
                self._idle_workspace,
                CalledSource("premap", group, Cost.PREMAPPED, self._spare, self._trim_spare),
                CalledSource("warm", group, Cost.WARM, lambda: store.warm, store.reclaim),
            ]
        if (kept := self._kept) is not None:
            made.append(
                CalledSource("prefix", group, Cost.PREFIX, lambda: kept.chunks, kept.release)
            )
        return made

    @property
    def arena(self) -> KvArena:
        return self._store.arena

    def begin(self, now: float) -> None:
        """A step is about to be planned at `now`, in seconds."""
        for source in self._sources:
            source.used = now

    def gathers(self, tokens: int) -> bool:
        """Whether KV of that many tokens may lie in more than one run of rows."""
        return self._store.gathers(tokens)

    def reserve(
        self,
        seq_id: int,
        tokens: int,
        activation_bytes: int,
        *,
        expect: int = 0,
        gentle: bool = False,
    ) -> KvTable | None:
        """Rows for `tokens` tokens of `seq_id` in all, while a workspace of `activation_bytes`
        can be had too.  On None nothing has changed for any running sequence.

        `expect` is how many tokens a new sequence will have soon, to choose its range by.  When
        `gentle`, no prefix and no idle model is given up for it.
        """
        holding = self._held.get(seq_id)
        if holding is None:
            holding = self._open(max(expect, tokens))
            if holding is None:
                return None
        most = Cost.WARM if gentle else Cost.MODEL
        if not self._grant(holding, tokens, activation_bytes, most):
            if seq_id not in self._held:
                self._store.close(holding)
            return None
        self._held[seq_id] = holding
        return self._store.table(holding)

    def _open(self, tokens: int = 0) -> Holding | None:
        holding = self._store.open(tokens)
        while holding is None and self._kept is not None and self._kept.evict():
            holding = self._store.open(tokens)
        return holding

    def _grant(self, holding: Holding, tokens: int, activation_bytes: int, most: Cost) -> bool:
        self._granting = holding
        fits = self._make_room(lambda: self._store.missing(holding, tokens), activation_bytes, most)
        self._granting = None
        return fits and self._store.extend(holding, tokens)

    def _make_room(
        self, missing: Callable[[], int], activation_bytes: int, most: Cost = Cost.MODEL
    ) -> bool:
        """Whether `missing` chunks of KV and a workspace can be had, now or after asking."""
        self._idle_workspace.keep = activation_bytes
        want = ceil_div(activation_bytes, self._pool.chunk_bytes)

        def wants() -> Mapping[str, int]:
            more = max(0, want - self._workspace.mapped)
            return {self._owners.kv: missing(), self._owners.activations: more}

        # A budget that was lowered must not stop a step that takes nothing.
        if not any(wants().values()):
            return True
        return self._balloon.make_room(wants, self._owners.engine, most, self._moved)

    def _moved(self, source: Source, wants: Mapping[str, int], count: int) -> None:
        self.stats.moved_chunks[source.name] += count
        if source.cost is Cost.WORKSPACE and wants[self._owners.kv]:
            self.stats.inflations += 1
        elif source.cost is not Cost.WORKSPACE and wants[self._owners.activations]:
            self.stats.deflations += 1

    def share(self, parent_id: int, child_id: int, tokens: int, activation_bytes: int) -> bool:
        """Give `child_id`, which holds nothing, the first `tokens` tokens of `parent_id`.

        False when that would leave less than a workspace of `activation_bytes`.
        """
        parent = self._held.get(parent_id)
        if parent is None and self._kept is not None:
            parent = self._kept.get(parent_id)
        assert parent is not None, f"sequence {parent_id} holds nothing to share"
        assert child_id not in self._held, child_id
        source = parent
        # Prefixes are left alone: the parent may be one.
        if not self._make_room(
            lambda: self._store.missing_for_fork(source, tokens), activation_bytes, Cost.WARM
        ):
            return False
        child = self._store.fork(parent, tokens)
        if child is None:
            return False
        self._held[child_id] = child
        return True

    def adopt(
        self, seq_id: int, tokens: Sequence[int], activation_bytes: int, salt: bytes = b""
    ) -> int:
        """Give `seq_id`, which holds nothing, the longest known beginning of `tokens`.

        Returns how many tokens' KV it now holds: 0 when nothing matches or memory is short, and
        never all of them, because at least one must be computed to know what follows.
        """
        if self._index is None or self._kept is None:
            return 0
        match = self._index.match(seq_id, tokens[:-1], salt)
        if match is None:
            return 0
        holder, count = match
        self._kept.touch(holder)
        return count if self.share(holder, seq_id, count, activation_bytes) else 0

    def publish(self, seq_id: int, tokens: Sequence[int], computed: int, salt: bytes = b"") -> None:
        """The first `computed` of `tokens` now have KV that others may share."""
        if self._index is not None:
            self._index.publish(seq_id, tokens, computed, salt)

    def premap(self, seq_id: int, tokens: int, most: int) -> int:
        """Map rows for `tokens` tokens of `seq_id` ahead, from what is free; how many chunks.

        Nothing happens where that takes more than `most` chunks, or not now.
        """
        holding = self._held[seq_id]
        need = self._store.missing(holding, tokens)
        if not 0 < need <= most or not self._store.premap(holding, tokens):
            return 0
        return need

    def free(self, seq_id: int, keep: bool = False) -> None:
        """`seq_id` needs its KV no more.  `keep` it as a prefix for others while memory lasts."""
        holding = self._held.pop(seq_id, None)
        if holding is not None and keep and self._kept is not None:
            self._kept.add(seq_id, holding)
            return
        if self._index is not None:
            self._index.forget(seq_id)
        if holding is not None:
            self._store.close(holding)

    def relax(self, watermark: float) -> None:
        """Give warm ranges back while less than that share (0 to 1) of the pool is free."""
        short = int(watermark * self._pool.total) - self._pool.free
        if short > 0 and self._store.warm:
            self._store.reclaim(short)

    def rest(self) -> None:
        """Nothing runs: give back what only saves time, prefixes excepted."""
        self._trim_spare(self._pool.total)
        self._store.reclaim(self._pool.total)

    def forget_prefixes(self) -> int:
        """Give kept prefixes back; how many there were."""
        return 0 if self._kept is None else self._kept.clear()

    def dispose(self) -> None:
        """Give everything back, for good."""
        for seq_id in list(self._held):
            self.free(seq_id)
        self.forget_prefixes()
        self._store.reclaim(self._pool.total)
        for source in self._sources:
            self._balloon.unregister(source)

    def _spare(self) -> int:
        """Chunks mapped ahead of the sequences."""
        store = self._store
        return sum(
            store.chunks_alone(store.room(holding)) - store.chunks_alone(store.tokens(holding))
            for holding in self._held.values()
            if holding is not self._granting
        )

    def _trim_spare(self, count: int) -> int:
        freed = 0
        for holding in self._held.values():
            if freed >= count:
                break
            if holding is not self._granting:
                freed += self._store.trim(holding, self._store.tokens(holding))
        return freed

    @property
    def idle(self) -> Mapping[str, int]:
        """Chunks that could be given back, by source."""
        return {source.name: source.idle() for source in self._sources}

    @property
    def usage(self) -> float:
        """Share (0 to 1) that sequences hold of the chunks KV could have now."""
        held = self._pool.held(self._owners.kv)
        reach = held + self._pool.available(self._owners.kv)
        return (held - self._store.warm) / max(1, reach)

    @property
    def waste(self) -> float:
        """Share (0 to 1) of mapped KV bytes, warm ones left out, that hold no token's row."""
        mapped = self._pool.held(self._owners.kv) - self._store.warm
        return self._store.wasted_bytes() / (mapped * self._pool.chunk_bytes) if mapped else 0.0

    def fits_alone(self, tokens: int, activation_bytes: int) -> bool:
        """Whether one sequence of `tokens` tokens can run when it has the pool to itself."""
        ledger, owners = self._pool.ledger, self._owners
        rows = self._store.chunks_alone(tokens)
        room = ceil_div(activation_bytes, self._pool.chunk_bytes)
        weights = ledger.held(owners.weights)
        return (
            rows <= ledger.reach(owners.kv) - weights
            and room <= ledger.reach(owners.activations) - weights
            and rows + room <= ledger.group_reach(owners.engine) - weights
        )

    def could_hold(self, tokens: int) -> bool:
        """Whether `tokens` tokens of a new sequence would fit what is free or idle now."""
        want = self._store.chunks_alone(tokens)
        room = self._pool.available(self._owners.kv)
        return want <= room or want <= room + self._balloon.idle()

    def check(self) -> None:
        """Assert that the books balance."""
        self._store.check()
        self._pool.check()
        if self._index is not None:
            self._index.check()
