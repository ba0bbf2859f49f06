"""The lines of every rule, worked out in plain Python, are what its update does."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.device import ALIGNMENT
from gpu_backprop.backend.open_device import open_device
from gpu_backprop.backend.rule_text import NAME, arithmetic
from gpu_backprop.training.optimizers import OPTIMIZERS, RULES

BLOCK = ALIGNMENT // 8
GRADIENTS = [0.5, -3.0, 1e-3, 0.0, 40.0, -0.2, 0.5]


def by_lines(rule, settings, w, gradients, *factors):
    """Yields w and the moments of one number after each step."""
    moments = dict.fromkeys(rule.moments, 0.0)
    for t, g in enumerate(gradients, 1):
        known = {**settings, **moments, "w": w, "g": g, "gradient": g, "t": t}
        for name, _, text in rule.lines_for(*factors):
            known[name] = arithmetic(text)(**{operand: known[operand] for operand in NAME.findall(text)})
        w, moments = known["w"], {name: known[name] for name in moments}
        yield w, [*moments.values()]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {
            "learning_rate": 0.3,
            "momentum": 0.5,
            "decay": 0.2,
            "beta1": 0.0,
            "beta2": 0.5,
            "epsilon": 0.1,
            "weight_decay": 0.7,
            "l1": 0.4,
            "l2": 0.3,
            "clip_value": 0.6,
        },
    ],
    ids=["defaults", "others"],
)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_lines_are_what_an_update_does(rule, given):
    """With factors 1, and others of the learning rate, the weight decay and the penalties."""
    settings = rule.settings | {name: value for name, value in given.items() if name in rule.settings}
    groups = np.array([[1.0, 0.5, 2.0], [1.0, 3.0, 0.0], [1.0, 0.0, 0.5]])
    w, g, moments = np.full(3 * BLOCK, 0.7), np.empty(3 * BLOCK), np.zeros((len(rule.moments), 3 * BLOCK))
    hyper = np.array([0.0, *settings.values()])
    calls = [*numpy_ops.update(open_device("cpu", np.dtype("float64")), w, g, moments, rule, hyper, None, groups, None)]
    expected = [by_lines(rule, settings, 0.7, GRADIENTS, *factors) for factors in groups.T]
    of_authors = np.array(rule.evaluator(rule.moments.values())(0.0, 1.0, *settings.values()))
    for g[...] in GRADIENTS:
        hyper[0] += 1
        for call in calls:
            call()
        for (wanted, kept), at in zip(map(next, expected), (0, BLOCK, 2 * BLOCK), strict=True):
            assert w[at] == pytest.approx(wanted, rel=1e-12, abs=1e-15)
            assert moments[:, at] * of_authors == pytest.approx(kept, rel=1e-12, abs=1e-15)


def test_every_optimizer_of_the_table_has_its_rule_there():
    assert all(make().rule in RULES for make in OPTIMIZERS.values())
