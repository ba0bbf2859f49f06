"""Epilogues: whether a product does what follows it in the same launch, which the device itself decides, once."""

from __future__ import annotations

import ctypes
import importlib
import os
import re
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from gpu_backprop.backend.cache_folder import cache_folder
from gpu_backprop.backend.cuda.cublas import CublasLibrary, Layout, sizes
from gpu_backprop.backend.cuda.cublaslt import CublasLt, UnsupportedEpilogueError
from gpu_backprop.backend.cuda.epilogue_trial import Trial
from gpu_backprop.backend.errors import InputError, OutOfMemoryError, one_line
from gpu_backprop.backend.formula import Array, Call
from gpu_backprop.backend.operation import Operation

VARIABLE = "GPU_BACKPROP_EPILOGUES"
MODES = "auto", "on", "off"
SERVES, PLAIN = "epilogue", "plain"
NOT_FASTER, LONG = "not faster", "its sums take nearly all of the time"
NO_MEMORY, NOT_REMEMBERED = "no memory to try it", "no choice can be remembered"

Empty = Callable[[tuple[int, ...]], Array]
"""Allocates bytes."""

Build = Callable[[Empty], list[Operation]]
"""Makes the operations that have an epilogue, given what allocates the mask of ReLU."""


def mode() -> str:
    """What GPU_BACKPROP_EPILOGUES says: "auto", where none is said: those that are equal and faster; "on": those that
    are equal, but for f′(0) of relu, without timing; "off": none."""
    found = os.environ.get(VARIABLE, "") or MODES[0]
    if found not in MODES:
        raise InputError(f"{VARIABLE} must be {', '.join(MODES[:-1])} or {MODES[-1]}, got {found!r}.")
    return found


class Choices:
    """What the devices of one kind were found to do faster: lines of a file, so that every process does the same. Of
    several lines with one key the first counts, whichever process wrote it.

    Attributes:
        path: the file; None where there is no folder for it.
    """

    def __init__(self, name: str) -> None:
        folder = cache_folder()
        self.path: Path | None = None if folder is None else folder / f"epilogues {name}.txt"

    def read(self) -> dict[str, str]:
        """Returns for each key "" where the epilogue serves, else why not."""
        found: dict[str, str] = {}
        if self.path is not None:
            with suppress(OSError):
                for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                    key, told, why = (*line.split("\t"), "", "")[:3]
                    if told == SERVES or (told == PLAIN and why):
                        found.setdefault(key, why if told == PLAIN else "")
        return found

    def add(self, key: str, why: str) -> str:
        """Remembers a choice, and returns the one that counts: plain operations where nothing can be remembered."""
        if self.path is None:
            return NOT_REMEMBERED
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                # one write to the end, which does not mix with that of another process
                file.write(f"\n{key}\t{PLAIN if why else SERVES}\t{why}\n")
        except OSError:
            return NOT_REMEMBERED
        return self.read().get(key, NOT_REMEMBERED)


class Epilogues:
    """Products with an epilogue on one device, beside its `products`; the plain operations serve wherever this does
    not say otherwise.

    An epilogue serves where the library has it, where it gives the results of the plain operations, and where it is
    faster, both timed once on the device. One that differs brings a RuntimeWarning, once.
    """

    def __init__(self, cupy: Any, index: int, direct: Callable[[], CublasLibrary]) -> None:
        self._cupy, self._index, self._direct = cupy, index, direct
        self._lock = threading.RLock()
        self._chosen: dict[tuple[str, str], str] = {}  # by mode and key: "" where it serves, else why not
        self._warned = False

    @cached_property
    def _library(self) -> CublasLt:
        """Opened at first use.

        Raises:
            UnsupportedEpilogueError: it cannot be.
        """
        try:
            pathfinder = importlib.import_module("cuda.pathfinder")  # a dependency of CuPy
            # who calls a PyDLL keeps Python's lock, so that no other thread launches between the parts of a product
            library = ctypes.PyDLL(pathfinder.load_nvidia_dynamic_lib("cublasLt").abs_path)
            with self._cupy.cuda.Device(self._index):
                return CublasLt(library, self._direct())
        except Exception as error:  # whatever a missing, foreign or damaged library brings about
            raise UnsupportedEpilogueError(f"cuBLASLt cannot be called ({one_line(error)})") from error

    @cached_property
    def _choices(self) -> Choices:
        runtime = self._cupy.cuda.runtime
        name = runtime.getDeviceProperties(self._index)["name"].decode(errors="replace")
        found = f"{name} driver {runtime.driverGetVersion()} cublasLt {self._library.version}"
        return Choices(re.sub(r"[^\w .()-]", "-", found))

    def bind(
        self, epilogue: int, a: Array, b: Array, out: Array, bias: Array | None = None, aux: Array | None = None, *,
        tf32: bool = False,
    ) -> Call:  # fmt: skip
        """Binds out = epilogue(a@b), see CublasLt.bind.

        Raises:
            InputError, DeviceError: it cannot be.
        """
        layouts = Layout("a", a), Layout("b", b), Layout("out", out)
        layouts[2].require_rows()
        return self._library.bind(epilogue, *layouts, sizes(a, b, out), tf32, bias, aux)

    def chosen(self, key: str) -> bool | None:
        """Returns what was chosen before; None: nothing yet."""
        how = mode()
        if how == "off":
            return False
        if (how, key) not in self._chosen and how == "auto":
            with suppress(UnsupportedEpilogueError):
                self._chosen |= {(how, known): why for known, why in self._choices.read().items()}
        why = self._chosen.get((how, key))
        return None if why is None else not why

    def expected(self, key: str) -> bool:
        """Returns what will be chosen, as far as that is known without trying it."""
        found = self.chosen(key)
        return mode() == "on" if found is None else found

    def choose(self, device: Any, key: str, plain: Sequence[Operation], build: Build) -> bool:
        """Returns whether operations with an epilogue take the place of plain ones; tries both where that is not known.

        Args:
            device: of the plan.
            key: tells those from others: epilogue, shapes and dtypes.
            build: makes those with an epilogue.
        """
        with self._lock:
            found = self.chosen(key)
            if found is None:
                why = self._chosen[mode(), key] = self._try(device, key, plain, build)
                found = not why
            return found

    def _try(self, device: Any, key: str, plain: Sequence[Operation], build: Build) -> str:
        """Returns why the epilogue does not serve; "": it does."""
        try:
            self._library  # noqa: B018, opens it
            with device.computing():
                trial = Trial(device, plain, build(lambda shape: device.empty(shape, "uint8")))
                timed = mode() == "auto"
                if timed and trial.is_long():
                    return self._choices.add(key, LONG)
                other = trial.compare()
                if not timed:
                    return ""
                return self._choices.add(key, other or ("" if trial.is_faster() else NOT_FASTER))
        except UnsupportedEpilogueError as error:
            return one_line(error)
        except OutOfMemoryError:  # remembered too, so that other processes do the same
            return self._choices.add(key, NO_MEMORY) if mode() == "auto" else NO_MEMORY
        except Exception as error:  # of the library, or of the comparison
            self._warn(key, error)
            return one_line(error)

    def _warn(self, key: str, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"cuda:{self._index}: a product and what follows it are separate launches, since cuBLASLt does not do "
                f"both at once as it should ({key}: {one_line(error)}). The results are as good; "
                f"{VARIABLE}=off does not ask it.",
                RuntimeWarning,
                stacklevel=2,
            )

    def report(self) -> str:
        """Tells in a sentence what was chosen, and where that is remembered."""
        how = mode()
        if how == "off":
            return f"off, as {VARIABLE} says"
        try:
            path = self._choices.path
        except UnsupportedEpilogueError as error:
            return f"none: {one_line(error)}"
        self.chosen("")  # reads what other processes have found
        told = [why for (one, _), why in self._chosen.items() if one == how]
        where = f"remembered in {path}" if how == "auto" else f"not timed, as {VARIABLE}=on says"
        reasons = "; ".join(f"{told.count(why)} not: {why}" for why in dict.fromkeys(told) if why)
        return f"{told.count('')} of {len(told)} that were tried serve, {where}{reasons and f' ({reasons})'}"
