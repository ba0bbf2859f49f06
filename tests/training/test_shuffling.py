"""Orders are drawn ahead by a thread: the numbers, the states and every bit of a fit are what they are without it."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.errors import DivergedError
from gpu_backprop.training import shuffling as module
from gpu_backprop.training.minibatches import DataSet
from gpu_backprop.training.shuffling import Shuffling
from gpu_backprop.training.step import State

SEEDS, ROWS, BATCH, STEPS = [3, 8], 45, 8, 6
RNG = np.random.default_rng(1)
X, Y, WEIGHTS = RNG.normal(size=(ROWS, 4)), RNG.normal(size=(ROWS, 2)), RNG.uniform(0.5, 2, ROWS)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def orders(shuffling, count=3):
    return [shuffling.draw_order(ROWS).tolist() for _ in range(count)]


# What is drawn --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [1, 1 << 20], ids=["by several threads", "by one"])
def test_an_order_is_a_permutation_by_each_members_generator(monkeypatch, shared):
    monkeypatch.setattr(module, "SHARED", shared)
    members, alone = Shuffling(SEEDS, (2,)), Shuffling([8], ())
    streams = [np.random.default_rng([seed, 1]) for seed in SEEDS]
    for rows in (ROWS, 1, 700, ROWS):
        expected = [stream.permutation(rows) for stream in streams]
        out = np.empty((2, rows), np.int64)
        assert members.draw_order(rows, out) is out
        np.testing.assert_array_equal(out, expected)
        np.testing.assert_array_equal(alone.draw_order(rows), expected[1])
    assert members.draw_seeds() == [int(stream.integers(1 << 63)) for stream in streams]
    assert members.states == [stream.bit_generator.state for stream in streams]


def test_the_states_are_one_list_until_something_is_drawn_or_set():
    shuffling = Shuffling(SEEDS, (2,))
    begin = shuffling.states
    assert shuffling.states is begin
    first = orders(shuffling)
    assert shuffling.states != begin
    shuffling.states = begin
    assert shuffling.states == begin and shuffling.states is not begin
    assert orders(shuffling) == first


# Ahead ----------------------------------------------------------------------------------------------------------------


def draw(shuffling):
    return shuffling.draw_order(ROWS).tolist()


def test_what_was_drawn_ahead_is_what_would_be_drawn():
    shuffling, plain = Shuffling(SEEDS, (2,)), Shuffling(SEEDS, (2,))
    with shuffling.working_ahead():
        assert shuffling.take() is None
        for _ in range(4):
            before = shuffling.states
            shuffling.work_ahead(draw).result()
            assert shuffling.states is before  # until it is taken
            assert shuffling.take() == draw(plain)
            assert shuffling.take() is None
            assert shuffling.states == plain.states
            assert draw(shuffling) == draw(plain)


CHANGES = {
    "an order": lambda shuffling: shuffling.draw_order(7),
    "seeds": lambda shuffling: shuffling.draw_seeds(),
    "its own states": lambda shuffling: setattr(shuffling, "states", shuffling.states),
    "other states": lambda shuffling: setattr(shuffling, "states", shuffling.states[::-1]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_was_drawn_ahead_is_dropped_where_something_changed(change):
    shuffling, plain = Shuffling(SEEDS, (2,)), Shuffling(SEEDS, (2,))
    with shuffling.working_ahead():
        shuffling.work_ahead(draw)
        change(shuffling)
        change(plain)
        assert shuffling.take() is None
        assert orders(shuffling) == orders(plain)
        for _ in range(2):  # of two the last one counts
            shuffling.work_ahead(draw)
        assert shuffling.take() == draw(plain)


def test_an_error_comes_out_where_the_order_is_taken_and_nothing_has_moved():
    shuffling, plain = Shuffling(SEEDS, (2,)), Shuffling(SEEDS, (2,))

    def fail(twin):
        draw(twin)
        raise MemoryError("none left")

    with shuffling.working_ahead():
        shuffling.work_ahead(fail)
        with pytest.raises(MemoryError, match="none left"):
            shuffling.take()
        assert shuffling.take() is None
        assert orders(shuffling) == orders(plain)


def test_outside_of_it_no_thread_works():
    shuffling = Shuffling(SEEDS, (2,))
    assert shuffling.work_ahead(draw) is None
    with pytest.raises(KeyboardInterrupt), shuffling.working_ahead():
        shuffling.work_ahead(draw)
        raise KeyboardInterrupt
    assert shuffling.work_ahead(draw) is None and shuffling.take() is None


def test_a_fit_inside_another_takes_nothing_of_it():
    shuffling, plain = Shuffling(SEEDS, (2,)), Shuffling(SEEDS, (2,))
    with shuffling.working_ahead():
        shuffling.work_ahead(draw)
        with shuffling.working_ahead():
            assert shuffling.take() is None
            shuffling.work_ahead(draw)
        assert shuffling.take() is None
        assert orders(shuffling) == orders(plain)


# In a fit -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ahead(monkeypatch):
    """From its call on, DataSets are as on a device that works while the host does something else."""
    made = DataSet.__init__
    draws = Shuffling.draw_order
    threads = []

    def init(self, network, data, device=None, own=None, *, shuffled=False):
        made(self, network, data, device, own)
        if shuffled:
            self._coming = self.device.double_buffer([((self.permutation.size,), np.dtype(np.int64))], 1)

    def drawn(self, rows, out=None):
        threads.append(threading.current_thread() is not threading.main_thread())
        return draws(self, rows, out)

    def call():
        monkeypatch.setattr(DataSet, "__init__", init)
        monkeypatch.setattr(Shuffling, "draw_order", drawn)
        return threads

    return call


def trainer_of(seed=SEEDS, optimizer="adam", **options):
    layers = [gb.Dense(5, "tanh"), gb.Dropout(0.2), gb.Dense(2)]
    net = gb.Network(4, layers, device="cpu", seed=seed)
    return gb.Trainer(net, None, optimizer, batch_size=BATCH, **options)


def left(trainer):
    arrays, host = trainer.training_step.state()
    rows = [{k: v for k, v in row.items() if k not in ("seconds", "samples_per_second")} for row in trainer.history]
    return {name: array.tobytes() for name, array in arrays.items()}, host, rows


def fit(trainer, epochs=4, rows=ROWS, **options):
    trainer.fit(X[:rows], Y[:rows], epochs, progress=False, **{"weights": WEIGHTS[:rows]} | options)
    return left(trainer)


@pytest.mark.parametrize("seed", [3, SEEDS], ids=["one", "members"])
@pytest.mark.parametrize("options", [{}, {"validation_split": 0.2}, {"shuffle": False}], ids=str)
def test_a_fit_is_the_same(ahead, seed, options):
    plain = fit(trainer_of(seed), **options)
    threads = ahead()
    assert fit(trainer_of(seed), **options) == plain
    assert threads == ([] if "shuffle" in options else [False, True, True, True])  # no order that no epoch takes


def continued(trainer):
    for epochs, rows in ((3, ROWS), (1, ROWS), (2, 20)):
        fit(trainer, epochs, rows)
    trainer.training_step.load_state(trainer_of([5, 1]).training_step.state())  # other seeds, and other numbers
    return fit(trainer)


def test_fits_that_go_on(ahead):
    plain = continued(trainer_of())
    threads = ahead()
    assert continued(trainer_of()) == plain
    assert threads == [False, True, True, False, False, True, False, True, True, True]


def test_states_that_a_callback_sets(ahead):
    def back(begin, state):
        if state.epoch == 2:
            state.trainer.training_step.load_state(State({}, begin))

    def run():
        trainer = trainer_of()
        begin = trainer.training_step.state().host
        return fit(trainer, callbacks=[lambda state: back(begin, state)])

    plain = run()
    threads = ahead()
    assert run() == plain
    assert sorted(threads) == [False, False, True, True, True]  # the third one's is drawn in vain, maybe later


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [1, 4, STEPS, STEPS + 1, 2 * STEPS - 1, 2 * STEPS + 3])
def test_a_resumed_fit_is_the_same(ahead, tmp_path, after):
    plain = fit(trainer_of(), 3)
    threads = ahead()

    class Kill:
        steps = 0

        def on_step(self, state):
            self.steps += 1
            if self.steps == after:
                raise Killed

    with pytest.raises(Killed):
        fit(trainer_of(), 3, callbacks=[gb.Checkpoint(tmp_path, every_steps=1), Kill()])
    threads.clear()
    trainer = trainer_of()
    trainer.resume(tmp_path)
    resumed = fit(trainer, 3, callbacks=[gb.Checkpoint(tmp_path)])
    assert resumed == plain
    assert threads[0] is False and all(threads[1:])


def test_epochs_that_begin_again(ahead):
    def run():
        trainer = trainer_of(optimizer=gb.SGD(1e3))
        with pytest.warns(RuntimeWarning, match="begins again with half the learning rate"):
            return fit(trainer, on_divergence="halve_rate")

    plain = run()
    threads = ahead()
    assert run() == plain
    assert threads[0] is False and all(threads[1:]) and len(threads) > 4  # one for each time that an epoch begins


def test_a_divergence(ahead):
    def run():
        trainer = trainer_of(optimizer=gb.SGD(1e3))
        with pytest.raises(DivergedError) as caught:
            fit(trainer)
        return str(caught.value), left(trainer)

    plain = run()
    ahead()
    assert run() == plain


def test_an_error_of_the_thread_ends_the_epoch_that_would_begin(ahead, monkeypatch):
    threads = ahead()
    drawn = Shuffling.draw_order

    def fail(self, rows, out=None):
        if len(threads) == 2:
            raise MemoryError("none left")
        return drawn(self, rows, out)

    monkeypatch.setattr(Shuffling, "draw_order", fail)
    trainer = trainer_of()
    with pytest.raises(MemoryError, match="none left"):
        fit(trainer)
    assert threads == [False, True] and len(trainer.history) == 2
    assert trainer.history.stopped == "ended in epoch 3 by MemoryError"


@pytest.mark.parametrize("steps", [1, STEPS, STEPS + 2])
def test_a_fit_that_is_interrupted_goes_on(ahead, steps):
    class Interrupt:
        left = steps

        def on_step(self, state):
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    def run():
        trainer = trainer_of()
        with pytest.raises(KeyboardInterrupt):
            fit(trainer, callbacks=[Interrupt()])
        return fit(trainer)

    plain = run()
    ahead()
    assert run() == plain


def test_an_epoch_that_waits_for_the_thread(ahead, monkeypatch):
    """Where steps are over before the next order is drawn, the next epoch waits for it."""
    threads, plain = ahead(), fit(trainer_of(seed=3))
    begun, go_on = threading.Event(), threading.Event()
    drawn = Shuffling.draw_order

    def late(self, rows, out=None):
        if threading.current_thread() is not threading.main_thread():
            begun.set()
            assert go_on.wait(60)
        return drawn(self, rows, out)

    def release(state):
        assert begun.wait(60)
        go_on.set()

    monkeypatch.setattr(Shuffling, "draw_order", late)
    assert fit(trainer_of(seed=3), callbacks=[release]) == plain
    assert len(threads) == 8
