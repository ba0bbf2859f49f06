"""Data in files, on a CPU: a memory map of another dtype is read a minibatch at a time, and never converted whole.

What is streamed to a CUDA device is tested in tests/gpu/test_streaming.py.
"""

from __future__ import annotations

import logging
import sys
import tracemalloc

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.errors import DivergedError, InputError
from gpu_backprop.network import arrays
from gpu_backprop.network.arrays import memory_map
from gpu_backprop.network.samples import Samples
from gpu_backprop.training.progress import LineProgress, Progress
from gpu_backprop.training.streaming import _bring

ROWS = 41
_random = np.random.default_rng(5)
X = _random.normal(0, 1, (ROWS, 3))
Y = _random.normal(0, 1, (ROWS, 2))
LABELS = _random.integers(0, 2, ROWS)
WEIGHTS = _random.uniform(0, 2, ROWS)


def trainer_of(y=Y, dtype="float32", optimizer="adam", seed=0, **options):
    f = "softmax" if y.ndim == 1 else "identity"
    net = gb.Network(3, [gb.Dense(4, "tanh"), gb.Dense(2, f)], dtype=dtype, device="cpu", seed=seed)
    return gb.Trainer(net, optimizer=optimizer, batch_size=8, **options)


def on_disk(tmp_path, array, mode="r"):
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.npy"
    np.save(path, array)
    return np.load(path, mmap_mode=mode)


def fitted(x, y, weights=None, **form):
    trainer = trainer_of(y, **form)
    history = trainer.fit(x, y, 3, weights=weights, validation=(x[:9], y[:9]), progress=False)
    rows = [{name: value for name, value in row.items() if "s" not in name[:2]} for row in history]
    return trainer.network.parameters.tobytes(), rows


def test_what_is_a_memory_map(tmp_path):
    mapped = on_disk(tmp_path, X)
    for part in (mapped, np.asarray(mapped), mapped[::2, 1:], np.asarray(mapped).T.reshape(3, -1)[1:]):
        assert isinstance(memory_map(part), np.memmap)
    for array in (X, X[1:], np.array(mapped), np.frombuffer(X.tobytes()), 5):
        assert memory_map(array) is None


@pytest.mark.parametrize("seed", [0, [1, 2]], ids=["one", "members"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("source", ["float64", "float32", "float16", "uint8", ">f4", ">f8"])
def test_a_memory_map_trains_as_its_array_does(source, dtype, seed, tmp_path):
    x = (X * 40).astype(source) if source != "uint8" else _random.integers(0, 256, X.shape).astype(source)
    y, w = Y.astype("float32" if source == ">f8" else source.replace("uint8", "int8")), WEIGHTS.astype(">f8")
    mapped = [on_disk(tmp_path, array) for array in (x, y, w)]
    assert fitted(*mapped, dtype=dtype, seed=seed) == fitted(x, y, w, dtype=dtype, seed=seed)
    labels = on_disk(tmp_path, LABELS)
    assert fitted(mapped[0], labels, dtype=dtype, seed=seed) == fitted(x, LABELS, dtype=dtype, seed=seed)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_columns_of_a_mapped_table(dtype, tmp_path):
    table = on_disk(tmp_path, np.concatenate([X, Y], axis=1))
    assert fitted(table[:, :3], table[:, 3:], dtype=dtype) == fitted(X, Y, dtype=dtype)


def test_an_array_of_another_dtype_is_still_converted_once(tmp_path):
    trainer = trainer_of()
    sources = trainer.place(Samples(X, on_disk(tmp_path, Y), None), "data", 0, True).sources
    assert [source.dtype for source in sources] == [np.float32, np.float64]
    assert memory_map(sources[1]) is not None


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_fit_takes_a_fraction_of_the_file(dtype, gaps, tmp_path):
    """Neither the checks, nor the training, nor the measuring makes a copy of the data."""
    rows, columns = 100_000, 32
    files = [
        np.lib.format.open_memmap(tmp_path / name, "w+", np.float64, (rows, columns * (1 + gaps)))
        for name in ("x", "y")
    ]
    for file in files:
        for start in range(0, rows, 10_000):
            file[start : start + 10_000] = _random.uniform(0, 1, (10_000, file.shape[1]))
    x, y = (file[:, :columns] for file in files)
    trainer = gb.Trainer(gb.Network(columns, [gb.Dense(columns)], dtype=dtype, device="cpu"), batch_size=500)
    tracemalloc.start()
    try:
        trainer.fit(x, y, 1, validation=(x, y), progress=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * x.nbytes // 4  # x and y have twice that, four times with the validation data


def test_the_checks_look_at_all_pieces(monkeypatch):
    """The count, and the first place, are those of the whole array."""
    monkeypatch.setattr("gpu_backprop.network.arrays.BLOCK", 10)
    for bad, what in ((np.nan, "NaN or infinite"), (1e39, "too large for float32")):
        x = X.copy()
        x[[17, 30, 30], [2, 0, 1]] = bad
        with pytest.raises(InputError, match=rf"3 values are {what} in x, the first one \(.*\) at row 17, column 2"):
            trainer_of().fit(x, Y, 1)
    labels = LABELS.copy()
    labels[[20, 40]] = 7
    with pytest.raises(InputError, match=r"there is 7 at row 20 \(2 such in all\)"):
        trainer_of(LABELS).fit(X, labels, 1)
    halves = LABELS.astype(float)
    halves[33] = 0.5
    with pytest.raises(InputError, match=r"there is 0.5 at row 33"):
        trainer_of(LABELS).fit(X, halves, 1)
    shares = gb.one_hot(LABELS)
    shares[12] = 0.25
    with pytest.raises(InputError, match=r"row 12 adds up to 0.5"):
        gb.Trainer(gb.Network(3, [gb.Dense(2, "softmax")])).fit(X, shares, 1)


def test_a_debug_log_says_where_the_data_are(caplog, tmp_path):
    with caplog.at_level(logging.DEBUG, "gpu_backprop"):
        trainer_of().fit(on_disk(tmp_path, X), Y, 1, validation=(X, Y), progress=False)
    assert [record.getMessage() for record in caplog.records] == [
        "training data: 41 rows, 1.6 KiB as float64, in a memory map",
        "validation data: 41 rows, 1.6 KiB as float64, in host memory",
    ]


# The loss within an epoch ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, [1, 2]], ids=["one", "members"])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("every", [1, 2, 5, 6, 7])
def test_the_loss_of_some_steps_is_their_mean(every, weights, seed):
    """Each row weighs as it does in the loss of the epoch."""
    trainer, plain = trainer_of(seed=seed), trainer_of(seed=seed)
    history = trainer.fit(X, Y, 2, weights=weights, shuffle=False, progress=False, loss_every=every)
    other = plain.fit(X, Y, 2, weights=weights, shuffle=False, progress=False)
    np.testing.assert_array_equal(trainer.network.parameters, plain.network.parameters)
    assert history["loss"] == other["loss"] and not other.steps
    assert [(row["epoch"], row["step"]) for row in history.steps] == [
        (epoch, step) for epoch in (1, 2) for step in range(every, 7, every)
    ]
    if every in (1, 2):
        w = np.ones(ROWS) if weights is None else weights
        sums = [w[start : start + 8 * every].sum() for start in range(0, ROWS, 8 * every)]
        for epoch, whole in enumerate(history["loss"]):
            losses = [row["loss"] for row in history.steps if row["epoch"] == epoch + 1]
            np.testing.assert_allclose(np.average(losses, axis=0, weights=sums), whole, rtol=1e-6)


@pytest.mark.parametrize("every", [0, -1, 1.5, "all"])
def test_a_bad_loss_every(every):
    with pytest.raises(InputError, match="loss_every"):
        trainer_of().fit(X, Y, 1, loss_every=every)


class Counting(Progress):
    def __init__(self):
        self.samples, self.rows = 0, []

    def advance(self, samples):
        self.samples += samples

    def step(self, row):
        self.rows.append(row)


def test_a_loss_that_is_lost_ends_the_epoch(monkeypatch):
    """The search then finds the same step as it does after a whole epoch."""
    found = []
    for every in (1, None):
        shown = Counting()
        monkeypatch.setattr("gpu_backprop.training.fit.open_progress", lambda *_, shown=shown: shown)
        trainer = trainer_of(optimizer=gb.SGD(1e30))
        with pytest.raises(DivergedError) as caught:
            trainer.fit(X, Y, 1, loss_every=every)
        found.append((str(caught.value), trainer.network.parameters.tobytes()))
        assert shown.samples == (8 * caught.value.step if every else ROWS)
        assert shown.rows == trainer.history.steps and len(shown.rows) == (caught.value.step if every else 0)
    assert found[0] == found[1]


def test_large_parameters_are_finite():
    """Their squares are not, in float64."""
    trainer = trainer_of(dtype="float64", optimizer=gb.SGD(1e-3))
    trainer.network.parameters[0] = 1e200
    assert len(trainer.fit(np.zeros((8, 3)), Y[:8], 1, progress=False)) == 1


def test_a_log_tells_of_the_loss_now_and_then(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr("gpu_backprop.training.progress.time.monotonic", lambda: now)
    shown = LineProgress(3, gb.History())
    for step in range(1, 31):
        now += 1.0
        shown.step({"epoch": 2, "step": step, "loss": 0.5})
    assert capsys.readouterr().out.splitlines() == [
        f"epoch 2/3, step {step}: loss 0.5000" for step in (10, 20, 30)
    ]  # fmt: skip


VIEWS = {
    "whole": lambda x: x,
    "rows": lambda x: x[7:40:3],
    "columns": lambda x: x[:, 2:5],
    "backwards": lambda x: x[::-1],
    "a column": lambda x: x[:, 1],
    "transposed": lambda x: x.T,
    "columns with gaps": lambda x: x[:, ::2],
    "images": lambda x: x.reshape(-1, 2, 3),
}


@pytest.mark.parametrize("copied", [True, False], ids=["by the system", "by NumPy"])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_rows_of_a_file(view, mode, copied, tmp_path, monkeypatch):
    if not copied:
        monkeypatch.setattr(arrays, "_system_copy", lambda: None)
    monkeypatch.setattr(arrays, "PLACES", 4)
    table = _random.normal(0, 1, (60, 6)).astype(">f4")
    mapped = on_disk(tmp_path, table, mode)
    if mode != "r":
        mapped[3], table[3] = 7, 7
    expected, source = view(table), view(mapped)
    order = _random.permutation(len(expected))
    for rows in (slice(None), slice(1, 4), slice(2, 2), order, order[:1], order[:0]):
        found = arrays.loaded(source, rows)
        np.testing.assert_array_equal(found, expected[rows])
        assert found.dtype == table.dtype
        for dense in (0, 4):
            monkeypatch.setattr("gpu_backprop.training.streaming.DENSE", dense)
            out = np.full(expected[rows].shape, -1.0)
            _bring(source, slice(*rows.indices(len(source))) if isinstance(rows, slice) else rows, out)
            np.testing.assert_array_equal(out, expected[rows])


@pytest.mark.skipif(sys.platform != "linux", reason="there the process would end")
@pytest.mark.parametrize("rows", [slice(2000, 4000), np.array([1, 4000, 2])], ids=["side by side", "chosen"])
def test_a_file_that_is_cut_off_between_the_look_at_its_size_and_the_reading(rows, tmp_path, monkeypatch):
    x = on_disk(tmp_path, np.zeros((5000, 3)))
    with open(x.filename, "r+b") as file:
        file.truncate(50_000)
    with pytest.raises(InputError, match="another program has cut it off"):
        arrays.loaded(x, rows)
    monkeypatch.setattr(arrays, "check_file", lambda array: None)  # as if it were cut off after the look
    with pytest.raises(InputError, match="cannot be read"):
        list(arrays.blocks(x))
    with pytest.raises(InputError, match="cannot be read"):
        _bring(x, rows, np.empty((len(np.arange(5000)[rows]), 3)))


def test_a_file_that_is_cut_off_between_two_epochs(tmp_path, monkeypatch):
    x = on_disk(tmp_path, np.zeros((5000, 3), np.float32))

    class CutsOff(Progress):
        def epoch(self, row):
            with open(x.filename, "r+b") as file:
                file.truncate(50_000)

    monkeypatch.setattr("gpu_backprop.training.fit.open_progress", lambda *_: CutsOff())
    trainer = trainer_of(LABELS)
    with pytest.raises(InputError, match="another program has cut it off"):
        trainer.fit(x, np.zeros(5000, int), 2)
    assert len(trainer.history) == 1


@pytest.mark.parametrize("part", [slice(None), slice(3000, None)], ids=["whole", "a part of it"])
def test_a_file_that_was_cut_off(part, tmp_path):
    """Reading on would end the process, with no word of what happened."""
    trainer = trainer_of(LABELS)
    x, labels = on_disk(tmp_path, np.zeros((5000, 3), np.float32)), np.zeros(5000, int)
    with open(x.filename, "r+b") as file:
        file.truncate(50_000)
    with pytest.raises(InputError, match=r"0\.npy has 50,000 bytes, but had 60,128 when it was mapped"):
        trainer.fit(x[part], labels[part], progress=False)
