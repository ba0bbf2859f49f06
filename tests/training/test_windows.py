"""Data larger than memory: memory maps, and rows that are made as they are read, trained on in windows.

That a CUDA device learns the same is tested in tests/gpu/test_streaming.py.
"""

from __future__ import annotations

import logging
import threading
from contextlib import closing

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.lazy_rows import LazyRows
from gpu_backprop.network.samples import Samples
from gpu_backprop.training import streaming
from gpu_backprop.training.minibatches import DataSet
from gpu_backprop.training.streaming import WindowedData

ROWS, BATCH = 205, 8
_random = np.random.default_rng(7)
X = _random.normal(0, 1, (ROWS, 3))
Y = _random.normal(0, 1, (ROWS, 2)).astype("float32")
WEIGHTS = _random.uniform(0, 2, ROWS)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Windows of 6 minibatches, from stretches of 5 rows; no map fits in memory."""
    monkeypatch.setattr(streaming, "WINDOW", 6 * BATCH * (3 + 2 + 1) * 4)
    monkeypatch.setattr(streaming, "STRETCH", 5 * (3 * 8 + 2 * 4 + 8))
    monkeypatch.setattr(streaming, "memory", lambda: 0)


@pytest.fixture
def maps(tmp_path):
    def mapped(array):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.npy"
        np.save(path, array)
        return np.load(path, mmap_mode="r")

    return [mapped(array) for array in (X, Y, WEIGHTS)]


def trainer_of(seed=0):
    net = gb.Network(3, [gb.Dense(4, "tanh"), gb.Dropout(0.2), gb.Dense(2)], device="cpu", seed=seed)
    return gb.Trainer(net, batch_size=BATCH)


def windowed(trainer, x, y, w):
    return WindowedData(trainer.network, Samples(x, y, w), BATCH)


def rows_of(data, sizes, done=0):
    """The x of each minibatch of an epoch: what its steps gather."""
    found = []
    with data.device.computing(), closing(data.parts(sizes, done)) as parts:
        for part in parts:
            at = int(data.cursor[0])
            for rows in part:
                found.append(np.asarray(data.sources[0])[data.permutation[..., at : at + rows]])
                at += rows
    return found


def order_of(data, number=0):
    """The rows of an epoch, by what the docstring of WindowedData says of their order."""
    rows = np.empty(ROWS, np.int64)
    for begin in range(0, ROWS, data.block_rows):
        for some, places in data._order[number].window(begin, min(begin + data.block_rows, ROWS)):
            rows[begin + places] = np.arange(some.start, some.stop)
    return rows


def test_an_epoch_is_a_permutation_of_shuffled_windows_of_shuffled_stretches(maps):
    trainer = trainer_of()
    data = windowed(trainer, *maps)
    assert (data.block_rows, data.stretch) == (48, 5)
    data.shuffle(trainer.training_step.shuffling)
    order = order_of(data)
    assert sorted(order) == list(range(ROWS))
    window = order[:48]
    stretches = {row // 5 for row in window.tolist()}
    assert 10 <= len(stretches) <= 11 and max(stretches) - min(stretches) > 20  # from all over the file
    assert np.mean(np.diff(window) == 1) < 0.15  # and permuted
    data.shuffle(trainer.training_step.shuffling)
    assert (order_of(data) != order).mean() > 0.9
    again = trainer_of().training_step.shuffling
    data.shuffle(again)
    np.testing.assert_array_equal(order_of(data), order)


def test_windows_train_as_the_rows_in_their_order_do(maps):
    trainer = trainer_of()
    history = trainer.fit(maps[0], maps[1], 3, weights=maps[2], validation=tuple(maps), progress=False)
    other = trainer_of()
    data = windowed(trainer_of(), *maps)
    seeds = other.training_step.shuffling.draw_seeds

    class Drawn:
        draw_seeds = staticmethod(seeds)
        take = staticmethod(lambda: None)

    def draw(rows):
        data.shuffle(Drawn)
        return order_of(data)

    other.training_step.shuffling.draw_order = draw
    expected = other.fit(X, Y, 3, weights=WEIGHTS, validation=(X, Y, WEIGHTS), progress=False)
    assert [row["loss"] for row in history] == [row["loss"] for row in expected]
    assert [row["val_loss"] for row in history] == [row["val_loss"] for row in expected]
    assert trainer.network.parameters.tobytes() == other.network.parameters.tobytes()
    assert trainer.evaluate(maps[0], maps[1]) == other.evaluate(X, Y)


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_can_begin_at_any_step(maps, shuffle):
    trainer = trainer_of()
    step, samples = trainer.training_step, Samples(*maps)
    for data in (WindowedData(trainer.network, samples, BATCH), DataSet(trainer.network, samples)):
        data.shuffle(step.shuffling) if shuffle else data.start()
        sizes = list(data.minibatches(BATCH))
        whole = rows_of(data, sizes)
        assert np.concatenate(whole).shape == X.shape
        for done in range(len(sizes)):
            left = rows_of(data, sizes, done)
            assert len(left) == len(sizes) - done
            np.testing.assert_array_equal(np.concatenate(left), np.concatenate(whole[done:]))


def test_each_member_sees_what_it_would_see_alone(maps):
    seeds = [3, 4]
    members = trainer_of(seeds)
    data = windowed(members, *maps)
    data.shuffle(members.training_step.shuffling)
    sizes = list(data.minibatches(BATCH))
    together = np.concatenate(rows_of(data, sizes), axis=-2)
    for number, seed in enumerate(seeds):
        alone = trainer_of(seed)
        data = windowed(alone, *maps)
        data.shuffle(alone.training_step.shuffling)
        np.testing.assert_array_equal(np.concatenate(rows_of(data, sizes)), together[number])


def test_rows_that_are_made_as_they_are_read(maps):
    x = LazyRows(X.shape, np.float64, lambda rows: np.array(X[rows]))
    assert (len(x), x.ndim, x.size, x.nbytes) == (ROWS, 2, X.size, X.nbytes)
    np.testing.assert_array_equal(x[3], X[3])
    assert x[3, 2] == X[3, 2]
    np.testing.assert_array_equal(x[::7], X[::7])
    np.testing.assert_array_equal(x[1:9, 1], X[1:9, 1])
    trainer, other = trainer_of(), trainer_of()
    trainer.fit(x, Y, 2, validation=(x, Y), progress=False)
    other.fit(maps[0], maps[1], 2, validation=(maps[0], maps[1]), progress=False)
    assert trainer.network.parameters.tobytes() == other.network.parameters.tobytes()
    assert trainer.history.rows[-1]["val_loss"] == other.history.rows[-1]["val_loss"]


def test_what_lazy_rows_have_wrong_is_found_before_training():
    wrong = X.copy()
    wrong[200, 1] = np.nan
    x = LazyRows(X.shape, np.float64, lambda rows: np.array(wrong[rows]))
    with pytest.raises(InputError, match="1 value is NaN .* \\(nan\\) at row 200, column 1"):
        trainer_of().fit(x, Y, 1, progress=False)


def test_an_error_of_the_reader_ends_the_fit_and_its_thread(maps):
    def read(rows):
        if threading.current_thread() is not threading.main_thread():
            raise OSError("the disk is gone")
        return np.array(X[rows])

    trainer = trainer_of()
    with pytest.raises(OSError, match="the disk is gone"):
        trainer.fit(LazyRows(X.shape, np.float64, read), Y, 1, progress=False)
    assert trainer.history.stopped == "ended in epoch 1 by OSError"
    assert not [thread for thread in threading.enumerate() if "reader" in thread.name]


def test_what_is_needed_is_told(maps, caplog):
    with caplog.at_level(logging.INFO, "gpu_backprop"):
        trainer_of().fit(maps[0], maps[1], 1, progress=False)
    told = "training data: 205 rows, read from disk in windows of 56 rows; two take 2.2 KiB"
    assert caplog.messages == [told]
