"""The function inside an MLP, and the product with the other half of a gated one."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ellm.kernels.activation import Activation

_BLOCK = 1024
_KINDS = {
    Activation.SILU: 0,
    Activation.GELU: 1,
    Activation.GELU_TANH: 2,
    Activation.RELU: 3,
}


@triton.jit
def _activate(
    x: tl.tensor,
    out: tl.tensor,
    width: tl.tensor,
    x_row: tl.tensor,
    out_row: tl.tensor,
    KIND: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(x + row * x_row + column, mask=inside, other=0.0).to(tl.float32)
    if KIND == 0:
        acted = gate / (1.0 + tl.exp(-gate))
    elif KIND == 1:
        acted = 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    elif KIND == 2:
        # 1 + tanh(z) = 2 / (1 + exp(-2 z)), with z = sqrt(2 / pi) (x + 0.044715 x**3)
        bent = 1.5957691216057308 * (gate + 0.044715 * gate * gate * gate)
        acted = gate / (1.0 + tl.exp(-bent))
    else:
        acted = tl.maximum(gate, 0.0)
    if GATED:
        up = tl.load(x + row * x_row + width + column, mask=inside, other=0.0).to(tl.float32)
        acted = acted.to(out.dtype.element_ty).to(tl.float32) * up
    tl.store(out + row * out_row + column, acted.to(out.dtype.element_ty), mask=inside)


def activate(activation: Activation, x: Tensor, gated: bool, out: Tensor) -> None:
    """kernels.ops.Ops.activate."""
    rows, width = out.shape
    _activate[(rows, triton.cdiv(width, _BLOCK))](
        x,
        out,
        width,
        x.stride(0),
        out.stride(0),
        KIND=_KINDS[activation],
        GATED=gated,
        BLOCK=_BLOCK,
    )
