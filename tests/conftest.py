"""How many examples hypothesis draws: a few, always the same ones, or with GPU_BACKPROP_PROOF=1 many new ones."""

from __future__ import annotations

import os

from hypothesis import settings

# The matrices here are small. On a machine that has other work to do, BLAS threads that wait for each other make the
# tests ten times as slow. NumPy, which reads this when it is imported, is not imported yet.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

settings.register_profile("quick", max_examples=20, derandomize=True, database=None, deadline=None)
settings.register_profile("proof", max_examples=1000, print_blob=True, deadline=None)
settings.load_profile("proof" if os.environ.get("GPU_BACKPROP_PROOF") == "1" else "quick")
