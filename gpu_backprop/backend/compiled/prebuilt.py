"""Kernels that were compiled when the wheel was built (bench/prebuilt.py): there is nothing to wait for, and a compiler
is needed for formulas of a user's own alone."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from gpu_backprop.backend.compiled import compiler
from gpu_backprop.backend.compiled.compiler import VARIABLE, Compiler, NoCompilerError, Trial
from gpu_backprop.backend.compiled.library_files import Library, library_name, load
from gpu_backprop.backend.errors import DeviceError

PREBUILT = "prebuilt"
"""The value of GPU_BACKPROP_COMPILER that leaves a user's own formulas to NumPy."""

FOLDER = Path(__file__).parents[2] / "prebuilt"
"""With a folder for each of LEVELS; it is not there in a checkout, nor in a wheel for all platforms."""

LEVELS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "x86_64": {
        "x86-64-v4": ("avx512f avx512bw avx512cd avx512dq avx512vl", "-march=x86-64-v4 -mprefer-vector-width=512"),
        "x86-64-v3": ("avx avx2 bmi1 bmi2 f16c fma abm movbe xsave", "-march=x86-64-v3"),
        "x86-64-v2": ("cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3", "-march=x86-64-v2"),
    },
    "aarch64": {"armv8-a": ("asimd", "-march=armv8-a")},
}
"""By machine the processors that kernels are prebuilt for, the best first: what /proc/cpuinfo has to list besides what
stands below it, and the compiler's options. (x86-64-v2 to v4: the psABI of x86-64, table 3.1.)"""


class Prebuilt:
    """The kernels for one of LEVELS, by its folder, and a compiler for what is not among them, or none."""

    def __init__(self, folder: Path, made_by: Compiler | None) -> None:
        self.folder, self.compiler, self.kernels = folder, made_by, f"prebuilt kernels for {folder.name}"

    def load(
        self, texts: Sequence[str], what: str = "kernels", trial: Trial | None = None
    ) -> list[Library | DeviceError]:
        """As Compiler.load."""
        found = [load(self.folder / library_name(text), own=False) for text in texts]
        if trial and None in found:  # it needs all of them
            found = [None] * len(texts)
        rest = [text for text, library in zip(texts, found, strict=True) if library is None]
        made: list[Library | DeviceError] = [DeviceError("it is not prebuilt, and no compiler is used") for _ in rest]
        if rest and self.compiler:
            made = self.compiler.load(rest, what, trial)
        others = iter(made)
        return [library or next(others) for library in found]


def find() -> Compiler | Prebuilt:
    """Finds what gives kernels: prebuilt ones where there are some for this processor, which are as fast as those that
    are compiled for it alone; else a compiler. What GPU_BACKPROP_COMPILER names comes before.

    Raises:
        NoCompilerError: there is neither, or none is wanted.
    """
    asked, folder = os.environ.get(VARIABLE, "").strip(), _folder(FOLDER)
    if asked == PREBUILT and folder is None:
        raise NoCompilerError(f"{VARIABLE}={PREBUILT}, and none are installed for this processor")
    if asked not in ("", PREBUILT) or folder is None:
        return compiler.find()
    try:
        made_by = None if asked else compiler.find()
    except NoCompilerError:
        made_by = None
    return _prebuilt(folder, made_by)


_prebuilt = cache(Prebuilt)


@cache
def _folder(prebuilt: Path) -> Path | None:
    """Finds the folder of the best level of this processor."""
    listed, needed, best = compiler.processor().split(), set[str](), None
    for level, (features, _) in reversed([*LEVELS.get(platform.machine(), {}).items()]):
        needed |= set(features.split())
        if needed <= set(listed) and (prebuilt / level).is_dir():
            best = prebuilt / level
    return best
