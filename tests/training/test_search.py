"""A search finds what a plain loop of solo runs finds, and halving, drawing and grouping do what they say."""

import csv
from itertools import product

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.training.search_space import list_candidates

RNG = np.random.default_rng(5)
X = RNG.normal(size=(60, 3))
Y = (X[:, 0] * X[:, 1] + 0.3 * X[:, 2] > 0).astype(int)
REST = RNG.normal(size=(40, 3))
VALIDATION = REST, (REST[:, 0] * REST[:, 1] + 0.3 * REST[:, 2] > 0).astype(int)


def layers(units=6):
    return [gb.Dense(units, "tanh"), gb.Dropout(0.1), gb.Dense(2, "softmax")]


def search(space, **options):
    given = {"layers": layers(), "epochs": 4, "batch_size": 16, "device": "cpu", "dtype": "float64", "progress": False}
    if "folds" not in options:
        given["validation"] = VALIDATION
    return gb.search(X, Y, space, **given | options)


def solo(learning_rate, rate, seed, data, units=6, batch_size=16, metric="loss"):
    """What one member of a search is alone: its score."""
    made = layers(units)
    made[1] = gb.Dropout(rate)
    net = gb.Network(3, made, device="cpu", dtype="float64", seed=seed)
    trainer = gb.Trainer(net, optimizer=gb.Adam(learning_rate), batch_size=batch_size)
    (x, y), validation = data
    return trainer.fit(x, y, 4, validation=validation, progress=False)[-1][f"val_{metric}"]


SPACE = {"learning_rate": [0.1, 0.01, 0.001], "dropout": [0.0, 0.4]}


def test_a_grid_is_what_a_loop_of_solo_runs_is():
    found = search(SPACE, seeds=2, seed=7)
    scores = {
        (rate, p): [solo(rate, p, seed, ((X, Y), VALIDATION)) for seed in (7, 8)]
        for rate, p in product(*SPACE.values())
    }
    assert len(found.trials) == len(found.candidates) == 6
    for trial in found.trials:
        np.testing.assert_allclose(trial["scores"], scores[tuple(trial["settings"].values())], rtol=1e-9)
        assert trial["score"] == pytest.approx(np.mean(trial["scores"])) and trial["epochs"] == 4
        assert trial["std"] == pytest.approx(np.std(trial["scores"])) and trial["curve"][-1] == trial["score"]
        assert trial["stopped"] is None and not trial["diverged"]
    best = min(scores, key=lambda key: np.mean(scores[key]))
    assert tuple(found.best.values()) == best and found.best_score == found.trials[0]["score"]
    assert [trial["score"] for trial in found.trials] == sorted(trial["score"] for trial in found.trials)


def test_shapes_train_one_after_the_other():
    space = {"batch_size": [8, 30], "learning_rate": [0.05], "layers": [layers(3), layers(9)]}
    found = search(space, metric="accuracy")
    assert [part.numbers for part in found.parts] == [[0], [1], [2], [3]] and found.larger_is_better
    units = {id(one): units for one, units in zip(space["layers"], (3, 9), strict=True)}
    for trial in found.trials:
        of = trial["settings"]
        expected = solo(0.05, 0.1, 0, ((X, Y), VALIDATION), units[id(of["layers"])], of["batch_size"], "accuracy")
        assert trial["score"] == pytest.approx(expected, abs=1e-12)
    assert [trial["score"] for trial in found.trials] == sorted((t["score"] for t in found.trials), reverse=True)


def test_equal_layers_are_one_shape():
    found = search({"learning_rate": [0.1, 0.01], "layers": [layers(3), layers(9), layers(3)]})
    assert [part.numbers for part in found.parts] == [[0, 2, 3, 5], [1, 4]]


def test_an_optimizer_is_part_of_a_shape():
    found = search({"optimizer": ["sgd", gb.Adam(beta1=0.8)], "learning_rate": [0.1, 0.01]})
    assert sorted(part.numbers for part in found.parts) == [[0, 1], [2, 3]]


def test_a_group_that_is_too_large_is_divided(monkeypatch):
    whole = search(SPACE, seeds=2)
    monkeypatch.setattr("gpu_backprop.training.search.PLACES", 60 * 2 * 4)
    divided = search(SPACE, seeds=2)
    assert [part.numbers for part in divided.parts] == [[0, 1, 2, 3], [4, 5]]
    assert [t["settings"] for t in divided.trials] == [t["settings"] for t in whole.trials]
    np.testing.assert_allclose([t["score"] for t in divided.trials], [t["score"] for t in whole.trials], rtol=1e-9)


def test_where_the_memory_is_too_small_halves_are_tried(monkeypatch):
    fit = gb.Population.fit

    def fit_few(population, *args, **options):
        if len(population) > 2:
            raise gb.OutOfMemoryError("too many", needs={})
        return fit(population, *args, **options)

    monkeypatch.setattr(gb.Population, "fit", fit_few)
    assert [part.numbers for part in search(SPACE).parts] == [[0], [1, 2], [3], [4, 5]]
    with pytest.raises(gb.OutOfMemoryError, match="too many"):
        search(SPACE, seeds=3)


def test_halving_lets_the_best_third_go_on():
    space = {"learning_rate": np.geomspace(1e-3, 0.3, 9).tolist()}
    found, full = search(space, strategy="halving", epochs=9), search(space, epochs=9)
    curves = {trial["number"]: trial["curve"] for trial in full.trials}
    after_1 = sorted(curves, key=lambda k: curves[k][0])
    after_3 = sorted(after_1[:3], key=lambda k: curves[k][2])
    stopped = {trial["number"]: trial["stopped"] for trial in found.trials}
    assert stopped == dict.fromkeys(after_1[3:], 1) | dict.fromkeys(after_3[1:], 3) | {after_3[0]: None}
    assert [trial["stopped"] for trial in found.trials] == [None, 3, 3, *[1] * 6]
    for trial in found.trials:
        np.testing.assert_allclose(trial["curve"], curves[trial["number"]][: trial["stopped"]], rtol=1e-9)
        assert trial["epochs"] == (trial["stopped"] or 9)


def test_halving_compares_with_those_that_trained_before():
    good, bad = [0.1, 0.05, 0.2], [1e-6, 1e-5, 1e-4]
    both = {"learning_rate": [*good, *bad], "batch_size": [16]}
    found = search(both, strategy="halving", epochs=2, factor=2)
    assert {trial["stopped"] for trial in found.trials if trial["settings"]["learning_rate"] in bad} == {1}
    apart = {"layers": [layers(), layers(7)], "learning_rate": [0.1, 1e-6]}
    found = search(apart, strategy="halving", epochs=2, factor=2, seed=3)
    assert [part.numbers for part in found.parts] == [[0, 1], [2, 3]] and len(found.trials) == 4
    assert [trial["stopped"] for trial in found.trials] == [None, None, 1, 1]


@pytest.mark.parametrize("strategy", ["random", "sobol", "halving"])
def test_what_is_drawn_is_the_same_for_the_same_seed(strategy):
    space = {"learning_rate": gb.LogUniform(1e-3, 1e-1), "dropout": [0.0, 0.5], "batch_size": gb.Uniform(8, 40, True)}
    one, same, other = (list_candidates(space, strategy, 20, seed) for seed in (0, 0, 1))
    assert one == same != other and len(one) == 20
    assert all(1e-3 <= of["learning_rate"] < 1e-1 and of["dropout"] in (0.0, 0.5) for of in one)
    assert all(isinstance(of["batch_size"], int) and 8 <= of["batch_size"] <= 40 for of in one)
    assert len({of["learning_rate"] for of in one}) == 20 and {of["dropout"] for of in one} == {0.0, 0.5}


def test_sobol_points_are_spread_evenly():
    found = list_candidates({"learning_rate": gb.Uniform(0, 1)}, "sobol", 16, 3)
    assert sorted(int(one["learning_rate"] * 16) for one in found) == [*range(16)]


def test_what_is_drawn_again_is_tried_once():
    assert sorted(one["dropout"] for one in list_candidates({"dropout": [0.1, 0.2]}, "random", 50, 0)) == [0.1, 0.2]


def test_distributions_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    space = {"learning_rate": stats.loguniform(1e-3, 1e-1), "batch_size": stats.randint(8, 12)}
    found = list_candidates(space, "random", 30, 0)
    assert all(1e-3 <= one["learning_rate"] <= 1e-1 and isinstance(one["learning_rate"], float) for one in found)
    assert {one["batch_size"] for one in found} == {8, 9, 10, 11} and isinstance(found[0]["batch_size"], int)


def test_sobol_without_scipy(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "scipy.stats", None)
    with pytest.raises(gb.MissingExtraError, match="Sobol points need scipy: pip install"):
        search({"dropout": [0.1, 0.2]}, strategy="sobol", trials=2)


def test_the_best_is_trained_on_all_rows():
    found = search(SPACE, seed=4)
    net = found.fit_best(X, Y, progress=False)
    own = found.best
    made = layers()
    made[1] = gb.Dropout(own["dropout"])
    alone = gb.Network(3, made, device="cpu", dtype="float64", seed=4)
    gb.Trainer(alone, optimizer=gb.Adam(own["learning_rate"]), batch_size=16).fit(X, Y, 4, progress=False)
    np.testing.assert_allclose(net.parameters, alone.parameters, rtol=1e-9, atol=1e-12)
    assert not net.models_shape


def test_early_stopping_scores_the_best_epoch():
    space = {"learning_rate": [0.3, 0.01]}
    found = search(space, epochs=12, early_stopping=gb.EarlyStopping(patience=3))
    for trial in found.trials:
        assert trial["score"] == min(trial["curve"]) and trial["curve"].index(trial["score"]) + 1 == trial["epochs"]


def test_halving_and_early_stopping_together():
    space = {"learning_rate": np.geomspace(1e-3, 0.3, 6).tolist()}
    options = {"epochs": 12, "early_stopping": gb.EarlyStopping(patience=3), "seeds": 2}
    found, full = search(space, strategy="halving", **options), search(space, **options)
    curves = {trial["number"]: trial for trial in full.trials}
    assert [trial["stopped"] for trial in found.trials] == [None, None, *[4] * 4]
    for trial in found.trials:
        whole = curves[trial["number"]]
        np.testing.assert_allclose(trial["curve"], whole["curve"][: len(trial["curve"])], rtol=1e-9)
        if trial["stopped"] is None:
            assert trial["score"] == pytest.approx(whole["score"]) and trial["epochs"] == whole["epochs"]


def test_a_candidate_that_diverges_is_the_last():
    found = search(
        {"optimizer": ["sgd"], "learning_rate": [1e300, 0.1, 0.01]}, loss="squared_error", layers=[gb.Dense(1)]
    )
    assert [trial["diverged"] for trial in found.trials] == [False, False, True]
    assert found.trials[-1]["settings"]["learning_rate"] == 1e300 and np.isnan(found.trials[-1]["score"])
    apart = search({"optimizer": [gb.SGD(1e300), gb.SGD(0.1)]}, loss="squared_error", layers=[gb.Dense(1)])
    assert [(trial["number"], trial["diverged"], trial["epochs"]) for trial in apart.trials] == [
        (1, False, 4),
        (0, True, 0),
    ]
    with pytest.raises(gb.DivergedError, match="all candidates diverged. Search smaller learning rates"):
        search({"optimizer": ["sgd"], "learning_rate": [1e300, 1e301]}, loss="squared_error", layers=[gb.Dense(1)])


def test_x_may_be_sparse():
    sparse = pytest.importorskip("scipy.sparse")
    given = {"layers": layers(), "epochs": 2, "validation": VALIDATION, "device": "cpu", "progress": False}
    scores = [gb.search(x, Y, {"dropout": [0.0]}, **given).best_score for x in (X, sparse.csr_array(X))]
    assert scores[0] == pytest.approx(scores[1])


def test_callbacks_see_what_is_found_and_can_end_it():
    seen = []

    def look(result):
        seen.append((len(result.trials), result.running, result.best_score))
        return len(seen) == 3

    found = search({"layers": [layers(), layers(3)], "dropout": [0.0, 0.2]}, callbacks=[look])
    assert [one[:2] for one in seen] == [(2, 2)] * 3 and len(found.trials) == 2 and found.running == 0


def test_how_a_result_shows_itself(tmp_path):
    found = search(SPACE)
    assert repr(found).startswith("<SearchResult of 6 candidates; best: learning_rate=") and "val_loss" in repr(found)
    assert "The best of 6 candidates" in found._repr_html_() and "<svg" in found._repr_html_()
    found.to_csv(tmp_path / "trials.csv")
    with open(tmp_path / "trials.csv", newline="") as file:
        lines = [*csv.DictReader(file)]
    assert [float(line["score"]) for line in lines] == [trial["score"] for trial in found.trials]
    assert float(lines[0]["learning_rate"]) == found.best["learning_rate"] and lines[0]["stopped"] == ""


def test_a_result_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    found = search({"layers": [layers(3), layers(4)], "dropout": [0.0, 0.2]})
    found.plot(tmp_path / "search.svg")
    drawn = (tmp_path / "search.svg").read_text()
    assert all(text in drawn for text in ("<!-- 3:2 -->", "<!-- dropout -->", "<!-- val loss -->"))


@pytest.mark.parametrize(
    ("space", "options", "said"),
    [
        ({"lr": [0.1]}, {}, "space: .* has no argument lr; use learning_rate="),
        ({"learning_rate": []}, {}, "learning_rate of the space is an empty list"),
        ({"learning_rate": 0.1}, {}, "learning_rate of the space must be a list of values, or a distribution"),
        ({"learning_rate": "0.1"}, {}, "learning_rate of the space must be a list of values"),
        ({"learning_rate": [0.1, "a"]}, {}, "space: learning_rate of Adam must be a finite number > 0"),
        ({"layers": [layers(), layers(3)], "dropout": [0.1, 2]}, {}, "space: dropout of member 1 must be a"),
        ({"batch_size": [16, 0]}, {}, "batch_size must be an integer ≥ 1, got 0"),
        ({}, {}, "space must be a dict that names at least one setting"),
        ([{"dropout": 0.1}], {}, "space must be a dict"),
        ({"seed": [0, 1]}, {}, "seed is no setting to search: with seeds=3"),
        (SPACE, {"strategy": "gird"}, "unknown strategy 'gird'. Did you mean 'grid'"),
        (SPACE, {"strategy": "random"}, "strategy='random' draws candidates: say how many, as in trials=50"),
        (SPACE, {"trials": 7}, "trials=7, but strategy='grid' tries all combinations"),
        ({"dropout": gb.Uniform(0, 0.5)}, {}, "dropout of the space is a distribution, .*strategy='random', trials=50"),
        ({"dropout": gb.Uniform(0, 0.5)}, {"strategy": "halving"}, "strategy='halving', trials=50"),
        (SPACE, {"strategy": "halving", "factor": 1}, "factor must be an integer ≥ 2, got 1"),
        (SPACE, {"layers": None}, "layers are neither given nor in the space"),
        (SPACE, {"folds": 3, "validation": VALIDATION}, "validation data were given, and folds=3 too"),
        (SPACE, {"folds": 0}, "folds must be an integer ≥ 1, got 0"),
        (SPACE, {"folds": 1}, "folds=1: 60 rows cannot be 1 folds"),
        (SPACE, {"folds": 61}, "folds=61: 60 rows cannot be 61 folds"),
        (SPACE, {"folds": 40}, "folds=40, but one of the classes has only [0-9]+ of the rows"),
        (SPACE, {"metric": "acuracy"}, "unknown metric 'acuracy'. Did you mean 'accuracy'"),
        (SPACE, {"metric": "mae"}, "metric 'mae' is for numbers"),
        (SPACE, {"metric": len}, "metrics must be names, or functions of"),
        (SPACE, {"seeds": 0}, "seeds must be an integer ≥ 1"),
        (SPACE, {"callbacks": print}, "callbacks must be a list of functions of a SearchResult"),
        (SPACE, {"callbacks": [3]}, "callbacks must be a list of functions of a SearchResult"),
        ({"label_smoothing": [0.0, 0.1]}, {}, "losses of different numbers cannot be compared.*such as log_loss"),
    ],
)  # fmt: skip
def test_bad_input_is_told(space, options, said):
    with pytest.raises(gb.InputError, match=said):
        search(space, **options)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: gb.Uniform(1, 1), "Uniform is from a low number to a higher one, got low=1 and high=1"),
        (lambda: gb.LogUniform(0, 1), "low of LogUniform must be a finite number > 0, got 0"),
        (lambda: gb.Uniform(0, np.inf), "high of Uniform must be a finite number, got inf"),
        (lambda: gb.Uniform(0, 1, 1), "integer of Uniform must be True or False, got 1"),
    ],
)
def test_distributions_that_cannot_be(made, said):
    with pytest.raises(gb.InputError, match=said):
        made()


def test_x_must_be_a_table():
    with pytest.raises(gb.InputError, match=r"x must have the shape \(rows, inputs\), got \(60,\)"):
        gb.search(Y, Y, SPACE, layers=layers())


def folds_of(folds, seed):
    """Which rows are not of each fold, as `Trainer.fit(folds=...)` divides them."""
    stack = gb.Network(3, layers(), device="cpu", seed=range(folds))
    trainer = gb.Trainer(stack, seed=seed)
    trainer.fit(X, Y, 1, folds=folds, progress=False)
    return [np.isin(np.arange(60), held_out, invert=True) for held_out in trainer.folds]


@pytest.mark.parametrize("folds", [3, 7])
def test_folds_are_the_same_for_all_candidates(folds):
    found = search(SPACE, folds=folds, seeds=2, seed=1)
    for trial in found.trials:
        rate, p = trial["settings"].values()
        expected = [solo(rate, p, s, ((X[i], Y[i]), (X[~i], Y[~i]))) for i in folds_of(folds, 1) for s in (1, 2)]
        np.testing.assert_allclose(trial["scores"], expected, rtol=1e-9)


def test_folds_with_weights_and_early_stopping_are_what_solo_runs_are():
    weights = RNG.uniform(0.5, 2, len(X))
    space = {"learning_rate": [0.5, 0.05, 0.002], "class_weight": ["balanced", None]}
    options = {"epochs": 20, "early_stopping": gb.EarlyStopping(patience=2), "weights": weights, "folds": 4}
    for trial in search(space, metric="accuracy", **options).trials:
        scores, epochs = [], []
        for i in folds_of(4, 0):
            net = gb.Network(3, layers(), device="cpu", dtype="float64")
            trainer = gb.Trainer(net, optimizer=gb.Adam(trial["settings"]["learning_rate"]), batch_size=16)
            history = trainer.fit(
                X[i], Y[i], 20, weights=weights[i], class_weight=trial["settings"]["class_weight"],
                validation=(X[~i], Y[~i], weights[~i]), early_stopping=gb.EarlyStopping(patience=2), progress=False,
            )  # fmt: skip
            scores.append(history["val_accuracy"][history.best_epoch - 1])
            epochs.append(history.best_epoch)
        np.testing.assert_allclose(trial["scores"], scores, rtol=1e-9)
        assert trial["epochs"] == round(np.mean(epochs))


def test_folds_of_text_and_of_numbers():
    words = np.array(["no", "yes"])[Y]
    of_text = gb.search(X, words, {"learning_rate": [0.05]}, layers=layers(), folds=3, progress=False, device="cpu")
    of_labels = gb.search(X, Y, {"learning_rate": [0.05]}, layers=layers(), folds=3, progress=False, device="cpu")
    assert of_text.best_score == of_labels.best_score
    assert of_text.fit_best(X, words, progress=False).classes == ["no", "yes"]
    numbers = gb.search(
        X, X @ [[1.0], [2.0], [0.5]], {"learning_rate": [0.1, 1e-6]}, layers=[gb.Dense(1)], metric="r2", epochs=40,
        progress=False, device="cpu",
    )  # fmt: skip
    assert numbers.best == {"learning_rate": 0.1} and numbers.best_score > 0.9
    assert len(numbers.trials[0]["scores"]) == 5
