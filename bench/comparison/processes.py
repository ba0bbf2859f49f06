"""Processes that train the same task, of which one works at a time: the others are stopped, not only idle.

Threads of a pool that wait for work look for it all the time, for a while at least, and two pools that do so take each
other's processors.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("contend.py")

PATIENCE = 900
"""Seconds that a contender has for an answer; torch.compile takes long."""

CAN_STOP = hasattr(signal, "SIGSTOP")
"""Else, on Windows, one that waits for its next line has to be idle enough."""

POOLS = "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"


@contextmanager
def on_processors(count: int) -> Iterator[None]:
    """What is started within may use so many processors, 0: all. It does not choose them itself: by then the threads of
    NumPy's BLAS would be there, with all of them to use."""
    if not count or not hasattr(os, "sched_setaffinity"):
        yield
        return
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(ours)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)


class Trouble(Exception):
    """Why a contender is not timed."""


class Contender:
    """A process in which one of `peers.CLASSES` trains.

    Args:
        name: its name there.
        said: a file for what it prints to stderr.
        python: an interpreter that has the library.
        threads: how many processors it may use; 0: all.
        environment: variables that it finds set, besides ours.
    """

    def __init__(
        self, name: str, said: Path, *, python: str = sys.executable, threads: int = 0,
        environment: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        pools = dict.fromkeys(POOLS, str(threads)) if threads else {}
        # JAX would take three quarters of a CUDA device's memory for itself
        environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", **pools, **(environment or {})}
        self._said = said.open("w+", encoding="utf-8")
        with on_processors(threads):
            self._process = subprocess.Popen(
                [python, str(PROGRAM), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said,
                text=True, env=environment, start_new_session=CAN_STOP,
            )  # fmt: skip

    def ask(self, do: str, **what: Any) -> dict[str, Any]:
        """Its answer.

        Raises:
            Trouble: it is missing, it failed, or it has ended.
        """
        assert self._process.stdin
        self.go_on()
        with suppress(BrokenPipeError):  # then there is no answer
            self._process.stdin.write(json.dumps({"do": do, **what}) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        """The next line of JSON."""
        assert self._process.stdout
        killer = threading.Timer(PATIENCE, self._process.kill)
        killer.start()
        try:
            line = next((line for line in self._process.stdout if line.startswith("{")), "")
        finally:
            killer.cancel()
        if not line:
            status = self._process.wait()
            self._said.seek(0)
            said = self._said.read().strip().splitlines() or ["it said nothing"]
            raise Trouble(f"it ended with status {status}: {said[-1]}")
        answer: dict[str, Any] = json.loads(line)
        for kind, words in (("missing", "missing"), ("failed", "it failed")):
            if kind in answer:
                raise Trouble(f"{words}: {answer[kind]}")
        return answer

    def pause(self) -> None:
        """Stops it, with all that it has started, until it is asked again."""
        self._signal("SIGSTOP")

    def go_on(self) -> None:
        self._signal("SIGCONT")

    def _signal(self, name: str) -> None:
        if CAN_STOP and self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, getattr(signal, name))

    def close(self) -> None:
        """Ends it."""
        self._signal("SIGKILL")
        self._process.kill()
        with suppress(BrokenPipeError):
            self._process.communicate()
        self._said.close()
