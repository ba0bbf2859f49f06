"""The ranks of a command that a launcher has started several times, with --distributed."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from gpu_backprop.backend.communicator import TIMEOUT
from gpu_backprop.backend.rendezvous import distributed
from gpu_backprop.backend.threads import local_ranks
from gpu_backprop.commands.errors import Misuse
from gpu_backprop.starting import caught


def choose_device(options: argparse.Namespace) -> str:
    """Return where this rank trains: where any CUDA device would do, on one of its own."""
    if options.ranks.ranks == 1 or options.device not in ("auto", "cuda"):
        return str(options.device)
    own = str(options.ranks.device)
    return str(options.device) if own == "cpu" else own  # which tells why CUDA cannot be used


@contextmanager
def joined(options: argparse.Namespace) -> Iterator[None]:
    """Make options.ranks the communicator of all of them, if --distributed asks for it. Within, the first alone prints;
    none leaves before all are done, since launchers end the others of one that ended with an exit code."""
    if not getattr(options, "distributed", False):
        if getattr(options, "timeout", None) is not None:
            raise Misuse(
                "--timeout is how long ranks wait for each other, with --distributed: add that, or leave it out"
            )
        if "distributed" in options and (count := local_ranks()) > 1:
            print(
                f"note: one of {count} processes, each of which does all of this; with --distributed they share it",
                file=sys.stderr,
            )
        yield
        return
    options.ranks = distributed(TIMEOUT if options.timeout is None else options.timeout)
    if options.ranks.rank == 0:
        yield
    else:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield
    with caught(lambda *_: None):  # what the first one still does, it ends by itself
        if options.ranks.leaves_alone(math.inf):
            options.ranks.abort(1)
