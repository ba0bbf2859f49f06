"""How many steps of an epoch are one run: all of an epoch, and each of them once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gpu_backprop.training.replay import STEPS_AT_ONCE, Replay
from gpu_backprop.training.run import Run

PLAN = SimpleNamespace(run=print, device=SimpleNamespace(has_graphs=True))
GRAPH = Replay(PLAN, "auto")


def at_once(batches, parts, replay=GRAPH, **how):
    """The runs of an epoch whose steps come in parts of so many."""
    steps = dict.fromkeys(batches, replay)
    run = SimpleNamespace(batches=batches, steps=steps, **{"_by_step": False, "in_one_launch": False} | how)
    runs, done = [], 0
    for count in parts:
        of_part = list(Run._at_once(run, batches[done : done + count], done))
        assert sum(many for _, many in of_part) == count
        assert [rows for rows, many in of_part for _ in range(many)] == batches[done : done + count]
        runs += of_part
        done += count
    assert done == len(batches)
    return [many for _, many in runs]


N = STEPS_AT_ONCE


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (2 * N, [1] * 2 * N),
        (2 * N + 1, [N, N, 1]),
        (3 * N, [N, N, *[1] * N]),  # the last step of an epoch is one of its own
        (3 * N + 3, [N, N, N, 1, 1, 1]),
    ],
)
def test_an_epoch_of_one_part(steps, expected):
    assert at_once([4] * steps, [steps]) == expected


def test_what_has_fewer_rows_is_a_run_of_its_own():
    assert at_once([4] * 3 * N + [3], [3 * N + 1]) == [N, N, N, 1]


def test_no_run_goes_beyond_a_part():
    """Since a part's rows are there together, and those of the next are not yet."""
    parts = [N + 2, N - 1, 2 * N]
    assert at_once([4] * sum(parts), parts) == [N, 1, 1, *[1] * (N - 1), N, *[1] * N]


@pytest.mark.parametrize("how", [{"_by_step": True}, {"in_one_launch": True}])
def test_where_each_step_is_asked_after_none_are_joined(how):
    assert at_once([4] * 3 * N, [3 * N], **how) == [1] * 3 * N


@pytest.mark.parametrize(
    ("most", "steps", "expected"),
    [(64, 9, [4, 4, 1]), (64, 3, [1, 1, 1]), (3, 9, [3, 3, 2, 1]), (1, 9, [1] * 9), (64, 1, [1])],
)
def test_without_graphs_as_many_as_the_device_likes(most, steps, expected):
    """And at least twice, so that a fit is asked now and then whether it goes on."""
    plan = SimpleNamespace(run=print, device=SimpleNamespace(has_graphs=False), at_once=most)
    assert at_once([4] * steps, [steps], Replay(plan, "auto")) == expected
