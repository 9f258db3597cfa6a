"""Who holds how many chunks, and how many each may and must be able to hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ellm.core.errors import BudgetError


@dataclass(slots=True)
class Account:
    """One owner's chunks.  `ceiling` None is no limit of its own."""

    held: int = 0
    floor: int = 0
    ceiling: int | None = None

    @property
    def unmet(self) -> int:
        """Chunks that are still lacking to the floor."""
        return max(0, self.floor - self.held)

    def limited(self, most: int) -> int:
        """`most`, cut to the ceiling."""
        return most if self.ceiling is None else min(most, self.ceiling)

    def room(self, most: int) -> int:
        """`most` more, cut to what the ceiling leaves."""
        return most if self.ceiling is None else min(most, self.ceiling - self.held)


@dataclass(slots=True)
class Group:
    """Owners with limits in common: those of one model.  `held` is kept beside theirs.

    `floors` is what the owners' add up to.  It is kept, as it hardly ever changes and is asked for
    every time that anybody takes a chunk.
    """

    limits: Account = field(default_factory=Account)
    owners: dict[str, Account] = field(default_factory=dict)
    floors: int = 0

    def count(self) -> None:
        """The owners, or their floors, are others than before."""
        self.floors = sum(account.floor for account in self.owners.values())

    @property
    def promised(self) -> int:
        """Chunks that the group can count on: its floor, or what its owners' floors add up to."""
        return max(self.limits.floor, self.floors)

    def unmet(self, taken: Mapping[str, int] | None = None) -> int:
        """Chunks lacking to the floors of the group's owners, once they have `taken` so many."""
        if not self.floors:
            return 0
        taken = taken or {}
        return sum(max(0, a.unmet - taken.get(name, 0)) for name, a in self.owners.items())


@dataclass(frozen=True, slots=True)
class Lack:
    """Chunks short of giving every owner of a group what it wants.

    What the `pool` lacks anybody may give back; what the ceiling of the `group` withholds only its
    owners; and what an owner's own ceiling withholds, by name in `owners`, only that owner.
    """

    pool: int = 0
    group: int = 0
    owners: Mapping[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.pool or self.group or self.owners)

    def of(self, owner: str) -> int:
        """What chunks of `owner`, one of the group, would help with; empty for several of it."""
        own = self.owners if not owner else {owner: self.owners.get(owner, 0)}
        return max(self.pool, self.group, *own.values(), 0)


class Ledger:
    """Accounts of the owners of `total` chunks.

        total  │ held ···│ held ······│ free ·····················│
        owner    weights   kv           ├ unmet floors of others ─┼─ available ─┤

    An owner is a name; its account opens when it is first mentioned.  A floor is a right, not a
    reservation: other owners may not take the chunks that the owner still lacks to reach it.
    Owners may be joined in a group that has limits too; a group's floor binds other groups only.
    Lowering the total below what is held leaves `free` negative until enough is given back.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._ungrouped = Group()
        self._groups: dict[str, Group] = {}
        self._home: dict[str, Group] = {}
        self._held = 0

    @property
    def promised(self) -> int:
        """Chunks promised to owners and groups in all."""
        return self._ungrouped.floors + sum(group.promised for group in self._groups.values())

    @property
    def free(self) -> int:
        """Chunks no owner holds; negative while more are held than there may be."""
        return self.total - self._held

    def held(self, owner: str) -> int:
        home = self._home.get(owner)
        return 0 if home is None else home.owners[owner].held

    def group_held(self, group: str) -> int:
        return self._groups[group].limits.held if group in self._groups else 0

    def group_spare(self, group: str) -> int:
        """Chunks that `group` holds beyond its floors: what others may ask it to give back."""
        home = self._groups.get(group)
        return 0 if home is None else max(0, home.limits.held - home.promised)

    def holdings(self) -> Mapping[str, int]:
        """Chunks of every owner ever mentioned, as they are now."""
        return {owner: home.owners[owner].held for owner, home in self._home.items()}

    def join(self, owner: str, group: str) -> None:
        """From now on `owner`, which holds nothing yet, is one of `group`."""
        account = self._account(owner)
        assert account.held == 0, (owner, account.held)
        before, home = self._home[owner], self._groups.setdefault(group, Group())
        del before.owners[owner]
        before.count()
        self._home[owner] = home
        home.owners[owner] = account
        home.count()

    def leave(self, owner: str) -> None:
        """Close the account of `owner`, which holds nothing; its limits go with it.

        So do those of its group when it was the last of it.
        """
        assert self.held(owner) == 0, (owner, self.held(owner))
        home = self._home.pop(owner, None)
        if home is not None:
            del home.owners[owner]
            home.count()
            left = {name: g for name, g in self._groups.items() if g is not home or g.owners}
            self._groups = left

    def resize(self, total: int) -> None:
        """Change the total.  Raises BudgetError, changing nothing, if the floors do not fit."""
        if self.promised > total:
            raise BudgetError(
                f"{self.promised} chunks are promised to owners, and the pool would have {total}: "
                "lower their floors first"
            )
        self.total = total

    def limit(self, owner: str, floor: int = 0, ceiling: int | None = None) -> None:
        """Set both limits of `owner`, in chunks; at any time.

        A ceiling below what is held takes nothing away: the owner only cannot take more.  Raises
        BudgetError if the floors no longer fit the total or the group's ceiling, or the ceiling
        is below the floor.
        """
        account = self._account(owner)
        self._set(account, self._home[owner], owner, floor, ceiling)

    def limit_group(self, group: str, floor: int = 0, ceiling: int | None = None) -> None:
        """Set what the owners of `group` together may and must be able to hold, as `limit`."""
        home = self._groups.setdefault(group, Group())
        self._set(home.limits, home, group, floor, ceiling)

    def available(self, owner: str) -> int:
        """Most chunks that `owner` could take now."""
        home = self._home.get(owner, self._ungrouped)
        unmet = home.unmet({owner: self.total})
        room = home.limits.room(self.free - self._promised_outside(home)) - unmet
        if owner in home.owners:
            room = home.owners[owner].room(room)
        return max(0, room)

    def reach(self, owner: str) -> int:
        """Most chunks that `owner` could hold if all others went down to their floors."""
        home = self._home.get(owner, self._ungrouped)
        room = self._group_reach(home) - sum(
            account.floor for name, account in home.owners.items() if name != owner
        )
        return home.owners[owner].limited(room) if owner in home.owners else room

    def group_reach(self, group: str) -> int:
        """Most chunks that the owners of `group` could hold if all others went to their floors."""
        return self._group_reach(self._groups.get(group, self._ungrouped))

    def _group_reach(self, home: Group) -> int:
        others = self.promised - home.promised
        return home.limits.limited(self.total - others)

    def lacking(self, wants: Mapping[str, int]) -> Lack:
        """What is short of giving every owner, all of one group, what it wants at once.

        No wants at all ask for what the pool lacks to hold no more than its total, and to have
        free what is promised.
        """
        total = sum(wants.values())
        if not total:
            return Lack(max(0, self._promised_outside(Group()) - self.free))
        home = self._home.get(next(iter(wants)), self._ungrouped)
        total += home.unmet(wants)
        owners = {
            name: count - home.owners[name].room(count)
            for name, count in wants.items()
            if count and name in home.owners and count > home.owners[name].room(count)
        }
        pool = max(0, total - self.free + self._promised_outside(home))
        return Lack(pool, max(0, total - home.limits.room(total)), owners)

    def charge(self, owner: str, count: int) -> None:
        """`owner` took `count` chunks, which were available to it."""
        assert 0 <= count <= self.available(owner), (owner, count, self.available(owner))
        self._move(owner, count)

    def refund(self, owner: str, count: int) -> None:
        """`owner` gave `count` of its chunks back."""
        assert 0 <= count <= self.held(owner), (owner, count, self.held(owner))
        self._move(owner, -count)

    def check(self) -> None:
        """The accounts add up to the whole."""
        held = sum(self.holdings().values())
        assert held == self._held, (held, self._held)
        for name, group in self._groups.items():
            of_owners = sum(account.held for account in group.owners.values())
            assert of_owners == group.limits.held, (name, of_owners, group.limits.held)
            floors = sum(account.floor for account in group.owners.values())
            assert floors == group.floors, (name, floors, group.floors)
        assert all(count >= 0 for count in self.holdings().values()), self.holdings()

    def _promised_outside(self, home: Group) -> int:
        """Free chunks that owners and groups outside `home` have a right to."""
        kept = 0 if home is self._ungrouped else self._ungrouped.unmet()
        for group in self._groups.values():
            if group is not home and group.promised:
                kept += max(group.limits.unmet, group.unmet())
        return kept

    def _set(
        self, account: Account, home: Group, name: str, floor: int, ceiling: int | None
    ) -> None:
        before = account.floor, account.ceiling
        account.floor, account.ceiling = floor, ceiling
        home.count()
        promised, most = self.promised, home.limits.ceiling
        refusal = None
        if floor < 0 or promised > self.total:
            refusal = (
                f"a floor of {floor} chunks for {name} and {promised - floor} for the others do "
                f"not fit a pool of {self.total}: raise --memory or lower the floor"
            )
        elif ceiling is not None and ceiling < floor:
            refusal = f"the ceiling of {name}, {ceiling}, is below its floor, {floor}"
        elif most is not None and most < home.floors:
            refusal = (
                f"with {name} the floors of a group add up to {home.floors} chunks, and its "
                f"ceiling is {most}: lower the floors, or raise the ceiling"
            )
        if refusal is not None:
            account.floor, account.ceiling = before
            home.count()
            raise BudgetError(refusal)

    def _move(self, owner: str, count: int) -> None:
        self._account(owner).held += count
        self._home[owner].limits.held += count
        self._held += count

    def _account(self, owner: str) -> Account:
        home = self._home.setdefault(owner, self._ungrouped)
        return home.owners.setdefault(owner, Account())
