"""The files that grow with a history: CSV and JSON lines."""

from __future__ import annotations

import csv
import json
import os

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.errors import InputError
from gpu_backprop.training.history import History
from gpu_backprop.training.row_logs import CsvLog, RowLog

ROWS = [
    {"epoch": 1, "loss": 0.7, "accuracy": 0.5, "val_loss": 0.8, "val_accuracy": 0.4, "seconds": 0.1},
    {"epoch": 2, "loss": 0.1 + 0.2, "accuracy": 0.75, "val_loss": 0.6, "val_accuracy": 0.5, "seconds": 0.1},
    {"epoch": 3, "loss": 1e-9, "accuracy": 1.0, "val_loss": 0.5, "val_accuracy": 0.6, "seconds": 0.1},
]
LATER = [{"epoch": 1, "loss": 0.7}, {"epoch": 2, "loss": 0.5, "val_loss": 0.6}, {"epoch": 3, "loss": 0.4}]


@pytest.fixture
def history():
    made = History()
    made.rows = list(ROWS)
    return made


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def log_rows(log, rows):
    """Does what fit does with its rows."""
    for row in rows:
        log.history.append(row)
        log.write()


def test_a_log_is_on_disk_row_by_row(tmp_path):
    path = tmp_path / "history.csv"
    with CsvLog(path, History()) as log:
        assert path.exists()
        for count, row in enumerate(ROWS, start=1):
            log_rows(log, [row])
            assert len(read(path)) == count


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="there is no /dev/fd")
def test_a_log_is_added_to_an_open_file(tmp_path):
    """As /dev/stdout is where output is added to a file."""
    path = tmp_path / "history.csv"
    path.write_bytes(b"older\n")
    with open(path, "ab") as file, CsvLog(f"/dev/fd/{file.fileno()}", History()) as log:
        log_rows(log, LATER)
    again = b"epoch,loss,val_loss\n1,0.7,\n2,0.5,0.6\n"
    assert path.read_bytes() == b"older\nepoch,loss\n1,0.7\n" + again + b"3,0.4,\n"


def test_a_log_of_a_history_that_goes_on(history, tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("what stood here before")
    with CsvLog(path, history) as log:
        assert len(read(path)) == 3  # at once
        log_rows(log, [dict(ROWS[0], epoch=4)])
    assert [row["epoch"] for row in read(path)] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_new_column_replaces_the_file(tmp_path, before):
    """Whole or not at all: whoever has opened the older one still has it."""
    path, history = tmp_path / "history.csv", History()
    history.rows = LATER[:before]
    with CsvLog(path, history) as log:
        log_rows(log, LATER[before:])
        history.to_csv(tmp_path / "whole.csv")
        assert path.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["history.csv", "whole.csv"]


def test_a_new_column_that_cannot_be_written_leaves_the_older_rows(tmp_path, monkeypatch):
    path = tmp_path / "history.csv"

    def full(*_):
        raise OSError(28, "No space left on device")

    with CsvLog(path, History()) as log:
        log_rows(log, LATER[:1])
        monkeypatch.setattr("os.fsync", full)
        with pytest.warns(RuntimeWarning, match=r"cannot write '.*history.csv' any more .No space left"):
            log_rows(log, LATER[1:])
    assert path.read_bytes() == b"epoch,loss\n1,0.7\n"
    assert os.listdir(tmp_path) == ["history.csv"]


def test_a_log_keeps_its_rows_when_training_fails(tmp_path):
    path = tmp_path / "history.csv"
    with pytest.raises(ZeroDivisionError), CsvLog(path, History()) as log:
        log_rows(log, ROWS[:1])
        raise ZeroDivisionError
    assert len(read(path)) == 1


def test_no_path_no_log(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with CsvLog(None, History()) as log:
        log_rows(log, ROWS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["", "missing/history.csv", "file/history.csv"])
def test_a_log_that_cannot_be_written_says_so_at_once(where, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write '.*'.*give a path in a folder that exists"):
        CsvLog(tmp_path / where, History())


class Full:
    """A file on a disk that is full after some bytes, which come out in two pieces."""

    name = "history.csv"

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        if not self.room:
            raise OSError(28, "No space left on device")
        some = min(len(data), self.room, max(1, len(data) // 2))
        self.room -= some
        return self.file.write(data[:some])

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [0, 10, 100])
def test_a_log_that_cannot_be_written_warns_once_and_keeps_whole_rows(tmp_path, room):
    path = tmp_path / "history.csv"
    with CsvLog(path, History()) as log:
        log._file = Full(log._file, room)
        with pytest.warns(RuntimeWarning, match="cannot write 'history.csv' any more .No space left") as caught:
            log_rows(log, ROWS * 10)
        assert len(caught) == 1
    assert {len(row) for row in read(path)} <= {6}
    assert path.read_bytes().endswith(b"\n") or path.read_bytes() == b""


def test_a_log_is_flushed_at_its_end(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr("os.fsync", flushed.append)
    with CsvLog(tmp_path / "history.csv", History()) as log:
        log_rows(log, ROWS)
        number = log._file.fileno()
    assert flushed == [number]
    with CsvLog(os.devnull, History()) as log:
        log_rows(log, LATER)
    assert len(flushed) == 1


class TestJsonLines:
    """The callback, and its file."""

    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "history.jsonl"

    @staticmethod
    def objects(path):
        def refuse(name):
            raise AssertionError(f"{name} is no JSON")

        return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]

    def test_an_object_an_epoch_as_soon_as_it_is_over(self, path):
        net = gb.Network(2, [gb.Dense(1)], seed=0, device="cpu")
        trainer, x, y, seen = gb.Trainer(net), np.eye(4, 2), np.eye(4, 1), []

        def look(state):
            seen.append(self.objects(path))

        look.only_reads = True  # and so it comes after the other, which does too
        callbacks = [gb.JsonLines(path), look]
        history = trainer.fit(x, y, 2, validation=(x, y), progress=False, callbacks=callbacks)
        assert seen == [history.rows[:1], history.rows]
        trainer.fit(x, y, 1, progress=False, callbacks=callbacks)
        assert seen[2] == self.objects(path) == history.rows and "val_loss" not in seen[2][2]

    def test_what_json_lacks_is_null(self, path):
        with RowLog(path, History()) as log:
            log_rows(log, [{"epoch": 1, "loss": float("nan"), "r2": [0.5, float("-inf")], "loss_scale": 8}])
        assert self.objects(path) == [{"epoch": 1, "loss": None, "r2": [0.5, None], "loss_scale": 8}]

    def test_a_file_that_cannot_be_written_is_an_error_before_training(self, tmp_path):
        net = gb.Network(2, [gb.Dense(1)], seed=0, device="cpu")
        before = net.parameters.copy()
        with pytest.raises(InputError, match=r"cannot write .*give a path in a folder that exists"):
            gb.Trainer(net).fit(
                np.ones((4, 2)), np.ones((4, 1)), 2, progress=False, callbacks=[gb.JsonLines(tmp_path / "no" / "file")]
            )
        assert (net.parameters == before).all()
