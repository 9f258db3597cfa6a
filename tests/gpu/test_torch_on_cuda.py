"""A PyTorch program with its memory from the stitching allocator, on a real device."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import ellm, torch

def train(device):
    torch.manual_seed(0)
    layer = torch.nn.Linear(512, 512).to(device)
    losses = []
    for rows in (64, 700, 96, 1500, 64):
        x = torch.linspace(-1, 1, rows * 512).reshape(rows, 512).to(device)
        loss = torch.nn.functional.gelu(layer(x)).square().mean()
        loss.backward()
        losses.append(loss.item())
    return torch.tensor(losses + [layer.weight.grad.abs().sum().item()])

with ellm.torch_allocator(memory="1GiB") as allocator:
    torch.testing.assert_close(train("cuda"), train("cpu"), rtol=1e-2, atol=1e-4)
    side = torch.cuda.Stream()
    x = torch.ones(1 << 20, device="cuda")
    with torch.cuda.stream(side):
        y = x * 2
    x.record_stream(side)
    del x
    torch.cuda.synchronize()
    assert y.sum().item() == 2 << 20
    allocator.check()
    assert allocator.stats().peak_active > 4 << 20
    torch.cuda.empty_cache()
    allocator.check()
"""

# What benchmarks/finetune trains, in a size for a test.
FINE_TUNING = """
import sys
sys.path.append(sys.argv[1])

import ellm, torch
from finetuning import ON_CPU, lengths_of, train

def losses(workload, device):
    lengths = lengths_of(None, 6 * workload.rows, workload.longest, seed=1)
    return torch.tensor([each.loss for each in train(workload, 6, device, 1, lengths)])

with ellm.torch_allocator(memory="4GiB") as allocator:
    full, adapted = ON_CPU
    torch.testing.assert_close(losses(full, "cuda"), losses(full, "cpu"), rtol=2e-2, atol=0)
    found = losses(adapted, "cuda")
    assert found[-1] < found[0], found
    allocator.check()
    stats = allocator.stats()
    assert stats.active < stats.peak_active <= stats.peak_reserved, stats
"""


def run(program: str, *arguments: str) -> None:
    asked = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(asked, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_program_computes_the_same_with_stitched_memory() -> None:
    run(PROGRAM)


def test_fine_tuning_learns_the_same_with_stitched_memory() -> None:
    run(FINE_TUNING, str(Path(__file__).parents[2] / "benchmarks/finetune"))
