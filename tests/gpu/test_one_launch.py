"""Epochs in one launch give what the ordinary steps give, to rounding, and ask the device for next to nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from tracing import TRACE, traced

import gpu_backprop as gb
from gpu_backprop.backend import block_layout
from gpu_backprop.backend.errors import DivergedError, InputError
from gpu_backprop.backend.formula import Activation
from gpu_backprop.backend.open_device import open_device
from gpu_backprop.training.minibatches import DataSet
from gpu_backprop.training.one_launch import build_launch, layout
from gpu_backprop.training.progress import Progress

pytestmark = pytest.mark.gpu

TOLERANCE = {"float64": 1e-12, "float32": 2e-5}
DTYPES = list(TOLERANCE)
ROWS, INPUTS, OUTPUTS = 23, 5, 3

_random = np.random.default_rng(6)
X = _random.normal(0, 1, (ROWS, INPUTS))
LABELS = _random.integers(0, OUTPUTS, ROWS)
DENSE = _random.uniform(0.1, 0.9, (ROWS, OUTPUTS))
SHARES = DENSE / DENSE.sum(axis=1, keepdims=True)
YES_NO = _random.integers(0, 2, (ROWS, OUTPUTS))
COUNTS = _random.integers(0, 4, (ROWS, OUTPUTS))

PLAIN = [gb.Dense(8, "tanh"), gb.Dense(OUTPUTS, "softmax")]


def network(layers=PLAIN, inputs=INPUTS, device="cuda", **settings):
    return gb.Network(inputs, layers, device=device, **settings)


def fitted(
    one_launch, layers=PLAIN, y=LABELS, loss=None, optimizer=None, x=X, batch_size=8, epochs=2, shuffle=True, **settings
):
    """A fit, measured on other rows, and all that it leaves."""
    net = network(layers, x.shape[1], **settings)
    optimizer = optimizer or gb.SGD(0.05)
    trainer = gb.Trainer(net, loss, optimizer, batch_size=batch_size, one_launch=one_launch)
    rows = trainer.fit(x, y, epochs, validation=(x[:11], y[:11]), shuffle=shuffle, progress=False)
    found = {"parameters": net.parameters, "gradients": net.gradients, **trainer.optimizer.moments}
    found["hyper"] = trainer.optimizer.hyper
    found = {name: net.device.to_host(array) for name, array in found.items()}
    for row in rows:
        for name in sorted(set(row) - {"seconds", "samples_per_second"}):
            found[f"epoch {row['epoch']}, {name}"] = np.asarray(row[name])
    return found


def compare(found, expected, tolerance):
    assert list(found) == list(expected)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=tolerance, atol=tolerance, err_msg=name)


def check(dtype="float64", **settings):
    """The fit in one launch an epoch, on ordinary CUDA steps, and on the CPU."""
    found = fitted(True, dtype=dtype, **settings)
    compare(found, fitted(False, dtype=dtype, **settings), TOLERANCE[dtype])
    compare(found, fitted(False, dtype=dtype, device="cpu", **settings), TOLERANCE[dtype])


# Every activation, loss and optimizer ---------------------------------------------------------------------------------

ELEMENTWISE = [name for name, f in gb.ACTIVATIONS.items() if not f.rowwise]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ELEMENTWISE)
def test_every_activation_below_and_on_top(activation, dtype):
    layers = [gb.Dense(8, activation), gb.Dense(6, "tanh"), gb.Dense(OUTPUTS, activation)]
    check(dtype, layers=layers, y=DENSE, loss="half_squared_error", optimizer=gb.SGD(0.01))


LOSSES = {
    "half_squared_error": ("half_squared_error", "identity", DENSE),
    "half_squared_error, sigmoid": ("half_squared_error", "sigmoid", DENSE),
    "squared_error": ("squared_error", "tanh", DENSE),
    "mean_squared_error": ("mean_squared_error", "identity", DENSE),
    "cross_entropy, labels": ("cross_entropy", "softmax", LABELS),
    "cross_entropy, shares": ("cross_entropy", "softmax", SHARES),
    "cross_entropy, smoothed labels": (gb.CrossEntropy(label_smoothing=0.1), "softmax", LABELS),
    "cross_entropy, smoothed shares": (gb.CrossEntropy(label_smoothing=0.1), "softmax", SHARES),
    "cross_entropy, summed": (gb.CrossEntropy(reduction="sum"), "softmax", LABELS),
    "binary_cross_entropy": ("binary_cross_entropy", "sigmoid", YES_NO),
    "focal": (gb.Focal(2.0, alpha=0.25), "sigmoid", YES_NO),
    "absolute_error": ("absolute_error", "identity", DENSE + 3),
    "huber": (gb.Huber(0.5), "identity", DENSE),
    "huber, summed": (gb.Huber(0.5, reduction="sum"), "identity", DENSE),
    "quantile": (gb.Quantile(0.9), "identity", DENSE + 3),
    "poisson": ("poisson", "exp", COUNTS),
    "poisson, softplus": ("poisson", "softplus", COUNTS),
}


def test_every_loss_has_a_case():
    assert {loss if isinstance(loss, str) else loss.name for loss, _, _ in LOSSES.values()} == set(gb.LOSSES)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("loss", "output", "y"), LOSSES.values(), ids=LOSSES)
def test_every_loss(loss, output, y, dtype):
    layers = [gb.Dense(8, "tanh"), gb.Dense(OUTPUTS, output)]
    check(dtype, layers=layers, y=y, loss=loss, optimizer=gb.SGD(0.01))


OPTIMIZERS = {
    "SGD": gb.SGD(0.1),
    "SGD, momentum": gb.SGD(0.1, momentum=0.9),
    "SGD, nesterov": gb.SGD(0.1, momentum=0.9, nesterov=True),
    "Adam": gb.Adam(epsilon=1e-3),
    "AdamW": gb.AdamW(epsilon=1e-3, weight_decay=0.1),
    "RMSprop": gb.RMSprop(epsilon=1e-3),
    "Adagrad": gb.Adagrad(epsilon=1e-3),
    "NAdam": gb.NAdam(epsilon=1e-3),
    "RAdam": gb.RAdam(0.01),
    "Lion": gb.Lion(0.01),
    "SGD, penalties": gb.SGD(0.1, momentum=0.9, l1=0.01, l2=0.1, weight_decay=0.1),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_optimizer(optimizer, dtype):
    check(dtype, optimizer=optimizer, epochs=3)


def test_an_activation_of_ones_own():
    def value(z, y, work):
        yield lambda: np.divide(z, 1 + z * z, out=y)

    def gradient(grad_y, z, grad_z, work):
        yield lambda: np.multiply(grad_y, (1 - z * z) / (1 + z * z) ** 2, out=grad_z)

    square = "(A(1) + s * s)"
    own = Activation(
        "own", "z", value, gradient, "z / (A(1) + z * z)", f"(A(1) - s * s) / ({square} * {square})"
    )  # fmt: skip
    check(layers=[gb.Dense(8, own), gb.Dense(OUTPUTS, "softmax")])


# Shapes and data ------------------------------------------------------------------------------------------------------

NETWORKS = {
    "one layer": [gb.Dense(OUTPUTS, "softmax")],
    "five layers": [gb.Dense(7, "relu"), gb.Dense(6, "gelu"), gb.Dense(5), gb.Dense(4, "silu"), gb.Dense(OUTPUTS)],
    "no bias": [gb.Dense(7, "relu", bias=False), gb.Dense(OUTPUTS, bias=False)],
    "wide and narrow": [gb.Dense(33, "gelu"), gb.Dense(1), gb.Dense(70, "tanh"), gb.Dense(OUTPUTS, "sigmoid")],
}


@pytest.mark.parametrize("layers", NETWORKS.values(), ids=NETWORKS)
def test_every_kind_of_network(layers):
    check(layers=layers, y=LABELS if layers[-1].activation.name == "softmax" else YES_NO)


@pytest.mark.parametrize("batch_size", [1, 5, ROWS - 1, ROWS, ROWS + 1])
def test_every_kind_of_minibatch(batch_size):
    """With and without a tail, which may be one row, and one minibatch of all there is."""
    check(batch_size=batch_size, optimizer=gb.Adam(epsilon=1e-3))


def test_a_minibatch_larger_than_a_micro_batch():
    x = _random.normal(0, 1, (150, INPUTS))
    assert block_layout.MICRO_BATCH < 100
    check(x=x, y=np.arange(150) % OUTPUTS, batch_size=100)


def test_a_network_that_leaves_room_for_few_rows():
    x = _random.normal(0, 1, (20, 300))
    units = int(0.85 * open_device("cuda").block_memory) // (2 * 8 * 301)
    check(x=x, y=np.arange(20) % OUTPUTS, layers=[gb.Dense(units, "relu"), *PLAIN], batch_size=16, epochs=1)


@pytest.mark.parametrize("kind", ["uint8", "float16", "float32", "float64"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_data_of_every_kind(kind, dtype):
    x = _random.integers(0, 4, (ROWS, INPUTS)).astype(kind)
    check(dtype, x=x)


def test_in_the_order_of_the_rows():
    check(shuffle=False)


def test_a_step_by_hand_is_an_ordinary_one_and_a_fit_goes_on():
    def run(one_launch):
        net = network(dtype="float64")
        trainer = gb.Trainer(net, optimizer=gb.Adam(0.01), batch_size=8, one_launch=one_launch)
        losses = [float(trainer.step(X[:7], LABELS[:7]))]
        for _ in range(2):
            losses += [row["loss"] for row in trainer.fit(X, LABELS, 1, progress=False)]
        losses.append(float(trainer.step(X[:7], LABELS[:7])))
        return {"losses": np.array(losses), "parameters": net.device.to_host(net.parameters)}

    compare(run(True), run(False), 1e-12)


# Members --------------------------------------------------------------------------------------------------------------

SEEDS, RATES = [5, 1, 9, 9], [0.1, 0.02, 0.05, 0.01]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("optimizer", [gb.SGD(RATES, momentum=0.9), gb.Adam(RATES, epsilon=1e-3)])
def test_members_side_by_side(optimizer, dtype):
    check(dtype, optimizer=optimizer, seed=SEEDS)


OWN_NUMBERS = {  # by the loss's number: the loss, what it becomes, the output and the targets
    "delta": (gb.Huber([0.1, 1.0, 4.0, 0.3]), 0.2, "identity", DENSE),
    "q": (gb.Quantile(0.3), [0.2, 0.5, 0.9, 0.1], "identity", DENSE + 3),
    "label_smoothing": (gb.CrossEntropy(label_smoothing=[0.3, 0.0, 0.1, 0.0]), [0.0, 0.2, 0.0, 0.1], "softmax", LABELS),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OWN_NUMBERS)
def test_members_with_numbers_of_their_own_that_change(name, dtype):
    loss, value, output, y = OWN_NUMBERS[name]

    def run(one_launch, device="cuda"):
        net = network([gb.Dense(8, "tanh"), gb.Dense(OUTPUTS, output)], device=device, dtype=dtype, seed=SEEDS)
        trainer = gb.Trainer(net, loss, gb.SGD(0.05), batch_size=8, one_launch=one_launch)
        found = {"before": np.array(trainer.fit(X, y, 2, progress=False)["loss"])}
        kernels = trainer.device.kernels.compiled if one_launch else ()
        setattr(trainer.loss, name, value)
        found["after"] = np.array(trainer.fit(X, y, 2, progress=False)["loss"])
        assert not one_launch or trainer.device.kernels.compiled == kernels
        return found | {"parameters": net.device.to_host(net.parameters)}

    for steps in (run(False), run(False, "cpu")):
        compare(run(True), steps, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_member_is_its_solo_run_bit_for_bit(dtype):
    """But for what ordinary plans measure: their products of several members may round otherwise than one alone."""
    together = fitted(True, optimizer=gb.Adam(RATES), dtype=dtype, seed=SEEDS)
    for member, (seed, rate) in enumerate(zip(SEEDS, RATES, strict=True)):
        alone = fitted(True, optimizer=gb.Adam(rate), dtype=dtype, seed=seed)
        for name, value in alone.items():
            expected = together[name] if name.endswith(("epoch",)) else together[name][member]
            if not name.endswith(", epoch"):
                tolerance = TOLERANCE[dtype] if ", val_" in name else 0
                np.testing.assert_allclose(expected, value, rtol=tolerance, err_msg=name)


def test_a_second_run_gives_the_same_bits():
    first, second = (fitted(True, dtype="float32", seed=SEEDS) for _ in range(2))
    for name, value in first.items():
        np.testing.assert_array_equal(second[name], value, err_msg=name)


def test_the_size_of_a_micro_batch_does_not_change_what_is_learned(monkeypatch):
    one = fitted(True, dtype="float32")
    monkeypatch.setattr(block_layout, "MICRO_BATCH", 3)
    other = fitted(True, dtype="float32")
    for name in ("parameters", "gradients"):
        np.testing.assert_array_equal(other[name], one[name], err_msg=name)


# What the device is asked for -----------------------------------------------------------------------------------------


def fit_events(steps, members, epochs=2):
    net = network(seed=list(range(members)))
    trainer = gb.Trainer(net, optimizer=gb.SGD(0.1), batch_size=4, one_launch=True)
    x, y = np.zeros((4 * steps, INPUTS), np.float32), np.arange(4 * steps) % OUTPUTS
    # in the order of the rows: else a thread that draws the next one takes what it needs whenever it comes to it
    return TRACE.of(lambda: trainer.fit(x, y, epochs, shuffle=False, progress=False))


@traced
def test_an_epoch_is_two_launches_whatever_its_steps_and_members():
    fit_events(1, 1)
    seen = [fit_events(steps, members) for steps, members in ((2, 1), (9, 1), (9, 6))]
    for events in seen:
        names = [e.what for e in events if e.event == "submit"]
        assert sum(bool(re.match(r"_Z11train_epoch", name)) for name in names) == 2
        assert not any("gemm" in name or "gather" in name for name in names)
    few, more, members = ([(e.event, e.what) for e in events if e.event != "alloc"] for events in seen)
    assert few == more and len(members) == len(few)


def test_the_plan_says_what_it_does():
    net = network(dtype="float64")
    trainer = gb.Trainer(net, optimizer=gb.SGD(0.1, momentum=0.9), batch_size=8, one_launch=True)
    samples = gb.network.samples.samples(net, trainer.loss, X, LABELS, None, values=True)
    data = DataSet(net, samples)
    total = net.device.zeros((3,), np.float64)
    plan = build_launch(trainer.training_step, data, trainer.batch_size, data.rows, total)
    assert [o.name for o in plan.operations] == ["train_epoch", "advance"]
    assert plan.operations[0].formula.startswith("3 × (y, ∇W of 8 rows, ")
    steps = [trainer.training_step.build(data, rows, total).cost() for rows in data.minibatches(8)]
    cost = plan.cost()
    assert cost["launches"] == 2 and cost["memory"] == 0
    assert 0.9 < cost["flops"] / sum(step["flops"] for step in steps) < 1.1
    assert cost["bytes"] < sum(step["bytes"] for step in steps) / 2
    assert set(plan.outputs()) == {"parameters", "gradients", "moments", "hyper", "E", "cursor"}
    assert "train_epoch" in str(plan)


# Where the loss is lost, and stopping ---------------------------------------------------------------------------------


DEEP, FLAT = [gb.Dense(4), gb.Dense(1)], [gb.Dense(1)]


def diverged(one_launch, rate, layers, epochs=4):
    net = network(layers, dtype="float64")
    trainer = gb.Trainer(net, "half_squared_error", gb.SGD(rate), batch_size=8, one_launch=one_launch)
    with pytest.raises(DivergedError) as raised:
        trainer.fit(X * 100, X[:, :1], epochs, progress=False)
    return raised.value, net.device.to_host(net.parameters), len(trainer.history)


@pytest.mark.parametrize(("layers", "epoch"), [(DEEP, 1), (FLAT, 2)])
def test_the_step_at_which_the_loss_is_lost_is_found_by_ordinary_steps(layers, epoch):
    (error, parameters, epochs), (expected, wanted, _) = diverged(True, 1e30, layers), diverged(False, 1e30, layers)
    assert (error.epoch, error.step, epochs) == (expected.epoch, expected.step, expected.epoch - 1)
    assert error.epoch == epoch and error.step > 1
    np.testing.assert_allclose(parameters, wanted, rtol=1e-9)


def test_the_loss_is_lost_at_the_first_step_of_an_epoch():
    """The state before the last step of the epoch before is not known; that before its first one is."""
    error, parameters, epochs = diverged(True, 1e10, DEEP)
    assert (error.epoch, error.step, epochs) == (2, 1, 1)
    assert "The parameters are those that epoch 1 began with" in str(error)
    net = network(DEEP, dtype="float64")
    np.testing.assert_array_equal(parameters, net.device.to_host(net.parameters))


def test_an_epoch_ends_before_a_stop_is_heeded(monkeypatch):
    trainer = gb.Trainer(network(), batch_size=4, one_launch=True)
    advance = Progress.advance
    monkeypatch.setattr(Progress, "advance", lambda shown, rows: (trainer.stop(), advance(shown, rows)))
    history = trainer.fit(X, LABELS, 5, progress=False)
    assert len(history) == 1 and history.stopped == "stopped after epoch 1, as asked"


def test_a_schedule_of_epochs():
    scheduled, by_hand = (gb.Trainer(network(), batch_size=4, one_launch=True) for _ in range(2))
    told = []

    def halve(state):
        told.append((state.epoch, state.step, state.trainer.network.predict(X).tobytes()))
        state.trainer.optimizer.learning_rate /= 2

    scheduled.fit(X, LABELS, 3, progress=False, callbacks=[halve])
    expected = []
    for epoch in (1, 2, 3):
        by_hand.fit(X, LABELS, 1, progress=False)
        expected.append((epoch, 6, by_hand.network.predict(X).tobytes()))
        by_hand.optimizer.learning_rate /= 2
    assert told == expected


# Refusals -------------------------------------------------------------------------------------------------------------


def late_bound(trainer):
    trainer.network.layers[0].max_norm = 1.0
    trainer.fit(X, LABELS, progress=False)


REFUSED = {
    "graph": (lambda: gb.Trainer(network(), graph=True, one_launch=True), "graph=True was given"),
    "stream": (lambda: gb.Trainer(network(), stream=True, one_launch=True), "stream=True was given"),
    "16 bits": (
        lambda: gb.Trainer(network(dtype="float16"), one_launch=True),
        "dtype has to be float32 or float64, and the network's is float16",
    ),
    "dropout": (
        lambda: gb.Trainer(network([gb.Dropout(0.1), *PLAIN]), one_launch=True),
        r"all layers have to be Dense, but layer 1 is Dropout\(0.1\)",
    ),
    "periodic": (
        lambda: gb.Trainer(network([gb.Periodic(), *PLAIN]), one_launch=True),
        "all layers have to be Dense, but layer 1 is Periodic",
    ),
    "bias": (lambda: gb.Trainer(network([gb.Bias(), *PLAIN]), one_launch=True), "all layers have to be Dense"),
    "scale": (lambda: gb.Trainer(network([gb.Scale(), *PLAIN]), one_launch=True), r"but layer 1 is Scale\(\)"),
    "softmax below": (
        lambda: gb.Trainer(network([gb.Dense(4, "softmax"), *PLAIN]), one_launch=True),
        r"softmax can only be the output's, with cross_entropy or focal, but layer 1 is Dense\(4, 'softmax'\)",
    ),
    "softmax, another loss": (
        lambda: gb.Trainer(network(), "half_squared_error", one_launch=True),
        "softmax can only be the output's, with cross_entropy.*the loss is half_squared_error",
    ),
    "activations of one name": (
        lambda: gb.Trainer(
            network([gb.Dense(4, replace(gb.ACTIVATIONS["relu"], name="tanh")), *PLAIN]), one_launch=True
        ),
        "two activations are called 'tanh'; give one of them another name",
    ),
    "too large": (
        lambda: gb.Trainer(network([gb.Dense(5000, "relu"), *PLAIN]), one_launch=True),
        r"the network takes [\d,]+ bytes of a block's memory \([\d,]+ for parameters, [\d,]+ for gradients, [\d,]+ for "
        r"a row of activations\), and a block of cuda:0 has [\d,]+\. Use fewer units, or use one_launch=False",
    ),
    "weights": (
        lambda: gb.Trainer(network(), one_launch=True).fit(X, LABELS, weights=np.ones(ROWS), progress=False),
        "it takes no sample weights",
    ),
    **{
        name: (
            lambda name=name, value=value: gb.Trainer(network(), one_launch=True, **{name: value}),
            f"only ordinary steps have {name}, but {name}={value} was given",
        )
        for name, value in {"clip_norm": 1.0, "average": 0.9, "accumulate": 2}.items()
    },
    "max_norm": (
        lambda: gb.Trainer(network([gb.Dense(4, "relu", max_norm=2.0), *PLAIN]), one_launch=True),
        r"only ordinary steps have max_norm, but layer 1 is Dense\(4, 'relu', max_norm=2.0\)",
    ),
    "max_norm, later": (
        lambda: late_bound(gb.Trainer(network(), one_launch=True)),
        "only ordinary steps have max_norm, but layer 1 is",
    ),
    "loss_every": (
        lambda: gb.Trainer(network(), one_launch=True).fit(X, LABELS, loss_every=2, progress=False),
        "nothing is read before the end of an epoch, but loss_every=2 was given",
    ),
    "on_step": (
        lambda: gb.Trainer(network(), one_launch=True).fit(
            X, LABELS, progress=False, callbacks=[SimpleNamespace(on_step=print)]
        ),
        "no step ends before its epoch does, but SimpleNamespace has on_step",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_cannot_do_is_said(case):
    run, said = REFUSED[case]
    with pytest.raises(InputError, match=said) as raised:
        run()
    assert str(raised.value).endswith(", or use one_launch=False.")


def test_the_largest_network_that_fits_is_taken():
    memory = open_device("cuda").block_memory

    def trainer_of(inputs):
        return gb.Trainer(network([gb.Dense(3, "softmax")], inputs=inputs), batch_size=4, one_launch=True)

    trainer = trainer_of(inputs := memory // 29)  # 24 bytes for parameters and gradients, 4 for x
    assert memory * 0.9 < sum(layout(trainer.network, trainer.loss).needs.values()) <= memory
    x = np.eye(6, inputs)
    assert np.isfinite(trainer.fit(x, np.arange(6) % 3, 1, progress=False)[0]["loss"])
    with pytest.raises(InputError, match="bytes of a block's memory"):
        trainer_of(memory // 27)
