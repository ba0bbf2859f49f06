"""Seconds of training until a network reads 97 and 98 % of MNIST's test images: bench/compare.py --mnist FOLDER.

Each library trains 784-512-512-10, relu, by Adam on minibatches of 128, from the same parameters, which are others
for each seed, in orders of its own. After each epoch the test images are read, which is not counted. Besides, it is
fitted as the tasks of bench/compare.py are: 20 epochs, in 5 turns of 4, after each of which the test images are
measured, and this is counted.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lib.timing import ranged, spread

from comparison import tasks
from comparison.peers import OURS, Task
from comparison.processes import Worker, WorkerError, Workers
from comparison.tasks import Configuration, TaskSpec, first_parameters
from gpu_backprop.backend.text_table import columns
from gpu_backprop.data.idx import read_idx_folder

RESULTS = Path(__file__).parents[1] / "results" / "mnist_seconds.json"
WIDTHS, BATCH, ADAM = (784, 512, 512, 10), 128, (0.001, 0.9, 0.999, 1e-8)
GOALS = 0.97, 0.98
SEEDS, EPOCHS = tuple(range(15)), 20
"""So many seeds, because in which epoch a goal is reached is luck of the orders: medians of five differ by it alone."""

CONTENDERS = OURS, "PyTorch, eager", "JAX, epoch in lax.scan"
"""The fastest form of each of those that are the fastest on this network."""

SLOW_ADAM = (0.00001, *tasks.ADAM[1:])
"""Of the fit: at the rate of the other tasks, rounding grows to their tolerance in 468 steps."""

TURN = 4
"""Epochs of a turn of the fit."""

QUICK_SEEDS, QUICK_EPOCHS, QUICK_ROWS = (0,), 2, 1_280


def measure(folder: Path, workers: Workers, quick: bool = False) -> dict[str, Any]:
    """By library: the seconds to each goal, and the epochs, for each seed; None where it was not reached."""
    seeds, most = (QUICK_SEEDS, QUICK_EPOCHS) if quick else (SEEDS, EPOCHS)
    (x, labels), (test_x, test_labels) = images(folder, "train"), images(folder, "test")
    rows = QUICK_ROWS if quick else len(x) - len(x) % BATCH  # some libraries need whole minibatches
    np.savez(workers.folder / "test.npz", x=test_x, labels=test_labels)
    runs: dict[str, list[dict[str, Any]]] = {}
    not_timed: dict[str, str] = {}
    for seed in seeds:
        Task(x[:rows], labels[:rows], first_parameters(WIDTHS, seed), BATCH, ADAM, seed=seed).save(workers.folder)
        not_timed |= workers.load()[1]
        for name, worker in workers.by_name.items():
            if name in not_timed:
                continue
            try:
                run = trained(worker, most)
            except WorkerError as trouble:
                not_timed[name] = str(trouble)
                continue
            print(f"seed {seed}: {name}: {run['seconds'][-1]:.1f} s, {run['accuracy'][-1]:.2%}", flush=True)
            runs.setdefault(name, []).append(run)
    return {
        "network": "-".join(map(str, WIDTHS)),
        "activation": "relu",
        "optimizer": "Adam",
        "batch": BATCH,
        "rows": rows,
        "seeds": list(seeds),
        "not timed": not_timed,
        "runs": runs,
        "seconds to": {f"{goal:.0%}": {name: to(goal, one) for name, one in runs.items()} for goal in GOALS},
        "seconds an epoch": {
            name: spread([run["seconds"][-1] / len(run["seconds"]) for run in those]) for name, those in runs.items()
        },
    }


def fit(folder: Path, quick: bool = False) -> tuple[TaskSpec, Task]:
    """A task of bench/compare.py on MNIST."""
    (x, labels), test = images(folder, "train"), images(folder, "test")
    rows = QUICK_ROWS if quick else len(x) - len(x) % BATCH
    network = Configuration(WIDTHS, BATCH, rows, "-".join(map(str, WIDTHS)) + " on MNIST")
    spec = TaskSpec(network, "relu", "Adam", way="fit", epochs=QUICK_EPOCHS if quick else TURN)
    parameters = first_parameters(WIDTHS, 0)
    return spec, Task(
        x[:rows], labels[:rows], parameters, BATCH, SLOW_ADAM, "relu", validation=test, epochs=spec.epochs
    )


def images(folder: Path, part: str) -> tuple[Any, Any]:
    """Pixels from 0 to 1, and the digits."""
    pixels, labels = read_idx_folder(folder, part)
    return pixels.reshape(len(pixels), -1) / np.float32(255), labels.astype(np.int64)


def trained(worker: Worker, most: int) -> dict[str, list[float]]:
    """Until the last goal is reached, or for so many epochs: seconds since the beginning, and accuracy, after each."""
    seconds, accuracies = [0.0], [0.0]
    try:
        while accuracies[-1] < max(GOALS) and len(seconds) <= most:
            seconds.append(seconds[-1] + worker.ask("train", epochs=1)["seconds"][0])
            accuracies.append(worker.ask("test")["accuracy"])
    finally:
        worker.pause()
    return {"seconds": [round(s, 3) for s in seconds[1:]], "accuracy": accuracies[1:]}


def to(goal: float, runs: list[dict[str, Any]]) -> dict[str, float] | None:
    """Seconds until a goal, over the seeds, and the median number of epochs; None if one seed did not come there."""
    epochs = [next((k for k, a in enumerate(run["accuracy"]) if a >= goal), None) for run in runs]
    if None in epochs:
        return None
    times = [run["seconds"][k] for run, k in zip(runs, epochs, strict=True)]
    return {**spread(times), "epochs": statistics.median(k + 1 for k in epochs)}


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """Seconds to each goal, and epochs."""
    rows = [("", *(f"s to {goal} (epochs)" for goal in found["seconds to"]), "s an epoch")]
    for name, an_epoch in found["seconds an epoch"].items():
        cells = [reached(found["seconds to"][goal][name]) for goal in found["seconds to"]]
        rows.append((name, *cells, ranged(an_epoch)))
    yield from columns(rows, 1)
    yield from (f"{name}: {why}" for name, why in found["not timed"].items())


def reached(one: Mapping[str, float] | None) -> str:
    return f"{one['median']:.1f} ({one['epochs']:g})" if one else "not reached"
