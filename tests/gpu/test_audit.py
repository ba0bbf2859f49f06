"""The audit: what a step asks of the device is what its plan says, launch by launch, and nothing beside.

Launches, copies and waits are seen in the trace of an emulated device; allocations by CuPy's pool, on any device. The
plan's own claims are tested as formulas in tests/backend/test_costs.py.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from tracing import TRACE, device_trace, launches, traced

import gpu_backprop as gb
from gpu_backprop.backend.kernel_text import functor_name
from gpu_backprop.backend.plan import Plan
from gpu_backprop.backend.signatures import heads
from gpu_backprop.network.losses import FORMULAS
from gpu_backprop.network.samples import Samples
from gpu_backprop.training.evaluation import Evaluation
from gpu_backprop.training.fit_schedule import FitSchedule, FollowedSchedule
from gpu_backprop.training.minibatches import DataSet
from gpu_backprop.training.one_launch import build_launch
from gpu_backprop.training.optimizers import OPTIMIZERS, REGULARIZED, RULES

pytestmark = pytest.mark.gpu

STEPS = 3
ROWS = 4


class Step:
    """A plan on the device, and how its data begin anew."""

    def __init__(self, plan: Plan, data: DataSet) -> None:
        self.plan, self.data = plan, data

    def run(self) -> None:
        self.data.rewind()
        with self.plan.device.computing():
            for _ in range(STEPS):
                self.plan.run()


def network(*layers, inputs=8, dtype="float32", seed=0):
    return gb.Network(inputs, list(layers), dtype=dtype, device="cuda", seed=seed)


def samples(net, loss, labels, weighted, count=40):
    target = np.arange(count) % net.outputs if labels else np.full((count, net.outputs), 1 / net.outputs)
    x = np.random.default_rng(0).normal(0, 1, (count, net.inputs))
    return Samples(x, target, np.ones(count) if weighted else None)


def training_step(
    *layers, loss=None, optimizer="adam", labels=None, weighted=False, rows=ROWS, reduction="mean", fuse=True,
    options=None, **form,
):  # fmt: skip
    net = network(*(layers or PLAIN), **form)
    loss = type(gb.LOSSES[loss])(reduction=reduction) if loss else None
    trainer = gb.Trainer(net, loss, optimizer, **(options or {}))
    labels = trainer.loss.labels if labels is None else labels
    data = DataSet(net, samples(net, trainer.loss, labels, weighted, count=STEPS * rows))
    total = net.device.zeros((*net.models_shape, 3), np.float64)
    table = FitSchedule(net, trainer.optimizer, 1, 20, STEPS)
    followed = FollowedSchedule(table, 20 * STEPS, net.device) if table else None
    return Step(trainer.training_step.build(data, rows, total, fuse=fuse, schedule=followed), data)


def one_launch_epochs(**form):
    """Epochs in one launch each, in place of steps."""
    net = network(*PLAIN, **form)
    trainer = gb.Trainer(net, one_launch=True, batch_size=ROWS)
    data = DataSet(net, samples(net, trainer.loss, True, False))
    total = net.device.zeros((*net.models_shape, 3), np.float64)
    return Step(build_launch(trainer.training_step, data, trainer.batch_size, data.rows, total), data)


def measuring_step(output, loss):
    net = network(gb.Dense(8, "relu"), gb.Dense(3, output))
    data = samples(net, gb.LOSSES[loss], gb.LOSSES[loss].labels, True)
    evaluation = Evaluation(net, gb.LOSSES[loss].bind(net), data, ROWS)
    return Step(evaluation.replays[ROWS].plan, evaluation.data)


PLAIN = (gb.Dense(8, "relu"), gb.Dense(3, "softmax"))
EVERYTHING = (
    gb.Dropout(0.2), gb.Dense(8, "gelu"), gb.Dropout(0.5), gb.Bias("tanh"), gb.Dense(6, bias=False),
    gb.Dense(5, "softmax"), gb.Bias(), gb.Dense(4, "silu", bias=False), gb.Dense(3, "identity"),
)  # fmt: skip


def loss_cases():
    """Every loss on the outputs that it is for, fused and not, with weights and without; labels where it takes them."""
    for name, loss in gb.LOSSES.items():
        for output in loss.needs or ("identity", "softmax"):
            for labels in {False, loss.labels}:
                layers = gb.Dense(8, "relu"), gb.Dense(3, output)
                yield (
                    f"{name} of {output}, {'labels' if labels else 'numbers'}",
                    lambda layers=layers, name=name, labels=labels: training_step(
                        *layers, loss=name, labels=labels, weighted=labels or name == "huber"
                    ),
                )


BOUNDED = gb.Dense(8, "relu", max_norm=0.5), gb.Dense(3, "softmax", max_norm=1.0)
STEPPING = {"clip_norm": 0.5, "average": 0.9, "accumulate": 3}

CASES = {
    "plain": training_step,
    "one layer": lambda: training_step(gb.Dense(3, "softmax")),
    "five layers": lambda: training_step(*[gb.Dense(8, "relu")] * 4, gb.Dense(3, "softmax")),
    "one row": lambda: training_step(rows=1),
    "many rows and columns": lambda: training_step(gb.Dense(65, "relu"), gb.Dense(3, "softmax"), inputs=33, rows=700),
    "weights": lambda: training_step(weighted=True),
    "weights, summed": lambda: training_step(weighted=True, reduction="sum"),
    "members": lambda: training_step(seed=[1, 2, 3], weighted=True),
    "everything": lambda: training_step(*EVERYTHING),
    "everything, members": lambda: training_step(*EVERYTHING, seed=[1, 2]),
    "everything, kept apart": lambda: training_step(*EVERYTHING, fuse=False),
    "softmax, kept apart": lambda: training_step(fuse=False),
    "sigmoid, kept apart": lambda: training_step(gb.Dense(8, "relu"), gb.Dense(3, "sigmoid"), fuse=False),
    "sigmoid": lambda: training_step(gb.Dense(8, "relu"), gb.Dense(3, "sigmoid")),
    **{dtype: lambda dtype=dtype: training_step(dtype=dtype) for dtype in ("float64", "float16", "bfloat16")},
    "scales": lambda: training_step(gb.Scale(), gb.Dense(8, "mish", init="ntp"), gb.Scale(), gb.Dense(3, "softmax")),
    "everything, float16": lambda: training_step(*EVERYTHING, dtype="float16"),
    **{f"{f} hidden": lambda f=f: training_step(gb.Dense(8, f), gb.Dense(3, "softmax")) for f in gb.ACTIVATIONS},
    **{name: lambda name=name: training_step(optimizer=name) for name in OPTIMIZERS},
    "momentum": lambda: training_step(optimizer=gb.SGD(0.1, 0.9)),
    "Nesterov": lambda: training_step(optimizer=gb.SGD(0.1, 0.9, True)),
    "Nesterov, float16": lambda: training_step(optimizer=gb.SGD(0.1, 0.9, True), dtype="float16"),
    "with every penalty": lambda: training_step(optimizer=gb.Optimizer(REGULARIZED)),
    **dict(loss_cases()),
    **{
        f"focal of {output}, kept apart": lambda output=output: training_step(
            gb.Dense(8, "relu"), gb.Dense(3, output), loss="focal", fuse=False
        )
        for output in ("softmax", "sigmoid")
    },
    **{
        f"{loss} of 33 {output} outputs": lambda output=output, loss=loss: training_step(
            gb.Dense(8, "relu"), gb.Dense(33, output), loss=loss
        )
        for output, loss in (
            ("softmax", "cross_entropy"),
            ("softmax", "focal"),
            ("sigmoid", "binary_cross_entropy"),
            ("identity", "huber"),
        )
    },
    "members with a head of rows that are padded": lambda: training_step(
        gb.Dense(9, "tanh"), gb.Dense(10, "sigmoid"), seed=[1, 2], rows=50
    ),
    "a schedule": lambda: training_step(optimizer=gb.Adam(schedule="cosine")),
    "in parts, clipped, averaged and bounded": lambda: training_step(*BOUNDED, weighted=True, options=STEPPING),
    "the same, members": lambda: training_step(*BOUNDED, weighted=True, options=STEPPING, seed=[1, 2], dtype="float16"),
    "periodic": lambda: training_step(gb.Periodic(5), *PLAIN),
    "periodic inside, members, float16": lambda: training_step(
        gb.Dense(6, "tanh"), gb.Periodic(4, 3, 7), gb.Dense(3, "softmax"), seed=[1, 2], dtype="float16"
    ),
    "one_launch": one_launch_epochs,
    "one_launch, members": lambda: one_launch_epochs(seed=[1, 2, 3]),
    "accuracy": lambda: measuring_step("softmax", "cross_entropy"),
    "R² and MAE": lambda: measuring_step("identity", "half_squared_error"),
}
GEMM = {
    "matmul": ["gemm"],
    "matmul_activate": ["gemm+relu_bias", "gemm+relu_aux_bias", "gemm+gelu_aux_bias"],
    "matmul_activation_gradient": ["gemm+drelu", "gemm+drelu_bgrad", "gemm+dgelu", "gemm+dgelu_bgrad"],
    "matmul_column_sum": ["gemm+bgrada"],
}
"""The products, with the epilogues that tests/gpu/test_epilogues.py asks for."""

SOFTMAX = {
    "bias_activate": [["bias_activate"], ["softmax"]],
    "activation_gradient": [["activation_gradient"], ["softmax_gradient"], ["softmax_gradient", "column_sum"]],
}
"""The kernels of the operations that may need others where f is softmax."""


@pytest.fixture(params=CASES)
def step(request):
    return CASES[request.param]()


def kernel(what: str) -> str:
    """The plain name of a kernel that is a template's instance; its mangled name is _Z, its length, itself."""
    mangled = re.match(r"_Z(\d+)", what)
    return what[mangled.end() :][: int(mangled[1])] if mangled else what


def expected(operation) -> list[list[str]]:
    """The launches that an operation may be."""
    if operation.name.startswith("matmul"):
        return [[name] for name in GEMM[operation.name]]
    if operation.name == "all_reduce":  # of tests/gpu/test_nccl.py
        return [["nccl"]]
    return SOFTMAX.get(operation.name, [["bias_activate" if operation.name == "add_bias" else operation.name]])


def check_trace(step: Step) -> None:
    """Every event of some steps is a launch, as many as the plan says and those of its operations, in their order."""
    step.run()  # what the first step does once
    step.data.rewind()
    with step.plan.device.computing():
        events = TRACE.of(lambda: [step.plan.run() for _ in range(STEPS)])
    assert {e.event for e in events} == {"submit"}
    submitted = [kernel(e.what) for e in events]
    seen = [what for before, what in pairwise(["", *submitted]) if (before, what) != ("nccl", "event")]  # its own mark
    assert len(seen) == STEPS * step.plan.cost()["launches"]
    for operation in step.plan.operations * STEPS:
        assert len(operation.calls) == operation.launches
        names, seen = seen[: operation.launches], seen[operation.launches :]
        assert names in expected(operation), operation
        library = "nccl" if operation.name == "all_reduce" else "gemm"
        kernels = [getattr(c, "kernel", library).partition("<")[0] for c in operation.calls]
        assert [name.partition("+")[0] for name in names] == kernels


def check_allocations(step: Step) -> None:
    """A second run asks neither the pool nor the device for memory."""
    import cupy

    pool = cupy.get_default_memory_pool()
    step.run()
    step.data.rewind()
    held = pool.used_bytes(), pool.total_bytes(), pool.n_free_blocks()
    with device_trace.allocations() as sizes, step.plan.device.computing():
        for _ in range(STEPS):
            step.plan.run()
    assert sizes == []
    assert (pool.used_bytes(), pool.total_bytes(), pool.n_free_blocks()) == held


@traced
def test_a_step_is_what_its_plan_says(step):
    check_trace(step)


def test_a_second_step_allocates_nothing(step):
    check_allocations(step)


def test_every_kernel_of_a_step_is_audited():
    """No kernel and no row of the tables is without a case."""
    steps = [build() for build in CASES.values()]
    seen = {call.kernel for s in steps for o in s.plan.operations for call in o.calls if hasattr(call, "kernel")}
    assert {name.partition("<")[0] for name in seen} == set(heads()) - {"compare"}  # which runs before the first replay
    rows = [*(f for f in gb.ACTIVATIONS.values() if not f.rowwise), *FORMULAS, *RULES]
    arguments = {argument for name in seen for argument in re.split(r"[<>, ]+", name)}
    assert {functor_name(row) for row in rows} <= arguments


# Whole runs -----------------------------------------------------------------------------------------------------------


def fit_events(batches, epochs, dtype):
    net = network(*PLAIN, dtype=dtype)
    trainer = gb.Trainer(net, optimizer="adam", batch_size=ROWS, graph=False)
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, (ROWS * batches, 8)), rng.integers(0, 3, ROWS * batches)
    # in the order of the rows: else a thread that draws the next one takes what it needs whenever it comes to it
    return TRACE.of(lambda: trainer.fit(x, y, epochs=epochs, shuffle=False, progress=False))


@traced
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_epoch_is_its_steps_and_a_little_that_does_not_grow(dtype):
    """Twice the minibatches are so many more launches, and no other event more."""
    epochs = 2
    for _ in range(8):  # until the pools have what it takes, and each pinned buffer had its turn
        fit_events(12, epochs, dtype)
    few, many = ([(e.event, kernel(e.what)) for e in fit_events(batches, epochs, dtype)] for batches in (6, 12))
    launched = {("submit", name) for name in ("gemm", *heads())}
    launched -= {("submit", "copy"), ("submit", "sum_of_squares")}  # before the first step, and after the last
    each = training_step(dtype=dtype).plan.cost()["launches"]
    assert [sum(e in launched for e in seen) for seen in (few, many)] == [epochs * 6 * each, epochs * 12 * each]
    assert [e for e in few if e not in launched] == [e for e in many if e not in launched]


@traced
def test_a_step_by_hand_is_its_plan_and_copies():
    net = network(*PLAIN)
    trainer = gb.Trainer(net, graph=False)
    x, y = np.ones((ROWS, 8), np.float32), np.arange(ROWS) % 3
    trainer.step(x, y)
    events = TRACE.of(lambda: trainer.step(x, y))
    names = [kernel(e.what) for e in events if e.event == "submit" and e.what != "event"]
    launched = [name for name in names if name != "memcpy"]
    assert len(launched) == trainer.plan(ROWS).cost()["launches"] == 5 * 2 - 2 - 1
    assert names.count("memcpy") == 4  # x, y*, the total to 0, and what step returns
    assert "blocking" not in {e.event for e in events}


@traced
@pytest.mark.parametrize("number", [0, 1])
def test_the_five_networks_on_record(number):
    """bench/launches.py finds today what bench/results/launches.json says, CuPy's launches and allocations too."""
    record = json.loads(launches.RESULTS.read_text(encoding="utf-8"))
    assert launches.account(launches.CASES[number], TRACE) == record["networks"][number]


# Bytes of 16-bit networks, which a CPU does not have ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_bytes_of_a_sixteen_bit_step(dtype):
    """Half the elementwise bytes; biases and the optimizer are in float32, which also writes what products read. In
    float16 the loss reads its scale, ∇ is read once more, for 1/S, and the optimizer reads 1/S.

    What is as large in both dtypes: each bias and ∇b; each label, in the set, in the minibatch and in the loss; the
    sums of the loss; the order of the rows; where the minibatch begins, read once and moved on, as the step; the loss's
    number. In float16 then S; ∇, the state of the scaling, which is read and written, and 1/S, which what counts the
    step reads too. The optimizer updates W and two moments and reads ∇, all float32, writes W in 16 bits too, and reads
    hyper: step, η, β₁, β₂, ε. The head reads W, and writes ∇z in rows of 16 bytes.
    """
    plan = training_step(gb.Dense(16, "relu"), gb.Dense(3, "softmax"), inputs=7, dtype=dtype).plan
    operations = {o.name: o for o in plan.operations}
    products = sum(o.bytes for o in plan.operations if o.name == "matmul")
    activations = 2 * ROWS * (2 * 7 + 4 * 16 + 8) + 2 * 16 * 3
    stated = 2 * 4 * (16 + 3) + 3 * 8 * ROWS + 3 * 8 + 8 * ROWS + 5 * 8 + 8
    scaled, size = dtype == "float16", plan.buffers["parameters"].size
    stated += scaled * (8 + 4 * size + 2 * 3 * 8 + 2 * 8)
    assert plan.cost()["bytes"] - products - operations["update"].bytes == activations + stated
    assert operations["update"].bytes == 30 * size + 5 * 8 + scaled * 8


# What the audit has to find -------------------------------------------------------------------------------------------


def planted(fault: str) -> Step:
    """A plain step whose first operation does something more on the sly."""
    import cupy

    step = training_step()
    plan, stream = step.plan, step.plan.device.stream
    z, total = plan.buffers["z1"], plan.buffers["E"]
    gather, product = plan.operations[0].calls[0], plan.operations[1].calls[0]
    more = {
        "nothing": lambda: None,
        "a launch": gather,
        "a product": product,
        "a fill": lambda: z.data.memset_async(0, 4, stream),
        "a copy": lambda: z.data.copy_from_device_async(z.data + 64, 4, stream),
        "a read": total.get,
        "a wait": stream.synchronize,
        "an allocation": lambda: cupy.empty(1000),
    }[fault]

    def call():
        gather()
        more()

    call.kernel = gather.kernel
    plan.operations[0] = replace(plan.operations[0], bind=lambda: (call,))
    return step


@traced
@pytest.mark.parametrize("fault", ["a launch", "a product", "a fill", "a copy", "a read", "a wait"])
def test_the_trace_shows(fault):
    check_trace(planted("nothing"))
    with pytest.raises(AssertionError):
        check_trace(planted(fault))


def test_the_pool_shows_an_allocation():
    check_allocations(planted("nothing"))
    with pytest.raises(AssertionError):
        check_allocations(planted("an allocation"))


@traced
def test_a_claim_of_fewer_launches_is_found():
    step = training_step()
    step.plan.operations[2] = replace(step.plan.operations[2], launches=0)
    with pytest.raises(AssertionError):
        check_trace(step)
