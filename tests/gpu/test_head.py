"""The head of a network in one launch is what its parts are, which NumPy does in float64; and training with it is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from lib.kernel_instances import instances
from operation_pairs import EPSILON, compile_kernels

import gpu_backprop as gb
from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.cuda.ops.head import FROM_Z
from gpu_backprop.backend.formula import IDENTITY
from gpu_backprop.backend.open_device import open_device
from gpu_backprop.network.losses import FORMULAS, LOSSES
from gpu_backprop.training.optimizers import RULES

pytestmark = pytest.mark.gpu

KINDS = {number: name for name, number in FROM_Z.items()}
POSITIVE = "cross_entropy", "binary_cross_entropy", "poisson", "focal", "binary focal"
SHAPES = [(1, (), 0), (33, (), 0), (70, (3,), 1), (300, (2,), 1)]
"""Rows, members, and whether there are weights and probabilities."""

dtypes = pytest.mark.parametrize("dtype", EPSILON)


@pytest.fixture(scope="module", autouse=True)
def compiled():
    compile_kernels("head.cu")


def made_for(dtype):
    rows = gb.ACTIVATIONS.values(), FORMULAS, RULES
    return [made for made in instances(*rows) if made.kernel.name == "head" and made.chosen["T"].name == dtype]


def numpy(binder, *arguments):
    device = open_device("cpu", "float64")
    with device.computing():
        for call in binder(device, *arguments):
            call()


@dtypes
@pytest.mark.parametrize(("rows", "models", "weighted"), SHAPES)
def test_every_instance(dtype, rows, models, weighted):
    """Of every loss, hidden activation and number of outputs; the same bits again."""
    device, rng = open_device("cuda", dtype), np.random.default_rng(0)
    for made in made_for(dtype):
        kind, outputs, f = KINDS[made.chosen["K"]], made.chosen["O"] - (made.chosen["O"] > 8), made.chosen["F"]
        loss = LOSSES["focal"].formula if kind == "softmax_focal" else made.chosen["E"]
        loss = dataclasses.replace(loss, accuracy="argmax", smooths=False)
        units = 3 * made.width * 8 if made.width > 1 else 39
        labelled = made.chosen["L"] == np.int64 and kind != "sigmoid_cross_entropy"
        inside = kind == "loss_gradient" and loss.name in POSITIVE
        shape = (*models, rows, outputs)

        def stored(values, dtype=device.dtype):
            return np.asarray(values).astype(dtype)

        y, w = (stored(rng.uniform(-1, 1, (*models, *size))) for size in ((rows, units), (units, outputs)))
        w = stored(w.astype("f8") * ((0.05 if inside else 1) / units))
        b = stored(rng.uniform(0.3, 0.7, (*models, outputs)), device.master)
        if labelled:
            target = rng.integers(0, outputs, shape[:-1])
            target[..., 0] += outputs * (rows > 1)  # which is out of range
        else:
            target = stored(rng.uniform(0.1, 0.9, shape), device.master)
        weights = stored(rng.uniform(0.5, 2, shape[:-1]), device.master) if weighted else None
        numbers = np.tile([0.0, *np.linspace(0.3, 0.7, len(loss.numbers))], (*models, 1))
        scales = rng.uniform(0.5, 2, models)
        s = stored(rng.uniform(0.1, 0.9, y.shape)) if f.reads else None
        given = y, w, b, target, weights, numbers, scales, s
        fed = [None if a is None else device.copy(device.from_host(a)) for a in given]
        results = []
        for _ in range(2):
            out = [device.empty((*models, rows, outputs + 1)), device.empty(b.shape, device.master)]
            out += [device.empty(y.shape), device.empty((*models, units), device.master)]
            total = device.zeros((*models, 3), np.float64)
            y_, w_, b_, target_, weights_, numbers_, scales_, s_ = fed
            with device.computing():
                for call in device.ops.head(
                    device, y_, w_, b_, target_, weights_, kind, loss, numbers_, 0.25, scales_, out[0], out[1], s_,
                    f, out[2], out[3], total,
                ):  # fmt: skip
                    call()
            results.append([device.to_host(a) for a in (out[0][..., :outputs], *out[1:], total)])
        for one, again in zip(*results, strict=True):
            assert one.tobytes() == again.tobytes()
        wanted = parts(y, w, b, target, weights, kind, loss, numbers, scales, s, f)
        names = "grad_z", "grad_bias", "grad_below", "grad_bias_below", "total"
        for name, got, want in zip(names, results[0], wanted, strict=True):
            tolerance = (8 if dtype.endswith("16") else 3000) * EPSILON[dtype]
            typical = np.nanmean(np.abs(want))
            np.testing.assert_allclose(
                got.astype("f8"), want, tolerance, tolerance * typical, err_msg=f"{made.name} {name}"
            )


def parts(y, w, b, target, weights, kind, loss, numbers, scales, s, f):
    """What the operations give, one after the other, in float64."""
    y, w, b, weights, s = (None if a is None else a.astype("f8") for a in (y, w, b, weights, s))
    target = target if target.dtype == np.int64 else target.astype("f8")
    z, total = y @ w + b[..., None, :], np.zeros((*y.shape[:-2], 3))
    grad = np.empty_like(z)
    before = () if kind == "loss_gradient" else (None,)
    numpy(getattr(numpy_ops, kind), z, *before, target, weights, loss, numbers, 0.25, scales, grad, total)
    below, sums = grad @ w.swapaxes(-1, -2), np.empty((*y.shape[:-2], y.shape[-1]))
    numpy(numpy_ops.activation_gradient, below, s, f if s is not None else IDENTITY, below, sums)
    return grad, grad.sum(-2), below, sums, total


NETWORKS = {
    "softmax": ([gb.Dense(24, "tanh"), gb.Dense(16, "relu"), gb.Dense(10, "softmax")], None),
    "one output": ([gb.Dense(7, "gelu"), gb.Dense(1)], "huber"),
    "sigmoid of 32": ([gb.Dense(16, "silu", bias=False), gb.Dense(32, "sigmoid")], None),
    "focal, after dropout": ([gb.Dense(9, "relu"), gb.Dropout(0.3), gb.Dense(5, "softmax")], "focal"),
    "after a softmax": ([gb.Dense(9, "softmax"), gb.Dense(5, "softmax", bias=False)], None),
    "one layer": ([gb.Dense(5, "softmax")], None),
    "below frozen": ([gb.Dense(9, "elu"), gb.Dense(9, "selu", trainable=False), gb.Dense(5, "softmax")], None),
}


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.5, "average": 0.9, "accumulate": 3}], ids=["", "in parts"])
@pytest.mark.parametrize("name", NETWORKS)
def test_training_is_that_of_a_cpu(name, options):
    """Members, weights and a schedule, of which some steps count for nothing; in float64."""
    layers, loss = NETWORKS[name]
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(41, 6)), rng.uniform(0.5, 2, 41)
    w[:14] = 0
    found = []
    for device in ("cuda", "cpu"):
        net = gb.Network(6, layers, device=device, dtype="float64", seed=[1, 2])
        trainer = gb.Trainer(net, loss, gb.Adam(0.01, schedule="cosine"), batch_size=7, **options)
        target = (
            rng.integers(0, net.outputs, 41)
            if trainer.loss.labels
            else np.cos(np.outer(x[:, 0], range(net.outputs))) ** 2
        )
        trainer.fit(x, np.arange(41) % net.outputs if trainer.loss.labels else target, weights=w, epochs=3,
                    shuffle=False, progress=False)  # fmt: skip
        if device == "cuda":
            assert "head" in {o.name for o in trainer.plan(7).operations}
        state = trainer.training_step.state().arrays
        found.append([net.device.to_host(net.parameters), net.device.to_host(state["step"])])
    np.testing.assert_allclose(found[0][0], found[1][0], 1e-9, 1e-12)
    np.testing.assert_array_equal(found[0][1], found[1][1])
    assert (found[0][1] == 3 * (6 - 2)).all()  # the first two minibatches of an epoch have no weight


def test_a_divergence_is_seen():
    """NaN and infinite rows make the loss NaN, and the gradient of all that they reach."""
    for spoilt in (np.nan, np.inf):
        net = gb.Network(3, [gb.Dense(4, "relu"), gb.Dense(3, "softmax")], device="cuda")
        trainer = gb.Trainer(net, optimizer=gb.SGD(0.1))
        x = np.ones((5, 3), np.float32)
        x[2, 1] = spoilt
        assert not np.isfinite(float(trainer.step(x, np.zeros(5, int))))


@pytest.mark.parametrize(
    ("dtype", "layer"), [(dtype, layer) for dtype in EPSILON for layer in (1, 2) if (dtype, layer) != ("float16", 2)]
)
def test_what_diverges_first_is_named(dtype, layer):
    """z of the last layer too, which the head keeps to itself: in float32, which nothing of float16 overflows."""
    net = gb.Network(6, [gb.Dense(9, "relu"), gb.Dense(5, "softmax")], device="cuda", dtype=dtype, seed=1)
    trainer = gb.Trainer(net, optimizer=gb.SGD(1e-30), batch_size=10, one_launch=False)
    assert "head" in {o.name for o in trainer.plan(10).operations}
    net.layers[0].weight[...] = 1
    weight = net.layers[layer - 1].weight
    weight[...] = float(np.finfo("float32" if dtype == "bfloat16" else dtype).max) / 4
    weight[:, 0] *= -1
    with pytest.raises(gb.DivergedError, match=f"first in z{layer}, of layer {layer}, Dense"):
        trainer.fit(np.ones((20, 6)), np.arange(20) % 5, 1, progress=False)
