"""Networks from scikit-learn's fitted MLPs, and back."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor

import gpu_backprop as gb
from gpu_backprop.interop.sklearn import from_mlp, to_mlp

RNG = np.random.default_rng(5)
X = RNG.normal(size=(60, 4))
ACTIVATIONS = "identity", "logistic", "tanh", "relu"
NAMES = np.array(["red", "green", "blue"])


def fitted(kind, y, activation="relu", hidden=(6, 5), x=X, **how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return kind(hidden_layer_sizes=hidden, activation=activation, max_iter=5, random_state=0, **how).fit(x, y)


TARGETS = {
    "three classes": (MLPClassifier, NAMES[RNG.integers(0, 3, 60)], ["blue", "green", "red"]),
    "two classes": (MLPClassifier, RNG.integers(4, 6, 60), [4, 5]),
    "classes that are floats": (MLPClassifier, RNG.integers(3, 6, 60) + 0.0, None),
    "labels": (MLPClassifier, RNG.integers(0, 2, (60, 3)), None),
    "two labels": (MLPClassifier, RNG.integers(0, 2, (60, 2)), None),
    "a number": (MLPRegressor, X[:, 0], None),
    "numbers": (MLPRegressor, X[:, :2], None),
}


def answers(mlp, x=X):
    return mlp.predict_proba(x) if isinstance(mlp, MLPClassifier) else mlp.predict(x)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("kind", "y", "classes"), TARGETS.values(), ids=TARGETS)
def test_there_and_back(kind, y, classes, activation):
    mlp = fitted(kind, y, activation)
    net = from_mlp(mlp)
    assert net.dtype == np.float64
    assert net.classes == classes
    found, expected = net.predict(X), answers(mlp)
    if classes == [4, 5]:
        expected = expected[:, 1]
    np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=1e-12, atol=1e-12)
    if classes:
        np.testing.assert_array_equal(net.predict_labels(X), mlp.predict(X))
    again = to_mlp(net, mlp.classes_ if classes is None and hasattr(mlp, "classes_") and y.ndim == 1 else None)
    assert type(again) is kind
    for name in "coefs_", "intercepts_":
        for one, other in zip(getattr(mlp, name), getattr(again, name), strict=True):
            np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(again.predict(X), mlp.predict(X))
    np.testing.assert_allclose(answers(again), answers(mlp), rtol=1e-12, atol=1e-12)
    assert again.score(X, y) == mlp.score(X, y)


def test_poisson_float32_and_no_hidden_layer():
    mlp = fitted(MLPRegressor, np.abs(X[:, 0]), loss="poisson", hidden=(), x=X.astype(np.float32))
    net = from_mlp(mlp, seed=3)
    assert (net.last.activation.name, net.dtype, net.seed) == ("exp", np.float32, 3)
    np.testing.assert_allclose(net.predict(X).ravel(), mlp.predict(X), rtol=1e-5)
    again = to_mlp(net)
    assert again.loss == "poisson"
    assert again.predict(X.astype(np.float32)).dtype == np.float32
    np.testing.assert_allclose(again.predict(X), mlp.predict(X), rtol=1e-6)


@pytest.mark.parametrize(
    ("layers", "classes"),
    [
        ([gb.Dense(3, "softmax")], ["c", "a", "b"]),
        ([gb.Dense(5, "tanh"), gb.Dropout(0.5), gb.Dense(2, "softmax", bias=False)], [7, 3]),
        ([gb.Dense(1, "sigmoid")], ["yes", "no"]),
        ([gb.Dense(1, "sigmoid")], ["no", "yes"]),
        ([gb.Dense(3, "softmax")], None),
    ],
)
def test_classes_in_another_order_are_sorted(layers, classes):
    net = gb.Network(4, layers, dtype="float64", seed=1)
    mlp = to_mlp(net, classes)
    names = np.arange(3) if classes is None else np.array(classes)
    assert mlp.classes_.tolist() == sorted(names.tolist())
    y = net.predict(X)
    y = np.hstack([1 - y, y]) if net.outputs == 1 else y
    np.testing.assert_allclose(mlp.predict_proba(X), y[:, np.argsort(names)], rtol=1e-12, atol=1e-12)
    net.classes = names.tolist()
    np.testing.assert_array_equal(mlp.predict(X), net.predict_labels(X))
    assert to_mlp(net).classes_.tolist() == mlp.classes_.tolist()


def test_it_learns_on_from_there():
    net = gb.Network(4, [gb.Dense(8, "relu"), gb.Dense(3, "softmax")], dtype="float64")
    y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)
    mlp = to_mlp(net)
    assert (mlp.t_, mlp.loss_curve_) == (0, [])
    for _ in range(30):
        mlp.partial_fit(X, y)
    assert mlp.loss_curve_[-1] < mlp.loss_curve_[0]
    np.testing.assert_array_equal(net.parameters, gb.Network(4, net.layers, dtype="float64").parameters)


@pytest.mark.parametrize(
    ("layers", "classes", "said"),
    [
        ([gb.Bias("tanh"), gb.Dense(2)], None, r"has Dense layers alone, and layer 1 is Bias\('tanh'\)\.$"),
        ([gb.Dropout(0.5)], None, r"has Dense layers alone, and layer 1 is Dropout\(0\.5\)\.$"),
        ([gb.Dense(3, "gelu"), gb.Dense(2)], None, r"one activation in all .*, and those of the network have gelu\.$"),
        ([gb.Dense(3, "tanh"), gb.Dense(3, "relu"), gb.Dense(2)], None, r"network have tanh, relu\.$"),
        ([gb.Dense(2, "tanh")], None, r"ends in softmax, sigmoid, identity or exp, and the network in tanh\.$"),
        ([gb.Dense(2)], ["a", "b"], r"^classes are for a network that ends in softmax or sigmoid, .* in identity\.$"),
        ([gb.Dense(2, "sigmoid")], ["a", "b"], r"^classes are for one class a row, and each output .* yes or no"),
        ([gb.Dense(3, "softmax")], ["a", "b"], r"^classes must be 3 different labels, .*, got \['a', 'b'\]\.$"),
        ([gb.Dense(1, "sigmoid")], ["a", "a"], r"^classes must be 2 different labels"),
        ([gb.Dense(1, "softmax")], None, r"^softmax of one output is always 1"),
    ],
)  # fmt: skip
def test_what_scikit_learn_has_not(layers, classes, said):
    with pytest.raises(gb.InputError, match=said):
        to_mlp(gb.Network(4, layers), classes)


def test_what_is_no_fitted_mlp():
    with pytest.raises(gb.InputError, match=r"^MLPClassifier is not fitted yet: call its fit first\.$"):
        from_mlp(MLPClassifier())
    ours = fitted(gb.MLPRegressor, X[:, 0])
    with pytest.raises(
        gb.InputError, match=r"got MLPRegressor: its network is there already, as its attribute network_"
    ):
        from_mlp(ours)
    with pytest.raises(gb.InputError, match=r"got int\.$"):
        from_mlp(1)
    mlp = fitted(MLPRegressor, X[:, 0])
    mlp.coefs_[1][2, 3] = np.nan
    with pytest.raises(gb.InputError, match=r"NaN or infinite in the weight of layer 2, the first .* row 2, column 3"):
        from_mlp(mlp)
    with pytest.raises(gb.InputError, match="members side by side"):
        to_mlp(gb.Network(4, [gb.Dense(2)], seed=[0, 1]))
