"""Optimizers from outside on CUDA: rules of tests/own_optimizers.py, of which no kernel knows anything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from own_optimizers import LION, RIDGE, AdaBelief, Lion, follow

import gpu_backprop as gb

pytestmark = pytest.mark.gpu

RNG = np.random.default_rng(0)
X, LABELS, WEIGHTS = RNG.normal(size=(30, 4)), RNG.integers(0, 3, 30), RNG.uniform(0, 2, 30)
BATCHES = [(X[k : k + 5], LABELS[k : k + 5]) for k in range(0, 30, 5)]
WEIGHTED = [(x, y, WEIGHTS[k : k + 5] * (k != 2)) for k, (x, y) in enumerate(BATCHES)]
TOLERANCE = {"float64": 1e-12, "float32": 2e-6, "float16": 1e-5, "bfloat16": 1e-5}
RATES = [0.01, 0.002]

OWN = {
    "Lion": lambda rate=0.01: Lion(rate, weight_decay=0.1),
    "a rule alone": lambda rate=0.01: gb.Optimizer(LION, learning_rate=rate, beta1=0.75),
    "AdaBelief": lambda rate=0.01: AdaBelief(rate, epsilon=1e-6),
}

own = pytest.mark.parametrize("own", OWN.values(), ids=OWN)
graph = pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])


def trainer(optimizer, dtype="float64", seed=3, device="cuda", **options):
    layers = [gb.Dense(6, "tanh"), gb.Dense(3, "softmax")]
    return gb.Trainer(gb.Network(4, layers, dtype=dtype, seed=seed, device=device), None, optimizer, **options)


@own
@graph
@pytest.mark.parametrize("batches", [BATCHES, WEIGHTED], ids=["", "weights"])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_it_follows_its_authors(own, dtype, graph, batches):
    """A batch whose weights are all 0 is no step."""
    follow(trainer(own(), dtype, graph=graph), batches, TOLERANCE[dtype])
    follow(trainer(own(RATES), dtype, [3, 4], graph=graph), batches, TOLERANCE[dtype])


@graph
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_rule_that_reads_the_parameters(dtype, graph):
    optimizer = gb.Optimizer(RIDGE, learning_rate=RATES, penalty=[0.5, 0.1])
    follow(trainer(optimizer, dtype, [3, 4], graph=graph), WEIGHTED, TOLERANCE[dtype])


@graph
def test_loss_scaling(graph):
    """Gradients are read divided by S, and a step in which one of them overflows is none."""
    it = trainer(Lion(0.01), "float16", graph=graph)
    it.device.copy_in(it.scaling.state, np.array([2.0**20, 0, 0]))
    (taken,) = follow(it, BATCHES, 1e-5)
    assert 0 < taken < 6
    assert it.device.to_host(it.scaling.state).tolist() == [2.0 ** (20 - 6 + taken), taken, 6 - taken]


@own
@graph
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_settings_may_change_between_steps(own, dtype, graph):
    changes = {
        2: {"beta1": np.float32(0.5), "learning_rate": np.array(0.02)},
        4: {"beta1": [0.25, 0.75], "beta2": np.array([0.5, 0.6]), "learning_rate": (0.001, 0.03)},
        5: {"beta1": 0.0},
    }
    follow(trainer(own(), dtype, seed=[5, 6], graph=graph), BATCHES, TOLERANCE[dtype], changes)


@own
@pytest.mark.parametrize(("seed", "rate"), [(3, 0.01), ([3, 4], RATES)], ids=["one", "members"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_in_one_launch(own, dtype, seed, rate):
    """As in ordinary steps, on CUDA and on the CPU; a setting that is changed between fits too."""
    found = []
    for options in ({"one_launch": True}, {"graph": True}, {"device": "cpu"}):
        it = trainer(own(rate), dtype, seed, batch_size=7, **options)
        it.fit(X, LABELS, 2, progress=False)
        it.optimizer.beta1 = 0.5
        it.fit(X, LABELS, 1, progress=False)
        found.append([it.device.to_host(a) for a in (it.network.parameters, *it.optimizer.moments.values())])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_allclose(a, b, 10 * TOLERANCE[dtype], 10 * TOLERANCE[dtype])


def test_a_rule_without_a_text_is_for_the_cpu():
    rule = replace(LION, cuda="")
    with pytest.raises(gb.DeviceError, match="'lion' has no C[+][+] text .*; give its UpdateRule one as cuda"):
        trainer(gb.Optimizer(rule)).step(*BATCHES[0])
    with pytest.raises(gb.DeviceError, match="'lion' has no C[+][+] text"):
        trainer(gb.Optimizer(rule), one_launch=True).fit(X, LABELS, 1, progress=False)


def test_a_text_that_does_not_compile_is_shown():
    rule = replace(LION, cuda=LION.cuda.replace("rest2", "rest3"))
    with pytest.raises(gb.DeviceError, match="update.* does not compile on cuda:0: .*rest3"):
        trainer(gb.Optimizer(rule)).step(*BATCHES[0])


def test_integers_in_coefficients_are_numbers():
    """1/2 would be 0 in C++."""
    halved = {**LION.coefficients, "rate": "2 * learning_rate * (1/2) * power(2, 1 - step) * power(C(2), C(step) - 1)"}
    for dtype in ("float64", "float32"):
        follow(trainer(gb.Optimizer(replace(LION, coefficients=halved)), dtype), BATCHES, TOLERANCE[dtype])
