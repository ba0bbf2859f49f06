"""100,000 steps of each kind in one process: does it take more memory, leave threads behind, or files open?

By hand; in fits with validation, early stopping, a log and callbacks; in fits from the disk, of which each epoch has a
reader thread of its own, and every tenth ends by an error; and reading, by predict and evaluate. What the process has
of memory, threads and open files is counted when some are done, and after all of them; less than 1 MB more is
allowed. On compiled kernels, where there is a compiler, and on NumPy alone.
"""

from __future__ import annotations

import gc
import os
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from verdict import asked_quick, report

import gpu_backprop as gb
from gpu_backprop.backend.compiled import compiler
from gpu_backprop.training import streaming

STEPS, QUICK_STEPS, WARM = 100_000, 4_000, 2
ALLOWED = 1 << 20
"""Bytes."""
ROWS, BATCH, EPOCHS = 800, 32, 8
RNG = np.random.default_rng(0)
X, LABELS = RNG.normal(size=(ROWS, 10)).astype(np.float32), RNG.integers(0, 3, ROWS)
FIT_STEPS = EPOCHS * ROWS // BATCH


class Soak:
    """A trainer, and the kinds of work that it does so many steps of."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.fits = folder, 0
        np.save(folder / "x.npy", X)
        np.save(folder / "y.npy", LABELS)
        self.rows = gb.open_rows(folder / "x.npy", held_out=0.2, task="classification")
        layers = [gb.Dense(16, "relu"), gb.Dropout(0.2), gb.Dense(3, "softmax")]
        self.trainer = gb.Trainer(gb.Network(10, layers, device="cpu"), batch_size=BATCH, clip_norm=1.0)

    def by_hand(self, steps: int) -> None:
        for step in range(steps):
            float(self.trainer.step(X[: BATCH + step % 2], LABELS[: BATCH + step % 2]))

    def in_fits(self, steps: int) -> None:
        stopping = gb.EarlyStopping(patience=EPOCHS)
        for _ in range(steps // FIT_STEPS):
            self.trainer.history = gb.History()
            self.trainer.fit(
                X, LABELS, EPOCHS, validation=(X[:100], LABELS[:100]), early_stopping=stopping, progress=False,
                csv=self.folder / "history.csv", callbacks=[lambda state: None],
            )  # fmt: skip

    def from_the_disk(self, steps: int) -> None:
        for _ in range(steps // FIT_STEPS):
            self.fits += 1
            self.trainer.history = gb.History()
            callbacks = [Ends()] if self.fits % 10 == 0 else []
            held_out = self.rows.held_out
            with suppress(ZeroDivisionError):
                self.trainer.fit(self.rows, epochs=EPOCHS, validation=held_out, callbacks=callbacks, progress=False)

    def by_reading(self, steps: int) -> None:
        for _ in range(steps // 2):
            self.trainer.network.predict(X[:BATCH])
            self.trainer.evaluate(X[:BATCH], LABELS[:BATCH])


class Ends:
    """An error in the middle of an epoch."""

    def on_step(self, state: gb.FitState) -> None:
        if state.step == 7:
            raise ZeroDivisionError


def held() -> dict[str, int]:
    """What the process has, where the system tells it."""
    gc.collect()
    found = {"threads": threading.active_count()}
    if Path("/proc/self/statm").exists():
        found["bytes of memory"] = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        found["threads of the system"] = len(os.listdir("/proc/self/task"))
        found["open files"] = len(os.listdir("/proc/self/fd"))
    return found


def grown(work: Callable[[int], None], steps: int) -> dict[str, int]:
    """How much more the process has after so many steps than after half as many before. Where that is too much, as many
    again are done, and their growth counts: what leaks does so each time, and the allocator of C takes a heap once."""
    work(max(10 * FIT_STEPS, steps // WARM))
    for _ in range(2):
        before = held()
        work(steps)
        after = held()
        more = {name: after[name] - before[name] for name in after}
        if more.get("bytes of memory", 0) <= ALLOWED:
            break
    return more


def main() -> int:
    """Run it all; the exit code."""
    steps = QUICK_STEPS if asked_quick(__doc__) else STEPS
    streaming.WINDOW, streaming.STRETCH = 4 * BATCH * 48, 2000
    places, failures, most = ["NumPy"], [], 0
    try:
        compiler.find()
        places.insert(0, "compiled")
    except compiler.NoCompilerError as error:
        print(f"without compiled kernels: {error}")
    for where in places:
        if where == "NumPy":
            os.environ[compiler.VARIABLE] = compiler.NONE
        with tempfile.TemporaryDirectory() as folder:
            soak = Soak(Path(folder))
            for work in (soak.by_hand, soak.in_fits, soak.from_the_disk, soak.by_reading):
                more = grown(work, steps)
                most = max(most, more.get("bytes of memory", 0))
                for name, number in more.items():
                    if number > (ALLOWED if "bytes" in name else 0):
                        failures.append(f"{where}: {work.__name__}: {number:,} more {name} after {steps:,} steps")
            soak.rows.close()
    kinds = 4 * len(places)
    return report(f"{kinds} times {steps:,} steps; at most {most:,} bytes more of memory, no thread or file", failures)


if __name__ == "__main__":
    raise SystemExit(main())
