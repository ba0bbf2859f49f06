"""`python -m gpu_backprop` is the command gpu-backprop."""

from __future__ import annotations

import sys

from gpu_backprop.cli import main

if __name__ == "__main__":
    sys.exit(main())
