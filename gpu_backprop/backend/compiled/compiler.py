"""Finds the machine's C++ compiler, and compiles each text once, into a folder of the user's."""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from itertools import count, takewhile
from pathlib import Path
from typing import NamedTuple

from gpu_backprop.backend.cache_folder import cache_folder
from gpu_backprop.backend.errors import DeviceError

LOG = logging.getLogger("gpu_backprop.compiler")

VARIABLE = "GPU_BACKPROP_COMPILER"
NONE = "none"
NO_COMPILER = "no C++ compiler was found"
COMMANDS = "c++", "g++", "clang++"
PLATFORMS = {"x86_64": ("-march=native", "-mprefer-vector-width=512"), "aarch64": ("-mcpu=native",)}
"""The processors that kernels are compiled for, with the options that use all of their instructions."""

OPTIONS = (
    "-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fno-exceptions", "-fno-rtti",
    "-fPIC", "-shared", "-pthread",
)  # fmt: skip
"""Nothing of -ffast-math that breaks NaN and infinity, and no contraction of products and sums to fma: the compiler
might do so in a vector and not for a single number, or the other way round."""

PROCESSOR = (
    "vendor_id", "cpu family", "model", "model name", "stepping", "flags",
    "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features",
)  # fmt: skip
"""The lines of /proc/cpuinfo that tell what a processor can do."""

DIGEST = 32
"""Bytes: a library ends with the SHA-256 of all before, so that a truncated or damaged one is not loaded."""

SECONDS = 120
"""Time limit of the compiler, and of a trial of its library: some twenty times what they usually take."""

Trial = Callable[[Path], None]
"""Gets a new library, and raises DeviceError where it should not be loaded."""

_loads = count()


class Library(NamedTuple):
    """A library that is loaded."""

    functions: ctypes.CDLL
    digest: str  # of its bytes, so also of its text, its compiler and this processor
    path: Path


class NoCompilerError(DeviceError):
    """There is no C++ compiler that could be used; the message says why."""


class Compiler:
    """A C++ compiler, by the words of its command, such as ("ccache", "g++"), and the folder of its libraries."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self.command = command
        self._options = (*OPTIONS, *PLATFORMS[platform.machine()])

    def load(self, text: str, what: str = "kernels", trial: Trial | None = None) -> Library:
        """Loads the library of `text`; one that cannot be loaded is compiled again.

        Args:
            what: a description for the log, with how long it usually takes.
            trial: what a new library has to pass first.

        Raises:
            DeviceError: the compiler refuses the text, nothing can be written, or it cannot be loaded.
        """
        try:
            return self._load(text, what, trial)
        except OSError:  # it is no library, or needs another one that is missing
            self._path(text).unlink(missing_ok=True)
        try:
            return self._load(text, what, trial)
        except OSError as error:
            raise DeviceError(f"the compiled kernels cannot be loaded ({error})") from error

    def _load(self, text: str, what: str, trial: Trial | None) -> Library:
        try:
            path = self._path(text)
            file = _whole(path)
            if file is None:
                file = self._compile(text, path, what, trial)
        except OSError as error:
            raise DeviceError(f"{self.command[0]} cannot be started, or its output not be stored: {error}") from error
        try:
            # The file that was checked is the one that is loaded, whatever has replaced it meanwhile. The C library
            # takes a name it knows for the library it has loaded by that name, so each load has a new name.
            name = f"/proc/self/fd/{'./' * next(_loads)}{file}"
            functions = ctypes.CDLL(name if os.path.exists(name) else os.fspath(path))
            return Library(functions, os.pread(file, DIGEST, os.fstat(file).st_size - DIGEST).hex(), path)
        finally:
            os.close(file)

    def _path(self, text: str) -> Path:
        # What is linked with a later C library cannot be loaded.
        here = *_files(self.command), _processor(), *platform.libc_ver()
        made_of = "\0".join((text, *self._options, *self.command, *here))
        return _folder() / f"{hashlib.sha256(made_of.encode(errors='surrogateescape')).hexdigest()[:40]}.so"

    def _compile(self, text: str, path: Path, what: str, trial: Trial | None) -> int:
        with tempfile.TemporaryDirectory(dir=path.parent, ignore_cleanup_errors=True) as folder:
            written, made, log = Path(folder, "text.cpp"), Path(folder, "library.so"), Path(folder, "log")
            written.write_text(text, encoding="utf-8")
            command = [*self.command, *self._options, str(written), "-o", str(made)]
            LOG.info("compiling %s", what)
            LOG.debug("%s", shlex.join(command))
            code = run(command, log)
            if code or not made.is_file():
                said = log.read_text("utf-8", "replace").splitlines()[1:]
                first = next((line for line in said if "error" in line), "".join(said[:1])) or "no message"
                why = f"it was stopped after {SECONDS} s" if code is None else first
                kept = f" (the rest is in {log.replace(path.with_suffix('.log'))})" if said else ""
                raise DeviceError(f"{shlex.join(self.command)} fails: {why}{kept}")
            if trial:
                trial(made)
            content = made.read_bytes()
            made.write_bytes(content + hashlib.sha256(content).digest())
            made.chmod(0o700)
            file = os.open(made, os.O_RDONLY | os.O_CLOEXEC)
            made.replace(path)
            path.with_suffix(".log").unlink(missing_ok=True)
            return file


def run(command: Sequence[str], log: Path) -> int | None:
    """Runs a command for at most SECONDS, then kills it and its children; `log` gets the command and its output.

    Returns its exit code, which is negative after a signal; None: it was killed.
    """
    with log.open("wb") as output:
        output.write(f"{shlex.join(command)}\n".encode(errors="surrogateescape"))
        output.flush()
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        ) as process:
            try:
                return process.wait(SECONDS)
            except BaseException as error:  # Ctrl-C too: its session is not the terminal's
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                if isinstance(error, subprocess.TimeoutExpired):
                    return None
                raise


def find() -> Compiler:
    """Finds the compiler: what GPU_BACKPROP_COMPILER names, else $CXX, else the first of COMMANDS that exists.

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
    """Splits a command as a shell does; [] where a quotation mark is left open."""
    try:
        return shlex.split(command)
    except ValueError:
        return []


def _files(command: tuple[str, ...]) -> list[str]:
    """Returns path, size and time of the compiler's files, which tell its versions apart without starting it."""
    found = [os.path.realpath(path) for path in map(shutil.which, command) if path]
    return [f"{path} {status.st_size} {status.st_mtime_ns}" for path in found for status in [os.stat(path)]]


@cache
def _processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        first = takewhile(str.strip, lines)  # up to the first empty line: one processor
        return "".join(line for line in first if line.partition(":")[0].strip() in PROCESSOR)


def _folder() -> Path:
    """Returns a folder that only this user can write to, from which libraries can be loaded."""
    folder = cache_folder()
    with suppress(OSError):
        if folder is not None and not os.statvfs(folder).f_flag & os.ST_NOEXEC:
            return folder
    return _temporary_folder()


@cache
def _temporary_folder() -> Path:
    """Makes a folder for this process alone, which is removed with it."""
    folder = tempfile.mkdtemp(prefix="gpu_backprop-")
    atexit.register(_remove, folder, os.getpid())
    return Path(folder)


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # not the child of a fork
        shutil.rmtree(folder, ignore_errors=True)


def _whole(path: Path) -> int | None:
    """Opens a library that this user alone can write to and that is whole; None: there is none."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        status = os.fstat(file)
        ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
        content = os.pread(file, status.st_size, 0) if ours else b""
    except OSError:
        content = b""
    if content and hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:]:
        return file
    os.close(file)
    return None
