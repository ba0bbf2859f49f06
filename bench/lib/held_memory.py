"""What training holds in memory: by its own account, and as Python or the system count it.

`account` compares the two for one step, exactly: tracemalloc counts the data of NumPy's arrays apart from Python's own
objects, and what the plan is built with is counted at the device, which every buffer is asked of.
"""

from __future__ import annotations

import gc
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np

import gpu_backprop as gb
from gpu_backprop.backend.device import ALIGNMENT, Device
from gpu_backprop.backend.plan import Plan
from lib.workload import Workload

RUNNING = 4096
"""Bytes that a run may take meanwhile: Python's small objects."""

EACH, EACH_ROW = 1024, 16
"""Bytes that an operation may keep for itself: its arguments, settings in the working dtype; and for each row: the ones
of a column sum, the place of a label."""


def held(trainer: gb.Trainer, plan: Plan) -> dict[str, Any]:
    """The bytes that training holds, by its own account."""
    cost, network = plan.cost(), trainer.network
    return {
        "step": cost["memory"],
        "step_by_kind": cost["memory_by_kind"],
        "parameters": network.parameters.nbytes,
        "gradients": network.gradients.nbytes,
        "moments": sum(m.nbytes for m in trainer.optimizer.moments.values()),
        "scratch": sum(array.nbytes for array in trainer.device.scratch.values()),
    }


class Growth:
    """By how much the memory in use has grown: on CUDA the device's, on a CPU that of this process, where Linux tells
    it."""

    def __init__(self, device: Device) -> None:
        self.device = device
        if device.on_host:  # what a first step of any network brings with it
            tiny = Workload((2, 2), 2, device="cpu", dtype=device.dtype.name)
            tiny.trainer().step(*tiny.data(2))

    def in_use(self) -> int | None:
        """Bytes."""
        if self.device.counts_memory:
            free, total = self.device.memory()
            return total - free
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
        except OSError:
            return None
        return pages * os.sysconf("SC_PAGE_SIZE")

    def begin(self) -> None:
        """From here on."""
        self.before = self.in_use()

    def told(self) -> dict[str, int]:
        now = self.in_use()
        return {} if now is None or self.before is None else {"measured_growth": now - self.before}


class Asked:
    """Counts what a device is asked for, until it is `let_go`.

    Attributes:
        all, count: bytes, and how many arrays.
        scratch: those of them that all plans of the device share.
    """

    def __init__(self, device: Device) -> None:
        self.all = self.scratch = self.count = 0
        self._device, self._empty, self._work = device, device.empty, device.work
        device.empty, device.work = self.empty, self.work  # type: ignore[method-assign]

    def empty(self, *arguments: Any, **named: Any) -> Any:
        array = self._empty(*arguments, **named)
        self.all, self.count = self.all + array.nbytes, self.count + 1
        return array

    def work(self, *arguments: Any, **named: Any) -> Any:
        before = self.all
        array = self._work(*arguments, **named)
        self.scratch += self.all - before
        return array

    def let_go(self) -> None:
        del self._device.empty, self._device.work


def account(work: Workload) -> dict[str, Any]:
    """One step on a CPU.

    Returns:
        plan: what its `cost()` says.
        scratch: what it shares with all plans of the device; none is there before.
        allocated: all data of arrays, by tracemalloc, but for the alignment of each buffer.
        own: what is left of it, which operations keep for themselves; at most EACH and rows times EACH_ROW.
        while running: the most that a run takes beside that, at most RUNNING.
        holds: whether these bounds do.
    """
    trainer = work.trainer()
    device, data = trainer.device, trainer.manual_steps.minibatch(*work.data(work.batch))
    asked = Asked(device)
    tracemalloc.start()
    try:
        plan = trainer.manual_steps.load(data).plan
        with device.computing():
            for _ in range(3):
                plan.run()
            allocated = array_bytes() - asked.count * ALIGNMENT
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            plan.run()
            running = max(0, tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
        asked.let_go()
    said = plan.cost()["memory"]
    own = allocated - asked.scratch - said
    most = len(plan.operations) * (EACH + work.batch * EACH_ROW)
    return {
        "network": str(work),
        "batch": work.batch,
        "optimizer": work.optimizer,
        "plan": said,
        "scratch": asked.scratch,
        "allocated": allocated,
        "own": own,
        "while running": running,
        "holds": 0 <= own <= most and running <= RUNNING,
    }


def array_bytes() -> int:
    """The data of all arrays that were made since tracemalloc was started."""
    arrays = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([arrays]).traces)
