"""Minibatches: the rows that a plan sees, gathered from a data set or fed by hand."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.samples import Samples
from gpu_backprop.training.minibatches import DataSet, ManualBatch

ROWS = 7
X = np.arange(21.0).reshape(ROWS, 3)
Y = -X[:, :2]
LABELS = np.arange(ROWS) % 3
WEIGHTS = np.arange(ROWS) / 2


def network(seed=0, dtype="float64"):
    return gb.Network(3, [gb.Dense(2)], dtype=dtype, seed=seed)


def gathering(net, data, rows):
    """A plan that gathers so many rows and goes on, and the buffers that it fills."""
    plan = Plan(net.device)
    buffers = data.emit(plan, rows)
    data.emit_advance(plan, rows)
    return plan, buffers


@pytest.mark.parametrize(
    ("batch_size", "sizes"),
    [(1, [1] * 7), (2, [2, 2, 2, 1]), (3, [3, 3, 1]), (6, [6, 1]), (7, [7]), (8, [7]), (100, [7])],
)
def test_the_last_minibatch_has_what_is_left(batch_size, sizes):
    data = DataSet(network(), Samples(X, Y, None))
    assert list(data.minibatches(batch_size)) == sizes


def test_a_data_set_gives_its_rows_in_order_until_it_is_told_another():
    net = network()
    data = DataSet(net, Samples(X, Y, WEIGHTS))
    plan, (x, y, w) = gathering(net, data, 3)
    for order in (None, np.array([6, 2, 4, 0, 1, 5, 3]), None):
        data.start(order)
        for start in (0, 3):
            plan.run()
            rows = np.arange(ROWS)[start : start + 3] if order is None else order[start : start + 3]
            np.testing.assert_array_equal(x, X[rows])
            np.testing.assert_array_equal(y, Y[rows])
            np.testing.assert_array_equal(w, WEIGHTS[rows])


def test_plans_of_all_sizes_share_the_cursor():
    net = network()
    data = DataSet(net, Samples(X, Y, None))
    of_three, (x3, _, none) = gathering(net, data, 3)
    of_one, (x1, _, _) = gathering(net, data, 1)
    assert none is None
    of_three.run()
    of_one.run()
    np.testing.assert_array_equal(x1, X[3:4])
    of_three.run()
    np.testing.assert_array_equal(x3, X[4:])
    data.rewind()
    of_one.run()
    np.testing.assert_array_equal(x1, X[:1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_get_the_networks_dtype_and_labels_keep_theirs(dtype):
    net = network(dtype=dtype)
    plan, (x, labels, w) = gathering(net, DataSet(net, Samples(X.astype(np.uint8), LABELS, LABELS > 0)), ROWS)
    plan.run()
    assert (x.dtype, labels.dtype, w.dtype) == (dtype, np.int64, dtype)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(labels, LABELS)
    np.testing.assert_array_equal(w, LABELS > 0)


def test_the_parts_of_an_epoch_are_one_here():
    """All data lie where they are gathered, so an epoch is one part, from its beginning."""
    net = network()
    data = DataSet(net, Samples(X, Y, None))
    plan, (x, *_) = gathering(net, data, 3)
    for _ in range(2):
        assert [list(part) for part in data.parts([3, 3, 1])] == [[3, 3, 1]]
        plan.run()
        np.testing.assert_array_equal(x, X[:3])


def test_data_of_the_right_dtype_are_not_copied():
    data = DataSet(network(), Samples(X, LABELS, WEIGHTS))
    assert all(np.shares_memory(one, other) for one, other in zip(data.sources, (X, LABELS, WEIGHTS), strict=True))
    assert not np.shares_memory(DataSet(network(), Samples(X[:, ::-1], LABELS, None)).sources[0], X)


def test_gathering_is_one_operation_that_tells_its_bytes():
    net = network()
    plan, (x, y, w) = gathering(net, DataSet(net, Samples(X, Y, WEIGHTS)), 4)
    gather, advance = plan.operations
    assert (gather.name, gather.phase, gather.launches) == ("gather", "data", 1)
    assert gather.formula == "x, y*, w = data[order[cursor:]]"
    assert gather.bytes == 2 * (x.nbytes + y.nbytes + w.nbytes) + 4 * 8 + 8  # 4 places of the order, and the cursor
    assert list(gather.reads) == ["data x", "data y*", "data w", "order", "cursor"]
    assert advance.formula == "cursor += 4"


def test_each_member_has_an_order_of_its_own():
    net = network(seed=[1, 2])
    data = DataSet(net, Samples(X, LABELS, WEIGHTS))
    plan, (x, labels, w) = gathering(net, data, 3)
    orders = np.array([[6, 2, 4, 0, 1, 5, 3], [0, 3, 6, 1, 4, 2, 5]])
    data.start(orders)
    for start in (0, 3):
        plan.run()
        for member, order in enumerate(orders[:, start : start + 3]):
            np.testing.assert_array_equal(x[member], X[order])
            np.testing.assert_array_equal(labels[member], LABELS[order])
            np.testing.assert_array_equal(w[member], WEIGHTS[order])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("labelled", [False, True])
def test_a_feed_copies_a_minibatch_in(labelled, weighted):
    net = network(dtype="float32")
    feed, plan = ManualBatch(net, labelled, weighted), Plan(net.device)
    x, target, w = feed.emit(plan, ROWS)
    feed.emit_advance(plan, ROWS)
    assert not plan.operations
    given = LABELS if labelled else Y
    feed.load(plan, Samples(X, given, WEIGHTS if weighted else None))
    assert (x.dtype, target.dtype) == (np.float32, np.int64 if labelled else np.float32)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(target, given)
    if weighted:
        np.testing.assert_array_equal(w, WEIGHTS)
    else:
        assert w is None
    assert not any(np.shares_memory(mine, yours) for mine, yours in ((x, X), (target, given)))


def test_a_feed_for_members_takes_a_minibatch_for_all_or_for_each():
    net = network(seed=[1, 2])
    feed, plan = ManualBatch(net, True, True), Plan(net.device)
    x, labels, w = feed.emit(plan, ROWS)
    feed.load(plan, Samples(X, LABELS, WEIGHTS))
    for member in range(2):
        np.testing.assert_array_equal(x[member], X)
        np.testing.assert_array_equal(labels[member], LABELS)
        np.testing.assert_array_equal(w[member], WEIGHTS)
    each = np.stack([X, -X]), np.stack([LABELS, LABELS[::-1]]), np.stack([WEIGHTS, 1 + WEIGHTS])
    feed.load(plan, Samples(*each))
    for mine, yours in zip((x, labels, w), each, strict=True):
        np.testing.assert_array_equal(mine, yours)
