"""pickle and copy, and so joblib and multiprocessing: what comes out goes on bit for bit."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from functools import partial

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.errors import SettingError, StateError
from gpu_backprop.data import Preprocessing, read

RNG = np.random.default_rng(2)
X, LABELS, Y = RNG.normal(size=(25, 4)), np.arange(25) % 3, RNG.normal(size=(25, 2))

WAYS = {
    "deepcopy": copy.deepcopy,
    **{f"pickle {k}": lambda it, k=k: pickle.loads(pickle.dumps(it, k)) for k in (2, pickle.HIGHEST_PROTOCOL)},
}
DTYPES = "float32", "float64"


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def again(request):
    return request.param


def classifier(dtype, seed=3, **options):
    layers = [gb.Dense(5, "gelu", init="he_normal"), gb.Dropout(0.3), gb.Bias("elu"), gb.Dense(3, "softmax")]
    return gb.Trainer(gb.Network(4, layers, dtype=dtype, seed=seed), batch_size=7, **options)


def regression(dtype, **options):
    net = gb.Network(4, [gb.Dense(5, "silu", bias=False), gb.Dense(2)], dtype=dtype)
    return gb.Trainer(net, gb.Huber(0.5, reduction="sum"), gb.SGD(0.01, 0.9, nesterov=True), batch_size=7, **options)


MAKERS = {
    "classes": (classifier, LABELS),
    "numbers": (regression, Y),
    "a seed of its own": (partial(classifier, seed=8), LABELS),
    "members": (partial(classifier, seed=[1, 2]), LABELS),
    **{name: (partial(classifier, optimizer=make()), LABELS) for name, make in gb.OPTIMIZERS.items()},
}


def state(trainer):
    arrays = [trainer.network.parameters, trainer.network.random, trainer.optimizer.hyper]
    return [a.tobytes() for a in (*arrays, *trainer.optimizer.moments.values())]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", MAKERS)
def test_a_trainer_goes_on_bit_for_bit(kind, dtype, again):
    make, y = MAKERS[kind]
    trainer = make(dtype)
    trainer.fit(X, y, 2, progress=False)
    trainer.optimizer.learning_rate = 0.0625
    twin = again(trainer)
    assert twin.history.rows == trainer.history.rows
    assert (twin.batch_size, repr(twin.optimizer), twin.loss) == (7, repr(trainer.optimizer), trainer.loss)
    assert state(twin) == state(trainer)
    for each in (trainer, twin):
        each.fit(X, y, 2, progress=False)
        each.step(X[:5], y[:5])
    assert state(twin) == state(trainer)
    assert twin.history["loss"] == trainer.history["loss"]
    np.testing.assert_array_equal(twin.network.predict(X), trainer.network.predict(X))


def test_what_comes_out_is_nobody_elses(again):
    trainer = classifier("float32")
    trainer.fit(X, LABELS, 1, progress=False)
    twin, before = again(trainer), state(trainer)
    twin.fit(X, LABELS, 1, progress=False)
    assert state(trainer) == before and len(trainer.history) == 1


def test_a_network_and_its_trainer_stay_together(again):
    trainer = classifier("float32")
    net, twin = again((trainer.network, trainer))
    assert twin.network is net


def test_a_network_that_was_used(again):
    trainer = classifier("float32")
    net = trainer.network
    net.forward(X, training=True)
    net.backward(np.ones((25, 3)))
    net.classes = ["a", "b", "c"]
    twin = again(net)
    assert repr(twin) == repr(net) and twin.classes == net.classes
    np.testing.assert_array_equal(twin.predict(X), net.predict(X))
    np.testing.assert_array_equal(twin.forward(X, training=True), net.forward(X, training=True))  # the same masks


def test_a_network_with_preprocessing(again, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b,c\n1,x,no\n2,y,yes\n3,x,no\n4,z,yes\n")
    data = read(path)
    net = gb.Network(4, [gb.Dense(2, "softmax")])
    net.preprocessing = Preprocessing.fit(data, "c")
    net.classes = net.preprocessing.classes
    x = net.preprocessing.transform(data)
    twin = again(net)
    np.testing.assert_array_equal(twin.preprocessing.transform(data), x)
    gb.save(tmp_path / "m.safetensors", twin)


PARTS = {
    "layer": lambda: gb.Dense(3, "relu", bias=False, init="lecun_normal"),
    "layer of a network": lambda: classifier("float32").network.layers[0],
    "periodic": lambda: gb.Periodic(3, units=2, penalty_factor=2),
    "frozen layer": lambda: gb.Dense(3, trainable=False, weight_decay_factor={"bias": 0}),
    "dropout": lambda: gb.Dropout(0.25),
    "dropout of members": lambda: gb.Dropout([0.25, 0.5]),
    "loss": lambda: gb.CrossEntropy(label_smoothing=0.1),
    "optimizer": lambda: gb.SGD(0.5, momentum=0.9, nesterov=True),
    "optimizer of a trainer": lambda: classifier("float32").optimizer,
    "initializer": lambda: gb.INITIALIZERS["he_uniform"],
    "constant": lambda: gb.constant(0.5),
    **{f"activation {name}": lambda f=f: f for name, f in gb.ACTIVATIONS.items()},
    **{f"loss {name}": lambda f=f: f for name, f in gb.LOSSES.items()},
}


@pytest.mark.parametrize("make", PARTS.values(), ids=PARTS)
def test_the_parts(make, again):
    made = make()
    twin = again(made)
    assert repr(twin) == repr(made) and type(twin) is type(made)
    if isinstance(made, gb.Dense):
        assert twin.describe() == made.describe() and twin.weight is None  # it is part of no network
        gb.Network(2, [twin])
    if hasattr(made, "settings"):
        gb.Trainer(gb.Network(2, [gb.Dense(1)]), optimizer=twin).step(np.ones((3, 2)), np.ones((3, 1)))
    if isinstance(made, (gb.Dense, gb.Optimizer)):
        with pytest.raises(AttributeError):
            twin.lr = 0.1


def test_a_history(again):
    history = regression("float32").fit(X, Y, 2, progress=False, loss_every=1)
    history.stopped = "as asked"
    twin = again(history)
    assert (twin.rows, twin.steps, twin.stopped) == (history.rows, history.steps, "as asked")


ERRORS = [
    gb.DivergedError("it became NaN", epoch=3, step=2, history=gb.History()),
    gb.OutOfMemoryError("too much", needs={"parameters": 9}, free=3, batch_size=2),
    gb.InputError("wrong"),
    SettingError("no such"),
    StateError("not yet"),
    gb.MissingExtraError("no matplotlib"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_reaches_another_process(error, again):
    """Otherwise a pool of processes hangs."""
    twin = again(error)
    assert type(twin) is type(error) and str(twin) == str(error)
    assert vars(twin).keys() == vars(error).keys()
    assert getattr(twin, "epoch", None) == getattr(error, "epoch", None)


def _predict(net):
    return net.predict(X)


def _fit(trainer):
    trainer.fit(X, LABELS, 1, progress=False)
    return trainer


def test_another_process(monkeypatch):
    """Spawned, as on macOS and Windows."""
    trainer = classifier("float32")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        y = pool.apply(_predict, (trainer.network,))
        fitted = pool.apply(_fit, (trainer,))
    np.testing.assert_array_equal(y, trainer.network.predict(X))
    assert state(fitted) == state(_fit(trainer))
