"""kernels/cpu/math.hpp against NumPy in float64: every function that formulas may have, and how near it comes."""

from __future__ import annotations

import ctypes
import math
from ctypes import c_void_p

import numpy as np
import pytest

from gpu_backprop.backend.kernel_text import source

N = 1 << 16
ONE = {
    "exp": (np.exp, 2),
    "expm1": (np.expm1, 2),
    "log": (np.log, 2),
    "log1p": (np.log1p, 2),
    "tanh": (np.tanh, 6),
    "erfc": (np.vectorize(math.erfc), 7),
}
"""What is written for vectors: the function, and the units in the last place that it may be off."""

RANGES = {
    "exp": [(-86.8, 88.7)],
    "expm1": [(-20, 88.7), (-1, 1)],
    "log": [(0.5, 2), (0.99, 1.01), (0, 1e4)],
    "log1p": [(-1, 2), (-0.01, 0.01), (0, 1e4)],
    "tanh": [(-10, 10), (-0.5, 0.5), (8, 9.5)],
    "erfc": [(-4, 9.1), (-0.5, 0.5)],
}
OTHERS = {
    "sqrt": np.sqrt, "rsqrt": lambda a: 1 / np.sqrt(a), "fabs": np.abs, "abs": np.abs, "floor": np.floor,
    "ceil": np.ceil, "erf": np.vectorize(math.erf), "exp2": np.exp2, "log2": np.log2, "log10": np.log10,
    "cbrt": np.cbrt, "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos,
    "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "asinh": np.arcsinh,
}  # fmt: skip
PAIRS = {"pow": np.power, "atan2": np.arctan2, "fmin": np.fmin, "fmax": np.fmax, "min": np.fmin, "max": np.fmax,
         "copysign": np.copysign}  # fmt: skip

EDGES = np.array(
    [0, -0.0, 1e-40, -1e-40, 1.2e-38, np.nan, np.inf, -np.inf, 1e4, -1e4, 88.72, 88.73, -86.8, -1, 1], np.float32
)

TEXT = """
#define ONE(f) extern "C" void f##_of(const float* x, const float*, float* y, i64 n) { \\
  _Pragma("GCC ivdep") for (i64 i = 0; i < n; i++) y[i] = f(x[i]); }
#define TWO(f) extern "C" void f##_of(const float* x, const float* z, float* y, i64 n) { \\
  for (i64 i = 0; i < n; i++) y[i] = f(x[i], z[i]); }
static float cosine(float turns) { return cos_sin_turns(turns).cosine; }
static float sine(float turns) { return cos_sin_turns(turns).sine; }
"""


@pytest.fixture(scope="module")
def function():
    """Runs a function of math.hpp over an array, or over two."""
    from gpu_backprop.backend.compiled import compiler

    try:
        made_by = compiler.find()
    except compiler.NoCompilerError as error:
        pytest.skip(f"kernels cannot be compiled: {error}")
    text = source("cpu/math.hpp") + TEXT
    text += "".join(f"ONE({name})\n" for name in [*ONE, *OTHERS, "cosine", "sine"]) + "".join(
        f"TWO({name})\n" for name in PAIRS
    )
    library = made_by.load(text).functions

    def run(name, x, z=None):
        x, z = np.ascontiguousarray(x, np.float32), np.ascontiguousarray(x if z is None else z, np.float32)
        y = np.empty_like(x)
        getattr(library, f"{name}_of")(*(c_void_p(a.ctypes.data) for a in (x, z, y)), ctypes.c_longlong(x.size))
        return y

    return run


def off(got, wanted):
    """By how many units in the last place a number is off, where it is neither 0 nor beyond float32."""
    size = np.abs(wanted)
    fits = (size > 2e-38) & (size < 3.4e38)
    return np.abs(got[fits] - wanted[fits]) / np.spacing(size[fits].astype(np.float32))


@pytest.mark.parametrize("name", ONE)
def test_it_is_right_to_a_few_units_in_the_last_place(function, name):
    wanted, units = ONE[name]
    for low, high in RANGES[name]:
        x = np.random.default_rng(0).uniform(low, high, N).astype(np.float32)
        assert off(function(name, x), wanted(x.astype(np.float64))).max() < units


@pytest.mark.parametrize("name", ONE)
def test_a_number_alone_is_the_same_as_in_a_vector(function, name):
    low, high = RANGES[name][0]
    x = np.append(np.random.default_rng(0).uniform(low, high, 333), EDGES).astype(np.float32)
    together = function(name, x)
    np.testing.assert_array_equal(together, np.concatenate([function(name, x[k : k + 1]) for k in range(len(x))]))


@pytest.mark.parametrize("name", ONE)
def test_nan_infinity_and_zero_are_as_in_numpy(function, name):
    with np.errstate(all="ignore"):
        wanted = ONE[name][0](EDGES.astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(function(name, EDGES), wanted, rtol=1e-6, atol=3e-38)


def test_tanh_never_leaves_its_range_and_reaches_its_end(function):
    """Its slope, 1 − y², would be negative beyond."""
    x = np.linspace(-12, 12, N, dtype=np.float32)
    y = function("tanh", x)
    assert np.abs(y).max() == 1 and (np.abs(y[np.abs(x) > 9.1]) == 1).all() and (y == -y[::-1]).all()


@pytest.mark.parametrize("name", OTHERS)
def test_other_functions_of_one_number(function, name):
    x = np.random.default_rng(1).uniform(0.1, 0.9, 100).astype(np.float32)
    np.testing.assert_allclose(function(name, x), OTHERS[name](x.astype(np.float64)), rtol=1e-6)


@pytest.mark.parametrize("name", PAIRS)
def test_functions_of_two_numbers(function, name):
    x, z = np.random.default_rng(2).uniform(0.1, 3, (2, 100)).astype(np.float32)
    z[::3] *= -1
    np.testing.assert_allclose(function(name, x, z), PAIRS[name](x.astype(np.float64), z), rtol=1e-6)


@pytest.mark.parametrize(("name", "wanted"), [("cosine", np.cos), ("sine", np.sin)])
def test_angles_in_turns(function, name, wanted):
    """Right to 2e-7 of 1 also where there are many turns; of what is not finite NaN; the same in a vector and alone."""
    stream = np.random.default_rng(0)
    for most in (0.25, 1, 100, 1e6):
        x = stream.uniform(-most, most, N).astype(np.float32)
        x[:5] = 0, 0.25, -0.5, 0.75, most
        turns = np.remainder(x.astype(np.float64), 1)
        np.testing.assert_allclose(function(name, x), wanted(2 * np.pi * turns), rtol=0, atol=2e-7)
    huge = np.array([2.0**21, 3e7, -1e9, 3e38], np.float32)
    assert (abs(function(name, huge)) <= 1).all()
    assert np.isnan(function(name, np.array([np.nan, np.inf, -np.inf]))).all()
    some = np.append(x[:333], huge)
    np.testing.assert_array_equal(function(name, some), np.concatenate([function(name, one[None]) for one in some]))
