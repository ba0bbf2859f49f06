"""Samples: which x, targets and weights fit a network and a loss, and in what form they come out."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.errors import InputError
from gpu_backprop.network.samples import samples

X = np.arange(12.0).reshape(6, 2)
LABELS = np.array([0, 2, 1, 1, 0, 2])
NET = gb.Network(2, [gb.Dense(3, "softmax")])
ONE = gb.Network(2, [gb.Dense(1)])
CLASSES, SQUARES, BINARY = gb.CrossEntropy(), gb.HalfSquaredError(), gb.BinaryCrossEntropy()


def checked(y, weights=None, x=X, net=NET, loss=CLASSES, values=True, per_member=False):
    return samples(net, loss, x, y, weights, values=values, per_member=per_member)


# The two forms of a target --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.uint64, np.int8, np.float64, np.float16])
def test_labels_come_out_as_int64(dtype):
    data = checked(LABELS.astype(dtype))
    assert data.labelled and data.rows == 6 and data.weights is None
    assert data.target.dtype == np.int64
    np.testing.assert_array_equal(data.target, LABELS)


def test_booleans_are_labels_of_two_classes():
    data = checked(LABELS > 0, net=gb.Network(2, [gb.Dense(2, "softmax")]))
    np.testing.assert_array_equal(data.target, [0, 1, 1, 1, 0, 1])


def test_probabilities_come_out_as_they_are():
    p = np.full((6, 3), 1 / 3, np.float32)
    data = checked(p)
    assert not data.labelled
    assert data.target is p


def test_numbers_of_a_network_with_one_output_may_lack_the_second_axis():
    for y in (X[:, 0], X[:, :1]):
        data = checked(y, net=ONE, loss=SQUARES)
        assert not data.labelled and data.target.shape == (6, 1)
        np.testing.assert_array_equal(data.target[:, 0], X[:, 0])


def test_yes_or_no_of_a_network_with_one_output():
    net = gb.Network(2, [gb.Dense(1, "sigmoid")])
    np.testing.assert_array_equal(checked(LABELS > 1, net=net, loss=BINARY).target[:, 0], LABELS > 1)


@pytest.mark.parametrize(
    ("y", "match"),
    [
        (LABELS[:5], r"y must have one target for each row of x, got y of shape \(5,\), x of shape \(6, 2\)\."),
        (LABELS[:0], r"one target for each row of x, got y of shape \(0,\)"),
        (1, r"one target for each row of x, got y of shape \(\)"),
        (
            gb.one_hot(LABELS, 4),
            r"y must be \(6, 3\) for a network with 3 outputs, got \(6, 4\)\. Give one column for each output\.",
        ),
        (LABELS[:, None], r"must be \(6, 3\) for a network with 3 outputs, got \(6, 1\)\..*y\.ravel\(\)"),
        (np.zeros((6, 3, 1)), r"y must be \(6, 3\) for a network with 3 outputs, got \(6, 3, 1\)"),
        (gb.one_hot(LABELS).T, r"one target for each row of x, got y of shape \(3, 6\)"),
    ],
    ids=["too short", "empty", "a number", "too wide", "a column of labels", "too many axes", "transposed"],
)
def test_targets_of_the_wrong_shape_for_classes(y, match):
    for values in (True, False):
        with pytest.raises(InputError, match=match):
            checked(y, values=values)


@pytest.mark.parametrize(
    ("y", "match"),
    [
        (LABELS, r"y must be \(6, 3\).*3 outputs, got \(6,\)\. Class labels become targets by .*one_hot\(y, 3\)"),
        (LABELS * 1.0, r"y must be \(6, 3\).*3 outputs, got \(6,\)\."),
        (
            np.zeros((6, 2)),
            r"y must be \(6, 3\) for a network with 3 outputs, got \(6, 2\)\. Give one column for each output\.",
        ),
        (np.zeros((6, 0)), r"y must be \(6, 3\) for a network with 3 outputs, got \(6, 0\)"),
    ],
    ids=["labels", "one number a row", "too narrow", "no columns"],
)
def test_targets_of_the_wrong_shape_for_numbers(y, match):
    for values in (True, False):
        with pytest.raises(InputError, match=match):
            checked(y, loss=SQUARES, values=values)


# Values ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.float64])
@pytest.mark.parametrize(("bad", "where"), [(3, 4), (-1, 0), (-1, 5)])
def test_labels_out_of_range(dtype, bad, where):
    y = LABELS.astype(dtype)
    y[where] = bad
    said = (
        rf"labels must be from 0 to 2, because the network has 3 outputs, but there is {bad}(\.0)? at row {where} \(1 "
    )
    with pytest.raises(InputError, match=said):
        checked(y)


@pytest.mark.parametrize("value", [3, 255])
def test_unsigned_labels_out_of_range(value):
    with pytest.raises(InputError, match=rf"but there is {value} at row 0 \(6 such in all\)"):
        checked(np.full(6, value, np.uint8))


def test_a_label_beyond_int64_does_not_wrap_around():
    y = LABELS.astype(np.uint64)
    y[3] = 2**64 - 1
    with pytest.raises(InputError, match=rf"there is {2**64 - 1} at row 3"):
        checked(y)


def test_fractional_labels():
    y = LABELS * 1.0
    y[4] = 0.5
    with pytest.raises(InputError, match=r"labels must be whole numbers, but there is 0\.5 at row 4"):
        checked(y)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_labels_that_are_not_finite(bad):
    y = LABELS * 1.0
    y[1] = bad
    with pytest.raises(
        InputError, match=rf"1 value is NaN or infinite in the labels, the first one \({bad}\) at row 1"
    ):
        checked(y)


def test_without_a_look_at_the_values_labels_have_to_be_integers():
    with pytest.raises(InputError, match=r"labels must be integers, got dtype float64; use y\.astype\(int\)"):
        checked(LABELS * 1.0, values=False)
    assert checked(LABELS + 100, values=False).target[0] == 100


@pytest.mark.parametrize(
    ("net", "loss", "y", "match"),
    [
        (NET, CLASSES, np.full((6, 3), 0.5), r"must add up to 1, but row 0 adds up to 1\.5"),
        (NET, CLASSES, gb.one_hot(LABELS) * -1, r"from 0 to 1 for cross_entropy, but there is -1\.0 at row 0"),
        (ONE, gb.Poisson(), -X[:, 0], r"y must be ≥ 0 for poisson, but there is -2\.0 at row 1, column 0 \(5 "),
        (ONE, BINARY, LABELS, r"from 0 to 1 for binary_cross_entropy, but there is 2 at row 1, column 0 \(2 such"),
    ],
    ids=["no probabilities", "negative", "negative counts", "labels of three classes as yes or no"],
)  # fmt: skip
def test_targets_out_of_the_bounds_of_the_loss(net, loss, y, match):
    with pytest.raises(InputError, match=match):
        checked(y, net=net, loss=loss)
    checked(y, net=net, loss=loss, values=False)


def test_probabilities_may_be_rounded():
    checked(np.full((6, 3), 1 / 3, np.float16))
    with pytest.raises(InputError, match=r"but row 5 adds up to 0\.998"):
        checked(gb.one_hot(LABELS) * np.array([1, 1, 1, 1, 1, 0.998])[:, None])


@pytest.mark.parametrize("name", ["x", "y", "weights"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite(name, bad):
    arrays = {"x": X.copy(), "y": X[:, :1].copy(), "weights": np.ones(6)}
    arrays[name][4] = bad
    columns = r"2 values are .* at row 4, column 0" if name == "x" else r"1 value is .* at row 4"
    with pytest.raises(InputError, match=columns.replace(".*", rf"NaN or infinite in {name}, the first one \({bad}\)")):
        checked(**arrays, net=ONE, loss=SQUARES)
    checked(**arrays, net=ONE, loss=SQUARES, values=False)


@pytest.mark.parametrize("name", ["x", "y"])
def test_finite_values_that_the_network_cannot_hold(name):
    arrays = {"x": X.copy(), "y": X[:, :1].copy()}
    arrays[name][2:4] = 1e200
    with pytest.raises(
        InputError, match=rf"too large for float32 in {name}, the first one \(1e\+200\) at row 2.*float64"
    ):
        checked(**arrays, net=ONE, loss=SQUARES)
    checked(**arrays, net=gb.Network(2, [gb.Dense(1)], dtype="float64"), loss=SQUARES)


# Weights --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "weights", [np.ones(5), np.ones((6, 1)), 1.0, np.ones((6, 3)), []], ids=lambda w: str(np.shape(w))
)
def test_weights_are_one_number_a_row(weights):
    for values in (True, False):
        with pytest.raises(
            InputError, match=r"weights must be one number a row, of shape \(6,\), got the shape \(.*\)\."
        ):
            checked(LABELS, weights, values=values)


def test_negative_weights():
    with pytest.raises(InputError, match=r"weights must be ≥ 0, but there is -0\.5 at row 2 \(2 such in all\)"):
        checked(LABELS, [1.0, 0.0, -0.5, 1.0, 1.0, -1.0])


def test_weights_may_be_whole_numbers_booleans_and_zero():
    for weights in (np.zeros(6), LABELS, LABELS > 0):
        np.testing.assert_array_equal(checked(LABELS, weights).weights, weights)


# A leading models axis ------------------------------------------------------------------------------------------------

TWO = gb.Network(2, [gb.Dense(3, "softmax")], seed=[1, 2])
BOTH = {"x": np.stack([X, -X]), "net": TWO, "per_member": True}


def test_samples_of_each_member():
    data = checked(np.stack([LABELS, LABELS]), np.ones((2, 6)), **BOTH)
    assert data.labelled and data.rows == 6
    assert (data.target.shape, data.weights.shape) == ((2, 6), (2, 6))
    assert checked(np.zeros((2, 6, 3)), **{**BOTH, "loss": SQUARES}).target.shape == (2, 6, 3)


def test_what_is_wrong_is_placed_in_the_array_that_was_given():
    labels, rows, p = np.stack([LABELS, LABELS]), np.ones((2, 6)), np.stack([gb.one_hot(LABELS)] * 2)
    labels[1, 3], rows[1, 2], p[1, 4] = 7, -1, 0
    with pytest.raises(InputError, match=r"there is 7 at row 1, column 3 "):
        checked(labels, **BOTH)
    with pytest.raises(InputError, match=r"there is 0\.5 at row 0, column 1\."):
        checked(labels % 3 * 0.25, **BOTH)
    with pytest.raises(InputError, match=r"there is -1\.0 at row 1, column 2 "):
        checked(labels % 3, rows, **BOTH)
    with pytest.raises(InputError, match=r"but row 1, column 4 adds up to 0\."):
        checked(p, **BOTH)
    with pytest.raises(InputError, match=r"there is -1\.0 at member 1, row 0, column 0 "):
        checked(p - 2 * (np.arange(2) == 1)[:, None, None], **BOTH)


@pytest.mark.parametrize(
    ("x", "y"), [(np.stack([X] * 3), np.stack([LABELS] * 3)), (BOTH["x"], LABELS), (BOTH["x"], np.stack([LABELS] * 3))]
)
def test_other_numbers_of_members(x, y):
    with pytest.raises(
        InputError, match=r"\(2, rows, inputs\), got the shape \(3, 6, 2\)|one target for each row of x"
    ):
        checked(y, **{**BOTH, "x": x})


# one_hot --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.uint64, np.int8, np.float32])
def test_one_hot(dtype):
    want = [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]]
    for matrix in (gb.one_hot(LABELS.astype(dtype)), gb.one_hot(LABELS.astype(dtype).tolist(), 3)):
        assert matrix.dtype == np.float64
        np.testing.assert_array_equal(matrix, want)
    np.testing.assert_array_equal(gb.one_hot(LABELS.astype(dtype), 5), np.pad(want, ((0, 0), (0, 2))))


def test_one_hot_of_booleans_and_of_nothing():
    np.testing.assert_array_equal(gb.one_hot(np.array([False, False])), [[1], [1]])
    np.testing.assert_array_equal(gb.one_hot(np.array([False, True])), [[1, 0], [0, 1]])
    assert gb.one_hot([], 4).shape == (0, 4)
    assert gb.one_hot([]).shape == (0, 1)


@pytest.mark.parametrize(
    ("labels", "classes", "match"),
    [
        ([0, -1], None, r"labels must be from 0 to 2147483647, but there is -1 at row 1"),
        ([0, -1], 3, r"labels must be from 0 to 2, because classes=3, but there is -1 at row 1"),
        ([0, 5, 3], 3, r"labels must be from 0 to 2, because classes=3, but there is 5 at row 1 \(2 such in all\)"),
        ([0.5], None, r"labels must be whole numbers, but there is 0\.5 at row 0"),
        ([np.nan], None, r"1 value is NaN or infinite in the labels"),
        ([np.inf], None, r"1 value is NaN or infinite in the labels"),
        ([1e300], None, r"labels must be from 0 to 2147483647, but there is 1e\+300 at row 0"),
        ([[0]], None, r"labels must have one axis, \(rows,\), got the shape \(1, 1\)"),
        (["cat"], None, r"labels must hold real numbers"),
        ([0], 0, r"classes must be an integer ≥ 1, got 0"),
        ([0], 2.5, r"classes must be an integer ≥ 1, got 2\.5"),
    ],
)  # fmt: skip
def test_one_hot_of_what_are_no_labels(labels, classes, match):
    with pytest.raises(InputError, match=match):
        gb.one_hot(labels, classes)
