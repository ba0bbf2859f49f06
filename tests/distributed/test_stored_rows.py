"""Rows larger than memory, which one rank of a machine prepares: what is learned of them is what one rank learns."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from unittest import mock

import numpy as np
from rank_cases import small_windows
from ranks import needs_mpi, results

import gpu_backprop as gb
from gpu_backprop.cli import main
from gpu_backprop.data import csv_file, row_blocks

pytestmark = needs_mpi

COLUMNS = "loss", "val_loss", "val_mae"


def write(path):
    random = np.random.default_rng(4)
    size, city = random.normal(0, 30, 301).round(2), random.choice(["Bern", "Chur", "Genève"], 301)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerows([("size", "city", "rent"), *zip(size, city, (3 * size + 100).round(1), strict=True)])


def learned(file, communicator):
    with (
        small_windows(40), mock.patch.object(csv_file, "BLOCK", 400),
        gb.open_rows(file, target="rent", held_out=0.2, communicator=communicator) as rows,
    ):  # fmt: skip
        layers = [gb.Dense(5, "tanh"), gb.Dense(1)]
        net = gb.Network(rows.shape[1], layers, dtype="float64", device="cpu", seed=1)
        trainer = gb.Trainer(net, batch_size=32, communicator=communicator)
        history = trainer.fit(rows, epochs=3, validation=rows.held_out, progress=False)
        measured = trainer.evaluate(rows.held_out, metrics=["mae", "median_absolute_error"])
    losses = [[row["loss"], row["val_loss"]] for row in history]
    return {"parameters": net.parameters, "losses": losses, "measured": [*measured.values()]}


def work(file):
    return learned(file, gb.mpi())


def trained(file, out, *more):
    """The exit code of gpu-backprop train, which a table of 5 KB is too large for."""
    words = [
        "--target=rent",
        "--layers=5",
        "--dropout=0",
        "--epochs=2",
        "--quiet",
        "--memory-limit=4KB",
        f"--out={out}",
    ]
    with small_windows(40), mock.patch.object(csv_file, "BLOCK", 400), mock.patch.object(row_blocks, "LEAST", 1):
        return {"code": main(["train", file, f"--out={out}", *words, *more])}


def test_train_prepares_a_table_once_for_all_ranks(tmp_path: Path) -> None:
    file, alone, together = (tmp_path / "data" / name for name in ("flats.csv", "alone", "together"))
    file.parent.mkdir()
    write(file)
    assert trained(str(file), str(alone)) == {"code": 0}
    arguments = str(file), str(together), "--distributed"
    found = results(2, "test_stored_rows:trained", tmp_path / "ranks", *arguments)
    assert [one["code"] for one in found] == [0, 0]
    assert {*file.parent.iterdir()} == {file, alone, together}
    of_one, of_two = ((folder / "history.jsonl").read_text().splitlines() for folder in (alone, together))
    for one, two in zip(map(json.loads, of_one), map(json.loads, of_two), strict=True):
        np.testing.assert_allclose([two[name] for name in COLUMNS], [one[name] for name in COLUMNS], rtol=1e-4)


def test_ranks_learn_from_a_table_that_one_of_them_prepares(tmp_path: Path) -> None:
    file = tmp_path / "data" / "flats.csv"
    file.parent.mkdir()
    write(file)
    alone = learned(file, None)
    first, *others = results(3, "test_stored_rows:work", tmp_path / "ranks", str(file))
    for name, values in first.items():
        np.testing.assert_allclose(values, alone[name], rtol=1e-9, err_msg=name)
        for other in others:
            np.testing.assert_array_equal(other[name], values)
    assert [*file.parent.iterdir()] == [file]
