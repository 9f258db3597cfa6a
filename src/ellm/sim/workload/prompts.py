"""Token ids for requests of which only the lengths are known."""

from __future__ import annotations

from hashlib import shake_128

from ellm.sim.workload.item import Item

# Ids that every byte-level vocabulary has, past the special tokens at its start.
FIRST_ID, LAST_ID = 3, 255
_IDS = bytes(FIRST_ID + byte % (LAST_ID - FIRST_ID + 1) for byte in range(256))


def token_ids(item: Item, number: int, seed: int) -> bytes:
    """The prompt of an item, a byte an id; `tuple` of it is what a `Request` takes.

    A block stands for the same tokens wherever it is found under the same `seed`.  The other tokens
    are those of the request `number`: no other has them, but by chance.  Nothing depends on what
    was made before, so that a prompt can be made when it is needed and forgotten.
    """
    parts: list[bytes] = []
    made = 0
    for place, block in enumerate(item.blocks, 1):
        end = min(round(place * item.block_tokens), item.prompt_tokens)
        parts.append(_ids(f"{seed}:{block}", end - made))
        made = end
    parts.append(_ids(f"{seed}/{number}", item.prompt_tokens - made))
    return b"".join(parts)


def _ids(name: str, count: int) -> bytes:
    """The first `count` of an endless row of ids that belongs to `name`.

    SHAKE-128 makes them because what it makes of few is the beginning of what it makes of many,
    and because it needs no state to be set up: a generator of the standard library takes longer to
    seed than a block takes to fill.
    """
    return shake_128(name.encode()).digest(count).translate(_IDS)
