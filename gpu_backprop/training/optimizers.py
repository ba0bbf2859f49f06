"""The table of optimizers: each is a rule, with a class for its settings. How a rule enters a step stands in
optimizer.py, and what it is made of in backend/update_rule.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Unpack

import numpy as np

from gpu_backprop.backend.errors import InputError, named
from gpu_backprop.backend.formula import Array, Call, Calls, Work, call
from gpu_backprop.backend.update_rule import OPTIONAL, UpdateRule
from gpu_backprop.network.numbers import is_zero, switch
from gpu_backprop.training.optimizer import Common, Optimizer, Setting

FAR = 1e-12
"""Of the largest number: squares below it do not add up to it in any number of steps that somebody waits for."""


def _sgd(w: Array, g: Array, change: Array, work: Work, rate: Array) -> Calls:
    yield call(np.multiply, g, rate, out=change)


def _momentum(w: Array, g: Array, change: Array, work: Work, velocity: Array, rate: Array, mu: Array) -> Calls:
    yield call(np.multiply, velocity, mu, out=velocity)
    yield call(np.add, velocity, g, out=velocity)
    yield call(np.multiply, velocity, rate, out=change)


def _nesterov(w: Array, g: Array, change: Array, work: Work, velocity: Array, rate: Array, mu: Array) -> Calls:
    yield call(np.multiply, velocity, mu, out=velocity)
    yield call(np.add, velocity, g, out=velocity)
    yield call(np.multiply, velocity, mu, out=change)
    yield call(np.add, change, g, out=change)
    yield call(np.multiply, change, rate, out=change)


_V = ("velocity", "{momentum}·{velocity} + {g}")

PLAIN = UpdateRule(
    "sgd", {"learning_rate": 0.1}, {}, {"rate": "learning_rate"}, _sgd, "change = rate * g;",
    (("w", "{w} − {learning_rate}·{g}"),),
)  # fmt: skip
MOMENTUM = UpdateRule(
    "momentum", {"learning_rate": 0.1, "momentum": 0.9}, {"velocity": "1"},
    {"rate": "learning_rate", "mu": "momentum"}, _momentum, "velocity = mu * velocity + g; change = rate * velocity;",
    (_V, ("w", "{w} − {learning_rate}·{velocity}")),
)  # fmt: skip
NESTEROV = UpdateRule(
    "nesterov", {"learning_rate": 0.1, "momentum": 0.9}, {"velocity": "1"},
    {"rate": "learning_rate", "mu": "momentum"}, _nesterov,
    "velocity = mu * velocity + g; change = rate * (mu * velocity + g);",
    (_V, ("w", "{w} − {learning_rate}·({g} + {momentum}·{velocity})")),
)  # fmt: skip


class SGD(Optimizer):
    """W ← W − η∇W (N3). With momentum: v ← μv + ∇W, W ← W − ηv (Polyak 1964); with Nesterov's, W ← W − η(∇W + μv)
    (Sutskever et al. 2013, in the form that takes the gradient at W).

    Args:
        learning_rate: η > 0.
        momentum: μ in [0, 1); 0: none.
        nesterov: whether to look ahead; needs momentum.
        more: weight_decay, l1, l2 and schedule, see `Optimizer`; those that follow take them too.
    """

    instead: ClassVar[Mapping[str, str]] = {
        **Optimizer.instead,
        "momentum": "SGD(0.1, momentum=0.9): one without momentum keeps no velocity",
        "nesterov": "SGD(0.1, momentum=0.9, nesterov=True): it is decided when it is made",
    }

    def __init__(
        self, learning_rate: Setting = 0.1, momentum: Setting = 0.0, nesterov: bool = False, **more: Unpack[Common]
    ) -> None:
        if not is_zero(momentum):
            rule = NESTEROV if switch("nesterov", nesterov) else MOMENTUM
            super().__init__(rule, learning_rate=learning_rate, momentum=momentum, **more)
        elif switch("nesterov", nesterov):
            raise InputError("nesterov=True needs a momentum > 0, such as momentum=0.9.")
        else:
            super().__init__(PLAIN, learning_rate=learning_rate, **more)

    @property
    def name(self) -> str:
        return "sgd"

    def describe(self) -> dict[str, Any]:
        return super().describe() | ({"nesterov": True} if self.rule.name == NESTEROV.name else {})


def _rmsprop(
    w: Array,
    g: Array,
    change: Array,
    work: Work,
    v: Array,
    rate: Array,
    rho: Array,
    rest: Array,
    eps: Array,
    bound: Array,
) -> Calls:
    """v ← ρv + (1 − ρ)g²"""

    def update(grad: Array) -> Calls:
        yield call(np.multiply, change, rest, out=change)
        yield call(np.multiply, v, rho, out=v)
        yield call(np.add, v, change, out=v)
        yield from _divided(grad, v, rate, eps, change)

    yield _after_squares(update, g, bound, change, work.full())


def _adagrad(w: Array, g: Array, change: Array, work: Work, v: Array, rate: Array, eps: Array, bound: Array) -> Calls:
    """v ← v + g², at most the largest number"""
    largest = np.finfo(v.dtype).max

    def update(grad: Array) -> Calls:
        yield call(np.add, v, change, out=v)
        yield call(np.minimum, v, largest, out=v)
        yield from _divided(grad, v, rate, eps, change)

    yield _after_squares(update, g, bound, change, work.full())


def _adam(
    w: Array, g: Array, change: Array, work: Work, m: Array, v: Array, b1: Array, b2: Array, eps: Array, rate: Array,
    bound: Array,
) -> Calls:  # fmt: skip
    """change = rate·m/(√v + eps)"""

    def update(grad: Array) -> Calls:
        yield from _means(m, v, b1, b2, grad, change)
        yield from _divided(m, v, rate, eps, change)

    yield _after_squares(update, g, bound, change, work.full())


def _means(m: Array, v: Array, b1: Array, b2: Array, g: Array, squares: Array) -> Calls:
    """m ← β₁m + g, v ← β₂v + g²"""
    yield call(np.multiply, m, b1, out=m)
    yield call(np.add, m, g, out=m)
    yield call(np.multiply, v, b2, out=v)
    yield call(np.add, v, squares, out=v)


def _divided(g: Array, v: Array, rate: Array, eps: Array, change: Array) -> Calls:
    """change = rate·g/(√v + eps)"""
    yield call(np.sqrt, v, out=change)
    yield call(np.add, change, eps, out=change)
    yield call(np.divide, g, change, out=change)
    yield call(np.multiply, change, rate, out=change)


def _after_squares(update: Callable[[Array], Calls], g: Array, bound: Array, squares: Array, cut: Array) -> Call:
    """update(gradients) as one call, which finds their squares. Gradients beyond ±bound are cut off in a copy, where
    infinite ones become NaN, which is seen; to look for large ones costs less, and is all that is done where there is
    none."""
    few = float(np.finfo(g.dtype).max) * FAR
    ordinary = tuple(update(g))
    careful = (
        call(np.negative, bound, out=squares),
        call(np.maximum, g, squares, out=cut),
        call(np.minimum, cut, bound, out=cut),
        call(np.subtract, g, g, out=squares),
        call(np.add, cut, squares, out=cut),
        call(np.multiply, cut, cut, out=squares),
        *update(cut),
    )

    def run() -> None:
        np.multiply(g, g, squares)
        for one in ordinary if np.maximum.reduce(squares, axis=None, initial=0) <= few else careful:
            one()

    return run


_GRAD = "const A grad = clip(g, bound);"
_DIVIDED = "{w} − {learning_rate}·{g}/(√({v}) + {epsilon})"

RMSPROP = UpdateRule(
    "rmsprop", {"learning_rate": 0.001, "decay": 0.9, "epsilon": 1e-8}, {"v": "1"},
    {"rate": "learning_rate", "rho": "decay", "rest": "1 - decay", "eps": "epsilon", "bound": "largest"}, _rmsprop,
    f"{_GRAD} v = rho * v + rest * (grad * grad); change = rate * quotient(grad, sqrt(v) + eps);",
    (("v", "{decay}·{v} + (1 − {decay})·{g}²"), ("w", _DIVIDED)),
)  # fmt: skip
ADAGRAD = UpdateRule(
    "adagrad", {"learning_rate": 0.01, "epsilon": 1e-10}, {"v": "1"},
    {"rate": "learning_rate", "eps": "epsilon", "bound": "largest"}, _adagrad,
    f"{_GRAD} v = v + grad * grad; v = v > most<A>() ? most<A>() : v; change = rate * quotient(grad, sqrt(v) + eps);",
    (("v", "{v} + {g}²"), ("w", _DIVIDED)),
)  # fmt: skip

_ROOT = "root(C(1 - beta2) / correction(C(1 - beta2), step))"


def _adam_rule(name: str, weight_decay: Mapping[str, float]) -> UpdateRule:
    """m and v are kept without their factors (1 − β₁) and (1 − β₂), which go with the bias corrections into two
    coefficients: m ← β₁m + g, v ← β₂v + g², and with k² = (1 − β₂)/(1 − β₂ᵗ)
    η·m̂/(√v̂ + ε) = η(1 − β₁)/((1 − β₁ᵗ)k) · m/(√v + ε/k): three passes over memory less. v is a sum of squares with
    weights up to 1/(1 − β₂) in all, and so are the gradients cut off.
    """
    return UpdateRule(
        name, {"learning_rate": 0.001, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, **weight_decay},
        {"m": "1 - beta1", "v": "1 - beta2"},
        {
            "b1": "beta1", "b2": "beta2", "eps": f"C(epsilon) / {_ROOT}",
            "rate": f"C(learning_rate) * C(1 - beta1) / correction(C(1 - beta1), step) / {_ROOT}",
            "bound": "largest * root(C(1 - beta2))",
        },
        _adam,
        f"{_GRAD} m = b1 * m + grad; v = b2 * v + grad * grad; change = rate * quotient(m, sqrt(v) + eps);",
        (
            ("m", "{beta1}·{m} + (1 − {beta1})·{g}"), ("v", "{beta2}·{v} + (1 − {beta2})·{g}²"),
            ("m_hat", "{m}/(1 − {beta1}^{t})"), ("v_hat", "{v}/(1 − {beta2}^{t})"),
            ("w", "{w} − {learning_rate}·{m_hat}/(√({v_hat}) + {epsilon})"),
        ),
    )  # fmt: skip


ADAM, ADAMW = _adam_rule("adam", {}), _adam_rule("adamw", {"weight_decay": 0.01})


def _mu(step: str) -> str:
    """The momentum of a step."""
    return f"C(beta1) * (C(1) - power(C(0.96), momentum_decay * ({step})) / C(2))"


def _less_product(step: str) -> str:
    """1 less the product of all of them so far."""
    return f"(C(1) - momentum_product(C(beta1), C(momentum_decay), {step}))"


def _nadam(
    w: Array, g: Array, change: Array, work: Work, m: Array, v: Array, b1: Array, b2: Array, eps: Array, ahead: Array,
    rate: Array, bound: Array,
) -> Calls:  # fmt: skip
    """change = (ahead·m + rate·g)/(√v + eps)"""
    term = work.full(1)

    def update(grad: Array) -> Calls:
        yield from _means(m, v, b1, b2, grad, change)
        yield call(np.multiply, grad, rate, out=change)
        yield call(np.multiply, m, ahead, out=term)
        yield call(np.add, change, term, out=change)
        yield call(np.sqrt, v, out=term)
        yield call(np.add, term, eps, out=term)
        yield call(np.divide, change, term, out=change)

    yield _after_squares(update, g, bound, change, work.full())


def _radam(
    w: Array, g: Array, change: Array, work: Work, m: Array, v: Array, b1: Array, b2: Array, eps: Array, rate: Array,
    plain: Array, bound: Array,
) -> Calls:  # fmt: skip
    """change = (rate/(√v + eps) + plain)·m"""

    def update(grad: Array) -> Calls:
        yield from _means(m, v, b1, b2, grad, change)
        yield call(np.sqrt, v, out=change)
        yield call(np.add, change, eps, out=change)
        yield call(np.divide, rate, change, out=change)
        yield call(np.add, change, plain, out=change)
        yield call(np.multiply, change, m, out=change)

    yield _after_squares(update, g, bound, change, work.full())


def _lion(
    w: Array, g: Array, change: Array, work: Work, m: Array, rate: Array, b1: Array, rest1: Array, b2: Array,
    rest2: Array,
) -> Calls:  # fmt: skip
    """The sign of a mean, and m − m, which is NaN where m is no number, so that it is seen."""
    term = work.full()
    yield call(np.multiply, m, b1, out=change)
    yield call(np.multiply, g, rest1, out=term)
    yield call(np.add, change, term, out=change)
    yield call(np.sign, change, out=change)
    yield call(np.multiply, change, rate, out=change)
    yield call(np.multiply, m, b2, out=m)
    yield call(np.multiply, g, rest2, out=term)
    yield call(np.add, m, term, out=m)
    yield call(np.subtract, m, m, out=term)
    yield call(np.add, change, term, out=change)


_OF_ADAM = {"b1": "beta1", "b2": "beta2", "bound": "largest * root(C(1 - beta2))"}
_M_AND_V = f"{_GRAD} m = b1 * m + grad; v = b2 * v + grad * grad;"
_MEANS = ("m", "{beta1}·{m} + (1 − {beta1})·{g}"), ("v", "{beta2}·{v} + (1 − {beta2})·{g}²")
_MU = "{beta1}·(1 − 0.96^({momentum_decay}·%s)/2)"

NADAM = UpdateRule(
    "nadam",
    {"learning_rate": 0.002, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "momentum_decay": 0.004},
    {"m": "1 - beta1", "v": "1 - beta2"},
    {
        **_OF_ADAM, "eps": f"C(epsilon) / {_ROOT}",
        "ahead": f"C(learning_rate) * C(1 - beta1) * {_mu('step + 1')} / {_less_product('step + 1')} / {_ROOT}",
        "rate": f"C(learning_rate) * (C(1) - {_mu('step')}) / {_less_product('step')} / {_ROOT}",
    },
    _nadam,
    f"{_M_AND_V} change = quotient(ahead * m + rate * grad, sqrt(v) + eps);",
    (
        *_MEANS, ("mu", _MU % "{t}"), ("mu_next", _MU % "({t} + 1)"),
        ("p", "momentum_product({beta1}, {momentum_decay}, {t})"),
        ("m_hat", "{mu_next}·{m}/(1 − {mu_next}·{p}) + (1 − {mu})·{g}/(1 − {p})"),
        ("v_hat", "{v}/(1 − {beta2}^{t})"), ("w", "{w} − {learning_rate}·{m_hat}/(√({v_hat}) + {epsilon})"),
    ),
)  # fmt: skip
_UNBIASED = "C(learning_rate) * C(1 - beta1) / correction(C(1 - beta1), step)"
RADAM = UpdateRule(
    "radam", {"learning_rate": 0.001, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
    {"m": "1 - beta1", "v": "1 - beta2"},
    {
        **_OF_ADAM, "eps": "C(epsilon) / root(C(1 - beta2))",
        "rate": f"{_UNBIASED} * C(rectification(beta2, step)) / {_ROOT}",
        "plain": f"{_UNBIASED} * (C(1) - sign(C(rectification(beta2, step))))",
    },
    _radam,
    f"{_M_AND_V} change = (quotient(rate, sqrt(v) + eps) + plain) * m;",
    (
        *_MEANS, ("m_hat", "{m}/(1 − {beta1}^{t})"), ("r", "rectification({beta2}, {t})"),
        ("l", "√(1 − {beta2}^{t})/(√({v}) + {epsilon})"),
        ("w", "{w} − {learning_rate}·{m_hat}·({r}·{l} + 1 − sign({r}))"),
    ),
)  # fmt: skip
LION = UpdateRule(
    "lion", {"learning_rate": 0.0001, "beta1": 0.9, "beta2": 0.99}, {"m": "1"},
    {"rate": "learning_rate", "b1": "beta1", "rest1": "1 - beta1", "b2": "beta2", "rest2": "1 - beta2"}, _lion,
    "change = rate * sign(b1 * m + rest1 * g); m = b2 * m + rest2 * g; change += m - m;",
    (
        ("c", "{beta1}·{m} + (1 − {beta1})·{g}"), ("m", "{beta2}·{m} + (1 − {beta2})·{g}"),
        ("w", "{w} − {learning_rate}·sign({c})"),
    ),
)  # fmt: skip


class RMSprop(Optimizer):
    """v ← ρv + (1 − ρ)∇W², W ← W − η∇W/(√v + ε) (Tieleman and Hinton 2012, lecture 6e). Here and in those that follow a
    gradient whose square would leave the dtype (beyond 1e19 in float32) counts as one whose square does not.

    Args:
        learning_rate: η > 0.
        decay: ρ in [0, 1).
        epsilon: ε ≥ 1e-30.
    """

    def __init__(
        self, learning_rate: Setting = 0.001, decay: Setting = 0.9, epsilon: Setting = 1e-8, **more: Unpack[Common]
    ) -> None:
        super().__init__(RMSPROP, learning_rate=learning_rate, decay=decay, epsilon=epsilon, **more)


class Adagrad(Optimizer):
    """v ← v + ∇W², W ← W − η∇W/(√v + ε) (Duchi, Hazan and Singer 2011).

    Args:
        learning_rate: η > 0.
        epsilon: ε ≥ 1e-30.
    """

    def __init__(self, learning_rate: Setting = 0.01, epsilon: Setting = 1e-10, **more: Unpack[Common]) -> None:
        super().__init__(ADAGRAD, learning_rate=learning_rate, epsilon=epsilon, **more)


class Adam(Optimizer):
    """m ← β₁m + (1 − β₁)∇W, v ← β₂v + (1 − β₂)∇W², m̂ = m/(1 − β₁ᵗ), v̂ = v/(1 − β₂ᵗ), W ← W − η·m̂/(√v̂ + ε)
    (Kingma and Ba 2015, algorithm 1). The moments are kept without their factors (1 − β).

    Args:
        learning_rate: η > 0.
        beta1, beta2: β₁ and β₂ in [0, 1).
        epsilon: ε ≥ 1e-30.
    """

    def __init__(
        self, learning_rate: Setting = 0.001, beta1: Setting = 0.9, beta2: Setting = 0.999, epsilon: Setting = 1e-8,
        **more: Unpack[Common],
    ) -> None:  # fmt: skip
        super().__init__(ADAM, learning_rate=learning_rate, beta1=beta1, beta2=beta2, epsilon=epsilon, **more)


class AdamW(Optimizer):
    """Adam with a decay of the weights beside its gradient step: W ← W − ηλW − η·m̂/(√v̂ + ε)
    (Loshchilov and Hutter 2019, algorithm 2, η their α with a schedule multiplier of 1, λ as in PyTorch scaled by η).

    Args:
        learning_rate, beta1, beta2, epsilon: as Adam's.
        weight_decay: λ ≥ 0, 0.01 unless it is given.
    """

    def __init__(
        self, learning_rate: Setting = 0.001, beta1: Setting = 0.9, beta2: Setting = 0.999, epsilon: Setting = 1e-8,
        **more: Unpack[Common],
    ) -> None:  # fmt: skip
        super().__init__(ADAMW, learning_rate=learning_rate, beta1=beta1, beta2=beta2, epsilon=epsilon, **more)


class NAdam(Optimizer):
    """Adam whose momentum looks ahead, as Nesterov's: with μₜ = β₁(1 − ½·0.96^(ψt)) and p = μ₁·μ₂⋯μₜ,
    m̂ = μₜ₊₁m/(1 − p·μₜ₊₁) + (1 − μₜ)∇W/(1 − p), W ← W − η·m̂/(√v̂ + ε), m and v as Adam's (Dozat 2016, with the
    schedule of μ and the defaults of PyTorch's NAdam).

    Args:
        learning_rate, beta1, beta2, epsilon: as Adam's.
        momentum_decay: ψ ≥ 0, how soon μ comes from ½β₁ to β₁.
    """

    def __init__(
        self, learning_rate: Setting = 0.002, beta1: Setting = 0.9, beta2: Setting = 0.999, epsilon: Setting = 1e-8,
        momentum_decay: Setting = 0.004, **more: Unpack[Common],
    ) -> None:  # fmt: skip
        super().__init__(
            NADAM, learning_rate=learning_rate, beta1=beta1, beta2=beta2, epsilon=epsilon,
            momentum_decay=momentum_decay, **more,
        )  # fmt: skip


class RAdam(Optimizer):
    """Adam that warms up by itself (Liu et al. 2020): W ← W − η·m̂·r·√(1 − β₂ᵗ)/(√v + ε), where r, from 0 to 1, makes
    up for how little v knows in the first steps; in the very first ones, five with the default β₂, where nothing does,
    W ← W − η·m̂. ε stands beside √v, as in PyTorch's RAdam; the paper has none.

    Args:
        learning_rate, beta1, beta2, epsilon: as Adam's. With β₂ ≤ ⅔ no step ever divides by √v.
    """

    def __init__(
        self, learning_rate: Setting = 0.001, beta1: Setting = 0.9, beta2: Setting = 0.999, epsilon: Setting = 1e-8,
        **more: Unpack[Common],
    ) -> None:  # fmt: skip
        super().__init__(RADAM, learning_rate=learning_rate, beta1=beta1, beta2=beta2, epsilon=epsilon, **more)


class Lion(Optimizer):
    """W ← W − η·sign(β₁m + (1 − β₁)∇W), m ← β₂m + (1 − β₂)∇W: each step changes every parameter by η (Chen et al. 2023,
    algorithm 2). Its authors take an η of a third to a tenth of AdamW's, and a weight_decay as many times as large.

    Args:
        learning_rate: η > 0.
        beta1, beta2: β₁ and β₂ in [0, 1).
    """

    def __init__(
        self, learning_rate: Setting = 0.0001, beta1: Setting = 0.9, beta2: Setting = 0.99, **more: Unpack[Common]
    ) -> None:
        super().__init__(LION, learning_rate=learning_rate, beta1=beta1, beta2=beta2, **more)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": SGD,
    "rmsprop": RMSprop,
    "adagrad": Adagrad,
    "adam": Adam,
    "adamw": AdamW,
    "nadam": NAdam,
    "radam": RAdam,
    "lion": Lion,
}
"""By name, a class, or another function, that makes the optimizer with its default settings, or with others by name."""

REGULARIZED = replace(MOMENTUM.with_settings(*OPTIONAL), name="regularized")

RULES: Sequence[UpdateRule] = [
    PLAIN, MOMENTUM, NESTEROV, *(f().rule for f in OPTIMIZERS.values() if f is not SGD), REGULARIZED,
]  # fmt: skip
"""The rules of all optimizers, and one with all that any may have besides, for what goes through every rule."""


def optimizer(spec: str | Optimizer) -> Optimizer:
    """Returns the optimizer that `spec` is, or names, which has its default settings then."""
    if isinstance(spec, UpdateRule):
        raise InputError(
            f"optimizer must be a name or an Optimizer, got the rule {spec.name!r}: write "
            "Optimizer(rule, learning_rate=...)."
        )
    found = named("optimizer", spec, Optimizer, OPTIMIZERS)
    return found if isinstance(found, Optimizer) else found()
