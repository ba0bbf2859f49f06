"""Run every long proof in full and write docs/proof.md: the date, the commit, each command and its result.

Run it as: make proof
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROOF = ROOT / "docs" / "proof.md"


@dataclass(frozen=True)
class Proof:
    """A claim, and the command that shows it; `setting` goes into the command's environment."""

    claim: str
    command: tuple[str, ...]
    setting: tuple[str, str] | None = None

    def __str__(self) -> str:
        """The command as it would be typed."""
        words = ["python", *self.command]
        return " ".join(words if self.setting is None else ["=".join(self.setting), *words])


PROOFS = (
    Proof(
        "Every test passes, those that draw their examples at random with many more of them",
        ("-m", "pytest", "--color=no", "-q"),
        ("GPU_BACKPROP_PROOF", "1"),
    ),
    Proof("The digits are learned, whatever the seed", ("bench/digits.py",)),
)


def main() -> int:
    sections, passed = [], True
    for proof in PROOFS:
        print(f"\n$ {proof}", flush=True)
        started = time.perf_counter()
        code, lines = run(proof)
        seconds = time.perf_counter() - started
        passed &= code == 0
        verdict = "passed" if code == 0 else f"FAILED (exit code {code})"
        result = "\n".join(summary(lines))
        sections.append(f"## {proof.claim}\n\n{verdict} in {seconds:.0f} s\n\n```\n$ {proof}\n{result}\n```\n")
    PROOF.parent.mkdir(exist_ok=True)
    PROOF.write_text(f"{head()}\n{chr(10).join(sections)}", encoding="utf-8")
    print(f"\nwritten to {PROOF.relative_to(ROOT)}")
    return 0 if passed else 1


def run(proof: Proof) -> tuple[int, list[str]]:
    """Run a proof from the top of the checkout, showing its output; exit code and output."""
    environment = {**os.environ, **dict([proof.setting] if proof.setting else [])}
    lines = []
    with subprocess.Popen(
        [sys.executable, *proof.command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    return process.returncode, lines


def summary(lines: list[str]) -> list[str]:
    """The last lines, which say what came out; of pytest those after its dots."""
    said = [line for line in lines if line.strip()]
    start = next((place for place, line in enumerate(said) if "short test summary" in line), max(len(said) - 8, 0))
    return [line for line in said[start:] if not line.endswith("%]")]


def head() -> str:
    """What was proved, when, and with what."""
    commit = git("rev-parse", "HEAD") or "unknown"
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/proof.md", ":!bench/results")
    return f"""# Proof

Written by `make proof`, which runs every long proof in full.

- date: {datetime.now(UTC):%Y-%m-%d}
- commit: {commit}{" with uncommitted changes" if changed else ""}
- Python {platform.python_version()}, NumPy {version("numpy")}, {platform.system()} {platform.machine()}
"""


def git(*words: str) -> str:
    """What git says, or nothing where there is no git or no repository."""
    try:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


if __name__ == "__main__":
    sys.exit(main())
