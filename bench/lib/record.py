"""What every file under bench/results/ says of itself: by which command, when, and on what it was measured."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gpu_backprop


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
