"""How many threads may work at once on this machine's CPU.

The machine's load is not considered: the same program would then give sums in other bits. How the threads avoid waiting
on a busy machine is said in numpy_ops/device.py and kernels/cpu/program.cpp.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

LIMITS = "OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"
"""The environment variables that OpenBLAS reads, in its order: the first that holds a number > 0 counts."""

LOCAL_RANKS = "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "LOCAL_WORLD_SIZE"
"""The environment variables in which MPICH, Open MPI and torchrun tell a process how many of them share the machine."""

GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""Where Linux shows control groups, which limit a container."""


def threads() -> int:
    """Counts a thread for each core of this process, or as LIMITS or a container's quota say where that is less; half a
    core counts as none, since one that has used up its quota holds up those that wait for it. Ranks that no launcher
    has bound to cores of their own share those of the machine."""
    available = min([cores(), *_quotas(GROUPS, OWN_GROUPS)])
    if cores() == os.cpu_count():
        available //= local_ranks()
    return max(1, min([available, *_numbers(LIMITS)[:1]]))


def local_ranks() -> int:
    """Counts the processes that a launcher has started on this machine, this one among them, as far as it says so."""
    return next(iter(_numbers(LOCAL_RANKS)), 1)


def cores() -> int:
    """Counts the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _numbers(names: Iterable[str]) -> list[int]:
    """Reads the numbers > 0 in environment variables as C's atoi does: "4,2", the threads of nested loops, is 4."""
    begins = (re.match(r"\s*\d+", os.environ.get(name, "")) for name in names)
    return [int(begin[0]) for begin in begins if begin and int(begin[0]) > 0]


@cache
def _quotas(groups: Path, own_groups: Path) -> tuple[int, ...]:
    """Finds the whole cores that each control group of this process may use, where there is a limit. They are read
    once: each network asks, and to read them takes as long as to build it."""
    try:
        lines = own_groups.read_text("utf-8", "replace").splitlines()
    except OSError:
        return ()
    return tuple(_quotas_of(groups, lines))


def _quotas_of(groups: Path, lines: Iterable[str]) -> Iterator[int]:
    """Yields those of the control groups that such lines name."""
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") > 1):
        if not controllers:  # version 2, beside version 1 in "unified"
            roots, files = (groups, groups / "unified"), ["cpu.max"]
        elif "cpu" in controllers.split(","):
            roots, files = (groups / "cpu", groups / controllers), ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        for root in roots:
            own = root / path.lstrip("/")  # in a container it may not be there: then the root is the container's
            for group in (own, *(group for group in own.parents if group.is_relative_to(root))):
                try:
                    quota, period = map(int, " ".join((group / file).read_text() for file in files).split())
                except (OSError, ValueError):  # "max": no limit
                    continue
                if quota > 0 and period > 0:
                    yield quota // period
