"""The compiled operations of layers against NumPy's in float64: every activation of the table and one of a user's."""

from __future__ import annotations

import numpy as np
import pytest
from against_numpy import exactly, near, run

from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.compiled import ops as compiled_ops
from gpu_backprop.backend.compiled.program import KernelCall
from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import IDENTITY, Activation, call
from gpu_backprop.network.activations import ACTIVATIONS

SIZES = [(1, 1), (1, 17), (5, 1), (7, 10), (33, 17), (64, 16), (12, 100), (9, 513), (3, 1500)]
"""Rows and columns: one, odd ones, whole vectors, more than lie side by side."""


def _square(z, y, work):
    yield call(np.multiply, z, z, out=y)


def _square_gradient(grad_y, z, grad_z, work):
    slope = work.full()
    yield call(np.multiply, z, 2.0, out=slope)
    yield call(np.multiply, grad_y, slope, out=grad_z)


SQUARE = Activation("a user's square", "z", _square, _square_gradient, "pow(z, A(2))", "A(2) * s")
ELEMENTWISE = {f.name: f for f in (*ACTIVATIONS.values(), SQUARE) if not f.rowwise}

pytestmark = pytest.mark.usefixtures("split")


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 2, shape).astype(np.float32)


@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("models_shape", [(), (3,)], ids=["", "models"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", ""])
def test_bias_activate_of_all_shapes(device, shape, models_shape, bias):
    f = ACTIVATIONS["tanh"]
    z, y = numbers(*models_shape, *shape), np.full((*models_shape, *shape), np.nan, np.float32)
    b = numbers(*models_shape, shape[1] + 3, seed=1)[..., :-3] if bias else None  # in a model's part of a larger buffer
    wanted_z, _, _, wanted_y = exactly("bias_activate", z, b, f, y)
    run(device, "bias_activate", z, b, f, y)
    near(z, wanted_z)
    near(y, wanted_y)
    z = numbers(*models_shape, *shape)
    run(device, "bias_activate", z, b, f, z)
    assert z.tobytes() == y.tobytes()
    if bias:
        sums = np.full_like(z, np.nan)
        run(device, "add_bias", y, b, sums)
        near(sums, y + b[..., None, :])


@pytest.mark.parametrize("f", ELEMENTWISE.values(), ids=ELEMENTWISE)
def test_every_activation(device, f):
    z, b, grad_y = numbers(37, 19), numbers(19, seed=1), numbers(37, 19, seed=2)
    wanted = exactly("bias_activate", z, b, f, np.zeros_like(z))[3]
    place = z if f.reads != "z" else np.empty_like(z)
    run(device, "bias_activate", z, b, f, place)
    near(place, wanted, 4)

    s = {"y": place, "z": z, "": None}[f.reads]
    wanted_grad = exactly("activation_gradient", grad_y, s, f, np.zeros_like(z), np.zeros_like(b))
    grad_bias = np.full_like(b, np.nan)
    run(device, "activation_gradient", grad_y, s, f, grad_y, grad_bias)  # in place, as plans do
    near(grad_y, wanted_grad[3], 8)
    near(grad_bias, wanted_grad[4], 8 * len(z))


@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("models_shape", [(), (3,)], ids=["", "models"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", ""])
def test_softmax_of_all_shapes(device, shape, models_shape, bias):
    f, z, grad_y = ACTIVATIONS["softmax"], numbers(*models_shape, *shape), numbers(*models_shape, *shape, seed=2)
    b, y = numbers(*models_shape, shape[1] + 3, seed=1)[..., :-3] if bias else None, np.full_like(z, np.nan)
    wanted_z, _, _, wanted = exactly("bias_activate", z, b, f, y)
    in_place = z.copy()
    run(device, "bias_activate", z, b, f, y)
    run(device, "bias_activate", in_place, b, f, in_place)
    near(z, wanted_z)
    near(y, wanted)
    assert in_place.tobytes() == y.tobytes()
    grad_bias = np.full_like(b, np.nan) if bias else None
    *_, wanted_grad, wanted_bias = exactly("activation_gradient", grad_y, y, f, grad_y, grad_bias)
    run(device, "activation_gradient", grad_y, y, f, grad_y, grad_bias)
    near(grad_y, wanted_grad, 8)
    if bias:
        near(grad_bias, wanted_bias, 8 * shape[0])


@pytest.mark.parametrize("units", [1, 3, 5, 16, 17, 33, 48, 49])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_row_of_softmax_has_the_same_bits_alone_and_among_others(units, dtype, on_threads):
    """Few rows are worked out one by one, many side by side."""
    device, f = on_threads(2, dtype), ACTIVATIONS["softmax"]
    z, b = numbers(37, units).astype(dtype), numbers(units, seed=1).astype(dtype)
    z[[3, 20], 0], z[5], z[7, -1], z[9] = np.nan, -np.inf, np.inf, 1e30
    for bias in (b, None):
        together, alone = np.empty_like(z), np.empty_like(z)
        run(device, "bias_activate", z.copy(), bias, f, together)
        for k in range(len(z)):
            run(device, "bias_activate", z[k : k + 1].copy(), bias, f, alone[k : k + 1])
        np.testing.assert_array_equal(np.isnan(together), np.isnan(alone))
        assert np.nan_to_num(together).tobytes() == np.nan_to_num(alone).tobytes()


EXTREMES = np.array(
    [0, -0.0, 1e-30, -1e-30, 1e4, -1e4, 89, -89, 88, -88, 10, -10, 1, -1, np.nan, np.inf, -np.inf],
    np.float32,
)


@pytest.mark.parametrize("f", ELEMENTWISE.values(), ids=ELEMENTWISE)
def test_extremes_are_as_in_numpy(on_threads, plain, f):
    """But for gelu of infinity, which NumPy does not know and CUDA does: ∞."""
    z = EXTREMES[:-2] if f.name == "gelu" else EXTREMES
    results = []
    for device, ops in ((on_threads(2), compiled_ops), (plain, numpy_ops)):
        y, grad = np.empty((1, len(z)), np.float32), np.full((1, len(z)), 3, np.float32)
        with device.computing():
            for one in ops.bias_activate(device, z.copy()[None], None, f, y):
                one()
            s = {"y": y, "z": z.copy()[None], "": None}[f.reads]
            for one in ops.activation_gradient(device, grad, s, f, grad, None):
                one()
        results.append((y, grad))
    for compiled, wanted in zip(*results, strict=True):
        np.testing.assert_allclose(compiled, wanted, 2e-6, 2e-6)


@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("models_shape", [(), (3,)], ids=["", "models"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", ""])
def test_activation_gradient_of_all_shapes(device, shape, models_shape, bias):
    f = ACTIVATIONS["tanh"]
    grad_y, s = numbers(*models_shape, *shape), np.tanh(numbers(*models_shape, *shape, seed=1))
    grad_z, flat = np.full_like(grad_y, np.nan), np.full((*models_shape, shape[1] + 3), 7, np.float32)
    grad_bias = flat[..., :-3] if bias else None
    _, _, _, wanted_z, wanted_bias = exactly("activation_gradient", grad_y, s, f, grad_z, grad_bias)
    for _ in range(2):  # what the parts add up in is as good the second time
        run(device, "activation_gradient", grad_y, s, f, grad_z, grad_bias)
    near(grad_z, wanted_z, 2)
    if bias:
        near(grad_bias, wanted_bias, 2 * shape[0])
        sums = np.full_like(flat, np.nan)[..., :-3]
        run(device, "column_sum", grad_z, sums)
        near(sums, wanted_bias, 2 * shape[0])
    assert (flat[..., -3:] == 7).all()


@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("models_shape", [(), (3,)], ids=["", "models"])
@pytest.mark.parametrize("both", [True, False], ids=["both", "factors alone"])
def test_scale_columns_of_all_shapes(device, shape, models_shape, both):
    x, grad_z = numbers(*models_shape, *shape), numbers(*models_shape, *shape, seed=1)
    s = numbers(*models_shape, shape[1] + 2, seed=2)[..., :-2] if both else None
    flat = np.full((*models_shape, shape[1] + 3), 7, np.float32)
    sums, grad_x = flat[..., :-3], grad_z if both else None
    *_, wanted_x, wanted_sums = exactly("scale_columns_gradient", x, grad_z, s, grad_x, sums)
    given = grad_z.copy()
    for _ in range(2):  # what the parts add up in is as good the second time
        grad_z[...] = given
        run(device, "scale_columns_gradient", x, grad_z, s, grad_x, sums)
    near(sums, wanted_sums, 16 * shape[0])
    assert (flat[..., -3:] == 7).all()
    if both:
        near(grad_x, wanted_x, 4)
        run(device, "scale_columns", x, s, x)
        near(x, exactly("scale_columns", numbers(*models_shape, *shape), s, x)[-1], 4)


def test_the_same_call_again_adds_up_anew(device):
    """The ticket of the parts is 0 again after each."""
    grad, sums = numbers(40, 17), np.empty(17, np.float32)
    (step,) = compiled_ops.column_sum(device, grad, sums)
    for k in range(1, 4):
        grad[...] = k
        step()
        np.testing.assert_array_equal(sums, 40.0 * k)


@pytest.mark.parametrize("models_shape", [(), (1,), (3,)], ids=str)
@pytest.mark.parametrize(("rows", "units"), [(1, 1), (9, 8), (5, 19), (5, 1500)])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dropout_has_the_masks_of_numpy(on_threads, models_shape, rows, units, shared, dtype):
    """Bit by bit, also of states that lie among others and of rows that do not begin a minibatch."""
    generator, device = np.random.default_rng(1), on_threads(3, dtype)
    x, y, mask = (generator.standard_normal((*models_shape, rows, units)).astype(dtype) for _ in range(3))
    x = x[(0,) * len(models_shape)] if shared else x
    state = generator.integers(0, 1 << 63, (*models_shape, 4, 3)).astype(np.uint64)[..., 2, :]
    rate = generator.uniform(0.2, 0.8, (*models_shape, 5, 1))
    rates = np.concatenate([rate, 1 / (1 - rate)], axis=-1)[..., 1, :]
    plain = Device("cpu", "for a test", dtype, np, numpy_ops)
    wanted = y.copy(), mask.copy()
    for one in numpy_ops.dropout(plain, x, rates, state, *wanted, 1000):
        one()
    run(device, "dropout", x, rates, state, y, mask, 1000)
    assert y.tobytes() == wanted[0].tobytes() and mask.tobytes() == wanted[1].tobytes()


@pytest.mark.parametrize("models_shape", [(), (2,)], ids=["", "models"])
def test_multiply(device, models_shape):
    a, b = numbers(*models_shape, 13, 21), numbers(*models_shape, 13, 21, seed=1)
    wanted = a * b
    run(device, "multiply", a, b, b)
    np.testing.assert_array_equal(b, wanted)


@pytest.mark.parametrize("f", [ACTIVATIONS["gelu"], ACTIVATIONS["tanh"], IDENTITY], ids=lambda f: f.name)
def test_any_number_of_threads_gives_the_same_bits(on_threads, f):
    """Of all but sums over rows."""
    found = set()
    for threads in (1, 2, 3):
        z, y, grad = numbers(53, 21), np.empty((53, 21), np.float32), numbers(53, 21, seed=1)
        run(on_threads(threads), "bias_activate", z, numbers(21), f, y)
        run(on_threads(threads), "activation_gradient", grad, y, f, grad, np.empty(21, np.float32))
        found.add((y.tobytes(), grad.tobytes()))
    assert len(found) == 1


def test_what_is_not_compiled_is_numpys(on_threads):
    device, z = on_threads(2), numbers(6, 5)
    own = [Activation("numpy's own", "y", _square, None, *more) for more in ((), ("", "", True))]
    for f, wanted in ((f, z * z) for f in own):
        y = np.empty_like(z)
        calls = list(compiled_ops.bias_activate(device, z, None, f, y))
        assert not any(isinstance(one, KernelCall) for one in calls)
        for one in calls:
            one()
        near(y, wanted)
    strided = np.empty((6, 10), np.float32)[:, ::2]
    assert not any(isinstance(one, KernelCall) for one in compiled_ops.multiply(device, z, z, strided))
