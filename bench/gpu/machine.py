"""Which CUDA device it is, what drives it, how warm it is, and which commit is measured."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from lib.record import git

FIELDS = {
    "temperature.gpu": "°C",
    "clocks.sm": "MHz SM",
    "clocks.mem": "MHz memory",
    "clocks.max.sm": "MHz SM at most",
    "power.draw": "W",
    "power.limit": "W at most",
    "persistence_mode": "(persistence mode)",
}
"""The fields that nvidia-smi is asked for, and the unit of each. Nothing is set."""


def machine() -> dict[str, Any]:
    """The first CUDA device, and the versions of what drives it."""
    import cupy

    runtime = cupy.cuda.runtime
    properties = runtime.getDeviceProperties(0)
    return {
        "device": properties["name"].decode(),
        "compute_capability": f"{properties['major']}.{properties['minor']}",
        "memory": properties["totalGlobalMem"],
        "multiprocessors": properties["multiProcessorCount"],
        "l2_cache": properties["l2CacheSize"],
        "driver": asked("driver_version") or "unknown",
        "driver_cuda": version(runtime.driverGetVersion()),
        "cuda": version(runtime.runtimeGetVersion()),
        "cupy": cupy.__version__,
    }


def version(number: int) -> str:
    """CUDA's own number, 13020, as 13.2."""
    return f"{number // 1000}.{number % 1000 // 10}"


def reading() -> str:
    """Temperature, clocks and power of the device as they are now; "" without nvidia-smi."""
    answers = asked(",".join(FIELDS)).split(", ")
    if len(answers) != len(FIELDS):
        return ""
    return ", ".join(f"{answer} {unit}" for answer, unit in zip(answers, FIELDS.values(), strict=True))


def asked(fields: str) -> str:
    """Asks nvidia-smi about CUDA's first device; "" if there is no answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    import cupy

    bus = cupy.cuda.runtime.deviceGetPCIBusId(0)
    query = [program, f"--query-gpu={fields}", "--format=csv,noheader,nounits", f"--id={bus}"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()


def commit(root: Path) -> str:
    """The commit of the checkout, and whether more than that is in it; "unknown" outside of one."""
    head = git(root, "rev-parse", "HEAD")
    return head + (" and changes" if git(root, "status", "--porcelain") else "") if head else "unknown"
