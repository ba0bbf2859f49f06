"""Whole training runs: a CUDA device learns what the CPU learns from the same seed.

float64 and float32 are compared with the CPU's run in the same dtype, float16 and bfloat16 with its float32 run. The
runs are short, so that rounding stays rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.formula import SCALE, STREAK
from gpu_backprop.cli import main
from gpu_backprop.explanation.explain import explain

pytestmark = pytest.mark.gpu

TOLERANCE = {"float64": 1e-12, "float32": 2e-5, "float16": 1e-2, "bfloat16": 8e-2}
"""Of parameters, predictions and losses, relative to the number, or to 1 where that is more."""

DTYPES = list(TOLERANCE)
ROWS, INPUTS, OUTPUTS = 21, 5, 3

_random = np.random.default_rng(4)
X = _random.normal(0, 1, (ROWS, INPUTS))
LABELS = _random.integers(0, OUTPUTS, ROWS)
DENSE = _random.uniform(0.1, 0.9, (ROWS, OUTPUTS))
SHARES = DENSE / DENSE.sum(axis=1, keepdims=True)
YES_NO = _random.integers(0, 2, (ROWS, OUTPUTS))
COUNTS = _random.integers(0, 4, (ROWS, OUTPUTS))
WEIGHTS = _random.integers(0, 4, ROWS) / 2


def on_host(net, array):
    """A device array in float64 or, of a 16-bit network, float32."""
    return net.device.to_host(array).astype(net.device.master)


def cpu_dtype(dtype):
    return "float32" if dtype.endswith("16") else dtype


def both(dtype, run):
    """What `run(device, dtype)` gives on the CPU and on CUDA: mappings of names to numbers. Compares them."""
    cpu, cuda = run("cpu", cpu_dtype(dtype)), run("cuda", dtype)
    assert list(cpu) == list(cuda)
    for name, expected in cpu.items():
        tolerance = TOLERANCE[dtype]
        np.testing.assert_allclose(cuda[name], expected, rtol=tolerance, atol=tolerance, err_msg=name)


def learned(trainer, history=()) -> Mapping[str, np.ndarray]:
    """Everything that a training run leaves; of a loss that is scaled, S·∇ over the S of the last step."""
    net, scaling = trainer.network, trainer.scaling.state
    found = {"parameters": on_host(net, net.parameters), "gradients": on_host(net, net.gradients)}
    if scaling is not None:
        scaling = net.device.to_host(scaling)
        assert scaling[..., STREAK].all()  # so S is still the last step's: whatever changes it ends the streak
        found["gradients"] /= scaling[..., SCALE, None]
    found |= {name: on_host(net, moment) for name, moment in trainer.optimizer.moments.items()}
    found["hyper"] = net.device.to_host(trainer.optimizer.hyper)
    for row in history:
        for name, value in row.items():
            if name not in ("seconds", "samples_per_second", "loss_scale", "skipped"):
                found[f"epoch {row['epoch']}, {name}"] = np.asarray(value)
    if net.half_parameters is not None:
        np.testing.assert_array_equal(
            net.device.to_host(net.half_parameters), net.device.to_host(net.parameters).astype(net.dtype)
        )
    return found


def fitted(net, y, loss=None, optimizer=None, weights=None, epochs=2, **settings):
    """A fit with a tail of five rows, measured on other rows; then all that it left, and what it predicts."""
    trainer = gb.Trainer(net, loss, optimizer or gb.SGD(0.01, momentum=0.9), batch_size=8, **settings)
    if trainer.scaling.state is not None:  # so that no step overflows, which would be skipped: test_precision.py
        net.device.copy_in(trainer.scaling.state[..., SCALE], np.array(2.0**8))
    validation = (X[:11], y[:11]) if weights is None else (X[:11], y[:11], weights[:11])
    history = trainer.fit(X, y, epochs, weights=weights, validation=validation, progress=False)
    return learned(trainer, history) | {"predicted": net.predict(X, batch_size=9)}


# Every activation, loss and optimizer ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", gb.ACTIVATIONS)
def test_every_activation(activation, dtype):
    layers = [gb.Dense(8, activation), gb.Dense(OUTPUTS)]
    both(dtype, lambda device, dtype: fitted(gb.Network(INPUTS, layers, device=device, dtype=dtype), DENSE))


LOSSES = {
    "half_squared_error": ("half_squared_error", "identity", DENSE),
    "half_squared_error, sigmoid": ("half_squared_error", "sigmoid", DENSE),
    "half_squared_error, softmax": ("half_squared_error", "softmax", SHARES),
    "squared_error": ("squared_error", "tanh", DENSE),
    "mean_squared_error": ("mean_squared_error", "identity", DENSE),
    "cross_entropy, labels": ("cross_entropy", "softmax", LABELS),
    "cross_entropy, shares": ("cross_entropy", "softmax", SHARES),
    "cross_entropy, smoothed labels": (gb.CrossEntropy(label_smoothing=0.1), "softmax", LABELS),
    "cross_entropy, smoothed shares": (gb.CrossEntropy(label_smoothing=0.1), "softmax", SHARES),
    "binary_cross_entropy": ("binary_cross_entropy", "sigmoid", YES_NO),
    "binary_cross_entropy, softmax": ("binary_cross_entropy", "softmax", SHARES),
    "focal, labels": ("focal", "softmax", LABELS),
    "focal, shares": ("focal", "softmax", SHARES),
    "focal": (gb.Focal(2.0, alpha=0.25), "sigmoid", YES_NO),
    "absolute_error": ("absolute_error", "identity", DENSE + 3),
    "huber": (gb.Huber(0.5), "identity", DENSE),
    "quantile": (gb.Quantile(0.9), "identity", DENSE + 3),
    "poisson": ("poisson", "exp", COUNTS),
    "poisson, softplus": ("poisson", "softplus", COUNTS),
}


def test_every_loss_has_a_case():
    named = {loss if isinstance(loss, str) else loss.name for loss, _, _ in LOSSES.values()}
    assert named == set(gb.LOSSES)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("loss", "output", "y"), LOSSES.values(), ids=LOSSES)
def test_every_loss(loss, output, y, dtype):
    layers = [gb.Dense(8, "tanh"), gb.Dense(OUTPUTS, output)]

    def run(device, dtype):
        return fitted(gb.Network(INPUTS, layers, device=device, dtype=dtype), y, loss, gb.SGD(0.05))

    both(dtype, run)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(("loss", "output", "y"), LOSSES.values(), ids=LOSSES)
def test_every_loss_with_weights(loss, output, y, reduction, dtype):
    chosen = gb.LOSSES[loss] if isinstance(loss, str) else loss
    chosen = replace(chosen, reduction=reduction)
    layers = [gb.Dense(8, "tanh"), gb.Dense(OUTPUTS, output)]

    def run(device, dtype):
        net = gb.Network(INPUTS, layers, device=device, dtype=dtype)
        return fitted(net, y, chosen, gb.SGD(0.005), WEIGHTS)

    both(dtype, run)


NUMBERS = {  # a loss whose members have their own numbers, and what these become
    "delta": (gb.Huber([0.1, 1.0, 4.0]), "delta", [2.0, 0.2, 0.1], "identity", DENSE),
    "q": (gb.Quantile([0.2, 0.5, 0.9]), "q", 0.25, "identity", DENSE),
    "label_smoothing": (gb.CrossEntropy(label_smoothing=[0.3, 0.0, 0.1]), "label_smoothing", 0.0, "softmax", LABELS),
    "no label_smoothing": (gb.CrossEntropy(), "label_smoothing", [0.0, 0.1, 0.3], "softmax", SHARES),
}


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize(("loss", "name", "value", "output", "y"), NUMBERS.values(), ids=NUMBERS)
def test_numbers_of_members_that_change_on_the_way(loss, name, value, output, y, dtype, graph):
    """In steps that are captured already; and no kernel is compiled for it."""

    def run(device, dtype):
        net = gb.Network(
            INPUTS, [gb.Dense(8, "tanh"), gb.Dense(OUTPUTS, output)], device=device, dtype=dtype, seed=[0, 1, 2]
        )
        trainer = gb.Trainer(net, loss, gb.SGD(0.05), graph=graph and device == "cuda")
        found, kernels = {}, []
        for k in range(6):
            if k == 3:
                setattr(trainer.loss, name, value)
            found[f"loss {k}"] = np.asarray(trainer.step(X, y))
            found[f"measured {k}"] = np.asarray(trainer.evaluate(X, y)["loss"])
            if device == "cuda":
                kernels.append(trainer.device.kernels.compiled)
        assert not kernels or kernels[2] == kernels[-1]
        return found | learned(trainer)

    both(dtype, run)


OPTIMIZERS = {
    "SGD": gb.SGD(0.1),
    "SGD, momentum": gb.SGD(0.1, momentum=0.9),
    "SGD, nesterov": gb.SGD(0.1, momentum=0.9, nesterov=True),
    "RMSprop": gb.RMSprop(epsilon=1e-3),
    "Adagrad": gb.Adagrad(epsilon=1e-3),
    "Adam": gb.Adam(epsilon=1e-3),
    "AdamW": gb.AdamW(epsilon=1e-3, weight_decay=0.1),
    "SGD, penalties": gb.SGD(0.1, momentum=0.9, l1=0.01, l2=0.1, weight_decay=0.1),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_optimizer(optimizer, dtype):
    layers = [gb.Dense(8, "tanh"), gb.Dense(OUTPUTS, "softmax")]
    both(
        dtype,
        lambda device, dtype: fitted(
            gb.Network(INPUTS, layers, device=device, dtype=dtype), LABELS, None, optimizer, WEIGHTS
        ),
    )


# Shapes ---------------------------------------------------------------------------------------------------------------

NETWORKS = {
    "one layer": [gb.Dense(OUTPUTS, "softmax")],
    "no bias": [gb.Dense(7, "relu", bias=False), gb.Dense(OUTPUTS, "softmax", bias=False)],
    "Bias layers": [gb.Bias("softplus"), gb.Dense(6), gb.Bias("tanh"), gb.Dense(OUTPUTS), gb.Bias("softmax")],
    "Scale layers": [gb.Scale(), gb.Dense(8, "mish", init="ntp"), gb.Scale(), gb.Dense(OUTPUTS, "softmax", init="ntp")],
    "odd widths": [gb.Dense(33, "gelu"), gb.Dense(1, "identity"), gb.Dense(OUTPUTS, "softmax")],
    "Dropout": [gb.Dropout(0.2), gb.Dense(8, "silu"), gb.Dropout(0.5), gb.Dense(OUTPUTS, "softmax")],
    "Periodic": [gb.Periodic(2, learning_rate_factor=0.5), gb.Dense(8, "silu"), gb.Dense(OUTPUTS, "softmax")],
    "Periodic inside": [gb.Dense(5, "tanh"), gb.Periodic(3, 5, 7), gb.Dense(OUTPUTS, "softmax")],
    "frozen": [
        gb.Dense(8, "silu", trainable=False),
        gb.Dropout(0.2),
        gb.Dense(8, "tanh", learning_rate_factor={"bias": 2}, weight_decay_factor=0.5),
        gb.Bias("gelu", trainable=False),
        gb.Dense(OUTPUTS, "softmax", trainable=False),
    ],
    "Dropout last": [gb.Dense(8, "tanh"), gb.Dense(OUTPUTS, "softmax"), gb.Dropout(0.1)],
}


@pytest.mark.parametrize("dtype", ["float64", "float16"])
@pytest.mark.parametrize("layers", NETWORKS.values(), ids=NETWORKS)
def test_every_kind_of_network(layers, dtype):
    loss, y = (None, LABELS) if layers[-1].activation.name == "softmax" else ("half_squared_error", SHARES)
    both(dtype, lambda device, dtype: fitted(gb.Network(INPUTS, layers, device=device, dtype=dtype), y, loss))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("y", [LABELS, SHARES], ids=["labels", "shares"])
def test_members_side_by_side(dtype, y):
    layers = [gb.Dense(8, "tanh"), gb.Dropout([0.25, 0, 0.5]), gb.Dense(OUTPUTS, "softmax")]
    optimizer = gb.Adam([1e-3, 1e-2, 3e-3], epsilon=1e-3)

    def run(device, dtype):
        net = gb.Network(INPUTS, layers, device=device, dtype=dtype, seed=[5, 1, 9])
        return fitted(net, y, None, optimizer, WEIGHTS)

    both(dtype, run)


def test_members_each_with_data_of_its_own():
    layers, xs = [gb.Dense(8, "tanh"), gb.Dense(OUTPUTS, "softmax")], np.stack([X, X[::-1]])
    labels = np.stack([LABELS, LABELS[::-1]])

    def run(device, dtype):
        trainer = gb.Trainer(gb.Network(INPUTS, layers, device=device, dtype=dtype, seed=[0, 1]), optimizer=gb.SGD(0.1))
        losses = np.asarray(trainer.step(xs, labels, np.stack([WEIGHTS, np.zeros(ROWS)])))
        return learned(trainer) | {"losses": losses, "predicted": trainer.network.predict(xs)}

    both("float64", run)


def test_batches_of_one_row_and_of_all():
    layers = [gb.Dense(8, "tanh"), gb.Dense(1, "sigmoid")]

    def run(device, dtype):
        found = {}
        for batch_size in (1, ROWS, 1000):
            trainer = gb.Trainer(gb.Network(INPUTS, layers, device=device, dtype=dtype), batch_size=batch_size)
            history = trainer.fit(X, YES_NO[:, 0], 1, progress=False)
            found |= {f"{name} ({batch_size})": value for name, value in learned(trainer, history).items()}
        return found

    both("float64", run)


# Chance ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", [2**64 - 1, [0, 3, 2**40]], ids=["one", "members"])
def test_dropout_masks_are_bit_for_bit_the_cpus(dtype, seed):
    def masks(device, dtype):
        net = gb.Network(
            INPUTS, [gb.Dropout(0.3), gb.Dense(13), gb.Dropout(0.6)], device=device, dtype=dtype, seed=seed
        )
        trainer = gb.Trainer(net, "half_squared_error", gb.SGD(1e-6))
        x, y = X / 100, np.zeros((ROWS, 13))  # so that no step overflows float16: one that is skipped counts no mask
        return [
            array
            for _ in range(3)
            for _, written in trainer.trace(x, y)
            for name, array in written.items()
            if name.startswith("mask")
        ]

    cpu, cuda = masks("cpu", cpu_dtype(dtype)), masks("cuda", dtype)
    assert len(cpu) == len(cuda) == 6
    for expected, found in zip(cpu, cuda, strict=True):
        np.testing.assert_array_equal(found, expected.astype(found.dtype))
        assert 0 < np.count_nonzero(found) < found.size


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_run_gives_the_same_bits(dtype):
    def bits():
        net = gb.Network(INPUTS, [gb.Dense(300, "tanh"), gb.Dropout(0.5), gb.Dense(OUTPUTS, "softmax")],
                         device="cuda", dtype=dtype)  # fmt: skip
        trainer = gb.Trainer(net, batch_size=8)
        history = trainer.fit(X, LABELS, 3, weights=WEIGHTS, progress=False)
        return net.device.to_host(net.parameters).tobytes(), [row["loss"] for row in history]

    assert bits() == bits()


# By hand --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", [0, [0, 1]], ids=["one", "members"])
def test_forward_and_backward(dtype, seed):
    layers = [gb.Dense(8, "tanh"), gb.Dropout(0.25), gb.Dense(OUTPUTS, "softmax")]

    def run(device, dtype):
        net = gb.Network(INPUTS, layers, device=device, dtype=dtype, seed=seed)
        y = net.forward(X, training=True)
        assert y.dtype == net.dtype
        grad_x = net.backward(np.broadcast_to(DENSE, y.shape))
        return {name: on_host(net, a) for name, a in (("y", y), ("∇x", grad_x), ("gradients", net.gradients))}

    both(dtype, run)


@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_of_different_sizes(dtype):
    layers = [gb.Dense(8, "tanh"), gb.Dense(OUTPUTS, "softmax")]

    def run(device, dtype):
        trainer = gb.Trainer(gb.Network(INPUTS, layers, device=device, dtype=dtype), optimizer=gb.SGD(0.1))
        losses = [trainer.step(X[:rows], LABELS[:rows]) for rows in (1, 7, 21, 7)]
        losses += [trainer.step(X, SHARES, WEIGHTS), trainer.step(X, SHARES, np.zeros(ROWS))]
        trainer.optimizer.learning_rate = 0.2
        losses += [trainer.step(X, LABELS)]
        return learned(trainer) | {"losses": np.array([float(loss) for loss in losses])}

    both(dtype, run)


def test_a_label_out_of_range_spoils_the_loss_and_no_parameter():
    layers = [gb.Dense(8, "tanh"), gb.Dense(OUTPUTS, "softmax")]

    def run(device, dtype):
        trainer = gb.Trainer(gb.Network(INPUTS, layers, device=device, dtype=dtype), optimizer=gb.SGD(0.1))
        loss = trainer.step(X, np.where(np.arange(ROWS) == 4, 10**9, LABELS))
        assert np.isnan(float(loss))
        return learned(trainer)

    both("float64", run)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])  # in float16 gradients are scaled: test_precision.py
@pytest.mark.parametrize("y", [LABELS, SHARES], ids=["labels", "shares"])
def test_a_trace_shows_the_same_numbers(dtype, y):
    layers = [gb.Dense(8, "gelu"), gb.Dropout(0.25), gb.Dense(OUTPUTS, "softmax")]

    def run(device, dtype):
        net = gb.Network(INPUTS, layers, device=device, dtype=dtype)
        trainer = gb.Trainer(net, optimizer=gb.SGD(0.1))
        return {
            f"{k} {name}": array.astype(np.float64)
            for k, (_, written) in enumerate(trainer.trace(X, y, WEIGHTS)) for name, array in written.items()
            if not name.startswith("parameters (")
        }  # fmt: skip

    both(dtype, run)


def test_an_explanation_is_the_same_text():
    def text(device):
        net = gb.Network(2, [gb.Dense(3, "tanh"), gb.Dense(2, "softmax")], device=device, dtype="float64")
        return explain(gb.Trainer(net, optimizer=gb.SGD(0.5)), X[:2, :2], [0, 1])

    assert text("cuda") == text("cpu")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_an_explanation_of_16_bits(dtype):
    net = gb.Network(2, [gb.Dense(3, "tanh"), gb.Dense(2, "softmax")], device="cuda", dtype=dtype)
    text = explain(gb.Trainer(net), X[:2, :2], [0, 1])
    assert "z1 = x@W1" in text and "with the new parameters it is" in text


@pytest.mark.parametrize("dtype", DTYPES)
def test_changes_by_hand_are_seen(dtype):
    layers = [gb.Dense(8, "tanh"), gb.Dense(OUTPUTS, "softmax")]

    def run(device, dtype):
        net = gb.Network(INPUTS, layers, device=device, dtype=dtype)
        trainer, found = gb.Trainer(net, optimizer=gb.SGD(0.1)), {}
        net.predict(X), trainer.step(X, LABELS)
        net.layers[0].weight *= 2
        found["predicted"] = net.predict(X)
        net.layers[0].weight[1, :] = 0.5
        found["y"] = on_host(net, net.forward(X))
        net.layers[1].bias = [1.0, 2.0, 3.0]
        found["loss"] = np.float64(trainer.evaluate(X, LABELS)["loss"])
        net.parameters = net.parameters / 2
        found["step"] = np.float64(float(trainer.step(X, LABELS)))
        return found | learned(trainer)

    both(dtype, run)


# Trouble --------------------------------------------------------------------------------------------------------------


def diverging(net, x, y, loss="poisson"):
    """The error of a fit whose loss does not stay finite."""
    with pytest.raises(gb.DivergedError) as caught:
        gb.Trainer(net, loss, gb.SGD(40.0, momentum=0.5), batch_size=8).fit(x, y, 50, progress=False)
    error = caught.value
    return {"epoch": error.epoch, "step": error.step, "epochs": len(error.history)} | {
        "parameters": on_host(net, net.parameters)
    }


def test_divergence_is_found_at_the_same_step_and_leaves_the_same_parameters():
    layers = [gb.Dense(8, "tanh"), gb.Dense(OUTPUTS, "exp")]
    both("float64", lambda device, dtype: diverging(gb.Network(5, layers, device=device, dtype=dtype), X, COUNTS))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_divergence_in_16_bits_leaves_finite_parameters(dtype):
    net = gb.Network(INPUTS, [gb.Dense(8, "tanh"), gb.Dense(OUTPUTS, "exp")], device="cuda", dtype=dtype)
    assert np.isfinite(diverging(net, X, COUNTS, "absolute_error")["parameters"]).all()
    np.testing.assert_array_equal(
        net.device.to_host(net.half_parameters), on_host(net, net.parameters).astype(net.dtype)
    )
    assert np.isfinite(net.predict(X)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_right(dtype):
    net = gb.Network(INPUTS, [gb.Dense(4, "gelu"), gb.Dropout(0.25), gb.Dense(OUTPUTS, "softmax")],
                     device="cuda", dtype=dtype)  # fmt: skip
    report = gb.check_gradients(net, None, X[:3], LABELS[:3], at_most=6)
    assert report.checked >= 20 and report.error < 1e-6


def test_gradients_of_members_are_right():
    net = gb.Network(INPUTS, [gb.Dense(4, "tanh"), gb.Dense(OUTPUTS)], device="cuda", seed=[0, 1])
    assert gb.check_gradients(net, "huber", X[:3], DENSE[:3], WEIGHTS[:3] + 1, at_most=6).error < 1e-6


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_model_goes_from_one_device_to_the_other_and_back(tmp_path, dtype):
    net = gb.Network(INPUTS, [gb.Dense(8, "tanh"), gb.Dropout(0.25), gb.Dense(OUTPUTS, "softmax")],
                     device="cuda", dtype=dtype)  # fmt: skip
    gb.Trainer(net, batch_size=8).fit(X, LABELS, 2, progress=False)
    gb.save(tmp_path / "cuda", net)
    there = gb.load(tmp_path / "cuda", device="cpu", dtype=cpu_dtype(dtype))
    np.testing.assert_array_equal(there.parameters, net.device.to_host(net.parameters))
    np.testing.assert_array_equal(there.random, net.device.to_host(net.random))
    np.testing.assert_allclose(there.predict(X), net.predict(X), atol=TOLERANCE[dtype])
    gb.save(tmp_path / "cpu", there)
    back = gb.load(tmp_path / "cpu", device="cuda", dtype=dtype)
    assert (back.dtype, back.predict(X).tobytes()) == (net.dtype, net.predict(X).tobytes())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_cpu_says_how_to_load_a_16_bit_model(tmp_path, dtype):
    gb.save(tmp_path / "m", gb.Network(2, [gb.Dense(2)], device="cuda", dtype=dtype))
    with pytest.raises(gb.InputError, match=rf"as it was saved: .*{dtype}.*load\(path, dtype='float32'\)"):
        gb.load(tmp_path / "m", device="cpu")
    assert gb.load(tmp_path / "m", device="cuda").dtype.name == dtype


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_command_line_predicts_with_a_16_bit_model(tmp_path, capsys, dtype):
    data, run = tmp_path / "data.csv", tmp_path / "run"
    data.write_text("a,b,c\n" + "".join(f"{a:.3f},{b:.3f},{a - b:.3f}\n" for a, b in X[:, :2]))

    def predicted():
        assert main(["predict", str(run), str(data), "--device", "cuda"]) == 0
        return np.array([float(line) for line in capsys.readouterr().out.splitlines()[1:]])

    arguments = ["--target", "c", "--epochs", "2", "--device", "cuda", "--out", str(run)]
    assert main(["train", str(data), *arguments]) == 0
    capsys.readouterr()
    expected = predicted()
    gb.save(run / "model.safetensors", gb.load(run / "model.safetensors", device="cuda", dtype=dtype))
    np.testing.assert_allclose(predicted(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_copies(dtype):
    net = gb.Network(INPUTS, [gb.Dense(8, "tanh"), gb.Dense(OUTPUTS)], device="cuda", dtype=dtype, seed=[3, 4])
    twin, fine = net.copy(), net.copy("float64")
    assert (twin.device.name, twin.dtype, fine.dtype) == (net.device.name, net.dtype, np.float64)
    assert twin.predict(X).tobytes() == net.predict(X).tobytes()
    np.testing.assert_allclose(fine.predict(X), net.predict(X), atol=TOLERANCE[dtype])
    twin.parameters[...] = 0
    assert on_host(net, net.parameters).any()
