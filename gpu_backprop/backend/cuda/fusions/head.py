"""Joins the last layer with its loss and with the way back to the layer below, where the outputs are few.

    z = y@W, the loss of z + b and ∇z, ∇b = Σ∇z, ∇y = ∇z@Wᵀ, ∇z of the layer below with its ∇b

become one operation, and ∇W = yᵀ@∇z remains: its sum over the rows is the work of a product. What of these is not there
(a layer that is frozen, one without a bias, the only layer) is left out; what stands between (dropout, softmax) stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gpu_backprop.backend.cuda.fusions.data_flow import independent, same, users, writer
from gpu_backprop.backend.cuda.fusions.head_shape import MOST_OUTPUTS, HeadShape
from gpu_backprop.backend.formula import IDENTITY, Activation, Array
from gpu_backprop.backend.operation import Operation
from gpu_backprop.backend.operations import CudaOperations, Operations
from gpu_backprop.backend.plan import Plan

OF_Z = "softmax_cross_entropy", "sigmoid_cross_entropy", "softmax_focal"
"""The losses that make y of z themselves."""

ALIGNED = 16
"""Bytes that rows of ∇z take a multiple of, so that products read them faster."""


@dataclass
class Head:
    """What was found of a head: the places of its operations, and their arrays."""

    loss: int
    parts: list[int]  # the loss among them
    y: Array
    weight: Array
    bias: Array | None
    grad_z: Array
    weight_product: int | None = None  # ∇W = yᵀ@∇z, which stays
    grad_bias: Array | None = None
    grad_below: Array | None = None
    s: Array | None = None
    f: Activation = field(default=IDENTITY)
    grad_bias_below: Array | None = None


def join_head(plan: Plan, operations: list[Operation]) -> list[Operation]:
    """A Fusion. The sums of its products are float32 or wider, also where the device's may be TF32."""
    if not plan.training:
        return operations
    for loss in reversed(range(len(operations))):  # so that the places before stay
        head = _find(plan, operations, loss)
        if head is not None and _fits(plan, head) and _movable(plan, operations, head):
            operations = _joined(plan, operations, head)
    return operations


def _find(plan: Plan, operations: Sequence[Operation], loss: int) -> Head | None:
    given = operations[loss].arguments
    parts, bias = [loss], given.get("bias")
    if operations[loss].name in OF_Z:
        z, grad_z = given["z"], given["grad_z"]
    elif operations[loss].name == "loss_gradient":
        z, grad_z = given["y"], given["grad_y"]
        activation = writer(plan, operations, loss, z)
        if activation is not None and operations[activation].name == "bias_activate":
            of_z = operations[activation].arguments
            if of_z["f"].numpy_value is not None or not same(plan, of_z["z"], z):
                return None
            parts, bias = [activation, loss], of_z["bias"]
    else:
        return None
    product = writer(plan, operations, parts[0], z)
    if grad_z is None or product is None or operations[product].name != "matmul":
        return None
    y, weight = operations[product].arguments["a"], operations[product].arguments["b"]
    if [*users(plan, operations, product, z)] != parts[:1] or (
        len(parts) > 1 and [*users(plan, operations, parts[0], z)] != [loss]
    ):
        return None
    head = Head(loss, [product, *parts], y, weight, bias, grad_z)
    back = None
    for place in users(plan, operations, loss, grad_z):
        name, of_grad = operations[place].name, operations[place].arguments
        if name == "column_sum":
            head.grad_bias = of_grad["grad_bias"]
            head.parts.append(place)
        elif name == "matmul" and same(plan, of_grad["b"], grad_z) and same(plan, of_grad["a"], y):
            head.weight_product = place
        elif name == "matmul" and same(plan, of_grad["a"], grad_z) and same(plan, of_grad["b"], weight):
            back, head.grad_below = place, of_grad["out"]
            head.parts.append(place)
        else:
            return None
    if back is not None:
        _find_below(plan, operations, head, back)
    return head


def _find_below(plan: Plan, operations: Sequence[Operation], head: Head, back: int) -> None:
    """Finds what makes ∇z of the layer below of its ∇y, where that is done by elements."""
    assert head.grad_below is not None
    place = next(users(plan, operations, back, head.grad_below), back)
    name, given = operations[place].name, operations[place].arguments
    if name == "column_sum":
        head.grad_bias_below = given["grad_bias"]
    elif name == "activation_gradient" and not given["f"].rowwise and same(plan, given["grad_z"], head.grad_below):
        head.s, head.f, head.grad_bias_below = given["s"], given["f"], given["grad_bias"]
    else:
        return
    head.parts.append(place)


def _fits(plan: Plan, head: Head) -> bool:
    """Tells whether the kernel can have so many outputs and units."""
    *models, rows, units = head.y.shape
    cols = head.weight.shape[-1]
    if cols > MOST_OUTPUTS:
        return False
    count = models[0] if models else 1
    shape = HeadShape.of(head.y.dtype, rows, units, cols, count, head.grad_bias_below is not None)
    kernels: Any = plan.device.kernels  # type: ignore[attr-defined]
    return bool(shape.bytes <= kernels.block_memory)


def _movable(plan: Plan, operations: Sequence[Operation], head: Head) -> bool:
    """Tells whether all parts can stand where the loss does."""
    return all(
        independent(plan, operations[part], operations[between])
        for part in head.parts
        for between in range(min(part, head.loss), max(part, head.loss))
        if between not in head.parts
    )


def _joined(plan: Plan, operations: Sequence[Operation], head: Head) -> list[Operation]:
    parts = [operations[place] for place in sorted(head.parts)]
    loss = operations[head.loss]
    grad_z = _with_aligned_rows(plan, head.grad_z, loss)
    given = loss.arguments
    one = plan.joined(
        parts, CudaOperations.head, "; ".join(part.formula for part in parts), head.y, head.weight, head.bias,
        given["target"], given["weights"], loss.name, given["loss"], given["numbers"], given["scale"], given["scales"],
        grad_z, head.grad_bias, head.s, head.f, head.grad_below, head.grad_bias_below, given["total"],
    )  # fmt: skip
    changed = {head.loss: one}
    if head.weight_product is not None and grad_z is not head.grad_z:
        product = operations[head.weight_product]
        a, out = product.arguments["a"], product.arguments["out"]
        rows = grad_z[..., : head.grad_z.shape[-1]]
        changed[head.weight_product] = plan.joined([product], Operations.matmul, product.formula, a, rows, out)
    return [changed.get(k, o) for k, o in enumerate(operations) if k in changed or k not in head.parts]


def _with_aligned_rows(plan: Plan, grad_z: Array, loss: Operation) -> Array:
    """∇z, or a buffer in its place whose rows are as long as 16 bytes ask for."""
    *shape, cols = grad_z.shape
    each = ALIGNED // grad_z.dtype.itemsize
    places = -(-cols // each) * each
    if places == cols:
        return grad_z
    # parts of a minibatch share one where they have as many rows; a name ends with the number of its layer
    name = f"{'×'.join(map(str, (*shape, places)))} {next(iter(loss.writes))}"
    plan.phase, before = loss.phase, plan.phase
    padded = plan.empty(name, (*shape, places))
    plan.phase = before
    plan.named(name, padded[..., :cols])
    return padded
