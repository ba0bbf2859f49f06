"""The plan: what it says of itself is true, several live side by side, and running one allocates nothing."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.open_device import open_device
from gpu_backprop.backend.operations import Operations
from gpu_backprop.network.samples import Samples
from gpu_backprop.training.evaluation import Evaluation
from gpu_backprop.training.minibatches import DataSet

PHASES = ["data", "forward", "loss", "backward", "update"]
OPTIMIZERS = [gb.SGD(), gb.SGD(0.1, 0.9), gb.SGD(0.1, 0.9, True), gb.RMSprop(), gb.Adagrad(), gb.Adam(), gb.AdamW()]
MODELS_SHAPES = pytest.mark.parametrize("seed", [0, [0, 1]], ids=["one", "members"])


def network(*layers, seed=0, inputs=5, dtype="float64"):
    return gb.Network(inputs, list(layers) or LAYERS, seed=seed, dtype=dtype)


LAYERS = [gb.Dense(6, "tanh"), gb.Dropout(0.5), gb.Bias("gelu"), gb.Dense(3, "softmax")]


def samples(net, loss, rows=9, labels=False, weighted=False):
    """Random data that fit a network and a loss."""
    rng = np.random.default_rng(0)
    x, shape = rng.normal(0, 1, (rows, net.inputs)), (rows, net.outputs)
    match loss.name:
        case "cross_entropy":
            y = rng.integers(0, net.outputs, rows) if labels else rng.dirichlet(np.ones(net.outputs), rows)
        case "binary_cross_entropy" | "poisson":
            y = rng.uniform(0, 1, shape)
        case _:
            y = rng.normal(0, 1, shape)
    return Samples(x, y, rng.uniform(0, 2, rows) if weighted else None)


def fit_plan(net, loss=None, optimizer="adam", rows=4, fuse=True, of=9, **form):
    """One step of fit as a plan, and the data set that it gathers from."""
    trainer = gb.Trainer(net, loss, optimizer)
    data = DataSet(net, samples(net, trainer.loss, of, **form))
    total = net.device.zeros((*net.models_shape, 3), np.float64)
    return trainer.training_step.build(data, rows, total, fuse=fuse), data


def run(plan):
    with plan.device.computing():
        plan.run()


# What it says of itself -----------------------------------------------------------------------------------------------


def test_describe_is_a_table_of_all_operations(capsys):
    plan, _ = fit_plan(network(), optimizer=gb.SGD())  # whose formula needs no second line
    plan.describe()
    said = capsys.readouterr().out
    assert said == f"{plan}\n"
    lines = said.splitlines()
    table = lines[2:-2]
    assert len(table) == len(plan.operations) and len(set(map(len, lines))) == 1
    for line, operation in zip(table, plan.operations, strict=True):
        assert line.startswith(operation.name) and operation.formula in line
        assert line.split()[-2:] == [f"{operation.flops:,}", f"{operation.bytes:,}"]
    cost = plan.cost()
    assert lines[-1].split() == [str(len(table)), "operations", f"{cost['flops']:,}", f"{cost['bytes']:,}"]


def test_cost_sums_over_the_operations():
    plan, _ = fit_plan(network())
    cost = plan.cost()
    assert cost["operations"] == len(plan.operations)
    for key in ("launches", "flops", "bytes"):
        assert cost[key] == sum(getattr(operation, key) for operation in plan.operations) > 0
    own = ("x", "y*", "z1", "mask2", "z2", "z3", "y3", "z4", "∇y3")  # the others take the place of one of these
    assert cost["memory"] == sum(plan.buffers[name].nbytes for name in own)


@MODELS_SHAPES
def test_products_are_counted_exactly(seed):
    """(m×k)@(k×n): 2mkn operations, and each of the three arrays passes through memory once."""
    plan, _ = fit_plan(network(seed=seed))
    products = [o for o in plan.operations if o.name == "matmul"]
    models = 1 if seed == 0 else 2
    shapes = [(4, 5, 6), (4, 6, 3), (6, 4, 3), (4, 3, 6), (5, 4, 6)]  # z1, z4, ∇W4, ∇y3, ∇W1
    assert [o.flops for o in products] == [models * 2 * m * k * n for m, k, n in shapes]
    assert [o.bytes for o in products] == [models * 8 * (m * k + k * n + m * n) for m, k, n in shapes]


def test_a_step_in_order():
    """N2 from top to bottom: data, forward, loss, backward, update, each operation with its formula."""
    plan, _ = fit_plan(network(gb.Dense(6, "tanh"), gb.Dense(3, "softmax")), labels=True)
    assert [(o.name, o.formula) for o in plan.operations] == [
        ("gather", "x, y* = data[order[cursor:]]"),
        ("matmul", "z1 = x@W1"),
        ("bias_activate", "y1 = tanh(z1 + b1)"),
        ("matmul", "z2 = y1@W2"),
        ("softmax_cross_entropy", "∇z2 = (softmax(z2 + b2) − y*)/B, E += e"),
        ("column_sum", "∇b2 = Σ∇z2"),
        ("matmul", "∇W2 = y1ᵀ@∇z2"),
        ("matmul", "∇y1 = ∇z2@W2ᵀ"),
        ("activation_gradient", "∇z1 = ∇y1 ⊙ tanh′(y1), ∇b1 = Σ∇z1"),
        ("matmul", "∇W1 = xᵀ@∇z1"),
        ("advance", "cursor += 4, t += 1"),
        ("update", gb.Adam().formula),
    ]
    phases = [o.phase for o in plan.operations]
    assert [p for k, p in enumerate(phases) if phases[k - 1] != p] == PHASES


FUSED = [("softmax", "cross_entropy"), ("sigmoid", "binary_cross_entropy")]


@pytest.mark.parametrize("depth", range(1, 6))
@pytest.mark.parametrize(("output", "loss"), FUSED)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_launches_of_a_plain_step(optimizer, output, loss, depth):
    """5L + 2 for L dense layers under a fused loss: z, y, ∇z with ∇b, and ∇W of each (of the last the loss gives y and
    ∇z, and ∇b comes after it), ∇x of all but the first, gather, optimizer and advance."""
    layers = [gb.Dense(3, "relu") for _ in range(depth - 1)] + [gb.Dense(3, output)]
    plan, _ = fit_plan(network(*layers), loss, optimizer)
    assert plan.cost()["launches"] == 5 * depth + 2


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("output", ["identity", "tanh", "gelu"])
def test_launches_of_what_is_added(output, depth):
    """1 more for a loss that is not fused, 2 for a Dropout, and 1 for any number of them."""
    layers = [gb.Dense(3, "relu") for _ in range(depth - 1)] + [gb.Dense(3, output)]
    plain, _ = fit_plan(network(*layers))
    assert plain.cost()["launches"] == 5 * depth + 2 + 1
    for dropouts in (1, 2):
        with_dropout, _ = fit_plan(network(gb.Dense(3, "relu"), *[gb.Dropout(0.5)] * dropouts, *layers))
        without, _ = fit_plan(network(gb.Dense(3, "relu"), *layers))
        assert with_dropout.cost()["launches"] - without.cost()["launches"] <= 2 * dropouts + 1


PLANS = pytest.mark.parametrize(
    ("output", "loss"), [*FUSED, ("gelu", "huber"), ("identity", "mean_squared_error"), ("exp", "poisson")]
)
FORMS = pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
FUSE = pytest.mark.parametrize("fuse", [True, False], ids=["fused", "kept"])


@MODELS_SHAPES
@FORMS
@FUSE
@PLANS
def test_every_operation_tells_what_it_writes_and_reads(output, loss, fuse, weighted, seed):
    """Nothing changes but what is declared as written; with everything that is not declared as read made worthless,
    the results are the same."""
    net = network(gb.Dense(6, "tanh"), gb.Dropout(0.5), gb.Bias("gelu"), gb.Dense(3, output), seed=seed)
    plan, data = fit_plan(net, loss, fuse=fuse, weighted=weighted)
    run(plan)
    data.rewind()
    buffers = plan.buffers
    for operation in plan.operations:
        assert "?" not in operation.reads and "?" not in operation.writes
        before = snapshot(buffers)
        perform(plan, operation)
        for name, array in buffers.items():
            if not any(np.shares_memory(array, written) for written in operation.writes.values()):
                assert array.tobytes() == before[name].tobytes(), f"{operation.name} wrote to {name}"
        after, results = snapshot(buffers), snapshot(operation.writes)

        restore(buffers, before)
        declared = {**operation.reads, **operation.writes}
        kept = snapshot(declared)
        for array in buffers.values():
            array[...] = np.nan if array.dtype.kind == "f" else 0
        restore(declared, kept)
        perform(plan, operation)
        for name, array in operation.writes.items():
            assert array.tobytes() == results[name].tobytes(), f"{operation.name} read more than it says"
        restore(buffers, after)


def perform(plan, operation):
    with plan.device.computing():
        for call in operation.calls:
            call()


def snapshot(arrays):
    return {name: array.copy() for name, array in arrays.items()}


def restore(arrays, values):
    for name, array in arrays.items():
        array[...] = values[name]


# Buffers --------------------------------------------------------------------------------------------------------------


@MODELS_SHAPES
@PLANS
def test_kept_buffers_share_nothing(output, loss, seed):
    """fuse=False: every z, y and ∇ of the trace is an array of its own, and nothing is fused."""
    net = network(gb.Dense(6, "tanh"), gb.Dropout(0.5), gb.Bias("gelu"), gb.Dense(3, output), seed=seed)
    plan, _ = fit_plan(net, loss, fuse=False)
    assert not [o.name for o in plan.operations if o.name.endswith("_cross_entropy")]
    written = [
        (name, a)
        for o in plan.operations
        for name, a in o.writes.items()
        if name[0] in "zy" or name[:2] in ("∇z", "∇y")
    ]
    distinct = {id(array): (name, array) for name, array in written}
    for name, array in distinct.values():
        sharing = {n for n, other in distinct.values() if np.shares_memory(array, other)}
        assert sharing == {name} or (output == "identity" and sharing == {"z4", "y4"})
    names = {name for name, _ in written}
    assert names >= {"z1", "y1", "z2", "z3", "y3", "y4", "∇y4", "∇y3", "∇z3", "∇y1", "∇z1"}


@pytest.mark.parametrize("output", ["softmax", "identity"])
def test_a_trace_is_a_run(output):
    """The same arithmetic, one operation at a time; what it yields are copies."""
    net = network(gb.Dense(6, "tanh"), gb.Dropout(0.5), gb.Dense(3, output))
    twin = network(gb.Dense(6, "tanh"), gb.Dropout(0.5), gb.Dense(3, output))
    traced, _ = fit_plan(net, fuse=False)
    ran, _ = fit_plan(twin, fuse=False)
    seen = {}
    for operation, written in traced.trace():
        assert list(written) == list(operation.writes)
        for name, array in written.items():
            assert not np.shares_memory(array, operation.writes[name])
        seen |= written
    run(ran)
    np.testing.assert_array_equal(net.parameters, twin.parameters)
    for name, array in seen.items():
        np.testing.assert_array_equal(array, ran.buffers[name], err_msg=name)


def test_kept_and_fused_steps_are_the_same():
    net, twin = network(), network()
    for one, fuse in ((net, True), (twin, False)):
        plan, _ = fit_plan(one, fuse=fuse)
        run(plan)
    np.testing.assert_allclose(net.parameters, twin.parameters, rtol=1e-12, atol=1e-14)


def test_phases_can_be_run_apart():
    net, twin = network(), network()
    whole, _ = fit_plan(net)
    parts, _ = fit_plan(twin)
    run(whole)
    with twin.device.computing():
        for phase in PHASES:
            parts.run(phase)
    np.testing.assert_array_equal(net.parameters, twin.parameters)


def test_an_operation_added_after_a_run_runs_too():
    plan = gb.Plan(open_device("cpu"))
    done = []
    plan.append(gb.Operation("first", "", {}, {}, 0, 0, 1, plan.phase, lambda: (lambda: done.append(1),)))
    plan.run()
    plan.append(gb.Operation("second", "", {}, {}, 0, 0, 1, plan.phase, lambda: (lambda: done.append(2),)))
    plan.run()
    assert done == [1, 1, 2]


def test_two_buffers_of_one_name():
    plan = gb.Plan(open_device("cpu"))
    plan.empty("z1", (2, 3))
    with pytest.raises(ValueError, match="two buffers of one plan are called 'z1'"):
        plan.empty("z1", (2, 3))


def test_a_name_for_what_an_operation_does_not_have():
    plan = gb.Plan(open_device("cpu"))
    z = plan.empty("z1", (2, 3))
    with pytest.raises(TypeError, match="multiply has no parameter grad_zz to give a name to"):
        plan.add(Operations.multiply, "z1 = z1 ⊙ z1", {"grad_zz": "z2"}, z, z, z)


def test_what_is_saved_belongs_to_a_plan_and_a_layer():
    one, other = gb.Plan(open_device("cpu")), gb.Plan(open_device("cpu"))
    first, second = gb.Dense(3), gb.Dense(3)
    one.saved(first).x = 1
    assert one.saved(first).x == 1
    assert not vars(one.saved(second)) and not vars(other.saved(first))


@MODELS_SHAPES
@FUSE
def test_two_plans_do_not_disturb_each_other(fuse, seed):
    """Forward of one, the whole of another with other rows, a prediction, then backward of the first."""
    net, twin = network(seed=seed), network(seed=seed)
    plan, _ = fit_plan(net, optimizer=gb.SGD(0.1), fuse=fuse)
    alone, _ = fit_plan(twin, optimizer=gb.SGD(0.1), fuse=fuse)
    run(alone)
    other, _ = fit_plan(net, optimizer=gb.SGD(0.1), rows=7, fuse=not fuse)
    with net.device.computing():
        for phase in ("data", "forward", "loss"):
            plan.run(phase)
        shared = net.parameters, net.gradients, net.random
        state = [array.copy() for array in shared]
        other.run()
        net.predict(np.ones((30, 5)))
        net.forward(np.ones((4, 5)), training=True)
        net.backward(np.ones((*net.models_shape, 4, 3)))
        for array, values in zip(shared, state, strict=True):  # what all plans of a network share
            array[...] = values
        for phase in ("backward", "update"):
            plan.run(phase)
    np.testing.assert_array_equal(net.parameters, twin.parameters)
    np.testing.assert_array_equal(net.random, twin.random)


# No allocation --------------------------------------------------------------------------------------------------------

LARGE = 256, 64
"""Rows and units: a temporary array of this shape has 64 KB in float32, one of a row or a column 1 KB or more."""


def allocated(device, run_once, rewind=lambda: None) -> int:
    """The most bytes that a call holds at any moment beyond what was there before, by NumPy and Python together."""
    with device.computing():
        run_once()
        rewind()
        tracemalloc.start()
        try:
            run_once()
            rewind()
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            run_once()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    return peak - before


def step_allocates(layers, seed, loss=None, optimizer="adam", **form) -> int:
    rows, units = LARGE
    net = network(*layers, seed=seed, inputs=units, dtype="float32")
    plan, data = fit_plan(net, loss, optimizer, rows=rows, of=3 * rows, **form)
    return allocated(net.device, plan.run, data.rewind)


def test_the_measurement_sees_an_array():
    """One of 512 numbers would already be too much."""
    device = open_device("cpu")
    assert allocated(device, lambda: np.empty(512)) >= 4096
    assert allocated(device, lambda: np.ones(LARGE) + np.ones(LARGE)) >= 3 * 8 * LARGE[0] * LARGE[1]


@MODELS_SHAPES
@pytest.mark.parametrize("activation", gb.ACTIVATIONS)
def test_layers_and_activations_allocate_nothing(activation, seed):
    units = LARGE[1]
    layers = [
        gb.Dense(units, activation),
        gb.Dropout(0.5),
        gb.Bias(activation),
        gb.Dense(units, activation, bias=False),
    ]
    assert step_allocates(layers, seed, "half_squared_error") < 4096


@MODELS_SHAPES
@FORMS
@FUSE
@pytest.mark.parametrize(
    ("loss", "labels"),
    [
        *((loss, labels) for loss in gb.LOSSES.values() for labels in {False, loss.labels}),
        *((gb.CrossEntropy(label_smoothing=0.1), labels) for labels in (False, True)),
    ],
)
def test_losses_allocate_nothing(loss, labels, fuse, weighted, seed):
    layers = [gb.Dense(LARGE[1], loss.needs[0] if loss.needs else "identity")]
    assert step_allocates(layers, seed, loss, fuse=fuse, labels=labels, weighted=weighted) < 4096


@MODELS_SHAPES
@FORMS
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_optimizers_allocate_nothing(optimizer, weighted, seed):
    assert step_allocates([gb.Dense(LARGE[1])], seed, None, optimizer, weighted=weighted) < 4096


@MODELS_SHAPES
@pytest.mark.parametrize(("output", "loss"), [*FUSED, ("identity", "huber")])
def test_measuring_allocates_nothing(output, loss, seed):
    """The plans of an evaluation, of which validation runs many."""
    rows, units = LARGE
    net = network(gb.Dense(units, "tanh"), gb.Dense(units, output), seed=seed, inputs=units, dtype="float32")
    data = samples(net, gb.LOSSES[loss], rows, weighted=True)
    evaluation = Evaluation(net, gb.LOSSES[loss].bind(net), data, rows)
    (plan,) = (replay.plan for replay in evaluation.replays.values())
    assert allocated(net.device, plan.run, evaluation.data.rewind) < 4096


def test_a_trace_shows_every_z_y_and_gradient_by_name_also_where_f_is_the_identity():
    net = gb.Network(3, [gb.Bias(), gb.Dense(4, bias=False), gb.Dropout(0.5), gb.Dense(2)], dtype="float64")
    trainer = gb.Trainer(net, "squared_error", "sgd")
    seen, formulas = {}, []
    for operation, written in trainer.trace(np.ones((5, 3)), np.ones((5, 2))):
        seen |= written
        formulas.append(operation.formula)
    assert {"y2 = z2", "∇z2 = ∇y2", "y4 = z4 + b4", "∇z4 = ∇y4, ∇b4 = Σ∇z4"} <= set(formulas)
    for number in range(1, 5):
        assert {f"z{number}", f"y{number}", f"∇y{number}", f"∇z{number}"} <= seen.keys()
    np.testing.assert_array_equal(seen["y4"], seen["z4"])
    np.testing.assert_array_equal(seen["∇z4"], seen["∇y4"])


def test_a_device_is_told_all_operations_before_the_first_is_bound():
    done = []
    plan = gb.Plan(open_device("cpu", "float64"))
    plan.device.prepare = lambda operations: done.append([operation.name for operation in operations])
    a, b, out = (np.ones(4) for _ in range(3))
    plan.append(gb.Operation("planted", "", {}, {}, 0, 0, 1, plan.phase, lambda: done.append("bound") or ()))
    plan.add(Operations.multiply, "out = a ⊙ b", {}, out=out, b=b, a=a)
    assert list(plan.operations[1].arguments) == ["a", "b", "out"]
    assert plan.finish() and done == [["planted", "multiply"], "bound"]


def test_a_plan_is_bound_when_it_is_finished_and_what_a_device_fuses_is_never_bound() -> None:
    plan, done = gb.Plan(open_device("cpu")), []

    def planted(name: str) -> gb.Operation:
        return gb.Operation(name, "", {}, {}, 0, 0, 1, plan.phase, lambda: (done.append(name), (lambda: None,))[1])

    def join(_: gb.Plan, operations: list[gb.Operation]) -> list[gb.Operation]:
        return [planted("+".join(operation.name for operation in operations))]

    plan.append(planted("first"))
    plan.append(planted("second"))
    plan.device.fusions = (join,)
    assert not done and plan.finish() is plan
    assert done == ["first+second"] and [operation.name for operation in plan.operations] == done
    plan.run()
    assert done == ["first+second"]
    assert [operation.name for operation, _ in plan.trace()] == ["first+second"]
    assert [operation.name for operation, _ in plan.trace(joined=False)] == done[1:] == ["first", "second"]
