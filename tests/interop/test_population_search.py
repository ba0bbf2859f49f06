"""PopulationSearchCV and cross_validate find what scikit-learn's search and cross-validation of the same estimators
find."""

from __future__ import annotations

import pickle
from itertools import product

import numpy as np
import pytest
import sklearn
from scipy import sparse, stats
from sklearn import model_selection
from sklearn.base import clone, is_classifier
from sklearn.decomposition import PCA
from sklearn.ensemble import BaggingClassifier
from sklearn.exceptions import FitFailedWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, RandomizedSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import gpu_backprop as gb
from gpu_backprop import MLPClassifier, MLPRegressor, PopulationSearchCV, cross_validate
from gpu_backprop.interop.estimators import together

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 5))
Z = X @ RNG.normal(size=(5, 3))
WORDS = np.array(["red", "green", "blue"])[(Z + RNG.normal(size=(90, 3))).argmax(axis=1)]
YES = Z[:, 0] + RNG.normal(size=90) > 0
NUMBER = Z[:, 0] + RNG.normal(size=90)
LABELS = (Z + RNG.normal(size=(90, 3)) > 0).astype(int)
WEIGHTS = RNG.uniform(0.5, 2.0, 90)


def classifier(**settings):
    own = {"hidden_layer_sizes": (7, 6), "max_iter": 6, "random_state": 3, "batch_size": 16, "learning_rate_init": 0.01}
    return MLPClassifier(**own | settings)


def regressor(**settings):
    own = {"hidden_layer_sizes": (7, 6), "max_iter": 6, "random_state": 3, "batch_size": 16, "learning_rate_init": 0.01}
    return MLPRegressor(**own | settings)


@pytest.fixture
def populations(monkeypatch):
    """How many members each population has that is trained."""
    sizes = []

    class Counted(together.Population):
        def fit(self, *args, **kwargs):
            sizes.append(len(self))
            return super().fit(*args, **kwargs)

    monkeypatch.setattr(together, "Population", Counted)
    return sizes


def assert_same(found, expected):
    """All of cv_results_ but the times, and what follows from it."""
    assert found.cv_results_.keys() == expected.cv_results_.keys()
    for name, values in expected.cv_results_.items():
        if name.endswith(("_test_score", "_train_score")) or "_test_" in name:
            np.testing.assert_allclose(found.cv_results_[name], values, rtol=1e-9, err_msg=name)
        elif "time" not in name:
            np.testing.assert_array_equal(found.cv_results_[name], values, err_msg=name)
    assert (found.best_index_, found.best_params_, found.n_splits_) == (
        expected.best_index_, expected.best_params_, expected.n_splits_,
    )  # fmt: skip
    np.testing.assert_array_equal(found.predict(X), expected.predict(X))


CASES = {
    "rates, penalties, shapes": (
        classifier(), WORDS,
        {"alpha": [0.0, 1.0], "learning_rate_init": [0.001, 0.03], "hidden_layer_sizes": [(7,), (5, 4)]}, [12, 12],
    ),
    "early stopping": (
        classifier(early_stopping=True, n_iter_no_change=2, max_iter=40, validation_fraction=0.2), WORDS,
        {"learning_rate_init": [0.3, 0.03, 0.003], "tol": [1e-4, 0.05], "n_iter_no_change": [1, 3]}, [36],
    ),
    "sgd and its rates": (
        classifier(solver="sgd", max_iter=30, tol=0.01, n_iter_no_change=1), YES,
        {"learning_rate": ["constant", "invscaling", "adaptive"], "learning_rate_init": [0.1, 0.5], "power_t": [0.3]},
        [18],
    ),
    "iterations, moments, seeds": (
        classifier(), YES,
        {"max_iter": [3, 7], "beta_1": [0.9, 0.5], "epsilon": [1e-8, 1e-3], "random_state": [0, 1]}, [48],
    ),
    "several labels": (classifier(), LABELS, {"activation": ["tanh", "relu"], "alpha": [0.1, 10.0]}, [6, 6]),
    "dropout, clipping": (
        classifier(max_iter=4), WORDS,
        {"dropout": [0.1, [0.5, 0.2]], "clip_norm": [None, 0.1], "clip_value": [0.01, 1.0]}, [24],
    ),
    "weights of classes": (classifier(), WORDS, {"class_weight": [None, "balanced", {"red": 5.0}]}, [9]),
    "schedules": (
        classifier(), WORDS, {"learning_rate": ["cosine", "linear", "constant"], "max_iter": [4, 6]}, [6, 6, 6],
    ),
    "numbers": (
        regressor(early_stopping=True, n_iter_no_change=2, max_iter=20), NUMBER,
        {"alpha": [0.0, 1.0], "loss": ["squared_error", "huber"], "shuffle": [True, False]}, [6, 6, 6, 6],
    ),
    "batches of all rows": (regressor(batch_size="auto", shuffle=False), NUMBER, {"alpha": [0.0, 1.0, 10.0]}, [9]),
}  # fmt: skip


THREE = KFold(3, shuffle=True, random_state=1)
RATES = {"learning_rate_init": [0.001, 0.01, 0.1], "alpha": [0.0, 1.0, 10.0]}


@pytest.mark.parametrize("case", CASES)
def test_a_search_finds_what_grid_search_finds(case, populations):
    estimator, y, grid, sizes = CASES[case]
    found = PopulationSearchCV(estimator, grid, cv=THREE, return_train_score=True).fit(X, y)
    assert sorted(populations) == sizes
    assert_same(found, GridSearchCV(estimator, grid, cv=THREE, return_train_score=True).fit(X, y))


def test_folds_of_different_sizes(populations):
    for batch, settings, sizes in (
        ("auto", {}, [8]),  # all rows
        (20, {}, [8]),  # a last minibatch of fewer rows
        (65, {}, [6, 2]),  # of which there are two where there is one row more
        (30, {"early_stopping": True}, [8]),
        (13, {"learning_rate": "cosine"}, [6, 2]),  # which goes by minibatches, 5 and 6
    ):
        grid, cv = {"alpha": [0.1, 10.0]}, KFold(4)
        estimator = classifier(batch_size=batch, max_iter=3, **settings)
        found = PopulationSearchCV(estimator, grid, cv=cv).fit(X[:87], WORDS[:87])
        assert sorted(populations) == sorted(sizes)
        populations.clear()
        assert_same(found, GridSearchCV(estimator, grid, cv=cv).fit(X[:87], WORDS[:87]))


def test_sample_weights_and_groups(populations):
    groups, early = np.arange(90) % 5, {"early_stopping": [True]}
    weights = {"class_weight": [None, {"red": 3.0}]}
    for grid, given, sizes in (
        ({"alpha": [0.1, 10.0]}, WEIGHTS, [10]),
        (weights, WEIGHTS, [10]),
        (weights | early, None, [10]),
        ({"alpha": [0.1, 10.0]} | early, WEIGHTS, [10]),
        (weights | early, WEIGHTS, []),  # a row learned from, and one measured, count differently
        (weights, np.where(np.arange(90) % 7, 1.0, 0.0), []),  # a row that does not count is one of its minibatch
    ):
        both = [
            kind(classifier(), grid, cv=GroupKFold(5)).fit(X, WORDS, sample_weight=given, groups=groups)
            for kind in (PopulationSearchCV, GridSearchCV)
        ]
        assert_same(*both)
        assert populations == sizes
        populations.clear()


def test_pipelines_train_together_fold_by_fold(populations):
    pipeline = make_pipeline(StandardScaler(), PCA(4), classifier(early_stopping=True))
    grid = {"mlpclassifier__alpha": [0.1, 10.0], "pca__n_components": [3, 4]}
    found, expected = (kind(pipeline, grid, cv=THREE).fit(X, WORDS) for kind in (PopulationSearchCV, GridSearchCV))
    assert populations == [2] * 6
    assert_same(found, expected)


def test_a_step_that_cannot_be_fitted_has_no_score_and_troubles_no_other(populations):
    pipeline = make_pipeline(PCA(), classifier())
    grid = {"pca__n_components": [99, 2], "mlpclassifier__alpha": [0.1, 10.0]}
    searches = []
    for kind in (PopulationSearchCV, GridSearchCV):
        with pytest.warns((FitFailedWarning, UserWarning), match="6 fits failed|non-finite"):
            searches.append(kind(pipeline, grid, cv=THREE).fit(X, WORDS))
    assert populations == [2] * 3
    assert_same(*searches)


@pytest.mark.parametrize("other", [GaussianNB(), BaggingClassifier(classifier(), n_estimators=2, random_state=0)])
def test_fits_of_other_estimators_and_within_them_take_nothing_of_what_trains_together(other, populations):
    pipeline = Pipeline([("scaler", StandardScaler()), ("last", classifier())])
    grid = {"last": [other, *(classifier(alpha=alpha) for alpha in (0.1, 10.0, 100.0)), other]}
    found, expected = (kind(pipeline, grid, cv=THREE).fit(X, WORDS) for kind in (PopulationSearchCV, GridSearchCV))
    assert populations == [3] * 3
    for name in ("split0_test_score", "split1_test_score", "split2_test_score"):
        np.testing.assert_array_equal(found.cv_results_[name], expected.cv_results_[name])


def test_what_learned_from_something_else_trains_again(populations):
    calls = []

    def change(x):
        calls.append(x)
        return x if 1 < len(calls) <= 7 else 2 * x  # x where all are prepared, within the first fit

    pipeline, grid = make_pipeline(FunctionTransformer(change), classifier()), {"alpha": [0.1, 10.0]}
    found = PopulationSearchCV(pipeline, {"mlpclassifier__alpha": grid["alpha"]}, cv=THREE, refit=False).fit(X, WORDS)
    assert populations == [2] * 3
    expected = GridSearchCV(classifier(), grid, cv=THREE).fit(2 * X, WORDS)
    np.testing.assert_array_equal(found.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"])


def test_metadata_is_routed(populations):
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = classifier().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        both = [
            kind(estimator, {"alpha": [0.1, 10.0]}, cv=THREE).fit(X, WORDS, sample_weight=WEIGHTS)
            for kind in (PopulationSearchCV, GridSearchCV)
        ]
    assert populations == [6]
    assert_same(*both)


def test_several_scores_and_what_is_refitted():
    for how in (
        {"scoring": ["accuracy", "neg_log_loss"], "refit": "neg_log_loss"},
        {"scoring": lambda mlp, X, y: {"right": mlp.score(X, y), "iterations": mlp.n_iter_}, "refit": "right"},
        {"scoring": "f1_macro", "refit": lambda results: 1},
    ):
        both = [kind(classifier(), RATES, cv=THREE, **how).fit(X, WORDS) for kind in (PopulationSearchCV, GridSearchCV)]
        assert_same(*both)
        assert both[0].multimetric_ == both[1].multimetric_ and both[0].score(X, WORDS) == both[1].score(X, WORDS)
    without = PopulationSearchCV(classifier(), RATES, cv=THREE, refit=False).fit(X, WORDS)
    assert without.best_params_ == GridSearchCV(classifier(), RATES, cv=THREE).fit(X, WORDS).best_params_
    with pytest.raises(AttributeError, match="predict"):
        without.predict(X)


OTHERS = {
    "another library's": (LogisticRegression(), X, {"C": [0.1, 10.0]}),
    "lbfgs": (classifier(solver="lbfgs"), X, {"alpha": [0.1, 10.0]}),
    "callbacks": (classifier(callbacks=[lambda state: None]), X, {"alpha": [0.1, 10.0]}),
    "sparse": (classifier(), sparse.csr_array(X), {"alpha": [0.1, 10.0]}),
    "a warm start": (classifier(warm_start=True), X, {"alpha": [0.1, 10.0]}),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_cannot_train_together_trains_alone(case, populations):
    estimator, x, grid = OTHERS[case]
    found, expected = (kind(estimator, grid, cv=THREE).fit(x, WORDS) for kind in (PopulationSearchCV, GridSearchCV))
    assert populations == []
    np.testing.assert_array_equal(found.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"])
    np.testing.assert_array_equal(found.predict(x), expected.predict(x))


def test_many_parameters_train_in_several_populations(populations, monkeypatch):
    monkeypatch.setattr(together, "MOST_PARAMETERS", 5 * regressor().fit(X, NUMBER).network_.parameters.size)
    found = PopulationSearchCV(regressor(), {"alpha": [0.0, 1.0, 10.0, 100.0]}, cv=THREE).fit(X, NUMBER)
    assert populations == [5, 5, 2]
    assert_same(found, GridSearchCV(regressor(), {"alpha": [0.0, 1.0, 10.0, 100.0]}, cv=THREE).fit(X, NUMBER))


def test_one_that_diverges_has_no_score_and_troubles_no_other(populations):
    grid = {"learning_rate_init": [0.01, 1e200, 0.02], "early_stopping": [False, True]}
    estimator = regressor(solver="sgd", max_iter=8)
    searches = []
    for kind in (PopulationSearchCV, GridSearchCV):
        with pytest.warns((FitFailedWarning, UserWarning)) as caught:
            searches.append(kind(estimator, grid, cv=THREE).fit(X, NUMBER))
        (failed,) = (one for one in caught if one.category is FitFailedWarning)
        assert "3 fits failed out of a total of 18" in str(failed.message) and "non-finite" in str(failed.message)
    assert populations == [9, 9]
    assert np.isnan(searches[0].cv_results_["mean_test_score"]).tolist() == [False, True, False, False, False, False]
    assert_same(*searches)
    with pytest.raises(ValueError, match="non-finite parameter weights.*Lower the learning rate"):
        PopulationSearchCV(estimator, grid, cv=THREE, error_score="raise").fit(X, NUMBER)
    with pytest.raises(ValueError, match="All the 6 fits failed"):
        PopulationSearchCV(estimator, {"learning_rate_init": [1e200, 1e250]}, cv=THREE).fit(X, NUMBER)


# Strategies -----------------------------------------------------------------------------------------------------------


def test_random_candidates_are_those_of_randomized_search():
    space = {"alpha": stats.loguniform(1e-4, 10), "learning_rate_init": [0.001, 0.01, 0.1]}
    found = PopulationSearchCV(classifier(), space, strategy="random", n_iter=4, random_state=5, cv=THREE).fit(X, WORDS)
    assert_same(found, RandomizedSearchCV(classifier(), space, n_iter=4, random_state=5, cv=THREE).fit(X, WORDS))


def test_our_distributions_are_drawn_from():
    space = {"alpha": gb.LogUniform(0.01, 1)}
    search = PopulationSearchCV(classifier(), space, strategy="random", random_state=0, cv=2).fit(X, WORDS)
    drawn = [one["alpha"] for one in search.cv_results_["params"]]
    assert len({*drawn}) == 10 and 0.01 <= min(drawn) < 0.1 < max(drawn) <= 1


def test_sobol_candidates_fill_the_space():
    space = {"alpha": stats.uniform(0, 1), "max_iter": stats.randint(1, 5), "activation": ["relu", "tanh"]}
    search = PopulationSearchCV(classifier(), space, strategy="sobol", n_iter=8, random_state=0, cv=2)
    drawn = search.fit(X, WORDS).cv_results_["params"]
    assert sorted(int(8 * one["alpha"]) for one in drawn) == [*range(8)]
    assert [*np.bincount([one["max_iter"] for one in drawn])] == [0, 2, 2, 2, 2]
    assert [one["activation"] for one in drawn].count("tanh") == 4
    assert search.fit(X, WORDS).cv_results_["params"] == drawn
    assert search.set_params(random_state=1).fit(X, WORDS).cv_results_["params"] != drawn
    assert len(search.set_params(n_iter=3).fit(X, WORDS).cv_results_["params"]) == 3


def test_halving_gives_the_best_third_three_times_as_many_iterations(populations):
    search = PopulationSearchCV(classifier(max_iter=19), RATES, strategy="halving", cv=THREE).fit(X, WORDS)
    results = search.cv_results_
    assert populations == [27, 9, 3]
    assert results["iter"].tolist() == [0] * 9 + [1] * 3 + [2]
    assert results["n_resources"].tolist() == [2] * 9 + [6] * 3 + [19]
    assert search.best_index_ == 12 and search.best_params_ == results["params"][12]
    for rung, iterations in enumerate([2, 6, 19]):
        there = [one for one, at in zip(results["params"], results["iter"], strict=True) if at == rung]
        scores = results["mean_test_score"][results["iter"] == rung]
        alone = GridSearchCV(classifier(), [{k: [v] for k, v in one.items()} for one in there], cv=THREE).fit(X, WORDS)
        np.testing.assert_allclose(scores, alone.cv_results_["mean_test_score"])
        assert {one["max_iter"] for one in there} == {iterations}
        if rung < 2:
            kept = [one | {"max_iter": iterations} for one in np.array(results["params"])[results["iter"] == rung + 1]]
            assert min(scores[there.index(one)] for one in kept) >= np.sort(scores)[-len(kept)]


def test_halving_draws_candidates_where_their_number_is_given():
    search = PopulationSearchCV(classifier(), RATES, strategy="halving", n_iter=4, random_state=0, cv=THREE)
    assert search.fit(X, WORDS).cv_results_["iter"].tolist() == [0, 0, 0, 0, 1, 1]


# Cross-validation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimator", "y"),
    [
        (classifier(early_stopping=True, max_iter=30, n_iter_no_change=2, learning_rate_init=0.1), WORDS),
        (regressor(solver="sgd", learning_rate="adaptive", tol=0.1, n_iter_no_change=1, max_iter=25), NUMBER),
    ],
)
def test_estimators_are_what_they_are_alone(estimator, y, populations):
    seeds = [4, 0]
    found = cross_validate(estimator, X, y, cv=THREE, seeds=seeds, return_estimator=True, return_train_score=True)
    assert populations == [6]
    assert found["seed"].tolist() == [4, 4, 4, 0, 0, 0] and found["fold"].tolist() == [0, 1, 2] * 2
    for at, (seed, (train, test)) in enumerate(product(seeds, THREE.split(X))):
        one, alone = found["estimator"][at], clone(estimator).set_params(random_state=seed).fit(X[train], y[train])
        assert found["test_score"][at] == pytest.approx(alone.score(X[test], y[test]))
        assert found["train_score"][at] == pytest.approx(alone.score(X[train], y[train]))
        assert (one.n_iter_, one.t_, one.stopped_, one.n_layers_) == (
            alone.n_iter_, alone.t_, alone.stopped_, alone.n_layers_,
        )  # fmt: skip
        for name in ("loss_curve_", "validation_scores_", "validation_loss_curve_", "best_loss_", "loss_"):
            np.testing.assert_allclose(
                np.array(getattr(one, name, None), float), np.array(getattr(alone, name, None), float), err_msg=name
            )
        np.testing.assert_allclose(one.history_["loss"], alone.history_["loss"])
        for mine, theirs in zip(one.coefs_ + one.intercepts_, alone.coefs_ + alone.intercepts_, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-7, atol=1e-10)


def test_without_seeds_it_is_scikit_learns():
    how = {"cv": THREE, "scoring": ["r2", "neg_median_absolute_error"]}
    found, expected = (f(regressor(), X, NUMBER, **how) for f in (cross_validate, model_selection.cross_validate))
    assert found.keys() - {"seed", "fold"} == expected.keys() and set(found["seed"]) == {None}
    for name in ("test_r2", "test_neg_median_absolute_error"):
        np.testing.assert_allclose(found[name], expected[name])


def test_seeds_reach_the_last_step_of_a_pipeline():
    pipeline = make_pipeline(StandardScaler(), regressor())
    scores = cross_validate(pipeline, X, NUMBER, cv=THREE, seeds=2)["test_score"]
    pipeline.set_params(mlpregressor__random_state=1)
    np.testing.assert_allclose(scores[3:], model_selection.cross_val_score(pipeline, X, NUMBER, cv=THREE))


# What it is, and errors -----------------------------------------------------------------------------------------------


def test_it_is_a_search_as_scikit_learns_are():
    search = PopulationSearchCV(classifier(), RATES, cv=THREE)
    with pytest.raises(NotFittedError):
        search.predict(X)
    again = clone(search).set_params(estimator__max_iter=2)
    assert again.estimator.max_iter == 2 and is_classifier(again)
    search.fit(X, WORDS)
    assert search.n_features_in_ == 5 and [*search.classes_] == ["blue", "green", "red"] and search.refit_time_ > 0
    assert (search.cv_results_["mean_fit_time"] > 0).all()
    loaded = pickle.loads(pickle.dumps(search))
    np.testing.assert_array_equal(loaded.predict_proba(X), search.predict_proba(X))
    assert not [name for name, value in vars(search).items() if value is X or value is WORDS or name == "_given"]


@pytest.mark.parametrize("seeds", [0, -1, [], 1.5])
def test_seeds_that_are_none_are_told(seeds):
    with pytest.raises(ValueError, match="seeds must be an integer ≥ 1"):
        cross_validate(classifier(), X, WORDS, seeds=seeds)


def test_weights_of_other_rows_are_told():
    search = PopulationSearchCV(classifier(), RATES, cv=THREE, error_score="raise")
    with pytest.raises(ValueError, match="sample_weight"):
        search.fit(X, WORDS, sample_weight=np.ones(5))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"param_grid": {"alpah": [1.0]}}, "Invalid parameter 'alpah'"),
        ({"param_grid": {"alpha": []}}, "alpha"),
        ({"strategy": "bayes"}, "strategy"),
        ({"n_iter": 4}, "n_iter=4 is for drawn candidates"),
        ({"n_iter": 0, "strategy": "random"}, "n_iter"),
        ({"strategy": "sobol", "param_grid": [RATES, RATES]}, "must be a dict"),
        ({"strategy": "halving", "param_grid": {"max_iter": [1, 2]}}, "sets max_iter"),
        ({"strategy": "halving", "estimator": GaussianNB(), "param_grid": {"var_smoothing": [1.0]}}, "must have"),
        ({"strategy": "halving", "scoring": ["accuracy", "f1_macro"], "refit": False}, "one score"),
        ({"cv": 100}, "n_splits=100"),
    ],
)
def test_what_cannot_be_is_told(settings, match):
    search = PopulationSearchCV(**{"estimator": classifier(), "param_grid": RATES, "cv": THREE} | settings)
    with pytest.raises(ValueError, match=match):
        search.fit(X, WORDS)
