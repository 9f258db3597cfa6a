"""Which engine has served which beginnings, as whoever stands in front of them can know."""

from __future__ import annotations

from ellm.sim.workload.item import Item


class Affinity:
    """Beginnings by the numbers of their blocks, and the seats that have served them.

    What a seat has forgotten since is not known here, so that this is an upper bound.
    """

    def __init__(self, seats: int) -> None:
        self._seats = seats
        self._served: dict[int, set[int]] = {}

    def known(self, item: Item) -> list[int]:
        """Tokens at the beginning of the prompt that each seat has served."""
        known = [0] * self._seats
        matching = set(range(self._seats))
        for place, block in enumerate(item.blocks, 1):
            matching = matching & self._served.get(block, set())
            if not matching:
                break
            # At least one token is always computed, to know what follows.
            tokens = min(round(place * item.block_tokens), item.prompt_tokens - 1)
            for seat in matching:
                known[seat] = tokens
        return known

    def serve(self, item: Item, seat: int) -> None:
        """From now on `seat` has served the item."""
        for block in item.blocks:
            self._served.setdefault(block, set()).add(seat)
