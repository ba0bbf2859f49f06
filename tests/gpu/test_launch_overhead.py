"""What an eager launch costs the host besides the driver: steps of Python and conversions, counted and not timed.

A plan of n launches is one Python call, `Plan.run`, which calls n C functions in a loop: CuPy's `launchKernel` for a
kernel, cuBLAS by ctypes for a product. Arguments were packed when the plan was built. What remains:

- a kernel: no Python call; CuPy turns 11 Python ints into C integers (the function, grid, block, shared memory, stream,
  the address of the arguments, and 0 for those that it could be given otherwise);
- a product: one Python call, which looks at the status (without Python, by a table, it takes no less time); ctypes
  hands on 19 objects that were made before (23 with models);
- a replayed plan: no Python call; CuPy turns 2 ints into C integers, the graph and the stream.
"""

from __future__ import annotations

import ctypes
import sys

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.training.minibatches import ManualBatch
from gpu_backprop.training.replay import Replay

pytestmark = pytest.mark.gpu

ROWS = 4
KERNEL, PRODUCT, PRODUCTS = 11, 19, 23  # arguments of cuLaunchKernel, cublasGemmEx, cublasGemmStridedBatchedEx


def plan_of(layers, **form):
    net = gb.Network(5, layers, device="cuda", **form)
    trainer = gb.Trainer(net)
    total = net.device.zeros((*net.models_shape, 3), np.float64)
    feed = ManualBatch(net, True, False)
    plan = trainer.training_step.build(feed, ROWS, total)
    x = np.random.default_rng(0).normal(0, 1, (ROWS, 5))
    feed.load(plan, trainer.manual_steps.minibatch(x, np.arange(ROWS) % 3))
    return plan


PLANS = {
    "two layers": lambda: plan_of([gb.Dense(8, "relu"), gb.Dense(3, "softmax")]),
    "five layers": lambda: plan_of([*[gb.Dense(8, "gelu")] * 4, gb.Dense(3, "softmax")]),
    "dropout": lambda: plan_of([gb.Dropout(0.5), gb.Dense(8, "softmax"), gb.Dense(3, "softmax")]),
    "members": lambda: plan_of([gb.Dense(8, "relu"), gb.Dense(3, "softmax")], seed=[1, 2]),
    "float16": lambda: plan_of([gb.Dense(8, "relu"), gb.Dense(3, "softmax")], dtype="float16"),
}


@pytest.fixture(params=PLANS)
def plan(request):
    return PLANS[request.param]()


def python_calls(action):
    """The names of the Python functions that are called while `action` runs, itself included."""
    names = []

    def see(frame, event, argument):
        if event == "call":
            names.append(frame.f_code.co_qualname)

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        action()
    finally:
        sys.setprofile(before)
    return names


def test_a_plan_is_one_python_call_and_one_for_each_product(plan):
    products = sum(operation.name == "matmul" for operation in plan.operations)
    with plan.device.computing():
        plan.run()  # which binds the tuple of all calls
        assert python_calls(plan.run) == ["Plan.run"] + ["_check"] * products


def test_a_replay_is_none(plan):
    replay = Replay(plan, True)
    with plan.device.computing():
        replay.run()
        assert replay.replays
        assert python_calls(replay.run) == []
    assert [type(argument) for argument in (*replay.run.args, *replay.run.keywords)] == [int, int]


def test_the_arguments_of_a_launch_are_as_c_takes_them(plan):
    """Ints for CuPy and objects of ctypes for cuBLAS: nothing that has to be looked at or made."""
    calls = [call for operation in plan.operations for call in operation.calls]
    assert len(calls) == plan.cost()["launches"]
    for call in calls:
        assert call.keywords == {}
        if hasattr(call, "kernel"):
            assert [type(argument) for argument in call.args] == [int] * KERNEL
        else:
            assert len(call.args) == (PRODUCTS if plan.buffers["x"].ndim == 3 else PRODUCT)
            reference = type(ctypes.byref(ctypes.c_int()))
            assert all(isinstance(a, (ctypes._SimpleCData, reference)) for a in call.args)
            assert call.func.argtypes is None


def test_a_status_of_cublas_that_is_an_error_raises(plan):
    product = next(call for operation in plan.operations for call in operation.calls if not hasattr(call, "kernel"))
    wrong = [*product.args]
    wrong[3] = ctypes.c_int(-1)  # columns
    with plan.device.computing(), pytest.raises(gb.DeviceError, match="cuBLAS reports status 7: invalid value"):
        product.func(*wrong)
    assert product.func.restype(0) is None
