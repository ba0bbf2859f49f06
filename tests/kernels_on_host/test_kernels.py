"""Every instance of every kernel, run on the CPU and compared with NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_cases import run
from kernel_draws import FULL, SHAPES
from kernel_table import RUNNERS

from gpu_backprop.backend.formula import Activation, LossFormula
from gpu_backprop.backend.signatures import heads
from gpu_backprop.backend.update_rule import UpdateRule
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.losses import FORMULAS
from gpu_backprop.training.optimizers import RULES

KERNELS = sorted(heads())


def test_every_kernel_has_a_runner():
    assert sorted(RUNNERS) == KERNELS


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_instance_is_right(kernel, cases, program):
    run(program(kernel, "plain"), cases(kernel, "plain", "full" if FULL else "small"))


def test_no_instance_and_no_name_in_a_table_is_without_a_case(cases, everything):
    ran = {case.made.name for kernel in KERNELS for case in cases(kernel, "plain", "small")}
    assert ran == {made.name for made in everything}
    arguments = [argument for made in everything if made.name in ran for argument in made.arguments]
    names = {argument.name for argument in arguments if isinstance(argument, (Activation, LossFormula, UpdateRule))}
    rows = *ACTIVATIONS.values(), *FORMULAS, *RULES
    assert names == {row.name for row in rows} - {"softmax"}  # which has kernels of its own


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_cases_have_all_that_can_be_given(kernel, cases):
    """Each pointer that may be null is null in some case and not in others; there are one and several models, blocks of
    several shapes and groups, no rows at all, steps that are taken, scaled and skipped, and every order."""
    made = cases(kernel, "plain", "small")
    for parameter in heads()[kernel].parameters:
        if parameter.nullable:
            assert {case.parameters[parameter.name] is None for case in made} == {True, False}, parameter.name
    assert len({case.block for case in made}) > 2
    groups = (
        {False} if kernel in ("normalize_weights", "train_epoch") else {True, False}
    )  # these two have a block a model
    assert {case.grid[0] * case.grid[1] > 1 for case in made} == groups
    if any(p.shape and "models" in p.shape for p in heads()[kernel].parameters):
        assert {case.grid[2] > 1 for case in made} == {True, False}
    assert 0 in {case.parameters[name] for case in made for name in ("rows", "n", "count") if name in case.parameters}
    if kernel in ("update", "train_epoch"):
        for name, values in (("gradient_factor", {0, 1, 2.0**-7}), ("groups", {0, 0.5, 1, 2})):
            given = [np.array(case.parameters[name]) for case in made if case.parameters.get(name) is not None]
            assert not given or {*np.concatenate(given, axis=None).tolist()} == values
    if len(made) > 30:
        assert len({case.orders[0] for case in made}) > 7


@pytest.mark.parametrize("block", [(32, 8), (4, 64), (1, 256)])
def test_those_shapes_of_blocks_are_among_the_cases(block):
    assert all(block in [shape.block for shape in SHAPES[layout]] for layout in ("columns", "rows"))
