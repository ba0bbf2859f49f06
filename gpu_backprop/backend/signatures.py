"""The heads of the kernels, read from their texts: one grammar for CUDA's, in kernels/, and the CPU's, in kernels/cpu/.

    template<class T, int V>
    __global__ void __launch_bounds__(256) add_bias(
        const T* x,       // [models, rows, cols] any text may follow
        const acc<T>* b,  // [models, cols]?      "?": may be None, a null pointer
        i64 b_step,       // found from b: how many elements lie between its models
        i64 rows, int cols) {

    BP_CPU void add_bias(
        const real* x,  // [models, rows, cols] by rows
        const real* b,   // [models, cols]?
        i64 b_step, i64 models, i64 rows, i64 cols, i64 part, i64 parts) {

A pointer stands on a line of its own, with its shape: integers and integer parameters, whose product is the array's
size. For CUDA, `models` (gridDim.z) and gridDim.x, .y, .z can be among them. An array is contiguous, unless a parameter
NAME_step or NAME_stride is there: with NAME_step each model's part is, with NAME_stride all its elements lie at equal
distances. For the CPU, an array without its axis of models then stands for all of them; the axis need not be the first;
and what begins with an axis of threads is scratch memory, a part of it each thread's. What is not const is written.

A function for the CPU does a part of the work: `part` of `parts`, its last two parameters, which are not among those of
its Head. "by rows" means that a part accesses only the rows of that array, [models, rows, ...], which rows_of gives it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType

from gpu_backprop.backend import kernel_text
from gpu_backprop.backend.errors import DeviceError

COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
HEAD = re.compile(
    r"(?:template\s*<(?P<template>[^<>]*)>\s*)?"
    r"(?P<mark>__global__|BP_CPU)\s+void\s+(?:__launch_bounds__\s*\([^()]*\)\s*)?(?P<name>\w+)\s*"
    r"\((?P<parameters>[^()]*?)(?P<parts>,?\s*i64\s+part\s*,\s*i64\s+parts\s*)?\)"
)
PARAMETER = re.compile(r"(?P<constant>const\s+)?(?P<type>acc<\w+>|\w+)\s*(?P<pointer>\*\s*)?\b(?P<name>\w+)")
SHAPE = re.compile(r"\s*\[(?P<entries>[^\]]*)\](?P<nullable>\??)(?P<by_rows>\s+by rows\b)?")

NUMBERS = ("int", "i64", "u32", "u64", "float", "double", "real", "u8")


@dataclass(frozen=True)
class Parameter:
    """A parameter of a kernel."""

    name: str
    type: str  # "T", "acc<T>", "int" ...; of a pointer, its element type
    pointer: bool
    shape: tuple[str, ...] | None = None  # of a pointer: its size is the product of the entries
    nullable: bool = False
    constant: bool = False  # a pointer to const
    by_rows: bool = False  # a part of an operation accesses only its own rows

    @cached_property
    def of(self) -> str:
        """The pointer whose step or stride this number is, else ""; it is found from the array."""
        name, _, suffix = self.name.rpartition("_")
        return name if not self.pointer and suffix in ("step", "stride") else ""


@dataclass(frozen=True)
class Head:
    """The head of a kernel, which its arguments are checked against."""

    name: str
    file: str
    template: tuple[tuple[str, str], ...]  # (kind, name)
    parameters: tuple[Parameter, ...]

    @property
    def given(self) -> tuple[str, ...]:
        """The names of the parameters that a call has to give."""
        return tuple(p.name for p in self.parameters if not p.of)

    @property
    def vector_axis(self) -> str:
        """The entry along which V elements are read at once: the last of the first pointer to a template's type."""
        shapes = (p.shape for p in self.parameters if p.shape and p.type not in NUMBERS)
        return next(shapes, ("1",))[-1]


def heads(files: str = "*.cu") -> Mapping[str, Head]:
    """Reads the heads in some files of kernels/, by name: those of CUDA, or such as "cpu/*.cpp". That they follow the
    grammar is for a test to say.

    Raises:
        DeviceError: a parameter cannot be read; the message names its file.
    """
    return _heads(kernel_text.kernels_folder(), files)


@cache
def _heads(folder: Path, files: str) -> Mapping[str, Head]:
    texts = ((path.name, kernel_text.read_text(path)) for path in sorted(folder.glob(files)))
    return MappingProxyType({head.name: head for file, text in texts for head in heads_in(file, text)})


def heads_in(file: str, text: str) -> Iterator[Head]:
    """Reads the heads in the text of a file."""
    bare = without_comments(text)
    for head in HEAD.finditer(bare):
        where, (start, end) = f"{file}, kernel {head['name']}", head.span("parameters")
        lines = zip(bare[start:end].split("\n"), text[start:].split("\n"), strict=False)
        parameters = tuple(p for code, line in lines for p in _parameters(where, code, line))
        yield Head(head["name"], file, tuple(_template(head["template"] or "")), parameters)


def without_comments(text: str) -> str:
    """Replaces comments by blanks, so that all positions stay."""
    return COMMENT.sub(lambda comment: re.sub(r"[^\n]", " ", comment[0]), text)


def _template(text: str) -> Iterator[tuple[str, str]]:
    for written in filter(None, map(str.strip, text.split(","))):
        kind, _, name = written.replace("typename", "class").rpartition(" ")
        yield kind.strip(), name


def _parameters(where: str, code: str, line: str) -> Iterator[Parameter]:
    """Reads the parameters in a line, of which `code` is without comments."""
    written = [one for one in map(str.strip, code.split(",")) if one]
    for one in written:
        found = PARAMETER.fullmatch(one)
        if not found:
            raise DeviceError(
                f"{where}: parameter {one!r} cannot be read; it is written 'const T* name' or 'int name'."
            )
        name, kind = found["name"], found["type"]
        if not found["pointer"]:
            yield Parameter(name, kind, pointer=False)
            continue
        shape = SHAPE.match(line.partition("//")[2])
        if len(written) > 1 or not shape:
            raise DeviceError(f"{where}: pointer {name} needs a line of its own, with its shape: // [rows, cols].")
        entries = tuple(map(str.strip, shape["entries"].split(",")))
        given = bool(shape["nullable"]), bool(found["constant"]), bool(shape["by_rows"])
        yield Parameter(name, kind, True, entries, *given)
