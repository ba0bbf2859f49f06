"""Preprocessing: what is learned from the training rows, how it is applied, and what is refused or warned of."""

from __future__ import annotations

import copy
import datetime
import json
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gpu_backprop.data import Arrays, DataError, Preprocessing, Table, load_digits, read, stratified_split
from gpu_backprop.data.encoding import PLAIN, TABULAR, Encoding


def table(source="people.csv", **columns) -> Table:
    """A table from lists: numbers with None where one is missing, or texts."""
    made = {}
    for name, values in columns.items():
        text = any(isinstance(value, str) for value in values)
        made[name] = np.array(values, object if text else np.float64)  # None becomes NaN
    rows = len(next(iter(columns.values())))
    return Table(source, made, np.arange(2, 2 + rows))


def people() -> Table:
    return table(
        age=[20, 30, 40, 50],
        sex=["m", "f", "m", "m"],
        height=[1.5, 1.5, 2.5, 2.5],
        city=["Bonn", "Ulm", "Bonn", "Ulm"],
        says=["yes", "no", "no", "yes"],
    )


def lacking(data: Table) -> Table:
    """The same without an age in the third row."""
    data.columns["age"][2] = np.nan
    return data


def refuses(message):
    return pytest.raises(DataError, match=message)


# x ----------------------------------------------------------------------------------------------------------------


def test_worked_by_hand():
    learned = Preprocessing.fit(people(), "says")
    assert learned.features == ["age", "sex=f", "sex=m", "height", "city=Bonn", "city=Ulm"]
    a = np.sqrt(1.8), np.sqrt(0.2)  # (20 − 35)/√125 = −√1.8, (30 − 35)/√125 = −√0.2
    expected = [
        [-a[0], 0, 1, -1, 1, 0],
        [-a[1], 1, 0, -1, 0, 1],
        [a[1], 0, 1, 1, 1, 0],
        [a[0], 0, 1, 1, 0, 1],
    ]
    x = learned.transform(people())
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, expected, rtol=1e-6)
    assert (learned.inputs, learned.outputs) == (6, 2)
    assert learned.columns == ["age", "sex", "height", "city"]
    assert learned.target == "says"
    assert (learned.unseen, learned.extra) == ({}, [])


def test_only_the_training_rows_count():
    data = table(a=[1, 3, 100, np.nan], t=["u", "v", "w", "v"], y=[0.5, 1.5, 9, 8])
    learned = Preprocessing.fit(data, "y", rows=[0, 1], impute="mean")
    np.testing.assert_array_equal(learned.transform(data), [[-1, 1, 0], [1, 0, 1], [98, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(learned.targets(data), [[-1], [1], [16], [14]])
    assert learned.unseen == {"t": 1}
    same = Preprocessing.fit(data, "y", rows=np.array([True, True, False, False]), impute="mean")
    assert same.to_dict() == learned.to_dict()


@pytest.mark.parametrize("rows", [[], [-1], [4], [0.5], [[0]], "ab", [True, False]])
def test_rows_that_are_none(rows):
    with refuses("rows"):
        Preprocessing.fit(people(), "says", rows=rows)


@pytest.mark.parametrize(("impute", "fill"), [("mean", 4.0), ("median", 2.0), ("constant", 0.0)])
def test_what_takes_the_place_of_missing_numbers(impute, fill):
    data = table(a=[None, 1, 2, 9], t=["u", None, "v", "u"], y=[0.5, 1, 2, 3])
    learned = Preprocessing.fit(data, "y", impute=impute)
    assert learned.features == ["a", "t=u", "t=v", "t missing"]
    filled = np.array([fill, 1, 2, 9])
    np.testing.assert_allclose(learned.transform(data)[:, 0], (filled - filled.mean()) / filled.std(), rtol=1e-6)
    np.testing.assert_array_equal(learned.transform(data)[:, 1:], [[1, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(learned.transform(table(a=[1], t=[None]))[:, 1:], [[0, 0, 1]])  # t is numeric here
    later = learned.transform(table(a=[np.nan, 1], t=[None, "w"]))
    np.testing.assert_allclose(later[0, 0], (fill - filled.mean()) / filled.std(), rtol=1e-6)
    np.testing.assert_array_equal(later[:, 1:], [[0, 0, 1], [0, 0, 0]])
    assert learned.unseen == {"t": 1}


def test_a_missing_text_that_the_training_data_did_not_have_is_unseen():
    learned = Preprocessing.fit(people(), "says", impute="mean")
    data = table(age=[None], sex=[None], height=[2], city=["Bonn"])
    np.testing.assert_array_equal(learned.transform(data), [[0, 0, 0, 0, 1, 0]])
    assert learned.unseen == {"sex": 1}


def test_missing_values_are_refused_without_imputation():
    data = table(age=[20, None, None], sex=["m", None, "f"], id=[None, 1, 2], y=["a", "b", "a"])
    with refuses(
        r"^people\.csv: column 'age' has 2 missing values, the first in line 3, and 2 more columns have some; "
        r"fill them in, or train with --impute mean, median or constant \(impute= in Python\)$"
    ):
        Preprocessing.fit(data, "y")
    with refuses("column 'sex' has 1 missing value, the first in line 3; fill"):
        Preprocessing.fit(data, "y", ignore=["age", "id"])
    learned = Preprocessing.fit(people(), "says")
    with refuses("column 'sex' has 1 missing value, the first in line 2; fill them in, or train with --impute"):
        learned.transform(table(age=[3], sex=[None], height=[2], city=["Bonn"]))


def test_the_order_of_columns_does_not_matter_and_others_are_said():
    learned = Preprocessing.fit(people(), "says")
    x = learned.transform(people())
    turned = dict(reversed(people().columns.items()))
    np.testing.assert_array_equal(learned.transform(Table("a.csv", turned | {"id": np.arange(4.0)})), x)
    assert learned.extra == ["id"]
    del turned["says"]
    np.testing.assert_array_equal(learned.transform(Table("a.csv", turned)), x)
    assert learned.extra == []


def test_columns_that_are_absent():
    learned = Preprocessing.fit(people(), "says")
    with refuses(
        r"^b\.csv lacks 2 columns that the training data had: 'age', 'city'; did you mean 'Age'\? it has 'Age'"
    ):
        learned.transform(table("b.csv", Age=[1], sex=["m"], height=[2]))


def test_unseen_categories_are_counted():
    learned = Preprocessing.fit(people(), "says")
    data = table(age=[35] * 3, sex=["x", "m", "X"], height=[2] * 3, city=["Bonn", "Köln", "Ulm"])
    np.testing.assert_array_equal(learned.transform(data)[:, [1, 2, 4, 5]], [[0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    assert learned.unseen == {"sex": 2, "city": 1}
    learned.transform(people())
    assert learned.unseen == {}


def test_texts_that_look_like_numbers_in_another_file_are_the_same_categories():
    learned = Preprocessing.fit(table(code=["7", "07b", "1.50", "7"], y=["1", "2", "x", "x"]), "y")
    assert learned.features == ["code=07b", "code=1.50", "code=7"]
    later = table(code=[7, 1.5, 8], y=[2, 1, 1])
    np.testing.assert_array_equal(learned.transform(later), [[0, 0, 1], [0, 1, 0], [0, 0, 0]])
    assert learned.unseen == {"code": 1}
    np.testing.assert_array_equal(learned.targets(later), [1, 0, 0])


def test_numbers_that_a_file_has_as_text():
    learned = Preprocessing.fit(table(a=[1, 3], y=[0.5, 1]), "y", impute="constant")
    np.testing.assert_array_equal(learned.transform(table(a=["3", "5", None])), [[1], [3], [-2]])
    with refuses(
        r"^people\.csv, line 3: 'three' in column 'a', which held numbers in the training data; correct it, or"
    ):
        learned.transform(table(a=["3", "three", None]))


def test_numbers_in_a_format_of_their_own():
    data = table(a=["$1,000", "$3,000.00", "-$1,000", None], y=["50 %", "51%", "-17.5%", "0 %"])
    learned = Preprocessing.fit(data, "y", impute="constant")
    assert (learned.features, learned.task) == (["a"], "regression")
    a = np.array([1000, 3000, -1000, 0])
    np.testing.assert_allclose(learned.transform(data)[:, 0], (a - a.mean()) / a.std(), rtol=1e-6)
    np.testing.assert_allclose(learned.inverse(learned.targets(data))[:, 0], [50, 51, -17.5, 0], atol=1e-9)
    assert learned.warnings == [
        "people.csv: column 'a' has numbers such as '$1,000' in line 2, which is read as 1000; --text 'a' keeps such "
        "text (text= in Python)",
        "people.csv: column 'y' has numbers such as '50 %' in line 2, which is read as 50; --text 'y' keeps such text "
        "(text= in Python)",
    ]
    again = Preprocessing.from_dict(json.loads(json.dumps(learned.to_dict())))
    np.testing.assert_array_equal(again.transform(data), learned.transform(data))
    with refuses(r"line 3: '7' in column 'a', which held numbers such as '\$1,234.5' in the training data; correct it"):
        again.transform(table(a=["$5", "7"]))
    with refuses("line 2: '0.5' in column 'a', which held numbers such as"):  # $0.5, or thousands of them?
        again.transform(table(a=[0.5]))
    with refuses("line 2: column 'y' is the text '0.5', and regression needs numbers such as '12%'; correct it"):
        again.targets(table(y=["0.5"]))


def test_a_format_is_that_of_all_rows_whatever_is_learned_from():
    data = table(a=["5%", "6%", "?", "7%"], y=[0.5, 1, 2, 3])
    assert Preprocessing.fit(data, "y", rows=[0, 1, 3]).features == ["a=5%", "a=6%", "a=7%"]


def test_many_texts_that_are_numbers_but_for_one():
    cells = [f"{n}.5" for n in range(12_000)] + ["?"]
    with refuses("column 'a' has numbers in all but 1 row, .* because line 12002 has '[?]'; correct it"):
        Preprocessing.fit(table(a=cells, y=[0.5] + [1] * 12_000), "y")
    with refuses(
        "column 'y' has numbers in all but 1 row, .* each a class, because line 12002 has '[?]'; correct it, or "
    ):
        Preprocessing.fit(table(a=[0.5] + [1] * 12_000, y=cells), "y")


def test_texts_that_mean_the_same_are_one_category():
    data = table(
        t=["true", "TRUE", "False", "true"], u=["é", "e\u0301", "e", "é"], y=["True", "false", "true", "false"]
    )
    learned = Preprocessing.fit(data, "y")
    assert learned.features == ["t=False", "t=TRUE", "u=e", "u=e\u0301"]
    np.testing.assert_array_equal(learned.transform(data), [[0, 1, 0, 1], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]])
    assert (learned.classes, learned.unseen) == (["True", "false"], {})
    np.testing.assert_array_equal(learned.targets(data), [0, 1, 0, 1])
    older = learned.to_dict()  # of a version that kept them apart
    older["inputs"]["columns"][0]["categories"] = ["False", "TRUE", "true"]
    np.testing.assert_array_equal(
        Preprocessing.from_dict(older).transform(data)[:, :3], [[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1]]
    )


def test_names_are_the_same_in_composed_and_decomposed_form():
    composed, decomposed = "qualité", "qualite\u0301"
    for one, other in (composed, decomposed), (decomposed, composed):
        data = table(**{one: ["a", "b"], "x": [1, 2], "café": [1, 2]}, y=[0.5, 1])
        learned = Preprocessing.fit(data, "y", ignore=["cafe\u0301"])
        assert learned.columns == [composed, "x"]
        np.testing.assert_array_equal(learned.transform(table(**{other: ["b"], "x": [2]})), [[0, 1, 1]])
        assert Preprocessing.fit(data, other).target == composed
    stored = learned.to_dict()  # by a version that kept names as they came
    stored["inputs"]["columns"][0]["name"] = stored["target"]["column"] = decomposed
    stored["inputs"]["columns"][0]["name"] = "cafe\u0301"
    again = Preprocessing.from_dict(stored)
    assert (again.columns, again.target) == (["café", "x"], composed)
    with refuses("two columns have one name, in other forms of its letters"):
        Table("t", {composed: np.zeros(2), decomposed: np.zeros(2)})


def test_a_column_of_one_value_is_0_whatever_comes_later():
    data = table(a=[0.1] * 7, b=[*range(6), 0], y=[0.5, 1, 2, 3, 4, 5, 6])
    learned = Preprocessing.fit(data, "y")
    assert learned.warnings == ["people.csv: column 'a' has one value in every row, from which nothing can be learned"]
    assert (learned.transform(data)[:, 0] == 0).all()
    assert learned.transform(table(a=[1e30], b=[2]))[0, 0] == 0
    gaps = table(a=[0.1] * 6 + [None], b=[*range(6), 0], y=[0.5, 1, 2, 3, 4, 5, 6])  # the mean of six is 0.0999…
    for impute in "mean", "median":
        assert (Preprocessing.fit(gaps, "y", impute=impute).transform(gaps)[:, 0] == 0).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, np.inf, 3], "line 3: inf in column 'a', which no network can use; correct it"),
        ([1e308, 1e308, -1e308], "column 'a' has numbers too large to be scaled; leave it out with --ignore"),
    ],
)
def test_numbers_that_no_network_can_use(values, message):
    with refuses(message):
        Preprocessing.fit(table(a=values, y=[0.5, 1, 2]), "y")


def test_a_column_without_values():
    data = table(a=[None, None], b=[1, 2], y=[0.5, 1])
    with refuses("column 'a' has no values to learn from; leave it out with --ignore"):
        Preprocessing.fit(data, "y", impute="mean")
    learned = Preprocessing.fit(data, "y", impute="constant")
    assert (learned.transform(data)[:, 0] == 0).all()
    assert learned.warnings[0].startswith("people.csv: column 'a' has one value in every row")


def test_a_later_number_out_of_all_proportion():
    learned = Preprocessing.fit(table(a=[1, 1 + 1e-9], y=[0.5, 1]), "y")
    with refuses(r"line 3: 1e\+300 in column 'a' is too far from the training data, whose mean is 1; correct it"):
        learned.transform(table(a=[1, 1e300]))
    with refuses("line 2: -inf in column 'a'"):
        learned.transform(table(a=[-np.inf]))


def test_columns_to_ignore():
    learned = Preprocessing.fit(people(), "says", ignore=["age", "city"])
    assert learned.columns == ["sex", "height"]
    with refuses("column 'agee', which is to be ignored, is not there; did you mean 'age'"):
        Preprocessing.fit(people(), "says", ignore=["agee"])
    with refuses("column 'says', which is to be ignored, is the target; it has 'age'"):
        Preprocessing.fit(people(), "says", ignore=["says"])
    with refuses("people.csv has no column to learn from, because all but the target are ignored; ignore fewer$"):
        Preprocessing.fit(people(), "says", ignore=["age", "sex", "height", "city"])
    with refuses(r"people\.csv has no column to learn from but 'y'; .*--delimiter"):
        Preprocessing.fit(table(y=["a", "b"]), "y")


def test_the_column_that_makes_most_inputs_is_named_where_they_take_too_much():
    data = table(a=[1, 2, 3, 4], t=list("uvwx"), y=[0.5, 1, 2, 3])
    with refuses("4 rows of 5 inputs, and column 't' makes 4 of them .*, 80 bytes unpacked, more than the limit of"):
        Preprocessing.fit(data, "y").transform(data, memory_limit=40)
    with refuses("lacks 1 column that the training data had: 't'; add it, it has 'a'"):
        Preprocessing.fit(data, "y").transform(table(a=[1]))


def test_inputs_that_do_not_fit_into_memory(monkeypatch):
    learned = Preprocessing.fit(people(), "says")

    def full(*_):
        raise MemoryError("Unable to allocate 7.45 GiB for an array")

    monkeypatch.setattr(np, "zeros", full)
    with refuses(
        "people.csv: 4 rows of 6 inputs are too large for the memory of this machine; column 'sex' makes 2 of "
        "them .*: leave it out with --ignore"
    ):
        learned.transform(people())


def test_too_many_categories():
    words = [f"word {number}" for number in range(10_001)]
    said = (
        "column 't' has 1,001 different texts, each of which would be an input of the network, .*; leave it out with "
    )
    with refuses(said + "--ignore .*, or hash it to 256 inputs with --hash"):
        Preprocessing.fit(table(t=words[:1001], y=["a", *["b"] * 1000]), "y")
    with refuses("column 't' has 10,001 different values, more than the 10,000 that can be classes; choose --task"):
        Preprocessing.fit(table(t=words, a=list(range(10_001))), "t")


def test_a_hashed_column():
    words = [*(f"word {number}" for number in range(3000)), "true", "TRUE", None]
    data = table(t=words, n=list(range(3003)), y=["a", "a", *["b"] * 3001])
    learned = Preprocessing.fit(data, "y", hashed={"t": 5, "n": 3}, impute="mean")
    assert learned.features == [f"t hashed to {k}" for k in range(5)] + [f"n hashed to {k}" for k in range(3)]
    x = learned.transform(data)
    assert (x[:, :5].sum(axis=1) == 1).all() and (x[:, 5:].sum(axis=1) == 1).all()
    assert learned.warnings == [] and learned.unseen == {}
    # blake2b(word, digest_size=8) as a little-endian number, modulo 5: by hand, with hashlib
    assert x[:3, :5].argmax(axis=1).tolist() == [1, 0, 1]
    assert (x[3000] == x[3001])[:5].all()
    assert abs(x[:, :5].sum(axis=0) - 600).max() < 90  # four standard deviations
    again = Preprocessing.from_dict(json.loads(json.dumps(learned.to_dict())))
    np.testing.assert_array_equal(again.transform(data), x)
    assert again.transform(table(t=["never seen"], n=[7])).sum() == 2
    for wrong in (0, 10_001, 2.5, True):
        with refuses(f"column 't' is to be hashed to '{wrong}' inputs; give a number from 1 to 10,000"):
            Preprocessing.fit(data, "y", hashed={"t": wrong})
    with refuses("column 'u', which is to be hashed, is not there; .*it has 't', 'n', 'y'"):
        Preprocessing.fit(data, "y", hashed={"u": 5})
    with refuses("holds arrays, which have no columns to hash; leave 't' out"):
        Preprocessing.fit(Arrays("a", np.ones((2, 1)), np.arange(2.0)), hashed={"t": 5})


# Arrays -----------------------------------------------------------------------------------------------------------


def test_images():
    x = np.array([[[0, 255]], [[51, 102]]], np.uint8)
    learned = Preprocessing.fit(Arrays("mnist", x, np.array([3, 7])))
    np.testing.assert_array_equal(learned.transform(Arrays("more", x)), np.array([[0, 1], [0.2, 0.4]], np.float32))
    assert (learned.task, learned.classes, learned.inputs) == ("classification", [3, 7], 2)
    assert learned.warnings == [
        "mnist: the classes '3', '7' have one row only, the first in row 1, which can be learned "
        + "from or tested on, not both; add rows"
    ]
    assert learned.how == "pixels, divided by 255"
    with refuses(
        r"^more: x has the dtype int64, and that of the training data was uint8, from 0 to 255; give the same$"
    ):
        learned.transform(Arrays("more", x.astype(np.int64)))


PIXELS = np.array([[0, 255, 17, 4], [51, 102, 3, 9], [1, 2, 3, 130]], np.uint8)


@pytest.mark.parametrize(
    ("shape", "flags", "images"),
    [
        ((3, 2, 2), {}, True),
        ((3, 2, 2, 1), {}, True),
        ((3, 4), {"images": True}, True),
        ((3, 4), {}, False),
        ((3, 4, 1, 1, 1), {}, False),
    ],
)
def test_images_are_what_comes_as_images(shape, flags, images):
    """In two axes, uint8 is only a small way to store numbers; new rows may have either shape."""
    y = np.array([1, 2, 2])
    data = Arrays("a", PIXELS.reshape(shape), y, **flags)
    learned = Preprocessing.fit(data)
    numbers = Preprocessing.fit(Arrays("a", PIXELS.astype(np.int64), y)).transform(data)
    expected = PIXELS / np.float32(255) if images else numbers
    for form in (3, 4), (3, 2, 2):
        np.testing.assert_array_equal(learned.transform(Arrays("b", PIXELS.reshape(form))), expected)
    assert learned.how.startswith("pixels" if images else "each brought to mean 0 and standard deviation 1 (for pixels")


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_images_of_other_types_are_numbers(dtype):
    assert not Arrays("a", PIXELS.reshape(3, 2, 2).astype(dtype), images=True).images


@pytest.mark.parametrize("white", [1, 16, 127])
def test_the_largest_pixel_of_dark_images_is_white(white):
    x = (np.arange(12).reshape(3, 2, 2) % 2 * white).astype(np.uint8)
    x[2] = 200  # held out
    learned = Preprocessing.fit(Arrays("a", x, np.array([1, 2, 2])), rows=[0, 1])
    np.testing.assert_array_equal(learned.transform(Arrays("a", x))[:2], [[0, 1, 0, 1]] * 2)
    assert learned.how == "pixels, divided by the largest among the rows to learn from"
    black = Preprocessing.fit(Arrays("a", np.zeros((2, 2, 2), np.uint8), np.array([1, 2])))
    assert (black.transform(Arrays("a", x)) == 0).all()


def test_what_was_stored_of_bytes_in_two_axes_is_applied_as_before():
    stored = {
        "format": 1,
        "inputs": {"kind": "bytes", "inputs": 4},
        "target": {"task": "classification", "column": None, "classes": [1, 2]},
    }
    x = Preprocessing.from_dict(stored).transform(Arrays("a", PIXELS))
    np.testing.assert_array_equal(x, PIXELS / np.float32(255))


def test_arrays_of_other_types_are_scaled_feature_by_feature():
    x = np.array([[1, 5, 10], [3, 5, 20], [100, 6, 100]])
    learned = Preprocessing.fit(Arrays("a.npz", x, np.array([0, 1, 1])), rows=[0, 1])
    np.testing.assert_array_equal(learned.transform(Arrays("a.npz", x)), [[-1, 0, -1], [1, 0, 1], [98, 0, 17]])
    assert learned.features == ["x[0]", "x[1]", "x[2]"]
    assert "a.npz: 'x[1]' has one value in every row, from which nothing can be learned" in learned.warnings
    with refuses("b: x has 2 features a row, and the training data had 3; give the same"):
        learned.transform(Arrays("b", x[:, :2]))
    with refuses("holds a table, and the training data were arrays; give .npz"):
        learned.transform(people())
    with refuses("holds arrays, and the training data were a table; give CSV, .* with the columns 'age'"):
        Preprocessing.fit(people(), "says").transform(Arrays("b", x))


def test_arrays_larger_than_a_block(monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (50, 7)).astype(np.float32)
    x[4, 2] = np.nan
    data = Arrays("a", x, rng.normal(size=50))
    whole = Preprocessing.fit(data, impute="median")
    monkeypatch.setattr("gpu_backprop.data.array_inputs.BLOCK", 20)
    parts = Preprocessing.fit(data, impute="median")
    np.testing.assert_allclose(parts.transform(data), whole.transform(data), rtol=1e-6, atol=1e-6)
    filled = np.where(np.isnan(x), np.nanmedian(x, axis=0), x).astype(np.float64)
    np.testing.assert_allclose(whole.transform(data), (filled - filled.mean(0)) / filled.std(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, r"^a: x has 2 missing values \(NaN\), the first in row 2; fill them in, or train with --impute"),
        (np.inf, r"^a, row 2: x\[1\] is infinite; correct it, or put NaN if it is missing"),
    ],
)
def test_values_that_arrays_may_not_have(value, message):
    x = np.array([[1, 2], [3, value], [value, 4]])
    with refuses(message):
        Preprocessing.fit(Arrays("a", x, np.array([0.5, 1, 2])), rows=[0, 1])
    learned = Preprocessing.fit(Arrays("a", np.eye(2), np.array([0.5, 1])))
    with refuses(message):
        learned.transform(Arrays("a", x))


def test_numbers_in_arrays_out_of_all_proportion():
    with refuses(r"^a: x\[1\] has no values to learn from, or numbers too large to be scaled; leave this feature out$"):
        Preprocessing.fit(Arrays("a", np.array([[1, 1e308], [2, -1e308]]), np.array([0.5, 1])))
    learned = Preprocessing.fit(Arrays("a", np.array([[1], [1 + 1e-9]]), np.array([0.5, 1])))
    with refuses(r"^b, row 2: 1e\+300 in x\[0\] is too far from the training data, whose mean is 1; correct it$"):
        learned.transform(Arrays("b", np.array([[1], [1e300]])))


def test_arrays_have_no_columns():
    data = Arrays("a", np.eye(3), np.arange(3))
    with refuses("a holds arrays, whose target is y and has no name; leave 'y' out"):
        Preprocessing.fit(data, "y")
    with refuses("a holds arrays, which have no columns to ignore"):
        Preprocessing.fit(data, ignore=["x"])
    with refuses("a has no y, which would be the target"):
        Preprocessing.fit(Arrays("a", np.eye(3)))


# The target -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "task", "classes", "why"),
    [
        (["b", "a", "b"], "auto", ["a", "b"], "column 'y' is text, so this is classification into 2 classes"),
        ([3, -1, 3], "auto", [-1, 3], "column 'y' has 2 different whole numbers, no more than 20, so this is classif"),
        ([*range(20)] * 2, "auto", list(range(20)), "column 'y' has 20 different whole numbers, no more than 20, so"),
        (
            [1, 2, 3, 4, 5],
            "auto",
            [1, 2, 3, 4, 5],
            "column 'y' has 5 different whole numbers, no more than 20, so this",
        ),
        (
            [*range(17), 3, 3, 3],
            "auto",
            None,
            "column 'y' has 17 different whole numbers in 20 rows (--task classification takes them as classes), so",
        ),
        (
            list(range(21)),
            "auto",
            None,
            "column 'y' has 21 different whole numbers, more than 20, so this is regression",
        ),
        (
            [1, 2, 2**60],
            "auto",
            None,
            "column 'y' has numbers of too many digits for classes, so this is regression",
        ),
        ([1, 2, 2.5], "auto", None, "column 'y' has numbers with fractions, so this is regression"),
        ([1, 2, 2], "regression", None, "regression was asked for, so this is regression"),
        (list(range(21)), "classification", list(range(21)), "classification was asked for, so this is"),
        (
            [f"{n}%" for n in range(50)],
            "auto",
            None,
            "column 'y' has 50 different whole numbers, more than 20, so this",
        ),
        (["1,5", "2,5", "3"], "auto", None, "column 'y' has numbers with fractions, so this is regression"),
        (
            ["1 star", "5 star"] * 9,
            "auto",
            ["1 star", "5 star"],
            "column 'y' is text, so this is classification into 2",
        ),
        (["1%", "2%"] * 9, "regression", None, "regression was asked for, so this is regression"),
    ],
)
def test_which_task_it_is(values, task, classes, why):
    learned = Preprocessing.fit(table(a=list(range(len(values))), y=values), "y", task=task)
    assert learned.task == ("regression" if classes is None else "classification")
    assert learned.classes == classes
    assert learned.outputs == (1 if classes is None else len(classes))
    assert learned.why.startswith(why)


def test_labels_and_their_names():
    data = table(a=[1, 2, 3, 4], y=["cat", "ant", "bee", "ant"])
    learned = Preprocessing.fit(data, "y")
    labels = learned.targets(data)
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, [2, 0, 1, 0])
    assert learned.inverse(labels).tolist() == ["cat", "ant", "bee", "ant"]
    assert learned.inverse(np.array([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]])).tolist() == ["cat", "ant"]
    with refuses(
        r"^people\.csv, line 3: column 'y' is 'dog', which is none of the classes that were learned, 'ant', 'b"
    ):
        learned.targets(table(a=[1, 2], y=["cat", "dog"]))


def test_labels_of_several_columns():
    learned = Preprocessing.fit(Arrays("a", np.eye(3), np.array([1, 2, 2])))
    with refuses(r"b: y has the shape \(3, 2\), .* a class a row, \(rows,\), or one-hot rows, .*which row 1 is not"):
        learned.targets(Arrays("b", np.eye(3), np.ones((3, 2))))
    assert learned.targets(Arrays("b", np.eye(3), np.eye(3)[[1, 2, 1]])).tolist() == [0, 1, 0]
    with refuses("b, row 2: y is '0', which is none of the classes that were learned, '1', '2'"):
        learned.targets(Arrays("b", np.eye(3), np.eye(3)[[1, 0, 1]]))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, bool])
def test_one_hot_rows_are_classes(dtype):
    labels = np.array([2, 0, 1, 2, 0, 1])
    data = Arrays("a", np.eye(6), np.eye(3)[labels].astype(dtype))
    learned = Preprocessing.fit(data)
    assert learned.why == (
        "y is one-hot, 0 but for a single 1 in each row (--task regression takes them as numbers), so this is "
        "classification into 3 classes"
    )
    assert learned.classes == [0, 1, 2]
    assert learned.targets(data).tolist() == labels.tolist()
    assert learned.targets(Arrays("b", np.eye(6), labels)).tolist() == labels.tolist()
    assert Preprocessing.fit(data, task="classification").to_dict() == learned.to_dict()
    assert Preprocessing.fit(data, task="regression").outputs == 3


@pytest.mark.parametrize("row", [[1, 1, 0], [0, 0, 0], [0, 0.5, 0.5], [-1, 1, 1], [2, 0, 0]])
def test_one_row_that_is_not_one_hot_makes_numbers_of_all(row):
    data = Arrays("a", np.eye(4), np.array([*np.eye(3), row]))
    assert Preprocessing.fit(data).why == "y has 3 columns, so this is regression"
    with refuses(r"a: y has the shape \(4, 3\), and .* which row 4 is not; give such, or choose --task regression"):
        Preprocessing.fit(data, task="classification")


def test_labels_by_format_are_classes_however_many():
    data = Arrays("letters", np.eye(26), np.arange(26), labelled=True)
    learned = Preprocessing.fit(data)
    assert learned.why == (
        "the labels in letters are classes (--task regression takes them as numbers), so this is classification into "
        "26 classes"
    )
    assert Preprocessing.fit(data, task="regression").why == "regression was asked for, so this is regression"
    with refuses("letters, row 2: y is 0.5, and a class is a text or a whole number"):
        Preprocessing.fit(Arrays("letters", np.eye(3), np.array([0, 0.5, 1]), labelled=True))


def test_quantities_that_are_text_in_a_file():
    learned = Preprocessing.fit(table(a=[1, 3], y=[0.5, 1.5]), "y")
    np.testing.assert_array_equal(learned.targets(table(y=["0.5", "2.5"])), [[-1], [3]])


def test_whole_numbers_as_names():
    data = table(a=[1, 2, 3], y=[7, -2, 7])
    learned = Preprocessing.fit(data, "y")
    assert learned.inverse(learned.targets(data)).tolist() == [7, -2, 7]
    assert all(type(name) is int for name in learned.classes)
    assert learned.targets(table(y=["-2.0", "7"])).tolist() == [0, 1]
    with refuses("line 2: column 'y' is '1.5', which is none of the classes that were learned, '-2', '7'; correct it"):
        learned.targets(table(y=[1.5]))
    with refuses("line 3: column 'y' is 'seven', which is none"):
        learned.targets(table(y=["7", "seven"]))


def test_quantities_are_scaled_unless_that_is_not_wanted():
    data = table(a=[1, 2, 3, 4], price=[100, 300, 100, 300])
    learned = Preprocessing.fit(data, "price", task="regression")
    np.testing.assert_array_equal(learned.targets(data), [[-1], [1], [-1], [1]])
    np.testing.assert_array_equal(learned.inverse(np.array([[0.5], [-2]], np.float32)), [[250], [0]])
    plain = Preprocessing.fit(data, "price", task="regression", standardise_target=False)
    np.testing.assert_array_equal(plain.targets(data), [[100], [300], [100], [300]])
    np.testing.assert_array_equal(plain.inverse([[5.0]]), [[5]])


def test_several_quantities_a_row():
    data = Arrays("a", np.eye(4), np.array([[1.0, 10, 7], [3, 30, 7], [1, 10, 7], [3, 30, 7]]))
    learned = Preprocessing.fit(data)
    assert (learned.task, learned.outputs, learned.classes) == ("regression", 3, None)
    assert learned.why == "y has 3 columns, so this is regression"
    np.testing.assert_array_equal(learned.targets(data)[:2], [[-1, -1, 0], [1, 1, 0]])
    np.testing.assert_array_equal(learned.inverse(learned.targets(data)), data.y)
    with refuses(r"a: y has the shape \(4, 3\), and classification needs a class a row"):
        Preprocessing.fit(data, task="classification")
    with refuses("b: y has 1 number a row, and that of the training data had 3"):
        learned.targets(Arrays("b", np.eye(4), np.arange(4.0)))


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (["a", "a", "a"], {}, "column 'y' is 'a' in every row, which leaves nothing to tell apart; give rows of two"),
        ([3, 3, 3], {}, "column 'y' is '3' in every row, which leaves nothing to tell apart"),
        ([3, 3, 4], {"rows": [0, 1]}, "column 'y' is '3' in every row"),
        ([2.0**53] * 3, {}, "column 'y' is 9007199254740992 in every row to float64, which leaves nothing to learn"),
        (
            [1, 2, 2.0**53],
            {"task": "classification"},
            "line 4: column 'y' is 9007199254740992, and a class is a text or",
        ),
        (
            ["1,200", "2,300", "2,400"],
            {"task": "regression"},
            "column 'y' has numbers such as '1,200' in line 2, which",
        ),
        ([2.5, 2.5, 2.5], {}, "column 'y' is 2.5 in every row, which leaves nothing to learn"),
        (["a", None, "b"], {}, "column 'y', the target, has 1 missing value, the first in line 3; fill"),
        ([1, None, None], {"impute": "mean"}, "column 'y', the target, has 2 missing values, the first in line 3"),
        ([1, 2.5, 3], {"task": "classification"}, "line 3: column 'y' is 2.5, and a class is a text or a whole number"),
        (["1", "2", "x"], {"task": "regression"}, "line 4: column 'y' is the text 'x', and regression needs numbers"),
        ([1, np.inf, 2], {}, "line 3: column 'y', the target, is infinite; correct it"),
        ([1e308, -1e308, 0.5], {}, "column 'y' has numbers too large to be scaled; give it in other units"),
        ([1, 2, 3], {"task": "clustering"}, "the task is 'clustering'; choose one of 'auto', 'classification', 'regr"),
        ([1, 2, 3], {"impute": "mode"}, "impute is 'mode'; choose one of 'mean', 'median', 'constant'"),
    ],
)
def test_targets_that_cannot_be_learned(values, options, message):
    with refuses(re.escape(message)):
        Preprocessing.fit(table(a=[1, 2, 3], y=values), "y", **options)


def test_a_target_that_does_not_exist():
    with refuses(r"^people\.csv has no column 'Sayz', the target; did you mean 'says'\? it has 'age', 'sex', 'height'"):
        Preprocessing.fit(people(), "Sayz")
    with refuses(r"^people\.csv has no column 'price', the target; it has 'age'"):
        Preprocessing.fit(people(), "price")
    with refuses(r"^people\.csv: which column is the target must be said with --target \(target= in Python\); it has"):
        Preprocessing.fit(people())
    learned = Preprocessing.fit(people(), "says")
    with refuses("has no column 'says', the target"):
        learned.targets(table(age=[1]))


# Warnings ---------------------------------------------------------------------------------------------------------


def test_data_above_suspicion_draw_no_warnings():
    x, labels = load_digits()
    columns = {f"p{index}": x[:, index] for index in np.flatnonzero(x.std(axis=0))}
    assert Preprocessing.fit(Table("digits", columns | {"digit": labels.astype(float)}), "digit").warnings == []


@pytest.mark.parametrize("form", ["{}%", "{},5", "1,{}", "Rs {}"])
def test_numbers_in_text_are_said_to_be_such_and_no_row_numbers(form):
    data = table(a=[form.format(n) for n in range(100, 120)], y=["a", "b"] * 10)
    (warning,) = Preprocessing.fit(data, "y").warnings
    assert "column 'a' has numbers such as" in warning


@pytest.mark.parametrize(
    ("columns", "warning"),
    [
        ({"id": [4, 5, 6, 7]}, "column 'id' has another value in every row, as a row number or a name has; leave such"),
        ({"id": list("abcd"), "n": [1, 2, 3, 4]}, "columns 'id', 'n' have another value in every row"),
        ({"a": ["u"] * 4, "b": [2] * 4}, "columns 'a', 'b' have one value in every row, from which nothing can be lea"),
        ({"5.1": [1, 1, 2, 2], "3": ["a", "b"] * 2}, "columns '5.1', '3' have a number for a name, as a file without"),
        (
            {"a": ["1,5", "2,5"] * 2},
            "column 'a' has numbers such as '1,5' in line 2, which is read as 1.5; --text 'a' ",
        ),
        (
            {"a": ["1", "1", "?", "2"]},
            "column 'a' has numbers in all but 1 row, which are text here, each a category, bec"
            + "ause line 4 has '?'; correct it, or leave the field empty if it is missing, or give --missing '?'",
        ),
        (
            {"a": ["5,041", "1,200", "5,041", "1,100"]},
            "column 'a' has numbers such as '5,041' in line 2, which may be 5.041 or 5041, so that they are text here, "
            "each a category; if they are quantities, write them as programs do",
        ),
        (
            {"a": ["55kg", "55kg", "60kg", "70 kg"]},
            "column 'a' has numbers such as '55kg' in line 2, which may be 55 or a name, so that they are text here",
        ),
        (
            {"a": ["(1)", "(2)", "(1)", "(3)"]},
            "column 'a' has numbers such as '(1)' in line 2, which may be -1 or a name",
        ),
        (
            {"a": ["1", "2", "1", "2"]},
            "column 'a' has numbers in every row, which are text here, each a category, beca",
        ),
    ],
)
def test_what_looks_like_a_mistake(columns, warning):
    learned = Preprocessing.fit(table(**columns, y=["a", "a", "b", "b"]), "y")
    assert any(said.startswith(f"people.csv: {warning}") for said in learned.warnings), learned.warnings


def test_measurements_may_differ_in_every_row():
    assert Preprocessing.fit(table(a=[1.5, 2.5, 3, 4], y=["a", "a", "b", "b"]), "y").warnings == []


def test_a_class_with_one_row():
    (said,) = Preprocessing.fit(table(a=[1.5, 1, 2, 2, 2], y=["a", "a", "b", "a", "a"]), "y").warnings
    assert said == (
        "people.csv: the class 'b' has one row only, the first in line 4, which can be learned from or tested on, not "
        "both; add rows"
    )


def test_targets_that_decide_all_by_themselves():
    y = np.arange(300) / 7
    y[[10, 200]] = 1e5, -4e4
    learned = Preprocessing.fit(table(y=y.tolist(), a=[1.5, 2, 2] * 100), "y")
    assert learned.warnings == [
        "people.csv: column 'y', the target, is more than 20 times its quartile distance away from its median in 2 "
        "rows, line 12, line 202, which squared errors heed more than all others; correct them if they are wrong, else "
        'take --loss huber (loss="huber" in Python)'
    ]
    two = Arrays("a.npz", np.arange(600.0).reshape(300, 2), np.stack([np.arange(300) / 7, y], axis=1))
    (said,) = Preprocessing.fit(two).warnings
    assert said.startswith("a.npz: y, the target, is more than 20 times its quartile distance")
    assert "in 2 rows, row 11, row 201, which" in said
    (said,) = Preprocessing.fit(two, rows=np.arange(100, 300)).warnings
    assert "in 1 row, row 201, which" in said  # of the training rows


def test_targets_that_differ_widely_are_no_outliers():
    normal = np.random.default_rng(0).normal(size=1000)
    mostly_zero = np.where(np.arange(1000) % 10, 0, normal)
    for y in (normal, np.exp(normal), mostly_zero):
        assert Preprocessing.fit(Arrays("a.npz", normal[:, None], y)).warnings == []


# Stored -----------------------------------------------------------------------------------------------------------


CELLS = {
    "numbers": st.one_of(st.none(), st.integers(-(10**6), 10**6).map(lambda n: n / 64), st.integers(-5, 5)),
    "texts": st.one_of(st.none(), st.sampled_from(["", "a", "b", "ä", "7", "7.0", "1e3", "NA x"]), st.text(max_size=3)),
}


@st.composite
def tables(draw, least=2, most=8) -> Table:
    """A table of numbers and texts, some missing, and a target y that can be learned."""
    number = draw(st.integers(least, most))
    columns = {}
    for name in draw(
        st.lists(st.text(min_size=1, max_size=3).filter(lambda n: n != "y"), min_size=1, max_size=4, unique=True)
    ):
        kind = draw(st.sampled_from(sorted(CELLS)))
        values = draw(st.lists(CELLS[kind], min_size=number, max_size=number))
        columns[name] = np.array(values, object if kind == "texts" else np.float64)
    y = draw(st.lists(st.sampled_from([0.5, 1, 2]), min_size=number, max_size=number))
    y[:2] = [0.5, 1]
    return Table("t", columns | {"y": np.array(y, np.float64)})


def _columns_without(data, rows) -> bool:
    """Whether a column of numbers has none in these rows."""
    return any(column.dtype != object and np.isnan(column[rows]).all() for column in data.columns.values())


ENCODINGS = st.sampled_from([
    PLAIN, TABULAR, Encoding(numbers="robust"), Encoding(numbers="quantile", indicator=True),
    Encoding(clip=True, indicator=True), Encoding(numbers="quantile", clip=True, clip_target=True),
])  # fmt: skip


@given(
    data=tables(),
    impute=st.sampled_from(["mean", "median", "constant"]),
    task=st.sampled_from(["auto", "regression"]),
    encoding=ENCODINGS,
)
def test_what_is_stored_transforms_alike(data, impute, task, encoding):
    assume((impute, encoding.numbers) == ("constant", "standard") or not _columns_without(data, slice(None)))
    learned = Preprocessing.fit(data, "y", impute=impute, task=task, encoding=encoding)
    again = Preprocessing.from_dict(json.loads(json.dumps(learned.to_dict(), allow_nan=False)))
    np.testing.assert_array_equal(again.transform(data), learned.transform(data))
    np.testing.assert_array_equal(again.targets(data), learned.targets(data))
    assert again.to_dict() == learned.to_dict() and again.describe() == learned.describe()
    np.testing.assert_array_equal(learned.unpack(learned.pack(data)[0]), learned.transform(data))
    for name in "task", "classes", "inputs", "outputs", "features", "columns", "target", "unseen", "extra":
        assert getattr(again, name) == getattr(learned, name)


@given(data=tables(), order=st.randoms())
def test_no_order_of_columns_matters(data, order):
    learned = Preprocessing.fit(data, "y", impute="constant")
    names = list(data.columns)
    order.shuffle(names)
    np.testing.assert_array_equal(
        learned.transform(Table("u", {name: data.columns[name] for name in names})), learned.transform(data)
    )


@given(data=tables(6, 6), other=st.data(), encoding=ENCODINGS)
def test_held_out_rows_have_no_influence(data, other, encoding):
    changed = {}
    for name, column in data.columns.items():
        kind = "texts" if column.dtype == object else "numbers"
        changed[name] = column.copy()
        changed[name][4:] = other.draw(st.lists(CELLS[kind] if name != "y" else st.just(1), min_size=2, max_size=2))
    rows = [0, 1, 2, 3]
    settings = {"impute": "constant", "rows": rows, "encoding": encoding}
    assume(encoding.numbers == "standard" or not _columns_without(data, rows))
    one, two = (Preprocessing.fit(t, "y", **settings) for t in (data, Table("t", changed)))
    assert one.to_dict() == two.to_dict()
    np.testing.assert_array_equal(one.transform(data)[:4], two.transform(Table("t", changed))[:4])


@pytest.mark.parametrize("x", [np.full((4, 3, 1), 255, np.uint8), np.arange(12.0).reshape(4, 3)])
@pytest.mark.parametrize("y", [np.array(list("abab"), object), np.array([1.5, 2, 3, 4]), np.arange(8.0).reshape(4, 2)])
@pytest.mark.parametrize("impute", [None, "mean"])
def test_arrays_are_stored_as_well(x, y, impute):
    data = Arrays("a", x, y)
    learned = Preprocessing.fit(data, impute=impute)
    again = Preprocessing.from_dict(json.loads(json.dumps(learned.to_dict())))
    np.testing.assert_array_equal(again.transform(data), learned.transform(data))
    np.testing.assert_array_equal(again.targets(data), learned.targets(data))


def paths(value, path=()):
    """Every place in a nest of dicts and lists."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths(inner, (*path, key))


LEARNED = [
    Preprocessing.fit(people(), "says", impute="mean").to_dict(),
    Preprocessing.fit(people(), "age").to_dict(),
    Preprocessing.fit(Arrays("a", np.eye(3), np.array([1, 2, 2])), impute="median").to_dict(),
    Preprocessing.fit(Arrays("a", np.full((3, 3, 1), 255, np.uint8), np.eye(3) * 2)).to_dict(),
    Preprocessing.fit(lacking(people()), "height", task="regression", encoding=TABULAR).to_dict(),
    Preprocessing.fit(lacking(people()), "says", encoding=replace(TABULAR, numbers="quantile")).to_dict(),
    Preprocessing.fit(Arrays("a", np.array([[1, np.nan, 3], [1, 2, 4]]), np.arange(2)), encoding=TABULAR).to_dict(),
]
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(10**400),
    st.floats(),
    st.text(max_size=4),
    st.lists(st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=2)), max_size=4),
    st.dictionaries(st.sampled_from(["name", "mean", "kind", "x"]), st.integers(), max_size=2),
)


@given(learned=st.sampled_from(LEARNED), junk=JUNK, choice=st.data(), lose=st.booleans())
def test_nothing_that_is_stored_is_trusted(learned, junk, choice, lose):
    changed = json.loads(json.dumps(learned))
    *way, last = choice.draw(st.sampled_from([path for path in paths(changed) if path]))
    inside = changed
    for key in way:
        inside = inside[key]
    if lose:
        del inside[last]
    else:
        inside[last] = junk
    data = people() if learned["inputs"]["kind"] == "table" else Arrays("a", np.eye(3, dtype=np.uint8))
    try:
        x = Preprocessing.from_dict(changed).transform(data)
    except DataError:
        return
    assert np.isfinite(x).all()


@pytest.mark.parametrize(
    ("way", "value", "message"),
    [
        (["format"], 2, "format '2'"),
        (["inputs", "kind"], "code", "kind 'code'"),
        (["inputs", "columns", 0, "std"], [-1.0], "a std is below 0"),
        (["inputs", "columns", 0, "mean"], [float("nan")], "mean has something in it that is no number"),
        (["inputs", "columns", 0, "mean"], [1.0, 2.0], "mean and std have other lengths"),
        (["inputs", "columns", 0, "name"], "sex", "two columns have one name"),
        (["inputs", "columns", 0, "name"], "says", "the target is an input as well"),
        (["inputs", "columns", 1, "categories"], ["a", "a"], "categories name one twice"),
        (["inputs", "columns", 1, "categories"], [1], "categories are of another type"),
        (["inputs", "columns"], [], "columns is no list, or an empty one"),
        (["target", "column"], None, "the target does not fit the inputs"),
        (["target", "classes"], ["a", 1], "classes are of another type"),
        (["target", "classes"], [1, 2**60], "a class is too large a number"),
        (["target", "classes"], [True, False], "the classes are neither text nor whole numbers"),
    ],
)
def test_what_is_wrong_in_a_store_is_said(way, value, message):
    changed = json.loads(json.dumps(LEARNED[0]))
    *before, last = way
    inside = changed
    for key in before:
        inside = inside[key]
    inside[last] = value
    with refuses(f"^the stored preprocessing is damaged or from another version: .*{message}.*; save the model again$"):
        Preprocessing.from_dict(changed)


@pytest.mark.parametrize("given", [None, [], "x", 3, {}])
def test_a_store_that_is_none(given):
    with refuses("the stored preprocessing is damaged"):
        Preprocessing.from_dict(given)


# Table and Arrays -------------------------------------------------------------------------------------------------


def test_columns_of_other_types():
    with refuses("t: column 'a' has the dtype .*; give float64 numbers"):
        Table("t", {"a": np.array([1, "a", None], object)})
    with refuses(r"t: column 'a' has the dtype object and holds '1' \(int\) beside 'a' \(str\); give float64"):
        Table("t", {"a": np.array([1, "a", None], object)})


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((2, 2), complex), None, "x has the dtype complex128; it must be numbers"),
        (np.zeros((0, 2)), None, r"x has the shape \(0, 2\); it must have rows, and numbers in them"),
        (np.zeros((2, 2)), np.zeros(2, complex), "y has the dtype complex128; it must be numbers, or one text a row"),
        (
            [[1.0]],
            None,
            r"x is a list; give a NumPy array: x\.toarray\(\) of a sparse matrix, x\.to_numpy\(\) of",
        ),
        (np.zeros((2, 2)), [1, 2], "y is a list; give a NumPy array"),
        (np.zeros((2, 2)), np.zeros(3), r"y has the shape \(3,\) and x has 2 rows; y must be one target a row"),
    ],
)
def test_arrays_of_other_types_and_shapes(x, y, message):
    with refuses(f"a: {message}"):
        Arrays("a", x, y)


def test_a_sparse_matrix():
    sparse = pytest.importorskip("scipy.sparse")
    fitted = Preprocessing.fit(np.eye(3), np.arange(3.0))
    for make in (Preprocessing.fit, fitted.transform, lambda x: Arrays("a", x)):
        with refuses("what was given is a csr_array, and to centre its columns .*MaxAbsScaler"):
            make(sparse.csr_array(np.eye(3)))


class Series:
    """A column of a data frame."""

    def __init__(self, *cells, dtype):
        self._array = np.array(cells, dtype)

    def __array__(self, dtype=None, copy=None):
        return self._array


class NAType:
    """What pandas has where a value is missing."""


def test_columns_of_a_data_frame_become_a_table():
    frame = {
        "a": Series(1, 2, dtype=np.int32),
        "b": Series(0.5, np.nan, dtype=np.float32),
        "c": Series("x", np.nan, dtype=object),
        "d": Series(NAType(), "y", dtype=object),
    }
    made = Table("people", frame)
    assert [made.columns[name].dtype for name in "abcd"] == [np.float64, np.float64, object, object]
    np.testing.assert_array_equal(made.columns["a"], [1, 2])
    np.testing.assert_array_equal(made.columns["b"], [0.5, np.nan])
    assert (made.columns["c"].tolist(), made.columns["d"].tolist()) == (["x", None], [None, "y"])
    with refuses(r"^a Table begins with a name for messages, and a dict was given; write Table\('people', columns\)$"):
        Table(frame)
    with refuses("^t: a column is called 0, which is no text; call it '0'$"):
        Table("t", {0: np.zeros(2)})


TRUTH, DAYS = ["True", "False", None], ["2024-01-02", None, "2024-03-04"]


@pytest.mark.parametrize(
    ("given", "held"),
    [
        (np.arange(3), [0.0, 1.0, 2.0]),
        (np.array([0.5, np.nan], np.float32), [0.5, np.nan]),
        (np.array([1, 2], np.uint8), [1.0, 2.0]),
        ([1, None, 2.5], [1.0, np.nan, 2.5]),
        (Series(3, NAType(), dtype=object), [3.0, np.nan]),
        (["a", "b"], ["a", "b"]),
        (["a", None], ["a", None]),
        (np.array(["a", "b"]), ["a", "b"]),
        ([True, False], TRUTH[:2]),
        (np.array([True, False]), TRUTH[:2]),
        (Series(True, False, dtype=bool), TRUTH[:2]),
        (Series(True, False, NAType(), dtype=object), TRUTH),
        (np.array([True, False, None], object), TRUTH),
        (np.array(["2024-01-02", "NaT", "2024-03-04"], "M8[ns]"), DAYS),
        ([datetime.date(2024, 1, 2), None, datetime.date(2024, 3, 4)], DAYS),
        (Series("2024-01-02T03:04:05", "2024-01-02", dtype="M8[us]"), ["2024-01-02 03:04:05", "2024-01-02 00:00:00"]),
        (np.array(["2024-01-02T03:04:05.5"], "M8[ms]"), ["2024-01-02 03:04:05.500"]),
        (np.array([86_400, "NaT"], "m8[s]"), [1.0, np.nan]),
        ([datetime.timedelta(hours=12), None], [0.5, np.nan]),
        ([Decimal("1.5"), Fraction(1, 4), None], [1.5, 0.25, np.nan]),
        (np.array([np.int64(1), np.float32(0.5)], object), [1.0, 0.5]),
    ],
)
def test_what_becomes_a_column(given, held):
    column = Table("t", {"a": given}).columns["a"]
    assert column.dtype == (np.float64 if isinstance(held[0], float) else object)
    np.testing.assert_array_equal(column, np.array(held, column.dtype))


@pytest.mark.parametrize(
    "given",
    [
        np.zeros(2, complex),
        [1, "a"],
        ["a", 1],
        [[1], [1, 2]],
        [b"a", b"b"],
        [{}, {}],
        [[1, 2], [3, 4]],
    ],
)
def test_what_cannot_become_a_column(given):
    with refuses("^t: column 'a' has the (dtype|shape)"):
        Table("t", {"b": np.zeros(2), "a": given})


class Frame:
    """A data frame, whose length is its rows."""

    def __init__(self, **columns):
        self.items = columns.items

    def __len__(self):
        return 9


def test_a_data_frame_itself_becomes_a_table():
    made = Table("people", Frame(a=Series(1, 2, dtype=np.int64), b=Series("x", "y", dtype=object)))
    assert (made.names, made.rows) == (["a", "b"], 2)


def test_a_target_of_numpy_texts():
    data = Arrays("a", np.arange(4.0), np.array(["u", "v", "u", "v"]))
    assert Preprocessing.fit(data).classes == ["u", "v"]


def test_columns_of_different_lengths():
    with refuses(r"t: column 'b' has the shape \(3,\); every column of a table must have one value for each of its 2"):
        Table("t", {"a": np.zeros(2), "b": np.zeros(3)})


# All of it --------------------------------------------------------------------------------------------------------


def test_from_a_file_to_numbers_and_back(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["id;age;sex;fare;class"]
    for number in range(40):
        age = "" if number % 7 == 0 else rng.integers(18, 80)
        lines.append(f"{number};{age};{'mf'[number % 2]};{rng.normal(20, 5):.2f};{'ABC'[number % 3]}")
    path = tmp_path / "tickets.csv"
    path.write_text("\n".join(lines))
    data = read(path)
    whole = Preprocessing.fit(data, "class", impute="median", ignore=["id"])
    train, held_out = stratified_split(whole.targets(data), 0.2, seed=0)
    learned = Preprocessing.fit(data, "class", task=whole.task, impute="median", ignore=["id"], rows=train)
    x, y = learned.transform(data), learned.targets(data)
    assert x.shape == (40, 4)
    np.testing.assert_allclose(x[train][:, [0, 3]].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(x[train][:, [0, 3]].std(axis=0), 1, atol=1e-6)
    assert learned.inverse(y[held_out]).tolist() == data.columns["class"][held_out].tolist()
    assert (learned.extra, learned.warnings) == (["id"], [])


@pytest.mark.parametrize("given", [[[1.0, 2.0]], 3, None])
def test_what_no_reader_gives(given):
    """A list is what one tries first."""
    learned = Preprocessing.fit(people(), "says")
    for use in (learned.transform, learned.targets, Preprocessing.fit):
        with refuses(f"what was given is of type {type(given).__name__}; .*Table.*Arrays"):
            use(given)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))], ids=["copy", "pickle"])
def test_a_copy_knows_the_same(again):
    learned = Preprocessing.fit(people(), "says")
    other = people()
    other.columns["sex"][0] = "d"
    x = learned.transform(other)
    twin = again(learned)
    assert (twin.unseen, twin.extra, twin.to_dict()) == (learned.unseen, learned.extra, learned.to_dict())
    np.testing.assert_array_equal(twin.transform(other), x)


def test_each_thread_has_its_own_counts():
    learned = Preprocessing.fit(people(), "says")
    strange = table(**{name: values.tolist() for name, values in people().columns.items()}, id=[1, 2, 3, 4])
    strange.columns["sex"][:3] = "d"
    learned.transform(strange)

    def ask():
        learned.transform(people())
        return learned.unseen, learned.extra

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(ask).result() == ({}, [])
    assert (learned.unseen, learned.extra) == ({"sex": 3}, ["id"])


def test_what_becomes_of_each_column_is_described():
    table = Table("t.csv", {
        "age": np.array([1.0, 3.0, np.nan, 2.0]), "same": np.full(4, 7.0), "half": np.array([-1.0, 0.0, -1.0, 0.0]),
        "town": np.array(["b", "a", None, "a"], object), "y": np.array([0.5, 1.5, 0.5, 1.5]),
    })  # fmt: skip
    assert Preprocessing.fit(table, "y", impute="mean").describe() == [
        ("age", "(v − 2)/0.7071; where it is missing, v = 2"),
        ("same", "0, since all rows had 7; where it is missing, v = 7"),
        ("half", "(v + 0.5)/0.5; where it is missing, v = -0.5"),
        ("town", "3 inputs, 1 for the category that it is, else 0: 'a', 'b', 'none'"),
        ("y", "(v − 1)/0.5"),
    ]
    arrays = Arrays("a.npz", np.array([[1.0, 2.0], [3.0, 6.0]]), np.array([0, 1]))
    assert Preprocessing.fit(arrays, task="classification").describe() == [
        ("x[0]", "v − 2"), ("x[1]", "(v − 4)/2"), ("the target", "2 classes: '0', '1'"),
    ]  # fmt: skip
    pixels = Arrays("a.npz", np.full((2, 2, 2), 255, np.uint8), np.array([0, 1]))
    assert Preprocessing.fit(pixels, task="classification").describe()[0] == ("4 pixels", "v/255")


def test_a_column_is_read_before_it_is_scaled():
    columns = {
        "cost": ["$1,745.00", "$2.50", None],
        "day": ["2026-07-02", None, "2000-01-01"],
        "kind": ["a", None, "b"],
    }
    table = Table("t", {**{name: np.array(column, object) for name, column in columns.items()}, "y": np.arange(3.0)})
    fitted = Preprocessing.fit(table, "y", impute="mean", encoding=TABULAR)
    np.testing.assert_array_equal(fitted.read_column(table, "cost"), [1745, 2.5, np.nan])
    np.testing.assert_allclose(fitted.read_column(table, "day"), [2026.5, np.nan, 2000], atol=0.002)
    assert fitted.read_column(table, "kind").tolist() == ["a", None, "b"]
