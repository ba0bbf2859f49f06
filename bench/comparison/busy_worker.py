"""One of `peers.CLASSES` trains in this process on a machine that has trouble; processes.py starts it."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from comparison.worker import Commands, serve

PRODUCTS = 0.1
"""Seconds, about, of NumPy's products before a fit that comes after them."""

SIZE = 1024
"""Rows and columns of such a product."""


CHUNK = 0.05
"""Seconds, about, of epochs after them."""


class BusyCommands(Commands):
    """The commands, see `worker.Commands`."""

    def begin(self, folder: str) -> dict[str, Any]:
        """Begins the task of a folder, and trains some epochs, so that all is compiled."""
        answer = self.load(folder)
        assert self.peer is not None
        self.peer.epochs(2)
        return answer

    def fit(self, window: float, products: bool = False) -> dict[str, float]:
        """µs a step of epochs in a new order each, for about so many seconds, in one go; with `products` in several,
        each right after products by NumPy, which are not timed."""
        peer = self.peer
        assert peer is not None
        a, until = np.ones((SIZE, SIZE), np.float32), time.perf_counter() + window
        seconds, epochs, more = 0.0, 0, 1
        while True:
            done = time.perf_counter() + (PRODUCTS if products else 0)
            while time.perf_counter() < done:
                a @ a
            took = peer.epochs(more)
            seconds, epochs, left = seconds + took, epochs + more, until - time.perf_counter()
            if left <= 0:
                return {"us": 1e6 * seconds / (epochs * peer.task.steps)}
            more = max(1, int((CHUNK if products else left) * more / took))


if __name__ == "__main__":
    sys.exit(serve(BusyCommands(*sys.argv[1:])))
