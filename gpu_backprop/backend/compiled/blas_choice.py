"""Chooses who makes large products, kernels of ours or NumPy's BLAS: by a measurement, once on a machine.

What was measured is noted in a file beside the library, so that every run after it has the same bits.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import numpy as np

from gpu_backprop.backend.compiled.library import CpuLibrary
from gpu_backprop.backend.compiled.program import KernelCall
from gpu_backprop.backend.formula import Array

SIZES = 256, 512, 1024
"""m, n and k of the products that are measured, which take some 0.1 s together."""

LAYOUTS = (False, False), (True, False), (False, True)
"""Whether a is transposed, and b: x@W, xᵀ@∇z and ∇z@Wᵀ."""

ROUNDS = 4
"""How often each is measured. The first time does not count, for memory is new."""

MARGIN = 1.05
"""How many times as fast the BLAS has to be: with kernels of ours, more threads make no other bits."""


@dataclass
class Host:
    """A device of one thread."""

    library: CpuLibrary
    threads: int = 1


@cache
def blas_is_faster(library: CpuLibrary) -> bool:
    """Tells whether NumPy's BLAS makes large products; never where it cannot be kept to one thread."""
    if library.blas.product is None or library.blas.set_threads is None:
        return False
    note, found = library.path.with_suffix(".products"), dict[str, float | str]()
    with suppress(OSError, ValueError):
        found = json.loads(note.read_text("utf-8"))
    if found.get("NumPy") != np.__version__:
        ours, blas = measure(library)
        found = {"NumPy": np.__version__, "ours": ours, "BLAS": blas}
        with suppress(OSError):
            note.write_text(json.dumps(found), "utf-8")
    return float(found["BLAS"]) * MARGIN < float(found["ours"])


def measure(library: CpuLibrary) -> tuple[float, float]:
    """Returns the seconds of a thread that our products take, and the BLAS's: the least of some rounds."""
    (m, n, k), numbers = SIZES, np.random.default_rng(0)
    seconds = np.empty((len(LAYOUTS), ROUNDS, 2))
    for layout, (a_transposed, b_transposed) in enumerate(LAYOUTS):
        a = numbers.random((k, m) if a_transposed else (m, k)).astype(library.dtype)
        b = numbers.random((n, k) if b_transposed else (k, n)).astype(library.dtype)
        outs: list[Array] = [np.empty((m, n), library.dtype) for _ in range(2)]
        calls = [
            KernelCall(
                Host(library), "matmul", 0, a=a, b=b, c=out, models=1, m=m, n=n, k=k,
                a_transposed=a_transposed, b_transposed=b_transposed, ours=ours,
            )
            for ours, out in zip((True, False), outs, strict=True)
        ]  # fmt: skip
        for times in seconds[layout]:
            for who, call in enumerate(calls):
                began = time.thread_time()
                call()
                times[who] = time.thread_time() - began
    ours, blas = seconds[:, 1:].min(1).sum(0).tolist()
    return ours, blas
