"""Optimizers that are not built in, as somebody from outside writes them: a rule each, and a class for its settings.

Nothing of them stands anywhere else. `lion` and `adabelief` are what their authors published, in plain Python, and
`follow` compares a training with that.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

import gpu_backprop as gb


def _lion(w, g, change, work, m, rate, b1, rest1, b2, rest2):
    part = work.full()
    yield partial(np.multiply, m, b1, out=change)
    yield partial(np.multiply, g, rest1, out=part)
    yield partial(np.add, change, part, out=change)
    yield partial(np.sign, change, out=change)
    yield partial(np.multiply, change, rate, out=change)
    yield partial(np.multiply, m, b2, out=m)
    yield partial(np.multiply, g, rest2, out=part)
    yield partial(np.add, m, part, out=m)


LION = gb.UpdateRule(
    name="lion",
    settings={"learning_rate": 1e-4, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0},
    moments={"m": "1"},
    coefficients={
        "rate": "learning_rate", "b1": "beta1", "rest1": "1 - beta1", "b2": "beta2", "rest2": "1 - beta2",
    },
    numpy=_lion,
    cuda="change = rate * sign(b1 * m + rest1 * g); m = b2 * m + rest2 * g;",
    lines=(
        ("c", "{beta1}·{m} + (1 − {beta1})·{g}"), ("m", "{beta2}·{m} + (1 − {beta2})·{g}"),
        ("w", "{w} − {learning_rate}·sign({c})"),
    ),
)  # fmt: skip


class Lion(gb.Optimizer):
    """Chen et al. 2023, algorithm 2."""

    def __init__(self, learning_rate=1e-4, beta1=0.9, beta2=0.99, weight_decay=0.0):
        super().__init__(LION, learning_rate=learning_rate, beta1=beta1, beta2=beta2, weight_decay=weight_decay)


def lion(w, steps):
    """Chen et al. 2023, algorithm 2: the weight after steps with these gradients and settings."""
    m = 0.0
    for g, s in steps:
        c = s["beta1"] * m + (1 - s["beta1"]) * g
        w = w - s["learning_rate"] * ((c > 0) - (c < 0) + s["weight_decay"] * w)
        m = s["beta2"] * m + (1 - s["beta2"]) * g
    return w


def _adabelief(w, g, change, work, m, s, b1, rest1, b2, rest2, eps, rate, root_eps):
    part = work.full()
    yield partial(np.multiply, m, b1, out=m)
    yield partial(np.multiply, g, rest1, out=part)
    yield partial(np.add, m, part, out=m)
    yield partial(np.subtract, g, m, out=part)
    yield partial(np.multiply, part, part, out=part)
    yield partial(np.multiply, part, rest2, out=part)
    yield partial(np.multiply, s, b2, out=s)
    yield partial(np.add, s, part, out=s)
    yield partial(np.add, s, eps, out=s)
    yield partial(np.sqrt, s, out=change)
    yield partial(np.add, change, root_eps, out=change)
    yield partial(np.divide, m, change, out=change)
    yield partial(np.multiply, change, rate, out=change)


_ROOT = "root(correction(C(1 - beta2), step))"

ADABELIEF = gb.UpdateRule(
    name="adabelief",
    settings={"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
    moments={"m": "1", "s": "1"},
    coefficients={
        "b1": "beta1", "rest1": "1 - beta1", "b2": "beta2", "rest2": "1 - beta2", "eps": "epsilon",
        "rate": f"C(learning_rate) * {_ROOT} / correction(C(1 - beta1), step)", "root_eps": f"C(epsilon) * {_ROOT}",
    },
    numpy=_adabelief,
    cuda="""
      m = b1 * m + rest1 * g;
      const A off = g - m;
      s = b2 * s + rest2 * (off * off) + eps;
      change = rate * (m / (sqrt(s) + root_eps));
    """,
    lines=(
        ("m", "{beta1}·{m} + (1 − {beta1})·{g}"),
        ("s", "{beta2}·{s} + (1 − {beta2})·({g} − {m})² + {epsilon}"),
        ("m_hat", "{m}/(1 − {beta1}^{t})"), ("s_hat", "{s}/(1 − {beta2}^{t})"),
        ("w", "{w} − {learning_rate}·{m_hat}/(√({s_hat}) + {epsilon})"),
    ),
)  # fmt: skip


class AdaBelief(gb.Optimizer):
    """Zhuang et al. 2020, algorithm 2."""

    def __init__(self, learning_rate=1e-3, beta1=0.9, beta2=0.999, epsilon=1e-8):
        super().__init__(ADABELIEF, learning_rate=learning_rate, beta1=beta1, beta2=beta2, epsilon=epsilon)


def adabelief(w, steps):
    """Zhuang et al. 2020, algorithm 2: the weight after steps with these gradients and settings."""
    m = v = 0.0
    for t, (g, s) in enumerate(steps, 1):
        m = s["beta1"] * m + (1 - s["beta1"]) * g
        v = s["beta2"] * v + (1 - s["beta2"]) * (g - m) ** 2 + s["epsilon"]
        m_hat, v_hat = m / (1 - s["beta1"] ** t), v / (1 - s["beta2"] ** t)
        w = w - s["learning_rate"] * m_hat / (math.sqrt(v_hat) + s["epsilon"])
    return w


def _ridge(w, g, change, work, rate, l2):
    yield partial(np.multiply, w, l2, out=change)
    yield partial(np.add, change, g, out=change)
    yield partial(np.multiply, change, rate, out=change)


RIDGE = gb.UpdateRule(
    name="ridge", settings={"learning_rate": 0.1, "penalty": 0.01}, moments={},
    coefficients={"rate": "learning_rate", "l2": "penalty"}, numpy=_ridge, cuda="change = rate * (g + l2 * w);",
    lines=[("grad", "{g} + {penalty}·{w}"), ("w", "{w} − {learning_rate}·{grad}")],
)  # fmt: skip
"""Descent of a loss to which ½·penalty·W² is added: it reads W."""


def ridge(w, steps):
    """The weight after steps with these gradients and settings."""
    for g, s in steps:
        w = w - s["learning_rate"] * (g + s["penalty"] * w)
    return w


FORMULAS = {"lion": lion, "adabelief": adabelief, "ridge": ridge}


def follow(trainer, batches, tolerance, changes=None):
    """Trains on minibatches (x, y) or (x, y, weights), and compares every number of the parameters with what the
    authors' formula makes of the gradients that there were. changes: by step, from 0, settings to be set before it."""
    net, optimizer = trainer.network, trainer.optimizer
    models = math.prod(net.models_shape)
    start, steps = _models(net, net.parameters), [[] for _ in range(models)]
    for number, (x, y, *weights) in enumerate(batches):
        for name, value in (changes or {}).get(number, {}).items():
            setattr(optimizer, name, value)
        counts = not weights or any(weights[0])
        scale = (
            1.0 if trainer.scaling.state is None else net.device.to_host(trainer.scaling.state).reshape(-1, 3)[:, :1]
        )
        trainer.step(x, y, *weights)
        gradients = _models(net, net.gradients) / scale
        for model in range(models):
            settings = {k: v[model] if isinstance(v, tuple) else v for k, v in optimizer.settings.items()}
            if counts and np.isfinite(gradients[model]).all():
                steps[model].append((gradients[model], settings))
    found = _models(net, net.parameters)
    for model, taken in enumerate(steps):
        for k, w in enumerate(start[model].tolist()):
            want = FORMULAS[optimizer.rule.name](w, [(float(g[k]), settings) for g, settings in taken])
            assert abs(found[model, k] - want) <= tolerance * (1 + abs(want)), (model, k, found[model, k], want)
    counted = net.device.to_host(optimizer.hyper)[..., 0].reshape(-1).tolist()
    assert counted == [len(taken) for taken in steps]
    return [len(taken) for taken in steps]


def _models(net, array):
    """The flat buffers of all models on the host, in float64, without the gaps between parameters."""
    flat = net.device.to_host(array).astype(np.float64).reshape(-1, array.shape[-1])
    places = [np.arange(start, start + math.prod(shape)) for _, _, shape, start in net.places]
    return flat[:, np.concatenate(places)]
