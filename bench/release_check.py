"""Install what is about to be released on every Python that can be found, and test it there: `make release-check`.

    python bench/release_check.py dist                  the wheel of this folder, with the tests of its source archive
    python bench/release_check.py dist --python 3.13    on this Python alone

Each Python gets it twice, with the oldest NumPy that there is for it and with the newest: first alone, in an empty
environment, where it trains; then with the packages of the tests, which run in the unpacked source archive and take
warnings for errors. What was tried and what could not be is a table; nothing but Python is needed to run this.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

OLDEST_NUMPY = {"3.11": "2.0", "3.12": "2.0", "3.13": "2.1", "3.14": "2.3"}
"""For each Python that we support, the first NumPy from 2.0 on that has wheels for it."""

TESTS = (
    "tests/test_public_api.py", "tests/test_bad_input.py", "tests/test_determinism.py", "tests/backend/compiled",
    "tests/network", "tests/training", "tests/data", "tests/interop", "tests/display", "tests/cli/test_cli.py",
)  # fmt: skip
"""What depends on the versions of Python and NumPy; it takes a few minutes."""

WHEEL, ARCHIVE = "gpu_backprop-*-none-any.whl", "gpu_backprop-*.tar.gz"

QUIETLY = "--color=no", "-q", "-n", "auto", "--maxprocesses", "8", "-m", "not gpu and not nvrtc and not frameworks"

PLACES = "~/.pyenv/versions/{}.*/bin/python{}", "~/.local/share/uv/python/cpython-{}.*/bin/python{}"
"""Where pyenv and uv keep interpreters that are not on the PATH."""

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}


class FailedError(Exception):
    """A command failed; the message is what it was, and how its output ends."""


def run(*command: str | Path, cwd: Path) -> str:
    """Returns the output of a command that sees nothing of this environment."""
    said = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "encoding": "utf-8"}
    done = subprocess.run(command, cwd=cwd, env=CLEAN, **said)
    if done.returncode:
        raise FailedError(f"{' '.join(map(str, command))}\n{done.stdout[-5000:]}")
    return done.stdout


def find(version: str) -> str | None:
    """Returns an interpreter of this version that starts, if there is one: pyenv has some on the PATH that do not."""
    places = [Path(place.format(version, version)).expanduser() for place in PLACES]
    found = [shutil.which(f"python{version}"), *(str(f) for p in places for f in sorted(Path("/").glob(str(p)[1:])))]
    for python in filter(None, found):
        if subprocess.run([python, "-c", ""], check=False, capture_output=True).returncode == 0:
            return python
    return None


def check(python: str, numpy: str, dist: Path, folder: Path) -> str:
    """Returns the versions that were tried, and what pytest counted; FailedError where something is wrong."""
    [wheel], [archive] = dist.glob(WHEEL), dist.glob(ARCHIVE)
    run(python, "-m", "venv", folder / "venv", cwd=folder)
    bin = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")

    def install(what: str) -> None:
        run(bin / "python", "-m", "pip", "install", "--quiet", what, f"numpy{numpy}", cwd=folder)
        run(bin / "python", "-m", "pip", "check", cwd=folder)

    install(str(wheel))
    if "test accuracy: 0." not in run(bin / "gpu-backprop", "train", "--epochs", "2", cwd=folder):
        raise FailedError("gpu-backprop train printed no accuracy")
    install(f"{wheel}[test,plot]")
    with tarfile.open(archive) as source:
        source.extractall(folder, filter="data")
    [root] = folder.glob("gpu_backprop-*")
    shutil.rmtree(root / "gpu_backprop")  # the installed one is meant, also where this folder is on the path
    told = run(bin / "python", "-m", "pytest", *QUIETLY, *TESTS, cwd=root)
    versions = "import platform, numpy; print(platform.python_version(), '|', numpy.__version__)"
    return f"{run(bin / 'python', '-c', versions, cwd=folder).strip()} | {told.strip().splitlines()[-1].strip('= ')}"


def rows(dist: Path, asked: list[str] | None) -> Iterator[tuple[str, bool]]:
    """Yields a row of the table for each Python and NumPy, and whether it is as it should be: who asks for a Python
    wants it to be there."""
    for version in asked or OLDEST_NUMPY:
        python = find(version)
        if python is None:
            yield f"| {version} | | not tried: there is no python{version} here |", not asked
            continue
        for numpy in f"=={OLDEST_NUMPY[version]}.*", ">=2":
            began = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                try:
                    row, right = check(python, numpy, dist, Path(folder)), True
                except FailedError as error:
                    print(error, file=sys.stderr)
                    row, right = f"{version} | {numpy} | FAILED", False
            yield f"| {row}, {time.monotonic() - began:.0f} s in all |", right


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dist", type=Path, help="the folder that make dist has filled")
    parser.add_argument("--python", choices=OLDEST_NUMPY, action="append", help="on this Python; may be repeated")
    options = parser.parse_args()
    for kind in WHEEL, ARCHIVE:
        if len([*options.dist.glob(kind)]) != 1:
            parser.error(f"{options.dist} must be a folder with one {kind} in it: make dist fills dist/")
    print("| Python | NumPy | tests |\n| --- | --- | --- |", flush=True)
    right = True
    for row, passed in rows(options.dist.resolve(), options.python):
        print(row, flush=True)
        right &= passed
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
