"""What `benchmarks/finetune` trains, and how it judges its trials."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
sys.path.append(str(Path(__file__).parents[2] / "benchmarks/finetune"))

from finetuning import ON_CPU, WORKLOADS, Workload, lengths_of, train
from llama import BUNDLED, Llama, Recomputed, Shape, adapt, bundled
from verdict import figures, objection, table

TINY = Shape(hidden=32, layers=2, heads=4, kv_heads=2, mlp=48, vocabulary=256, head_width=8)


def tokens_of(rows: int = 2, length: int = 33, vocab: int = 256) -> torch.Tensor:
    return torch.randint(0, vocab, (rows, length), generator=torch.Generator().manual_seed(0))


def test_the_model_computes_what_transformers_computes() -> None:
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(BUNDLED, dtype=torch.float32)
    tokens = tokens_of(vocab=theirs.config.vocab_size)
    with torch.no_grad():
        torch.testing.assert_close(
            bundled("cpu")(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-4
        )


def gradients(recompute: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss of an adapted model, and the gradient of every adapter."""
    torch.manual_seed(0)
    model = (Recomputed if recompute else Llama)(TINY)
    adapt(model, rank=4)
    for name, weights in model.named_parameters():
        if name.endswith("up"):
            torch.nn.init.normal_(weights, std=0.1)
    loss = model(tokens_of()).logsumexp(-1).mean()
    loss.backward()
    return loss, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def test_recomputing_from_the_host_changes_no_gradient() -> None:
    loss, plain = gradients(recompute=False)
    again, computed_twice = gradients(recompute=True)
    torch.testing.assert_close(again, loss)
    assert plain.keys() == computed_twice.keys()
    assert len(plain) == 2 * 7 * TINY.layers, "adapters alone are trained, all of them"
    for name, gradient in plain.items():
        torch.testing.assert_close(computed_twice[name], gradient, msg=name)


def test_layers_keep_nothing_on_the_device_but_what_goes_to_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each layer saves its input and the angles; a plain model saves dozens of tensors a layer."""
    sent: list[tuple[int, ...]] = []
    usual = torch.autograd.graph.save_on_cpu

    class Counting(usual):  # type: ignore[misc, valid-type]
        def __init__(self, pin_memory: bool = False) -> None:
            super().__init__(pin_memory)
            pack = self.pack_hook

            def counted(tensor: torch.Tensor) -> Any:
                sent.append(tuple(tensor.shape))
                return pack(tensor)

            self.pack_hook = counted

    monkeypatch.setattr(torch.autograd.graph, "save_on_cpu", Counting)
    model = Recomputed(TINY)
    adapt(model, rank=4)
    model(tokens_of()).sum().backward()
    assert sent.count((2, 33, TINY.hidden)) == TINY.layers
    assert len(sent) == 3 * TINY.layers


@pytest.mark.parametrize("number", range(len(ON_CPU)))
def test_training_learns_and_repeats(number: int) -> None:
    workload = ON_CPU[number]
    lengths = lengths_of(None, 4 * workload.rows, 64, seed=3)
    first, second = (train(workload, 4, "cpu", 3, lengths) for _ in range(2))
    assert [each.loss for each in first] == [each.loss for each in second]
    assert first[-1].loss < first[0].loss
    assert all(each.tokens == workload.rows * 64 for each in first)


def test_both_lists_have_the_same_workloads_in_two_sizes() -> None:
    def kinds(workloads: tuple[Workload, ...]) -> list[tuple[str, bool]]:
        return [(each.name.split()[-1], each.shape is None) for each in workloads]

    assert kinds(WORKLOADS) == kinds(ON_CPU)


def test_lengths_are_a_trace_s_from_some_place_on_or_drawn(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    known = [100, 7, 3000, 250]
    rows = "".join(f"0,{count},9\n" for count in known)
    trace.write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}", encoding="utf-8")
    found = lengths_of(trace, 6, 1000, seed=1)
    cut = [100, 64, 1000, 250] * 3
    assert any(found == cut[first : first + 6] for first in range(4))
    drawn = lengths_of(None, 500, 2048, seed=1)
    assert drawn == lengths_of(None, 500, 2048, seed=1)
    assert drawn != lengths_of(None, 500, 2048, seed=2)
    assert (min(drawn), max(drawn)) == (64, 2048)
    assert len(set(drawn)) > 300


def trial(arm: str, **changes: Any) -> dict[str, Any]:
    base = {"round": 0, "arm": arm, "workload": "w", "first_loss": 9.0, "loss": 5.0, "ms": 10.0}
    figures = {"peak_active": 2 << 20, "peak_reserved": 4 << 20, "fragmentation": 0.5}
    expandable = {} if arm == "ellm" else {"expandable": arm == "expandable"}
    return {**base, **figures, **expandable, "tokens_per_second": 100, **changes}


def test_a_trial_is_summed_up_behind_its_first_steps() -> None:
    lessons = [{"seconds": 9.0, "loss": 8.0, "tokens": 1}] * 3 + [
        {"seconds": 0.5, "loss": 3.0, "tokens": 100},
        {"seconds": 0.1, "loss": 2.0, "tokens": 20},
        {"seconds": 0.4, "loss": 1.0, "tokens": 80},
    ]
    found = figures({"lessons": lessons, "peak_active": 3, "peak_reserved": 4})
    assert (found["ms"], found["tokens_per_second"]) == (400.0, 200)
    assert (found["first_loss"], found["loss"], found["fragmentation"]) == (8.0, 2.0, 0.25)
    assert "fragmentation" not in figures({"lessons": lessons})


def test_arms_that_learned_something_else_are_not_compared() -> None:
    fair = [trial("default"), trial("expandable", loss=5.05), trial("ellm")]
    assert objection(fair) is None
    for wrong, said in (
        (trial("ellm", loss=5.3), "w: loss differs between arms"),
        (trial("ellm", first_loss=9.1), "first_loss differs between arms"),
        (trial("ellm", loss=float("nan")), "loss differs between arms"),
        (trial("default", expandable=True), "has not heard"),
        (trial("expandable", expandable=False), "has not heard"),
    ):
        assert said in (objection([*fair, wrong]) or "")
    assert "nothing was learned" in (objection([trial("default", loss=9.5)]) or "")


def test_the_table_compares_within_a_round() -> None:
    trials = [trial("default"), trial("ellm", tokens_per_second=95)]
    assert table(trials).splitlines()[2:] == [
        "| w | default | 2 | 4 | 50.0% | 10.0 | 1.000 |",
        "| w | ellm | 2 | 4 | 50.0% | 10.0 | 0.950 |",
    ]
    cells = table([{k: v for k, v in trial("ellm").items() if not k.startswith("peak")}])
    assert cells.splitlines()[2] == "| w | ellm |  |  | 50.0% | 10.0 |  |"
