"""The formulas of activations, losses and optimizers a second time, as a line of arithmetic on single numbers.

They stand here apart from the tables that the engine runs, so that what `explain` shows is worked out in two ways.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from gpu_backprop.backend.expression import parse
from gpu_backprop.backend.expression_tree import number, substitute
from gpu_backprop.backend.formula import Activation
from gpu_backprop.explanation.board import Rule, join_terms
from gpu_backprop.explanation.expressions import rule_of
from gpu_backprop.network.activations import ACTIVATIONS as BUILT_IN
from gpu_backprop.network.focal import Focal
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.losses import LOSSES as KNOWN
from gpu_backprop.network.losses import Huber, Quantile
from gpu_backprop.network.own_losses import OwnLoss


def _exp(z: float) -> float:
    return math.exp(min(z, 709))  # beyond that it overflows; a quotient by it is 0 in every digit shown


def _sum(terms: Iterable[float]) -> float:
    terms = list(terms)
    return math.fsum(terms) if all(map(math.isfinite, terms)) else sum(terms)  # fsum refuses ∞ − ∞


def _sigmoid(z: float) -> float:
    return 1 / (1 + _exp(-z))


def _tanh_argument(z: float) -> float:
    return 0.7978845608 * (z + 0.044715 * z**3)


def _gelu_slope(z: float) -> float:
    return 0.5 * (1 + math.erf(z / math.sqrt(2))) + z * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def _gelu_tanh_slope(z: float) -> float:
    t = math.tanh(_tanh_argument(z))
    return 0.5 * (1 + t) + 0.5 * z * (1 - t**2) * 0.7978845608 * (1 + 0.134145 * z**2)


def _softplus_tanh(z: float) -> float:
    return math.tanh(max(z, 0.0) + math.log1p(math.exp(-abs(z))))


_TANH = "tanh(0.7978845608·({z} + 0.044715·{z}³))"
_SIGMA = "1/(1 + exp(−{z}))"
_SOFTPLUS_TANH = "tanh(log(1 + exp({z})))"

ACTIVATIONS: Mapping[str, tuple[Rule, Rule]] = {
    "identity": (Rule("{z}", lambda z: z), Rule("1", lambda: 1.0)),
    "sigmoid": (Rule(_SIGMA, _sigmoid), Rule("{y}·(1 − {y})", lambda y: y * (1 - y))),
    "tanh": (Rule("tanh({z})", lambda z: math.tanh(z)), Rule("(1 − {y}²)", lambda y: 1 - y * y)),
    "relu": (Rule("max({z}, 0)", lambda z: max(z, 0.0)), Rule("[{y} > 0]", lambda y: float(y > 0))),
    "leaky_relu": (
        Rule("max({z}, 0.01·{z})", lambda z: max(z, 0.01 * z)),
        Rule("max([{y} > 0], 0.01)", lambda y: max(float(y > 0), 0.01)),
    ),
    "elu": (
        Rule("(max({z}, 0) + exp(min({z}, 0)) − 1)", lambda z: max(z, 0.0) + math.expm1(min(z, 0.0))),
        Rule("(min({y}, 0) + 1)", lambda y: min(y, 0.0) + 1),
    ),
    "selu": (
        Rule(
            "(1.0507009874·max({z}, 0) + 1.7580993409·(exp(min({z}, 0)) − 1))",
            lambda z: 1.0507009874 * max(z, 0.0) + 1.7580993409 * math.expm1(min(z, 0.0)),
        ),
        Rule(
            "(1.0507009874·[{y} > 0] + (1.7580993409 + {y})·[{y} ≤ 0])",
            lambda y: 1.0507009874 if y > 0 else y + 1.7580993409,
        ),
    ),
    "softplus": (
        Rule("log(1 + exp({z}))", lambda z: max(z, 0.0) + math.log1p(math.exp(-abs(z)))),
        Rule("(1 − exp(−{y}))", lambda y: -math.expm1(-y)),
    ),
    "softsign": (
        Rule("{z}/(1 + |{z}|)", lambda z: z / (1 + abs(z))),
        Rule("(1 − |{y}|)²", lambda y: (1 - abs(y)) ** 2),
    ),
    "gelu": (
        Rule("½·{z}·(1 + erf({z}/√(2)))", lambda z: 0.5 * z * (1 + math.erf(z / math.sqrt(2)))),
        Rule("(½·(1 + erf({z}/√(2))) + {z}·exp(−½·{z}²)/√(2·π))", _gelu_slope),
    ),
    "gelu_tanh": (
        Rule("½·{z}·(1 + " + _TANH + ")", lambda z: 0.5 * z * (1 + math.tanh(_tanh_argument(z)))),
        Rule(
            f"(½·(1 + {_TANH}) + ½·{{z}}·(1 − {_TANH}²)·0.7978845608·(1 + 0.134145·{{z}}²))",
            _gelu_tanh_slope,
        ),
    ),
    "silu": (
        Rule("{z}/(1 + exp(−{z}))", lambda z: z * _sigmoid(z)),
        Rule(
            f"({_SIGMA}·(1 + {{z}}·(1 − {_SIGMA})))", lambda z: _sigmoid(z) * (1 + z * (1 - _sigmoid(z)))
        ),
    ),
    "mish": (
        Rule("{z}·" + _SOFTPLUS_TANH, lambda z: z * _softplus_tanh(z)),
        Rule(
            f"({_SOFTPLUS_TANH} + {{z}}·{_SIGMA}·(1 − {_SOFTPLUS_TANH}²))",
            lambda z: _softplus_tanh(z) + z * _sigmoid(z) * (1 - _softplus_tanh(z) ** 2),
        ),
    ),
    "exp": (Rule("exp({z})", _exp), Rule("{y}", lambda y: y)),
}  # fmt: skip
"""y of {z}, and f′ of {y} or {z}, whichever the engine writes it in. [a > b] is 1 where that is so, else 0."""


def activation_rules(f: Activation) -> tuple[Rule, Rule] | None:
    """Returns the rules of an activation, of an expression of one's own too; None for one of functions."""
    if f.expression:
        return rule_of(parse(f.expression, "z"), 0), rule_of(parse(f.derivative, "zy"), 3)
    return ACTIVATIONS[f.name] if f is BUILT_IN.get(f.name) else None


def softmax(units: int) -> Rule:
    """Makes the rule of y0 from a row {z0}, {z1} …"""

    def value(**n: float) -> float:
        return 1 / _sum(_exp(z - n["z0"]) for z in n.values())

    return _over("z", units, lambda z: f"exp({z})", "exp({z0})/(", ")", value)


def softmax_gradient(units: int) -> Rule:
    """Makes the rule of ∇z0 from rows {g0}, {g1} … of ∇y and {y0}, {y1} … of y: a product with the Jacobian of N4."""

    def value(**n: float) -> float:
        return n["y0"] * (n["g0"] - _sum(n[f"g{k}"] * n[f"y{k}"] for k in range(units)))

    return _over("gy", units, lambda g, y: f"{g}·{y}", "{y0}·({g0} − (", "))", value)


def product(terms: int) -> Rule:
    """Makes the rule {a0}·{b0} + {a1}·{b1} …: one number of a matrix product."""
    return _over(
        "ab", terms, lambda a, b: f"{a}·{b}", "", "",
        lambda **n: _sum(n[f"a{k}"] * n[f"b{k}"] for k in range(terms)),
    )  # fmt: skip


def total(terms: int) -> Rule:
    """Makes the rule {a0} + {a1} …"""
    return _over("a", terms, lambda a: a, "", "", lambda **n: _sum(n.values()))


def periodic(frequencies: int) -> Rule:
    """Makes the rule {a} + {A0}·cos(2π·{w0}·{x} + {b0}) …: one unit of a number's embedding."""

    def value(**n: float) -> float:
        return n["a"] + _sum(n[f"A{k}"] * math.cos(_angle(n, f"w{k}", "x", f"b{k}")) for k in range(frequencies))

    return _over("Awb", frequencies, lambda a, w, b: f"{a}·cos(2·π·{w}·{{x}} + {b})", "{a} + ", "", value)


def periodic_weight(rows: int) -> Rule:
    """Makes the rule cos(2π·{w}·{x0} + {b})·{g0} …: ∂E by one of A, from a column of g."""

    def value(**n: float) -> float:
        return _sum(math.cos(_angle(n, "w", f"x{k}", "b")) * n[f"g{k}"] for k in range(rows))

    return _over("xg", rows, lambda x, g: f"cos(2·π·{{w}}·{x} + {{b}})·{g}", "", "", value)


def periodic_bias(rows: int, units: int) -> Rule:
    """Makes the rule −(sin(2π·{w}·{x0} + {b})·({A0}·{g0_0} + {A1}·{g0_1} …) …): ∂E by one of b."""
    terms = [f"sin(2·π·{{w}}·{{x{k}}} + {{b}})·{_product('A', f'g{k}_', units)}" for k in range(rows)]
    silent = frozenset(f"g{k}_{unit}" for k in range(rows) for unit in range(units)) | _numbered("x", rows)

    def value(**n: float) -> float:
        return -_sum(
            math.sin(_angle(n, "w", f"x{k}", "b")) * n[f"A{unit}"] * n[f"g{k}_{unit}"]
            for k in range(rows) for unit in range(units)
        )  # fmt: skip

    return Rule(f"−({join_terms(terms)})", value, silent | _numbered("A", units))


def periodic_x(frequencies: int, units: int) -> Rule:
    """Makes the rule {g} − 2π·({w0}·sin(2π·{w0}·{x} + {b0})·({A0_0}·{g0} + {A0_1}·{g1} …) …): ∂E by one of x."""
    terms = [
        f"{{w{k}}}·sin(2·π·{{w{k}}}·{{x}} + {{b{k}}})·{_product(f'A{k}_', 'g', units)}" for k in range(frequencies)
    ]
    silent = frozenset(f"A{k}_{unit}" for k in range(frequencies) for unit in range(units)) | _numbered("g", units)

    def value(**n: float) -> float:
        return n["g"] - 2 * math.pi * _sum(
            n[f"w{k}"] * math.sin(_angle(n, f"w{k}", "x", f"b{k}")) * n[f"A{k}_{unit}"] * n[f"g{unit}"]
            for k in range(frequencies) for unit in range(units)
        )  # fmt: skip

    return Rule(
        f"{{g}} − 2·π·({join_terms(terms)})", value,
        silent | _numbered("w", frequencies) | _numbered("b", frequencies),
    )  # fmt: skip


def _product(a: str, b: str, terms: int) -> str:
    return f"({join_terms([f'{{{a}{k}}}·{{{b}{k}}}' for k in range(terms)])})"


def _numbered(name: str, count: int) -> frozenset[str]:
    return frozenset(f"{name}{k}" for k in range(count))


def _angle(n: Mapping[str, float], w: str, x: str, b: str) -> float:
    return 2 * math.pi * n[w] * n[x] + n[b]


def _over(
    names: str, count: int, term: Callable[..., str], before: str, after: str, value: Callable[..., float]
) -> Rule:
    """Makes a rule with a sum in it: each term has operands of these names, numbered from 0."""
    terms = [term(*(f"{{{name}{k}}}" for name in names)) for k in range(count)]
    silent = frozenset(f"{name}{k}" for name in names for k in range(count))
    return Rule(before + join_terms(terms) + after, value, silent)


@dataclass(frozen=True)
class LossRule:
    """One output's share of e and of ∂e/∂y, and what e has in front of the sum of these shares."""

    share: Rule
    slope: Rule
    before: str = ""
    factor: float = 1.0
    mean: bool = False  # over the outputs

    def e(self, outputs: int) -> Rule:
        """Makes the rule of e from a row {y0}, {y1} … and its target {t0}, {t1} …"""
        factor = self.factor / (outputs if self.mean else 1)
        before, after = (f"{self.before}(", ")") if self.before or self.mean else ("", "")
        return _over(
            "yt", outputs, lambda y, t: self.share.text.format(y=y, t=t), before,
            after + (f"/{outputs}" if self.mean else ""),
            lambda **n: factor * _sum(self.share.value(n[f"y{k}"], n[f"t{k}"]) for k in range(outputs)),
        )  # fmt: skip


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _entropy(y: float, t: float) -> float:
    return t * _log(y) if t else 0.0


def _sign(value: float) -> float:
    return math.copysign(1.0, value) if value else 0.0


_DIFFERENCE = Rule("({y} − {t})", lambda y, t: y - t)
_SQUARE = Rule("({y} − {t})²", lambda y, t: (y - t) ** 2)
_TWICE = Rule("2·({y} − {t})", lambda y, t: 2 * (y - t))

LOSSES: Mapping[str, LossRule] = {
    "half_squared_error": LossRule(_SQUARE, _DIFFERENCE, "½·", 0.5),
    "squared_error": LossRule(_SQUARE, _TWICE),
    "mean_squared_error": LossRule(_SQUARE, _TWICE, mean=True),
    "absolute_error": LossRule(
        Rule("|{y} − {t}|", lambda y, t: abs(y - t)), Rule("sign({y} − {t})", lambda y, t: _sign(y - t))
    ),
    "cross_entropy": LossRule(
        Rule("{t}·log({y})", _entropy), Rule("(−{t}/{y})", lambda y, t: -t / y), "−", -1.0
    ),
    "binary_cross_entropy": LossRule(
        Rule("{t}·log({y}) + (1 − {t})·log(1 − {y})", lambda y, t: _entropy(y, t) + _entropy(1 - y, 1 - t)),
        Rule("((1 − {t})/(1 − {y}) − {t}/{y})", lambda y, t: (1 - t) / (1 - y) - t / y),
        "−", -1.0,
    ),
    "poisson": LossRule(
        Rule("({y} − {t}·log({y}))", lambda y, t: y - _entropy(y, t)), Rule("(1 − {t}/{y})", lambda y, t: 1 - t / y)
    ),
}  # fmt: skip


def loss_rule(loss: Loss) -> LossRule | None:
    """Returns the rule of a loss of this package; None for a user's own."""
    if type(loss) is Huber:
        return _huber(cast(float, loss.delta))
    if type(loss) is Quantile:
        return _quantile(cast(float, loss.q))
    if type(loss) is Focal:
        return _focal(loss)
    if isinstance(loss, OwnLoss):
        numbers = {name: number(cast(float, getattr(loss, name))) for name in loss.bounds}
        e, slope = (substitute(tree, numbers) for tree in loss.texts.trees())
        return LossRule(rule_of(e, 1), rule_of(slope, 3))
    return LOSSES.get(loss.name) if type(loss) is type(KNOWN.get(loss.name)) else None


def _huber(delta: float) -> LossRule:
    """Makes the rule of Huber's loss. With c = y − t cut off at ±delta: e = c·(y − t − ½c), ∂e/∂y = c."""

    def cut(y: float, t: float) -> float:
        return max(-delta, min(delta, y - t))

    text = f"max(−{delta!r}, min({delta!r}, {{y}} − {{t}}))"
    return LossRule(
        Rule(f"{text}·({{y}} − {{t}} − ½·{text})", lambda y, t: cut(y, t) * (y - t - 0.5 * cut(y, t))), Rule(text, cut)
    )


def _focal(loss: Focal) -> LossRule:
    """Makes the rule of the focal loss: of classes, or of outputs that are each a yes or no of its own."""
    gamma, yes, no = (float(number) for number in (cast(float, loss.gamma), loss.yes, loss.no))

    def share(p: float, weight: float) -> float:
        return weight * (1 - p) ** gamma * _log(p) if weight else 0.0

    def slope(p: float, weight: float) -> float:
        return weight * ((1 - p) ** gamma / p - gamma * (1 - p) ** (gamma - 1) * math.log(p)) if weight else 0.0

    power, steep = f"·(1 − {{y}})^{gamma!r}", f"·(1 − {{y}})^{gamma - 1!r}"
    text, of = f"{{t}}{power}·log({{y}})", f"(−{{t}}·((1 − {{y}})^{gamma!r}/{{y}} − {gamma!r}{steep}·log({{y}})))"
    if loss.labels:
        return LossRule(Rule(text, share), Rule(of, lambda y, t: -slope(y, t)), "−", -1.0)
    other = f"(1 − {{t}})·{{y}}^{gamma!r}·log(1 − {{y}})"
    text = f"({yes!r}·{text} + {no!r}·{other})"
    grown = f"(1 − {{t}})·({{y}}^{gamma!r}/(1 − {{y}}) − {gamma!r}·{{y}}^{gamma - 1!r}·log(1 − {{y}}))"
    return LossRule(
        Rule(text, lambda y, t: share(y, yes * t) + share(1 - y, no * (1 - t))),
        Rule(f"({yes!r}·{of} + {no!r}·{grown})", lambda y, t: slope(1 - y, no * (1 - t)) - slope(y, yes * t)),
        "−", -1.0,
    )  # fmt: skip


def _quantile(q: float) -> LossRule:
    return LossRule(
        Rule(
            f"max({q!r}·({{t}} − {{y}}), ({q!r} − 1)·({{t}} − {{y}}))", lambda y, t: max(q * (t - y), (q - 1) * (t - y))
        ),
        Rule(f"(½ − {q!r} + ½·sign({{y}} − {{t}}))", lambda y, t: 0.5 - q + 0.5 * _sign(y - t)),
    )
