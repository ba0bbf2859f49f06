"""TabularClassifier and TabularRegressor: raw data frames in, names of classes or numbers in their units out.

Inside they do what `gpu-backprop train` does: a preprocessing, a recipe, early stopping on validation rows,
calibration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import assert_all_finite, check_array, check_consistent_length, column_or_1d
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, _num_samples, check_is_fitted, validate_data

from gpu_backprop import recipes
from gpu_backprop.backend.attributes import Explaining
from gpu_backprop.backend.errors import InputError, StateError, named
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.suggestions import explain_arguments
from gpu_backprop.data import Preprocessing, Table
from gpu_backprop.data.frames import is_frame
from gpu_backprop.interop.estimators.base import keep, unpack_eval_set
from gpu_backprop.interop.estimators.options import CONSTRAINTS
from gpu_backprop.interop.estimators.own_formulas import with_formulas, without_formulas
from gpu_backprop.interop.estimators.random_state import draw_seed
from gpu_backprop.interop.estimators.tables import in_words_of_x, leave_out_empty, read_rows, refuse_dates
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.losses import LOSSES
from gpu_backprop.recipes import Recipe
from gpu_backprop.training.calibration import ConformalIntervals, predicts_numbers
from gpu_backprop.training.metrics import Given

OWN_ENTRIES = {"epochs": "epochs", "validation_fraction": "validation"}
"""The parameters that are entries of a recipe, by their names there."""


class Tabular(BaseEstimator, metaclass=Explaining):
    """What both estimators do; they differ in their targets."""

    task: ClassVar[str]
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "recipe": [StrOptions({"auto", *recipes.RECIPES}), Recipe],
        "settings": [Mapping, None],
        "ensemble": [Interval(Integral, 1, None, closed="left"), None],
        "epochs": [Interval(Integral, 1, None, closed="left"), None],
        "validation_fraction": [Interval(Real, 0, 1, closed="left"), None],
        "metrics": [list, tuple, None],
        **{name: CONSTRAINTS[name] for name in ("callbacks", "device", "random_state", "verbose")},
        "dtype": [StrOptions({"float32", "float64", "float16", "bfloat16"})],
    }

    @explain_arguments
    def fit(self, X: Any, y: Any, sample_weight: Any = None, eval_set: Any = None) -> Self:
        """Fits the preprocessing to all rows, and trains.

        Args:
            X: (rows, columns): a data frame (pandas, polars or pyarrow), whose columns may be numbers, texts,
                categories, truth values, dates and times, with missing values among them; or an array, of numbers or
                of all these.
            y: (rows,), none missing. The name that a Series has is that of the target in a model file.
            sample_weight: (rows,), ≥ 0: how much each row counts in training, not in the preprocessing. None: alike.
            eval_set: (X, y) or (X, y, sample_weight), the rows that the best epoch is measured on. None: a share of the
                others.

        Returns:
            The estimator.

        Raises:
            ValueError: the data cannot be learned from, or a parameter is not what is accepted. Nor can a y that is
                the same in every row, one class or one number, which scikit-learn's MLPs fit: there is nothing to
                tell apart, and no scale to measure errors by.
            TypeError: y of a regression holds dates or durations.

        Warns:
            UserWarning: columns of X have no value in any row; they are left out, also of what predict is given.
        """
        self._validate_params()
        X = self._checked_x(X, reset=True, y=y)
        check_consistent_length(X, y)
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        rows, members = _num_samples(X), self._members(eval_set)
        recipe, (output, loss) = self._choose_recipe(rows, eval_set), self._output_and_loss()
        checked = self._checked(y)
        data = read_rows(X, None, checked, getattr(y, "name", None))
        names: list[Any] = [*data.columns] if isinstance(data, Table) else [None]
        self._columns, column = names[:-1], names[-1]
        with in_words_of_x(column):
            data, ignored = leave_out_empty(data, self._columns)
            preprocessing = Preprocessing.fit(
                data, column, task=self.task, encoding=recipe.encoding, ignore=ignored,
                impute=dataclasses.replace(recipe.encoding, indicator=True).imputing(None),
                standardise_target=recipes.any_number(output, loss),
            )  # fmt: skip
            x, target = preprocessing.transform(data), preprocessing.targets(data)
            self._learn_classes(checked, target)
            net = recipe.make_prepared_network(
                preprocessing, x, output=output, seed=draw_seed(self.random_state), members=members, dtype=self.dtype,
                device=self.device,
            )  # fmt: skip
            trainer = recipe.make_trainer(net, rows, loss=loss, folds=members, metrics=self.metrics or ())
            how = recipe.fit_options(rows, members, self._validation(preprocessing, eval_set))
            how["callbacks"] += self.callbacks or ()
            if "early_stopping" in how and predicts_numbers(net, trainer.loss):
                how["callbacks"].append(ConformalIntervals())
            how["class_weight"] = self._class_weights(net.classes)
            trainer.fit(x, target, weights=weights, progress=bool(self.verbose), **how)
        self.recipe_, self.network_, self.history_ = recipe, net, trainer.history
        self.n_iter_ = len(self.history_)
        return self

    def _members(self, eval_set: Any) -> int | None:
        """Returns how many members an ensemble has; None where there is one network."""
        if self.ensemble in (None, 1):
            return None
        validated = {
            "eval_set": eval_set, "validation_fraction": self.validation_fraction,
            "settings={'validation': …}": (self.settings or {}).get("validation"),
        }  # fmt: skip
        if found := [name for name, value in validated.items() if value is not None]:
            raise InputError(f"{found[0]}: the members of an ensemble are validated on a fold each; leave it out.")
        return int(self.ensemble)

    def _choose_recipe(self, rows: int, eval_set: Any) -> Recipe:
        """Returns the recipe for so many rows, with the entries that the parameters ask for."""
        recipe, columns = self.recipe, self.n_features_in_
        if not isinstance(recipe, Recipe):
            name = recipes.choose(False, rows, columns) if recipe == "auto" else recipe
            recipe = recipes.RECIPES[name](self.task, rows, columns)
        own, of_encoding = recipes.divide_entries(self.settings or {})
        for parameter, entry in OWN_ENTRIES.items():
            if (value := getattr(self, parameter)) is not None and own.setdefault(entry, value) != value:
                raise InputError(
                    f"{parameter}={value!r} and settings={{{entry!r}: {own[entry]!r}}} contradict each other; leave "
                    "one of them out."
                )
        if eval_set is not None:
            if own.get("validation"):
                raise InputError("eval_set and a share of validation rows were both given; leave one of them out.")
            own["validation"] = 0.0
        return recipe.override({**own, "encoding": dataclasses.replace(recipe.encoding, **of_encoding)})

    def _validation(self, preprocessing: Preprocessing, eval_set: Any) -> tuple[Array, ...] | None:
        """Returns x and y, and maybe weights, of the rows that were given for the best epoch."""
        if eval_set is None:
            return None
        X, y, *weights = unpack_eval_set(eval_set)
        X = self._checked_x(X)
        check_consistent_length(X, y)
        data = read_rows(X, self._columns, self._checked(y), preprocessing.target, "eval_set")
        weights = [_check_sample_weight(one, X, ensure_non_negative=True) for one in weights if one is not None]
        return preprocessing.transform(data), preprocessing.targets(data), *weights

    def _prepare(self, X: Any) -> Array:
        """Returns x, what the network reads, of rows like those of fit."""
        check_is_fitted(self, "network_")
        preprocessing: Preprocessing = self.network_.preprocessing
        X = self._checked_x(X)
        with in_words_of_x(preprocessing.target):
            return preprocessing.transform(read_rows(X, self._columns))

    def _checked_x(self, X: Any, reset: bool = False, **target: Any) -> Any:
        """Returns a data frame as it is, and anything else as an array; `reset`: they are the columns to be learned."""
        if type(X) is dict:
            raise InputError("X is a dict; make a data frame of it, such as pandas.DataFrame(X).")
        fewest = 2 if reset else 1
        if isinstance(X, Mapping) or not is_frame(X):  # some sparse matrices are mappings, too
            if hasattr(X, "collect"):
                raise InputError(f"X is a {type(X).__name__}, which has no rows yet; give X.collect().")
            if isinstance(X, (list, tuple)) and np.asarray(X).dtype.kind == "U":
                X = np.array(X, object)  # else its numbers would be texts, too
            X = check_array(X, dtype=None, ensure_all_finite="allow-nan", ensure_min_samples=fewest, estimator=self)
        elif (rows := _num_samples(X)) < fewest:
            raise ValueError(
                f"Found array with {rows} sample(s) (shape={X.shape}) while a minimum of {fewest} is required by "
                f"{type(self).__name__}."
            )
        validate_data(self, X, **target, reset=reset, skip_check_array=True)
        return X

    def _checked(self, y: Any) -> Array:
        """Returns y as an array, where it is what is accepted."""
        raise NotImplementedError

    def _output_and_loss(self) -> tuple[str | None, Loss | None]:
        """Returns the activation of the output layer and the loss, each None where the usual one is meant."""
        return None, None

    def _learn_classes(self, y: Array, labels: Array) -> None:
        """Keeps the classes of y, where there are any, by label."""

    def _class_weights(self, names: Sequence[str | int] | None) -> Any:
        """Returns the weights of the classes that the network has under these names."""
        return None

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.string = tags.input_tags.categorical = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        return with_formulas(dict(super().__getstate__()))

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(without_formulas(state))


class TabularClassifier(ClassifierMixin, Tabular):
    """A classifier for tables as they are: a data frame with texts, categories, dates and missing values in, the names
    of classes and their calibrated probabilities out. It does what `gpu-backprop train` does.

        model = gb.TabularClassifier(random_state=0).fit(frame, species)
        model.predict(others), model.predict_proba(others)
        gb.save("species.safetensors", model.network_)  # with the preprocessing, for gb.load and gpu-backprop predict

    A text that no training row had is one of the rare categories, or none; `model.network_.preprocessing.unseen` counts
    them. Columns have the names and the order that they had in fit; one without any value there is left out, with a
    warning.

    Args:
        recipe: "auto": what suits the number of rows and columns; the name of one, "tabular", "small-table", "images"
            or "plain"; or a `gb.recipes.Recipe`.
        settings: other entries of the recipe and of its encoding, as `Recipe` and `gpu_backprop.data.Encoding` list
            them: {"dropout": 0.3, "layers": (64,), "dates": False}.
        ensemble: of so many networks, 2 or more, each holds out another fold of the rows, and the mean of their
            probabilities is the answer; they train side by side. 1 or None: one network.
        epochs: at most; None: as many as the recipe has.
        validation_fraction: the share of the rows that the best epoch and the temperature of the probabilities are
            found by, and which are not trained on; 0: none. None: the recipe's, where that is 10 rows or more.
        class_weight: {class: weight}, "balanced" or None, as in scikit-learn.
        metrics: what `history_` has besides, as `gb.Trainer` takes it.
        callbacks: as `Trainer.fit` takes them.
        device: "auto", "cpu", "cuda" or "cuda:N".
        dtype: of the network: "float32" or "float64"; "float16" and "bfloat16" on CUDA only.
        random_state: an integer for the same network each time, bit for bit on the same machine.
        verbose: whether to show how the training goes.

    Attributes:
        classes_: (classes,), sorted, of the dtype of y.
        n_features_in_: how many columns X had.
        feature_names_in_: their names, where X is a data frame whose columns have texts as names.
        network_: the `gb.Network`, with its preprocessing and the names of its classes.
        history_: the `gb.History`, a row an epoch.
        recipe_: the `gb.recipes.Recipe` that was used, with all that was overridden.
        n_iter_: how many epochs there were; where there are validation rows, the network is that of the best one,
            `history_.best_epoch`.
    """

    task = "classification"
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Tabular._parameter_constraints, "class_weight": [StrOptions({"balanced"}), Mapping, None],
    }  # fmt: skip

    def __init__(
        self, *, recipe: str | Recipe = "auto", settings: Mapping[str, Any] | None = None, ensemble: int | None = 1,
        epochs: int | None = None, validation_fraction: float | None = None,
        class_weight: Mapping[Any, float] | str | None = None, metrics: Sequence[Given] | None = None,
        callbacks: Sequence[Any] | None = None, device: str = "auto", dtype: str = "float32", random_state: Any = None,
        verbose: bool | int = False,
    ) -> None:  # fmt: skip
        keep(self, locals())

    def predict(self, X: Any) -> Array:
        """Returns the class of each row, (rows,): the most probable one."""
        x = self._prepare(X)
        chosen: Array = self.classes_[self.network_.predict(x).argmax(axis=1)]
        return chosen

    def predict_proba(self, X: Any) -> Array:
        """Returns the probabilities of the classes, in the order of `classes_`, float64 (rows, classes)."""
        x = self._prepare(X)
        p: Array = self.network_.predict(x).astype(np.float64)
        p /= p.sum(axis=1, keepdims=True)  # 1 but for the rounding of the network's dtype
        return p

    def predict_log_proba(self, X: Any) -> Array:
        """Returns the logarithms of these; −inf where a probability is too small for the dtype."""
        with np.errstate(divide="ignore"):
            logs: Array = np.log(self.predict_proba(X))
        return logs

    def _checked(self, y: Any) -> Array:
        values = np.asarray(y)
        if values.dtype == object and set(map(type, values.ravel().tolist())) in ({bool}, {int}, {float}):
            values = np.array(values.tolist())
        values = column_or_1d(values, warn=True)
        if values.dtype.kind in "fc":
            assert_all_finite(values, input_name="y")
            check_classification_targets(values)
        checked: Array = values
        return checked

    def _learn_classes(self, y: Array, labels: Array) -> None:
        self.classes_ = y[np.unique(labels, return_index=True)[1]]

    def _class_weights(self, names: Sequence[str | int] | None) -> Any:
        if not isinstance(self.class_weight, Mapping):
            return self.class_weight
        name_of = dict(zip(self.classes_.tolist(), names or (), strict=True))
        return {name_of.get(given, given): weight for given, weight in self.class_weight.items()}


class TabularRegressor(RegressorMixin, Tabular):
    """A regressor for tables as they are: a data frame with texts, categories, dates and missing values in, numbers in
    the units of the target out, with intervals around them. It does what `gpu-backprop train` does.

        model = gb.TabularRegressor(random_state=0).fit(frame, prices)
        low, high = model.predict_interval(others, 0.9)

    X, what is not said here, and the attributes are as those of `TabularClassifier`, but for `classes_`. y is numbers,
    (rows,), or where X is an array (rows, outputs). Losses and errors in `history_` are in standard deviations of it,
    but for losses of numbers ≥ 0. The validation rows make the intervals, too.

    Args:
        loss: a name, such as "absolute_error", "huber", "quantile" or "poisson", or an object, `gb.Quantile(0.9)`.
            None: half the squared error.
        recipe, settings, ensemble, epochs, validation_fraction: as of `TabularClassifier`.
        metrics, callbacks, device, dtype, random_state, verbose: as of `TabularClassifier`.
    """

    task = "regression"
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Tabular._parameter_constraints, "loss": [str, Loss, None],
    }  # fmt: skip

    def __init__(
        self, *, loss: str | Loss | None = None, recipe: str | Recipe = "auto",
        settings: Mapping[str, Any] | None = None, ensemble: int | None = 1, epochs: int | None = None,
        validation_fraction: float | None = None, metrics: Sequence[Given] | None = None,
        callbacks: Sequence[Any] | None = None, device: str = "auto", dtype: str = "float32", random_state: Any = None,
        verbose: bool | int = False,
    ) -> None:  # fmt: skip
        keep(self, locals())

    def predict(self, X: Any) -> Array:
        """Returns what the target of each row is thought to be, float64 (rows,), or (rows, outputs) of several."""
        x = self._prepare(X)
        return _flat(self.network_.preprocessing.inverse(self.network_.predict(x)))

    def predict_interval(self, X: Any, coverage: float = 0.9) -> tuple[Array, Array]:
        """Returns between which two numbers the target of each row is, with the probability `coverage` or more for rows
        like those of fit: the low ends and the high ends, each as `predict` returns it.

        Raises:
            RuntimeError: there were no validation rows, which intervals are made of.
            ValueError: the coverage is not between 0 and 1, or more than so few validation rows can promise.
        """
        x = self._prepare(X)
        if self.network_.intervals is None:
            raise StateError(
                "there are no intervals, because no validation rows were held out: fit with "
                "validation_fraction=0.2, eval_set=(X, y) or ensemble=8."
            )
        low, high = self.network_.predict_interval(x, coverage)
        return _flat(low), _flat(high)

    def _checked(self, y: Any) -> Array:
        refuse_dates(y)
        values: Array = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        return column_or_1d(values, warn=True) if values.ndim != 2 or values.shape[1] == 1 else values

    def _output_and_loss(self) -> tuple[str | None, Loss | None]:
        if self.loss is None:
            return None, None
        loss = named("loss", self.loss, Loss, LOSSES)  # type: ignore[type-abstract]
        if loss.labels:
            raise InputError(f"the loss {loss.name} is for classes: TabularClassifier has it; choose another one here.")
        return (loss.needs[0] if loss.needs else None), loss

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _flat(values: Array) -> Array:
    """Returns (rows, outputs) as (rows,), where there is one output."""
    return values[:, 0] if values.shape[1] == 1 else values
