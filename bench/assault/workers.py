"""Attempts in processes of their own, which may die or hang without ending the assault."""

from __future__ import annotations

import multiprocessing
import queue
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

WORKERS = 2
SECONDS = 60
"""How long an attempt may take, on a machine that does other things besides."""

Attempt = Callable[[int, Path], str]
"""What comes of an attempt, of this number, in a folder of its own: "read" or "refused". Whatever it raises is a
failure."""


def run_all(attempt: Attempt, numbers: Sequence[int], memory: int) -> tuple[Counter[str], list[str]]:
    """How many attempts came to what, and what is to be said of those that failed.

    Args:
        memory: bytes that a process may address.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in numbers:
        waiting.put(number)
    outcomes: Counter[str] = Counter()
    failures: list[str] = []

    def work() -> None:
        worker = None
        while not waiting.empty():
            number = waiting.get()
            worker = worker or _Worker(attempt, memory)
            said = worker.ask(number)
            if said in ("read", "refused"):
                outcomes[said] += 1
            else:
                failures.append(f"number {number}: {said}")
            if not worker.process.is_alive():
                worker = None
        if worker is not None:
            worker.end()

    with ThreadPoolExecutor(WORKERS) as pool:
        for done in [pool.submit(work) for _ in range(WORKERS)]:
            done.result()
    return outcomes, sorted(failures)


class _Worker:
    """A process that attempts what it is told."""

    def __init__(self, attempt: Attempt, memory: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, attempt, memory), daemon=True)
        self.process.start()
        other.close()

    def ask(self, number: int) -> str:
        """What comes of an attempt; the process is gone where that is its end."""
        try:
            self.connection.send(number)
            if self.connection.poll(SECONDS):
                return str(self.connection.recv())
            said = f"took over {SECONDS} s"
        except (EOFError, OSError):
            said = ""
        self.end()
        return said or f"ended the process, exit code {self.process.exitcode}"

    def end(self) -> None:
        self.connection.close()
        self.process.join(1)
        self.process.kill()
        self.process.join()


def _serve(connection: Connection, attempt: Attempt, memory: int) -> None:
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    with tempfile.TemporaryDirectory() as folder:
        while True:
            try:
                number = connection.recv()
            except EOFError:
                return
            try:
                said = attempt(number, Path(folder))
            except BaseException as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                said = f"{type(error).__name__}: {str(error)[:300]} ({where.filename}:{where.lineno})"
            connection.send(said)
