"""The arguments of the command that looks at the machine."""

from __future__ import annotations

from typing import Any

from gpu_backprop.arguments.command import Command


def add_doctor(commands: Any) -> None:
    """Add the command."""
    command = Command(
        commands,
        "doctor",
        "say what this machine can train on, and what is missing",
        (
            "Look at the CPU's side (Python, NumPy) and at CUDA's (CuPy, driver, device, memory, compiler, matrix "
            "products), train two steps on each, and say where something is off and what to do. Ends with 1 where the "
            "device that was asked for does not work.",
        ),
        (("doctor", ""), ("doctor --device cuda", "fails where CUDA does not work")),
    )
    command.share("--device", "--debug")
