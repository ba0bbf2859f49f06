"""The table of activations: each row is the whole truth about one f.

y = f(z); backward turns ∇y into ∇z = ∇y ⊙ f′ (N0). f′ is written in y wherever y is enough, because then y can take
z's place; the others keep z. softmax mixes the units of a row, so its row gives the product with its Jacobian (N4).
Every formula is exact to rounding for all finite z: what is given, y or z, counts as exact, and a result that is too
small to be a normal number may be 0. An infinite z gives the limit or NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from gpu_backprop.backend.errors import InputError, named
from gpu_backprop.backend.formula import IDENTITY, Activation, Array, Call, Work, call, row_sum
from gpu_backprop.network.gelu import (
    gelu,
    gelu_gradient,
    gelu_tanh,
    gelu_tanh_gradient,
    mish,
    mish_gradient,
    silu,
    silu_gradient,
)

Formula = Iterator[Call]

LEAK = 0.01  # leaky_relu's slope for z < 0: Maas, Hannun and Ng 2013
SELU_SCALE, SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717  # Klambauer et al. 2017


def _above_zero(a: Array, out: Array, work: Work) -> Formula:
    """out = 1 where a > 0, else 0; by way of a mask this takes a third of np.sign's time, and casts without a buffer"""
    mask = work.mask()
    yield call(np.greater, a, 0.0, out=mask)
    yield partial(np.copyto, out, mask)


def _sigmoid(z: Array, y: Array, work: Work) -> Formula:
    """y = 1/(1 + e⁻ᶻ)"""
    yield call(np.negative, z, out=y)
    yield call(np.exp, y, out=y)
    yield call(np.add, y, 1.0, out=y)
    yield call(np.reciprocal, y, out=y)


def _sigmoid_gradient(grad_y: Array, y: Array, grad_z: Array, work: Work) -> Formula:
    """f′ = y(1 − y)"""
    slope = work.full()
    yield call(np.subtract, 1.0, y, out=slope)
    yield call(np.multiply, slope, y, out=slope)
    yield call(np.multiply, grad_y, slope, out=grad_z)


def _tanh(z: Array, y: Array, work: Work) -> Formula:
    yield call(np.tanh, z, out=y)


def _tanh_gradient(grad_y: Array, y: Array, grad_z: Array, work: Work) -> Formula:
    """f′ = 1 − y² = (1 − y)(1 + y) (N4)"""
    slope, other = work.full(0), work.full(1)
    yield call(np.subtract, 1.0, y, out=slope)
    yield call(np.add, y, 1.0, out=other)
    yield call(np.multiply, slope, other, out=slope)
    yield call(np.multiply, grad_y, slope, out=grad_z)


def _relu(z: Array, y: Array, work: Work) -> Formula:
    yield call(np.maximum, z, work.zeros(), out=y)


def _relu_gradient(grad_y: Array, y: Array, grad_z: Array, work: Work) -> Formula:
    """f′ = 1 where y > 0, else 0"""
    slope = work.full()
    yield from _above_zero(y, slope, work)
    yield call(np.multiply, grad_y, slope, out=grad_z)


def _leaky_relu(z: Array, y: Array, work: Work) -> Formula:
    """y = max(z, LEAK·z)"""
    leak = work.full()
    yield call(np.multiply, z, LEAK, out=leak)
    yield call(np.maximum, z, leak, out=y)


def _leaky_relu_gradient(grad_y: Array, y: Array, grad_z: Array, work: Work) -> Formula:
    """f′ = 1 where y > 0, else LEAK"""
    slope = work.full()
    yield from _above_zero(y, slope, work)
    yield call(np.maximum, slope, LEAK, out=slope)
    yield call(np.multiply, grad_y, slope, out=grad_z)


def _elu(z: Array, y: Array, work: Work) -> Formula:
    """y = max(z, 0) + e^min(z, 0) − 1 (Clevert et al. 2016, α = 1)"""
    below = work.full()
    yield call(np.minimum, z, work.zeros(), out=below)
    yield call(np.expm1, below, out=below)
    yield call(np.maximum, z, work.zeros(), out=y)
    yield call(np.add, y, below, out=y)


def _elu_gradient(grad_y: Array, y: Array, grad_z: Array, work: Work) -> Formula:
    """f′ = 1 where y > 0, else y + 1: min(y, 0) + 1"""
    slope = work.full()
    yield call(np.minimum, y, work.zeros(), out=slope)
    yield call(np.add, slope, 1.0, out=slope)
    yield call(np.multiply, grad_y, slope, out=grad_z)


def _selu(z: Array, y: Array, work: Work) -> Formula:
    """y = λ·max(z, 0) + λα·(e^min(z, 0) − 1)"""
    below = work.full()
    yield call(np.minimum, z, work.zeros(), out=below)
    yield call(np.expm1, below, out=below)
    yield call(np.multiply, below, SELU_SCALE * SELU_ALPHA, out=below)
    yield call(np.maximum, z, work.zeros(), out=y)
    yield call(np.multiply, y, SELU_SCALE, out=y)
    yield call(np.add, y, below, out=y)


def _selu_gradient(grad_y: Array, y: Array, grad_z: Array, work: Work) -> Formula:
    """f′ = λ where y > 0, else y + λα: min(y, 0) + λα + (λ − λα)·[y > 0]"""
    slope, above = work.full(0), work.full(1)
    yield from _above_zero(y, above, work)
    yield call(np.multiply, above, SELU_SCALE - SELU_SCALE * SELU_ALPHA, out=above)
    yield call(np.minimum, y, work.zeros(), out=slope)
    yield call(np.add, slope, SELU_SCALE * SELU_ALPHA, out=slope)
    yield call(np.add, slope, above, out=slope)
    yield call(np.multiply, grad_y, slope, out=grad_z)


def _softplus(z: Array, y: Array, work: Work) -> Formula:
    """y = log(1 + eᶻ) = max(z, 0) + log1p(e^−|z|)"""
    rest = work.full()
    yield call(np.absolute, z, out=rest)
    yield call(np.negative, rest, out=rest)
    yield call(np.exp, rest, out=rest)
    yield call(np.log1p, rest, out=rest)
    yield call(np.maximum, z, work.zeros(), out=y)
    yield call(np.add, y, rest, out=y)


def _softplus_gradient(grad_y: Array, y: Array, grad_z: Array, work: Work) -> Formula:
    """f′ = 1 − e⁻ʸ, which is the sigmoid of z"""
    slope = work.full()
    yield call(np.negative, y, out=slope)
    yield call(np.expm1, slope, out=slope)
    yield call(np.negative, slope, out=slope)
    yield call(np.multiply, grad_y, slope, out=grad_z)


def _softsign(z: Array, y: Array, work: Work) -> Formula:
    """y = z/(1 + |z|)"""
    below = work.full()
    yield call(np.absolute, z, out=below)
    yield call(np.add, below, 1.0, out=below)
    yield call(np.divide, z, below, out=y)


def _softsign_gradient(grad_y: Array, y: Array, grad_z: Array, work: Work) -> Formula:
    """f′ = 1/(1 + |z|)² = (1 − |y|)²"""
    root = work.full()
    yield call(np.absolute, y, out=root)
    yield call(np.subtract, 1.0, root, out=root)
    yield call(np.multiply, root, root, out=root)
    yield call(np.multiply, grad_y, root, out=grad_z)


def _exp(z: Array, y: Array, work: Work) -> Formula:
    yield call(np.exp, z, out=y)


def _exp_gradient(grad_y: Array, y: Array, grad_z: Array, work: Work) -> Formula:
    """f′ = y"""
    yield call(np.multiply, grad_y, y, out=grad_z)


def _softmax(z: Array, y: Array, work: Work) -> Formula:
    """y = e^(z − max z)/Σ e^(z − max z): the largest exponent is 0"""
    row = work.rows()
    yield call(np.maximum.reduce, z, axis=-1, out=row, keepdims=True)
    yield call(np.subtract, z, row, out=y)
    yield call(np.exp, y, out=y)
    yield row_sum(y, row)
    yield call(np.divide, y, row, out=y)


def _softmax_gradient(grad_y: Array, y: Array, grad_z: Array, work: Work) -> Formula:
    """∇z = ∇y·(diag y − yᵀy) = y ⊙ (∇y − ⟨∇y, y⟩): the Jacobian of N4 is never formed"""
    product, row = work.full(), work.rows()
    yield call(np.multiply, grad_y, y, out=product)
    yield row_sum(product, row)
    yield call(np.subtract, grad_y, row, out=grad_z)
    yield call(np.multiply, grad_z, y, out=grad_z)


_SELU, _SELU_BELOW = f"A({SELU_SCALE!r})", f"A({SELU_SCALE * SELU_ALPHA!r})"

ACTIVATIONS: dict[str, Activation] = {
    row.name: row
    for row in (
        IDENTITY,
        Activation("sigmoid", "y", _sigmoid, _sigmoid_gradient, "A(1) / (A(1) + exp(-z))", "s * (A(1) - s)"),
        Activation("tanh", "y", _tanh, _tanh_gradient, "tanh(z)", "(A(1) - s) * (A(1) + s)"),
        Activation("relu", "y", _relu, _relu_gradient, "z < A(0) ? A(0) : z", "s > A(0) ? A(1) : A(0)"),
        Activation(
            "leaky_relu", "y", _leaky_relu, _leaky_relu_gradient,
            f"z > A(0) ? z : A({LEAK}) * z", f"s > A(0) ? A(1) : A({LEAK})",
        ),
        Activation("elu", "y", _elu, _elu_gradient, "z > A(0) ? z : expm1(z)", "s > A(0) ? A(1) : s + A(1)"),
        Activation(
            "selu", "y", _selu, _selu_gradient,
            f"z > A(0) ? {_SELU} * z : {_SELU_BELOW} * expm1(z)", f"s > A(0) ? {_SELU} : s + {_SELU_BELOW}",
        ),
        Activation(
            "softplus", "y", _softplus, _softplus_gradient,
            "(z > A(0) ? z : A(0)) + log1p(exp(-fabs(z)))", "-expm1(-s)",
        ),
        Activation(
            "softsign", "y", _softsign, _softsign_gradient,
            "z / (A(1) + fabs(z))", "(A(1) - fabs(s)) * (A(1) - fabs(s))",
        ),
        Activation("gelu", "z", gelu, gelu_gradient, "gelu(z)", "gelu_slope(s)"),
        Activation(
            "gelu_tanh", "z", gelu_tanh, gelu_tanh_gradient,
            "gated(z, cubic(z))", "gated_slope(cubic_slope(s), cubic(s))",
        ),
        Activation("silu", "z", silu, silu_gradient, "gated(z, z)", "gated_slope(s, s)"),
        Activation("mish", "z", mish, mish_gradient, "mish(z)", "mish_slope(s)"),
        Activation("exp", "y", _exp, _exp_gradient, "exp(z)", "s"),
        Activation("softmax", "y", _softmax, _softmax_gradient, rowwise=True),
    )
}  # fmt: skip
"""By name. The numbers in them are fixed: leaky_relu has the slope 0.01 below 0, elu goes to −1."""


def activation(spec: str | Activation) -> Activation:
    """Returns the activation called `spec`; a user's own Activation passes through."""
    if spec is None:
        raise InputError(
            "activation must be a name or an Activation, and 'identity' changes nothing, got NoneType None."
        )
    return named("activation", spec, Activation, ACTIVATIONS)
