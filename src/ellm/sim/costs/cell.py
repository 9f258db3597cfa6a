"""A cell's time on one device, by the roofline (Williams et al. 2009).

product     max(bytes / bandwidth, operations / peak), each matrix read once a step
attention   operations of every pair; bytes of every cached token, or operations if those are more
the rest    bytes that pass between products
"""

from __future__ import annotations

from dataclasses import replace

from ellm.scheduling.coefficients import Coefficients
from ellm.sim.anatomy.formats import BITS, Formats
from ellm.sim.anatomy.shard import Heads, Product, Shard
from ellm.sim.costs.curve import sampled
from ellm.sim.devices.device import Device

# What a device without the arithmetic of a format multiplies it in, after unpacking it.
_WIDER = {"fp4": "fp8", "int4": "bf16", "fp8": "bf16", "int8": "bf16", "fp16": "bf16"}


def multiplied(device: Device, number_format: str) -> str:
    """The narrowest format, at least as wide as that one, that the device multiplies."""
    while number_format not in device.flops and number_format in _WIDER:
        number_format = _WIDER[number_format]
    return number_format if number_format in device.flops else next(iter(device.flops))


def cell_seconds(shard: Shard, device: Device, formats: Formats) -> Coefficients:
    """Seconds of one cell on one of the devices that share it, without what travels."""
    bandwidth = device.reached_bandwidth()
    narrower = min(formats.weights, formats.activations, key=lambda each: BITS[each])
    arithmetic = device.matmul_flops(multiplied(device, narrower))

    def through(product: Product, tokens: int) -> float:
        numbers = tokens * product.used * (product.inputs + product.outputs)
        moved = product.read(tokens) * formats.weight_bytes + numbers * formats.bytes
        return max(moved / bandwidth, product.flops(tokens) / arithmetic)

    def seconds(tokens: int) -> float:
        rest = (shard.small + shard.moved * tokens) * formats.bytes / bandwidth
        return rest + sum(through(product, tokens) for product in shard.products)

    state = 2 * shard.state * formats.bytes / bandwidth
    found = replace(sampled(seconds), sequence=state)
    if shard.heads is None or shard.heads.window is not None:
        return found
    pair, cached = attention_seconds(shard.heads, device, formats)
    return replace(found, attention=pair, kv_token=cached)


def attention_seconds(heads: Heads, device: Device, formats: Formats) -> tuple[float, float]:
    """Seconds for each pair, and for each cached token that a sequence reads.

    A token alone makes as many pairs as it reads tokens, so the second is what is left of the
    larger of its two times.
    """
    bandwidth = device.reached_bandwidth()
    peak = device.flops[multiplied(device, formats.activations)]
    arithmetic = peak * device.efficiency.attention
    pair = heads.pair_flops / arithmetic
    alone = max(heads.stored * formats.kv_bytes / bandwidth, heads.alone_flops / arithmetic)
    return pair, max(0.0, alone - pair)
