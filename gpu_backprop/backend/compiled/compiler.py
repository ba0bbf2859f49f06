"""Finds the machine's C++ compiler, and compiles each text once, into a folder of the user's."""

from __future__ import annotations

import logging
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache, partial
from itertools import takewhile
from pathlib import Path

from gpu_backprop.backend.compiled.library_files import Library, folder, library_name, load, seal, store, unfinished
from gpu_backprop.backend.errors import DeviceError
from gpu_backprop.backend.threads import threads

LOG = logging.getLogger("gpu_backprop.compiler")

VARIABLE = "GPU_BACKPROP_COMPILER"
NONE = "none"
NO_COMPILER = "no C++ compiler was found"
COMMANDS = "c++", "g++", "clang++"
X86, ARM = ("-march=native", "-mprefer-vector-width=512"), ("-mcpu=native",)
PLATFORMS = {
    ("linux", "x86_64"): X86, ("linux", "aarch64"): ARM, ("darwin", "x86_64"): X86, ("darwin", "arm64"): ARM,
}  # fmt: skip
"""The systems and processors that kernels are compiled for, with the options that use all instructions."""

UNTRIED = {"darwin": "macOS"}
"""Systems for which all is written by their documentation and nobody has run it: who names a compiler tries it."""

OPTIONS = (
    "-std=c++17", "-O2", "-ftree-vectorize", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off",
    "-fno-exceptions", "-fno-rtti", "-fPIC", "-shared", "-pthread",
)  # fmt: skip
"""What -O3 does besides makes nothing faster, and compiling slower. Nothing of -ffast-math that breaks NaN and
infinity, and no contraction of products and sums to fma: the compiler might do so in a vector and not for a single
number, or the other way round."""

PROCESSOR = (
    "vendor_id", "cpu family", "model", "model name", "stepping", "flags",
    "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features",
)  # fmt: skip
"""The lines of /proc/cpuinfo that tell what a processor can do."""

SECONDS = 120
"""Time limit of the compiler, and of a trial of its libraries: a hundred times what they usually take."""

Attempt = Callable[[Sequence[Path]], None]
"""Gets libraries, of which some are new; raises DeviceError where they should not be loaded."""

Trial = Callable[[Path], AbstractContextManager[Attempt]]
"""Gets the path of a log, and gets ready while the compiler works."""


class NoCompilerError(DeviceError):
    """There is no C++ compiler that could be used; the message says why."""


class Compiler:
    """A C++ compiler, by the words of its command, such as ("ccache", "g++"), and the folder of its libraries.

    Args:
        processor: the options for a processor; None: for this very one.
    """

    kernels = "kernels"

    def __init__(self, command: tuple[str, ...], processor: Sequence[str] | None = None) -> None:
        self.command = command
        self._options = (*OPTIONS, *(PLATFORMS[_platform()] if processor is None else processor))

    def load(
        self, texts: Sequence[str], what: str = "kernels", trial: Trial | None = None
    ) -> list[Library | DeviceError]:
        """Loads the libraries of texts. Those that are not there, or cannot be loaded, are compiled, several at once.

        Args:
            what: a description for the log.
            trial: what they have to pass first where some are new.

        Returns:
            Of each text its library, or why there is none: the compiler refuses it, nothing can be written, it cannot
            be loaded, or the trial went wrong.
        """
        try:
            sources = {self._path(text): text for text in texts}
            found: dict[Path, Library | DeviceError] = {p: library for p in sources if (library := load(p))}
            if len(found) < len(sources):
                found |= self._make(sources, set(found), what, trial)
            return [found[path] for path in sources]
        except DeviceError as error:
            return [error] * len(texts)
        except OSError as error:
            why = f"{self.command[0]} cannot be started, or its output not be stored: {error}"
            return [DeviceError(why)] * len(texts)

    def compile(self, texts: Mapping[Path, str]) -> dict[Path, DeviceError]:
        """Compiles texts into libraries, several at once; returns what the compiler has against some of them."""
        LOG.debug("%s", shlex.join(self._command(Path("TEXT.cpp"), Path("LIBRARY.so"))))
        commands, logs = [], []
        for out, text in texts.items():
            written = out.with_suffix(".cpp")
            # A compiler cache that serves several machines takes another processor's text for another one.
            written.write_text(f'{text}\nextern "C" const char bp_name[] = "{out.stem}";\n', encoding="utf-8")
            commands.append(self._command(written, out))
            logs.append(out.with_suffix(".log"))
        codes = run_all(commands, logs)
        failures = {}
        for out, code, log in zip(texts, codes, logs, strict=True):
            if code or not out.is_file():
                failures[out] = self._failure(code, log)
            else:
                seal(out)
        return failures

    def _make(
        self, sources: Mapping[Path, str], there: Collection[Path], what: str, trial: Trial | None
    ) -> dict[Path, Library | DeviceError]:
        with unfinished() as place, trial(place / "trial") if trial else nullcontext() as attempt:
            LOG.info("compiling %s, once; that usually takes a second or two", what)
            begin = time.perf_counter()
            longest_first = sorted(sources, key=lambda path: -len(sources[path]))  # they take the longest
            made = {path: place / path.name for path in longest_first if path not in there}
            failures = self.compile({out: sources[path] for path, out in made.items()})
            if attempt and not failures:
                attempt([made.get(path, path) for path in sources])
            LOG.info("compiled in %.1f s", time.perf_counter() - begin)
            return {path: failures[out] if out in failures else store(out, path) for path, out in made.items()}

    def _path(self, text: str) -> Path:
        # What is linked with a later C library cannot be loaded.
        here = *_files(self.command), processor(), *platform.libc_ver()
        return folder() / library_name(text, *self._options, *self.command, *here)

    def _command(self, text: Path, library: Path) -> list[str]:
        return [*self.command, *self._options, str(text), "-o", str(library)]

    def _failure(self, code: int | None, log: Path) -> DeviceError:
        said = log.read_text("utf-8", "replace").splitlines()[1:]
        first = next((line for line in said if "error" in line), "".join(said[:1])) or "no message"
        why = f"it was stopped after {SECONDS} s" if code is None else first
        kept = f" (the rest is in {log.replace(folder() / log.name)})" if said else ""
        return DeviceError(f"{shlex.join(self.command)} fails: {why}{kept}")


def run_all(commands: Sequence[Sequence[str]], logs: Sequence[Path]) -> list[int | None]:
    """Runs commands, one on each of the CPU's threads, for at most SECONDS, then kills them with their children. Each
    has a log, which gets the command and its output.

    Returns their exit codes, which are negative after a signal; None: it was killed.
    """
    started: list[subprocess.Popen[bytes]] = []
    with ThreadPoolExecutor(threads()) as pool:
        try:
            return list(pool.map(partial(_run, started), commands, logs))
        except BaseException:  # Ctrl-C comes to this thread alone: their sessions are not the terminal's
            for process in started:
                kill(process)
            raise


def _run(started: list[subprocess.Popen[bytes]], command: Sequence[str], log: Path) -> int | None:
    with start(command, log) as process:
        started.append(process)
        return end(process)


def start(command: Sequence[str], log: Path, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """Starts a command in a session of its own; its log gets it and its output."""
    with log.open("wb") as output:
        output.write(f"{shlex.join(command)}\n".encode(errors="surrogateescape"))
        output.flush()
        return subprocess.Popen(command, stdin=stdin, stdout=output, stderr=output, start_new_session=True)


def end(process: subprocess.Popen[bytes], given: bytes | None = None) -> int | None:
    """Gives a process its input, and waits for its end, as run_all does. With a time limit of its own, subprocess would
    look only twenty times a second whether it has come."""
    late = threading.Event()

    def stop() -> None:
        late.set()
        kill(process)

    limit = threading.Timer(SECONDS, stop)
    limit.daemon = True
    limit.start()
    try:
        process.communicate(given)
    finally:
        limit.cancel()
    return None if late.is_set() else process.returncode


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kills a process with its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


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
    if _platform() not in PLATFORMS:
        raise NoCompilerError(f"kernels are not compiled on {platform.system()} {platform.machine()}")
    if sys.platform in UNTRIED and not asked:
        raise NoCompilerError(f"nobody has tried the kernels on {UNTRIED[sys.platform]}: {VARIABLE}=clang++ tries them")
    for words in map(_words, [asked] if asked else [usual, *COMMANDS]):
        if words and shutil.which(words[0], path=path):
            return Compiler(tuple(words))
    raise NoCompilerError(f"{VARIABLE}={asked} is not there" if asked else NO_COMPILER)


def _platform() -> tuple[str, str]:
    return sys.platform, platform.machine()


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
def processor() -> str:
    """Tells what this processor can do; "" where that is not known."""
    if not os.path.exists("/proc/cpuinfo"):
        return ""
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        first = takewhile(str.strip, lines)  # up to the first empty line: one processor
        return "".join(line for line in first if line.partition(":")[0].strip() in PROCESSOR)
