"""Optuna's studies, with the extra optuna: trials are asked for in batches, and train side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from gpu_backprop.backend.errors import DivergedError, InputError, MissingExtraError, install
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.suggestions import explain_arguments
from gpu_backprop.network.layer import Layer
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.numbers import positive
from gpu_backprop.training.metrics import larger_is_better
from gpu_backprop.training.optimizer import Optimizer
from gpu_backprop.training.search import search_candidates
from gpu_backprop.training.search_result import Candidates

try:
    from optuna import Study, Trial, TrialPruned
    from optuna.study import StudyDirection
    from optuna.trial import TrialState
except ImportError as error:
    raise MissingExtraError(f"studies need Optuna: {install('optuna')}") from error


@explain_arguments
def optimize(
    study: Study, x: Any, y: Any, suggest: Callable[[Trial], dict[str, Any]], *, trials: int, batch: int = 16,
    layers: Sequence[Layer] | None = None, folds: int | None = None, seeds: int = 1, validation: Any = None,
    metric: str = "loss", loss: str | Loss | None = None, optimizer: str | Optimizer = "adam", batch_size: int = 128,
    dtype: str = "float32", device: str = "auto", seed: int = 0, epochs: int = 10, progress: bool = False,
    **options: Any,
) -> None:  # fmt: skip
    """Does what `study.optimize` does with many trials at once: those of a batch whose layers, optimizer and batch size
    agree train side by side, as in `gb.search`. The sampler sees what came of a batch when it suggests the next one; it
    is best one that reckons with trials that run, as TPESampler(constant_liar=True) does.

    Args:
        study: of one objective, to be minimised or maximised as is good for the metric.
        x, y: as of `gb.search`.
        suggest: a function that returns the settings of a trial, a dict as `gb.search` has in its space:
            {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 0.1, log=True)}. It may raise TrialPruned.
        trials: how many are run, ≥ 1.
        batch: how many of them at once.
        layers, folds, seeds, validation, metric, loss, optimizer, batch_size, dtype, device, seed, epochs, progress: as
            of `gb.search`.
        options: what else `Population.fit` takes, as early_stopping.

    A trial is told its mean score after every epoch, and is PRUNED where the study's pruner says so. One of which a
    member diverges FAILs. The others have user attributes: "epochs", how many their score is of, and "scores", one a
    member.

    Raises:
        InputError: the study has several objectives or the other direction, or a setting cannot be; the trials that
            were asked for have FAILed.
    """
    metrics = [] if metric == "loss" else [metric]
    wanted = StudyDirection.MAXIMIZE if larger_is_better(metric, metrics) else StudyDirection.MINIMIZE
    if study.directions != [wanted]:
        given = ", ".join(direction.name.lower() for direction in study.directions)
        raise InputError(f"the direction of a study of {metric} must be {wanted.name.lower()}, got {given}.")
    if np.ndim(x) != 2:
        raise InputError(f"x must have the shape (rows, inputs), got {np.shape(x)}.")
    shared = {"layers": layers, "optimizer": optimizer, "batch_size": batch_size}
    more = {"inputs": np.shape(x)[1], "loss": loss, "metrics": metrics or None, "dtype": dtype, "device": device}
    how = {"metric": metric, "folds": folds, "seeds": seeds, "validation": validation, "seed": seed, "epochs": epochs}
    left, batch = positive("trials", trials), positive("batch", batch)
    while left:
        asked = [study.ask() for _ in range(min(batch, left))]
        left -= len(asked)
        try:
            running = [(trial, made) for trial in asked if (made := _settings(study, trial, suggest)) is not None]
            if not running:
                continue
            trying = [trial for trial, _ in running]
            candidates = Candidates([made for _, made in running], shared, more)
            prune = partial(_prune, trying, wanted)
            found = search_candidates(candidates, x, y, prune=prune, progress=progress, **how, **options)
            if any(part.history.interrupted for part in found.parts):
                raise KeyboardInterrupt  # by Ctrl-C in a notebook
            for outcome in found.trials:
                _tell(study, trying[outcome["number"]], outcome)
        except BaseException as error:
            for trial in asked:
                if not study.get_trials(deepcopy=False)[trial.number].state.is_finished():
                    study.tell(trial, state=TrialState.FAIL)
            if not isinstance(error, DivergedError):  # of all of them
                raise


def _settings(study: Study, trial: Trial, suggest: Callable[[Trial], dict[str, Any]]) -> dict[str, Any] | None:
    try:
        made = suggest(trial)
    except TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
        return None
    if not isinstance(made, dict):
        raise InputError(f"suggest must return the settings of a trial, a dict, got {type(made).__name__} {made!r}.")
    return made


def _prune(trying: Sequence[Trial], wanted: StudyDirection, epoch: int, numbers: Array, scores: Array) -> Array:
    """Reports the scores of candidates, and asks which are to be pruned."""
    sign = -1 if wanted == StudyDirection.MAXIMIZE else 1
    pruned = np.zeros(len(numbers), bool)
    for place, (number, score) in enumerate(zip(numbers.tolist(), scores.tolist(), strict=True)):
        if np.isfinite(score):
            trying[number].report(sign * score, epoch)
            pruned[place] = trying[number].should_prune()
    return pruned


def _tell(study: Study, trial: Trial, outcome: dict[str, Any]) -> None:
    if outcome["diverged"]:
        study.tell(trial, state=TrialState.FAIL)
        return
    for name in ("epochs", "scores"):
        trial.set_user_attr(name, outcome[name])
    pruned = outcome["stopped"] is not None
    study.tell(trial, None if pruned else outcome["score"], TrialState.PRUNED if pruned else None)
