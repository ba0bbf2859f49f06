"""Threads: reading calls give each caller its own answer, two calls that change a network are refused, and a step that
did not end spoils no later one."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.compiled.blocks import Blocks
from gpu_backprop.backend.device import Device
from gpu_backprop.backend.errors import StateError
from gpu_backprop.training import fit as fit_module
from gpu_backprop.training.progress import Progress

RNG = np.random.default_rng(1)
ROWS = 30
X, LABELS, Y = RNG.normal(size=(ROWS, 6)), np.arange(ROWS) % 3, RNG.normal(size=(ROWS, 2))
OTHERS = RNG.normal(size=(5, ROWS, 6))

DTYPES = ["float64", "float32"]
"""NumPy, and compiled kernels where there is a compiler."""


@pytest.fixture(params=DTYPES)
def dtype(request):
    return request.param


def classifier(dtype):
    layers = [gb.Dense(7, "gelu"), gb.Bias("softplus"), gb.Dropout(0.2), gb.Dense(3, "softmax")]
    return gb.Trainer(gb.Network(6, layers, dtype=dtype), optimizer="adam", batch_size=10)


def regression(dtype):
    net = gb.Network(6, [gb.Dense(7, "silu"), gb.Dense(2, "softsign")], dtype=dtype)
    return gb.Trainer(net, gb.Huber(0.5), gb.SGD(0.1, momentum=0.9), batch_size=10)


TARGETS = {classifier: LABELS, regression: Y}


def elsewhere(call, *arguments):
    """What a call in another thread gives, or raises."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call, *arguments).result()


def state(trainer):
    arrays = [trainer.network.parameters, trainer.network.random, trainer.optimizer.hyper]
    return [a.tobytes() for a in (*arrays, *trainer.optimizer.moments.values())]


def every_call(plan):
    """The calls of a plan one by one, also where they would be run as one; they are what it runs from now on."""
    plan._runs[(), 1] = calls = [call for operation in plan.operations for call in operation.calls]
    return calls


def before_the_caller_has_y(monkeypatch, action):
    """Does something when predict, or forward, has worked out y and not given it to the caller yet."""
    run = Blocks._run

    def before(original):
        def acting(*args):
            action()
            return original(*args)

        return acting

    def after(*args):
        run(*args)
        action()

    for name in ("to_host", "copy"):
        monkeypatch.setattr(Device, name, before(getattr(Device, name)))
    monkeypatch.setattr(Blocks, "_run", after)


def step_plan(trainer, target, weights=None):
    """The plan of `trainer.step`, which has run once."""
    trainer.step(X, target, weights)
    (replay,) = trainer.manual_steps._replays.values()
    return replay.plan


class Watcher(Progress):
    """A progress display that does something after the first step."""

    def __init__(self, monkeypatch, action):
        self.action = action
        monkeypatch.setattr(fit_module, "open_progress", lambda *_: self)

    def advance(self, rows):
        action, self.action = self.action, lambda: None
        action()

    def epoch(self, row):
        pass


# Reading --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", TARGETS)
def test_a_network_is_read_in_the_middle_of_a_step(make, dtype):
    """Whatever other threads ask of it, the step does what it does, and they get what they get."""
    target, weights = TARGETS[make], np.arange(1.0, ROWS + 1)
    trainer, alone = make(dtype), make(dtype)
    plan = step_plan(trainer, target, weights)
    step_plan(alone, target, weights)
    every_call(alone.manual_steps._replays.popitem()[1].plan)
    frozen = trainer.network.copy()  # predicts what the weights of that moment predict

    def read():
        frozen.parameters = trainer.network.parameters
        for ask in (lambda net: net.predict(X), lambda net: net.forward(X)):
            np.testing.assert_array_equal(elsewhere(ask, trainer.network), ask(frozen))
        measured = gb.Trainer(frozen, trainer.loss).evaluate(X, target)
        assert elsewhere(trainer.evaluate, X, target) == pytest.approx(measured, rel=1e-6)

    calls = every_call(plan)
    plan._runs[(), 1] = [f for call in calls for f in (call, read)]
    trainer.step(X, target, weights)
    alone.step(X, target, weights)
    assert state(trainer) == state(alone)


@pytest.mark.parametrize("ask", ["predict", "forward"])
def test_a_network_is_read_in_the_middle_of_a_reading(ask, dtype, monkeypatch):
    net = classifier(dtype).network
    expected = [getattr(net, ask)(x) for x in OTHERS]
    seen = []

    def late():
        if len(seen) < len(OTHERS) - 1:
            seen.append(None)
            k = len(seen)
            seen[k - 1] = k, elsewhere(getattr(net, ask), OTHERS[k])

    before_the_caller_has_y(monkeypatch, late)
    np.testing.assert_array_equal(getattr(net, ask)(OTHERS[0]), expected[0])
    assert len(seen) == len(OTHERS) - 1
    for k, y in seen:
        np.testing.assert_array_equal(y, expected[k])


def test_many_threads_at_once(dtype):
    trainer = classifier(dtype)
    net = trainer.network
    asked = [OTHERS[0][:1], *OTHERS, OTHERS[1][:1]]
    y, measured = [net.predict(x) for x in asked], [trainer.evaluate(x, LABELS) for x in OTHERS]

    def wrong(k):
        x, k = asked[k % len(asked)], k % len(asked)
        answers = [net.predict(x), net.predict(x, batch_size=7), net.forward(x)]
        apart = trainer.evaluate(OTHERS[k % 5], LABELS) != measured[k % 5]
        return sum(not np.allclose(answer, y[k], 0, 1e-5) for answer in answers) + apart

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(wrong, range(200))) == 0
    assert len(net._idle) <= 6


def test_an_interrupted_reading_leaves_nothing(dtype, monkeypatch):
    net = classifier(dtype).network
    expected = net.predict(X)

    def interrupted():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        before_the_caller_has_y(patch, interrupted)
        net.predict(X)
    assert not net._idle
    np.testing.assert_array_equal(net.predict(X), expected)


def test_a_backward_that_was_interrupted_while_it_was_built_leaves_nothing(dtype, monkeypatch):
    net, other = regression(dtype).network, regression(dtype).network
    emit = net.emit_backward

    def interrupted(*args, **options):
        emit(*args, **options)
        raise KeyboardInterrupt

    net.forward(X)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(net, "emit_backward", interrupted)
        net.backward(Y)
    with pytest.raises(StateError, match="call net.forward"):
        net.backward(Y)
    for each in (net, other):
        each.forward(X)
    np.testing.assert_array_equal(net.backward(Y), other.backward(Y))
    assert net.gradients.tobytes() == other.gradients.tobytes()


def test_backward_belongs_to_the_forward_of_its_thread(dtype):
    net, grad_y = regression(dtype).network, np.ones((ROWS, 2))
    net.forward(OTHERS[1])
    expected = net.backward(grad_y)
    gradients = net.gradients.tobytes()
    net.forward(OTHERS[1])
    elsewhere(net.forward, OTHERS[2])
    elsewhere(net.predict, OTHERS[2])
    with pytest.raises(StateError, match="in this thread"):
        elsewhere(net.backward, grad_y)
    np.testing.assert_array_equal(net.backward(grad_y), expected)
    assert net.gradients.tobytes() == gradients


def test_the_input_gradients_of_many_threads(dtype):
    """Each gets its own; `net.gradients` are those of one of them, whole."""
    net = regression(dtype).network

    def gradients(k):
        y = net.forward(OTHERS[k % 5])
        return net.backward(y)

    expected, whole = [], set()
    for k in range(5):
        expected.append(gradients(k))
        whole.add(net.gradients.tobytes())
    with ThreadPoolExecutor(4) as pool:
        for k, grad_x in enumerate(pool.map(gradients, range(100))):
            np.testing.assert_array_equal(grad_x, expected[k % 5])
    assert net.gradients.tobytes() in whole


# Changing -------------------------------------------------------------------------------------------------------------

CHANGES = {
    "step": lambda trainer: trainer.step(X, LABELS),
    "trace": lambda trainer: list(trainer.trace(X, LABELS)),
    "profile": lambda trainer: trainer.profile(X, LABELS, runs=1),
    "fit": lambda trainer: trainer.fit(X, LABELS, 1, progress=False),
    "another trainer's step": lambda trainer: gb.Trainer(trainer.network, seed=None).step(X, LABELS),
    "forward": lambda trainer: trainer.network.forward(X, training=True),
    "backward": lambda trainer: (trainer.network.forward(X), trainer.network.backward(np.ones((ROWS, 3)))),
}


@pytest.mark.parametrize("where", ["another thread", "further up"])
@pytest.mark.parametrize("change", CHANGES)
def test_two_changes_at_once_are_refused(change, where, dtype, monkeypatch):
    trainer, alone = classifier(dtype), classifier(dtype)
    alone.fit(X, LABELS, 2, progress=False)
    call = elsewhere if where == "another thread" else lambda f, *args: f(*args)

    def meddle():
        name = change.split()[-1]
        with pytest.raises(StateError, match=f"^{name} cannot begin: fit is at work on this network"):
            call(CHANGES[change], trainer)
        call(trainer.evaluate, X, LABELS)
        call(trainer.network.predict, X)
        assert trainer.stopping is False

    Watcher(monkeypatch, meddle)
    trainer.fit(X, LABELS, 2)
    assert state(trainer) == state(alone)
    CHANGES[change](trainer)  # and now it may be done


def test_nothing_else_changes_a_network_between_two_operations_of_a_trace(dtype):
    trainer, alone = classifier(dtype), classifier(dtype)
    list(alone.trace(X, LABELS))
    operations = trainer.trace(X, LABELS)
    trainer.network.predict(X)
    for _ in operations:
        with pytest.raises(StateError, match="step cannot begin: trace is at work"):
            trainer.step(X, LABELS)
    assert state(trainer) == state(alone)
    trainer.step(X, LABELS)


def test_a_trace_that_nobody_ends_stands_in_no_ones_way(dtype):
    trainer = classifier(dtype)
    next(trainer.trace(X, LABELS))
    waiting = trainer.trace(X, LABELS)  # which has not begun
    trainer.step(X, LABELS)
    assert len(list(waiting)) > 5


def test_stop_may_be_called_from_another_thread(dtype, monkeypatch):
    trainer = classifier(dtype)
    Watcher(monkeypatch, lambda: elsewhere(trainer.stop))
    assert trainer.fit(X, LABELS, 5).stopped == "stopped in epoch 1, as asked"


def test_trainers_of_networks_of_their_own_run_at_once(dtype):
    def learned(make):
        trainer = make(dtype)
        trainer.fit(X, TARGETS[make], 20, progress=False)
        return state(trainer)

    expected = {make: learned(make) for make in TARGETS}
    with ThreadPoolExecutor(4) as pool:
        for make, found in zip(itertools.cycle(TARGETS), pool.map(learned, [*TARGETS] * 4), strict=False):
            assert found == expected[make]


def test_threads_that_step_one_trainer(dtype):
    """Each step is done whole or refused."""
    trainer, alone = classifier(dtype), classifier(dtype)
    start = threading.Barrier(3)

    def work():
        start.wait()
        return sum(_stepped(trainer) for _ in range(40))

    with ThreadPoolExecutor(3) as pool:
        done = sum(future.result() for future in [pool.submit(work) for _ in range(3)])
    for _ in range(done):
        alone.step(X, LABELS)
    assert done and state(trainer) == state(alone)


def _stepped(trainer):
    try:
        trainer.step(X, LABELS)
    except StateError:
        return 0
    return 1


# Steps that do not end ------------------------------------------------------------------------------------------------


def counters(plan):
    """The arrays that the plan's operations expect to be 0."""
    return [a for o in plan.operations for call in o.calls for a in getattr(call, "_counters", ())]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("make", TARGETS)
def test_a_step_that_did_not_end_spoils_no_later_one(make, dtype, error):
    target = TARGETS[make]
    trainer, alone = make(dtype), make(dtype)
    for each in (trainer, alone):
        each.step(X, target)
    plan = step_plan(trainer, target)
    every_call(step_plan(alone, target))
    before = [(array, array.copy()) for array in (*plan.outputs().values(), trainer.network.gradients)]
    alone.step(X, target)
    expected = state(alone)
    calls = every_call(plan)

    def fail():
        for counter in counters(plan):
            counter += 1  # as an operation that was cut off would leave it
        raise error

    for place in range(len(calls) + 1):
        plan._runs[(), 1] = [*calls[:place], fail]
        with pytest.raises(error):
            trainer.step(X, target)
        assert not any(counter.any() for counter in counters(plan))
        for array, values in before:
            array[...] = values
        plan._runs[(), 1] = calls
        trainer.step(X, target)
        assert state(trainer) == expected
        for array, values in before:
            array[...] = values


@pytest.mark.parametrize("way", ["trace", "profile"])
def test_nor_does_a_trace_or_a_profile(way, dtype):
    trainer = classifier(dtype)
    plan = trainer.manual_steps.replay(ROWS, True, False, fuse=way != "trace").plan

    def fail():
        for counter in counters(plan):
            counter += 1
        raise KeyboardInterrupt

    plan.append(gb.Operation("planted", "", {}, {}, 0, 0, 1, plan.phase, lambda: (fail,)))
    with pytest.raises(KeyboardInterrupt):
        CHANGES[way](trainer)
    assert not any(counter.any() for counter in counters(plan))
    del plan.operations[-1]
    plan._runs.clear()
    trainer.step(X, LABELS)


def test_ctrl_c_in_fit_comes_out_and_leaves_the_history(dtype, monkeypatch, tmp_path):
    trainer, path = classifier(dtype), tmp_path / "history.csv"
    trainer.fit(X, LABELS, 1, progress=False)

    def interrupted():
        raise KeyboardInterrupt

    Watcher(monkeypatch, interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(X, LABELS, 3, csv=path)
    assert len(trainer.history) == 1
    assert trainer.history.stopped == "interrupted in epoch 2; what was learned until then is kept"
    path.unlink()  # on Windows only what is closed
    assert trainer.fit(X, LABELS, 2).stopped is None


FORK = """
import os, threading
import numpy as np
import gpu_backprop as gb

net = gb.Network(6, [gb.Dense(64, "tanh"), gb.Dense(3, "softmax")], device="cpu")
x, labels, still = np.ones((300, 6)), np.arange(300) % 3, net.copy()
y, trainer = still.predict(x), gb.Trainer(net, batch_size=10)
thread = threading.Thread(target=trainer.fit, args=(x, labels, 10**9), kwargs={"progress": False})
thread.start()
while not trainer.history.rows:
    still.predict(x)
child = os.fork()
if child == 0:
    right = np.array_equal(still.predict(x), y) and np.isfinite(net.predict(x)).all()
    try:
        trainer.step(x, labels)
    except gb.StateError:
        os._exit(0 if right else 1)
    os._exit(2)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
trainer.stop()
thread.join()
print("child", code)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_the_child_of_a_fork_reads_and_does_not_train():
    """Of the step that the thread of the parent was at, it has a half, and not the thread."""
    program = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("child 0\n", 0), done.stderr
