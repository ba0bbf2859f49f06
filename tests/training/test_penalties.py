"""What any optimizer may do besides its own step: penalties l1 and l2, decoupled weight decay, clipping by value."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.operations import Operations
from gpu_backprop.backend.plan import Plan
from gpu_backprop.training.optimizers import OPTIMIZERS, PLAIN

W = [0.5, -0.25, 1.0]
G = [[0.5 * (-1) ** t * t, 0.25, 0.125 * (t - 4)] for t in range(1, 9)]

PYTORCH = [
    (gb.SGD(0.1, 0.9, l2=0.05), None, [0.38352905262631776, -0.9131973039192383, 1.0135399741723468]),
    (gb.SGD(0.1, 0.9, True, l2=0.05), None, [0.17285016925780836, -1.0202870398723813, 0.914384182914793]),
    (gb.RMSprop(0.01, l2=0.05), None, [0.5058233529730283, -0.3973620540781327, 0.9706759906193129]),
    (gb.Adagrad(0.01, l2=0.05), None, [0.5021058414485415, -0.2936375883950202, 0.9933996324585778]),
    (gb.Adam(0.01, l2=0.05), None, [0.5069565155859214, -0.3299638450033806, 1.0255469830932995]),
    (gb.AdamW(0.01, weight_decay=0.5), None, [0.4881519127430926, -0.31878717059842887, 0.9946976615380727]),
    (gb.Adam(0.01, weight_decay=0.5), None, [0.4881519127430926, -0.31878717059842887, 0.9946976615380727]),
    (gb.NAdam(0.01), None, [0.5014741049727813, -0.31409703641837217, 0.9943030601520506]),
    (gb.NAdam(0.01, momentum_decay=0.5, l2=0.05), None, [0.5013949019329873, -0.31282274992396153, 0.9880164828492397]),
    (gb.NAdam(0.01, weight_decay=0.5), None, [0.4815912921316649, -0.30312039535296104, 0.9544633736661029]),
    (gb.RAdam(0.01), None, [0.5062773993605565, -0.26347298157850774, 1.011740337523262]),
    (gb.RAdam(0.01, 0.8, 0.9, l2=0.05), None, [0.5044487089997368, -0.2716410892413348, 1.0031485258372044]),
    (gb.RAdam(0.01, weight_decay=0.5), None, [0.4864537289065989, -0.25333294559004144, 0.9721041170647562]),
    (gb.SGD(0.1, 0.9, l2=0.05), 0.3, [0.5057657698987215, -0.9131973039192383, 1.0073358656068157]),
    (gb.Adam(0.01, l1=0.02), 0.3, [0.5102093979342688, -0.3299999965217391, 1.0319647799491372]),
]
"""Of an optimizer and clip_value, W after a step with each of G, by PyTorch 2.13 after
torch.set_default_dtype(torch.float64), with its optimizer of the same name and numbers: p.grad = g;
torch.nn.utils.clip_grad_value_(p, clip_value); (l1·p.abs().sum()).backward(); optimizer.step(). Its weight_decay is our
l2, but where it is decoupled, in AdamW and with decoupled_weight_decay=True; momentum 0.9, RMSprop with alpha=0.9."""


dtypes = pytest.mark.parametrize("dtype", ["float64", "float32"])  # NumPy's; and compiled, where there is a compiler


def drive(dtype, optimizer, w, gradients, **settings):
    """Three weights after a step with each of some gradients."""
    net = gb.Network(3, [gb.Dense(1, bias=False)], dtype=dtype, device="cpu")
    net.layers[0].weight, plan = np.reshape(w, (3, 1)), Plan(net.device)
    net.emit_parameters(plan)
    bound = optimizer.bind(net, **settings)
    plan.add(Operations.advance, "t += 1", {}, None, 0, None, None, bound.step_number(plan))
    bound.update(plan, net)
    for g in gradients:
        net.layers[0].grad_weight = np.reshape(g, (3, 1))
        with net.device.computing():
            plan.run()
    return net.layers[0].weight[:, 0]


@dtypes
@pytest.mark.parametrize(("optimizer", "clip_value", "wanted"), PYTORCH, ids=str)
def test_as_pytorch(dtype, optimizer, clip_value, wanted):
    got = drive(dtype, optimizer, W, G, **({"clip_value": clip_value} if clip_value else {}))
    tolerance = 1e-13 if got.dtype == np.float64 else 2e-6
    np.testing.assert_allclose(got, wanted, tolerance, tolerance)


# In a network ---------------------------------------------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(12, 4))
LABELS = np.random.default_rng(1).integers(0, 3, 12)


def network(seed=0, **last):
    net = gb.Network(4, [gb.Dense(5, "tanh"), gb.Dense(3, "softmax", **last)], dtype="float64", device="cpu", seed=seed)
    for layer in net.layers:
        layer.bias = np.full(layer.bias.shape, 0.3)
    return net


def arrays(net):
    return {(layer.number, name): getattr(layer, name).copy() for layer, name, _, _ in net.places}


def stepped(net, optimizer, **options):
    before, loss = arrays(net), float(gb.Trainer(net, None, optimizer, **options).step(X, LABELS))
    gradients = {(layer.number, name): getattr(layer, f"grad_{name}").copy() for layer, name, _, _ in net.places}
    return before, gradients, arrays(net), loss


@pytest.mark.parametrize("factor", [None, 0, 1, {"bias": 1}, {"weight": 0.5}, {"weight": 0.5, "bias": 2}], ids=str)
def test_biases_are_exempt_unless_the_layer_says_otherwise(factor):
    net = network(**({} if factor is None else {"penalty_factor": factor}))
    given = factor if isinstance(factor, dict) else {} if factor is None else {"weight": factor, "bias": factor}
    last = {"weight": 1, "bias": 0} | given
    before, gradients, after, _ = stepped(net, gb.SGD(0.1, l1=0.01, l2=0.2))
    for (layer, name), w in before.items():
        penalty = last[name] if layer == 2 else name == "weight"
        slope = gradients[layer, name] + penalty * (0.2 * w + 0.01 * np.sign(w))
        np.testing.assert_allclose(after[layer, name], w - 0.1 * slope, rtol=1e-14)


def test_the_loss_that_is_reported_is_that_of_the_data():
    plain = stepped(network(), gb.SGD(0.1))[3]
    assert stepped(network(), gb.SGD(0.1, l1=1.0, l2=1.0, weight_decay=0.1), clip_value=0.1)[3] == plain


def test_each_member_has_its_own():
    settings = {"l1": [0.0, 0.1], "l2": [0.2, 0.3], "weight_decay": [0.1, 0.0]}
    net, clip_value = network([3, 4]), [0.05, 0.01]
    trainer = gb.Trainer(net, None, gb.Adam(0.01, **settings), clip_value=clip_value)
    trainer.fit(X, LABELS, 2, progress=False)
    assert trainer.optimizer.settings | settings | {"clip_value": clip_value} != trainer.optimizer.settings  # tuples
    for member, seed in enumerate((3, 4)):
        alone, own = network(seed), {name: values[member] for name, values in settings.items()}
        one = gb.Trainer(alone, None, gb.Adam(0.01, **own), clip_value=clip_value[member])
        one.fit(X, LABELS, 2, progress=False)
        np.testing.assert_allclose(net.parameters[member], alone.parameters, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", [gb.NAdam, gb.RAdam, gb.Lion])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_each_member_has_its_own_coefficients(kind, dtype):
    """RAdam's second member is rectified from the first steps on, its first one never."""

    def net(seed):
        return gb.Network(4, [gb.Dense(5, "tanh"), gb.Dense(3, "softmax")], dtype=dtype, device="cpu", seed=seed)

    together, settings = net([3, 4]), {"beta1": [0.5, 0.9], "beta2": [0.6, 0.99]}
    gb.Trainer(together, None, kind(0.01, **settings), batch_size=5).fit(X, LABELS, 4, progress=False)
    for member, seed in enumerate((3, 4)):
        alone, own = net(seed), {name: values[member] for name, values in settings.items()}
        gb.Trainer(alone, None, kind(0.01, **own), batch_size=5).fit(X, LABELS, 4, progress=False)
        tolerance = 1e-12 if dtype == "float64" else 1e-5
        np.testing.assert_allclose(together.parameters[member], alone.parameters, tolerance, tolerance)


# What is asked for, and what is not -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_what_is_0_is_not_there(kind):
    """Nor does it cost anything: the rule is the plain one."""
    bare = kind(l1=0, l2=0.0)
    assert bare.rule == kind().rule and bare.settings == kind().settings
    made = kind(l1=0.1, l2=[0.1, 0.0], weight_decay=1)
    assert {"l1": 0.1, "l2": (0.1, 0.0), "weight_decay": 1.0}.items() <= made.settings.items()
    assert made.name == kind().name and made.describe()["l2"] == [0.1, 0.0]
    if kind in vars(gb).values():
        assert eval(repr(kind(l2=0.5)), vars(gb)).describe() == kind(l2=0.5).describe()
    assert "λ₂W" in kind(l2=0.5).formula and "λ₁" not in kind(l2=0.5).formula


def test_they_can_be_set_where_they_are_there():
    net = network()
    trainer = gb.Trainer(net, None, gb.SGD(0.1, l2=0.2), clip_value=5.0)
    trainer.optimizer.l2, trainer.optimizer.clip_value = 0.0, 1e-3
    before = net.parameters.copy()
    trainer.step(X, LABELS)
    assert np.abs(net.parameters - before).max() == pytest.approx(1e-4, rel=1e-9)
    with pytest.raises(AttributeError, match=r"l1 of a SGD cannot be set\. Write it when .* as in Adam\(0.001, l1="):
        trainer.optimizer.l1 = 0.1
    with pytest.raises(AttributeError, match=r"Write Trainer\(clip_value=1.0\)"):
        gb.SGD(0.1).clip_value = 1.0
    with pytest.raises(AttributeError, match="SGD has no attribute 'l1'"):
        _ = trainer.optimizer.l1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gb.Adam(l2=-0.1), "l2 of Adam must be a finite number ≥ 0, got -0.1"),
        (lambda: gb.SGD(0.1, l1=False), "l1 of SGD must be a finite number ≥ 0, got False"),
        (lambda: gb.Lion(l1=math.inf), "l1 of Lion must be a finite number ≥ 0, got inf"),
        (lambda: gb.Adam(l3=1), "Adam has no argument l3; did you mean l2"),
        (
            lambda: gb.Adam(schedule={"l1": "cosine"}),
            "l1 of adam is not set, .*: give it when .*, l1=0.0001",
        ),
        (
            lambda: gb.SGD(schedule={"clip_value": "cosine"}),
            "clip_value of sgd is not set, .*: give Trainer",
        ),
        (lambda: gb.NAdam(momentum_decay=-1), "momentum_decay of NAdam must be a finite number ≥ 0"),
        *(
            (lambda v=v: gb.Trainer(network(), clip_value=v), "clip_value of Adam must be a finite number ≥ 1e-30, got")
            for v in (0, -1, math.inf, math.nan, "1", True)
        ),
        (lambda: gb.Trainer(network(), clip_value=[1, 2]), "clip_value must be one number, got"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(gb.InputError, match=message):
        make()


@dtypes
def test_clipping_keeps_what_is_no_number(dtype):
    """As PyTorch's clip_grad_value_: infinity is clipped, NaN stays NaN."""
    got = drive(dtype, gb.SGD(1.0), [0, 0, 0], [[np.inf, -np.inf, np.nan]], clip_value=0.25)
    np.testing.assert_array_equal(got, [-0.25, 0.25, np.nan])


@dtypes
def test_an_infinite_gradient_of_lion_is_seen(dtype):
    """Its sign would be a step as any other, and its mean infinite from then on."""
    got = drive(dtype, gb.Lion(0.1), [0, 0, 0], [[np.inf, 1, -1], [1, 1, -1]])
    np.testing.assert_allclose(got, [np.nan, -0.2, 0.2], 1e-6)


def test_a_copy_of_a_trainer_clips_too():
    trainer = gb.Trainer(network(), None, gb.SGD(0.1, l2=0.1), clip_value=0.01)
    twin = copy.deepcopy(trainer)
    for one in (trainer, twin):
        one.step(X, LABELS)
    np.testing.assert_array_equal(trainer.network.parameters, twin.network.parameters)
    assert twin.optimizer.describe() == trainer.optimizer.describe() == {
        "name": "sgd", "learning_rate": 0.1, "l2": 0.1, "clip_value": 0.01,
    }  # fmt: skip


def test_an_optimizer_of_ones_own_has_them_too():
    net, plain = network(), network()
    own = gb.Optimizer(PLAIN, learning_rate=0.1, l1=0.01, l2=0.2, weight_decay=0.3)
    before, gradients, after, _ = stepped(net, own)
    for key, w in before.items():
        slope = gradients[key] + (key[1] == "weight") * (0.2 * w + 0.01 * np.sign(w))
        np.testing.assert_allclose(after[key], 0.97 * w - 0.1 * slope, rtol=1e-13)
    stepped(plain, gb.SGD(0.1, l1=0.01, l2=0.2, weight_decay=0.3))
    np.testing.assert_array_equal(plain.parameters, net.parameters)
