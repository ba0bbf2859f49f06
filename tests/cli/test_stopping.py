"""Early stopping of gpu-backprop train, which is on: rows that choose the epoch, and rows that only measure."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.cli import main
from gpu_backprop.data import read, stratified_split

ROWS = 160


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    """Every test has an empty folder of its own, and a table of noisy classes in it. Curves are not drawn."""
    monkeypatch.setattr(gb.History, "plot", lambda history, path: path.write_bytes(b"curves"))
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(ROWS, 3))
    kinds = np.where(x[:, 0] + rng.normal(size=ROWS) > 0.8, "yes", "no")
    lines = [f"{a:.6f},{b:.6f},{c:.6f},{kind}\n" for (a, b, c), kind in zip(x, kinds, strict=True)]
    Path("table.csv").write_text("a,b,c,kind\n" + "".join(lines))


def train(*options: str) -> int:
    words = ["train", "table.csv", "--recipe", "plain", "--target", "kind", "--layers", "32", "--out", "run"]
    return main([*words, *options])


def history() -> list[dict[str, str]]:
    with open("run/history.csv", newline="") as file:
        return list(csv.DictReader(file))


def best(rows: list[dict[str, str]]) -> int:
    losses = [float(row["val_loss"]) for row in rows]
    return losses.index(min(losses)) + 1


def rows_of(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows of the table that are learned from, validate and are held out: numbers of its lines."""
    labels = read("table.csv").columns["kind"]
    training, held_out = stratified_split(labels, 0.2, seed)
    share = 100 / len(training)
    rest, out = stratified_split(labels[training], min(0.2, share), seed)
    return training[rest], training[out], held_out


def test_the_network_is_that_of_the_best_epoch(capsys):
    assert train("--seed", "3", "--epochs", "60", "--patience", "6") == 0
    output, rows = capsys.readouterr().out, history()
    epoch = best(rows)
    assert len(rows) == epoch + 6 < 60  # all epochs are told
    assert "128 rows to learn from, 32 held out" in output
    assert "of the 128, 26 are validation rows, which tell the best epoch" in output
    assert f"stopped after epoch {epoch + 6} by EarlyStopping" in output
    assert f"; the parameters are those of epoch {epoch}\n" in output
    net, table = gb.load("run/model.safetensors"), read("table.csv")
    x, labels = net.preprocessing.transform(table), net.preprocessing.targets(table)
    _, validation, held_out = rows_of(3)
    measured = gb.Trainer(net).evaluate(x[validation], labels[validation])["loss"]
    assert measured == pytest.approx(float(rows[epoch - 1]["val_loss"]), rel=1e-6)
    right = (net.predict(x[held_out]).argmax(axis=1) == labels[held_out]).mean()
    assert f"test accuracy: {right:.4f}" in output


def test_a_run_of_full_length_says_which_epoch_it_is(capsys):
    assert train("--epochs", "12", "--patience", "50") == 0
    rows = history()
    assert len(rows) == 12
    assert f"the parameters are those of epoch {best(rows)}, whose val_loss is the least\n" in capsys.readouterr().out


def test_without_it_all_epochs_count_and_the_held_out_rows_are_shown(capsys):
    assert train("--epochs", "5", "--no-early-stopping") == 0
    output = capsys.readouterr().out
    assert "are validation" not in output
    assert "stopped" not in output
    shown = float(history()[-1]["val_accuracy"])
    assert f"test accuracy: {shown:.4f}" in output


@pytest.mark.parametrize(("options", "monitor"), [([], "loss"), (["--validation", "0.25"], "val_loss")])
def test_what_is_held_out_steers_nothing(monkeypatch, options, monitor):
    """Neither the rate, where it is shown epoch by epoch, nor the width of prediction intervals."""
    given = []
    monkeypatch.setattr(gb, "ReduceOnPlateau", None)  # there is one place that makes it
    fit = gb.Trainer.fit
    monkeypatch.setattr(gb.Trainer, "fit", lambda *words, **how: given.append(how) or fit(*words, **how))
    words = ["--target", "a", "--schedule", "plateau", "--no-early-stopping", "--epochs", "2", *options]
    assert main(["train", "table.csv", "--recipe", "plain", "--layers", "3", "--out", "run", *words]) == 0
    assert given[0]["callbacks"][0].monitor == monitor
    assert ("validation" in given[0]) == (not options)
    assert (gb.load("run/model.safetensors").intervals is not None) == bool(options)


@pytest.mark.parametrize("options", [[], ["--no-early-stopping"]], ids=["", "without"])
def test_another_share(capsys, options):
    assert train("--epochs", "2", "--validation", "0.25", *options) == 0
    assert "of the 128, 32 are validation rows" in capsys.readouterr().out
    assert history()[0]["val_loss"]


def test_too_few_rows_to_choose_by(capsys):
    lines = Path("table.csv").read_text().splitlines()[:41]
    Path("table.csv").write_text("\n".join(lines) + "\n")
    assert train("--epochs", "2") == 0
    assert "validation rows" not in capsys.readouterr().out
    assert train("--epochs", "2", "--validation", "0.1", "--overwrite") == 0  # where one asks for it
    assert "of the 32, 3 are validation rows" in capsys.readouterr().out


def test_the_two_exclude_each_other(capsys):
    with pytest.raises(SystemExit):
        train("--patience", "3", "--no-early-stopping")
    assert "not allowed with argument" in capsys.readouterr().err


def test_class_weights(capsys):
    assert train("--epochs", "8", "--class-weight", "balanced", "--seed", "3", "--no-early-stopping") == 0
    found = gb.load("run/model.safetensors").parameters
    assert train("--epochs", "8", "--seed", "3", "--no-early-stopping", "--overwrite") == 0
    assert not np.array_equal(found, gb.load("run/model.safetensors").parameters)


@pytest.fixture
def steep():
    """A table that is learned with too large a rate."""
    x = np.random.default_rng(1).normal(size=(ROWS, 3))
    lines = [f"{a:.6f},{b:.6f},{3 * a - b:.6f}\n" for a, b, _ in x]
    Path("steep.csv").write_text("a,b,v\n" + "".join(lines))
    options = ("--layers", "32,32", "--epochs", "3", "--optimizer", "sgd", "--dropout", "0", "--learning-rate", "10")
    return ["train", "steep.csv", "--recipe", "plain", "--target", "v", *options, "--out", "run"]


@pytest.mark.filterwarnings("ignore:the loss became NaN or infinite:RuntimeWarning")
def test_a_divergence_may_be_survived(capsys, steep):
    assert main(steep) == 1
    assert "The last finite parameters are in run" in capsys.readouterr().err
    assert main([*steep, "--on-divergence", "halve_rate", "--overwrite"]) == 0
    rows = history()
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert int(rows[0]["rate_halved"]) > 1


def test_after_a_divergence_the_best_is_what_is_kept(capsys, steep):
    steep[steep.index("--learning-rate") + 1] = "0.5"
    assert main(steep) == 1
    assert "The parameters of epoch 1, the best one, are in run" in capsys.readouterr().err


def test_probabilities_are_calibrated_by_rows_that_are_not_scored(capsys):
    """With validation rows the log loss has a temperature; without, the held-out rows are shown, and none is fitted."""
    x = np.random.default_rng(0).normal(size=(120, 3))
    np.savez("three.npz", x=x, y=(x + np.random.default_rng(1).normal(size=x.shape)).argmax(axis=1))
    for more, calibrated in ((["--validation", "0.3"], True), (["--no-early-stopping"], False)):
        assert main(["train", "three.npz", "--layers", "8", "--epochs", "9", "--out", f"run{calibrated}", *more]) == 0
        output = capsys.readouterr().out
        assert ("\ntemperature " in output) == calibrated
        trained_by = gb.load(f"run{calibrated}/model.safetensors").trained_by
        assert ("temperature" in trained_by) == calibrated
        if calibrated:
            assert f"\ntemperature {trained_by['temperature']:.4f}: the logits are divided by it\n" in output
