"""train --ensemble: all rows are learned from and scored out of fold, and the model is the mean of its members."""

from __future__ import annotations

import csv
import html
import json
import re
import signal
from pathlib import Path

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.cli import main
from gpu_backprop.training.shuffling import Shuffling

RUN = "train", "rows.csv", "--epochs", "3", "--layers", "6", "--ensemble", "3", "--out", "run"
MODEL = Path("run") / "model.safetensors"
RNG = np.random.default_rng(0)
SIZES = RNG.normal(size=(50, 2)).round(3)
KINDS = np.where(SIZES[:, 0] > 0.8, "large", np.where(SIZES[:, 1] > 0, "mid", "small"))
PRICES = (1000 + 200 * SIZES[:, 0] + 30 * SIZES[:, 1]).round(2)


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gb.History, "plot", lambda history, path: path.write_bytes(b"curves"))
    monkeypatch.setattr("os.fsync", lambda number: None)


def write(target) -> None:
    rows = [f"{a},{b},{y}\n" for (a, b), y in zip(SIZES, target, strict=True)]
    Path("rows.csv").write_text("a,b,y\n" + "".join(rows))


def predictions(capsys) -> list[dict[str, str]]:
    capsys.readouterr()
    assert main(["predict", "run", "rows.csv"]) == 0
    return [*csv.DictReader(capsys.readouterr().out.splitlines())]


def test_classes(capsys):
    write(KINDS)
    assert main([*RUN, "--target", "y", "--metrics", "roc_auc"]) == 0
    told = capsys.readouterr().out
    assert "50 rows to learn from, 0 held out" in told
    assert "each of 3 networks learns from all but a fold of about 16, which is its validation data" in told
    assert "all rows, out of fold, how often each class (row) was taken for which (column)" in told
    assert "the parameters are those of each member's best epoch, whose val_calibrated_log_loss is the least" in told
    assert "temperature " in told
    found = re.search(r"out-of-fold accuracy: (\S+) \((\S+) to (\S+) in the folds\)", told)
    assert found is not None
    accuracy, least, most = map(float, found.groups())
    assert least <= accuracy <= most
    assert "out-of-fold log loss: " in told and "out-of-fold ROC AUC: " in told

    net = gb.load(MODEL)
    assert net.averaged and net.seed == [0, 1, 2]
    rows = predictions(capsys)
    x = net.preprocessing.transform(gb.data.read("rows.csv"))
    mean = net.predict_members(x).mean(axis=0)
    np.testing.assert_allclose([[float(row[name]) for name in net.classes] for row in rows], mean, 1e-5)
    assert main(["evaluate", "run", "rows.csv"]) == 0
    evaluated = capsys.readouterr().out
    y = net.preprocessing.targets(gb.data.read("rows.csv"))
    assert f"log loss: {-np.log(mean[np.arange(50), y]).mean():.4f}" in evaluated
    assert f"accuracy: {(mean.argmax(axis=1) == y).mean():.4f}" in evaluated
    with open("run/history.jsonl") as file:
        assert {len(json.loads(line)["val_loss"]) for line in file} == {3}
    assert "Confusion matrix" in Path("run/report.html").read_text()  # of what each row was answered out of fold
    assert main(["check", "run", "rows.csv"]) == 0


def test_numbers_and_a_part_that_is_held_out(capsys):
    write(PRICES)
    assert main([*RUN, "--target", "y", "--held-out", "0.2", "--seed", "7"]) == 0
    told = capsys.readouterr().out
    assert "40 rows to learn from, 10 held out" in told
    assert re.search(r"out-of-fold MAE: \d+\.\d+ \(\d+\.\d+ to \d+\.\d+ in the folds\)\n", told)
    test = re.search(r"test MAE: \S+\n", told)
    assert test is not None
    assert gb.load(MODEL).seed == [7, 8, 9]
    assert main(["evaluate", "run", "rows.csv"]) == 0
    again = capsys.readouterr().out
    assert "the 10 rows that run held out" in again and test[0].removeprefix("test ") in again
    assert len(predictions(capsys)) == 50
    assert "Residuals" in Path("run/report.html").read_text()
    assert main(["evaluate", str(MODEL), "rows.csv", "--quiet"]) == 0  # its folder says what was held out
    MODEL.rename("model.safetensors")
    assert main(["evaluate", "model.safetensors", "rows.csv", "--held-out", "0.2"]) == 0
    assert "the 10 rows that training with --held-out 0.2 --seed 7 held out" in capsys.readouterr().out


FLATTERED = "each member's best epoch was chosen by the rows that it is scored on here, which flatters it; --held-out"


def test_scores_of_rows_that_chose_the_epochs_are_said_to_flatter(capsys):
    for target in (np.where(SIZES[:, 0] > 0, "yes", "no"), PRICES):
        write(target)
        assert main([*RUN, "--target", "y", "--overwrite", "--epochs", "20"]) == 0
        trained = capsys.readouterr().out
        assert FLATTERED in trained and "the network does" not in trained
        shown = Path("run/report.html").read_text()
        assert html.escape(FLATTERED) in shown and "the network does better" not in shown
        assert main(["report", "run"]) == 0
        shown = Path("run/report.html").read_text()
        assert html.escape(FLATTERED) in shown and "the network does better" not in shown
    write(PRICES)
    assert main([*RUN, "--target", "y", "--overwrite", "--held-out", "0.2"]) == 0
    assert "R² of 0: the network does" in capsys.readouterr().out  # said of the rows that were held out
    assert main([*RUN, "--target", "y", "--overwrite", "--no-early-stopping"]) == 0
    told = capsys.readouterr().out
    assert "the network does" in told and "flatters" not in told


def test_train_and_report_measure_the_same(capsys):
    write(KINDS)
    assert main([*RUN, "--target", "y", "--epochs", "30", "--learning-rate", "0.05"]) == 0
    trained = capsys.readouterr().out
    loss = re.search(r"out-of-fold log loss: (\S+)", trained)[1]
    assert re.search(r"^temperature (?!1\.0000)", trained, re.M)
    cards = re.findall(r"<b>([^<]*)</b><span>([^<]* of 50 rows)", Path("run/report.html").read_text())
    assert (loss, "log_loss of 50 rows") in cards
    assert not any("calibrated" in name for _, name in cards)
    assert main(["report", "run"]) == 0
    assert f"log loss: {loss}\n" in capsys.readouterr().out
    shown = Path("run/report.html").read_text()
    assert f"log loss: {loss}<" in shown
    assert cards == re.findall(r"<b>([^<]*)</b><span>([^<]* of 50 rows)", shown)


def test_an_ensemble_cannot_be_explained(capsys):
    write(KINDS)
    assert main([*RUN, "--target", "y", "--quiet"]) == 0
    assert main(["explain", "run", "rows.csv"]) == 1
    assert "train one without --ensemble" in " ".join(capsys.readouterr().err.split())


def test_it_goes_on_where_it_was_stopped(capsys, monkeypatch):
    write(KINDS)
    assert main([*RUN[:-1], "whole", "--target", "y", "--quiet"]) == 0
    whole = capsys.readouterr().out
    draw, drawn = Shuffling.draw_order, []

    def draw_order(shuffling, rows):
        drawn.append(rows)
        if len(drawn) == 2:
            signal.raise_signal(signal.SIGTERM)
        return draw(shuffling, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Shuffling, "draw_order", draw_order)
        assert main([*RUN, "--target", "y", "--quiet"]) == 143
    capsys.readouterr()
    assert main(["train", "--resume", "run"]) == 0
    assert MODEL.read_bytes() == (Path("whole") / "model.safetensors").read_bytes()
    scores = [line for line in whole.splitlines() if line.startswith("out-of-fold")]
    assert scores and all(score in capsys.readouterr().out for score in scores[:1])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--validation", "0.2"], "--validation: the members of an --ensemble are validated on a fold each"),
        (["--ensemble", "51"], "--ensemble 51: there is not a row for each fold, but 50 to learn from"),
    ],
)
def test_what_cannot_be(capsys, options, said):
    write(KINDS)
    assert main([*RUN, "--target", "y", *options]) == 2
    assert said in capsys.readouterr().err
    assert not Path("run").exists()


def test_members_whose_mean_is_not_meant_are_no_model_of_a_command(capsys):
    write(KINDS)
    assert main([*RUN, "--target", "y", "--quiet"]) == 0
    net = gb.load(MODEL)
    net.averaged = False
    gb.save(MODEL, net)
    assert main(["predict", "run", "rows.csv"]) == 1
    assert "set net.averaged = True" in capsys.readouterr().err
