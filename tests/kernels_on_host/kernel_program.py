"""Programs that launch kernels on the CPU: host.hpp, a kernel text as it is, and program.hpp in one executable."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from lib.kernel_instances import text_of

from gpu_backprop.backend.cuda.kernel_instance import Instance

HERE = Path(__file__).parent

COMMON = ["-std=c++17", "-ffp-contract=off", "-Wall", "-Wdouble-promotion", "-Wno-psabi", "-Werror"]
KINDS = {
    "plain": ["-O1"],
    "address": ["-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
    "thread": ["-O1", "-g1", "-fsanitize=thread", "-pthread", "-DREAL_THREADS"],
}
SETTINGS = {
    "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}

TIMEOUT = 600
"""Seconds for one run: threads that are real can wait for ever."""

FORWARD, REVERSE, RANDOM, MIXED = 0, 1, 2, 2


class Fault(AssertionError):
    """A launch that did not come to its end: a barrier that not all reach, memory around a buffer written to, or a
    sanitizer's report."""


def compiler() -> str:
    """g++, or the test is skipped."""
    found = shutil.which("g++")
    if found is None:
        pytest.skip("g++ is not installed: the kernel texts cannot be run on the CPU")
    return found


def compile_host(folder: Path, name: str, text: str, flags: Sequence[str]) -> Path:
    """Compiles a C++ text for this machine; the sanitizers' reports name the lines of `name`.cpp."""
    (folder / f"{name}.cpp").write_text(text, encoding="utf-8")
    run_compiler(folder, *flags, f"{name}.cpp", "-o", name)
    return folder / name


def run_compiler(folder: Path, *words: str | Path) -> None:
    command = [compiler(), *COMMON, *words, f"-I{HERE}", f"-I{HERE / 'cuda'}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000]


def once(folder: Path, build: Callable[[Path], object]) -> Path:
    """The folder, in which one of the processes that share it has built what they need."""
    import fcntl  # not on Windows

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            build(folder)
            (folder / "done").touch()
    return folder


def common_parts(shared: Path, kind: str) -> Path:
    """The folder of what all programs of a kind share: driver.o, and host.hpp compiled before."""

    def build(folder: Path) -> None:
        (folder / "host.hpp").write_text(f'#include "{HERE / "host.hpp"}"\n', encoding="utf-8")
        run_compiler(folder, *KINDS[kind], "-x", "c++-header", "host.hpp", "-o", "host.hpp.gch")
        run_compiler(folder, *KINDS[kind], "-c", HERE / "driver.cpp", "-o", "driver.o")

    return once(shared / kind, build)


@dataclass(frozen=True)
class Launch:
    """One launch: a kernel by its place in the program, the buffers, and for each argument the buffer it points into
    and the offset there, or (-1, number), 0 for a null pointer; and the bytes that each block has for itself."""

    kernel: int
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    order: tuple[int, int, int]
    buffers: Sequence[tuple[int, bytes]]  # (address modulo 256, contents)
    arguments: Sequence[tuple[int, bytes]]
    shared: int = 0

    def packed(self) -> bytes:
        numbers = (self.kernel, *self.grid, *self.block, *self.order, self.shared, len(self.buffers))
        parts = [struct.pack("<12q", *numbers)]
        for offset, contents in self.buffers:
            parts += [struct.pack("<qq", len(contents), offset), contents]
        parts.append(struct.pack("<q", len(self.arguments)))
        parts += [struct.pack("<q", buffer) + value for buffer, value in self.arguments]
        return b"".join(parts)


class Program:
    """An executable with some instances of one file's kernels.

    Args:
        folder: where to compile it.
        shared: where the parts are that programs have in common.
        kind: of KINDS.
        alter: changes the text before it is compiled.
    """

    def __init__(
        self, folder: Path, shared: Path, instances: Sequence[Instance], kind: str, alter: Callable[[str], str] = str
    ) -> None:
        self.instances, self.kind = list(instances), kind
        table = ",\n".join(f"Launch<&{made.name}>::run" for made in instances)
        parts = common_parts(shared, kind)
        text = "\n".join(
            [
                '#include "host.hpp"',
                alter(text_of(instances)),
                f"const Body kernels[] = {{\n{table}}};\n",
            ]
        )
        name = f"{self.instances[0].kernel.file.partition('.')[0]}_{kind}"
        flags = [*KINDS[kind], f"-I{parts}", str(parts / "driver.o")]  # host.hpp.gch is found before host.hpp
        self.path = compile_host(folder, name, text, flags)

    def run(self, launches: Sequence[Launch]) -> list[list[bytes]]:
        """The contents of the buffers after each launch.

        Raises:
            Fault: one did not come to its end.
        """
        asked, answered = self.path.with_suffix(".asked"), self.path.with_suffix(".answered")
        with asked.open("wb") as file:
            file.write(struct.pack("<q", len(launches)))
            file.writelines(launch.packed() for launch in launches)
        command = [str(self.path), str(asked), str(answered)]
        if self.kind == "thread" and (setarch := shutil.which("setarch")):
            command = [setarch, "-R", *command]  # ThreadSanitizer cannot live with every layout of memory
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ | SETTINGS, timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            raise Fault("the program hung") from None
        if done.returncode or done.stderr:
            raise Fault(f"exit status {done.returncode}: {done.stderr[:4000]}")
        return list(self._answers(answered.read_bytes(), launches))

    def _answers(self, said: bytes, launches: Sequence[Launch]) -> Iterable[list[bytes]]:
        at = 0
        for launch in launches:
            (length,) = struct.unpack_from("<q", said, at)
            at += 8
            if length:
                name = self.instances[launch.kernel].name
                raise Fault(f"{name}, grid {launch.grid}, block {launch.block}: {said[at : at + length].decode()}")
            contents = []
            for _, before in launch.buffers:
                contents.append(said[at : at + len(before)])
                at += len(before)
            yield contents
        assert at == len(said)
