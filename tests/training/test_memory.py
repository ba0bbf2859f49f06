"""A batch size that fits, and what is left where memory runs out on a CPU."""

from __future__ import annotations

import gc
import pickle
import traceback
import weakref

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.device import Device
from gpu_backprop.training.memory import largest

X = np.random.default_rng(0).normal(size=(23, 4))
LABELS = np.arange(23) % 3


def sizes(lengths, batch_size):
    """The rows of all plans: of a step, and of what is left."""
    return sum(min(batch_size, n) + (n % batch_size if batch_size < n else 0) for n in lengths)


@pytest.mark.parametrize("lengths", [(1,), (7,), (64,), (97,), (100, 23), (60, 61), (128, 1), (13, 200)], ids=str)
def test_a_large_batch_size_that_fits(lengths):
    for most in (1, 5, max(lengths)):
        for room in range(2 * sum(lengths) + 2):
            fitting = [b for b in range(1, most + 1) if sizes(lengths, b) <= room]
            found = largest(most, lambda b, room=room: sizes(lengths, b) <= room)
            assert found in fitting if fitting else found is None


def test_the_largest_where_nothing_is_left_over():
    for most in (0, 1, 10):
        for room in range(12):
            assert largest(most, room.__ge__) == (min(most, room) or None)


def test_few_batch_sizes_are_looked_at():
    seen = []

    def fits(b):
        seen.append(b)
        return sizes((1_000_000,), b) <= 5_000

    assert 2_500 < largest(1_000_000, fits) <= 5_000
    assert len(seen) < 25


def trainer_of():
    return gb.Trainer(gb.Network(4, [gb.Dense(5, "tanh"), gb.Dense(3, "softmax")], device="cpu", seed=1), batch_size=8)


USES = {
    "predict": lambda trainer: trainer.network.predict(X),
    "forward and backward": lambda trainer: trainer.network.backward(trainer.network.forward(X, training=True)),
    "evaluate": lambda trainer: trainer.evaluate(X, LABELS),
    "step": lambda trainer: trainer.step(X[:8], LABELS[:8]),
    "diagnose": lambda trainer: trainer.diagnose(X, LABELS),
    "fit": lambda trainer: trainer.fit(X, LABELS, 2, validation=(X, LABELS), early_stopping=True, progress=False),
    "fit that is stopped": lambda trainer: trainer.fit(X, LABELS, 2, callbacks=[lambda _: True], progress=False),
    "pickle": lambda trainer: pickle.loads(pickle.dumps(trainer)).network.predict(X),
}


@pytest.mark.filterwarnings("ignore:.*nobody has scaled")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_no_circle_keeps_a_network(use, dtype):
    """A search makes thousands of them; what waits for the garbage collector takes memory until then."""
    net = gb.Network(4, [gb.Dense(5, "tanh"), gb.Dense(3, "softmax")], dtype=dtype, device="cpu")
    trainer = gb.Trainer(net, batch_size=8)
    use(trainer)
    alive = [weakref.ref(net), weakref.ref(trainer)]
    gc.collect()
    gc.disable()
    try:
        del net, trainer
        assert [one() for one in alive] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("failing", [0, 3, 8])
def test_what_was_allocated_before_is_given_back(monkeypatch, failing):
    trainer, twin = trainer_of(), trainer_of()
    empty, given, left = Device.empty, [], [failing]

    def scarce(device, shape, dtype=None):
        if left[0] == 0:
            raise gb.OutOfMemoryError("planted", needs={"all": 1})
        left[0] -= 1
        array = empty(device, shape, dtype)
        given.append(weakref.ref(array))
        return array

    for attempt in (
        lambda: trainer.fit(X, LABELS, 1, validation=(X, LABELS), progress=False), lambda: trainer.step(X, LABELS),
    ):  # fmt: skip
        left[0], before = failing, dict(trainer.device.scratch)
        with monkeypatch.context() as patch:
            patch.setattr(Device, "empty", scarce)
            with pytest.raises(gb.OutOfMemoryError, match="^planted$") as raised:
                attempt()
        gc.disable()
        try:
            assert not [array for array in given if array() is not None]
        finally:
            gc.enable()
        assert trainer.device.scratch == before
        assert raised.value.__context__ is None
        assert len(traceback.extract_tb(raised.tb)) == 3  # the test, the attempt, and where it was raised anew
    for one in (trainer, twin):
        one.fit(X, LABELS, 1, progress=False)
    np.testing.assert_array_equal(trainer.network.parameters, twin.network.parameters)


def test_numpy_keeps_its_message(monkeypatch):
    monkeypatch.setenv("GPU_BACKPROP_COMPILER", "none")  # the compiled kernels do without an array of classes
    trainer = trainer_of()
    monkeypatch.setattr(np, "arange", lambda *_, **__: np.empty(1 << 57))
    with pytest.raises(MemoryError, match="Unable to allocate"):
        trainer.step(X, LABELS)
