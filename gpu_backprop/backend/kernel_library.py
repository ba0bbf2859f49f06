"""Finds the kernel texts, joins their includes, and makes functors of the tables' formulas.

The texts of `kernels/` are templates over dtype and formula. `source` gives one with its own `#include`s put in, since
a compiler that caches by source text does not see what an include brings; `functor` gives the struct that carries the
CUDA formula of an activation or a loss into a template.
"""

from __future__ import annotations

import re
from pathlib import Path

from gpu_backprop.backend.errors import DeviceError
from gpu_backprop.backend.formula import Activation, LossFormula, functor_name

PRELUDE = "port.cuh"
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"\n]*)"[^\n]*(?:\n|\Z)', re.MULTILINE)


def kernels_folder() -> Path:
    """The folder of the kernel texts: in an installed package gpu_backprop/kernels, in a checkout kernels/ at the top.

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


def source(name: str) -> str:
    """The text of a file of `kernels_folder()`, each of our own files that it includes put in once, where it is first
    asked for. Includes in <> stay.

    Raises:
        DeviceError: the file, or one that it includes, is not there.
    """
    return _joined(name, set())


def _joined(name: str, seen: set[str]) -> str:
    seen.add(name)
    path = kernels_folder() / name
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DeviceError(
            f"the kernel text {path} cannot be read ({error.strerror}); install gpu_backprop again."
        ) from error
    return INCLUDE.sub(lambda found: "" if found[1] in seen else _joined(found[1], seen), text)


def functor(row: Activation | LossFormula) -> str:
    """The C++ struct `functor_name(row)` with the formulas of a row, static templates over the type A they work in:
    value(z) and slope(s) of an activation, value(y, t) and slope(y, t) of a loss, where t is the target.

    Raises:
        DeviceError: the row has no CUDA formula.
    """
    if not (row.cuda_value and row.cuda_slope):
        raise DeviceError(
            f"{row.name!r} has no CUDA formula to make a kernel of; give it cuda_value and cuda_slope, or use "
            "device='cpu'."
        )
    if isinstance(row, Activation):
        value, slope = "A z", "A s"
    else:
        value = slope = "A y, A t"
    return (
        f"struct {functor_name(row)} {{\n"
        f"  template<class A> BP_DEV static A value({value}) {{ return {row.cuda_value}; }}\n"
        f"  template<class A> BP_DEV static A slope({slope}) {{ return {row.cuda_slope}; }}\n"
        "};\n"
    )
