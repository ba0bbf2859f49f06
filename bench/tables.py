"""What early stopping brings on eight tables: the held-out loss of what `gpu-backprop train` saves, which is that of
the best epoch, beside that of the last epoch and of a run without; into bench/results/tables.json.

The functions of the command are called, once a table and seed and way, on the CPU, with its defaults. The tables are in
the packages palmerpenguins, ISLP and scikit-learn (the extra bench-tables), of which the files are read and nothing is
imported: pip install --no-deps palmerpenguins ISLP scikit-learn does. Run it as: python bench/tables.py
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from contextlib import redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lib import record

from gpu_backprop.arguments.parser import parse
from gpu_backprop.commands.building import (
    build_network,
    build_trainer,
    choose_epochs,
    choose_stopping,
    read_design,
    targets,
)
from gpu_backprop.commands.datasets import load_train_test

SEEDS = range(5)
RESULTS = Path(__file__).parent / "results" / "tables.json"


class Table(NamedTuple):
    """A table in a file of a package, and what is learned from it."""

    package: str
    file: str
    target: str
    options: tuple[str, ...] = ()


TABLES = {
    "penguins": Table("palmerpenguins", "data/penguins.csv", "species", ("--impute", "mean")),
    "OJ": Table("ISLP", "data/OJ.csv", "Purchase"),
    "Default": Table("ISLP", "data/Default.csv", "default"),
    "Caravan": Table("ISLP", "data/Caravan.csv", "Purchase"),
    "breast cancer": Table("sklearn", "datasets/data/breast_cancer.csv", "target"),
    "Wage": Table("ISLP", "data/Wage.csv", "wage", ("--ignore", "logwage")),
    "Hitters": Table("ISLP", "data/Hitters.csv", "Salary", ("--drop-missing-target",)),
    "diabetes": Table("sklearn", "datasets/data/diabetes_data_raw.csv.gz", "target"),
}


class Curves(NamedTuple):
    """Of one fit: the validation loss of each epoch, the held-out log loss or RMSE of each, and of what is left."""

    validation: list[float]
    held_out: list[float]
    saved: float
    best_epoch: int | None


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()  # it takes none, and says so
    started = time.perf_counter()
    measured = {name: measure(name) for name in TABLES}
    kept = sum(run["saved"] == run["best"] for table in measured.values() for run in table["seeds"].values())
    runs = len(TABLES) * len(SEEDS)
    print(f"{kept} of {runs} saved models have the held-out loss of their best epoch")
    what = "gpu-backprop train TABLE --device cpu --seed SEED, and with --no-early-stopping"
    record.write(RESULTS, what, time.perf_counter() - started, {"best_epoch_saved": f"{kept} of {runs}", **measured})
    return 0


def measure(name: str) -> dict[str, Any]:
    """Trains on a table with early stopping and without, for every seed; the figures are log losses, or RMSE in the
    units of the target, of the held-out rows."""
    seeds = {}
    for seed in SEEDS:
        stopped, full = fit(name, seed), fit(name, seed, "--no-early-stopping")
        assert stopped.best_epoch is not None
        seeds[str(seed)] = {
            "best_epoch": stopped.best_epoch, "epochs": len(stopped.held_out), "saved": round(stopped.saved, 6),
            "best": round(stopped.held_out[stopped.best_epoch - 1], 6), "last": round(stopped.held_out[-1], 6),
            "without": round(full.saved, 6), "epochs_without": len(full.held_out),
        }  # fmt: skip
    means = {key: float(np.mean([run[key] for run in seeds.values()])) for key in ("saved", "last", "without")}
    print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in means.items()), flush=True)
    return {"mean": {key: round(value, 6) for key, value in means.items()}, "seeds": seeds}


def fit(name: str, seed: int, *words: str) -> Curves:
    """Trains as the command does with these words, and measures the held-out rows after every epoch."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(name, Path(folder))
        table = TABLES[name]
        options = parse(
            ["train", str(path), "--target", table.target, *table.options, "--seed", str(seed), "--device", "cpu",
             "--quiet", *words]
        )  # fmt: skip
        design = read_design(options)
        with redirect_stderr(io.StringIO()):  # its advice on the columns
            data = load_train_test(options, scale_target=design.any_number)
    net = build_network(options, design, data.preprocessing)
    trainer = build_trainer(options, design, net, len(data.training))
    x, y, test = data.training.x, targets(trainer.loss, net, data.training), data.held_out
    assert test is not None

    def loss() -> float:
        if test.y.ndim == 1:
            return float(trainer.evaluate(test.x, targets(trainer.loss, net, test))["loss"])
        true, predicted = (data.preprocessing.inverse(values) for values in (test.y, net.predict(test.x)))
        return float(np.sqrt(np.mean((true - predicted) ** 2)))

    held_out: list[float] = []
    stopping = choose_stopping(options, len(x))
    epochs = options.epochs or choose_epochs(len(x), stopping["early_stopping"] is not None)
    callbacks = [lambda state: held_out.append(loss())]
    history = trainer.fit(x, y, epochs, **stopping, progress=False, callbacks=callbacks)
    validation = history["val_loss"] if "val_loss" in history.columns else []
    return Curves(validation, held_out, loss(), history.best_epoch)


def write(name: str, folder: Path) -> Path:
    """Writes a table as a CSV file, with names above the columns."""
    table, path = TABLES[name], folder / f"{name.replace(' ', '_')}.csv"
    spec = find_spec(table.package)
    if spec is None or spec.submodule_search_locations is None:
        sys.exit(
            f"{name}: the package {table.package} is missing: pip install --no-deps palmerpenguins ISLP scikit-learn"
        )
    source = Path(spec.submodule_search_locations[0]) / table.file
    if table.package != "sklearn":
        path.write_bytes(source.read_bytes())
        return path
    if name == "diabetes":
        rows = np.column_stack([np.loadtxt(source), np.loadtxt(source.with_name("diabetes_target.csv.gz"))])
    else:
        rows = np.loadtxt(source, delimiter=",", skiprows=1)
    header = [*(f"x{column}" for column in range(1, rows.shape[1])), table.target]
    np.savetxt(path, rows, "%.10g", ",", header=",".join(header), comments="")
    return path


if __name__ == "__main__":
    sys.exit(main())
