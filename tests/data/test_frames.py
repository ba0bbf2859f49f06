"""Data frames: one that was read from a CSV file gives what the file itself gives, whatever library has read it."""

from __future__ import annotations

import datetime
import io
import json

import numpy as np
import pytest

from gpu_backprop.data import Arrays, DataError, Preprocessing, Table, read
from gpu_backprop.data.encoding import PLAIN, TABULAR

CSV = """age,fare,sex,member,joined,seen,town,price,class
20,7.5,m,true,2024-01-02,2024-01-02 10:00:00,Bonn,$5.00,yes
31,,f,false,2023-11-30,2024-01-03 11:30:00,Ulm,$7.50,no
,8.25,m,true,2024-03-04,2024-02-02 10:00:00,,$6.00,yes
45,9.0,m,,,2024-01-12 23:59:00,Bonn,$9.00,no
52,7.5,f,true,2022-05-06,2024-07-02 10:00:00,NA,$5.50,yes
28,6.5, f ,false,2024-01-09,2024-01-07 00:00:00,Ulm,$5.25,no
"""


def pandas_frame():
    pandas = pytest.importorskip("pandas")
    return pandas.read_csv(io.StringIO(CSV), parse_dates=["joined", "seen"])


def pandas_nullable():
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv(io.StringIO(CSV), dtype_backend="numpy_nullable")
    return frame.astype({"sex": "category", "town": "category"}).set_index(frame.age.fillna(7) * 10)


def pandas_arrow():
    pytest.importorskip("pyarrow")
    return pytest.importorskip("pandas").read_csv(io.StringIO(CSV), dtype_backend="pyarrow", engine="pyarrow")


def polars_frame():
    polars = pytest.importorskip("polars")
    frame = polars.read_csv(io.StringIO(CSV), try_parse_dates=True)
    return frame.with_columns(polars.col("town").cast(polars.Categorical))


def arrow_table():
    csv = pytest.importorskip("pyarrow.csv")
    dictionaries = csv.ConvertOptions(auto_dict_encode=True, strings_can_be_null=True)
    return csv.read_csv(io.BytesIO(CSV.encode()), convert_options=dictionaries)


def arrow_batch():
    return arrow_table().combine_chunks().to_batches()[0]


def dict_of_columns():
    names, *rows = [line.split(",") for line in CSV.splitlines()]
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    numbers = {name: [float(cell) if cell else None for cell in columns[name]] for name in ("age", "fare")}
    return columns | numbers | {"member": [None if cell == "" else cell == "true" for cell in columns["member"]]}


FRAMES = [pandas_frame, pandas_nullable, pandas_arrow, polars_frame, arrow_table, arrow_batch, dict_of_columns]


def refuses(message):
    return pytest.raises(DataError, match=message)


@pytest.fixture(name="file")
def csv_file(tmp_path):
    path = tmp_path / "people.csv"
    path.write_text(CSV)
    return read(path)


@pytest.mark.parametrize("encoding", [PLAIN, TABULAR], ids=["plain", "tabular"])
@pytest.mark.parametrize("made", FRAMES)
def test_a_frame_gives_what_its_file_gives(made, encoding, file):
    frame, how = made(), {"impute": "mean", "encoding": encoding}
    of_file, of_frame = Preprocessing.fit(file, "class", **how), Preprocessing.fit(frame, "class", **how)
    spelled = json.dumps(of_file.to_dict()).replace('"true"', '"True"').replace('"false"', '"False"')
    assert of_frame.to_dict() in (of_file.to_dict(), json.loads(spelled))
    assert of_frame.why == of_file.why
    x, y = of_file.transform(file), of_file.targets(file)
    for learned in (of_file, of_frame):  # so that either can be used for what the other has learned
        np.testing.assert_array_equal(learned.transform(frame), x)
        np.testing.assert_array_equal(learned.targets(frame), y)
        np.testing.assert_array_equal(learned.transform(file), x)
    assert of_frame.classes == ["no", "yes"] and of_frame.extra == []


@pytest.mark.parametrize("made", FRAMES)
def test_a_missing_target_is_named_by_its_row(made):
    with refuses("column 'fare', the target, has 1 missing value, the first in (row 2|index 1|index 310)"):
        Preprocessing.fit(made(), "fare", impute="mean")


def test_targets_by_themselves():
    pandas = pytest.importorskip("pandas")
    frame = pandas_frame()
    y, x = frame.pop("class"), frame
    by_name = Preprocessing.fit(x.assign(**{"class": y}), "class", impute="mean")
    learned = Preprocessing.fit(x, y, impute="mean")
    assert learned.to_dict() == by_name.to_dict()
    np.testing.assert_array_equal(learned.targets(x, y), [1, 0, 1, 0, 1, 0])
    for targets in (y.tolist(), y.to_numpy(), y.to_numpy(str), y.to_frame(), y.astype("category"), tuple(y)):
        learned = Preprocessing.fit(x, targets, impute="mean")
        assert (learned.classes, learned.target) == (["no", "yes"], getattr(targets, "name", "target"))
        np.testing.assert_array_equal(learned.targets(x, targets), [1, 0, 1, 0, 1, 0])
    for unnamed in (list(y), y.rename(""), pytest.importorskip("polars").Series(list(y))):
        assert Preprocessing.fit(x.assign(target=1.0), unnamed, impute="mean").target == "target_"
    numbers = Preprocessing.fit(x, pandas.Series([3, 1, 3, 1, 3, 1], dtype="category"), impute="mean")
    assert numbers.classes == [1, 3]
    assert Preprocessing.fit(x, np.arange(6.0)[:, None] + 0.5, impute="mean").task == "regression"
    with refuses("the targets are called 'age', as a column of the data frame is, which would be learned from"):
        Preprocessing.fit(x, x.age, impute="mean")
    with refuses(r"the data frame has 6 rows, and the targets have the shape \(5,\); give one for each row"):
        Preprocessing.fit(x, y[:5], impute="mean")


def test_arrays_with_targets_by_themselves():
    x, y = np.arange(8.0).reshape(4, 2), ["a", "b", "a", "b"]
    learned = Preprocessing.fit(x, y)
    assert (learned.classes, learned.target) == (["a", "b"], None)
    np.testing.assert_array_equal(learned.transform(x), Preprocessing.fit(Arrays("a", x, np.array(y))).transform(x))
    np.testing.assert_array_equal(learned.targets(x, y), [0, 1, 0, 1])
    with refuses("the array holds arrays, whose target is y and has no name"):
        Preprocessing.fit(x, "y")


def test_columns_of_categories_are_text_and_their_numbers_too():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({
        "code": pandas.Categorical([7, 3, 7, None]), "size": pandas.Categorical(list("SMLS"), ["S", "M", "L"], True),
        "cut": pandas.cut([1, 2, 3, 4], [0, 2, 4]), "flag": pandas.Categorical([True, False, True, True]),
        "price": pandas.Categorical(["$5", "$6", "$5", "$5"]), "y": pandas.Categorical([0, 1, 1, 0]),
    })  # fmt: skip
    learned = Preprocessing.fit(frame, "y", impute="mean")
    assert learned.classes == [0, 1]
    assert learned.features == [
        "code=3", "code=7", "code missing", "size=L", "size=M", "size=S", "cut=(0, 2]", "cut=(2, 4]", "flag=False",
        "flag=True", "price=$5", "price=$6",
    ]  # fmt: skip
    plain = frame.astype({"code": "float", "flag": "bool", "price": "str"})
    np.testing.assert_array_equal(learned.transform(plain), learned.transform(frame))


def test_whole_numbers_beyond_float64_that_are_names():
    numbers = [2**53, 2**53 + 1, 2**53 + 2] * 2
    ids = {"id": np.array(numbers), "y": [0, 1, 2] * 2}
    learned = Preprocessing.fit(read(ids, text=["id"]), "y")
    assert learned.features == [f"id={number}" for number in numbers[:3]]
    np.testing.assert_array_equal(learned.transform(ids), [*np.eye(3), *np.eye(3)])
    assert "whole numbers from 2⁵³ on that float64 cannot tell apart" in "".join(Preprocessing.fit(ids, "y").warnings)


def test_words_for_missing_values_are_those_of_the_training_data():
    data = {"a": ["1", "-", "3", "4"], "b": ["x", "y", "-", "x"], "y": [0.5, 1, 2, 3]}
    learned = Preprocessing.fit(read(data, missing=["-"]), "y", impute="mean")
    assert learned.features[-3:] == ["b=x", "b=y", "b missing"]
    np.testing.assert_array_equal(learned.transform(data), learned.transform(read(data, missing="-")))
    exact = Table("people", {"b": ["NA", " x", "NA", " x"], "y": [0.5, 1, 2, 3]})
    assert Preprocessing.fit(exact, "y").features == ["b= x", "b=NA"]


def test_names_of_columns_that_are_no_text():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(np.arange(12.0).reshape(4, 3) ** 2)
    learned = Preprocessing.fit(frame, 2, ignore=[0])
    assert (learned.features, learned.target) == (["1"], "2")
    frame.columns = ["a", "b", "a"]
    with refuses("the data frame: more than one column is called 'a'; give each its own name"):
        Preprocessing.fit(frame, "b")


def test_what_is_wrong_is_named_by_column_and_row():
    pandas = pytest.importorskip("pandas")
    towns = ["Oslo", "Rome", "Bonn"]
    frame = pandas.DataFrame({"a": [1.0, 2, None], "b": [1, "x", None], "c": [[1], [2], [3]], "y": [1, 2, 3.5]}, towns)
    with refuses(
        "^the data frame: column 'b' holds '1' .int. beside 'x' .str.; make it all numbers or all text, or leave"
    ):
        Preprocessing.fit(frame, "y")
    with refuses("^the data frame: column 'c' holds '.1.' .list.; make it all numbers or all text, or leave it out"):
        Preprocessing.fit(frame, "y", ignore=["b"])
    for cells, held in {
        (1, 0, True): "'1' .int. beside 'True' .bool.;",
        (1, True, "z", None, (1, 2)): "'1' .int., 'True' .bool., 'z' .str. beside '.1, 2.' .tuple.; make it",
    }.items():
        with refuses(f"column 'b' holds {held}"):
            Preprocessing.fit({"b": pandas.Series(cells, dtype=object), "y": [*range(len(cells))]}, "y")
    with refuses("^the data frame: column 'a' has 1 missing value, the first in index 'Bonn'; fill them in, or"):
        Preprocessing.fit(frame, "y", ignore=["b", "c"])
    learned = Preprocessing.fit(frame, "y", ignore=["b", "c"], impute="mean")
    with refuses("^the data frame, index 7: 'two' in column 'a', which held numbers in the training data"):
        learned.transform(pandas.DataFrame({"a": ["1", "two"]}, [5, 7]))
    with refuses("^the data frame, row 1: inf in column 'a', which no network can use"):
        learned.transform({"a": [np.inf]})
    with refuses("^the data frame lacks 1 column that the training data had: 'a'"):
        learned.transform(frame[["y"]])
    with refuses("^the data frame has 1 column and no rows; give one with both"):
        learned.transform(frame[["a"]][:0])
    with refuses("^what was given is of type Series; give a data frame of pandas or polars, a table of pyarrow"):
        learned.transform(frame.a)


def test_dates_with_a_zone():
    polars, zone = pytest.importorskip("polars"), datetime.timezone(datetime.timedelta(hours=1))
    days = [datetime.datetime(2024, month, 2, 12, tzinfo=zone) for month in range(1, 7)]
    y = [0.5, 1, 2, 3, 4, 5]
    known = Preprocessing.fit({"when": list(map(str, days)), "y": y}, "y", encoding=TABULAR)
    frame = polars.DataFrame({"when": days, "y": y}).with_columns(polars.col("when").dt.convert_time_zone("Etc/GMT-1"))
    for given in (frame, frame.to_arrow(), frame.to_pandas()):
        assert Preprocessing.fit(given, "y", encoding=TABULAR).to_dict() == known.to_dict()
        np.testing.assert_array_equal(known.transform(given), known.transform({"when": list(map(str, days))}))


def test_columns_in_which_all_is_missing():
    learned = Preprocessing.fit({"a": [1.0, 2, 3], "b": ["x", "y", None], "y": [0.5, 1, 2]}, "y", impute="mean")
    x = learned.transform({"a": [None] * 2, "b": [None] * 2})
    np.testing.assert_array_equal(x, [[0, 0, 0, 1]] * 2)
    assert learned.unseen == {}


def test_rows_without_a_number_in_a_format_are_missing_it():
    fitted = Preprocessing.fit({"price": ["$5.00", "$7.50", None], "class": ["a", "b", "a"]}, "class", impute="mean")
    np.testing.assert_array_equal(fitted.transform({"price": [None, None]}), np.zeros((2, 1)))
    with pytest.raises(DataError, match=r"row 2: '7.5' in column 'price', which held numbers such as '\$12'"):
        fitted.transform({"price": [None, 7.5]})
