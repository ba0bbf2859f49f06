"""What a trained network says about rows of data: which columns it needs, how its answers follow each of them, and the
rows that it gets most wrong. Numbers only; html_report/ draws them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.suggestions import explain_arguments
from gpu_backprop.data import Arrays, Preprocessing, Table
from gpu_backprop.network.network import Network
from gpu_backprop.training.metrics import Scores

ROWS, REPEATS, WORK, FEWEST = 2000, 5, 1_000_000, 100
"""Rows whose columns are shuffled, and how often each column is; with many columns fewer rows, so that the network
answers no more than WORK of them, but no fewer than FEWEST."""

DEPENDENCES, AVERAGED, POINTS, CATEGORIES, CURVES = 6, 500, 20, 12, 5
"""Columns with a partial dependence, the rows that it is the mean over, the numbers or else the categories that are
put in, and the outputs that are followed."""

EDGES = 0.02, 0.98
"""The quantiles of a column between which its partial dependence is worked out: beyond, single rows decide."""

WORST, VALUES = 10, 12
"""Rows that are answered worst, and how many columns are told of each."""

LOG_LOSS, ERROR_RATE, RMSE = "log loss", "error rate", "RMSE"
MISSING = "missing"


class Importance(NamedTuple):
    """How much worse a network is without what a column says.

    Attributes:
        column: its name; x[k] of arrays.
        rise: by how much the loss rises when the column is shuffled among the rows, the mean of REPEATS shuffles.
        spread: the standard deviation of a shuffle.
    """

    column: str
    rise: float
    spread: float


class Dependence(NamedTuple):
    """What a network answers, in the mean over rows, if a column had the same value in all of them.

    Attributes:
        column: its name.
        values: (points,), numbers in ascending order; or texts, the most frequent first.
        y: (points, outputs), the mean answers.
        deciles: of numbers the 10 %, 20 % … 90 % quantiles, (9,); empty for texts.
        others: how many texts there are besides.
    """

    column: str
    values: Array
    y: Array
    deciles: Array
    others: int


class ColumnFindings(NamedTuple):
    """What a network makes of each column.

    Attributes:
        rows: how many were shuffled.
        loss: of these before that.
        importances: of all columns, the most important first.
        averaged: how many of these rows a partial dependence is the mean over.
        outputs: what `y` of a dependence is of: classes, or targets.
        mean: of the same outputs over the same rows as they are, (outputs,).
        dependences: of the most important columns.
    """

    rows: int
    loss: float
    importances: Sequence[Importance]
    averaged: int
    outputs: Sequence[str]
    mean: Array
    dependences: Sequence[Dependence]


class WorstRow(NamedTuple):
    """A row that is answered badly.

    Attributes:
        place: where it stands in the file: line 7, row 7.
        true, predicted: a class, or numbers in the units of the data, one for each target.
        probability: of the true class; None where there is none.
        values: some of its columns, the most important first: name and value, None where it is missing.
        pixels: of images that are square and grey, (height, width) from 0 to 1; else None.
    """

    place: str
    true: tuple[object, ...]
    predicted: tuple[object, ...]
    probability: float | None
    values: Sequence[tuple[str, object]]
    pixels: Array | None = None


class Inspection(NamedTuple):
    """What `inspect_model` finds.

    Attributes:
        task: "classification" or "regression".
        rows: how many were answered.
        loss_name: "log loss", "RMSE" in the units of the data, or "error rate" of a network without probabilities.
        loss: of all these rows.
        worst: those with the largest losses, the worst first.
        columns: None for images, whose pixels say nothing one by one.
    """

    task: str
    rows: int
    loss_name: str
    loss: float
    worst: Sequence[WorstRow]
    columns: ColumnFindings | None


@explain_arguments
def inspect_model(
    network: Network, data: Table | Arrays, rows: npt.ArrayLike | None = None, *, folds: npt.ArrayLike | None = None
) -> Inspection:
    """Finds out what a network makes of the columns of data, by asking it about rows that were changed.

    *Permutation importance* (Breiman 2001) of a column: its values are shuffled among the rows, so that it says nothing
    any more, and all inputs that it makes move with it. *Partial dependence* (Friedman 2001): a column is given one
    value in all rows. The shuffles are the same each time: equal networks and rows give equal numbers.

    Args:
        network: one that knows its preprocessing, as one that `gpu-backprop train` wrote does.
        data: a table or arrays with the target, as `gpu_backprop.data.read` gives them.
        rows: which of them, as indices or a mask, best such as were not trained on; None: all.
        folds: of a network with a models axis that was trained with folds, the fold of each row of the data: the member
            that has not learned from a row answers for it.

    Raises:
        InputError: the network does not know how data become inputs, or gives several answers to a row; or no rows, or
            folds that are not those of the network.
        DataError: the data are not as the network needs them.
    """
    preprocessing: Preprocessing | None = network.preprocessing
    if preprocessing is None:
        raise InputError(
            "the network does not say how rows of data become inputs; set net.preprocessing, a Preprocessing, first."
        )
    data = preprocessing.as_in_training(data)
    try:
        chosen: Array = np.arange(data.rows) if rows is None else np.arange(data.rows)[rows]  # type: ignore[index]
    except IndexError as error:
        raise InputError(f"rows must be indices, or a mask, of the {data.rows:,} rows of the data: {error}") from None
    if chosen.ndim != 1 or not len(chosen):
        raise InputError("rows must be indices, or a mask, of one row at least.")
    x, target = preprocessing.transform(data)[chosen], preprocessing.targets(data)[chosen]
    fold = _checked_folds(network, data.rows, folds)[chosen]
    y = _asked(network, fold)(x)
    if not np.isfinite(y).all():
        raise InputError("the network answers NaN or infinity, of which nothing can be said; train it again.")
    loss, columns = _Loss(preprocessing, y), None
    if not preprocessing.images:
        columns = _inspect_columns(network, fold, data, chosen, x, target, loss)
    names = [] if columns is None else [each.column for each in columns.importances[:VALUES]]
    return Inspection(
        preprocessing.task, len(chosen), loss.name, loss.mean(y, target),
        _worst_rows(preprocessing, data, chosen, y, target, loss, names), columns,
    )  # fmt: skip


def _checked_folds(network: Network, rows: int, folds: npt.ArrayLike | None) -> Array:
    """Returns the fold of each row, int64 (rows,); −1 for all where none are given, and the network answers itself."""
    members = network.models_shape[0] if network.models_shape else 0
    if folds is None:
        if members and not network.averaged:
            raise InputError(
                f"the network is {members} networks side by side, which give as many answers to a row; inspect one of "
                "them, or their mean: net.averaged = True."
            )
        return np.full(rows, -1)
    if not members:
        raise InputError("folds are for a network with a models axis, and this is one network without; leave them out.")
    found = np.asarray(folds)
    if found.shape != (rows,) or found.dtype.kind not in "iu" or found.min() < 0 or found.max() >= members:
        raise InputError(
            f"folds must be, for each of the {rows:,} rows of the data, an integer from 0 to {members - 1}: the member "
            "of the network that has not learned from it."
        )
    return found.astype(np.int64)


def _asked(network: Network, fold: Array) -> Callable[[Array], Array]:
    """Returns what answers rows of these folds: y, (rows, outputs), of x, (rows, inputs)."""
    if (fold < 0).any():
        return network.predict
    return lambda x: np.asarray(network.predict_members(x)[fold, np.arange(len(x))])


class _Loss:
    """How wrong answers are: the log loss where they are probabilities, else how many classes are wrong; of quantities
    the root of the mean squared error, in the units of the data."""

    def __init__(self, preprocessing: Preprocessing, y: Array) -> None:
        self.inverse = preprocessing.inverse
        probabilities = bool(y.min() >= 0 and y.max() <= 1)
        self.name = RMSE if preprocessing.classes is None else LOG_LOSS if probabilities else ERROR_RATE

    def of_rows(self, y: Array, target: Array) -> Array:
        """Returns the loss of each row, (rows,); of quantities its squared error over that of all, the mean of them."""
        if self.name == RMSE:
            squares = self._squares(y, target)
            means = squares.mean(axis=0)
            parts: Array = (squares / np.where(means > 0, means, 1)).mean(axis=1)
            return parts
        scores = Scores(np, y, target)
        if self.name == ERROR_RATE:
            return np.asarray(scores.answers != scores.labels, np.float64)
        eps = float(np.finfo(y.dtype).eps)  # as the metric log_loss has it
        losses: Array = -np.log(scores.p_of_label.astype(np.float64).clip(eps, 1 - eps))
        return losses

    def mean(self, y: Array, target: Array) -> float:
        """Returns the loss of all rows; of several quantities the mean of their RMSE, as the metric has it."""
        if self.name == RMSE:
            return float(np.sqrt(self._squares(y, target).mean(axis=0)).mean())
        return float(self.of_rows(y, target).mean())

    def _squares(self, y: Array, target: Array) -> Array:
        squares: Array = (self.inverse(y) - self.inverse(target, clip=False)) ** 2
        return squares


def _inspect_columns(
    network: Network, fold: Array, data: Table | Arrays, chosen: Array, x: Array, target: Array, loss: _Loss
) -> ColumnFindings:
    """Shuffles each column, and follows the most important ones."""
    preprocessing: Preprocessing = network.preprocessing
    names = preprocessing.columns or preprocessing.features
    some = _some(len(x), min(ROWS, max(FEWEST, WORK // (REPEATS * len(names)))))
    x, target = x[some], target[some]
    if isinstance(data, Arrays):
        columns = {name: data.x[chosen[some], k].astype(np.float64) for k, name in enumerate(names)}
        inputs = {name: np.array([k]) for k, name in enumerate(names)}
    else:
        table = replace(data.take(chosen[some]), reread=None)
        columns = {name: preprocessing.read_column(table, name) for name in names}
        inputs = _inputs_of(preprocessing, table, x)
    ask = _asked(network, fold[some])
    before = loss.mean(ask(x), target)
    shuffles = [np.random.default_rng(seed).permutation(len(x)) for seed in range(REPEATS)]
    found, moved = [], x.copy()
    for name in names:
        rises = []
        for shuffle in shuffles:
            moved[:, inputs[name]] = x[shuffle[:, None], inputs[name]]
            rises.append(loss.mean(ask(moved), target) - before)
        moved[:, inputs[name]] = x[:, inputs[name]]
        found.append(Importance(name, float(np.mean(rises)), float(np.std(rises, ddof=1))))
    found.sort(key=lambda each: -each.rise)  # equal ones stay in the order of the file

    few = _some(len(x), AVERAGED)
    ask = _asked(network, fold[some][few])
    outputs = _choose_outputs(preprocessing, target)
    followed = []
    for name, *_ in found[:DEPENDENCES]:
        values, at, deciles, others = _grid(columns[name])
        mean, moved = np.empty((len(values), len(outputs))), x[few]
        for point, row in enumerate(at):  # a row that has the value tells what inputs it makes
            moved[:, inputs[name]] = x[row, inputs[name]]
            mean[point] = _mean_answer(preprocessing, ask(moved), list(outputs))
        followed.append(Dependence(name, values, mean, deciles, others))
    mean = _mean_answer(preprocessing, ask(x[few]), list(outputs))
    return ColumnFindings(len(x), before, found, len(few), list(outputs.values()), mean, followed)


def _some(rows: int, most: int) -> Array:
    """Chooses at most so many rows at random, always the same, in their order."""
    return np.sort(np.random.default_rng(0).permutation(rows)[:most])


def _inputs_of(preprocessing: Preprocessing, table: Table, x: Array) -> dict[str, Array]:
    """Finds the inputs that each column makes, of those that differ among the rows.

    They are found by holding columns still: in the pass of bit b, all columns whose number, from 1 on, has
    that bit set, have the value of the first row in all rows. An input that moves is that of the column with exactly
    the bits of the passes in which it stood still.
    """
    names, still = preprocessing.columns, np.zeros(x.shape[1], np.int64)
    for bit in range(len(names).bit_length()):
        held = {name: table.columns[name][[0] * len(x)] for k, name in enumerate(names, 1) if k >> bit & 1}
        other = preprocessing.transform(replace(table, columns={**table.columns, **held}))
        still |= (other != x).any(axis=0).astype(np.int64) << bit
    return {name: np.flatnonzero(still == k) for k, name in enumerate(names, 1)}


def _grid(column: Array) -> tuple[Array, list[int], Array, int]:
    """Chooses values of a column; returns them, for each a row that has it, the deciles of numbers, and how many
    different texts are left out."""
    if column.dtype == object:
        texts = [MISSING if value is None else value for value in column.tolist()]
        often = sorted(Counter(texts).items(), key=lambda pair: (-pair[1], pair[0]))
        shown = [text for text, _ in often[:CATEGORIES]]
        return np.array(shown, object), list(map(texts.index, shown)), np.empty(0), len(often) - len(shown)
    numbers = column[np.isfinite(column)]
    if not len(numbers):
        return np.empty(0), [], np.empty(0), 0
    values = np.unique(numbers)
    if len(values) > POINTS:
        values = np.unique(np.quantile(numbers, np.linspace(*EDGES, POINTS), method="inverted_cdf"))
    at = [int(np.argmax(column == value)) for value in values]
    return values, at, np.quantile(numbers, np.arange(1, 10) / 10), 0


def _choose_outputs(preprocessing: Preprocessing, target: Array) -> dict[int, str]:
    """Chooses the outputs that are followed, by number with a name: of two classes the second, of more the most
    frequent; or the targets."""
    if preprocessing.classes is None:
        names = _names(preprocessing)
        return dict(enumerate(names[:CURVES]))
    classes = [str(name) for name in preprocessing.classes]
    if len(classes) <= 2:
        return {len(classes) - 1: classes[-1]}
    often = np.bincount(target, minlength=len(classes))
    return {int(k): classes[k] for k in sorted(np.argsort(-often, kind="stable")[:CURVES])}


def _names(preprocessing: Preprocessing) -> list[str]:
    """Names the targets of a regression."""
    if preprocessing.outputs == 1:
        return [preprocessing.target or "y"]
    return [f"y[{k}]" for k in range(preprocessing.outputs)]


def _mean_answer(preprocessing: Preprocessing, y: Array, outputs: list[int]) -> Array:
    """Returns the mean over rows of some outputs: probabilities, or quantities in the units of the data."""
    if preprocessing.classes is None:
        y = preprocessing.inverse(y)
    elif y.shape[1] == 1:
        y = np.concatenate([1 - y, y], axis=1)
    mean: Array = y[:, outputs].mean(axis=0, dtype=np.float64)
    return mean


def _worst_rows(
    preprocessing: Preprocessing, data: Table | Arrays, chosen: Array, y: Array, target: Array, loss: _Loss,
    names: Sequence[str],
) -> list[WorstRow]:  # fmt: skip
    """Finds the rows with the largest losses; of networks without probabilities only such as are wrong."""
    losses = loss.of_rows(y, target)
    rows = [row for row in np.argsort(-losses, kind="stable")[:WORST].tolist() if losses[row] > 0]
    scores, probability = Scores(np, y[rows], target[rows]), [None] * len(rows)
    answers = y[rows] if loss.name == RMSE else scores.answers
    true, predicted = preprocessing.inverse(target[rows], clip=False), preprocessing.inverse(answers)
    if loss.name == LOG_LOSS:
        probability = scores.p_of_label.tolist()
    places, side = {name: k for k, name in enumerate(preprocessing.features)}, math.isqrt(preprocessing.inputs)

    def value(name: str, row: int) -> object:
        found = data.x[row, places[name]] if isinstance(data, Arrays) else data.columns[name][row]
        found = getattr(found, "item", lambda: found)()
        return None if found != found else found

    def pixels(row: int) -> Array | None:
        if isinstance(data, Table) or not preprocessing.images or side**2 != preprocessing.inputs:
            return None
        image: Array = data.x[row].reshape(side, side) / max(1, data.x[row].max())
        return image

    return [
        WorstRow(
            data.place(at), tuple(np.ravel(true[k]).tolist()), tuple(np.ravel(predicted[k]).tolist()), probability[k],
            [(name, value(name, at)) for name in names], pixels(at),
        )
        for k, at in enumerate(chosen[rows].tolist())
    ]  # fmt: skip
