"""What to do where an optional package is missing: said in one way everywhere."""

from __future__ import annotations


def install(extra: str) -> str:
    """Returns the command that installs an extra, for those who have a checkout too."""
    return f"pip install 'gpu-backprop[{extra}]' (in a checkout: pip install -e '.[{extra}]')"
