"""The operations that every back end has: the signature of each, what it computes, and what it costs.

numpy_ops, compiled.ops and cuda.ops are modules with these functions, which mypy compares with what is written here.
Each is a binder: it takes the device and arrays, and gives bound calls that work in place and allocate nothing when
they run. `Plan.add` binds an operation and enters it in the plan by its account.

Arrays are (..., rows, units); a leading models axis passes through. These arguments mean the same everywhere:

    scale, scales   the factor of a loss's gradient: a number (1/B), and where there is an array, float64 (...,), one
                    more for each model
    weights         (..., rows): w ≥ 0 of each row. −0 marks a place that holds no row: it counts nowhere, also not as a
                    right answer
    total           float64 (..., 3): what losses add up, see formula.py
    target          one axis less than y where it holds labels; a label out of range makes the loss of its row NaN and
                    its gradient 0
    numbers         of a loss, float64 (..., 1 + k): label smoothing, or 0, then the k numbers of its formula
    w, g            flat buffers (..., parameters) of parameters and gradients
    hyper           float64 (..., k): the step number, the learning rate η, and the optimizer's own
    gradient_factor float64 (...,): what an optimizer multiplies gradients with; where it is 0, a step changes nothing,
                    and `advance` does not count it. None: 1
    counted         float64 (...,): the gradient factor so far, which what is new multiplies; None: 1
    half_parameters becomes a copy of the new parameters in its own dtype
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, TypeVar

from gpu_backprop.backend.block_layout import BlockLayout
from gpu_backprop.backend.communicator import Communicator
from gpu_backprop.backend.formula import Activation, Array, Calls, LossFormula
from gpu_backprop.backend.operation import account
from gpu_backprop.backend.update_rule import UpdateRule

D = TypeVar("D", contravariant=True)


def _gathered(sources: Sequence[Array | None], permutation: Array, cursor: Array, outs: Sequence[Array | None]) -> int:
    """The bytes of the rows as they are read, in the dtypes of the sources, and written; and of the order."""
    moved = [(a, out) for a, out in zip(sources, outs, strict=True) if a is not None and out is not None]
    rows = moved[0][1].shape[permutation.ndim - 1]
    order = permutation[..., :rows].nbytes + cursor.nbytes
    return int(order + sum(out.size * source.itemsize + out.nbytes for source, out in moved))


def _epoch_flops(permutation: Array, layout: BlockLayout, w: Array, rule: UpdateRule, batch: int, rows: int) -> int:
    """As of the ordinary steps: two or, above the first layer, three products of a layer, b, f, f′ and Σ∇z of each
    unit, 8 of the loss of each output; the optimizer's for each parameter."""
    members, row = math.prod(permutation.shape[:-1]), 8 * layout.layers[-1].units
    for number, layer in enumerate(layout.layers):
        row += layer.units * (2 * (3 if number else 2) * layer.inputs + 2 * (layer.bias is not None) + 3)
    return int(members * rows * row + math.ceil(rows / batch) * rule.flops * w.size)


def _epoch_bytes(
    sources: Sequence[Array], permutation: Array, cursor: Array, w: Array, moments: Array | None, hyper: Array,
    total: Array, rows: int,
) -> int:  # fmt: skip
    """The least traffic with the device's memory: each member reads its rows once, and reads and writes parameters and
    moments, which a block has room for or finds in the cache, and writes the gradients."""
    members, length = math.prod(permutation.shape[:-1]), permutation.shape[-1]
    data = members * rows * sum(source.nbytes // len(source) for source in sources)
    data += permutation.nbytes * rows // length + cursor.nbytes
    moved = data + 3 * w.nbytes + 2 * (0 if moments is None else moments.nbytes)
    return int(moved + 2 * (hyper.nbytes + total.nbytes))


def _periodic_flops(y: Array, weight: Array, of_frequency: int, of_unit: int) -> int:
    """So many of each frequency, and of each of its units, in every row."""
    return int(y.shape[-2] * weight[..., 0].size * (of_frequency + of_unit * (weight.shape[-1] - 1)))


class Operations(Protocol[D]):
    """What a module has to have to be the operations of a device of class D."""

    # Forward and backward of the layers -------------------------------------------------------------------------------

    @account(writes=["out"], flops=lambda a, out: 2 * a.shape[-1] * out.size)
    def matmul(self, device: D, a: Array, b: Array, out: Array) -> Calls:
        """out = a@b; a and b may be transposed views."""

    @account(writes=["z"], flops=lambda z: z.size)
    def add_bias(self, device: D, x: Array, bias: Array, z: Array) -> Calls:
        """z = x + b"""

    @account(
        writes=["y"],
        updates=lambda z, bias, y: [] if y is z or bias is None else ["z"],
        flops=lambda bias, f, y: y.size * ((bias is not None) + (f.numpy_value is not None)),
    )
    def bias_activate(self, device: D, z: Array, bias: Array | None, f: Activation, y: Array) -> Calls:
        """y = f(z + b). y may be z; where it is not, z becomes z + b."""

    @account(
        writes=["grad_z", "grad_bias"],
        flops=lambda f, grad_z, grad_bias: grad_z.size * ((4 if f.rowwise else 2) + (grad_bias is not None)),
        launches=lambda f, grad_bias: 2 if f.rowwise and grad_bias is not None else 1,
    )
    def activation_gradient(
        self, device: D, grad_y: Array, s: Array | None, f: Activation, grad_z: Array, grad_bias: Array | None
    ) -> Calls:
        """∇z = ∇y ⊙ f′(s), and with it ∇b = Σ∇z over the rows. grad_z may be grad_y."""

    @account(writes=["grad_bias"], flops=lambda grad_z: grad_z.size)
    def column_sum(self, device: D, grad_z: Array, grad_bias: Array) -> Calls:
        """∇b = Σ∇z over the rows."""

    @account(writes=["z"], flops=lambda z: z.size)
    def scale_columns(self, device: D, x: Array, factors: Array, z: Array) -> Calls:
        """z = x ⊙ s, a factor s_j for each unit. z may be x."""

    @account(writes=["grad_x", "grad_factors"], flops=lambda x, grad_x: (2 if grad_x is None else 3) * x.size)
    def scale_columns_gradient(
        self, device: D, x: Array, grad_z: Array, factors: Array | None, grad_x: Array | None, grad_factors: Array
    ) -> Calls:
        """∇s = Σ x ⊙ ∇z over the rows, and, where factors and grad_x are given, with it ∇x = ∇z ⊙ s. grad_x may be
        grad_z."""

    @account(writes=["y", "mask"], flops=lambda y: 2 * y.size)
    def dropout(
        self, device: D, x: Array, rates: Array, random: Array, y: Array, mask: Array, first_row: int = 0
    ) -> Calls:
        """mask = [u ≥ rate]/(1 − rate), y = x ⊙ mask, with u from Philox at counter (block, step), where blocks are
        counted through the rows of the minibatch, of which x begins with the given one. rates: float64 (..., 2), of
        each model [rate, 1/(1 − rate)], which are read in every step."""

    @account(writes=["out"], flops=lambda out: out.size)
    def multiply(self, device: D, a: Array, b: Array, out: Array) -> Calls:
        """out = a ⊙ b"""

    @account(writes=["y"], flops=lambda y, weight: _periodic_flops(y, weight, 3, 2))
    def periodic(self, device: D, x: Array, weight: Array, bias: Array, y: Array) -> Calls:
        """y = (e, x) of each of the first numbers in a row, and the rest of it behind them as it is: e_k = a_k +
        Σ_h A_hk·cos u_h, where u_h = 2π·w_h·x + b_h.

        weight is (..., numbers, frequencies, 1 + units), of each number and frequency (w, A); bias (..., numbers,
        frequencies + units), of each number (b, a). Both are in the master dtype. x may be without the models axis.
        """

    @account(writes=["grad_weight", "grad_bias"], flops=lambda grad_y, weight: _periodic_flops(grad_y, weight, 8, 4))
    def periodic_gradient(
        self, device: D, x: Array, weight: Array, bias: Array, grad_y: Array, grad_weight: Array, grad_bias: Array
    ) -> Calls:
        """Of each number, with g the gradient of e and δ = −sin u ⊙ (A·g), summed over the rows: ∇w = 2π·Σxδ,
        ∇A = Σcos u·gᵀ, ∇b = Σδ, ∇a = Σg."""

    @account(writes=["grad_x"], flops=lambda grad_y, weight: _periodic_flops(grad_y, weight, 6, 2))
    def periodic_gradient_x(
        self, device: D, x: Array, weight: Array, bias: Array, grad_y: Array, grad_x: Array
    ) -> Calls:
        """∇x = γ + 2π·Σ_h w_h·δ_h of each number, with γ the gradient of the x in y; of the rest it is that of y."""

    # Losses: value, gradient, weights and the count of right answers --------------------------------------------------

    @account(writes=["factor", "scales", "total"], flops=lambda weights: weights.size)
    def normalize_weights(
        self, device: D, weights: Array, loss_scale: Array | None, counted: Array | None, factor: Array,
        scales: Array | None, total: Array,
    ) -> Calls:  # fmt: skip
        """factor = counted·[Σw ≠ 0]; total += Σw; scales = S/Σw, where S is 1 without a loss_scale (and S where all
        w are 0, and with them all that it scales). All but the weights are float64."""

    @account(writes=["grad_y", "total"], flops=lambda y, grad_y: (3 if grad_y is None else 5) * y.size)
    def loss_gradient(
        self, device: D, y: Array, target: Array, weights: Array | None, loss: LossFormula, numbers: Array,
        scale: float, scales: Array | None, grad_y: Array | None, total: Array,
    ) -> Calls:  # fmt: skip
        """grad_y = scale·scales·w·∂e/∂y, and Σ w·e is added to the total; without grad_y only the latter."""

    @account(writes=["grad_z", "total"], flops=lambda z: 8 * z.size)
    def softmax_cross_entropy(
        self, device: D, z: Array, bias: Array | None, target: Array, weights: Array | None, loss: LossFormula,
        numbers: Array, scale: float, scales: Array | None, grad_z: Array | None, total: Array,
    ) -> Calls:  # fmt: skip
        """y = softmax(z + b), e = log Σ exp z − Σ y*·z, ∇z = scale·scales·w·(y − y*), from z, so that all stay finite.

        z is used up. grad_z is optional, and may be z.
        """

    @account(writes=["grad_z", "total"], flops=lambda z: 8 * z.size)
    def sigmoid_cross_entropy(
        self, device: D, z: Array, bias: Array | None, target: Array, weights: Array | None, loss: LossFormula,
        numbers: Array, scale: float, scales: Array | None, grad_z: Array | None, total: Array,
    ) -> Calls:  # fmt: skip
        """y = σ(z + b), e = Σ max(z, 0) − z·y* + log1p(e^−|z|), ∇z = scale·scales·w·(y − y*), from z, so that all stay
        finite.

        z is used up. grad_z is optional, and may be z.
        """

    @account(writes=["grad_z", "total"], flops=lambda z: 20 * z.size)
    def softmax_focal(
        self, device: D, z: Array, bias: Array | None, target: Array, weights: Array | None, loss: LossFormula,
        numbers: Array, scale: float, scales: Array | None, grad_z: Array | None, total: Array,
    ) -> Calls:  # fmt: skip
        """y = softmax(z + b), e = Σ y*·(1 − y)^γ·l with l = −log y, ∇z = scale·scales·w·(g − y·Σg), where
        g = −y*·(1 − y)^γ·(1 + γ·l/(e^l − 1)), from z, so that all stay finite. γ is the first of the loss's numbers.

        z is used up. grad_z is optional, and may be z.
        """

    @account(writes=["sums"], flops=lambda y: 5 * y.size)
    def residual_sums(self, device: D, y: Array, target: Array, weights: Array | None, sums: Array) -> Calls:
        """sums[..., 0, :] += Σ w·|y − y*|, sums[..., 1, :] += Σ w·(y − y*)², one number an output, in float64."""

    # The rows of a minibatch ------------------------------------------------------------------------------------------

    @account(writes=["outs"], bytes=_gathered)
    def gather(
        self, device: D, sources: Sequence[Array | None], permutation: Array, cursor: Array,
        outs: Sequence[Array | None], counts: Array | None = None,
    ) -> Calls:  # fmt: skip
        """out = source[permutation[cursor : cursor + rows]] for each pair of arrays: x, target and weights at once. x
        may come from another dtype; weights may be each model's own, (models, samples). counts, int64 (models,), is how
        many places of a model's order hold rows: the weights of those behind become −0."""

    @account(updates=["cursor", "position", "random", "step"])
    def advance(
        self, device: D, cursor: Array | None, rows: int, position: Array | None = None, random: Array | None = None,
        step: Array | None = None, counted: Array | None = None,
    ) -> Calls:  # fmt: skip
        """Counts a step, or a part of one, in what is given: cursor += rows and position += 1, int64 (1,); and, but
        where counted is 0, random += 1, uint64 (..., layers), and step += 1, float64 (...,)."""

    # Schedules --------------------------------------------------------------------------------------------------------

    @account(
        writes=["values"],
        flops=lambda settings, values: 2 * values.size - settings.size,
        bytes=lambda table, position, settings, values: (
            table[:1].nbytes + position.nbytes + settings.nbytes + values.nbytes
        ),
    )
    def follow_schedule(self, device: D, table: Array, position: Array, settings: Array, values: Array) -> Calls:
        """values = settings ⊙ table[position], all float64 but position, int64 (1,), which is the last row's where it
        is beyond it.

        settings are (..., k), and the rows of the table as well, or (k,) for all models. values are (..., k), or
        (..., k, 2): of each value r [r, 1/(1 − r)].
        """

    # Ranks ------------------------------------------------------------------------------------------------------------

    @account(
        updates=["array"],
        flops=lambda communicator, array: (communicator.ranks - 1) * array.size // communicator.ranks,
        bytes=lambda communicator, array: 4 * (communicator.ranks - 1) * array.nbytes // communicator.ranks,
    )
    def all_reduce(self, device: D, communicator: Communicator, array: Array) -> Calls:
        """array = its sum over the ranks, the same bits on each. What a rank sends and receives is counted: as in a
        ring, in which each rank adds up one part."""

    # Flat buffers -----------------------------------------------------------------------------------------------------

    @account(writes=["destination"])
    def copy(self, device: D, source: Array, destination: Array) -> Calls:
        """destination = source, of the same shape, in its own dtype."""

    @account(writes=["out"], flops=lambda a: 2 * a.size)
    def sum_of_squares(self, device: D, a: Array, out: Array) -> Calls:
        """out = Σa² over the last axis, in float64 (...,)."""

    @account(writes=["factor"], updates=["scaling"], flops=lambda g: g.size)
    def unscale(
        self, device: D, g: Array, scaling: Array, counted: Array | None, factor: Array, patience: int, largest: float
    ) -> Calls:
        """factor = 1/S, where S, the scale of the loss, is in scaling, float64 (..., 3), see formula.py; 0 where a
        number of g is not finite, and where counted, float64 (...,), is 0.

        Such an overflow halves S, down to 1; `patience` steps in a row without one double it, up to `largest`. Where
        counted is 0, scaling stays as it is.
        """

    @account(writes=["factor"], flops=lambda factor: 5 * factor.size)
    def clip_factor(self, device: D, squares: Array, limit: Array, counted: Array | None, factor: Array) -> Calls:
        """factor = counted·min(1, limit/(counted·√squares + 1e-6)), and 0 where counted is: it makes gradients whose
        squares add up to `squares` no longer than the limit. NaN where squares are not finite, so that it is seen. All
        are float64 (...,)."""

    @account(updates=["destination"], flops=lambda destination: 4 * destination.size)
    def blend(self, device: D, source: Array, numbers: Array, counted: Array | None, destination: Array) -> Calls:
        """destination += add·(source − pull·destination), with [add, pull] in numbers, float64 (..., 2): a sum where
        pull is 0, a moving average where it is 1. Where counted is 0, nothing changes."""

    @account(writes=["half_weight"], updates=["weight"], flops=lambda weight: 3 * weight.size)
    def limit_norms(
        self, device: D, weight: Array, limit: Array, counted: Array | None, half_weight: Array | None
    ) -> Calls:
        """w_j = w_j·min(1, limit/|w_j|) for each column j of (..., inputs, units), the weights that lead to a unit.
        limit: float64 (...,). A column whose norm is not finite becomes NaN. half_weight becomes a copy in its own
        dtype. Where counted is 0, nothing changes."""

    # Optimizers -------------------------------------------------------------------------------------------------------

    @account(writes=["half_parameters"], updates=["w", "moments"], flops=lambda rule, w: rule.flops * w.size)
    def update(
        self, device: D, w: Array, g: Array, moments: Array | None, rule: UpdateRule, hyper: Array,
        gradient_factor: Array | None, groups: Array | None, half_parameters: Array | None,
    ) -> Calls:  # fmt: skip
        """W ← (1 − ηλ)W − change, where the rule makes the change of gradient_factor·g, clipped to ±clip_value, plus
        l2·W + l1·sign(W), as far as these are settings of the rule. hyper: the number of this step, which `advance` has
        counted, from 1 on, and the rule's settings, float64.
        moments: (count, ..., parameters), those of the rule in their order.

        groups, (3, blocks), has for each block of 256 bytes of a model's parameters the factors of η, λ and the
        penalties l1 and l2: W ← (1 − ηλ·rate·decay)W − rate·change, with penalty·(l2·W + l1·sign(W)). Where the rate
        factor is 0, neither W nor its moments change.
        """


class EpochOperations(Operations[D], Protocol[D]):
    """The operations of a device that also `trains_epochs_in_one_launch`."""

    @account(writes=["g"], updates=["w", "moments", "hyper", "total"], flops=_epoch_flops, bytes=_epoch_bytes)
    def train_epoch(
        self, device: D, sources: Sequence[Array], permutation: Array, cursor: Array, layout: BlockLayout, w: Array,
        g: Array, moments: Array | None, rule: UpdateRule, hyper: Array, groups: Array | None, loss: LossFormula,
        numbers: Array, mean: bool, total: Array, batch: int, rows: int, running: Array | None = None,
    ) -> Calls:  # fmt: skip
        """The next `rows` rows of an epoch: every minibatch of `batch` rows, and one of what is left, forward, backward
        and the optimizer's step.

        sources are x and target; moments, rule and groups are as in `update`. mean: whether the loss of a minibatch is
        the mean over its rows. What is left in g is the gradient of the last one; where the rate factor is 0, g stays
        as it is. running: float64 (...,), 0 of each model that is measured and does not learn; None: all do.
        """


def _head_flops(y: Array, weight: Array, grad_below: Array | None, grad_bias_below: Array | None) -> int:
    """Two products, or one; 8 of the loss of each output, b and Σ∇z; f′ and Σ∇z of each unit below."""
    rows, cols = y.size // y.shape[-1], weight.shape[-1]
    below = 0 if grad_below is None else 2 * cols + 2 + (grad_bias_below is not None)
    return int(y.size * (2 * cols + below) + 10 * rows * cols)


class CudaOperations(EpochOperations[D], Protocol[D]):
    """The operations of CUDA: those that its fusions put into the place of several are its own."""

    @account(writes=["grad_z", "grad_bias", "grad_below", "grad_bias_below", "total"], flops=_head_flops)
    def head(
        self, device: D, y: Array, weight: Array, bias: Array | None, target: Array, weights: Array | None, kind: str,
        loss: LossFormula, numbers: Array, scale: float, scales: Array | None, grad_z: Array, grad_bias: Array | None,
        s: Array | None, f: Activation, grad_below: Array | None, grad_bias_below: Array | None, total: Array,
    ) -> Calls:  # fmt: skip
        """z = y@W + b, ∇z and the loss of it as the operation `kind` has them, ∇b = Σ∇z; and of the layer below, whose
        output y is, grad_below = ∇z@Wᵀ ⊙ f′(s), and its sum over the rows. grad_z may have longer rows than z: what is
        in them beyond stays. The sums of both products are float32 or wider."""

    # Products with an epilogue, which is what follows them in the same launch -----------------------------------------

    @account(writes=["y", "aux"], flops=lambda a, y: 2 * (a.shape[-1] + 1) * y.size)
    def matmul_activate(
        self, device: D, a: Array, b: Array, bias: Array, f: Activation, y: Array, aux: Array | None
    ) -> Calls:
        """y = f(a@b + bias), where f is relu or gelu_tanh, the bias is of y's dtype, and a NaN may become 0 in relu.

        aux is what `matmul_activation_gradient` reads: of relu, and optional, the bits [a@b + bias ≥ 0], uint8 (...,
        rows, bytes); of gelu_tanh a@b + bias.
        """

    @account(
        writes=["grad_z", "grad_bias"],
        flops=lambda a, grad_z, grad_bias: (2 * a.shape[-1] + 2 + (grad_bias is not None)) * grad_z.size,
    )
    def matmul_activation_gradient(
        self, device: D, a: Array, b: Array, aux: Array, f: Activation, grad_z: Array, grad_bias: Array | None
    ) -> Calls:
        """∇z = a@b ⊙ f′(aux), and with it ∇b = Σ∇z over the rows, of ∇z's dtype."""

    @account(writes=["out", "grad_bias"], flops=lambda a, b, out: 2 * a.shape[-1] * out.size + b.size)
    def matmul_column_sum(self, device: D, a: Array, b: Array, out: Array, grad_bias: Array) -> Calls:
        """out = a@b, and grad_bias = Σb over the rows: ∇W = xᵀ@∇z and ∇b = Σ∇z."""
