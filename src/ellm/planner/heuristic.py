"""What one does without a planner: tensors within a node, a pipeline across nodes."""

from __future__ import annotations

from ellm.core.errors import ConfigError
from ellm.sim.anatomy.transformer import Transformer
from ellm.sim.parallel.plan import Plan, uniform


def heuristic(transformer: Transformer, devices: int, per_node: int) -> Plan | None:
    """The plan that APEX compares with (arXiv 2411.17651, section 4): TP in a node, PP across.

    Where a node's devices do not divide the model, half as many do, as the user of a serving engine
    would try.  None where nothing of the kind goes.
    """
    width = min(devices, per_node)
    while width >= 1:
        if devices % width == 0 and devices // width <= len(transformer.blocks):
            try:
                return uniform(transformer, stages=devices // width, tensor=width)
            except ConfigError:
                pass
        width //= 2
    return None
