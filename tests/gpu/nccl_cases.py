"""What ranks on CUDA devices do, each a process with a device of its own: see test_nccl.py."""

from __future__ import annotations

import os
import time
import warnings
from dataclasses import replace
from unittest import mock

from rank_cases import CLASSES, DROPS, MEMBERS, Case, held_out, only, weights_of

import gpu_backprop as gb
from gpu_backprop.backend.branches import RANKS
from gpu_backprop.backend.cuda.device import CudaDevice
from gpu_backprop.training import reduction
from gpu_backprop.training.replay import STEPS_AT_ONCE

DEEP = gb.Dense(7, "tanh"), gb.Dense(6, "relu"), gb.Bias("tanh"), gb.Dense(5, "gelu", bias=False)
MANY = {"rows": 8 * 2 * STEPS_AT_ONCE + 27, "batch": 8}


class Overflow(Case):
    """In one row of the second minibatch, which is the last rank's, the gradient is more than float16 holds until S has
    been halved some times."""

    def data(self):
        x, y = super().data()
        y[63] = 200
        return x, y


CASES = {
    "many steps": Case(hidden=DEEP, **MANY),
    "float32, dropout, weights, clip_norm": Case(
        dtype="float32", hidden=DROPS, trainer={"clip_norm": 0.1}, fit={"weights": weights_of()}
    ),
    "in parts": Case(hidden=DROPS, trainer={"accumulate": 3, "average": 0.8}),
    "members": Case(**MEMBERS, fit={"weights": only(weights_of(), slice(32, 64)), "validation": held_out()}),
    "a tail of one row": Case(rows=33, **CLASSES, hidden=DROPS),
    "a frozen layer": Case(hidden=(gb.Dense(7, "tanh", trainable=False), *DEEP[1:])),
    "float16, an overflow on one rank": Overflow(dtype="float16", hidden=DEEP, epochs=5, fit={"shuffle": False}),
}


def buckets(each):
    """Each layer has a bucket of its own, or all are one, whatever the model says."""
    return mock.patch.object(
        reduction, "choose_buckets", lambda _, sizes, __: [1] * len(sizes) if each else [len(sizes)]
    )


def train(names, graphs, each=True):
    """What each of some cases comes to on this rank, with graph=False, "auto" or True."""
    warnings.simplefilter("ignore")
    communicator, found = gb.mpi(), {}
    for name in names:
        for graph in graphs:
            case = replace(CASES[name], device=communicator.device, trainer=CASES[name].trainer | {"graph": graph})
            with buckets(each):
                found |= {f"{name} | {graph} | {part}": value for part, value in case(communicator).items()}
    return found


# What steps ask of the device -----------------------------------------------------------------------------------------

AUDITED = {
    "plain": {},
    "weights": {"weighted": True},
    "members": {"seed": [1, 2], "weighted": True},
    "float16": {"dtype": "float16"},
    "clipped, in parts": {"options": {"clip_norm": 0.5, "accumulate": 2}, "weighted": True},
    "one row": {"rows": 1},
}


def audit():
    """The launches of steps, and the memory that they ask for, are those that their plan tells; how many sums there
    are."""
    os.environ.pop("CUDASIM_TRACE", None)  # the file of the process that started this one
    import test_audit

    communicator = gb.mpi()
    os.environ["CUDA_VISIBLE_DEVICES"] = str(communicator.local_rank)  # as some launchers do: it is cuda:0 for each
    assert communicator.device == "cuda:0"
    found = {}
    for name, given in AUDITED.items():
        for each in (False, True):
            options = given.get("options", {}) | {"communicator": communicator}
            with buckets(each):
                step = test_audit.training_step(**given | {"options": options})
            if test_audit.TRACE is not None:
                test_audit.check_trace(step)
            test_audit.check_allocations(step)
            found[f"{name}, {each}"] = sum(o.name == "all_reduce" for o in step.plan.operations)
    return found


def graph_shape():
    """The branches of the operations of a step with buckets, and how long its longest path is with one and several."""
    communicator = gb.mpi()
    plans = []
    for each in (False, True):
        case = replace(CASES["many steps"], device=communicator.device)
        trainer = case.make(communicator)
        with buckets(each):
            plans.append(trainer.plan(rows=32))
    sums = [node for node in plans[1].nodes() if node.operation.name == "all_reduce"]
    return {
        "formulas": [node.operation.formula for node in sums],
        "aside": [node.branch == RANKS for node in sums],
        "launches": [plan.cost()["launches"] for plan in plans],
        "path": [plan.cost()["path"] for plan in plans],
    }


# What goes wrong ------------------------------------------------------------------------------------------------------


def refused(action):
    try:
        action()
    except gb.GpuBackpropError as error:
        return f"{type(error).__name__}: {error}"
    return "not refused"


def wrong(message):
    raise RuntimeError(message)


def capture_fails_on_one():
    """The last rank's device captures nothing: what graph="auto" comes to, with why, and what graph=True says."""
    communicator = gb.mpi()
    case = replace(Case(**MANY), device=communicator.device)
    found = {f"eager | {part}": value for part, value in replace(case, trainer={"graph": False})(communicator).items()}
    if communicator.rank == communicator.ranks - 1:
        CudaDevice.capture = lambda self, nodes: wrong("it captures nothing today")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found |= {f"auto | {part}": value for part, value in case(communicator).items()}
    asked = replace(case, trainer={"graph": True})
    return found | {"told": [str(one.message) for one in told], "asked": refused(lambda: asked(communicator))}


def refusals():
    """What is said of devices that ranks cannot have together, and where NCCL is missing."""
    communicator, found = gb.mpi(), {}

    def on(device):
        network = gb.Network(2, [gb.Dense(1)], device=device)
        return refused(lambda: gb.Trainer(network, communicator=communicator))

    found["twice"] = on("cuda:0")
    found["mixed"] = on("cpu" if communicator.rank else "cuda:0")
    if communicator.rank:
        import cupy.cuda.nccl

        with mock.patch.object(cupy.cuda.nccl, "available", False):
            found["missing"] = on(communicator.device)
    else:
        found["missing"] = on(communicator.device)
    found["then"] = on(communicator.device)
    return found


def left_alone(timeout):
    """The last rank does not come to a step."""
    communicator = gb.mpi(float(timeout))
    trainer = replace(Case(), device=communicator.device, trainer={"graph": False}).make(communicator)
    x, y = Case().data()
    float(trainer.step(x, y))
    step = trainer.manual_steps.load(trainer.manual_steps.minibatch(x, y))
    if communicator.rank == communicator.ranks - 1:
        time.sleep(60)
    with trainer.device.computing():
        step.run()
    trainer.device.to_host(trainer.network.parameters)
    print("done")
