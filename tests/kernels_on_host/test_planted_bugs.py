"""The proofs can fail: with a bug planted into the text of a kernel, each of them does.

What no run on a CPU shows is a fence or a `volatile` that is missing: its memory keeps the order of the program.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from kernel_cases import Case, run
from kernel_draws import draws
from kernel_program import RANDOM, Fault, Program
from kernel_table import RUNNERS

from gpu_backprop.backend.cuda.kernel_instance import Instance

pytestmark = pytest.mark.long

BARRIER = "__syncthreads();"
COLUMN_SUM, HUBER = "column_sum<float, 1>", "loss_gradient<float, loss_huber, float>"
ADAM, ADAMW = "update<float, update_adam, 1>", "update<bf16, update_adamw, 1>"
RMSPROP = "update<float, update_rmsprop, 4>"
HEAD = "head<float, loss_binary_cross_entropy, float, activation_leaky_relu, 0, 16, 4>"
HEAD_OF_LABELS = "head<float, loss_half_squared_error, i64, activation_identity, 0, 1, 1>"
EPOCH = "train_epoch<float, f16, i64, functions_selu_or_softplus_or_softsign, loss_huber, update_adamw>"


@dataclass(frozen=True)
class Bug:
    """A piece of text in a function and what takes its place, the instance that is run, and what has to be told of it.

    `nth`: which of the pieces in that function, from 0. `told` ".": anything.
    """

    function: str
    right: str
    wrong: str
    instance: str
    told: str = "."
    kind: str = "plain"
    nth: int = 0

    def plant(self, text: str) -> str:
        start = text.index(f" {self.function}")
        end = text.index("\n}", start)
        before, *after = text[start:end].split(self.right)
        assert len(after) > self.nth, f"{self.function} has no longer {self.nth + 1} times {self.right!r}"
        for place, piece in enumerate(after):
            before += (self.wrong if place == self.nth else self.right) + piece
        return text[:start] + before + text[end:]


BUGS = {
    "no barrier between rows": Bug("AlongY {", BARRIER, "", COLUMN_SUM, nth=1),
    "no barrier before block_reduce writes": Bug("block_reduce(", BARRIER, "", HUBER),
    "no barrier before block_reduce reads": Bug("block_reduce(", BARRIER, "", HUBER, nth=1),
    "no barrier before the ticket": Bug("last_block(", BARRIER, "", COLUMN_SUM),
    "no barrier after the ticket": Bug("last_block(", BARRIER, "", COLUMN_SUM, nth=1),
    "no barrier in update": Bug("update(", BARRIER, "", ADAM),
    "a barrier that not all reach": Bug(
        "normalize_weights(", "(thread() != 0) return;", f"(thread() != 0) return;\n  {BARRIER}",
        "normalize_weights<float>", "at a barrier",
    ),
    "the ticket stays": Bug("last_block(", "*ticket = 0", "", COLUMN_SUM, "tickets was written"),
    "a row too many": Bug("normalize_weights(", "r < rows", "r <= rows", "normalize_weights<float>"),
    "a column too many": Bug("bias_activate(", "c >= cols", "c > cols", "bias_activate<float, activation_tanh, 1>"),
    "a group too few": Bug("grid_sum(", "block < along.blocks", "block + 1 < along.blocks", COLUMN_SUM),
    "a number too many": Bug("Elements {", "i < end", "i <= end", "update<float, update_sgd, 1>"),
    "a row too many, read": Bug(
        "normalize_weights(", "r < rows", "r <= rows", "normalize_weights<double>", "heap-buffer-overflow", "address"
    ),
    "vectors where they do not fit": Bug(
        "multiply(", "load<V>(b + i)", "load<V>(b + i + 1)", "multiply<float, 4>", "misaligned address", "address"
    ),
    "a sign in a kernel": Bug("moved(", "* w - change", "* w + change", "update<double, update_adamw, 2>"),
    "a sign in a rule": Bug("update_nesterov {", "+ g;", "- g;", "update<f16, update_nesterov, 8>"),
    "a setting in place of another": Bug("update_rmsprop {", "setting[2]", "setting[1]", RMSPROP),
    "a moment in place of another": Bug("update(", "moments[m].at[k] = moment", "moments[0].at[k] = moment", ADAM),
    "gradients that are not scaled": Bug("update(", "factor * of.g.at[k]", "of.g.at[k] + A(0) * factor", ADAM),
    "a step that is not skipped": Bug("update(", "factor[blockIdx.z] == 0", "factor[blockIdx.z] < 0", ADAM),
    "a group that is not frozen": Bug("update(", "group.rate != A(0)", "true", ADAM),
    "a step that is counted where none was taken": Bug("advance(", "counted[i] == 0", "false", "advance"),
    "a step in another column": Bug("advance(", "step[i * step_stride]", "step[i]", "advance"),
    "the group before": Bug("Group {", "groups[block]", "groups[block ? block - 1 : 0]", ADAM),
    "the decay of another group": Bug("Group {", "groups[blocks + block]", "groups[blocks]", ADAMW),
    "a group of an epoch that is not frozen": Bug("optimize(", "group[k].rate == A(0)", "false", EPOCH),
    "an epoch in which all models learn": Bug("train_epoch(", "running[blockIdx.z] != 0", "true", EPOCH),
    "moments that are not held": Bug("train_epoch(", "= moments[m * between + mine + i]", "= A(0)", EPOCH),
    "moments that are not brought back": Bug("train_epoch(", "m < held", "m < 0", EPOCH, nth=1),
    "the order of another length": Bug("train_epoch(", "blockIdx.z * length", "blockIdx.z * rows", EPOCH),
    "a tile too many": Bug("Tile {", "some += place < size", "some++", EPOCH),
    "an overflow that is let through": Bug("unscale(", "bad || !counts", "!counts", "unscale<float, 1>", "factor"),
    "an overflow of other blocks, not seen": Bug("grid_sum(", "i64(block) * width + k]", "k]", "unscale<double, 2>"),
    "a step that nothing counts in": Bug("unscale(", "if (!counts) return;", "", "unscale<float, 4>", "scaling"),
    "a sign in a loss": Bug(
        "loss_half_squared_error {", "return y - t;", "return t - y;",
        "loss_gradient<float, loss_half_squared_error, i64>",
    ),
    "a sign in an activation": Bug(
        "activation_tanh {", "(A(1) - s)", "(A(1) + s)", "activation_gradient<f16, activation_tanh, 8>"
    ),
    "no barrier before Wᵀ is read": Bug("head(", BARRIER, "", HEAD),
    "no barrier before the sums of warps are read": Bug("head(", BARRIER, "", HEAD, nth=1),
    "a warp too few": Bug("head(", "from < warps", "from + 1 < warps", HEAD, "grad_bias"),
    "a block too few in a head": Bug("head(", "block + k < int(gridDim.x)", "block + k + 1 < int(gridDim.x)", HEAD),
    "a row twice": Bug("head(", "live && c < cols && lane < S", "c < cols && lane < S", HEAD),
    "a row beyond the last in the sums below": Bug("head(", "if (first + r >= rows) break;", "", HEAD),
    "lanes exchanged": Bug("sum_over_lanes(", "upper ? of[k] : of[k + half]", "upper ? of[k + half] : of[k]", HEAD),
    "the gradient of a label out of range": Bug("head(", "bad ? A(0) : factor", "factor", HEAD_OF_LABELS, "grad_z"),
    "grad_z without its pitch": Bug("head(", "index * places + c", "index * cols + c", HEAD, "grad_z"),
    "a race between warps of a head": Bug("head(", BARRIER, "", HEAD, "data race", "thread", 1),
    **{
        f"no barrier in an epoch {where}": Bug("train_epoch(", BARRIER, "", EPOCH, nth=nth)
        for nth, where in enumerate(
            (
                "before the rows are read", "between layers", "before grad_z is read", "before y gives way to grad_z",
                "between layers on the way back", "before the next step is prepared",
            )
        )
    },
    "a micro-batch that forgets the last": Bug("weight_gradient(", "= g[at.bias + j]", "= A(0)", EPOCH),
    "a tail with the scale of the others": Bug("train_epoch(", "size == batch ? scale : tail_scale", "scale", EPOCH),
    "a step that is not counted": Bug("train_epoch(", "+= double(steps)", "+= 1", EPOCH),
    "more than a block has": Bug("pitch(", "cols | 1", "cols + 2", EPOCH, "heap-buffer-overflow", "address"),
    "a race in an epoch": Bug("train_epoch(", BARRIER, "", EPOCH, "data race", "thread", 1),
    "a race between rows": Bug("AlongY {", BARRIER, "", COLUMN_SUM, "data race", "thread", 1),
    "a race before block_reduce writes": Bug("block_reduce(", BARRIER, "", HUBER, "data race", "thread"),
    "a race before block_reduce reads": Bug("block_reduce(", BARRIER, "", HUBER, "data race", "thread", 1),
}  # fmt: skip


def thorough(made: Instance, kind: str) -> Iterator[Case]:
    """Every shape of one instance in every order, of an epoch four times, since it has the most that may differ; and
    more of it in random order."""
    runner, layout = RUNNERS[made.kernel.name]
    form = "threads" if kind == "thread" else "full" if layout == "blocks" else "once"
    for draw, orders in draws(made, 0, layout, form):
        case = runner(draw)
        case.orders = orders + [order for order in orders if order[0] == RANDOM] * 8
        yield case


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_is_found(name, everything, shared, tmp_path):
    bug = BUGS[name]
    made = next(m for m in everything if m.name == bug.instance)
    program = Program(tmp_path, shared, [made], bug.kind, bug.plant)
    with pytest.raises(AssertionError, match=bug.told) as told:
        for case in thorough(made, bug.kind):
            try:
                run(program, [case])
            except AssertionError as error:  # what is wrong in one case may end the program in another
                if re.search(bug.told, str(error)):
                    raise
    assert bug.kind == "plain" or isinstance(told.value, Fault)
