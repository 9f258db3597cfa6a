"""A PyTorch program with its memory from the stitching allocator, on a real device."""

from __future__ import annotations

import subprocess
import sys

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


def test_a_program_computes_the_same_with_stitched_memory() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
