"""The compiled losses against NumPy's in float64: value, gradient, weights, labels, right answers."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from against_numpy import exactly, near, run

import gpu_backprop as gb
from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.compiled import ops as compiled_ops
from gpu_backprop.backend.compiled.program import KernelCall
from gpu_backprop.backend.formula import LossFormula, call, row_sum
from gpu_backprop.network.losses import LOSSES

SIZES = [(1, 1), (1, 10), (5, 1), (37, 3), (64, 10), (19, 17), (9, 128), (3, 1500)]


def _quartic(y, target, grad_y, e, work):
    d, power = work.full(0), work.full(1)
    yield call(np.subtract, y, target, out=d)
    yield call(np.multiply, d, d, out=power)
    if grad_y is not None:
        yield call(np.multiply, power, d, out=grad_y)
        yield call(np.multiply, grad_y, 4.0, out=grad_y)
    yield call(np.multiply, power, power, out=power)
    yield row_sum(power, e)


QUARTIC = LossFormula("a user's quartic", _quartic, "(y - t) * (y - t) * (y - t) * (y - t)", "A(4) * pow(y - t, A(3))")
CHOSEN = {loss.name: loss for loss in (*LOSSES.values(), gb.Huber(delta=0.3), gb.Quantile(q=0.8))}
TABLE = {name: loss.formula for name, loss in CHOSEN.items()} | {"quartic": QUARTIC}
DOMAINS = dict.fromkeys(("cross_entropy", "binary_cross_entropy", "focal"), (0.05, 0.95)) | {"poisson": (0.1, 4)}
CROSS, BINARY, NONE = TABLE["cross_entropy"], TABLE["binary_cross_entropy"], np.zeros(1)

pytestmark = pytest.mark.usefixtures("split")


def numbers(*shape, low=-4.0, high=4.0, seed=0):
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def rows_of(loss, *models_shape, smoothing=0.0):
    """The loss's numbers: of members those of CHOSEN, and then others."""
    rows = CHOSEN[loss.name].rows(models_shape) if loss.name in CHOSEN else np.zeros((*models_shape, 1))
    rows[..., 0] = smoothing
    return rows * (1 + 0.5 * np.arange(rows.size // rows.shape[-1]).reshape(*models_shape, 1))


def totals(*models_shape):
    return np.arange(1.0, 1 + 3 * int(np.prod(models_shape, dtype=int))).reshape(*models_shape, 3)


def compare(device, name, places, *arguments):
    """Runs a binder and NumPy's; `places` tells which arguments are the gradient and the total."""
    gradient, total = (arguments[place] for place in places)
    wanted_gradient, wanted_total = (exactly(name, *arguments)[place] for place in places)
    with np.errstate(all="ignore"):
        run(device, name, *arguments)
    if gradient is not None:
        near(gradient, wanted_gradient, 8)
    np.testing.assert_array_equal(total[..., 1:], wanted_total[..., 1:])
    rows = arguments[0].shape[-2]
    np.testing.assert_allclose(total[..., 0], wanted_total[..., 0], 1e-5, 1e-5 * rows)


def some_weights(*shape):
    """Of places of which some hold no row."""
    weights = numbers(*shape, low=0, high=2, seed=2)
    weights[..., ::4] = -0.0
    return weights


@pytest.mark.parametrize("models_shape", [(), (3,)], ids=["", "models"])
@pytest.mark.parametrize("counted", [None, 0.25])
@pytest.mark.parametrize("mean", [False, True])
def test_the_sum_of_weights(device, models_shape, counted, mean):
    weights = some_weights(*models_shape, 37)
    if models_shape:
        weights[1] = 0
    counted = None if counted is None else np.full(models_shape, counted)
    scales = np.zeros(models_shape) if mean else None
    given = [weights, None, counted, np.zeros(models_shape), scales, totals(*models_shape)]
    wanted = exactly("normalize_weights", *given)
    run(device, "normalize_weights", *given)
    for got, want in zip(given[3:], wanted[3:], strict=True):
        if got is not None:
            near(got, want)


# Losses of y ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", TABLE.values(), ids=TABLE)
@pytest.mark.parametrize(("weighted", "scaled", "grad"), list(itertools.product([False, True], repeat=3)))
def test_every_loss(device, loss, weighted, scaled, grad):
    low, high = DOMAINS.get(loss.name, (-4, 4))
    y, target = numbers(37, 5, low=low, high=high), numbers(37, 5, low=0, high=1, seed=1)
    weights, scales = some_weights(37) if weighted else None, np.array(0.25) if scaled else None
    place = np.zeros_like(y) if grad else None
    compare(device, "loss_gradient", (7, 8), y, target, weights, loss, rows_of(loss), 1 / 37, scales, place, totals())


@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("models_shape", [(), (3,)], ids=["", "models"])
def test_a_loss_of_all_shapes(device, shape, models_shape):
    y, target = numbers(*models_shape, *shape), numbers(*models_shape, *shape, seed=1)
    scales = numbers(*models_shape, low=0.5, high=1).astype(np.float64)
    weights, loss = some_weights(*models_shape, shape[0]), TABLE["mean_squared_error"]
    compare(
        device, "loss_gradient", (7, 8), y, target, weights, loss, rows_of(loss, *models_shape), 1.0, scales,
        np.zeros_like(y), totals(*models_shape),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["huber", "quantile"])
def test_members_with_numbers_of_their_own(device, name):
    y, target, loss = numbers(3, 37, 5), numbers(3, 37, 5, seed=1), TABLE[name]
    rows = rows_of(loss, 3)
    assert len(set(rows[:, 1])) == 3
    compare(device, "loss_gradient", (7, 8), y, target, None, loss, rows, 1.0, None, np.zeros_like(y), totals(3))


@pytest.mark.parametrize("smoothing", [0.0, 0.1], ids=["", "smoothed"])
@pytest.mark.parametrize("outputs", [1, 2, 17, 1500])
@pytest.mark.parametrize("models_shape", [(), (2,)], ids=["", "models"])
def test_labels_and_right_answers(device, smoothing, outputs, models_shape):
    """Many outputs are equal, so that the place of the largest is in doubt; two labels are out of range."""
    y = np.round(numbers(*models_shape, 11, outputs, low=1, high=15)) / 16
    labels = np.random.default_rng(1).integers(0, outputs, (*models_shape, 11))
    rows = rows_of(CROSS, *models_shape, smoothing=smoothing)
    for target in (labels, np.eye(outputs, dtype=np.float32)[labels].copy()):
        grad = np.zeros_like(y)
        compare(device, "loss_gradient", (7, 8), y, target, None, CROSS, rows, 0.5, None, grad, totals(*models_shape))
    labels[..., 3], labels[..., 7] = -1, outputs
    grad = np.full_like(y, np.nan)
    compare(device, "loss_gradient", (7, 8), y, labels, None, CROSS, rows, 0.5, None, grad, totals(*models_shape))
    assert (grad[..., [3, 7], :] == 0).all()


@pytest.mark.parametrize("outputs", [1, 3, 17])
def test_sides(device, outputs):
    y, target = numbers(40, outputs, low=0.3, high=0.7), np.round(numbers(40, outputs, low=0, high=1, seed=1))
    y[::2] = np.where(target[::2], 0.9, 0.1)
    compare(device, "loss_gradient", (7, 8), y, target, None, BINARY, NONE, 1.0, None, np.zeros_like(y), totals())
    z = 10 * (y - 0.5).astype(np.float32)
    total = totals()
    compare(device, "sigmoid_cross_entropy", (8, 9), z, None, target, None, BINARY, NONE, 1.0, None, z, total)
    assert 20 <= total[2] - totals()[2] < 40


# Losses of z ----------------------------------------------------------------------------------------------------------

FOCAL = TABLE["focal"]
FUSED = {"softmax_cross_entropy": CROSS, "sigmoid_cross_entropy": BINARY, "softmax_focal": FOCAL}


def bias_of(models_shape, outputs):
    """In a model's part of a larger buffer."""
    return numbers(*models_shape, outputs + 3, seed=5)[..., :-3]


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize(
    ("bias", "weighted", "scaled", "place"), list(itertools.product([False, True], [False, True], [False, True], "z+-"))
)
def test_fused_losses(device, name, bias, weighted, scaled, place):
    """The gradient in z's place, in one of its own, or not asked for."""
    z, target = numbers(37, 10), numbers(37, 10, low=0, high=1, seed=1)
    b = bias_of((), 10) if bias else None
    weights, scales = some_weights(37) if weighted else None, np.array(0.25) if scaled else None
    grad = {"z": z, "+": np.zeros_like(z), "-": None}[place]
    rows = rows_of(FUSED[name])
    compare(device, name, (8, 9), z, b, target, weights, FUSED[name], rows, 1 / 37, scales, grad, totals())


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("models_shape", [(), (3,)], ids=["", "models"])
def test_fused_losses_of_all_shapes(device, name, shape, models_shape):
    z, target = numbers(*models_shape, *shape), np.eye(shape[1], dtype=np.float32)[np.arange(shape[0]) % shape[1]]
    target = np.broadcast_to(target, z.shape).copy()
    weights = some_weights(*models_shape, shape[0])
    bias, scales = bias_of(models_shape, shape[1]), numbers(*models_shape, low=0.5, high=1).astype(np.float64)
    rows = rows_of(FUSED[name], *models_shape)
    compare(device, name, (8, 9), z, bias, target, weights, FUSED[name], rows, 1.0, scales, z, totals(*models_shape))


@pytest.mark.parametrize("name", ["softmax_cross_entropy", "softmax_focal"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("outputs", [1, 2, 10, 128, 129, 300])
@pytest.mark.parametrize("models_shape", [(), (2,)], ids=["", "models"])
def test_softmax_with_labels(device, name, smoothing, outputs, models_shape):
    loss = FUSED[name]
    rows = rows_of(loss, *models_shape, smoothing=smoothing * loss.smooths)
    labels = np.random.default_rng(1).integers(0, outputs, (*models_shape, 21))
    for bad in (False, True):
        if bad:
            labels[..., 3], labels[..., 20] = -1, outputs
        z = np.round(numbers(*models_shape, 21, outputs))
        total = totals(*models_shape)
        compare(device, name, (8, 9), z, None, labels, None, loss, rows, 0.5, None, z, total)
        assert np.isnan(total[..., 0]).all() == bad
        if bad:
            assert (z[..., [3, 20], :] == 0).all()


@pytest.mark.parametrize("value", [1e4, -1e4, np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("outputs", [5, 150])
@pytest.mark.parametrize("name", FUSED)
def test_extremes_are_as_in_numpy(on_threads, plain, name, outputs, value):
    z = numbers(16, outputs)
    z[3, 2] = value
    labels, dense = np.arange(16) % 5, np.eye(outputs, dtype=np.float32)[np.arange(16) % 5].copy()
    results, loss = [], FUSED[name]
    for device, ops in ((on_threads(2), compiled_ops), (plain, numpy_ops)):
        copy, total = z.copy(), totals()
        target = dense if name == "sigmoid_cross_entropy" else labels
        with device.computing():
            for one in getattr(ops, name)(
                device, copy, None, target, None, loss, rows_of(loss), 1.0, None, copy, total
            ):
                one()
        results.append((copy, total))
    for compiled, wanted in zip(*results, strict=True):
        np.testing.assert_allclose(compiled, wanted, 1e-5, 1e-6)


@pytest.mark.parametrize("value", [4.0, -np.inf, np.nan])
@pytest.mark.parametrize("outputs", [31, 32, 33, 47, 200])
def test_the_first_of_the_largest_outputs_is_the_answer(device, outputs, value):
    """Also of NaNs, which are larger than any number."""
    y = np.round(numbers(3 * outputs, outputs, low=-3, high=3))
    for row in range(3 * outputs):  # in each of the places, and again behind it
        y[row, row % outputs :: 7 + row // outputs] = value
    y[0], y[1] = -np.inf, np.nan
    labels, total = y.argmax(-1), totals()
    with np.errstate(all="ignore"):
        run(device, "loss_gradient", y, labels, None, CROSS, NONE, 1.0, None, None, total)
        run(device, "softmax_cross_entropy", y, None, labels, None, CROSS, NONE, 1.0, None, None, total)
    assert total[2] - totals()[2] == 2 * len(y)


# Metrics --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("models_shape", [(), (3,)], ids=["", "models"])
@pytest.mark.parametrize("weighted", [False, True])
def test_sums_of_residuals(device, shape, models_shape, weighted):
    y, target = numbers(*models_shape, *shape), numbers(*models_shape, *shape, seed=1)
    weights = some_weights(*models_shape, shape[0]) if weighted else None
    sums = np.ones((*models_shape, 2, shape[1]))
    wanted = exactly("residual_sums", y, target, weights, sums)[3]
    run(device, "residual_sums", y, target, weights, sums)
    near(sums, wanted, 8 * shape[0])


# Sums -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [3, 64, 1001])
def test_the_total_is_the_same_bits_for_any_number_of_threads(on_threads, rows):
    labels, found = np.arange(rows) % 10, set()
    for threads in (1, 2, 3):
        z, y, total = numbers(rows, 10), numbers(rows, 10, seed=1), totals()
        grad = np.empty_like(y)
        run(on_threads(threads), "softmax_cross_entropy", z, None, labels, None, CROSS, NONE, 1.0, None, z, total)
        run(on_threads(threads), "loss_gradient", y, y[::-1].copy(), None, QUARTIC, NONE, 1.0, None, grad, total)
        found.add((z.tobytes(), grad.tobytes(), total.tobytes()))
    assert len(found) == 1


def test_totals_grow_from_step_to_step(device):
    z, labels, total = numbers(40, 3), np.arange(40) % 3, np.zeros(3)
    (step,) = compiled_ops.softmax_cross_entropy(device, z, None, labels, None, CROSS, NONE, 1.0, None, None, total)
    sums = []
    for _ in range(3):
        step()
        sums.append(total.copy())
    assert sums[0][0] > 0 and sums[0][2] > 0
    np.testing.assert_allclose(np.diff(sums, axis=0), [sums[0]] * 2, 1e-12)


def test_what_is_not_compiled_is_numpys(on_threads):
    device, z, labels = on_threads(2), numbers(6, 5), np.arange(6) % 5
    own = np.empty_like(z)
    for calls in (
        compiled_ops.loss_gradient(device, z, labels.astype(np.int32), None, CROSS, NONE, 1.0, None, own, totals()),
        compiled_ops.loss_gradient(
            device, z, own, None, dataclasses.replace(QUARTIC, cuda_value=""), NONE, 1.0, None, None, totals()
        ),
    ):
        assert not any(isinstance(one, KernelCall) for one in calls)


def test_a_search_over_a_number_compiles_once(on_threads, monkeypatch):
    """The number is data, and no part of the kernel's text."""
    library = on_threads(1).library
    files = {unit: made for unit, made in library._units.items() if unit.isidentifier()}
    monkeypatch.setattr(library, "_units", dict(files))
    losses = [gb.Huber(delta) for delta in (0.5, 1.0, 2.0)] + [gb.Quantile(q) for q in (0.1, 0.9)]
    places = [library.operation("loss_gradient", loss.formula)[1] for loss in losses]
    assert len(library._units) - len(files) == len(set(places)) == 2
