"""Estimators whose parameters name formulas of one's own, also in a process where nobody registered them."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from own_formulas import LOSS_CLASSES, RULES_OF, TEXTS
from sklearn.base import clone

import gpu_backprop as gb

X = np.random.default_rng(0).normal(size=(40, 3))
Y = np.sin(X.sum(1))


@pytest.fixture(autouse=True)
def registered():
    gb.register_activation("snake", *TEXTS["snake"])
    gb.register_optimizer("own_adam", *RULES_OF["own_adam"])
    for made in LOSS_CLASSES.values():
        texts = made.texts
        gb.register_loss(
            texts.name, texts.expression, texts.derivative, settings=dict(texts.settings), needs=texts.needs,
            low=texts.low, high=texts.high,
        )  # fmt: skip
    warnings.simplefilter("ignore")  # that a few iterations are not enough


OWN = {"activation": "snake", "solver": "own_adam", "max_iter": 4, "random_state": 0}


@pytest.mark.parametrize(
    ("estimator", "y"),
    [
        (gb.MLPClassifier((4,), loss="own_entropy", **OWN), Y > 0),
        (gb.MLPRegressor("own_huber", (4,), **OWN), Y),
        (gb.MLPRegressor("own_poisson", (4,), **OWN), abs(Y)),
        (gb.MLPRegressor(LOSS_CLASSES["own_huber"](delta=2), (4,), **OWN), Y),
    ],
    ids=lambda of: getattr(of, "loss", None) and str(of.loss),
)
def test_they_fit_are_cloned_and_pickled(estimator, y):
    fitted = clone(estimator).fit(X, y)
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.predict(X), fitted.predict(X))
    assert np.array_equal(clone(again).fit(X, y).predict(X), fitted.predict(X))
    assert vars(again).keys() == vars(fitted).keys()


def test_a_search_and_a_table():
    search = gb.PopulationSearchCV(gb.MLPRegressor("own_huber", (4,), **OWN), {"alpha": [1e-4, 1e-2]}, cv=2).fit(X, Y)
    assert len(search.cv_results_["params"]) == 2
    table = gb.TabularRegressor(loss="log_cosh", epochs=2, random_state=0)
    assert np.isfinite(pickle.loads(pickle.dumps(table)).fit(X, Y).predict(X)).all()


def test_names_travel_to_another_process(tmp_path):
    """Before and after it was fitted."""
    estimator = gb.MLPRegressor("own_huber", (4,), **OWN)
    fitted = clone(estimator).fit(X, Y)
    (tmp_path / "both").write_bytes(pickle.dumps([estimator, fitted, X, Y]))
    code = (
        "import pickle, sys, warnings, numpy as np\n"
        "warnings.simplefilter('ignore')\n"
        "estimator, fitted, x, y = pickle.loads(open(sys.argv[1], 'rb').read())\n"
        "assert np.array_equal(estimator.fit(x, y).predict(x), fitted.predict(x))\n"
        "print('same')"
    )
    said = subprocess.run([sys.executable, "-c", code, tmp_path / "both"], capture_output=True, text=True, check=True)
    assert said.stdout == "same\n"


def test_a_name_that_means_something_else_there_is_refused():
    state = pickle.dumps(gb.MLPRegressor("own_huber", (4,), **OWN))
    del gb.ACTIVATIONS["snake"]
    gb.register_activation("snake", "tanh(z)")
    with pytest.raises(gb.InputError, match="the activation 'snake' that this estimator names is another one"):
        pickle.loads(state)


def test_an_unknown_name_is_one_still():
    with pytest.raises(ValueError, match="unknown activation 'snak'. Did you mean 'snake'"):
        gb.MLPRegressor((4,), activation="snak").set_params(loss="squared_error", hidden_layer_sizes=(4,)).fit(X, Y)
    with pytest.raises(ValueError, match="'solver' parameter"):
        gb.MLPRegressor(solver="own_adm").fit(X, Y)
