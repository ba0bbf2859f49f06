"""Puts kernels that bench/prebuilt.py has compiled into a wheel, which is then for one platform: `make wheel`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PrebuiltKernels(BuildHookInterface):
    """GPU_BACKPROP_PREBUILT is the folder of the kernels, whose name is the tag of the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the folder; without one the wheel is for all platforms."""
        if folder := os.environ.get("GPU_BACKPROP_PREBUILT"):
            build_data["force_include"][folder] = "gpu_backprop/prebuilt"
            build_data |= {"pure_python": False, "tag": Path(folder).name}
