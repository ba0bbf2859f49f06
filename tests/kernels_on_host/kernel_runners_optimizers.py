"""How a case of an optimizer's kernel is made, as in kernel_runners, for any rule; and how a rule is proved."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from kernel_cases import Array, Case, Exactly, Near, reference, run
from kernel_draws import Draw, draws, exact
from kernel_program import Program

from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.cuda.kernel_instance import Instance
from gpu_backprop.backend.update_rule import UpdateRule

BLOCK = 256
"""Bytes of parameters that share the factors of rate and decay."""

FORMS = {"plain": "small", "address": "fewer", "thread": "threads"}
"""Which cases are run in which kind of program."""


def hyper_of(d: Draw, rule: UpdateRule, step: int, rate: float, **others: float) -> Array:
    """hyper of all models in that step: a learning rate, and the rule's other settings, the `others` among them,
    none of which is 0."""
    settings = rule.settings | {name: value for name, value in others.items() if name in rule.settings}
    values = [rate, *(value or 0.1 for value in [*settings.values()][1:])]
    return d.memory.holding(np.tile([step, *values], (d.models, 1)), np.float64)


def groups_of(d: Draw, n: int, dtype: np.dtype) -> Array | None:
    """Factors of rate, decay and penalties for each block of n parameters, some of which are frozen; or none."""
    blocks = -(-n * dtype.itemsize // BLOCK)
    return d.memory.holding(d.random.choice([0, 0.5, 1, 2], (3, blocks)), dtype) if n and d.flip() else None


def exact_groups(groups: Array | None) -> Array | None:
    """The same for the parameters of the reference: in float64, of which fewer fill a block."""
    return None if groups is None else np.repeat(exact(groups), 8 // groups.itemsize, axis=1)


def moments_of(d: Draw, rule: UpdateRule, hyper: Array, shape: tuple[int, int], dtype: np.dtype) -> Array | None:
    """The moments that the steps before the one in hyper leave, of random gradients."""
    if not rule.moments:
        return None
    moments, begun = np.zeros((len(rule.moments), *shape)), exact(hyper)
    for begun[:, 0] in range(1, int(hyper[0, 0])):
        g = d.random.uniform(-4, 4, shape)
        reference(numpy_ops.update, np.zeros(shape), g, moments, rule, begun, None, None, None)
    return d.memory.holding(moments, dtype)


def update(d: Draw) -> Case:
    """A step of some parameters: all of them, or those of some models and groups; with a copy in T, or none."""
    rule, A, shape = d.chosen["U"], d.A, (d.models, d.cols)
    w, g = d.numbers(shape, A), d.numbers(shape, A)
    hyper = hyper_of(d, rule, d.pick(1, 2, 5), 0.1)
    moments, groups = moments_of(d, rule, hyper, shape, A), groups_of(d, d.cols, A)
    factor = d.memory.holding(d.random.choice([0, 1, 2.0**-7], d.models), np.float64) if d.flip(0.6) else None
    if factor is not None:
        factor[1:2] = 0  # of several models, one is skipped
    half_parameters = d.empty(shape, d.T) if d.flip() else None
    halves = np.full(shape, np.nan)
    after = {"w": exact(w), "moments": exact(moments)}
    reference(
        numpy_ops.update, after["w"], exact(g), after["moments"], rule, exact(hyper), exact(factor),
        exact_groups(groups), halves,
    )  # fmt: skip
    if half_parameters is not None:
        after["half_parameters"] = halves
    wanted = {name: Near(a, d.tolerance() * (1 + abs(a))) for name, a in after.items() if a is not None}
    parameters = {
        "w": w, "g": g, "moments": moments, "hyper": hyper, "gradient_factor": factor, "groups": groups,
        "half_parameters": half_parameters, "n": d.cols, "count": len(rule.moments),
        "settings": hyper.shape[1], "blocks": 0 if groups is None else groups.shape[1],
    }  # fmt: skip
    return d.case((d.groups, 1), parameters, wanted)


def unscale(d: Draw) -> Case:
    """Gradients that are finite, or one of them not, in any place; scales at their bounds and between them."""
    n, patience, largest = d.cols, d.pick(1, 2, 5), 2.0 ** d.pick(0, 1, 6)
    g = d.numbers((d.models, n), d.chosen["A"])
    for model in range(d.models if n else 0):
        if d.flip():
            g[model, d.random.integers(n)] = d.pick(np.inf, -np.inf, np.nan)
    scales, streaks = 2.0 ** d.random.integers(0, 7, d.models), d.random.integers(0, patience + 1, d.models)
    scaling = d.memory.holding(np.stack([np.minimum(scales, largest), streaks, 3 * streaks], axis=-1), np.float64)
    counted = d.memory.holding(d.random.integers(0, 2, d.models), "f8") if d.flip() else None
    parameters = {
        "g": g, "scaling": scaling, "counted": counted, "factor": d.empty((d.models,), np.float64),
        "partial": d.empty((d.models, d.groups), "u4"), "tickets": d.tickets(d.models), "n": n, "patience": patience,
        "largest": largest,
    }  # fmt: skip
    state, factor = exact(scaling), np.empty(d.models)
    reference(numpy_ops.unscale, exact(g), state, exact(counted), factor, patience, largest)
    return d.case((d.groups, 1), parameters, {"scaling": Exactly(state), "factor": Exactly(factor)})


def prove(
    made: Iterable[Instance], runner: Callable[[Draw], Case], layout: str, folder: Path, shared: Path, kind: str
) -> int:
    """Compiles instances of one file and runs a runner's cases of them, as test_kernels and test_sanitizers do with
    those of the tables. Returns how many launches were right.

    Args:
        folder, shared: where to compile, and where the parts are that programs have in common.
        kind: of kernel_program.KINDS.
    """
    cases, several = [], list(made)
    for number, one in enumerate(several):
        for draw, orders in draws(one, number, layout, FORMS[kind]):
            cases.append(runner(draw))
            cases[-1].orders = orders
    return run(Program(folder, shared, several, kind), cases)
