"""In which sums the gradients of several ranks are added up, on a stand-in for a device with graphs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.branches import ASIDE, MAIN, RANKS, longest_path
from gpu_backprop.backend.communicator import Communicator
from gpu_backprop.backend.device import Processors
from gpu_backprop.backend.open_device import open_dry_run
from gpu_backprop.network.samples import Samples
from gpu_backprop.training.minibatches import DataSet

H100 = Processors(132, 128, 1600)
SMALL = [gb.Dense(8, "tanh"), gb.Bias("relu"), gb.Dense(3, "softmax")]
LARGE = [*(gb.Dense(512, "relu") for _ in range(4)), gb.Dense(10, "softmax")]
ROWS = 2048
"""Of a minibatch, of which the gradients of LARGE take two machines about as long as the sums."""


class Many(Communicator):
    """One of several ranks, which are not there."""

    def __init__(self, rank, ranks, machines=1):
        self.rank, self.ranks, self.machines = rank, ranks, machines

    def exchange(self, value):
        return [value] * self.ranks

    def agree(self, value):
        return value

    def all_reduce(self, device, array):
        yield lambda: None

    def on(self, device):
        return self


@pytest.fixture
def plan(monkeypatch):
    """Makes the plan of a step of one of several ranks, which takes no memory but the network's."""

    def make(layers, communicator, rows, inputs=8, weighted=False, device=H100, **options):
        network = gb.Network(inputs, layers, device="cpu", draw=False, **{"seed": options.pop("seed", 0)})
        monkeypatch.setattr(type(network.device), "has_graphs", device is not None)
        monkeypatch.setattr(type(network.device), "processors", device)
        trainer = gb.Trainer(network, communicator=communicator, **options)
        dry_run = open_dry_run(network.device)
        x = np.broadcast_to(np.float32(0), (rows, inputs))
        data = DataSet(network, Samples(x, np.zeros(rows, np.int64), np.ones(rows) if weighted else None), dry_run)
        total = dry_run.zeros((*network.models_shape, 3), np.float64)
        return trainer.training_step.build(data, rows, total, device=dry_run)

    return make


def sums(plan):
    return [operation for operation in plan.operations if operation.name == "all_reduce"]


def test_large_layers_are_buckets_from_the_last_one_on(plan):
    made = plan(LARGE, Many(0, 2, 2), ROWS, inputs=512)
    gradients, found = made.buffers["gradients"], [operation.arguments["array"] for operation in sums(made)]
    assert len(found) > 1 and [operation.phase for operation in sums(made)] == ["reduce"] * len(found)
    starts = [(a.__array_interface__["data"][0] - made.device.address(gradients)) // 4 for a in found]
    ends = [start + array.size for start, array in zip(starts, found, strict=True)]
    assert starts == [*ends[1:], 0] and ends[0] == gradients.size
    assert "∇1" in sums(made)[-1].formula and "5 = Σ∇" in sums(made)[0].formula
    assert all([*o.reads] == [*o.writes] and o.formula.startswith(f"{next(iter(o.reads))} = ") for o in sums(made))


@pytest.mark.parametrize("rows", [ROWS, ROWS + 1, 1])
def test_every_rank_has_the_same_sums(plan, rows):
    """Also one that has a row less than the other, or none."""
    first, other = ([o.formula for o in sums(plan(LARGE, Many(k, 2, 2), rows, 512, weighted=True))] for k in range(2))
    assert first == other and first[0] == "Σw of all ranks"
    assert (len(first) > 2) == (rows >= ROWS)


@pytest.mark.parametrize(
    ("layers", "given"),
    [
        (SMALL, {}), (LARGE, {"seed": [1, 2]}), (LARGE, {"accumulate": 2}), (LARGE, {"device": None}),
    ],
)  # fmt: skip
def test_else_all_are_one(plan, layers, given):
    (one,) = sums(plan(layers, Many(0, 2, 2), ROWS, **({"inputs": 512} if layers is LARGE else {}), **given))
    assert one.formula == "∇ = Σ∇ of all ranks"


def test_one_rank_sums_nothing(plan):
    assert not sums(plan(LARGE, Many(0, 1), 64))


def test_a_sum_is_counted_as_a_launch_and_as_a_ring_sends_it(plan):
    """Each rank sends, and receives, 2(p−1)/p of the gradients, and adds (p−1)/p of them."""
    alone, made = plan(SMALL, Many(0, 1), 16), plan(SMALL, Many(1, 4), 64)
    (one,) = sums(made)
    size = made.buffers["gradients"].size
    assert (one.launches, one.flops, one.bytes) == (1, 3 * size // 4, 3 * 4 * size)
    assert made.cost()["launches"] == alone.cost()["launches"] + 1
    assert made.cost()["path"] == alone.cost()["path"] + 1
    made.describe()
    assert "∇ = Σ∇ of all ranks" in str(made)


def test_sums_have_a_branch_of_their_own_and_one_order(plan):
    """The last one, for which the update waits, lies on the main one."""
    made = plan(LARGE, Many(0, 2, 2), ROWS, inputs=512, weighted=True)
    for repeats in (1, 3):
        nodes = made.nodes(repeats)
        places = [place for place, node in enumerate(nodes) if node.operation.name == "all_reduce"]
        assert [nodes[place].operation.formula for place in places] == [o.formula for o in sums(made)] * repeats
        before, last = [], {}
        for place, node in enumerate(nodes):
            awaited = {w for w in (last.get(node.branch), *node.after) if w is not None}
            before.append(awaited.union(*(before[w] for w in awaited)))
            last[node.branch] = place
        assert all(one in before[other] for one, other in pairwise(places))
    branches = [operation.branch for operation in sums(made)]
    assert set(branches[1:-1]) == {RANKS} and branches[-1] == MAIN
    assert {operation.branch for operation in made.operations if operation.name == "matmul"} == {MAIN, ASIDE}
    assert longest_path(made.nodes()) < made.cost()["launches"]
