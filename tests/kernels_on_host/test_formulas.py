"""Each formula of the tables is written twice, for NumPy and for CUDA: here both are run on the CPU and compared; so
are the coefficients of optimizers, whose one text Python and C++ read."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import sweep
from own_formulas import ACTIVATION_ROWS, LOSS_CLASSES, RULE_ROWS

from gpu_backprop.backend.kernel_text import functor_name
from gpu_backprop.backend.update_rule import largest_gradient
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.losses import LOSSES
from gpu_backprop.training.optimizers import RULES

RELATIVE = {"float32": 16 * 2.0**-23, "float64": 1e-12}

UNITS = {"gelu_slope": 1, "gelu_tanh_value": 1, "gelu_tanh_slope": 1, "silu_slope": 1, "mish_slope": 1,
         "own_mish_slope": 1, "gauss_slope": 1, "log_cosh_slope": 2, "two_sided_slope": 4}  # fmt: skip
"""Formulas that take small differences of numbers near 1, and by how many roundings of 1 their two texts may differ."""

EDGES = [np.nan, 0.0, -0.0, 1.0, -1.0, 1e-30, -1e-30, 20.0, -20.0, 100.0, -100.0, 1e4, -1e4]
NONE = np.empty(0)
FINE = np.geomspace(1e-6, 1e3, 40)
LINE = np.concatenate([EDGES, np.linspace(-8, 8, 641), FINE, -FINE])
UNIT = np.concatenate([[np.nan, 0.0, 1.0, 1e-30, 0.5], np.linspace(0.01, 0.99, 99), 1 - FINE[:20]])
RATES = np.concatenate([[np.nan, 0.0, 1e-30, 1e4], FINE])

EVERY_ACTIVATION = ACTIVATIONS | ACTIVATION_ROWS
EVERY_LOSS = LOSSES | {name: made() for name, made in LOSS_CLASSES.items()}
"""Those of the tables, and some of expressions."""

EVERYWHERE = (LINE, [0, 1.5, -1e4])  # where y − y* = ±1, Huber's parabola ends
DOMAINS = {
    "cross_entropy": (UNIT, [0, 1, 0.3]),
    "binary_cross_entropy": (UNIT, [0, 1, 0.3]),
    "poisson": (RATES, [0, 1, 7]),
    "focal": (UNIT, [0, 1, 0.3]),
    "own_entropy": (UNIT[4:], [0, 1, 0.3]),
    "own_poisson": (RATES[2:], [0, 1, 7]),
}
"""Values of y and of y* that a loss is defined for, where these are not all numbers."""


class Work:
    """Scratch memory of the operand's shape, full of NaN: an operation may not count on what is there."""

    def __init__(self, like: np.ndarray) -> None:
        self.like, self.arrays = like, {}

    def full(self, slot: int = 0) -> np.ndarray:
        return self.arrays.setdefault(slot, np.full_like(self.like, np.nan))

    def rows(self, slot: int = 0) -> np.ndarray:
        return self.arrays.setdefault(("rows", slot), np.full_like(self.like[..., :1], np.nan))

    def mask(self) -> np.ndarray:
        return self.arrays.setdefault("mask", np.ones(self.like.shape, bool))

    def zeros(self) -> np.ndarray:
        return np.zeros_like(self.like)


def in_numpy(formula, *arguments, numbers=()) -> None:
    with np.errstate(all="ignore"):
        for call in formula(*arguments, Work(arguments[0]), *numbers):
            call()


def in_cuda(host: ctypes.CDLL, name: str, *operands: np.ndarray, numbers: np.ndarray = NONE) -> np.ndarray:
    """A CUDA formula, mapped over one or two arrays on the CPU."""
    first, last, out = operands[0], operands[-1], np.empty_like(operands[0])
    pointers = (ctypes.c_void_p(array.ctypes.data) for array in (first, last, out))
    host[f"{name}_{first.dtype.name}"](*pointers, ctypes.c_int(out.size), ctypes.c_void_p(numbers.ctypes.data))
    return out


def assert_same(
    host: ctypes.CDLL, name: str, expected: np.ndarray, *operands: np.ndarray, numbers: np.ndarray = NONE
) -> None:
    actual = in_cuda(host, name, *operands, numbers=numbers)
    precision = np.finfo(expected.dtype)
    units = UNITS.get(name.partition("_")[2], 0)
    np.testing.assert_allclose(
        actual.astype("f8"), expected.astype("f8"), rtol=RELATIVE[precision.dtype.name],
        atol=units * precision.eps + 64 * precision.tiny, err_msg=name,
    )  # fmt: skip


def test_softmax_alone_takes_whole_rows():
    assert [row.name for row in ACTIVATIONS.values() if row.rowwise] == ["softmax"]


@pytest.mark.parametrize("dtype", RELATIVE)
@pytest.mark.parametrize("name", [name for name, row in EVERY_ACTIVATION.items() if not row.rowwise])
def test_activation(host, name, dtype):
    row, z = EVERY_ACTIVATION[name], LINE.astype(dtype)[:, None]
    y, slope = z.copy(), np.ones_like(z)
    if row.numpy_value:
        in_numpy(row.numpy_value, z, y)
    assert_same(host, f"{functor_name(row)}_value", y, z)
    s = y if row.reads == "y" else z
    if row.numpy_gradient:
        in_numpy(row.numpy_gradient, np.ones_like(z), s, slope)
    assert_same(host, f"{functor_name(row)}_slope", slope, s)


@pytest.mark.parametrize("dtype", RELATIVE)
@pytest.mark.parametrize("name", EVERY_LOSS)
def test_loss(host, name, dtype):
    row, (values, targets) = EVERY_LOSS[name].formula, DOMAINS.get(name, EVERYWHERE)
    numbers = EVERY_LOSS[name].rows(())[1:]
    y, target = (np.ascontiguousarray(a.reshape(-1, 1), dtype) for a in np.meshgrid(values, targets))
    e, slope = np.empty_like(y), np.empty_like(y)
    in_numpy(row.numpy, y, target, slope, e, numbers=numbers.astype(dtype).reshape(-1, 1, 1))
    assert_same(host, f"{functor_name(row)}_value", e, y, target, numbers=numbers)
    assert_same(host, f"{functor_name(row)}_slope", slope, y, target, numbers=numbers)


@pytest.mark.parametrize("dtype", RELATIVE)
@pytest.mark.parametrize("name", sweep.VALUES)
def test_activations_are_exact_to_rounding(host, name, dtype):
    row, z = ACTIVATIONS[name], sweep.numbers(dtype)
    with np.errstate(all="ignore"):
        right = sweep.VALUES[name](z.astype(sweep.L))
        s = right[0].astype(dtype) if row.reads == "y" else z
        s = s[np.isfinite(s)]
        slope = sweep.SLOPES[name](s.astype(sweep.L))
    sweep.assert_right(in_cuda(host, f"{functor_name(row)}_value", z), right, name)
    sweep.assert_right(in_cuda(host, f"{functor_name(row)}_slope", s), slope, name)


@pytest.mark.parametrize("dtype", RELATIVE)
@pytest.mark.parametrize("name", sweep.LOSSES)
def test_losses_are_exact_to_rounding(host, name, dtype):
    row, (y, target) = sweep.formula_of(name), sweep.pairs(name, dtype)
    numbers = sweep.numbers_of(name)[1:]
    with np.errstate(all="ignore"):
        right = [of(y.astype(sweep.L), target.astype(sweep.L)) for of in sweep.LOSSES[name][1:]]
    for part, wanted in zip(("value", "slope"), right, strict=True):
        got = in_cuda(host, f"{functor_name(row)}_{part}", y, target, numbers=numbers)
        sweep.assert_right(got, wanted, name, np.maximum(1, target.astype(sweep.L)))


@pytest.mark.parametrize(("where", "dtype"), [("host", "float64"), ("host", "float32"), ("host_of_cpu", "float32")])
@pytest.mark.parametrize("rule", [*RULES, *RULE_ROWS.values()], ids=functor_name)
def test_the_coefficients_of_an_update_rule(request, rule, where, dtype):
    """In float64, and as the kernels have them in float32, which CUDA's work out in float32 too."""
    library, largest = request.getfixturevalue(where), largest_gradient(np.dtype(dtype))
    rate, *others = rule.settings
    for low in (0.0, 0.5, None):  # of all settings but the learning rate
        settings = {name: value if low is None else low for name, value in rule.settings.items()}
        settings |= {rate: 0.3} | ({"epsilon": 1e-8} if "epsilon" in others else {})
        values = np.array([*settings.values()])
        shrink = settings[rate] * settings.get("weight_decay", 0)
        for step in (1, 2, 10, 1000, 10**6):
            texts = [*rule.coefficients.values(), *rule.of_gradient.values()]
            wanted = [shrink, 1 - shrink, *rule.evaluator(texts)(largest, float(step), *values)]
            got = np.full(len(wanted), np.nan, dtype)
            library[f"{functor_name(rule)}_{dtype}"](
                ctypes.c_double(step), ctypes.c_void_p(values.ctypes.data), ctypes.c_void_p(got.ctypes.data)
            )
            np.testing.assert_allclose(got, wanted, rtol=RELATIVE[dtype], err_msg=f"{settings}, step {step}")
