"""Who holds how many chunks, and how many each may and must be able to hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ellm.core.errors import BudgetError


@dataclass(slots=True)
class Account:
    """One owner's chunks.  `ceiling` None is no limit of its own."""

    held: int = 0
    floor: int = 0
    ceiling: int | None = None


class Ledger:
    """Accounts of the owners of `total` chunks.

        total  │ held ···│ held ······│ free ·····················│
        owner    weights   kv           ├ unmet floors of others ─┼─ available ─┤

    An owner is a name; its account opens when it is first mentioned.  A floor is a right, not a
    reservation: other owners may not take the chunks that the owner still lacks to reach it.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._accounts: dict[str, Account] = {}
        self._held = 0

    @property
    def free(self) -> int:
        """Chunks no owner holds."""
        return self.total - self._held

    def held(self, owner: str) -> int:
        account = self._accounts.get(owner)
        return 0 if account is None else account.held

    def holdings(self) -> Mapping[str, int]:
        """Chunks of every owner ever mentioned, as they are now."""
        return {owner: account.held for owner, account in self._accounts.items()}

    def limit(self, owner: str, floor: int = 0, ceiling: int | None = None) -> None:
        """Set both limits of `owner`, in chunks; at any time.

        A ceiling below what is held takes nothing away: the owner only cannot take more.  Raises
        BudgetError if the floors no longer fit the total, or the ceiling is below the floor.
        """
        others = sum(a.floor for name, a in self._accounts.items() if name != owner)
        if floor < 0 or others + floor > self.total:
            raise BudgetError(
                f"a floor of {floor} chunks for {owner} and {others} for the others do not fit "
                f"a pool of {self.total}: raise --memory or lower the floor"
            )
        if ceiling is not None and ceiling < floor:
            raise BudgetError(f"the ceiling of {owner}, {ceiling}, is below its floor, {floor}")
        account = self._account(owner)
        account.floor, account.ceiling = floor, ceiling

    def available(self, owner: str) -> int:
        """Most chunks that `owner` could take now."""
        return self._room(owner, self.free - self._unmet(owner))

    def charge(self, owner: str, count: int) -> None:
        """`owner` took `count` chunks, which were available to it."""
        assert 0 <= count <= self.available(owner), (owner, count, self.available(owner))
        self._account(owner).held += count
        self._held += count

    def refund(self, owner: str, count: int) -> None:
        """`owner` gave `count` of its chunks back."""
        assert 0 <= count <= self.held(owner), (owner, count, self.held(owner))
        self._account(owner).held -= count
        self._held -= count

    def check(self) -> None:
        """The accounts add up to the whole."""
        held = sum(account.held for account in self._accounts.values())
        assert held == self._held, (held, self._held)
        assert 0 <= held <= self.total, (held, self.total)
        assert all(account.held >= 0 for account in self._accounts.values()), self._accounts

    def _unmet(self, owner: str) -> int:
        """Chunks that owners other than `owner` lack to reach their floors."""
        return sum(
            max(0, account.floor - account.held)
            for name, account in self._accounts.items()
            if name != owner
        )

    def _room(self, owner: str, room: int) -> int:
        """`room`, cut to what the ceiling of `owner` leaves, and never negative."""
        account = self._accounts.get(owner)
        if account is not None and account.ceiling is not None:
            room = min(room, account.ceiling - account.held)
        return max(0, room)

    def _account(self, owner: str) -> Account:
        return self._accounts.setdefault(owner, Account())
