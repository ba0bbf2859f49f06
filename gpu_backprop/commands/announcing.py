"""Announcing that the compiler is at work, to whoever waits at a terminal; with --debug its command too, always."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _ToStderr(logging.Handler):
    """Prints to the standard error of the moment, which may be a progress bar's, so that lines stay above the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stderr is not None:
            print(record.getMessage(), file=sys.stderr, flush=True)


@contextmanager
def announce_compiling(options: argparse.Namespace) -> Iterator[None]:
    """Say on standard error what is compiled, once, and how long that usually takes."""
    logger, handler = logging.getLogger("gpu_backprop.compiler"), _ToStderr()
    level, propagate = logger.level, logger.propagate
    waiting = sys.stderr is not None and sys.stderr.isatty() and not getattr(options, "quiet", False)
    if waiting or options.debug:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG if options.debug else logging.INFO)
        logger.propagate = False  # `train` would say it again
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
