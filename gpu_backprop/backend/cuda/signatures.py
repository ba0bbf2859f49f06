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
from gpu_backprop.backend.kernel_text import NUMBERS, Parameter, parameters_in, read_text, without_comments

HEAD = re.compile(
    r"(?:template\s*<(?P<template>[^<>]*)>\s*)?__global__\s+void\s+(?:__launch_bounds__\s*\([^()]*\)\s*)?"
    r"(?P<name>[A-Za-z_]\w*)\s*\((?P<parameters>[^()]*)\)"
)


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
    """Reads the heads of all kernels, by name. That they follow the grammar is for a test to say.

    Raises:
        DeviceError: a parameter cannot be read; the message names its file.
    """
    return _heads(kernel_text.kernels_folder())


@cache
def _heads(folder: Path) -> Mapping[str, Head]:
    texts = {path.name: read_text(path) for path in sorted(folder.glob("*.cu"))}
    return MappingProxyType({head.name: head for file, text in texts.items() for head in _heads_in(file, text)})


def _heads_in(file: str, text: str) -> Iterator[Head]:
    bare = without_comments(text)
    for head in HEAD.finditer(bare):
        parameters = parameters_in(f"{file}, kernel {head['name']}", text, bare, *head.span("parameters"))
        yield Head(head["name"], file, tuple(_template(head["template"] or "")), tuple(parameters))


def _template(text: str) -> Iterator[tuple[str, str]]:
    for written in filter(None, map(str.strip, text.split(","))):
        kind, _, name = written.replace("typename", "class").rpartition(" ")
        yield kind.strip(), name
