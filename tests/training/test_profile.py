"""A profile times every operation of a step and leaves no trace of itself."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend import profile as profiling
from gpu_backprop.backend.profile import Profile, Timing

X = np.random.default_rng(0).normal(0, 1, (12, 4))
Y = np.arange(12) % 3


def trained(steps=2, **form):
    net = gb.Network(4, [gb.Dense(6, "relu"), gb.Dropout(0.3), gb.Dense(3, "softmax")], device="cpu", **form)
    trainer = gb.Trainer(net, batch_size=12)
    for _ in range(steps):
        trainer.step(X, Y)
    return trainer


def test_it_has_a_row_for_every_operation_of_the_step():
    trainer = trained()
    profile = trainer.profile(X, Y, runs=3)
    assert [t.operation.formula for t in profile] == [o.formula for o in trainer.plan(12).operations]
    assert len(profile) == len(trainer.plan(12).operations)
    assert profile.microseconds == sum(t.microseconds for t in profile) > 0
    assert sum(profile.by_name().values()) == pytest.approx(profile.microseconds)


@pytest.mark.parametrize("seed", [0, [0, 1]])
def test_nothing_is_learned_by_it(seed):
    measured, twin = trained(seed=seed), trained(seed=seed)
    measured.profile(X, Y, runs=4)
    for trainer in (measured, twin):
        trainer.step(X, Y)
    assert np.array_equal(measured.network.parameters, twin.network.parameters)
    assert np.array_equal(measured.optimizer.hyper, twin.optimizer.hyper)
    assert np.array_equal(measured.network.random, twin.network.random)


def test_a_time_is_the_median_of_the_runs(monkeypatch):
    trainer = trained()
    plan = trainer.manual_steps.replay(12, True, False).plan
    moments = iter(range(10_000))
    monkeypatch.setattr(plan.device, "mark", lambda: next(moments) ** 2, raising=True)
    monkeypatch.setattr(plan.device, "microseconds", lambda begin, end: end - begin, raising=True)
    count = len(plan.operations)
    first = next(iter(profiling.profile(plan, 3)))
    assert first.microseconds == 2 * (count + 1) + 1  # of the second run, whose first mark is number count + 1


def test_its_table():
    plan = trained().plan(12)
    operation = next(o for o in plan.operations if o.name == "matmul")
    shown = str(Profile([Timing(operation, 2.0), Timing(operation, 6.0)])).splitlines()
    assert shown[0].split() == ["operation", "formula", "µs", "share", "GB/s", "GFLOP/s"]
    rates = [f"{operation.bytes / 2e3:,.1f}", f"{operation.flops / 2e3:,.1f}"]
    assert shown[2].split() == ["matmul", *operation.formula.split(), "2.0", "25%", *rates]
    assert shown[-1].split() == ["2", "operations", "8.0"]


@pytest.mark.parametrize("runs", [0, -1, 2.5, True, "3"])
def test_how_often_it_may_run(runs):
    with pytest.raises(gb.InputError, match="runs"):
        trained().profile(X, Y, runs=runs)
