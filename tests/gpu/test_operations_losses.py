"""The losses on CUDA, against NumPy: value, gradient, weights, right answers, bad labels, and fused with the output."""

from __future__ import annotations

import itertools
from dataclasses import replace
from math import prod

import numpy as np
import pytest
from operation_pairs import (
    DTYPES,
    LOSSES,
    MODELS_SHAPES,
    Given,
    a,
    check,
    compile_kernels,
    dtypes,
    random,
    strided,
    t,
    to_be_written,
)

import gpu_backprop as gb
from gpu_backprop.backend.open_device import open_device

pytestmark = pytest.mark.gpu

FORMS = [
    ((1, 1), (), False), ((5, 1), (3,), True), ((1, 33), (), True), ((7, 33), (), False), ((7, 33), (3,), True),
    ((300, 3), (3,), False), ((0, 4), (), False), ((0, 4), (3,), True), ((1500, 2), (), True), ((30, 1000), (), True),
]  # fmt: skip
"""Shape, models axis, and whether there are weights."""

FEW_FORMS = FORMS[4:6]
"""For losses after the first: the formula is another one, and what goes through the rows is the same text."""


@pytest.fixture(scope="module", autouse=True)
def compiled():
    compile_kernels("losses.cu", "metrics.cu")


def batch(rng, models_shape, shape, loss):
    """y in the range of the loss, dense targets, labels, and total, which is added to."""
    needs_share = loss.low == 0
    y = rng.uniform(0.05, 0.95, (*models_shape, *shape)) if needs_share else rng.normal(size=(*models_shape, *shape))
    dense = rng.uniform(0, 1, y.shape) if needs_share else rng.normal(size=y.shape)
    labels = rng.integers(0, shape[1], (*models_shape, shape[0]))
    return y, dense, labels, Given(rng.uniform(1, 2, (*models_shape, 3)), out=True, grain="A")


def members(loss, models_shape):
    """The loss's numbers: of the first member its own, of the others less."""
    return Given(loss.rows(models_shape) / np.arange(1.0, 1 + prod(models_shape)).reshape(*models_shape, 1))


def weighing(rng, models_shape, rows, weighted):
    """Weights, some of them 0 or −0, and the factor: one number, and with weights one more for each model."""
    if not weighted:
        return None, 0.125, None
    w = rng.uniform(0, 2, (*models_shape, rows))
    w[..., ::4], w[..., ::5] = 0, -0.0
    return a(w), 1.0, Given(rng.uniform(0.1, 0.2, models_shape))


@dtypes
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_loss_gradient(loss, dtype):
    for shape, models_shape, weighted in FORMS if loss is LOSSES[0] else FEW_FORMS:
        rng = random(loss, dtype, shape, models_shape)
        y, dense, labels, total = batch(rng, models_shape, shape, loss)
        y = y.astype(open_device("cuda", dtype).dtype).astype(np.float64)
        dense[..., ::3] = y[..., ::3]  # no difference at all, where a slope jumps
        w, *factor = weighing(rng, models_shape, shape[0], weighted)
        sideless = replace(loss.formula, accuracy=loss.formula.accuracy.replace("threshold", ""))  # labels have no side
        numbers = members(loss, models_shape)
        for target, formula in ((a(dense), loss.formula), (Given(labels), sideless)):
            for out in (to_be_written(y.shape), None):
                check(dtype, "loss_gradient", t(y), target, w, formula, numbers, *factor, out, total)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_losses_at_the_edges(loss, dtype):
    """y of 0 and 1 stays finite, with the bounds of its own dtype, and a NaN comes out as one."""
    y = np.array([[0.0, 1.0, 0.5], [1.0, 0.0, 0.0], [0.25, 0.25, 1.0]])
    target = np.array([[1.0, 0.0, 0.5], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    for spoiled in (False, True):
        y[1, 2] = np.nan if spoiled else 0
        given = [
            t(y),
            a(target),
            None,
            loss.formula,
            members(loss, ()),
            0.5,
            None,
            to_be_written(y.shape),
            Given(np.zeros(3), out=True, grain="A"),
        ]
        got = check(dtype, "loss_gradient", *given, reference=dtype)
        assert np.isnan(got[id(given[-1])][0][0]) == spoiled


FUSED = {"softmax": gb.CrossEntropy(), "sigmoid": gb.BinaryCrossEntropy(), "focal": gb.Focal(1.5)}
OPERATIONS = {"softmax": "softmax_cross_entropy", "sigmoid": "sigmoid_cross_entropy", "focal": "softmax_focal"}
NONE = Given(np.zeros(1))
SMOOTH = gb.CrossEntropy(label_smoothing=0.1)


@dtypes
@pytest.mark.parametrize("f", FUSED)
def test_fused_losses(f, dtype):
    """With labels and dense targets, a bias or none, weights or none, and every way to ask for ∇z."""
    for shape, models_shape, weighted in FORMS:
        rng = random(f, dtype, shape, models_shape)
        _, dense, labels, total = batch(rng, models_shape, shape, FUSED[f])
        z, bias = 3 * rng.normal(size=(*models_shape, *shape)), rng.normal(size=(*models_shape, shape[1]))
        w, *factor = weighing(rng, models_shape, shape[0], weighted)
        dense = dense / dense.sum(axis=-1, keepdims=True)
        targets = [a(dense)] if f == "sigmoid" else [a(dense), Given(labels)]
        for target, grad_z, b in itertools.product(targets, WANTED, (a(bias, **strided(models_shape)), None)):
            if shape != (7, 33) and grad_z != "grad_z":
                continue
            loss = SMOOTH if f == "softmax" and weighted else FUSED[f]
            check_fused(dtype, f, z, b, target, w, loss, factor, grad_z, total)


WANTED = "grad_z", "z", None


def check_fused(dtype, f, z, b, target, w, loss, factor, grad_z, total):
    here = t(z, out=grad_z == "z")
    places = {"z": here, "grad_z": to_be_written(z.shape), None: None}
    numbers = members(loss, z.shape[:-2])
    arguments = here, b, target, w, loss.formula, numbers, *factor, places[grad_z], total
    return here, check(dtype, OPERATIONS[f], *arguments)


@dtypes
@pytest.mark.parametrize("f", ["softmax", "focal"])
@pytest.mark.parametrize("models_shape", MODELS_SHAPES)
def test_bad_labels(models_shape, f, dtype):
    """The loss becomes NaN, the gradient of the row 0, no accuracy is counted, and nothing is read out of bounds."""
    rng = random(dtype, models_shape)
    z = rng.normal(size=(*models_shape, 6, 4))
    labels = rng.integers(0, 4, (*models_shape, 6))
    for k, bad in enumerate([-1, 4, np.iinfo(np.int64).min, np.iinfo(np.int64).max]):
        labels[..., k] = bad
    total, target = Given(np.zeros((*models_shape, 3)), out=True, grain="A"), Given(labels)
    here, got = check_fused(dtype, f, z, None, target, None, FUSED[f], (0.5, None), "z", total)
    y = rng.dirichlet(np.ones(4), (*models_shape, 6))
    out, numbers = to_be_written(y.shape), members(FUSED[f], models_shape)
    got |= check(dtype, "loss_gradient", t(y), target, None, FUSED[f].formula, numbers, 0.5, None, out, total)
    assert np.isnan(got[id(total)][0][..., 0]).all()
    for gradient in (here, out):
        assert not got[id(gradient)][0][..., :4, :].any() and got[id(gradient)][0][..., 4:, :].any()


@dtypes
@pytest.mark.parametrize("f", ["softmax", "focal"])
def test_a_class_that_is_out_of_the_question(f, dtype):
    """A z of −∞, as 16 bits have it below −65,504, is a share of 0: the loss of another label stays finite."""
    z = np.array([[1.0, -np.inf, 2.0], [-np.inf, 0.0, -np.inf]])
    total = Given(np.zeros(3), out=True, grain="A")
    _, got = check_fused(dtype, f, z, None, Given(np.array([0, 1])), None, FUSED[f], (0.5, None), "grad_z", total)
    assert np.isfinite(got[id(total)][0]).all()


@dtypes
def test_right_answers_among_equals_and_nans(dtype):
    """As numpy.argmax has it: the first of equals, and the first NaN."""
    nan = np.nan
    z = np.array([[1, 2, 2, 0], [2, 2, 1, 2], [nan, 5, 1, nan], [0, 1, 2, 2], [-1, -1, -1, -1], [3, 1, 2, 0]])
    z = np.tile(z, (1, 12))  # more columns than lanes
    y = np.where(z == 5, nan, z / 10 + 0.5)
    for right in range(4):
        labels = np.full(6, right)
        _, got = check_fused(
            dtype, "softmax", z, None, Given(labels), None, FUSED["softmax"], (0.5, None), None,
            total := Given(np.zeros(3), out=True, grain="A"),
        )  # fmt: skip
        assert got[id(total)][0][2] == (np.argmax(z, axis=-1) == right).sum()
        onehot = a(np.eye(48)[labels])
        check_fused(dtype, "softmax", z, None, onehot, None, FUSED["softmax"], (0.5, None), None, total)
        check(dtype, "loss_gradient", t(y), onehot, None, FUSED["softmax"].formula, NONE, 0.5, None, None, total)
    side = np.array([[0.9, 0.1], [0.2, 0.7], [0.5, 0.5], [0.9, 0.9]])
    check_fused(dtype, "sigmoid", z[:4, :2], None, a(side), None, FUSED["sigmoid"], (0.5, None), None, total)
    check(dtype, "loss_gradient", t(side[::-1]), a(side), None, FUSED["sigmoid"].formula, NONE, 0.5, None, None, total)


@pytest.mark.parametrize("dtype", DTYPES)
def test_weigh(dtype):
    for rows, models_shape in itertools.product((1, 33, 1000, 0), MODELS_SHAPES):
        rng = random(dtype, rows, models_shape)
        w = rng.uniform(0, 2, (*models_shape, rows))
        w[:1] = 0  # the first model has no weight at all, or the first row
        total = Given(np.ones((*models_shape, 3)), out=True)
        for scales, loss_scale in (
            (to_be_written(models_shape, ""), None),
            (to_be_written(models_shape, ""), True),
            (None, None),
        ):
            loss_scale = loss_scale and Given(2.0 ** rng.integers(0, 24, models_shape))
            check(
                dtype,
                "normalize_weights",
                a(w),
                loss_scale,
                None if scales is None else Given(rng.choice([0.0, 1.0], models_shape)),
                Given(np.full(models_shape, np.nan), out=True),
                scales,
                total,
            )


@dtypes
def test_residual_sums(dtype):
    for shape, models_shape, weighted in [*FORMS, ((400, 40), (2,), False)]:
        rng = random(dtype, shape, models_shape)
        y, target = rng.normal(size=(2, *models_shape, *shape))
        w, *_ = weighing(rng, models_shape, shape[0], weighted)
        sums = Given(rng.normal(size=(*models_shape, 2, shape[1])), out=True, grain="A")
        check(dtype, "residual_sums", t(y), a(target), w, sums)
