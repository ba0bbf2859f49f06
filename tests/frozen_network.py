"""A network with a frozen layer, a slow one, biases without decay and a dropout rate of each member's own: how it
trains, by hand."""

from __future__ import annotations

import numpy as np
from group_cases import STEPS
from own_optimizers import Lion

import gpu_backprop as gb
from gpu_backprop.training.optimizers import REGULARIZED

SEEDS, RATES, SLOW, BATCH, EPOCHS = [3, 4], [0.25, 0.5], 0.25, 6, 2
PENALTY = {"weight": 0.5, "bias": 2}
OPTIMIZERS = {
    "momentum": lambda: gb.SGD([0.1, 0.05], momentum=0.9),
    "AdamW": lambda: gb.AdamW(0.01, weight_decay=[0.3, 0.1]),
    "Lion": lambda: Lion([0.01, 0.02], weight_decay=0.3),
    "regularized": lambda: gb.Optimizer(
        REGULARIZED, learning_rate=[0.1, 0.05], weight_decay=0.3, l1=0.02, l2=[0.1, 0.2], clip_value=[0.05, 0.02]
    ),
}

_random = np.random.default_rng(5)
X, LABELS = _random.normal(size=(20, 4)), _random.integers(0, 3, 20)


def train(optimizer, member=None, dropout=True, dtype="float64", device="cpu", **options):
    """A fit of all members, or of one alone: its parameters and moments on the host, each of a member in a row."""
    of = slice(None) if member is None else member
    alone = {k: v if member is None or not isinstance(v, tuple) else v[member] for k, v in optimizer.settings.items()}
    layers = [
        gb.Dense(8, "tanh", trainable=False),
        *([gb.Dropout(RATES[of])] * dropout),
        gb.Dense(6, "tanh", learning_rate_factor=SLOW, weight_decay_factor={"bias": 0}),
        gb.Dense(3, "softmax", weight_decay_factor={"bias": 0}, penalty_factor=PENALTY),
    ]
    net = gb.Network(4, layers, dtype=dtype, device=device, seed=SEEDS[of])
    trainer = gb.Trainer(net, None, gb.Optimizer(optimizer.rule, **alone), batch_size=BATCH, **options)
    start, random = net.device.to_host(net.parameters).copy(), net.device.to_host(net.random).copy()
    trainer.fit(X, LABELS, EPOCHS, shuffle=False, progress=False)
    moments = [trainer.optimizer.moments[name] for name in optimizer.rule.moments]
    return net, start, random, [net.device.to_host(a) for a in (net.parameters, *moments)]


def train_by_hand(net, start, random, optimizer, member, dropout=True):
    """The same of a member, in plain NumPy: its parameters and moments, by layer and name."""
    w = {}
    for layer, name, shape, begin in net.places:
        w[layer.number, name] = start[member, begin : begin + int(np.prod(shape))].reshape(shape).astype(np.float64)
    second, third = sorted({number for number, _ in w})[1:]
    settings = [v[member] if isinstance(v, tuple) else v for v in optimizer.settings.values()]
    step = STEPS[optimizer.rule.name]
    moments = {key: [np.zeros_like(a)] * len(optimizer.rule.moments) for key, a in w.items()}
    t = 0
    for _ in range(EPOCHS):
        for first in range(0, len(X), BATCH):
            x, y = X[first : first + BATCH], np.eye(3)[LABELS[first : first + BATCH]]
            mask = 1.0
            if dropout:
                seed, layer = random[member, 1, :2]
                generator = np.random.Generator(np.random.Philox(counter=[0, t, 0, 0], key=[seed, layer]))
                mask = (generator.random((len(x), 8), np.float32) >= RATES[member]) / (1 - RATES[member])
            h1 = np.tanh(x @ w[1, "weight"] + w[1, "bias"]) * mask
            h2 = np.tanh(h1 @ w[second, "weight"] + w[second, "bias"])
            e = np.exp(h2 @ w[third, "weight"] + w[third, "bias"])
            grad_z3 = (e / e.sum(axis=1, keepdims=True) - y) / len(x)
            grad_z2 = grad_z3 @ w[third, "weight"].T * (1 - h2 * h2)
            t += 1
            weights_alone = {"weight": 1, "bias": 0}
            for number, h, grad_z, rate, penalty in (
                (second, h1, grad_z2, SLOW, weights_alone), (third, h2, grad_z3, 1.0, PENALTY)
            ):  # fmt: skip
                for name, g in (("weight", h.T @ grad_z), ("bias", grad_z.sum(axis=0))):
                    key, factors = (
                        (number, name),
                        {"rate": rate, "decay": weights_alone[name], "penalty": penalty[name]},
                    )
                    w[key], *moments[key] = step(w[key], g, moments[key], t, *settings, **factors)
    return [w, *({key: of[k] for key, of in moments.items()} for k in range(len(optimizer.rule.moments)))]


def check(optimizer, tolerance, dropout=True, **options):
    """All members together, each alone, and by hand."""
    net, start, random, together = train(optimizer, None, dropout, **options)
    for member in range(len(SEEDS)):
        *_, alone = train(optimizer, member, dropout, **options)
        by_hand = train_by_hand(net, start, random, optimizer, member, dropout)
        for of_all, of_one, wanted in zip(together, alone, by_hand, strict=True):
            np.testing.assert_allclose(of_all[member], of_one, tolerance, tolerance)
            for layer, name, shape, begin in net.places:
                got = of_all[member, begin : begin + int(np.prod(shape))].reshape(shape)
                np.testing.assert_allclose(got, wanted[layer.number, name], tolerance, tolerance)
        begin = next(begin for layer, *_, begin in net.places if layer.number > 1)
        assert together[0][member, :begin].tobytes() == start[member, :begin].tobytes()
        assert not np.array_equal(together[0][member, begin:], start[member, begin:])
        assert not any(moment[member, :begin].any() for moment in together[1:])
