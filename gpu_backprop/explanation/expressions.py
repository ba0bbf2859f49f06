"""The arithmetic of formulas of one's own, which the engine's expressions say already."""

from __future__ import annotations

import numpy as np

from gpu_backprop.backend.expression import MATHEMATICS, to_text
from gpu_backprop.backend.expression_tree import Node, evaluate
from gpu_backprop.explanation.board import Rule


def rule_of(tree: Node, outer: int) -> Rule:
    """Makes the rule of an expression; outer: as of to_text."""

    def value(*pair: float, **names: float) -> float:
        names |= dict(zip("yt", pair, strict=False))
        with np.errstate(all="ignore"):
            return float(evaluate(tree, names))

    return Rule(to_text(tree, MATHEMATICS, outer), value)
