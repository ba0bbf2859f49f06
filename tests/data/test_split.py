"""stratified_split: every class by the fraction, the total right, the seed decisive; stratified_folds: the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_backprop.data import load_digits, stratified_folds, stratified_split


def test_the_digits_by_a_fifth():
    _, labels = load_digits()
    train, held_out = stratified_split(labels, 0.2, seed=0)
    assert len(held_out) == round(0.2 * 1797) == 359
    np.testing.assert_array_equal(np.sort(np.concatenate([train, held_out])), np.arange(1797))
    share = np.bincount(labels[held_out]) / (0.2 * np.bincount(labels))
    assert (abs(share - 1) < 1 / 34).all()  # within one row of a class's fifth, 34.8 rows at least


def test_worked_by_hand():
    # fifths of 7, 5 and 3 rows are 1.4, 1 and 0.6: 1 + 1 + 0, and the missing row of round(3.0) goes to 0.6
    labels = np.repeat([4, 5, 6], [7, 5, 3])
    _, held_out = stratified_split(labels, 0.2, seed=8)
    np.testing.assert_array_equal(labels[held_out], [4, 5, 6])


def test_rows_come_in_order():
    train, held_out = stratified_split(np.arange(40) % 2, 0.5, seed=3)
    assert (np.diff(train) > 0).all()
    assert (np.diff(held_out) > 0).all()


def test_the_seed_decides():
    labels = np.arange(100) % 4
    first, again, other = (stratified_split(labels, 0.3, seed)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_labels_may_be_strings():
    labels = np.array(["cat", "dog"] * 10)
    _, held_out = stratified_split(labels, 0.2, seed=0)
    assert sorted(labels[held_out]) == ["cat", "cat", "dog", "dog"]


@given(
    counts=st.lists(st.integers(2, 60), min_size=1, max_size=6),
    fraction=st.floats(0.05, 0.95),
    seed=st.integers(0, 2**32),
)
def test_any_split_is_fair(counts, fraction, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    most = sum(min(math.ceil(fraction * count), count - 1) for count in counts)
    if not 0 < round(fraction * len(labels)) <= most:
        with pytest.raises(ValueError, match="too few"):
            stratified_split(labels, fraction, seed)
        return
    train, held_out = stratified_split(labels, fraction, seed)
    assert len(held_out) == round(fraction * len(labels))
    np.testing.assert_array_equal(np.union1d(train, held_out), np.arange(len(labels)))
    taken = np.bincount(labels[held_out], minlength=len(counts))
    assert (abs(taken - fraction * np.array(counts)) < 1).all()
    assert (taken < counts).all()


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_a_fraction_outside(fraction):
    with pytest.raises(ValueError, match="above 0 and below 1"):
        stratified_split(np.arange(10) % 2, fraction, seed=0)


@pytest.mark.parametrize(
    ("labels", "fraction"), [([], 0.2), ([0], 0.5), ([0, 1, 2, 3], 0.5), ([0, 0, 1, 1], 0.9), ([0, 1], 0.1)]
)
def test_too_few_rows(labels, fraction):
    with pytest.raises(ValueError, match="too few"):
        stratified_split(labels, fraction, seed=0)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 0, 0], "^3 rows are too few to hold out 0.1 of them and leave rows to train on; give more rows or"),
        ([0], "^1 row is too few"),
        ([0, 1, 1], "^3 rows in 2 classes are too few to hold out 0.1 of them and leave every class a row to train on"),
    ],
)
def test_classes_are_named_where_there_are_some(labels, said):
    with pytest.raises(ValueError, match=said):
        stratified_split(labels, 0.1, seed=0)


def test_labels_of_more_than_one_column():
    with pytest.raises(ValueError, match=r"shape \(4, 2\).*one label per row"):
        stratified_split(np.eye(4, 2), 0.5, seed=0)


# Folds ----------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.integers(2, 9), st.integers(0, 2**63))
def test_folds_differ_by_one_row_at_most_and_by_one_of_each_class(labels, folds, seed):
    if folds > len(labels):
        with pytest.raises(ValueError, match=f"{len(labels)} rows cannot be {folds} folds"):
            stratified_folds(labels, folds, seed)
        return
    fold = stratified_folds(labels, folds, seed)
    assert np.ptp(np.bincount(fold, minlength=folds)) <= 1
    for label in set(labels):
        assert np.ptp(np.bincount(fold[np.array(labels) == label], minlength=folds)) <= 1
    np.testing.assert_array_equal(stratified_folds(np.array(labels).astype(str), folds, seed), fold)


def test_the_seed_decides_the_folds():
    labels = np.arange(100) % 4
    first, again, other = (stratified_folds(labels, 5, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_no_fold_is_the_larger_one_more_often_than_another():
    larger = [stratified_folds(np.zeros(9), 8, seed) for seed in range(80)]
    assert len({int(np.bincount(fold).argmax()) for fold in larger}) == 8


@pytest.mark.parametrize(("labels", "folds"), [([[1], [2]], 2), ([1, 2, 3], 1), ([1, 2, 3], 0)])
def test_what_has_no_folds(labels, folds):
    with pytest.raises(ValueError, match="give"):
        stratified_folds(labels, folds, 0)
