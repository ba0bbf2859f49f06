"""TabularClassifier and TabularRegressor: scikit-learn's own checks, and what they do with raw data frames."""

from __future__ import annotations

import csv
import pickle

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

import gpu_backprop as gb
from gpu_backprop.cli import main
from gpu_backprop.data.errors import DataError
from gpu_backprop.data.limits import MORE
from gpu_backprop.data.number_columns import LEAVE_OUT
from gpu_backprop.data.target import CHOOSE, EXACT
from gpu_backprop.interop.estimators.tables import in_words_of_x

SMALL = {"settings": {"layers": (32,), "periodic": 4}, "epochs": 20, "device": "cpu", "random_state": 0}
TINY = {"settings": {"layers": (8,), "periodic": 2}, "epochs": 3, "device": "cpu", "random_state": 0}

# A data frame as it is ------------------------------------------------------------------------------------------------


def make_frame(rows=240, seed=0):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({
        "age": rng.normal(40, 10, rows),
        "sex": rng.choice(["male", "female"], rows),
        "city": pd.Categorical(rng.choice(["Bath", "Leeds", "York"], rows)),
        "joined": pd.date_range("2020-01-31", periods=rows, freq="9D"),
        "member": rng.random(rows) < 0.5,
        "visits": pd.array(rng.integers(0, 9, rows), dtype="Int64"),
    })  # fmt: skip
    buys = pd.Series(np.where((frame.sex == "male") == (frame.city == "York"), "yes", "no"), name="buys")
    frame.loc[::7, "age"], frame.loc[::11, "sex"], frame.loc[::13, "visits"] = np.nan, None, pd.NA
    return frame, buys


FRAME, BUYS = make_frame()
NEW, NEW_BUYS = make_frame(60, seed=1)
SPENT, NEW_SPENT = (20 + 3 * frame.visits.fillna(0).astype(float) for frame in (FRAME, NEW))


@pytest.fixture(scope="module")
def classifier():
    return gb.TabularClassifier(**{**SMALL, "epochs": 40}).fit(FRAME, BUYS)


def test_frame_in_names_of_classes_out(classifier):
    assert list(classifier.classes_) == ["no", "yes"]
    assert list(classifier.feature_names_in_) == [*FRAME.columns]
    assert classifier.n_features_in_ == FRAME.shape[1]
    assert classifier.n_iter_ == len(classifier.history_) == 40
    assert classifier.recipe_.name == "small-table"
    assert classifier.recipe_.layers == (32,)
    p = classifier.predict_proba(NEW)
    assert p.dtype == np.float64
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    assert (classifier.predict(NEW) == np.array(["no", "yes"])[p.argmax(axis=1)]).all()
    np.testing.assert_array_equal(classifier.predict_log_proba(NEW), np.log(p))
    assert classifier.score(NEW, NEW_BUYS) > 0.85


def test_texts_that_were_never_seen_and_values_that_lack(classifier):
    odd = NEW.astype({"city": object})
    odd.loc[:9, "city"], odd.loc[10:19, "joined"], odd.loc[20:, "age"] = "Ely", pd.NaT, np.nan
    assert set(classifier.predict(odd)) <= {"no", "yes"}
    assert classifier.network_.preprocessing.unseen["city"] == 10


def test_the_same_from_pandas_polars_and_pyarrow(classifier):
    for convert in pl.from_pandas, pa.Table.from_pandas:
        own = clone(classifier).fit(convert(FRAME), BUYS)
        np.testing.assert_array_equal(own.predict_proba(convert(NEW)), classifier.predict_proba(NEW))


def test_same_bits_from_the_same_random_state_and_in_a_pickle(classifier, tmp_path):
    p = classifier.predict_proba(NEW)
    joblib.dump(classifier, tmp_path / "model.joblib")
    twins = pickle.loads(pickle.dumps(classifier)), joblib.load(tmp_path / "model.joblib"), clone(classifier)
    for twin in (*twins[:2], twins[2].fit(FRAME, BUYS)):
        np.testing.assert_array_equal(twin.predict_proba(NEW), p)
    other = clone(classifier).set_params(random_state=1).fit(FRAME, BUYS)
    assert (other.predict_proba(NEW) != p).any()


def test_the_network_in_a_file_predicts_the_same(classifier, tmp_path, capsys):
    gb.save(tmp_path / "m.safetensors", classifier.network_)
    net = gb.load(tmp_path / "m.safetensors", device="cpu")
    assert net.classes == ["no", "yes"]
    assert net.preprocessing.target == "buys"
    x = classifier.network_.preprocessing.transform(gb.data.Table("new", NEW))
    np.testing.assert_array_equal(net.predict(x), classifier.network_.predict(x))
    NEW.to_csv(tmp_path / "new.csv", index=False)
    assert main(["predict", str(tmp_path / "m.safetensors"), str(tmp_path / "new.csv"), "--device", "cpu"]) == 0
    first, *rows = csv.reader(capsys.readouterr().out.splitlines())
    assert first == ["prediction", "no", "yes"]
    assert [row[0] for row in rows] == classifier.predict(NEW).tolist()
    np.testing.assert_allclose([[float(p) for p in row[1:]] for row in rows], classifier.predict_proba(NEW), rtol=1e-5)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([*FRAME][:-1], "now missing:\n- visits"),
        ([*FRAME][::-1], "in the same order"),
        ([*FRAME, "age"], "unique column names"),
    ],
)
def test_other_columns_are_refused(classifier, names, message):
    with pytest.raises(ValueError, match=message):
        classifier.predict(NEW[names])


def test_arrays_of_texts_and_categories_that_are_numbers():
    array = FRAME[["sex", "city"]].astype(object).to_numpy()
    model = gb.TabularClassifier(**TINY).fit(array, BUYS)
    assert not hasattr(model, "feature_names_in_")
    assert {"x[0]=male", "x[1]=York"} <= {*model.network_.preprocessing.features}
    assert set(model.predict(array)) <= {"no", "yes"}
    model.fit(FRAME.assign(visits=FRAME.visits.astype("category")), BUYS)
    assert "visits=8" in model.network_.preprocessing.features
    with pytest.raises(ValueError, match="make a data frame of it"):
        model.predict({"sex": ["male"]})


def test_columns_without_any_value_are_left_out():
    empty = {"gone": np.nan, "none": None, "which": pd.Categorical([None] * 240, ["a"])}
    frame, filled = FRAME.assign(**empty), FRAME.assign(gone=1e9, none="some", which="a")
    known = gb.TabularClassifier(**TINY).fit(FRAME, BUYS).predict_proba(FRAME)
    for convert in pd.DataFrame, pl.from_pandas, lambda frame: pa.Table.from_pandas(frame, preserve_index=False):
        with pytest.warns(UserWarning, match="^X: 3 columns have no value in .* left out: 'gone', 'none', 'which'.$"):
            model = gb.TabularClassifier(**TINY).fit(convert(frame), BUYS)
        for given in frame, filled:
            np.testing.assert_array_equal(model.predict_proba(convert(given)), known)


@pytest.mark.parametrize("recipe", ["plain", "tabular", "small-table"])
@pytest.mark.parametrize("dtype", [float, object])
def test_columns_of_arrays_without_any_value_are_left_out(recipe, dtype):
    x = np.c_[FRAME.age.fillna(0), np.full(240, np.nan)].astype(dtype)
    with pytest.warns(UserWarning, match=r"1 column has no value .*: 'x\[1\]'"):
        model = gb.TabularRegressor(**{**TINY, "settings": {"layers": (8,)}}, recipe=recipe).fit(x, SPENT)
    for other in 0, -3, 1e6, np.nan:
        np.testing.assert_array_equal(model.predict(np.c_[x[:, 0], np.full(240, other)]), model.predict(x))
    with pytest.raises(ValueError, match="^X has no value in any column"):
        model.fit(x[:, 1:], SPENT)


def test_nested_lists_keep_their_types():
    rows = [[1, 2.5, "x"], [3, 4, "y"], [5, None, "x"]] * 20
    for nested in rows, [row for row in rows if None not in row] + [[9, 9, "y"]] * 20, [tuple(row) for row in rows]:
        model = gb.TabularClassifier(**TINY).fit(nested, ["no", "yes", "no"] * 20)
        assert model.network_.preprocessing.numeric == {"x[0]", "x[1]"}
        assert len(model.predict(nested)) == 60


# Messages: what was given is X and y, and there is no command line ----------------------------------------------------


def refusal(model, X, y, **options):
    with pytest.raises((ValueError, TypeError)) as raised:
        model(**TINY | options).fit(X, y)
    assert not any(word in str(raised.value) for word in ("--", "in Python", "'target'", "validation_split"))
    return str(raised.value)


@pytest.mark.parametrize(
    ("X", "message"),
    [(FRAME.assign(m=[1, "z"] * 120), "X: column 'm' holds '1' (int) beside 'z' (str); make it all numbers or all "
      "text, or leave it out"),
     (FRAME.assign(m=np.inf), "X, index 0: inf in column 'm', which no network can use; correct it, or make it NaN or "
      "None if it is missing"),
     (pl.from_pandas(FRAME).lazy(), "X is a LazyFrame, which has no rows yet; give X.collect()."),
     (FRAME[:0], "Found array with 0 sample(s) (shape=(0, 6)) while a minimum of 2 is required by TabularClassifier.")],
)  # fmt: skip
def test_messages_about_x(X, message):
    assert refusal(gb.TabularClassifier, X, BUYS[: None if hasattr(X, "collect") else len(X)]) == message


@pytest.mark.parametrize("X", [FRAME, FRAME[["visits"]].to_numpy(float, na_value=np.nan)], ids=["frame", "array"])
def test_messages_about_y(X):
    for y in ["no"] * 240, pd.Series(["no"] * 240, name="buys"):
        assert refusal(gb.TabularClassifier, X, y).startswith("y is 'no' in every row, which leaves nothing to tell")
    assert refusal(gb.TabularRegressor, X, [1.5] * 240).startswith("y is 1.5 in every row, which leaves nothing to")
    assert refusal(gb.TabularClassifier, X, [None, *BUYS[1:]]).endswith("or leave these rows out of X and y")
    said = refusal(gb.TabularClassifier, X, BUYS, validation_fraction=0.999)
    assert said.startswith("validation_fraction=0.999: 240 rows in 2") and said.endswith("or eval_set=(X, y).")


def test_messages_about_settings_and_what_is_too_much():
    for texts in ["male"], ["male", "other"]:
        said = refusal(gb.TabularClassifier, FRAME, BUYS, settings={"ordinal": {"sex": texts}})
        assert "settings={'ordinal': {column: texts}}" in said
    for said in LEAVE_OUT, MORE, EXACT, CHOOSE.format("regression"), CHOOSE.format("classification"):
        with pytest.raises(DataError) as raised, in_words_of_x(None):
            raise DataError(said)
        assert "--" in said and "--" not in str(raised.value) and "in Python" not in str(raised.value)


def test_an_unnamed_series_of_polars_is_the_target():
    assert gb.TabularClassifier(**TINY).fit(FRAME, pl.Series([*BUYS])).network_.preprocessing.target == "target"


DAYS = pd.date_range("2020", periods=240)


@pytest.mark.parametrize(
    "y", [DAYS, DAYS.tz_localize("UTC"), DAYS - DAYS[0], [*DAYS.date], pl.Series([*DAYS]), DAYS.to_numpy(),
          pl.Series([*DAYS]) - DAYS[0].to_pydatetime(), [*(DAYS - DAYS[0]).to_pytimedelta()]],
)  # fmt: skip
def test_dates_and_durations_are_no_numbers(y):
    said = refusal(gb.TabularRegressor, FRAME, y)
    assert said.startswith("y holds d")
    days = eval(said.partition("example: ")[2].rstrip("."), {"numpy": np, "y": y})
    np.testing.assert_array_equal(np.diff(days), 1)


# What y may be --------------------------------------------------------------------------------------------------------

TRUE = (FRAME.visits.fillna(0) > 3).to_numpy()


@pytest.mark.parametrize(
    ("y", "classes"),
    [(TRUE, [False, True]), (pd.Series(TRUE, dtype="boolean"), [False, True]), (TRUE * 5 - 3, [-3, 2]),
     (pd.Series(TRUE * 5, dtype="Int64"), [0, 5]), (TRUE * 2.0, [0.0, 2.0]), (BUYS.tolist(), ["no", "yes"]),
     (BUYS.astype("category"), ["no", "yes"]), (pl.Series(BUYS), ["no", "yes"]),
     (np.where(TRUE, "10", "9"), ["10", "9"])],
)  # fmt: skip
def test_classes_keep_the_type_that_they_have_in_y(y, classes):
    model = gb.TabularClassifier(**TINY).fit(FRAME, y)
    assert model.classes_.tolist() == classes
    assert set(map(type, model.classes_.tolist())) == {type(classes[0])}
    assert 0 <= model.score(FRAME, y) <= 1
    assert set(model.predict(FRAME).tolist()) <= set(classes)


@pytest.mark.parametrize(
    ("y", "message"),
    [(["no"] * 240, "in every row"), (FRAME.age.fillna(0), "continuous"), ([None, *BUYS[1:]], "1 missing value"),
     (np.zeros((240, 2)), "1d array"), (BUYS[:9], "inconsistent numbers of samples")],
)  # fmt: skip
def test_y_that_is_no_classes(y, message):
    with pytest.raises(ValueError, match=message):
        gb.TabularClassifier(**TINY).fit(FRAME, y)


# Numbers --------------------------------------------------------------------------------------------------------------


def test_numbers_in_their_units_and_intervals_around_them():
    model = gb.TabularRegressor(**SMALL, validation_fraction=0.25).fit(FRAME, SPENT)
    predicted = model.predict(NEW)
    assert predicted.shape == (60,)
    assert model.score(NEW, NEW_SPENT) > 0.8
    low, high = model.predict_interval(NEW, 0.9)
    np.testing.assert_allclose((low + high) / 2, predicted)
    assert 0.75 < ((low <= NEW_SPENT) & (high >= NEW_SPENT)).mean() <= 1
    bare = clone(model).set_params(validation_fraction=0, epochs=1).fit(FRAME, SPENT)
    with pytest.raises(RuntimeError, match="validation_fraction=0.2"):
        bare.predict_interval(NEW)


def test_several_numbers_of_an_array():
    x = np.random.default_rng(0).normal(size=(100, 3))
    assert gb.TabularRegressor(**TINY).fit(x, x[:, :2]).predict(x).shape == (100, 2)
    with pytest.raises(ValueError, match="MultiOutputRegressor"):
        gb.TabularRegressor(**TINY).fit(pd.DataFrame(x, columns=[*"abc"]), x[:, :2])


@pytest.mark.parametrize("loss", ["absolute_error", "huber", "poisson", gb.Quantile(0.9), gb.MeanSquaredError()])
def test_losses(loss):
    model = gb.TabularRegressor(**{**SMALL, "epochs": 150}, loss=loss).fit(FRAME, SPENT)
    assert model.network_.last.activation.name == ("exp" if loss == "poisson" else "identity")
    above = (model.predict(FRAME) >= SPENT).mean()
    assert above > 0.75 if isinstance(loss, gb.Quantile) else model.score(FRAME, SPENT) > 0.5


@pytest.mark.parametrize(("loss", "message"), [("cross_entropy", "TabularClassifier"), ("mae", "'absolute_error'")])
def test_losses_that_are_none(loss, message):
    with pytest.raises(ValueError, match=message):
        gb.TabularRegressor(**TINY, loss=loss).fit(FRAME, SPENT)


# How they are trained -------------------------------------------------------------------------------------------------


def test_an_ensemble_predicts_the_mean_of_its_members():
    model = gb.TabularClassifier(**SMALL, ensemble=3).fit(FRAME, BUYS)
    assert model.network_.models_shape == (3,)
    assert model.network_.averaged
    members = model.network_.predict_members(model.network_.preprocessing.transform(gb.data.Table("new", NEW)))
    np.testing.assert_allclose(model.predict_proba(NEW), members.mean(axis=0), rtol=1e-5)
    one = gb.TabularClassifier(**TINY, ensemble=1).fit(FRAME, BUYS)
    none = gb.TabularClassifier(**TINY, ensemble=None).fit(FRAME, BUYS)
    np.testing.assert_array_equal(one.predict_proba(NEW), none.predict_proba(NEW))
    low, high = gb.TabularRegressor(**TINY, ensemble=2).fit(FRAME, SPENT).predict_interval(NEW)
    assert (low < high).all()


def test_an_eval_set_chooses_the_best_epoch():
    model = gb.TabularClassifier(**{**SMALL, "recipe": "plain", "settings": {"layers": (16,)}})
    model.fit(FRAME, BUYS, eval_set=(NEW, NEW_BUYS))
    losses = [row["val_loss"] for row in model.history_]
    assert model.history_.best_epoch == 1 + int(np.argmin(losses))
    p = model.predict_proba(NEW)[np.arange(60), (NEW_BUYS == "yes").astype(int)]
    assert -np.log(p).mean() == pytest.approx(min(losses), rel=1e-4)
    same = clone(model).fit(FRAME, BUYS, eval_set=[(NEW, NEW_BUYS, np.full(60, 2.0))])
    np.testing.assert_array_equal(same.predict_proba(NEW), model.predict_proba(NEW))
    array = gb.TabularRegressor(**TINY).fit(NEW[["age"]].fillna(0).to_numpy(), NEW_SPENT, eval_set=([[1], [2]], [3, 4]))
    assert array.network_.intervals.rows == 2


@pytest.mark.parametrize(
    ("options", "eval_set", "message"),
    [({"ensemble": 2}, (NEW, NEW_BUYS), "eval_set: the members of an ensemble"),
     ({"ensemble": 2, "validation_fraction": 0.1}, None, "validation_fraction: the members of an ensemble"),
     ({"validation_fraction": 0.1}, (NEW, NEW_BUYS), "leave one of them out"), ({}, NEW, "eval_set must be"),
     ({}, (NEW, ["maybe"] * 60), "eval_set, index 0: y is 'maybe', which is none of the classes")],
)  # fmt: skip
def test_validation_rows_that_are_none(options, eval_set, message):
    with pytest.raises(ValueError, match=message):
        gb.TabularClassifier(**TINY, **options).fit(FRAME, BUYS, eval_set=eval_set)


@pytest.mark.parametrize("y", [TRUE, np.where(TRUE, "yes", "no"), TRUE.astype(int)], ids=["bool", "text", "int"])
def test_weights_of_classes_and_rows(y):
    heavy = np.unique(y)[1]
    plain = gb.TabularClassifier(**SMALL, validation_fraction=0).fit(FRAME[["age"]], y)
    by_class = clone(plain).set_params(class_weight={heavy: 9.0}).fit(FRAME[["age"]], y)
    by_row = clone(plain).fit(FRAME[["age"]], y, sample_weight=np.where(TRUE, 9.0, 1.0))
    np.testing.assert_array_equal(by_class.predict_proba(NEW[["age"]]), by_row.predict_proba(NEW[["age"]]))
    assert by_class.predict_proba(NEW[["age"]])[:, 1].mean() > plain.predict_proba(NEW[["age"]])[:, 1].mean() + 0.2
    balanced = clone(plain).set_params(class_weight="balanced").fit(FRAME[["age"]], y)
    assert balanced.predict_proba(NEW[["age"]])[:, 1].mean() == pytest.approx(0.5, abs=0.1)


# Parameters, and at home among other estimators -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [({"recipe": "table"}, "'recipe' parameter .* must be a str among"), ({"ensemble": 0}, "'ensemble' parameter"),
     ({"settings": {"lr": 1}}, "a recipe has no entry 'lr'"), ({"settings": {"dropout": 2}}, "dropout must be"),
     ({"settings": {"epochs": 7}}, "epochs=3 and settings={'epochs': 7} contradict"),
     ({"settings": {"ordinal": "size"}}, "ordinal is 'size'"), ({"class_weight": {"maybe": 2}}, "no class"),
     ({"epochs": 0}, "'epochs' parameter"), ({"validation_fraction": 1}, "'validation_fraction' parameter")],
)  # fmt: skip
def test_parameters_that_are_not_accepted(options, message):
    with pytest.raises(ValueError, match=message):
        gb.TabularClassifier(**{**TINY, **options}).fit(FRAME, BUYS)


def test_settings_are_entries_of_the_recipe_and_of_its_encoding():
    own = {"layers": [5, 4], "batch_size": 50, "dates": False, "ordinal": {"city": ["Bath", "Leeds", "York"]}}
    model = gb.TabularClassifier(**{**TINY, "settings": own}, recipe=gb.recipes.tabular("classification", 240, 6))
    model.fit(FRAME.drop(columns="joined"), BUYS)
    assert (model.recipe_.layers, model.recipe_.batch_size, model.recipe_.even_batches) == ([5, 4], 50, False)
    assert "city" in model.network_.preprocessing.features
    assert model.recipe_.encoding.rare == 2
    assert model.get_params()["settings"] is own


@pytest.mark.parametrize("recipe", ["auto", *gb.recipes.RECIPES])
def test_missing_values_are_filled_in_by_every_recipe(recipe):
    x = FRAME[["age", "visits"]].to_numpy(float, na_value=np.nan)
    for X in x, FRAME[["age", "visits"]]:
        model = gb.TabularClassifier(**{**TINY, "settings": {"layers": (8,)}}, recipe=recipe).fit(X, BUYS)
        assert np.isfinite(model.predict_proba(X)).all()


def test_in_searches_and_pipelines():
    grid = {"settings": [{"layers": (4,)}, {"layers": (8,)}], "recipe": ["plain", "tabular"]}
    search = GridSearchCV(gb.TabularClassifier(**TINY), grid, cv=2, error_score="raise").fit(FRAME, BUYS)
    assert search.best_params_["recipe"] in grid["recipe"]
    assert len(cross_val_score(gb.TabularRegressor(**TINY), FRAME, SPENT, cv=3, error_score="raise")) == 3
    pipeline = Pipeline([("same", FunctionTransformer()), ("model", gb.TabularClassifier(**TINY))])
    assert pipeline.fit(FRAME, BUYS).predict(NEW).shape == (60,)


def test_callbacks_and_metrics():
    model = gb.TabularClassifier(**TINY, callbacks=[lambda state: state.epoch == 2], metrics=["roc_auc"])
    assert model.fit(FRAME, BUYS).n_iter_ == 2
    assert "val_roc_auc" in model.history_[-1]


def test_not_fitted():
    model = gb.TabularClassifier()
    for _ in "before", "after a fit that failed":
        with pytest.raises(NotFittedError):
            model.predict(FRAME)
        with pytest.raises(ValueError, match="in every row"):
            model.fit(FRAME, ["no"] * 240)
