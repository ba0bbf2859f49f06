"""Run every long proof in full and write docs/proof.md: each command and its result, with the date and the commit.

Run it as: make proof, or make proof EMULATOR=PROGRAM, where PROGRAM runs a command on an emulated CUDA device.
make proof ARGS="--only assault" runs those alone whose command has that in it; what was said of the others stays.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from lib.record import git

ROOT = Path(__file__).parent.parent
PROOF = ROOT / "docs" / "proof.md"
AT_ONCE = 2
"""Proofs that run side by side: most keep one core busy."""


@dataclass(frozen=True)
class Proof:
    """A claim, and the command that shows it.

    Attributes:
        command: what follows `python`.
        cuda: which CuPy it needs, "12" or "13", in an environment of its own.
        device: whether it needs a CUDA device.
        settings: what goes into the command's environment, NAME=value.
    """

    claim: str
    command: tuple[str, ...]
    cuda: str = ""
    device: bool = False
    settings: tuple[str, ...] = ()

    def words(self, emulator: str, python: str) -> list[str]:
        """The command as it is run."""
        return [*(shlex.split(emulator) if self.device else []), python, *self.command]

    def __str__(self) -> str:
        """The command as it would be typed."""
        words = [*(["$EMULATOR"] if self.device else []), "python", *map(_quoted, self.command)]
        return " ".join([*self.settings, *words])


def _quoted(word: str) -> str:
    return f'"{word}"' if " " in word else word


HEAD = """# Proof

Written by `make proof`, which runs every long proof in full. Each says when it was run, and of which commit.

`$EMULATOR` is a program that runs a command on an emulated CUDA device; without one, these tests want a real device.
"""

TESTS = ("-m", "pytest", "--color=no", "-q")
ON_DEVICE = (*TESTS, "-m", "gpu")
RANKS = "tests/distributed"
ANYWHERE = (*TESTS, "-m", "not gpu and not nvrtc", "--ignore", "tests/kernels_on_host", "--ignore", RANKS)
PROOFS = (
    Proof(
        "The kernels compute the right numbers on the host, in every shape and order and under the sanitizers",
        (*TESTS, "tests/kernels_on_host"),
        settings=("GPU_BACKPROP_PROOF=1",),
    ),
    Proof(
        "Every other test that needs no CuPy passes, those that draw their examples at random with many more of them",
        ANYWHERE,
        settings=("GPU_BACKPROP_PROOF=1",),
    ),
    Proof(
        "Products and activations compiled for aarch64 are right, where a cross compiler and qemu are installed",
        (*TESTS, "tests/backend/compiled/on_aarch64.py"),
    ),
    Proof(
        "They pass on NumPy alone, where no compiler is",
        (*ANYWHERE, "--ignore", "tests/backend/compiled"),
        settings=("GPU_BACKPROP_COMPILER=none",),
    ),
    Proof(
        "Several ranks come to what one comes to, whatever is trained, and end soon where one of them fails",
        (*TESTS, "-m", "not gpu", RANKS),
        settings=("GPU_BACKPROP_PROOF=1",),
    ),
    *(
        Proof(claim, (f"bench/assault/{name}.py",))
        for name, claim in {
            "data_files": "No damaged data file ends the program or takes more memory than it may",
            "models": "No damaged model file loads as something else",
            "command_lines": "No command line fails in a way that nobody has foreseen",
            "resume": "Whatever ends a run, it goes on to the same bits; no damaged checkpoint loads as something else",
            "kills": "No signal leaves a torn file or loses what was learned",
            "miscompilations": "No kernel that was compiled wrongly trains a network",
            "threads": "No thread gets what belongs to another one",
            "soak": "100,000 steps of each kind take no more memory, and leave no thread and no file",
        }.items()
    ),
    Proof("The page of `serve` works in a browser, where playwright and Chromium are installed", ("bench/browser.py",)),
    Proof("The digits are learned, whatever the seed", ("bench/digits.py",)),
    Proof("Every kernel compiles for every architecture of CUDA 13, without spills", ("bench/kernels.py",), "13"),
    Proof("Every kernel compiles for V100 with CUDA 12", ("bench/kernels.py", "--arch", "sm_70"), "12"),
    Proof("What NVRTC says is what is recorded", (*TESTS, "-m", "nvrtc"), "13"),
    Proof("Every test passes on a CUDA device", ON_DEVICE, "13", True),
    *(
        Proof(f"They pass where {what}", ON_DEVICE, "13", True, settings)
        for what, settings in {
            "the threads of a block run backwards": ("CUDASIM_ORDER=reverse",),
            "the threads of a block run in any order": ("CUDASIM_ORDER=random",),
            "work is done as late as it may be": ("CUDASIM_STREAMS=lazy", "CUDASIM_GRAPH=shuffle"),
            "every access to memory is checked": ("CUDASIM_CHECK=memory",),
            "products round as their shapes have it, and the tests run in reverse": (
                "GPU_BACKPROP_PRODUCTS=varied",
                "GPU_BACKPROP_TEST_ORDER=reverse",
            ),
        }.items()
    ),
    *(
        Proof(
            f"They pass on every kind of device: {kind}",
            ON_DEVICE,
            "13",
            True,
            (f"CUDASIM_DEVICE={kind.lower()}", "CUDASIM_GRAPH=shuffle"),
        )
        for kind in ("H200", "A100", "T4", "RTX4090", "L4")
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuda12", default=sys.executable, help="the Python that has CuPy for CUDA 12")
    parser.add_argument("--cuda13", default=sys.executable, help="the Python that has CuPy for CUDA 13")
    parser.add_argument("--emulator", default="", help="what runs a command on an emulated CUDA device")
    parser.add_argument("--only", default="", metavar="TEXT", help="the proofs that have this in their command")
    given = parser.parse_args()
    pythons = {"": sys.executable, "12": given.cuda12, "13": given.cuda13}
    chosen = [proof for proof in PROOFS if given.only in str(proof)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        done = list(pool.map(lambda proof: section(proof, given.emulator, pythons[proof.cuda]), chosen))
    said = [text for text, _ in done]
    written = re.split(r"^(?=## )", PROOF.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:] if PROOF.exists() else []
    texts = [next((text for text in (*said, *written) if text.startswith(f"## {proof.claim}")), "") for proof in PROOFS]
    PROOF.write_text("\n".join([HEAD, *(text.rstrip() + "\n" for text in texts if text)]), encoding="utf-8")
    print(f"\nwritten to {PROOF.relative_to(ROOT)}")
    return 0 if all(passed for _, passed in done) else 1


def section(proof: Proof, emulator: str, python: str) -> tuple[str, bool]:
    """Run a proof; what docs/proof.md says of it, and whether it holds."""
    if proof.device and proof.settings and not emulator:
        return f"## {proof.claim}\n\nNot run: only an emulated device can do that.\n", True
    claim = f"{proof.claim}, an emulated one" if proof.claim.endswith("a CUDA device") and emulator else proof.claim
    print(f"$ {proof}", flush=True)
    started = time.perf_counter()
    code, lines = run(proof, proof.words(emulator, python))
    verdict = "passed" if code == 0 else f"FAILED (exit code {code})"
    took = f"{verdict} in {time.perf_counter() - started:.0f} s: {measured_on()}"
    said = "\n".join(summary(lines) if code == 0 else lines)
    print(f"\n$ {proof}\n{said}\n{took}\n", flush=True)
    return f"## {claim}\n\n{took}\n\n```\n$ {proof}\n{chr(10).join(summary(lines))}\n```\n", code == 0


def run(proof: Proof, words: list[str]) -> tuple[int, list[str]]:
    """Run a proof from the top of the checkout; exit code and output."""
    environment = {**os.environ, **dict(setting.split("=", 1) for setting in proof.settings)}
    done = subprocess.run(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        encoding="utf-8", errors="replace", check=False,
    )  # fmt: skip
    return done.returncode, [line.rstrip() for line in done.stdout.splitlines()]


def summary(lines: list[str]) -> list[str]:
    """The last lines, which say what came out; of pytest those after its dots."""
    said = [line for line in lines if line.strip()]
    start = next((place for place, line in enumerate(said) if "short test summary" in line), max(len(said) - 8, 0))
    return [line for line in said[start:] if not line.endswith("%]")]


def measured_on() -> str:
    """When a proof was run, on which commit and with what."""
    commit = git(ROOT, "rev-parse", "--short", "HEAD") or "unknown"
    changed = git(ROOT, "status", "--porcelain", "-uno", "--", ".", ":!docs/proof.md", ":!bench/results")
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit}{' with uncommitted changes' if changed else ''}, "
        f"Python {platform.python_version()}, NumPy {version('numpy')}, {platform.system()} {platform.machine()}"
    )


if __name__ == "__main__":
    sys.exit(main())
