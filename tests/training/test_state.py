"""TrainingStep.state() is all that a step leaves for the next one: no array that a plan writes escapes it."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.network.samples import samples
from gpu_backprop.training.minibatches import DataSet
from gpu_backprop.training.step import State

ROWS, COUNT = 4, 23
RANDOM = np.random.default_rng(0)
X, LABELS = RANDOM.normal(0, 1, (COUNT, 5)), RANDOM.integers(0, 3, COUNT)
WEIGHTS = RANDOM.uniform(0.5, 2, COUNT)

OPTIMIZERS = {
    **{name: make() for name, make in gb.OPTIMIZERS.items()},
    "momentum": gb.SGD(0.1, momentum=0.9),
    "Nesterov": gb.SGD(0.1, momentum=0.9, nesterov=True),
}

UNREAD = "gradients", "∇", "E", "cursor"
"""What a plan writes and does not own, and no next step reads: all gradients, by how their names begin, and the total
of the losses, which belongs to who built the plan, as the cursor does to the data."""


@pytest.fixture(params=["float32", "float64", "float16"])
def dtype(request, monkeypatch):
    if request.param == "float16":
        request.getfixturevalue("half_on_a_cpu")
    return request.param


def step_of(dtype, optimizer, dropout, weighted, seed=3):
    """A step, its plan, and its data."""
    layers = [gb.Dense(6, "tanh"), *([gb.Dropout(0.3)] if dropout else []), gb.Dense(3, "softmax")]
    net = gb.Network(5, layers, dtype=dtype, device="cpu", seed=seed)
    step = gb.Trainer(net, optimizer=optimizer).training_step
    source = DataSet(net, samples(net, step.loss, X, LABELS, WEIGHTS if weighted else None, values=True))
    plan = step.build(source, ROWS, net.device.zeros((*net.models_shape, 3), np.float64))
    return step, plan, source


def run(plan, source):
    source.rewind()
    with plan.device.computing():
        plan.run()


def copied(step):
    """A state that stays as it is."""
    arrays, host = step.state()
    return State({name: np.array(array) for name, array in arrays.items()}, host)


def bits(arrays):
    return {name: np.array(array).tobytes() for name, array in arrays.items()}


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("dropout", [False, True], ids=["no dropout", "dropout"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_what_a_plan_leaves_behind_is_in_the_state_or_is_not_read(optimizer, dtype, dropout, weighted):
    step, plan, source = step_of(dtype, optimizer, dropout, weighted)
    for _ in range(12 if dtype == "float16" else 1):  # until no gradient overflows
        run(plan, source)
    outputs = plan.outputs()
    unread = {name: array for name, array in outputs.items() if name.startswith(UNREAD)}
    left = {name: array for name, array in outputs.items() if name not in unread}
    before, begun = bits(left), copied(step)

    run(plan, source)
    after = bits(step.state().arrays)
    assert after["parameters"] != bits(begun.arrays)["parameters"]

    step.load_state(begun)
    assert bits(left) == before  # so it holds all that is left behind, but for what is not read

    for name, array in unread.items():
        if name != "gradients":  # all of which are among the others; between them lie zeros that stay
            array[...] = np.nan if array.dtype.kind == "f" else -1
    run(plan, source)
    assert bits(step.state().arrays) == after  # and that is not read


def test_what_is_not_read():
    _, plan, _ = step_of("float32", gb.Adam(), True, True)
    assert {name for name in plan.outputs() if name.startswith(UNREAD)} == {"∇W1", "∇b1", "∇W3", "∇b3", "E", "cursor"}


def test_the_state_of_the_host():
    step = step_of("float32", gb.Adam(), True, False, seed=[1, 2])[0]
    state = step.state()
    orders = [step.shuffling.draw_order(COUNT) for _ in range(2)]
    step.load_state(State({}, state.host))
    np.testing.assert_array_equal([step.shuffling.draw_order(COUNT) for _ in range(2)], orders)
    assert (orders[0] != orders[1]).any()
    assert all(isinstance(value, (dict, list)) for value in state.host.values())


def test_a_state_goes_on_in_another_step():
    step, plan, source = step_of("float64", gb.Adam(), True, True)
    twin, other_plan, other_source = step_of("float64", gb.Adam(), True, True, seed=8)
    run(plan, source)
    twin.load_state(copied(step))
    run(plan, source)
    run(other_plan, other_source)
    assert bits(twin.state().arrays) == bits(step.state().arrays)
