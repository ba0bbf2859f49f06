"""One of `peers.CLASSES` trains in this process; processes.py starts it, with bench/ in PYTHONPATH.

Each line of JSON on stdin is a command, and is answered by a line of JSON on stdout. The processors and
OMP_NUM_THREADS and its like are chosen by the process that starts it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from lib import busy

from comparison import peers

WARM = 0.02
"""Seconds, about, of steps that are not timed, before those that are."""

LEAST = 2
"""Steps that are timed together, at least."""


class Commands:
    """The commands. Each method is named by the "do" of a line; the rest of the line are its arguments."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.peer: peers.Peer | None = None

    def load(self, folder: str, into: str | None = None, ways: Sequence[str] = ()) -> dict[str, Any]:
        """Begins the task of a folder, and trains an epoch of it in the order of the rows, without dropout.

        Args:
            into: a file for the parameters after it; then it trains one with dropout too, and one in a new order, each
                from the first ones, and measures the validation data, where there are some.
            ways: what of `time` is timed later. Of "steps" and "steps_by_hand" it does as many as an epoch has, from
                the first parameters on, and writes the parameters after them too (peers.task.of_way); and a short fit.
        """
        task = self._open(folder)
        peer = self._peer(replace(task, dropout=0.0))
        answer = {"loss": peer.epoch(shuffle=False), "version": peer.version}
        if into is not None:
            peers.task.save_parameters(Path(into), peer.parameters())
            if task.validation:
                answer["validation"] = peer.evaluate()
            answer["repeated"] = [way for way in ways if way.startswith("steps")]
            for way in answer["repeated"]:
                peer.reset()
                getattr(peer, way)(task.steps)
                peers.task.save_parameters(peers.task.of_way(Path(into), way), peer.parameters())
            if "fit" in ways:
                peer.reset()
                peer.task = replace(task, epochs=peers.task.CHECKED_EPOCHS)
                answer["fit"] = peer.fit()[1]
                peer.task = task
            if task.dropout:
                peer = self._peer(task)
                answer["dropped"] = peer.epoch(shuffle=False)
            peer.steps(1)  # compiles, where that is done
            peer.reset()
            answer["shuffled"] = peer.epoch(shuffle=True)
            in_order = peers.task.load_parameters(Path(into))
            both = zip(sum(peer.parameters(), ()), sum(in_order, ()), strict=True)
            answer["reordered"] = any(bool(np.any(p != q)) for p, q in both)
        peer.reset()
        return answer

    def load_to_predict(self, folder: str, into: str) -> dict[str, Any]:
        """Begins the task of a folder, and predicts its rows, into a file."""
        peer = self._peer(self._open(folder))
        np.savez(into, y=peer.predict())
        return {"version": peer.version}

    def _open(self, folder: str) -> peers.Task:
        self.folder = Path(folder)
        return peers.Task.load(self.folder)

    def _peer(self, task: peers.Task) -> peers.Peer:
        """Begins a task; what the one before held is free for it."""
        self.peer = None
        gc.collect()
        self.peer = peers.load(self.name, task)
        return self.peer

    def train(self, epochs: int) -> dict[str, Any]:
        """The seconds of some epochs in a new order each, one after the other."""
        assert self.peer is not None
        return {"seconds": [self.peer.train() for _ in range(epochs)]}

    def test(self) -> dict[str, Any]:
        """The share of right answers on the rows of test.npz, computed by NumPy for every library alike."""
        assert self.peer is not None
        with np.load(self.folder / "test.npz", allow_pickle=False) as file:
            y, labels = file["x"], file["labels"]
        *hidden, (w, b) = self.peer.parameters()
        for weight, bias in hidden:
            y = y @ weight + bias
            y = np.tanh(y) if self.peer.task.activation == "tanh" else np.maximum(y, 0)
        return {"accuracy": float(np.mean((y @ w + b).argmax(axis=1) == labels))}

    def time(self, what: list[str], window: float) -> dict[str, Any]:
        """µs a step, or a prediction, of each of peers.task.Peer's "steps", "epochs", "floor", "steps_by_hand",
        "predictions" and "fit", each from the first parameters on, and what else ran then.

        Args:
            what: the first of them is done before, for some time that does not count, except a fit.
        """
        peer, seconds, done, times = self.peer, 0.0, 0, 1
        assert peer is not None
        peer.reset()
        warm = {"epochs": "steps"}.get(what[0], what[0])
        while seconds < WARM and warm != "fit":
            started = time.perf_counter()
            done = getattr(peer, warm)(times)
            seconds, times = time.perf_counter() - started, 2 * times
        in_window = window * done / seconds if done else 1
        found = {one: self._time(peer, one, in_window) for one in what}
        if "floor" in found:
            found["floor"] |= peer.peak(window)
        return found

    def _time(self, peer: peers.Peer, what: str, in_window: float) -> dict[str, Any]:
        """About so many steps or predictions."""
        peer.reset()
        before = busy.Clocks.now()
        if what == "fit":
            seconds, done = peer.fit()[0], peer.task.epochs * peer.task.steps
        elif what == "epochs":
            epochs = max(1, round(in_window / peer.task.steps))
            seconds, done = peer.epochs(epochs), epochs * peer.task.steps
        else:
            started = time.perf_counter()
            done = getattr(peer, what)(max(LEAST, round(in_window)))
            seconds = time.perf_counter() - started
        return {"us": 1e6 * seconds / done, "steps": done, **busy.Clocks.now().since(before)}


def serve(commands: object) -> int:
    """Answers commands by the methods of an object, until there are no more."""
    end_with_parent()
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(commands, command.pop("do"))(**command)
        except peers.Missing as missing:
            answer = {"missing": str(missing)}
        except Exception as error:  # whatever a library raises: it is reported, and the other tasks go on
            answer = {"failed": f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"}
        print(json.dumps(answer), flush=True)
    return 0


def end_with_parent() -> None:
    """Ask Linux to kill this process with its parent: one that is stopped would stay for ever otherwise."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    sys.exit(serve(Commands(*sys.argv[1:])))
