"""The table of factors that an update reads, on the level of the operation: cases, and each update written by hand."""

from __future__ import annotations

import numpy as np
from own_optimizers import LION

from gpu_backprop.training.optimizers import ADAMW, MOMENTUM, REGULARIZED

BLOCK = 256
"""Bytes of parameters that share factors."""

RULES = MOMENTUM, ADAMW, LION, REGULARIZED
RATES, DECAYS, PENALTIES = [1, 0, 0.5, 2, 0, 1, 0.25], [1, 1, 0, 0.5, 2, 0, 1], [1, 1, 0, 1, 0, 0.5, 3]
ONES = [1] * len(RATES)
FORMS = [((), None), ((), 1.0), ((), 0.5), ((), 0.0), ((3,), None), ((3,), [1.0, 0.0, 0.5])]
"""Shapes of models, and what each multiplies its gradients with."""


def case(rule, models_shape, factor, dtype):
    """What `update` takes besides the table and a copy in 16 bits; the last of RATES has a block that is not full."""
    rng, size = np.random.default_rng(0), BLOCK // np.dtype(dtype).itemsize
    shape = (*models_shape, size * (len(RATES) - 1) + 5)
    w, g = rng.normal(size=shape).astype(dtype), rng.normal(size=shape).astype(dtype)
    moments = abs(rng.normal(size=(len(rule.moments), *shape))).astype(dtype)
    settings = {**rule.settings, "learning_rate": 0.05, "weight_decay": 0.3, "l1": 0.2, "l2": 0.1, "clip_value": 0.7}
    numbers = [3.0, *(settings[name] for name in rule.settings)]
    hyper = np.tile(np.array(numbers), (*models_shape, 1))
    if models_shape:
        hyper[:, 1] = [0.05, 0.02, 0.01]
    return [w, g, moments, rule, hyper, None if factor is None else np.array(factor)]


def table(dtype, rates=RATES, decays=DECAYS, penalties=PENALTIES):
    return np.array([rates, decays, penalties], dtype)


def by_hand(w, g, moments, rule, hyper, factor, groups=None):
    """w, moments and hyper after the step, in float64, a model at a time."""
    w, g, moments, hyper = (np.array(a, np.float64) for a in (w, g, moments, hyper))
    factors = (
        np.ones((3, w.shape[-1]))
        if groups is None
        else np.repeat(groups.astype(np.float64), BLOCK // groups.itemsize, axis=1)[:, : w.shape[-1]]
    )
    for model in np.ndindex(w.shape[:-1]):
        one = 1.0 if factor is None else factor[model]
        if one:
            moves, state = factors[0] != 0, moments[:, *model]
            new = STEPS[rule.name](
                w[model], one * g[model], state, *hyper[model], **dict(zip(FACTORS, factors, strict=True))
            )
            w[model] = np.where(moves, new[0], w[model])
            for k, moment in enumerate(new[1:]):
                state[k] = np.where(moves, moment, state[k])
    return w, moments, hyper


FACTORS = "rate", "decay", "penalty"


def _momentum(w, g, moments, t, eta, mu, rate, **_):
    v = mu * moments[0] + g
    return w - rate * eta * v, v


def _regularized(w, g, moments, t, eta, mu, weight_decay, l1, l2, clip_value, rate, decay, penalty):
    """As PyTorch does it: clip_grad_value_, then SGD(momentum=μ, weight_decay=l2), whose weights decay besides."""
    slope = np.clip(g, -clip_value, clip_value) + penalty * (l2 * w + l1 * np.sign(w))
    v = mu * moments[0] + slope
    return w - rate * eta * (decay * weight_decay * w + v), v


def _adamw(w, g, moments, t, eta, beta1, beta2, epsilon, weight_decay, rate, decay, **_):
    """The moments are kept without their factors (1 − β)."""
    m, v = beta1 * moments[0] + g, beta2 * moments[1] + g * g
    m_hat, v_hat = (1 - beta1) * m / (1 - beta1**t), (1 - beta2) * v / (1 - beta2**t)
    return w - rate * eta * (decay * weight_decay * w + m_hat / (np.sqrt(v_hat) + epsilon)), m, v


def _lion(w, g, moments, t, eta, beta1, beta2, weight_decay, rate, decay, **_):
    c = beta1 * moments[0] + (1 - beta1) * g
    return w - rate * eta * (decay * weight_decay * w + np.sign(c)), beta2 * moments[0] + (1 - beta2) * g


STEPS = {"momentum": _momentum, "adamw": _adamw, "lion": _lion, "regularized": _regularized}


def frozen(dtype, rates=RATES):
    """Which parameters of a case do not move."""
    size = BLOCK // np.dtype(dtype).itemsize
    return np.repeat(np.array(rates) == 0, size)[: size * (len(RATES) - 1) + 5]


def check(update, rule, models_shape, factor, dtype, tolerance):
    """update(*arguments, groups) changes copies of a case's arrays on some back end, and returns w, moments, hyper."""
    given = case(rule, models_shape, factor, dtype)
    for groups in (None, table(dtype), table(dtype, [0] * 7), table(dtype, ONES, ONES, ONES)):
        found, wanted = update(*given, groups), by_hand(*given, groups)
        for got, want in zip(found, wanted, strict=True):
            np.testing.assert_allclose(got, want, tolerance, tolerance)
        still = np.broadcast_to(frozen(dtype, ONES if groups is None else groups[0]), given[0].shape)
        if factor is not None:
            still = still | (given[-1] == 0)[..., None]
        assert found[0][still].tobytes() == given[0][still].tobytes()
        assert found[1][:, still].tobytes() == given[2][:, still].tobytes()
    plain = update(*given, None)
    for got, want in zip(found, plain, strict=True):
        np.testing.assert_allclose(got, want, 4 * np.finfo(dtype).eps, 4 * np.finfo(dtype).eps)
