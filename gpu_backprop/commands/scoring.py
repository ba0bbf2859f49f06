"""Scoring a network on rows whose target is known."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

import gpu_backprop as gb
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.text_table import terminal_width
from gpu_backprop.commands.building import targets
from gpu_backprop.commands.datasets import Samples
from gpu_backprop.data.messages import cells, counted, shown
from gpu_backprop.report import accuracy, confusion_matrix, confusion_text, frequent_mistakes
from gpu_backprop.training.history import number
from gpu_backprop.training.metrics import LABELS, NUMBERS, Metric, Residuals, metric_named, tasks_of
from gpu_backprop.training.metrics import Scores as Outputs
from gpu_backprop.training.temperature import temper

WIDEST_TABLE = 20
"""Classes; of more, the most frequent mistakes are listed instead."""

LARGEST, LEAST = 2 / 3, 1 / 4
"""Classes are unbalanced where one has more than that share of the rows, or one has less than that part of what it
would have if all had as many."""

NAMES = {
    "r2": "R²", "mae": "MAE", "rmse": "RMSE", "f1": "F1", "f1_macro": "mean F1",
    "f1_weighted": "weighted mean F1", "roc_auc": "ROC AUC", "brier_score": "Brier score",
}  # fmt: skip
"""What metrics are called, but for those whose names are words."""

FLATTERED = (
    "out of fold: each member's best epoch was chosen by the rows that it is scored on here, which flatters it; "
    "--held-out 0.2 scores on rows that decide nothing"
)


class Figure(str):
    """A result in words, as in "accuracy: 0.9778", with the two of which it is made."""

    def __new__(cls, name: str, value: float, told: str | None = None) -> Self:
        figure = super().__new__(cls, f"{name}: {number(value) if told is None else told}")
        figure.name, figure.value = name, value
        return figure

    name: str
    value: float


@dataclass(frozen=True)
class Scores:
    """The scores of a network.

    Attributes:
        figures: results, as in "accuracy: 0.9778".
        mistakes: which class was taken for which.
        baseline: the score of an answer that needs no network, and what follows.
    """

    figures: list[Figure]
    mistakes: str = ""
    baseline: str = ""


def score(trainer: gb.Trainer, samples: Samples, asked: Sequence[str] = (), y: Array | None = None) -> Scores:
    """Compute what suits the task: of classes accuracy, mistakes and, where some are rare, what says more; of numbers
    R² and errors, in the units of the data.

    Args:
        asked: names of metrics besides these.
        y: the outputs for the rows out of fold; None: what the network predicts for them. Of those that are flattered
            it is not said that they do better than the baseline.
    """
    net, predicted, judged = trainer.network, y is None, y is None or not flattery(trainer)
    y = net.predict(samples.x) if y is None else y
    if samples.y.ndim > 1:
        return _score_columns(trainer, samples.y, y, asked, judged)
    names = [str(name) for name in net.classes or range(net.outputs)]
    matrix = confusion_matrix(samples.y, labels(y), len(names))
    rows, often = Outputs(np, y, targets(trainer.loss, net, samples)[:]), matrix.sum(axis=1)
    figures = [Figure("accuracy", accuracy(matrix), f"{accuracy(matrix):.4f}")]
    if unbalanced(often):
        figures += _of_rare_classes(rows, often, names)
    if net.last.activation.name == "softmax" or net.outputs == 1:
        figures.append(_log_loss(trainer, samples, rows) if predicted else _figure("log_loss", rows))
        asked = "calibration_error", *(name for name in asked if name != "log_loss")
    return Scores(_with(figures, asked, rows), _mistakes(matrix, names), _baseline(matrix, names, judged))


def score_out_of_fold(trainer: gb.Trainer, samples: Samples, asked: Sequence[str] = ()) -> tuple[Scores, list[str]]:
    """Score each row by the member of the network that has not learned from it; return the scores of all rows
    together, and their figures with the least and the most that those of a fold are."""
    y, figures = tempered(trainer, trainer.out_of_fold(), samples)[0], []
    whole = score(trainer, samples, asked, y)
    folds = [
        {figure.name: figure.value for figure in score(trainer, samples.take(rows), asked, y[rows]).figures}
        for rows in trainer.folds
    ]
    for figure in whole.figures:
        values = [fold.get(figure.name, math.nan) for fold in folds]
        told = f" ({number(values)} in the folds)" if np.isfinite(values).all() else ""
        figures.append(f"{figure}{told}")
    return whole, figures


def tempered(trainer: gb.Trainer, y: Array, samples: Samples) -> tuple[Array, float]:
    """Return outputs out of fold as they are scored, and the temperature that was divided out of them: where the mean
    of the members is calibrated, each by itself is too sure, and gets the temperature that is theirs."""
    if trainer.history.temperature is None:
        return y, 1.0
    temperature: float = gb.fit_temperature(y, samples.y)
    return temper(y, temperature).astype(y.dtype), temperature


def flattery(trainer: gb.Trainer) -> list[str]:
    """Say what flatters scores out of fold, in one line or none."""
    return [] if trainer.history.best_epoch is None else [FLATTERED]


def _log_loss(trainer: gb.Trainer, samples: Samples, rows: Outputs) -> Figure:
    """Write the log loss; where it is the network's loss, as that, which knows how near to 0 or 1 a probability is when
    its dtype no longer does. Of smoothed labels it would be another one."""
    smoothed = np.any(getattr(trainer.loss, "label_smoothing", 0))
    if trainer.loss.fused != trainer.network.last.activation.name or smoothed:
        return _figure("log_loss", rows)
    loss = trainer.evaluate(samples.x, targets(trainer.loss, trainer.network, samples), metrics=())["loss"]
    return Figure("log loss", loss)


def _score_columns(trainer: gb.Trainer, target: Array, y: Array, asked: Sequence[str], judged: bool) -> Scores:
    """Score numbers, or the answers to a question of yes or no in each column."""
    net, tasks = trainer.network, tasks_of(trainer.network, trainer.loss)
    if NUMBERS not in tasks and ((target == 0) | (target == 1)).all():
        rows = Outputs(np, y, target, multi_label=LABELS in tasks)
        suiting = ("label_accuracy", "exact_match") if rows.multi_label else ("accuracy",)
        return Scores(_with([], (*suiting, "f1_macro", "roc_auc", "log_loss", "calibration_error", *asked), rows))
    true, predicted = net.preprocessing.inverse(target, clip=False), net.preprocessing.inverse(y)
    rows = Outputs(np, predicted, true, quantile=getattr(trainer.loss, "q", None))
    figures = _with([], ("r2", "mae", "rmse", "median_absolute_error", *asked), rows)
    return Scores(figures, baseline=_mean_baseline(true, predicted) if judged else "")


def _with(figures: Sequence[Figure], asked: Sequence[str], rows: Outputs) -> list[Figure]:
    """Add what was asked for, each once."""
    return list(dict.fromkeys([*figures, *(_figure(name, rows) for name in asked)]))


def unbalanced(often: Array) -> bool:
    """Tell whether classes with so many rows are so unequal that accuracy alone says little: see LARGEST and LEAST."""
    shares = often[often > 0] / often.sum()
    return bool(shares.max() > LARGEST or shares.min() < LEAST / len(often))


def _of_rare_classes(rows: Outputs, often: Array, names: Sequence[str]) -> list[Figure]:
    """Score how well rare classes are recognised: of two, the rarer one."""
    figures = [_figure("balanced_accuracy", rows)]
    if len(often) > 2:
        return [*figures, _figure("f1_macro", rows), _figure("roc_auc", rows)]
    rarer = int(often.argmin())
    of, is_rarer = f" of {shown(names[rarer])}", (rows.labels == rarer).astype(np.int64)
    answers = np.eye(2)[(rows.answers == rarer).astype(np.int64)]  # which of two equal ones is the answer stays so
    figures.append(_figure("f1", Outputs(np, answers, is_rarer), of))
    figures.append(_figure("average_precision", Outputs(np, rows.p[:, [1 - rarer, rarer]], is_rarer), of))
    return [*figures, _figure("roc_auc", rows)]


def _figure(name: str, rows: Outputs, of: str = "") -> Figure:
    """Compute a metric, and write it as in "ROC AUC: 0.9312"."""
    metric = metric_named(name)
    why = "it is fitted to the rows that it is measured on" if metric.fitted else metric.undefined
    value = math.nan if metric.fitted else _value(metric, rows)
    told = f"none, because {why}" if not math.isfinite(value) and why else None
    return Figure(f"{NAMES.get(name, name.replace('_', ' '))}{of}", value, told)


def _value(metric: Metric, rows: Outputs) -> float:
    if metric.of_sums is not None:
        return float(metric.of_sums(Residuals.of(rows.y, rows.target)))
    return metric.value(rows)


def _mean_baseline(true: Array, predicted: Array) -> str:
    """Say whether the network does better than always giving the mean. A row's share of R² is the mean over the outputs
    of ((y* − ȳ*)² − (y* − y)²)/variance, so that R² has the standard error of a mean."""
    spread = ((true - true.mean(axis=0)) ** 2).mean(axis=0)
    if not spread.all() or len(true) < 2:
        return ""
    shares = (((true - true.mean(axis=0)) ** 2 - (true - predicted) ** 2) / spread).mean(axis=1)
    r2, doubt = shares.mean(), shares.std(ddof=1) / math.sqrt(len(shares))
    return f"always answering the mean would have an R² of 0: {_conclusion(r2, doubt, len(shares))}"


def _conclusion(gain: float, doubt: float, rows: int) -> str:
    """Say what it means that a network gains so much on an answer that needs none, give or take the doubt."""
    if abs(gain) <= doubt:
        return f"the network does no better than chance allows for with {counted(rows, 'row')}"
    return "the network does better" if gain > 0 else "the network does worse"


def labels(y: Array) -> Array:
    """Return the label of each row: its largest output, or whether the only one is above ½."""
    return y.argmax(axis=-1) if y.shape[-1] > 1 else (y[..., 0] > 0.5).astype(np.int64)


def _baseline(matrix: Array, names: list[str], judged: bool) -> str:
    """Say how often the most frequent class is right, and, if `judged`, whether the network does better than always
    giving it."""
    often, rows = matrix.sum(axis=1), matrix.sum()
    share, right = often.max() / rows, accuracy(matrix)
    doubt = math.sqrt(share * (1 - share) / rows)  # the standard error of such a share
    conclusion = f": {_conclusion(right - share, doubt, int(rows))}" if judged else ""
    return f"always answering {shown(names[often.argmax()])} would be right for {share:.4f}{conclusion}"


def _mistakes(matrix: Array, names: list[str]) -> str:
    width = terminal_width(sys.stdout)
    table = confusion_text(matrix, names, width)
    if len(names) > WIDEST_TABLE or (width is not None and cells(table.partition("\n")[0]) > width):
        return f"the most frequent mistakes:\n{frequent_mistakes(matrix, names)}"
    return f"how often each class (row) was taken for which (column):\n{table}"
