"""What is trained on one rank and on several, which must come to the same: a table of fits, and what else a trainer
does."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import population_grid

import gpu_backprop as gb
from gpu_backprop.training import streaming

INPUTS, ROWS, BATCH, EPOCHS = 5, 75, 32, 2
"""Minibatches of 32, 32 and 11 rows: none of 3 and 4 ranks has as many rows as each other in all of them."""

PROOF = os.environ.get("GPU_BACKPROP_PROOF") == "1"
DRAWN = 200 if PROOF else 6
"""How many cases of population_grid.py there are besides."""

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
    device: str = "cpu"
    epochs: int = EPOCHS
    trainer: Mapping[str, Any] = field(default_factory=dict)
    fit: Mapping[str, Any] = field(default_factory=dict)

    def data(self) -> tuple[Any, Any]:
        x = numbers(self.rows)
        y = TARGETS[self.targets](x)
        return x.astype(self.dtype), y if self.targets == "labels" else y.astype(self.dtype)

    def make(self, communicator: Any) -> gb.Trainer:
        layers = [*self.hidden, gb.Dense(OUTPUTS.get(self.targets, 2), self.last)]
        net = gb.Network(INPUTS, layers, dtype=self.dtype, device=self.device, seed=self.seed)
        return gb.Trainer(
            net, self.loss, self.optimizer, batch_size=self.batch, communicator=communicator, **self.trainer
        )

    def __call__(self, communicator: Any) -> Outcome:
        trainer = self.make(communicator)
        return fitted(trainer, *self.data(), epochs=self.epochs, **self.fit)


class Unbounded(Case):
    """In one row of the second minibatch, z of the first layer is more than there are numbers."""

    def data(self) -> tuple[Any, Any]:
        x, y = super().data()
        x[60] = np.finfo(x.dtype).max
        return x, y


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


class Changing:
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
    "many weights": Case(hidden=(gb.Dense(200, "tanh"), gb.Dense(200, "tanh")), trainer={"clip_norm": 0.1}),
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
    "on_step": Case(fit={"callbacks": [Changing()]}),
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
    # divergence
    **{
        f"diverges: {how}": Case(optimizer=gb.SGD(1e200), epochs=3, fit={"on_divergence": how} | given)
        for how, given in (("raise", {}), ("halve_rate", {"weights": W}))
    },
    "diverges: half the rate is enough": Case(
        optimizer=gb.SGD(1.0), hidden=(gb.Dense(7),), epochs=4, fit={"on_divergence": "halve_rate", "weights": W}
    ),
    "diverges: in one row": Unbounded(hidden=(gb.Dense(4), gb.Dense(4)), fit={"shuffle": False}),
    "diverges: late": Case(optimizer=gb.SGD(30.0), epochs=200),
    "diverges: loss_every": Case(optimizer=gb.SGD(1e200), fit={"loss_every": 1}),
    "diverges: on_step": Case(optimizer=gb.SGD(1e200), fit={"callbacks": [Changing()]}),
    "diverges: some members stop": Case(
        **MEMBERS, optimizer=gb.SGD([0.01, 1e200, 0.02]), fit={"on_divergence": "stop"}, epochs=3
    ),
    "diverges: all members stop": Case(
        **MEMBERS, optimizer=gb.SGD([1e180, 1e200, 1e190]), fit={"on_divergence": "stop"}, epochs=3
    ),
    "diverges: some members halve": Case(
        **MEMBERS, optimizer=gb.SGD([0.01, 1e3, 0.02]), fit={"on_divergence": "halve_rate"}, epochs=3
    ),
}  # fmt: skip


# What a trainer does besides, and data that are not arrays in memory -------------------------------------------------


def case(function: Trained) -> Trained:
    """Puts a function of a communicator into the table, by its name."""
    CASES[function.__name__.replace("_", " ")] = function
    return function


@case
def steps_by_hand(communicator: Any) -> Outcome:
    trainer = Case(hidden=DROPS).make(communicator)
    (x, y), losses = Case().data(), []
    for rows, weights in ((16, None), (3, None), (1, W), (40, W), (2, only(W, [0])), (2, only(W, [0, 1])), (75, None)):
        losses.append(trainer.step(x[:rows], y[:rows], None if weights is None else weights[:rows]))
    return {"losses": np.array([float(loss) for loss in losses])} | outcome(trainer)


@case
def steps_by_hand_in_parts(communicator: Any) -> Outcome:
    trainer = Case(hidden=DROPS, **CLASSES, trainer={"accumulate": 3, "clip_norm": 0.1}).make(communicator)
    x, y = Case(**CLASSES).data()
    losses = [float(trainer.step(x[:rows], y[:rows], W[:rows])) for rows in (40, 5, 1)]
    return {"losses": np.array(losses)} | outcome(trainer)


@case
def members_by_hand(communicator: Any) -> Outcome:
    trainer = Case(**MEMBERS).make(communicator)
    x, y = Case().data()
    every = [np.stack([a[:20], a[20:40], a[40:60]]) for a in (x, y)]
    minibatches = (*every, None), (*every, weights_of(20, 3)), (x[:3], y[:3], None), (x[:3], y[:3], W[:3])
    losses = [np.asarray(trainer.step(*minibatch)) for minibatch in minibatches]
    return {"losses": np.array(losses)} | outcome(trainer)


@case
def evaluation(communicator: Any) -> Outcome:
    found: Outcome = {}
    for name, kind in {"one": {}, "members": MEMBERS}.items():
        trainer = Case(**CLASSES, **kind).make(communicator)
        for rows in (41, 32, 2):
            for weights in (False, True):
                measured = trainer.evaluate(
                    *held_out("labels", rows, weights), metrics=["accuracy", "log_loss", "balanced_accuracy"]
                )
                found |= {f"{name} {rows} {weights} {key}": np.array(value) for key, value in measured.items()}
    trainer.network.averaged = True
    return found | {f"mean {key}": np.array(value) for key, value in trainer.evaluate(*held_out("labels")).items()}


@case
def a_trace_and_a_profile(communicator: Any) -> Outcome:
    trainer = Case(hidden=DROPS).make(communicator)
    x, y = Case().data()
    for _ in trainer.trace(x, y, W):
        pass
    traced = trainer.device.to_host(trainer.network.parameters)
    trainer.profile(x[:9], y[:9], runs=2)
    return {"traced": traced} | outcome(trainer)


@case
def a_range_test(communicator: Any) -> Outcome:
    trainer = Case(optimizer="sgd").make(communicator)
    found = trainer.find_learning_rate(*Case().data(), W, highest=100.0, steps=30)
    return {"rates": found.rates, "smoothed": found.losses, "found": np.array(found.suggestion)} | outcome(trainer)


@case
def one_fit_after_another(communicator: Any) -> Outcome:
    trainer = Case(hidden=DROPS).make(communicator)
    x, y = Case().data()
    trainer.fit(x, y, 2, progress=False)
    trainer.step(x[:9], y[:9])
    trainer.optimizer.learning_rate, trainer.batch_size = 0.02, 20
    trainer.network.layers[0].trainable = False
    return fitted(trainer, x[:50], y[:50], epochs=2, validation=held_out()) | {
        "predicted": trainer.network.predict(x),
        "evaluated": np.array(trainer.evaluate(x, y)["r2"]),
    }


@case
def what_was_held_out(communicator: Any) -> Outcome:
    trainer = Case(**MEMBERS, **CLASSES).make(communicator)
    trainer.fit(*Case(**CLASSES).data(), 2, folds=3, progress=False)
    found = trainer.evaluate_out_of_fold()
    return {"loss": np.array(found["loss"]), "each": np.array([one["loss"] for one in found["folds"]])} | {
        "outputs": trainer.out_of_fold()
    }


@case
def intervals(communicator: Any) -> Outcome:
    trainer = Case().make(communicator)
    trainer.fit(*Case().data(), 2, validation=held_out(), callbacks=[gb.ConformalIntervals()], progress=False)
    return {"intervals": np.stack(trainer.network.predict_interval(numbers(4), 0.8))}


@case
def l_bfgs_after_a_fit(communicator: Any) -> Outcome:
    trainer = Case().make(communicator)
    trainer.fit(*Case().data(), 1, progress=False)
    gb.fit_lbfgs(trainer.network, *Case().data(), iterations=3, progress=False)
    return fitted(trainer, *Case().data(), epochs=1)


def drawn(number: int, dtype: str, communicator: Any) -> Outcome:
    """One member of a case of populations, by itself."""
    given = population_grid.draw(number, dtype)
    return outcome(given.solo(number % population_grid.MEMBERS, "cpu", communicator=communicator))


for _number in range(DRAWN):
    CASES[f"drawn {_number}"] = partial(drawn, _number, "float64")
    CASES[f"drawn {_number}, float32"] = partial(drawn, _number, "float32")


@contextmanager
def maps(*arrays: Any) -> Iterator[list[Any]]:
    """The arrays as maps of files."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.npy" for number in range(len(arrays))]
        for path, array in zip(paths, arrays, strict=True):
            np.save(path, array)
        yield [np.load(path, mmap_mode="r") for path in paths]


def small_windows(bytes_a_row: int, rows: int = 2 * BATCH, stretch: int = 5) -> Any:
    """No map fits in memory then, and a window has so many rows, of stretches of so many."""
    small = {"WINDOW": rows * bytes_a_row, "STRETCH": stretch * bytes_a_row, "memory": lambda: 0}
    return mock.patch.multiple(streaming, **small)


ROW_BYTES = 8 * (INPUTS + 2 + 1)

for _mapped in (True, False):
    for _name, _case in {
        "": Case(hidden=DROPS, rows=150),
        ", weights": Case(hidden=DROPS, rows=150, fit={"weights": weights_of(150), "validation": held_out()}),
        ", a tail of one row": Case(rows=65),
        ", not shuffled": Case(rows=150, fit={"shuffle": False}),
        ", members": Case(**MEMBERS, rows=150),
        ", members, rows of each": Case(
            **MEMBERS, rows=150, fit={"rows": [np.arange(90), np.arange(40, 150), np.arange(1, 140, 2)]}
        ),
        ", some rows": Case(rows=150, fit={"validation_split": 0.2}),
        ", minibatches smaller than ranks": Case(rows=31, batch=3, fit={"weights": weights_of(31)}),
    }.items():  # fmt: skip
        if not _mapped and "rows" in _case.fit:
            continue  # those have no rows of each member

        def from_files(communicator: Any, of: Case = _case, mapped: bool = _mapped) -> Outcome:
            with maps(*of.data()) as data:
                if mapped:
                    return fitted(of.make(communicator), *data, epochs=3, **of.fit)
                with small_windows(ROW_BYTES):
                    return fitted(of.make(communicator), *data, epochs=3, **of.fit)

        CASES[f"{'maps' if _mapped else 'windows'}{_name}"] = from_files


@case
def windows_of_what_is_measured(communicator: Any) -> Outcome:
    of = Case(rows=90, trainer={"metrics": ["r2", "median_absolute_error"]})
    with maps(*of.data(), *held_out(weighted=True)) as (x, y, *others), small_windows(ROW_BYTES):
        trainer = of.make(communicator)
        found = fitted(trainer, x, y, validation=tuple(others), epochs=2)
        return found | {f"measured {key}": np.array(value) for key, value in trainer.evaluate(*others).items()}


@case
def a_callback_that_measures(communicator: Any) -> Outcome:
    trainer, found = Case(hidden=DROPS).make(communicator), []
    x, y = Case().data()

    def measure(state: gb.FitState) -> None:
        found.append([trainer.evaluate(x[:50], y[:50], W[:50])["r2"], float(trainer.network.predict(x[:3]).sum())])

    return fitted(trainer, x, y, epochs=2, callbacks=[measure]) | {"measured": np.array(found)}


@case
def sparse_rows(communicator: Any) -> Outcome:
    from scipy import sparse

    of = Case(rows=150, hidden=DROPS, fit={"weights": weights_of(150)})
    x, y = of.data()
    with mock.patch.object(streaming, "BLOCK", 2 * BATCH * ROW_BYTES):
        return fitted(of.make(communicator), sparse.csr_array(np.where(x > 0, x, 0)), y, **of.fit)


# Which rows of an epoch a rank has -----------------------------------------------------------------------------------


class Rows:
    """Notes which rows each step gathers: those whose number is in the first column of x."""

    only_reads = True

    def __init__(self) -> None:
        self.found: list[Any] = []

    def on_step(self, state: gb.FitState) -> None:
        run, shape = state.trainer.running.run, state.trainer.network.models_shape
        plan = run.steps[run.batches[run.done - 1]].plan
        self.found.append(np.array(plan.buffers.get("x", np.zeros((*shape, 0, INPUTS))))[..., 0])


def rows_of_steps(which: str, communicator: Any) -> Outcome:
    """Returns the rows of this rank in each step, by the step's number."""
    shapes = {} if "members" not in which else MEMBERS
    of, noted = Case(rows=65, epochs=3, **shapes), Rows()
    x, y = of.data()
    x[:, 0] = np.arange(len(x))
    given = {"callbacks": [noted], "progress": False, "epochs": of.epochs, "shuffle": "in order" not in which}
    if "rows" in which:
        given["rows"] = [np.arange(40), np.arange(5, 65), np.arange(0, 65, 2)]
    trainer = of.make(communicator)
    with maps(x, y) as mapped, small_windows(ROW_BYTES) if "windows" in which else nullcontext():
        trainer.fit(*(mapped if "windows" in which else (x, y)), **given)
    return {f"step {number}": rows for number, rows in enumerate(noted.found, 1)}
