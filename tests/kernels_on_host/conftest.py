"""One shared object of the kernel texts and of every formula of the tables, made by the host's C++ compiler."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpu_backprop.backend.formula import Activation, LossFormula, functor_name
from gpu_backprop.backend.kernel_library import functor, source
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.losses import LOSSES

EXPORTS = """
template<class Op, class A> void reduce(const A* in, A* out, int threads) {
  run_block(threads, [=](int t) { out[t] = block_reduce<Op>(in[t]); });
}
extern "C" {
void sum_float32(const float* in, float* out, int n) { reduce<Sum>(in, out, n); }
void sum_float64(const double* in, double* out, int n) { reduce<Sum>(in, out, n); }
void maximum_float32(const float* in, float* out, int n) { reduce<Maximum>(in, out, n); }
void maximum_float64(const double* in, double* out, int n) { reduce<Maximum>(in, out, n); }
void limits_float32(float* out) { out[0] = tiny<float>(), out[1] = least<float>(), out[2] = floor_of<float>(); }
void limits_float64(double* out) { out[0] = tiny<double>(), out[1] = least<double>(), out[2] = floor_of<double>(); }
void philox_block(const u64* c, u64* words, float* numbers) {
  const Philox block = philox(c[0], c[1], c[2], c[3], c[4], c[5]);
  for (int i = 0; i < 4; i++) words[i] = block.word[i];
  for (int i = 0; i < 8; i++) numbers[i] = uniform(block, i);
}
"""
LOOP = """void {name}_{part}_{dtype}(const {A}* a, const {A}* b, {A}* out, int n) {{
  for (int i = 0; i < n; i++) out[i] = {name}::{part}({operands});
}}"""


def loops(row: Activation | LossFormula) -> str:
    """C functions that map a functor's two formulas over arrays."""
    operands = "a[i]" if isinstance(row, Activation) else "a[i], b[i]"
    return "\n".join(
        LOOP.format(name=functor_name(row), part=part, dtype=dtype, A=A, operands=operands)
        for part in ("value", "slope")
        for dtype, A in (("float32", "float"), ("float64", "double"))
    )


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernel texts and the formulas, compiled for this machine's CPU with the undefined-behaviour checks on."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed: the kernel texts cannot be run on the CPU")
    rows = [row for row in ACTIVATIONS.values() if not row.rowwise] + [loss.formula for loss in LOSSES.values()]
    parts = ['#include "host.hpp"', source("philox.cuh"), *map(functor, rows), EXPORTS, *map(loops, rows), "}"]
    folder = tmp_path_factory.mktemp("kernels_on_host")
    (folder / "host.cpp").write_text("\n".join(parts), encoding="utf-8")
    flags = ["-std=c++20", "-O1", "-ffp-contract=off", "-Wall", "-Wdouble-promotion", "-Werror", "-fsanitize=undefined"]
    command = [
        compiler,
        *flags,
        "-shared",
        "-fPIC",
        "-pthread",
        f"-I{Path(__file__).parent}",
        "host.cpp",
        "-o",
        "host.so",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(folder / "host.so"))


@pytest.fixture(autouse=True)
def defined_behaviour(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """No test may have made the compiler's checks speak up."""
    yield
    assert "runtime error" not in (said := capfd.readouterr().err), said
