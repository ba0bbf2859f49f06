"""scikit-learn's rules for the iterations of its MLP: when they end, and how the learning rate changes."""

from __future__ import annotations

from typing import Any

from gpu_backprop.interop.estimators.options import ADAPTIVE, INVSCALING, RATES
from gpu_backprop.training.callbacks import FitState

SMALLEST_RATE = 1e-6
"""Below which an adaptive learning rate ends the training."""


class Iterations:
    """A callback which keeps the attributes of an estimator that tell how its training goes: n_iter_, t_, loss_,
    loss_curve_, best_loss_, validation_scores_, best_validation_score_ and validation_loss_curve_.

    Args:
        rows: how many an iteration learns from.
        score: the metric that early stopping goes by.
    """

    ends_last = True  # and so comes first: other callbacks find the attributes as they are after the iteration

    def __init__(self, estimator: Any, rows: int, score: str) -> None:
        self.estimator, self.rows, self.score = estimator, rows, f"val_{score}"
        self.sets_rate = estimator.solver == "sgd" and estimator.learning_rate in RATES

    def on_epoch(self, state: FitState) -> str:
        """Takes in what an epoch has measured; returns why it was the last, if it was."""
        assert state.row is not None
        return self.end_iteration(state.trainer, state.row)

    def end_iteration(self, trainer: Any, row: Any) -> str:
        """Does the same of a row that has a loss and, where there are validation data, val_loss and a score."""
        mlp = self.estimator
        mlp.n_iter_ += 1
        mlp.t_ += self.rows
        mlp.loss_ = mlp._reported(row["loss"])
        mlp.loss_curve_.append(mlp.loss_)
        if mlp.verbose:
            print(f"Iteration {mlp.n_iter_}, loss = {mlp.loss_:.8f}")
        improved = self._improved_by_loss()
        if self.score in row:
            by_score = self._improved_by_score(trainer.network, row)
            improved = by_score if mlp.early_stopping else improved
        mlp._no_improvement_count = 0 if improved else mlp._no_improvement_count + 1
        if mlp.solver == "sgd" and mlp.learning_rate == INVSCALING:
            trainer.optimizer.learning_rate = mlp.learning_rate_init / (mlp.t_ + 1) ** mlp.power_t
        if mlp._no_improvement_count > mlp.n_iter_no_change:
            self._end_or_slow_down(trainer)
        return str(mlp.stopped_)

    def _improved_by_loss(self) -> bool:
        mlp = self.estimator
        if mlp.early_stopping:
            return False
        improved = not mlp.loss_ > mlp.best_loss_ - mlp.tol
        mlp.best_loss_ = min(mlp.best_loss_, mlp.loss_)
        return improved

    def _improved_by_score(self, network: Any, row: Any) -> bool:
        mlp, score = self.estimator, float(row[self.score])
        mlp.validation_scores_.append(score)
        mlp.validation_loss_curve_.append(row["val_loss"])
        if mlp.verbose:
            print(f"Validation score: {score:.6f}")
        improved = not score < mlp.best_validation_score_ + mlp.tol
        if score > mlp.best_validation_score_:
            mlp.best_validation_score_ = score
            if mlp.early_stopping:
                mlp._best = network.parameters.copy()
        return improved

    def _end_or_slow_down(self, trainer: Any) -> None:
        mlp = self.estimator
        what = "Validation score" if mlp.early_stopping else "Training loss"
        message = f"{what} did not improve more than tol={mlp.tol:f} for {mlp.n_iter_no_change} consecutive epochs."
        if mlp.solver != "sgd" or mlp.learning_rate != ADAPTIVE:
            mlp.stopped_ = f"{message} Stopping."
        elif trainer.optimizer.learning_rate <= SMALLEST_RATE:
            mlp.stopped_ = f"{message} Learning rate too small. Stopping."
        else:
            trainer.optimizer.learning_rate /= 5
            mlp._no_improvement_count = 0
        if mlp.verbose:
            print(mlp.stopped_ or f"{message} Setting learning rate to {trainer.optimizer.learning_rate:f}")
