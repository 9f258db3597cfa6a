"""How much mapped KV memory holds no token, for each layout, model, chunk size and length.

Accounts alone: the real pool, KV manager and scheduler over the null driver; runs in seconds.
"""

from __future__ import annotations

from ellm.core.config import KvLayout, MemoryConfig, SchedulerConfig
from ellm.core.layers import LayerSpec
from ellm.core.request import Request
from ellm.core.sampling import SamplingParams
from ellm.core.units import GIB, KIB, MIB, format_bytes
from ellm.sim.activations import Activations
from ellm.sim.replay import SimModel, simulated_engine

MODELS = {
    "ellm-base": (LayerSpec(kv_heads=2, head_dim=64, itemsize=2),) * 6,
    "168 M Llama": (LayerSpec(kv_heads=4, head_dim=64, itemsize=2),) * 12,
    "Llama-3-8B": (LayerSpec(kv_heads=8, head_dim=128, itemsize=2),) * 32,
}
CHUNKS = (64 * KIB, 2 * MIB)
LENGTHS = (20, 300, 2500)
SEQUENCES = 16


def measure(model: str, layout: KvLayout, chunk_bytes: int, length: int) -> tuple[float, int]:
    """Share of mapped KV bytes that hold no token, and mapped bytes a sequence."""
    layers = MODELS[model]
    engine = simulated_engine(
        SimModel(layers=layers, activations=Activations(64, 64)),
        MemoryConfig(budget=16 * GIB, chunk_bytes=chunk_bytes, layout=layout),
        SchedulerConfig(max_num_seqs=SEQUENCES, max_num_batched_tokens=10**6, max_model_len=4096),
    )
    for index in range(SEQUENCES):
        params = SamplingParams(max_tokens=2)
        prompt = tuple(range(length))
        engine.submit(Request(request_id=str(index), prompt=prompt, params=params))
    engine.step()
    now = engine.snapshot()
    assert now.running == SEQUENCES, now
    return now.kv_waste, now.memory.held["kv"] * chunk_bytes // SEQUENCES


def main() -> None:
    print("| model | chunk | tokens | contiguous | paged, 16 tokens |")
    print("| --- | --- | --: | --- | --- |")
    for model in MODELS:
        for chunk in CHUNKS:
            for length in LENGTHS:
                cells = []
                for layout in (KvLayout.CONTIGUOUS, KvLayout.PAGED):
                    waste, each = measure(model, layout, chunk, length)
                    cells.append(f"{waste:.1%} of {format_bytes(each)}")
                size = format_bytes(chunk)
                print(f"| {model} | {size} | {length} | {cells[0]} | {cells[1]} |")


if __name__ == "__main__":
    main()
