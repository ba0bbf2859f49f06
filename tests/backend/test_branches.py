"""Which operations wait for which, on plans of a CPU: any order that the waits allow gives what their own gives."""

from __future__ import annotations

import itertools
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.branches import (
    ASIDE,
    MAIN,
    MOST_PIECES,
    Node,
    _spans,
    arrange,
    assign_branches,
    in_a_row,
    longest_path,
)
from gpu_backprop.network.samples import Samples
from gpu_backprop.training.minibatches import DataSet

RUNS, ROWS = 3, 4
EVERYTHING = (
    gb.Dropout(0.2), gb.Dense(8, "gelu"), gb.Dropout(0.5), gb.Bias("tanh"), gb.Dense(6, bias=False),
    gb.Dense(5, "softmax"), gb.Bias(), gb.Dense(4, "silu", bias=False), gb.Dense(3, "identity"),
)  # fmt: skip
BOUNDED = gb.Dense(8, "relu", max_norm=0.5), gb.Dense(3, "softmax", max_norm=1.0)
PLAIN = gb.Dense(8, "relu"), gb.Dense(7, "tanh"), gb.Dense(3, "softmax")
STEPPING = {"clip_norm": 0.5, "average": 0.9, "accumulate": 3}


def plan_of(layers=PLAIN, seed=0, fuse=True, weighted=False, options=None):
    """A step of fit, of which RUNS are an epoch."""
    net, rng = gb.Network(5, list(layers), dtype="float64", device="cpu", seed=seed), np.random.default_rng(0)
    trainer, count = gb.Trainer(net, **(options or {})), RUNS * ROWS
    labels = trainer.loss.labels
    y = rng.integers(0, net.outputs, count) if labels else rng.normal(0, 1, (count, net.outputs))
    data = DataSet(net, Samples(rng.normal(0, 1, (count, 5)), y, rng.uniform(0, 2, count) if weighted else None))
    total = net.device.zeros((*net.models_shape, 3), np.float64)
    return trainer.training_step.build(data, ROWS, total, fuse=fuse)


FORMS = {
    "plain": {},
    "one layer": {"layers": [gb.Dense(3, "softmax")]},
    "members": {"seed": [1, 2, 3]},
    "everything": {"layers": EVERYTHING},
    "everything, members, weights": {"layers": EVERYTHING, "seed": [1, 2], "weighted": True},
    "everything, kept apart": {"layers": EVERYTHING, "fuse": False},
    "in parts, clipped, averaged and bounded": {"layers": BOUNDED, "options": STEPPING, "weighted": True},
    "the same, members": {"layers": BOUNDED, "options": STEPPING, "weighted": True, "seed": [1, 2]},
}
EVERY_FORM = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def waits_of(nodes: list[Node]) -> list[set[int]]:
    """The nodes that each one waits for at once: the one before it on its branch, and what it says."""
    last, waits = {}, []
    for place, node in enumerate(nodes):
        waits.append({w for w in (last.get(node.branch), *node.after) if w is not None})
        last[node.branch] = place
    return waits


def paths(waits: list[set[int]]) -> list[set[int]]:
    """All that each node comes after."""
    before: list[set[int]] = []
    for awaited in waits:
        before.append(awaited.union(*(before[w] for w in awaited)))
    return before


def clash(one, other):
    """Whether two operations must keep their order."""
    touched = [*other.reads.values(), *other.writes.values()]
    pairs = [
        *itertools.product(one.writes.values(), touched),
        *itertools.product(one.reads.values(), other.writes.values()),
    ]
    return any(np.shares_memory(a, b) for a, b in pairs)


@EVERY_FORM
def test_what_shares_memory_keeps_its_order(form):
    plan = plan_of(**form)
    operations, nodes = plan.operations * 2, plan.nodes(2)
    places = [[k for k, node in enumerate(nodes) if node.operation is o] for o in plan.operations]
    place = [first for first, _ in places] + [second for _, second in places]
    before = paths(waits_of(nodes))
    pairs = [pair for pair in itertools.combinations(range(len(place)), 2) if clash(*(operations[k] for k in pair))]
    assert len(pairs) > 2 * len(plan.operations)
    for first, later in pairs:
        assert place[first] in before[place[later]], (operations[first], operations[later])


def outcome(plan, nodes, waits, seed):
    """What is left behind in all buffers after the nodes ran in an order that the waits allow, None where that failed;
    the plan is where it was before."""
    device, arrays, rng = plan.device, plan.outputs(), np.random.default_rng(seed)
    saved = {name: device.copy(array) for name, array in arrays.items()}
    left, done = set(range(len(nodes))), set()
    with device.computing(), suppress(ZeroDivisionError):  # of Adam, where no step was counted before
        while left:
            chosen = rng.choice(sorted(k for k in left if waits[k] <= done))
            for call in nodes[chosen].operation.calls:
                call()
            left.remove(chosen)
            done.add(chosen)
    found = {name: array.tobytes() for name, array in arrays.items()} if not left else None
    for name, array in arrays.items():
        device.copy_in(array, saved[name])
    return found


@EVERY_FORM
def test_any_order_that_the_waits_allow_gives_the_same_bits(form):
    plan = plan_of(**form)
    nodes = plan.nodes(RUNS)
    in_order = [{k - 1} - {-1} for k in range(RUNS * len(plan.operations))]
    expected = outcome(plan, in_a_row(plan.nodes(1)) * RUNS, in_order, 0)
    assert outcome(plan, [Node(o) for o in plan.operations * RUNS], in_order, 0) == expected
    for seed in range(8):
        assert outcome(plan, nodes, waits_of(nodes), seed) == expected


def test_a_wait_that_is_forgotten_gives_others():
    plan = plan_of()
    nodes = plan.nodes(RUNS)
    expected = outcome(plan, nodes, waits_of(nodes), 0)
    awaited = [k for k, node in enumerate(nodes) if node.after]
    assert len(awaited) > RUNS
    for k in awaited:
        without = [*nodes]
        without[k] = nodes[k]._replace(after=())
        assert any(outcome(plan, without, waits_of(without), seed) != expected for seed in range(60)), nodes[k]


# What goes aside ------------------------------------------------------------------------------------------------------


def test_the_gradients_of_weights_go_aside_and_the_next_minibatch_too():
    plan = plan_of()
    aside = [o for o in plan.operations if o.branch == ASIDE]
    assert [o.name for o in aside] == ["gather", "column_sum", "matmul", "matmul", "advance"]
    assert [n.operation.name for n in plan.nodes() if n.branch == ASIDE][:2] == ["gather", "advance"]  # by how soon
    assert [list(o.writes) for o in aside[1:4]] == [["∇b3"], ["∇W3"], ["∇W2"]]


def test_weights_are_updated_after_they_were_read_and_once_all_gradients_are_there():
    nodes = plan_of().nodes(2)
    before = paths(waits_of(nodes))
    update = next(k for k, node in enumerate(nodes) if node.operation.name == "update")
    wanted = {k for k, node in enumerate(nodes[:update]) if {"W2", "W3"} & node.operation.reads.keys()}
    wanted |= {k for k, node in enumerate(nodes[:update]) if any(name[0] == "∇" for name in node.operation.writes)}
    assert wanted <= before[update] and len(wanted) > 8
    gathers = [k for k, node in enumerate(nodes) if node.operation.name == "gather"]
    assert gathers[1] > update and update not in before[gathers[1]]


def test_the_main_branch_goes_on_first():
    """Of what waits for one operation, what lies aside is captured after the main branch's next."""
    nodes = plan_of().nodes()
    for k, node in enumerate(nodes):
        if node.branch == ASIDE and node.after:
            assert any(between.branch == MAIN for between in nodes[max(node.after) + 1 : k])


@pytest.mark.parametrize("seed", [0, [1, 2, 3]])
def test_parts_of_a_buffer_of_many_models_do_not_wait_for_each_other(seed):
    """∇W2 lies, in the memory of each model, between the gradients that the main branch writes meanwhile."""
    plan = plan_of(seed=seed)
    assert plan.cost()["path"] == plan_of().cost()["path"]
    assert [o.branch for o in plan.operations] == [o.branch for o in plan_of().operations]


@pytest.mark.parametrize("fused", [True, False])
def test_in_a_row_the_path_is_all(fused):
    plan = plan_of(EVERYTHING, fuse=fused)
    launches = plan.cost()["launches"]
    assert longest_path(in_a_row(plan.nodes())) == launches > plan.cost()["path"] == longest_path(plan.nodes())


def test_what_is_appended_stays_on_the_main_branch():
    """By whom has not told what it reads and writes, as a test does that plants a fault."""
    plan = plan_of()
    plan.append(replace(plan.operations[0], name="more", reads={}, writes={}, branch=MAIN))
    main = [node.operation.name for node in plan.nodes() if node.branch == MAIN]
    assert main[-2:] == ["update", "more"]


def test_nothing_is_no_graph():
    address = plan_of().device.address
    assert arrange([], address) == assign_branches([], address) == []
    assert longest_path([]) == 0


def test_rows_with_gaps_are_one_piece_where_there_are_many():
    data = np.zeros((MOST_PIECES + 1, 8))
    address = lambda array: array.__array_interface__["data"][0]  # noqa: E731
    assert len([*_spans(data[:, :4], address(data))]) == 1
    assert len([*_spans(data[1:, :4], address(data[1:]))]) == MOST_PIECES
