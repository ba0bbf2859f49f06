"""A number is a number, whoever made it: Python, NumPy, or an array without axes."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.network.initializers import constant

HALF = [np.float16(0.5), np.float32(0.5), np.float64(0.5), np.longdouble(0.5), np.array(0.5), np.array(0.5, np.float32)]
TWO = [np.int8(2), np.uint64(2), np.array(2), np.array(2, np.uint8)]

FRACTIONS = {
    "Huber": (lambda v: gb.Huber(v), lambda made: made.delta),
    "Quantile": (lambda v: gb.Quantile(v), lambda made: made.q),
    "CrossEntropy": (lambda v: gb.CrossEntropy(label_smoothing=v), lambda made: made.label_smoothing),
    "Dropout": (lambda v: gb.Dropout(v), lambda made: made.rate),
    "a share of each member": (lambda v: gb.Dropout([v, 0.1]), lambda made: made.rate[0]),
    "SGD": (lambda v: gb.SGD(v), lambda made: made.learning_rate),
    "a rate of each member": (lambda v: gb.SGD([v, v]), lambda made: made.learning_rate[1]),
    "Adam's beta": (lambda v: gb.Adam(0.1, v), lambda made: made.settings["beta1"]),
    "constant": (lambda v: constant(v), lambda made: made.value),
}
WHOLE = {
    "inputs": (lambda v: gb.Network(v, [gb.Dense(1)]), lambda made: made.inputs),
    "units": (lambda v: gb.Dense(v), lambda made: made.outputs),
    "frequencies": (lambda v: gb.Periodic(frequencies=v), lambda made: made.frequencies),
    "units of each number": (lambda v: gb.Periodic(units=v), lambda made: made.embedding),
    "seed": (lambda v: gb.Network(1, [gb.Dense(1)], seed=v), lambda made: made.seed),
    "seeds": (lambda v: gb.Network(1, [gb.Dense(1)], seed=[v, v]), lambda made: made.seed[1]),
    "batch_size": (lambda v: gb.Trainer(gb.Network(1, [gb.Dense(1)]), batch_size=v), lambda made: made.batch_size),
    "Huber": (lambda v: gb.Huber(v), lambda made: made.delta),
}


@pytest.mark.parametrize("value", HALF, ids=lambda v: f"{type(v).__name__} {v.dtype}")
@pytest.mark.parametrize("name", FRACTIONS)
def test_a_fraction(name, value):
    make, taken = FRACTIONS[name]
    found = taken(make(value))
    assert type(found) is float and found == 0.5
    assert "np." not in repr(make(value))


@pytest.mark.parametrize("value", TWO, ids=lambda v: f"{type(v).__name__} {v.dtype}")
@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_number(name, value):
    make, taken = WHOLE[name]
    found = taken(make(value))
    assert type(found) in (int, float) and found == 2


NO_NUMBER = [True, np.True_, np.array(True), "0.5", np.str_("0.5"), 0.5j, None, b"1", [0.5, 0.5]]
A_NUMBER_EACH = "SGD", "Adam's beta", "Dropout", "Huber", "Quantile", "CrossEntropy"
"""Where members may have numbers of their own, a list is none too many."""


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, v) for name in (*FRACTIONS, *WHOLE) for v in NO_NUMBER[: -1 if name in A_NUMBER_EACH else None]],
)
def test_what_is_no_number(name, value):
    make, _ = (FRACTIONS | WHOLE)[name]
    with pytest.raises(gb.InputError, match="must be|seed"):
        make(value)


def test_generated_text_has_no_numbers_of_numpys():
    number = np.float32(0.3)
    for loss in (gb.Huber(number), gb.Quantile(np.float64(0.25)), gb.CrossEntropy(label_smoothing=number)):
        assert "np." not in loss.formula.cuda_value + loss.formula.cuda_slope


def test_a_delta_of_any_size_is_a_number_in_float32():
    net, x, y = gb.Network(1, [gb.Dense(1)]), np.ones((4, 1)), np.zeros((4, 1))
    for delta in (1e-300, 1e-38, 1e38, 1e300):
        assert np.isfinite(gb.Trainer(net, gb.Huber(delta)).fit(x, y, 1, progress=False)[0]["loss"])
