"""Each member of a population equals its solo run, whatever it has of its own: on NumPy and on the compiled CPU."""

from __future__ import annotations

import os

import population_grid
import pytest

CASES = 400 if os.environ.get("GPU_BACKPROP_PROOF") == "1" else 20
"""The first 20 go through all optimizers, losses, activations and what else a member may have."""

DTYPES = {"float64": (1e-7, 1e-9), "float32": (2e-3, 2e-4)}
"""NumPy computes in float64; float32 is what is compiled, where there is a compiler."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("number", range(CASES))
def test_a_member_equals_its_solo_run(number, dtype):
    population_grid.check(population_grid.draw(number, dtype), "cpu", *DTYPES[dtype])


def test_the_first_cases_go_through_every_table():
    cases = [population_grid.draw(number) for number in range(20)]
    assert {case.loss.name for case in cases} == {loss.name for loss, *_ in population_grid.LOSSES}
    assert len({case.make_optimizer for case in cases}) == len(population_grid.OPTIMIZERS)
    used = {layer.activation.name for case in cases for layer in case.layers()[:-1]}
    assert used >= set(population_grid.ACTIVATIONS)
    given = {name for case in cases for one in case.settings for name in one}
    assert given >= {*population_grid.NUMBERS, "schedule", "class_weight", "label_smoothing"}
    assert {name for case in cases for name in case.fit} == {"rows", "weights", "validation"}
    assert {name for case in cases for name in case.shared} >= {"validation_split", "early_stopping", "validation"}
