"""Printing what the package logs: also that the compiler is at work, where someone waits at a terminal."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext


class _Printer(logging.Handler):
    """Prints to the stream of the moment, which may be a progress bar's, so that lines stay above the bar."""

    def __init__(self, stream: str) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        if (stream := getattr(sys, self._stream)) is not None:
            print(record.getMessage(), file=stream, flush=True)


@contextmanager
def printed_log(name: str, level: int, stream: str, propagate: bool = True) -> Iterator[None]:
    """Print what a logger says, on "stdout" or "stderr"."""
    handler, logger = _Printer(stream), logging.getLogger(name)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = propagate
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def announce_compiling(options: argparse.Namespace) -> AbstractContextManager[None]:
    """Say on standard error what is compiled, once, and how long that usually takes."""
    waiting = sys.stderr is not None and sys.stderr.isatty() and not getattr(options, "quiet", False)
    if not (waiting or options.debug):
        return nullcontext()
    level = logging.DEBUG if options.debug else logging.INFO
    return printed_log("gpu_backprop.compiler", level, "stderr", propagate=False)  # `train` would print it again
