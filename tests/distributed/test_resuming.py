"""A checkpoint is of no number of ranks: what 3 of them wrote, 2 go on from, and one alone, and the other way round."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from rank_cases import CLASSES, DROPS, MEMBERS, ROW_BYTES, Case, held_out, maps, outcome, small_windows, weights_of
from ranks import needs_mpi, results

import gpu_backprop as gb

pytestmark = needs_mpi

EPOCHS, ROWS = 4, 150
OF = {
    "dropout, weights": Case(
        hidden=DROPS, rows=ROWS, fit={"weights": weights_of(ROWS), "validation": held_out()},
        trainer={"average": 0.9, "clip_norm": 0.5},
    ),
    "classes": Case(
        **CLASSES, rows=ROWS, optimizer=gb.Adam(0.05, schedule="cosine"),
        fit={"validation_split": 0.2, "early_stopping": gb.EarlyStopping(patience=2), "loss_every": 3},
    ),
    "members": Case(**MEMBERS, rows=ROWS, fit={"on_divergence": "halve_rate"}),
    "a member ends": Case(
        **MEMBERS, rows=ROWS, optimizer=gb.SGD([0.01, 1e200, 0.02]), fit={"on_divergence": "stop"}
    ),
    "windows": Case(hidden=DROPS, rows=ROWS),
}  # fmt: skip
STOPS = {"within an epoch": 3, "after an epoch": None}
"""After which step of the second epoch a fit is stopped; None: after the last one."""


class Stop:
    """Stops there, as a signal does."""

    only_reads = True

    def __init__(self, step):
        self.step = step

    def on_step(self, state):
        if (state.epoch, state.step) == (2, self.step):
            state.trainer.stop()

    def on_epoch(self, state):
        if state.epoch == 2:
            state.trainer.stop()


def fit(name, communicator, callbacks=(), resume=None):
    of = OF[name]
    trainer = of.make(communicator)
    if resume is not None:
        trainer.resume(resume)
    with (
        warnings.catch_warnings(),
        maps(*of.data()) as mapped,
        small_windows(ROW_BYTES) if name == "windows" else nullcontext(),
    ):
        warnings.simplefilter("ignore")
        data = mapped if name == "windows" else of.data()
        trainer.fit(*data, EPOCHS, progress=False, callbacks=[*callbacks], **of.fit)
    return outcome(trainer)


def stop(folder, communicator):
    """Writes the checkpoints of fits that are stopped."""
    for name in OF:
        for when, step in STOPS.items():
            checkpoint = gb.Checkpoint(Path(folder) / f"{name}, {when}", every_steps=2)
            fit(name, communicator, [checkpoint, Stop(step)])


def go_on(folder, communicator):
    """Goes on from them to the end."""
    return {
        f"{name}, {when} | {part}": value
        for name in OF
        for when in STOPS
        for part, value in fit(name, communicator, resume=Path(folder) / f"{name}, {when}").items()
    }


def stop_ranks(folder):
    stop(folder, gb.mpi())
    return {}


def go_on_ranks(*folders):
    communicator = gb.mpi()
    return {f"{place} {key}": value for place, f in enumerate(folders) for key, value in go_on(f, communicator).items()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Where 3 ranks have written checkpoints, and one alone."""
    folder = tmp_path_factory.mktemp("checkpoints")
    results(3, "test_resuming:stop_ranks", folder / "results", str(folder / "3"))
    stop(folder / "1", None)
    return [str(folder / "3"), str(folder / "1")]


def check_as_never_stopped(found):
    for name in OF:
        whole = fit(name, None)
        for when in STOPS:
            for part, value in whole.items():
                mine = np.asarray(found[f"{name}, {when} | {part}"])
                told = f"{part} of {name}, stopped {when}"
                if np.asarray(value).dtype.kind == "f":
                    np.testing.assert_allclose(mine, value, 1e-9, 1e-11, err_msg=told)
                else:
                    np.testing.assert_array_equal(mine, value, told)


def test_one_goes_on_where_three_were(folders):
    check_as_never_stopped(go_on(folders[0], None))


def test_two_go_on_where_three_were_or_one(folders, tmp_path):
    for found in results(2, "test_resuming:go_on_ranks", tmp_path / "two", *folders):
        for place in ("0", "1"):
            check_as_never_stopped({key[2:]: value for key, value in found.items() if key[0] == place})


def test_the_first_rank_alone_writes(folders):
    for name in OF:
        for when in STOPS:
            three, one = (sorted(path.name for path in (Path(f) / f"{name}, {when}").iterdir()) for f in folders)
            assert three == one
