"""The command gpu-backprop: what is asked for, what went wrong, and the exit code.

Exit codes: 0 done, 1 failed, 2 asked for in a way that can't be understood, 130 ended by Ctrl-C, 143 by SIGTERM, 129 by
SIGHUP.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import partial

from gpu_backprop.arguments import parse
from gpu_backprop.backend.errors import GpuBackpropError, OutOfMemoryError
from gpu_backprop.commands.announcing import announce_compiling
from gpu_backprop.commands.diagnose import diagnose
from gpu_backprop.commands.doctor import doctor
from gpu_backprop.commands.errors import Misuse
from gpu_backprop.commands.evaluate import check, evaluate
from gpu_backprop.commands.explain import explain
from gpu_backprop.commands.export import export
from gpu_backprop.commands.interrupt import Interrupted, interrupt
from gpu_backprop.commands.predict import predict
from gpu_backprop.commands.ranks import joined
from gpu_backprop.commands.report import report
from gpu_backprop.commands.search import search
from gpu_backprop.commands.serve import serve
from gpu_backprop.commands.train import train
from gpu_backprop.data import DataError
from gpu_backprop.data.limits import memory_limit
from gpu_backprop.starting import caught, end
from gpu_backprop.training.console import readable_output

FAILED, MISUSED = 1, 2

COMMANDS = {
    command.__name__: command
    for command in (train, search, evaluate, predict, export, serve, report, check, diagnose, explain, doctor)
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; what cannot be understood (2) and --help (0) exit."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console that can't show ∇ shows ?, and goes on
    with readable_output():
        code = _run(argv)
    end()
    return code


def _run(argv: Sequence[str] | None) -> int:
    options = parse(argv)
    if options.command is None:
        options.parser.print_help(sys.stderr)
        return MISUSED
    try:
        memory = memory_limit(getattr(options, "memory_limit", None))
        with caught(interrupt), announce_compiling(options), memory, joined(options):
            code = COMMANDS[options.command](options)
            with suppress(OSError) if code > MISUSED else nullcontext():  # after a signal the reader may have ended
                sys.stdout.flush()  # here, where an error can still be reported
            return code
    except BrokenPipeError:  # the reader has seen enough, as `head` has
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if options.debug and isinstance(error, Exception):
            raise
        code = _exit_code(error)
        options.ranks.part(partial(_complain, error, options.command), code)
        return code
    finally:
        _detach_closed_output()


def _exit_code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return error.code if isinstance(error, Interrupted) else 130
    return MISUSED if isinstance(error, Misuse) else FAILED


def _complain(error: BaseException, command: str) -> None:
    """Say on one line what went wrong, if standard error is open."""
    message = " ".join(str(error).split())
    if isinstance(error, Misuse):
        message = f"error: {message} (gpu-backprop {command} --help)"
    elif isinstance(error, KeyboardInterrupt):
        message = message or "interrupted"
    elif isinstance(error, OutOfMemoryError):
        message = str(error)  # with its table
    elif isinstance(error, MemoryError):
        message = f"there is not enough memory: {message}"
    elif isinstance(error, OSError) and error.strerror:
        message = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    elif not isinstance(error, (GpuBackpropError, DataError, OSError)):
        message = f"unexpected {type(error).__name__}: {message} (--debug shows where it came from)"
    with suppress(OSError):
        print(f"gpu-backprop{f' {command}' if isinstance(error, Misuse) else ''}: {message}", file=sys.stderr)


def _open_closed_streams() -> None:
    """Open standard streams that are closed, as with >&- or in a program without a console, on the null device, so that
    no file that is opened later gets their number, and with it what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # else print would use the other one
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (used as long as Python runs)


def _detach_closed_output() -> None:
    """Detach output that can't be written any more, so that Python does not complain a second time when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
