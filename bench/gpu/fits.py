"""Samples per second of whole epochs, ours beside PyTorch's and JAX's, for bench/gpu_check.py.

All train the same network from the same weights by the same optimizer in the same precision, and their data lie on
the device. First each trains an epoch in the order of the rows; one whose loss differs from ours does other work, and
is not timed. Then they train in turns, some epochs each, in a new order for each epoch. An epoch ends when its loss has
come to the host.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from comparison.peers import ON_CUDA, Task
from comparison.peers.ours import Ours
from comparison.processes import Worker, WorkerError
from comparison.tasks import first_parameters
from lib.timing import spread

from gpu.timing import Extent, clocks_up
from gpu_backprop.backend.formula import Array
from gpu_backprop.data.digits import load_digits
from gpu_backprop.data.idx import read_idx_folder


class Fit(NamedTuple):
    """What is trained: the hidden layers, rows of a minibatch, and in what products are worked out."""

    hidden: tuple[int, ...]
    batch: int
    precision: str

    def __str__(self) -> str:
        return f"{'-'.join(map(str, self.hidden))}, batches of {self.batch}, {self.precision}"


FITS = (
    Fit((300,), 128, "float32"),
    Fit((2048, 2048), 1024, "bfloat16"),
    Fit((2048, 2048), 1024, "tf32"),
    Fit((2048, 2048), 1024, "float32"),
    Fit((300,), 1024, "float32"),
    Fit((2048, 2048), 128, "float32"),
    Fit((2048, 2048), 128, "bfloat16"),
    Fit((300,), 1024, "bfloat16"),
)
"""Those first that tell most, in case there is not time for all."""

TINY_FITS = tuple(Fit((8,), 16, precision) for precision in ("float32", "tf32", "bfloat16"))

EPOCHS = 3
"""Of a turn; the first does not count: clocks rise in it, and ours allocates and captures."""

CLOSE = {"float32": 0.01, "tf32": 0.02, "bfloat16": 0.05}
"""How far the mean loss of the first epoch may be from ours: other orders of summation grow in hundreds of steps."""

ADAM = (0.001, 0.9, 0.999, 1e-8)

PATIENCE = 60
"""Seconds that a peer has for an answer, compiling included."""


@dataclass(frozen=True)
class Images:
    """What is trained on: x float32 (rows, inputs), labels int64 (rows,), and what they are."""

    x: Array
    labels: Array
    name: str

    @classmethod
    def read(cls, folder: Path | None, extent: Extent) -> Images:
        """MNIST from its folder, or the bundled digits again and again; as many rows as all batches divide."""
        if folder is None:
            x, labels = load_digits()
            x, name = x / 16, "the bundled 8×8 digits, repeated"
            rows = extent.samples
        else:
            pixels, labels = read_idx_folder(folder, "train")
            x, name = pixels.reshape(len(pixels), -1) / np.float32(255), "the training images of MNIST"
            rows = min(extent.samples, len(x))
        rows -= rows % max(fit.batch for fit in fits(extent))
        chosen = np.arange(rows) % len(x)
        return cls(x[chosen].astype(np.float32), labels[chosen].astype(np.int64), f"{name}: {rows:,}")


def fits(extent: Extent) -> Sequence[Fit]:
    return FITS if extent.bytes else TINY_FITS


def make_room() -> None:
    """Frees what CuPy holds in reserve, which other processes cannot use."""
    import cupy

    cupy.get_default_memory_pool().free_all_blocks()


# Libraries ------------------------------------------------------------------------------------------------------------


@dataclass
class Peers:
    """Libraries that do the same, each in a process of its own, which stays for all that is trained.

    Attributes:
        folder: where the task lies.
        workers: those that can be asked, by name.
        gone: why others cannot be asked any more.
        versions: by name, once a task was loaded.
    """

    folder: Path
    workers: dict[str, Worker] = field(default_factory=dict)
    gone: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def load(self, task: Task, loss: float) -> dict[str, str]:
        """Gives all of them the task, of which our loss after an epoch is this; why some are not timed on it."""
        task.save(self.folder)
        refused = {}
        for name in list(self.workers):
            try:
                first = self._ask(name, "load", folder=str(self.folder))
            except WorkerError as error:
                refused[name] = str(error)
                continue
            self.versions[name] = first["version"]
            if not abs(first["loss"] - loss) <= CLOSE[task.precision] * abs(loss):  # not true of NaN either
                refused[name] = f"it does other work: its loss after an epoch is {first['loss']:.5f}, ours {loss:.5f}"
        return self.gone | refused

    def seconds(self, name: str) -> float:
        """Of an epoch, the mean of a turn."""
        return float(np.mean(self._ask(name, "train", epochs=EPOCHS)["seconds"][1:]))

    def _ask(self, name: str, do: str, **what: Any) -> dict[str, Any]:
        try:
            return self.workers[name].ask(do, **what)
        except WorkerError as error:
            if not str(error).startswith("it failed"):  # it is missing, or has ended
                self.gone[name] = str(error)
                self.workers.pop(name).close()
            raise


@contextmanager
def start_peers(python: str = sys.executable) -> Iterator[Peers]:
    """All peers, which end with this block. `python` is an interpreter that has the libraries."""
    with tempfile.TemporaryDirectory() as folder:
        peers = Peers(Path(folder))
        try:
            for k, name in enumerate(ON_CUDA):
                log = peers.folder / f"log-{k}"
                peers.workers[name] = Worker(name, log, python=python, patience=PATIENCE)
            yield peers
        finally:
            for worker in peers.workers.values():
                worker.close()


# Measuring ------------------------------------------------------------------------------------------------------------


def measure(images: Images, fit: Fit, peers: Peers, extent: Extent, device: str = "cuda") -> dict[str, Any]:
    """Times all libraries in turns, on one network, batch and precision."""
    if device == "cuda":
        make_room()
    widths, rows = (images.x.shape[1], *fit.hidden, 10), len(images.x)
    first = first_parameters(widths, 0)
    task = Task(images.x, images.labels, first, fit.batch, ADAM, device=device, precision=fit.precision)
    ours = Ours(task)
    loss = ours.epoch(shuffle=False)
    found: dict[str, Any] = {
        "network": "-".join(map(str, widths)), "batch": fit.batch, "precision": fit.precision,
        "loss of the first epoch": loss, "not timed": peers.load(task, loss),
    }  # fmt: skip
    timed = [name for name in peers.workers if name not in found["not timed"]]
    times: list[dict[str, float]] = []
    with clocks_up(ours.net.device, extent, found):
        for _ in range(extent.turns):
            times.append({"gpu_backprop": ours.epochs(EPOCHS - 1) / (EPOCHS - 1)})
            for name in list(timed):
                try:
                    times[-1][name] = peers.seconds(name)
                except WorkerError as error:
                    found["not timed"][name] = str(error)
                    timed.remove(name)
    for name in ("gpu_backprop", *timed):
        one: dict[str, Any] = {"samples_per_second": spread([rows / turn[name] for turn in times], 0)}
        if name in timed:
            one["version"] = peers.versions[name]
            one["ours, times as fast"] = spread([turn[name] / turn["gpu_backprop"] for turn in times])
        found[name] = one
    return found
