"""Temperature scaling: one number by which a network's logits are divided, so that its probabilities are as large as it
is right (Guo et al. 2017)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.suggestions import explain_arguments
from gpu_backprop.network.arrays import check_finite, check_real, host_array
from gpu_backprop.network.samples import check_bounds, check_labels

LOWEST, HIGHEST = 0.1, 10.0
"""The bounds of T: beyond them are networks that are always right, or never, and no evidence for a number."""

STEPS, CLOSE = 16, 1e-10
"""Newton steps at most, and the one after which the host needs no other; a device would have to be waited for."""

HALVINGS, SECTIONS, TINY = 20, 30, 1e-300
"""Of the interval of the temperature of a mean; and what stands for a probability of 0 in its logarithm."""

EDGES = {"float16": (2.0**-24, 2.0**-12), "bfloat16": (2.0**-126, 2.0**-9),
         "float32": (2.0**-126, 2.0**-25), "float64": (2.0**-1022, 2.0**-54)}  # fmt: skip
"""What stands for a probability of 0, the least that the dtype has, and for 1 − p where p was rounded to 1, half of the
least that it can be else."""


class Logits(NamedTuple):
    """What a temperature is fitted to, float64, in arrays of one array module.

    Attributes:
        z: the logits of each row, (rows, classes), of which the largest is 0.
        of_target: Σ_k y*_k z_k, (rows,): that of the right class.
        weights: (rows,), ≥ 0 and not all 0; None: 1.
    """

    z: Array
    of_target: Array
    weights: Array | None

    @classmethod
    def of(
        cls, xp: Any, p: Array, target: Array, weights: Array | None, *, multi_label: bool, dtype: str = ""
    ) -> Logits:
        """Takes the logarithms of probabilities, which are logits but for a constant of each row.

        Args:
            p: (rows, classes); with one column, or with `multi_label` each, that of yes.
            target: labels (rows,), or probabilities of the shape of p.
            weights: (rows,), or None.
            dtype: that in which p was worked out; "": that of p.
        """
        least, below_one = EDGES[dtype or p.dtype.name]
        p = p.astype(np.float64)
        if multi_label or p.shape[1] == 1:
            weights = None if weights is None else xp.repeat(weights, p.shape[1])
            p, yes = p.reshape(-1), target.astype(np.float64).reshape(-1)
            z = xp.log(xp.stack([(1 - p).clip(below_one, None), p.clip(least, None)], axis=1))
            z -= z.max(axis=1, keepdims=True)
            of_target = z[:, 0] + yes * (z[:, 1] - z[:, 0])
        else:
            z = xp.log(p.clip(least, None))
            z -= z.max(axis=1, keepdims=True)
            if target.ndim == 1:
                of_target = xp.take_along_axis(z, target[:, None], axis=1)[:, 0]
            else:
                of_target = (z * target).sum(axis=1)
        return cls(z, of_target, weights)

    def mean(self, values: Array) -> Array:
        """The weighted mean over the rows, of (rows,)."""
        w = self.weights
        mean: Array = values.mean() if w is None else (values * w).sum() / w.sum()
        return mean

    def loss(self, xp: Any, beta: Array | float) -> Array:
        """The mean log loss of softmax(βz)."""
        loss: Array = self.mean(xp.log(xp.exp(beta * self.z).sum(axis=1)) - beta * self.of_target)
        return loss


def fit(xp: Any, logits: Logits) -> tuple[Array, Array]:
    """Finds the temperature T with the least log loss of softmax(z/T), and that loss, as arrays of no axes.

    With β = 1/T, E(β) = mean(log Σ_k exp(βz_k) − βz_y) is convex: E' = mean(⟨z⟩ − z_y), where ⟨z⟩ is the mean of z
    under softmax(βz), and E'' = mean(⟨z²⟩ − ⟨z⟩²) ≥ 0. Newton steps of log β, in which E' is nearer to a line, find
    E' = 0; where one leaves the interval that is known to hold it, the middle of that is taken.

    So that few rows cannot say that nothing is ever wrong, one more row counts, which might be of any class alike, as
    in Platt scaling (Platt 1999). And T stays 1 where the loss of the rows themselves does not fall.
    """
    z, rows = logits.z, len(logits.z)
    if logits.weights is not None:  # as many as would tell as much (Kish 1965)
        w = logits.weights / logits.weights.max()
        rows = w.sum() ** 2 / (w * w).sum()
    of_target = (rows * logits.mean(logits.of_target) + logits.mean(z.mean(axis=1))) / (rows + 1)
    low, high, beta = xp.float64(1 / HIGHEST), xp.float64(1 / LOWEST), xp.float64(1.0)
    squares = z * z
    for _ in range(STEPS):
        p = xp.exp(beta * z)
        total = p.sum(axis=1)
        first, second = (p * z).sum(axis=1) / total, (p * squares).sum(axis=1) / total
        slope = logits.mean(first) - of_target
        low, high = xp.where(slope < 0, beta, low), xp.where(slope < 0, high, beta)
        curvature = beta * logits.mean(second - first * first)
        step = xp.where(curvature > 0, slope / xp.where(curvature > 0, curvature, 1.0), xp.sign(slope))
        before, beta = beta, (beta * xp.exp(-step.clip(-5, 5))).clip(1 / HIGHEST, 1 / LOWEST)
        beta = xp.where((beta >= low) & (beta <= high), beta, xp.sqrt(low * high))
        if xp is np and abs(beta - before) <= CLOSE * beta:
            break
    unscaled, scaled = logits.loss(xp, 1.0), logits.loss(xp, beta)
    better = scaled < unscaled
    return xp.where(better, 1 / beta, 1.0), xp.where(better, scaled, unscaled)


def temper(p: Array, temperature: float) -> Array:
    """Returns softmax(z/T) for softmax(z), (rows, classes); or σ(z/T) for σ(z), where rows do not add up to 1."""
    powers = p.astype(np.float64) ** (1 / temperature)
    if p.shape[-1] > 1 and (np.abs(p.sum(axis=-1, dtype=np.float64) - 1) < 1e-2).all():
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
    return np.asarray(powers / (powers + (1 - p.astype(np.float64)) ** (1 / temperature)))


def minimize(loss: Callable[[float], float]) -> float:
    """Finds the temperature with the least loss, by golden sections of log T; 1 where no other is better."""
    low, high, golden = math.log(LOWEST), math.log(HIGHEST), (math.sqrt(5) - 1) / 2
    for _ in range(SECTIONS):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if loss(math.exp(left)) < loss(math.exp(right)) else (left, high)
    found = math.exp((low + high) / 2)
    return found if loss(found) < loss(1.0) else 1.0


def fit_mean(z: Array, temperature: float) -> float:
    """Finds the temperature at which the mean of some members' probabilities is as sure as each of them is, on average,
    at its own: the entropies of both, averaged over the rows, are equal. The mean of probabilities that are calibrated
    is less sure than it may be (Gneiting and Ranjan 2013), for its entropy is never below the mean entropy; so what is
    found is never above `temperature`.

    Args:
        z: the logits of each member, (models, rows, classes).
    """

    def probabilities(temperature: float) -> Array:
        p = np.exp((z - z.max(axis=-1, keepdims=True)) / temperature)
        return np.asarray(p / p.sum(axis=-1, keepdims=True))

    def entropy(p: Array) -> float:
        return float(-(p * np.log(p.clip(TINY, None))).sum(axis=-1).mean())

    wanted, low, high = entropy(probabilities(temperature)), LOWEST, temperature
    for _ in range(HALVINGS):
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if entropy(probabilities(middle).mean(axis=0)) > wanted else (middle, high)
    return high


@explain_arguments
def fit_temperature(probabilities: Any, y: Any, weights: Any = None) -> Any:
    """Finds the temperature T for which softmax(z/T), or sigmoid(z/T), has the least log loss on some rows, which the
    network should not have learned from: log p are the logits z, but for a constant (Guo et al. 2017).

    T is from 0.1 to 10, and 1 where no other lowers the loss of these rows. One more row, of any class alike, counts in
    the fit, as in Platt scaling: rows that are all answered rightly do not make it sure of everything. 0.1 says that
    they would have, had there been no bound.

    Args:
        probabilities: (rows, classes); or (rows, 1), of yes; or of several labels, (rows, labels), each of yes: what
            does not add up to 1 in every row. With a models axis in front, each member has a T of its own.
        y: labels (rows,), or targets (rows, classes) or (rows, labels), from 0 to 1.
        weights: (rows,), ≥ 0 and not all 0; None: 1.

    Returns:
        T, a float; of members float64 (models,).

    Raises:
        InputError: an argument is not what is accepted.
    """
    p = check_real(host_array(probabilities, "probabilities"), "probabilities")
    if p.ndim not in (2, 3) or not p.size:
        raise InputError(
            f"probabilities must have the axes (rows, classes), or (models, rows, classes), got the shape {p.shape}: "
            "of one column it is p[:, None]."
        )
    check_finite(p, "probabilities")
    check_bounds(p, "probabilities", 0.0, 1.0)
    p = p if p.dtype.name in EDGES else p.astype(np.float64)
    rows, outputs = p.shape[-2:]
    target, w = _checked_target(y, rows, outputs), _checked_weights(weights, rows)
    multi_label = outputs > 1 and target.ndim == 2 and bool((np.abs(p.sum(axis=-1, dtype=np.float64) - 1) > 1e-2).any())
    members = [
        float(fit(np, Logits.of(np, member, target, w, multi_label=multi_label))[0])
        for member in p.reshape(-1, rows, outputs)
    ]
    return members[0] if p.ndim == 2 else np.array(members)


def _checked_target(y: Any, rows: int, outputs: int) -> Array:
    target = check_real(host_array(y, "y"), "y")
    if target.shape not in ((rows,), (rows, outputs)):
        raise InputError(f"y must have the shape {(rows,)} or {(rows, outputs)}, got {target.shape}.")
    if target.ndim == 1 and outputs > 1:
        return check_labels(target, outputs, f", because there are {outputs} classes", True)
    check_finite(target, "y")
    check_bounds(target, "y", 0.0, 1.0)
    return target


def _checked_weights(weights: Any, rows: int) -> Array | None:
    if weights is None:
        return None
    w = check_real(host_array(weights, "weights"), "weights").astype(np.float64)
    if w.shape != (rows,):
        raise InputError(f"weights must be one number a row, of shape {(rows,)}, got the shape {w.shape}.")
    check_finite(w, "weights")
    check_bounds(w, "weights", 0.0, np.inf)
    if not w.any():
        raise InputError("all weights are 0, so that no row counts. Give a weight > 0 to those that should.")
    return w
