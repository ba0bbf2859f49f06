"""The bundled digits are the ones that NOTICE credits."""

from __future__ import annotations

import numpy as np

from gpu_backprop.data import load_digits


def test_shapes_types_and_values():
    x, labels = load_digits()
    assert x.shape == (1797, 64)
    assert x.dtype == np.float64
    assert x.flags.c_contiguous
    assert labels.shape == (1797,)
    assert labels.dtype == np.int64
    assert (x.min(), x.max()) == (0, 16)
    assert (x == np.round(x)).all()


def test_every_digit_about_equally_often():
    _, labels = load_digits()
    np.testing.assert_array_equal(np.bincount(labels), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])


def test_the_first_image_is_a_zero():
    x, labels = load_digits()
    assert labels[0] == 0
    np.testing.assert_array_equal(x[0].reshape(8, 8)[3], [0, 4, 12, 0, 0, 8, 8, 0])  # two strokes, a hole between


def test_not_a_number_is_changed():
    """The sums that scikit-learn's own reader gives; each depends on the place of every number."""
    x, labels = load_digits()
    assert (x @ np.arange(64)).astype(np.int64) @ np.arange(1797) == 15_815_633_691
    assert labels @ np.arange(1797) == 7_264_791


def test_a_caller_may_change_its_copy():
    x, _ = load_digits()
    x += 1
    assert load_digits()[0].min() == 0
