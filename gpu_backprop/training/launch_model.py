"""How long a step takes on a CUDA device by a model, in ordinary launches and inside a launch of whole epochs.

It decides how an epoch is run, from shapes, settings and the device alone, and measures nothing, so that the same seed
gives the same bits. No figure in it was measured with this program; docs/cost.md says where each comes from.
"""

from __future__ import annotations

import math

from gpu_backprop.backend.block_layout import BlockLayout
from gpu_backprop.backend.device import Processors
from gpu_backprop.backend.plan import Plan

NODE, LEAST, BYTES = 1.0, 1.2, 3e6
"""Of ordinary steps, on an H100: µs between the launches of a captured graph, µs of the shortest, bytes a µs."""

TALL, WIDE = 4, 2
"""The tiles of kernels/train_epoch.cu."""

THREADS, WARP, SCHEDULERS = 256, 32, 4
BARRIER, REDUCTION, GLOBAL = 100, 800, 600
"""Cycles from a barrier to the first result behind it, of four rows' loss by the lanes of a warp, and of a read from
outside the block."""


def ordinary_step(plan: Plan, processors: Processors) -> float:
    """µs of a step, as a graph: its launches one after another, of those that have to be, and what traffic or
    arithmetic take beyond that. It is meant to be less than a step takes."""
    peak = 2 * processors.multiprocessors * processors.lanes * processors.megahertz
    beyond = (max(o.bytes / BYTES, o.flops / peak) - o.launches * LEAST for o in plan.operations)
    return float(plan.cost()["path"] * (NODE + LEAST) + sum(max(0.0, more) for more in beyond))


def resident_step(layout: BlockLayout, models: int, rows: int, memory: int, processors: Processors) -> float:
    """µs of a step in which each model has a block with so many bytes. It is meant to be more than it takes: blocks of
    one multiprocessor are taken as one after another."""
    micro, held = layout.fit(rows, memory)
    times, size = math.ceil(rows / micro), layout.itemsize // 4
    broad, narrow = (TALL, WIDE) if size == 1 else (1, 1)
    cycles = 0.0
    for number, layer in enumerate(layout.layers):
        products = [(micro, layer.units, layer.inputs, narrow), (layer.inputs, layer.units, micro, broad)]
        if number:
            products.append((micro, layer.inputs, layer.units, narrow))
        cycles += sum(_product(*product, size, processors.lanes) for product in products)
        cycles += math.ceil(layer.units / THREADS) * micro * 8 + BARRIER  # the sums of the bias
    cycles += math.ceil(micro * layout.layers[0].inputs / THREADS) * 32 + 2 * GLOBAL
    cycles += math.ceil(micro * WARP / THREADS) * REDUCTION / 4 + 2 * GLOBAL
    places = math.ceil(layout.parameters / THREADS)
    update = places * (40 + 20 * layout.moments) * size + math.ceil(places / 4) * (100 if held else GLOBAL)
    return math.ceil(models / processors.multiprocessors) * (times * cycles + update) / processors.megahertz


def _product(rows: int, cols: int, length: int, wide: int, size: int, lanes: float) -> float:
    """Cycles of a product, worked out in tiles: as its reads of shared memory, a number of each thread of a warp at
    once, its arithmetic, or the instructions of one thread take most."""
    tall = math.ceil(rows / TALL)
    if tall * math.ceil(cols / wide) * 2 < THREADS:
        wide = 1
    tiles = tall * math.ceil(cols / wide)
    warps, reads, products = math.ceil(tiles / WARP), TALL + wide, TALL * wide
    instructions = 2 * reads + products + 4  # with each address; counted in machine code
    together = max(warps * reads * size, warps * products * WARP / lanes, warps * instructions / SCHEDULERS)
    alone = math.ceil(tiles / THREADS) * instructions
    return length * max(together, alone) + BARRIER
