"""The text of the operations in kernels/cpu, and of the C++ functions that unpack their arguments."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

from gpu_backprop.backend.kernel_text import Row, functor, functor_name, kernels_folder, source
from gpu_backprop.backend.signatures import Head, Parameter, heads

FILES = {"activation": "cpu/layers.hpp", "loss": "cpu/losses.hpp", "update": "cpu/optimizers.hpp"}
"""By the kind of a row, the operations that take its formula."""


class OperationsText(NamedTuple):
    """A text of operations and of the functions that unpack their arguments, and the heads by name."""

    text: str
    heads: Mapping[str, Head]


REAL = {"float32": "typedef float real;\n", "float64": "typedef double real;\n"}
"""By dtype, what stands before a text: what `real` is in it."""


@cache
def base(dtype: str = "float32") -> OperationsText:
    """Reads the operations that need no formula."""
    files = sorted(f"cpu/{path.name}" for path in (kernels_folder() / "cpu").glob("*.cpp"))
    found = heads("cpu/*.cpp")
    return OperationsText(REAL[dtype] + source(*files) + "".join(map(_unpacked, found.values())), found)


def of_row(row: Row, dtype: str = "float32") -> OperationsText:
    """Instantiates the operations that take the formula of a row.

    Raises:
        DeviceError: it has no formula in C++.
    """
    file = FILES[row.kind]
    found = heads(file)
    unpacked = (_unpacked(head, f"<{functor_name(row)}>") for head in found.values())
    return OperationsText(REAL[dtype] + source(file) + functor(row) + "".join(unpacked), found)


def _unpacked(head: Head, formula: str = "") -> str:
    taken = "".join(f"{_slot(k, p)}, " for k, p in enumerate(head.parameters))
    return (
        f'\nextern "C" void bp_{head.name}(const Slot* s, i64 part, i64 parts) {{\n'
        f"  {head.name}{formula}({taken}part, parts);\n}}\n"
    )


def _slot(k: int, p: Parameter) -> str:
    if p.pointer:
        return f"static_cast<{'const ' * p.constant}{p.type}*>(s[{k}].pointer)"
    return f"s[{k}].integer" if p.type == "i64" else f"{p.type}(s[{k}].number)"
