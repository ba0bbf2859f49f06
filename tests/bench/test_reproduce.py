"""bench/reproduce.py: it chooses on held-out training images and tests once, and its results on record are whole."""

from __future__ import annotations

import dataclasses
import importlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest

import gpu_backprop as gb

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def reproduce(monkeypatch, tmp_path):
    """The script as a module, whose results go elsewhere."""
    monkeypatch.syspath_prepend(BENCH)
    module = importlib.import_module("reproduce")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results" / "reproduce.json")
    return module


@pytest.fixture
def folder(tmp_path):
    """4×4 pixels, of which one tells the digit, under MNIST's names."""
    for part, count in (("train", 120), ("t10k", 30)):
        labels = np.arange(count) % 10
        pixels = np.zeros((count, 16), np.uint8)
        pixels[np.arange(count), labels] = 255
        images = struct.pack(">4B3I", 0, 0, 8, 3, count, 4, 4) + pixels.tobytes()
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(images)
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">4BI", 0, 0, 8, 1, count) + labels.astype(np.uint8).tobytes()
        )
    return tmp_path


@pytest.fixture
def short(reproduce, monkeypatch):
    """The long form in short: one setting that learns the tiny images, and two seeds."""
    monkeypatch.setattr(reproduce, "GRID", (reproduce.Settings("relu", gb.Adam(0.01)),))
    monkeypatch.setattr(reproduce, "FULL", reproduce.Protocol(((30, 1.0), (2, 0.1)), (1, 2), 60_000))
    monkeypatch.setattr(reproduce, "MNIST_TEST", [3] * 10)
    return reproduce


def images(reproduce, count, start=0):
    numbers = np.arange(start, start + count)
    return reproduce.Images(np.tile(numbers[:, None], (1, 16)).astype(np.float32), numbers % 10)


def test_quick_runs_and_writes_nothing(reproduce, folder, capsys):
    assert reproduce.main(["--data", str(folder), "--quick"]) == 0
    printed = capsys.readouterr().out
    assert "| 784-500-150-10 | squared_error | 2.95 %, LeCun et al. 1998 |" in printed
    assert "30 test images. These are no results." in printed
    assert not reproduce.RESULTS.exists()


def test_the_long_form_writes_what_it_prints(short, folder, capsys):
    assert short.main(["--data", str(folder)]) == 0
    printed = capsys.readouterr().out
    record = json.loads(short.RESULTS.read_text(encoding="utf-8"))
    assert [result["network"] for result in record["networks"]] == ["784-300-10", "784-500-150-10", "784-800-10"]
    for result in record["networks"]:
        assert result["test_error"] == {"1": 0.0, "2": 0.0}
        assert result["reached"]
        assert all(f"- {departure}\n" in f"{printed}\n" for departure in result["departures"])
    assert str(folder) not in json.dumps(record)


def test_a_result_that_is_missed_is_a_failure(short, folder, monkeypatch):
    published = [dataclasses.replace(row, error=-1.0) for row in short.PUBLISHED]
    monkeypatch.setattr(short, "PUBLISHED", published)
    assert short.main(["--data", str(folder)]) == 1
    assert not any(result["reached"] for result in json.loads(short.RESULTS.read_text(encoding="utf-8"))["networks"])


def test_published_results_are_those_of_mnist_alone(reproduce, folder, capsys):
    assert reproduce.main(["--data", str(folder)]) == 1
    assert f"{folder} does not hold MNIST" in capsys.readouterr().err


def test_no_data(reproduce, tmp_path, capsys):
    assert reproduce.main(["--data", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"reproduce.py: {tmp_path} has no train-images-idx3-ubyte")


def test_the_least_held_out_error_is_chosen_the_first_of_equals(reproduce, monkeypatch):
    seen = []
    held_out = dict(zip(reproduce.GRID, (3.0, 2.0, 2.0, 2.5), strict=True))

    def train(published, settings, training, protocol, seed):
        seen.append((training.labels.tolist(), seed))
        return settings

    def error(settings, measured):
        assert measured.x[:, 0].tolist() == list(range(100, 120))  # the last sixth
        return held_out[settings]

    monkeypatch.setattr(reproduce, "train", train)
    monkeypatch.setattr(reproduce, "error", error)
    settings, grid = reproduce.choose(reproduce.PUBLISHED[0], images(reproduce, 120), reproduce.QUICK)
    assert settings is reproduce.GRID[1]
    assert list(grid.values()) == [3.0, 2.0, 2.0, 2.5]
    assert seen == [([number % 10 for number in range(100)], reproduce.CHOOSING_SEED)] * 4


def test_each_network_sees_the_test_images_once(reproduce, monkeypatch):
    test, protocol = images(reproduce, 30, start=1000), reproduce.Protocol(((1, 1.0),), (1, 2, 3), 60_000)
    tested, training = [], images(reproduce, 120)
    chosen = reproduce.GRID[2]
    monkeypatch.setattr(reproduce, "choose", lambda *_: (chosen, {}))
    made = reproduce.train

    def train(published, settings, given, protocol, seed):
        assert (settings, given) == (chosen, training)
        return made(published, settings, given, protocol, seed)

    def error(net, measured):
        assert measured is test
        tested.append(net.seed)
        return float(net.seed)

    monkeypatch.setattr(reproduce, "train", train)
    monkeypatch.setattr(reproduce, "error", error)
    result = reproduce.reproduce(reproduce.PUBLISHED[2], training, test, protocol)
    assert tested == [1, 2, 3]
    assert reproduce.CHOOSING_SEED not in tested
    assert (result["mean"], result["lowest"], result["highest"], result["reached"]) == (2.0, 1.0, 3.0, False)


def test_the_schedule_and_the_layers(reproduce, monkeypatch):
    stages = []
    monkeypatch.setattr(
        gb.Trainer, "fit", lambda self, x, y, epochs, progress: stages.append((epochs, self.optimizer.learning_rate))
    )
    settings = reproduce.Settings("tanh", gb.SGD(0.5), input_dropout=0.2, dropout=0.3)
    net = reproduce.train(reproduce.PUBLISHED[1], settings, images(reproduce, 20), reproduce.FULL, 7)
    assert stages == [(10, 0.5), (5, 0.15), (5, 0.05)]
    assert [repr(layer) for layer in net.layers] == [
        repr(layer)
        for layer in (
            gb.Dropout(0.2), gb.Dense(500, "tanh"), gb.Dropout(0.3), gb.Dense(150, "tanh"), gb.Dropout(0.3),
            gb.Dense(10, "sigmoid"),
        )
    ]  # fmt: skip
    assert settings.optimizer.learning_rate == 0.5


def test_error_is_the_share_of_wrong_answers(reproduce):
    net = gb.Network(10, [gb.Bias()])
    labels = np.arange(10)
    assert reproduce.error(net, reproduce.Images(np.eye(10), np.where(labels < 3, 9, labels))) == 30.0


def test_the_results_on_record(reproduce):
    """They are of this protocol, every published error is reached, and the numbers agree with each other."""
    record = json.loads((BENCH / "results" / "reproduce.json").read_text(encoding="utf-8"))
    for result, published in zip(record["networks"], reproduce.PUBLISHED, strict=True):
        assert (result["network"], result["loss"]) == (str(published), published.loss)
        assert list(result["held_out_error"]) == [str(settings) for settings in reproduce.GRID]
        assert result["chosen"] == min(result["held_out_error"], key=result["held_out_error"].get)
        errors = result["test_error"]
        assert list(errors) == [str(seed) for seed in reproduce.FULL.seeds]
        assert result["mean"] == pytest.approx(sum(errors.values()) / len(errors), abs=1e-4)
        assert result["mean"] <= published.error == result["published"]["error"]
        chosen = next(settings for settings in reproduce.GRID if str(settings) == result["chosen"])
        assert result["departures"] == reproduce.departures(published, chosen, reproduce.FULL)
