"""Products with an epilogue: what of a plan cuBLASLt does in one launch, where the device has found that it pays.

A NaN in z becomes 0 in the relu of cuBLASLt, so that a divergence no longer reaches the loss. So relu is joined only in
the steps of a fit, which looks whether the parameters are finite as well, and only where ∇W of the same layer is worked
out: x that is not finite makes ∇W so, and with it W. float16 overflows in x without either, so there it is not joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpu_backprop.backend.cuda.cublaslt import AUX_ELEMENTS, BIAS_BYTES, mask_bytes
from gpu_backprop.backend.cuda.epilogues import Build, Empty, mode
from gpu_backprop.backend.cuda.fusions.data_flow import independent, same, users
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.operation import Operation
from gpu_backprop.backend.operations import CudaOperations
from gpu_backprop.backend.plan import Plan


def join_epilogues(plan: Plan, operations: list[Operation]) -> list[Operation]:
    """Joins products with what follows them; of relu with its mask, if that may be, or else without."""
    place = len(operations) if mode() == "off" else 0
    while place < len(operations):
        for join in (_relu_and_gradient, _activation, _gradient, _sum):
            joined = join(plan, operations, place)
            if joined is not None:
                operations = joined
                break
        else:
            place += 1
    return operations


# What is joined -------------------------------------------------------------------------------------------------------


def _activation(plan: Plan, operations: list[Operation], place: int) -> list[Operation] | None:
    """y = f(x@W + b): of relu, or of gelu_tanh, whose z stays."""
    after = _follower(plan, operations, place, "bias_activate", "z")
    if after is None or not _fits(plan, operations, place, after):
        return None
    parts = operations[place], operations[after]
    f = parts[1].arguments["f"]

    def build(_: Empty) -> list[Operation]:
        return [_forward(plan, operations, parts, parts[1].arguments["z"] if f.name == "gelu_tanh" else None)]

    name = "relu_bias" if f.name == "relu" else "gelu_aux_bias"
    return _chosen(plan, operations, name, [(place, after)], build)


def _relu_and_gradient(plan: Plan, operations: list[Operation], place: int) -> list[Operation] | None:
    """y = relu(x@W + b), whose mask serves ∇z = ∇y ⊙ relu′, ∇b = Σ∇z, with ∇y a product of the layer above."""
    after = _follower(plan, operations, place, "bias_activate", "z")
    if after is None or not _fits(plan, operations, place, after):
        return None
    forward = operations[place], operations[after]
    y, f = forward[1].arguments["y"], forward[1].arguments["f"]
    if f.name != "relu":
        return None
    found = _slope_of(plan, operations, after, y)
    if found is None:
        return None
    backward = operations[found[0]], operations[found[1]]
    if not _slope_fits(backward):
        return None
    shape = *y.shape[:-1], mask_bytes(y.shape[-1])

    def build(empty: Empty) -> list[Operation]:
        mask = empty(shape)
        return [_forward(plan, operations, forward, mask), *_backward(plan, backward, mask)]

    name = forward[0].formula.partition(" = ")[0]
    pairs = (place, after), found
    return _chosen(plan, operations, "relu_aux_bias and drelu", pairs, build, f"[{name} ≥ 0]")


def _gradient(plan: Plan, operations: list[Operation], place: int) -> list[Operation] | None:
    """∇z = ∇y ⊙ gelu_tanh′(z), ∇b = Σ∇z, with ∇y a product of the layer above."""
    after = _follower(plan, operations, place, "activation_gradient", "grad_y")
    if after is None:
        return None
    parts = operations[place], operations[after]
    z = parts[1].arguments["s"]
    if parts[1].arguments["f"].name != "gelu_tanh" or z.shape[-1] % AUX_ELEMENTS or not _slope_fits(parts):
        return None
    return _chosen(plan, operations, "dgelu", [(place, after)], lambda _: _backward(plan, parts, z))


def _sum(plan: Plan, operations: list[Operation], place: int) -> list[Operation] | None:
    """∇W = xᵀ@∇z, ∇b = Σ∇z."""
    total = operations[place]
    if total.name != "column_sum" or not _aligned(plan, total.arguments["grad_bias"]):
        return None
    after = _weight_gradient(plan, operations, place)
    if after is None:
        return None
    product = operations[after]
    a, b, out = (product.arguments[name] for name in ("a", "b", "out"))
    sums = total.arguments["grad_bias"]
    if sums.dtype != out.dtype:
        return None
    formula = f"{product.formula}, {total.formula}"
    joined = plan.joined((total, product), CudaOperations.matmul_column_sum, formula, a, b, out, sums)
    return _chosen(plan, operations, "bgrada", [(place, after)], lambda _: [joined])


# How ------------------------------------------------------------------------------------------------------------------


def _chosen(
    plan: Plan, operations: list[Operation], name: str, pairs: Sequence[tuple[int, int]], build: Build, mask: str = ""
) -> list[Operation] | None:
    """The operations with what `build` makes in the place of these pairs, of each where its latter was: the first
    that is made for the first pair, the others for the last. None where the device chooses not to."""
    device: Any = plan.device
    parts = [operations[place] for pair in pairs for place in pair]
    if not device.epilogues.choose(device, _key(plan, name, parts), parts, build):
        return None
    plan.phase, phase = parts[0].phase, plan.phase
    made = build(lambda shape: plan.empty(mask, shape, "uint8"))
    plan.phase = phase
    instead = {place: [operations[place]] for place in range(len(operations))}
    instead |= {place: [] for pair in pairs for place in pair}
    instead[pairs[0][1]], made = ([made[0]], made[1:]) if len(pairs) > 1 else (made, [])
    instead[pairs[-1][1]] += made
    return [operation for place in sorted(instead) for operation in instead[place]]


def _key(plan: Plan, name: str, parts: Sequence[Operation]) -> str:
    def form(array: Array) -> str:
        return f"{'x'.join(map(str, array.shape))}:{array.dtype.name}"

    products = [o.arguments for o in parts if o.name == "matmul"]
    sizes = " and ".join(f"{form(p['a'])} @ {form(p['b'])} = {form(p['out'])}" for p in products)
    sums = "" if all(o.arguments.get("grad_bias", o) is not None for o in parts) else ", no sum"
    return f"{name} of {sizes}{sums}{', TF32' if plan.device.tf32 else ''}"


def _forward(plan: Plan, operations: list[Operation], parts: Sequence[Operation], aux: Array | None) -> Operation:
    product, after = (part.arguments for part in parts)
    bias = _bias_of(plan, operations, after["bias"], product["a"])
    assert bias is not None
    name, value = parts[0].formula.split(" = ", 1)
    formula = parts[1].formula.replace(name, value, 1)
    return plan.joined(
        parts, CudaOperations.matmul_activate, formula, product["a"], product["b"], bias, after["f"], after["y"], aux
    )


def _backward(plan: Plan, parts: Sequence[Operation], aux: Array) -> list[Operation]:
    """The product with the slope, and ∇b: the library gives it in the dtype of ∇z alone, so that in 16 bits it is left
    to a sum, which `_sum` joins with ∇W."""
    product, after = (part.arguments for part in parts)
    grad_z, grad_bias = after["grad_z"], after["grad_bias"]
    apart = grad_bias is not None and grad_bias.dtype != grad_z.dtype
    name, value = parts[0].formula.split(" = ", 1)
    formula, *rest = parts[1].formula.replace(name, f"({value})", 1).split(", ")
    joined = plan.joined(
        parts, CudaOperations.matmul_activation_gradient, formula if apart else ", ".join((formula, *rest)),
        product["a"], product["b"], aux, after["f"], grad_z, None if apart else grad_bias,
    )  # fmt: skip
    if not apart:
        return [joined]
    return [joined, plan.joined(parts, CudaOperations.column_sum, ", ".join(rest), grad_z, grad_bias)]


# Where it may be ------------------------------------------------------------------------------------------------------


def _follower(plan: Plan, operations: list[Operation], place: int, name: str, parameter: str) -> int | None:
    """The place of the operation of that name which alone reads what the product at `place` gives; the product may be
    moved up to it."""
    product = operations[place]
    if product.name != "matmul":
        return None
    out = product.arguments["out"]
    readers = list(users(plan, operations, place, out))
    if len(readers) != 1 or operations[readers[0]].name != name:
        return None
    after = operations[readers[0]]
    between = operations[place + 1 : readers[0]]
    if not same(plan, after.arguments[parameter], out) or not all(independent(plan, product, o) for o in between):
        return None
    return readers[0]


def _slope_of(plan: Plan, operations: list[Operation], start: int, y: Array) -> tuple[int, int] | None:
    """The places, from a start on, of the product that gives ∇y and of what makes ∇z of it, by the slope in y; None
    where something else does either."""
    for place in range(start, len(operations)):
        after = _follower(plan, operations, place, "activation_gradient", "grad_y")
        if after is not None and same(plan, operations[after].arguments["s"], y):
            return place, after
    return None


def _weight_gradient(plan: Plan, operations: list[Operation], place: int) -> int | None:
    """The place of ∇W = xᵀ@∇z, up to which the sum of ∇z at `place` may be moved."""
    total = operations[place]
    grad_z = total.arguments["grad_z"]
    for after, operation in enumerate(operations[place + 1 :], place + 1):
        product = operation.arguments if operation.name == "matmul" else {}
        if same(plan, product.get("b"), grad_z) and product["b"].shape == grad_z.shape:
            return after
        if not independent(plan, total, operation):
            return None
    return None


def _fits(plan: Plan, operations: list[Operation], place: int, after: int) -> bool:
    """Tells whether y = f(z + b) can be an epilogue, and may."""
    product, following = operations[place].arguments, operations[after].arguments
    bias, y, f = following["bias"], following["y"], following["f"]
    if bias is None or y.dtype != product["out"].dtype or min(y.shape) == 0:
        return False
    bias = _bias_of(plan, operations, bias, product["a"])
    if bias is None or not _aligned(plan, bias):
        return False
    if f.name == "relu":
        return _nan_is_seen(plan, operations, product["a"], product["b"])
    apart = not same(plan, y, product["out"])
    return bool(f.name == "gelu_tanh" and y.shape[-1] % AUX_ELEMENTS == 0 and apart)


def _slope_fits(parts: Sequence[Operation]) -> bool:
    """Tells whether ∇z = ∇y ⊙ f′ can be an epilogue, which a product of columns and rows has none of."""
    product = parts[0].arguments
    return bool(product["a"].shape[-1] > 1 and product["out"].dtype == product["a"].dtype)


def _nan_is_seen(plan: Plan, operations: list[Operation], x: Array, weight: Array) -> bool:
    """Tells whether the plan is a step of a fit, and ∇W of the layer in it."""
    names = {operation.name for operation in operations}
    if x.dtype.name == "float16" or not {"gather", "update"} <= names:
        return False
    products = [operation.arguments for operation in operations if operation.name == "matmul"]
    return any(same(plan, p["a"], x) and not same(plan, p["b"], weight) for p in products)


def _bias_of(plan: Plan, operations: list[Operation], bias: Array, x: Array) -> Array | None:
    """The bias in the dtype of x: in 16 bits it is where the optimizer writes its copy of the parameters."""
    if bias.dtype == x.dtype:
        return bias
    for operation in operations:
        if operation.name == "update" and operation.arguments["half_parameters"] is not None:
            w, half = operation.arguments["w"], operation.arguments["half_parameters"]
            start = (plan.device.address(bias) - plan.device.address(w)) // w.itemsize
            copy: Array = half[..., start : start + bias.shape[-1]]
            return plan.named(f"{plan.name_of(bias)} ({x.dtype.name})", copy)
    return None


def _aligned(plan: Plan, bias: Array) -> bool:
    return bool(plan.device.address(bias) % BIAS_BYTES == 0)
