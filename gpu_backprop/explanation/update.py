"""The update of one number of W by an optimizer, a line for each of its formulas."""

from __future__ import annotations

from collections.abc import Mapping

from gpu_backprop.explanation.board import Board, Cell, Exact, Rule, spell
from gpu_backprop.training.optimizer import Optimizer
from gpu_backprop.training.optimizers import SGD, Adam

Moments = Mapping[str, tuple[float, float]]
"""The moments of one number, before and after the step, by the optimizer's names."""

SYMBOLS = {
    "learning_rate": "η", "momentum": "μ", "decay": "ρ", "epsilon": "ε", "beta1": "β₁", "beta2": "β₂",
    "weight_decay": "λ",
}  # fmt: skip
"""The symbols of the settings in the formulas."""

_ROOT_STEP = Rule(
    "{w} − {learning_rate}·{g}/(√({v}) + {epsilon})",
    lambda w, learning_rate, g, v, epsilon: w - learning_rate * g / (v**0.5 + epsilon),
)


def spell_update(optimizer: Optimizer, w: Cell, g: Cell, new: Cell, moments: Moments, step: int) -> list[str]:
    """Writes the lines for one number of the parameters; none for a user's own optimizer.

    Args:
        optimizer: bound.
        w, g, new: the parameter before the step, its gradient, the parameter after the step.
        moments: the same number's.
        step: which step of the optimizer it is, from 1.
    """
    operands = {name: Exact(SYMBOLS[name], float(value)).cell() for name, value in optimizer.settings.items()}
    operands |= {"w": w, "g": g}
    if isinstance(optimizer, Adam):
        return _adam(new, operands, moments, step)
    if optimizer.name == "sgd":
        return _sgd(optimizer, new, operands, moments)
    if optimizer.name not in ("rmsprop", "adagrad"):
        return []
    old, after = (_moment("v", value) for value in moments["v"])
    if optimizer.name == "rmsprop":
        rule = Rule("{decay}·{v} + (1 − {decay})·{g}²", lambda decay, v, g: decay * v + (1 - decay) * g * g)
    else:
        rule = Rule("{v} + {g}²", lambda v, g: v + g * g)
    return spell(after, rule, operands | {"v": old}, "←") + spell(new, _ROOT_STEP, operands | {"v": after}, "←")


def _moment(name: str, value: float) -> Cell:
    return Board(name, value).cell()


def _sgd(optimizer: Optimizer, new: Cell, operands: dict[str, Cell], moments: Moments) -> list[str]:
    if "velocity" not in moments:
        return spell(
            new, Rule("{w} − {learning_rate}·{g}", lambda w, learning_rate, g: w - learning_rate * g), operands, "←"
        )
    old, after = (_moment("v", value) for value in moments["velocity"])
    rule = Rule("{momentum}·{v} + {g}", lambda momentum, v, g: momentum * v + g)
    lines = spell(after, rule, operands | {"v": old}, "←")
    if isinstance(optimizer, SGD) and optimizer.nesterov:
        rule = Rule(
            "{w} − {learning_rate}·({g} + {momentum}·{v})",
            lambda w, learning_rate, g, momentum, v: w - learning_rate * (g + momentum * v),
        )
    else:
        rule = Rule("{w} − {learning_rate}·{v}", lambda w, learning_rate, v: w - learning_rate * v)
    return lines + spell(new, rule, operands | {"v": after}, "←")


def _adam(new: Cell, operands: dict[str, Cell], moments: Moments, step: int) -> list[str]:
    """Writes Adam's lines. The engine's m and v lack their factors (1 − β); here they have them, as in the paper."""
    b1, b2 = operands["beta1"].value, operands["beta2"].value
    m, m_new = (_moment("m", (1 - b1) * value) for value in moments["m"])
    v, v_new = (_moment("v", (1 - b2) * value) for value in moments["v"])
    m_hat, v_hat = _moment("m̂", m_new.value / (1 - b1**step)), _moment("v̂", v_new.value / (1 - b2**step))
    operands |= {"t": Exact("t", float(step)).cell(), "m": m, "v": v}
    first = Rule("{beta1}·{m} + (1 − {beta1})·{g}", lambda beta1, m, g: beta1 * m + (1 - beta1) * g)
    second = Rule("{beta2}·{v} + (1 − {beta2})·{g}²", lambda beta2, v, g: beta2 * v + (1 - beta2) * g * g)
    lines = spell(m_new, first, operands, "←") + spell(v_new, second, operands, "←")
    operands |= {"m": m_new, "v": v_new}
    lines += spell(m_hat, Rule("{m}/(1 − {beta1}^{t})", lambda m, beta1, t: m / (1 - beta1**t)), operands)
    lines += spell(v_hat, Rule("{v}/(1 − {beta2}^{t})", lambda v, beta2, t: v / (1 - beta2**t)), operands)
    operands |= {"g": m_hat, "v": v_hat}
    if not operands["weight_decay"].value:
        return lines + spell(new, _ROOT_STEP, operands, "←")
    decayed = Rule(
        "{w} − {learning_rate}·{weight_decay}·{w}" + _ROOT_STEP.text.removeprefix("{w}"),
        lambda weight_decay, **n: _ROOT_STEP.value(**n) - n["learning_rate"] * weight_decay * n["w"],
    )
    return lines + spell(new, decayed, operands, "←")
