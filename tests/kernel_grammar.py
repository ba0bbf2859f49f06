"""The grammar of the kernels' heads, which are read without a check: that each is read, and that what its parameters
say of each other is consistent. See signatures.py.
"""

from __future__ import annotations

import re

from gpu_backprop.backend import kernel_text
from gpu_backprop.backend.cuda.kernel_instance import INTEGERS as CHOICES
from gpu_backprop.backend.cuda.kernel_instance import TYPES
from gpu_backprop.backend.errors import DeviceError
from gpu_backprop.backend.kernel_text import FORMULAS, read_text
from gpu_backprop.backend.signatures import HEAD, NUMBERS, heads_in, without_comments

MARK = re.compile(r"(?<!#define )\b(?:__global__|BP_CPU)\b")
INTEGERS = "int", "i64", "u32", "u64"
GRID = "models", "gridDim.x", "gridDim.y", "gridDim.z"
TEMPLATE = {**dict.fromkeys([*TYPES, "L", *FORMULAS], "class"), **dict.fromkeys(["V", *CHOICES], "int")}
"""The template parameters that a kernel may have, and their kinds."""

DEPENDENT = "L", "V"
"""Those whose values depend on T (or A, where there is no T)."""


def check_heads(files):
    """Raises DeviceError unless the heads in some files of kernels/ follow the grammar."""
    names = {}
    for path in sorted(kernel_text.kernels_folder().glob(files)):
        file, text = path.name, read_text(path)
        bare = without_comments(text)
        found = {head.start("mark"): head for head in HEAD.finditer(bare)}
        for mark in MARK.finditer(bare):
            if mark.start() not in found:
                line = text.count("\n", 0, mark.start()) + 1
                raise DeviceError(f"{file}, line {line}: this kernel's head cannot be read.")
        for written, head in zip(found.values(), heads_in(file, text), strict=True):
            where, cpu = f"{file}, kernel {head.name}", written["mark"] == "BP_CPU"
            if names.setdefault(head.name, file) != file:
                raise DeviceError(f"kernel {head.name} is in {names[head.name]} and in {file}; rename one.")
            if cpu and not written["parts"]:
                raise DeviceError(f"{where}: its last parameters must be i64 part, i64 parts.")
            check_template(where, head.template)
            check_parameters(where, head, cpu)


def check_template(where, template):
    earlier = set()
    for kind, name in template:
        if TEMPLATE.get(name) != kind:
            known = ", ".join(f"{kind} {name}" for name, kind in TEMPLATE.items())
            raise DeviceError(f"{where}: template parameter '{kind} {name}' is not one of {known}.")
        if name in DEPENDENT and not earlier & {"T", "A"}:
            raise DeviceError(f"{where}: {name} depends on T or A, which has to stand before it.")
        earlier.add(name)


def check_parameters(where, head, cpu):
    types = [name for kind, name in head.template if kind == "class" and name not in FORMULAS]
    types += [f"acc<{name}>" for name in types] + list(NUMBERS)
    pointers = {p.name: p for p in head.parameters if p.pointer}
    sizes = [p.name for p in head.parameters if p.type in INTEGERS and not p.pointer and not p.of]
    sizes += [] if cpu else GRID
    for p in head.parameters:
        known = ["real", "double", "i64", *["u8"] * p.pointer] if cpu else types
        if p.type not in known:
            raise DeviceError(f"{where}: {p.name} has the unknown type {p.type!r}; known: {', '.join(known)}.")
        if p.of and (p.of not in pointers or p.type not in INTEGERS):
            raise DeviceError(f"{where}: {p.name} has to be an integer and tell of a pointer called {p.of}.")
        if p.name.endswith("_step") and p.of and "models" not in (pointers[p.of].shape or ())[: None if cpu else 1]:
            raise DeviceError(f"{where}: {p.name} tells of models; the shape of {p.of} has to begin with models.")
        if p.by_rows and "models" not in (p.shape or ())[:1]:
            raise DeviceError(f"{where}: {p.name} is not [models, rows ...] and cannot be accessed by rows.")
        for entry in p.shape or ():
            if not entry.isdecimal() and entry not in sizes:
                raise DeviceError(
                    f"{where}: {p.name} has the unknown size {entry!r}; known: integers, {', '.join(sizes)}."
                )
    if both := [name for name in pointers if {f"{name}_step", f"{name}_stride"} <= {p.name for p in head.parameters}]:
        raise DeviceError(f"{where}: {both[0]} has a step and a stride; it can have one of them.")
    names = [p.name for p in head.parameters]
    if len(set(names)) < len(names):
        raise DeviceError(f"{where}: two parameters have one name among {', '.join(names)}.")
