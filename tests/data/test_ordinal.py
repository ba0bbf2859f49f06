"""Columns of texts that have an order: one number each."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpu_backprop as gb
from gpu_backprop.data import Arrays, DataError, Preprocessing, Table, read
from gpu_backprop.data.encoding import Encoding

SIZES = ("small", "medium", "large")


def table(sizes, **others) -> Table:
    text = any(isinstance(size, str) for size in sizes)
    columns = {"size": np.array(sizes, object if text else np.float64)}
    columns |= {name: np.array(values, np.float64) for name, values in others.items()}
    return Table("shirts.csv", columns, np.arange(2, 2 + len(sizes)))


def fit(sizes, order=SIZES, impute=None, **encoding):
    data = table(sizes, y=np.arange(len(sizes)) + 0.5)
    return Preprocessing.fit(data, "y", impute=impute, encoding=Encoding(ordinal={"size": order}, **encoding))


def again(learned):
    return Preprocessing.from_dict(json.loads(json.dumps(learned.to_dict())))


def test_places_are_scaled_as_numbers_are():
    sizes = ["small", "large", "medium", "large"]
    learned = fit(sizes)
    assert learned.features == ["size"] and learned.summaries == ["size (3 in order)"]
    places = np.array([0, 2, 1, 2])
    np.testing.assert_allclose(
        learned.transform(table(sizes))[:, 0], (places - places.mean()) / places.std(), rtol=1e-6
    )
    assert learned.describe()[0][1] == "(v − 1.25)/0.8292, where v is of 'small' 0, 'medium' 1, 'large' 2"
    robust = fit(sizes, numbers="robust", clip=True)
    numbers = Table("n", {"size": places.astype(np.float64), "y": np.arange(4) + 0.5})
    same = Preprocessing.fit(numbers, "y", encoding=Encoding(numbers="robust", clip=True))
    np.testing.assert_array_equal(robust.transform(table(sizes)), same.transform(numbers))


def test_a_text_that_has_no_place():
    with pytest.raises(DataError, match=(
        "^shirts.csv, line 4: 'huge' in column 'size', whose order is 'small', 'medium', 'large'; give this text its "
        r"place in --ordinal \(ordinal= of an Encoding\), correct it, or leave the field empty if it is missing$"
    )):  # fmt: skip
        fit(["small", "large", "huge"])
    learned = fit(["small", "large"])  # 0 and 2, which become −1 and 1
    np.testing.assert_array_equal(learned.transform(table(["medium", "huge", "large"])), [[0], [0], [1]])
    assert learned.unseen == {"size": 1}


def test_missing_texts_are_like_missing_numbers():
    with pytest.raises(DataError, match="column 'size' has 1 missing value"):
        fit(["small", None, "large"])
    learned = fit(["small", None, "large", "large"], indicator=True, numbers="robust")
    assert learned.features == ["size", "size missing"]
    for network in learned, again(learned):
        x = network.transform(table([None, "large", "huge"]))
        np.testing.assert_array_equal(x, [[0, 1], [0, 0], [0, 1]])  # the median is that of large
        assert network.unseen == {"size": 1}


def test_numbers_can_have_another_order(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("size,y\n3,0.5\n1,1\n2,2\n")
    learned = Preprocessing.fit(read(path), "y", encoding=Encoding(ordinal={"size": ("3", "1", "2")}))
    np.testing.assert_allclose(learned.transform(read(path))[:, 0], np.array([-1, 0, 1]) * np.sqrt(1.5), rtol=1e-6)


@pytest.mark.parametrize("order", [(), ("small",), ("small", "small"), ("true", "TRUE"), ("small", ""), ("a", 3)])
def test_orders_that_are_none(order):
    with pytest.raises(
        DataError, match="the order of column 'size' is .*; give two different texts or more, the least"
    ):
        fit(["small", "large"], order)


def test_columns_that_cannot_have_an_order():
    data = table(["small", "large"], n=[1, 2], y=[0.5, 1])
    for name, settings in ("sizes", {}), ("y", {}), ("n", {"ignore": ["n"]}):
        with pytest.raises(
            DataError, match=f"column '{name}', whose texts are to have an order, is none that is learn"
        ):
            Preprocessing.fit(data, "y", encoding=Encoding(ordinal={name: SIZES}), **settings)
    with pytest.raises(DataError, match="a holds arrays, which have no columns of texts in order; leave 'size' out"):
        Preprocessing.fit(Arrays("a", np.eye(2), np.arange(2.0)), encoding=Encoding(ordinal={"size": SIZES}))


@given(st.lists(st.sampled_from(["a", "b", "c", "d", None]), min_size=1, max_size=20), st.booleans(), st.booleans())
def test_a_stored_column_is_the_same(sizes, clip, indicator):
    sizes = ["b", *sizes]
    learned = fit(sizes, ("d", "b", "a", "c"), "mean", clip=clip, indicator=indicator)
    later = [*sizes, "new", None]
    x = learned.transform(table(later))
    assert np.isfinite(x).all() and learned.unseen == {"size": 1}
    np.testing.assert_array_equal(again(learned).transform(table(later)), x)


@pytest.mark.parametrize("change", [{"order": "ab"}, {"order": []}, {"order": ["a", "a"]}, {"order": ["a", 1]}])
def test_stored_columns_that_are_damaged(change):
    learned = fit(["small", "large"]).to_dict()
    learned["inputs"]["columns"][0] |= change
    with pytest.raises(DataError, match="the stored preprocessing is damaged"):
        Preprocessing.from_dict(learned)


def test_columns_that_cannot_have_an_order_in_blocks(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("size,y\nsmall,1.5\nlarge,2\n")
    for name in "y", "sizes":
        with pytest.raises(DataError, match=f"column '{name}', whose texts are to have an order, is none"):
            gb.open_rows(path, target="y", encoding=Encoding(ordinal={name: SIZES}))
    np.save(tmp_path / "x.npy", np.eye(4))
    np.save(tmp_path / "y.npy", np.arange(4.0))
    with pytest.raises(DataError, match="x.npy holds arrays, which have no columns; leave 'size' out"):
        gb.open_rows(tmp_path / "x.npy", encoding=Encoding(ordinal={"size": SIZES}))


def test_rows_that_are_read_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("gpu_backprop.data.csv_file.BLOCK", 60)
    sizes = [SIZES[n * n % 3] if n % 7 else "" for n in range(100)]
    path = tmp_path / "a.csv"
    path.write_text("size,y\n" + "\n".join(f"{size},{n}.5" for n, size in enumerate(sizes)))
    encoding = Encoding(ordinal={"size": SIZES}, indicator=True)
    whole = Preprocessing.fit(read(path), "y", encoding=encoding)
    with gb.open_rows(path, target="y", encoding=encoding) as rows:
        assert rows.preprocessing.features == whole.features == ["size", "size missing"]
        np.testing.assert_allclose(rows.read(slice(0, 100)), whole.transform(read(path)), rtol=1e-6, atol=1e-12)
    path.write_text(path.read_text() + "\nhuge,3")
    with pytest.raises(DataError, match="line 102: 'huge' in column 'size', whose order is 'small', 'medium', 'large'"):
        gb.open_rows(path, target="y", encoding=encoding)
