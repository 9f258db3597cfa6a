"""Which sequence holds the KV of a given beginning of text.

A text is hashed block by block, each hash covering everything before it, so that equal hashes
mean equal beginnings.  A salt goes before the text: requests with different salts share nothing.
The index only names holders; memory is the manager's business.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence


class PrefixIndex:
    """Block hashes of `block_size` tokens, and who has them computed.

    tokens   │ block 0 │ block 1 │ block 2 │ rest
    chain      h0        h1        h2           all that has been asked for
    held       ●         ●                      what the sequence has computed
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self._holders: dict[bytes, dict[int, None]] = {}
        self._chains: dict[int, list[bytes]] = {}
        self._held: dict[int, int] = {}
        # Who holds hardly any block after this one.
        self._ends: dict[bytes, dict[int, None]] = {}

    def publish(self, seq_id: int, tokens: Sequence[int], computed: int, salt: bytes = b"") -> None:
        """Say that `seq_id` holds the KV of the first `computed` of `tokens`."""
        blocks = computed // self.block_size
        held = self._held.get(seq_id, 0)
        if blocks > held:
            chain = self._chain(seq_id, tokens, blocks, salt)
            for digest in chain[held:blocks]:
                self._holders.setdefault(digest, {})[seq_id] = None
            self._end(seq_id, blocks)

    def match(
        self,
        seq_id: int,
        tokens: Sequence[int],
        salt: bytes = b"",
        among: Callable[[int], bool] | None = None,
    ) -> tuple[int, int] | None:
        """A sequence and how many leading tokens of `tokens` it holds; None for no whole block.

        `tokens` are the beginning of the text of `seq_id`, whose hashes are remembered.  Only
        sequences that `among` says yes to are looked at; the latest to publish comes first.
        """
        best = None
        for number in range(1, len(tokens) // self.block_size + 1):
            holders = self._holders.get(self._chain(seq_id, tokens, number, salt)[number - 1], {})
            found = next((one for one in reversed(holders) if among is None or among(one)), None)
            if found is None:
                break
            best = (found, number * self.block_size)
        return best

    def held(self, seq_id: int) -> int:
        """Tokens, in whole blocks, that `seq_id` holds."""
        return self._held.get(seq_id, 0) * self.block_size

    def covered(self, seq_id: int) -> Iterator[int]:
        """Other sequences of whose blocks `seq_id` holds all but an eighth, or all."""
        for digest in self._chains.get(seq_id, ())[: self._held.get(seq_id, 0)]:
            for other in self._ends.get(digest, ()):
                if other != seq_id:
                    yield other

    def covering(self, seq_id: int) -> Iterator[int]:
        """Other sequences that hold all blocks of `seq_id`, which has some."""
        last = self._chains[seq_id][self._held[seq_id] - 1]
        return (other for other in self._holders[last] if other != seq_id)

    def shorten(self, seq_id: int, tokens: int) -> None:
        """`seq_id` holds no more than its first `tokens` tokens."""
        blocks, held = tokens // self.block_size, self._held.get(seq_id, 0)
        if blocks < held:
            for digest in self._chains[seq_id][blocks:held]:
                holders = self._holders[digest]
                del holders[seq_id]
                if not holders:
                    del self._holders[digest]
            self._end(seq_id, blocks)

    def forget(self, seq_id: int) -> None:
        """`seq_id` has ended and holds nothing."""
        self.shorten(seq_id, 0)
        self._held.pop(seq_id, None)
        self._chains.pop(seq_id, None)

    def _end(self, seq_id: int, blocks: int) -> None:
        """From now on `seq_id` holds that many blocks."""
        chain, held = self._chains[seq_id], self._held.get(seq_id, 0)
        if held:
            end = chain[_nearly(held) - 1]
            del self._ends[end][seq_id]
            if not self._ends[end]:
                del self._ends[end]
        if blocks:
            self._ends.setdefault(chain[_nearly(blocks) - 1], {})[seq_id] = None
        self._held[seq_id] = blocks

    def check(self) -> None:
        ends = {(self._chains[s][_nearly(n) - 1], s) for s, n in self._held.items() if n}
        assert ends == {(digest, s) for digest, holders in self._ends.items() for s in holders}
        for digest, holders in self._holders.items():
            assert holders, digest
            for seq_id in holders:
                assert digest in self._chains[seq_id][: self._held[seq_id]], (seq_id, digest)

    def _chain(self, seq_id: int, tokens: Sequence[int], blocks: int, salt: bytes) -> list[bytes]:
        chain = self._chains.setdefault(seq_id, [])
        while len(chain) < blocks:
            start = len(chain) * self.block_size
            block = array("q", tokens[start : start + self.block_size])
            assert min(block) >= 0, (seq_id, "the hash of a token that nobody knows yet")
            before = chain[-1] if chain else salt
            chain.append(hashlib.blake2b(before + block.tobytes(), digest_size=16).digest())
        return chain


def _nearly(blocks: int) -> int:
    """So many of `blocks` that the rest is not worth keeping all of them for."""
    return blocks - blocks // 8
