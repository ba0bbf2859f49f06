"""A dry_runed plan says what the real one says, and takes no memory."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.device import Device, memory_size, memory_table
from gpu_backprop.backend.dry_run import DryRunDevice
from gpu_backprop.training.minibatches import ManualBatch

INPUTS, OUTPUTS = 4, 3
LOSSES = {
    "cross_entropy": "softmax",
    "binary_cross_entropy": "sigmoid",
    "half_squared_error": "identity",
    "huber": "tanh",
    "mean_squared_error": "softmax",
}
LAYERS = {
    "plain": [gb.Dense(7, "tanh")],
    "deep": [gb.Dense(7, "gelu"), gb.Dropout(0.5), gb.Dense(5, "relu", bias=False)],
    "bias": [gb.Bias("sigmoid"), gb.Dense(6)],
    "scale": [gb.Scale(), gb.Dense(6, "mish", init="ntp"), gb.Scale(trainable=False)],
}


def trainer_of(layers, loss, dtype="float32", seed=0, optimizer="adam"):
    last = gb.Dense(OUTPUTS, LOSSES[loss])
    net = gb.Network(INPUTS, [*LAYERS[layers], last], dtype=dtype, device="cpu", seed=seed)
    return gb.Trainer(net, loss, optimizer)


@pytest.mark.parametrize(("layers", "loss"), list(itertools.product(LAYERS, LOSSES)))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_tells_what_the_plan_tells(layers, loss, dtype):
    for seed, weights, fuse, optimizer in ((0, False, True, "sgd"), ([1, 2], True, False, "adagrad")):
        trainer = trainer_of(layers, loss, dtype, seed, optimizer)
        dry_runed = trainer.plan(11, weights=weights, fuse=fuse)
        feed = ManualBatch(trainer.network, trainer.loss.labels, weights)
        plan = trainer.training_step.build(feed, 11, trainer.manual_steps.total, fuse)
        assert str(dry_runed) == str(plan)
        assert dry_runed.cost() == plan.cost()
        assert dry_runed.buffers.keys() == plan.buffers.keys() and dry_runed.outputs().keys() == plan.outputs().keys()
        for name, array in plan.buffers.items():
            outline = dry_runed.buffers[name]
            assert (outline.shape, outline.dtype, outline.nbytes) == (array.shape, array.dtype, array.nbytes)


def test_the_memory_of_a_plan_by_kind():
    plan = trainer_of("deep", "cross_entropy").plan(10, weights=True)
    cost = plan.cost()
    kinds = cost["memory_by_kind"]
    assert cost["memory"] == sum(kinds.values())
    number = 4 * 10
    assert kinds == {
        "minibatch": (INPUTS + 1) * number + 8 * 10,  # x and w, and labels
        "forward": (7 + 7 + 7 + 7 + 5 + OUTPUTS) * number,  # z1, y1 = gelu(z1), mask2, z2, z3, z4
        "loss": plan.buffers["Σw ≠ 0"].nbytes + plan.buffers["1/Σw"].nbytes,
        "backward": (5 + 7) * number,  # ∇y3, ∇y2
    }


def test_it_takes_no_memory():
    trainer = trainer_of("deep", "cross_entropy")
    trainer.plan(3)
    tracemalloc.start()
    plan = trainer.plan(1 << 34)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20 < 1 << 40 < plan.cost()["memory"]


def test_it_cannot_run():
    trainer = trainer_of("plain", "cross_entropy")
    plan = trainer.plan(3)
    with pytest.raises(gb.StateError, match=r"this plan is there to look at.*trainer\.step\(x, y\) runs a step"):
        plan.run()
    with pytest.raises(gb.StateError, match="to look at"):
        next(plan.trace())
    with pytest.raises(gb.StateError, match="to look at"):
        plan.device.to_host(plan.buffers["x"])
    with pytest.raises(ValueError, match="read-only"):
        plan.buffers["x"][0, 0] = 1


def test_no_memory_holds_so_many_rows():
    with pytest.raises(gb.InputError, match="no memory can hold an array of shape"):
        trainer_of("plain", "cross_entropy").plan(1 << 62)


def cpu():
    return gb.Network(1, [gb.Dense(1)], device="cpu").device


def test_kinds_are_counted():
    dry_run = DryRunDevice(cpu())
    dry_run.empty((2, 3))
    with dry_run.kind("a"):
        dry_run.zeros((5,), np.float64)
        with dry_run.kind("b"):
            dry_run.copy(np.zeros(7, np.int8))
    dry_run.work((4,))
    dry_run.work((3,))
    assert dry_run.needs == {"other": 24, "a": 40, "a b": 7, "scratch": 16}


def test_scratch_memory_that_is_there_is_not_counted():
    device = cpu()
    device.work((10,))
    dry_run = DryRunDevice(device)
    dry_run.work((10,))
    assert dry_run.needs == {}
    dry_run.work((11,))
    assert dry_run.needs == {"scratch": 44} and device.scratch["float32", 0, 0].size == 10


def test_what_fits_is_taken_as_it_is():
    dry_run, array = DryRunDevice(cpu()), np.zeros((3, 2), np.float32)
    assert dry_run.from_host(array) is array
    assert dry_run.from_host(array, np.float64).shape == (3, 2)
    assert dry_run.from_host(array.T).shape == (2, 3)
    assert dry_run.needs == {"other": 48 + 24}


def test_outlines_have_addresses_of_their_own():
    dry_run = DryRunDevice(cpu())
    arrays = [dry_run.empty((1000,)) for _ in range(20)]
    assert len({dry_run.address(a) for a in arrays}) == 20
    assert not any(dry_run.address(a) % 256 for a in arrays)
    assert dry_run.address(arrays[0][5:]) == dry_run.address(arrays[0].reshape(10, 100).T) == dry_run.address(arrays[0])


def test_the_table_of_an_error():
    assert memory_table({"data": 3 << 30, "nothing": 0, "a longer name": 512}).splitlines() == [
        "  data           3.0 GiB",
        "  a longer name  0.5 KiB",
        "  in all         3.0 GiB",
    ]
    assert [memory_size(size) for size in (0, 1 << 20, 5 << 29)] == ["0.0 KiB", "1.0 MiB", "2.5 GiB"]


def test_a_cpu_looks_at_nothing_beforehand():
    device = Device("cpu", "", "float32", np, None)
    device.require({"data": 1 << 60}, "Anything")
    with pytest.raises(gb.OutOfMemoryError, match="cpu cannot give") as raised:
        device.empty((1 << 58,))
    assert raised.value.needs == {f"an array of shape {(1 << 58,)}": 1 << 60}
