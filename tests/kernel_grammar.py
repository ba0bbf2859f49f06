"""The grammar of the kernels' heads, which are read without a check: that each is read, and that what its parameters
say of each other is consistent. See cuda/signatures.py and compiled/signatures.py.
"""

from __future__ import annotations

import re

from gpu_backprop.backend import kernel_text
from gpu_backprop.backend.compiled import signatures as cpu
from gpu_backprop.backend.cuda import signatures as cuda
from gpu_backprop.backend.errors import DeviceError
from gpu_backprop.backend.kernel_text import FORMULAS, NUMBERS, read_text, without_comments

INTEGERS = "int", "i64", "u32", "u64"
GRID = "models", "gridDim.x", "gridDim.y", "gridDim.z"
TEMPLATE = {**dict.fromkeys("TSALCFEN", "class"), "V": "int"}
"""The template parameters that a kernel may have, and their kinds."""

DEPENDENT = "L", "V"
"""Those whose values depend on T (or A, where there is no T)."""


def check_cuda_heads():
    """Raises DeviceError unless the heads of all kernels/*.cu follow the grammar."""
    texts = {path.name: read_text(path) for path in sorted(kernel_text.kernels_folder().glob("*.cu"))}
    names = {}
    for file, text in texts.items():
        bare = without_comments(text)
        read = {head.start() + head[0].index("__global__"): head for head in cuda.HEAD.finditer(bare)}
        for kernel in re.finditer("__global__", bare):
            if kernel.start() not in read:
                line = text.count("\n", 0, kernel.start()) + 1
                raise DeviceError(f"{file}, line {line}: this kernel's head cannot be read.")
        for head in read.values():
            if names.setdefault(head["name"], file) != file:
                raise DeviceError(f"kernel {head['name']} is in {names[head['name']]} and in {file}; rename one.")
    for head in cuda.heads().values():
        where = f"{head.file}, kernel {head.name}"
        check_template(where, head.template)
        check_parameters(where, head.template, head.parameters)


def check_template(where, template):
    earlier = set()
    for kind, name in template:
        if TEMPLATE.get(name) != kind:
            known = ", ".join(f"{kind} {name}" for name, kind in TEMPLATE.items())
            raise DeviceError(f"{where}: template parameter '{kind} {name}' is not one of {known}.")
        if name in DEPENDENT and not earlier & {"T", "A"}:
            raise DeviceError(f"{where}: {name} depends on T or A, which has to stand before it.")
        earlier.add(name)


def check_parameters(where, template, parameters):
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
                known = f"integers, {', '.join([*GRID, *sizes])}"
                raise DeviceError(f"{where}: {p.name} has the unknown size {entry!r}; known: {known}.")
    if both := [name for name in pointers if {f"{name}_step", f"{name}_stride"} <= {p.name for p in parameters}]:
        raise DeviceError(f"{where}: {both[0]} has a step and a stride; it can have one of them.")
    names = [p.name for p in parameters]
    if len(set(names)) < len(names):
        raise DeviceError(f"{where}: two parameters have one name among {', '.join(names)}.")


def check_cpu_heads(text):
    """Raises DeviceError unless the heads of the operations in a text of kernels/cpu follow the grammar."""
    bare = without_comments(text)
    found = list(cpu.HEAD.finditer(bare))
    if len(found) != len(re.findall(r"^\s*BP_CPU\b", bare, re.MULTILINE)):
        raise DeviceError(f"kernels/cpu: a head cannot be read after {[head['name'] for head in found]}.")
    for head in found:
        if not re.search(r"\bi64\s+part\s*,\s*i64\s+parts\s*$", head["list"]):
            raise DeviceError(f"operation {head['name']}: its last parameters must be i64 part, i64 parts.")
    for head in cpu.heads_of(text).values():
        where = f"kernels/cpu, operation {head.name}"
        sizes = {p.name for p in head.parameters if p.type == "i64" and not p.pointer and not p.of}
        of_models = {p.name for p in head.parameters if (p.shape or ())[:1] == ("models",)}
        for p in head.parameters:
            if p.type not in ("float", "double", "i64", *["u8"] * p.pointer):
                raise DeviceError(f"{where}: {p.name} has the unknown type {p.type!r}.")
            for entry in p.shape or ():
                if not entry.isdecimal() and entry not in sizes:
                    raise DeviceError(f"{where}: {p.name} has the unknown size {entry!r}.")
            if p.of and (p.of not in of_models or p.type != "i64"):
                raise DeviceError(f"{where}: {p.name} has to be an i64, of an array [models ...] called {p.of}.")
            if p.note.startswith(cpu.BY_ROWS) and p.name not in of_models:
                raise DeviceError(f"{where}: {p.name} is not [models, rows ...] and cannot be touched by rows.")
