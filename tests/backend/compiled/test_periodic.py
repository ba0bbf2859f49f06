"""The compiled kernels of periodic embeddings against NumPy's in float64."""

from __future__ import annotations

import numpy as np
import pytest
from against_numpy import exactly, near, run

from gpu_backprop.backend.compiled import ops as compiled_ops

SIZES = [(1, 1, 1, 1, 1), (5, 3, 2, 4, 3), (37, 5, 5, 16, 3), (300, 4, 3, 5, 5), (600, 2, 1, 3, 9)]
"""Rows, inputs, numbers, frequencies and units: fewer and more rows, and units, than are worked on at a time."""

pytestmark = pytest.mark.usefixtures("split")


def case(size, models_shape=(), shared=False):
    """x, weight, bias and ∇y, where parameters of models lie in a longer row."""
    rows, inputs, numbers, frequencies, units = size
    stream = np.random.default_rng(0)

    def some(*shape):
        return stream.normal(size=shape).astype(np.float32)

    def apart(*shape):
        return some(*models_shape, np.prod(shape) + 3)[..., :-3].reshape(*models_shape, *shape)

    x = some(*(() if shared else models_shape), rows, inputs)
    weight, bias = apart(numbers, frequencies, 1 + units), apart(numbers, frequencies + units)
    weight[..., 0] *= 0.2
    return x, weight, bias, some(*models_shape, rows, inputs + numbers * units)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("form", [{}, {"models_shape": (3,)}, {"models_shape": (3,), "shared": True}], ids=str)
def test_forward_and_backward(device, size, form):
    x, weight, bias, grad_y = case(size, **form)
    y, rows = np.full_like(grad_y, np.nan), size[0]
    wanted = exactly("periodic", x, weight, bias, y)[3]
    run(device, "periodic", x, weight, bias, y)
    near(y, wanted, 4)

    grads = [np.full_like(a, np.nan) for a in (weight, bias)]
    *_, grad_weight, grad_bias = exactly("periodic_gradient", x, weight, bias, grad_y, *grads)
    for _ in range(2):  # what the parts add up in is as good the second time
        run(device, "periodic_gradient", x, weight, bias, grad_y, *grads)
    near(grads[0], grad_weight, 8 * rows)
    near(grads[1], grad_bias, 4 * rows)

    grad_x = np.full((*grad_y.shape[:-1], x.shape[-1]), np.nan, np.float32)
    wanted = exactly("periodic_gradient_x", x, weight, bias, grad_y, grad_x)[4]
    run(device, "periodic_gradient_x", x, weight, bias, grad_y, grad_x)
    near(grad_x, wanted, 40)


def test_any_number_of_threads_gives_the_same_bits(on_threads):
    """Of all but sums over rows."""
    x, weight, bias, grad_y = case(SIZES[3])
    found = set()
    for threads in (1, 2, 3):
        y, grad_x = np.empty_like(grad_y), np.empty_like(x)
        run(on_threads(threads), "periodic", x, weight, bias, y)
        run(on_threads(threads), "periodic_gradient_x", x, weight, bias, grad_y, grad_x)
        found.add((y.tobytes(), grad_x.tobytes()))
    assert len(found) == 1


def test_other_dtypes_are_numpys(on_threads, plain):
    x, weight, bias, grad_y = (a.astype(np.float64) for a in case(SIZES[1]))
    found = []
    for device, ops in ((on_threads(2), compiled_ops), (plain, plain.ops)):
        y = np.empty_like(grad_y)
        for one in ops.periodic(device, x, weight, bias, y):
            one()
        found.append(y)
    np.testing.assert_array_equal(*found)
