"""L-BFGS on all rows at once: against minima that are known, and what it leaves behind however it ends."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.network.losses import loss as loss_of
from gpu_backprop.network.samples import samples
from gpu_backprop.training.evaluation import Evaluation
from gpu_backprop.training.full_batch import FullBatch

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(40, 3))
Y = np.sin(X[:, :1]) + 0.1 * RANDOM.normal(size=(40, 1))
WEIGHTS = RANDOM.integers(0, 4, 40).astype(float)


@pytest.fixture(autouse=True)
def _scipy():
    pytest.importorskip("scipy", reason="scipy is not installed")


def network(*layers, dtype="float64", **settings):
    return gb.Network(3, layers or [gb.Dense(6, "tanh"), gb.Dense(1)], dtype=dtype, device="cpu", **settings)


def fit(net, x=X, y=Y, loss=None, **settings):
    return gb.fit_lbfgs(net, x, y, loss, **{"progress": False, **settings})


# Minima that are known ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-4), ("float32", 1e-3)])
@pytest.mark.parametrize("batch_size", [7, 1000])
def test_ridge_regression(batch_size, dtype, tolerance):
    """½(w·x + b − y)² in the mean, and ½·l2·w², of b none: (XᵀX/n + l2)w = Xᵀy/n of centred data."""
    net = network(gb.Dense(1), dtype=dtype)
    history = fit(net, l2=0.1, batch_size=batch_size)
    x, y = X - X.mean(0), Y - Y.mean()
    w = np.linalg.solve(x.T @ x / 40 + 0.1 * np.eye(3), x.T @ y / 40)
    np.testing.assert_allclose(net.layers[0].weight, w, atol=tolerance)
    np.testing.assert_allclose(net.layers[0].bias, Y.mean() - X.mean(0) @ w[:, 0], atol=tolerance)
    assert history.stopped == f"converged after {len(history)} iterations"
    assert history[-1]["loss"] == pytest.approx(np.mean((net.predict(X) - Y) ** 2) / 2, rel=1e-5)  # without the penalty


def test_logistic_regression():
    """LogisticRegression(C=1/(0.05·30), tol=1e-12, max_iter=10000) of scikit-learn 1.9."""
    i = np.arange(30)
    x, y = np.stack([np.sin(i), np.cos(2 * i), (i % 7) / 3 - 1], 1), (i * i + 3 * i // 4) % 3
    net = network(gb.Dense(3, "softmax"))
    fit(net, x, y, l2=0.05)
    w = [
        [-0.4042311544618272, -0.26045494141023157, 0.6646860958720587],
        [0.025313292588042234, -0.04772904704747449, 0.02241575445943225],
        [-0.31985876019444, 0.28612712498339243, 0.03373163521104742],
    ]
    np.testing.assert_allclose(net.layers[0].weight, w, atol=1e-4)
    bias = [-0.06447010196424596, 0.3491467748744305, -0.2846766729101842]
    np.testing.assert_allclose(net.layers[0].bias, bias, atol=1e-4)


# The objective --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["", "weights"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_gradient_of_all_rows(reduction, weights):
    """Against differences; the first layer is frozen, and the biases of the last are penalized too."""
    layers = [
        gb.Dense(4, "tanh", trainable=False),
        gb.Dense(4, "tanh", learning_rate_factor={"bias": 0}),
        gb.Dense(1, penalty_factor={"weight": 0.5, "bias": 2}),
    ]
    net = network(*layers)
    loss = loss_of(gb.HalfSquaredError(reduction=reduction), net.last)
    objective = FullBatch(net, loss, samples(net, loss, X, Y, weights, values=True, idle=False), 7, 0.3)
    at = net.parameters + np.random.default_rng(1).normal(size=net.parameters.shape) * (net.parameters != 0)
    value, gradient = objective(at)
    w = np.ones(40) if weights is None else weights
    error = w @ (0.5 * (net.predict(X) - Y) ** 2).sum(1) / (w.sum() if reduction == "mean" else 1)
    _, second, last = net.layers
    penalty = (second.weight**2).sum() + 0.5 * (last.weight**2).sum() + 2 * (last.bias**2).sum()
    assert value == pytest.approx(error + 0.15 * penalty, rel=1e-12)
    moving = 0
    for layer, name, shape, start in net.places:
        for k in range(start, start + int(np.prod(shape))):
            if layer.number == 1 or (layer.number, name) == (2, "bias"):
                assert gradient[k] == 0
                continue
            step = np.zeros(len(at))
            step[k], moving = 1e-6, moving + 1
            difference = (objective(at + step)[0] - objective(at - step)[0]) / 2e-6
            assert gradient[k] == pytest.approx(difference, rel=1e-5, abs=1e-7)
    assert moving == 4 * 4 + 4 + 1


def test_rows_that_count_twice_are_there_twice():
    often = np.repeat(np.arange(40), WEIGHTS.astype(int))
    weighted, repeated = network(), network()
    fit(weighted, weights=WEIGHTS, iterations=5)
    fit(repeated, X[often], Y[often], iterations=5)
    np.testing.assert_allclose(weighted.parameters, repeated.parameters, rtol=1e-7, atol=1e-10)


# What it leaves behind ------------------------------------------------------------------------------------------------


def test_a_row_for_each_iteration(tmp_path):
    net, labels = network(gb.Dense(5, "tanh"), gb.Dense(3, "softmax")), np.arange(40) % 3
    history = fit(net, X, labels, iterations=4, validation=(X, labels), csv=tmp_path / "log.csv")
    assert history["epoch"] == [1, 2, 3, 4] and history.stopped is None
    assert history["loss"] == sorted(history["loss"], reverse=True)
    assert history[-1]["loss"] == pytest.approx(history[-1]["val_loss"], rel=1e-12)
    assert history[-1]["accuracy"] == history[-1]["val_accuracy"] == np.mean(net.predict(X).argmax(1) == labels)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 5
    gb.save(tmp_path / "net", net)
    told = gb.load(tmp_path / "net").trained_by
    assert told["optimizer"] == {"name": "lbfgs", "l2": 0.0, "tolerance": 1e-5, "memory": 10} and told["epochs"] == 4
    assert told["loss"]["name"] == "cross_entropy"


def test_metrics_of_validation_data():
    def largest(y_true, y_pred):
        return float(y_pred.max())

    net = gb.Network(X.shape[1], [gb.Dense(3, "softmax")], dtype="float64")
    labels = np.arange(len(X)) % 3
    history = gb.fit_lbfgs(
        net, X, labels, validation=(X, labels), iterations=2, metrics=[largest, "f1_macro"], progress=False
    )
    assert history[-1]["val_largest"] == net.predict(X).max()
    assert 0 < history[-1]["val_f1_macro"] < 1 and "val_accuracy" not in history[-1]


def test_ctrl_c_keeps_the_last_iteration(monkeypatch):
    net, twin, measure = network(), network(), Evaluation.run
    runs = []

    def interrupted(self):
        runs.append(1)
        if len(runs) == 3:
            raise KeyboardInterrupt
        return measure(self)

    fit(twin, iterations=3)
    monkeypatch.setattr(Evaluation, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(net, validation=(X, Y))
    np.testing.assert_array_equal(net.parameters, twin.parameters)


def test_patience_keeps_the_best_iteration():
    """Of a network that learns noise by heart, measured on other rows."""
    random = np.random.default_rng(2)
    x, y = random.normal(size=(30, 3)), random.normal(size=(30, 1))
    layers, other = [gb.Dense(20, "tanh"), gb.Dense(1)], (x[15:], y[15:])
    net, whole = network(*layers), network(*layers)
    history = fit(net, x[:15], y[:15], validation=other, patience=3)
    last, losses = len(history), history["val_loss"]
    assert history.best_epoch == last - 3 == 1 + int(np.argmin(losses))
    assert history.stopped == f"val_loss has not improved since epoch {last - 3}"
    assert gb.Trainer(net).evaluate(*other)["loss"] == pytest.approx(min(losses), rel=1e-12)
    longer = fit(whole, x[:15], y[:15], validation=other, patience=1000, iterations=last + 5)
    assert longer["val_loss"][:last] == losses and len(longer) == last + 5 and longer.stopped is None
    assert gb.Trainer(whole).evaluate(*other)["loss"] == pytest.approx(min(longer["val_loss"]), rel=1e-12)


@pytest.mark.filterwarnings("ignore:y is not scaled")
def test_a_loss_that_is_not_finite():
    net = network()
    before = net.parameters.copy()
    with pytest.raises(gb.DivergedError, match="NaN or infinite in iteration 1[.] The parameters are those of the beg"):
        fit(net, X, np.full((40, 1), 1e200))
    np.testing.assert_array_equal(net.parameters, before)


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (lambda: network(seed=[0, 1]), {}, "this one has members: train each by itself"),
        (lambda: network(gb.Dropout(0.5), gb.Dense(1)), {}, r"cannot train layer 1, Dropout\(0.5\): it draws anew"),
        (lambda: network(gb.Dense(1, max_norm=1.0)), {}, "layer 1, .*: it has a max_norm"),
        (lambda: network(gb.Dense(1, trainable=False)), {}, "no layer is trainable"),
        (network, {"iterations": 0}, "iterations must be an integer ≥ 1"),
        (network, {"patience": 3}, "there are none: give validation"),
        (network, {"l2": -1}, "l2 must be a finite number ≥ 0, got -1"),
        (network, {"x": X[:3]}, "y must have one target for each row of x"),
        (lambda: "net", {}, "network must be a gpu_backprop.Network, got str"),
    ],
)
def test_what_is_refused(make, settings, message):
    with pytest.raises(gb.InputError, match=message):
        fit(make(), **settings)


def test_a_dropout_of_0_draws_nothing():
    fit(network(gb.Dropout(0), gb.Dense(1)), iterations=1)


def test_without_scipy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(gb.MissingExtraError, match=r"L-BFGS needs scipy: .*\[lbfgs\]"):
        fit(network())


def test_columns_that_nobody_has_scaled():
    with pytest.warns(RuntimeWarning, match="x is not scaled") as caught:
        gb.fit_lbfgs(network(), X * 1e6, Y, iterations=1, progress=False)
    assert caught[0].filename == __file__


def test_rows_that_need_not_fit_in_memory_are_for_steps():
    with pytest.raises(gb.InputError, match="takes arrays"):
        fit(network(), gb.open_rows(X, Y), None)
