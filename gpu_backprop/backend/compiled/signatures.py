"""The heads of the operations in kernels/cpu, and the C++ functions that unpack their arguments.

An operation is written

    template<class F>                 // only where a formula is put in
    BP_CPU void bias_activate(
        float* z,                     // [models, rows, cols] by rows
        const float* bias,            // [models, cols]?      "?": may be None, a null pointer
        i64 models, i64 rows, i64 cols, i64 part, i64 parts) {

In brackets stand integers and integer parameters; their product is the array's size. Where they begin with models, an
array without that axis stands for all of them if there is a parameter NAME_step: how many elements lie between its
models. What is not const is written. "by rows" means that a part of the operation accesses only the rows
of that array, [models, rows, ...], which rows_of gives it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from gpu_backprop.backend.kernel_text import (
    Parameter,
    Row,
    functor,
    functor_name,
    kernels_folder,
    parameters_in,
    source,
    without_comments,
)

HEAD = re.compile(
    r"(?P<template>template\s*<\s*class [FU]\s*>\s*)?BP_CPU\s+void\s+(?P<name>\w+)\s*\((?P<list>[^()]*)\)"
)
LAST = "part", "parts"
BY_ROWS = "by rows"


@dataclass(frozen=True)
class CpuHead:
    """The head of an operation, which bound arguments are checked against."""

    name: str
    parameters: tuple[Parameter, ...]  # without part and parts
    templated: bool


class OperationsText(NamedTuple):
    """A text of operations and of the functions that unpack their arguments, and the heads by name."""

    text: str
    heads: Mapping[str, CpuHead]


@cache
def base() -> OperationsText:
    """Reads the operations that need no formula."""
    texts = sorted(path.name for path in (kernels_folder() / "cpu").glob("*.cpp"))
    text = source(*(f"cpu/{name}" for name in texts))
    heads = heads_of(text)
    return OperationsText(text + "".join(map(_unpacked, heads.values())), heads)


FILES = {"activation": "cpu/layers.hpp", "loss": "cpu/losses.hpp", "update": "cpu/optimizers.hpp"}
"""By the kind of a row, the operations that take its formula."""


def of_row(row: Row) -> OperationsText:
    """Instantiates the operations that take the formula of a row.

    Raises:
        DeviceError: it has no formula in C++.
    """
    text, heads = _templates(FILES[row.kind])
    unpacked = (_unpacked(head, f"<{functor_name(row)}>") for head in heads.values())
    return OperationsText(text + functor(row) + "".join(unpacked), heads)


@cache
def _templates(file: str) -> OperationsText:
    text = source(file)
    return OperationsText(text, {name: head for name, head in heads_of(text).items() if head.templated})


def heads_of(text: str) -> dict[str, CpuHead]:
    """Reads the heads in a text, by name. That they follow the grammar is for a test to say.

    Raises:
        DeviceError: a parameter cannot be read.
    """
    bare, heads = without_comments(text), {}
    for head in HEAD.finditer(bare):
        given = parameters_in(f"kernels/cpu, operation {head['name']}", text, bare, *head.span("list"))
        heads[head["name"]] = CpuHead(head["name"], tuple(given)[: -len(LAST)], bool(head["template"]))
    return heads


def _unpacked(head: CpuHead, formula: str = "") -> str:
    taken = "".join(f"{_slot(k, p)}, " for k, p in enumerate(head.parameters))
    return (
        f'\nextern "C" void bp_{head.name}(const Slot* s, i64 part, i64 parts) {{\n'
        f"  {head.name}{formula}({taken}part, parts);\n}}\n"
    )


def _slot(k: int, p: Parameter) -> str:
    if p.pointer:
        return f"static_cast<{'const ' * p.constant}{p.type}*>(s[{k}].pointer)"
    return f"s[{k}].integer" if p.type == "i64" else f"{p.type}(s[{k}].number)"
