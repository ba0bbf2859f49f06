"""Numbers brought to one size in three ways, clipped, missing ones indicated, and predictions kept in their range."""

from __future__ import annotations

import json
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_backprop import open_rows
from gpu_backprop.data import Arrays, DataError, Preprocessing, Table, read
from gpu_backprop.data import scaling as scaling_module
from gpu_backprop.data.encoding import NUMBERS, TABULAR, Encoding
from gpu_backprop.data.running_scaling import RunningScaling
from gpu_backprop.data.scaling import QUANTILES, QuantileScaling, fit_scaling, smooth_clip, stored_scaling

ROBUST = Encoding(numbers="robust", clip=True, indicator=True)
NAN = math.nan


def column(*values) -> np.ndarray:
    return np.array(values, np.float64)[:, None]


def score(level) -> float:
    return round(NormalDist().inv_cdf(level), 4)


# One column -------------------------------------------------------------------------------------------------------


def test_smooth_clipping_is_that_of_its_formula():
    x = np.array([0.0, 1e-9, -1.0, 2.0, 3.0, -40.0])
    np.testing.assert_allclose(smooth_clip(x), x / np.sqrt(1 + (x / 3) ** 2), rtol=1e-15)
    assert smooth_clip(np.array([1.7e308, -np.inf])).tolist() == [3, -3]
    assert np.isnan(smooth_clip(np.array(NAN)))


@pytest.mark.parametrize(
    ("values", "center", "spread"),
    [
        ([1, 2, 3, 4, 5], 3, 2),
        ([1, 2, 3, 5], 2.5, 3.5 - 1.75),
        ([0, 0, 0, 0, 0, 0, 0, 1], 0, 0.5),  # the quartiles are equal: half of the range, so that 1 becomes 2
        ([7, 7, 7], 7, 0),
        ([NAN, 1, NAN, NAN, 2, NAN, NAN, 3, NAN, 4, 5], 3, 2),  # of those that are there
    ],
)
def test_robust_scaling_by_hand(values, center, spread):
    for impute in ("mean", "median", "constant"):
        found = fit_scaling(column(*values), impute, Encoding(numbers="robust"))
        assert (found.center.item(), found.spread.item()) == (center, spread)
    x = found.apply(column(center, center + 1, 9))[:, 0]
    assert x.tolist() == ([0, 0, 0] if spread == 0 else [0, 1 / spread, (9 - center) / spread])


def test_normal_scores_of_ranks_by_hand():
    found = fit_scaling(column(30, 10, 20, 20, 50), encoding=Encoding(numbers="quantile"))
    assert found.values[0].tolist() == [10, 20, 30, 50]
    assert found.scores[0].tolist() == [score(0.1), score(0.4), score(0.7), score(0.9)]  # 20 has the ranks 2 and 3
    x = found.apply(column(10, 20, 25, -100, 1e9))[:, 0]
    np.testing.assert_allclose(x, [score(0.1), score(0.4), (score(0.4) + score(0.7)) / 2, score(0.1), score(0.9)])
    assert fit_scaling(column(7, 7), encoding=Encoding(numbers="quantile")).apply(column(7, 0, 9)).tolist() == [[0]] * 3


def test_scores_of_many_values_are_those_of_their_ranks():
    values = np.random.default_rng(0).standard_cauchy(20_000)
    found = QuantileScaling.fit(values[:, None])
    assert 0.8 * QUANTILES < len(found.values[0]) <= QUANTILES
    ranks = values.argsort().argsort()
    exact = np.array([NormalDist().inv_cdf((rank + 0.5) / len(values)) for rank in ranks.tolist()])
    np.testing.assert_allclose(found.apply(values[:, None])[:, 0], exact, atol=0.04)  # the kept scores are as far apart
    assert abs(found.apply(values[:, None])[:, 0] - exact).mean() < 0.001


def test_a_half_of_ties_is_at_the_middle_of_their_ranks():
    values = np.repeat([0.0, 1.0, 2.0], [500, 300, 200])
    found = QuantileScaling.fit(values[:, None])
    assert found.scores[0].tolist() == [score(0.25), score(0.65), score(0.9)]


@pytest.mark.parametrize("numbers", NUMBERS)
def test_numbers_too_large_to_be_scaled(numbers):
    found = fit_scaling(
        np.array([[1.7e308, 1], [-1.7e308, 2], [-1.6e308, 3], [1.6e308, 4]]), encoding=Encoding(numbers=numbers)
    )
    assert found.sound.tolist() == [False, True]
    table = Table("t", {"a": np.array([1.7e308, -1.7e308, 1.6e308, -1.6e308]), "y": np.array([1.5, 2, 3, 4])})
    with pytest.raises(DataError, match="column 'a' has numbers too large to be scaled; leave it out"):
        Preprocessing.fit(table, "y", encoding=Encoding(numbers=numbers))
    table.columns["a"][:] = NAN
    with pytest.raises(DataError, match="column 'a' has no values to learn from"):
        Preprocessing.fit(table, "y", impute="median", encoding=Encoding(numbers=numbers))


@settings(max_examples=60)
@given(
    values=st.lists(st.floats(-1e300, 1e300) | st.integers(-3, 3) | st.just(NAN), min_size=1, max_size=30),
    later=st.lists(st.floats(allow_infinity=False), min_size=1, max_size=5),
    numbers=st.sampled_from(NUMBERS),
    clip=st.booleans(),
)
def test_what_is_stored_scales_alike_and_in_order(values, later, numbers, clip):
    found = fit_scaling(column(*values), "median", Encoding(numbers=numbers, clip=clip))
    if not found.sound.all():
        return
    again = stored_scaling(json.loads(json.dumps(found.to_dict(), allow_nan=False)), 1, filled=True)
    x = found.apply(column(*values, *sorted(later)))[:, 0]
    np.testing.assert_array_equal(again.apply(column(*values, *sorted(later)))[:, 0], x)
    assert again.to_dict() == found.to_dict() and again.describe() == found.describe()
    assert not np.isnan(x).any()
    assert (np.diff(x[np.argsort(np.nan_to_num(column(*values)[:, 0], nan=found.fill[0]))]) >= -1e-12).all()
    assert not clip or np.abs(x).max() <= 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"numbers": "cubic"}, "numbers 'cubic'"),
        ({"values": [[1.0]]}, "values and scores have other lengths"),
        ({"values": [[2.0, 1.0]]}, "values are not in their order"),
        ({"scores": [[2.0, 1.0]]}, "scores are not in their order"),
        ({"values": [[-1e308, 1e308]]}, "values are too far apart"),
        ({"values": [["1", 2.0]]}, "values has something in it that is no number"),
        ({"clip": 1}, "clip is '1'"),
        ({"fill": [1.0, 2.0]}, "another number of columns"),
    ],
)
def test_a_stored_scaling_that_is_damaged(change, message):
    sound = {"numbers": "quantile", "values": [[1.0, 2.0]], "scores": [[-1.0, 1.0]], "fill": [1.0]}
    stored_scaling(sound, 1, filled=True)
    with pytest.raises(DataError, match=f"is damaged or from another version: .*{message}"):
        stored_scaling(sound | change, 1, filled=True)


# A sample ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", ["robust", "quantile"])
@pytest.mark.parametrize("impute", [None, "mean", "median"])
def test_quantiles_of_few_rows_in_parts_are_exact(numbers, impute):
    values = np.random.default_rng(1).normal(5, 2, (200, 3))
    values[::3, 1] = NAN
    running = RunningScaling(3, impute, Encoding(numbers=numbers, clip=True))
    for part in np.array_split(values, 9):
        running.add(part)
    found, expected = running.scaling().to_dict(), fit_scaling(values, impute, Encoding(numbers=numbers, clip=True))
    if impute == "mean":  # which are sums in another order
        np.testing.assert_allclose(found.pop("fill"), expected.fill)
        expected = scaling_module.replace(expected, fill=None)
    assert found == expected.to_dict()
    assert running.scaling().sample == 0


def test_quantiles_of_more_rows_are_those_of_a_sample(monkeypatch):
    monkeypatch.setattr("gpu_backprop.data.running_scaling.SAMPLE_ROWS", 1000)
    values = np.random.default_rng(2).normal(5, 2, (50_000, 2))
    values[:, 1] = 0
    values[77, 1] = 8  # one row of many, which no sample need have
    found = []
    for parts in (7, 90):  # whatever the blocks
        running = RunningScaling(2, "median", Encoding(numbers="robust"))
        for part in np.array_split(values, parts):
            running.add(part)
        found.append(running.scaling())
    assert found[0].to_dict() == found[1].to_dict()
    assert (
        found[0].sample == 1000
        and found[0].describe()[1] == "v/4; where it is missing, v = 0, by a sample of 1,000 rows"
    )
    np.testing.assert_allclose(found[0].center[0], 5, atol=0.25)  # four standard errors of a median
    np.testing.assert_allclose(found[0].spread[0], 2 * 1.349, rtol=0.15)
    assert (found[0].center[1], found[0].spread[1]) == (0, 4)


# Tables -----------------------------------------------------------------------------------------------------------


def flats() -> Table:
    return Table("flats.csv", {
        "m2": np.array([50.0, 60, NAN, 80, 90]), "town": np.array(["b", "a", "a", "a", "c"], object),
        "built": np.array([1900.0, 1950, 1960, 1970, 1971]), "rent": np.array([1.5, 2, 3, 4, 80]),
    })  # fmt: skip


def test_a_table_robust_clipped_and_with_indicators():
    learned = Preprocessing.fit(flats(), "rent", encoding=ROBUST)
    assert learned.features == ["m2", "m2 missing", "town=a", "town=b", "town=c", "built"]
    one = 2 / math.sqrt(1 + 4 / 9)
    x = learned.transform(flats())
    m2 = smooth_clip((np.array([50.0, 60, 70, 80, 90]) - 70) / (82.5 - 57.5))
    np.testing.assert_allclose(x[:, 0], m2, rtol=1e-6)
    np.testing.assert_allclose(x[:, 1], [0, 0, one, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(x[:, 2:5], one * np.array([[0, 1, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1]]), 1e-6)
    np.testing.assert_allclose(x[:, 5], smooth_clip((flats().columns["built"] - 1960) / 20), rtol=1e-6)
    again = Preprocessing.from_dict(json.loads(json.dumps(learned.to_dict(), allow_nan=False)))
    np.testing.assert_array_equal(again.transform(flats()), x)
    assert again.to_dict() == learned.to_dict() and again.features == learned.features
    assert learned.describe() == [
        ("m2", "(v − 70)/25, then x/√(1 + (x/3)²); where it is missing, v = 70, and an input of its own is 1, else 0"),
        ("town", "3 inputs, 1 for the category that it is, else 0: 'a', 'b', 'c'"),
        ("built", "(v − 1960)/20, then x/√(1 + (x/3)²); where it is missing, v = 1960"),
        ("rent", "(v − 18.1)/30.96"),
    ]


def test_rows_of_a_trained_network_that_lack_what_no_training_row_lacked():
    learned = Preprocessing.fit(flats(), "rent", encoding=ROBUST)
    rows = Table("new", {
        "m2": np.array([NAN, 70]), "town": np.array([None, "a"], object), "built": np.array([NAN, 1e300]),
    })  # fmt: skip
    x = learned.transform(rows)
    assert x[:, 0].tolist() == [0, 0] and x[0, 1] > 0 and x[1, 1] == 0
    assert x[:, 5].tolist() == [0, 3]
    assert learned.unseen == {"town": 1, "built": 1}  # not m2, which training rows lacked
    learned = Preprocessing.fit(flats(), "rent", impute="median", encoding=Encoding(clip=True))  # tells nothing apart
    learned.transform(rows)
    assert learned.unseen == {"town": 1}


def test_packed_rows_have_one_number_for_all_categories_of_a_column():
    learned = Preprocessing.fit(flats(), "rent", encoding=ROBUST)
    packed, _ = learned.pack(flats())
    assert packed.shape == (5, 4) and packed.dtype == np.float32  # m2 and whether it is missing, town, built
    assert packed[:, 1].astype(bool).tolist() == [False, False, True, False, False]
    np.testing.assert_array_equal(learned.unpack(packed), learned.transform(flats()))


def test_nothing_is_indicated_where_nothing_is_missing_in_training():
    data = flats()
    learned = Preprocessing.fit(data, "rent", rows=[0, 1, 3, 4], encoding=ROBUST)
    assert "m2 missing" not in learned.features
    assert learned.transform(data)[2, 0] == 0  # the median
    with pytest.raises(DataError, match="column 'm2' has 1 missing value"):
        Preprocessing.fit(data, "rent", encoding=Encoding(numbers="robust"))
    standard = Preprocessing.fit(data, "rent", encoding=Encoding(indicator=True))
    np.testing.assert_array_equal(standard.transform(data)[2, :2], [0, 1])
    constant = Preprocessing.fit(data, "rent", impute="constant", encoding=ROBUST)
    np.testing.assert_allclose(constant.transform(data)[2, 0], smooth_clip(np.array(-70 / 25)), rtol=1e-6)


def test_plain_is_what_it_was_to_the_last_byte():
    stored = Preprocessing.fit(flats(), "rent", impute="mean").to_dict()
    assert stored == {
        "format": 1,
        "inputs": {"kind": "table", "impute": "mean", "columns": [
            {"name": "m2", "mean": [70.0], "std": [math.sqrt(200)], "fill": [70.0]},
            {"name": "town", "categories": ["a", "b", "c"]},
            {"name": "built", "mean": [1950.2], "std": [stored["inputs"]["columns"][2]["std"][0]], "fill": [1950.2]},
        ]},
        "target": {"task": "regression", "column": "rent", "mean": [18.1], "std": [stored["target"]["std"][0]]},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda inputs: inputs.update(one=0), "one is '0'"),
        (lambda inputs: inputs.update(one=True), "one is 'True'"),
        (lambda inputs: inputs["columns"][0].update(indicator="yes"), "indicator is 'yes'"),
        (lambda inputs: inputs.update(impute=None), "what is missing is indicated and not filled in"),
    ],
)
def test_stored_inputs_that_are_damaged(change, message):
    stored = Preprocessing.fit(flats(), "rent", encoding=ROBUST).to_dict()
    change(stored["inputs"])
    with pytest.raises(DataError, match=message):
        Preprocessing.from_dict(stored)


# Arrays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", NUMBERS)
def test_features_of_arrays_are_as_columns_of_tables(numbers):
    x = np.random.default_rng(3).normal(size=(40, 4))
    x[::5, 1], x[3, 3], y = NAN, NAN, np.arange(40) / 3
    encoding = Encoding(numbers=numbers, clip=True, indicator=True)
    table = Table("t", {f"x[{k}]": x[:, k] for k in range(4)} | {"y": y})
    of_table = Preprocessing.fit(table, "y", encoding=encoding)
    of_arrays = Preprocessing.fit(Arrays("a", x, y), encoding=encoding)
    assert of_arrays.features == of_table.features
    assert of_arrays.features[:4] == ["x[0]", "x[1]", "x[1] missing", "x[2]"]
    np.testing.assert_allclose(of_arrays.transform(Arrays("a", x, y)), of_table.transform(table), rtol=1e-6, atol=1e-9)
    assert of_arrays.describe()[:4] == of_table.describe()[:4]
    assert ", and clipped smoothly" in of_arrays.how
    again = Preprocessing.from_dict(json.loads(json.dumps(of_arrays.to_dict())))
    np.testing.assert_array_equal(again.transform(Arrays("a", x)), of_arrays.transform(Arrays("a", x)))
    damaged = of_arrays.to_dict()
    for wrong in ([3, 1], 3, [4], ["1"], None):
        damaged["inputs"]["indicated"] = wrong
        with pytest.raises(DataError, match="indicated are no features"):
            Preprocessing.from_dict(damaged)


@pytest.mark.parametrize("gaps", [[], [1]])
def test_a_gap_in_a_feature_that_had_none_in_training_is_counted(gaps):
    x = np.random.default_rng(3).normal(size=(40, 3))
    x[0, gaps] = NAN
    learned = Preprocessing.fit(Arrays("a", x, x[:, 2]), encoding=Encoding(indicator=True))
    newer = np.ones((5, 3), np.float32)
    newer[:3, 0], newer[1:, 1] = NAN, NAN
    for known in learned, Preprocessing.from_dict(json.loads(json.dumps(learned.to_dict()))):
        known.transform(Arrays("b", newer))
        assert known.unseen == {"x[0]": 3} | ({} if gaps else {"x[1]": 4})
        assert known.numeric.issuperset(known.unseen)
        known.transform(Arrays("c", np.ones((2, 3), np.int64)))
        assert known.unseen == {}
    filled_in = Preprocessing.fit(Arrays("a", x, x[:, 2]), impute="mean")  # as was asked for
    filled_in.transform(Arrays("b", newer))
    assert filled_in.unseen == {}


def test_quantiles_of_too_many_columns_for_a_model_file(tmp_path):
    data = Arrays("a", np.eye(3, 1501), np.arange(3) / 2)
    said = "numbers='quantile' stores up to 256 values .* 1,501 columns .* choose 'robust'"
    with pytest.raises(DataError, match=said):
        Preprocessing.fit(data, encoding=Encoding(numbers="quantile"))
    np.save(tmp_path / "x.npy", data.x)
    np.save(tmp_path / "y.npy", data.y)
    with pytest.raises(DataError, match=said):
        open_rows(tmp_path / "x.npy", encoding=Encoding(numbers="quantile"))


def test_images_are_pixels_in_every_encoding():
    data = Arrays("a", np.full((4, 40, 40), 255, np.uint8), np.array([0, 1, 0, 1]))
    for encoding in TABULAR, Encoding(numbers="quantile"):
        np.testing.assert_array_equal(Preprocessing.fit(data, encoding=encoding).transform(data), 1)


# The target -------------------------------------------------------------------------------------------------------


def test_predictions_within_the_range_of_the_training_rows():
    learned = Preprocessing.fit(flats(), "rent", rows=[0, 1, 2, 3], encoding=Encoding(indicator=True, clip_target=True))
    assert learned.describe()[-1][1].endswith(", and predictions are kept within 1.5 … 4")
    y = learned.targets(flats())
    np.testing.assert_allclose(learned.inverse(y)[:, 0], [1.5, 2, 3, 4, 4])
    np.testing.assert_allclose(learned.inverse(y, clip=False)[:, 0], [1.5, 2, 3, 4, 80])
    assert learned.inverse([[1e9], [-1e9]]).tolist() == [[4], [1.5]]
    again = Preprocessing.from_dict(json.loads(json.dumps(learned.to_dict())))
    assert again.to_dict() == learned.to_dict()
    assert again.inverse([[1e9]]).tolist() == [[4]]
    raw = Preprocessing.fit(flats(), "rent", standardise_target=False, encoding=TABULAR)
    assert raw.inverse([[90.0], [5.5], [0.0]]).tolist() == [[80], [5.5], [1.5]]
    several = Preprocessing.fit(Arrays("a", np.eye(3), np.array([[1, 5.5], [2, 5], [4, 6]])), encoding=TABULAR)
    assert several.inverse([[-9, 9]]).tolist() == [[1, 6]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"low": [1.0, 2.0]}, "low and high have other lengths"),
        ({"low": [90.0]}, "low is above its high"),
        ({"low": None}, "low is no list"),
        ({"clip": True}, "a target is scaled as inputs are"),
    ],
)
def test_a_stored_range_that_is_damaged(change, message):
    stored = Preprocessing.fit(flats(), "rent", encoding=TABULAR).to_dict()
    stored["target"].update(change)
    with pytest.raises(DataError, match=message):
        Preprocessing.from_dict(stored)


# Numbers that people wrote ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", NUMBERS)
def test_numbers_that_people_wrote_are_scaled_clipped_and_indicated(numbers, tmp_path):
    draw = np.random.default_rng(4).integers
    rows = [(draw(1, 99), 1000 + draw(1, 9999) / 100, draw(1, 99), draw(1000, 9999), draw(1, 9) / 2) for _ in range(60)]
    written, plain = ["kg;area;share;price;rent"], ["kg;area;share;price;rent"]
    for row, (kg, area, share, price, rent) in enumerate(rows):
        shown = [f"{kg} kg", f"{area:,.2f}", f"{share} %", f"${price:,}", f"{rent} €"]
        bare = [str(value) for value in (kg, area, share, price, rent)]
        for column in range(4):
            if row % (column + 5) == 0:
                shown[column], bare[column] = "", "n/a"
        written.append(";".join(shown))
        plain.append(";".join(bare))
    (tmp_path / "written.csv").write_text("\n".join(written))
    (tmp_path / "plain.csv").write_text("\n".join(plain))
    encoding = Encoding(numbers=numbers, clip=True, indicator=True, clip_target=True)
    tables = [read(tmp_path / f"{name}.csv") for name in ("written", "plain")]
    learned, expected = (Preprocessing.fit(table, "rent", task="regression", encoding=encoding) for table in tables)
    assert learned.features == expected.features
    assert learned.features == [
        f"{name}{more}" for name in ("kg", "area", "share", "price") for more in ("", " missing")
    ]
    np.testing.assert_array_equal(learned.transform(tables[0]), expected.transform(tables[1]))
    np.testing.assert_array_equal(learned.targets(tables[0]), expected.targets(tables[1]))
    assert sum("which is read as" in warning for warning in learned.warnings) == 5
    again = Preprocessing.from_dict(json.loads(json.dumps(learned.to_dict())))
    np.testing.assert_array_equal(again.transform(read(tmp_path / "written.csv")), learned.transform(tables[0]))
    with open_rows(tmp_path / "written.csv", target="rent", task="regression", encoding=encoding) as streamed:
        assert streamed.preprocessing.features == learned.features
        np.testing.assert_allclose(streamed.read(slice(0, 60)), learned.transform(tables[0]), rtol=1e-5, atol=1e-6)
