"""Folds on CUDA: each member's rows, however they reach the device, and the mean of the members."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.training import streaming

pytestmark = pytest.mark.gpu

ROWS, BATCH, SEEDS = 61, 8, [4, 9, 3]
RNG = np.random.default_rng(2)
X, Y, WEIGHTS = RNG.normal(size=(ROWS, 4)).astype("f"), RNG.normal(size=(ROWS, 2)), RNG.uniform(0.5, 2, ROWS)
LABELS = RNG.integers(0, 2, ROWS)
UNEQUAL = RNG.permutation(np.repeat([0, 1, 2], [5, 20, 36]))

OWN_ROWS = [RNG.permutation(ROWS)[:n] for n in (21, 50, 8)]

ROW_FORMS = {
    "eager": {"graph": False},
    "graph": {"graph": True, "weights": WEIGHTS},
    "own weights": {"weights": RNG.uniform(0.5, 2, (3, ROWS)) * (RNG.random((3, ROWS)) < 0.7)},
    "in parts": {"accumulate": 2},
    "streamed": {"stream": True},
    "in order, streamed, own weights": {"stream": True, "shuffle": False, "weights": RNG.uniform(0.5, 2, (3, ROWS))},
    "classes": {"y": LABELS, "class_weight": ["balanced", {0: 2.0}, None]},
}
FORMS = {
    "eager": {"graph": False},
    "graph": {"graph": True, "weights": WEIGHTS},
    "auto": {"folds": UNEQUAL},
    "one launch": {"one_launch": True, "folds": UNEQUAL},
    "in parts": {"accumulate": 2, "weights": WEIGHTS},
    "streamed": {"stream": True, "folds": UNEQUAL},
    "in order, streamed": {"stream": True, "shuffle": False},
    "classes": {"y": LABELS, "class_weight": "balanced", "metrics": ["roc_auc"], "folds": UNEQUAL},
}


@pytest.fixture(autouse=True)
def blocks_of_two_minibatches(monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK", 2 * BATCH * len(SEEDS) * (4 * 4 + 2 * 4))


def fit(device, *, y=Y, weights=None, class_weight=None, shuffle=True, dtype="float32", rows=None, **options):
    net = gb.Network(
        4, [gb.Dense(5, "tanh"), gb.Dense(2, "softmax" if y.ndim == 1 else "identity")], device=device, seed=SEEDS,
        dtype=dtype,
    )  # fmt: skip
    which = {"folds": options.pop("folds", 3)} if rows is None else {"rows": rows, "validation": "rest"}
    trainer = gb.Trainer(net, None, gb.Adam(0.01), batch_size=BATCH, **options)
    trainer.fit(
        X, y, 4, weights=weights, class_weight=class_weight, shuffle=shuffle, progress=False, early_stopping=True,
        **which,
    )  # fmt: skip
    return trainer


def on_both(form, **options):
    """Trainers that trained on CUDA and on the CPU, and whose histories are the same."""
    of_cpu = {name: value for name, value in form.items() if name not in ("graph", "stream", "one_launch")}
    cuda, cpu = fit("cuda", **form, **options), fit("cpu", **of_cpu, **options)
    for row, expected in zip(cuda.history, cpu.history, strict=True):
        for name in set(row) - {"epoch", "seconds", "samples_per_second"}:
            np.testing.assert_allclose(row[name], expected[name], 2e-4, 2e-5)
    assert cuda.history.best_epoch == cpu.history.best_epoch
    return cuda, cpu


@pytest.mark.parametrize("form", ROW_FORMS.values(), ids=ROW_FORMS)
def test_each_member_learns_from_rows_of_its_own(form):
    cuda, cpu = on_both(form, rows=OWN_ROWS)
    parameters = (trainer.device.to_host(trainer.network.parameters) for trainer in (cuda, cpu))
    np.testing.assert_allclose(*parameters, 2e-4, 2e-4)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_it_learns_and_measures_what_a_cpu_does(form):
    cuda, cpu = on_both(form)
    np.testing.assert_allclose(cuda.out_of_fold(), cpu.out_of_fold(), 2e-4, 2e-4)
    found, expected = (trainer.evaluate_out_of_fold() for trainer in (cuda, cpu))
    assert found["loss"] == pytest.approx(expected["loss"], 1e-4)
    assert len(found["folds"]) == 3


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_the_mean_is_formed_on_the_device(dtype):
    net = fit("cuda", dtype=dtype).network
    members = net.predict(X)
    net.averaged = True
    mean = net.predict(X, batch_size=16)
    assert mean.shape == (ROWS, 2) and mean.dtype == net.device.master
    np.testing.assert_allclose(mean, members.astype(np.float64).mean(axis=0), 1e-6, 1e-6)
    x = net.device.from_host(X)
    trainer = gb.Trainer(net)
    assert trainer.evaluate(x, Y) == trainer.evaluate(X, Y)
    squares = ((mean.astype(np.float64) - Y) ** 2).sum(axis=1)
    assert trainer.evaluate(X, Y)["loss"] == pytest.approx(0.5 * squares.mean(), 1e-6)


def test_rows_and_folds_that_lie_on_the_device():
    of_host = fit("cuda", folds=UNEQUAL, graph=False)
    net = gb.Network(4, [gb.Dense(5, "tanh"), gb.Dense(2)], device="cuda", seed=SEEDS, dtype="float32")
    trainer = gb.Trainer(net, None, gb.Adam(0.01), batch_size=BATCH, graph=False)
    x, y, folds = (net.device.from_host(array) for array in (X, Y, UNEQUAL))
    trainer.fit(x, y, 4, folds=folds, progress=False, early_stopping=True)
    np.testing.assert_array_equal(trainer.out_of_fold(), of_host.out_of_fold())
    assert trainer.evaluate_out_of_fold() == of_host.evaluate_out_of_fold()
