"""Who holds which KV, and whether one step's memory can all be had at once.

A step needs KV rows for its new tokens *and* a workspace for its activations, from one pool.
`reserve` grants rows only while the workspace the step would need can be had as well, so that a
step whose plan is complete never runs short (eLLM's atomic acquisition, arXiv 2506.15155).  When
chunks are short the balloon asks whoever has some to spare; this engine's sources are

    rows mapped ahead ▸ workspace ▸ warm ranges ▸ rows on their way below ▸ prefixes kept for later

A sequence that must yield its memory can be parked in the tier below, and fetched from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Generic

from ellm.core.layers import KvArena, KvTable
from ellm.core.plan import StepPlan
from ellm.kv.beginnings import Beginnings, Match
from ellm.kv.below import Below
from ellm.kv.kept import KeptPrefixes
from ellm.kv.layered import Ferry
from ellm.kv.parking import Whereabouts
from ellm.kv.prefix import PrefixIndex
from ellm.kv.room import Room
from ellm.kv.store import Holding, KvStore
from ellm.memory.balloon import Cost


class KvManager(Generic[Holding]):
    """The KV of every sequence by its id, over one layout; `kept` is None without such a cache."""

    def __init__(
        self,
        room: Room,
        store: KvStore[Holding],
        prefixes: PrefixIndex | None = None,
        below: Below[Holding] | None = None,
    ) -> None:
        self.room = room
        self._store = store
        self._index = prefixes
        self._below = below
        self._held: dict[int, Holding] = {}
        tiers = None if below is None else below.tiers
        self.kept = None if prefixes is None else KeptPrefixes(store, prefixes, tiers)
        self._beginnings = None
        if prefixes is not None and self.kept is not None:
            self._beginnings = Beginnings(prefixes, self.kept, self._held)
        self._granting: Holding | None = None
        self._offer()

    def _offer(self) -> None:
        room, store = self.room, self._store
        if not room.fixed:
            room.offer("premapped", Cost.PREMAPPED, lambda: self.ahead, self._trim_spare)
            room.offer("warm", Cost.WARM, lambda: store.warm, store.reclaim)
        if (below := self._below) is not None:
            room.offer("leaving", Cost.LEAVING, lambda: below.leaving, below.release)
        if (kept := self.kept) is not None:
            room.offer("prefixes", Cost.PREFIX, lambda: self._idle_prefixes(kept), kept.release)

    def _idle_prefixes(self, kept: KeptPrefixes[Holding]) -> int:
        """At most how many chunks only kept prefixes hold; many of them share their beginning."""
        beside = self._store.warm + self.ahead
        return max(0, min(kept.chunks, self.room.pool.held(self.room.owners.kv) - beside))

    @property
    def arena(self) -> KvArena:
        return self._store.arena

    @property
    def token_bytes(self) -> int:
        """KV bytes of one token over all layers."""
        return self._store.token_bytes

    def begin(self, now: float) -> None:
        """A step is about to be planned at `now`, in seconds."""
        self.room.touch(now)
        if self._below is not None:
            self._below.begin()

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

        `expect` is how many tokens a new sequence will have soon.  When `gentle`, no prefix and no
        idle model is given up.
        """
        most = Cost.WARM if gentle else Cost.MODEL
        if self._below is not None and self._below.is_layered(seq_id):
            return self._below.reserve_layered(seq_id, tokens, activation_bytes, most)
        holding = self._held.get(seq_id) or self._open(max(expect, tokens))
        if holding is None:
            return None
        if not self._grant(holding, tokens, activation_bytes, most):
            if seq_id not in self._held:
                self._store.close(holding)
            return None
        self._held[seq_id] = holding
        return self._store.table(holding)

    def go_on(self, seq_id: int, tokens: int) -> KvTable | None:
        """As `reserve`, for rows that are mapped already; None if it must be asked."""
        holding = self._held.get(seq_id)
        return None if holding is None else self._store.within(holding, tokens)

    def _open(self, tokens: int = 0) -> Holding | None:
        return self._with_slot(lambda: self._store.open(tokens))

    def _with_slot(self, attempt: Callable[[], Holding | None]) -> Holding | None:
        """What `attempt` makes once kept prefixes have left it an address slot, if one can."""
        holding = attempt()
        while holding is None and self.kept is not None and self.kept.evict():
            holding = attempt()
        return holding

    def _grant(self, holding: Holding, tokens: int, activation_bytes: int, most: Cost) -> bool:
        self._granting, missing = holding, partial(self._store.missing, holding, tokens)
        fits = self.room.make(missing, activation_bytes, most)
        # What a warm range has beyond these tokens may be what is lacking.
        if not fits and self._store.room(holding) > tokens:
            self._store.trim(holding, self._store.tokens(holding))
            fits = self.room.make(missing, activation_bytes, most)
        self._granting = None
        return fits and self._store.extend(holding, tokens)

    def share(self, parent_id: int, child_id: int, tokens: int, activation_bytes: int) -> bool:
        """Give `child_id`, which holds nothing, the first `tokens` tokens of `parent_id`.

        False when that would leave less than a workspace of `activation_bytes`.
        """
        parent = self._held.get(parent_id)
        if parent is None and self.kept is not None:
            parent = self.kept.rows(parent_id)
        assert parent is not None, f"sequence {parent_id} holds nothing to share"
        assert child_id not in self._held, child_id
        with nullcontext() if self.kept is None else self.kept.sparing(parent_id):
            missing = partial(self._store.missing_for_fork, parent, tokens)
            fits, fork = self.room.make(missing, activation_bytes), self._store.fork
            child = self._with_slot(partial(fork, parent, tokens)) if fits else None
        if child is not None:
            self._held[child_id] = child
        return child is not None

    def adopt(
        self,
        seq_id: int,
        tokens: Sequence[int],
        activation_bytes: int,
        salt: bytes = b"",
        worth: Callable[[int, float], bool] | None = None,
    ) -> int:
        """Give `seq_id`, which holds nothing, the longest known beginning of `tokens`.

        Returns how many tokens' KV it now holds: 0 when nothing matches or memory is short.  A
        longer beginning that is below is fetched if `worth(tokens more, seconds)` says so: then
        the sequence is `where` RETURNING.
        """
        if self._beginnings is None or self.kept is None:
            return 0
        near = self._beginnings.at_hand(seq_id, tokens, salt)
        if self._below is not None and worth is not None:
            far = self._beginnings.anywhere(seq_id, tokens, salt)
            more = (far[1] if far else 0) - (near[1] if near else 0)
            if far and more:
                if self._fetch_prefix(seq_id, far, activation_bytes, more, worth):
                    return far[1]
                near = self._beginnings.at_hand(seq_id, tokens, salt)  # it may have made room
        shared = near is not None and self.share(near[0], seq_id, near[1], activation_bytes)
        return near[1] if near and shared else 0

    def known(self, seq_id: int, tokens: Sequence[int], salt: bytes = b"") -> int:
        """How many of `tokens` `adopt` could find in memory."""
        if self._beginnings is None or seq_id in self._held:
            return 0
        match = self._beginnings.at_hand(seq_id, tokens, salt)
        return 0 if match is None else match[1]

    def _fetch_prefix(
        self,
        seq_id: int,
        far: Match,
        activation_bytes: int,
        more: int,
        worth: Callable[[int, float], bool],
    ) -> bool:
        """Begin to bring a kept prefix up from below; whether that has begun."""
        assert self.kept is not None
        holder, count = far
        kept, below = self.kept.get(holder), self._below
        if kept is None or kept.block is None or not kept.is_copied or below is None:
            return False
        size = kept.block.size * count // kept.copied
        if not worth(more, below.tiers.load_seconds(kept.block, size)):
            return False
        holding = self._open(count)
        if holding is None:
            return False
        # While room was made the copy may have been given up, or found to be bad.
        if not self._grant(holding, count, activation_bytes, Cost.MODEL) or not kept.is_copied:
            self._store.close(holding)
            return False
        below.lot.fetch_from(seq_id, holding, kept.block, count, kept.copied)
        return True

    def where(self, seq_id: int) -> Whereabouts | None:
        """Where a sequence's KV is that is not all in memory; else None."""
        return None if self._below is None else self._below.where(seq_id)

    def is_layered(self, seq_id: int) -> bool:
        return self._below is not None and self._below.is_layered(seq_id)

    def park_seconds(self, tokens: int) -> float | None:
        """How long parking and fetching `tokens` tokens would take; None without room below."""
        shed = 0 if self.kept is None else self.kept.below
        size = tokens * self._store.token_bytes
        return None if self._below is None else self._below.seconds(size, shed)

    def park(self, seq_id: int, tokens: int) -> bool:
        """Send the first `tokens` tokens of `seq_id` below; False, and no change, if not now.

        Its rows stay taken until they are safe; those beyond `tokens` are given up.
        """
        holding = self._held.get(seq_id)
        if not self._below or holding is None:
            return False
        while not self._below.lot.park(seq_id, holding, tokens):
            if self.kept is None or not self.kept.shed():
                return False
        del self._held[seq_id]
        if self._index is not None:
            self._index.shorten(seq_id, 0)
        return True

    def open_layered(
        self, seq_id: int, tokens: int, capacity: int, activation_bytes: int, seconds: float
    ) -> bool:
        """As `Below.open_layered`; False without a tier."""
        below, price = self._below, activation_bytes
        return below is not None and below.open_layered(seq_id, tokens, capacity, price, seconds)

    def ferry(self, plan: StepPlan) -> Ferry | None:
        """What carries layers in and out while `plan` runs; None if all its rows are mapped."""
        return None if self._below is None else self._below.ferry(plan)

    def fetch(self, seq_id: int, activation_bytes: int) -> bool:
        """Bring a sequence back from below, at once or RETURNING; False: not now, and no change."""
        assert self._below is not None
        lot = self._below.lot
        if self._below.is_layered(seq_id):
            return self._below.complete(seq_id, activation_bytes)
        if lot.where(seq_id) is Whereabouts.LEAVING:
            self._held[seq_id] = lot.take_back(seq_id)
            return True
        tokens = lot.tokens(seq_id)
        holding = self._open(tokens)
        if holding is None:
            return False
        if not self._grant(holding, tokens, activation_bytes, Cost.MODEL):
            self._store.close(holding)
            return False
        lot.fetch(seq_id, holding)
        return True

    def collect(self, seq_id: int) -> int | None:
        """Tokens of a RETURNING sequence that are there now; 0 if they are lost, None not yet."""
        assert self._below is not None
        found = self._below.collect(seq_id)
        if found is not None:
            self._held[seq_id] = found[0]
            return found[1]
        if self._below.where(seq_id) is Whereabouts.LOST:
            self._below.forget(seq_id)
            return 0
        return None

    def wait(self) -> bool:
        """Return when something has moved below or back; False if nothing was moving."""
        below, kept = self._below, self.kept
        return (below is not None and below.wait()) or (kept is not None and kept.wait())

    def publish(self, seq_id: int, tokens: Sequence[int], computed: int, salt: bytes = b"") -> None:
        """The first `computed` of `tokens` now have KV that others may share."""
        if self._index is not None and seq_id in self._held:
            self._index.publish(seq_id, tokens, computed, salt)

    def lacks(self, seq_id: int, tokens: int) -> int:
        """Chunks that rows for `tokens` tokens of `seq_id` still take; 0 if it holds nothing."""
        holding = self._held.get(seq_id)
        return 0 if holding is None else self._store.missing(holding, tokens)

    def premap(self, seq_id: int, tokens: int) -> bool:
        """Map rows for `tokens` tokens of `seq_id` ahead, from what is free; False if not now."""
        return self._store.premap(self._held[seq_id], tokens)

    def free(self, seq_id: int, keep: bool = False) -> None:
        """`seq_id` needs its KV no more.  `keep` it as a prefix for others while memory lasts."""
        holding = self._held.pop(seq_id, None)
        if holding is not None and keep and self.kept is not None:
            self.kept.add(seq_id, holding)
            return
        if self._index is not None:
            self._index.forget(seq_id)
        if self._below is not None:
            self._below.forget(seq_id)
        if holding is not None:
            self._store.close(holding)

    def relax(self, watermark: float) -> None:
        """Give warm ranges back while less than that share (0 to 1) of the pool is free."""
        short = int(watermark * self.room.pool.total) - self.room.pool.free
        self._store.reclaim(max(0, short))

    def rest(self) -> None:
        """Nothing runs: give back what only saves time, prefixes excepted."""
        self._trim_spare(self.room.pool.total)
        self._store.reclaim(self.room.pool.total)

    def dispose(self) -> None:
        """Give everything back, for good."""
        for seq_id in [*self._held, *(self._below.sequences if self._below else ())]:
            self.free(seq_id)
        if self.kept is not None:
            self.kept.clear()
        self._store.reclaim(self.room.pool.total)
        self.room.withdraw()

    @property
    def ahead(self) -> int:
        """Chunks mapped ahead of the sequences."""
        store, alone = self._store, self._store.chunks_alone
        held = (one for one in self._held.values() if one is not self._granting)
        return sum(alone(store.room(one)) - alone(store.tokens(one)) for one in held)

    def _trim_spare(self, count: int) -> int:
        freed = 0
        for holding in self._held.values():
            if freed < count and holding is not self._granting:
                freed += self._store.trim(holding, self._store.tokens(holding))
        return freed

    @property
    def parked(self) -> int:
        """Sequences whose KV is below, or on its way."""
        return 0 if self._below is None else len(self._below.sequences)

    @property
    def parked_bytes(self) -> int:
        return 0 if self._below is None else self._below.bytes

    @property
    def usage(self) -> float:
        """Share (0 to 1) that sequences hold of the chunks KV could have now."""
        held = self.room.pool.held(self.room.owners.kv)
        reach = held + self.room.pool.available(self.room.owners.kv)
        return (held - self._store.warm) / max(1, reach)

    @property
    def waste(self) -> float:
        """Share (0 to 1) of mapped KV bytes, warm ones left out, that hold no token's row."""
        mapped = self.room.pool.held(self.room.owners.kv) - self._store.warm
        return self._store.wasted_bytes() / (mapped * self.room.pool.chunk_bytes) if mapped else 0.0

    def fits_alone(self, tokens: int, activation_bytes: int) -> bool:
        """Whether one sequence of `tokens` tokens can run when it has the pool to itself."""
        return self.room.fits(self._store.chunks_alone(tokens), activation_bytes)

    def chunks(self, tokens: int) -> int:
        """Chunks that one sequence of so many tokens takes when it shares nothing."""
        return self._store.chunks_alone(tokens)

    def could_hold(self, tokens: int, soon: bool = True) -> bool:
        """Whether so many tokens would fit what is free or idle; `soon` waits for copies."""
        return self.room.could_have(self._store.chunks_alone(tokens), soon)

    def check(self) -> None:
        """Assert that the books balance."""
        self._store.check()
        self.room.pool.check()
        if self._below is not None:
            self._below.lot.check()
        if self.kept is not None:
            self.kept.check()
