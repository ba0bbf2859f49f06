"""Every activation and its slope against plain Python, at ordinary places and at the ends of the number line."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.numpy_ops import activation_gradient, bias_activate
from gpu_backprop.backend.open_device import open_device
from gpu_backprop.network.activations import activation

DTYPES = ("float32", "float64")
LAMBDA, ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
ROOT = math.sqrt(2 / math.pi)


def sigma(z):
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def phi(z):
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def Phi(z):
    return math.erfc(-z / math.sqrt(2)) / 2


def cubic(z):
    return ROOT * (z + 0.044715 * z**3)


def tau(z):
    return math.tanh(max(z, 0.0) + math.log1p(math.exp(-abs(z))))


def gelu_tanh_slope(z):
    t = math.tanh(cubic(z))
    return (1 + t) / 2 + z / 2 * (1 - t * t) * ROOT * (1 + 3 * 0.044715 * z**2)


PLAIN = {  # f and f′ of one number
    "identity": (lambda z: z, lambda z: 1.0),
    "sigmoid": (sigma, lambda z: sigma(z) * sigma(-z)),
    "tanh": (math.tanh, lambda z: 1 / math.cosh(z) ** 2),
    "relu": (lambda z: max(z, 0.0), lambda z: float(z > 0)),
    "leaky_relu": (lambda z: z if z > 0 else 0.01 * z, lambda z: 1.0 if z > 0 else 0.01),
    "elu": (lambda z: z if z > 0 else math.expm1(z), lambda z: 1.0 if z > 0 else math.exp(z)),
    "selu": (
        lambda z: LAMBDA * z if z > 0 else LAMBDA * ALPHA * math.expm1(z),
        lambda z: LAMBDA if z > 0 else LAMBDA * ALPHA * math.exp(z),
    ),
    "softplus": (lambda z: max(z, 0.0) + math.log1p(math.exp(-abs(z))), sigma),
    "softsign": (lambda z: z / (1 + abs(z)), lambda z: (1 + abs(z)) ** -2),
    "gelu": (lambda z: z * Phi(z), lambda z: Phi(z) + z * phi(z)),
    "gelu_tanh": (lambda z: z / 2 * (1 + math.tanh(cubic(z))), gelu_tanh_slope),
    "silu": (lambda z: z * sigma(z), lambda z: sigma(z) * (1 + z * sigma(-z))),
    "mish": (lambda z: z * tau(z), lambda z: tau(z) + z * sigma(z) * (1 - tau(z)) * (1 + tau(z))),
    "exp": (math.exp, math.exp),
}
LIMITS = {  # f(−1e4), f(1e4), f′(−1e4), f′(1e4)
    "identity": (-1e4, 1e4, 1, 1),
    "sigmoid": (0, 1, 0, 0),
    "tanh": (-1, 1, 0, 0),
    "relu": (0, 1e4, 0, 1),
    "leaky_relu": (-100, 1e4, 0.01, 1),
    "elu": (-1, 1e4, 0, 1),
    "selu": (-LAMBDA * ALPHA, LAMBDA * 1e4, 0, LAMBDA),
    "softplus": (0, 1e4, 0, 1),
    "softsign": (-1e4 / 10001, 1e4 / 10001, 10001**-2, 10001**-2),
    "gelu": (0, 1e4, 0, 1),
    "gelu_tanh": (0, 1e4, 0, 1),
    "silu": (0, 1e4, 0, 1),
    "mish": (0, 1e4, 0, 1),
    "exp": (0, math.inf, 0, math.inf),
}
PLACES = [s * z for z in (0.0, 1e-30, 1e-8, 1e-3, 0.25, 0.5, 1.0, 1.75, 3.0, 5.5, 9.0, 17.0, 36.0) for s in (1, -1)]


def forward(f, z, bias=None):
    """(z, y) after y = f(z + b), in buffers of their own."""
    device = open_device("cpu", str(z.dtype))
    z, y = z.copy(), np.full_like(z, np.nan)
    run(device, bias_activate(device, z, bias, f, y))
    return z, y


def gradient(f, z, y, grad_y):
    device = open_device("cpu", str(z.dtype))
    grad_z = np.full_like(z, np.nan)
    run(device, activation_gradient(device, grad_y, {"y": y, "z": z, "": None}[f.reads], f, grad_z, None))
    return grad_z


def run(device, calls):
    calls = list(calls)
    with device.computing():
        for call in calls:
            call()


def numbers(shape, dtype, seed=0, scale=2.0):
    return np.random.default_rng(seed).normal(0, scale, shape).astype(dtype)


def test_the_table_has_every_name():
    assert set(gb.ACTIVATIONS) == {*PLAIN, "softmax"}
    assert all(name == row.name for name, row in gb.ACTIVATIONS.items())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PLAIN)
def test_values_and_slopes(name, dtype):
    f, slope = PLAIN[name]
    z = np.array([PLACES], dtype)
    _, y = forward(gb.ACTIVATIONS[name], z)
    grad_y = numbers(z.shape, dtype)
    grad_z = gradient(gb.ACTIVATIONS[name], z, y, grad_y)
    eps = float(np.finfo(dtype).eps)
    # where a slope is written in y, y's own rounding comes in: then the error is in units of 1, not of the slope
    np.testing.assert_allclose(y, [[f(float(v)) for v in z[0]]], rtol=16 * eps, atol=eps)
    want = [[g * slope(float(v)) for v, g in zip(z[0], grad_y[0].tolist(), strict=True)]]
    np.testing.assert_allclose(grad_z, want, rtol=32 * eps, atol=16 * eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sigmoid", "softplus", "exp", "silu", "gelu"])
def test_small_values_are_right_relatively(name, dtype):
    """These fade away towards −∞, and what is left has as many digits as it ever had."""
    f = PLAIN[name][0]
    z = np.linspace(-12, -2, 41, dtype=dtype)[None]
    eps = float(np.finfo(dtype).eps)
    # e^(−z²/2) multiplies the rounding of z/√2 by z² = 144, here and in the reference alike
    np.testing.assert_allclose(forward(gb.ACTIVATIONS[name], z)[1], [[f(float(v)) for v in z[0]]], rtol=300 * eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LIMITS)
def test_stable_at_ten_thousand(name, dtype):
    z = np.array([[-1e4, 1e4]], dtype)
    _, y = forward(gb.ACTIVATIONS[name], z)
    grad_z = gradient(gb.ACTIVATIONS[name], z, y, np.ones_like(z))
    low, high, low_slope, high_slope = LIMITS[name]
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(y, [[low, high]], rtol=4 * eps, atol=eps)
    np.testing.assert_allclose(grad_z, [[low_slope, high_slope]], rtol=4 * eps, atol=eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*PLAIN, "softmax"])
def test_finite_at_every_magnitude(name, dtype):
    sizes = np.logspace(-30, 4, 69)
    z = np.array([[-s, s] for s in sizes], dtype)
    _, y = forward(gb.ACTIVATIONS[name], z)
    grad_z = gradient(gb.ACTIVATIONS[name], z, y, np.ones_like(z))
    if name == "exp":  # e^1e4 is infinite in either dtype
        overflow = z > math.log(np.finfo(dtype).max)
        assert overflow.any() and np.isposinf(y[overflow]).all()
        y, grad_z = y[~overflow], grad_z[~overflow]
    assert np.isfinite(y).all() and np.isfinite(grad_z).all()


@pytest.mark.parametrize("name", [*PLAIN, "softmax"])
def test_a_nan_is_not_hidden(name):
    z = np.array([[1.0, np.nan, -1.0]])
    assert np.isnan(forward(gb.ACTIVATIONS[name], z)[1][0, 1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*PLAIN, "softmax"])
def test_in_place_is_the_same(name, dtype):
    f, device = gb.ACTIVATIONS[name], open_device("cpu", dtype)
    z, grad_y = numbers((5, 7), dtype), numbers((5, 7), dtype, seed=1)
    given = grad_y.copy()
    kept, y = forward(f, z)
    grad_z = gradient(f, z, y, grad_y)
    assert (kept == z).all() and (grad_y == given).all()  # what was read is left alone

    s = {"y": y, "z": z, "": None}[f.reads]
    run(device, activation_gradient(device, grad_y, s, f, grad_y, None))
    assert (grad_y == grad_z).all()
    if f.reads != "z":
        run(device, bias_activate(device, z, None, f, z))
        assert (z == y).all()


@pytest.mark.parametrize("models_shape", [(), (3,)], ids=["one", "members"])
@pytest.mark.parametrize("name", [*PLAIN, "softmax"])
def test_bias_comes_before_f_and_its_gradient_is_the_sum(name, models_shape):
    f, device = gb.ACTIVATIONS[name], open_device("cpu", "float64")
    z, grad_y = numbers((*models_shape, 4, 5), "float64"), numbers((*models_shape, 4, 5), "float64", seed=1)
    bias = numbers((*models_shape, 5), "float64", seed=2)
    shifted, y = forward(f, z, bias)
    np.testing.assert_array_equal(shifted, z + bias[..., None, :])
    np.testing.assert_array_equal(y, forward(f, shifted)[1])

    grad_z, grad_bias = np.empty_like(z), np.full_like(bias, np.nan)
    s = {"y": y, "z": shifted, "": None}[f.reads]
    run(device, activation_gradient(device, grad_y, s, f, grad_z, grad_bias))
    np.testing.assert_array_equal(grad_z, gradient(f, shifted, y, grad_y))
    np.testing.assert_allclose(grad_bias, grad_z.sum(axis=-2), rtol=1e-14, atol=1e-15)


def test_the_side_that_a_kink_belongs_to():
    z, one = np.zeros((1, 1)), np.ones((1, 1))
    at_zero = {name: gradient(f, z, forward(f, z)[1], one).item() for name, f in gb.ACTIVATIONS.items()}
    assert at_zero["relu"] == 0 and at_zero["leaky_relu"] == 0.01
    assert at_zero["elu"] == 1 and at_zero["selu"] == LAMBDA * ALPHA


# softmax --------------------------------------------------------------------------------------------------------------


def softmax(row):
    top = max(row)
    powers = [math.exp(v - top) for v in row]
    return [p / math.fsum(powers) for p in powers]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (6, 3), (2, 3, 5)])
def test_softmax_values(shape, dtype):
    z = numbers(shape, dtype)
    _, y = forward(gb.ACTIVATIONS["softmax"], z)
    want = [softmax(row) for row in z.reshape(-1, shape[-1]).tolist()]
    np.testing.assert_allclose(y.reshape(-1, shape[-1]), want, rtol=16 * np.finfo(dtype).eps)


def test_softmax_of_shifted_rows_is_the_same():
    z = np.array([[1.0, 2.0, -3.0], [1001.0, 1002.0, 997.0], [-9999.0, -9998.0, -10003.0]])
    _, y = forward(gb.ACTIVATIONS["softmax"], z)
    np.testing.assert_allclose(y[1:], [y[0], y[0]], rtol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_at_ten_thousand(dtype):
    z = np.array([[1e4, -1e4, 0], [1e4, 1e4, -1e4], [-1e4, -1e4, -1e4]], dtype)
    _, y = forward(gb.ACTIVATIONS["softmax"], z)
    np.testing.assert_allclose(y, [[1, 0, 0], [0.5, 0.5, 0], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-6)
    grad_z = gradient(gb.ACTIVATIONS["softmax"], z, y, np.array([[1, 2, 3]] * 3, dtype))
    np.testing.assert_allclose(grad_z, [[0, 0, 0], [-0.25, 0.25, 0], [-1 / 3, 0, 1 / 3]], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (6, 3), (2, 3, 5)])
def test_softmax_gradient_is_the_product_with_its_jacobian(shape):
    """N4 forms ∂y_j/∂z_i = y_j(δ_ij − y_i), row by row, and multiplies."""
    z, grad_y = numbers(shape, "float64"), numbers(shape, "float64", seed=1)
    _, y = forward(gb.ACTIVATIONS["softmax"], z)
    grad_z = gradient(gb.ACTIVATIONS["softmax"], z, y, grad_y).reshape(-1, shape[-1])
    rows = zip(z.reshape(-1, shape[-1]).tolist(), grad_y.reshape(-1, shape[-1]).tolist(), strict=True)
    for k, (row, g) in enumerate(rows):
        p, n = softmax(row), range(len(row))
        jacobian = [[p[j] * ((i == j) - p[i]) for i in n] for j in n]  # [j][i] = ∂y_j/∂z_i
        want = [math.fsum(g[j] * jacobian[j][i] for j in n) for i in n]
        np.testing.assert_allclose(grad_z[k], want, rtol=1e-12, atol=1e-15)


# By name, or one's own ------------------------------------------------------------------------------------------------


def test_unknown_names_list_the_known_and_the_nearest():
    with pytest.raises(gb.InputError, match=r"unknown activation 'rellu'. Did you mean 'relu'\? Known: identity, "):
        activation("rellu")
    with pytest.raises(gb.InputError, match="must be a name or an Activation, got int 3"):
        activation(3)


def test_an_activation_of_ones_own():
    """y = z², f′ = 2z: the table has no privilege."""

    def square(z, y, work):
        yield lambda: np.multiply(z, z, out=y)

    def slope(grad_y, z, grad_z, work):
        yield lambda: np.multiply(grad_y, z, out=grad_z)
        yield lambda: np.multiply(grad_z, 2, out=grad_z)

    net = gb.Network(2, [gb.Dense(3, gb.Activation("square", "z", square, slope)), gb.Dense(1)], dtype="float64")
    x = numbers((4, 2), "float64")
    first, last = net.layers
    np.testing.assert_allclose(net.forward(x), (x @ first.weight) ** 2 @ last.weight, rtol=1e-13)
    assert gb.check_gradients(net, None, x, numbers((4, 1), "float64", 1)).checked > 0
