"""Ranks end together, after the same step, whichever of them wants to, and at whatever time."""

from __future__ import annotations

import threading
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from thread_ranks import on_threads

import gpu_backprop as gb
from gpu_backprop.training import agreement
from gpu_backprop.training.agreement import EVERY, Agreement, bring_together


@pytest.fixture
def clock(monkeypatch):
    """Sets how many seconds a step takes on each rank."""

    def set_to(*seconds):
        taken = dict[int, float]()

        class Clock:
            @staticmethod
            def perf_counter():
                return taken.get(threading.get_ident(), 0.0)

        def step(rank):
            taken[threading.get_ident()] = Clock.perf_counter() + seconds[rank.rank]

        monkeypatch.setattr(agreement, "time", Clock)
        return step

    return set_to


def ends(rank, step, wants, steps=2000, now=False):
    """After which steps this rank is told to end, and how often it asked the others."""
    asked, agreement = 0, Agreement(rank, SimpleNamespace(mark=lambda: None))
    for number in range(1, steps + 1):
        step(rank)
        if agreement.comes(now):
            asked += 1
            if rank.any(wants is not None and number >= wants):
                return [number], asked
    return [], asked


@pytest.mark.parametrize("wants", [1, 2, 3, 100, 101, 777])
@pytest.mark.parametrize("who", [0, 1, 2])
def test_all_end_after_the_same_step(clock, who, wants):
    step = clock(1e-3, 5e-3, 1e-4)
    found = on_threads(3, lambda rank: ends(rank, step, wants if rank.rank == who else None))
    (first,) = {tuple(end) for end, _ in found}
    assert wants <= first[0] <= wants + 2 * EVERY / 1e-3


def test_without_a_wish_nobody_ends(clock):
    step = clock(1e-3, 1e-3)
    assert all(end == [] for end, _ in on_threads(2, lambda rank: ends(rank, step, None)))


def test_they_ask_about_as_often_as_takes_that_long_on_the_first(clock):
    step = clock(1e-3, 1.0)
    for _, asked in on_threads(2, lambda rank: ends(rank, step, None)):
        assert 2000 * 1e-3 / EVERY <= asked <= 2000 * 1e-3 / EVERY + 10  # the first ones double


def test_slow_steps_are_asked_after_one_by_one(clock):
    step = clock(1.0, 1e-3)
    assert [asked for _, asked in on_threads(2, lambda rank: ends(rank, step, None, 50))] == [50, 50]


def test_asked_at_once_they_end_at_once(clock):
    step = clock(1e-3, 1e-3)
    found = on_threads(2, lambda rank: ends(rank, step, 555 if rank.rank else None, now=True))
    assert [end for end, _ in found] == [[555], [555]]


# Ranks whose processors round differently ----------------------------------------------------------------------------


def trained(rank, off):
    """A step of one's own, which leaves rank 1 with other bits, and what `bring_together` makes of it."""
    net = gb.Network(3, [gb.Dense(2)], seed=0, device="cpu")
    trainer = gb.Trainer(net, communicator=rank)
    net.parameters[0] += 1e-6 * off * rank.rank
    step = trainer.training_step
    bring_together(step, np.sum(net.parameters.astype(np.float64) ** 2))
    return {name: np.array(array) for name, array in step.state().arrays.items()}


def test_ranks_of_other_bits_go_on_with_those_of_the_first():
    with pytest.warns(RuntimeWarning, match="parameters of rank 0") as told:
        first, *others = on_threads(3, lambda rank: trained(rank, True))
    assert len(told) == 1
    for other in others:
        for name, array in first.items():
            np.testing.assert_array_equal(other[name], array)


def test_ranks_of_the_same_bits_stay_as_they_are():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, other = on_threads(2, lambda rank: trained(rank, False))
    np.testing.assert_array_equal(first["parameters"], other["parameters"])
