"""What one engine can give back to the pool, as the balloon asks for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ellm.memory.balloon import Cost
from ellm.memory.virtual import VirtualTensor


@dataclass(slots=True, eq=False)
class WorkspaceSource:
    """Activation chunks that the step being planned does not need.

    `keep` are the bytes it does.  Chunks stay mapped after a step until someone asks for them.
    """

    workspace: VirtualTensor
    group: str
    keep: int = 0
    used: float = 0.0
    name: str = "workspace"
    cost: Cost = Cost.WORKSPACE

    @property
    def owner(self) -> str:
        return self.workspace.owner

    def idle(self) -> int:
        kept = -(-self.keep // self.workspace.pool.chunk_bytes)
        return max(0, self.workspace.mapped - kept)

    def release(self, count: int) -> int:
        chunk = self.workspace.pool.chunk_bytes
        return self.workspace.shrink(max(self.keep, (self.workspace.mapped - count) * chunk))


@dataclass(slots=True, eq=False)
class CalledSource:
    """Whatever two functions say it has and does."""

    name: str
    group: str
    owner: str
    cost: Cost
    has: Callable[[], int]
    give: Callable[[int], int]
    used: float = 0.0

    def idle(self) -> int:
        return self.has()

    def release(self, count: int) -> int:
        return self.give(count)
