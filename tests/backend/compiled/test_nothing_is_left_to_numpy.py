"""Every step, evaluation and prediction of a network that the package can build is a single program.

From the package's own tables: what they have tomorrow has to be compiled too. Which operations a plan is made of does
not depend on what they compute: here they compute nothing, and no compiler is needed.
"""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.compiled import open_device as opening
from gpu_backprop.backend.compiled import ops as compiled_ops
from gpu_backprop.backend.compiled.device import CpuDevice
from gpu_backprop.backend.compiled.library import CpuLibrary
from gpu_backprop.backend.compiled.operations_text import operations_text, unit_of
from gpu_backprop.backend.compiled.ops import fallback
from gpu_backprop.backend.compiled.program import HEAD, KernelCall
from gpu_backprop.network.layers import LAYERS
from gpu_backprop.network.losses import LOSSES
from gpu_backprop.training.optimizers import OPTIMIZERS

ROWS, INPUTS, OUTPUTS = 14, 4, 3
SLOTS = 64
"""More than any operation has."""

RNG = np.random.default_rng(0)
X, ONE_HOT, LABELS = RNG.random((ROWS, INPUTS)), np.eye(OUTPUTS)[np.arange(ROWS) % OUTPUTS], np.arange(ROWS) % OUTPUTS
WEIGHTS = RNG.random(ROWS)


class WithoutCode(CpuLibrary):
    """The heads of all operations, and nothing behind them."""

    def __init__(self, dtype):
        self.dtype, self.threads, self.multiplies = dtype, 2, True
        self.largest_product, self.call_size = 1 << 24, 8 * (HEAD + SLOTS)
        self.run = self.limit_blas_threads = self.shuffle = lambda *_: None

    def operation(self, name, row=None):
        return heads(unit_of(name) if row is None else row)[name], 0

    def prepare(self, units):
        """Nothing has to be compiled."""


@cache
def heads(unit):
    return operations_text(unit, "float32").heads


class Never(Exception):
    """What is not raised."""


@pytest.fixture(autouse=True)
def programs_alone(monkeypatch):
    """Calls of compiled operations become a program, of which nothing runs; to fall back is an error that tells why."""

    def program(device, calls, repeats=1):
        assert [call for call in calls if not isinstance(call, KernelCall)] == []
        return ()

    monkeypatch.setattr(opening, "open_device", lambda *of: CpuDevice(of[0], WithoutCode(of[1]), compiled_ops))
    monkeypatch.setattr(CpuDevice, "sequence", program)
    for error in ("UnsupportedArguments", "DeviceError"):
        monkeypatch.setattr(fallback, error, Never)


def use(layers, loss="half_squared_error", y=ONE_HOT, x=X, weights=None, *, seed=0, dtype="float32", optimizer="sgd",
        fit=None, **how):  # fmt: skip
    """Trains in minibatches, the last of which is smaller, and by hand; measures and predicts."""
    net = gb.Network(x.shape[1], layers, device="cpu", dtype=dtype, seed=seed)
    assert isinstance(net.device, CpuDevice)
    trainer = gb.Trainer(net, loss, optimizer, batch_size=8, **how)
    trainer.fit(x, y, 1, weights=weights, validation=(x, y, weights), progress=False, **(fit or {}))
    trainer.step(np.array(x), y, weights)
    net.predict(x)


EVERYWHERE = ("float32", 0), ("float64", [0, 1])
"""Dtypes, and the seeds of a network and of a population."""

MADE = {
    "dense": [lambda: gb.Dense(5, "tanh"), lambda: gb.Dense(5, "gelu", bias=False, max_norm=1.0)],
    "bias": [gb.Bias, lambda: gb.Bias("softplus")],
    "scale": [gb.Scale, lambda: gb.Scale(trainable=False)],
    "dropout": [lambda: gb.Dropout(0.2)],
    "periodic": [lambda: gb.Periodic(frequencies=3, units=2), lambda: gb.Periodic(2, trainable=False)],
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer(name):
    """At the bottom, and above another one."""
    for make, (dtype, seed) in itertools.product(MADE[name], EVERYWHERE):
        for layers in ([make()], [gb.Dense(6, "silu"), make(), gb.Dense(5, "relu")]):
            use([*layers, gb.Dense(OUTPUTS)], dtype=dtype, seed=seed)


@pytest.mark.parametrize("name", gb.ACTIVATIONS)
def test_every_activation(name):
    """Of a hidden layer, of many units, and of the last one."""
    for (dtype, seed), bias in itertools.product(EVERYWHERE, (True, False)):
        use([gb.Dense(150, name, bias=bias), gb.Dense(OUTPUTS, name, bias=bias)], dtype=dtype, seed=seed)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss(name):
    """With all outputs that it needs, or else one of each kind; with numbers and labels, and weights."""
    for f in LOSSES[name].needs or {(f.reads, f.rowwise): f.name for f in gb.ACTIVATIONS.values()}.values():
        for target, (dtype, seed), weights in itertools.product((ONE_HOT, LABELS), EVERYWHERE, (None, WEIGHTS)):
            loss = type(LOSSES[name])(reduction="mean" if seed else "sum")
            layer = gb.Dense(OUTPUTS, f)
            if target is ONE_HOT or loss.suited_to(gb.Network(INPUTS, [layer], device="cpu").last).labels:
                use([gb.Dense(OUTPUTS, f)], loss, target, weights=weights, dtype=dtype, seed=seed)


def test_smoothed_labels_and_many_classes():
    for outputs, (dtype, seed), smoothing in itertools.product((128, 129), EVERYWHERE, (0.0, 0.1)):
        for loss in (gb.CrossEntropy(smoothing), gb.Focal()):
            use([gb.Dense(outputs, "softmax")], loss, LABELS, dtype=dtype, seed=seed)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer(name):
    """Alone, and with all that a step may do besides."""
    besides = {"clip_norm": 1.0, "clip_value": 0.5, "average": 0.9, "accumulate": 2}
    settings = {"weight_decay": 0.1, "l1": 0.01, "l2": 0.01, "schedule": "cosine"}
    for dtype, seed in EVERYWHERE:
        layers = [gb.Dense(5, "tanh", trainable=False), gb.Dense(5, "relu", max_norm=1.0), gb.Dropout(0.3)]
        use([gb.Dense(5, "tanh"), gb.Dense(OUTPUTS)], optimizer=name, dtype=dtype, seed=seed)
        optimizer = OPTIMIZERS[name](**settings)
        for weights in (None, WEIGHTS):
            use([*layers, gb.Dense(OUTPUTS)], weights=weights, optimizer=optimizer, dtype=dtype, seed=seed, **besides)


def test_members_with_rows_of_their_own():
    rows, layers = [np.arange(9), np.arange(3, 14)], [gb.Dense(OUTPUTS, "softmax")]
    for weights in (None, WEIGHTS):
        use(layers, "cross_entropy", LABELS, weights=weights, seed=[0, 1], fit={"rows": rows})


@pytest.mark.parametrize("kind", [*"?bBhHiIqQefdg", ">f4", ">i2"])
def test_data_of_every_dtype(kind, tmp_path):
    """In memory, in a file, in every other column and from the last row to the first."""
    stored = np.memmap(tmp_path / "x", kind, "w+", shape=(ROWS, 2 * INPUTS))
    for (dtype, seed), x in itertools.product(EVERYWHERE, (X.astype(kind), stored[:, :INPUTS], stored[::-1, ::2])):
        use([gb.Dense(OUTPUTS)], x=x, y=stored[:, 1 : 1 + OUTPUTS], dtype=dtype, seed=seed)
        loss, labels = gb.CrossEntropy(reduction="sum"), np.zeros((ROWS, 2), np.int64)[:, 0]
        use([gb.Dense(OUTPUTS, "softmax")], loss, labels, x, stored[:, 0] + 1, dtype=dtype, seed=seed)
