"""Threads and steps that did not end, on CUDA: every launch goes to one stream, and all share the tickets there."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.errors import StateError

pytestmark = pytest.mark.gpu

RNG = np.random.default_rng(1)
ROWS, DTYPES = 700, ("float32", "float64", "float16")
X, LABELS = RNG.normal(size=(ROWS, 6)), np.arange(ROWS) % 3


def trainer_of(dtype, graph=False):
    layers = [gb.Dense(40, "gelu"), gb.Dropout(0.2), gb.Dense(3, "softmax")]
    return gb.Trainer(gb.Network(6, layers, dtype=dtype, device="cuda"), batch_size=350, graph=graph)


def elsewhere(call, *arguments):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call, *arguments).result()


def state(trainer):
    arrays = [trainer.network.parameters, trainer.network.random, trainer.optimizer.hyper]
    arrays += [*trainer.optimizer.moments.values(), *([] if (s := trainer.scaling.state) is None else [s])]
    return [trainer.device.to_host(array).tobytes() for array in arrays]


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_threads_read_while_one_trains(dtype):
    trainer, alone = trainer_of(dtype), trainer_of(dtype)
    still = trainer_of(dtype)
    asked = [X[:1], X[:200], X[200:400], X[400:]]
    y, measured = [still.network.predict(x) for x in asked], still.evaluate(X, LABELS)

    def wrong(k):
        trainer.network.predict(asked[k % 4])
        trainer.evaluate(X[:50], LABELS[:50])
        right = np.array_equal(still.network.predict(asked[k % 4]), y[k % 4])
        return not right or still.evaluate(X, LABELS) != measured

    with ThreadPoolExecutor(4) as pool:
        learning = pool.submit(lambda: trainer.fit(X, LABELS, 3, progress=False))
        assert sum(pool.map(wrong, range(24))) == 0
        learning.result()
    alone.fit(X, LABELS, 3, progress=False)
    assert state(trainer) == state(alone)


def test_a_change_in_the_middle_of_another_is_refused(monkeypatch):
    trainer = trainer_of("float32")
    operations = trainer.trace(X, LABELS)
    next(operations)
    for change in (lambda: trainer.step(X, LABELS), lambda: trainer.fit(X, LABELS, 1, progress=False)):
        with pytest.raises(StateError, match="trace is at work on this network"):
            elsewhere(change)
    del operations
    elsewhere(trainer.step, X, LABELS)


@pytest.mark.parametrize("graph", [False, "auto"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_tickets_that_were_left_over_spoil_no_later_step(dtype, graph):
    trainer, alone = trainer_of(dtype, graph), trainer_of(dtype)
    for _ in range(3):
        alone.step(X, LABELS)
    trainer.step(X, LABELS)
    (replay,) = trainer.manual_steps._replays.values()
    plan, device = replay.plan, trainer.device
    before = {name: device.copy(array) for name, array in plan.outputs().items()}
    calls = [call for operation in plan.operations for call in operation.calls]

    def fail():
        for tickets in device._shared.tickets.values():
            tickets.fill(1)
        raise KeyboardInterrupt

    for place in (1, len(calls) // 2, len(calls)):
        plan._runs[(), 1] = [*calls[:place], fail]
        with pytest.raises(KeyboardInterrupt):
            trainer.step(X, LABELS)
        assert not any(device.to_host(tickets).any() for tickets in device._shared.tickets.values())
    for name, array in plan.outputs().items():
        device.copy_in(array, before[name])
    plan._runs.clear()
    for _ in range(2):
        trainer.step(X, LABELS)
    assert state(trainer) == state(alone)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))], ids=["copy", "pickle"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_trainer_goes_on_bit_for_bit(dtype, again):
    trainer = trainer_of(dtype)
    trainer.fit(X, LABELS, 1, progress=False)
    twin = again(trainer)
    assert state(twin) == state(trainer)
    for each in (trainer, twin):
        each.fit(X, LABELS, 1, progress=False)
    assert state(twin) == state(trainer)


def test_unscaled_columns_on_the_device():
    trainer, x = trainer_of("float32"), X.copy()
    x[:, 3] *= 1e5
    with pytest.warns(RuntimeWarning, match=r"x is not scaled: in 1 of its 6 columns .* in x\[:, 3\]"):
        trainer.fit(trainer.device.xp.asarray(x), LABELS, 1, progress=False)
