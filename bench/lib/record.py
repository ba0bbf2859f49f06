"""What every file under bench/results/ says of itself: by which command, when, and on what it was measured."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import gpu_backprop

T = TypeVar("T")


def write(path: Path, command: str, seconds: float, measured: dict[str, Any]) -> None:
    """Write what `command` measured in so many seconds, and the circumstances, as JSON."""
    record = {
        "command": command,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            "numpy": version("numpy"),
            "gpu_backprop": gpu_backprop.__version__,
        },
        "seconds": round(seconds, 1),
        **measured,
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say what becomes of what is measured."""
    parser.add_argument("--more", action="store_true", help="put what is measured among what the file of results has")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write here what is measured, whatever it is")


def check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the program where a file cannot be written."""
    if options.json is not None and (options.json.is_dir() or not options.json.parent.is_dir()):
        parser.error(f"--json: {options.json} is not a file in a folder that is there")


def chosen(found: Iterable[T], only: Sequence[str] | None) -> list[T]:
    """Return those with some of the words of --only in their names; without it all."""
    return [one for one in found if not only or any(words in str(one) for words in only)]


def told(options: argparse.Namespace) -> list[str]:
    """Tell which tasks a command was given, and in what way, as it was given."""
    return [f"--only {shlex.quote(words)}" for words in options.only or ()] + ["--quick"] * options.quick


def earlier(results: Path, options: argparse.Namespace) -> dict[str, Any] | None:
    """Return what the file of results has, where more is to be put among it."""
    return json.loads(results.read_text("utf-8")) if options.more and results.exists() else None


def keep(
    results: Path, options: argparse.Namespace, command: str, seconds: float, measured: dict[str, Any],
    before: dict[str, Any] | None,
) -> None:  # fmt: skip
    """Write what was measured where it is to be kept: all of it, or what was put among what was there before."""
    if before is not None:
        command, seconds = f"{before['command']}; {command}", before["seconds"] + seconds
    if kept := options.json or (results if options.more or not (options.quick or options.only) else None):
        write(kept, command, seconds, measured)
        print(f"written to {kept}")


def git(checkout: Path, *words: str) -> str:
    """Asks git about a checkout; "" where there is no git or no repository."""
    try:
        return subprocess.run(["git", *words], cwd=checkout, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def processor() -> str:
    """The processor's own name, where the system tells it."""
    try:
        names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
