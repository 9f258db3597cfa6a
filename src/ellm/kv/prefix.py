"""Which sequence holds the KV of a given beginning of text.

A text is hashed block by block, each hash covering everything before it, so that equal hashes
mean equal beginnings.  The index only names holders; memory is the manager's business.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

ROOT = b""


class PrefixIndex:
    """Block hashes of `block_size` tokens, and who has them computed."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self._holders: dict[bytes, dict[int, None]] = {}
        self._chains: dict[int, list[bytes]] = {}

    def publish(self, seq_id: int, tokens: Sequence[int], computed: int) -> None:
        """Say that `seq_id` holds the KV of the first `computed` of `tokens`."""
        chain = self._chains.setdefault(seq_id, [])
        while (len(chain) + 1) * self.block_size <= computed:
            start = len(chain) * self.block_size
            block = tokens[start : start + self.block_size]
            digest = self._extend(chain[-1] if chain else ROOT, block)
            chain.append(digest)
            self._holders.setdefault(digest, {})[seq_id] = None

    def match(self, tokens: Sequence[int]) -> tuple[int, int] | None:
        """A sequence and how many leading tokens of `tokens` it holds; None for no whole block."""
        best = None
        digest = ROOT
        for stop in range(self.block_size, len(tokens) + 1, self.block_size):
            digest = self._extend(digest, tokens[stop - self.block_size : stop])
            holders = self._holders.get(digest)
            if not holders:
                break
            best = (next(iter(holders)), stop)
        return best

    def forget(self, seq_id: int) -> None:
        """`seq_id` holds nothing any more."""
        for digest in self._chains.pop(seq_id, ()):
            holders = self._holders[digest]
            del holders[seq_id]
            if not holders:
                del self._holders[digest]

    def check(self) -> None:
        for digest, holders in self._holders.items():
            assert holders, digest
            assert all(digest in self._chains[seq_id] for seq_id in holders)

    @staticmethod
    def _extend(digest: bytes, block: Sequence[int]) -> bytes:
        return hashlib.blake2b(digest + array("q", block).tobytes(), digest_size=16).digest()
