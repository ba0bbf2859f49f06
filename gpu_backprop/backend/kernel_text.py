"""Finds the kernel texts, joins their includes, reads the kernels' heads, and makes functors of the tables' formulas.

The texts of `kernels/` are templates over dtype and formula. `source` gives one with its own `#include`s put in, since
a compiler that caches by source text does not see what an include brings; `functor` gives the struct that carries the
CUDA formula of an activation or a loss into a template. `heads` reads what each kernel takes, from its text:

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

from gpu_backprop.backend.errors import DeviceError
from gpu_backprop.backend.formula import Activation, Functions, LossFormula, functor_name

PRELUDE = "port.cuh"
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"\n]*)"[^\n]*(?:\n|\Z)', re.MULTILINE)

COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
HEAD = re.compile(
    r"(?:template\s*<(?P<template>[^<>]*)>\s*)?__global__\s+void\s+(?:__launch_bounds__\s*\([^()]*\)\s*)?"
    r"(?P<name>[A-Za-z_]\w*)\s*\((?P<parameters>[^()]*)\)"
)
PARAMETER = re.compile(
    r"(?P<constant>const\s+)?(?P<type>unsigned\s+char|acc<\w+>|\w+)\s*(?P<pointer>\*\s*)?\b(?P<name>\w+)"
)
SHAPE = re.compile(r"\s*\[(?P<entries>[^\]]*)\](?P<nullable>\??)")

GRID = ("models", "gridDim.x", "gridDim.y", "gridDim.z")
INTEGERS = ("int", "i64", "u32", "u64")
NUMBERS = (*INTEGERS, "float", "double", "unsigned char")
TEMPLATE = {
    "T": "class",
    "S": "class",
    "A": "class",
    "L": "class",
    "C": "class",
    "F": "class",
    "E": "class",
    "N": "class",
    "V": "int",
}
"""The template parameters that a kernel may have, and their kinds. What each may be stands in kernel_instance."""

FORMULAS = ("F", "E", "N")
DEPENDENT = ("L", "V")
"""Those whose values depend on T (or A, where there is no T)."""


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


def source(*names: str) -> str:
    """The texts of some files of `kernels_folder()`, each of our own files that they include put in once, where it is
    first asked for. Includes in <> stay.

    Raises:
        DeviceError: the file, or one that it includes, is not there.
    """
    seen: set[str] = set()
    return "".join(_joined(kernels_folder() / name, seen) for name in names)


def _joined(path: Path, seen: set[str]) -> str:
    seen.add(path.name)
    return INCLUDE.sub(lambda found: "" if found[1] in seen else _joined(path.parent / found[1], seen), _read(path))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DeviceError(
            f"the kernel text {path} cannot be read ({error.strerror}); install gpu_backprop again."
        ) from error


def functor(row: Activation | Functions | LossFormula) -> str:
    """The C++ struct `functor_name(row)` with the formulas of a row, static templates over the type A they work in:
    value(z) and slope(s) of an activation, value(y, t, setting) and slope(y, t, setting) of a loss, where t is the
    target. Functions have value(f, z) and slope(f, s), where f is an activation's number; its own struct has to stand
    before theirs.

    Raises:
        DeviceError: the row has no CUDA formula.
    """
    if isinstance(row, Functions):
        return _functions(row)
    if not (row.cuda_value and row.cuda_slope):
        raise DeviceError(
            f"{row.name!r} has no CUDA formula to make a kernel of; give it cuda_value and cuda_slope, or use "
            "device='cpu'."
        )
    if isinstance(row, Activation):
        value, slope = "A z", "A s"
    else:
        value = slope = "A y, A t, A setting"
    return (
        f"struct {functor_name(row)} {{\n"
        f"  template<class A> BP_DEV static A value({value}) {{ return {row.cuda_value}; }}\n"
        f"  template<class A> BP_DEV static A slope({slope}) {{ return {row.cuda_slope}; }}\n"
        "};\n"
    )


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


@dataclass(frozen=True)
class Parameter:
    """What a kernel takes at one place of its list."""

    name: str
    type: str  # "T", "acc<T>", "int" ...: of the number, or of what is pointed to
    pointer: bool
    shape: tuple[str, ...] | None = None  # of a pointer: its size is the product of the entries
    nullable: bool = False
    constant: bool = False  # a pointer to what is only read
    note: str = ""  # what follows the bracket of a pointer

    @property
    def of(self) -> str:
        """The pointer whose distances this number tells ("" if it is no such number): nobody gives it."""
        name, _, suffix = self.name.rpartition("_")
        return name if not self.pointer and suffix in ("step", "stride") else ""


@dataclass(frozen=True)
class Head:
    """The head of a kernel: all that a launch is checked against."""

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
    """The heads of all kernels in `kernels_folder()`, by name.

    Raises:
        DeviceError: a kernel's head does not follow the grammar; the message names its file.
    """
    return _heads(kernels_folder())


@cache
def _heads(folder: Path) -> Mapping[str, Head]:
    found: dict[str, Head] = {}
    for path in sorted(folder.glob("*.cu")):
        for head in _heads_in(path.name, _read(path)):
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


def without_comments(text: str) -> str:
    """A copy in which comments are blank, and everything stands where it stands in the text."""
    return COMMENT.sub(lambda comment: re.sub(r"[^\n]", " ", comment[0]), text)


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


def parameters_in(where: str, text: str, bare: str, start: int, end: int) -> Iterator[Parameter]:
    """The parameters that a text lists between two places; in `bare`, comments are blank.

    Raises:
        DeviceError: one of them cannot be read.
    """
    while start < end:
        line = text.find("\n", start) if "\n" in text[start:] else len(text)
        written = [code for code in map(str.strip, bare[start : min(line, end)].split(",")) if code]
        comment = text[start:line].partition("//")[2]
        for code in written:
            found = PARAMETER.fullmatch(code)
            if not found:
                raise DeviceError(
                    f"{where}: parameter {code!r} cannot be read; it is written 'const T* name' or 'int name'."
                )
            name, pointer = found["name"], bool(found["pointer"])
            shape = SHAPE.match(comment) if pointer else None
            if pointer and (len(written) > 1 or not shape):
                raise DeviceError(f"{where}: pointer {name} needs a line of its own, with its shape: // [rows, cols].")
            entries = tuple(entry.strip() for entry in shape["entries"].split(",")) if shape else None
            kind = " ".join(found["type"].split())
            nullable, note = (bool(shape["nullable"]), comment[shape.end() :].strip()) if shape else (False, "")
            yield Parameter(name, kind, pointer, entries, nullable, bool(found["constant"]), note)
        start = line + 1


def _check(where: str, template: tuple[tuple[str, str], ...], parameters: tuple[Parameter, ...]) -> None:
    """What parameters say of each other fits together."""
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
