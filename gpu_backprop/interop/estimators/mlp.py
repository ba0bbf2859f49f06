"""MLPClassifier and MLPRegressor, with the parameters of scikit-learn 1.9's, and more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import xlogy
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import compute_class_weight, compute_sample_weight
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels

from gpu_backprop.backend.formula import Activation, Array
from gpu_backprop.backend.suggestions import explain_arguments
from gpu_backprop.interop.estimators.base import BaseMLP, is_stochastic, keep
from gpu_backprop.interop.estimators.options import OF_CLASSES, OF_NUMBERS, choose_loss
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.losses import CrossEntropy, Poisson
from gpu_backprop.network.own_losses import OwnLoss
from gpu_backprop.network.schedules import OwnSchedule, Schedule
from gpu_backprop.training.optimizer import Optimizer


def accuracy(target: Array, y: Array, weights: Array | None) -> float:
    """Returns the weighted share of the rows that are answered rightly, of several labels in all."""
    right = y.argmax(axis=1) == target if target.ndim == 1 else ((y > 0.5) == (target > 0.5)).all(axis=1)
    return float(np.average(right, weights=weights))


def r2(target: Array, y: Array, weights: Array | None) -> float:
    """Returns R² as scikit-learn has it, also where all targets are equal."""
    return float(r2_score(target, y, sample_weight=weights)) if np.isfinite(y).all() else float("nan")


class MLPClassifier(ClassifierMixin, BaseMLP):
    """scikit-learn's MLPClassifier, trained by this package: its parameters, defaults, attributes and behaviour, and
    what it does not have. The same random_state draws the same initial weights as there; the order of the rows is
    another.

    Args:
        hidden_layer_sizes: the units of each hidden layer; an integer is one layer, () is none.
        activation: of the hidden layers: "relu", "logistic" (sigmoid), "tanh", "identity" or any of gb.ACTIVATIONS, or
            an Activation; or a list with one for each layer.
        solver: "adam", "sgd", "lbfgs", any of gb.OPTIMIZERS such as "adamw", or an Optimizer, which then decides the
            learning rate, its schedule and all penalties by itself.
        alpha: the factor of the penalty ½ΣW², over the rows of a minibatch; with "adamw", its weight_decay.
        batch_size: rows of a minibatch; "auto" is min(200, samples).
        learning_rate: "constant"; "invscaling", learning_rate_init/(t_ + 1)^power_t, or "adaptive", a fifth each time
            that nothing has improved any more, both with solver="sgd" alone; or, with any solver, one of gb.SCHEDULES
            or a Schedule, over max_iter iterations.
        learning_rate_init, power_t, momentum, nesterovs_momentum, beta_1, beta_2, epsilon: of the solvers that have
            them.
        max_iter: the most iterations, which are epochs unless the solver is "lbfgs".
        max_fun: of "lbfgs", the most evaluations of the loss.
        shuffle: whether the rows have another order in each iteration.
        random_state: decides initial weights, the rows held out, the order of rows and dropout.
        tol: an iteration improves if the loss falls, or the score rises, by this.
        n_iter_no_change: training ends after more iterations than this without an improvement; math.inf: never.
        verbose: whether each iteration prints a line.
        warm_start: whether `fit` goes on from the parameters that there are.
        early_stopping: whether the score of held-out rows decides when training ends, and which parameters are kept:
            of a share of the rows, or those of `eval_set`.
        validation_fraction: that share.
        loss: "log_loss", which is cross entropy; "focal" or another of gb.LOSSES that suits, or a Loss such as
            gb.CrossEntropy(label_smoothing=0.1).
        dropout: the rate after each hidden layer, or a list with one for each.
        class_weight: {class: weight} or "balanced", as for scikit-learn's other classifiers.
        clip_norm, clip_value: as of `gb.Trainer`.
        callbacks: a list, as of `gb.Trainer.fit`.
        device: "auto", "cpu", "cuda" or "cuda:N".
        dtype: of the network; None: that of X, float32 or float64. float32 is the faster.

    Attributes:
        classes_, n_features_in_, feature_names_in_, n_outputs_, n_layers_, out_activation_: as in scikit-learn.
        coefs_, intercepts_: as in scikit-learn; on a CPU they are the network's own arrays.
        loss_, best_loss_, loss_curve_, n_iter_, t_: as in scikit-learn; with "lbfgs" there is a loss_curve_ too.
        validation_scores_, best_validation_score_: as in scikit-learn, and also with an `eval_set`.
        validation_loss_curve_: the loss of the validation data after each iteration; None where there are none.
        stopped_: why training ended before max_iter; "" if it did not.
        network_: the `gb.Network`, which `gb.save` writes.
        history_: the `gb.History` of the last fit.
    """

    _parameter_constraints = {  # noqa: RUF012
        **BaseMLP._parameter_constraints,
        "loss": [str, Loss],
        "class_weight": [StrOptions({"balanced"}), dict, list, None],
    }

    def __init__(
        self, hidden_layer_sizes: Any = (100,), activation: str | Activation | Sequence[str | Activation] = "relu", *,
        solver: str | Optimizer = "adam", alpha: float = 0.0001, batch_size: int | str = "auto",
        learning_rate: str | Schedule | OwnSchedule = "constant", learning_rate_init: float = 0.001,
        power_t: float = 0.5, max_iter: int = 200, shuffle: bool = True, random_state: Any = None, tol: float = 1e-4,
        verbose: bool | int = False, warm_start: bool = False, momentum: float = 0.9, nesterovs_momentum: bool = True,
        early_stopping: bool = False, validation_fraction: float = 0.1, beta_1: float = 0.9, beta_2: float = 0.999,
        epsilon: float = 1e-8, n_iter_no_change: float = 10, max_fun: int = 15000, loss: str | Loss = "log_loss",
        dropout: float | Sequence[float] = 0.0, class_weight: Mapping[Any, float] | str | None = None,
        clip_norm: float | None = None, clip_value: float | None = None, callbacks: Sequence[Any] | None = None,
        device: str = "auto", dtype: str | None = None,
    ) -> None:  # fmt: skip
        keep(self, locals())

    @available_if(is_stochastic)
    @explain_arguments
    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None, eval_set: Any = None
    ) -> MLPClassifier:  # fmt: skip
        """Goes through some rows once, from where the model is.

        Args:
            X, y, sample_weight, eval_set: as of `fit`. With early_stopping and an eval_set, the call after which the
                score has not improved for n_iter_no_change calls brings the best parameters back, and later ones
                learn nothing.
            classes: of the first call, all the labels that will come.
        """
        if isinstance(self.class_weight, str):
            raise ValueError(
                f"class_weight={self.class_weight!r} is not for partial_fit, which sees only some rows at a time: give "
                "{class: weight}, by sklearn.utils.class_weight.compute_class_weight of all of them."
            )
        if _check_partial_fit_first_call(self, classes):
            self._label_binarizer = LabelBinarizer()
            self._label_binarizer.fit(y if type_of_target(y).startswith("multilabel") else classes)
        self._fit(X, y, sample_weight, eval_set, incremental=True, classes=self.classes_)
        return self

    def _check_input(self, X: Any, y: Any, reset: bool, classes: Any = None) -> tuple[Any, Array]:
        X, y = self._check_arrays(X, y, reset)
        if classes is None and (reset or not hasattr(self, "classes_")):
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
        else:
            self._check_classes(unique_labels(y), classes)
        self._loss()  # for its errors
        if y.ndim == 2:
            return X, self._label_binarizer.transform(y).astype(X.dtype)
        labels = np.searchsorted(self.classes_, y)
        return X, labels if self._output[1] == "softmax" else labels.astype(X.dtype)[:, None]

    def _check_classes(self, found: Array, classes: Any) -> None:
        """Raises ValueError unless the labels that were found are of those that may come; None: are those of before."""
        if classes is not None:
            if len(np.setdiff1d(found, classes)):
                raise ValueError(
                    f"`y` has classes not in `self.classes_`. `self.classes_` has {classes}. 'y' has {found}."
                )
        elif set(found) != set(self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. Previously "
                f"got {self.classes_}, `y` has {found}"
            )

    @property
    def _output(self) -> tuple[int, str]:
        kind, classes = self._label_binarizer.y_type_, len(self.classes_)
        if kind == "multiclass":
            return classes, "softmax"
        return classes if kind.startswith("multilabel") else 1, "logistic"

    def _metric(self, weighted: bool) -> Any:
        return accuracy if weighted else "accuracy"  # counted where the loss is worked out, but without weights

    def _loss(self) -> Loss | None:
        loss, several = choose_loss(self.loss, OF_CLASSES), self._output[1] == "softmax"
        if isinstance(loss, CrossEntropy) and not several:
            return None
        if loss is not None and not (loss.labels if several else "sigmoid" in loss.needs):
            what = "several classes" if several else "two classes or several labels"
            raise ValueError(f"loss={self.loss!r} is none of {what}. Take one of {', '.join(OF_CLASSES)}.")
        return loss

    def _learned(self, y: Array) -> Array:
        """Of two classes, or of several labels, each is a yes or no: what cross entropy smooths among classes, these
        smooth between both."""
        if not isinstance(self.loss, CrossEntropy) or self._output[1] == "softmax":
            return y
        smoothing = np.asarray(self.loss.label_smoothing, y.dtype)
        smoothed: Array = y * (1 - smoothing) + smoothing / 2
        return smoothed

    def _row_weights(self, y: Array, sample_weight: Array | None) -> Array | None:
        if self.class_weight is None:
            return sample_weight
        labels = y if y.ndim == 2 and y.shape[1] > 1 else self.classes_[y.ravel().astype(int)]
        given = self.class_weight
        if isinstance(given, Mapping):  # of classes that need not all be among these rows
            of_class = compute_class_weight(given, classes=self.classes_, y=labels)
            weights: Array = of_class[np.searchsorted(self.classes_, labels)]
        else:
            weights = compute_sample_weight(given, labels)
        return weights if sample_weight is None else weights * sample_weight

    def _name_classes(self) -> None:
        classes = self.classes_.tolist()
        if self._output[1] == "softmax" and all(isinstance(one, str) or type(one) is int for one in classes):
            self.network_.classes = classes

    def predict(self, X: Any) -> Array:
        """Predicts the class of each row of X, (samples,), or 0 and 1 for each of several labels, (samples, labels)."""
        y = self._outputs(X)
        if self._label_binarizer.y_type_.startswith("multilabel"):
            labels: Array = self._label_binarizer.inverse_transform(y.ravel() if self.n_outputs_ == 1 else y)
            return labels
        chosen = y.argmax(axis=1) if self._output[1] == "softmax" else (y.ravel() > 0.5).astype(int)
        labels = self.classes_.take(chosen, mode="clip")  # of one class alone there is no other
        return labels

    def predict_proba(self, X: Any) -> Array:
        """Predicts probabilities, (samples, classes), in the order of classes_; of several labels, each by itself."""
        y = self._outputs(X)
        return np.hstack([1 - y, y]) if self.n_outputs_ == 1 else y

    def predict_log_proba(self, X: Any) -> Array:
        """Predicts the logarithms of the probabilities, (samples, classes)."""
        y = self.predict_proba(X)
        return np.log(y, out=y)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class MLPRegressor(RegressorMixin, BaseMLP):
    """scikit-learn's MLPRegressor, trained by this package: its parameters, defaults, attributes and behaviour, and
    what it does not have. See `MLPClassifier`, whose parameters and attributes it has but for those of classes.

    Args:
        loss: "squared_error", "poisson", whose outputs are exp(z); "absolute_error", "huber", "quantile" or another of
            gb.LOSSES that suits numbers, or a Loss such as gb.Quantile(0.9). As in scikit-learn, "squared_error" is
            half of it.
    """

    _parameter_constraints = {  # noqa: RUF012
        **BaseMLP._parameter_constraints,
        "loss": [str, Loss],
    }

    def __init__(
        self, loss: str | Loss = "squared_error", hidden_layer_sizes: Any = (100,),
        activation: str | Activation | Sequence[str | Activation] = "relu", *, solver: str | Optimizer = "adam",
        alpha: float = 0.0001, batch_size: int | str = "auto",
        learning_rate: str | Schedule | OwnSchedule = "constant", learning_rate_init: float = 0.001,
        power_t: float = 0.5, max_iter: int = 200, shuffle: bool = True, random_state: Any = None, tol: float = 1e-4,
        verbose: bool | int = False, warm_start: bool = False, momentum: float = 0.9, nesterovs_momentum: bool = True,
        early_stopping: bool = False, validation_fraction: float = 0.1, beta_1: float = 0.9, beta_2: float = 0.999,
        epsilon: float = 1e-8, n_iter_no_change: float = 10, max_fun: int = 15000,
        dropout: float | Sequence[float] = 0.0, clip_norm: float | None = None, clip_value: float | None = None,
        callbacks: Sequence[Any] | None = None, device: str = "auto", dtype: str | None = None,
    ) -> None:  # fmt: skip
        keep(self, locals())

    @available_if(is_stochastic)
    @explain_arguments
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, eval_set: Any = None) -> MLPRegressor:
        """Goes through some rows once, from where the model is.

        Args:
            X, y, sample_weight, eval_set: as of `MLPClassifier.partial_fit`.
        """
        self._fit(X, y, sample_weight, eval_set, incremental=True)
        return self

    def _metric(self, weighted: bool) -> Any:
        return r2

    def _check_input(self, X: Any, y: Any, reset: bool, classes: Any = None) -> tuple[Any, Array]:
        X, y = self._check_arrays(X, y, reset, y_numeric=True)
        self._columns = y.shape[1] if y.ndim == 2 else 1
        return X, y

    def _loss(self) -> Loss | None:
        loss = choose_loss(self.loss, OF_NUMBERS)
        if loss is not None and loss.needs and not isinstance(loss, (Poisson, OwnLoss)):
            raise ValueError(f"loss={self.loss!r} is one of classes. Take one of {', '.join(OF_NUMBERS)}.")
        return loss

    @property
    def _output(self) -> tuple[int, str]:
        loss = self._loss()
        return self._columns, loss.needs[0] if loss is not None and loss.needs else "identity"

    def _offset_of(self, y: Array, weights: Array | None) -> float:
        if not isinstance(self._loss(), Poisson):
            return 0.0
        return float(np.average(xlogy(y, y) - y, axis=0, weights=weights).mean())

    def predict(self, X: Any) -> Array:
        """Predicts numbers for the rows of X, (samples,) or, of several outputs, (samples, outputs)."""
        y = self._outputs(X)
        return y.ravel() if y.shape[1] == 1 else y
