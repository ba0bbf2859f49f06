"""What the tests of CUDA graphs train, eagerly and captured, and how they compare what comes out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.training.minibatches import ManualBatch

ROWS, TAIL, BATCHES = 4, 3, 3
COUNT = ROWS * BATCHES + TAIL
DTYPES = ("float32", "float64", "float16", "bfloat16")
OPTIMIZERS = {
    **{name: name for name in ("sgd", "rmsprop", "adagrad", "adam", "adamw")},
    "momentum": gb.SGD(0.05, 0.9),
    "Nesterov": gb.SGD(0.05, 0.9, True),
}
PLAIN = (gb.Dense(8, "relu"), gb.Dense(3, "softmax"))


class Case:
    """A network, what it learns, and how; made anew for every way to run it, with the same bits."""

    def __init__(
        self, *layers, optimizer="adam", loss=None, labels=True, weighted=False, count=COUNT, options=None, **form
    ):  # fmt: skip
        self.layers, self.optimizer, self.loss, self.labels = layers or PLAIN, optimizer, loss, labels
        self.weighted, self.count, self.options, self.form = weighted, count, options or {}, form

    def trainer(self, graph):
        net = gb.Network(5, list(self.layers), device="cuda", **self.form)
        return gb.Trainer(net, self.loss, self.optimizer, batch_size=ROWS, graph=graph, **self.options)

    def data(self, outputs):
        rng = np.random.default_rng(0)
        x = rng.normal(0, 1, (self.count, 5))
        labels, numbers = rng.integers(0, max(outputs, 2), self.count), rng.dirichlet(np.ones(outputs), self.count)
        return x, labels if self.labels else numbers, rng.uniform(0, 2, self.count) if self.weighted else None

    def fit(self, graph, epochs=3, validation=False):
        trainer = self.trainer(graph)
        x, y, weights = self.data(trainer.network.outputs)
        held_out = (x[:7], y[:7]) if validation else None
        trainer.fit(x, y, epochs, weights=weights, progress=False, validation=held_out)
        return state(trainer)


def state(trainer):
    """All that training leaves behind, as bytes, and the losses."""
    arrays = {
        "parameters": trainer.network.parameters,
        "gradients": trainer.network.gradients,
        "random": trainer.network.random,
        "hyper": trainer.optimizer.hyper,
        **trainer.optimizer.moments,
    }
    arrays |= {"half parameters": trainer.network.half_parameters, "scaling": trainer.scaling.state}
    arrays["average"] = trainer.training_step.averaging.average
    rows = [{k: v for k, v in row.items() if "second" not in k} for row in trainer.history]
    return {"history": repr(rows)} | {
        k: trainer.device.to_host(array).tobytes() for k, array in arrays.items() if array is not None
    }


def loss_cases():
    """Every loss on the outputs that it is for, fused and not, in every dtype; the optimizers take turns, so that each
    meets every dtype."""
    losses = [
        (name, output, labels)
        for name, loss in gb.LOSSES.items()
        for output in loss.needs or ("identity", "softmax")
        for labels in sorted({False, loss.labels})
    ]
    for (k, (name, output, labels)), dtype in itertools.product(enumerate(losses), DTYPES):
        optimizer = list(OPTIMIZERS)[k % len(OPTIMIZERS)]
        case = Case(
            gb.Dense(8, "tanh"), gb.Dense(1 if labels and output == "sigmoid" else 3, output),
            loss=name, labels=labels, optimizer=OPTIMIZERS[optimizer], weighted=k % 3 == 0, dtype=dtype,
        )  # fmt: skip
        yield pytest.param(case, id=f"{name} of {output}, {'labels' if labels else 'numbers'}, {optimizer}, {dtype}")


HIDDEN = [gb.Dense(4, f) for f in gb.ACTIVATIONS]
EVERYTHING = (
    gb.Dropout(0.2), gb.Dense(8, "gelu"), gb.Dropout(0.5), gb.Bias("tanh"), gb.Dense(6, bias=False),
    gb.Dense(3, "softmax"),
)  # fmt: skip
STEPPING = {"clip_norm": 0.1, "average": 0.9, "accumulate": 3}
FORMS = {
    "every activation": Case(*HIDDEN, gb.Dense(3, "softmax")),
    "dropout": Case(*EVERYTHING),
    "weights": Case(weighted=True),
    "members": Case(*EVERYTHING, weighted=True, seed=[1, 2, 3]),
    "members, float16": Case(*EVERYTHING, seed=[1, 2], dtype="float16"),
    "members, float64": Case(seed=[1, 2], dtype="float64", optimizer="sgd"),
    "in parts, clipped and averaged": Case(*EVERYTHING, gb.Dense(3, "softmax", max_norm=0.7), options=STEPPING),
    "the same, members, float16": Case(
        gb.Dropout(0.2),
        gb.Dense(8, "tanh", max_norm=0.7),
        gb.Dense(3, "softmax"),
        weighted=True,
        options=STEPPING,
        seed=[1, 2],
        dtype="float16",
    ),
    "no tail": Case(count=ROWS * BATCHES),
    "one row left": Case(count=ROWS * BATCHES + 1),
    "one layer": Case(gb.Dense(3, "softmax")),
}


def steps(case, graph, count, between=None):
    """Some steps by hand, of two sizes in turns."""
    trainer = case.trainer(graph)
    x, y, weights = case.data(trainer.network.outputs)
    losses = []
    for k in range(count):
        rows = slice(0, ROWS if k % 2 else TAIL)
        losses.append(np.asarray(trainer.step(x[rows], y[rows], None if weights is None else weights[rows])).tolist())
        if between:
            between(trainer, k)
    return state(trainer) | {"losses": losses}


def fed(case, rows=ROWS):
    """A plan of a step by hand, with a minibatch in it, and its device."""
    trainer = case.trainer(False)
    x, y, weights = (None if a is None else a[:rows] for a in case.data(trainer.network.outputs))
    feed = ManualBatch(trainer.network, case.labels, case.weighted)
    plan = trainer.training_step.build(feed, rows, trainer.device.zeros((*trainer.network.models_shape, 3), np.float64))
    data = trainer.manual_steps.minibatch(x, y, weights)
    feed.load(plan, data)
    return plan, trainer.device


def run(plan):
    with plan.device.computing():
        plan.run()


def same(plan, twin):
    return all(
        plan.device.to_host(array).tobytes() == twin.device.to_host(twin.outputs()[name]).tobytes()
        for name, array in plan.outputs().items()
    )
