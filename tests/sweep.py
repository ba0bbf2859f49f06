"""Every activation and loss over all of a dtype's range, against formulas in long double: for tests of all back ends.

A result may be off by some units in the last place of its `size`: of itself, or of the larger of the numbers that it is
the difference of. What is too small to be a normal number may be 0, and where the right answer is too large, infinity
is right.
"""

from __future__ import annotations

import math

import numpy as np

import gpu_backprop as gb
from gpu_backprop.backend.formula import LOSS
from gpu_backprop.network.activations import ACTIVATIONS, LEAK, SELU_ALPHA, SELU_SCALE
from gpu_backprop.network.losses import POISSON_OF_Z
from gpu_backprop.training.optimizers import ADAGRAD, ADAM, ADAMW, NADAM, RMSPROP

L = np.longdouble
PI = L("3.14159265358979323846264338327950288")
CUBIC = L("0.044715")
ROUNDINGS = {"float32": 8, "float64": 8}
"""Units in the last place."""


def numbers(dtype):
    """0, and of each sign and exponent, the denormal ones too, four numbers; and finer where formulas change. Of the
    exponents of float64 each eighth."""
    info = np.finfo(dtype)
    powers = np.exp2(np.arange(math.log2(info.smallest_subnormal), info.maxexp, 1 if info.bits == 32 else 8, dtype=L))
    sizes = np.concatenate([powers * m for m in (1, 1 + float(info.eps), 1.37, 2 - 2 * float(info.eps))])
    edges = np.array([1, 9.02, 20, 34, 40, 80, 86.9, 87.33, 88.72, 103, 174.6, 709, 745, 1416], L)
    near = (edges[:, None] * (1 + np.arange(-2, 3) * L(info.eps))).ravel()
    some = np.concatenate([[0], sizes, near, np.linspace(0, 20, 401), np.linspace(20, 200, 181)]).astype(dtype)
    return np.unique(np.concatenate([some, -some]))


# What is right: a value or a slope, and its size ----------------------------------------------------------------------


def sigma(w):
    return np.where(w < 0, np.exp(-abs(w)), 1) / (1 + np.exp(-abs(w)))


def softplus(z):
    return np.maximum(z, 0) + np.log1p(np.exp(-abs(z)))


def log_softplus(z):
    return np.where(z < -100, z, np.log(softplus(z)))


def upper_tail(a):
    """Q(a) = Φ(−a) and φ(a): to 3 by the series of Q = ½ − φ(a)·(a + a³/3 + a⁵/15 + …), then by the fraction
    φ(a)/(a + 1/(a + 2/(a + …)))."""
    density = np.exp(-a * a / 2) / np.sqrt(2 * PI)
    near, term, total, below = np.minimum(a, 3), np.minimum(a, 3), np.zeros_like(a), a
    for k in range(1, 120):
        total, term = total + term, term * near * near / (2 * k + 1)
    for k in range(200, 0, -1):
        below = a + k / np.maximum(below, 1)
    return np.where(a < 3, L(0.5) - density * total, density / below), density


def gelu(z):
    tail, _ = upper_tail(abs(z))
    return (np.where(z > 0, z - z * tail, z * tail),)


def gelu_slope(z):
    (tail, density), a = upper_tail(np.minimum(abs(z), 200)), np.minimum(abs(z), 200)
    slope = np.where(z > 0, 1 - tail + a * density, tail - a * density)
    return slope, abs(slope) + tail + a * density


def cubic(z, of_slope=1):
    return np.sqrt(8 / PI) * (z + of_slope * CUBIC * z**3)


def gated(z, w, rounded=0):
    """rounded: that of w counts, as often as this says."""
    return z * sigma(w), abs(z) * sigma(w) * (1 + rounded * np.minimum(abs(w), 2000))


def gated_slope(w, zw, rounded=0):
    terms = sigma(w), zw * sigma(w) * sigma(-w)
    return sum(terms), (terms[0] + abs(terms[1])) * (1 + rounded * np.minimum(abs(w), 2000))


def mish_slope(z):
    e = np.exp(-abs(z))  # 1 − tanh² log(1 + eᶻ) = 4(1 + eᶻ)²/((1 + eᶻ)² + 1)²
    rest = z * np.where(z < 0, e * (1 + e) / ((1 + e) ** 2 + 1) ** 2, e**2 * (1 + e) / ((1 + e) ** 2 + e**2) ** 2)
    return np.tanh(softplus(z)) + 4 * rest, np.tanh(softplus(z)) + 4 * abs(rest)


VALUES = {
    "identity": lambda z: (z,),
    "sigmoid": lambda z: (sigma(z),),
    "tanh": lambda z: (np.tanh(z),),
    "relu": lambda z: (np.maximum(z, 0),),
    "leaky_relu": lambda z: (np.where(z > 0, z, L(LEAK) * z),),
    "elu": lambda z: (np.where(z > 0, z, np.expm1(z)),),
    "selu": lambda z: (SELU_SCALE * np.where(z > 0, z, SELU_ALPHA * np.expm1(z)),),
    "softplus": lambda z: (softplus(z),),
    "softsign": lambda z: (z / (1 + abs(z)),),
    "gelu": gelu,
    "gelu_tanh": lambda z: gated(z, cubic(z), 1),
    "silu": lambda z: gated(z, z),
    "mish": lambda z: (z * np.tanh(softplus(z)),),
    "exp": lambda z: (np.exp(z),),
}  # fmt: skip
SLOPES = {
    "identity": lambda s: (np.ones_like(s),),
    "sigmoid": lambda y: (y * (1 - y),),
    "tanh": lambda y: ((1 - y) * (1 + y),),
    "relu": lambda y: (np.where(y > 0, L(1), 0),),
    "leaky_relu": lambda y: (np.where(y > 0, L(1), L(LEAK)),),
    "elu": lambda y: (np.where(y > 0, L(1), 1 + y),),
    "selu": lambda y: (
        np.where(y > 0, L(SELU_SCALE), y + L(SELU_SCALE * SELU_ALPHA)), L(SELU_SCALE * SELU_ALPHA) * np.ones_like(y)
    ),
    "softplus": lambda y: (-np.expm1(-y),),
    "softsign": lambda y: ((1 - abs(y)) ** 2,),
    "gelu": gelu_slope,
    "gelu_tanh": lambda z: gated_slope(cubic(z), cubic(z, 3), 1),
    "silu": lambda z: gated_slope(z, z),
    "mish": mish_slope,
    "exp": lambda y: (y,),
}  # fmt: skip
"""By activation; a slope is one of what it is written in, y or z."""


def power(factor):
    return lambda y, t: (factor * (y - t) ** 2,), lambda y, t: (2 * factor * (y - t),)


def huber(delta):
    def cut(y, t):
        return np.clip(y - t, -L(delta), L(delta))

    return lambda y, t: (cut(y, t) * (y - t - cut(y, t) / 2),), lambda y, t: (cut(y, t),)


def quantile(q):
    return (
        lambda y, t: (abs(y - t) / 2 + (0.5 - q) * (y - t), abs(y - t)),
        lambda y, t: (np.sign(y - t) / 2 + (0.5 - q), np.ones_like(y)),
    )


def terms(*of):
    return lambda y, t: (sum(f(y, t) for f in of), sum(abs(f(y, t)) for f in of))


LOSSES = {
    "half_squared_error": (gb.LOSSES["half_squared_error"], *power(0.5)),
    "squared_error": (gb.LOSSES["squared_error"], *power(1)),
    "mean_squared_error": (gb.LOSSES["mean_squared_error"], *power(1)),
    "absolute_error": (gb.LOSSES["absolute_error"], lambda y, t: (abs(y - t),), lambda y, t: (np.sign(y - t),)),
    "huber": (gb.Huber(), *huber(1)),
    "huber of 1e-3": (gb.Huber(1e-3), *huber(1e-3)),
    "huber of 1e20": (gb.Huber(1e20), *huber(1e20)),
    "quantile": (gb.Quantile(), *quantile(0.5)),
    "quantile of 0.9": (gb.Quantile(0.9), *quantile(0.9)),
    "cross_entropy": (gb.LOSSES["cross_entropy"], lambda y, t: (-t * np.log(y),), lambda y, t: (-t / y,)),
    "binary_cross_entropy": (
        gb.LOSSES["binary_cross_entropy"],
        terms(lambda y, t: -t * np.log(y), lambda y, t: (t - 1) * np.log1p(-y)),
        terms(lambda y, t: -t / y, lambda y, t: (1 - t) / (1 - y)),
    ),
    "poisson": (
        gb.LOSSES["poisson"], terms(lambda y, t: y, lambda y, t: -t * np.log(y)),
        terms(lambda y, t: np.ones_like(y), lambda y, t: -t / y),
    ),
}  # fmt: skip
OF_Z = {
    "exp": (terms(lambda z, t: np.exp(z), lambda z, t: -t * z), terms(lambda z, t: np.exp(z), lambda z, t: -t)),
    "sigmoid": (
        terms(lambda z, t: sigma(z), lambda z, t: t * softplus(-z)),
        terms(lambda z, t: sigma(z) * sigma(-z), lambda z, t: -t * sigma(-z)),
    ),
    "softplus": (
        lambda z, t: (softplus(z) - t * log_softplus(z), softplus(z) + t * (1 + abs(log_softplus(z)))),
        terms(lambda z, t: sigma(z), lambda z, t: -t * np.where(z < -100, 1, sigma(z) / softplus(z))),
    ),
}
GAMMA, YES, NO = 2, L(0.25), L(0.75)
FOCAL = gb.Focal(GAMMA, float(YES)).suited_to(gb.Dense(1, "sigmoid"))


def focal(p, rest, log_p):
    """−(1 − p)^γ·log p, its derivative by −p, and how much of a power's exponent is rounded."""
    power, ratio = rest**GAMMA, log_p / rest
    return -power * log_p, power * (1 / p - GAMMA * ratio), 1 + GAMMA * abs(np.log(rest))


def focal_yes(y):
    return focal(y, 1 - y, np.log(y))


def focal_no(y):
    return focal(1 - y, y, np.log1p(-y))


def focal_of_z(z):
    """F, −F′, as in network/focal.py, and how much of a power's exponent is rounded."""
    power = np.exp(-GAMMA * softplus(z))
    slope = GAMMA * sigma(z) * softplus(-z) + sigma(-z)
    return power * softplus(-z), power * slope, 1 + GAMMA * np.minimum(softplus(z), 2000)


def of_focal(side, other, which):
    """e or the slope, and its size, of outputs that are to be 1 and of those that are to be 0."""

    def both(y, t):
        (value, slope, much), (rest, steep, more) = side(y), other(y)
        a, b = (value, rest) if which == "value" else (-slope, steep)
        shares = YES * t, NO * (1 - t)
        return shares[0] * a + shares[1] * b, abs(shares[0] * a * much) + abs(shares[1] * b * more)

    return both


LOSSES |= {
    "focal": (
        gb.Focal(GAMMA),
        lambda y, t: (t * focal_yes(y)[0], t * focal_yes(y)[0] * focal_yes(y)[2]),
        lambda y, t: (-t * focal_yes(y)[1], t * focal_yes(y)[1] * focal_yes(y)[2]),
    ),
    "binary focal": (
        FOCAL,
        *(of_focal(focal_yes, focal_no, which) for which in ("value", "slope")),
    ),
    "focal of sigmoid": (
        FOCAL,
        *(of_focal(focal_of_z, lambda z: focal_of_z(-z), which) for which in ("value", "slope")),
    ),
}  # fmt: skip
LOSSES |= {POISSON_OF_Z[name].name: (POISSON_OF_Z[name], *OF_Z[name]) for name in OF_Z}
"""A loss, or a formula without numbers; e and the slope, each with its size."""
CROSS_ENTROPY = (
    terms(lambda z, t: np.maximum(z, 0), lambda z, t: -z * t, lambda z, t: np.log1p(np.exp(-abs(z)))),
    terms(lambda z, t: sigma(z), lambda z, t: -t),
)
"""The loss of a sigmoid in one operation with it: a formula of z."""


def formula_of(name):
    loss = LOSSES[name][0]
    return loss.of_z(ACTIVATIONS["sigmoid"]) if name == "focal of sigmoid" else getattr(loss, "formula", loss)


def numbers_of(name, *models_shape):
    loss = LOSSES[name][0]
    return loss.rows(models_shape) if isinstance(loss, gb.Loss) else np.zeros((*models_shape, 1))


def pairs(name, dtype):
    """y, or z, and y* of a loss, over all that it is defined for."""
    y = numbers(dtype)
    targets = [0.0, 1.5, -1e4, 1e-30, 1e30]
    if name in ("cross_entropy", "binary_cross_entropy", "focal", "binary focal"):
        y, targets = y[(y >= np.finfo(dtype).tiny) & (y < 1)], [0.0, 1.0, 0.3]
        y = np.concatenate([y, 1 - y[y < 0.5][::7]])
        y = y[y < 1]
    elif name == "poisson":
        y, targets = y[y >= np.finfo(dtype).tiny], [0.0, 1.0, 7.0, 1e6]
    elif "poisson" in name:
        targets = [0.0, 1.0, 7.0, 1e6]
    elif name in ("sigmoid", "focal of sigmoid"):
        targets = [0.0, 1.0, 0.3]
    y, target = (np.ascontiguousarray(a.reshape(-1, 1, 1), dtype) for a in np.meshgrid(y, targets))
    return y, target


def assert_right(got, right, name, factor=1.0):
    """got: in the dtype that was worked in. right: what it should be, and its size. factor: of what may be 0."""
    info, roundings = np.finfo(got.dtype), ROUNDINGS[got.dtype.name]
    got, wanted, size = got.astype(L), np.asarray(right[0], L), abs(np.asarray(right[-1], L))
    with np.errstate(all="ignore"):
        near = abs(got - wanted) <= roundings * info.eps * size + 4 * info.tiny * factor
        large = (abs(wanted) > info.max / 4) & ~(np.sign(wanted) * got < info.max / 8)  # NaN is seen as infinity is
    wrong = ~(near | large)
    where = np.flatnonzero(wrong)[:5]
    told = [f"at {k}: {got.ravel()[k]:g} for {wanted.ravel()[k]:g}" for k in where]
    assert not wrong.any(), f"{name}: {wrong.sum()} of {wrong.size} are wrong, {told}"


# The same with the operations of a device -----------------------------------------------------------------------------


def run(device, binder, *arguments, **options):
    """Runs an operation on copies of the arrays; returns these, on the host."""
    there = [device.copy(device.from_host(a)) if isinstance(a, np.ndarray) else a for a in arguments]
    with device.computing():
        for call in device.sequence(getattr(device.ops, binder)(device, *there, **options)):
            call()
    return [device.to_host(a) if isinstance(b, np.ndarray) else b for a, b in zip(there, arguments, strict=True)]


def check_activation(device, name, denormal=True):
    """denormal: whether numbers that are too small to be normal are numbers at all."""
    f, z = ACTIVATIONS[name], numbers(device.dtype)
    z = z[denormal | normal(z)].reshape(-1, 1)
    with np.errstate(all="ignore"):
        right = VALUES[name](z.astype(L))
        s = right[0].astype(z.dtype) if f.reads == "y" else z
        slope = SLOPES[name](s.astype(L))
    y = run(device, "bias_activate", z, None, f, np.empty_like(z))[3]
    assert_right(y, right, name)
    finite = np.isfinite(s) & (denormal | normal(s))
    ones = np.ones_like(z[finite]).reshape(-1, 1)
    s = s[finite].reshape(-1, 1)
    got = run(device, "activation_gradient", ones, s if f.reads else None, f, np.empty_like(s), None)[3]
    assert_right(got, [a[finite].reshape(-1, 1) for a in slope], f"{name}′")


def normal(numbers):
    return (numbers == 0) | (abs(numbers) >= np.finfo(numbers.dtype).tiny)


def check_loss(device, name, denormal=True, each=1):
    """Each number is a model of its own, so that each has a total of its own. each: of so many numbers one is taken."""
    y, target = (a[::each] for a in pairs(name, device.dtype))
    y, target = y[kept := (denormal | normal(y)).ravel()], target[kept]
    with np.errstate(all="ignore"):
        formulas = CROSS_ENTROPY if name == "sigmoid" else LOSSES[name][1:]
        value, slope = (of(y.astype(L), target.astype(L)) for of in formulas)
    total = np.zeros((len(y), 3))
    if name == "sigmoid":
        formula = gb.LOSSES["binary_cross_entropy"].formula
        given = y, None, target, None, formula, np.zeros((len(y), 1)), 1.0, None, np.empty_like(y), total
        grad, total = run(device, "sigmoid_cross_entropy", *given)[-2:]
    else:
        given = y, target, None, formula_of(name), numbers_of(name, len(y)), 1.0, None, np.empty_like(y), total
        grad, total = run(device, "loss_gradient", *given)[-2:]
    factor = np.maximum(1, target.astype(L)) * (1 + GAMMA if "focal" in name else 1)  # of a power that may be 0
    with np.errstate(all="ignore"):
        e = total[:, LOSS].astype(y.dtype)
    assert_right(e, [a.reshape(-1) for a in value], name, factor.reshape(-1))
    assert_right(grad, slope, f"gradient of {name}", factor)


def check_softmax(device, denormal=True, each=1):
    """Two outputs, apart by all that numbers can be, and their cross entropy with the class of each."""
    z = numbers(device.dtype)
    z = np.concatenate([np.stack([z, other], axis=-1) for other in (np.zeros_like(z), -z, z / 2, z[::-1])])
    z = z[(denormal | normal(z)).all(axis=-1)][::each, None, :]
    with np.errstate(all="ignore"):
        below = z.astype(L) - z.max(axis=-1, keepdims=True)
        p = np.exp(below) / np.exp(below).sum(axis=-1, keepdims=True)
        size = np.where(p > 0, p * (1 + abs(below)), 0)
        log_sum = np.log(np.exp(below).sum(axis=-1))
    y = run(device, "bias_activate", z, None, ACTIVATIONS["softmax"], np.empty_like(z))[3]
    assert_right(y, (p, size), "softmax")
    formula, total = gb.LOSSES["cross_entropy"].formula, np.zeros((len(z), 3))
    for label in (0, 1):
        labels, target = np.full((len(z), 1), label), np.eye(2)[label]
        given = z, None, labels, None, formula, np.zeros((len(z), 1)), 1.0, None, np.empty_like(z), total
        grad, got = run(device, "softmax_cross_entropy", *given)[-2:]
        assert_right(grad, (p - target, size + target), "gradient of softmax with cross entropy")
        with np.errstate(all="ignore"):
            e = got[:, LOSS].astype(z.dtype)
        off = below[:, :, label]
        assert_right(e[:, None], (log_sum - off, 1 + abs(off)), "cross entropy of softmax")
        check_softmax_focal(device, z, p, log_sum - off, labels, target, 1 + abs(off))


def check_softmax_focal(device, z, p, cross_entropy, labels, target, rounded):
    """rounded: how much of the cross entropy, a difference, is."""
    loss, total = gb.Focal(GAMMA), np.zeros((len(z), 3))
    given = z, None, labels, None, loss.formula, loss.rows((len(z),)), 1.0, None, np.empty_like(z), total
    grad, got = run(device, "softmax_focal", *given)[-2:]
    with np.errstate(all="ignore"):
        rest, e = -np.expm1(-cross_entropy), got[:, LOSS].astype(z.dtype)
        ratio = np.where(cross_entropy > 0, cross_entropy / np.expm1(cross_entropy), 1)
        much = 1 + GAMMA * abs(np.log(np.maximum(rest, np.finfo(z.dtype).tiny)))
    slope = rest**GAMMA * (1 + GAMMA * ratio)
    value = rest**GAMMA * cross_entropy
    assert_right(e[:, None], (value, slope * rounded + value * much), "focal loss of softmax")
    moved = GAMMA * (GAMMA + 1) * rest * ratio * rounded  # by how much the slope is off where the cross entropy is
    size = (slope * much + moved)[..., None] * (p * rounded[..., None] + target)
    assert_right(grad, (slope[..., None] * (p - target), size), "gradient of the focal loss of softmax")


OPTIMIZERS = {
    "adam": (ADAM, [0.01, 0.1, 0.1, 1e-8]),
    "adamw": (ADAMW, [0.01, 0.1, 0.1, 1e-8, 0.0]),
    "rmsprop": (RMSPROP, [0.01, 0.1, 1e-8]),
    "adagrad": (ADAGRAD, [0.01, 1e-8]),
    "nadam": (NADAM, [0.01, 0.1, 0.1, 1e-8, 0.004]),
}
"""By name: the rule that takes squares, and its settings."""


def check_optimizer(device, name):
    """Three gradients as large as they come, then 400 of 1: moments stay finite, and parameters move as they should."""
    rule, (rate, *others) = OPTIMIZERS[name]
    dtype, info = device.dtype, np.finfo(device.dtype)
    with np.errstate(all="ignore"):
        large = np.array([1e15, 1e18, 1e19, 1e20, 3e38, info.max / 2, info.max]).astype(dtype)
    large = np.concatenate([large, -large, [0, 1]]).astype(dtype)
    w, g = device.zeros(large.shape), device.copy(device.from_host(large))
    moments = device.zeros((len(rule.moments), *large.shape))
    hyper = device.copy(device.from_host(np.array([0, rate, *others])))
    counting = device.ops.advance(device, None, 0, None, None, hyper[..., 0])
    update = device.ops.update(device, w, g, moments, rule, hyper, None, None, None)
    calls = device.sequence([*counting, *update])

    def steps(count):
        with device.computing():
            for _ in range(count):
                for call in calls:
                    call()
        assert np.isfinite(device.to_host(moments)).all()
        return device.to_host(w)

    first = steps(3)
    moved = -first * np.sign(large) / rate
    assert ((moved[large != 0] > 1) & (moved[large != 0] < 5)).all(), (name, moved)
    device.copy_in(g, np.ones_like(large))
    before, after = steps(400), steps(10)
    if name != "adagrad":  # which never forgets
        np.testing.assert_allclose(before - after, 10 * rate, rtol=1e-2)
