"""The random numbers of dropout: Philox4x64-10 (Salmon et al. 2011). It is counter-based, so that every element has its
own number whatever ran before. The generator is numpy.random.Philox; the CUDA kernels compute the same bits."""

from __future__ import annotations

import numpy as np

from gpu_backprop.backend.formula import Array, Call

LANES = 8
"""The float32 numbers in a block of the generator; every row begins with a block of its own."""


def uniform(rng_state: Array, out: Array, before: int = 0) -> Call:
    """Fills `out`, float32 (rows, a multiple of LANES), with numbers from [0, 1).

    rng_state: uint64 [seed, layer, step]: the key is (seed, layer), a block's counter (its place in `out`, step, 0, 0).
    NumPy counts up before it generates, so that its first block has the counter 1. `before` blocks come before `out`.
    """
    generator = np.random.Philox(0)
    fill = np.random.Generator(generator).random
    state = generator.state
    counter, key = state["state"]["counter"], state["state"]["key"]
    state["buffer_pos"], state["has_uint32"] = 4, 0  # nothing left over from the block before

    def run() -> None:
        key[:] = rng_state[:2]
        counter[0], counter[1] = before, rng_state[2]
        generator.state = state
        fill(None, np.float32, out)

    return run
