"""What MLPClassifier and MLPRegressor have in common: scikit-learn's way in and out, with a Trainer between."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from sklearn import get_config
from sklearn.base import is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import _safe_indexing, check_random_state, column_or_1d
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from gpu_backprop.backend.attributes import Explaining
from gpu_backprop.backend.errors import DivergedError, InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.suggestions import explain_arguments
from gpu_backprop.interop.estimators.iterations import Iterations
from gpu_backprop.interop.estimators.options import (
    CONSTRAINTS,
    LBFGS,
    NAMED_ACTIVATIONS,
    RATES,
    divisor,
    hidden_layers,
    make_optimizer,
)
from gpu_backprop.interop.estimators.parameters import ShownParameters
from gpu_backprop.interop.estimators.random_state import draw_seed
from gpu_backprop.network.layers import Dense
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.network import Network
from gpu_backprop.training.full_batch import fit_lbfgs
from gpu_backprop.training.trainer import Trainer

MOST_ROWS = 200
"""Of a minibatch, where batch_size is "auto"."""

FLOATS = np.float64, np.float32
"""What X may be where no dtype is asked for; anything else becomes the first."""

OF_FIT = "validation=(x, y) or validation_split=0.1"
"""What errors of `Trainer.fit` tell to give, and an estimator's fit has otherwise."""

AHEAD: ContextVar[Any] = ContextVar("ahead", default=None)
"""What the next calls of `fit` come to, each trained together with others, see together.py; None: it trains alone."""

NON_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and need to be preprocessed."
)


def keep(estimator: Any, parameters: Mapping[str, Any]) -> None:
    """Sets what a constructor was given, as it is: scikit-learn clones an estimator by that."""
    vars(estimator).update({name: value for name, value in parameters.items() if name != "self"})


def unpack_eval_set(eval_set: Any) -> Sequence[Any]:
    """Returns (X, y) or (X, y, sample_weight); of others' lists of such, the only one."""
    if isinstance(eval_set, list) and len(eval_set) == 1:
        (eval_set,) = eval_set
    of = [type(one) for one in eval_set] if isinstance(eval_set, (tuple, list)) else []
    if len(of) not in (2, 3) or tuple in of:
        given = f"a {type(eval_set).__name__}" + (f" of {', '.join(one.__name__ for one in of)}" if of else "")
        raise ValueError(f"eval_set must be (X, y) or (X, y, sample_weight), got {given}.")
    return tuple(eval_set)


def is_stochastic(estimator: Any) -> bool:
    """Tells whether an estimator has a partial_fit; else, why it has none."""
    if estimator.solver == LBFGS:
        raise AttributeError("partial_fit is only available for stochastic optimizers. lbfgs is not stochastic.")
    return True


class Training(NamedTuple):
    """What an estimator learns from, as its trainer takes it.

    Attributes:
        X, y, weights: of the rows to learn from.
        held_out: (X, y) or (X, y, weights), which are only measured; None: there are none.
        places: where the rows to learn from, and those held out, are among those that `fit` was given; None: it learns
            from all of them.
        batch: rows of a minibatch.
        penalty: alpha over these rows.
    """

    X: Any
    y: Array
    weights: Array | None
    held_out: Any
    places: tuple[Array, Array] | None
    batch: int
    penalty: float


class BaseMLP(ShownParameters, metaclass=Explaining):
    """The base of both; the parameters of a subclass are set by its constructor."""

    _parameter_constraints: dict[str, Any] = {**CONSTRAINTS}  # noqa: RUF012 (as scikit-learn has it)

    # What differs -----------------------------------------------------------------------------------------------------

    _best: Any = None  # the parameters of the best score

    @abstractmethod
    def _metric(self, weighted: bool) -> Any:
        """Returns what early stopping goes by: a metric, as `Trainer` takes it, of rows with weights or without."""

    @abstractmethod
    def _check_input(self, X: Any, y: Any, reset: bool, classes: Any = None) -> tuple[Any, Array]:
        """Checks X and y by scikit-learn's rules, and returns y as `Trainer.fit` takes it.

        Args:
            reset: whether the features are those that come; else they have to be those that came before.
            classes: to which of all labels y may belong; None: those of y are all.
        """

    @abstractmethod
    def _loss(self) -> Loss | None:
        """Returns the loss, as `Trainer` takes it."""

    @property
    @abstractmethod
    def _output(self) -> tuple[int, str]:
        """How many outputs there are, and their activation."""

    def _row_weights(self, y: Array, sample_weight: Array | None) -> Array | None:
        """Returns the weights of the rows to learn from."""
        return sample_weight

    def _learned(self, y: Array) -> Array:
        """Returns the targets that are learned in the place of y."""
        return y

    def _offset_of(self, y: Array, weights: Array | None) -> float:
        """Returns what scikit-learn's loss is more than ours, whatever the outputs are."""
        return 0.0

    # Training ---------------------------------------------------------------------------------------------------------

    @explain_arguments
    def fit(self, X: Any, y: Any, sample_weight: Any = None, eval_set: Any = None) -> Any:
        """Fits the model.

        Args:
            X: (samples, features): an array, a data frame of numbers or a sparse matrix.
            y: (samples,) or (samples, outputs): class labels, rows of 0 and 1 for several labels, or numbers.
            sample_weight: (samples,), how much each counts.
            eval_set: (X, y) or (X, y, sample_weight) that is only measured, after every iteration, and that
                early_stopping then goes by, in place of a share of the training data.

        Returns:
            The estimator.

        Raises:
            ValueError: the data cannot be learned from, or a parameter is not what is accepted.
        """
        ahead = AHEAD.get()
        trained = None if ahead is None or eval_set is not None else ahead.take(self, X, y, sample_weight)
        if trained is None:
            return self._fit(X, y, sample_weight, eval_set, incremental=False)
        if isinstance(trained.result, Exception):
            raise trained.result
        self.__dict__.update(vars(trained.result))
        return self

    def _fit(self, X: Any, y: Any, sample_weight: Any, eval_set: Any, incremental: bool, classes: Any = None) -> Any:
        training = self._prepare(X, y, sample_weight, eval_set, incremental, classes)
        if training is None:
            return self
        if self.solver == LBFGS:
            self._fit_full_batch(training)
        elif incremental:
            self._go_through(training)
        else:
            self._fit_minibatches(training)
        return self._finish(incremental)

    def _prepare(
        self, X: Any, y: Any, sample_weight: Any = None, eval_set: Any = None, incremental: bool = False,
        classes: Any = None,
    ) -> Training | None:  # fmt: skip
        """Checks all that was given, and makes the trainer; None: there is nothing more to learn."""
        goes_on = incremental and hasattr(self, "_trainer")
        if not goes_on and not get_config()["skip_parameter_validation"]:
            self._validate_params()
            self._refuse_of_lbfgs()
        sizes = np.atleast_1d(np.asarray(self.hidden_layer_sizes)).tolist()
        if not all(isinstance(size, int) for size in sizes):
            raise TypeError(f"hidden_layer_sizes must be integers, got {sizes}.")
        if any(size <= 0 for size in sizes):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
        if incremental and self.early_stopping and eval_set is None:
            raise ValueError(
                "partial_fit does not support early_stopping=True, unless it is given validation data: eval_set=(X, y)."
            )
        first = not hasattr(self, "coefs_") or (not self.warm_start and not incremental)
        X, y = self._check_input(X, y, first, classes)
        self.n_outputs_, self.out_activation_ = self._output
        weights = None if sample_weight is None else _check_weights(sample_weight, X)
        held_out: Any = None if eval_set is None else self._check_eval_set(eval_set)
        if incremental and self.learning_rate not in (*RATES, "constant"):
            raise ValueError(
                "a schedule goes over the max_iter iterations of fit, and partial_fit is one of nobody knows how many: "
                "leave learning_rate out, and set learning_rate_init between the calls."
            )
        if goes_on and self.early_stopping and self.stopped_:
            return None
        self._random_state = check_random_state(self.random_state)
        units = [X.shape[1], *sizes, self.n_outputs_]
        if first:
            self._begin(units)
        elif units != (learned := [*map(len, self.coefs_), self.coefs_[-1].shape[1]]):
            raise ValueError(
                f"coefs_ are those of layers of {learned} units, but hidden_layer_sizes and the data ask for {units}. "
                "Go on with the layers that there are, or begin anew: fit with warm_start=False."
            )
        places = None
        if self.early_stopping and held_out is None and self.solver != LBFGS:
            places = self._hold_out(y)
            given = [one for one in (X, y, weights) if one is not None]
            (X, y, *rest), held_out = ([_safe_indexing(one, rows) for one in given] for rows in places)
            weights = rest[0] if rest else None
        y, weights = self._learned(y), self._row_weights(y, weights)
        batch = self._rows_of_a_batch(X.shape[0])
        together = X.shape[0] if self.solver == LBFGS else batch
        penalty = self.alpha / (together * (1.0 if weights is None else float(weights.mean()) or 1.0))
        if not goes_on:
            self._make_trainer(X, sizes, batch, penalty)
        self._adopt_parameters()
        self._offset = self._offset_of(y, weights)
        self._begin_scores(held_out)
        return Training(X, y, weights, held_out, places, batch, penalty)

    def _finish(self, incremental: bool = False) -> Any:
        """Keeps the parameters that are to be kept, and shows them."""
        if self._best is not None and self.early_stopping and (self.stopped_ or not incremental):
            self.network_.parameters = self._best
        self._show_parameters()
        if not np.isfinite(self.network_.device.to_host(self.network_.parameters)).all():
            raise ValueError(NON_FINITE)
        return self

    def _refuse_of_lbfgs(self) -> None:
        """Raises ValueError for what only the steps of other solvers know."""
        steps = {name: bool(getattr(self, name)) for name in ("callbacks", "clip_norm", "clip_value", "dropout")}
        steps["learning_rate"] = self.learning_rate not in (*RATES, "constant")  # these scikit-learn lets pass
        for name, given in steps.items():
            if self.solver == LBFGS and given:
                raise ValueError(f"{name} is for steps on minibatches, which solver='lbfgs' has none of. Leave it out.")

    def _begin(self, units: list[int]) -> None:
        """Draws the parameters, as scikit-learn draws them, and sets all else to what it is at the beginning."""
        self.n_iter_ = self.t_ = self._no_improvement_count = 0
        self.n_layers_ = len(units)
        self.coefs_, self.intercepts_ = [], []
        for inputs, outputs in pairwise(units):
            bound = math.sqrt((2.0 if self.activation == "logistic" else 6.0) / (inputs + outputs))
            self.coefs_.append(self._random_state.uniform(-bound, bound, (inputs, outputs)))
            self.intercepts_.append(self._random_state.uniform(-bound, bound, outputs))
        self.loss_curve_: list[float] = []
        self.best_loss_ = None if self.early_stopping else math.inf
        self.validation_scores_: list[float] | None = None
        self.validation_loss_curve_: list[float] | None = None
        self.best_validation_score_: float | None = None
        self._best = None

    def _begin_scores(self, held_out: Any) -> None:
        self.n_iter_, self.stopped_ = 0, ""
        metrics = [self._metric(held_out is not None and len(held_out) == 3)]
        if metrics != list(self._trainer.metrics or ()):  # checking them is a tenth of a partial_fit
            self._trainer.metrics = metrics
        if held_out is not None and getattr(self, "validation_scores_", None) is None:
            self.validation_scores_, self.validation_loss_curve_ = [], []
            self.best_validation_score_ = -math.inf

    def _make_trainer(self, X: Any, sizes: list[int], batch: int, penalty: float) -> None:
        layers = hidden_layers(sizes, self.activation, self.dropout)
        layers.append(Dense(self.n_outputs_, NAMED_ACTIVATIONS[self.out_activation_]))
        dtype, seed = self.dtype or X.dtype.name, draw_seed(self._random_state)
        network = Network(X.shape[1], layers, dtype=dtype, device=self.device, seed=seed, draw=False)
        solver = "sgd" if self.solver == LBFGS else make_optimizer(self, penalty)
        self._trainer = Trainer(
            network, self._loss(), solver, batch_size=batch, clip_norm=self.clip_norm,
            clip_value=self.clip_value,
        )  # fmt: skip
        self.network_, self._optimizer, self.history_ = network, self._trainer.optimizer, self._trainer.history
        self._name_classes()
        self._shown = []

    def _name_classes(self) -> None:
        """Tells the network what its outputs stand for."""

    def _rows_of_a_batch(self, rows: int) -> int:
        if isinstance(self.batch_size, str):
            return min(MOST_ROWS, rows)
        if self.batch_size > rows and self.solver != LBFGS:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=6
            )
        return int(min(self.batch_size, rows))

    def _check_arrays(self, X: Any, y: Any, reset: bool, **how: bool) -> tuple[Any, Any]:
        """Checks X and y by scikit-learn's rules, `how` being validate_data's; a y of one column becomes (samples,)."""
        dtype = self.dtype if self.dtype in ("float32", "float64") else FLOATS
        X, y = validate_data(self, X, y, accept_sparse="csr", multi_output=True, dtype=dtype, reset=reset, **how)
        return X, column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y

    def _check_eval_set(self, eval_set: Any) -> tuple[Any, ...]:
        X, y, *weights = unpack_eval_set(eval_set)
        X, y = self._check_input(X, y, False, getattr(self, "classes_", None))
        expected = 1 if self.out_activation_ == "softmax" else self.n_outputs_
        if (given := y.shape[1] if y.ndim == 2 else 1) != expected:
            raise ValueError(f"y of eval_set has {given} columns, but that of the training data has {expected}.")
        return X, y, *(_check_weights(one, X) for one in weights if one is not None)

    def _hold_out(self, y: Array) -> tuple[Array, Array]:
        """Splits rows off as scikit-learn does; returns where the others are, and these."""
        stratify = y.astype(bool) if is_classifier(self) and self.n_outputs_ == 1 else None
        learned, held_out = train_test_split(
            np.arange(len(y)), random_state=self._random_state, test_size=self.validation_fraction, stratify=stratify
        )
        if len(held_out) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        return learned, held_out

    def _fit_minibatches(self, of: Training) -> None:
        """Lets the trainer run the epochs."""
        interrupted, diverged = False, None
        try:
            with scaled_by_others():
                history = self._trainer.fit(
                    of.X, of.y, self.max_iter, weights=of.weights, validation=of.held_out, shuffle=self.shuffle,
                    progress=False, callbacks=[*(self.callbacks or ()), self._rules(of.X)],
                )  # fmt: skip
            interrupted = history.interrupted
        except KeyboardInterrupt:
            interrupted = True
        except InputError as error:
            raise InputError(str(error).replace(OF_FIT, "eval_set=(X, y)")) from None
        except DivergedError as error:
            diverged = error
        self._end_iterations(interrupted, diverged)

    def _end_iterations(self, interrupted: bool = False, diverged: DivergedError | None = None) -> None:
        """Says how the iterations have ended, where it was not well."""
        if diverged is not None:
            if not self.early_stopping:
                raise ValueError(f"{NON_FINITE} {diverged}") from diverged
            assert self.validation_scores_ is not None
            self.validation_scores_.append(math.nan)
            self.stopped_ = str(diverged)
            warnings.warn(f"Training ended early, and the best parameters are kept: {diverged}", ConvergenceWarning, 6)
        if interrupted:
            warnings.warn("Training interrupted by user.", stacklevel=6)
        elif self.n_iter_ == self.max_iter and not self.stopped_:
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the optimization hasn't "
                "converged yet.", ConvergenceWarning, stacklevel=6,
            )  # fmt: skip

    def _go_through(self, of: Training) -> None:
        """Takes a step on each minibatch, once: what `Trainer.fit` prepares for many epochs would be more work."""
        X, y, weights, held_out, _, batch, penalty = of
        trainer, rows, rate = self._trainer, X.shape[0], self.learning_rate_init
        if isinstance(self.solver, str):
            if trainer.optimizer.settings.get("l2", penalty) != penalty:
                trainer.optimizer.l2 = penalty
            if self.learning_rate == "constant" and trainer.optimizer.settings["learning_rate"] != rate:
                trainer.optimizer.learning_rate = rate
        order = self._random_state.permutation(rows) if self.shuffle else np.arange(rows)
        losses = []
        for start in range(0, rows, batch):
            chosen = order[start : start + batch]
            losses.append(trainer.step(X[chosen], y[chosen], None if weights is None else weights[chosen]))
        counts = [min(batch, rows - start) for start in range(0, rows, batch)]
        row = {"loss": float(np.dot([float(loss) for loss in losses], counts)) / rows}
        if held_out is not None:
            row |= {f"val_{name}": value for name, value in trainer.evaluate(*held_out).items()}
        self._rules(X).end_iteration(trainer, row)

    def _rules(self, X: Any) -> Iterations:
        return Iterations(self, X.shape[0], self._score)

    @property
    def _score(self) -> str:
        """The name of the metric that early stopping goes by."""
        (metric,) = self._trainer.metrics or ()
        return metric if isinstance(metric, str) else metric.__name__

    def _fit_full_batch(self, of: Training) -> None:
        X, y, weights, held_out, _, _, penalty = of
        trainer = self._trainer
        patience = self.n_iter_no_change if self.early_stopping and held_out is not None else None
        try:
            with scaled_by_others():
                self.history_ = history = fit_lbfgs(
                    self.network_, X, y, trainer.loss, iterations=self.max_iter, evaluations=self.max_fun, l2=penalty,
                    tolerance=self.tol, weights=weights, validation=held_out, patience=patience, progress=False,
                    metrics=trainer.metrics,
                )  # fmt: skip
        except DivergedError as error:
            raise ValueError(f"{NON_FINITE} {error}") from error
        self.n_iter_, self.stopped_ = len(history), history.stopped or ""
        if held_out is not None:
            assert self.validation_loss_curve_ is not None and self.validation_scores_ is not None
            self.validation_loss_curve_ += history["val_loss"]
            self.validation_scores_ += history[f"val_{self._score}"]
            self.best_validation_score_ = max(self.validation_scores_, default=None)
        losses = history["loss"] or [trainer.evaluate(X, y, weights)["loss"]]
        self.loss_curve_ += [self._reported(loss) for loss in losses]
        self.loss_ = self.loss_curve_[-1] + penalty / 2 * self._sum_of_squares()
        if not self.stopped_.startswith(("converged", "val_loss")):
            why = self.stopped_ or "the limit of max_iter iterations or max_fun evaluations was reached"
            warnings.warn(
                f"lbfgs failed to converge after {self.n_iter_} iteration(s): {why}. Increase max_iter or max_fun, or "
                "scale the data.", ConvergenceWarning, stacklevel=5,
            )  # fmt: skip

    def _reported(self, loss: float) -> float:
        """Returns a loss of ours as scikit-learn reports it, with its penalty."""
        of_data = loss / divisor(self._trainer.loss, self.n_outputs_) + self._offset
        l2 = self._trainer.optimizer.settings.get("l2", 0.0)
        return of_data + l2 / 2 * self._sum_of_squares() if l2 else of_data

    def _sum_of_squares(self) -> float:
        with np.errstate(over="ignore"):  # of what diverges, which is told
            return sum(float(w.ravel() @ w.ravel()) for w in (layer.weight for layer in self._dense))

    # Prediction -------------------------------------------------------------------------------------------------------

    def _outputs(self, X: Any) -> Array:
        check_is_fitted(self, "network_")
        X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        self._adopt_parameters()
        return self.network_.predict(X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _check_weights(weights: Any, X: Any) -> Array:
    checked: Array = _check_sample_weight(weights, X, ensure_non_negative=True)
    return checked


@contextmanager
def scaled_by_others() -> Iterator[None]:
    """Keeps the warning of columns that nobody has scaled from who has a pipeline for that, as scikit-learn does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* is not scaled", RuntimeWarning)
        yield
