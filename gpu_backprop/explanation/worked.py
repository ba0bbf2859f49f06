"""One number of an operation, worked out: from which numbers it comes and how.

Each function of OPERATIONS takes an operation, its layer's activation and its boards, and returns the operation's kind,
for explain.WHY, and the lines of arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gpu_backprop.backend.formula import Activation
from gpu_backprop.backend.operation import Operation
from gpu_backprop.explanation.board import Board, Cell, Exact, Rule, spell
from gpu_backprop.explanation.rules import (
    LossRule,
    activation_rules,
    periodic,
    periodic_bias,
    periodic_weight,
    periodic_x,
    product,
    softmax,
    softmax_gradient,
    total,
)
from gpu_backprop.network.activations import ACTIVATIONS as KNOWN

Boards = Mapping[str, Board]
Worked = tuple[str, list[str]]

_PRODUCT = Rule("{a}·{b}", lambda a, b: a * b)
_SUM = Rule("{a} + {b}", lambda a, b: a + b)


def cells(name: str, found: list[Cell]) -> dict[str, Cell]:
    """Numbers the operands: a0, a1 …"""
    return {f"{name}{k}": cell for k, cell in enumerate(found)}


def row(board: Board) -> list[Cell]:
    """Returns the first sample's numbers."""
    return [board.cell(0, k) for k in range(board.values.shape[1])]


def column(board: Board) -> list[Cell]:
    """Returns all samples' first numbers."""
    return [board.cell(k, 0) if board.values.ndim == 2 else board.cell(k) for k in range(len(board.values))]


def _matmul(operation: Operation, f: Activation, reads: Boards, writes: Boards) -> Worked:
    left, right = operation.formula.split(" = ")[1].split("@")
    a, b = reads[left.rstrip("ᵀ")], reads[right.rstrip("ᵀ")]
    a_cells = column(a) if left.endswith("ᵀ") else row(a)
    b_cells = row(b) if right.endswith("ᵀ") else column(b)
    (out,) = writes.values()
    kind = "ᵀ@" if left.endswith("ᵀ") else "@ᵀ" if right.endswith("ᵀ") else "@"
    return kind, spell(out.cell(0, 0), product(len(a_cells)), cells("a", a_cells) | cells("b", b_cells))


def _two(rule: Rule) -> Callable[[Operation, Activation, Boards, Boards], Worked]:
    """Works out operations on two numbers; a bias is a row."""

    def lines(operation: Operation, f: Activation, reads: Boards, writes: Boards) -> Worked:
        a, b = reads.values()
        out = list(writes.values())[-1]
        return operation.name, spell(out.cell(0, 0), rule, {"a": a.cell(0, 0), "b": b.cell(*(0,) * b.values.ndim)})

    return lines


def _dropout(operation: Operation, f: Activation, reads: Boards, writes: Boards) -> Worked:
    (x,), (y, mask) = reads.values(), writes.values()
    return "dropout", spell(y.cell(0, 0), _PRODUCT, {"a": x.cell(0, 0), "b": mask.cell(0, 0)})


def _bias_activate(operation: Operation, f: Activation, reads: Boards, writes: Boards) -> Worked:
    (z, *bias), y, lines = reads.values(), list(writes.values())[-1], []
    if bias:
        shifted = writes.get(z.name, y)  # the identity writes y at once
        sign = "←" if z.name in writes else "="
        lines = spell(shifted.cell(0, 0), _SUM, {"a": z.cell(0, 0), "b": bias[0].cell(0)}, sign)
        z = shifted
    if f is KNOWN["softmax"]:
        lines += spell(y.cell(0, 0), softmax(y.values.shape[1]), cells("z", row(z)))
    elif (rules := activation_rules(f)) and z is not y:
        lines += spell(y.cell(0, 0), rules[0], {"z": z.cell(0, 0)})
    return f"{'bias_activate' if bias else 'activate'} {f.name}", lines


def _activation_gradient(operation: Operation, f: Activation, reads: Boards, writes: Boards) -> Worked:
    (grad_y, *read), (grad_z, *grad_bias), lines = reads.values(), writes.values(), []
    if not read:
        lines = spell(grad_z.cell(0, 0), Rule("{g}", lambda g: g), {"g": grad_y.cell(0, 0)})
    elif f is KNOWN["softmax"]:
        (s,) = read
        operands = cells("g", row(grad_y)) | cells("y", row(s))
        lines = spell(grad_z.cell(0, 0), softmax_gradient(s.values.shape[1]), operands)
    elif rules := activation_rules(f):
        slope = rules[1]
        rule = Rule("{g}·" + slope.text, lambda g, **s: g * slope.value(**s))
        lines = spell(grad_z.cell(0, 0), rule, {"g": grad_y.cell(0, 0), f.reads: read[0].cell(0, 0)})
    for bias in grad_bias:
        lines += spell(bias.cell(0), total(len(grad_z.values)), cells("a", column(grad_z)))
    return f"activation_gradient {f.name}", lines


def _scale_columns_gradient(operation: Operation, f: Activation, reads: Boards, writes: Boards) -> Worked:
    (x, grad_z, *factors), (*grad_x, grad_factors) = reads.values(), writes.values()
    lines = []
    for below, s in zip(grad_x, factors, strict=True):
        lines = spell(below.cell(0, 0), _PRODUCT, {"a": grad_z.cell(0, 0), "b": s.cell(0)})
    operands = cells("a", column(x)) | cells("b", column(grad_z))
    return "scale_columns_gradient", lines + spell(grad_factors.cell(0), product(len(x.values)), operands)


def _column_sum(operation: Operation, f: Activation, reads: Boards, writes: Boards) -> Worked:
    (grad_z,), (grad_bias,) = reads.values(), writes.values()
    return "column_sum", spell(grad_bias.cell(0), total(len(grad_z.values)), cells("a", column(grad_z)))


def _periodic(operation: Operation, f: Activation, reads: Boards, writes: Boards) -> Worked:
    (x, weight, bias), (z,) = reads.values(), writes.values()
    every = range(frequencies := weight.values.shape[1])
    operands = cells("A", [weight.cell(0, h, 1) for h in every]) | cells("w", [weight.cell(0, h, 0) for h in every])
    operands |= cells("b", [bias.cell(0, h) for h in every]) | {"x": x.cell(0, 0), "a": bias.cell(0, frequencies)}
    return "periodic", spell(z.cell(0, 0), periodic(frequencies), operands)


def _periodic_gradient(operation: Operation, f: Activation, reads: Boards, writes: Boards) -> Worked:
    (x, weight, bias, grad_z), (grad_weight, grad_bias) = reads.values(), writes.values()
    rows, units = len(x.values), weight.values.shape[2] - 1
    here = {"w": weight.cell(0, 0, 0), "b": bias.cell(0, 0)} | cells("x", column(x))
    lines = spell(grad_weight.cell(0, 0, 1), periodic_weight(rows), here | cells("g", column(grad_z)))
    here |= cells("A", [weight.cell(0, 0, 1 + unit) for unit in range(units)])
    for k in range(rows):
        here |= cells(f"g{k}_", [grad_z.cell(k, unit) for unit in range(units)])
    return "periodic_gradient", lines + spell(grad_bias.cell(0, 0), periodic_bias(rows, units), here)


def _periodic_gradient_x(operation: Operation, f: Activation, reads: Boards, writes: Boards) -> Worked:
    (x, weight, bias, grad_z), (grad_x,) = reads.values(), writes.values()
    _, frequencies, width = weight.values.shape
    every, units = range(frequencies), range(width - 1)
    here = cells("w", [weight.cell(0, h, 0) for h in every]) | cells("b", [bias.cell(0, h) for h in every])
    for h in every:
        here |= cells(f"A{h}_", [weight.cell(0, h, 1 + unit) for unit in units])
    here |= cells("g", [grad_z.cell(0, unit) for unit in units]) | {"g": grad_z.cell(0, width - 1), "x": x.cell(0, 0)}
    return "periodic_gradient_x", spell(grad_x.cell(0, 0), periodic_x(frequencies, width - 1), here)


def _normalize_weights(operation: Operation, f: Activation, reads: Boards, writes: Boards) -> Worked:
    (w, *loss_scale), (total_weight, *scales) = reads.values(), writes.values()
    lines = spell(total_weight.cell(), total(len(w.values)), cells("a", column(w)))
    rule, operands = Rule("1/{a}", lambda a: 1 / a), {"a": total_weight.cell()}
    for scale in loss_scale:
        rule, operands = Rule("{s}/{a}", lambda s, a: s / a), operands | {"s": scale.cell()}
    for factor in scales:
        lines += spell(factor.cell(), rule, operands)
    return "normalize_weights", lines


OPERATIONS: Mapping[str, Callable[[Operation, Activation, Boards, Boards], Worked]] = {
    "matmul": _matmul,
    "add_bias": _two(_SUM),
    "bias_activate": _bias_activate,
    "scale_columns": _two(_PRODUCT),
    "scale_columns_gradient": _scale_columns_gradient,
    "dropout": _dropout,
    "multiply": _two(_PRODUCT),
    "activation_gradient": _activation_gradient,
    "column_sum": _column_sum,
    "periodic": _periodic,
    "periodic_gradient": _periodic_gradient,
    "periodic_gradient_x": _periodic_gradient_x,
    "normalize_weights": _normalize_weights,
}


# The loss -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """The factor of a batch: of a mean or a sum, with weights or without, and with S where the loss is scaled."""

    rows: int
    mean: bool
    weights: Board | None
    loss_scale: Board | None = None

    def total(self, loss: Cell, e: Board) -> list[str]:
        """Works out E from every sample's e."""
        sums, operands = total(self.rows), cells("a", column(e))
        if self.weights is not None:
            sums, operands = product(self.rows), cells("a", column(self.weights)) | cells("b", column(e))
        divisor = self._divisor() if self.mean else None
        if divisor is None:
            return spell(loss, sums, operands)
        rule = Rule(f"({sums.text})/{{n}}", lambda n, **terms: sums.value(**terms) / n, sums.silent)
        return spell(loss, rule, operands | {"n": divisor})

    def gradient(self, grad: Cell, slope: Rule, operands: Mapping[str, Cell]) -> list[str]:
        """Works out ∂E of the first sample, where ∂e is `slope`."""
        rule, used = slope, dict(operands)
        if self.weights is not None:
            rule, used["w"] = _times(rule, "w"), self.weights.cell(0)
        if self.loss_scale is not None:
            rule, used["s"] = _times(rule, "s"), self.loss_scale.cell()
        divisor = self._divisor() if self.mean else None
        if divisor is not None:
            whole, used["n"] = rule, divisor
            rule = Rule(f"{whole.text}/{{n}}", lambda n, **rest: whole.value(**rest) / n)
        return spell(grad, rule, used)

    def _divisor(self) -> Cell | None:
        if self.weights is not None:
            return Board("Σw", float(self.weights.values.sum())).cell()
        return Exact("B", float(self.rows)).cell() if self.rows > 1 else None


def _times(rule: Rule, by: str) -> Rule:
    return Rule(f"{rule.text}·{{{by}}}", lambda **n: rule.value(**{k: v for k, v in n.items() if k != by}) * n[by])


def work_out_loss(rule: LossRule, batch: Batch, y: Board, target: Board, e: Board, loss: Cell, grad: Cell) -> list[str]:
    """Works out e of the first sample, E, and ∂E by the first output."""
    outputs, slope = y.values.shape[1], rule.slope
    if rule.mean and outputs > 1:
        slope = Rule(f"{slope.text}/{outputs}", lambda **n: rule.slope.value(**n) / outputs)
    return [
        *spell(e.cell(0), rule.e(outputs), cells("y", row(y)) | cells("t", row(target))),
        *batch.total(loss, e),
        *batch.gradient(grad, slope, {"y": y.cell(0, 0), "t": target.cell(0, 0)}),
    ]


def fused(batch: Batch, y: Board, target: Board, grad: Cell) -> list[str]:
    """Works out ∇z of softmax with cross entropy, or sigmoid with binary cross entropy: y − y* and the factor."""
    rule = Rule("({y} − {t})", lambda y, t: y - t)
    return batch.gradient(grad, rule, {"y": y.cell(0, 0), "t": target.cell(0, 0)})
