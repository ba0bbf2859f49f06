"""What is paid once: importing the package, and building a step, for bench/growth.py. Both bounds are the project's."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lib.timing import spread
from lib.workload import Workload

ROOT = Path(__file__).parents[2]
IMPORT_BOUND, BUILD_BOUND = 200, 20
"""Milliseconds: of the import beyond NumPy's, and of the first step of ten layers."""

IMPORT = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
FIRST_STEP = """
import sys, time
sys.path.insert(0, "bench")
from lib.workload import Workload
work = {!r}
trainer = work.trainer()
data = work.data(work.batch)
for _ in range(2):
    t = time.perf_counter()
    float(trainer.step(*data))
    print(time.perf_counter() - t)
"""


class Children:
    """Processes of their own, which share a folder for bytecode that is theirs alone: a program that has been installed
    has bytecode too, whatever this process was told of it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        self._environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        self._environment["PYTHONPYCACHEPREFIX"] = self._folder.name
        self._environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def numbers(self, code: str) -> list[float]:
        """What one of them prints, in milliseconds."""
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=ROOT, env=self._environment, check=True, capture_output=True, text=True)
        return [1e3 * float(line) for line in done.stdout.split()]


def importing(repeats: int) -> dict[str, Any]:
    """NumPy and the package, each in processes of their own, in turns; the first of each is not counted."""
    times: dict[str, list[float]] = {"numpy": [], "gpu_backprop": []}
    with Children() as children:
        for _ in range(1 + repeats):
            for name, of_name in times.items():
                of_name += children.numbers(IMPORT.format(name))
    numpy, ours = (of_name[1:] for of_name in times.values())
    beyond = spread([b - a for a, b in zip(numpy, ours, strict=True)], 1)
    return {
        "repeats": repeats,
        "numpy_ms": spread(numpy, 1),
        "gpu_backprop_ms": spread(ours, 1),
        "beyond_numpy_ms": beyond,
        "bound_ms": IMPORT_BOUND,
        "holds": beyond["median"] < IMPORT_BOUND,
    }


def building(work: Workload, repeats: int) -> dict[str, Any]:
    """Building the plan, by itself in this process; and in processes of their own, by how much the first step takes
    longer than the second."""
    plans = []
    for _ in range(1 + repeats):
        trainer = work.trainer()
        data = trainer.manual_steps.minibatch(*work.data(work.batch))
        started = time.perf_counter()
        trainer.manual_steps.replay(data.rows, data.labelled, weighted=False)
        plans.append(1e3 * (time.perf_counter() - started))
    with Children() as children:
        steps = [children.numbers(FIRST_STEP.format(work)) for _ in range(1 + repeats)][1:]
    first_step = spread([first - second for first, second in steps], 3)
    return {
        "network": str(work),
        "batch": work.batch,
        "repeats": repeats,
        "plan_ms": spread(plans[1:], 3),
        "second_step_ms": spread([second for _, second in steps], 3),
        "first_step_ms": first_step,
        "bound_ms": BUILD_BOUND,
        "holds": first_step["median"] < BUILD_BOUND,
    }
