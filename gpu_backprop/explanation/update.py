"""The update of one number of W by an optimizer, a line for each of its rule's."""

from __future__ import annotations

from collections.abc import Mapping

from gpu_backprop.backend.rule_text import NAME, arithmetic
from gpu_backprop.explanation.board import Board, Cell, Exact, Rule, spell
from gpu_backprop.training.optimizer import Optimizer, symbol

Moments = Mapping[str, tuple[float, float]]
"""The moments of one number, before and after the step, by the rule's names."""


def spell_update(
    optimizer: Optimizer, w: Cell, g: Cell, new: Cell, moments: Moments, step: int, rate: float, decay: float,
    penalty: float,
) -> list[str]:  # fmt: skip
    """Writes the lines for one number of the parameters.

    Args:
        optimizer: bound.
        w, g, new: the parameter before the step, its gradient, the parameter after the step.
        moments: the same number's, as the engine keeps them; here they are the authors'.
        step: which step of the optimizer it is, from 1.
        rate, decay, penalty: the factors of the learning rate, not 0, of the weight decay, and of the penalties for
            this number.
    """
    rule = optimizer.rule
    settings = {name: float(value) for name, value in optimizer.settings.items()}
    known = {"w": w, "gradient": g, "g": g, "t": Exact("t", float(step)).cell()}
    known |= {name: Exact(symbol(name), value).cell() for name, value in settings.items()}
    results = {"w": new}
    factors = rule.evaluator(rule.moments.values())(0.0, step, *settings.values())
    for (name, values), factor in zip(moments.items(), factors, strict=True):
        known[name], results[name] = (Board(symbol(name), factor * value).cell() for value in values)
    lines = []
    for name, sign, text in rule.lines_for(rate, decay if settings.get("weight_decay") else 0, penalty):
        value = arithmetic(text)
        if name not in results:
            exact = value(**{operand: known[operand].value for operand in NAME.findall(text)})
            results[name] = Board("g" if name == "g" else symbol(name), exact).cell()
        lines += spell(results[name], Rule(text, value), known, sign)
        known[name] = results[name]
    return lines
