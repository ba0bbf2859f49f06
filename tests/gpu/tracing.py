"""What an emulated CUDA device writes down of what it is asked for, as bench/ reads it.

A real one writes nothing: there `traced` tests are skipped.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"
sys.path.insert(0, str(BENCH))
try:
    device_trace = importlib.import_module("lib.device_trace")
    launches = importlib.import_module("launches")
finally:
    sys.path.remove(str(BENCH))

# The device asks for the file at its first use, which another test may be: so it is opened while tests are collected.
TRACE = device_trace.DeviceTrace() if device_trace.DeviceTrace.is_there() else None
traced = pytest.mark.skipif(TRACE is None, reason="only an emulated CUDA device traces what it is asked for")
