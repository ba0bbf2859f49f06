"""Activations, losses and optimizers of expressions, as somebody from outside writes them, with what they are in plain
Python: what goes through the proofs of the tables."""

from __future__ import annotations

import math

import numpy as np

from gpu_backprop.network.own_activations import activation_of_texts
from gpu_backprop.network.own_losses import loss_of_texts
from gpu_backprop.training.own_optimizers import own_rule

TEXTS = {
    "own_mish": ("z * tanh(log1p(exp(z)))", None),
    "own_silu": ("z / (1 + exp(-z))", None),
    "own_tanh": ("tanh(z)", "(1 - y)*(1 + y)"),
    "own_elu": ("where(z > 0, z, 0.5*expm1(min(z, 0)))", None),
    "snake": ("z + sin(3*z)**2 / 3", "1 + sin(6*z)"),
    "bent": ("(sqrt(z**2 + 1) - 1)/2 + z", None),
    "squared_relu": ("max(z, 0)**2", None),
    "gauss": ("exp(-z**2) - 0.1*cos(z)*z", None),
}
EXPORTED_TEXTS = TEXTS | {
    "signs": ("z + sign(z)*log1p(abs(z))", None),
    "logs": ("log(1 + z**2) - sigmoid(2*z)*max(min(z, 2), -2)", None),
    "powers": ("z/(1 + z^2)**3 + 0.1*(2 + z**2)**-7 * z**5", None),
    "pieces": ("where(z < -1, -1, z) + where(z <= 0.1, 0.1, z) + where(z >= 0.7, z, 0.7)", None),
    "numbers": ("where(z > 0, 1.1, 0.9)*softplus(z)/pi", None),
    "thin": ("log1p(z**2)*1e-3 - expm1(-abs(z))", None),
    "alone": ("z", None),
}
"""What files for others are tried with: in all, everything that the grammar has."""

ACTIVATION_ROWS = {name: activation_of_texts(name, *texts) for name, texts in TEXTS.items()}

PLAIN = {
    "own_mish": lambda z: z * math.tanh(max(z, 0.0) + math.log1p(math.exp(-abs(z)))),
    "own_silu": lambda z: z / (1 + math.exp(-z)) if z > -700 else 0.0,
    "own_tanh": math.tanh,
    "own_elu": lambda z: z if z > 0 else 0.5 * math.expm1(z),
    "snake": lambda z: z + math.sin(3 * z) ** 2 / 3,
    "bent": lambda z: (math.sqrt(z * z + 1) - 1) / 2 + z,
    "squared_relu": lambda z: max(z, 0.0) ** 2,
    "gauss": lambda z: math.exp(-z * z) - 0.1 * math.cos(z) * z,
}
"""f of one number."""

_HUBER = "where(abs(y - t) < delta, 0.5*(y - t)**2, delta*(abs(y - t) - 0.5*delta))"
LOSS_CLASSES = {
    "log_cosh": loss_of_texts("log_cosh", "abs(y - t) + log1p(exp(-2*abs(y - t)))"),
    "own_huber": loss_of_texts("own_huber", _HUBER, settings={"delta": 0.7}),
    "own_poisson": loss_of_texts("own_poisson", "y - t*log(y)", "1 - t/y", needs=("exp", "softplus"), low=0),
    "own_entropy": loss_of_texts(
        "own_entropy", "-t*log(y) - (1 - t)*log(1 - y)", needs="sigmoid", low=0, high=1
    ),
    "two_sided": loss_of_texts(
        "two_sided", "max(up*(t - y), down*(y - t)) + tanh(y)**2", settings={"up": 0.9, "down": 0.2}
    ),
}  # fmt: skip


def _log_cosh(y, t):
    return abs(y - t) + math.log1p(math.exp(-2 * abs(y - t)))


PLAIN_LOSSES = {
    "log_cosh": _log_cosh,
    "own_huber": lambda y, t: 0.5 * (y - t) ** 2 if abs(y - t) < 0.7 else 0.7 * (abs(y - t) - 0.35),
    "own_poisson": lambda y, t: y - t * math.log(y),
    "own_entropy": lambda y, t: -t * math.log(y) - (1 - t) * math.log(1 - y),
    "two_sided": lambda y, t: max(0.9 * (t - y), 0.2 * (y - t)) + math.tanh(y) ** 2,
}
"""e of one output."""

_MEANS = {"m": "beta1*m + (1 - beta1)*g", "v": "beta2*v + (1 - beta2)*g**2"}
_BETAS = {"learning_rate": 0.001, "beta1": 0.9, "beta2": 0.999}
RULES_OF = {
    "own_lion": (
        {"learning_rate": 1e-4, "beta1": 0.9, "beta2": 0.99},
        {"c": _MEANS["m"], "m": "beta2*m + (1 - beta2)*g", "w": "w - learning_rate*sign(c)"},
    ),
    "own_adam": (
        {**_BETAS, "epsilon": 1e-8},
        {
            **_MEANS, "m_hat": "m/(1 - beta1**t)", "v_hat": "v/(1 - beta2**t)",
            "w": "w - learning_rate*m_hat/(sqrt(v_hat) + epsilon)",
        },
    ),
    "own_ridge": ({"learning_rate": 0.1, "penalty": 0.01}, {"w": "w - learning_rate*(g + penalty*w)"}),
    "own_warmup": (
        {"learning_rate": 0.1, "fade": 0.01},
        {
            "rate": "where(t > 3, learning_rate, 0.3*learning_rate)*exp(-fade*t)",
            "w": "w - rate*g*where(fade < 0.5, t, 1)",
        },
    ),
    "own_bounded": (
        {"learning_rate": 0.1, "decay": 0.9},
        {
            "old": "v", "v": "where(abs(g) > abs(v), decay*v + g, decay*v)",
            "w": "w + learning_rate/sqrt(t)*(-tanh(v)) - 0.001*max(old, -1)",
        },
    ),
}  # fmt: skip
RULE_ROWS = {name: own_rule(name, *texts) for name, texts in RULES_OF.items()}


def slope(function, place, *others):
    """A central difference in float64."""
    step = 1e-5 * max(1.0, abs(place))
    return (function(place + step, *others) - function(place - step, *others)) / (2 * step)


class Work:
    """Scratch memory of the operand's shape, full of NaN: an operation may not count on what is there."""

    def __init__(self, like):
        self.like, self.arrays = like, {}

    def full(self, slot=0):
        return self.arrays.setdefault(slot, np.full_like(self.like, np.nan))

    def mask(self):
        return self.arrays.setdefault("mask", np.ones(self.like.shape, bool))
