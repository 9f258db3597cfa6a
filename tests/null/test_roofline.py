"""Step times by the roofline: what must hold whatever the figures of a device are."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ellm.core.load import StepLoad
from ellm.sim.anatomy.formats import Formats
from ellm.sim.anatomy.shapes import find_transformer
from ellm.sim.anatomy.transformer import Transformer
from ellm.sim.costs.roofline import Roofline
from ellm.sim.costs.stage import StageTime
from ellm.sim.devices.device import Device, Overhead
from ellm.sim.devices.known import find_device
from ellm.sim.fabrics.interconnect import Interconnect
from ellm.sim.fabrics.known import find_fabric
from ellm.sim.parallel.footprint import Footprint
from ellm.sim.parallel.plan import CellPlan, Plan, uniform

NO_OVERHEAD = Overhead(
    step=0, layer=0, launch=0, sequence=0, request=0, completion=0, prompt_token=0, output_token=0
)
BARE = replace(find_device("H100"), overhead=NO_OVERHEAD)
ONE = StepLoad().with_sequence(1, 100)
MODELS = ["llama-3.1-8b", "mixtral-8x7b", "gemma-3-27b", "qwen3-next-80b-a3b", "deepseek-v3"]


def stages(
    transformer: Transformer, plan: Plan, device: Device = BARE, formats: Formats | None = None
) -> tuple[StageTime, ...]:
    links = Interconnect(find_fabric(device.fabric), find_fabric(device.network), device.per_node)
    return Roofline(transformer, device, formats or Formats(), links).stages(plan)


def seconds(transformer: Transformer, plan: Plan, *loads: StepLoad) -> float:
    return sum(stage.seconds(loads) for stage in stages(transformer, plan))


def test_one_token_takes_the_time_to_read_the_weights() -> None:
    llama = find_transformer("llama-3.1-70b")
    read = Footprint.of(llama, uniform(llama), Formats()).weight_bytes
    # The embedding of one token is a row of a table that is not read.
    read -= llama.vocab_size * llama.hidden * 2
    assert seconds(llama, uniform(llama), ONE) == pytest.approx(
        read / BARE.reached_bandwidth(), rel=0.01
    )


def test_a_long_prompt_takes_the_time_to_compute_it() -> None:
    llama = find_transformer("llama-3.1-70b")
    prompt = StepLoad().with_sequence(8192, 8192)
    operations = 2 * (llama.parameters - 2 * llama.table_parameters() / 2) * 8192
    least = operations / BARE.matmul_flops("bf16")
    assert least < seconds(llama, uniform(llama), prompt) < 1.3 * least


def test_what_was_said_before_costs_time() -> None:
    llama = find_transformer("llama-3.1-8b")
    short, long = (StepLoad().with_sequence(1, length) for length in (1, 100_001))
    more = seconds(llama, uniform(llama), long) - seconds(llama, uniform(llama), short)
    assert more == pytest.approx(100_000 * 128 * 1024 / BARE.reached_bandwidth(), rel=0.01)


def test_a_window_bounds_what_is_read() -> None:
    gemma = find_transformer("gemma-3-27b")
    times = [
        seconds(gemma, uniform(gemma), StepLoad().with_sequence(1, length))
        for length in (1024, 2048, 3072, 1_000_000)
    ]
    assert times[2] - times[1] == pytest.approx(times[1] - times[0], rel=0.01)
    # Ten of 62 layers see everything.
    whole = 1_000_000 * 10 * 2 * 16 * 128 * 2 / BARE.reached_bandwidth()
    assert times[3] - times[0] == pytest.approx(whole, rel=0.01)


def test_few_tokens_read_few_experts() -> None:
    mixtral = find_transformer("mixtral-8x7b")
    one = seconds(mixtral, uniform(mixtral), ONE)
    many = seconds(mixtral, uniform(mixtral), StepLoad(tokens=64, sequences=64))
    assert 2.5 < many / one < 4.1


@settings(max_examples=60)
@given(
    st.sampled_from(MODELS),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(1, 64),
    st.integers(0, 4000),
    st.integers(1, 512),
)
def test_more_work_never_takes_less(
    name: str, ways: int, sequences: int, prompt: int, more: int
) -> None:
    transformer = find_transformer(name)
    if not transformer.cells[0].splits(ways):
        ways = 1
    plan = uniform(transformer, tensor=ways)
    load = StepLoad(tokens=sequences, attention=sequences * 500, kv_tokens=sequences * 500,
                    sequences=sequences)  # fmt: skip
    larger = load.with_sequence(prompt + more, prompt + more)
    assert seconds(transformer, plan, load) <= seconds(transformer, plan, larger)


@pytest.mark.parametrize("name", MODELS)
def test_more_devices_compute_a_prompt_sooner(name: str) -> None:
    transformer = find_transformer(name)
    prompt = StepLoad().with_sequence(4096, 4096)
    times = [seconds(transformer, uniform(transformer, tensor=n), prompt) for n in (1, 2)]
    assert times[1] < times[0] < 2.2 * times[1]


def test_stages_add_up_to_the_whole_but_for_what_passes_between() -> None:
    llama = find_transformer("llama-3.1-405b")
    prompt = StepLoad().with_sequence(2048, 2048)
    whole = seconds(llama, uniform(llama), prompt)
    parts = stages(llama, uniform(llama, stages=4))
    assert sum(part.seconds([prompt]) for part in parts) == pytest.approx(whole, rel=0.02)
    each = [part.seconds([prompt]) for part in parts]
    assert max(each) < 1.1 * min(each)


def test_ranks_wait_for_the_slowest_of_them() -> None:
    mixtral = find_transformer("mixtral-8x7b")
    plan = Plan(1, 1, 8, (CellPlan(8), CellPlan(1, "expert")))
    (stage,) = stages(mixtral, plan)
    even = [StepLoad().with_sequence(1, 4000)] * 8
    uneven = [StepLoad().with_sequence(1, 32_000 - 7)] + [StepLoad().with_sequence(1, 1)] * 7
    assert stage.seconds(uneven) > 1.2 * stage.seconds(even)
    # Experts see the tokens of all ranks, whoever has them.
    assert stage.parts[1].seconds(StepLoad(tokens=8)) <= stage.seconds(even)


def test_copies_of_attention_need_no_sum() -> None:
    llama = find_transformer("llama-3.1-8b")
    together = uniform(llama, tensor=4)
    apart = Plan(1, 1, 4, (CellPlan(4), CellPlan(1)))
    load = StepLoad().with_sequence(1, 100)
    weights = [Footprint.of(llama, plan, Formats()).weight_bytes for plan in (together, apart)]
    assert weights[1] > weights[0]
    assert Footprint.of(llama, apart, Formats()).token_bytes == 128 * 1024
    assert Footprint.of(llama, together, Formats()).token_bytes == 32 * 1024
    assert seconds(llama, apart, load, load, load, load) > seconds(llama, together, load)


def test_narrow_weights_are_read_sooner() -> None:
    llama = find_transformer("llama-3.1-70b")
    wide, narrow = (
        sum(stage.seconds([ONE]) for stage in stages(llama, uniform(llama), BARE, Formats(form)))
        for form in ("bf16", "fp8")
    )
    assert 1.8 < wide / narrow < 2.1


def test_overheads_are_counted_once_a_layer_a_sequence_and_a_step() -> None:
    llama = find_transformer("llama-3.1-8b")
    heavy = replace(BARE, overhead=replace(NO_OVERHEAD, step=1.0, layer=0.01, sequence=0.1))
    plan = uniform(llama)
    load = ONE.with_sequence(1, 1)
    bare, with_it = (stages(llama, plan, device)[0].seconds([load]) for device in (BARE, heavy))
    assert with_it - bare == pytest.approx(1.0 + 32 * 0.01 + 2 * 0.1)


def test_a_step_with_a_prompt_takes_at_least_its_launches() -> None:
    llama = find_transformer("llama-3.1-8b")
    host = replace(NO_OVERHEAD, step=0.5, sequence=0.01)
    captured, called = (
        stages(llama, uniform(llama), replace(BARE, overhead=replace(host, launch=launch)))[0]
        for launch in (0.0, 0.001)
    )
    decoding = ONE.with_sequence(1, 2000)
    short, long = decoding.with_sequence(2, 2), decoding.with_sequence(20_000, 20_000)
    assert called.seconds([decoding]) == captured.seconds([decoding])
    # 32 layers, and 3 sequences; less than that for kernels alone.
    assert captured.seconds([short]) < called.seconds([short]) == pytest.approx(0.5 + 0.032 + 0.03)
    assert called.seconds([long]) == captured.seconds([long]) > 1.0
    assert called.scaled(2.0).seconds([short]) == pytest.approx(2 * called.seconds([short]))


def test_launches_are_divided_among_stages_and_met_by_every_rank() -> None:
    llama = find_transformer("mixtral-8x7b")
    device = replace(BARE, overhead=replace(NO_OVERHEAD, launch=0.01))
    plan = replace(uniform(llama, stages=2, tensor=2), cells=(CellPlan(2), CellPlan(1)))
    prompt = StepLoad().with_sequence(100, 100)
    for stage in stages(llama, plan, device):
        assert stage.ranks == 2
        assert stage.seconds([ONE, ONE]) < 0.05
        for loads in ((prompt, ONE), (ONE, prompt), (prompt, StepLoad())):
            assert stage.seconds(loads) == pytest.approx(16 * 0.01)
