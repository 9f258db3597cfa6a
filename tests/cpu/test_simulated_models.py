"""The simulator sees the models that the engine serves: the same bytes, cache and room."""

from __future__ import annotations

import pytest
from test_families import FAMILIES

from ellm.core.plan import StepShape
from ellm.llm.args import EngineArgs
from ellm.llm.build import build
from ellm.models.parameters import parameters
from ellm.models.registry import describe
from ellm.sim.anatomy.formats import Formats
from ellm.sim.anatomy.reader import read_transformer
from ellm.sim.anatomy.shapes import find_transformer
from ellm.sim.parallel.footprint import Footprint
from ellm.sim.parallel.plan import uniform


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_its_parameters_and_its_cache(name: str) -> None:
    config = FAMILIES[name]().config
    config.architectures = [f"{type(config).__name__.removesuffix('Config')}ForCausalLM"]
    values = config.to_dict()
    spec, transformer = describe(values), read_transformer(values)
    assert transformer.parameters == sum(one.numel for one in parameters(spec))
    assert transformer.layers(2) == spec.layers(2)
    assert transformer.max_positions == spec.max_positions


def test_a_step_takes_about_the_room_that_the_runner_asks_for() -> None:
    built = build(EngineArgs(model="ellm-base", memory="256MiB", threads=2))
    price = built.engine._executor.activation_bytes
    transformer = find_transformer("ellm-base")
    footprint = Footprint.of(transformer, uniform(transformer), Formats())
    built.engine.close()
    assert footprint.weight_bytes == built.blueprint.weight_bytes
    assert footprint.token_bytes == built.engine._memory.kv.token_bytes
    for tokens, rows in ((64, 64), (512, 1), (2048, 8), (2048, 64), (2048, 0)):
        shape = StepShape(tokens, rows, tokens, tokens)
        assert footprint.activations(shape) == pytest.approx(price(shape), rel=0.06)
