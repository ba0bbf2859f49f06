"""What is needed is told before it is allocated, exactly; and an error leaves everything as it was."""

from __future__ import annotations

import gc
import itertools
from functools import cache

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.network.samples import samples
from gpu_backprop.training import memory, streaming
from gpu_backprop.training.evaluation import Evaluation
from gpu_backprop.training.fit_schedule import FitSchedule
from gpu_backprop.training.minibatches import DataSet, ManualBatch
from gpu_backprop.training.run import Run

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("error")]

RANDOM = np.random.default_rng(0)
ROWS, INPUTS, CLASSES = 61, 5, 3
X = RANDOM.normal(size=(ROWS, INPUTS))
LABELS = RANDOM.integers(0, CLASSES, ROWS)
VALUES = RANDOM.uniform(0.1, 0.9, (ROWS, CLASSES))
WEIGHTS = RANDOM.uniform(0.5, 2, ROWS)
HELD_OUT = X[:23], LABELS[:23]


@pytest.fixture
def pool(monkeypatch):
    """A memory pool of the test's own: in the usual one, arrays that other tests keep lie within larger pieces, so that
    what is free together need not be free in one piece.
    """
    import cupy

    assert network().device.blas.reason  # opened once in a process, and not given back
    pool = cupy.cuda.MemoryPool()
    monkeypatch.setattr(cupy, "get_default_memory_pool", lambda: pool)
    gc.collect()
    with cupy.cuda.using_allocator(pool.malloc):
        yield pool


def network(*, dtype="float32", activation="tanh", output="softmax", dropout=True, seed=0, width=33):
    layers = [gb.Dense(width, activation), *([gb.Dropout(0.25)] if dropout else []), gb.Dense(CLASSES, output)]
    return gb.Network(INPUTS, layers, dtype=dtype, device="cuda:0", seed=seed)


def trainer_of(net=None, **settings):
    return gb.Trainer(net or network(), **{"graph": False, "stream": False, "batch_size": 16, **settings})


def step_needs(trainer, feed, rows):
    return memory.step_needs(trainer.training_step, feed, rows, trainer.manual_steps.total, trainer.graph)


def fit_needs(trainer, data, held_out, batch_size):
    settings = trainer.settings._replace(batch_size=batch_size)
    return memory.fit_needs(trainer.training_step, settings, data, held_out)


# What is told is what is taken ----------------------------------------------------------------------------------------

DTYPES = "float32", "float64", "float16", "bfloat16"
OUTPUTS = {"softmax": "cross_entropy", "sigmoid": "binary_cross_entropy", "identity": "mean_squared_error"}
PARTED = {"dtype": "bfloat16", "output": "softmax", "weighted": True, "seed": [1, 2, 3], "activation": "tanh"}
FORMS = [
    {"dtype": dtype, "output": output, "weighted": weighted, "seed": seed, "activation": activation}
    for (dtype, output), weighted, (seed, activation) in itertools.product(
        zip(DTYPES, (*OUTPUTS, "softmax"), strict=True), (False, True), ((0, "gelu"), ([1, 2, 3], "tanh"))
    )
]


def made(form):
    """A trainer, and targets and weights for it."""
    form = dict(form)
    weighted, output = form.pop("weighted"), form["output"]
    trainer = trainer_of(network(**form), loss=OUTPUTS[output])
    return trainer, LABELS if output == "softmax" else VALUES, WEIGHTS if weighted else None


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_step_takes_what_its_dry_run_says(pool, form):
    trainer, y, weights = made(form)
    rows = 47
    told = trainer.plan(rows, labels=y.ndim == 1, weights=weights is not None)
    needs = step_needs(trainer, ManualBatch(trainer.network, y.ndim == 1, weights is not None), rows)
    before = pool.used_bytes()
    loss = trainer.step(X[:rows], y[:rows], None if weights is None else weights[:rows])
    assert pool.used_bytes() - before == sum(needs.values())
    plan = trainer.manual_steps.replay(rows, y.ndim == 1, weights is not None).plan
    assert told.cost() == plan.cost() and str(told) == str(plan)
    assert sum(needs.values()) >= plan.cost()["memory"]
    assert np.isfinite(np.asarray(loss)).all()


@pytest.mark.parametrize("form", [PARTED, {**PARTED, "seed": 0, "weighted": False}], ids=str)
def test_parts_take_what_their_dry_run_says(pool, form):
    form = dict(form)
    weighted, options = form.pop("weighted"), {"accumulate": 3, "clip_norm": 1.0, "average": 0.9}
    trainer, weights = trainer_of(network(**form), **options), WEIGHTS if weighted else None
    step, rows, data = (
        trainer.training_step,
        47,
        samples(trainer.network, trainer.loss, X, LABELS, weights, values=True),
    )
    needs = step_needs(trainer, ManualBatch(trainer.network, True, weighted), rows)
    before = pool.used_bytes()
    loss = trainer.step(X[:rows], LABELS[:rows], None if weights is None else weights[:rows])
    assert pool.used_bytes() - before == sum(needs.values())
    needs = fit_needs(trainer, data, None, 16)
    before = pool.used_bytes()
    run = Run(step, DataSet(trainer.network, data, shuffled=True), trainer.settings, trainer.history, shuffle=True)
    assert pool.used_bytes() - before == sum(needs.values()) and run.batches and loss is not None


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_fit_takes_what_its_dry_run_says(pool, form):
    trainer, y, weights = made(form)
    data = samples(trainer.network, trainer.loss, X, y, weights, values=True)
    held_out = samples(trainer.network, trainer.loss, X[:20], y[:20], None, values=True)
    needs = fit_needs(trainer, data, held_out, 16)
    before = pool.used_bytes()
    placed = DataSet(trainer.network, data, shuffled=True)
    run = Run(trainer.training_step, placed, trainer.settings, trainer.history, shuffle=True)
    measured = Evaluation(trainer.network, trainer.loss, held_out, 16)
    assert pool.used_bytes() - before == sum(needs.values())
    assert run.batches == [16, 16, 16, 13] and measured.batches == [16, 4]


def metrics_of(form):
    """For some forms those by default; for others what keeps all outputs."""
    return None if form["weighted"] else ["median_absolute_error"] if form["output"] == "identity" else ["log_loss"]


@pytest.mark.parametrize("seed", [0, [1, 2, 3]])
def test_a_schedule_takes_what_its_dry_run_says(pool, seed):
    net = network(seed=seed)
    net.layers[1].schedule = "linear"
    trainer = trainer_of(net, optimizer=gb.AdamW(schedule={"learning_rate": "cosine", "weight_decay": "linear"}))
    step, data = trainer.training_step, samples(net, trainer.loss, X, LABELS, None, values=True)
    schedule = FitSchedule(net, trainer.optimizer, 1, 3, 4)
    needs = memory.fit_needs(step, trainer.settings, data, None, schedule=schedule)
    before = pool.used_bytes()
    placed = DataSet(net, data, shuffled=True)
    run = Run(step, placed, trainer.settings, trainer.history, shuffle=True, schedule=schedule)
    assert pool.used_bytes() - before == sum(needs.values())
    assert run.batches == [16, 16, 16, 13] and needs["schedule"] >= 8 * 12 * (5 + 1)


@pytest.mark.parametrize("form", FORMS[::3], ids=str)
def test_a_measurement_takes_what_its_dry_run_says(pool, form):
    trainer, y, weights = made(form)
    data = samples(trainer.network, trainer.loss, X, y, weights, values=True)
    trainer.batch_size, trainer.metrics = 16, metrics_of(form)
    needs = memory.evaluation_needs(trainer.training_step, trainer.settings, data)
    before = pool.used_bytes()
    measured = Evaluation(trainer.network, trainer.loss, data, 16, metrics=trainer.metrics)
    assert pool.used_bytes() - before == sum(needs.values())
    assert measured.rows == ROWS


@pytest.mark.parametrize("seed", [0, [1, 2]])
@pytest.mark.parametrize("settings", [{"stream": True}, {"one_launch": True}, {"stream": True, "graph": True}], ids=str)
def test_a_streamed_and_a_one_launch_fit_take_what_is_said(pool, monkeypatch, settings, seed):
    trainer = trainer_of(network(dropout=False, seed=seed), **settings)
    asked, running = [], []
    monkeypatch.setattr(trainer.device, "require", lambda needs, *_: asked.append(dict(needs)))
    epoch = Run.epoch

    def seen(run, *args):
        running.append(pool.used_bytes() - before)
        return epoch(run, *args)

    monkeypatch.setattr(Run, "epoch", seen)
    before = pool.used_bytes()
    trainer.fit(X, LABELS, 2, validation=(X[:20], LABELS[:20]), progress=False)
    needs = asked[0]
    assert {"data", "validation data", "snapshots"} <= needs.keys() and ("graphs" in needs) == ("graph" in settings)
    assert running == [sum(needs.values()) - needs.get("graphs", 0)] * 2
    assert pool.used_bytes() - before <= needs["scratch"]  # which the device keeps for its next plan


def test_a_dry_run_takes_nothing_and_compiles_nothing(pool):
    trainer = trainer_of(network(width=37))
    before, compiled = pool.used_bytes(), trainer.device.kernels.compiled
    plan = trainer.plan(1 << 30, weights=True)
    assert plan.cost()["memory"] > 2**39
    assert pool.used_bytes() == before and trainer.device.kernels.compiled == compiled
    with pytest.raises(gb.StateError, match="to look at: none of its memory is allocated"):
        plan.run()


def test_what_a_graph_is_compared_with_is_told(pool):
    trainer = trainer_of(graph=True)
    needs = step_needs(trainer, ManualBatch(trainer.network, True, False), 16)
    plan = trainer.training_step.build(ManualBatch(trainer.network, True, False), 16, trainer.manual_steps.total)
    differing = 512  # a number for each of them
    assert needs["graphs"] == 2 * sum(-(-a.nbytes // 512) * 512 for a in plan.outputs().values()) + differing
    auto = trainer_of(graph="auto")
    assert "graphs" not in step_needs(auto, ManualBatch(auto.network, True, False), 16)


def test_the_workspace_of_the_products_is_told_until_it_is_there(pool, monkeypatch):
    trainer = trainer_of()
    feed = ManualBatch(trainer.network, True, False)
    without = step_needs(trainer, feed, 16)
    monkeypatch.setattr(type(trainer.device._shared), "opened", False)
    assert step_needs(trainer, feed, 16) == {**without, "matrix products": trainer.device.workspace}


def test_data_that_lie_on_the_device_need_no_more(pool):
    import cupy

    trainer = trainer_of()
    data = samples(trainer.network, trainer.loss, cupy.asarray(X, np.float32), cupy.asarray(LABELS), None, values=True)
    assert fit_needs(trainer, data, None, 16).get("data", 0) == 0


# Too much -------------------------------------------------------------------------------------------------------------


def limit(pool, extra):
    """So many bytes, and no more, are free from here on."""
    gc.collect()
    pool.free_all_blocks()
    pool.set_limit(size=pool.used_bytes() + extra)


def total_needs(trainer, held_out, batch_size):
    data = samples(trainer.network, trainer.loss, X, LABELS, None, values=True)
    other = None if held_out is None else samples(trainer.network, trainer.loss, *held_out, None, values=True)
    needs = fit_needs(trainer, data, other, batch_size)
    return sum(needs.values())


@cache
def needs_by_batch_size(validated):
    trainer, held_out = trainer_of(batch_size=64), HELD_OUT if validated else None
    return {batch_size: total_needs(trainer, held_out, batch_size) for batch_size in range(1, ROWS + 1)}


def test_a_step_that_does_not_fit_says_what_would(pool):
    trainer, wide = trainer_of(), (np.tile(X, (100, 1)), np.tile(LABELS, 100))
    feed, fitting = ManualBatch(trainer.network, True, False), 977
    limit(pool, sum(step_needs(trainer, feed, fitting).values()))
    before = pool.used_bytes()
    with pytest.raises(gb.OutOfMemoryError) as raised:
        trainer.step(*wide)
    error = raised.value
    assert pool.used_bytes() == before
    assert isinstance(error, gb.DeviceError) and isinstance(error, MemoryError)
    assert error.needs == step_needs(trainer, feed, 6100)
    assert error.free == sum(step_needs(trainer, feed, fitting).values())
    largest = error.batch_size
    assert largest >= fitting
    said = str(error)
    assert said.startswith("A step of 6,100 rows needs ") and f"A batch size of {largest:,} would fit." in said
    for kind in ("minibatch", "forward", "backward", "scratch", "in all"):
        assert f"\n  {kind} " in said
    with pytest.raises(gb.OutOfMemoryError):
        trainer.step(wide[0][: largest + 1], wide[1][: largest + 1])
    loss = trainer.step(wide[0][:largest], wide[1][:largest])
    assert pool.used_bytes() > before
    assert np.isfinite(float(loss))


@pytest.mark.parametrize("fitting", [30, 20, 13, 7, 2])
@pytest.mark.parametrize("held_out", [None, HELD_OUT], ids=["alone", "with validation"])
def test_the_batch_size_that_is_named_fits_and_is_about_the_largest(pool, fitting, held_out):
    trainer, needs = trainer_of(batch_size=64), needs_by_batch_size(held_out is not None)
    fits = [b for b in needs if needs[b] <= needs[fitting]]
    limit(pool, needs[fitting])
    with pytest.raises(gb.OutOfMemoryError, match=r"\nA batch size of about \d+ would fit\.") as raised:
        trainer.fit(X, LABELS, 1, validation=held_out, progress=False)
    named = raised.value.batch_size
    assert named in fits and named >= max(fits) // 2
    for batch_size, accepted in ((named, True), (max(fits), True), (max(fits) + 1, False)):
        trainer.batch_size = batch_size
        if accepted:
            before = len(trainer.history)
            assert len(trainer.fit(X, LABELS, 2, validation=held_out, progress=False)) == before + 2
        else:
            with pytest.raises(gb.OutOfMemoryError):
                trainer.fit(X, LABELS, 1, validation=held_out, progress=False)


@pytest.mark.parametrize("held_out", [None, HELD_OUT], ids=["alone", "with validation"])
def test_the_largest_batch_size_of_a_streamed_fit(pool, held_out):
    trainer = trainer_of(batch_size=16, stream=True)
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.device, "require", lambda needs, *_: asked.append(sum(needs.values())))
        trainer.fit(X, LABELS, 1, validation=held_out, progress=False)
    trainer = trainer_of(batch_size=64, stream=True)
    limit(pool, asked[0])
    with pytest.raises(gb.OutOfMemoryError) as raised:
        trainer.fit(X, LABELS, 1, validation=held_out, progress=False)
    assert raised.value.batch_size >= 16
    trainer.batch_size = raised.value.batch_size
    assert len(trainer.fit(X, LABELS, 2, validation=held_out, progress=False)) == 2


def test_no_batch_size_fits(pool):
    trainer = trainer_of()
    limit(pool, 4096)
    with pytest.raises(gb.OutOfMemoryError, match=r"No batch size fits: with 1 row it needs .* KiB\.") as raised:
        trainer.fit(X, LABELS, 1, progress=False)
    assert raised.value.batch_size is None
    with pytest.raises(gb.OutOfMemoryError, match="A measurement with batches of 16 rows needs"):
        trainer.evaluate(X, LABELS)


@pytest.mark.parametrize(
    ("rows", "lacking", "advice"),
    [
        (
            128,
            lambda needs: 512,
            r"\nA batch size of about \d+ would fit\. Or .*accumulate=2.* Or use stream='auto', which",
        ),
        (2, lambda needs: needs["data"] // 2, r"\nUse stream='auto', which"),
    ],
    ids=["a smaller batch would do", "no batch size would"],
)
def test_streaming_is_named_where_it_would_make_room(pool, rows, lacking, advice, monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK", 1 << 10)
    x, labels = np.ones((3000, INPUTS), np.float32), np.zeros(3000, int)
    trainer = trainer_of(batch_size=rows, stream=False)
    data = samples(trainer.network, trainer.loss, x, labels, None, values=True)
    needs = fit_needs(trainer, data, None, rows)
    limit(pool, sum(needs.values()) - lacking(needs))
    with pytest.raises(gb.OutOfMemoryError, match=advice):
        trainer.fit(x, labels)
    trainer.stream = "auto"
    assert len(trainer.fit(x, labels, 1, progress=False)) == 1


def test_a_network_that_does_not_fit(pool):
    before = pool.used_bytes()
    limit(pool, 1 << 20)
    with pytest.raises(gb.OutOfMemoryError, match="The network needs 4.* MiB on cuda:0, where 1.0 MiB of") as raised:
        network(dtype="float16", width=50_000)
    assert list(raised.value.needs) == ["parameters", "gradients", "parameters (float16)"]
    assert pool.used_bytes() == before
    with pytest.raises(gb.OutOfMemoryError, match=r"The state of Adam\(.*\n  moments ") as raised:
        trainer_of(network(width=10_000))
    del raised
    gc.collect()
    assert pool.used_bytes() == before


# After it -------------------------------------------------------------------------------------------------------------


def parameters(trainer):
    return trainer.device.to_host(trainer.network.parameters)


def twins(**settings):
    return trainer_of(network(seed=3), **settings), trainer_of(network(seed=3), **settings)


def same(one, other):
    np.testing.assert_array_equal(parameters(one), parameters(other))
    for name, moment in one.optimizer.moments.items():
        np.testing.assert_array_equal(one.device.to_host(moment), other.device.to_host(other.optimizer.moments[name]))


def test_network_optimizer_and_earlier_plans_go_on(pool):
    trainer, twin = twins()
    for one in (trainer, twin):
        one.step(X[:20], LABELS[:20])
    limit(pool, 2 << 20)
    big = np.tile(X, (2000, 1)), np.tile(LABELS, 2000)
    failures = []
    for attempt in (
        lambda: trainer.step(*big), lambda: trainer.evaluate(*big), lambda: trainer.fit(*big, 1, progress=False),
        lambda: trainer.fit(X, LABELS, 1, validation=big, progress=False), lambda: trainer.trace(*big),
    ):  # fmt: skip
        before = pool.used_bytes()
        with pytest.raises(gb.OutOfMemoryError) as raised:
            attempt()
        failures.append(raised)  # as a notebook keeps the last error
        assert pool.used_bytes() == before
    same(trainer, twin)
    for one in (trainer, twin):
        one.step(X[:20], LABELS[:20])
        one.fit(X, LABELS, 2, progress=False)
    same(trainer, twin)
    assert len(failures) == 5


@pytest.mark.parametrize("failing", [0, 1, 5, 9, 14, 19])
def test_an_allocation_that_fails_after_all(pool, monkeypatch, failing):
    """Whichever it is, what was allocated before it is given back."""
    import cupy

    trainer, twin = twins(batch_size=8)
    validation = (X[:20], LABELS[:20])
    trainer.device.work((1 << 8,), np.float32)
    left = [failing]
    empty = cupy.empty

    def scarce(shape, dtype):
        if left[0] == 0:
            raise MemoryError("planted")
        left[0] -= 1
        return empty(shape, dtype)

    failures = []
    for attempt in (
        lambda: trainer.fit(X, LABELS, 1, validation=validation, progress=False),
        lambda: trainer.step(X, LABELS), lambda: trainer.network.predict(X), lambda: trainer.network.forward(X),
    ):  # fmt: skip
        left[0] = min(failing, 1) if failures else failing
        before, scratch = pool.used_bytes(), dict(trainer.device.scratch)
        with monkeypatch.context() as patch:
            patch.setattr(cupy, "empty", scarce)
            with pytest.raises(gb.OutOfMemoryError) as raised:
                attempt()
        failures.append(raised)
        assert pool.used_bytes() == before
        assert trainer.device.scratch.keys() == scratch.keys()
    assert "cannot give" in str(failures[0].value) and "\n  snapshots " in str(failures[0].value)
    assert failures[0].value.needs.keys() >= {"data", "validation", "forward"}
    for one in (trainer, twin):
        one.fit(X, LABELS, 1, validation=validation, progress=False)
    np.testing.assert_array_equal(parameters(trainer), parameters(twin))
