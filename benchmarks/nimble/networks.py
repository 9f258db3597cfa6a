"""Networks with branches, random weights: what operations could run side by side."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Inception(nn.Module):
    """Blocks of four branches (as GoogLeNet's), channels kept."""

    def __init__(self, blocks: int = 6, channels: int = 128) -> None:
        super().__init__()
        few = channels // 4
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.Conv2d(channels, few, 1),
                    nn.Sequential(nn.Conv2d(channels, few, 1), nn.Conv2d(few, few, 3, padding=1)),
                    nn.Sequential(nn.Conv2d(channels, few, 1), nn.Conv2d(few, few, 5, padding=2)),
                    nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(channels, few, 1)),
                ]
            )
            for _ in range(blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        for branches in self.blocks:
            assert isinstance(branches, nn.ModuleList)
            x = torch.relu(torch.cat([branch(x) for branch in branches], 1))
        return x


class Cell(nn.Module):
    """As architecture search finds them: each node adds two earlier ones, transformed."""

    def __init__(self, width: int = 256, nodes: int = 12) -> None:
        super().__init__()
        self.left = nn.ModuleList(nn.Linear(width, width) for _ in range(nodes))
        self.right = nn.ModuleList(nn.Linear(width, width) for _ in range(nodes))

    def forward(self, x: Tensor) -> Tensor:
        made = [x, torch.tanh(x)]
        for node, (left, right) in enumerate(zip(self.left, self.right, strict=True)):
            a, b = made[(node * 7) % len(made)], made[(node * 3 + 1) % len(made)]
            made.append(torch.tanh(left(a)) + torch.sigmoid(right(b)))
        return torch.cat(made[2:], -1)


class Experts(nn.Module):
    """A router, and every expert on every token."""

    def __init__(self, width: int = 256, count: int = 8) -> None:
        super().__init__()
        self.router = nn.Linear(width, count)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for _ in range(count)
        )

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(self.router(x), -1)
        made = torch.stack([expert(x) for expert in self.experts], -1)
        return (made * weights[:, None, :]).sum(-1)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "inception": lambda: (Inception(), torch.randn(1, 128, 14, 14)),
    "cell": lambda: (Cell(), torch.randn(4, 256)),
    "experts": lambda: (Experts(), torch.randn(4, 256)),
}
