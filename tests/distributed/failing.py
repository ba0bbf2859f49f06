"""A program that fails in its third epoch, on one rank or on all: `python -m failing HOW FOLDER`."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import gpu_backprop as gb

TIMEOUT = 3
"""Seconds, where a rank hangs: for 1,000 if nothing ends it."""


def fail(what: str) -> None:
    raise ValueError(f"what {what} failed by")


FAILURES: dict[str, Callable[[], object]] = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "suspended": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "asleep": lambda: time.sleep(1000),
    "raised": lambda: fail("one rank"),
    "exited": lambda: sys.exit(3),
    "all raised": lambda: fail("all ranks"),
    "none": lambda: None,
}


def train(communicator: Any, *callbacks: Any, resume: Path | None = None) -> gb.Trainer:
    """Trains a small network for five epochs."""
    x = np.random.default_rng(0).normal(size=(45, 4))
    net = gb.Network(4, [gb.Dense(6, "tanh"), gb.Dropout(0.2), gb.Dense(2)], dtype="float64", device="cpu")
    trainer = gb.Trainer(net, optimizer="adam", batch_size=10, communicator=communicator)
    if resume is not None:
        trainer.resume(resume)
    trainer.fit(x, np.sin(x[:, :2]), epochs=5, progress=True, callbacks=callbacks)
    return trainer


def main(how: str, folder: str) -> None:
    """Trains, and fails."""
    ranks = gb.distributed(timeout=TIMEOUT if how in ("suspended", "asleep") else 60)
    Path(folder, f"{ranks.rank}.pid").write_text(str(os.getpid()))

    def fail_in_epoch_3(state: gb.FitState) -> None:
        if state.epoch == 3 and (ranks.rank == 1 or how == "all raised"):
            FAILURES[how]()

    train(ranks, gb.Checkpoint(Path(folder) / "checkpoints", every_steps=1), fail_in_epoch_3)


if __name__ == "__main__":
    main(*sys.argv[1:])
