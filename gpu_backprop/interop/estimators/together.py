"""Estimators that are trained together: those whose networks have the same shape, as one population. Each comes to what
it comes to alone, to rounding."""

from __future__ import annotations

import time
import warnings
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import issparse
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing

from gpu_backprop.backend.errors import DivergedError, GpuBackpropError
from gpu_backprop.backend.formula import Array
from gpu_backprop.interop.estimators.base import AHEAD, BaseMLP, Training, scaled_by_others
from gpu_backprop.interop.estimators.options import LBFGS
from gpu_backprop.network.layers import Dropout
from gpu_backprop.training.population import Population
from gpu_backprop.training.search import PLACES

RATE = "learning_rate"
MOST_PARAMETERS = 1 << 25
"""Of all networks that are there at a time; and PLACES of rows: beyond, they keep a device busy by themselves."""


class Trained(NamedTuple):
    """What the training of an estimator together with others has come to.

    Attributes:
        result: the estimator, or its error.
        x, rows: all rows, and which of them it was given.
        told: what else it was told, see `_told`.
    """

    result: BaseMLP | Exception
    x: Array
    rows: Array
    told: Hashable

    def is_of(self, X: Any, told: Hashable) -> bool:
        """Tells whether it was given just this."""
        if told != self.told or issparse(X):
            return False
        return np.array_equal(np.asarray(X, self.x.dtype), self.x[self.rows])


def _told(mlp: BaseMLP, y: Any, sample_weight: Any = None) -> Hashable:
    """Returns what tells apart what an estimator is told besides X."""
    return repr(mlp.get_params()), *(hash(tuple(np.ravel(one).tolist())) for one in (y, sample_weight))


class Ahead:
    """What comes of estimators that train together, until each is fitted; in that order, but with fits between that
    are of no such estimator, or of one within another."""

    def __init__(self, found: Iterator[list[Trained]]) -> None:
        self._left, self._found = list[Trained](), found

    def take(self, mlp: BaseMLP, X: Any, y: Any, sample_weight: Any) -> Trained | None:
        """Returns what a fit comes to; None: it has to train alone."""
        if not self._left:
            found, self._found = self._found, iter(())  # for fits within those of pipelines
            self._left, self._found = next(found, []), found
        told = _told(mlp, y, sample_weight) if self._left else None
        for place, one in enumerate(self._left):
            if one.is_of(X, told):
                del self._left[: place + 1]
                return one
        return None


def train_together(
    fits: Iterable[tuple[Any, Array]], X: Any, y: Any, params: Mapping[str, Any], seconds: dict[int, float]
) -> Iterator[list[Trained]]:
    """Trains estimators, each on rows of its own, as many together as memory is for.

    Args:
        fits: unfitted estimators of any kind, and the places of the rows of each. Those that train together with others
            are then fitted; of a Pipeline, its steps.
        X, y, params: as `fit` takes them.
        seconds: gets the share of the time of each that was trained, by its number among the fits.

    Yields:
        What comes of some of them, in their order; the others have to be fitted alone.
    """
    params = {name: value for name, value in params.items() if value is not None}
    waiting, parameters, places = list[Member](), 0, 0
    shared: dict[Hashable, Array] = {}
    for place, (estimator, rows) in enumerate(fits):
        began, piped = time.perf_counter(), type(estimator) is Pipeline
        mlp = estimator.steps[-1][1] if piped else estimator
        if not _trains_with_others(mlp) or not {*params} <= (set() if piped else {"sample_weight"}):
            continue
        with suppress(Exception):  # which fit will raise again
            part, *more = (None if one is None else _safe_indexing(one, rows) for one in (X, y, *params.values()))
            part = estimator[:-1].fit_transform(part, *more) if piped else part
            if not issparse(part):
                told = _told(mlp, *more)
                member = Member(mlp, mlp._prepare(part, *more), rows, place, len(y), shared, piped, told)
                member.seconds = time.perf_counter() - began
                waiting.append(member)
                parameters, places = parameters + member.size, places + len(rows)
        if parameters >= MOST_PARAMETERS or places >= PLACES:
            yield _train_all(waiting, seconds)
            waiting, shared, parameters, places = [], {}, 0, 0
    yield _train_all(waiting, seconds)


def _trains_with_others(mlp: Any) -> bool:
    return isinstance(mlp, BaseMLP) and not (mlp.solver == LBFGS or mlp.callbacks or mlp.warm_start)


def _train_all(members: Sequence[Member], seconds: dict[int, float]) -> list[Trained]:
    """Trains all members, each with those of its shape."""
    groups: dict[Hashable, list[Member]] = {}
    for member in members:
        groups.setdefault(member.shape, []).append(member)
    found: dict[int, Trained] = {}
    for group in groups.values():
        if len(group) > 1 and _train(group):
            found |= {member.place: member.finish() for member in group}
            seconds |= {member.place: member.seconds for member in group}
    return [found[place] for place in sorted(found)]


@contextmanager
def trained_ahead(found: Iterator[list[Trained]]) -> Iterator[None]:
    """Lets the next calls of `fit` of our estimators come to what is found."""
    token = AHEAD.set(Ahead(found))
    try:
        yield
    finally:
        AHEAD.reset(token)


class Member:
    """An estimator that trains with others, and what it learns from.

    Args:
        rows: the places of the rows that it was given, of `count`.
        place: which of the fits it is.
        shared: the x of several members, all rows each; this one puts its rows into one.
        piped: whether the same rows are another x in each fold.
        told: see `Trained`.

    Attributes:
        learned, held_out: the places of the rows that it learns from, and is measured on.
        shape: what all those that train together have in common.
        size: of its parameters.
        number: which one of those that train together it is.
        diverged: the error of its divergence; None: it has not diverged.
        seconds: that it has taken.
    """

    def __init__(
        self, mlp: BaseMLP, of: Training, rows: Array, place: int, count: int, shared: dict[Hashable, Array],
        piped: bool, told: Hashable,
    ) -> None:  # fmt: skip
        self.told = told
        self.mlp, self.place, self.rows, self.y, self.weights = mlp, place, rows, of.y, of.weights
        self.learned, self.held_out = (rows, rows[:0]) if of.places is None else (rows[part] for part in of.places)
        x = np.zeros((count, of.X.shape[1]), of.X.dtype)
        x[self.learned] = of.X
        self._measured: Sequence[Any] = ()
        if of.held_out is not None:
            x[self.held_out], *self._measured = of.held_out
        content = hash(x.tobytes()) if piped else None
        self.x = shared.setdefault((x.dtype, x.shape, content), x)
        self.x[rows] = x[rows]
        self._rules = mlp._rules(of.X)
        self.batch, self.size = of.batch, mlp.network_.parameters.size
        self.shape = self._shape()
        self.number, self.seconds = 0, 0.0
        self.diverged: DivergedError | None = None

    def _shape(self) -> Hashable:
        mlp, trainer = self.mlp, self.mlp._trainer
        network, optimizer = trainer.network, trainer.optimizer
        layers = [(type(layer), layer.units, getattr(layer, "activation", None)) for layer in network.layers]
        return (
            type(mlp), np.asarray(getattr(mlp, "classes_", ())).tobytes(), id(self.x), network.dtype.name,
            network.device.name, network.inputs, *layers, trainer.loss, optimizer.name, optimizer.rule.numpy,
            (mlp.max_iter, -(-len(self.learned) // self.batch)) if optimizer.schedule else 0,
            self.place if optimizer.schedule.keys() - {RATE} else -1,
            mlp.shuffle, len(self._measured),
            self.batch if self.batch < len(self.learned) else "all rows",
        )  # fmt: skip

    @property
    def weighs_measured(self) -> bool:
        """Whether what it is measured on has weights."""
        return len(self._measured) > 1

    @property
    def settings(self) -> dict[str, Any]:
        """What it has of its own, as a member of a population."""
        trainer, layers = self.mlp._trainer, self.mlp.network_.layers
        rates = [layer.rate for layer in layers if isinstance(layer, Dropout)]
        own = {"dropout": rates, "clip_norm": trainer.clip_norm, "schedule": trainer.optimizer.schedule.get(RATE)}
        return {
            "seed": self.mlp.network_.seed, **trainer.optimizer.settings,
            **{name: value for name, value in own.items() if value},
        }  # fmt: skip

    def parts(self) -> Iterator[tuple[Array, Array, Array | None]]:
        """Yields the places, targets and weights of what it learns from, and of what it is measured on."""
        yield self.learned, self.y, self.weights
        if self._measured:
            y, weights = (*self._measured, None)[:2]
            yield self.held_out, y, weights

    def end_iteration(self, population: Population, row: dict[str, Any], parameters: Array) -> bool:
        """Takes in what an epoch has come to; tells whether it was the last."""
        mlp, optimizer, m = self.mlp, self.mlp._trainer.optimizer, self.number
        if population.history.diverged is not None and population.history.diverged[m]:
            self.diverged = DivergedError(
                f"the loss became NaN or infinite in epoch {row['epoch']}. Lower the learning rate (now "
                f"{optimizer.learning_rate}), or scale the inputs to about −1 … 1.",
                epoch=row["epoch"], step=0, history=mlp.history_,
            )  # fmt: skip
            return True
        rate = optimizer.learning_rate
        mlp.history_.append({name: value[m] if isinstance(value, list) else value for name, value in row.items()})
        mlp.network_.device.copy_in(mlp.network_.parameters, parameters)
        ended = bool(self._rules.end_iteration(mlp._trainer, mlp.history_[-1])) or mlp.n_iter_ == mlp.max_iter
        if optimizer.learning_rate != rate:
            population.change(m, learning_rate=optimizer.learning_rate)
        return ended

    def finish(self) -> Trained:
        """Ends the fit as it ends alone."""
        try:
            self.mlp._end_iterations(diverged=self.diverged)
            result: BaseMLP | Exception = self.mlp._finish()
        except ValueError as error:
            result = error
        return Trained(result, self.x, self.rows, self.told)


def _targets(members: Sequence[Member]) -> tuple[Array, Array | None] | None:
    """Returns the targets and weights of all rows, weights also (members, rows); None where there are no such."""
    first, rows = members[0], len(members[0].x)
    y = np.zeros((rows, *first.y.shape[1:]), first.y.dtype)
    shared, weights = np.ones(rows), np.ones((len(members), rows))
    parts = [(m, *part) for m, member in enumerate(members) for part in member.parts()]
    for m, places, target, own in parts:
        y[places] = target
        shared[places] = weights[m, places] = 1.0 if own is None else own
    if not all(np.array_equal(y[places], target) for _, places, target, _ in parts):
        return None  # they are learned smoothed, and measured as they are
    if all(np.array_equal(shared[places], weights[m, places]) for m, places, _, _ in parts):
        return y, None if (shared == 1).all() else shared
    return (y, weights) if weights.all() and not first.weighs_measured else None


def _train(members: Sequence[Member]) -> bool:
    """Trains members of one shape as a population; False where that cannot be."""
    began, first, data = time.perf_counter(), members[0], _targets(members)
    if data is None:
        return False
    held_out = np.zeros((len(members), len(first.x)), np.bool_)
    for m, member in enumerate(members):
        held_out[m, member.held_out] = True
    trainer, ended = first.mlp._trainer, set[int]()

    def follow(population: Population) -> None:
        """Asks each member that has not ended whether it does now."""
        (active, current), row = population.active, population.history[-1]
        for m, parameters in zip(active.tolist(), current.network.parameters, strict=True):
            if m not in ended and members[m].end_iteration(population, row, parameters):
                ended.add(m)
        population.stop([*ended])

    try:
        population = Population(
            trainer.network.inputs, trainer.network.layers, [member.settings for member in members], loss=trainer.loss,
            optimizer=trainer.optimizer, batch_size=max(member.batch for member in members), metrics=trainer.metrics,
            dtype=trainer.network.dtype.name, device=trainer.network.device.name,
        )  # fmt: skip
        for m, member in enumerate(members):
            member.number = m
            population.network.device.copy_in(population.network.parameters[m], member.mlp.network_.parameters)
        with scaled_by_others():
            warnings.filterwarnings("ignore", ".* became NaN or infinite", RuntimeWarning)  # finish tells of each
            population.fit(
                first.x, data[0], max(member.mlp.max_iter for member in members), weights=data[1],
                rows=[member.learned for member in members], validation=held_out if held_out.any() else None,
                shuffle=first.mlp.shuffle, progress=False, callbacks=[follow],
            )  # fmt: skip
    except DivergedError as error:  # all that were left
        for m, member in enumerate(members):
            member.diverged = member.diverged if m in ended else error
    except GpuBackpropError:
        return False
    for member in members:
        member.seconds += (time.perf_counter() - began) / len(members)
    return True
