"""Whether a context fits the budget, said before anything is served."""

from __future__ import annotations

from collections.abc import Callable

from ellm.core.config import MemoryMode, SchedulerConfig
from ellm.core.errors import BudgetError
from ellm.core.plan import StepShape
from ellm.core.units import ceil_div, format_bytes
from ellm.engine.assembly import EngineMemory
from ellm.scheduling.scheduler import SMALLEST_CHUNK


def smallest_step(context: int, gathers: bool) -> StepShape:
    """The most modest step in which a sequence of `context` tokens can still advance."""
    chunk = min(SMALLEST_CHUNK, context)
    return StepShape(
        tokens=chunk,
        logit_rows=chunk + 1,
        longest_query=chunk,
        longest_kv=context,
        gathers=gathers,
    )


def largest_step(config: SchedulerConfig, gathers: bool) -> StepShape:
    """The step for which an engine with fixed shares sets activation memory aside."""
    context = config.max_model_len
    tokens = config.step_tokens
    return StepShape(
        tokens=max(tokens, config.max_num_seqs),
        logit_rows=config.max_num_seqs,
        longest_query=min(tokens, context),
        longest_kv=context,
        gathers=gathers,
    )


def fix_shares(
    memory: EngineMemory, activation_bytes: Callable[[StepShape], int], config: SchedulerConfig
) -> None:
    """Give activations what the largest step needs, for good, and KV the rest.

    This is how engines without elastic memory divide it (after a profiling run of that step).
    A step that scores its prompt has more logits, so the smallest may need more than the largest.
    Raises BudgetError when the largest step alone does not fit.
    """
    pool, owners = memory.pool, memory.owners
    context, gathers = config.max_model_len, memory.kv.gathers(config.max_model_len)
    steps = (largest_step(config, gathers), smallest_step(context, gathers))
    need = ceil_div(max(map(activation_bytes, steps)), pool.chunk_bytes)
    rest = pool.ledger.group_reach(owners.engine) - pool.held(owners.weights) - need
    if rest < 1:
        raise BudgetError(
            f"a step of {config.step_tokens} tokens takes "
            f"{format_bytes(need * pool.chunk_bytes)} of activations, and "
            f"{format_bytes(max(0, rest + need) * pool.chunk_bytes)} are left beside the weights: "
            "lower --max-num-batched-tokens, raise --memory, or leave --memory-mode elastic"
        )
    pool.ledger.limit(owners.activations, floor=need, ceiling=need)
    pool.ledger.limit(owners.kv, ceiling=rest)


def context_fits(
    memory: EngineMemory, activation_bytes: Callable[[StepShape], int], context: int
) -> bool:
    """Whether one sequence of `context` tokens can run when it has the pool to itself."""
    smallest = smallest_step(context, memory.kv.gathers(context))
    return memory.kv.fits_alone(context, activation_bytes(smallest))


def longest_context(
    memory: EngineMemory, activation_bytes: Callable[[StepShape], int], most: int
) -> int:
    """The longest context up to `most` that fits; 0 if none does."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if context_fits(memory, activation_bytes, middle):
            low = middle
        else:
            high = middle - 1
    return low


def require_context(
    memory: EngineMemory, activation_bytes: Callable[[StepShape], int], context: int
) -> None:
    """Raise BudgetError, with numbers and the remedy, if `context` does not fit."""
    if context_fits(memory, activation_bytes, context):
        return
    pool = memory.pool
    longest = longest_context(memory, activation_bytes, context)
    held = pool.held(memory.owners.weights)
    most = pool.ledger.group_reach(memory.owners.engine) - held
    room = format_bytes(max(0, most) * pool.chunk_bytes)
    total = format_bytes(pool.total * pool.chunk_bytes)
    remedy = f"set --max-model-len {longest} or less, or " if longest else ""
    if memory.config.mode is MemoryMode.STATIC:
        remedy += "lower --max-num-batched-tokens, whose activations are set aside, or "
    raise BudgetError(
        f"a context of {context} tokens does not fit: {room} of the {total} budget is left for "
        f"KV and activations, enough for {longest} tokens; {remedy}raise --memory"
    )
