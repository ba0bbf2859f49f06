"""Build the wheel with the kernels of a CPU prebuilt, for those who have no compiler: `make wheel`.

    python bench/prebuilt.py dist    all formulas of the package in float32 and float64, for each level of the processor

The compiler is the one that a network would use. The wheel's tag is as old as the C library's functions that it needs:
an older compiler's machine, or a cross compiler, makes a wheel for more systems, as in
GPU_BACKPROP_COMPILER="python -m ziglang c++ -target x86_64-linux-gnu.2.17" with `pip install ziglang`.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import gpu_backprop as gb
from gpu_backprop.backend.compiled import compiler
from gpu_backprop.backend.compiled.compiler import Compiler
from gpu_backprop.backend.compiled.library_files import library_name
from gpu_backprop.backend.compiled.operations_text import Unit, operations_text
from gpu_backprop.backend.compiled.prebuilt import LEVELS
from gpu_backprop.backend.compiled.self_test import FILES
from gpu_backprop.backend.update_rule import OPTIONAL
from gpu_backprop.network.losses import LOSSES
from gpu_backprop.training.optimizers import RULES

DTYPES = "float32", "float64"
LINKED = "-s", "-Wl,--as-needed"
"""Options that leave out names and libraries that nothing needs."""

BUILD = sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", ".", "--wheel-dir"

VERSION = re.compile(rb"GLIBC_2\.(\d+)")
OLDEST = 17
"""The C library 2.17, which has all that we can need of it on a system that takes wheels of today."""


def units() -> Iterator[Unit]:
    """Yields all of the package; of rules those with one of the settings that any may have, too."""
    yield from FILES
    yield from (f for f in gb.ACTIVATIONS.values() if f.cuda_value)
    yield from (loss.formula for loss in LOSSES.values())
    for rule in RULES:
        yield rule
        yield from (made for name in OPTIONAL if (made := rule.with_settings(name)) is not rule)


def compile_level(folder: Path, options: str, chosen: list[Unit]) -> None:
    """Compile for one level of the processor, into its folder."""
    folder.mkdir(parents=True)
    texts = [operations_text(unit, dtype).text for unit in chosen for dtype in DTYPES]
    made = Compiler(compiler.find().command, (*options.split(), *LINKED))
    failures = made.compile({folder / library_name(text): text for text in texts})
    if failures:
        raise SystemExit(str(next(iter(failures.values()))))
    for path in folder.iterdir():
        if path.suffix != ".so":
            path.unlink()


def tag(folder: Path) -> str:
    """The platform of a wheel with these libraries: the newest version of a function of the C library says it."""
    found = {int(version) for path in folder.rglob("*.so") for version in VERSION.findall(path.read_bytes())}
    return f"py3-none-manylinux_2_{max(OLDEST, *found)}_{platform.machine()}"


def build(place: Path, chosen: list[Unit]) -> Path:
    """Build the wheel into a folder; return its path."""
    with tempfile.TemporaryDirectory() as made:
        kernels = Path(made, "kernels")
        for level, (_, options) in LEVELS[platform.machine()].items():
            compile_level(kernels / level, options, chosen)
        tagged = kernels.rename(Path(made, tag(kernels)))
        environment = os.environ | {"GPU_BACKPROP_PREBUILT": str(tagged)}
        subprocess.run([*BUILD, made], cwd=Path(__file__).parents[1], env=environment, check=True)
        (wheel,) = Path(made).glob("*.whl")
        place.mkdir(exist_ok=True)
        return Path(shutil.move(wheel, place / wheel.name))


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    try:
        compiler.find()
    except compiler.NoCompilerError as error:
        return print(f"no kernels are prebuilt: {error}")
    wheel = build(Path(sys.argv[1]), list(units()))
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
