"""The first of several ranks writes and warns; what it cannot write is an error of all, and clocks are its own."""

from __future__ import annotations

import json
import os
import warnings
from typing import Any

import numpy as np
import pytest
from ranks import needs_mpi, results

import gpu_backprop as gb

pytestmark = needs_mpi


def trainer(**settings: Any) -> gb.Trainer:
    net = gb.Network(4, [gb.Dense(6, "tanh"), gb.Dense(2)], dtype="float64", device="cpu")
    return gb.Trainer(net, optimizer="adam", batch_size=10, **settings)


def data() -> tuple[Any, Any]:
    x = np.random.default_rng(0).normal(size=(45, 4))
    return x, np.sin(x[:, :2])


class Clock:
    """A callback whose clock differs: it is due after every step of the first rank, and of no other."""

    each_step = False
    only_reads = True

    def __init__(self, due: bool) -> None:
        self.due, self.called = due, list[list[int]]()

    def is_due(self) -> bool:
        return self.due

    def on_step(self, state: gb.FitState) -> None:
        self.called.append([state.epoch, state.step])


class Sometimes(Clock):
    """It is asked after each step."""

    each_step = True


class Stopping:
    """Asks to end after a step, on the last rank alone."""

    only_reads = True

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def on_step(self, state: gb.FitState) -> bool:
        return self.rank == 1 and (state.epoch, state.step) == (2, 3)


def together(folder: str) -> dict[str, Any]:
    """What a rank does, in a folder of its own: what is there at the end, it has written itself."""
    ranks = gb.mpi(timeout=30)
    os.makedirs(own := f"{folder}/{ranks.rank}")
    os.chdir(own)
    found: dict[str, Any] = {}
    callbacks = [gb.JsonLines("history.jsonl"), gb.Checkpoint("checkpoints", every_seconds=1e-9, best="loss")]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        unscaled = trainer(communicator=ranks)
        unscaled.fit(data()[0] * 1e5, data()[1], epochs=2, csv="history.csv", progress=False, callbacks=callbacks)
    found["warned"] = len(told)
    found["files"] = sorted(os.listdir())
    found["loss"] = [row["loss"] for row in unscaled.history]
    for name, callback in (("clock", Clock(ranks.rank == 0)), ("asked", Sometimes(ranks.rank == 0))):
        trainer(communicator=ranks).fit(*data(), epochs=2, progress=False, callbacks=[callback])
        found[name] = callback.called
    for name, given in {
        "no csv": {"csv": "missing/history.csv"},
        "no folder": {"callbacks": [gb.Checkpoint("history.csv")]},
        "no lines": {"callbacks": [gb.JsonLines("missing/history.jsonl")]},
    }.items():
        try:
            trainer(communicator=ranks).fit(*data(), epochs=1, progress=False, **given)
        except gb.InputError as error:
            found[name] = str(error)
    stopped = trainer(communicator=ranks)
    stopped.fit(*data(), epochs=4, progress=False, callbacks=[Stopping(ranks.rank)])
    found["stopped"], found["parameters"] = str(stopped.history.stopped), stopped.network.parameters
    return {name: json.dumps(one) if isinstance(one, list) else one for name, one in found.items()}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("writing")
    return results(2, "test_writing:together", folder / "results", str(folder))


def test_the_first_writes(ranks: Any) -> None:
    assert json.loads(str(ranks[0]["files"])) == ["checkpoints", "history.csv", "history.jsonl"]
    assert json.loads(str(ranks[1]["files"])) == []
    assert ranks[0]["loss"] == ranks[1]["loss"]


def test_the_first_warns(ranks: Any) -> None:
    assert ranks[0]["warned"] == 1 and ranks[1]["warned"] == 0


def test_a_clock_of_the_first_decides(ranks: Any) -> None:
    every = [[epoch, step] for epoch in (1, 2) for step in range(1, 6)]
    asked, clock = (json.loads(str(ranks[0][name])) for name in ("asked", "clock"))
    assert asked == json.loads(str(ranks[1]["asked"])) == every
    assert clock == json.loads(str(ranks[1]["clock"]))  # after some steps, and the same ones
    assert clock and all(step in every for step in clock)


@pytest.mark.parametrize("what", ["no csv", "no folder", "no lines"])
def test_what_the_first_cannot_write_is_an_error_of_all(ranks: Any, what: str) -> None:
    first, second = (str(one[what]) for one in ranks)
    assert "rank 0: " in second and second.replace("rank 0: ", "") == first


def test_what_any_rank_asks_to_end_ends_after_that_step(ranks: Any) -> None:
    alone = trainer()
    alone.fit(*data(), epochs=4, progress=False, callbacks=[Stopping(1)])
    np.testing.assert_allclose(ranks[0]["parameters"], alone.network.parameters, rtol=1e-12)
    assert (ranks[0]["parameters"] == ranks[1]["parameters"]).all()
    assert str(ranks[1]["stopped"]).startswith("stopped in epoch 2 by Stopping")
