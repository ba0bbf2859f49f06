"""How often the host waits for the device: once an epoch, and never in a step. And an epoch allocates nothing there.

An emulated device writes down every wait. An epoch waits
    once        for the loss, the metrics and whether the parameters are finite,
    once        for the validation data,
    steps // k  times for the loss, with loss_every=k,
    blocks      times in the thread that reads streamed data, and for each block of streamed validation data,
    twice       in the thread that draws the order of the epoch that follows, for the copy before and for its own.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from tracing import TRACE, device_trace, traced

import gpu_backprop as gb
from gpu_backprop.training import streaming
from gpu_backprop.training.progress import Progress

pytestmark = pytest.mark.gpu

ROWS, BATCH, STEPS = 75, 8, 10
X, LABELS = np.arange(5.0 * ROWS).reshape(ROWS, 5) / (5 * ROWS), np.arange(ROWS) % 3
VALIDATION = X[:20], LABELS[:20]
BLOCKS, VALIDATION_BLOCKS = 4, 1  # of three minibatches each

FORMS = {
    "plain": {},
    "graph": {"graph": True},
    "float16": {"dtype": "float16"},
    "members": {"seed": [1, 2]},
    "float64": {"dtype": "float64"},
}


@pytest.fixture
def trainer_of(monkeypatch):
    def made(stream=False, *, graph=False, dtype="float64", seed=0):
        layers = [gb.Dense(6, "relu"), gb.Dropout(0.1), gb.Dense(3, "softmax")]
        net = gb.Network(5, layers, dtype=dtype, device="cuda", seed=seed)
        orders = max(1, *net.models_shape, 1)
        monkeypatch.setattr(streaming, "BLOCK", 3 * BATCH * orders * (5 * net.device.dtype.itemsize + 8))
        return gb.Trainer(net, batch_size=BATCH, stream=stream, graph=graph)

    return made


class Marks(Progress):
    """Notes how much of the trace there is after every step and epoch."""

    def __init__(self):
        self.steps, self.epochs = [], []

    def _size(self):
        return TRACE.path.stat().st_size if TRACE is not None else 0

    def advance(self, samples):
        self.steps.append(self._size())

    def epoch(self, row):
        self.epochs.append(self._size())


def waits(start, end):
    """What the host waited for between two places of the trace."""
    with TRACE.path.open("rb") as file:
        file.seek(start)
        lines = file.read(end - start).decode().splitlines()
    events = [device_trace.Event(event, what, int(number)) for event, what, number in (li.split("\t") for li in lines)]
    return Counter(e.what for e in events if e.event in ("sync", "blocking"))


def watched(trainer, monkeypatch, epochs=4, **options):
    marks = Marks()
    monkeypatch.setattr("gpu_backprop.training.fit.open_progress", lambda *_: marks)
    trainer.fit(X, LABELS, epochs, **options)
    return marks


def epochs_of(marks):
    """The waits of each epoch but the first two, in which graphs are captured."""
    return [waits(start, end) for start, end in list(pairwise(marks.epochs))[1:]]


@traced
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("validation", [None, VALIDATION], ids=["alone", "validated"])
def test_an_epoch_waits_once_and_once_for_the_validation(form, validation, trainer_of, monkeypatch):
    marks = watched(trainer_of(**form), monkeypatch, validation=validation)
    assert [each["stream"] for each in epochs_of(marks)] == [1 + (validation is not None)] * 2
    assert waits(marks.steps[0], marks.epochs[-1])["event"] == 3 * 2  # at no certain time, and none in the last epoch


@traced
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("validation", [None, VALIDATION], ids=["alone", "validated"])
def test_a_streamed_epoch_waits_for_each_block_too(form, validation, trainer_of, monkeypatch):
    trainer = trainer_of(True, **form)
    marks = watched(trainer, monkeypatch, validation=validation)
    blocks = BLOCKS + VALIDATION_BLOCKS * (validation is not None)
    once = {"stream": 1 + (validation is not None)}
    assert epochs_of(marks) == [once | {"event": blocks}, once | {"event": blocks - 1}]  # the last one reads none ahead


@traced
@pytest.mark.parametrize("every", [1, 3, 10, 11])
def test_the_loss_within_an_epoch_is_a_wait_each(every, trainer_of, monkeypatch):
    marks = watched(trainer_of(), monkeypatch, loss_every=every)
    assert [each["stream"] for each in epochs_of(marks)] == [1 + STEPS // every] * 2


@traced
def test_a_callback_that_reads_nothing_waits_for_nothing(trainer_of, monkeypatch):
    class Schedule:
        def on_step(self, state):
            state.trainer.optimizer.learning_rate = 0.001 / (state.epoch + state.step)

    marks = watched(trainer_of(graph=True), monkeypatch, callbacks=[Schedule()])
    # An "event" is staging memory that a device which is late still reads.
    assert [each["stream"] for each in epochs_of(marks)] == [1, 1]


@traced
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_no_step_waits(form, trainer_of, monkeypatch):
    trainer = trainer_of(**form)
    marks = watched(trainer, monkeypatch)
    last = marks.steps[-STEPS:]
    assert len(last) == STEPS
    assert [waits(*pair) for pair in pairwise(last)] == [Counter()] * (STEPS - 1)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("stream", [False, True])
def test_an_epoch_after_the_first_allocates_nothing(form, stream, trainer_of, monkeypatch):
    """A graph is captured in the first one, or in the second where validation comes once an epoch."""
    asked = []
    monkeypatch.setattr(Marks, "epoch", lambda self, row: asked.append(len(sizes)))
    with device_trace.allocations() as sizes:
        watched(trainer_of(stream, **form), monkeypatch, validation=VALIDATION, loss_every=4)
    assert 0 < asked[1] == asked[2] == asked[3]
