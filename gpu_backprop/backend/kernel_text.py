"""Finds the kernel texts, joins their includes, and makes functors of the tables' formulas.

The texts of `kernels/` are templates over dtype and formula. `source` gives one with its own `#include`s put in, since
a compiler that caches by source text does not see what an include brings; `functor` gives the struct that carries the
C++ formula of an activation, a loss or an update rule into a template. Both back ends that compile build on it, and on
signatures.py, which reads the heads.
"""

from __future__ import annotations

import re
from pathlib import Path

from gpu_backprop.backend.errors import DeviceError
from gpu_backprop.backend.formula import Activation, Functions, LossFormula
from gpu_backprop.backend.update_rule import UpdateRule

PRELUDE = "port.cuh"
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"\n]*)"[^\n]*(?:\n|\Z)', re.MULTILINE)

FORMULAS = ("F", "E", "N", "U")
"""The template parameters that are filled in by a formula."""

Row = Activation | Functions | LossFormula | UpdateRule
"""What has a functor."""


def functor_name(row: Row) -> str:
    """The C++ identifier of a row: unique in its table, made of letters, digits and _."""
    return f"{row.kind}_" + "".join(c if c.isalnum() else "_" for c in row.name)


def kernels_folder() -> Path:
    """Finds the folder of the kernel texts: gpu_backprop/kernels in an installed package, kernels/ in a checkout.

    Raises:
        DeviceError: neither is there.
    """
    package = Path(__file__).resolve().parents[1]
    places = package / "kernels", package.parent / "kernels"
    for place in places:
        if (place / PRELUDE).is_file():
            return place
    raise DeviceError(
        f"the CUDA kernel texts are missing: {PRELUDE} is neither in {places[0]} nor in {places[1]}; "
        "install gpu_backprop again, from a wheel or from a whole checkout."
    )


def source(*names: str) -> str:
    """Joins some files of `kernels_folder()`, with each of our own files that they include put in once, where it is
    first included. Includes in <> stay.

    Raises:
        DeviceError: the file, or one that it includes, is not there.
    """
    seen: set[str] = set()
    return "".join(_joined(kernels_folder() / name, seen) for name in names)


def _joined(path: Path, seen: set[str]) -> str:
    seen.add(path.name)
    return INCLUDE.sub(lambda found: "" if found[1] in seen else _joined(path.parent / found[1], seen), read_text(path))


def read_text(path: Path) -> str:
    """Reads a file; DeviceError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DeviceError(
            f"the kernel text {path} cannot be read ({error.strerror}); install gpu_backprop again."
        ) from error


def functor(row: Row) -> str:
    """Writes the C++ struct `functor_name(row)` with the formulas of a row, static templates over their type A.

    value(z) and slope(s) of an activation. Functions have value(f, z) and slope(f, s), where f is an activation's
    number; its own struct has to stand before theirs. Of a loss see `_loss`, of an update rule `_update`.

    Raises:
        DeviceError: the row has no CUDA formula.
    """
    if isinstance(row, Functions):
        return _functions(row)
    if isinstance(row, UpdateRule):
        return _update(row)
    if not (row.cuda_value and row.cuda_slope):
        raise DeviceError(
            f"{row.name!r} has no CUDA formula to make a kernel of; give it cuda_value and cuda_slope, or use "
            "device='cpu'."
        )
    if isinstance(row, LossFormula):
        return _loss(row)
    return (
        f"struct {functor_name(row)} {{\n"
        f"  template<class A> BP_DEV static A value(A z) {{ {_body(row.cuda_value)} }}\n"
        f"  template<class A> BP_DEV static A slope(A s) {{ {_body(row.cuda_slope)} }}\n"
        "};\n"
    )


def _body(text: str) -> str:
    """Writes what a function does that returns an expression; statements stay."""
    return text if text.endswith(";") else f"return {text};"


def _functions(row: Functions) -> str:
    def choice(call: str) -> str:
        *others, last = [f"{functor_name(f)}::{call}" for f in row.activations]
        return "".join(f"f == {number} ? {one} : " for number, one in enumerate(others)) + last

    return (
        f"struct {functor_name(row)} {{\n"
        f"  template<class A> BP_DEV static A value(int f, A z) {{ return {choice('value(z)')}; }}\n"
        f"  template<class A> BP_DEV static A slope(int f, A s) {{ return {choice('slope(s)')}; }}\n"
        "};\n"
    )


def _loss(row: LossFormula) -> str:
    """Writes of<A>, which holds a loss's numbers, and has value(y, t) and slope(y, t), where t is the target."""
    numbers = "".join(f"    A {name};\n" for name in row.numbers)
    taken = "".join(f" {name} = A(numbers[{k}]);" for k, name in enumerate(row.numbers))
    return (
        f"struct {functor_name(row)} {{\n"
        f"  template<class A> struct of {{\n{numbers}"
        f"    BP_DEV explicit of(const double* numbers) {{{taken} (void)numbers; }}\n"
        f"    BP_DEV A value(A y, A t) const {{ {_body(row.cuda_value)} }}\n"
        f"    BP_DEV A slope(A y, A t) const {{ {_body(row.cuda_slope)} }}\n"
        "  };\n"
        "};\n"
    )


def _update(row: UpdateRule) -> str:
    """Writes how many moments and settings a rule has, and of<A>, which holds its coefficients: prepare<C> works them
    out in C, gradient(w, g, penalty) returns what the rule gets as g, where penalty is the factor of l1 and l2, and
    step(w, g, moments) the change of one parameter."""
    if not row.cuda:
        raise DeviceError(
            f"{row.name!r} has no C++ text to make a kernel of; give its UpdateRule one as cuda, or use device='cpu'."
        )
    settings = "".join(f"      const double {name} = setting[{k}];\n" for k, name in enumerate(row.settings))
    coefficients = "".join(f"      {name} = A(C({text}));\n" for name, text in row.cuda_coefficients.items())
    clip = "      g = g > clip_above ? clip_above : g < clip_below ? clip_below : g;\n" if row.clips else ""
    slopes = {"l2": "penalty_l2 * w", "l1": "penalty_l1 * sign(w)"}
    penalties = " + ".join(text for name, text in slopes.items() if name in row.settings)
    penalty = f"      g += penalty * ({penalties});\n" if penalties else ""
    shrink = "learning_rate * weight_decay" if row.decays else "0"
    moments = "".join(f"      A& {name} = all_moments[{k}];\n" for k, name in enumerate(row.moments))
    return (
        f"struct {functor_name(row)} {{\n"
        f"  enum {{ moments = {len(row.moments)}, settings = {len(row.settings)}, decays = {int(row.decays)} }};\n"
        f"  template<class A> struct of {{\n"
        f"    A {', '.join(['weight_shrink, weight_keep', *row.cuda_coefficients])};\n"
        f"    template<class C> BP_DEV void prepare(double step, const double* setting) {{\n"
        f"      const C largest = C(largest_gradient<A>());\n{settings}{coefficients}"
        f"      weight_shrink = A({shrink}), weight_keep = A(1 - {shrink});\n"
        f"      (void)step, (void)largest{''.join(f', (void){name}' for name in row.settings)};\n"
        f"    }}\n"
        f"    BP_DEV A gradient(A w, A g, A penalty) const {{\n"
        f"{clip}{penalty}      (void)w, (void)penalty;\n"
        f"      return g;\n"
        f"    }}\n"
        f"    BP_DEV A step(A w, A g, A* all_moments) const {{\n{moments}"
        f"      A change = A(0) / A(0);\n"  # what assigns nothing to it is found
        f"      {row.cuda}\n"
        f"      (void)w, (void)all_moments;\n"
        f"      return change;\n"
        f"    }}\n"
        f"  }};\n"
        f"}};\n"
    )
