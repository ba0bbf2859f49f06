"""How a plan is run where there are no graphs, and the state from which a run can be done again."""

from __future__ import annotations

import gc
import logging
import warnings
import weakref

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.communicator import Alone
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.samples import samples
from gpu_backprop.training.evaluation import Evaluation
from gpu_backprop.training.minibatches import DataSet, ManualBatch
from gpu_backprop.training.optimizers import OPTIMIZERS
from gpu_backprop.training.replay import Replay

ROWS = 4
PLAIN = (gb.Dense(8, "relu"), gb.Dense(3, "softmax"))
EVERYTHING = (
    gb.Dropout(0.2), gb.Dense(8, "gelu"), gb.Dropout(0.5), gb.Bias("tanh"), gb.Dense(6, bias=False),
    gb.Dense(3, "softmax"),
)  # fmt: skip


def network(*layers, **form):
    return gb.Network(5, list(layers or PLAIN), device="cpu", **form)


def data(weighted=False, loss=None, outputs=3):
    rng = np.random.default_rng(0)
    x, labels = rng.normal(0, 1, (3 * ROWS, 5)), loss is None or loss.labels
    y = rng.integers(0, 3, 3 * ROWS) if labels else rng.dirichlet(np.ones(outputs), 3 * ROWS)
    return x, y, rng.uniform(0, 2, 3 * ROWS) if weighted else None


def fed(net):
    """The plan of a step by hand."""
    return gb.Trainer(net).training_step.build(ManualBatch(net, True, False), ROWS, net.device.zeros((3,), np.float64))


# The modes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", ["auto", False])
def test_on_a_cpu_every_run_is_the_plan_itself(graph):
    plan = fed(network())
    replay = Replay(plan, graph)
    assert replay.run == plan.run
    assert not replay.replays
    assert replay.reason == ("graph=False" if graph is False else "graphs are for CUDA devices")


class OtherRank(Alone):
    """Where another rank has something to say, after so many questions."""

    def __init__(self, answers):
        self.answers = iter(answers)

    def first_reason(self, reason):
        return next(self.answers)


def fail(*_):
    raise RuntimeError("it does not")


@pytest.mark.parametrize(
    ("launched", "differing", "answers", "told"),
    [
        (fail, None, [], "it does not"),
        (None, fail, [], "it does not"),
        (None, None, [None, "rank 1: it captures nothing"], "rank 1: it captures nothing"),
        (None, None, [None, None, "rank 1: ∇W differs"], "rank 1: ∇W differs"),
        (None, None, [None, None, None], ""),
    ],
)
def test_what_fails_once_it_is_captured_or_on_another_rank_is_given_up(
    launched, differing, answers, told, monkeypatch
):  # fmt: skip
    """It leaves what a run leaves. Here a run of the plan itself stands for a graph."""
    monkeypatch.setattr("gpu_backprop.training.replay._said", set())
    plan, twin = fed(network()), fed(network())
    device = plan.device
    plan.communicator = OtherRank(answers) if answers else plan.communicator
    monkeypatch.setattr(device, "has_graphs", True, raising=False)
    monkeypatch.setattr(device, "capture", lambda nodes: launched or plan.run)
    if differing:
        monkeypatch.setattr(device, "differing", differing)
    for one in (plan, twin):
        one.buffers["x"][:] = np.random.default_rng(0).normal(0, 1, one.buffers["x"].shape)
        one.buffers["y*"][:] = 0
    replay = Replay(plan, "auto")
    with device.computing(), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for _ in range(3):
            replay.run()
            twin.run()
    assert replay.replays == (not told)
    assert [told in str(one.message) for one in warned] == [True] * bool(told)
    for name, array in plan.outputs().items():
        np.testing.assert_array_equal(array, twin.outputs()[name], name)


def test_true_is_refused_on_a_cpu():
    with pytest.raises(gb.InputError, match="graph=True is for CUDA devices; this network is on the CPU .*Use 'auto'"):
        gb.Trainer(network(), graph=True)


@pytest.mark.parametrize("graph", [None, 1, "yes", "True", 0.5])
def test_other_modes_are_refused(graph):
    with pytest.raises(gb.InputError, match="graph must be 'auto', True or False, got"):
        gb.Trainer(network(), graph=graph)


def test_a_cpu_has_no_graphs():
    plan = fed(network())
    with pytest.raises(gb.DeviceError, match="cpu has no graphs"):
        plan.device.capture(plan.nodes())


def test_the_modes_are_the_same_on_a_cpu_and_say_nothing(caplog):
    caplog.set_level(logging.INFO, "gpu_backprop")
    x, y, _ = data()
    parameters = []
    for graph in ("auto", False):
        net = network(*EVERYTHING)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            gb.Trainer(net, batch_size=ROWS, graph=graph).fit(x, y, 3, validation=(x, y), progress=False)
        parameters.append(net.parameters.tobytes())
    assert parameters[0] == parameters[1]
    assert not [r for r in caplog.records if "graph" in r.getMessage()]


def test_no_circle_keeps_a_trainer():
    net = network()
    trainer = gb.Trainer(net, batch_size=ROWS)
    x, y, _ = data()
    trainer.fit(x, y, 1, progress=False)
    trainer.step(x, y)
    alive = weakref.ref(trainer)
    gc.collect()
    gc.disable()
    try:
        del trainer
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("graph", ["auto", False])
def test_no_circle_keeps_a_plan(graph):
    plan = fed(network())
    replay, alive = Replay(plan, graph), weakref.ref(plan)
    replay.run()
    gc.collect()
    gc.disable()
    try:
        del plan, replay
        assert alive() is None
    finally:
        gc.enable()


# The state ------------------------------------------------------------------------------------------------------------


def gathered(net, weighted=False, optimizer="adam", loss=None):
    """The plan of a step of fit."""
    trainer = gb.Trainer(net, loss, optimizer, batch_size=ROWS)
    source = DataSet(net, samples(net, trainer.loss, *data(weighted, trainer.loss, net.outputs), values=True))
    return trainer.training_step.build(source, ROWS, trainer.device.zeros((*net.models_shape, 3), np.float64))


def measured(output, loss):
    """The plan of a measurement."""
    net = network(gb.Dense(8, "relu"), gb.Dense(3, output))
    loss = gb.LOSSES[loss].bind(net)
    return Evaluation(net, loss, samples(net, loss, *data(True, loss), values=True), ROWS).replays[ROWS].plan


CASES = {
    **{name: lambda name=name: gathered(network(), True, name) for name in OPTIMIZERS},
    "momentum": lambda: gathered(network(), optimizer=gb.SGD(0.1, 0.9)),
    "Nesterov": lambda: gathered(network(), optimizer=gb.SGD(0.1, 0.9, True)),
    **{
        f"{name} of {output}": lambda name=name, output=output: gathered(
            network(gb.Dense(8, "tanh"), gb.Dense(3, output)), name == "huber", loss=name
        )
        for name, loss in gb.LOSSES.items()
        for output in loss.needs or ("identity", "softmax")
    },
    **{f"{f} hidden": lambda f=f: gathered(network(gb.Dense(8, f), gb.Dense(3, "softmax"))) for f in gb.ACTIVATIONS},
    "accuracy": lambda: measured("softmax", "cross_entropy"),
    "R² and MAE": lambda: measured("identity", "half_squared_error"),
    "everything": lambda: gathered(network(*EVERYTHING), True),
    "everything, members, float64": lambda: gathered(network(*EVERYTHING, seed=[1, 2, 3], dtype="float64"), True),
}


def bits(arrays):
    return {name: np.array(array).tobytes() for name, array in arrays.items()}


@pytest.mark.parametrize("case", CASES)
def test_the_state_of_a_plan_is_all_that_a_step_leaves_behind(case):
    """A step, from a state to which the plan was brought back after another, does the same in every buffer."""
    plan = CASES[case]()
    run(plan)
    saved = {name: np.array(array) for name, array in plan.outputs().items()}
    run(plan)
    first = bits(plan.buffers)
    run(plan)
    assert bits(plan.buffers) != first
    for name, array in plan.outputs().items():
        array[...] = saved[name]
    run(plan)
    assert bits(plan.buffers) == first


def run(plan: Plan) -> None:
    with plan.device.computing():
        plan.run()


def test_what_a_state_holds():
    assert set(CASES["everything"]().outputs()) == {
        "E", "parameters", "moments", "t", "cursor", "random step",
        *(f"∇{name}" for name in ("W2", "b2", "b4", "W5", "W6", "b6")),
    }  # fmt: skip
    assert set(CASES["R² and MAE"]().outputs()) == {"E", "sums", "cursor"}
