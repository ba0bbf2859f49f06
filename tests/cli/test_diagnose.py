"""gpu-backprop diagnose: findings with advice, on the rows and with the optimizer of a run."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.cli import main


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    a = rng.normal(size=200)
    lines = [f"{x:.3f},{y:.3f},{'yes' if n < 20 else 'no'}" for n, (x, y) in enumerate(zip(a, a[::-1], strict=True))]
    (tmp_path / "d.csv").write_text("\n".join(["a,b,c", *lines]))
    words = ["--recipe", "plain", "--target", "c", "--layers", "8", "--epochs", "2", "--out", "r", "--quiet"]
    assert main(["train", "d.csv", *words]) == 0
    return tmp_path / "r"


def test_it_prints_figures_of_each_layer_and_what_was_found(run, capsys):
    assert main(["diagnose", "r", "d.csv"]) == 0
    printed = capsys.readouterr().out
    assert "d.csv, 200 rows, 40 of them held out; cross_entropy, Adam(learning_rate=0.003" in printed
    assert "1 Dense(8, 'relu')" in printed and "- unbalanced classes: 90.0% of the rows" in printed


def test_quiet_prints_the_findings_alone_also_of_the_history(run, capsys):
    capsys.readouterr()
    (run / "history.csv").write_text("epoch,loss,val_loss\n1,0.7,0.2\n2,0.1,0.6\n")
    assert main(["diagnose", "r", "d.csv", "--quiet"]) == 0
    assert "trained too long" not in capsys.readouterr().out  # the network is that of the best epoch
    net = gb.load(run / "model.safetensors", device="cpu")
    del net.trained_by["best_epoch"]
    gb.save(run / "model.safetensors", net)
    assert main(["diagnose", "r", "d.csv", "--quiet"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("unbalanced classes: ")
    assert second.startswith("trained too long: val_loss was best after epoch 1, 0.2000, and is 0.6000 now. ")


def test_dead_units_of_a_saved_network(run, capsys):
    net = gb.load(run / "model.safetensors", device="cpu")
    net.layers[0].bias[:] = -1e3
    gb.save(run / "model.safetensors", net)
    assert main(["diagnose", "r", "d.csv", "--optimizer", "sgd"]) == 0
    assert "dead units: 100% of the units of layer 1" in capsys.readouterr().out


def test_the_rows_that_were_learned_are_compared_with_those_that_were_held_out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    lines = [f"{a:.3f},{b:.3f},{c}" for (a, b), c in zip(rng.normal(size=(60, 2)), rng.integers(0, 2, 60), strict=True)]
    (tmp_path / "d.csv").write_text("\n".join(["a,b,c", *lines]))
    long = ["--epochs", "300", "--layers", "64", "--dropout", "0", "--no-early-stopping", "--learning-rate", "0.03"]
    assert main(["train", "d.csv", "--recipe", "plain", "--target", "c", *long, "--out", "r", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["diagnose", "r", "d.csv"]) == 0
    printed = capsys.readouterr().out
    assert "d.csv, 60 rows, 12 of them held out" in printed and "- overfitting: the loss is " in printed
    (tmp_path / "d.csv").write_text("\n".join(["a,b,c", *lines[1:]]))  # other data, of which nobody knows
    assert main(["diagnose", "r", "d.csv"]) == 0
    printed = capsys.readouterr().out
    assert "d.csv, 59 rows; " in printed and "overfitting" not in printed
