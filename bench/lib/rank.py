"""One rank of bench/scaling.py: it trains a network, and tells where its time goes. By MPI's launcher:

    PYTHONPATH=bench mpiexec -n 2 python -m lib.rank '{"widths": [784, 300, 10], "batch": 128, …}' FILE

The first rank prints what was measured as a line of JSON, and writes the parameters before and after the first epoch,
which is not timed, to FILE.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from itertools import groupby
from typing import Any

import numpy as np

import gpu_backprop as gb
from gpu_backprop.backend.communicator import Communicator
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.operation import Operation
from gpu_backprop.network.samples import Samples
from gpu_backprop.training.minibatches import DataSet
from lib.workload import Workload

PARTS = COMPUTE, REDUCE, WAITING = "compute", "reduce", "waiting"

WARMUP = 1
"""Epochs that are not timed."""


def parts(
    trainer: gb.Trainer, x: Array, y: Array, epochs: int, barrier: Callable[[], object]
) -> dict[str, float]:  # fmt: skip
    """Trains for so many epochs step by step: µs of a step in each of PARTS, on this rank, the medians. Waiting is the
    time in a barrier that stands before each sum over the ranks, in the measurement alone."""
    step, batch = trainer.training_step, trainer.batch_size
    batches = [batch] * (len(x) // batch)
    data = DataSet(trainer.network, Samples(x, y, None), own=step.communicator.places(batches))
    plan = step.build(data, batch, trainer.device.zeros((3,), np.float64))

    def part(operation: Operation) -> str:
        return REDUCE if operation.phase == REDUCE else COMPUTE

    calls = [
        (name, plan.device.sequence([call for operation in some for call in operation.calls], 1))
        for name, some in groupby(plan.operations, part)
    ]
    steps: list[dict[str, float]] = []
    for _ in range(WARMUP + epochs):
        data.start()
        for _ in batches:
            took = dict.fromkeys(PARTS, 0.0)
            for name, some in calls:
                begin = time.perf_counter()
                if name == REDUCE:
                    barrier()
                    begin, waited = time.perf_counter(), begin
                    took[WAITING] += begin - waited
                for call in some:
                    call()
                took[name] += time.perf_counter() - begin
            steps.append(took)
    timed = steps[WARMUP * len(batches) :]
    return {name: statistics.median(took[name] for took in timed) * 1e6 for name in PARTS}


def main(task: str, file: str) -> None:
    from mpi4py import MPI

    given: dict[str, Any] = json.loads(task)
    epochs, communicator = given["epochs"], gb.mpi()
    workload = Workload(tuple(given["widths"]), given["batch"], loss=given["loss"], device="cpu")
    trainer = workload.trainer(communicator)
    net = trainer.network
    x, y = workload.data(given["batches"] * given["batch"])
    before = net.parameters.copy()
    trainer.fit(x, y, epochs=WARMUP, progress=False)
    after = net.parameters.copy()
    rows = trainer.fit(x, y, epochs=epochs, progress=False).rows
    found = mean_of_ranks(parts(trainer, x, y, epochs, MPI.COMM_WORLD.Barrier), communicator)
    if communicator.rank == 0:
        np.savez(file, before=before, after=after)
        us = statistics.median(row["seconds"] for row in rows[-epochs:]) * 1e6 / given["batches"]
        name, version = MPI.get_vendor()
        mpi = f"{name} {'.'.join(map(str, version))}"
        described = workload.described(trainer)
        print(json.dumps({"us": us, "parts": found, "mpi": mpi, "why": net.device.reason, "described": described}))


def mean_of_ranks(us: dict[str, float], communicator: Communicator) -> dict[str, float]:
    found = communicator.gather(us)
    return {name: sum(one[name] for one in found) / len(found) for name in us}


if __name__ == "__main__":
    main(*sys.argv[1:])
