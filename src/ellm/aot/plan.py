"""A trace with its kernels resolved and its memory in place: what is left is to call them in order.

step of operation i     slots[result] = kernel(*arguments)     arguments bound to slots
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ellm.aot.arena import ALIGNMENT, Result, place
from ellm.aot.streams import Streams
from ellm.aot.trace import Operation, Slot, Trace
from ellm.core.errors import ConfigError

Step = Callable[[list[Any]], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """`steps[i]` does operation i on a list of slots that begins as `blank`."""

    trace: Trace
    streams: Streams
    steps: tuple[Step, ...]
    blank: tuple[Any, ...]
    arena_bytes: int

    @classmethod
    def of(cls, trace: Trace, streams: Streams, args: tuple[Any, ...], kwargs: Any) -> Plan:
        """Runs the trace once with these inputs, to see whose memory each result is in."""
        plain = cls(trace, streams, _steps(trace, {}), _blank(trace), 0)
        slots = plain.begin(args, kwargs)
        for step in plain.steps:
            step(slots)
        rooms, size = _rooms(trace, streams, _homes(trace, slots), slots)
        return cls(trace, streams, _steps(trace, rooms), plain.blank, size)

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """Slots with the caller's tensors.  Raises ConfigError for inputs of another form."""
        values, form = pytree.tree_flatten((args, kwargs))
        if form != self.trace.takes:
            raise ConfigError("compiled for other arguments: their number or nesting differs")
        slots = list(self.blank)
        for given, value in zip(self.trace.inputs, values, strict=True):
            if given is None:
                continue
            slot, like = given
            if value.shape != like.shape or value.dtype != like.dtype:
                raise ConfigError(
                    f"compiled for {like.dtype} of {tuple(like.shape)}, "
                    f"not {value.dtype} of {tuple(value.shape)}: compile again for another shape"
                )
            slots[slot] = value
        return slots

    def end(self, slots: list[Any]) -> Any:
        """Write what the module changes; the outputs, as the module nests them."""
        for target, value in self.trace.writes:
            slots[target].copy_(slots[value])
        values = [slots[one.number] if isinstance(one, Slot) else one for one in self.trace.outputs]
        return pytree.tree_unflatten(values, self.trace.gives)


def _blank(trace: Trace) -> tuple[Any, ...]:
    return tuple(trace.constants.get(slot) for slot in range(trace.slots))


def _steps(trace: Trace, rooms: dict[int, Tensor]) -> tuple[Step, ...]:
    return tuple(_step(one, rooms.get(one.result)) for one in trace.operations)


def _step(operation: Operation, room: Tensor | None) -> Step:
    kernel, result, kwargs = operation.kernel, operation.result, dict(operation.kwargs)
    if room is not None:
        out = _out_variant(operation)
        assert out is not None, operation
        kernel, kwargs["out"] = out, room
    deep = (list, tuple, dict)
    if any(isinstance(one, deep) for one in operation.args) or any(
        isinstance(one, (Slot, *deep)) for one in kwargs.values()
    ):
        return partial(_deep_step, kernel, operation.args, kwargs, result)
    # Binding is one comprehension: a slot's number, or a constant beside -1.
    pairs = tuple(
        (one.number, None) if isinstance(one, Slot) else (-1, one) for one in operation.args
    )

    def step(slots: list[Any]) -> None:
        args = [slots[place] if place >= 0 else value for place, value in pairs]
        slots[result] = kernel(*args, **kwargs)

    return step


def _deep_step(
    kernel: Callable[..., Any], args: Any, kwargs: Any, result: int, slots: list[Any]
) -> None:
    """For arguments that have slots inside lists."""
    args, kwargs = torch.fx.node.map_aggregate(
        (args, kwargs), lambda one: slots[one.number] if isinstance(one, Slot) else one
    )
    slots[result] = kernel(*args, **kwargs)


def _out_variant(operation: Operation) -> Callable[..., Any] | None:
    """The overload that writes where it is told; None if it would only copy there."""
    kernel = operation.kernel
    if not isinstance(kernel, torch._ops.OpOverload):
        return None
    packet, name = kernel.overloadpacket, kernel._overloadname
    for candidate in (["out"] if name in ("default", "Tensor") else []) + [f"{name}_out"]:
        if candidate in packet.overloads():
            found = getattr(packet, candidate)
            if torch.Tag.generated not in found.tags and _same_arguments(kernel, found):
                return found  # type: ignore[no-any-return]
    return None


def _same_arguments(kernel: torch._ops.OpOverload, out: torch._ops.OpOverload) -> bool:
    mine = [(one.name, str(one.type)) for one in kernel._schema.arguments]
    theirs = [(one.name, str(one.type)) for one in out._schema.arguments if not one.is_out]
    return mine == theirs and sum(one.is_out for one in out._schema.arguments) == 1


def _rooms(
    trace: Trace, streams: Streams, home: dict[int, int], slots: list[Any]
) -> tuple[dict[int, Tensor], int]:
    """Views of one arena for results that can be written in place and are not handed out."""
    kept = {home.get(one.number) for one in trace.outputs if isinstance(one, Slot)}
    kept |= {home.get(value) for _, value in trace.writes}
    users: dict[int, set[int]] = {}
    for index, one in enumerate(trace.operations):
        for slot in (*one.reads, one.result):
            if slot in home:
                users.setdefault(home[slot], set()).add(index)
    made = trace.makers()
    chosen = [
        one
        for one in trace.operations
        if home.get(one.result) == one.result
        and one.result not in kept
        and _is_plain(one)
        and _out_variant(one) is not None
    ]
    values = [slots[one.result] for one in chosen]
    results = [
        Result(made[one.result], frozenset(users[one.result]), value.nbytes)
        for one, value in zip(chosen, values, strict=True)
    ]
    offsets, total = place(results, streams.after())
    device = values[0].device if values else torch.device("cpu")
    arena = torch.empty(total + ALIGNMENT, dtype=torch.uint8, device=device)
    arena = arena[-arena.data_ptr() % ALIGNMENT :]
    rooms = {
        one.result: arena[at : at + value.nbytes].view(value.dtype).view(value.shape)
        for one, at, value in zip(chosen, offsets, values, strict=True)
    }
    return rooms, total


def _homes(trace: Trace, slots: list[Any]) -> dict[int, int]:
    """For each slot whose memory an operation made, the slot of that operation.

    Seen on real results: a schema does not say that dropout hands back what it was given.
    """
    given = {slot for slot in range(trace.slots) if slot not in trace.makers()}
    owner = {one: -1 for slot in given for one in _storages(slots[slot])}
    home = {}
    for operation in trace.operations:
        found = _storages(slots[operation.result])
        owners = {owner.setdefault(one, operation.result) for one in found}
        if len(owners) == 1 and -1 not in owners:
            home[operation.result] = owners.pop()
    return home


def _storages(value: Any) -> list[int]:
    """Addresses of the memory behind a result, which may be several tensors."""
    tensors = [one for one in pytree.tree_leaves(value) if isinstance(one, Tensor)]
    return [one.untyped_storage().data_ptr() for one in tensors if one.numel()]


def _is_plain(operation: Operation) -> bool:
    """Whether the result is one tensor that fills its own memory exactly."""
    like = operation.like
    return like is not None and like.numel() > 0 and like.is_contiguous()
