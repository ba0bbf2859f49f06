"""Tests of several ranks, that MPI starts: see ranks.py in tests/."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # for the modules that tests share
