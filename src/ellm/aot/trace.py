"""A module's computation as a flat list of operations over numbered slots.

`torch.export` makes it free of side effects: what a module changes in itself comes back as further
outputs and is written at the end.  So an operation waits for those whose results it reads, and
for nothing else.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from ellm.aot.graph import Dag
from ellm.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Slot:
    """In the arguments of an operation: the value of that slot."""

    number: int


@dataclass(frozen=True, slots=True)
class Operation:
    """`kernel(*args, **kwargs)` makes the value of slot `result`.

    `like` is a tensor without memory that has the result's shape and strides; None for several
    results at once.
    """

    kernel: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: int
    reads: tuple[int, ...]
    like: Tensor | None


@dataclass(frozen=True, slots=True)
class Trace:
    """`inputs` are slots of the caller's tensors in order, each with a tensor without memory that
    has its form; None for what is no tensor.

    `writes` are what a module changes: a slot of a constant or an input, and the slot of its new
    value.
    """

    operations: tuple[Operation, ...]
    slots: int
    inputs: tuple[tuple[int, Tensor] | None, ...]
    constants: dict[int, Tensor]
    outputs: tuple[Any, ...]
    writes: tuple[tuple[int, int], ...]
    takes: pytree.TreeSpec
    gives: pytree.TreeSpec

    @classmethod
    def of(cls, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Trace:
        """Raises ConfigError for what `torch.export` cannot follow."""
        name = type(module).__name__
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of PyTorch about itself
                program = torch.export.export(module, args, kwargs, strict=False)
                program = program.run_decompositions({})
        except Exception as error:  # export has no base class for what it cannot do
            raise ConfigError(f"torch.export cannot follow {name}: {error}") from error
        return _Reader(program).trace()

    def makers(self) -> dict[int, int]:
        """Slot to the index of the operation that makes it."""
        return {one.result: index for index, one in enumerate(self.operations)}

    def graph(self) -> Dag:
        """Operations by index; an edge where one reads what another makes."""
        made = self.makers()
        edges = [
            (made[slot], index)
            for index, one in enumerate(self.operations)
            for slot in one.reads
            if slot in made
        ]
        return Dag.of(len(self.operations), edges)


class _Reader:
    """Goes through an exported program once."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self._program = program
        self._slots: dict[str, int] = {}
        self._operations: list[Operation] = []

    def trace(self) -> Trace:
        program = self._program
        signature, state = program.graph_signature, program.state_dict
        held = {**state, **program.constants}
        inputs: list[tuple[int, Tensor] | None] = []
        constants: dict[int, Tensor] = {}
        named: dict[str, int] = {}
        for spec, node in zip(signature.input_specs, _placeholders(program.graph), strict=True):
            slot = self._slots[node.name] = len(self._slots)
            if spec.kind is InputKind.USER_INPUT:
                like = node.meta.get("val")
                inputs.append((slot, like) if isinstance(like, Tensor) else None)
                named[node.name] = slot
            else:
                assert spec.target is not None, spec
                constants[slot] = held[spec.target]
                named[spec.target] = slot
        for node in program.graph.nodes:
            if node.op == "call_function":
                self._read(node)
        outputs, writes = self._outputs(signature.output_specs, named)
        spec = program.call_spec
        assert spec.in_spec is not None
        assert spec.out_spec is not None
        return Trace(
            tuple(self._operations),
            len(self._slots),
            tuple(inputs),
            constants,
            outputs,
            writes,
            spec.in_spec,
            spec.out_spec,
        )

    def _read(self, node: torch.fx.Node) -> None:
        reads = tuple(dict.fromkeys(self._slots[one.name] for one in node.all_input_nodes))
        slot = self._slots[node.name] = len(self._slots)
        args, kwargs = pytree.tree_map_only(
            torch.fx.Node, lambda one: Slot(self._slots[one.name]), (node.args, node.kwargs)
        )
        value = node.meta.get("val")
        like = value if isinstance(value, Tensor) else None
        kernel = node.target
        assert callable(kernel), node
        self._operations.append(Operation(kernel, args, dict(kwargs), slot, reads, like))

    def _outputs(
        self, specs: Sequence[Any], named: dict[str, int]
    ) -> tuple[tuple[Any, ...], tuple[tuple[int, int], ...]]:
        (last,) = (node for node in self._program.graph.nodes if node.op == "output")
        outputs, writes = [], []
        for spec, value in zip(specs, last.args[0], strict=True):
            found = Slot(self._slots[value.name]) if isinstance(value, torch.fx.Node) else value
            if spec.kind is OutputKind.USER_OUTPUT:
                outputs.append(found)
            else:
                assert spec.target is not None, spec
                writes.append((named[spec.target], found.number))
        return tuple(outputs), tuple(writes)


def _placeholders(graph: torch.fx.Graph) -> list[torch.fx.Node]:
    return [node for node in graph.nodes if node.op == "placeholder"]
