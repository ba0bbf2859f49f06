"""Operations in blocks give what they give in one piece, bit for bit where no sum of a row is involved."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import row_sum
from gpu_backprop.backend.numpy_ops import blocks
from gpu_backprop.backend.numpy_ops.scratch import FAST_BROADCAST, Scratch, broadcast
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.losses import LOSSES, CrossEntropy
from gpu_backprop.training.optimizers import RULES

ROWS, UNITS = 13, 5
ROW = UNITS * 4
CUTS = {
    "a row each": ((), 1),
    "some rows": ((), 4 * ROW),
    "a row each of a model": ((3,), 1),
    "some rows of a model": ((3,), 4 * ROW),
    "a model each": ((3,), ROWS * ROW),
    "two models": ((3,), 2 * ROWS * ROW),
}
"""The leading axes, and the bytes of a block."""


SMOOTHED = CrossEntropy(label_smoothing=0.1)


def members(loss, models_shape):
    """The loss's numbers: of the first member its own, of the others less."""
    return loss.rows(models_shape) / np.arange(1.0, 1 + prod(models_shape)).reshape(*models_shape, 1)


def of(rng, *shape):
    return rng.normal(0, 2, shape).astype(np.float32)


def same(monkeypatch, size, case, exact=True, more=True):
    """Runs case(device, rng), which gives calls and what they write, in one piece and in blocks of some bytes."""
    results, counts = [], []
    for block in (1 << 60, size):
        monkeypatch.setattr(blocks, "BLOCK", block)
        device = Device("cpu", "a test", "float32", np, numpy_ops)
        calls, written = case(device, np.random.default_rng(0))
        calls = list(calls)
        with device.computing():
            for _ in range(2):
                for call in calls:
                    call()
        results.append(written)
        counts.append(len(calls))
    for whole, cut in zip(*results, strict=True):
        if exact:
            np.testing.assert_array_equal(cut, whole)
        else:
            np.testing.assert_allclose(cut, whole, rtol=1e-5, atol=1e-6)
    assert (counts[1] > counts[0]) is more


@pytest.mark.parametrize(("models_shape", "size"), CUTS.values(), ids=CUTS)
class TestTheSameInSlabs:
    @pytest.mark.parametrize("name", ACTIVATIONS)
    @pytest.mark.parametrize("apart", [False, True])
    def test_activations(self, monkeypatch, size, models_shape, name, apart):
        def case(device, rng):
            z, bias = of(rng, *models_shape, ROWS, UNITS), of(rng, *models_shape, UNITS)
            y = np.empty_like(z) if apart else z
            return numpy_ops.bias_activate(device, z, bias, ACTIVATIONS[name], y), [z, y]

        same(monkeypatch, size, case, exact=name != "softmax")

    @pytest.mark.parametrize("name", ACTIVATIONS)
    def test_their_gradients(self, monkeypatch, size, models_shape, name):
        def case(device, rng):
            f, grad_y, grad_bias = (
                ACTIVATIONS[name],
                of(rng, *models_shape, ROWS, UNITS),
                np.empty((*models_shape, UNITS), "f4"),
            )
            s, grad_z = (of(rng, *models_shape, ROWS, UNITS) if f.reads else None), np.empty_like(grad_y)
            return numpy_ops.activation_gradient(device, grad_y, s, f, grad_z, grad_bias), [grad_z, grad_bias]

        same(monkeypatch, size, case, exact=name != "softmax")

    @pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
    @pytest.mark.parametrize("scaled", [False, True])
    def test_optimizers(self, monkeypatch, size, models_shape, rule, scaled):
        def case(device, rng):
            w, g, half_parameters = (
                of(rng, *models_shape, ROWS * UNITS),
                of(rng, *models_shape, ROWS * UNITS),
                np.full((*models_shape, 65), 7, np.float16),
            )
            moments = np.zeros((len(rule.moments), *w.shape), np.float32) if rule.moments else None
            hyper = np.tile([1.0, *rule.settings.values()], (*models_shape, 1))
            hyper[..., 1] = [0.1, 0.2, 0.3] if models_shape else 0.1
            factor = np.full(models_shape, 0.5) if scaled else None
            if models_shape and scaled:
                factor[1] = 0
            calls = numpy_ops.update(device, w, g, moments, rule, hyper, factor, None, half_parameters)
            return calls, [w, half_parameters, hyper, *([] if moments is None else [moments])]

        same(monkeypatch, size, case, more=not scaled)  # with a factor they are one call

    @pytest.mark.parametrize("name", LOSSES)
    @pytest.mark.parametrize("weighted", [False, True])
    def test_losses(self, monkeypatch, size, models_shape, name, weighted):
        def case(device, rng):
            y, target = (rng.uniform(0.05, 0.95, (*models_shape, ROWS, UNITS)).astype(np.float32) for _ in range(2))
            weights, grad_y, total = (
                _weights(rng, models_shape, weighted),
                np.empty_like(y),
                np.zeros((*models_shape, 3)),
            )
            calls = numpy_ops.loss_gradient(
                device, y, target, weights, LOSSES[name].formula, members(LOSSES[name], models_shape), 0.5, None,
                grad_y, total,
            )  # fmt: skip
            return calls, [grad_y, total]

        same(monkeypatch, size, case, exact=False, more=not LOSSES[name].formula.smooths)  # which are one call

    def test_losses_of_labels(self, monkeypatch, size, models_shape):
        def case(device, rng):
            y, labels = (
                rng.uniform(0.05, 0.95, (*models_shape, ROWS, UNITS)).astype(np.float32),
                _labels(rng, models_shape),
            )
            grad_y, total, numbers = np.empty_like(y), np.zeros((*models_shape, 3)), members(SMOOTHED, models_shape)
            calls = numpy_ops.loss_gradient(
                device, y, labels, None, SMOOTHED.formula, numbers, 1.0, None, grad_y, total
            )
            return calls, [grad_y, total]

        same(monkeypatch, size, case, exact=False, more=False)

    @pytest.mark.parametrize("labelled", [False, True])
    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("wanted", [True, False], ids=["gradient", "value"])
    def test_softmax_cross_entropy(self, monkeypatch, size, models_shape, labelled, weighted, wanted):
        def case(device, rng):
            z, bias, total = (
                of(rng, *models_shape, ROWS, UNITS),
                of(rng, *models_shape, UNITS),
                np.zeros((*models_shape, 3)),
            )
            target = _labels(rng, models_shape)
            if not labelled:
                target = np.eye(UNITS + 1, UNITS, dtype=np.float32)[target]
            grad_z = np.empty_like(z) if wanted else None
            scales = np.full(models_shape, 0.25) if weighted else None
            calls = numpy_ops.softmax_cross_entropy(
                device, z, bias, target, _weights(rng, models_shape, weighted), SMOOTHED.formula,
                members(SMOOTHED, models_shape), 0.5, scales, grad_z, total,
            )  # fmt: skip
            return calls, [a for a in (grad_z, total) if a is not None]

        same(monkeypatch, size, case, exact=False, more=False)

    @pytest.mark.parametrize("labelled", [False, True])
    def test_softmax_focal(self, monkeypatch, size, models_shape, labelled):
        def case(device, rng):
            z, bias, total = (
                of(rng, *models_shape, ROWS, UNITS),
                of(rng, *models_shape, UNITS),
                np.zeros((*models_shape, 3)),
            )
            target = _labels(rng, models_shape)
            if not labelled:
                target = np.eye(UNITS + 1, UNITS, dtype=np.float32)[target]
            grad_z, numbers = np.empty_like(z), members(LOSSES["focal"], models_shape)
            calls = numpy_ops.softmax_focal(
                device, z, bias, target, None, LOSSES["focal"].formula, numbers, 0.5, None, grad_z, total
            )
            return calls, [grad_z, total]

        same(monkeypatch, size, case, exact=False)

    @pytest.mark.parametrize("weighted", [False, True])
    def test_sigmoid_cross_entropy(self, monkeypatch, size, models_shape, weighted):
        formula, numbers = LOSSES["binary_cross_entropy"].formula, np.zeros((*models_shape, 1))

        def case(device, rng):
            z, bias, total = (
                of(rng, *models_shape, ROWS, UNITS),
                of(rng, *models_shape, UNITS),
                np.zeros((*models_shape, 3)),
            )
            target, grad_z = rng.integers(0, 2, z.shape).astype(np.float32), np.empty_like(z)
            calls = numpy_ops.sigmoid_cross_entropy(
                device, z, bias, target, _weights(rng, models_shape, weighted), formula, numbers, 0.5, None, grad_z,
                total,
            )  # fmt: skip
            return calls, [grad_z, total]

        same(monkeypatch, size, case, exact=False)

    def test_dropout(self, monkeypatch, size, models_shape):
        def case(device, rng):
            x, random = (
                of(rng, *models_shape, ROWS, UNITS),
                np.arange(3 * prod(models_shape), dtype=np.uint64).reshape(*models_shape, 3),
            )
            y, mask, rates = np.empty_like(x), np.empty_like(x), rng.uniform(0, 0.9, (*models_shape, 2))
            return numpy_ops.dropout(device, x, rates, random, y, mask), [y, mask]

        same(monkeypatch, size, case)

    @pytest.mark.parametrize("name", ["add_bias", "multiply", "scale_columns"])
    def test_what_takes_two_operands(self, monkeypatch, size, models_shape, name):
        def case(device, rng):
            x, out = of(rng, *models_shape, ROWS, UNITS), np.empty((*models_shape, ROWS, UNITS), np.float32)
            other = of(rng, *models_shape, UNITS) if name != "multiply" else of(rng, *models_shape, ROWS, UNITS)
            return getattr(numpy_ops, name)(device, x, other, out), [out]

        same(monkeypatch, size, case)


def _labels(rng, models_shape):
    return rng.integers(0, UNITS + 1, (*models_shape, ROWS))  # the last class is none


def _weights(rng, models_shape, weighted):
    return rng.uniform(0, 2, (*models_shape, ROWS)).astype(np.float32) if weighted else None


@given(st.lists(st.integers(1, 9), min_size=0, max_size=3), st.integers(0, 700))
def test_slabs_are_all_of_it_once_and_about_so_many(shape, count):
    counted = np.zeros((*shape, 2), np.int64)
    indices = blocks._cut(shape, count)
    for index in indices:
        counted[index] += 1
    assert (counted == 1).all()
    assert len(indices) <= prod(shape)
    assert len(indices) < 2 * max(count, 1)
    if 0 < count <= prod(shape):
        assert max(counted[index].size // 2 for index in indices) <= 2 * prod(shape) / count


def test_work_knows_its_row_and_scratch_memory_is_that_of_a_slab(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 4 * ROW)
    device, seen = Device("cpu", "a test", "float32", np, numpy_ops), []

    def formula(work, part, number):
        assert part.shape == work.full().shape and number == 7.0
        seen.append((work.row, part.shape))
        return iter(())

    list(blocks.in_blocks(device, formula, np.zeros((2, ROWS, UNITS), np.float32), 7.0))
    assert seen == [(row, (1, rows, UNITS)) for _ in range(2) for row, rows in ((0, 4), (4, 4), (8, 4), (12, 1))]
    assert max(array.nbytes for array in device.scratch.values()) == 4 * ROW


def test_arrays_are_cut_where_the_operand_is(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 1)
    operand, seen = np.arange(24, dtype=np.float32).reshape(2, 3, 4), []
    labels, row, number, step = np.arange(6).reshape(2, 3), np.arange(8).reshape(2, 1, 4), np.full((), 9), None

    def formula(work, part, labels, row, number, step):
        assert isinstance(number, np.ndarray) and number.shape == () and step is None
        seen.append((part.ravel()[0], labels.tolist(), row.tolist()))
        return iter(())

    list(blocks.in_blocks(Device("cpu", "", "float32", np, numpy_ops), formula, operand, labels, row, number, step))
    assert seen == [
        (12 * m + 4 * r, [[3 * m + r]], [[list(range(4 * m, 4 * m + 4))]]) for m in range(2) for r in range(3)
    ]


@pytest.mark.parametrize("block", [1, 1 << 60])
def test_an_array_that_is_given_twice_is_still_one(monkeypatch, block):
    monkeypatch.setattr(blocks, "BLOCK", block)

    def formula(work, z, y, other):
        assert z is y and z is not other
        return iter(())

    z, device = np.zeros((2, 3), np.float32), Device("cpu", "a test", "float32", np, numpy_ops)
    list(blocks.in_blocks(device, formula, z, z, z.copy()))


@pytest.mark.parametrize("units", [1, 3, FAST_BROADCAST - 1, FAST_BROADCAST, FAST_BROADCAST + 1])
@pytest.mark.parametrize("thin", ["row", "column"])
def test_across(units, thin):
    rng, device = np.random.default_rng(0), Device("cpu", "a test", "float32", np, numpy_ops)
    a = of(rng, 2, 3, units)
    b, out = of(rng, 2, *((1, units) if thin == "row" else (3, 1))), np.empty_like(a)
    for call in broadcast(np.subtract, a, b, out, Scratch(device, a)):
        call()
    np.testing.assert_array_equal(out, a - b)


@pytest.mark.parametrize("shape", [(4, 7), (4, 1), (1, 300), (3, 4, 7)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_row_sum(shape, dtype):
    a, out = np.random.default_rng(0).normal(0, 1, shape).astype(dtype), np.empty((*shape[:-1], 1), dtype)
    row_sum(a, out)()
    np.testing.assert_allclose(out, a.sum(-1, keepdims=True), rtol=1e-5, atol=1e-6)


def test_zeros_stay_zeros_beside_other_work():
    device = Device("cpu", "a test", "float32", np, numpy_ops)
    small = Scratch(device, np.empty((2, 3), np.float32))
    zeros = small.zeros()
    for slot in range(8):
        small.full(slot).fill(1), small.rows(slot % 6).fill(1), small.mask(slot).fill(True)
    Scratch(device, np.empty((20, 3), np.float32)).zeros()
    assert not zeros.any() and not small.zeros().any()
