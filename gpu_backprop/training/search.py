"""A search for good settings: the candidates train side by side, each on the same folds."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from gpu_backprop.backend.communicator import Communicator
from gpu_backprop.backend.errors import DivergedError, InputError, OutOfMemoryError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.suggestions import explain_arguments
from gpu_backprop.network.layer import Layer
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.losses import loss as loss_of
from gpu_backprop.network.network import Network
from gpu_backprop.network.numbers import positive
from gpu_backprop.network.samples import samples
from gpu_backprop.training.early_stopping import EarlyStopping
from gpu_backprop.training.folds import choose_folds
from gpu_backprop.training.member_settings import read_settings
from gpu_backprop.training.metrics import Given, choose_metrics, larger_is_better
from gpu_backprop.training.optimizer import Optimizer
from gpu_backprop.training.optimizers import optimizer as optimizer_of
from gpu_backprop.training.population import Population
from gpu_backprop.training.search_result import Candidates, Part, SearchResult
from gpu_backprop.training.search_space import FACTOR, GRID, HALVING, list_candidates
from gpu_backprop.training.streaming import given_rows

PLACES = 1 << 26
"""The most rows of all members of a population together: where they are takes half a GiB."""

FOLDS = 5

Prune = Callable[[int, Array, Array], Array]


@explain_arguments
def search(
    x: Any, y: Any, space: Any, *, layers: Sequence[Layer] | None = None, strategy: str = GRID,
    trials: int | None = None, folds: int | None = None, seeds: int = 1, validation: Any = None, weights: Any = None,
    epochs: int = 10, early_stopping: bool | EarlyStopping | None = None, metric: Given = "loss", factor: int = FACTOR,
    loss: str | Loss | None = None, optimizer: str | Optimizer = "adam", batch_size: int = 128, dtype: str = "float32",
    device: str = "auto", seed: int = 0, progress: bool = True,
    callbacks: Sequence[Callable[[SearchResult], object]] = (), communicator: Communicator | None = None,
) -> SearchResult:  # fmt: skip
    """Searches for the settings with the best score on rows that were not learned from. Each candidate is trained once
    for each fold and seed, and all candidates of one shape side by side, as members of a `Population`: a member is what
    a Network of its seed becomes alone under a Trainer of its settings, to rounding.

    Args:
        x, y: as `Trainer.fit` takes them. What is known of all rows, as their means are, is known to every fold: where
            x is scaled by them, the scores flatter a little.
        space: a dict with a list of values for each setting that is searched, or a distribution: `gb.Uniform`,
            `gb.LogUniform`, or any object with a method ppf, as those of scipy.stats. A setting is what a member of a
            `Population` can have, as learning_rate, dropout or label_smoothing, or one of layers, optimizer and
            batch_size. Candidates that agree in these three are of one shape; the shapes train one after the other.
        layers: of every network, where the space has none.
        strategy: which candidates are tried.

            - "grid": all combinations of the lists.
            - "random": `trials` that are drawn; of a list, each value is as likely.
            - "sobol": drawn too, but spread evenly (Sobol 1967, scrambled); takes scipy, which the extra lbfgs brings.
            - "halving": those of the grid, or `trials` that are drawn at random; after a few epochs only the best third
              goes on, after three times as many the best third of these, and so on (successive halving, Jamieson and
              Talwalkar 2016). Where candidates do not all train side by side, each is compared with those that came as
              far before it (Li et al. 2020).
        trials: how many candidates are drawn. A combination that is drawn again is tried once.
        folds: into how many folds the rows are divided, of every class alike, where there are classes. Each member
            learns from all but one, on which it is scored. None: 5, or none where there are validation data.
        seeds: how many times each is trained, with the seeds from `seed` on.
        validation: (x, y) or (x, y, weights), on which all are scored, in place of folds.
        weights, epochs, early_stopping: as of `Trainer.fit`. Where early stopping chooses the best epoch, the score is
            of that, by the same rows, and flatters a little.
        metric: what the score is: "loss", a name out of gb.METRICS, or a function as `Trainer` takes it. Losses cannot
            be compared where the space has a number of the loss, as label_smoothing.
        factor: of "halving": the share of candidates that goes on is 1/factor, and epochs grow by it; ≥ 2.
        loss, optimizer, batch_size, dtype, device: as `Trainer` and `Network` take them.
        seed: of the folds, of what is drawn, and of the first member of each candidate.
        progress: whether to show how it goes.
        callbacks: functions that are called with the SearchResult so far after every epoch; a true value ends the
            search.
        communicator: the ranks over which the members of each shape are spread, see `Population`.

    Returns:
        The candidates with their scores, best first; `fit_best` trains a network on all rows.

    Raises:
        InputError: a setting is unknown or cannot be, there are no candidates, or fewer rows, of a class too, than
            folds.
        DivergedError: all candidates diverged.
        MissingExtraError: Sobol points are wanted, and scipy is not installed.
    """
    if len(shape := np.shape(x)) != 2:
        raise InputError(f"x must have the shape (rows, inputs), got {shape}.")
    settings = list_candidates(space, strategy, trials, seed)
    name = metric if isinstance(metric, str) else getattr(metric, "__name__", "")
    metrics = None if name == "loss" else [metric]
    candidates = Candidates(
        settings, {"layers": layers, "optimizer": optimizer, "batch_size": batch_size},
        {
            "inputs": shape[1], "loss": loss, "metrics": metrics, "dtype": dtype, "device": device,
            "communicator": communicator,
        },
    )  # fmt: skip
    fit = {"epochs": epochs, "weights": weights, "early_stopping": early_stopping, "progress": progress}
    return search_candidates(
        candidates, x, y, metric=name, folds=folds, seeds=seeds, validation=validation, seed=seed, callbacks=callbacks,
        prune=Halving(factor, positive("epochs", epochs), len(settings)) if strategy == HALVING else None, **fit,
    )  # fmt: skip


def search_candidates(
    candidates: Candidates, x: Any, y: Any, *, metric: str, folds: int | None, seeds: int, validation: Any, seed: int,
    callbacks: Sequence[Callable[[SearchResult], object]] = (), prune: Prune | None = None, **fit: Any,
) -> SearchResult:  # fmt: skip
    """Does what `search` does, with candidates that are known.

    Args:
        metric: what the score is, "loss" or the name of one of the metrics that are measured.
        folds, seeds, validation, seed, callbacks: as of `search`.
        prune: is called after every epoch with its number, the numbers of the candidates that train side by side, and
            their scores so far, of which a smaller one is better, and infinity that of one that has diverged; and
            returns which are too bad to go on, bool. None: all go on.
        fit: what else `Population.fit` is told, its epochs among it.
    """
    every = range(len(candidates.settings))
    if any(candidates.shared_by(number)["layers"] is None for number in every):
        raise InputError("layers are neither given nor in the space: give layers=[gb.Dense(...), ...].")
    if not isinstance(callbacks, (list, tuple)) or not all(map(callable, callbacks)):
        raise InputError(f"callbacks must be a list of functions of a SearchResult, got {callbacks!r:.200}.")
    if "rows" in fit:
        raise InputError("a search divides the rows by itself: give folds=, or validation=(x, y), and no rows.")
    if any("seed" in own for own in candidates.members(every)):
        raise InputError("seed is no setting to search: with seeds=3, each candidate is trained with three of them.")
    if validation is not None and folds is not None:
        raise InputError(f"validation data were given, and folds={folds} too. Give one of the two.")
    folds = 1 if validation is not None else positive("folds", FOLDS if folds is None else folds)
    seeds, groups = positive("seeds", seeds), candidates.groups()
    for group in reversed(groups):
        network = _check(candidates, group, folds)
    if metric == "loss":
        _check_comparable(candidates, loss_of(candidates.options["loss"], network.last))
    fit |= {"x": x, "y": y}
    if validation is None:
        inside = _inside_folds(network, candidates.options["loss"], x, y, fit.get("weights"), folds, seed)
        fit |= {"rows": np.repeat(inside, seeds, axis=0), "validation": "rest"}
    else:
        fit |= {"validation": validation}
    del network  # its memory is for what comes
    larger = larger_is_better(metric, candidates.options["metrics"] or ())
    result = SearchResult(candidates, f"val_{metric}", larger, seed)
    members = [seed + k for _ in range(folds) for k in range(seeds)]
    running = _Search(result, candidates, members, fit, prune, callbacks)
    most = max(1, PLACES // (np.shape(x)[0] * len(members)))
    waiting = [group[k : k + most] for group in groups for k in range(0, len(group), most)]
    while waiting and not running.ended:
        numbers = waiting.pop(0)
        try:
            running.train(numbers)
        except OutOfMemoryError:
            if len(numbers) == 1:
                raise
            half = len(numbers) // 2
            waiting[:0] = numbers[:half], numbers[half:]
    running.finish()
    return result


def _check(candidates: Candidates, numbers: Sequence[int], folds: int) -> Network:
    """Checks the settings of a group, before anything is trained. Returns a network of its shape, a member a fold."""
    shared, options = candidates.shared_by(numbers[0]), candidates.options
    network = Network(
        options["inputs"], shared["layers"], dtype=options["dtype"], device=options["device"], seed=range(folds),
        draw=False,
    )  # fmt: skip
    loss = loss_of(options["loss"], network.last)
    choose_metrics(options["metrics"], network, loss)
    positive("batch_size", shared["batch_size"])
    try:
        read_settings(candidates.members(numbers), network.layers, optimizer_of(shared["optimizer"]), loss)
    except InputError as error:
        raise InputError(f"space: {error}") from None
    return network


def _check_comparable(candidates: Candidates, loss: Loss) -> None:
    """Raises InputError where the losses of candidates are not the same."""
    every = candidates.members(range(len(candidates.settings)))
    for name in loss.bounds:
        if len({own.get(name, getattr(loss, name)) for own in every}) > 1:
            raise InputError(
                f"{name} is a number of the loss, and losses of different numbers cannot be compared: give the search "
                f"a metric, such as {'log_loss' if loss.labels else 'mae'}."
            )


def _inside_folds(
    network: Network, loss: str | Loss | None, x: Any, y: Any, weights: Any, folds: int, seed: int
) -> Array:
    """Returns which rows are not of each fold, bool (folds, rows)."""
    loss = loss_of(loss, network.last)
    data = samples(network, loss, *given_rows(x, y, weights), values=True, idle=False, learn=True)
    fold = choose_folds(folds, network, data, seed)
    classes = data.classes(network.device)
    if classes is not None and (least := np.unique(classes, return_counts=True)[1].min()) < folds:
        raise InputError(
            f"folds={folds}, but one of the classes has only {least} of the rows, and is to be in every fold. Give "
            "fewer folds, or validation data."
        )
    inside: Array = fold != np.arange(folds)[:, None]
    return inside


class Halving:
    """Successive halving: after some epochs, only the best of those that have come as far go on.

    Attributes:
        scores: by the number of such an epoch, of those that have come as far; a smaller score is better.
    """

    def __init__(self, factor: int, epochs: int, candidates: int) -> None:
        if positive("factor", factor) < 2:
            raise InputError(f"factor must be an integer ≥ 2, got {factor}: one of so many candidates goes on.")
        self.factor, self.scores = factor, dict[int, list[float]]()
        while factor ** (len(self.scores) + 1) <= min(candidates, epochs):
            self.scores[epochs // factor ** (len(self.scores) + 1)] = []

    def __call__(self, epoch: int, numbers: Array, scores: Array) -> Array:
        """Takes down the scores of those that train, and returns which of them are too bad to go on."""
        if epoch not in self.scores:
            return np.zeros_like(scores, bool)
        known = self.scores[epoch]
        known += scores.tolist()
        worse: Array = scores > sorted(known)[max(1, len(known) // self.factor) - 1]
        return worse


class _Search:
    """A search that runs: it trains candidates, and puts what comes of them into the result.

    Attributes:
        seeds: of the members of each candidate.
        fit: what `Population.fit` is given, rows those of one candidate.
        ended: whether a callback, or Ctrl-C in a notebook, has ended it.
    """

    def __init__(
        self, result: SearchResult, candidates: Candidates, seeds: Sequence[int], fit: Mapping[str, Any],
        prune: Prune | None, callbacks: Sequence[Callable[[SearchResult], object]],
    ) -> None:  # fmt: skip
        self.result, self.candidates, self.seeds, self.fit = result, candidates, seeds, fit
        self.prune, self.callbacks = prune, callbacks
        self.ended = False
        self._diverged: DivergedError | None = None

    def train(self, numbers: Sequence[int]) -> None:
        """Trains some candidates of a group, side by side."""
        population = self.candidates.population(numbers, self.seeds)
        part = Part(numbers, len(self.seeds), population.history, np.zeros(len(numbers), np.int64))
        rows = self.fit.get("rows")
        told = self.fit if rows is None else {**self.fit, "rows": np.tile(rows, (len(numbers), 1))}
        self.result.parts.append(part)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*the other members go on without", RuntimeWarning)
                population.fit(**told, callbacks=[partial(self._after_epoch, part)])
        except OutOfMemoryError:
            self.result.parts.remove(part)
            raise
        except DivergedError as error:
            self._diverged = error
        finally:
            self.result.running = 0
        self.ended |= part.history.interrupted

    def _after_epoch(self, part: Part, population: Population) -> bool:
        epoch, result, going = len(part.history), self.result, part.stopped == 0
        if self.prune is not None:
            scores = part.scores(result.metric).mean(axis=-1) * (-1 if result.larger_is_better else 1)
            worse, numbers = np.zeros_like(going), np.array(part.numbers)
            worse[going] = self.prune(epoch, numbers[going], np.nan_to_num(scores[going], nan=np.inf))
            part.stopped[worse] = epoch
            population.stop(np.flatnonzero(np.repeat(worse, len(self.seeds))).tolist())
        result.running = int(population.running.sum())
        answers = [callback(result) for callback in self.callbacks]
        self.ended |= any(answers)
        return self.ended or not result.running

    def finish(self) -> None:
        """Raises DivergedError where nothing else came of the search."""
        if self._diverged is not None and all(trial["diverged"] for trial in self.result.trials):
            raise DivergedError(
                "all candidates diverged. Search smaller learning rates, or scale the inputs to about −1 … 1.",
                epoch=self._diverged.epoch, step=self._diverged.step, history=self._diverged.history,
            )  # fmt: skip
