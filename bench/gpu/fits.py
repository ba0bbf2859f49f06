"""Samples per second of whole epochs, ours beside PyTorch's and JAX's, for bench/gpu_check.py.

All train the same network from the same weights by the same optimizer, and their data lie on the device. First each
trains an epoch in the order of the rows; one whose loss differs from ours does other work, and is not timed. Then
they train in turns, some epochs each, in a new order for each epoch. An epoch ends when its loss has come to the host.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from comparison.peers import ON_CUDA, Task
from comparison.peers.ours import Ours
from comparison.processes import Worker, WorkerError
from comparison.tasks import first_parameters
from lib.timing import spread

from gpu.timing import Extent
from gpu_backprop.backend.formula import Array
from gpu_backprop.data.digits import load_digits
from gpu_backprop.data.idx import read_idx_folder

HIDDEN = (300,), (2048, 2048)
BATCHES = 128, 1024
TINY_HIDDEN, TINY_BATCHES = ((8,),), (16,)

EPOCHS = 3
"""Of a turn; the first does not count: clocks rise in it, and ours allocates and captures."""

CLOSE = 0.01
"""How far the mean loss of the first epoch may be from ours: other orders of summation grow in hundreds of steps."""

ADAM = (0.001, 0.9, 0.999, 1e-8)


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
        rows -= rows % max(networks(extent)[1])
        chosen = np.arange(rows) % len(x)
        return cls(x[chosen].astype(np.float32), labels[chosen].astype(np.int64), f"{name}: {rows:,}")


def networks(extent: Extent) -> tuple[Sequence[tuple[int, ...]], Sequence[int]]:
    """Hidden layers, and batches."""
    return (HIDDEN, BATCHES) if extent.bytes else (TINY_HIDDEN, TINY_BATCHES)


def make_room() -> None:
    """Frees what CuPy holds in reserve, which other processes cannot use."""
    import cupy

    cupy.get_default_memory_pool().free_all_blocks()


# Libraries ------------------------------------------------------------------------------------------------------------


class Peer(Worker):
    """A library that does the same, in a process of its own.

    Args:
        name: one of ON_CUDA.
        folder: where the task lies.
        python: an interpreter that has the library.
        loss: ours after the first epoch.

    Raises:
        WorkerError: it is missing, it failed, or it does other work.
    """

    def __init__(self, name: str, folder: Path, python: str, loss: float) -> None:
        super().__init__(name, folder / f"{name}.log", python=python)
        try:
            first = self.ask("load", folder=str(folder))
            self.version: str = first["version"]
            if not abs(first["loss"] - loss) <= CLOSE * abs(loss):  # not true of NaN either
                raise WorkerError(
                    f"it does other work: its loss after an epoch is {first['loss']:.5f}, ours {loss:.5f}"
                )
        except BaseException:
            self.close()
            raise

    def seconds(self) -> float:
        """Of an epoch, the mean of a turn."""
        return float(np.mean(self.ask("train", epochs=EPOCHS)["seconds"][1:]))


# Measuring ------------------------------------------------------------------------------------------------------------


def measure(
    images: Images, hidden: tuple[int, ...], batch: int, rounds: int, python: str = sys.executable, device: str = "cuda"
) -> dict[str, Any]:
    """Times all libraries in turns, on one network and batch."""
    widths, rows = (images.x.shape[1], *hidden, 10), len(images.x)
    task = Task(images.x, images.labels, first_parameters(widths, 0), batch, ADAM, device=device)
    ours = Ours(task)
    loss = ours.epoch(shuffle=False)
    found: dict[str, Any] = {
        "network": "-".join(map(str, widths)), "batch": batch, "loss of the first epoch": loss, "not timed": {},
    }  # fmt: skip
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        task.save(folder)
        peers: dict[str, Peer] = {}
        for name in ON_CUDA:
            try:
                peers[name] = Peer(name, folder, python, loss)
                stack.callback(peers[name].close)
            except WorkerError as trouble:
                found["not timed"][name] = str(trouble)
        times: list[dict[str, float]] = []
        for _ in range(rounds):
            times.append({"gpu_backprop": ours.epochs(EPOCHS - 1) / (EPOCHS - 1)})
            for name in list(peers):
                try:
                    times[-1][name] = peers[name].seconds()
                except WorkerError as trouble:
                    found["not timed"][name] = str(trouble)
                    del peers[name]
    for name in ("gpu_backprop", *peers):
        one: dict[str, Any] = {"samples_per_second": spread([rows / turn[name] for turn in times], 0)}
        if name in peers:
            one["version"] = peers[name].version
            one["ours, times as fast"] = spread([turn[name] / turn["gpu_backprop"] for turn in times])
        found[name] = one
    return found
