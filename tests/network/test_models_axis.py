"""A leading models axis passes through every operation: each member is what it would be alone, to rounding."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.numpy_ops import gather
from gpu_backprop.backend.open_device import open_device

SEEDS = [4, 0, 9]
MEMBERS = range(3)
ROWS, INPUTS, OUTPUTS = 6, 3, 4
RATES = [0.05, 0.2, 0.01]
OPTIMIZERS = {
    "SGD": lambda rate, **more: gb.SGD(rate),
    "momentum": lambda rate, momentum=0.9: gb.SGD(rate, momentum=momentum),
    "Nesterov": lambda rate, momentum=0.9: gb.SGD(rate, momentum=momentum, nesterov=True),
    "RMSprop": lambda rate, **more: gb.RMSprop(rate),
    "Adagrad": lambda rate, **more: gb.Adagrad(rate),
    "Adam": lambda rate, **more: gb.Adam(rate),
    "AdamW": lambda rate, **more: gb.AdamW(rate, weight_decay=0.1),
}


def layers(activation="tanh", output="identity"):
    return [
        gb.Dense(5, activation, init="ntp"), gb.Dropout(0.4), gb.Bias(activation), gb.Scale(),
        gb.Dense(OUTPUTS, output, bias=False),
    ]  # fmt: skip


def networks(*arguments, **settings):
    """The members together, and each alone."""
    together = gb.Network(INPUTS, layers(*arguments), dtype="float64", seed=SEEDS, **settings)
    alone = [gb.Network(INPUTS, layers(*arguments), dtype="float64", seed=s, **settings) for s in SEEDS]
    return together, alone


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 1, shape)


def data(loss, models_shape=(), rows=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    x, shape = rng.normal(0, 1, (*models_shape, rows, INPUTS)), (*models_shape, rows, OUTPUTS)
    match loss.name:
        case "cross_entropy" | "focal":
            y = rng.integers(0, OUTPUTS, (*models_shape, rows))
        case "binary_cross_entropy":
            y = rng.uniform(0, 1, shape)
        case "poisson":
            y = rng.poisson(2.0, shape)
        case _:
            y = rng.normal(0, 1, shape)
    return x, y, rng.uniform(0.1, 2, (*models_shape, rows))


def member(array, m, models_shape):
    return array[m] if models_shape else array


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-13)


def assert_same_networks(together, alone):
    for m, net in enumerate(alone):
        close(together.parameters[m], net.parameters)
        close(together.gradients[m], net.gradients)


# Forward and backward -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("models_shape", [(), (3,)], ids=["shared x", "own x"])
@pytest.mark.parametrize("training", [False, True], ids=["", "training"])
@pytest.mark.parametrize("activation", gb.ACTIVATIONS)
def test_forward_and_backward(activation, training, models_shape):
    together, alone = networks(activation, activation if activation != "exp" else "identity")
    assert together.models_shape == (3,) and together.parameters.shape[0] == 3
    x, grad_y = numbers(*models_shape, ROWS, INPUTS), numbers(3, ROWS, OUTPUTS, seed=1)
    for _ in range(2):  # the second time with other masks
        y = together.forward(x, training=training)
        grad_x = together.backward(grad_y)
        assert y.shape == (3, ROWS, OUTPUTS) and grad_x.shape == (3, ROWS, INPUTS)
        for m, net in enumerate(alone):
            close(y[m], net.forward(member(x, m, models_shape), training=training))
            close(grad_x[m], net.backward(grad_y[m]))
        assert_same_networks(together, alone)


@pytest.mark.parametrize("models_shape", [(), (3,)], ids=["shared x", "own x"])
def test_predict_in_chunks(models_shape):
    together, alone = networks()
    x = numbers(*models_shape, 10, INPUTS)
    y = together.predict(x, batch_size=4)
    for m, net in enumerate(alone):
        close(y[m], net.predict(member(x, m, models_shape)))


def test_one_member_has_its_axis_too():
    one, alone = gb.Network(INPUTS, layers(), seed=[4]), gb.Network(INPUTS, layers(), seed=4)
    x = numbers(ROWS, INPUTS)
    assert one.models_shape == (1,) and one.layers[0].weight.shape == (1, INPUTS, 5)
    np.testing.assert_allclose(one.forward(x, training=True)[0], alone.forward(x, training=True), rtol=1e-5)


def test_equal_seeds_make_equal_members():
    net = gb.Network(INPUTS, layers(), seed=[7, 7])
    gb.Trainer(net).fit(numbers(20, INPUTS), numbers(20, OUTPUTS), epochs=2, progress=False)
    np.testing.assert_array_equal(net.parameters[0], net.parameters[1])


# Steps ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("models_shape", [(), (3,)], ids=["shared x", "own x"])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", gb.LOSSES)
def test_steps_with_every_loss(name, reduction, weighted, models_shape):
    loss = type(gb.LOSSES[name])(reduction=reduction)
    together, alone = networks("tanh", loss.needs[0] if loss.needs else "identity")
    x, y, weights = data(loss, models_shape)
    if not weighted:
        weights = None
    trainer = gb.Trainer(together, loss, gb.SGD(0.02))
    trainers = [gb.Trainer(net, loss, gb.SGD(0.02)) for net in alone]
    for _ in range(3):
        losses = np.asarray(trainer.step(x, y, weights))
        for m, one in enumerate(trainers):
            own = None if weights is None else member(weights, m, models_shape)
            close(losses[m], float(one.step(member(x, m, models_shape), member(y, m, models_shape), own)))
    assert_same_networks(together, alone)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("keep", [False, True], ids=["fused", "kept"])
@pytest.mark.parametrize("form", ["labels", "rows"])
def test_class_targets(form, keep, smoothing):
    loss = gb.CrossEntropy(label_smoothing=smoothing)
    together, alone = networks("tanh", "softmax")
    x, y, weights = data(loss, (3,))
    if form == "rows":
        y = np.eye(OUTPUTS)[y]
    for net, *batch in ((together, x, y, weights), *zip(alone, x, y, weights, strict=True)):
        trainer = gb.Trainer(net, loss, gb.SGD(0.1))
        _ = list(trainer.trace(*batch)) if keep else trainer.step(*batch)
    assert_same_networks(together, alone)


OWN_NUMBERS = {  # one a member, and the output activation
    "delta": (gb.Huber, "delta", [0.1, 1.0, 4.0], "identity"),
    "q": (gb.Quantile, "q", [0.2, 0.5, 0.9], "identity"),
    "label_smoothing": (gb.CrossEntropy, "label_smoothing", [0.3, 0.0, 0.1], "softmax"),
}


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
@pytest.mark.parametrize("keep", [False, True], ids=["fused", "kept"])
@pytest.mark.parametrize(("kind", "name", "values", "output"), OWN_NUMBERS.values(), ids=OWN_NUMBERS)
def test_members_with_numbers_of_their_own(kind, name, values, output, keep, weighted):
    together, alone = networks("tanh", output)
    trainer = gb.Trainer(together, kind(**{name: values}), gb.SGD(0.05))
    trainers = [gb.Trainer(net, kind(**{name: v}), gb.SGD(0.05)) for net, v in zip(alone, values, strict=True)]
    x, y, weights = data(trainer.loss)
    for step in range(3):
        if step == 2:  # and others on the way
            values = values[::-1]
            setattr(trainer.loss, name, values)
            for one, value in zip(trainers, values, strict=True):
                setattr(one.loss, name, value)
        for each in (trainer, *trainers):
            batch = x, y, weights if weighted else None
            _ = list(each.trace(*batch)) if keep else each.step(*batch)
    assert_same_networks(together, alone)
    close(trainer.evaluate(x, y)["loss"], [one.evaluate(x, y)["loss"] for one in trainers])


def test_a_member_without_smoothing_may_rule_a_class_out():
    """Where the z of another class than the label's is −∞, the loss is infinite only if its share is not 0."""
    z = np.array([[1.0, -np.inf, 0.0, 2.0]])
    for dtype in ("float32", "float64"):
        net = gb.Network(OUTPUTS, [gb.Bias("softmax")], dtype=dtype, seed=SEEDS)
        trainer = gb.Trainer(net, gb.CrossEntropy(label_smoothing=[0.0, 0.1, 0.0]), gb.SGD(0.1))
        batch = trainer.manual_steps.minibatch(np.zeros((1, OUTPUTS)), np.array([0]), None)
        replay = trainer.manual_steps.load(batch)
        replay.plan.buffers["x"][...] = z
        replay.run()
        np.testing.assert_array_equal(np.isfinite(replay.plan.buffers["E"][:, 0]), [True, False, True])


@pytest.mark.parametrize("each", [False, True], ids=["one rate", "own rates"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_with_every_optimizer(name, each):
    make = OPTIMIZERS[name]
    together, alone = networks()
    x, y = numbers(ROWS, INPUTS), numbers(ROWS, OUTPUTS, seed=1)
    trainer = gb.Trainer(together, None, make(RATES if each else 0.05))
    trainers = [gb.Trainer(net, None, make(RATES[m] if each else 0.05)) for m, net in enumerate(alone)]
    for step in range(6):
        if step == 4:  # and another one on the way
            trainer.optimizer.learning_rate = [0.001, 0.3, 0.1] if each else 0.3
            for m, one in enumerate(trainers):
                one.optimizer.learning_rate = [0.001, 0.3, 0.1][m] if each else 0.3
        trainer.step(x, y)
        for one in trainers:
            one.step(x, y)
    assert_same_networks(together, alone)
    for moment, array in trainer.optimizer.moments.items():
        for m, one in enumerate(trainers):
            close(array[m], one.optimizer.moments[moment])


@pytest.mark.parametrize("name", ["momentum", "Nesterov"])
def test_a_momentum_for_each_member(name):
    momenta = [0.0 if name == "momentum" else 0.1, 0.5, 0.9]
    together, alone = networks()
    x, y = numbers(ROWS, INPUTS), numbers(ROWS, OUTPUTS, seed=1)
    trainer = gb.Trainer(together, None, OPTIMIZERS[name](0.1, momentum=momenta))
    for _ in range(4):
        trainer.step(x, y)
    for m, net in enumerate(alone):
        one = gb.Trainer(net, None, gb.SGD(0.1, momentum=momenta[m], nesterov=name == "Nesterov"))
        for _ in range(4):
            one.step(x, y)
    assert_same_networks(together, alone)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_batch_without_weight_for_one_member(name):
    """Σw = 0 changes nothing of that member, bit for bit, and the others go on."""
    together, alone = networks()
    trainer = gb.Trainer(together, None, OPTIMIZERS[name](0.05))
    x, y, weights = numbers(3, ROWS, INPUTS), numbers(3, ROWS, OUTPUTS, seed=1), np.ones((3, ROWS))
    trainer.step(x, y, weights)
    before = [a.copy() for a in (together.parameters, trainer.optimizer.hyper, *trainer.optimizer.moments.values())]
    weights[1] = 0
    losses = np.asarray(trainer.step(x, y, weights))
    after = (together.parameters, trainer.optimizer.hyper, *trainer.optimizer.moments.values())
    assert losses[1] == 0 and (losses[[0, 2]] > 0).all()
    for then, now in zip(before, after, strict=True):
        np.testing.assert_array_equal(now[1], then[1])
        assert (now[0] != then[0]).any() and (now[2] != then[2]).any()
    for m in (0, 2):
        one = gb.Trainer(alone[m], None, OPTIMIZERS[name](0.05))
        one.step(x[m], y[m], weights[m])
        one.step(x[m], y[m], weights[m])
        close(together.parameters[m], alone[m].parameters)


def test_a_dropout_rate_for_each_member():
    """In every step those of the networks alone, also where one of them drops nothing."""
    rates, later = [0.1, 0.0, 0.7], [0.0, 0.5, 0.7]
    together = gb.Network(INPUTS, [gb.Dropout(rates), *layers()], dtype="float64", seed=SEEDS)
    alone = [
        gb.Network(INPUTS, [gb.Dropout(rate), *layers()], dtype="float64", seed=seed)
        for rate, seed in zip(rates, SEEDS, strict=True)
    ]
    x, y = numbers(ROWS, INPUTS), numbers(ROWS, OUTPUTS, seed=1)
    trainers = [gb.Trainer(net, None, gb.SGD(0.05)) for net in (together, *alone)]
    for step in range(4):
        if step == 2:
            together.layers[0].rate = later
            for net, rate in zip(alone, later, strict=True):
                net.layers[0].rate = rate
        for trainer in trainers:
            trainer.step(x, y)
        assert_same_networks(together, alone)
    twin = together.copy()
    assert twin.layers[0].rate == tuple(later)
    np.testing.assert_array_equal(twin.forward(x, training=True), together.forward(x, training=True))


def test_as_many_settings_as_members():
    with pytest.raises(gb.InputError, match="learning_rate must be one number, or 3, one a member"):
        gb.Trainer(networks()[0], None, gb.SGD([0.1, 0.2]))
    with pytest.raises(gb.InputError, match=r"learning_rate must be one number, got \(0.1, 0.2\)"):
        gb.Trainer(networks()[1][0], None, gb.SGD([0.1, 0.2]))


def test_many_losses_are_no_single_number():
    together, _ = networks()
    loss = gb.Trainer(together).step(numbers(ROWS, INPUTS), numbers(ROWS, OUTPUTS))
    with pytest.raises(gb.InputError, match=r"there are 3 losses, one a member: use np\.asarray\(loss\)"):
        float(loss)


# Whole epochs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy", "half_squared_error", "poisson", "focal"])
def test_fit_and_evaluate(name, weighted):
    """Each member has its own weights, order of rows and masks; 17 rows leave a tail of 2."""
    loss = gb.LOSSES[name]
    together, alone = networks("tanh", loss.needs[0] if loss.needs else "identity")
    x, y, weights = data(loss, rows=17)
    validation = data(loss, rows=8, seed=1)
    if not weighted:
        weights, validation = None, validation[:2]

    def fit(net):
        trainer = gb.Trainer(net, loss, gb.Adam(0.01), batch_size=5)
        history = trainer.fit(x, y, 3, weights=weights, validation=validation, progress=False)
        return trainer, history

    trainer, history = fit(together)
    measured = trainer.evaluate(*validation)
    runs = [fit(net) for net in alone]
    assert_same_networks(together, alone)
    keys = set(history.columns) - {"epoch", "seconds", "samples_per_second"}
    assert keys >= {"loss", "val_loss"} and set(measured) == {key[4:] for key in keys if key.startswith("val_")}
    for m, (one, alone_history) in enumerate(runs):
        for key in keys:
            close([values[m] for values in history[key]], alone_history[key])
        for key, values in measured.items():
            close(values[m], one.evaluate(*validation)[key])
    assert len({tuple(values) for values in zip(*history["loss"], strict=True)}) == 3  # no two members are alike


def test_gather_takes_each_member_its_own_rows():
    device = open_device("cpu", "float64")
    x, labels = numbers(7, 2), np.arange(7)
    order = np.stack([np.random.default_rng(m).permutation(7) for m in MEMBERS])
    cursor = np.array([2])
    outs = [np.full((3, 4, 2), np.nan), np.full((3, 4), -1)]
    (call,) = gather(device, [x, labels], order, cursor, outs)
    call()
    for m in MEMBERS:
        np.testing.assert_array_equal(outs[0][m], x[order[m, 2:6]])
        np.testing.assert_array_equal(outs[1][m], order[m, 2:6])
