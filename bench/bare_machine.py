"""Shows that `make gpu-check` needs nothing but what a borrowed container has: no installation, no pip, no network.

Makes an environment of PACKAGES and nothing else, copies the files of this checkout that git knows, and runs make
gpu-check there, where it can without a network. What is made in FOLDER is kept, and used again.

Run it as: python3.12 bench/bare_machine.py FOLDER [--emulator PROGRAM] [--quick and other options of gpu-check]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]

PACKAGES = (
    "cupy-cuda13x==14.2.*", "numpy==2.5.*", "jax", "pytest", "pytest-xdist", "hypothesis", "rich", "safetensors",
    "matplotlib",
)  # fmt: skip
"""What the container has; of jax's needs, ml_dtypes and SciPy are among them."""

TORCH = ("--no-deps", "--index-url", "https://download.pytorch.org/whl/cpu", "torch")
"""Nothing here needs it: where it cannot be had, it is one of the peers that are named as missing."""

OFFLINE = ("unshare", "--map-root-user", "--net")
"""Runs a command without a network, on Linux."""


def environment(folder: Path, emulator: Sequence[str]) -> Path:
    """Makes the environment; gives its Python, which has no pip any more."""
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", *PACKAGES], check=True)
        if subprocess.run([*pip, "install", *TORCH], check=False).returncode:
            print("PyTorch cannot be had here: it is left out", file=sys.stderr)
        if emulator:
            subprocess.run([*emulator, python, "-c", "import cupy"], check=True)  # may be built now, by pip
        subprocess.run([*pip, "uninstall", "--yes", "pip"], check=True)
        (folder / "complete").touch()
    return python


def checkout(folder: Path) -> Path:
    """Copies what git knows of this checkout, as it is now."""
    shutil.rmtree(folder, ignore_errors=True)
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where all of it is made")
    parser.add_argument("--emulator", type=Path, help="what runs a program on an emulated device")
    options, further = parser.parse_known_args()
    folder = options.folder.resolve()
    emulator = [str(options.emulator.resolve())] if options.emulator else []
    python = environment(folder / "environment", emulator)
    for module in ("pip", "hatchling", "gpu_backprop"):
        if not subprocess.run([python, "-c", f"import {module}"], cwd=folder, capture_output=True).returncode:
            raise SystemExit(f"{python} has {module}: it is not bare")
    alone = shutil.which(OFFLINE[0]) and not subprocess.run([*OFFLINE, "true"], capture_output=True).returncode
    print("without a network" if alone else "with a network, which cannot be taken away here", file=sys.stderr)
    words = [f"PYTHON={python}", f"EMULATOR={' '.join(emulator)}", f"ARGS=--out {folder / 'out'} {' '.join(further)}"]
    make = [*(OFFLINE if alone else ()), "make", "gpu-check", *words]
    return subprocess.run(make, cwd=checkout(folder / "checkout"), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
