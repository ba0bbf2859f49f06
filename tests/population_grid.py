"""Populations, drawn over all that their members may have of their own, and the solo runs that each member must equal.

A case is one Population and, for every member, the Network and the Trainer that somebody writes who trains it alone;
the two have no code in common but the public interface.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import gpu_backprop as gb

INPUTS, ROWS, BATCH, EPOCHS, MEMBERS = 5, 110, 32, 4, 3

OPTIMIZERS: Mapping[str, tuple[Callable[..., gb.Optimizer], Mapping[str, tuple[float, float]]]] = {
    "sgd": (gb.SGD, {"learning_rate": (0.01, 0.05)}),
    "momentum": (lambda **s: gb.SGD(**{"momentum": 0.9} | s), {"learning_rate": (0.01, 0.03), "momentum": (0.5, 0.9)}),
    "nesterov": (
        lambda **s: gb.SGD(**{"momentum": 0.9, "nesterov": True} | s),
        {"learning_rate": (0.01, 0.03), "momentum": (0.5, 0.9)},
    ),
    "rmsprop": (gb.RMSprop, {"learning_rate": (0.001, 0.01), "decay": (0.8, 0.99)}),
    "adagrad": (gb.Adagrad, {"learning_rate": (0.01, 0.05)}),
    "adam": (gb.Adam, {"learning_rate": (0.001, 0.01), "beta1": (0.8, 0.95)}),
    "adamw": (gb.AdamW, {"learning_rate": (0.001, 0.01), "weight_decay": (0.001, 0.1)}),
    "nadam": (gb.NAdam, {"learning_rate": (0.001, 0.01), "beta2": (0.98, 0.999)}),
    "radam": (gb.RAdam, {"learning_rate": (0.001, 0.01)}),
    "lion": (gb.Lion, {"learning_rate": (0.0005, 0.002), "beta1": (0.8, 0.95)}),
}
"""What makes each, and between which numbers its settings are drawn."""

LOSSES: Sequence[tuple[gb.Loss, str, str, Mapping[str, tuple[float, float]]]] = [
    (gb.CrossEntropy(), "softmax", "labels", {"label_smoothing": (0.0, 0.2)}),
    (gb.HalfSquaredError(), "identity", "numbers", {}),
    (gb.BinaryCrossEntropy(), "sigmoid", "binary", {}),
    (gb.Huber(), "identity", "numbers", {"delta": (0.5, 2.0)}),
    (gb.Focal(), "softmax", "labels", {"gamma": (0.5, 2.0)}),
    (gb.Quantile(0.5), "tanh", "numbers", {"q": (0.2, 0.8)}),
    (gb.MeanSquaredError(), "softplus", "numbers", {}),
    (gb.Poisson(), "exp", "counts", {}),
    (gb.AbsoluteError(), "identity", "numbers", {}),
    (gb.SquaredError(reduction="sum"), "identity", "numbers", {}),
]
"""The loss, the last activation, the kind of targets, and between which its numbers are drawn."""

ACTIVATIONS = [name for name in gb.ACTIVATIONS if name not in ("softmax", "exp", "identity")]

SCHEDULES = None, "cosine", gb.StepDecay(0.5, every=3), gb.Warmup(2, gb.Exponential(0.5))

Settings = dict[str, Any]


@dataclass
class Case:
    """A population and what its fit is given; `fit` has what is one a member, `shared` what is not."""

    layers: Callable[[], list[Any]]
    make_optimizer: Callable[..., gb.Optimizer]
    loss: gb.Loss
    settings: list[Settings]
    x: Any
    y: Any
    dtype: str
    fit: Settings = field(default_factory=dict)
    shared: Settings = field(default_factory=dict)
    trainer: Settings = field(default_factory=dict)

    def population(self, device: str, **options: Any) -> gb.Population:
        population = gb.Population(
            INPUTS, self.layers(), self.settings, loss=self.loss, optimizer=self.make_optimizer(), batch_size=BATCH,
            dtype=self.dtype, device=device, **self.trainer, **options,
        )  # fmt: skip
        return population.fit(self.x, self.y, EPOCHS, progress=False, **self.fit, **self.shared)

    def solo(self, m: int, device: str, **options: Any) -> gb.Trainer:
        """Trains a member alone, as its settings say."""
        own = dict(self.settings[m])
        layers = self.layers()
        rate, scale, class_weight = (own.pop(name, None) for name in ("dropout", "initial_scale", "class_weight"))
        if rate is not None:
            layers = [gb.Dropout(rate) if isinstance(layer, gb.Dropout) else layer for layer in layers]
        net = gb.Network(INPUTS, layers, seed=own.pop("seed"), dtype=self.dtype, device=device)
        if scale is not None:
            for layer in net.layers:
                if isinstance(layer, gb.Dense):
                    layer.weight = layer.weight * net.dtype.type(scale)
        of_trainer = {name: own.pop(name) for name in ("clip_norm", "average", "clip_value") if name in own}
        of_loss = {name: own.pop(name) for name in self.loss.bounds if name in own}
        trainer = gb.Trainer(
            net, replace(self.loss, **of_loss), self.make_optimizer(**own), batch_size=BATCH, **of_trainer,
            **self.trainer, **options,
        )  # fmt: skip
        x, y, given = self.x, self.y, dict(self.fit)
        rows, weights = given.pop("rows", None), given.pop("weights", None)
        weights = None if weights is None else np.asarray(weights)[m] if np.ndim(weights) == 2 else weights
        own = np.arange(len(x)) if rows is None else rows[m] if rows[m].dtype != bool else np.flatnonzero(rows[m])
        if weights is not None:  # rows of the weight 0 are left out
            own = own[weights[own] > 0]
            weights = weights[own]
        if given.get("validation") == "rest":
            given["validation"] = np.delete(x, own, axis=0), np.delete(y, own, axis=0)
        x, y = x[own], y[own]
        trainer.fit(
            x, y, EPOCHS, weights=weights, class_weight=class_weight, progress=False, **given, **self.shared
        )  # fmt: skip
        return trainer


def draw(number: int, dtype: str = "float64") -> Case:
    """Draws a case: the first ones go through all tables, and what is besides is drawn."""
    rng = np.random.default_rng([number, 19])
    loss, last, kind, numbers = LOSSES[number % len(LOSSES)]
    make, ranges = list(OPTIMIZERS.values())[(number + number // len(OPTIMIZERS)) % len(OPTIMIZERS)]
    hidden = [ACTIVATIONS[(number + k * (1 + number // len(ACTIVATIONS))) % len(ACTIVATIONS)] for k in (0, 3)]
    x = rng.normal(size=(ROWS, INPUTS)).astype(dtype)
    y = _targets(rng, kind, x)
    has = _extras(number, rng, kind)
    outputs = {"labels": 3, "binary": 1}.get(kind, 2)

    def layers() -> list[Any]:
        middle = [gb.Dropout(0.1)] if "dropout" in has else []
        bounded = {"max_norm": 1.5} if "max_norm" in has else {}
        return [gb.Dense(7, hidden[0], **bounded), *middle, gb.Dense(6, hidden[1]), gb.Dense(outputs, last)]

    settings: list[Settings] = []
    drawn = {**ranges, **(numbers if "numbers" in has else {}), **{n: r for n, r in NUMBERS.items() if n in has}}
    for m in range(MEMBERS):
        one = {"seed": int(rng.integers(100)), **{name: float(rng.uniform(*bounds)) for name, bounds in drawn.items()}}
        if "schedule" in has and (schedule := SCHEDULES[(number + m) % len(SCHEDULES)]) is not None:
            one["schedule"] = schedule
        if "class_weight" in has:
            one["class_weight"] = [None, "balanced", {0: 2.0}][m]
        settings.append(one)
    fit, shared = _fit(rng, has, x, y)
    trainer = {"accumulate": 2} if "accumulate" in has else {}
    return Case(layers, make, loss, settings, x, y, dtype, fit, shared, trainer)


NUMBERS = {
    "l1": (1e-4, 1e-3), "l2": (1e-4, 1e-2), "clip_norm": (0.2, 1.0), "clip_value": (0.01, 0.1), "average": (0.5, 0.9),
    "initial_scale": (0.5, 1.5), "dropout": (0.05, 0.4),
}  # fmt: skip
"""Settings that any optimizer, loss or network may have, and between which they are drawn."""

EXTRAS = [
    "dropout", "weights", "folds", "schedule", "early_stopping", "class_weight", "clip_norm", "average", "bootstrap",
    "initial_scale", "numbers", "l1", "l2", "clip_value", "max_norm", "accumulate", "rest", "split", "order",
]  # fmt: skip


def _extras(number: int, rng: Any, kind: str) -> set[str]:
    """Draws what a case has besides: one for sure, and each other one time in four."""
    has = {EXTRAS[number % len(EXTRAS)], *(name for name in EXTRAS if rng.random() < 0.25)}
    if "rest" in has:
        has |= {"folds", "early_stopping"}
    has -= set() if kind in ("labels", "binary") else {"class_weight"}
    has -= {"bootstrap"} if "folds" in has else set()
    if has & {
        "folds",
        "bootstrap",
        "weights",
    }:  # rows that are there twice cannot be held out once; nor do weights of a
        has -= {"split"}  # member's own count where it is measured
    return has


def _targets(rng: Any, kind: str, x: Any) -> Any:
    signal = x[:, :2] + 0.3 * rng.normal(size=(ROWS, 2))
    if kind == "labels":
        return (signal[:, 0] > 0).astype(np.int64) + (signal[:, 1] > 0.5)
    if kind == "binary":
        return (signal[:, :1] > 0).astype(x.dtype)
    return (rng.poisson(np.exp(0.3 * signal)) if kind == "counts" else signal).astype(x.dtype)


def _fit(rng: Any, has: set[str], x: Any, y: Any) -> tuple[Settings, Settings]:
    fit: Settings = {}
    shared: Settings = {}
    if "folds" in has:  # not as many rows in each, and as many minibatches
        fold = rng.permutation(np.repeat(np.arange(MEMBERS), [7, 8, 10]).tolist() + [MEMBERS] * (ROWS - 25))
        fit["rows"] = fold != np.arange(MEMBERS)[:, None]
    if "bootstrap" in has:
        fit["rows"] = [rng.integers(ROWS, size=ROWS) for _ in range(MEMBERS)]
    if "weights" in has:
        fit["weights"] = rng.uniform(0.5, 2, (MEMBERS, ROWS))
        fit["weights"][np.arange(MEMBERS), rng.integers(ROWS, size=MEMBERS)] = 0.0
    if "rest" in has:
        fit["validation"] = "rest"
    elif "split" in has:
        shared["validation_split"] = 0.2
    elif "early_stopping" in has:
        shared["validation"] = (_x := rng.normal(size=(40, INPUTS)).astype(x.dtype), y[:40])
    if "early_stopping" in has:
        shared["early_stopping"] = gb.EarlyStopping(patience=1)
    if "order" in has:
        shared["shuffle"] = False
    return fit, shared


def check(case: Case, device: str, rtol: float, atol: float, **options: Any) -> None:
    """Compares each member of a population with its solo run: parameters, best epoch and history."""
    population = case.population(device, **options)
    for m in range(MEMBERS):
        solo = case.solo(m, device, **options)
        found, expected = population.member(m), solo.network
        to_host = expected.device.to_host
        for (name, mine, _), (_, its, _) in zip(found.parameter_arrays(), expected.parameter_arrays(), strict=True):
            np.testing.assert_allclose(to_host(mine), to_host(its), rtol, atol, err_msg=f"{name} of member {m}")
        if solo.history.best_epoch is not None:
            assert population.history.best_epoch[m] == solo.history.best_epoch
        for name in ("loss", "val_loss"):
            for row, of_solo in zip(population.history, solo.history, strict=False):
                assert (name in row) == (name in of_solo)
                if name in row:
                    np.testing.assert_allclose(row[name][m], of_solo[name], 10 * rtol, 10 * atol)
