"""What one device does and keeps for one cell."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Product:
    """`held` matrices of `inputs` × `outputs`, of which every token passes `used`.

    Experts differ from other matrices by that alone.
    """

    inputs: int
    outputs: int
    held: int = 1
    used: float = 1.0

    @property
    def parameters(self) -> int:
        return self.inputs * self.outputs * self.held

    def flops(self, tokens: float) -> float:
        """Floating-point operations of so many tokens: a multiplication and an addition each."""
        return 2.0 * self.inputs * self.outputs * self.used * tokens

    def read(self, tokens: float) -> float:
        """Parameters that so many tokens read.

        Each matrix is read once however many tokens pass it.  Tokens choose among experts evenly
        and independently, so that of E matrices E · (1 - (1 - k/E)^t) are met.
        """
        missed: float = max(0.0, 1.0 - self.used / self.held) ** tokens
        return self.parameters * (1.0 - missed)


@dataclass(frozen=True, slots=True)
class Heads:
    """Attention over cached keys and values.

    `queries` heads compare `key_dim` numbers with a cached token and mix `value_dim` of it.
    `stored` numbers of each token are cached, in planes of `kv_heads` × `stored_dim` for keys and
    as many for values (core/layers.py).  `window` tokens are seen, None for all.  Where one token's
    attention is computed another way than a prompt's (latent attention), `alone_dim` numbers are
    compared and mixed instead.
    """

    queries: int
    key_dim: int
    value_dim: int
    kv_heads: int
    stored_dim: int
    window: int | None = None
    alone_dim: int = 0

    @property
    def stored(self) -> int:
        return 2 * self.kv_heads * self.stored_dim

    @property
    def pair_flops(self) -> float:
        """Operations for each pair of a computed token and one that it sees."""
        return 2.0 * self.queries * (self.key_dim + self.value_dim)

    @property
    def alone_flops(self) -> float:
        """The same where a sequence computes a single token."""
        return 2.0 * self.queries * self.alone_dim if self.alone_dim else self.pair_flops


@dataclass(frozen=True, slots=True)
class Shard:
    """One device's part of a cell.

    `small` parameters (norms, biases, convolutions) are read once a step.  A token reads and
    writes `moved` numbers outside of products, and needs room for `live` at once.  A sequence keeps
    `state` numbers whatever its length.
    """

    products: tuple[Product, ...] = ()
    heads: Heads | None = None
    small: int = 0
    moved: int = 0
    live: int = 0
    state: int = 0

    @property
    def parameters(self) -> int:
        return self.small + sum(product.parameters for product in self.products)
