"""Who holds which KV, and whether one step's memory can all be had at once.

A step needs KV rows for its new tokens *and* a workspace for its activations, from one pool.
`reserve` grants rows only while the workspace the step would need can be had as well, so that a
step whose plan is complete never runs short (eLLM's atomic acquisition, arXiv 2506.15155).  When
chunks are short, idle workspace goes first, then prefixes kept for later, oldest first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic

from ellm.core.layers import KvArena, KvTable
from ellm.core.units import ceil_div
from ellm.kv.prefix import PrefixIndex
from ellm.kv.store import Holding, KvStore
from ellm.memory.pool import ChunkPool
from ellm.memory.virtual import VirtualTensor


class KvManager(Generic[Holding]):
    """The KV of every sequence by its id, over one layout.  `None` means not now."""

    def __init__(
        self,
        pool: ChunkPool,
        store: KvStore[Holding],
        workspace: VirtualTensor,
        prefixes: PrefixIndex | None = None,
        owner: str = "kv",
    ) -> None:
        self._pool = pool
        self._store = store
        self._workspace = workspace
        self._prefixes = prefixes
        self._owner = owner
        self._held: dict[int, Holding] = {}
        self._kept: OrderedDict[int, Holding] = OrderedDict()

    @property
    def arena(self) -> KvArena:
        return self._store.arena

    def gathers(self, tokens: int) -> bool:
        """Whether KV of that many tokens may lie in more than one run of rows."""
        return self._store.gathers(tokens)

    def reserve(self, seq_id: int, tokens: int, activation_bytes: int) -> KvTable | None:
        """Rows for `tokens` tokens of `seq_id` in all, while a workspace of `activation_bytes`
        can be had too.  On None nothing has changed for any running sequence.
        """
        holding = self._held.get(seq_id)
        if holding is None:
            opened = self._open()
            if opened is None:
                return None
            holding = opened
        if not self._grant(holding, tokens, activation_bytes):
            if seq_id not in self._held:
                self._store.close(holding)
            return None
        self._held[seq_id] = holding
        return self._store.table(holding)

    def _open(self) -> Holding | None:
        holding = self._store.open()
        while holding is None and self._evict():
            holding = self._store.open()
        return holding

    def _grant(self, holding: Holding, tokens: int, activation_bytes: int) -> bool:
        if tokens <= self._store.tokens(holding) and self._workspace_fits(activation_bytes, 0):
            return True
        while True:
            need = self._store.missing(holding, tokens)
            if self._make_room(need, activation_bytes):
                break
            if not self._evict():
                return False
        return self._store.extend(holding, tokens)

    def _workspace_fits(self, activation_bytes: int, chunks: int) -> bool:
        """Whether `chunks` of KV and a workspace can be had from what is free."""
        want = ceil_div(activation_bytes, self._pool.chunk_bytes)
        more = max(0, want - self._workspace.mapped)
        return chunks + more <= self._pool.free and more <= self._pool.available(
            self._workspace.owner
        )

    def _make_room(self, chunks: int, activation_bytes: int) -> bool:
        """As `_workspace_fits`, shrinking an idle workspace when that is what it takes."""

        def fits() -> bool:
            enough = chunks <= self._pool.available(self._owner)
            return enough and self._workspace_fits(activation_bytes, chunks)

        if not fits():
            self._workspace.shrink(activation_bytes)
        return fits()

    def share(self, parent_id: int, child_id: int, tokens: int, activation_bytes: int) -> bool:
        """Give `child_id`, which holds nothing, the first `tokens` tokens of `parent_id`.

        False when that would leave less than a workspace of `activation_bytes`.
        """
        parent = self._held.get(parent_id) or self._kept.get(parent_id)
        assert parent is not None, f"sequence {parent_id} holds nothing to share"
        assert child_id not in self._held, child_id
        if not self._make_room(self._store.missing_for_fork(parent, tokens), activation_bytes):
            return False
        child = self._store.fork(parent, tokens)
        if child is None:
            return False
        self._held[child_id] = child
        return True

    def adopt(self, seq_id: int, tokens: Sequence[int], activation_bytes: int) -> int:
        """Give `seq_id`, which holds nothing, the longest known beginning of `tokens`.

        Returns how many tokens' KV it now holds: 0 when nothing matches or memory is short, and
        never all of them, because at least one must be computed to know what follows.
        """
        if self._prefixes is None:
            return 0
        match = self._prefixes.match(tokens[:-1])
        if match is None:
            return 0
        holder, count = match
        if holder in self._kept:
            self._kept.move_to_end(holder)
        return count if self.share(holder, seq_id, count, activation_bytes) else 0

    def publish(self, seq_id: int, tokens: Sequence[int], computed: int) -> None:
        """The first `computed` of `tokens` now have KV that others may share."""
        if self._prefixes is not None:
            self._prefixes.publish(seq_id, tokens, computed)

    def free(self, seq_id: int, keep: bool = False) -> None:
        """`seq_id` needs its KV no more.  `keep` it as a prefix for others while memory lasts."""
        holding = self._held.pop(seq_id, None)
        if holding is None:
            return
        if keep and self._prefixes is not None:
            self._kept[seq_id] = holding
            return
        self._forget(seq_id)
        self._store.close(holding)

    def _evict(self) -> bool:
        if not self._kept:
            return False
        seq_id, holding = self._kept.popitem(last=False)
        self._forget(seq_id)
        self._store.close(holding)
        return True

    def _forget(self, seq_id: int) -> None:
        if self._prefixes is not None:
            self._prefixes.forget(seq_id)

    @property
    def usage(self) -> float:
        """Share (0 to 1) that KV holds of the chunks it could have now."""
        held = self._pool.held(self._owner)
        return held / max(1, held + self._pool.available(self._owner))

    @property
    def waste(self) -> float:
        """Share (0 to 1) of mapped KV bytes that hold no token's row."""
        mapped = self._pool.held(self._owner) * self._pool.chunk_bytes
        return self._store.wasted_bytes() / mapped if mapped else 0.0

    def fits_alone(self, tokens: int, activation_bytes: int) -> bool:
        """Whether one sequence of `tokens` tokens can run when it has the pool to itself."""
        want = self._store.chunks_alone(tokens)
        want += ceil_div(activation_bytes, self._pool.chunk_bytes)
        mine = self._pool.held(self._owner) + self._workspace.mapped
        return want <= self._pool.free + mine

    def could_hold(self, tokens: int) -> bool:
        """Whether `tokens` tokens of a new sequence would fit what is free or kept now."""
        kept = sum(self._store.chunks_alone(self._store.tokens(h)) for h in self._kept.values())
        return self._store.chunks_alone(tokens) <= self._pool.available(self._owner) + kept

    def check(self) -> None:
        """Assert that the books balance."""
        self._store.check()
        self._pool.check()
        if self._prefixes is not None:
            self._prefixes.check()
