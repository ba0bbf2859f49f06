"""kernels/cpu/math.hpp against NumPy in higher precision: each function of formulas, and how near it comes."""

from __future__ import annotations

import ctypes
import math
import platform
import re
import subprocess
from ctypes import c_void_p

import numpy as np
import pytest

from gpu_backprop.backend.kernel_text import source

N = 1 << 16
DTYPES = {"float32": "float", "float64": "double"}
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
    "exp": [(-88, 89), (-710, 710), (-1, 1)],
    "expm1": [(-20, 88.7), (-40, 710), (-1, 1)],
    "log": [(0.5, 2), (0.99, 1.01), (0, 1e4)],
    "log1p": [(-1, 2), (-0.01, 0.01), (0, 1e4)],
    "tanh": [(-20, 20), (-0.5, 0.5), (8, 9.5)],
    "erfc": [(-4, 9.1), (-0.5, 0.5), (8, 27)],
}
OTHERS = {
    "sqrt": np.sqrt, "rsqrt": lambda a: 1 / np.sqrt(a), "fabs": np.abs, "abs": np.abs, "floor": np.floor,
    "ceil": np.ceil, "erf": np.vectorize(math.erf), "exp2": np.exp2, "log2": np.log2, "log10": np.log10,
    "cbrt": np.cbrt, "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos,
    "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "asinh": np.arcsinh,
}  # fmt: skip
PAIRS = {"pow": np.power, "atan2": np.arctan2, "fmin": np.fmin, "fmax": np.fmax, "min": np.fmin, "max": np.fmax,
         "copysign": np.copysign}  # fmt: skip

TEXT = """
#define ONE(f) extern "C" void f##_of(const real* x, const real*, real* y, i64 n) { \\
  _Pragma("GCC ivdep") for (i64 i = 0; i < n; i++) y[i] = f(x[i]); }
#define TWO(f) extern "C" void f##_of(const real* x, const real* z, real* y, i64 n) { \\
  for (i64 i = 0; i < n; i++) y[i] = f(x[i], z[i]); }
static real cosine(real turns) { return cos_sin_turns(turns).cosine; }
static real sine(real turns) { return cos_sin_turns(turns).sine; }
"""


FORMULAS = "".join(f"ONE({name})\n" for name in [*ONE, "cosine", "sine"])


def find():
    from gpu_backprop.backend.compiled import compiler

    try:
        return compiler.find()
    except compiler.NoCompilerError as error:
        pytest.skip(f"kernels cannot be compiled: {error}")


@pytest.fixture(scope="module", params=DTYPES)
def function(request):
    """Runs a function of math.hpp over an array, or over two, of function.dtype."""
    text = f"typedef {DTYPES[request.param]} real;\n" + source("cpu/math.hpp") + TEXT + FORMULAS
    text += "".join(f"ONE({name})\n" for name in OTHERS) + "".join(f"TWO({name})\n" for name in [*PAIRS, "quotient"])
    (library,), dtype = find().load([text]), request.param

    def run(name, x, z=None):
        x, z = np.ascontiguousarray(x, dtype), np.ascontiguousarray(x if z is None else z, dtype)
        y = np.empty_like(x)
        getattr(library.functions, f"{name}_of")(
            *(c_void_p(a.ctypes.data) for a in (x, z, y)), ctypes.c_longlong(x.size)
        )
        return y

    run.dtype, run.limits = dtype, np.finfo(dtype)
    return run


def edges(limits):
    """Zeros, numbers that are not normal, those around the ends of exp, and no numbers."""
    some = [
        0, 1e-2 * limits.tiny, 1.1 * limits.tiny, 1, 86.8, 88.72, 88.73, 708, 709.78, 709.79, 1e4, np.inf, np.nan,
    ]  # fmt: skip
    return np.array([*some, *np.negative(some)], limits.dtype)


def off(got, wanted):
    """By how many units in the last place a number is off, where it is neither near 0 nor beyond the dtype."""
    size, limits = np.abs(wanted), np.finfo(got.dtype)
    fits = (size > 1.7 * limits.tiny) & (size < limits.max)
    return np.abs(got[fits] - wanted[fits]) / np.spacing(size[fits].astype(got.dtype))


@pytest.mark.parametrize("name", ONE)
def test_it_is_right_to_a_few_units_in_the_last_place(function, name):
    wanted, units = ONE[name]
    for low, high in RANGES[name]:
        x = np.random.default_rng(0).uniform(low, high, N).astype(function.dtype)
        with np.errstate(over="ignore"):
            assert off(function(name, x), wanted(x.astype(np.longdouble))).max() < units


@pytest.mark.parametrize("name", ONE)
def test_a_number_alone_is_the_same_as_in_a_vector(function, name):
    low, high = RANGES[name][0]
    x = np.append(np.random.default_rng(0).uniform(low, high, 333), edges(function.limits)).astype(function.dtype)
    together = function(name, x)
    np.testing.assert_array_equal(together, np.concatenate([function(name, x[k : k + 1]) for k in range(len(x))]))


@pytest.mark.parametrize("name", ONE)
def test_nan_infinity_and_zero_are_as_in_numpy(function, name):
    x = edges(function.limits)
    with np.errstate(all="ignore"):
        wanted = ONE[name][0](x.astype(np.longdouble)).astype(function.dtype)
    close = {"rtol": 8 * function.limits.eps, "atol": 2.6 * function.limits.tiny}
    np.testing.assert_allclose(function(name, x), wanted, **close)


def test_tanh_never_leaves_its_range_and_reaches_its_end(function):
    """Its slope, 1 − y², would be negative beyond."""
    x = np.linspace(-24, 24, N, dtype=function.dtype)
    y, end = function("tanh", x), {"float32": 9.1, "float64": 19.1}[function.dtype]
    assert np.abs(y).max() == 1 and (np.abs(y[np.abs(x) > end]) == 1).all() and (y == -function("tanh", -x)).all()


@pytest.mark.parametrize("name", OTHERS)
def test_other_functions_of_one_number(function, name):
    x = np.random.default_rng(1).uniform(0.1, 0.9, 100).astype(function.dtype)
    rtol = 8 * function.limits.eps
    np.testing.assert_allclose(function(name, x), OTHERS[name](x.astype(np.float64)), rtol=rtol)


@pytest.mark.parametrize("name", PAIRS)
def test_functions_of_two_numbers(function, name):
    x, z = np.random.default_rng(2).uniform(0.1, 3, (2, 100)).astype(function.dtype)
    z[::3] *= -1
    rtol = 8 * function.limits.eps
    np.testing.assert_allclose(function(name, x, z), PAIRS[name](x.astype(np.float64), z), rtol=rtol)


def test_a_quotient_is_right_to_2_units_in_the_last_place(function):
    stream, most = np.random.default_rng(3), 0.4 * function.limits.maxexp
    a, b = np.exp2(stream.uniform(-most, most, (2, N))).astype(function.dtype) * stream.choice([-1, 1], (2, N))
    assert off(function("quotient", a, b), a.astype(np.longdouble) / b).max() < 2


@pytest.mark.parametrize(("name", "wanted"), [("cosine", np.cos), ("sine", np.sin)])
def test_angles_in_turns(function, name, wanted):
    """Right to 2 eps also where there are many turns; of what is not finite NaN; the same in a vector and alone."""
    stream, turn = np.random.default_rng(0), 2 * np.arccos(np.longdouble(-1))
    for most in (0.25, 1, 100, 1e6):
        x = stream.uniform(-most, most, N).astype(function.dtype)
        x[:5] = 0, 0.25, -0.5, 0.75, most
        turns = np.remainder(x.astype(np.longdouble), 1)
        np.testing.assert_allclose(function(name, x), wanted(turn * turns), rtol=0, atol=2 * function.limits.eps)
    huge = np.array([2.0**21, 3e7, -1e9, 2.0**50, 3e38, function.limits.max], function.dtype)
    assert (abs(function(name, huge)) <= 1).all()
    assert np.isnan(function(name, np.array([np.nan, np.inf, -np.inf]))).all()
    some = np.append(x[:333], huge)
    np.testing.assert_array_equal(function(name, some), np.concatenate([function(name, one[None]) for one in some]))


VECTORS = {"x86_64": [("-march=haswell",), ("-march=skylake-avx512", "-mprefer-vector-width=512")], "aarch64": [()]}
"""By processor, options for each kind of vectors."""


@pytest.mark.parametrize("real", DTYPES.values())
@pytest.mark.parametrize("options", VECTORS.get(platform.machine(), [()]), ids=" ".join)
def test_a_loop_becomes_vector_instructions(real, options, tmp_path):
    from gpu_backprop.backend.compiled.compiler import OPTIONS

    command = find().command
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout
    tell = "-Rpass=loop-vectorize" if "clang" in version else "-fopt-info-vec-optimized"
    before = f"typedef {real} real;\n{source('cpu/math.hpp')}{TEXT}"
    (tmp_path / "text.cpp").write_text(before + FORMULAS, encoding="utf-8")
    done = subprocess.run(
        [*command, *OPTIONS, *options, tell, "-S", "text.cpp"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    loops = {int(line) for line in re.findall(r"^text.cpp:(\d+):.*vectorized", done.stderr, re.MULTILINE)}
    first = before.count("\n") + 1
    assert loops == set(range(first, first + FORMULAS.count("\n")))
