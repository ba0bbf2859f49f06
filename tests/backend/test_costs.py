"""What a step costs, as formulas of its layers: launches on CUDA and bytes of memory traffic, as its plan states them.

tests/gpu/test_audit.py shows that what a device is asked for is what the plan says; docs/cost.md explains both.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from lib.cuda_plan import CudaLikeDevice

import gpu_backprop as gb
from gpu_backprop.network.samples import Samples
from gpu_backprop.training.minibatches import DataSet
from gpu_backprop.training.optimizers import ADAGRAD, ADAM, ADAMW, MOMENTUM, NESTEROV, OPTIMIZERS, PLAIN, RMSPROP

PAGE = (Path(__file__).parents[2] / "docs" / "cost.md").read_text(encoding="utf-8")
FUSED = [("softmax", "cross_entropy"), ("sigmoid", "binary_cross_entropy")]
PRODUCTS_AND_OPTIMIZERS = {"matmul", "update"}
WIDTHS = pytest.mark.parametrize(
    "widths", [(7, 3), (5, 8, 3), (16, 16, 16, 16), (4, 9, 1, 12, 6), (3, 5, 5, 5, 5, 5, 2)], ids=repr
)


def plan_of(widths_or_layers, loss="cross_entropy", optimizer="adam", *, output="softmax", hidden="relu", **given):
    """A step of fit: gathered, trained on, advanced; joined: as CUDA joins its operations."""
    defaults = {"rows": 12, "seed": 0, "dtype": "float32", "labels": None, "weighted": False, "reduction": "mean"}
    form = {**defaults, "joined": False} | given
    inputs, *layers = widths_or_layers
    if isinstance(layers[-1], int):
        layers = [*(gb.Dense(n, hidden) for n in layers[:-1]), gb.Dense(layers[-1], output)]
    net = gb.Network(inputs, layers, dtype=form["dtype"], device="cpu", seed=form["seed"])
    loss = type(gb.LOSSES[loss])(reduction=form["reduction"])
    trainer = gb.Trainer(net, loss, optimizer)
    labels = loss.labels if form["labels"] is None else form["labels"]
    looked_at = CudaLikeDevice(net.device) if form["joined"] else None
    target = np.zeros(40, np.int64) if labels else np.full((40, net.outputs), 1 / net.outputs)
    data = DataSet(net, Samples(np.zeros((40, inputs)), target, np.ones(40) if form["weighted"] else None))
    total = net.device.zeros((*net.models_shape, 3), np.float64)
    return trainer.training_step.build(data, form["rows"], total, device=looked_at)


def launches(*args, **form):
    return plan_of(*args, **form).cost()["launches"]


def elementwise_bytes(plan):
    return sum(o.bytes for o in plan.operations if o.name not in PRODUCTS_AND_OPTIMIZERS)


def bytes_of(plan, name):
    return sum(o.bytes for o in plan.operations if o.name == name)


# Launches -------------------------------------------------------------------------------------------------------------


@WIDTHS
@pytest.mark.parametrize(("output", "loss"), FUSED)
@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, gb.SGD(0.1, 0.9), gb.SGD(0.1, 0.9, True)], ids=str)
def test_a_plain_step(widths, output, loss, optimizer):
    """5L + 2: gather, L products and L − 1 activations forward, the fused loss, ∇b of the last layer, 2L − 1 products
    and L − 1 gradients of activations backward, the optimizer, advance."""
    depth = len(widths) - 1
    plan = plan_of(widths, loss, optimizer, output=output)
    assert plan.cost()["launches"] == 5 * depth + 2
    assert plan.cost()["path"] == 4 * depth + 1
    count = {name: sum(o.launches for o in plan.operations if o.name == name) for name in plan_names(plan)}
    update = plan.operations[-1].name
    expected = {
        "gather": 1, "matmul": 3 * depth - 1, "bias_activate": depth - 1, f"{output}_cross_entropy": 1,
        "column_sum": 1, "activation_gradient": depth - 1, update: 1, "advance": 1,
    }  # fmt: skip
    assert count == {name: number for name, number in expected.items() if number}


@WIDTHS
@pytest.mark.parametrize(("output", "loss"), FUSED)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_plain_step_on_cuda(widths, output, loss, dtype):
    """5L − 2: z of the last layer, the loss, ∇b, ∇y of the layer below and its ∇z with ∇b are the head; 5 where there
    is no layer below, with which two of these are not there."""
    depth = len(widths) - 1
    plan = plan_of(widths, loss, output=output, dtype=dtype, joined=True)
    assert plan.cost()["launches"] == (5 * depth - 2 if depth > 1 else 5)
    assert plan.cost()["path"] == (4 * depth - 2 if depth > 1 else 4)
    names = [o.name for o in plan.operations]
    assert names.count("head") == 1 and names.count("matmul") == 3 * depth - 1 - min(depth, 2)
    assert not {"column_sum", f"{output}_cross_entropy"} & {*names}


@pytest.mark.parametrize(("layers", "form", "launched"), [
    ([7, gb.Dense(6, "relu"), gb.Dense(32, "softmax")], {}, 8),
    ([7, gb.Dense(6, "relu"), gb.Dense(33, "softmax")], {}, 12),
    ([7, gb.Dense(6, "relu"), gb.Dense(3, "softmax", bias=False)], {}, 8),
    ([7, gb.Dense(6), gb.Dense(3, "softmax")], {}, 8),
    ([7, gb.Dense(6, "gelu", bias=False), gb.Dense(3, "softmax")], {}, 8),
    ([7, gb.Dense(6, "softmax"), gb.Dense(3, "softmax")], {}, 10),
    ([7, gb.Dense(6, "relu"), gb.Dropout(0.5), gb.Dense(3, "softmax")], {}, 11),
    ([7, gb.Dense(6, "relu", trainable=False), gb.Dense(3, "softmax")], {}, 7),
    ([7, gb.Dense(6, "relu"), gb.Dense(3, "softmax", trainable=False)], {}, 7),
    ([7, gb.Dense(6, "relu"), gb.Dense(3)], {"loss": "huber"}, 8),
    ([7, gb.Dense(6, "relu"), gb.Dense(3, "tanh")], {"loss": "huber"}, 13),
    ([7, gb.Dense(6, "relu"), gb.Dense(3, "softmax")], {"loss": "focal"}, 8),
    ([7, gb.Dense(6, "relu"), gb.Dense(3, "softmax")], {"seed": [1, 2, 3], "weighted": True}, 9),
    ([7, gb.Dense(9_000, "relu"), gb.Dense(10, "softmax")], {}, 12),
], ids=str)  # fmt: skip
def test_what_a_head_takes_in(layers, form, launched):
    """A Dense of at most 32 outputs with its loss, and of the layer below what is done by elements; where its weights
    do not fit a block's memory, nothing."""
    assert launches(layers, **form, joined=True) == launched


def plan_names(plan):
    return {operation.name for operation in plan.operations}


@pytest.mark.parametrize("form", [{"rows": 1}, {"rows": 40}, {"dtype": "float64"}, {"seed": [1, 2, 3]}], ids=str)
def test_rows_dtype_and_members_add_none(form):
    assert launches((5, 8, 3), **form) == 5 * 2 + 2


@pytest.mark.parametrize("hidden", gb.ACTIVATIONS)
def test_hidden_activations(hidden):
    """None more, but for softmax, whose gradient goes to a kernel of its own before ∇b is summed."""
    rowwise = gb.ACTIVATIONS[hidden].rowwise
    assert rowwise == (hidden == "softmax")
    for depth in (2, 4):
        widths = (5, *[6] * (depth - 1), 3)
        assert launches(widths, hidden=hidden) == 5 * depth + 2 + (depth - 1) * rowwise
        assert launches(widths, hidden=hidden, joined=True) == 5 * depth - 2 + depth * rowwise


UNFUSED = [
    (output, name)
    for output in gb.ACTIVATIONS
    for name, loss in gb.LOSSES.items()
    if (not loss.needs or output in loss.needs) and loss.fused != output
]


@pytest.mark.parametrize(("output", "loss"), UNFUSED)
def test_a_loss_that_is_not_fused(output, loss):
    """+1: y, ∇y and ∇z apart in place of ∇z and ∇b, in three launches of two; +2 where the output is a softmax. With
    few outputs there is a head only where e is a function of z."""
    if output == "identity" or gb.LOSSES[loss].of_z(gb.ACTIVATIONS[output]) is not None:
        row = "a loss that is not fused, on outputs without an activation, or written in z"
    else:
        row = f"a loss that is not fused, on {'softmax' if output == 'softmax' else 'other'} outputs: there is no head"
    added, to_few = ROWS[row]
    for depth in (2, 3):
        few, many = ((5, *[6] * (depth - 1), outputs) for outputs in (3, 33))
        assert launches(few, loss, output=output) == launches(many, loss, output=output, joined=True)
        assert launches(few, loss, output=output) == 5 * depth + 2 + added
        assert launches(few, loss, output=output, joined=True) == 5 * depth - 2 + to_few
    assert launches((5, 3), loss, output=output) == 5 + 2 + added


UNITS = gb.Dense(6, "relu")
EXTRAS = {
    "a softmax in a hidden layer": ([gb.Dense(6, "softmax"), UNITS], {}, {}),
    "a softmax in the last hidden layer": ([UNITS, gb.Dense(6, "softmax")], {}, {}),
    "each Dropout": ([UNITS, gb.Dropout(0.5), UNITS], {}, {}),
    "a Dropout before the last layer": ([UNITS, gb.Dropout(0.5)], {}, {}),
    "a Dropout of the inputs": ([gb.Dropout(0.5), UNITS], {}, {}),
    "a Periodic of the inputs": ([gb.Periodic(2), UNITS], {}, {}),
    "a Periodic between layers": ([UNITS, gb.Periodic(2), UNITS], {}, {}),
    "a Periodic before the last layer": ([UNITS, gb.Periodic(2)], {}, {}),
    "sample weights": ([UNITS], {}, {"weighted": True}),
    "targets that are probabilities": ([UNITS], {}, {"labels": False}),
    "a Bias layer": ([UNITS, gb.Bias("tanh")], {}, {}),
    "a Bias layer without activation": ([UNITS, gb.Bias()], {}, {}),
    "a Bias layer of the inputs": ([gb.Bias("tanh"), UNITS], {}, {}),
    "a Scale layer": ([UNITS, gb.Scale(), UNITS], {}, {}),
    "a Scale layer of the inputs": ([gb.Scale(), UNITS], {}, {}),
    "a hidden Dense without bias": ([gb.Dense(6, "relu", bias=False)], {}, {}),
    "a hidden Dense without bias and activation": ([gb.Dense(6, bias=False), UNITS], {}, {}),
    "the last hidden Dense without bias and activation": ([UNITS, gb.Dense(6, bias=False)], {}, {}),
    "a last Dense without bias": ([UNITS], {"bias": False}, {}),
}
"""What adds to the launches of a plain step with as many Dense layers, by the rows of the page: the layers below the
last, how the last one is made, and the form of the step."""


def rows_of_the_page():
    """By its words, what each row of the page adds to 5L + 2, and to 5L − 2."""
    table = PAGE.partition("| what | to 5L + 2 | to 5L − 2 |\n| --- | --- | --- |\n")[2].partition("\n\n")[0]
    rows = (line.strip("| ").split(" | ") for line in table.splitlines())
    return {what: tuple(int(number.replace("−", "-")) for number in added) for what, *added in rows}


ROWS = rows_of_the_page()


def test_the_page_has_no_row_that_is_not_counted():
    """Of losses and of float16, whose launches tests/gpu/test_precision.py counts, there are tests of their own."""
    others = {what for what in ROWS if what.startswith(("a loss that is not fused", "float16"))}
    assert len(others) == 4 and ROWS.keys() - others == EXTRAS.keys()


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_extras(extra, reduction):
    below, options, form = EXTRAS[extra]
    few, many = ([7, *below, gb.Dense(outputs, "softmax", **options)] for outputs in (3, 33))
    depth = 1 + sum(isinstance(layer, gb.Dense) for layer in below)
    plain = 5 * depth + 2
    joined = {**form, "reduction": reduction, "joined": True}
    assert launches(few, **form, reduction=reduction) == launches(many, **joined)
    assert (launches(many, **joined) - plain, launches(few, **joined) - (plain - 4)) == ROWS[extra]


def test_a_second_dropout():
    """The first one's count of steps serves it too."""
    dropout = gb.Dropout(0.5)
    layers = [7, UNITS, dropout, UNITS, dropout, gb.Dense(3, "softmax")]
    each, last = ROWS["each Dropout"], ROWS["a Dropout before the last layer"]
    assert launches(layers) == 5 * 3 + 2 + each[0] + last[0]
    assert launches(layers, joined=True) == 5 * 3 - 2 + each[1] + last[1]


def test_a_step_by_hand_does_not_gather():
    net = gb.Network(5, [gb.Dense(8, "relu"), gb.Dense(3, "softmax")], device="cpu")
    assert gb.Trainer(net).plan().cost()["launches"] == 5 * 2 + 2 - 1


# Bytes ----------------------------------------------------------------------------------------------------------------


@WIDTHS
@pytest.mark.parametrize("models", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("labels", [True, False], ids=["labels", "probabilities"])
def test_elementwise_bytes(widths, models, dtype, labels):
    """5 s B N a hidden layer: z read and y written; ∇y and y read and ∇z written. 3 of the last one: z read and ∇z
    written by the loss, and ∇z read for ∇b. 2 of the inputs: gathered. With L equal layers 5 s B N L in all. Beside it
    stand b and ∇b, the targets, and a few numbers."""
    rows, s = 12, np.dtype(dtype).itemsize
    inputs, *hidden, outputs = widths
    plan = plan_of(widths, dtype=dtype, labels=labels, rows=rows, seed=0 if models == 1 else list(range(models)))
    activations = s * rows * (2 * inputs + 5 * sum(hidden) + 3 * outputs)
    biases = 2 * s * (sum(hidden) + outputs)
    targets = 3 * rows * (8 if labels else s * outputs)
    totals = 3 * 8
    smoothing = 8  # the only number of this loss
    order = 8 * rows  # which rows the minibatch has
    cursor = 3 * 8  # read by gather, and counted up by advance
    step = 2 * 8  # counted up by it too
    expected = models * (activations + biases + targets + totals + smoothing + order + step) + cursor
    expected += 8 * models * (models > 1)  # which members run
    assert elementwise_bytes(plan) == expected
    equal = set(widths) == {widths[0]}
    assert (activations == 5 * s * rows * widths[0] * (len(widths) - 1)) is equal


@pytest.mark.parametrize("hidden", gb.ACTIVATIONS)
def test_bytes_of_hidden_activations(hidden):
    """One pass more where f′ is written in z, which then has to stay, in a buffer of its own; two fewer where f is the
    identity, of which only ∇b is left to do."""
    plan, plain = (plan_of((5, 8, 3), hidden=f) for f in (hidden, "relu"))
    one = 4 * 12 * 8
    reads = gb.ACTIVATIONS[hidden].reads
    added = {"y": 0, "z": one, "": -2 * one}[reads]
    assert elementwise_bytes(plan) - elementwise_bytes(plain) == added
    assert plan.cost()["memory"] - plain.cost()["memory"] == (one if reads == "z" else 0)


@pytest.mark.parametrize(("output", "added"), [("identity", 2), ("tanh", 4), ("softmax", 4), ("gelu", 5)])
def test_bytes_of_a_loss_that_is_not_fused(output, added):
    """y is written apart from ∇y, and ∇z made of both."""
    fused = plan_of((5, 8, 3), labels=False)
    apart = plan_of((5, 8, 3), "half_squared_error", output=output)
    assert elementwise_bytes(apart) - elementwise_bytes(fused) == added * 4 * 12 * 3


def test_bytes_of_dropout():
    """Forward x, mask and y, backward ∇y, mask and ∇x pass; so do the rate and its scale, and seed, layer and step,
    which is counted up."""
    plain = plan_of((7, 6, 3))
    dropped = plan_of([7, gb.Dense(6, "relu"), gb.Dropout(0.5), gb.Dense(3, "softmax")])
    one = 4 * 12 * 6
    layers = 3
    assert elementwise_bytes(dropped) - elementwise_bytes(plain) == 6 * one + (2 + 3) * 8 + 2 * 8 * layers


def test_bytes_of_sample_weights():
    """w is gathered, added up, and read by the loss, and so are whether its sum is 0 and 1/Σw; what counts the step and
    the optimizer look at the former."""
    plain, weighted = (plan_of((7, 6, 3), weighted=w) for w in (False, True))
    gathered, read, total = 2 * 4 * 12, 2 * 4 * 12, 3 * 8
    assert elementwise_bytes(weighted) - elementwise_bytes(plain) == gathered + read + total + 8 + 3 * 8
    assert bytes_of(weighted, "update") - bytes_of(plain, "update") == 8


OPTIMIZER_BYTES = {
    gb.SGD(): 12,
    gb.SGD(0.1, 0.9): 20,
    gb.SGD(0.1, 0.9, True): 20,
    gb.RMSprop(): 20,
    gb.Adagrad(): 20,
    gb.Adam(): 28,
    gb.AdamW(): 28,
}


@pytest.mark.parametrize(("optimizer", "each"), OPTIMIZER_BYTES.items(), ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_optimizer_bytes(optimizer, each, dtype):
    """W and ∇W read and W written, and each moment read and written: 12, 20 or 28 bytes a parameter in float32."""
    plan = plan_of((5, 8, 3), optimizer=optimizer, dtype=dtype)
    (operation,) = [o for o in plan.operations if o.name == "update"]
    hyper = 8 * (1 + len(optimizer.settings))
    parameters = plan.buffers["parameters"].size
    assert operation.bytes == each * np.dtype(dtype).itemsize // 4 * parameters + hyper


@pytest.mark.parametrize(
    ("rule", "each"),
    [(PLAIN, 2), (MOMENTUM, 4), (NESTEROV, 6), (RMSPROP, 10), (ADAGRAD, 8), (ADAM, 11), (ADAMW, 12)],
    ids=lambda value: getattr(value, "name", None),
)
def test_optimizer_flops(rule, each):
    """Those of its C++ text: operators, roots and the clipping of a gradient; W less the change, and W times 1 − ηλ."""
    plan = plan_of((5, 8, 3), optimizer=gb.Optimizer(rule))
    (operation,) = [o for o in plan.operations if o.name == "update"]
    assert operation.flops == each * plan.buffers["parameters"].size


@WIDTHS
def test_product_bytes_and_flops(widths):
    """s (B N + N M + B M) and 2 B N M for z = x@W, for ∇W = xᵀ@∇z and, but for the first layer, for ∇x = ∇z@Wᵀ."""
    rows = 12
    plan = plan_of(widths, rows=rows)
    times = [2, *[3] * (len(widths) - 2)]
    moved = [rows * n + n * m + rows * m for n, m in pairwise(widths)]
    worked = [2 * rows * n * m for n, m in pairwise(widths)]
    assert bytes_of(plan, "matmul") == 4 * sum(t * b for t, b in zip(times, moved, strict=True))
    flops = sum(o.flops for o in plan.operations if o.name == "matmul")
    assert flops == sum(t * f for t, f in zip(times, worked, strict=True))
