"""Three published results on MNIST, reproduced: the test error of fully connected networks, no distortions.

    python bench/reproduce.py --data FOLDER           FOLDER holds the four files of MNIST; half an hour on two cores
    python bench/reproduce.py --data FOLDER --quick   a few seconds that only show that it runs

Each network is trained with every setting of GRID on the first five sixths of the training images (50,000) and measured
on the rest (10,000). The setting with the least error there, the first of equals, trains new networks on all training
images, one a seed, with seeds that choosing has not used. Each of them is measured once on the test images, after its
last epoch; nothing is chosen by what comes out. All of it goes into bench/results/reproduce.json.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lib import markdown, record

import gpu_backprop as gb
from gpu_backprop.backend.formula import Array
from gpu_backprop.data.errors import DataError
from gpu_backprop.data.idx import read_idx_folder

RESULTS = Path(__file__).parent / "results" / "reproduce.json"
CLASSES = 10
BATCH_SIZE = 128
CHOOSING_SEED = 0
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
"""How often each digit stands among the test images: by this MNIST is told from data sets of the same shape."""


@dataclass(frozen=True)
class Paper:
    """Where results were published, and how its networks were trained."""

    name: str
    source: str
    method: str


LECUN = Paper(
    "LeCun et al. 1998",
    "LeCun, Bottou, Bengio and Haffner, Proceedings of the IEEE 86(11), as listed on the web page of MNIST",
    "stochastic diagonal Levenberg-Marquardt steps, one image at a time; scaled tanh units; no dropout",
)
SIMARD = Paper(
    "Simard et al. 2003",
    "Simard, Steinkraus and Platt, ICDAR 2003",
    "gradient descent without momentum or weight decay, from a rate of 0.005 that is multiplied by 0.3 every 100 "
    "epochs, for hundreds of epochs; initial weights of standard deviation 0.05; no dropout; the first 50,000 images",
)


@dataclass(frozen=True)
class Published:
    """A network and its published test error in percent."""

    hidden: tuple[int, ...]
    loss: str
    output: str
    error: float
    paper: Paper

    def __str__(self) -> str:
        return "-".join(map(str, (784, *self.hidden, CLASSES)))


PUBLISHED = (
    Published((300,), "squared_error", "sigmoid", 4.7, LECUN),
    Published((500, 150), "squared_error", "sigmoid", 2.95, LECUN),
    Published((800,), "cross_entropy", "softmax", 1.6, SIMARD),
)


@dataclass(frozen=True)
class Settings:
    """What is chosen on the held-out images."""

    activation: str
    optimizer: gb.Optimizer
    input_dropout: float = 0.0
    dropout: float = 0.0

    @property
    def dropouts(self) -> str:
        rates = {"inputs": self.input_dropout, "hidden units": self.dropout}
        return "dropout: " + (", ".join(f"{rate:.0%} of {what}" for what, rate in rates.items() if rate) or "none")

    def __str__(self) -> str:
        return f"{self.activation}, {self.optimizer!r}, {self.dropouts}"


GRID = (
    Settings("tanh", gb.SGD(0.05, momentum=0.9)),  # the one that is most like the papers
    Settings("relu", gb.Adam(0.001)),
    Settings("relu", gb.Adam(0.001), dropout=0.5),
    Settings("relu", gb.Adam(0.001), input_dropout=0.2, dropout=0.5),
)


@dataclass(frozen=True)
class Protocol:
    """How much is done. The schedule is (epochs, factor of the learning rate), stage by stage."""

    schedule: tuple[tuple[int, float], ...]
    seeds: tuple[int, ...]
    images: int


FULL = Protocol(((10, 1.0), (5, 0.3), (5, 0.1)), (1, 2, 3), 60_000)
QUICK = Protocol(((1, 1.0), (1, 0.1)), (1,), 6_000)


@dataclass(frozen=True)
class Images:
    """x, the pixels from 0 to 1, and the digits."""

    x: Array
    labels: Array

    @classmethod
    def read(cls, folder: Path, part: str, most: int) -> Images:
        pixels, labels = read_idx_folder(folder, part)
        return cls(pixels[:most].astype(np.float32) / 255, labels[:most])

    def __getitem__(self, rows: slice) -> Images:
        return Images(self.x[rows], self.labels[rows])

    def __len__(self) -> int:
        return len(self.labels)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Reproduce three published results on MNIST.")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="the IDX files of MNIST, or .gz")
    parser.add_argument("--quick", action="store_true", help="a short form that shows that it runs; writes no results")
    options = parser.parse_args(arguments)
    protocol = QUICK if options.quick else FULL
    started = time.perf_counter()
    try:
        training, test = (Images.read(options.data, part, protocol.images) for part in ("train", "test"))
        if not options.quick and np.bincount(test.labels).tolist() != MNIST_TEST:
            raise DataError(f"{options.data} does not hold MNIST, for which the results were published; give its files")
    except DataError as error:
        print(f"reproduce.py: {error}", file=sys.stderr)
        return 1
    results = [reproduce(published, training, test, protocol) for published in PUBLISHED]
    print("\n".join(["", table(results), *(f"\n{explained(result)}" for result in results)]))
    if options.quick:
        print(f"\n--quick: few images, few epochs, one seed, {len(test):,} test images. These are no results.")
        return 0
    write(results, protocol, time.perf_counter() - started)
    return 0 if all(result["reached"] for result in results) else 1


def reproduce(published: Published, training: Images, test: Images, protocol: Protocol) -> dict[str, Any]:
    """Choose on held-out training images, then train on all of them and test once a seed; errors in percent."""
    started, paper = time.perf_counter(), published.paper
    settings, grid = choose(published, training, protocol)
    errors = {}
    for seed in protocol.seeds:
        net = train(published, settings, training, protocol, seed)
        errors[str(seed)] = error(net, test)
        print(f"{published}  seed {seed}: test error {errors[str(seed)]:.2f} %", flush=True)
    mean = round(sum(errors.values()) / len(errors), 4)
    return {
        "network": str(published),
        "device": net.device.name,
        "loss": published.loss,
        "output": published.output,
        "published": {"error": published.error, "paper": paper.name, "source": paper.source, "method": paper.method},
        "departures": departures(published, settings, protocol),
        "held_out_error": grid,
        "chosen": str(settings),
        "test_error": errors,
        "mean": mean,
        "lowest": min(errors.values()),
        "highest": max(errors.values()),
        "reached": mean <= published.error,
        "seconds": round(time.perf_counter() - started, 1),
    }


def choose(published: Published, training: Images, protocol: Protocol) -> tuple[Settings, dict[str, float]]:
    """The setting with the least error on the last sixth of the training images, and the error of each."""
    first = len(training) - len(training) // 6
    grid = {}
    for settings in GRID:
        net = train(published, settings, training[:first], protocol, CHOOSING_SEED)
        grid[settings] = error(net, training[first:])
        print(f"{published}  {settings}: held-out error {grid[settings]:.2f} %", flush=True)
    return min(grid, key=lambda settings: grid[settings]), {str(settings): value for settings, value in grid.items()}


def train(published: Published, settings: Settings, images: Images, protocol: Protocol, seed: int) -> gb.Network:
    """A new network, trained through all stages of the schedule."""
    layers: list[gb.Dense | gb.Dropout] = [gb.Dropout(settings.input_dropout)] if settings.input_dropout else []
    for units in published.hidden:
        layers.append(gb.Dense(units, settings.activation))
        if settings.dropout:
            layers.append(gb.Dropout(settings.dropout))
    layers.append(gb.Dense(CLASSES, published.output))
    net = gb.Network(images.x.shape[1], layers, seed=seed)
    trainer = gb.Trainer(net, published.loss, settings.optimizer, batch_size=BATCH_SIZE)
    y = images.labels if published.loss == "cross_entropy" else gb.one_hot(images.labels, CLASSES)
    for epochs, factor in protocol.schedule:
        trainer.optimizer.learning_rate = factor * settings.optimizer.learning_rate
        trainer.fit(images.x, y, epochs, progress=False)
    return net


def error(net: gb.Network, images: Images) -> float:
    """Gives how many images of 100 are read wrongly."""
    wrong = np.count_nonzero(net.predict(images.x).argmax(axis=-1) != images.labels)
    return round(100 * int(wrong) / len(images), 4)


def departures(published: Published, settings: Settings, protocol: Protocol) -> list[str]:
    """Everything that is done here in another way than in the paper, or that the paper leaves open."""
    stages = ", ".join(f"{epochs} at {factor:g} × the rate" for epochs, factor in protocol.schedule)
    targets = ", targets 0 and 1" if published.loss == "squared_error" else ""
    return [
        f"optimizer {settings.optimizer!r} on minibatches of {BATCH_SIZE}; epochs: {stages}",
        f"hidden units {settings.activation}, output {published.output}{targets}",
        settings.dropouts,
        "initial weights he_uniform under relu, else glorot_uniform; biases 0",
        "pixels from 0 to 1",
        "settings chosen on the last sixth of the training images, then trained on all of them",
    ]


def table(results: Sequence[dict[str, Any]]) -> str:
    return markdown.table(
        ("network", "loss", "published test error", "here, mean (lowest to highest)"),
        [
            (
                one["network"], one["loss"], f"{one['published']['error']:g} %, {one['published']['paper']}",
                f"{one['mean']:.2f} % ({one['lowest']:.2f} to {one['highest']:.2f})",
            )
            for one in results
        ],
    )  # fmt: skip


def explained(result: dict[str, Any]) -> str:
    """How the paper trained a network, and in what this differs."""
    paper = f"{result['network']} in the paper: {result['published']['method']}."
    return "\n".join([paper, "Here:", *(f"- {departure}" for departure in result["departures"])])


def write(results: Sequence[dict[str, Any]], protocol: Protocol, seconds: float) -> None:
    """All of it, and what it was measured with, into bench/results/reproduce.json."""
    measured = {
        "protocol": {
            "choosing": "seed 0, trained on the first 50,000 training images, measured on the other 10,000",
            "testing": "trained on all 60,000, each network measured once on the 10,000 test images",
            "schedule": [{"epochs": epochs, "factor of the rate": factor} for epochs, factor in protocol.schedule],
            "batch_size": BATCH_SIZE,
            "unit of errors": "percent",
        },
        "networks": list(results),
    }
    record.write(RESULTS, "python bench/reproduce.py --data FOLDER", seconds, measured)


if __name__ == "__main__":
    sys.exit(main())
