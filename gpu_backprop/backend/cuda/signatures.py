"""The heads of the CUDA kernels, read from their text.

    template<class T, int V>
    __global__ void __launch_bounds__(256) add_bias(
        const T* x,       // [models, rows, cols] any text may follow the bracket
        const acc<T>* b,  // [models, cols]?      "?": may be None, a null pointer
        i64 b_step,       // found from b: how many elements lie between its models
        i64 rows, int cols) {

In brackets stand integers, integer parameters, `models` (gridDim.z) and gridDim.x, .y, .z; their product is the array's
size. A pointer NAME is contiguous, unless a parameter NAME_step or NAME_stride is there: with NAME_step each model's
part is, with NAME_stride all its elements lie at equal distances.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from gpu_backprop.backend import kernel_text
from gpu_backprop.backend.errors import DeviceError
from gpu_backprop.backend.kernel_text import (
    FORMULAS,
    INTEGERS,
    NUMBERS,
    Parameter,
    parameters_in,
    read_text,
    without_comments,
)

HEAD = re.compile(
    r"(?:template\s*<(?P<template>[^<>]*)>\s*)?__global__\s+void\s+(?:__launch_bounds__\s*\([^()]*\)\s*)?"
    r"(?P<name>[A-Za-z_]\w*)\s*\((?P<parameters>[^()]*)\)"
)
GRID = ("models", "gridDim.x", "gridDim.y", "gridDim.z")
TEMPLATE = {**dict.fromkeys("TSALCFEN", "class"), "V": "int"}
"""The template parameters that a kernel may have, and their kinds; kernel_instance has the values of each."""

DEPENDENT = ("L", "V")
"""Those whose values depend on T (or A, where there is no T)."""


@dataclass(frozen=True)
class Head:
    """The head of a kernel, which its launches are checked against."""

    name: str
    file: str
    template: tuple[tuple[str, str], ...]  # (kind, name)
    parameters: tuple[Parameter, ...]

    @property
    def given(self) -> tuple[str, ...]:
        """The names of the parameters that a launch has to give."""
        return tuple(p.name for p in self.parameters if not p.of)

    @property
    def vector_axis(self) -> str:
        """The entry along which V elements are read at once: the last of the first pointer to a template's type."""
        shapes = (p.shape for p in self.parameters if p.shape and p.type not in NUMBERS)
        return next(shapes, ("1",))[-1]


def heads() -> Mapping[str, Head]:
    """Reads the heads of all kernels, by name.

    Raises:
        DeviceError: a kernel's head does not follow the grammar; the message names its file.
    """
    return _heads(kernel_text.kernels_folder())


@cache
def _heads(folder: Path) -> Mapping[str, Head]:
    found: dict[str, Head] = {}
    for path in sorted(folder.glob("*.cu")):
        for head in _heads_in(path.name, read_text(path)):
            if head.name in found:
                raise DeviceError(f"kernel {head.name} is in {found[head.name].file} and in {head.file}; rename one.")
            found[head.name] = head
    return MappingProxyType(found)


def _heads_in(file: str, text: str) -> Iterator[Head]:
    bare = without_comments(text)
    found = {head.start() + head[0].index("__global__"): head for head in HEAD.finditer(bare)}
    for kernel in re.finditer("__global__", bare):
        if kernel.start() not in found:
            line = text.count("\n", 0, kernel.start()) + 1
            raise DeviceError(
                f"{file}, line {line}: this kernel's head cannot be read; it is written "
                "template<class T> __global__ void __launch_bounds__(256) name(parameters)."
            )
        head = found[kernel.start()]
        where = f"{file}, kernel {head['name']}"
        template = tuple(_template(where, head["template"] or ""))
        parameters = tuple(parameters_in(where, text, bare, *head.span("parameters")))
        _check(where, template, parameters)
        yield Head(head["name"], file, template, parameters)


def _template(where: str, text: str) -> Iterator[tuple[str, str]]:
    earlier: set[str] = set()
    for written in filter(None, map(str.strip, text.split(","))):
        kind, _, name = written.replace("typename", "class").rpartition(" ")
        if TEMPLATE.get(name) != kind.strip():
            known = ", ".join(f"{kind} {name}" for name, kind in TEMPLATE.items())
            raise DeviceError(f"{where}: template parameter {written!r} is not one of {known}.")
        if name in DEPENDENT and not earlier & {"T", "A"}:
            raise DeviceError(f"{where}: {name} depends on T or A, which has to stand before it.")
        earlier.add(name)
        yield kind.strip(), name


def _check(where: str, template: tuple[tuple[str, str], ...], parameters: tuple[Parameter, ...]) -> None:
    """Raises DeviceError unless what the parameters say of each other is consistent."""
    types = [name for kind, name in template if kind == "class" and name not in FORMULAS]
    types += [f"acc<{name}>" for name in types] + list(NUMBERS)
    pointers = {p.name: p for p in parameters if p.pointer}
    sizes = {p.name for p in parameters if p.type in INTEGERS and not p.pointer and not p.of}
    for p in parameters:
        if p.type not in types:
            raise DeviceError(f"{where}: {p.name} has the unknown type {p.type!r}; known: {', '.join(types)}.")
        if p.of and (p.of not in pointers or p.type not in INTEGERS):
            raise DeviceError(f"{where}: {p.name} has to be an integer and tell of a pointer called {p.of}.")
        if p.name.endswith("_step") and p.of and (pointers[p.of].shape or ("",))[0] != "models":
            raise DeviceError(f"{where}: {p.name} tells of models; the shape of {p.of} has to begin with models.")
        for entry in p.shape or ():
            if not entry.isdecimal() and entry not in GRID and entry not in sizes:
                raise DeviceError(
                    f"{where}: {p.name} has the unknown size {entry!r}; known: integers, {', '.join([*GRID, *sizes])}."
                )
    both = [name for name in pointers if {f"{name}_step", f"{name}_stride"} <= {p.name for p in parameters}]
    if both:
        raise DeviceError(f"{where}: {both[0]} has a step and a stride; it can have one of them.")
    names = [p.name for p in parameters]
    if len(set(names)) < len(names):
        raise DeviceError(f"{where}: two parameters have one name among {', '.join(names)}.")
