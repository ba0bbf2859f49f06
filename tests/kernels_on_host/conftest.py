"""The kernel texts and the formulas of the tables, compiled by the host's C++ compiler."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))  # for the kernel_*.py beside this file

from kernel_cases import Case
from kernel_draws import FULL, draws
from kernel_program import Program, compile_host, compiler, once
from kernel_table import RUNNERS
from lib.kernel_instances import instances
from own_formulas import ACTIVATION_ROWS, LOSS_CLASSES, RULE_ROWS

from gpu_backprop.backend.compiled.operations_text import FILES, REAL
from gpu_backprop.backend.cuda.kernel_instance import Instance
from gpu_backprop.backend.formula import Activation, LossFormula
from gpu_backprop.backend.kernel_text import functor, functor_name, source
from gpu_backprop.backend.signatures import heads
from gpu_backprop.backend.update_rule import UpdateRule
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.losses import FORMULAS, LOSSES
from gpu_backprop.training.optimizers import ADAM, RULES

EXPORTS = """
template<class Op, class A> struct Reduction {
  const A* in;
  A* out;
  static void thread(const void* self) {
    const Reduction& of = *static_cast<const Reduction*>(self);
    of.out[::thread()] = block_reduce<Op>(of.in[::thread()]);
  }
};
template<class Op, class A> void reduce(const A* in, A* out, int rows, int threads) {
  const Reduction<Op, A> reduction = {in, out};
  const Index block = {unsigned(threads / rows), unsigned(rows), 1};
  launch({1, 1, 1}, block, Order{Order::REVERSE, 0, 1}, Reduction<Op, A>::thread, &reduction);
}
extern "C" {
void sum_float32(const float* in, float* out, int rows, int n) { reduce<Sum>(in, out, rows, n); }
void sum_float64(const double* in, double* out, int rows, int n) { reduce<Sum>(in, out, rows, n); }
void maximum_float32(const float* in, float* out, int rows, int n) { reduce<Maximum>(in, out, rows, n); }
void maximum_float64(const double* in, double* out, int rows, int n) { reduce<Maximum>(in, out, rows, n); }
void limits_float32(float* out) { out[0] = tiny<float>(), out[1] = most<float>(); }
void limits_float64(double* out) { out[0] = tiny<double>(), out[1] = most<double>(); }
void down_float16(const float* in, f16* out, int n) { for (int i = 0; i < n; i++) out[i] = from_acc<f16>(in[i]); }
void down_bfloat16(const float* in, bf16* out, int n) { for (int i = 0; i < n; i++) out[i] = from_acc<bf16>(in[i]); }
void up_float16(const f16* in, float* out, int n) { for (int i = 0; i < n; i++) out[i] = to_acc(in[i]); }
void up_bfloat16(const bf16* in, float* out, int n) { for (int i = 0; i < n; i++) out[i] = to_acc(in[i]); }
void philox_block(const u64* c, u64* words, float* numbers) {
  const Philox block = philox(c[0], c[1], c[2], c[3], c[4], c[5]);
  for (int i = 0; i < 4; i++) words[i] = block.word[i];
  for (int i = 0; i < 8; i++) numbers[i] = uniform(block, i);
}
"""
LOOP = """void {name}_{part}_{dtype}(const {A}* a, const {A}* b, {A}* out, int n, const double* numbers) {{
  for (int i = 0; i < n; i++) out[i] = {call};
}}"""
PREPARE = """void {name}_{dtype}(double step, const double* setting, {A}* out) {{
  {name}::of<{A}> rule;
  rule.prepare<{C}>(step, setting);
  const {A} found[] = {{ {coefficients} }};
  for (unsigned i = 0; i < sizeof found / sizeof found[0]; i++) out[i] = found[i];
}}"""


def loops(row: Activation | LossFormula) -> str:
    """C functions that map a functor's two formulas over arrays."""
    name = functor_name(row)
    call = (
        f"{name}::{{part}}(a[i])" if isinstance(row, Activation) else f"{name}::of<{{A}}>(numbers).{{part}}(a[i], b[i])"
    )
    return "\n".join(
        LOOP.format(name=name, part=part, dtype=dtype, A=A, call=call.format(part=part, A=A))
        for part in ("value", "slope")
        for dtype, A in (("float32", "float"), ("float64", "double"))
    )


def preparations(rule: UpdateRule, types: Mapping[str, tuple[str, str]]) -> str:
    """C functions that work out the coefficients of a rule, with the factor of the weights before them; types: by
    dtype, those of parameters and of what coefficients are worked out in."""
    coefficients = ", ".join(f"rule.{name}" for name in ("weight_shrink", "weight_keep", *rule.cuda_coefficients))
    return "\n".join(
        PREPARE.format(name=functor_name(rule), dtype=dtype, A=A, C=C, coefficients=coefficients)
        for dtype, (A, C) in types.items()
    )


def library(folder: Path, name: str, text: str) -> ctypes.CDLL:
    """A text as a library, with the undefined-behaviour checks on."""
    # -Bsymbolic: it calls its own functions, even where what an emulated device has loaded defines some of that name
    flags = ["-O1", "-fsanitize=undefined", "-shared", "-fPIC", "-Wl,-Bsymbolic"]
    return ctypes.CDLL(str(once(folder / name, lambda at: compile_host(at, name, text, flags)) / name))


@pytest.fixture(scope="session")
def host(shared: Path) -> ctypes.CDLL:
    """The shared texts and the formulas."""
    rows = [row for row in (*ACTIVATIONS.values(), *ACTIVATION_ROWS.values()) if not row.rowwise]
    rows += [*FORMULAS, *(made().formula for made in LOSS_CLASSES.values())]
    rules = [*RULES, *RULE_ROWS.values()]
    texts = source("port.cuh", "philox.cuh", "optimizers.cuh")
    parts = ['#include "host.hpp"', "#define BP_16_BIT", texts, *map(functor, [*rows, *rules]), EXPORTS]
    types = {"float32": ("float", "float"), "float64": ("double", "double")}
    text = "\n".join([*parts, *map(loops, rows), *(preparations(rule, types) for rule in rules), "}"])
    return library(shared, "host", text)


@pytest.fixture(scope="session")
def host_of_cpu(shared: Path) -> ctypes.CDLL:
    """The rules of optimizers as the CPU's own kernels have them."""
    rules = [*RULES, *RULE_ROWS.values()]
    parts = [REAL["float32"], source(FILES["update"]), *map(functor, rules), 'extern "C" {']
    text = "\n".join([*parts, *(preparations(rule, {"float32": ("float", "double")}) for rule in rules), "}"])
    return library(shared, "host_of_cpu", text)


@pytest.fixture(autouse=True)
def defined_behaviour(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """No test may have made the compiler's checks speak up."""
    yield
    assert "runtime error" not in (said := capfd.readouterr().err), said


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the workers of pytest-xdist have in common."""
    folder = tmp_path_factory.getbasetemp()
    return (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "shared_programs"


@pytest.fixture(scope="session")
def everything() -> list[Instance]:
    """Every instance of every kernel."""
    pytest.importorskip("ml_dtypes", reason="ml_dtypes, which brings bfloat16, is not installed")
    return list(instances(ACTIVATIONS.values(), FORMULAS, RULES))


@pytest.fixture(scope="session")
def few(everything: list[Instance]) -> list[Instance]:
    """Each kernel in float32, with one formula, or its first instance where there is none such: what is run on real
    threads, unless in the full form."""
    first = {"F": next(iter(ACTIVATIONS.values())), "E": next(iter(LOSSES.values())).formula, "U": ADAM}
    usual = {**first, "T": "float32", "S": "float32", "A": "float32"}

    def is_usual(made: Instance) -> bool:
        return all(
            getattr(a, "name", a) == getattr(w, "name", w) for n, a in made.chosen.items() if (w := usual.get(n))
        )

    if FULL:
        return everything
    found = [made for made in everything if is_usual(made)]
    there = {made.kernel.name for made in found}
    others = {made.kernel.name: made for made in reversed(everything) if made.kernel.name not in there}
    return found + list(others.values())


@pytest.fixture(scope="session")
def spread(everything: list[Instance]) -> list[Instance]:
    """Of each kernel so many instances that each formula and each choice of the other arguments is among them: what is
    compiled with AddressSanitizer, unless in the full form."""
    if FULL:
        return everything
    found: list[Instance] = []
    seen: set[object] = set()
    for enough in (all, any):  # first those with a formula and a choice that are both new
        for made in everything:
            others = tuple(a for a in made.arguments if isinstance(a, (int, np.dtype)))
            types = others if "N" in made.chosen else (others,)  # the kernel of an epoch has each type by itself
            parts = {(made.kernel.name, part) for part in (*types, *made.functors)}
            if enough(part not in seen for part in parts):
                found.append(made)
                seen |= parts
    return found


@pytest.fixture(scope="session")
def chosen(everything: list[Instance], spread: list[Instance], few: list[Instance]) -> Mapping[str, list[Instance]]:
    """The instances of each kind of program."""
    return {"plain": everything, "address": spread, "thread": few}


@pytest.fixture(scope="session")
def cases(chosen: Mapping[str, list[Instance]]) -> Callable[[str, str, str], list[Case]]:
    """The cases of a kernel for a kind of program, in a form of kernel_draws."""

    @cache
    def of(kernel: str, kind: str, form: str) -> list[Case]:
        runner, layout = RUNNERS[kernel]
        found = []
        for number, made in enumerate(m for m in chosen[kind] if m.kernel.name == kernel):
            for draw, orders in draws(made, number, layout, form):
                case = runner(draw)
                case.orders = orders
                found.append(case)
        return found

    return of


@pytest.fixture(scope="session")
def program(
    chosen: Mapping[str, list[Instance]], shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Program]:
    """The program of a kernel, of a kind, with all the kernels of its file."""
    compiler()

    @cache
    def of(file: str, kind: str) -> Program:
        made = [made for made in chosen[kind] if made.kernel.file == file]
        return Program(tmp_path_factory.mktemp(kind), shared, made, kind)

    return lambda kernel, kind: of(heads()[kernel].file, kind)
