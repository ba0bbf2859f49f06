"""What the host does between two epochs, in µs, while the device has nothing to do.

First how an epoch of one network, and of 200 members, gets its order: drawn then, or drawn ahead by a thread, which has
ended. Then, of one network, all from the moment when the last step of an epoch was handed over to the one when the
first step of the next is. The step is tiny, so that little else is measured; what waits for the device's own work, to
read what an epoch has added up, stands apart. Medians of several epochs. On a CPU no order is drawn ahead, and on an
emulated device kernels and copies run inside the calls that ask for them.

Run it as: python bench/epochs.py [--device cuda] [--epochs 9]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
from lib import markdown

import gpu_backprop as gb
from gpu_backprop.backend.snapshot import Snapshot
from gpu_backprop.network.network import Network
from gpu_backprop.network.samples import Samples
from gpu_backprop.training.callbacks import Callbacks
from gpu_backprop.training.history import History
from gpu_backprop.training.minibatches import DataSet
from gpu_backprop.training.progress import Progress
from gpu_backprop.training.replay import Replay
from gpu_backprop.training.row_logs import CsvLog
from gpu_backprop.training.run import Run
from gpu_backprop.training.shuffling import Shuffling
from gpu_backprop.training.sums import Sums

CASES = (1, 60_000), (200, 20_000)
"""Members and rows. The first is trained."""

STEPS = 20
"""Of an epoch."""

WAIT = "wait for the device: sums.read"
PARTS: dict[str, tuple[type, str]] = {
    WAIT: (Sums, "read"),
    "order: data.shuffle": (DataSet, "shuffle"),
    "copy of the state: epoch_start.take": (Snapshot, "take"),
    "sums, cursor, schedule: _go_to_begin": (Run, "_go_to_begin"),
    "settings: _follow_settings": (Run, "_follow_settings"),
    "16-bit weights: network.refresh": (Network, "refresh"),
    "loss and metrics of the row: _measured": (Run, "_measured"),
    "history.append": (History, "append"),
    "log.write": (CsvLog, "write"),
    "callbacks.epoch": (Callbacks, "epoch"),
    "shown.epoch": (Progress, "epoch"),
}
"""What is timed: none of it inside another. What is left is "all else"."""


class Gaps:
    """The times between epochs, by part.

    Attributes:
        found: of each gap, the µs of each part and of the whole.
    """

    def __init__(self) -> None:
        self.found: list[dict[str, float]] = []
        self._parts: dict[str, float] = defaultdict(float)
        self._step, self._ended = 0, 0.0

    def step(self, run: Callable[[], None]) -> None:
        """Runs a step; the first of an epoch ends the gap before it."""
        if not self._step and self._ended:
            whole = (time.perf_counter() - self._ended) * 1e6
            self.found.append({**self._parts, "whole": whole, "all else": whole - sum(self._parts.values())})
        run()
        self._step = (self._step + 1) % STEPS
        if not self._step:
            self._parts.clear()
            self._ended = time.perf_counter()

    def part(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            begin = time.perf_counter()
            try:
                return method(*args, **options)
            finally:
                self._parts[name] += (time.perf_counter() - begin) * 1e6

        return timed


@contextmanager
def watched(ahead: bool) -> Iterator[Gaps]:
    """The context in which gaps are measured."""
    gaps, made = Gaps(), Replay.__init__

    def init(replay: Replay, *args: Any) -> None:
        made(replay, *args)
        run = replay.run
        replay.run = lambda: gaps.step(run)  # type: ignore[method-assign]

    with ExitStack() as patches:
        patches.enter_context(patch.object(Replay, "__init__", init))
        for name, (owner, method) in PARTS.items():
            patches.enter_context(patch.object(owner, method, gaps.part(name, getattr(owner, method))))
        if not ahead:
            patches.enter_context(patch.object(Shuffling, "work_ahead", lambda *_: None))
        yield gaps


def trainer_of(members: int, rows: int, device: str) -> gb.Trainer:
    seed = 0 if members == 1 else range(members)
    net = gb.Network(4, [gb.Dense(4, "tanh"), gb.Dense(1)], seed=seed, device=device)
    return gb.Trainer(net, batch_size=rows // STEPS, graph=False)


def order_us(members: int, rows: int, device: str, epochs: int, ahead: bool) -> float:
    """Returns the median µs of beginning an epoch in another order."""
    step, found = trainer_of(members, rows, device).training_step, []
    samples = Samples(np.zeros((rows, 4), np.float32), np.zeros((rows, 1), np.float32), None)
    data = DataSet(step.network, samples, shuffled=True)
    work_ahead = step.shuffling.work_ahead
    step.shuffling.work_ahead = lambda draw: wait([work_ahead(draw)])  # type: ignore
    with step.shuffling.working_ahead(), step.device.computing():
        for _ in range(epochs + 1):
            begin = time.perf_counter()
            data.shuffle(step.shuffling)
            found.append((time.perf_counter() - begin) * 1e6)
            list(data.parts([rows], 0, step.shuffling if ahead else None))
    return statistics.median(found[1:])


def gap_us(device: str, epochs: int, ahead: bool) -> dict[str, float]:
    """Returns the median µs of each part of what lies between two epochs; the first gap counts for nothing."""
    members, rows = CASES[0]
    rng = np.random.default_rng(0)
    x, y = rng.random((rows, 4), np.float32), rng.random((rows, 1), np.float32)
    with watched(ahead) as gaps:
        trainer_of(members, rows, device).fit(x, y, epochs + 2, progress=False)
    found = gaps.found[1:]
    names = *PARTS, "all else", "whole"
    row = {name: statistics.median(gap.get(name, 0.0) for gap in found) for name in names}
    return row | {"whole, without the wait": row["whole"] - row[WAIT]}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--epochs", type=int, default=9)
    options = parser.parse_args(arguments)
    given = options.device, options.epochs
    try:
        orders = [
            (f"{members} × {rows:,}", *(order_us(members, rows, *given, ahead) for ahead in (False, True)))
            for members, rows in CASES
        ]
        gaps = [gap_us(*given, ahead) for ahead in (False, True)]
    except gb.GpuBackpropError as error:
        print(f"epochs.py: {error}", file=sys.stderr)
        return 1
    heads = "drawn then", "drawn ahead"
    print(markdown.table(("order of members × rows, µs", *heads), [(name, *map(whole, us)) for name, *us in orders]))
    lines = [(name, *(whole(gap[name]) for gap in gaps)) for name in gaps[0]]
    print(f"\n{markdown.table(('between two epochs, µs', *heads), lines)}")
    return 0


def whole(number: float) -> str:
    return f"{number:,.0f}"


if __name__ == "__main__":
    sys.exit(main())
