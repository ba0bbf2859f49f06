"""One step of a Trainer: its loss, its weights, its labels, and what a trainer is made of."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb

ROWS = 23
STREAM = np.random.default_rng(5)
X = STREAM.normal(size=(ROWS, 4))
Y = np.sin(X @ STREAM.normal(size=(4, 2)))
LABELS = np.abs(X).argmax(axis=1) % 3
WEIGHTS = STREAM.integers(0, 4, ROWS).astype(float)

OPTIMIZERS = {
    "sgd": gb.SGD(0.1),
    "momentum": gb.SGD(0.1, momentum=0.9),
    "nesterov": gb.SGD(0.1, momentum=0.9, nesterov=True),
    "rmsprop": gb.RMSprop(0.01),
    "adagrad": gb.Adagrad(0.1),
    "adam": gb.Adam(0.01),
    "adamw": gb.AdamW(0.01, weight_decay=0.1),
}


def classifier(seed=3, dtype="float64", dropout=0.0):
    hidden = [gb.Dense(5, "tanh"), *([gb.Dropout(dropout)] if dropout else [])]
    return gb.Network(4, [*hidden, gb.Dense(3, "softmax")], dtype=dtype, seed=seed)


def regression(seed=3, dtype="float64"):
    return gb.Network(4, [gb.Dense(5, "tanh"), gb.Dense(2)], dtype=dtype, seed=seed)


def fit(trainer, x=X, y=None, epochs=1, **options):
    y = (LABELS if trainer.loss.labels else Y) if y is None else y
    return trainer.fit(x, y, epochs, progress=False, **options)


def state(trainer):
    """Everything that training changes, as bytes."""
    network, optimizer = trainer.network, trainer.optimizer
    arrays = [network.parameters, network.random, optimizer.hyper, *optimizer.moments.values()]
    return [array.tobytes() for array in arrays]


# Weights and reduction ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_batch_without_weight_changes_nothing(optimizer, reduction):
    for make, loss, y in ((classifier, gb.CrossEntropy, LABELS), (regression, gb.Huber, Y)):
        trainer = gb.Trainer(make(), loss(reduction=reduction), optimizer)
        trainer.step(X, y)  # so that there are moments to go on moving
        before = state(trainer)
        assert float(trainer.step(X, y, np.zeros(ROWS))) == 0
        assert state(trainer) == before
        trainer.step(X, y, np.ones(ROWS))
        assert state(trainer) != before


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("make", [classifier, regression])
def test_whole_weights_are_repeated_rows(make, reduction):
    y, times = (LABELS if make is classifier else Y), WEIGHTS.astype(int)
    loss = (gb.CrossEntropy if make is classifier else gb.MeanSquaredError)(reduction=reduction)
    weighted, repeated = (gb.Trainer(make(), loss, gb.SGD(0.02)) for _ in range(2))
    one = weighted.step(X, y, WEIGHTS)
    other = repeated.step(np.repeat(X, times, axis=0), np.repeat(y, times, axis=0))
    assert float(one) == pytest.approx(float(other), rel=1e-13)
    np.testing.assert_allclose(weighted.network.parameters, repeated.network.parameters, rtol=1e-12, atol=1e-15)


def test_the_scale_of_weights_does_not_matter_to_a_mean():
    one, other = (gb.Trainer(classifier(), optimizer=gb.SGD(0.1)) for _ in range(2))
    assert float(one.step(X, LABELS, WEIGHTS)) == pytest.approx(float(other.step(X, LABELS, WEIGHTS * 1000)), rel=1e-13)
    np.testing.assert_allclose(one.network.parameters, other.network.parameters, rtol=1e-12)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_a_sum_is_so_many_means(weights):
    total = ROWS if weights is None else WEIGHTS.sum()
    mean = gb.Trainer(regression(), gb.HalfSquaredError(), gb.SGD(0.1))
    summed = gb.Trainer(regression(), gb.HalfSquaredError(reduction="sum"), gb.SGD(0.1 / total))
    for _ in range(3):
        losses = float(mean.step(X, Y, weights)), float(summed.step(X, Y, weights))
        assert losses[1] == pytest.approx(losses[0] * total, rel=1e-12)
    np.testing.assert_allclose(mean.network.parameters, summed.network.parameters, rtol=1e-11)
    mean_epoch, sum_epoch = (fit(t, shuffle=False, weights=weights)[0]["loss"] for t in (mean, summed))
    assert sum_epoch == pytest.approx(mean_epoch * total, rel=1e-11)


# One step by hand -----------------------------------------------------------------------------------------------------


def test_the_loss_of_a_step_is_that_before_it_and_stays_what_it_is():
    trainer = gb.Trainer(classifier())
    before = trainer.evaluate(X, LABELS)["loss"]
    first = trainer.step(X, LABELS)
    second = trainer.step(X, LABELS)
    assert float(first) == pytest.approx(before, rel=1e-14)
    assert float(second) < float(first)
    assert repr(first) == f"StepLoss({float(first)!r})" and f"{first:.3f}" == f"{before:.3f}"
    assert np.asarray(first, np.float32) == np.float32(first) and np.asarray(first).shape == ()


def test_steps_of_any_size_in_any_order():
    sizes = [3, 1, 7, 2, 23, 4, 5, 6, 8, 9, 10, 3, 23, 1]  # more than plans are kept
    trainer, afresh = gb.Trainer(regression()), regression()
    optimizer = gb.Trainer(afresh).optimizer
    for size in sizes:
        trainer.step(X[:size], Y[:size])
        one = gb.Trainer(afresh)  # with plans of its own, and the state of the others
        one.optimizer.hyper[...] = optimizer.hyper
        for name, moment in optimizer.moments.items():
            one.optimizer.moments[name][...] = moment
        one.step(X[:size], Y[:size])
        optimizer = one.optimizer
    np.testing.assert_array_equal(trainer.network.parameters, afresh.parameters)


def test_what_is_given_again_in_another_form_is_looked_at_again():
    trainer, afresh = (gb.Trainer(classifier(), optimizer=gb.SGD(0.1)) for _ in range(2))
    rows, kinds = np.eye(3)[LABELS], (np.uint8, np.int32, np.int64)
    forms = [(X, LABELS), (X.astype(np.float32), LABELS), (X[::-1], LABELS[::-1]), (X.tolist(), LABELS), (X, rows)]
    forms += [(X, LABELS.astype(kind)) for kind in kinds]
    for x, y in forms * 2:
        assert float(trainer.step(x, y)) == float(afresh.step(np.array(x), np.array(y), np.ones(ROWS)))
    assert float(trainer.step(X, LABELS)) == float(afresh.step(X, LABELS))
    np.testing.assert_array_equal(trainer.network.parameters, afresh.network.parameters)
    for x, y in ((X.astype(str), LABELS), (X, LABELS.astype(float)), (X[:, :3], LABELS), (X, LABELS[:3])):
        with pytest.raises(gb.InputError):
            trainer.step(x, y)
    trainer.network.layers[0].trainable = False
    frozen = trainer.network.layers[0].weight.copy()
    trainer.step(X, LABELS)
    np.testing.assert_array_equal(trainer.network.layers[0].weight, frozen)


def test_targets_of_one_output_may_lack_its_axis_every_time():
    nets = [gb.Network(4, [gb.Dense(1)], dtype="float64", seed=seed) for seed in (3, 3, [3, 4])]
    one, other, several = (gb.Trainer(net, optimizer=gb.SGD(0.1)) for net in nets)
    for _ in range(3):
        assert float(one.step(X, Y[:, 0])) == float(other.step(X, Y[:, :1])) == np.asarray(several.step(X, Y[:, 0]))[0]


def test_a_file_that_was_cut_off_is_refused_every_time(tmp_path):
    trainer, path = gb.Trainer(classifier()), tmp_path / "x.npy"
    np.save(path, np.repeat(X, 100, axis=0))
    mapped = np.load(path, mmap_mode="r")
    for x in (mapped, np.asarray(mapped)):
        trainer.step(x[-ROWS:], LABELS)
    with path.open("r+b") as file:
        file.truncate(200)
    for x in (mapped, np.asarray(mapped)):
        with pytest.raises(gb.InputError, match="cut it off"):
            trainer.step(x[-ROWS:], LABELS)


@pytest.mark.parametrize("bad", [3, -1, 2**62, -(2**62)])
@pytest.mark.parametrize("way", ["step", "trace"])
def test_a_bad_label_gives_a_nan_loss_and_leaves_the_rest_alone(bad, way):
    loss = gb.CrossEntropy(reduction="sum", label_smoothing=0.1)
    trainer, without = (gb.Trainer(classifier(), loss, gb.SGD(0.1)) for _ in range(2))
    labels = LABELS.copy()
    labels[4] = bad
    if way == "step":
        assert np.isnan(float(trainer.step(X, labels)))
    else:
        losses = [written["E"][0] for _, written in trainer.trace(X, labels) if "E" in written]
        assert np.isnan(losses[-1])
    rest = np.arange(ROWS) != 4
    without.step(X[rest], LABELS[rest])
    assert np.isfinite(trainer.network.parameters).all()
    np.testing.assert_allclose(trainer.network.parameters, without.network.parameters, rtol=1e-12)
    assert np.isfinite(float(trainer.step(X, LABELS)))


def test_trace_is_a_step_and_refuses_what_step_refuses_at_once():
    traced, stepped = (gb.Trainer(classifier(dropout=0.3)) for _ in range(2))
    with pytest.raises(gb.InputError, match="3 features"):
        traced.trace(X[:, :3], LABELS)
    names = [name for _, written in traced.trace(X, LABELS) for name in written]
    stepped.step(X, LABELS)
    assert {"z1", "y1", "z3", "y3", "∇y3", "∇z3", "∇W3", "∇b3", "∇W1", "parameters"} <= set(names)
    np.testing.assert_allclose(traced.network.parameters, stepped.network.parameters, rtol=1e-12)


def test_plan_is_the_plan_of_step():
    trainer = gb.Trainer(classifier(), batch_size=6)
    assert trainer.plan().buffers["x"].shape == (6, 4)
    assert trainer.plan(9, weights=True).buffers["w"].shape == (9,)
    plan = trainer.plan(ROWS)
    trainer.step(X, LABELS)
    assert str(trainer.manual_steps.replay(ROWS, True, False).plan) == str(plan)


def test_each_member_of_a_models_network_may_have_a_minibatch_of_its_own():
    trainer = gb.Trainer(gb.Network(4, [gb.Dense(3, "softmax")], dtype="float64", seed=[1, 2]))
    x, y = np.stack([X, -X]), np.stack([LABELS, LABELS[::-1]])
    solo = [
        float(gb.Trainer(gb.Network(4, [gb.Dense(3, "softmax")], dtype="float64", seed=m + 1)).step(x[m], y[m]))
        for m in range(2)
    ]
    loss = trainer.step(x.tolist(), y.tolist())
    np.testing.assert_allclose(np.asarray(loss), solo, rtol=1e-13)
    with pytest.raises(gb.InputError, match=r"there are 2 losses, one a member: use np\.asarray\(loss\)"):
        float(loss)


# What a trainer is made of --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        ("softmax", "cross_entropy"),
        ("sigmoid", "binary_cross_entropy"),
        ("identity", "half_squared_error"),
        ("tanh", "half_squared_error"),
    ],
)
def test_the_loss_that_goes_with_the_output(activation, name):
    assert gb.Trainer(gb.Network(4, [gb.Dense(3, activation)])).loss.name == name


@pytest.mark.parametrize("name", gb.LOSSES)
def test_losses_by_name(name):
    needs = {"cross_entropy": "softmax", "binary_cross_entropy": "sigmoid", "poisson": "exp", "focal": "softmax"}
    activation = needs.get(name, "identity")
    assert gb.Trainer(gb.Network(4, [gb.Dense(3, activation)]), name).loss == gb.LOSSES[name]


@pytest.mark.parametrize("name", gb.OPTIMIZERS)
def test_optimizers_by_name(name):
    trainer = gb.Trainer(regression(), optimizer=name, batch_size=6)
    assert trainer.optimizer.name == name
    before = trainer.evaluate(X, Y)["loss"]
    fit(trainer, epochs=3)
    assert trainer.evaluate(X, Y)["loss"] < before


def test_an_optimizer_serves_many_trainers():
    own = gb.SGD(0.1, momentum=0.9)
    one, other = (gb.Trainer(regression(), optimizer=own) for _ in range(2))
    one.step(X, Y)
    one.optimizer.learning_rate = 0.5
    assert own.learning_rate == other.optimizer.learning_rate == 0.1
    assert not own.moments and not other.optimizer.moments["velocity"].any()


def test_a_learning_rate_counts_from_the_next_step_on():
    trainer, net = gb.Trainer(regression(), optimizer=gb.SGD(0.1)), regression()
    for rate in (0.1, 0.1, 0.02, 5.0):
        trainer.optimizer.learning_rate = rate
        trainer.step(X, Y)
        gb.Trainer(net, optimizer=gb.SGD(rate)).step(X, Y)
        np.testing.assert_array_equal(trainer.network.parameters, net.parameters)


def test_parameters_may_be_changed_between_steps():
    trainer, other = (gb.Trainer(regression(), optimizer=gb.SGD(0.1)) for _ in range(2))
    for trained in (trainer, other):
        trained.step(X, Y)
    net = trainer.network
    net.parameters -= 0.25 * net.gradients
    other.network.parameters = other.network.parameters - 0.25 * other.network.gradients
    assert float(trainer.step(X, Y)) == float(other.step(X, Y))
    net.layers[0].weight -= 0.5 * net.layers[0].grad_weight
    other.network.layers[0].weight[...] -= 0.5 * other.network.layers[0].grad_weight
    fit(trainer)
    fit(other)
    assert state(trainer) == state(other)
