"""Every optimizer, step by step, against the formula that its authors published, in plain Python."""

from __future__ import annotations

from math import inf, nan, sqrt

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.operations import Operations
from gpu_backprop.backend.plan import Plan
from gpu_backprop.training.optimizers import RULES, optimizer

STEPS = 7


def sgd(w, gradients, rate, momentum=0.0, nesterov=False):
    """Sutskever et al. 2013, equations 1 to 4, in the form that takes ∇W at W: v ← μv + g."""
    v = 0.0
    for g in gradients:
        v = momentum * v + g
        w = w - rate * (g + momentum * v if nesterov else v)
        yield w


def rmsprop(w, gradients, rate, decay=0.9, epsilon=1e-8):
    """Tieleman and Hinton 2012, lecture 6e: the mean square forgets with ρ."""
    v = 0.0
    for g in gradients:
        v = decay * v + (1 - decay) * g * g
        w = w - rate * g / (sqrt(v) + epsilon)
        yield w


def adagrad(w, gradients, rate, epsilon=1e-10):
    """Duchi, Hazan and Singer 2011, with the diagonal of G."""
    v = 0.0
    for g in gradients:
        v += g * g
        w = w - rate * g / (sqrt(v) + epsilon)
        yield w


def adam(w, gradients, rate, beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0.0):
    """Kingma and Ba 2015, algorithm 1, and Loshchilov and Hutter 2019, algorithm 2: the decay acts beside the step."""
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        w = w - rate * (m_hat / (sqrt(v_hat) + epsilon) + weight_decay * w)
        yield w


def nadam(w, gradients, rate, beta1=0.9, beta2=0.999, epsilon=1e-8, momentum_decay=0.004):
    """Dozat 2016, algorithm 8, with its schedule of μ, as PyTorch's NAdam has it."""
    m = v = 0.0
    product = 1.0
    for t, g in enumerate(gradients, 1):
        mu, ahead = (beta1 * (1 - 0.5 * 0.96 ** (k * momentum_decay)) for k in (t, t + 1))
        product *= mu
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        m_hat = ahead * m / (1 - product * ahead) + (1 - mu) * g / (1 - product)
        w = w - rate * m_hat / (sqrt(v / (1 - beta2**t)) + epsilon)
        yield w


def radam(w, gradients, rate, beta1=0.9, beta2=0.999, epsilon=1e-8):
    """Liu et al. 2020, algorithm 2, with ε where PyTorch's RAdam has it."""
    m = v = 0.0
    longest = 2 / (1 - beta2) - 1
    for t, g in enumerate(gradients, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        m_hat, length = m / (1 - beta1**t), longest - 2 * t * beta2**t / (1 - beta2**t)
        if length > 5:
            r = sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
            w = w - rate * m_hat * r * sqrt(1 - beta2**t) / (sqrt(v) + epsilon)
        else:
            w = w - rate * m_hat
        yield w


def lion(w, gradients, rate, beta1=0.9, beta2=0.99, weight_decay=0.0):
    """Chen et al. 2023, algorithm 2."""
    m = 0.0
    for g in gradients:
        c = beta1 * m + (1 - beta1) * g
        w = w - rate * ((c > 0) - (c < 0) + weight_decay * w)
        m = beta2 * m + (1 - beta2) * g
        yield w


CASES = [
    (gb.SGD, sgd, {}),
    (gb.SGD, sgd, {"momentum": 0.9}),
    (gb.SGD, sgd, {"momentum": 0.5, "nesterov": True}),
    (gb.RMSprop, rmsprop, {}),
    (gb.RMSprop, rmsprop, {"decay": 0.0}),
    (gb.RMSprop, rmsprop, {"decay": 0.5, "epsilon": 0.1}),
    (gb.Adagrad, adagrad, {}),
    (gb.Adagrad, adagrad, {"epsilon": 0.5}),
    (gb.Adam, adam, {}),
    (gb.Adam, adam, {"beta1": 0.5, "beta2": 0.9, "epsilon": 0.01}),
    (gb.Adam, adam, {"beta1": 0.0, "beta2": 0.0}),
    (gb.AdamW, adam, {"weight_decay": 0.01}),
    (gb.AdamW, adam, {"weight_decay": 0.5, "beta1": 0.3, "epsilon": 1e-3}),
    (gb.AdamW, adam, {"weight_decay": 0.0}),
    (gb.NAdam, nadam, {}),
    (gb.NAdam, nadam, {"beta1": 0.5, "beta2": 0.9, "epsilon": 0.01, "momentum_decay": 0.0}),
    (gb.NAdam, nadam, {"beta1": 0.0, "momentum_decay": 10.0}),
    (gb.RAdam, radam, {}),
    (gb.RAdam, radam, {"beta1": 0.5, "beta2": 0.9, "epsilon": 0.01}),
    (gb.RAdam, radam, {"beta2": 0.6}),
    (gb.RAdam, radam, {"beta2": 0.0}),
    (gb.Lion, lion, {}),
    (gb.Lion, lion, {"beta1": 0.5, "beta2": 0.5, "weight_decay": 0.3}),
]
NAMES = [f"{kind.__name__} {settings or ''}" for kind, _, settings in CASES]
ALL = [gb.Optimizer(rule, **({"weight_decay": 0.1} if rule.decays else {})) for rule in RULES]


def network(**settings):
    return gb.Network(3, [gb.Dense(5, "tanh"), gb.Dense(2)], **{"dtype": "float64", **settings})


def drive(net, chosen, gradients):
    """Counts and runs the step of an optimizer with gradients from outside; yields the parameters after each step."""
    bound = chosen.bind(net)
    plan = Plan(net.device)
    net.emit_parameters(plan)
    plan.add(Operations.advance, "t += 1", {}, None, 0, None, None, bound.step_number(plan))
    bound.update(plan, net)
    for g in gradients:
        for (_, _, view), values in zip(net.parameter_arrays(), g, strict=True):
            view[...] = values
        with net.device.computing():
            plan.run()
        yield bound, net.parameters.copy()


def random_gradients(net, count=STEPS, seed=0):
    """Arrays for each parameter; some numbers large, some small, some 0."""
    rng = np.random.default_rng(seed)
    steps = []
    for _ in range(count):
        arrays = [
            rng.normal(0, 1, g.shape) * 10.0 ** rng.integers(-6, 4, g.shape) for _, _, g in net.parameter_arrays()
        ]
        arrays[0][0, 0] = 0
        steps.append(arrays)
    return steps


# Against the formulas -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "formula", "settings"), CASES, ids=NAMES)
def test_step_by_step(kind, formula, settings):
    net = network()
    start, gradients = [p.copy() for _, p, _ in net.parameter_arrays()], random_gradients(net)
    for step, _ in enumerate(drive(net, kind(0.03, **settings), gradients)):
        for k, (name, parameters, _) in enumerate(net.parameter_arrays()):
            for place in np.ndindex(parameters.shape):
                history = [float(g[k][place]) for g in gradients[: step + 1]]
                *_, want = formula(float(start[k][place]), history, 0.03, **settings)
                where = f"{name}{list(place)} after step {step + 1}"
                assert parameters[place] == pytest.approx(want, rel=1e-12, abs=1e-15), where


@pytest.mark.parametrize(("kind", "formula", "settings"), CASES, ids=NAMES)
def test_single_precision_follows(kind, formula, settings):
    net = network(dtype="float32")
    start = float(net.layers[0].weight[1, 2])
    gradients = [[np.full(g.shape, 0.1 * (-1) ** t * t) for _, _, g in net.parameter_arrays()] for t in range(1, 31)]
    _ = list(drive(net, kind(0.01, **settings), gradients))
    *_, want = formula(start, [0.1 * (-1) ** t * t for t in range(1, 31)], 0.01, **settings)
    assert net.parameters.dtype == np.float32
    assert net.layers[0].weight[1, 2] == pytest.approx(want, abs=2e-6)


def test_defaults_are_those_of_the_papers():
    assert gb.SGD().settings == {"learning_rate": 0.1}
    assert gb.RMSprop().settings == {"learning_rate": 0.001, "decay": 0.9, "epsilon": 1e-8}
    assert gb.Adagrad().settings == {"learning_rate": 0.01, "epsilon": 1e-10}
    adam = {"learning_rate": 0.001, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
    assert gb.Adam().settings == adam
    assert gb.AdamW().settings == adam | {"weight_decay": 0.01}
    assert gb.NAdam().settings == adam | {"learning_rate": 0.002, "momentum_decay": 0.004}
    assert gb.RAdam().settings == adam
    assert gb.Lion().settings == {"learning_rate": 0.0001, "beta1": 0.9, "beta2": 0.99}


def test_the_learning_rate_may_change_between_steps():
    """From the next step on; the moments and the step number go on."""
    net, rates = network(), [0.1, 0.1, 0.001, 0.5, 0.5]
    start, gradients = net.layers[0].weight[0, 1].item(), random_gradients(net, count=5)
    m = v = 0.0
    want = start
    for t, (rate, (bound, _), g) in enumerate(zip(rates, driven(net, rates, gradients), gradients, strict=True), 1):
        assert bound.learning_rate == rate
        m, v = 0.9 * m + 0.1 * g[0][0, 1], 0.999 * v + 0.001 * g[0][0, 1] ** 2
        want -= rate * (m / (1 - 0.9**t)) / (sqrt(v / (1 - 0.999**t)) + 1e-8)
        assert net.layers[0].weight[0, 1] == pytest.approx(want, rel=1e-12)


def driven(net, rates, gradients):
    """Adam, whose learning rate is set before each step but the first."""
    steps = drive(net, gb.Adam(rates[0]), gradients)
    for k in range(len(rates)):
        yield (bound := next(steps))
        if k + 1 < len(rates):
            bound[0].learning_rate = rates[k + 1]


# What must not change -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", ALL, ids=repr)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_batch_without_weight_changes_nothing(chosen, reduction):
    """Σw = 0: not a bit of the parameters, the moments or the step number, in the middle of a run."""
    net = network()
    trainer = gb.Trainer(net, gb.HalfSquaredError(reduction=reduction), chosen)
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, (4, 3)), rng.normal(0, 1, (4, 2))
    for _ in range(2):
        trainer.step(x, y, [1, 2, 0, 1])
    state = (net.parameters, trainer.optimizer.hyper, *trainer.optimizer.moments.values())
    before = [a.tobytes() for a in state]
    assert float(trainer.step(x, y, [0, 0, 0, 0])) == 0
    assert [a.tobytes() for a in state] == before
    trainer.step(x, y, [0, 1e-9, 0, 0])
    assert [a.tobytes() for a in state] != before


@pytest.mark.parametrize("seed", [0, [0, 1]], ids=["one", "members"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("chosen", ALL, ids=repr)
def test_padding_stays_zero(chosen, dtype, seed):
    net = network(dtype=dtype, seed=seed)
    trainer = gb.Trainer(net, None, chosen)
    rng = np.random.default_rng(0)
    for _ in range(5):
        trainer.step(rng.normal(0, 1, (4, 3)), rng.normal(0, 1, (4, 2)))
    flat = [net.parameters, net.gradients, *trainer.optimizer.moments.values()]
    for _, parameters, _ in net.parameter_arrays():
        assert np.abs(parameters).max() > 0
        parameters[...] = 0
    assert not net.parameters.any()
    padding = np.ones(net.parameters.shape, bool)
    step = 256 // net.dtype.itemsize
    for start, size in zip(range(0, 4 * step, step), (15, 5, 10, 2), strict=True):
        padding[..., start : start + size] = False
    for array in flat[1:]:
        assert (array[padding] == 0).all() and array[~padding].all()


@pytest.mark.parametrize("chosen", ALL, ids=repr)
def test_a_gradient_of_zero_moves_nothing_but_by_momentum(chosen):
    net = network()
    zeros = [[np.zeros(g.shape) for _, _, g in net.parameter_arrays()]] * 3
    before = net.parameters.copy()
    _ = list(drive(net, chosen, zeros))
    factor = (1 - 0.1 * chosen.learning_rate) ** 3 if chosen.rule.decays else 1.0
    np.testing.assert_allclose(net.parameters, before * factor, rtol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("chosen", ALL, ids=repr)
def test_a_network_without_parameters_has_its_steps(chosen, dtype):
    net = gb.Network(3, [gb.Dropout(0.5)], dtype=dtype, device="cpu")
    assert float(gb.Trainer(net, "squared_error", chosen).step(np.ones((2, 3)), np.zeros((2, 3)))) >= 0


def test_one_optimizer_object_for_two_networks():
    """A trainer binds a copy: neither state nor settings are shared."""
    chosen = gb.Adam(0.01)
    one, other = gb.Trainer(network(), None, chosen), gb.Trainer(network(seed=1), None, chosen)
    x, y = np.ones((2, 3)), np.ones((2, 2))
    one.step(x, y)
    one.optimizer.learning_rate = 0.5
    assert chosen.hyper is None and not chosen.moments
    assert other.optimizer.hyper[0] == 0 and not other.optimizer.moments["m"].any()
    assert other.optimizer.learning_rate == chosen.learning_rate == 0.01


def test_moments_are_those_that_are_needed():
    net = network()
    assert list(gb.SGD(0.1).bind(net).moments) == []
    assert list(gb.SGD(0.1, momentum=0.9).bind(net).moments) == ["velocity"]
    assert list(gb.Adam().bind(net).moments) == ["m", "v"]
    assert all(m.shape == net.parameters.shape for m in gb.Adam().bind(net).moments.values())


# Settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        *(
            (lambda v=v: gb.SGD(v), "learning_rate of SGD must be a finite number > 0, got")
            for v in (0, -1, nan, inf, "1", True, None)
        ),
        (lambda: gb.Adam([0.1, 0.0]), r"learning_rate of Adam must be a finite number > 0, got \[0.1, 0.0\]"),
        (lambda: gb.SGD(0.1, momentum=1.0), r"momentum of SGD must be a number in \[0, 1\), got 1.0"),
        (lambda: gb.SGD(0.1, nesterov=True), "nesterov=True needs a momentum > 0"),
        (lambda: gb.SGD(0.1, 0.9, nesterov=1), "nesterov must be True or False, got 1"),
        (lambda: gb.RMSprop(0.1, decay=-0.1), r"decay of RMSprop must be a number in \[0, 1\), got -0.1"),
        (lambda: gb.RMSprop(0.1, epsilon=0), "epsilon of RMSprop must be a finite number ≥ 1e-30, got 0"),
        (lambda: gb.Adam(0.1, epsilon=1e-60), "epsilon of Adam must be a finite number ≥ 1e-30, got 1e-60"),
        (lambda: gb.Adagrad(0.1, epsilon=nan), "epsilon of Adagrad must be a finite number ≥ 1e-30, got nan"),
        (lambda: gb.Adam(0.1, beta1=1), r"beta1 of Adam must be a number in \[0, 1\), got 1"),
        (lambda: gb.Adam(0.1, beta2=-1), "beta2 of Adam must be"),
        (lambda: gb.AdamW(0.1, weight_decay=-1e-3), "weight_decay of AdamW must be a finite number ≥ 0, got -0.001"),
        (lambda: optimizer("adma"), "unknown optimizer 'adma'. Did you mean 'adam'"),
        (lambda: optimizer(gb.Adam), r"must be an object, got the class Adam: write Adam\(\)"),
        (lambda: optimizer(0.1), "must be a name or an Optimizer, got float 0.1"),
    ],
)
def test_settings_are_checked(make, message):
    with pytest.raises(gb.InputError, match=message):
        make()


@pytest.mark.parametrize("kind", [gb.Adam, gb.AdamW, gb.RMSprop, gb.Adagrad])
def test_the_least_epsilon_keeps_a_weight_without_gradient_finite(kind):
    net = gb.Network(3, [gb.Dense(2)], dtype="float32")
    gb.Trainer(net, "squared_error", kind(0.1, epsilon=1e-30)).step(np.zeros((4, 3)), np.ones((4, 2)))
    assert np.isfinite(net.parameters).all()


def test_a_bad_learning_rate_changes_nothing():
    bound = gb.Adam(0.01).bind(network())
    with pytest.raises(gb.InputError, match="must be a finite number > 0, got -1"):
        bound.learning_rate = -1
    assert bound.learning_rate == bound.hyper[1] == 0.01


@pytest.mark.parametrize("name", gb.OPTIMIZERS)
def test_by_name(name):
    assert optimizer(name).name == name
    assert optimizer(name).describe() == gb.OPTIMIZERS[name]().describe()


def test_an_optimizer_of_another_network():
    bound = gb.Adam().bind(network())
    for chosen in (bound, gb.Adam()):
        with pytest.raises(gb.StateError, match=r"use optimizer\.bind\(network\)"):
            chosen.update(Plan(bound.network.device), network())


def test_an_optimizer_says_what_it_is():
    assert repr(gb.SGD(0.1, momentum=0.9, nesterov=True)) == "SGD(learning_rate=0.1, momentum=0.9, nesterov=True)"
    assert repr(gb.Adam(0.01)) == "Adam(learning_rate=0.01, beta1=0.9, beta2=0.999, epsilon=1e-08)"
    assert repr(gb.AdamW(0.01)).endswith("weight_decay=0.01)")
