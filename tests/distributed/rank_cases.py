"""What is trained on one rank and on several, which must come to the same: a table of fits, and what else a trainer
does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import population_grid

import gpu_backprop as gb

INPUTS, ROWS, BATCH, EPOCHS = 5, 75, 32, 2
"""Minibatches of 32, 32 and 11 rows: none of 3 and 4 ranks has as many rows as each other in all of them."""

Outcome = dict[str, Any]
Trained = Callable[..., Outcome]


def numbers(rows: int = ROWS, columns: int = INPUTS, seed: int = 0) -> Any:
    return np.random.default_rng([seed, columns]).normal(size=(rows, columns))


def weights_of(rows: int = ROWS, *shape: int) -> Any:
    return np.random.default_rng([3, rows]).uniform(0.2, 2, (*shape, rows))


TARGETS: Mapping[str, Callable[[Any], Any]] = {
    "numbers": lambda x: np.stack([np.sin(x[:, 0]), x[:, 1] - x[:, 2]], axis=1),
    "counts": lambda x: np.floor(np.exp(0.3 * x[:, :2])),
    "labels": lambda x: (x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 0.5),
    "binary": lambda x: (x[:, :1] > 0).astype(x.dtype),
}
OUTPUTS = {"labels": 3, "binary": 1}


@dataclass(frozen=True)
class Case:
    """A network, its trainer, and what its fit is given."""

    loss: Any = None
    last: str = "identity"
    targets: str = "numbers"
    hidden: Sequence[Any] = (gb.Dense(7, "tanh"),)
    optimizer: Any = "adam"
    rows: int = ROWS
    batch: int = BATCH
    seed: Any = 0
    dtype: str = "float64"
    epochs: int = EPOCHS
    trainer: Mapping[str, Any] = field(default_factory=dict)
    fit: Mapping[str, Any] = field(default_factory=dict)

    def data(self) -> tuple[Any, Any]:
        x = numbers(self.rows)
        y = TARGETS[self.targets](x)
        return x.astype(self.dtype), y if self.targets == "labels" else y.astype(self.dtype)

    def make(self, communicator: Any) -> gb.Trainer:
        layers = [*self.hidden, gb.Dense(OUTPUTS.get(self.targets, 2), self.last)]
        net = gb.Network(INPUTS, layers, dtype=self.dtype, device="cpu", seed=self.seed)
        return gb.Trainer(
            net, self.loss, self.optimizer, batch_size=self.batch, communicator=communicator, **self.trainer
        )

    def __call__(self, communicator: Any) -> Outcome:
        trainer = self.make(communicator)
        return fitted(trainer, *self.data(), epochs=self.epochs, **self.fit)


def fitted(trainer: gb.Trainer, *data: Any, **given: Any) -> Outcome:
    """Fits, and returns all that comes of it."""
    told = ""
    try:
        trainer.fit(*data, progress=False, **given)
    except gb.DivergedError as error:
        told = str(error)
    return {"error": told} | outcome(trainer)


def outcome(trainer: gb.Trainer) -> Outcome:
    """Returns all that a trainer has learned and measured, by name."""
    found = {name: trainer.device.to_host(array) for name, array in trainer.training_step.state().arrays.items()}
    history = trainer.history
    for name in {name: None for row in history for name in row if name not in ("seconds", "samples_per_second")}:
        found[f"history {name}"] = np.array([row.get(name, np.nan) for row in history], np.float64)
    found["losses within"] = np.array([row["loss"] for row in history.steps], np.float64)
    found["best"] = np.array(-1 if history.best_epoch is None else history.best_epoch)
    found["stopped"], found["diverged"] = str(history.stopped), str(history.diverged)
    found["rate"] = np.array(trainer.optimizer.learning_rate, np.float64)
    return found


# What fits are given --------------------------------------------------------------------------------------------------


def held_out(targets: str = "numbers", rows: int = 41, weighted: bool = False) -> tuple[Any, ...]:
    x = numbers(rows, seed=1)
    return (x, TARGETS[targets](x), *([weights_of(rows)] if weighted else []))


def only(weights: Any, rows: Any) -> Any:
    """The weights with those of some rows set to 0."""
    weights = weights.copy()
    weights[rows] = 0
    return weights


def of_the_first_rank(rows: int) -> Any:
    """The rows of the first half of each minibatch, where nothing is shuffled: all that the first of 2 ranks has."""
    return np.arange(rows) % BATCH < BATCH // 2


def squared(y_true: Any, y_pred: Any, weights: Any) -> float:
    return float((np.ones(len(y_true)) if weights is None else weights) @ ((y_true - y_pred) ** 2).sum(axis=-1))


class Watching:
    """Sets the learning rate after every step, so that nothing can be repeated."""

    def on_step(self, state: gb.FitState) -> None:
        state.trainer.optimizer.learning_rate = 0.01 / (1 + state.step)


DROPS = gb.Dense(7, "tanh"), gb.Dropout(0.3), gb.Dense(6, "sigmoid"), gb.Dropout(0.2)
CLASSES = {"last": "softmax", "targets": "labels"}
MEMBERS = {"seed": [0, 1, 2], "hidden": (gb.Dense(7, "tanh"), gb.Dropout(0.2))}
W = weights_of()

CASES: dict[str, Trained] = {
    "plain": Case(),
    "dropout": Case(hidden=DROPS),
    "dropout, in parts": Case(hidden=DROPS, trainer={"accumulate": 3}),
    "dropout, in parts, weights": Case(hidden=DROPS, trainer={"accumulate": 3}, fit={"weights": W}),
    "more parts than rows": Case(hidden=DROPS, trainer={"accumulate": 20}, rows=33),
    "not shuffled": Case(fit={"shuffle": False}),
    "float32": Case(dtype="float32", hidden=DROPS, fit={"weights": W}),
    **{f"optimizer {name}": Case(optimizer=name) for name in gb.OPTIMIZERS},
    **{
        f"loss {loss!r}, {last}, {how}": Case(loss, last, kind, fit={} if how == "plain" else {"weights": W})
        for loss, last, kind, _ in population_grid.LOSSES
        for how in ("plain", "weights")
    },
    **{
        f"loss {loss!r}, {last}, sum, {how}": Case(
            replace(loss, reduction="sum"), last, kind, optimizer=gb.SGD(0.001),
            fit={} if how == "plain" else {"weights": W},
        )
        for loss, last, kind, _ in population_grid.LOSSES[:3]
        for how in ("plain", "weights")
    },
    "soft labels": Case(gb.CrossEntropy(label_smoothing=0.1), **CLASSES),
    # tails: of 1 row, which some ranks have not; of minibatches smaller than the ranks are many; of all rows at once
    **{
        f"{rows} rows by {batch}, {how}": Case(rows=rows, batch=batch, hidden=DROPS[:2], fit=given)
        for rows, batch in ((33, 32), (34, 32), (35, 32), (7, 3), (5, 2), (4, 1), (30, 200), (2, 200), (64, 32))
        for how, given in (("plain", {}), ("weights", {"weights": weights_of(rows)}))
    },
    "a rank without weight": Case(fit={"weights": only(W, of_the_first_rank(ROWS)), "shuffle": False}),
    "a minibatch without weight": Case(fit={"weights": only(W, slice(32, 64)), "shuffle": False}),
    "a tail without weight": Case(fit={"weights": only(W, slice(64, None)), "shuffle": False}),
    "a minibatch without weight, sum": Case(
        gb.SquaredError(reduction="sum"), optimizer=gb.SGD(0.001, momentum=0.5),
        fit={"weights": only(W, slice(32, 64)), "shuffle": False},
    ),
    "a weight in a hundred": Case(rows=200, fit={"weights": only(weights_of(200), np.arange(200) % 100 > 0)}),
    "class_weight": Case(**CLASSES, fit={"class_weight": {0: 3.0, 2: 0.0}}),
    "class_weight, balanced, weights": Case(**CLASSES, fit={"class_weight": "balanced", "weights": W}),
    "clip_norm": Case(trainer={"clip_norm": 0.1}),
    "clip_value": Case(trainer={"clip_value": 0.01}),
    "clip_norm, clip_value, weights, in parts": Case(
        trainer={"clip_norm": 0.1, "clip_value": 0.01, "accumulate": 2}, fit={"weights": W}
    ),
    "average": Case(trainer={"average": 0.8}, fit={"validation": held_out()}),
    "penalties": Case(optimizer=gb.SGD(0.05, momentum=0.9, l1=1e-3, l2=1e-2)),
    "weight decay": Case(optimizer=gb.AdamW(0.01, weight_decay=0.1)),
    "frozen": Case(hidden=(gb.Dense(7, "tanh", trainable=False), gb.Dense(6, "gelu"))),
    "max_norm": Case(hidden=(gb.Dense(7, "tanh", max_norm=0.5), gb.Dense(6, "softplus", max_norm=0.5))),
    **{
        f"schedule {schedule!r}": Case(optimizer=gb.Adam(0.01, schedule=schedule), epochs=4)
        for schedule in (*(gb.SCHEDULES), gb.Warmup(2, gb.Exponential(0.5)))
    },
    "plateau": Case(
        epochs=6, fit={"callbacks": [gb.ReduceOnPlateau("loss", 0.5, patience=1, min_delta=0.05)]},
    ),
    "loss_every": Case(fit={"loss_every": 2}),
    "loss_every, weights": Case(fit={"loss_every": 1, "weights": W}),
    "on_step": Case(fit={"callbacks": [Watching()]}),
    # what is measured
    "validation": Case(fit={"validation": held_out(weighted=True)}, trainer={"metrics": ["r2", "mae", "rmse"]}),
    "validation of few rows": Case(fit={"validation": held_out(rows=2)}, trainer={"metrics": ["mae", squared]}),
    "early stopping": Case(
        optimizer=gb.Adam(0.1), epochs=12,
        fit={"validation": held_out(), "early_stopping": gb.EarlyStopping(patience=2)},
    ),
    "scores of classes": Case(
        **CLASSES, fit={"validation": held_out("labels", weighted=True)},
        trainer={"metrics": ["roc_auc", "log_loss", "f1_macro", "accuracy", "calibration_error"]},
    ),
    "scores of classes, no sums": Case(
        **CLASSES, fit={"validation": held_out("labels")}, trainer={"metrics": ["accuracy"]}
    ),
    "scores of yes and no": Case(
        last="sigmoid", targets="binary", trainer={"metrics": ["roc_auc", "average_precision", "brier_score"]},
        fit={"validation_split": 0.3},
    ),
    "validation_split": Case(**CLASSES, fit={"validation_split": 0.25, "early_stopping": True, "weights": W}),
    "metrics of numbers": Case(
        fit={"validation": held_out(weighted=True)},
        trainer={"metrics": ["median_absolute_error", "r2", squared]},
    ),
    "temperature": Case(
        **CLASSES, fit={"validation": held_out("labels"), "callbacks": [gb.TemperatureScaling()]},
        trainer={"average": 0.5},
    ),
    # several members
    "members": Case(**MEMBERS),
    "members, weights": Case(**MEMBERS, fit={"weights": W, "validation": held_out()}),
    "members, rows": Case(
        **MEMBERS, fit={"rows": [np.arange(40), np.arange(10, 75), np.arange(5, 60, 2)]}
    ),
    "members, weights of each": Case(
        **MEMBERS, fit={"weights": np.stack([only(W, slice(0, 20)), only(W, slice(30, 35)), W])}
    ),
    "members, folds": Case(
        **MEMBERS, **CLASSES, fit={"folds": 3, "early_stopping": gb.EarlyStopping(patience=1)}, epochs=5
    ),
    "members, folds, weights": Case(**MEMBERS, fit={"folds": 3, "weights": W, "shuffle": False}),
    "members, rest": Case(
        **MEMBERS, fit={"rows": numbers(3, ROWS) > -0.5, "validation": "rest"},
        trainer={"metrics": ["r2", "median_absolute_error"], "accumulate": 2},
    ),
    "members, rates of each": Case(
        **MEMBERS, optimizer=gb.SGD([0.01, 0.05, 0.1], momentum=0.5), trainer={"clip_norm": [0.1, 0.5, 1.0]}
    ),
    # divergence: the first layer's z overflow in one row of the second minibatch, of one rank alone
    **{
        f"diverges: {how}": Case(optimizer=gb.SGD(1e200), epochs=3, fit={"on_divergence": how} | given)
        for how, given in (("raise", {}), ("halve_rate", {"weights": W}))
    },
    "diverges: late": Case(optimizer=gb.SGD(6.0), epochs=200),
    "diverges: loss_every": Case(optimizer=gb.SGD(1e200), fit={"loss_every": 1}),
    "diverges: on_step": Case(optimizer=gb.SGD(1e200), fit={"callbacks": [lambda state: None]}),
    "diverges: some members stop": Case(
        **MEMBERS, optimizer=gb.SGD([0.01, 1e200, 0.02]), fit={"on_divergence": "stop"}, epochs=3
    ),
    "diverges: some members halve": Case(
        **MEMBERS, optimizer=gb.SGD([0.01, 1e3, 0.02]), fit={"on_divergence": "halve_rate"}, epochs=3
    ),
}  # fmt: skip
