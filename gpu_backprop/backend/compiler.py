"""The machine's C++ compiler: finds it, and compiles a text once, into a folder of the user's."""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from functools import cache
from itertools import takewhile
from pathlib import Path

from gpu_backprop.backend.errors import DeviceError

LOG = logging.getLogger("gpu_backprop")

VARIABLE = "GPU_BACKPROP_COMPILER"
NONE = "none"
NO_COMPILER = "no C++ compiler was found"
COMMANDS = "c++", "g++", "clang++"
PLATFORMS = {"x86_64": ("-march=native", "-mprefer-vector-width=512"), "aarch64": ("-mcpu=native",)}
"""Where kernels are compiled, and how the compiler is told to use all that the processor has."""

OPTIONS = (
    "-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fno-exceptions", "-fno-rtti",
    "-fPIC", "-shared", "-pthread",
)  # fmt: skip
"""Nothing of -ffast-math that would take NaN and infinity away, and no product joined with a sum on the compiler's own
account: it would do so in a vector and not alone, or the other way round."""

PROCESSOR = (
    "vendor_id", "cpu family", "model", "model name", "stepping", "flags",
    "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features",
)  # fmt: skip
"""The lines of /proc/cpuinfo that tell what a processor can do."""

DIGEST = 32
"""Bytes: a library ends with the SHA-256 of all before, so that one which was cut off or spoilt is not loaded."""


class NoCompilerError(DeviceError):
    """There is no C++ compiler that could be used; the message says why."""


class Compiler:
    """A C++ compiler, and the folder that keeps what it made.

    Args:
        command: its words, such as ("ccache", "g++").
    """

    def __init__(self, command: tuple[str, ...]) -> None:
        self.command = command
        self._options = (*OPTIONS, *PLATFORMS[platform.machine()])
        self._folder: Path | None = None

    def library(self, text: str) -> Path:
        """The shared library that `text` becomes. It is compiled where no earlier one is there that is whole.

        Raises:
            DeviceError: the compiler does not take the text, or nothing can be written.
        """
        try:
            self._folder = self._folder or _folder()
            made_of = "\0".join((text, *self._options, *self.command, *_files(self.command), _processor()))
            name = hashlib.sha256(made_of.encode(errors="surrogateescape")).hexdigest()[:40]
            path = self._folder / f"{name}.so"
            if not _whole(path):
                self._compile(text, path)
        except OSError as error:
            raise DeviceError(f"{self.command[0]} cannot be started, or its work not be kept: {error}") from error
        return path

    def _compile(self, text: str, path: Path) -> None:
        with tempfile.TemporaryDirectory(dir=path.parent, ignore_cleanup_errors=True) as aside:
            written, made = Path(aside, "text.cpp"), Path(aside, "library.so")
            written.write_text(text, encoding="utf-8")
            command = [*self.command, *self._options, str(written), "-o", str(made)]
            LOG.info("compiling a kernel library: %s", shlex.join(command))
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
            if done.returncode or not made.is_file():
                said = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
                raise DeviceError(f"{shlex.join(self.command)} fails: {' '.join(said[:1]) or 'it says nothing'}")
            content = made.read_bytes()
            made.write_bytes(content + hashlib.sha256(content).digest())
            made.replace(path)


def find() -> Compiler:
    """The compiler to use: what GPU_BACKPROP_COMPILER names, else $CXX, else the first of COMMANDS that is there.

    Raises:
        NoCompilerError: there is none, or none is wanted.
    """
    return _find(os.environ.get(VARIABLE, "").strip(), os.environ.get("CXX", "").strip(), os.environ.get("PATH"))


@cache
def _find(asked: str, usual: str, path: str | None) -> Compiler:
    if asked == NONE:
        raise NoCompilerError(f"{VARIABLE}={NONE}")
    if sys.platform != "linux" or platform.machine() not in PLATFORMS:
        raise NoCompilerError(f"kernels are not compiled on {platform.system()} {platform.machine()}")
    for words in map(_words, [asked] if asked else [usual, *COMMANDS]):
        if words and shutil.which(words[0], path=path):
            return Compiler(tuple(words))
    raise NoCompilerError(f"{VARIABLE}={asked} is not there" if asked else NO_COMPILER)


def _words(command: str) -> list[str]:
    """As a shell reads them; none where a quotation mark is left open."""
    try:
        return shlex.split(command)
    except ValueError:
        return []


def _files(command: tuple[str, ...]) -> list[str]:
    """What tells one compiler from the next version of it, without starting it."""
    found = [os.path.realpath(path) for path in map(shutil.which, command) if path]
    return [f"{path} {status.st_size} {status.st_mtime_ns}" for path in found for status in [os.stat(path)]]


@cache
def _processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        first = takewhile(str.strip, lines)  # up to the first empty line: one processor
        return "".join(line for line in first if line.partition(":")[0].strip() in PROCESSOR)


def _folder() -> Path:
    """A folder that is the user's own and nobody else can write to."""
    wanted = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(wanted if os.path.isabs(wanted) else os.path.expanduser("~/.cache")) / "gpu_backprop"
    if not folder.is_absolute():  # a user without a home
        return _own_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
            folder.chmod(0o700)
            if os.access(folder, os.W_OK | os.X_OK):
                return folder
    except OSError:  # a home that is not there or cannot be written to
        pass
    return _own_folder()


@cache
def _own_folder() -> Path:
    """One for this process alone; it goes with it."""
    folder = tempfile.mkdtemp(prefix="gpu_backprop-")
    atexit.register(_remove, folder, os.getpid())
    return Path(folder)


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # not the child of a fork
        shutil.rmtree(folder, ignore_errors=True)


def _whole(path: Path) -> bool:
    """Whether there is a library of ours, as it was written."""
    try:
        status, content = path.lstat(), path.read_bytes()
    except OSError:
        return False
    ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
    return ours and hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:]
