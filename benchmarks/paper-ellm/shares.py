"""How much of the device is set aside for activations when prompts are computed in one piece."""

from __future__ import annotations

from arms import CHUNKED, CONTEXT, DEVICE, MODEL, STATIC, Arm

from ellm.core.errors import BudgetError
from ellm.core.objectives import Objectives
from ellm.core.plan import StepShape
from ellm.sim.activations import Activations
from ellm.sim.anatomy.cells.attention import Attention
from ellm.sim.anatomy.cells.mlp import Mlp
from ellm.sim.anatomy.formats import Formats
from ellm.sim.anatomy.transformer import Transformer
from ellm.sim.parallel.footprint import Footprint
from ellm.sim.parallel.plan import uniform
from harness.results import Trial

CONTEXTS = tuple(1 << bits for bits in range(11, 19))
# MPT-30B (https://huggingface.co/mosaicml/mpt-30b): 48 layers of 7168 and 64 heads, no gate.
MPT = Transformer(
    name="mpt-30b",
    hidden=7168,
    vocab_size=50_432,
    blocks=((Attention(7168, 64, 64, 112), Mlp(7168, 4 * 7168, gated=False)),) * 48,
    max_positions=200_000,
    tied=True,
)


def shares() -> list[Trial]:
    """Of the whole device, by the context that a step must hold; and the tokens of KV beside."""
    return [
        {"arm": name, "context": context, **_llama(arm, context)}
        for context in CONTEXTS
        for name, arm in {"static": STATIC, "static+chunked": CHUNKED}.items()
    ]


def _llama(arm: Arm, context: int) -> dict[str, float]:
    """What an engine has set aside that has just started."""
    try:
        (lane,) = arm.deployment(Objectives(), context).lanes()
    except BudgetError:
        return {"share": 1.0, "kv_tokens": 0}
    (engine,) = lane.ranks
    memory, pool = engine._memory, engine._memory.pool
    set_aside = pool.total - pool.held(memory.owners.weights) - pool.available(memory.owners.kv)
    return {
        "share": set_aside * pool.chunk_bytes / DEVICE.memory,
        "kv_tokens": pool.available(memory.owners.kv) * pool.chunk_bytes // memory.kv.token_bytes,
    }


def published() -> dict[str, float]:
    """The paper's own points: MPT-30B at 2K and 200K, Llama-3-8B at 262144 and for 2K of it."""
    mpt, llama = _price(MPT), _price(MODEL)
    whole = llama(_prompt(CONTEXT))
    rows = CONTEXT * Footprint.of(MODEL, uniform(MODEL), Formats()).token_bytes
    return {
        "mpt_2k": mpt(_prompt(2048)) / DEVICE.memory,
        "mpt_200k": mpt(_prompt(200_000)) / DEVICE.memory,
        "llama_262k": whole / (whole + rows),
        "llama_decode": llama(StepShape(256, 256, 1, CONTEXT)) / whole,
    }


def _price(model: Transformer) -> Activations:
    return Footprint.of(model, uniform(model), Formats()).activations


def _prompt(tokens: int) -> StepShape:
    return StepShape(tokens, 1, tokens, tokens)
