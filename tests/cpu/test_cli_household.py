"""Which models a command line asks for, under which names, with which shares of the memory."""

from __future__ import annotations

import pytest

from ellm.cli.household import Household, name_models, read_shares
from ellm.core.errors import BudgetError, ConfigError
from ellm.core.units import GIB, MIB
from ellm.llm.args import EngineArgs

ARGS = EngineArgs(memory=4 * GIB, max_num_seqs=7, ablate=("warm",), ttft_slo="500ms")


def called(models: list[str], names: list[str]) -> list[tuple[str, str | None]]:
    return [(args.model, args.served_model_name) for args in name_models(ARGS, models, names)]


def test_names_follow_the_order_of_the_models() -> None:
    assert called(["a", "b"], []) == [("a", "a"), ("b", "b")]
    assert called(["a", "b"], ["x", "y"]) == [("a", "x"), ("b", "y")]
    assert called(["a", "a"], ["x", "y"]) == [("a", "x"), ("a", "y")]
    assert called(["a"], ["x", "alias"]) == [("a", "x")]


def test_all_models_have_the_other_options() -> None:
    for args in name_models(ARGS, ["a", "b"], []):
        assert (args.memory, args.max_num_seqs, args.ttft_slo) == (4 * GIB, 7, 0.5)
        assert args.ablate == ARGS.ablate


@pytest.mark.parametrize(
    ("models", "names"), [(["a", "a"], []), (["a", "b"], ["x"]), (["a", "b"], ["x", "x"])]
)
def test_names_that_do_not_tell_models_apart(models: list[str], names: list[str]) -> None:
    with pytest.raises(ConfigError, match="--served-model-name"):
        name_models(ARGS, models, names)


def test_shares_are_read_by_name() -> None:
    names = ["a", "org/b=c"]
    shares = read_shares("--model-floor", ["a=1GiB", "org/b=c=512MiB"], names)
    assert shares == {"a": GIB, "org/b=c": 512 * MIB}
    for text in ("a", "=1GiB", "a=", "other=1GiB", "a=many"):
        with pytest.raises(ConfigError):
            read_shares("--model-floor", [text], names)


def test_floors_must_fit_the_memory_where_it_is_known() -> None:
    models = name_models(ARGS, ["a", "b"], [])
    kept = Household.of(models, 300.0, ["a=1GiB", "b=3GiB"], ["a=2GiB"])
    assert (kept.names, kept.floors["b"], kept.ceilings) == (["a", "b"], 3 * GIB, {"a": 2 * GIB})
    with pytest.raises(BudgetError, match=r"add up to 5 GiB, and --memory is 4 GiB"):
        Household.of(models, None, ["a=1GiB", "b=4GiB"], [])
    with pytest.raises(ConfigError, match="floor of 1 GiB above its ceiling of 512 MiB"):
        Household.of(models, None, ["a=1GiB"], ["a=512MiB"])
    unknown = name_models(EngineArgs(), ["a"], [])
    assert Household.of(unknown, None, ["a=900GiB"], []).floors == {"a": 900 * GIB}
