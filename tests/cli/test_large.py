"""The commands with data that take more memory than --memory-limit lets them: rows on the disk, in windows."""

from __future__ import annotations

import argparse
import csv
import random
import signal

import numpy as np
import pytest
from thread_ranks import on_threads

import gpu_backprop as gb
from gpu_backprop.backend.errors import InputError
from gpu_backprop.cli import main
from gpu_backprop.commands import datasets
from gpu_backprop.data import csv_file, numpy_files, parquet_file, row_blocks
from gpu_backprop.data.errors import DataError
from gpu_backprop.network import intervals
from gpu_backprop.training import streaming
from gpu_backprop.training.history import History

FEW, MANY = ["--memory-limit", "115KB"], ["--memory-limit", "1GB"]
TRAIN = ["--set", "periodic=0", "--epochs", "3", "--layers", "8", "--dropout", "0", "--overwrite"]


@pytest.fixture(autouse=True)
def little(monkeypatch, tmp_path):
    """Blocks and windows are small, and so may the limit be; each test has a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(row_blocks, "LEAST", 1)
    monkeypatch.setattr(intervals, "KEPT", 20)
    for module, name, value in (
        (csv_file, "BLOCK", 200), (parquet_file, "BATCH", 200), (numpy_files, "BLOCK", 200),
        (streaming, "WINDOW", 10_000), (streaming, "STRETCH", 500),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)


@pytest.fixture
def people(tmp_path):
    draw = random.Random(0)
    with open("people.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["age", "city", "user", "pay", "answer"])
        for _ in range(6000):
            age, city = draw.randint(18, 90), draw.choice(["Bern", "Chur"])
            answer = "yes" if age + 20 * (city == "Bern") > 60 else "no"
            writer.writerow([age, city, f"u{draw.randint(0, 400)}", 3 * age + draw.random(), answer])
    return "people.csv"


def ran(capsys, *given):
    assert main([*given]) == 0
    return capsys.readouterr().out


def train(*given):
    return "train", *given, *TRAIN, *FEW


def figures(out, *names):
    return [line for line in out.splitlines() if line.startswith(names)]


@pytest.mark.parametrize("target", [["answer", "--ignore", "pay"], ["pay", "--ignore", "answer"]])
def test_train_evaluate_predict(people, target, capsys):
    out = ran(capsys, *train(people, "--target", *target, "--hash", "user=6", "--out", "run"))
    assert f"{people}: more than the memory limit, so that its rows are prepared on the disk, and read in window" in out
    assert "people.csv: 6,000 rows\n" in out and "training data: " in out and "read from disk in windows of " in out
    measured = figures(out, "test accuracy", "test R²", "test MAE")
    assert 0.8 < float(measured[0].split()[-1]) < 1
    for limit in (FEW, MANY):
        again = ran(capsys, "evaluate", "run", people, *limit)
        assert "rows that run held out" in again
        assert measured == [f"test {line}" for line in figures(again, "accuracy", "R²", "MAE")]
    found = [ran(capsys, "predict", "run", people, *limit).splitlines() for limit in (FEW, MANY)]
    assert [len(lines) for lines in found] == [6001, 6001] and found[0][0] == found[1][0]
    answers = [[line.split(",")[0] for line in lines[1:]] for lines in found]
    if "answer" in target[:1]:
        assert answers[0] == answers[1]
    else:
        np.testing.assert_allclose(*(np.array(column, float) for column in answers), rtol=1e-5)


@pytest.mark.parametrize("limit", [[], MANY])
def test_a_run_that_was_stopped_goes_on_in_windows(people, limit, capsys, monkeypatch):
    given = train(people, "--target", "answer", "--ignore", "pay", "--hash", "user=6")
    ran(capsys, *given, "--out", "whole")
    append = History.append

    def stop(history, row):
        append(history, row)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(History, "append", stop)
        assert main([*given, "--out", "run"]) == 143
    assert "read in windows" in ran(capsys, "train", "--resume", "run", *limit)
    whole, run = (gb.load(f"{name}/model.safetensors").parameters for name in ("whole", "run"))
    np.testing.assert_array_equal(whole, run)


def test_a_loss_without_labels_and_rows_of_another_file(people, capsys):
    out = ran(capsys, *train(people, "--target", "answer", "--loss", "half_squared_error", "--ignore", "user", "--out",
                             "run", "--held-out-file", people))  # fmt: skip
    assert "6,000 rows to learn from" in out and "6,000 held out" in out
    assert float(figures(out, "test accuracy")[0].split()[-1]) > 0.8


def test_arrays(capsys):
    x = np.random.default_rng(0).normal(3, 2, (4000, 4))
    np.save("x.npy", x)
    np.save("y.npy", x.sum(axis=1))
    out = ran(capsys, *train("x.npy", "--out", "run"))
    assert "read in windows" in out and float(figures(out, "test R²")[0].split()[-1]) > 0.5


def test_what_was_hashed_is_in_the_model(people, capsys):
    ran(capsys, "train", people, *TRAIN, "--target", "answer", "--hash", "user=5", "--hash", "city", "--out", "run")
    features = gb.load("run/model.safetensors").preprocessing.features
    assert [name for name in features if "user" in name] == [f"user hashed to {k}" for k in range(5)]
    assert len([name for name in features if "city" in name]) == 256


def test_what_is_refused(people, capsys, tmp_path):
    assert main([*train(people, "--target", "answers", "--out", "run")]) == 1
    assert "did you mean 'answer'" in capsys.readouterr().err
    assert main(["train", "--hash", "user"]) == 2
    assert "--hash: about data of your own" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_ranks_that_share_a_machine_share_its_memory(people, monkeypatch):
    """A table that one process may read as a whole is in windows for all ranks where it is so for any."""
    size = row_blocks.Path(people).stat().st_size
    monkeypatch.setattr(row_blocks.limits, "memory", lambda: 4 * size)

    def larger(communicator):
        return datasets._larger_than_memory(argparse.Namespace(data=people, ranks=communicator))

    assert on_threads(2, larger) == [False] * 2
    assert on_threads(3, larger) == [True] * 3
    assert on_threads(4, larger, on_each=2) == [False] * 4
    with pytest.raises((DataError, InputError), match=r"gone\.csv"):
        on_threads(2, lambda one: datasets._larger_than_memory(argparse.Namespace(data="gone.csv", ranks=one)))
