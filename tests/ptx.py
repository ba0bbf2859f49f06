"""Reads the PTX that NVRTC makes of kernels: what comes of a parameter or of a block's place, and how memory is met."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lib.kernel_instances import text_of

from gpu_backprop.backend.cuda.kernel_instance import Instance
from gpu_backprop.backend.cuda.kernel_library import OPTIONS

ENTRY = re.compile(r"\.entry (\w+)\(.*?\n\{(.*?)\n\}", re.DOTALL)
INSTRUCTION = re.compile(r"^\s*(?:@!?%p\d+\s+)?([a-z][\w.]*)(?:\s+(.*))?;\s*$", re.MULTILINE)
OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+")
NAME = re.compile(r"%[a-z]+[\w.]*|\w*_param_\d+")


@dataclass(frozen=True)
class Instruction:
    """An instruction: what it does, the names that it writes, and its other operands as they stand."""

    what: str
    writes: frozenset[str]
    operands: tuple[str, ...]

    @property
    def reads(self) -> set[str]:
        return {name for operand in self.operands for name in NAME.findall(operand)}

    @property
    def meets_memory(self) -> bool:
        """Whether it loads from, stores to or counts in memory, parameters aside."""
        return self.what.startswith(("ld.", "st.", "atom.", "red.")) and ".param" not in self.what

    @property
    def address(self) -> set[str]:
        return {name for operand in self.operands if operand[0] == "[" for name in NAME.findall(operand)}


def compile_ptx(made: Sequence[Instance], text: str = "") -> dict[str, list[Instruction]]:
    """Compiles instances of one file, of which `text` may be another one than theirs; gives the instructions by name of
    instance, in the order of the text."""
    from cupy._core.core import assemble_cupy_compiler_options
    from cupy.cuda.compiler import _NVRTCProgram

    names = tuple(m.name for m in made)
    program = _NVRTCProgram(text or text_of(made), "kernels.cu", name_expressions=names, method="ptx")
    last = "-ftz=true", "-arch=compute_90", "--device-as-default-execution-space"
    code, mangled = program.compile(assemble_cupy_compiler_options(OPTIONS) + last, io.StringIO())
    bodies = dict(ENTRY.findall(code.decode() if isinstance(code, bytes) else code))
    return {m.name: list(_instructions(bodies[mangled[m.name]])) for m in made}


def _instructions(body: str) -> Iterator[Instruction]:
    for what, rest in INSTRUCTION.findall(body):
        operands = tuple(OPERAND.findall(rest))
        stores = what.startswith(("st.", "red.", "bar", "bra", "membar", "fence"))
        written, read = ((), operands) if stores or not operands else (operands[:1], operands[1:])
        yield Instruction(what, frozenset(name for o in written for name in NAME.findall(o)), read)


def derived(instructions: Iterable[Instruction], starts: Iterable[str]) -> set[str]:
    """The registers whose value is computed from those of `starts`: registers, or parameters by their number. A value
    that is loaded from memory, or a comparison, is not computed from the address or the numbers compared."""
    found: set[str] = set()
    users: dict[str, set[str]] = {}
    for one in instructions:
        if not one.meets_memory and not one.what.startswith("setp"):
            for name in one.reads:
                users.setdefault(name.rpartition("_param_")[2], set()).update(one.writes)
    waiting = set(starts)
    while waiting:
        found |= waiting
        waiting = {user for name in waiting for user in users.get(name, ())} - found
    return found
