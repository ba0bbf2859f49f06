"""PopulationSearchCV and cross_validate: scikit-learn's search and cross-validation, whose networks train side by
side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from numbers import Integral
from typing import Any

import numpy as np
import sklearn.model_selection
from sklearn.base import clone, is_classifier
from sklearn.model_selection import ParameterGrid, ParameterSampler, check_cv
from sklearn.model_selection._search import BaseSearchCV
from sklearn.utils import indexable
from sklearn.utils._param_validation import Interval, StrOptions

from gpu_backprop.backend.attributes import Explaining
from gpu_backprop.backend.suggestions import explain_arguments
from gpu_backprop.interop.estimators.base import keep
from gpu_backprop.interop.estimators.random_state import draw_seed
from gpu_backprop.interop.estimators.together import train_together, trained_ahead
from gpu_backprop.network.numbers import positive
from gpu_backprop.training.search_space import FACTOR, GRID, HALVING, STRATEGIES, list_candidates

SOBOL = "sobol"


class PopulationSearchCV(BaseSearchCV, metaclass=Explaining):
    """Searches the parameters of an estimator by cross-validation, as scikit-learn's GridSearchCV and its kin do, with
    the same results; but networks of the same shape, of all candidates and all folds, train side by side, in one pass.

    That is for `MLPClassifier` and `MLPRegressor` of this package, also as the last step of a Pipeline, whose other
    steps are fitted to each fold. hidden_layer_sizes, activation, whether there is dropout, solver, loss, batch_size,
    shuffle, early_stopping, device and dtype make the shape, and max_iter and the number of minibatches where the rate
    follows a schedule; shapes train one after the other, and so do the folds of a Pipeline. What has no other of its
    shape trains alone, and so do all other estimators, TabularClassifier among them, solver="lbfgs", warm_start,
    callbacks and sparse X.

    Args:
        estimator: what is searched.
        param_grid: by the names of parameters, lists of values; or, but for "grid", distributions as scipy.stats has;
            or a list of such mappings.
        strategy: "grid": all combinations. "random": n_iter of them, drawn as RandomizedSearchCV does. "sobol": n_iter
            that fill the space evenly (Sobol 1967, scrambled). "halving": all combinations, or n_iter drawn ones, each
            for a few iterations; the best third goes on with three times as many, as HalvingGridSearchCV does with
            resource="max_iter", and the last ones have max_iter (Jamieson and Talwalkar 2016).
        n_iter: how many candidates are drawn; 10 for "random" and "sobol" unless given.
        scoring, cv, refit, verbose, error_score, return_train_score: as of GridSearchCV.
        random_state: of what is drawn.

    Attributes:
        best_estimator_, best_params_, best_score_, best_index_: as of GridSearchCV.
        scorer_, n_splits_, refit_time_, multimetric_: as of GridSearchCV.
        cv_results_: as of GridSearchCV. A fit_time is the share of a candidate in the time of all that trained with
            it. With "halving" there are the columns iter and n_resources too, as in HalvingGridSearchCV.
    """

    n_jobs, pre_dispatch = 1, 1  # networks share the cores by themselves
    _parameter_constraints = {  # noqa: RUF012
        **BaseSearchCV._parameter_constraints,
        "param_grid": [dict, list],
        "strategy": [StrOptions({*STRATEGIES})],
        "n_iter": [Interval(Integral, 1, None, closed="left"), None],
        "random_state": ["random_state"],
    }

    def __init__(
        self, estimator: Any, param_grid: Any, *, strategy: str = GRID, n_iter: int | None = None, scoring: Any = None,
        cv: Any = None, refit: Any = True, random_state: Any = None, error_score: Any = np.nan,
        return_train_score: bool = False, verbose: int = 0,
    ) -> None:  # fmt: skip
        keep(self, locals())

    def fit(self, X: Any, y: Any = None, **params: Any) -> PopulationSearchCV:
        """Trains and scores all candidates, and the best one once more on all rows.

        Args:
            X, y: as the estimator's fit takes them.
            params: as GridSearchCV takes them: sample_weight, groups and what else estimator, splitter and scorer take.

        Returns:
            The search.
        """
        self._given: dict[str, Any] = {"X": X, "y": y}
        try:
            super().fit(X, y, **params)
        finally:
            del self._given
        return self

    def _get_routed_params_for_fit(self, params: Any) -> Any:
        self._given["routed"] = routed = super()._get_routed_params_for_fit(params)
        return routed

    def _run_search(self, evaluate_candidates: Any) -> None:
        (X, y), routed = indexable(self._given["X"], self._given["y"]), self._given["routed"]
        splits = [*self._checked_cv_orig.split(X, y, **routed.splitter.split)]
        given = self._given
        given["first"], given["seconds"] = 0, {}

        def evaluate(candidates: Sequence[Mapping[str, Any]], **more: Any) -> Any:
            fits = [(_with(self.estimator, one), train) for one in candidates for train, _ in splits]
            with trained_ahead(train_together(fits, X, y, routed.estimator.fit, given["seconds"])):
                return evaluate_candidates(candidates, check_cv(splits), more)

        candidates = self._candidates()
        if self.strategy == HALVING:
            self._halve(candidates, evaluate)
        else:
            evaluate(candidates)

    def _candidates(self) -> list[dict[str, Any]]:
        """Returns the parameters of all candidates."""
        if self.n_iter is None and self.strategy in (GRID, HALVING):
            return [*ParameterGrid(self.param_grid)]
        if self.strategy == GRID:
            raise ValueError(f"n_iter={self.n_iter} is for drawn candidates; a grid has all its combinations.")
        n_iter = self.n_iter or 10
        if self.strategy == SOBOL:
            return list_candidates(self.param_grid, SOBOL, n_iter, draw_seed(self.random_state))
        return [*ParameterSampler(self.param_grid, n_iter, random_state=self.random_state)]

    def _halve(self, candidates: Sequence[Mapping[str, Any]], evaluate: Callable[..., Any]) -> None:
        """Evaluates candidates with ever more iterations, of which each time the best third goes on."""
        most, column = self.estimator.get_params().get("max_iter"), f"mean_test_{self._get_scorers()[1]}"
        if most is None or any("max_iter" in one for one in candidates):
            raise ValueError("strategy='halving' sets max_iter, which the estimator must have and param_grid must not.")
        rungs = [rung for rung in range(len(candidates)) if FACTOR**rung <= len(candidates)]
        for rung in rungs:
            iterations = max(1, most // FACTOR ** (rungs[-1] - rung))
            candidates = [{**one, "max_iter": iterations} for one in candidates]
            count = len(candidates)
            results = evaluate(candidates, iter=[rung] * count, n_resources=[iterations] * count)
            if column not in results:
                raise ValueError("strategy='halving' goes by one score: of several, name one by refit.")
            best = np.argsort(-results[column][-count:], kind="stable")  # NaN come last
            candidates = [candidates[place] for place in best[: -(-count // FACTOR)]]

    def _format_results(self, candidate_params: Any, n_splits: int, out: Any, more_results: Any = None) -> Any:
        for place, seconds in self._given["seconds"].items():
            out[self._given["first"] + place]["fit_time"] = seconds
        self._given["first"] = len(out)
        self._given["seconds"].clear()
        return super()._format_results(candidate_params, n_splits, out, more_results)

    @staticmethod
    def _select_best_index(refit: Any, refit_metric: Any, results: Any) -> Any:
        best = BaseSearchCV._select_best_index(refit, refit_metric, results)
        if callable(refit) or "iter" not in results:
            return best
        last = np.flatnonzero(results["iter"] == results["iter"].max())
        return last[results[f"rank_test_{refit_metric}"][last].argmin()]


def _with(estimator: Any, parameters: Mapping[str, Any]) -> Any:
    """Returns an unfitted copy with other parameters."""
    return clone(estimator).set_params(**clone(parameters, safe=False))


@explain_arguments
def cross_validate(
    estimator: Any, X: Any, y: Any = None, *, cv: Any = None, seeds: int | Sequence[int] | None = None,
    scoring: Any = None, sample_weight: Any = None, groups: Any = None, return_train_score: bool = False,
    return_estimator: bool = False, error_score: Any = np.nan,
) -> dict[str, Any]:  # fmt: skip
    """Cross-validates an estimator, as scikit-learn's function of this name does, with several seeds; the networks of
    all folds and seeds train side by side, where `PopulationSearchCV` says that they can.

    Args:
        estimator, X, y, cv, scoring, groups, return_train_score, return_estimator, error_score: as there.
        seeds: random_state of the estimator, one after the other: a list of integers, or their number, from 0 on. None:
            its own.
        sample_weight: (rows,), given to the estimator's fit.

    Returns:
        test_score, fit_time, score_time and, as asked for, train_score and estimator, as there: arrays of one for each
        fold, of the first seed, then of the next; and seed and fold, which say of which.
    """
    chosen: Sequence[Any] = [None]
    if seeds is not None:
        count = positive("seeds", len(seeds) if isinstance(seeds, Sized) else seeds)
        chosen = seeds if isinstance(seeds, Sized) else range(count)
    X, y = indexable(X, y)
    splits = [*check_cv(cv, y, classifier=is_classifier(estimator)).split(X, y, groups)]
    names = [name for name in estimator.get_params() if name.split("__")[-1] == "random_state"]
    estimators = [_with(estimator, {} if seed is None else dict.fromkeys(names, seed)) for seed in chosen]
    params = {} if sample_weight is None else {"sample_weight": sample_weight}
    fits = [(clone(one), train) for one in estimators for train, _ in splits]
    seconds: dict[int, float] = {}
    with trained_ahead(train_together(fits, X, y, params, seconds)):
        parts = [
            sklearn.model_selection.cross_validate(
                one, X, y, cv=splits, scoring=scoring, params=params, return_train_score=return_train_score,
                return_estimator=return_estimator, error_score=error_score,
            )
            for one in estimators
        ]  # fmt: skip
    results = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    results["fit_time"][[*seconds]] = [*seconds.values()]
    return {
        "seed": np.repeat(np.array(chosen), len(splits)), "fold": np.tile(np.arange(len(splits)), len(estimators)),
        **results,
    }  # fmt: skip
