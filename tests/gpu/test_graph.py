"""CUDA graphs: a captured step gives what the eager one gives, bit for bit, and is one launch."""

from __future__ import annotations

import gc
import itertools
import os
import re
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from graph_cases import (
    BATCHES,
    COUNT,
    DTYPES,
    EVERYTHING,
    FORMS,
    OPTIMIZERS,
    ROWS,
    Case,
    fed,
    loss_cases,
    run,
    state,
    steps,
)
from tracing import TRACE, device_trace, traced

import gpu_backprop as gb
from gpu_backprop.training.minibatches import ManualBatch
from gpu_backprop.training.replay import Replay

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("case", list(loss_cases()))
def test_every_loss_optimizer_and_dtype(case, captured):
    eager = case.fit(False)
    assert not captured()
    assert case.fit(True) == eager
    assert len(captured()) == 2


def test_the_cases_pair_every_optimizer_with_every_dtype():
    ids = [parameter.id.split(", ") for parameter in loss_cases()]
    assert {(i[-2], i[-1]) for i in ids} == set(itertools.product(OPTIMIZERS, DTYPES))
    assert {i[0].split(" of ")[0] for i in ids} == set(gb.LOSSES)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_in_every_mode(form, captured):
    case = FORMS[form]
    eager = case.fit(False, validation=True)
    assert not captured()
    assert case.fit("auto", validation=True) == eager
    automatic = captured()
    assert automatic
    assert case.fit(True, validation=True) == eager
    assert sorted(captured()[len(automatic) :]) == sorted(automatic)


def test_the_log_says_what_was_captured(captured):
    case = Case()
    case.fit("auto", epochs=2, validation=True)
    launches = case.trainer(False).plan(ROWS).cost()["launches"] + 1  # and in fit, the rows are gathered
    assert sorted(re.sub(r" of \d+ launches$", "", line) for line in captured()) == [
        f"cuda:0: a {what} of {rows} rows: replayed as a CUDA graph"
        for what, rows in (("measurement", 3), ("measurement", 4), ("step", 3), ("step", 4))
    ]
    assert f"cuda:0: a step of 4 rows: replayed as a CUDA graph of {launches} launches" in captured()


def test_what_runs_once_is_not_captured(captured):
    case = Case()
    trainer = case.trainer("auto")
    x, y, _ = case.data(3)
    trainer.fit(x[:ROWS], y[:ROWS], 1, progress=False)
    trainer.evaluate(x, y)
    trainer.step(x, y)
    assert captured() == []


def test_what_runs_once_is_captured_where_it_has_to_be(captured):
    case = Case()
    x, y, _ = case.data(3)
    measured = case.trainer(False).evaluate(x, y)
    assert case.trainer(True).evaluate(x, y) == measured
    assert [re.sub(r" rows: .*", "", line) for line in sorted(captured())] == [
        f"cuda:0: a measurement of {rows}" for rows in (3, 4)
    ]


@pytest.mark.parametrize("case", [Case(), Case(*EVERYTHING, weighted=True, seed=[1, 2], dtype="bfloat16")])
def test_steps_by_hand(case, captured):
    eager = steps(case, False, 8)
    assert steps(case, "auto", 8) == eager
    assert len(captured()) == 2
    assert steps(case, True, 8) == eager
    assert len(captured()) == 4


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_callbacks_between_steps_that_are_replayed(dtype, captured):
    """They read what the step before has left, and set what the next one takes."""

    class Schedule:
        def __init__(self):
            self.seen = []

        def on_step(self, state):
            state.trainer.optimizer.learning_rate = 0.01 / (state.epoch + state.step)
            x, y, _ = case.data(3)
            self.seen.append((state.trainer.network.predict(x).tobytes(), state.trainer.evaluate(x, y)["loss"]))

    case = Case(*EVERYTHING, dtype=dtype)
    found = []
    for graph in (False, "auto", True):
        trainer, schedule = case.trainer(graph), Schedule()
        x, y, _ = case.data(3)
        trainer.fit(x, y, 3, progress=False, callbacks=[schedule])
        assert len(schedule.seen) == len(set(schedule.seen)) == 3 * (BATCHES + 1)
        found.append((state(trainer), schedule.seen))
    assert found[0] == found[1] == found[2]
    assert len([line for line in captured() if "a step" in line]) == 4


def test_a_loss_that_is_no_number_is_replayed():
    """A label out of range makes the loss NaN, and a NaN of the same bits is the same."""
    losses = []
    for graph in (False, True):
        case = Case()
        trainer = case.trainer(graph)
        x, y, _ = case.data(3)
        y[0] = 99
        losses.append([np.asarray(trainer.step(x, y)) for _ in range(3)])
    assert np.isnan(losses).all()


def test_hyper_parameters_act_on_replayed_steps():
    def slower(trainer, k):
        trainer.optimizer.learning_rate = 0.1 / (k + 1)

    case = Case(optimizer=gb.SGD(0.1, 0.9))
    eager = steps(case, False, 8, slower)
    assert steps(case, True, 8, slower) == eager
    assert steps(case, True, 8) != eager


def test_dropout_rates_act_on_replayed_steps():
    def less(trainer, k):
        trainer.network.layers[0].rate = [0.4 / (k + 1), 0.0]

    case = Case(*EVERYTHING, seed=[1, 2])
    eager = steps(case, False, 8, less)
    assert steps(case, True, 8, less) == eager
    assert steps(case, True, 8) != eager


def test_layers_are_frozen_between_replayed_steps():
    def turns(trainer, k):
        first, *_, last = (layer for layer in trainer.network.layers if layer.weight is not None)
        first.trainable, last.trainable = k % 4 < 2, k % 4 != 0

    case = Case(*EVERYTHING)
    eager = steps(case, False, 12, turns)
    assert steps(case, True, 12, turns) == eager
    assert steps(case, True, 12) != eager


def test_epochs_of_a_fit_follow_what_was_set_before_them(captured):
    """Steps are built and captured anew."""

    def fit(graph):
        case, epochs = Case(*EVERYTHING, dtype="float64"), itertools.count()
        trainer = case.trainer(graph)
        layers = trainer.network.layers

        def turn(_):
            layers[1].trainable, layers[2].rate = [(False, 0.5), (False, 0.0), (True, 0.25)][next(epochs) % 3]

        x, y, _ = case.data(3)
        trainer.fit(x, y, 5, progress=False, callbacks=[turn])
        return state(trainer)

    eager = fit(False)
    assert fit(True) == eager
    assert len(captured()) == 2 * 5  # each of the first four epochs sets something else


def test_weights_that_are_all_zero_change_nothing_when_replayed():
    case = Case(weighted=True)

    def last(graph, weights):
        trainer = case.trainer(graph)
        x, y, _ = case.data(3)
        for _ in range(3):
            trainer.step(x, y, np.ones(COUNT))
        before = state(trainer)
        trainer.step(x, y, weights)
        return before["parameters"], state(trainer)["parameters"]

    before, after = last(True, np.zeros(COUNT))
    assert before == after
    assert last(True, np.ones(COUNT)) == last(False, np.ones(COUNT)) != (before, after)


# The state ------------------------------------------------------------------------------------------------------------


def copies(device, arrays):
    return {name: device.copy(array) for name, array in arrays.items()}


STATES = {
    **FORMS,
    **{name: Case(optimizer=optimizer, weighted=True) for name, optimizer in OPTIMIZERS.items()},
    **{dtype: Case(dtype=dtype) for dtype in DTYPES},
}


@pytest.mark.parametrize("case", list(STATES.values()), ids=list(STATES))
def test_the_state_of_a_plan_is_all_that_a_step_leaves_behind(case):
    """A step, from a state to which the plan was brought back after others, does the same in every buffer."""
    plan, device = fed(case)
    for _ in range(2):
        run(plan)
    saved = copies(device, plan.outputs())
    run(plan)
    first = {name: device.to_host(array).tobytes() for name, array in plan.buffers.items()}
    for _ in range(3):
        run(plan)
    for name, array in plan.outputs().items():
        device.copy_in(array, saved[name])
    run(plan)
    assert {name: device.to_host(array).tobytes() for name, array in plan.buffers.items()} == first


# What the device is asked for -----------------------------------------------------------------------------------------


def replaying(case=None, graph=True):
    plan, device = fed(case or Case())
    replay = Replay(plan, graph)
    with device.computing():
        replay.run()
    device.synchronize()
    return plan, replay


@traced
def test_a_replayed_step_is_one_launch_and_nothing_else():
    plan, replay = replaying()
    assert replay.replays
    launches = plan.cost()["launches"]
    with plan.device.computing(), device_trace.allocations() as sizes:
        eager, events = TRACE.of(plan.run), TRACE.of(lambda: [replay.run() for _ in range(3)])
    submitted = [e for e in events if e.event != "replay"]
    assert submitted == [device_trace.Event("submit", "graph", launches)] * 3
    captured = [call for node in plan.nodes() for call in node.operation.calls]
    calls = [call for operation in plan.operations for call in operation.calls]
    in_order = [eager[calls.index(call)].what for call in captured]
    assert [e.what for e in events if e.event == "replay"] == in_order * 3 != [e.what for e in eager] * 3
    assert sizes == []
    assert f"its {launches} launches" in replay.reason


@traced
@pytest.mark.parametrize("graph", ["auto", True])
def test_a_minibatch_more_is_one_launch_more(graph):
    """Twice the minibatches are so many more graphs, and no other event more."""

    def events(batches):
        trainer = Case(count=ROWS * batches).trainer(graph)
        x, y, _ = Case(count=ROWS * batches).data(3)
        once = partial(trainer.fit, x, y, 2, progress=False, shuffle=False)  # else a thread draws an order meanwhile
        return TRACE.of(once)

    def without(events, what):
        return [e[:2] for e in events if e.event != "replay" and e.what != what]

    for _ in range(4):  # until the pools have what it takes, and each pinned buffer had its turn
        events(12)
    few, many = events(6), events(12)
    assert without(few, "graph") == without(many, "graph")
    graphs = [[e.event for e in seen if e.what == "graph"] for seen in (few, many)]
    first = 0 if graph is True else 1  # the one that is eager, and the one that is checked is replayed as well
    assert graphs == [["submit"] * (2 * batches - first) for batches in (6, 12)]


@traced
def test_a_capture_records_what_an_eager_step_submits():
    plan, device = fed(Case())
    run(plan)
    replaying()  # what the first capture brings
    with device.computing():
        eager, events = TRACE.of(plan.run), TRACE.of(lambda: device.capture(plan.nodes()))
    recorded = [(e.what, e.number) for e in events if e.event == "capture"]
    assert sorted(recorded) == sorted((e.what, e.number) for e in eager)
    assert {e.event for e in events} == {"capture"}


def test_nothing_is_compiled_or_loaded_while_capturing(tmp_path):
    """In a process that has done nothing before, and with none of CuPy's kernels in its cache: CUDA would refuse it."""
    program = f"""
import sys
sys.path[:] = {sys.path!r}
from graph_cases import EVERYTHING, STEPPING, Case
Case(*EVERYTHING, dtype="float16", weighted=True, options=STEPPING).fit(True, validation=True)
"""
    environment = {**os.environ, "CUPY_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@traced
def test_a_checked_run_reads_once():
    plan, device = fed(Case())
    run(plan)
    replaying()  # what the first capture brings
    with device.computing():
        events = TRACE.of(Replay(plan, True).run)
    assert [e.event for e in events].count("blocking") + [e.event for e in events].count("sync") <= 2


def test_the_copies_of_a_checked_run_are_given_back():
    import cupy

    plan, device = fed(Case(gb.Dense(300, "relu"), gb.Dense(3, "softmax")))
    replaying()
    pool = cupy.get_default_memory_pool()
    used, replay = pool.used_bytes(), Replay(plan, True)
    with device.computing():
        replay.run()
    assert replay.replays
    assert pool.used_bytes() == used


@pytest.mark.parametrize(("graph", "runs"), [("auto", 1), ("auto", 2), (True, 3), (False, 1)])
def test_the_buffers_of_a_plan_are_freed_with_it(graph, runs):
    """At once: no circle keeps them until Python looks for circles."""
    import cupy

    pool = cupy.get_default_memory_pool()
    trainer = Case(gb.Dense(300, "relu"), gb.Dense(3, "softmax")).trainer(graph)
    gc.collect()
    gc.disable()
    try:
        used = []
        for _ in range(2):  # the first time brings scratch memory, which stays
            batch = ManualBatch(trainer.network, True, False)
            plan = trainer.training_step.build(batch, 100, trainer.manual_steps.total)
            replay = Replay(plan, graph)
            with plan.device.computing():
                for _ in range(runs):
                    replay.run()
            plan.device.synchronize()
            used.append(pool.used_bytes())
            del plan, replay
            used.append(pool.used_bytes())
        assert used[1] == used[3] < used[2]
    finally:
        gc.enable()
