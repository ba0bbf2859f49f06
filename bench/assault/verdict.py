"""What all assaults share: how much is asked for, and the lines that say what came of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

SHOWN = 20
"""Failures that are printed; more of them are counted only."""


def asked_quick(description: str | None) -> bool:
    """Read the command line of an assault: whether a few attempts are enough."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="few attempts, in some seconds")
    return bool(parser.parse_args().quick)


def report(tried: str, failures: Iterable[str]) -> int:
    """Print what was tried, such as "4,950 mutated files: 4,100 read, 850 refused", and what failed; the exit code."""
    found = list(failures)
    for failure in found[:SHOWN]:
        print(f"FAILED: {failure}", file=sys.stderr)
    print(f"{tried}; {len(found):,} failed")
    return 1 if found else 0
