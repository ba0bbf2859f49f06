"""Rows that are read in blocks and prepared in temporary files, held against the same data read as a whole."""

from __future__ import annotations

import csv
import gzip
import re
import struct
import threading

import numpy as np
import pytest
from thread_ranks import on_threads

import gpu_backprop as gb
from gpu_backprop.backend.errors import InputError
from gpu_backprop.data import (
    Preprocessing,
    csv_file,
    first_pass,
    idx,
    numpy_files,
    parquet_file,
    read,
    stored_rows,
    text_columns,
)
from gpu_backprop.data.encoding import TABULAR, Encoding
from gpu_backprop.data.errors import DataError
from gpu_backprop.data.running_scaling import RunningScaling
from gpu_backprop.data.scaling import fit_scaling
from gpu_backprop.data.split import is_held_out
from gpu_backprop.training import streaming

ROWS = 430
_random = np.random.default_rng(11)
COLUMNS = {
    "age": _random.integers(18, 90, ROWS).tolist(),
    "pay": (_random.normal(3e4, 1e4, ROWS)).round(2).tolist(),
    "city": _random.choice(["Bern", "Chur", "Genève"], ROWS).tolist(),
    "share": [f"{value} %" for value in _random.integers(0, 100, ROWS)],
    "w": _random.uniform(0.5, 2, ROWS).round(3).tolist(),
    "class": _random.choice(["no", "yes", "maybe"], ROWS).tolist(),
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Blocks of a few rows."""
    monkeypatch.setattr(csv_file, "BLOCK", 60)
    monkeypatch.setattr(parquet_file, "BATCH", 60)
    monkeypatch.setattr(numpy_files, "BLOCK", 60)
    monkeypatch.setattr(idx, "BLOCK", 60)


def write(path, columns=COLUMNS):
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table(columns), path, row_group_size=100)
        return path
    with gzip.open(path, "wt", newline="") if path.suffix == ".gz" else path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def everything(rows):
    return rows.read(slice(0, len(rows)))


def same(rows, path, target="class", **settings):
    """Compares rows with all that is read, and prepared, as a whole."""
    table = read(path)
    learned = Preprocessing.fit(table, target, **settings)
    assert rows.preprocessing.features == learned.features
    assert (rows.preprocessing.why, rows.preprocessing.how) == (learned.why, learned.how)
    np.testing.assert_allclose(everything(rows), learned.transform(table), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rows.y, learned.targets(table), rtol=1e-12)
    assert rows.shape == (table.rows, learned.inputs)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.parquet"])
@pytest.mark.parametrize("target", ["class", "pay"])
def test_a_table(name, target, tmp_path):
    path = write(tmp_path / name)
    with gb.open_rows(path, target=target) as rows:
        same(rows, path, target)
    with gb.open_rows(path, target=target, weights="w", ignore=["age"], hashed={"city": 7}) as rows:
        same(rows, path, target, ignore=["age", "w"], hashed={"city": 7})
        np.testing.assert_array_equal(rows.weights, COLUMNS["w"])


@pytest.mark.parametrize("impute", ["mean", "median", "constant"])
def test_missing_values(impute, tmp_path):
    columns = COLUMNS | {"age": [value if row % 7 else None for row, value in enumerate(COLUMNS["age"])]}
    columns["city"] = [value if row % 5 else None for row, value in enumerate(COLUMNS["city"])]
    path = write(tmp_path / "a.csv", columns)
    with gb.open_rows(path, target="class", impute=impute) as rows:
        same(rows, path, impute=impute)
    with pytest.raises(DataError, match="column 'age' has 62 missing values, the first in line 2, and 1 more column"):
        gb.open_rows(path, target="class")


@pytest.mark.parametrize("numbers", ["standard", "robust", "quantile"])
def test_an_encoding(numbers, tmp_path):
    columns = COLUMNS | {"age": [value if row % 7 else None for row, value in enumerate(COLUMNS["age"])]}
    path = write(tmp_path / "a.csv", columns)
    encoding = Encoding(numbers=numbers, clip=True, indicator=True, clip_target=True)
    for target in ("class", "pay"):
        with gb.open_rows(path, target=target, encoding=encoding) as rows:
            same(rows, path, target, encoding=encoding)
            assert "age missing" in rows.preprocessing.features
    x = _random.normal(0, 1, (ROWS, 5))
    x[::9, 2] = np.nan
    np.save(tmp_path / "d_x.npy", x)
    np.save(tmp_path / "d_y.npy", _random.normal(0, 1, ROWS))
    with gb.open_rows(tmp_path / "d_x.npy", encoding=encoding) as rows:
        same(rows, tmp_path / "d_x.npy", None, encoding=encoding)
        assert rows.preprocessing.features[3] == "x[2] missing"


@pytest.mark.parametrize("numbers", ["robust", "quantile"])
def test_an_encoding_of_no_numbers(numbers, tmp_path):
    path = write(tmp_path / "a.csv", {"city": COLUMNS["city"], "class": COLUMNS["class"]})
    encoding = Encoding(numbers=numbers, clip=True)
    with gb.open_rows(path, target="class", impute="median", encoding=encoding) as rows:
        same(rows, path, impute="median", encoding=encoding)


def test_quantiles_of_a_sample_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr("gpu_backprop.data.running_scaling.SAMPLE_ROWS", 100)
    path = write(tmp_path / "a.csv")
    with gb.open_rows(path, target="class", encoding=Encoding(numbers="robust")) as rows:
        assert rows.preprocessing.describe()[0][1].endswith(", by a sample of 100 rows")
        again = gb.data.Preprocessing.from_dict(rows.preprocessing.to_dict())
        assert again.describe() == rows.preprocessing.describe()


def test_a_column_that_is_text_after_all(tmp_path):
    late = [*map(str, COLUMNS["age"][:-1]), "old"]
    path = write(tmp_path / "a.csv", COLUMNS | {"age": late, "share": [*COLUMNS["share"][:-1], "unknown"]})
    with gb.open_rows(path, target="class") as rows:
        same(rows, path)
    path = write(tmp_path / "b.csv", COLUMNS | {"class": ["1", "2"] * (ROWS // 2 - 1) + ["2", "b"]})
    with gb.open_rows(path, target="class") as rows:
        same(rows, path)


def test_rows_without_a_target(tmp_path):
    path = write(tmp_path / "a.csv", COLUMNS | {"class": [None, *COLUMNS["class"][1:]]})
    with pytest.raises(DataError, match="column 'class', the target, has 1 missing value"):
        gb.open_rows(path, target="class")
    with gb.open_rows(path, target="class", drop_missing_target=True) as rows:
        assert len(rows) == ROWS - 1


@pytest.mark.parametrize("dtype", ["float32", "uint8", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_files(dtype, order, tmp_path):
    x = np.asarray(_random.normal(100, 20, (ROWS, 3)), dtype, order=order)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", _random.normal(0, 1, ROWS))
    for name in "xy":
        with gb.open_rows(tmp_path / f"{name}.npy") as rows:
            same(rows, tmp_path / "x.npy", None)


def test_a_folder_of_idx_files(tmp_path):
    pixels, labels = _random.integers(0, 256, (ROWS, 2, 3)).astype(np.uint8), _random.integers(0, 4, ROWS)
    images = struct.pack(">HBBIII", 0, 8, 3, ROWS, 2, 3) + pixels.tobytes()
    (tmp_path / "train-images-idx3-ubyte").write_bytes(images)
    packed = gzip.compress(struct.pack(">HBBI", 0, 8, 1, ROWS) + labels.astype(np.uint8).tobytes())
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(packed)
    with gb.open_rows(tmp_path) as rows:
        same(rows, tmp_path, None)


def test_what_is_held_out_is_decided_row_by_row(tmp_path):
    path = write(tmp_path / "a.parquet")
    with gb.open_rows(path, target="pay", held_out=0.25, seed=3) as rows:
        out = is_held_out(0, ROWS, 0.25, 3)
        assert len(rows) + len(rows.held_out) == ROWS and len(rows.held_out) == out.sum()
        assert abs(out.mean() - 0.25) < 0.06
        table = read(path)
        learned = Preprocessing.fit(table, "pay", rows=~out)  # of the training rows alone
        for part, chosen in ((rows, ~out), (rows.held_out, out)):
            np.testing.assert_allclose(everything(part), learned.transform(table)[chosen], rtol=1e-5, atol=1e-6)
    assert (is_held_out(100, 50, 0.25, 3) == out[100:150]).all()
    many = is_held_out(0, 1 << 20, 0.1, 0)
    assert abs(many.mean() - 0.1) < 4 * 0.3 / 1024  # four standard deviations
    assert not (many == is_held_out(0, 1 << 20, 0.1, 1)).all()


def test_a_trained_network_is_given_more_rows(tmp_path):
    write(tmp_path / "a.csv")
    with gb.open_rows(tmp_path / "a.csv", target="class") as rows:
        learned = Preprocessing.from_dict(rows.preprocessing.to_dict())
    later = {name: values[:50] for name, values in COLUMNS.items()} | {"city": ["Bern"] * 49 + ["Wil"]}
    with gb.open_rows(write(tmp_path / "b.csv", later), preprocessing=learned) as rows:
        np.testing.assert_array_equal(everything(rows), learned.transform(read(tmp_path / "b.csv")))
        assert rows.unseen == {"city": 1}


def test_it_trains_and_measures(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "WINDOW", 4000)
    monkeypatch.setattr(streaming, "STRETCH", 400)
    losses = []
    for _ in range(2):
        with gb.open_rows(write(tmp_path / "a.csv"), target="class", weights="w", held_out=0.2) as rows:
            net = gb.Network(rows.shape[1], [gb.Dense(8, "relu"), gb.Dense(3, "softmax")], device="cpu")
            trainer = gb.Trainer(net, batch_size=32)
            history = trainer.fit(rows, epochs=3, validation=rows.held_out, progress=False)
            losses.append([(row["loss"], row["val_loss"]) for row in history])
            measured = trainer.evaluate(rows.held_out)
            assert measured["loss"] == history.rows[-1]["val_loss"]
            held_out = rows.held_out
            assert measured == trainer.evaluate(everything(held_out), np.array(held_out.y), np.array(held_out.weights))
            with pytest.raises(gb.InputError, match="give no y"):
                trainer.fit(rows, rows.y, progress=False)
    assert losses[0] == losses[1]


def test_what_fit_does_with_rows_and_with_arrays(tmp_path, monkeypatch):
    """Without shuffling, so that both see the same order."""
    monkeypatch.setattr(streaming, "WINDOW", 4000)
    settings = {"validation_split": 0.2, "class_weight": "balanced", "shuffle": False, "progress": False}
    with gb.open_rows(write(tmp_path / "a.csv"), target="class", weights="w") as rows:
        found = []
        arrays = everything(rows), np.array(rows.y)
        for data, weights in (((rows,), None), (arrays, np.array(rows.weights))):
            net = gb.Network(rows.shape[1], [gb.Dense(8, "relu"), gb.Dense(3, "softmax")], device="cpu")
            history = gb.Trainer(net, batch_size=32).fit(*data, epochs=2, weights=weights, **settings)
            found.append((net.parameters.tobytes(), [(row["loss"], row["val_loss"]) for row in history]))
        assert found[0] == found[1]


def test_a_fit_that_was_ended_goes_on_within_a_window(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "WINDOW", 32 * 3 * 56)
    monkeypatch.setattr(streaming, "STRETCH", 400)
    with gb.open_rows(write(tmp_path / "a.csv"), target="class") as rows:

        def trainer():
            net = gb.Network(rows.shape[1], [gb.Dense(8, "relu"), gb.Dense(3, "softmax")], device="cpu")
            return gb.Trainer(net, batch_size=32)

        class Ended:
            def on_step(self, state):
                if (state.epoch, state.step) == (2, 5):
                    raise RuntimeError("the power is gone")

        straight, first, second = trainer(), trainer(), trainer()
        straight.fit(rows, epochs=3, progress=False)
        with pytest.raises(RuntimeError):
            first.fit(
                rows, epochs=3, progress=False, callbacks=[gb.Checkpoint(tmp_path / "run", every_steps=4), Ended()]
            )
        second.resume(tmp_path / "run")
        second.fit(rows, epochs=3, progress=False)
        assert second.network.parameters.tobytes() == straight.network.parameters.tobytes()


def test_diagnosis_and_learning_rates(tmp_path):
    with gb.open_rows(write(tmp_path / "a.csv"), target="class", held_out=0.2) as rows:
        found = []
        held_out = everything(rows.held_out), np.array(rows.held_out.y)
        for data, outer in (((rows,), rows.held_out), ((everything(rows), np.array(rows.y)), held_out)):
            net = gb.Network(rows.shape[1], [gb.Dense(8, "relu"), gb.Dense(3, "softmax")], device="cpu")
            net.preprocessing = rows.preprocessing
            trainer = gb.Trainer(net, batch_size=32)
            told = str(trainer.diagnose(*data, validation=outer))
            found.append((told, trainer.find_learning_rate(*data, steps=20).rates))
        assert found[0][0] == found[1][0]
        np.testing.assert_array_equal(found[0][1], found[1][1])


def test_maps_that_are_given(tmp_path):
    np.save(tmp_path / "x.npy", _random.normal(0, 1, (ROWS, 3)))
    x, y = np.load(tmp_path / "x.npy", mmap_mode="r"), _random.normal(0, 1, ROWS)
    rows = gb.open_rows(x, y)
    assert repr(rows) == "StoredRows(430 rows of 3 inputs)" and rows.preprocessing is None
    net = gb.Network(3, [gb.Dense(1)], device="cpu")
    trainer = gb.Trainer(net)
    trainer.fit(rows, epochs=2, validation=rows, progress=False)
    assert trainer.evaluate(rows) == trainer.evaluate(np.array(x), y)


def test_rows_by_their_indices(tmp_path):
    with gb.open_rows(write(tmp_path / "a.csv"), target="class") as rows:
        x = everything(rows)
        for chosen in (_random.integers(0, ROWS, 100), np.arange(3, 400, 40), np.array([429, 0]), np.arange(0)):
            np.testing.assert_array_equal(rows.read(chosen), x[chosen])
        np.testing.assert_array_equal(rows.read(slice(None, None, 7)), x[::7])


@pytest.mark.parametrize("impute", [None, "mean", "median", "constant"])
def test_a_scaling_of_values_that_come_in_parts(impute):
    values = _random.normal(1e4, 3, (100, 4))
    values[:, 1] = 7.1
    if impute is not None:
        values[::3, :3] = np.nan
        values[:, 2] = np.nan
    running = RunningScaling(4, impute)
    for part in np.array_split(values, 7):
        running.add(part)
    running.add(values[:0])
    found, expected = running.scaling(), fit_scaling(values, impute)
    np.testing.assert_allclose(found.center, expected.center, rtol=1e-13)
    np.testing.assert_allclose(found.spread, expected.spread, rtol=1e-9, atol=1e-12)
    if impute is not None:
        np.testing.assert_allclose(found.fill, expected.fill, rtol=1e-13)


def test_too_many_categories_are_found_on_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr(first_pass, "MOST_INPUTS", 100)
    monkeypatch.setattr(text_columns, "MOST_INPUTS", 100)
    path = write(tmp_path / "a.csv", COLUMNS | {"id": [f"no-{row}x" for row in range(ROWS)]})
    said = "column 'id' has 1.. different texts, each of which would be an input .* --ignore .* --hash"
    with pytest.raises(DataError, match=said):
        gb.open_rows(path, target="class")
    with gb.open_rows(path, target="class", hashed={"id": 16}) as rows:
        same(rows, path, hashed={"id": 16})


def test_a_full_disk(tmp_path, monkeypatch):
    path = write(tmp_path / "a.csv")

    class Full:
        def write(self, data):
            raise OSError(28, "No space left on device")

        def close(self):
            pass

    monkeypatch.setattr("gpu_backprop.data.stored_rows.tempfile.TemporaryFile", lambda dir: Full())
    with pytest.raises(DataError, match="cannot be prepared in .*No space left on device, .* make room, or name ano"):
        gb.open_rows(path, target="class")


@pytest.mark.parametrize(
    ("given", "settings", "what"),
    [
        ("a.csv", {"target": "klass"}, "no column 'klass', the target; did you mean 'class'"),
        ("a.csv", {"target": "class", "held_out": 1.0}, "held_out is '1.0'"),
        ("a.csv", {"target": "class", "hashed": {"town": 4}}, "column 'town', which is to be hashed, is not there"),
        ("a.csv", {"target": "class", "weights": "city"}, "column 'city', the weights, must be numbers"),
        ("a.csv", {"target": "class", "impute": "guess"}, "impute is 'guess'"),
        ("b.csv", {"target": "class"}, "does not exist"),
        ("x.npy", {"target": "class"}, "holds arrays, which have no columns; leave 'class' out"),
    ],
)
def test_what_is_refused(given, settings, what, tmp_path):
    write(tmp_path / "a.csv")
    np.save(tmp_path / "x.npy", np.ones((4, 2)))
    np.save(tmp_path / "y.npy", np.ones(4))
    with pytest.raises(DataError, match=what):
        gb.open_rows(tmp_path / given, **settings)


def test_closed_rows_say_that_they_are(tmp_path):
    (tmp_path / "few.csv").write_text("a,b\n" + "1,2\n3,4\n" * 50)
    rows = gb.open_rows(tmp_path / "few.csv", target="b", task="regression")
    rows.close()
    with pytest.raises(DataError, match="these rows have been closed"):
        rows.read(slice(0, 3))


# Several ranks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_each", [None, 2], ids=["one machine", "two of two"])
@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_one_rank_of_a_machine_prepares_the_rows_and_the_others_open_them(name, on_each, tmp_path, monkeypatch):
    path, how = write(tmp_path / name), {"target": "class", "weights": "w", "held_out": 0.2, "encoding": TABULAR}
    appending = []
    append = stored_rows.RowFile.append
    monkeypatch.setattr(
        stored_rows.RowFile, "append",
        lambda file, values: (appending.append(threading.get_ident()), append(file, values)),
    )  # fmt: skip
    with gb.open_rows(path, **how) as alone:
        appending.clear()
        of_ranks = on_threads(4, lambda communicator: gb.open_rows(path, **how, communicator=communicator), on_each)
        assert [*tmp_path.iterdir()] == [path]
        assert len({*appending}) == (1 if on_each is None else 2)
        for rows in of_ranks:
            for own, expected in ((rows, alone), (rows.held_out, alone.held_out)):
                assert own.shape == expected.shape
                np.testing.assert_array_equal(everything(own), everything(expected))
                np.testing.assert_array_equal(own.y, expected.y)
                np.testing.assert_array_equal(own.weights, expected.weights)
            learned, expected = rows.preprocessing, alone.preprocessing
            assert learned.to_dict() == expected.to_dict()
            assert (learned.why, learned.how, learned.warnings) == (expected.why, expected.how, expected.warnings)
            rows.close()


def test_rows_prepared_as_in_training_are_the_same_on_all_ranks(tmp_path):
    later = {name: values[:50] for name, values in COLUMNS.items()} | {"city": ["Rom"] * 50}
    paths = write(tmp_path / "a.csv"), write(tmp_path / "b.csv", later)
    with gb.open_rows(paths[0], target="class") as rows:
        learned = rows.preprocessing
    with gb.open_rows(paths[1], preprocessing=learned) as alone:
        for rows in on_threads(2, lambda one: gb.open_rows(paths[1], preprocessing=learned, communicator=one)):
            np.testing.assert_array_equal(everything(rows), everything(alone))
            assert rows.unseen == alone.unseen == {"city": 50}
            rows.close()


def test_what_one_rank_finds_wrong_is_wrong_on_all_and_leaves_no_file(tmp_path):
    path = write(tmp_path / "a.csv", COLUMNS | {"age": ["young", *COLUMNS["age"][1:-1], "old"]})
    path.write_text(path.read_text()[:-9])

    def refused(communicator):
        with pytest.raises((DataError, InputError)) as told:
            gb.open_rows(path, target="class", communicator=communicator)
        return str(told.value)

    first, *others = on_threads(3, refused)
    assert "a.csv, line 431" in first and others == [f"rank 0: {first}"] * 2
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("wrong", ["folder", "seen"])
def test_ranks_that_cannot_open_the_same_files_are_told(wrong, tmp_path, monkeypatch):
    path, folder = write(tmp_path / "a.csv"), tmp_path / "none" if wrong == "folder" else tmp_path
    if wrong == "seen":
        monkeypatch.setattr(stored_rows.Path, "exists", lambda _: False)

    def refused(communicator):
        with pytest.raises((DataError, InputError, OSError)) as told:
            gb.open_rows(path, target="class", folder=folder, communicator=communicator)
        return str(told.value)

    told = on_threads(3, refused)
    why = "No such file" if wrong == "folder" else "no other rank of this machine is seen to write in .*; name a folder"
    assert [re.search(why, one) is not None for one in told] == [True] * 3
    assert [*tmp_path.iterdir()] == [path]
