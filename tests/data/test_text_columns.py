"""Columns of text: two categories as a sign, rare ones pooled, and too many of them hashed."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpu_backprop as gb
from gpu_backprop.data import DataError, Preprocessing, Table, text_columns
from gpu_backprop.data.encoding import Encoding

SIGN, RARE = Encoding(binary="sign"), Encoding(rare=2)
ALL = Encoding(binary="sign", rare=2, many="hash")


def table(**columns) -> Table:
    made = {}
    for name, values in columns.items():
        text = any(isinstance(value, str) for value in values)
        made[name] = np.array(values, object if text else np.float64)
    return Table("people.csv", made)


def fit(texts, encoding, **settings):
    """Fits one column of text."""
    y = np.arange(len(texts)) + 0.5
    return Preprocessing.fit(table(t=texts, y=y), "y", encoding=encoding, **settings)


def x(learned, texts):
    return learned.transform(table(t=texts))


def again(learned):
    """What is read back from a file."""
    return Preprocessing.from_dict(json.loads(json.dumps(learned.to_dict())))


def test_two_categories_are_a_sign():
    learned = fit(["m", "f", "m", "m"], SIGN)
    assert learned.features == ["t=m"]
    assert learned.describe()[0] == ("t", "1 input, −1 for 'f', 1 for 'm'")
    for network in learned, again(learned):
        np.testing.assert_array_equal(x(network, ["f", "m", "x"]), [[-1], [1], [0]])
        assert network.unseen == {"t": 1}
    assert learned.summaries == ["t (2 categories)"]


@pytest.mark.parametrize("texts", [["a", "b", "c"], ["a", "b", None], ["a", "a"]])
def test_other_columns_keep_an_input_for_each_category(texts):
    assert fit(texts, SIGN, impute="mean").features == fit(texts, Encoding(), impute="mean").features


def test_truth_values_are_a_sign_whatever_their_letters_and_numbers_stay_numbers():
    learned = fit(["true", "False", "TRUE", "false"], SIGN)
    np.testing.assert_array_equal(x(learned, ["True", "FALSE"]), [[1], [-1]])
    data = table(n=[0, 1, 1, 1], y=[0.5, 1, 2, 3])
    assert Preprocessing.fit(data, "y", encoding=SIGN).to_dict() == Preprocessing.fit(data, "y").to_dict()


def test_rare_categories_share_an_input_with_unseen_ones():
    learned = fit(["a", "b", "a", "c", "b", "d"], RARE)
    assert learned.features == ["t=a", "t=b", "t=(rare)"]
    assert learned.describe()[0][1] == (
        "3 inputs, 1 for the category that it is, else 0: 'a', 'b'; and one for 2 texts of few training rows, and what "
        "no training row had"
    )
    for network in learned, again(learned):
        found = x(network, ["a", "b", "c", "d", "e"])
        np.testing.assert_array_equal(found, [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1]])
        assert network.unseen == {"t": 1}
    assert learned.summaries == ["t (2 categories, 2 rare texts pooled)"]


def test_without_a_rare_category_there_is_no_input_for_them():
    learned = fit(["a", "b", "a", "b", None], RARE, impute="mean")
    assert learned.features == ["t=a", "t=b", "t missing"]
    np.testing.assert_array_equal(x(learned, ["c", None]), [[0, 0, 0], [0, 0, 1]])
    assert learned.unseen == {"t": 1}


def test_only_training_rows_make_a_category_common():
    data = table(t=["a", "a", "b", "b", "c"], y=[0.5, 1, 2, 3, 4])
    learned = Preprocessing.fit(data, "y", rows=[0, 1, 2, 4], encoding=RARE)
    assert learned.features == ["t=a", "t=(rare)"]


def test_texts_that_mean_the_same_are_counted_together():
    assert fit(["true", "TRUE", "no", "no", "x"], RARE).features == ["t=TRUE", "t=no", "t=(rare)"]


def test_a_name_in_each_row_becomes_one_input_and_is_warned_of():
    learned = fit([f"name {row}" for row in range(40)], RARE)
    assert learned.features == ["t=(rare)"]
    assert "another value in every row" in learned.warnings[0]
    assert (x(again(learned), ["name 3", "name 77"]) == 1).all()


def test_of_many_rare_texts_none_is_stored():
    texts = [*(f"word {row}" for row in range(text_columns.MOST_INPUTS + 1)), "a", "a"]
    learned = fit(texts, RARE)
    assert learned.features == ["t=a", "t=(rare)"]
    assert "word 7" not in json.dumps(learned.to_dict())
    np.testing.assert_array_equal(x(again(learned), ["a", "word 7", "else"]), [[1, 0], [0, 1], [0, 1]])
    assert learned.unseen == {}  # nobody knows


def test_thousands_of_categories_are_hashed_and_that_is_said():
    texts = [f"word {row % 4000}" for row in range(8000)]
    learned = fit(texts, ALL)
    assert learned.inputs == 256
    assert learned.warnings == [
        "people.csv: column 't' has too many different texts for an input each, so that each text is hashed to one of "
        "256 inputs; --hash names another number (hashed= in Python), and --ignore (ignore= in Python) leaves such a "
        "column out"
    ]
    by_name = fit(texts, Encoding(), hashed={"t": 256})
    np.testing.assert_array_equal(x(again(learned), texts[:9]) > 0, x(by_name, texts[:9]) > 0)
    assert by_name.warnings == [] and learned.summaries == ["t (hashed)"]
    with pytest.raises(DataError, match="column 't' has 4,000 different texts, each of which would be an input"):
        fit(texts, RARE)


def test_numbers_but_for_one_text_are_not_hashed():
    with pytest.raises(DataError, match="column 't' has numbers in all but 1 row"):
        fit([*(f"{row}.5" for row in range(3000)), "?"], Encoding(many="hash"))


def test_more_texts_than_are_counted_are_hashed(monkeypatch):
    monkeypatch.setattr(text_columns, "MOST_COUNTED", 30)
    texts = [*(f"word {row}" for row in range(40)), "a", "a"]
    assert fit(texts, ALL).inputs == 256


@given(st.lists(st.sampled_from([*"abcdefgh", None]), min_size=2, max_size=30), st.integers(0, 4), st.booleans())
def test_a_stored_column_is_the_same(texts, rare, sign):
    if not any(texts):
        texts = [*texts, "a"]
    encoding = Encoding(rare=rare, binary="sign" if sign else "one_hot")
    learned = fit(texts, encoding, impute="mean")
    later = [*texts, "new"]
    found = x(learned, later)
    assert found.shape == (len(later), learned.inputs)
    np.testing.assert_array_equal(x(again(learned), later), found)
    times = Counter(texts)
    counted = learned.features != [f"t={max(filter(None, times))}"] or len(times) != 2  # no sign
    if counted:
        assert (found[:-1].sum(axis=1) == 1).all()
        assert {f"t={text}" for text in times if text and times[text] >= rare} <= {*learned.features}
    assert learned.unseen == {"t": 1}


@pytest.mark.parametrize(
    "column",
    [
        {"name": "t", "signs": ["a"]},
        {"name": "t", "signs": ["a", "b", "c"]},
        {"name": "t", "signs": ["a", 1]},
        {"name": "t", "signs": ["a", "a"]},
        {"name": "t", "categories": []},
        {"name": "t", "categories": ["a"], "rare": 0},
        {"name": "t", "categories": ["a"], "rare": 2, "pooled": ["b"]},
        {"name": "t", "categories": ["a"], "rare": 1, "pooled": ["a"]},
        {"name": "t", "categories": ["a"], "pooled": ["b"]},
    ],
)
def test_stored_columns_that_are_damaged(column):
    learned = fit(["a", "b", "c"], Encoding()).to_dict()
    learned["inputs"]["columns"] = [column]
    with pytest.raises(DataError, match="the stored preprocessing is damaged"):
        Preprocessing.from_dict(learned)


@pytest.mark.parametrize("encoding", [SIGN, RARE, ALL])
def test_rows_that_are_read_in_blocks(encoding, tmp_path, monkeypatch):
    monkeypatch.setattr("gpu_backprop.data.csv_file.BLOCK", 60)
    monkeypatch.setattr(text_columns, "MOST_INPUTS", 30)
    random = np.random.default_rng(3)
    columns = {
        "sex": random.choice(["f", "m"], 200),
        "city": [*random.choice(["Bern", "Chur"], 198), "Uri", "Zug"],
        "y": random.normal(size=200).round(3).astype(str),
    }
    if encoding.many == "hash":
        columns["street"] = [f"street {row % 50}" for row in range(200)]
    path = tmp_path / "a.csv"
    path.write_text("\n".join([",".join(columns), *map(",".join, zip(*columns.values(), strict=True))]))
    data = gb.data.read(path)
    whole = Preprocessing.fit(data, "y", encoding=encoding)
    with gb.open_rows(path, target="y", encoding=encoding) as rows:
        assert rows.preprocessing.features == whole.features
        assert rows.preprocessing.warnings == [text for text in whole.warnings if "hashed" in text]
        np.testing.assert_allclose(rows.read(slice(0, 200)), whole.transform(data), rtol=1e-6)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"binary": "two"}, "binary is 'two'; choose one of 'one_hot', 'sign'"),
        ({"many": None}, "many is 'None'; choose one of 'error', 'hash'"),
        ({"dates": "dayfirst"}, "dates is 'dayfirst'; choose one of 'False', 'True', 'day_first', 'month_first'"),
        ({"indicator": "yes"}, "indicator is 'yes'; choose one of 'False', 'True'"),
        ({"rare": -1}, "rare is '-1'; give a whole number of rows, 0 for no category to be rare"),
        ({"rare": 1.5}, "rare is '1.5'; give a whole number of rows"),
    ],
)
def test_an_encoding_of_other_values(entry, message):
    with pytest.raises(DataError, match=message):
        Encoding(**entry)
