"""How many threads may work at once on this machine's CPU."""

from __future__ import annotations

import os
import re

LIMITS = "OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"
"""The environment variables that OpenBLAS asks, in its order: the first that holds a number > 0 is taken."""


def threads() -> int:
    """As many as NumPy's products take: one for each core that this process may run on, or what LIMITS say where that
    is less."""
    return min([cores(), *_limits()[:1]])


def cores() -> int:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _limits() -> list[int]:
    """As C's atoi reads them: "4,2", the threads of nested loops, is 4."""
    begins = (re.match(r"\s*\d+", os.environ.get(name, "")) for name in LIMITS)
    return [int(begin[0]) for begin in begins if begin and int(begin[0]) > 0]
