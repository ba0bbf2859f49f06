"""What train and evaluate print of a result: what suits the task, and whether it is better than no network at all."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.cli import main
from gpu_backprop.commands.datasets import Samples
from gpu_backprop.commands.scoring import score, unbalanced
from gpu_backprop.training.metrics import METRICS
from gpu_backprop.training.metrics import Scores as Outputs

STREAM = np.random.RandomState(3)


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def figures_of(y, target, asked=()):
    """The figures of a network that answers y, where the loss takes the target, by name."""
    net = gb.Network(y.shape[1], [gb.Dense(y.shape[1], "softmax")], dtype="float64", device="cpu")
    net.layers[0].weight[...] = np.eye(y.shape[1])
    net.classes = ["a", "b", "c", "d"][: y.shape[1]]
    scores = score(gb.Trainer(net), Samples(np.log(y), target), asked)
    return dict(figure.split(": ") for figure in scores.figures), scores.baseline


def answers(rows, classes):
    return STREAM.dirichlet(np.ones(classes), rows)


def as_written(value):
    return f"{value:.4f}"


# Classes --------------------------------------------------------------------------------------------------------------


def test_when_classes_are_unbalanced():
    for often in ([50, 50], [66, 34], [13, 7, 10], [30, 0, 30], [40] * 25):
        assert not unbalanced(np.array(often)), often
    for often in ([67, 33], [8, 46, 46], [1, *[40] * 24], [9, 0, 0]):
        assert unbalanced(np.array(often)), often


def test_balanced_classes_have_accuracy_and_their_probabilities_judged():
    figures, _ = figures_of(answers(30, 3), np.arange(30) % 3)
    assert list(figures) == ["accuracy", "log loss", "calibration error"]


def test_a_log_loss_that_no_probability_shows():
    """In float32, the wrong one of these is 0: scikit-learn takes 1.2e-7 for it, whose log is −15.9."""
    net = gb.Network(1, [gb.Dense(2, "softmax")], device="cpu")
    net.layers[0].weight[...] = [[0, 200]]
    scores = score(gb.Trainer(net), Samples(np.ones((2, 1)), np.array([0, 1])))
    assert scores.figures[1] == "log loss: 100.0000"


def test_the_log_loss_is_of_the_labels_as_they_are_also_where_training_smooths_them():
    net = gb.Network(1, [gb.Dense(2, "softmax")], device="cpu")
    net.layers[0].weight[...] = [[0, 2]]
    samples = Samples(np.ones((4, 1)), np.array([0, 1, 1, 1]))
    plain, smoothed = (score(gb.Trainer(net, gb.CrossEntropy(label_smoothing=s)), samples).figures for s in (0.0, 0.1))
    assert smoothed == plain


@pytest.mark.parametrize("rare", [0, 1])
def test_of_two_unbalanced_classes_the_rarer_one(rare):
    y, target = answers(60, 2), (np.arange(60) % 6 == 0).astype(int)
    target = target if rare else 1 - target
    figures, _ = figures_of(y, target)
    name = "ab"[rare]
    assert list(figures) == [
        "accuracy", "balanced accuracy", f"F1 of '{name}'", f"average precision of '{name}'", "ROC AUC", "log loss",
        "calibration error",
    ]  # fmt: skip
    of_rare = Outputs(np, np.stack([1 - y[:, rare], y[:, rare]], 1), (target == rare).astype(int))
    for shown, metric in ((f"F1 of '{name}'", "f1"), (f"average precision of '{name}'", "average_precision")):
        assert figures[shown] == as_written(METRICS[metric].value(of_rare))
    assert figures["ROC AUC"] == as_written(METRICS["roc_auc"].value(Outputs(np, y, target)))


@pytest.mark.parametrize("rare", [0, 1])
def test_which_of_two_equal_answers_counts_is_the_same_for_all_figures(rare):
    target = np.array([rare, *[1 - rare] * 7])
    y = np.full((8, 2), 0.5)
    y[target == 1] = [0.25, 0.75]
    figures, _ = figures_of(y, target)
    name = "ab"[rare]
    assert figures["accuracy"] == figures["ROC AUC"] == figures[f"F1 of '{name}'"] == "1.0000"
    assert figures[f"average precision of '{name}'"] == "1.0000"


def test_a_metric_that_is_fitted_to_the_rows_is_no_score_of_them():
    figures, _ = figures_of(answers(30, 3), np.arange(30) % 3, ["calibrated_log_loss"])
    assert figures["calibrated log loss"] == "none, because it is fitted to the rows that it is measured on"


def test_more_than_two_unbalanced_classes():
    y, target = answers(60, 4), np.minimum(np.arange(60) % 20, 3)
    figures, _ = figures_of(y, target)
    assert list(figures)[1:4] == ["balanced accuracy", "mean F1", "ROC AUC"]
    assert figures["mean F1"] == as_written(METRICS["f1_macro"].value(Outputs(np, y, target)))


def test_what_is_undefined_says_why():
    figures, baseline = figures_of(answers(20, 2), np.zeros(20, int))
    assert figures["ROC AUC"] == "none, because it takes rows of a class and rows of others"
    assert baseline.startswith("always answering 'a' would be right for 1.0000: the network does worse")


def test_what_was_asked_for_comes_last_and_once():
    figures, _ = figures_of(answers(30, 3), np.arange(30) % 3, ["log_loss", "top_2_accuracy", "brier_score"])
    assert list(figures) == ["accuracy", "log loss", "calibration error", "top 2 accuracy", "Brier score"]


# Numbers, and questions of yes or no ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gain", "learned", "conclusion"),
    [(3.0, 3.0, "does better"), (0.0, 0.0, "does no better than chance allows for with 50 rows"),
     (3.0, -3.0, "does worse")],
)  # fmt: skip
def test_what_the_mean_would_do(gain, learned, conclusion):
    x, y = STREAM.normal(size=(2, 50, 1))
    y = 100 + 10 * (gain * x + y)
    net = gb.Network(1, [gb.Dense(1)], dtype="float64", device="cpu")
    net.layers[0].weight[...] = learned
    net.preprocessing = Scaled()
    scores = score(gb.Trainer(net), Samples(x, (y - 100) / 10))
    assert scores.baseline == f"always answering the mean would have an R² of 0: the network {conclusion}"
    off = y - (100 + 10 * learned * x)
    expected = {
        "R²": 1 - (off**2).sum() / ((y - y.mean()) ** 2).sum(), "MAE": abs(off).mean(),
        "RMSE": math.sqrt((off**2).mean()), "median absolute error": np.median(abs(off)),
    }  # fmt: skip
    assert scores.figures == [f"{name}: {as_written(value)}" for name, value in expected.items()]


class Scaled:
    """Stands for a preprocessing that scaled the target."""

    def __init__(self, low=-np.inf, high=np.inf):
        self.range = low, high

    def inverse(self, y, clip=True):
        values = 100 + 10 * np.asarray(y)
        return np.clip(values, *self.range) if clip else values


def test_predictions_and_not_the_truth_are_kept_in_the_range_that_was_seen():
    net = gb.Network(1, [gb.Dense(1)], dtype="float64", device="cpu")
    net.layers[0].weight[...] = 1
    net.preprocessing = Scaled(90, 110)
    x = np.array([[-3.0], [0], [0.5], [2]])
    scores = score(gb.Trainer(net), Samples(x, np.array([[-3.0], [0], [0.5], [9]])))
    assert "MAE: 25.0000" in scores.figures  # 20, 0, 0 and 80


def test_a_constant_target_has_no_r2():
    net = gb.Network(1, [gb.Dense(1)], dtype="float64", device="cpu")
    net.preprocessing = Scaled()
    scores = score(gb.Trainer(net), Samples(np.ones((5, 1)), np.ones((5, 1))))
    assert scores.figures[0] == "R²: none, because the target is the same in all rows" and not scores.baseline


def test_questions_of_yes_or_no(capsys):
    x = STREAM.normal(size=(80, 3))
    np.savez("yes.npz", x=x, y=(x > 0).astype(float))
    options = "--task", "regression", "--loss", "binary_cross_entropy", "--epochs", "5", "--out", "run", "--quiet"
    assert main(["train", "yes.npz", "--recipe", "plain", *options]) == 0
    names = [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()]
    figures = ["label accuracy", "exact match", "mean F1", "ROC AUC", "log loss", "calibration error"]
    assert names[:-1] == [f"test {figure}" for figure in figures]


# The command line -----------------------------------------------------------------------------------------------------


def test_metrics_that_are_asked_for(capsys):
    x = STREAM.normal(size=(60, 2))
    np.savez("two.npz", x=x, y=(x[:, 0] > 0).astype(int))
    options = "--epochs", "2", "--layers", "4", "--out", "run", "--quiet"
    assert main(["train", "two.npz", "--recipe", "plain", *options, "--metrics", "roc_auc, f1"]) == 0
    assert "\ntest ROC AUC: " in capsys.readouterr().out
    with open("run/history.csv") as file:
        assert file.readline().startswith("epoch,loss,accuracy,val_loss,val_accuracy,val_roc_auc,val_f1,")
    assert main(["evaluate", "run", "two.npz", "--quiet", "--metrics", "balanced_accuracy"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("balanced accuracy: ")
    assert main(["evaluate", "run", "two.npz", "--metrics", "r2"]) == 1
    assert "metric 'r2' is for numbers, but the outputs of this network" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["train", "two.npz", "--recipe", "plain", *options, "--metrics", "auc"])
    assert "unknown metric 'auc'. Did you mean 'roc_auc'?" in capsys.readouterr().err


def test_the_quantile_of_the_loss(capsys):
    x = STREAM.normal(size=(60, 2))
    np.savez("numbers.npz", x=x, y=x[:, 0] * 100)
    options = "--loss", "quantile", "--epochs", "2", "--out", "run", "--quiet"
    words = ["train", "numbers.npz", "--recipe", "plain", *options, "--metrics", "quantile_loss,quantile_0.5_loss"]
    assert main(words) == 0
    lines = [line.split(": ")[1] for line in capsys.readouterr().out.splitlines() if " loss: " in line]
    assert len(lines) == 2 and lines[0] == lines[1]
