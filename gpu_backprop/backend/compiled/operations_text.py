"""The texts of the operations in kernels/cpu, and of the C++ functions that unpack their arguments.

What is compiled by itself is a unit: a file of kernels/cpu, or a row of the tables with the operations that take its
formula. So a plan waits only for what it needs, and several units are compiled at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

from gpu_backprop.backend.errors import DeviceError
from gpu_backprop.backend.kernel_text import Row, functor, functor_name, source
from gpu_backprop.backend.signatures import Head, Parameter, heads

FILES = {"activation": "cpu/layers.hpp", "loss": "cpu/losses.hpp", "update": "cpu/optimizers.hpp"}
"""By the kind of a row, the operations that take its formula."""

REAL = {"float32": "typedef float real;\n", "float64": "typedef double real;\n"}
"""By dtype, what stands before a text: what `real` is in it."""

Unit = str | Row
"""The stem of a file of kernels/cpu, or a row."""


class OperationsText(NamedTuple):
    """A text of operations and of the functions that unpack their arguments, and the heads by name."""

    text: str
    heads: Mapping[str, Head]


def unit_of(name: str) -> str:
    """Finds the unit of an operation that needs no formula."""
    return _heads("cpu/*.cpp")[name].file.removesuffix(".cpp")


@cache
def _heads(files: str) -> Mapping[str, Head]:
    """Reads heads once: later the folder may be one that this process cannot look into."""
    return heads(files)


def likely_unit(name: str, arguments: Iterable[Any]) -> Unit | None:
    """Guesses which unit an operation of a plan needs: of most, the kernel has the same name."""
    row = next((a for a in arguments if isinstance(a, Row) and a.kind in FILES), None)
    if row is not None and name in _heads(FILES[row.kind]):
        name = row.name  # softmax has kernels of its own
        with suppress(DeviceError):  # it is for NumPy alone
            return row if functor(row) else None
    return unit_of(name) if name in _heads("cpu/*.cpp") else None


def operations_text(unit: Unit, dtype: str) -> OperationsText:
    """Reads the operations of a file, or instantiates those that take the formula of a row.

    Raises:
        DeviceError: the row has no formula in C++.
    """
    return _of_file(unit, dtype) if isinstance(unit, str) else _of_row(unit, dtype)


@cache
def _of_file(stem: str, dtype: str) -> OperationsText:
    file = f"cpu/{stem}.cpp"
    found = heads(file)
    real = REAL[dtype] if found else ""  # one text for all dtypes runs programs, so that these share its threads
    return OperationsText(real + source(file) + "".join(map(_unpacked, found.values())), found)


def _of_row(row: Row, dtype: str) -> OperationsText:
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
