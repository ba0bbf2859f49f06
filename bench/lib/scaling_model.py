"""What a step takes on many GPUs, by a model: no figure here was measured. docs/distributed.md says what it assumes.

A GPU works through its share of the rows in the time that training/launch_model.py gives for an H100. Then the
gradients of all are summed up: within each machine, of 8 GPUs, by a ring over NVLink; where there are more machines,
each GPU sums up its eighth with those of its place in the other machines meanwhile, by a ring or a double binary tree,
over an adapter of its own. The times of both are those of training/reduction_model.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

from gpu_backprop.backend.cuda.setup import PROCESSORS
from gpu_backprop.backend.device import Processors
from gpu_backprop.backend.operation import Operation
from gpu_backprop.backend.plan import Plan
from gpu_backprop.training.launch_model import BYTES, LEAST, NODE, ordinary_step
from gpu_backprop.training.minibatches import ManualBatch
from gpu_backprop.training.reduction_model import START, Link, ring_seconds, tree_seconds
from lib.cuda_plan import CudaLikeDevice
from lib.workload import Workload

MULTIPROCESSORS, CAPABILITY = 132, (9, 0)
"""Of an H100 SXM."""

NVLINK, INFINIBAND = Link(1.9e-6, 450e9), Link(4.0e-6, 50e9)
"""Latencies by which NCCL 2.30 chooses among its algorithms (src/graph/tuning.cc, ring, LL128); bandwidths of the data
sheets, in each direction: 900 GB/s of NVLink in both (H100 SXM), and 400 Gbit/s (ConnectX-7, one for each GPU, as a DGX
H100 has them)."""

MACHINE = 8
"""GPUs of a machine."""

GPUS = 8, 64, 1024

WORTH = 0.9
"""The efficiency from which rows a GPU are told to be enough."""

MOST_ROWS = 1 << 17
"""Of a GPU, that are looked at."""

NETWORKS = (
    Workload((30, 64, 64, 1), 64, loss="half_squared_error", device="cpu"),
    Workload((784, 2048, 2048, 10), 512, device="cpu"),
    Workload((1024, 4096, 4096, 4096, 1000), 4096, device="cpu"),
)
"""From a small table to wide layers, each with the rows of a minibatch on one GPU."""


@dataclass(frozen=True)
class Compute:
    """µs of a step on one GPU, and of its backward pass."""

    step: float
    backward: float


@dataclass(frozen=True)
class Step:
    """µs of a step on several GPUs: computing; the sum by a ring and by a tree, of which the faster counts; all of it,
    one after the other; and all of it, where the sum takes place during the backward pass, as far as it lasts."""

    compute: float
    ring: float
    tree: float
    after: float
    during: float


class Predictions:
    """What the model says of one network."""

    def __init__(self, workload: Workload) -> None:
        single, _, megahertz = PROCESSORS[CAPABILITY]
        self.processors, self.workload = Processors(MULTIPROCESSORS, single, megahertz), workload
        self.trainer = workload.trainer()
        self.size = int(self.trainer.network.gradients.nbytes)
        self.compute = cache(self._compute)

    def plan(self, rows: int) -> Plan:
        """The plan of a step, as CUDA joins it."""
        trainer = self.trainer
        batch, device = ManualBatch(trainer.network, trainer.loss.labels, False), CudaLikeDevice(trainer.device)
        return trainer.training_step.build(batch, rows, trainer.manual_steps.total, device=device)

    def _compute(self, rows: int) -> Compute:
        plan = self.plan(rows)
        backward = sum(self._operation(o) for o in plan.operations if o.phase == "backward")
        return Compute(ordinary_step(plan, self.processors), backward)

    def _operation(self, o: Operation) -> float:
        p = self.processors
        peak = 2 * p.multiprocessors * p.lanes * p.megahertz
        return NODE * o.launches + max(LEAST * o.launches, o.bytes / BYTES, o.flops / peak)

    def step(self, gpus: int, rows: int) -> Step:
        """Predicts a step of so many GPUs, of which the one that has most works through so many rows."""
        compute = self.compute(rows)
        if gpus == 1:
            return Step(compute.step, 0.0, 0.0, compute.step, compute.step)
        machines, inside = max(1, gpus // MACHINE), min(gpus, MACHINE)
        if machines == 1:
            ring, tree = (one(self.size, inside, *NVLINK) for one in (ring_seconds, tree_seconds))
        else:
            within = ring_seconds(self.size, inside, *NVLINK)
            ring, tree = (
                within + one(self.size / inside, machines, *INFINIBAND) for one in (ring_seconds, tree_seconds)
            )
        ring, tree = ((START + seconds) * 1e6 for seconds in (ring, tree))
        reduce = min(ring, tree)
        during = compute.step + max(0.0, reduce - compute.backward)
        return Step(compute.step, ring, tree, compute.step + reduce, during)

    def strong(self) -> list[dict[str, Any]]:
        """Of a minibatch of so many rows in all: a row for each number of GPUs."""
        batch = self.workload.batch
        alone = self.step(1, batch).after
        found = []
        for gpus in (1, *GPUS):
            rows = math.ceil(batch / gpus)
            one = self.step(gpus, rows)
            us = {name: round(value, 1) for name, value in vars(one).items()}
            faster = {name: round(alone / getattr(one, name), 2) for name in ("after", "during")}
            found.append({"gpus": gpus, "rows": rows, "us": us, "times as fast": faster})
        return found

    def efficiency(self, gpus: int, rows: int) -> float:
        """How much of a GPU's time is not the sum, of so many rows a GPU."""
        return self.step(1, rows).after / self.step(gpus, rows).after

    def enough(self, gpus: int) -> int | None:
        """The least power of two of rows a GPU whose efficiency is WORTH it; None: no such number is looked at."""
        rows = 1
        while rows <= MOST_ROWS:
            if self.efficiency(gpus, rows) >= WORTH:
                return rows
            rows *= 2
        return None

    def all(self) -> dict[str, Any]:
        """All that is told of the network."""
        batch = self.workload.batch
        return {
            "network": str(self.workload), "batch": batch, "bytes": self.size, "strong": self.strong(),
            "weak": {str(gpus): round(self.efficiency(gpus, batch), 3) for gpus in GPUS},
            "enough": {str(gpus): self.enough(gpus) for gpus in GPUS},
        }  # fmt: skip


def predict() -> dict[str, Any]:
    """All that is told, and what it rests on."""
    links = {"NVLink": NVLINK, "InfiniBand": INFINIBAND}
    told = {
        name: {"latency_us": round(link.latency * 1e6, 1), "gigabytes_per_second": link.bandwidth / 1e9}
        for name, link in links.items()
    }
    return {
        "device": "H100 SXM, float32", "gpus_a_machine": MACHINE, "start_us": round(START * 1e6, 1), "links": told,
        "worth": WORTH, "networks": [Predictions(workload).all() for workload in NETWORKS],
    }  # fmt: skip
