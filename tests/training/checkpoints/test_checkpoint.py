"""Checkpoint, the callback: when it writes, what it keeps, and what becomes of a folder that can't be written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.folder_lock import FolderLock
from gpu_backprop.training.checkpoints import checkpoint
from gpu_backprop.training.checkpoints.folder import numbered
from gpu_backprop.training.checkpoints.record_file import read_record

ROWS, STEPS = 23, 4  # minibatches of 6 rows
X, LABELS = np.random.default_rng(8).normal(size=(ROWS, 4)), np.arange(ROWS) % 3


@pytest.fixture(autouse=True)
def without_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda number: None)


def trainer_of(seed=3, **options):
    layers = [gb.Dense(5, "tanh"), gb.Dropout(0.2), gb.Dense(3, "softmax")]
    return gb.Trainer(gb.Network(4, layers, dtype="float64", seed=seed), batch_size=6, **options)


def fit(trainer, callbacks, epochs=3, **options):
    return trainer.fit(X, LABELS, epochs, progress=False, callbacks=callbacks, **options)


def places(folder):
    """Epoch and steps of each checkpoint."""
    positions = [read_record(path)["position"] for _, path in numbered(folder)]
    return [(position["epoch"], position["done"]) for position in positions]


# When -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        ({}, [(1, 0), (2, 0), (3, 0), (4, 0)]),
        ({"every_steps": 3}, [(1, 0), (1, 3), (2, 2), (3, 1), (3, 4)]),
        ({"every_steps": 100}, [(1, 0), (4, 0)]),
        ({"every_seconds": 100}, [(1, 0), (4, 0)]),
        ({"every_seconds": 1e-9}, [(1, 0), *((e, s) for e in (1, 2, 3) for s in range(1, STEPS + 1))]),
        ({"every_steps": 100, "every_seconds": 1e3}, [(1, 0), (4, 0)]),
    ],
)
def test_when_they_are_written(tmp_path, every, expected):
    fit(trainer_of(), [gb.Checkpoint(tmp_path / "a" / "b", keep=100, **every)])
    assert places(tmp_path / "a" / "b") == expected


def test_the_newest_are_kept(tmp_path):
    fit(trainer_of(), [gb.Checkpoint(tmp_path, keep=2)])
    assert places(tmp_path) == [(3, 0), (4, 0)]
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-000003.safetensors", "checkpoint-000004.safetensors"]


def test_where_training_is_stopped_one_is_written(tmp_path):
    class Stop:
        def on_step(self, state):
            return (state.epoch, state.step) == (2, 3)

    fit(trainer_of(), [gb.Checkpoint(tmp_path, every_steps=100), Stop()])
    assert places(tmp_path) == [(1, 0), (2, 3)]


class Fail:
    def on_step(self, state):
        if (state.epoch, state.step) == (2, 3):
            raise KeyboardInterrupt


def test_where_it_ends_in_the_middle_of_something_none_is_written(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(trainer_of(), [gb.Checkpoint(tmp_path), Fail()])
    assert places(tmp_path) == [(1, 0), (2, 0)]


def test_what_diverges_is_not_written(tmp_path):
    def spoil(state):
        state.trainer.network.parameters[:] = np.nan

    trainer = trainer_of()
    with pytest.raises(gb.DivergedError):
        fit(trainer, [spoil, gb.Checkpoint(tmp_path, every_steps=1, keep=100)])
    assert places(tmp_path) == [(1, 0), *((1, step) for step in range(1, STEPS + 1))]


def test_members_and_one_launch(tmp_path):
    fit(trainer_of(seed=[1, 2]), [gb.Checkpoint(tmp_path)])
    assert places(tmp_path)[-1] == (4, 0)


def test_it_changes_nothing(tmp_path):
    alone, trainer = trainer_of(), trainer_of()
    fit(alone, [])
    fit(trainer, [gb.Checkpoint(tmp_path, every_steps=1)])
    assert trainer.network.parameters.tobytes() == alone.network.parameters.tobytes()
    assert trainer.history["loss"] == alone.history["loss"]


# The best network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("best", "column", "choose"), [(True, "val_loss", min), ("val_accuracy", "val_accuracy", max)])
def test_the_best_network(tmp_path, best, column, choose):
    seen = {}

    def look(state):
        seen.setdefault(state.row[column], state.trainer.network.parameters.copy())

    fit(trainer_of(), [gb.Checkpoint(tmp_path, best=best), look], epochs=9, validation=(X[:9], LABELS[:9]))
    found = gb.load(tmp_path / "best.safetensors")
    np.testing.assert_array_equal(found.parameters, seen[choose(seen)])


def test_the_best_network_over_two_processes(tmp_path):
    def spoil(state):
        if state.epoch == 2:  # so that all that follows is worse
            state.trainer.network.parameters[:] *= 100

    class End:
        def on_epoch(self, state):
            if state.epoch == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(trainer_of(), [spoil, gb.Checkpoint(tmp_path, best=True, every_steps=5), End()])
    best = (tmp_path / "best.safetensors").read_bytes()
    trainer, told = trainer_of(), gb.Checkpoint(tmp_path, best=True)
    trainer.resume(tmp_path)
    fit(trainer, [spoil, told])
    assert trainer.history["loss"][2] > told.figure == min(trainer.history["loss"])
    assert (tmp_path / "best.safetensors").read_bytes() == best


@pytest.mark.parametrize("first", [np.nan, 0.5])
def test_a_measurement_that_is_nan_is_never_the_best(tmp_path, first):
    figures = iter([first, np.nan, 0.9, np.nan])

    def share(y_true, y_pred):
        return next(figures)

    share.larger_is_better = True
    told = gb.Checkpoint(tmp_path, best="val_share")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        fit(trainer_of(metrics=[share]), [told], epochs=4, validation=(X[:9], LABELS[:9]))
    assert told.figure == 0.9


def test_best_of_what_is_not_there(tmp_path):
    with pytest.raises(InputError, match="best='val_f1' is no column of the history: epoch, loss"):
        fit(trainer_of(), [gb.Checkpoint(tmp_path, best="val_f1")])
    with pytest.raises(InputError, match="best= is for one network"):
        fit(trainer_of(seed=[1, 2]), [gb.Checkpoint(tmp_path / "x", best=True)])


# Folders --------------------------------------------------------------------------------------------------------------


def test_a_folder_of_another_training_is_refused(tmp_path):
    trainer = trainer_of()
    fit(trainer, [gb.Checkpoint(tmp_path)])
    fit(trainer, [gb.Checkpoint(tmp_path)])  # its own
    before = {path: path.read_bytes() for _, path in numbered(tmp_path)}
    other = trainer_of()
    with pytest.raises(InputError, match="holds checkpoints: go on from them, by trainer.resume"):
        fit(other, [gb.Checkpoint(tmp_path)])
    assert {path: path.read_bytes() for _, path in numbered(tmp_path)} == before
    assert len(other.history) == 0


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    trainer = trainer_of()
    before = trainer.network.parameters.tobytes()
    with pytest.raises(InputError, match="cannot write checkpoints to .*file"):
        fit(trainer, [gb.Checkpoint(tmp_path / "file" / "c")])
    assert trainer.network.parameters.tobytes() == before


def test_a_full_disk_is_a_warning(tmp_path, monkeypatch):
    write, full = checkpoint.write_record, iter([False, False, True, True, False, False])

    def sometimes(path, record, device):
        if next(full):
            path.with_suffix(".partial").touch()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, record, device)

    monkeypatch.setattr(checkpoint, "write_record", sometimes)
    alone, trainer = trainer_of(), trainer_of()
    fit(alone, [], 5)
    with pytest.warns(RuntimeWarning, match="No space left on device.*training goes on") as warned:
        fit(trainer, [gb.Checkpoint(tmp_path, keep=100)], 5)
    assert len(warned) == 2
    assert places(tmp_path) == [(1, 0), (2, 0), (5, 0), (6, 0)]
    assert trainer.network.parameters.tobytes() == alone.network.parameters.tobytes()


def test_another_process_is_refused(tmp_path):
    held = (
        "import sys, pathlib\nfrom gpu_backprop.backend.folder_lock import FolderLock\n"
        "lock = FolderLock(pathlib.Path(sys.argv[1]), 'it')\nprint('held', flush=True)\nsys.stdin.read()\n"
    )
    words = [sys.executable, "-c", held, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="is being written to by another process"):
            fit(trainer_of(), [gb.Checkpoint(tmp_path)])
        child.kill()
        child.wait()
    fit(trainer_of(), [gb.Checkpoint(tmp_path)])  # no lock outlives its process
    FolderLock(tmp_path, "it").close()


def test_the_lock_is_let_go_of_after_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(trainer_of(), [gb.Checkpoint(tmp_path), Fail()])
    FolderLock(tmp_path, "it").close()
    with FolderLock(tmp_path, "it"), pytest.raises(InputError, match="another process"):
        FolderLock(tmp_path, "it")


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"every_steps": 0}, "every_steps must be an integer ≥ 1"),
        ({"every_seconds": 0}, "every_seconds must be a finite number of seconds > 0"),
        ({"every_seconds": "10min"}, "every_seconds must be a finite number of seconds > 0"),
        ({"keep": 0}, "keep must be an integer ≥ 1"),
    ],
)
def test_settings(tmp_path, options, told):
    with pytest.raises(InputError, match=told):
        gb.Checkpoint(tmp_path, **options)


@pytest.mark.parametrize("state", [{"a": object()}, {1: 2}, {"tensor": "x"}, {"f": lambda: 0}])
def test_a_state_that_no_file_can_hold(tmp_path, state):
    class Odd:
        def on_epoch(self, state):
            pass

        def state(self):
            return state

    with pytest.raises(InputError, match="a checkpoint takes dicts"):
        fit(trainer_of(), [gb.Checkpoint(tmp_path), Odd()])
