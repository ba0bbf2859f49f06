"""Rows larger than memory, which one rank of a machine prepares: what is learned of them is what one rank learns."""

from __future__ import annotations

import csv
from pathlib import Path
from unittest import mock

import numpy as np
from rank_cases import small_windows
from ranks import needs_mpi, results

import gpu_backprop as gb
from gpu_backprop.data import csv_file

pytestmark = needs_mpi


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
