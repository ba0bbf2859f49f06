"""The texts of a rule's lines: as arithmetic, as formulas, and what is no line."""

from __future__ import annotations

from dataclasses import replace

import pytest

import gpu_backprop as gb
from gpu_backprop.backend.rule_text import arithmetic, write_formula
from gpu_backprop.training.optimizer import symbol
from gpu_backprop.training.optimizers import MOMENTUM


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{a} − {b}·{c}", 2 - 3 * 5),
        ("{a}/{b}·{c}", 2 / 3 * 5),
        ("({a} + {b})²", 25),
        ("−{a}²", -4),
        ("{a}·{b}^{c}", 2 * 3**5),
        ("1.5·√({b}·{b} + 16)", 7.5),
        ("sign({a} − {b}) + sign({c}) + sign({a} − {a})", 0),
    ],
)
def test_a_text_is_worked_out(text, value):
    known = {"a": 2.0, "b": 3.0, "c": 5.0}
    assert arithmetic(text)(**{name: known[name] for name in known if f"{{{name}}}" in text}) == value


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        ("{w} − {learning_rate}·{weight_decay}·{w} − 0.5·{g}", "W − ηλW − 0.5∇W"),
        ("{beta2}·{v} + (1 − {beta2})·{g}²", "β₂v + (1 − β₂)∇W²"),
        ("(1 − {beta2})·({g} − {m})²", "(1 − β₂)(∇W − m)²"),
        ("{w} − {learning_rate}·{m_hat}/(√({v_hat}) + {epsilon})", "W − ηm̂/(√v̂ + ε)"),
        ("{m}/(1 − {beta1}^{t})", "m/(1 − β₁ᵗ)"),
        ("{m}·√({v})", "m√v"),
        # where a dot or a bracket is needed
        ("{g}/{v}·{w}", "∇W/v·W"),
        ("{g}/(1 + {v})·{w}", "∇W/(1 + v)·W"),
        ("{g}^{v}·{w}", "∇W^v·W"),
        ("√({v})·{w}", "√v·W"),
        ("√({v} + {g})·{w}", "√(v + ∇W)·W"),
        ("{learning_rate}·sign({m})·{g}", "η·sign(m)·∇W"),
        ("{grad_sum}·{m} + {m}·{grad_sum}", "grad_sum·m + m·grad_sum"),
        ("{m}·2", "m·2"),
        ("{learning_rate}·{way_hat}·{m_hat}", "η·w\u0302ay·m̂"),
    ],
)
def test_a_text_is_written_as_by_hand(text, formula):
    assert write_formula(text, symbol) == formula


def test_the_formulas_of_optimizers():
    assert gb.SGD().formula == "W ← W − η∇W"
    assert gb.SGD(0.1, 0.9, nesterov=True).formula == "v ← μv + ∇W, W ← W − η(∇W + μv)"
    assert gb.AdamW().formula == (
        "m ← β₁m + (1 − β₁)∇W, v ← β₂v + (1 − β₂)∇W², m̂ = m/(1 − β₁ᵗ), v̂ = v/(1 − β₂ᵗ), W ← W − ηλW − ηm̂/(√v̂ + ε)"
    )


V, W = MOMENTUM.lines


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((), "a line is missing, of velocity, w"),
        ((W,), "a line is missing, of velocity"),
        ((V,), "a line is missing, of w"),
        ((W, V), r"its last line must be \('w', '{w} − …'\)"),
        ((V, ("w", "{w} + {velocity}")), "its last line must be"),
        ((V, ("w", "{velocity} − {w}")), "its last line must be"),
        ((V, ("w", "{w} − {velocity} − {g}")), "one term behind the minus, a sum in brackets; got"),
        ((V, V, W), "each of them has one line"),
        ((("g", "{g}"), V, W), "must be of w, a moment or a new name"),
        ((("momentum", "{g}"), V, W), "must be of w, a moment or a new name"),
        ((("two words", "{g}"), V, W), "must be of w, a moment or a new name"),
        ((V, ("w", "{w} − {rate}·{g}")), "reads rate; what it may: g, learning_rate, momentum, t, velocity, w"),
        ((("a", "{b}"), ("b", "{g}"), V, W), "reads b; what it may"),
        ((V, ("w", "{w} − erf({g})")), "has 'erf'; a line is made of"),
        ((V, ("w", "{w} − learning_rate·{g}")), "has 'learning_rate'; a line is made of"),
        ((V, ("w", "{w} − 2*{g}")), r"has '\*'; a line is made of"),
        ((V, ("w", "{w} − ({g}")), "cannot be worked out"),
        ((V, ("w", "{w} − {learning_rate} {g}")), "cannot be worked out"),
        ((V, ("w", "{w} − {learning_rate}({g})")), "cannot be worked out"),
    ],
)
def test_what_is_no_line_is_said(lines, message):
    with pytest.raises(gb.InputError, match=message):
        replace(MOMENTUM, lines=lines)
