"""Instances of kernels: a template with its arguments, and the text that a compiler gets for it.

The values of a template parameter follow from its name and from the tables of activations and losses: no list of
instances is kept by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_backprop.backend.device import storage
from gpu_backprop.backend.errors import InputError, choose
from gpu_backprop.backend.formula import Activation, Functions, LossFormula
from gpu_backprop.backend.kernel_text import FORMULAS, Row, functor, functor_name, source
from gpu_backprop.backend.signatures import Head, heads
from gpu_backprop.backend.update_rule import UpdateRule

DType = np.dtype[Any]
Key = tuple[str, tuple[str, ...]]
Argument = DType | Row | int

TYPES = {
    "T": ("float32", "float64", "float16", "bfloat16"),
    "S": ("uint8", "float16", "bfloat16", "float32", "float64"),
    "A": ("float32", "float64"),
}
"""The dtypes of each template parameter: stored values (T), a source that is converted (S), and sums (A)."""

SPELLING = {
    "float32": "float", "float64": "double", "float16": "f16", "bfloat16": "bf16",
    "int32": "int", "int64": "i64", "uint8": "u8", "uint32": "u32", "uint64": "u64",
}  # fmt: skip
"""The names of dtypes in the kernel texts."""

INTEGERS = {"K": (0, 1, 2, 3), "O": (1, 2, 4, 8, 16, 32)}
"""The values of other integer parameters: how the head gets its loss from z (K), and of how many outputs it is (O)."""

ACCEPTED: Mapping[str, tuple[type[Row], str]] = {
    "F": (Activation, "an Activation that is not rowwise"),
    "E": (LossFormula, "a LossFormula"),
    "N": (Functions, "Functions, none of which is rowwise"),
    "U": (UpdateRule, "an UpdateRule"),
}
"""The values of each formula parameter, as a type and in words."""

VECTOR = 16
"""Bytes that a thread reads or writes at once where it can."""


def accumulator(dtype: DType) -> DType:
    """Returns acc<T>, the type of sums and formulas: float64 for float64, else float32."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


@dataclass(frozen=True)
class Instance:
    """A kernel with its template arguments."""

    kernel: Head
    arguments: tuple[Argument, ...]

    @property
    def chosen(self) -> Mapping[str, Argument]:
        """The arguments by the names of the template's parameters."""
        return {name: argument for (_, name), argument in zip(self.kernel.template, self.arguments, strict=True)}

    @property
    def name(self) -> str:
        """The C++ name expression, such as bias_activate<float, activation_tanh, 4>."""
        spelled = ", ".join(map(_spelled, self.arguments))
        return f"{self.kernel.name}<{spelled}>" if spelled else self.kernel.name

    @property
    def key(self) -> Key:
        """The name and the functors, since two formulas may have one name."""
        return self.name, tuple(self.functors.values())

    @property
    def functors(self) -> Mapping[str, str]:
        """The structs that it needs, by their names."""
        rows = [a for a in self.arguments if isinstance(a, Row)]
        rows = [f for row in rows if isinstance(row, Functions) for f in row.activations] + rows
        return {functor_name(row): functor(row) for row in rows}

    @property
    def define(self) -> str:
        """Returns the text above the kernels where an argument has 16 bits."""
        short = {"float16", "bfloat16"} & {a.name for a in self.arguments if isinstance(a, np.dtype)}
        return "#define BP_16_BIT\n" if short else ""

    @property
    def text(self) -> str:
        """The text that a compiler gets for it."""
        return "".join([self.define, source(self.kernel.file), *self.functors.values()])

    @property
    def width(self) -> int:
        """V, the elements of a vector access; 1 where the kernel has none."""
        width = self.chosen.get("V", 1)
        assert isinstance(width, int)
        return width

    def dtype(self, type_name: str) -> DType:
        """Returns the dtype of a type in the kernel's head: T, acc<T>, int ..."""
        if type_name.startswith("acc<"):
            return accumulator(self.dtype(type_name[4:-1]))
        argument = self.chosen.get(type_name)
        if isinstance(argument, np.dtype):
            return argument
        return next(np.dtype(name) for name, spelling in SPELLING.items() if spelling == type_name)


def _spelled(argument: Argument) -> str:
    if isinstance(argument, np.dtype):
        return SPELLING[argument.name]
    return str(argument) if isinstance(argument, int) else functor_name(argument)


def instance(name: str, *arguments: Any) -> Instance:
    """Makes an instance of a kernel with template arguments: dtypes (or their names), rows of the tables, integers.

    Raises:
        InputError: there is no such kernel, or an argument is not accepted for its parameter.
    """
    head = choose("kernel", name, heads())
    if len(arguments) != len(head.template):
        wanted = ", ".join(parameter for _, parameter in head.template) or "none"
        raise InputError(f"kernel {name} has the template parameters {wanted}; got {len(arguments)} arguments.")
    chosen: dict[str, Argument] = {}
    for (_, parameter), argument in zip(head.template, arguments, strict=True):
        chosen[parameter] = _accepted(name, parameter, argument, chosen)
    return Instance(head, tuple(chosen.values()))


def _accepted(kernel: str, parameter: str, argument: Any, chosen: Mapping[str, Argument]) -> Argument:
    if parameter in FORMULAS:
        accepted, what = ACCEPTED[parameter]
        parts = argument.activations if isinstance(argument, Functions) else [argument]
        if not isinstance(argument, accepted) or any(getattr(part, "rowwise", False) for part in parts):
            raise InputError(f"kernel {kernel}: {parameter} must be {what}, got {argument!r}.")
        return argument
    if parameter == "V" or parameter in INTEGERS:
        values = accepted_widths(chosen) if parameter == "V" else INTEGERS[parameter]
        if argument not in values:
            raise InputError(f"kernel {kernel}: {parameter} must be one of {values}, got {argument!r}.")
        return int(argument)
    names = accepted_types(parameter, chosen)
    try:
        dtype = storage(argument) if isinstance(argument, str) else np.dtype(argument)
    except TypeError:
        dtype = None
    if dtype is None or dtype.name not in names:
        raise InputError(f"kernel {kernel}: {parameter} must be one of {', '.join(names)}, got {argument!r}.")
    return dtype


def accepted_types(name: str, chosen: Mapping[str, Argument]) -> tuple[str, ...]:
    """Returns the dtypes that a parameter accepts; L is the type of class labels or of dense targets."""
    return ("int64", accumulator(_stored(chosen)).name) if name == "L" else TYPES[name]


def accepted_widths(chosen: Mapping[str, Argument]) -> tuple[int, int]:
    """Returns the numbers that V accepts."""
    return 1, VECTOR // _stored(chosen).itemsize


def _stored(chosen: Mapping[str, Argument]) -> DType:
    dtype = chosen["T"] if "T" in chosen else chosen["A"]
    assert isinstance(dtype, np.dtype)
    return dtype
