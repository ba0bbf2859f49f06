"""Minibatches, casts, sums and optimizers on CUDA, against NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from operation_pairs import MODELS_SHAPES, Given, a, check, compile_kernels, dtypes, random, strided, t, to_be_written

from gpu_backprop.backend.device import ALIGNMENT
from gpu_backprop.backend.open_device import open_device
from gpu_backprop.training.optimizers import RULES

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def compiled():
    compile_kernels("minibatch.cu", "metrics.cu", "optimizers.cu", "schedules.cu", "weights.cu")


# Minibatches ----------------------------------------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize("source", ["uint8", "float16", "bfloat16", "float32", "float64"])
def test_gather(source, dtype):
    """x from any dtype; labels or dense targets; weights or none."""
    kept = open_device("cuda", source).dtype if source != "uint8" else np.dtype(np.uint8)
    for cols, (rows, samples), models_shape in itertools.product(
        (1, 33, 16, 304), ((1, 1), (7, 20), (90, 90)), MODELS_SHAPES
    ):
        rng = random(source, dtype, cols, rows, models_shape)
        x = rng.integers(0, 256, (samples, cols)) if source == "uint8" else rng.normal(size=(samples, cols))
        order = rng.permuted(np.broadcast_to(np.arange(samples), (*models_shape, samples)), axis=-1)
        if cols == 33:  # an order that names no sample, or one twice
            order = np.concatenate([order[..., samples // 2 :], order], axis=-1)
        cursor = Given(np.array([order.shape[-1] - rows]))
        labels = Given(rng.integers(0, 9, samples)), to_be_counted((*models_shape, rows))
        dense = a(rng.normal(size=(samples, 3))), to_be_written((*models_shape, rows, 3), "A")
        own = models_shape if cols != 16 else ()
        weights = a(rng.uniform(0, 2, (*own, samples))), to_be_written((*models_shape, rows), "A")
        counts = Given(rng.integers(samples - rows, samples + 1, models_shape)) if own else None
        forms = [(labels, True), (dense, False), (dense, True), (labels, False)]
        for target, weighted in forms if rows == 7 else forms[:2]:
            pairs = [
                (Given(x.astype(kept)), to_be_written((*models_shape, rows, cols))),
                target,
                *([weights] * weighted),
            ]
            sources, outs = map(list, zip(*pairs, strict=True))
            check(dtype, "gather", sources, Given(order), cursor, outs, counts if weighted else None)
        check(dtype, "gather", [None, None, weights[0]], Given(order), cursor, [None, None, weights[1]], counts)


def to_be_counted(shape):
    return Given(np.full(shape, -1), out=True)


def test_advance():
    """A cursor, the place in a schedule, and the steps of dropout and the optimizer, those of models apart."""
    device = open_device("cuda")
    for models, counted in (((), None), ((3,), None), ((3,), np.array([1.0, 0.0, 0.5]))):
        given = np.array([2**40]), np.array([7]), np.zeros((*models, 2, 3), np.uint64), np.zeros((*models, 5))
        cursor, position, random, hyper = (device.copy(device.from_host(a)) for a in given)
        on_device = None if counted is None else device.from_host(counted)
        with device.computing():
            for call in device.ops.advance(device, cursor, 128, position, random[..., 2], hyper[..., 0], on_device):
                call()
        given[0][...] += 128
        given[1][...] += 1
        given[2][..., 2] = 1 if counted is None else (counted != 0)[:, None]
        given[3][..., 0] = 1 if counted is None else counted != 0
        for array, want in zip((cursor, position, random, hyper), given, strict=True):
            np.testing.assert_array_equal(device.to_host(array), want)


@dtypes
@pytest.mark.parametrize("source", ["uint8", "float16", "bfloat16", "float32", "float64"])
def test_copy(source, dtype):
    kept = open_device("cuda", source).dtype if source != "uint8" else np.dtype(np.uint8)
    for shape in ((1,), (33,), (64,), (3, 1000), (2100, 40), (0,)):
        values = random(source, dtype, shape).uniform(-100, 100, shape)
        values = (np.abs(values) if source == "uint8" else values).astype(kept)
        check(dtype, "copy", Given(values), to_be_written(shape))


@dtypes
def test_sum_of_squares(dtype):
    for n, models_shape in itertools.product((1, 33, 1000, 100_000, 0), MODELS_SHAPES):
        values = random(dtype, n, models_shape).normal(size=(*models_shape, n))
        check(dtype, "sum_of_squares", t(values), Given(np.full(models_shape, np.nan), out=True, grain="A"))


def test_a_sum_of_squares_beyond_float32():
    values = np.array([3e25, -4e25], np.float32)
    check("float32", "sum_of_squares", t(values), Given(np.full((), np.nan), out=True, grain="A"))


def test_follow_schedule():
    """Factors of all models or of each; settings alone or in pairs with 1/(1 − r); positions beyond the last row."""
    for models_shape, own, pairs, n in itertools.product(MODELS_SHAPES, (False, True), (False, True), (1, 3, 700)):
        rng = random(models_shape, own, pairs, n)
        table = Given(rng.uniform(0, 1, (4, *(models_shape if own else ()), n)))
        settings = Given(rng.uniform(0, 0.9, (*models_shape, n)), **strided(models_shape))
        shape = (*models_shape, n, 2) if pairs else (*models_shape, n)
        values = Given(np.full(shape, np.nan), out=True, **strided(models_shape))
        for position in (0, 2, 7):
            check("float32", "follow_schedule", table, Given(np.array([position])), settings, values)


# Loss scaling ---------------------------------------------------------------------------------------------------------

STATES = [(65536, 0, 0), (65536, 1999, 0), (1, 7, 3), (2.0**24, 1999, 1), (2, 1998, 0), (4, 0, 9)]
"""Scales in their range and at its ends, and streaks that are complete after this step."""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("spoilt", [None, np.inf, -np.inf, np.nan])
def test_unscale(spoilt, dtype):
    """A number that is not finite, in any model and at any place; weights or none, or none that weighs anything."""
    for n, models in itertools.product((1, 33, 1000, 70_000), (None, 3)):
        rng, models_shape = random(spoilt, dtype, n, models), () if models is None else (models,)
        for (k, state), counts in itertools.product(enumerate(STATES), (None, 1.0, 0.0)):
            if n == 70_000 and (k > 1 or counts == 0.0):
                continue
            g = rng.normal(size=(*models_shape, n))
            if spoilt is not None:
                g.reshape(-1, n)[-1, rng.integers(n)] = spoilt
            scaling = Given(np.broadcast_to(np.array(state, np.float64), (*models_shape, 3)).copy(), out=True)
            counted = None if counts is None else Given(np.full(models_shape, counts))
            factor = Given(np.full(models_shape, np.nan), out=True)
            check(dtype, "unscale", a(g), scaling, counted, factor, 2000, 2.0**24)


# Besides the optimizer ------------------------------------------------------------------------------------------------


def test_clip_factor():
    for models_shape in (*MODELS_SHAPES, (300,)):
        rng, nan = random(models_shape), Given(np.full(models_shape, np.nan), out=True)
        squares = rng.choice([0.0, 1e-20, 4.0, 1e200, np.inf, np.nan], models_shape)
        counted = [None, Given(rng.choice([0.0, 1.0, 2.0**-16], models_shape))]
        for one, limit in itertools.product(counted, (1e-3, 1.0, np.inf)):
            check("float64", "clip_factor", Given(squares), Given(np.full(models_shape, limit)), one, nan)


@dtypes
def test_blend(dtype):
    for n, models_shape in itertools.product((1, 33, 1000, 30_000, 0), MODELS_SHAPES):
        rng = random(dtype, n, models_shape)
        source, destination = rng.normal(size=(2, *models_shape, n))
        factors = None, Given(np.array([1, 0, 0.5]) if models_shape else np.array(0.0))
        for counted, numbers in itertools.product(factors, ([1.0, 0.0], [0.25, 1.0])):
            numbers = Given(np.broadcast_to(numbers, (*models_shape, 2)).copy())
            check(dtype, "blend", a(source), numbers, counted, a(destination, out=True))


@dtypes
def test_limit_norms(dtype):
    """Columns below the bound and beyond it, and one that is not finite; members apart, one of which is stopped."""
    for shape, models_shape in itertools.product(((1, 1), (33, 7), (700, 40)), MODELS_SHAPES):
        rng = random(dtype, shape, models_shape)
        weight = rng.normal(size=(*models_shape, *shape)) / shape[0] ** 0.5
        weight[..., -1, -1] = np.inf if shape[0] == 33 else 0.1
        limit, half = Given(rng.uniform(0.5, 1.5, models_shape)), None
        for counted in (None, np.array([1, 0, 0.5]) if models_shape else np.array(0.0)):
            if dtype in ("float16", "bfloat16"):
                half = t(np.full_like(weight, np.nan), out=True)
            check(
                dtype, "limit_norms", a(weight, out=True, **strided(models_shape)), limit,
                None if counted is None else Given(counted), half,
            )  # fmt: skip


# Optimizers -----------------------------------------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_optimizers(rule, dtype):
    """A step, with every factor of the gradients: none, 1, 0, 1/S, one a member; with and without groups, some of which
    are frozen; with 16-bit copies of what it writes."""
    rate, *others = rule.settings.values()
    blocks_of = ALIGNMENT // (8 if dtype == "float64" else 4)
    for n, models_shape in itertools.product((1, 33, 1000, 30_000, 0), MODELS_SHAPES):
        rng = random(rule.name, dtype, n, models_shape)
        several = np.array([1, 0, 2.0**-9]) if models_shape else np.asarray(2.0**-9)
        factors = [None, np.ones(models_shape), np.zeros(models_shape), several]
        groups = rng.choice([0, 0.5, 1, 2], (3, -(-n // blocks_of))) if n else None
        for k, factor in enumerate(factors if n == 33 else factors[::3]):
            w, g = rng.normal(size=(2, *models_shape, n))
            moments = a(rng.uniform(0.1, 1, (len(rule.moments), *w.shape)), out=True) if rule.moments else None
            settings = np.array([4.0, 10 * rate, *others])
            hyper = Given(np.broadcast_to(settings, (*models_shape, len(settings))).copy(), out=True)
            moves = np.ones((*models_shape, 1), bool) if factor is None else (factor != 0)[..., None]
            if (given := groups if k % 2 else None) is not None:
                moves = moves & (np.repeat(given[0], blocks_of)[:n] != 0)
            g = np.where(moves, g, np.inf)  # after an overflow
            half_parameters = t(np.where(moves, np.nan, w), out=True) if dtype in ("float16", "bfloat16") else None
            check(
                dtype, "update", a(w, out=True), a(g), moments, rule, hyper, None if factor is None else Given(factor),
                None if given is None else a(given), half_parameters,
                reference="float64" if given is None or dtype == "float64" else "float32",  # of as many a block
            )  # fmt: skip
