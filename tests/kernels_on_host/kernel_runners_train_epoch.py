"""How a case of the kernel is made that trains whole epochs, as in kernel_runners; what has to come out is put together
of numpy_ops's operations, in float64."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from kernel_cases import Array, Case, Near, reference
from kernel_draws import Draw, exact
from kernel_runners_optimizers import BLOCK, exact_groups, groups_of, hyper_of

from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.block_layout import BlockLayout, DenseShape
from gpu_backprop.backend.cuda.ops.train_epoch import TAKES
from gpu_backprop.backend.formula import ACCURACY_KIND, IDENTITY, LossFormula
from gpu_backprop.backend.update_rule import UpdateRule

POSITIVE = "cross_entropy", "binary_cross_entropy", "poisson", "focal", "binary focal"
"""Losses of y > 0: of y around f(½), which the last layer's small W and b = ½ give."""

RATE, SETTINGS = 0.02, {"beta2": 0.99, "epsilon": 0.01, "weight_decay": 0.1}
"""The learning rate, for one row or a mean over some; and settings that do not magnify the rounding of gradients."""


def network(d: Draw, fused: str, near_half: bool, moments: int) -> BlockLayout:
    """One to three layers, with gaps between their parameters."""
    functions, layers, n, inputs = d.chosen["N"].activations, [], 0, d.cols
    count = d.pick(1, 2, 3)
    for k in range(count):
        units, last = d.pick(1, 3, 5, 8, 33, 130), k == count - 1
        weight, bias = n, n + inputs * units + d.pick(0, 3)
        n = bias + units + d.pick(0, 5)
        has_bias = d.flip(0.7) or (near_half and last)
        f = IDENTITY if fused and last else d.pick(*functions)
        layers.append(DenseShape(inputs, units, weight, bias if has_bias else None, f))
        inputs = units
    layout = BlockLayout(layers, n, d.chosen["A"].itemsize, fused, moments)
    layout.functions = d.chosen["N"]  # all that the instance has
    return layout


def parameters_of(d: Draw, layout: BlockLayout, near_half: bool) -> Array:
    w = np.zeros((d.models, layout.parameters))
    for layer in layout.layers:
        small = near_half and layer is layout.layers[-1]
        size = layer.inputs * layer.units
        bound = 0.05 / layer.inputs if small else layer.inputs**-0.5
        w[:, layer.weight : layer.weight + size] = d.random.uniform(-bound, bound, (d.models, size))
        if layer.bias is not None:
            b = 0.5 if small else d.random.uniform(-0.5, 0.5, (d.models, layer.units))
            w[:, layer.bias : layer.bias + layer.units] = b
    return w


def views(flat: Array, layer: DenseShape) -> tuple[Array, Array | None]:
    """W and b of a layer."""
    models = len(flat)
    weight = flat[:, layer.weight : layer.weight + layer.inputs * layer.units]
    bias = None if layer.bias is None else flat[:, layer.bias : layer.bias + layer.units]
    return weight.reshape(models, layer.inputs, layer.units), bias


def gradient(
    layout: BlockLayout, w: Array, x: Array, target: Array, loss: LossFormula, numbers: Array, scale: float,
    total: Array,
):  # fmt: skip
    """∇ of a minibatch, flat; adds to the total."""
    g, xs, kept = np.zeros_like(w), [x], []
    for layer, f in zip(layout.layers, layout.activations, strict=True):
        weight, bias = views(w, layer)
        z = xs[-1] @ weight + (0 if bias is None else bias[:, None, :])
        y = np.empty_like(z)
        reference(numpy_ops.bias_activate, z.copy(), None, f, y)
        kept.append({"z": z, "y": y, "": None}[f.reads])
        xs.append(y)
    grad = np.empty_like(xs[-1])
    if layout.fused:
        softmax, sigmoid = numpy_ops.softmax_cross_entropy, numpy_ops.sigmoid_cross_entropy
        fused = {"softmax": softmax, "sigmoid": sigmoid}[layout.fused]
        reference(fused, xs[-1].copy(), None, target, None, loss, numbers, scale, None, grad, total)
    else:
        reference(numpy_ops.loss_gradient, xs[-1], target, None, loss, numbers, scale, None, grad, total)
    for k in reversed(range(len(layout.layers))):
        weight, _ = views(w, layout.layers[k])
        grad_weight, grad_bias = views(g, layout.layers[k])
        sums = np.empty((len(w), layout.layers[k].units))
        reference(numpy_ops.activation_gradient, grad, kept[k], layout.activations[k], grad, sums)
        grad_weight[...] = xs[k].swapaxes(1, 2) @ grad
        if grad_bias is not None:
            grad_bias[...] = sums
        grad = grad @ weight.swapaxes(1, 2)
    return g


def targets(d: Draw, samples: int, outputs: int, near_half: bool) -> Array:
    L = d.chosen["L"]
    if np.int64 == L:
        labels = d.memory.holding(d.random.integers(0, outputs, (samples, 1)), L)
        if d.flip(0.2):
            labels[d.random.integers(samples)] = d.pick(-1, outputs, 2**40)
        return labels
    return d.numbers((samples, outputs), L, *((0.1, 0.9) if near_half else (-1, 1)))


def train_epoch(d: Draw) -> Case:
    A, row = d.chosen["A"], d.chosen["E"]
    fused = ""
    if IDENTITY in d.chosen["N"].activations and d.flip(0.7):
        fused = "softmax" if d.chosen["L"] == np.int64 or d.flip() else "sigmoid"
    near_half = bool(fused) or row.name in POSITIVE
    rule, mean = d.chosen["U"], d.flip(0.7)
    layout = network(d, fused, near_half, len(rule.moments))
    outputs, samples = layout.layers[-1].units, d.rows + d.pick(1, 4)
    labelled = d.chosen["L"] == np.int64
    accuracy = d.pick("", "argmax") if labelled or fused == "softmax" else d.pick("", "argmax", "threshold")
    loss = dataclasses.replace(row, accuracy=accuracy, smooths=True)
    numbers = d.random.integers(4, 60, (d.models, 1 + len(row.numbers))) / 64  # float32 can hold them
    numbers[:, 0] = (0.0 if fused == "sigmoid" else d.pick(0.0, 0.1)) / np.arange(1, 1 + d.models)
    x = d.numbers((samples, d.cols), d.chosen["S"], *((0, 3) if d.chosen["S"] == "u1" else (-1, 1)))
    target = targets(d, samples, outputs, near_half)
    length = d.rows + d.pick(0, 0, 3)  # rows of the launches before and after are in it too
    order = d.memory.holding(d.random.integers(0, samples, (d.models, length)), np.int64)
    start = d.pick(0, 0, 2)  # where the last row stands in at the end
    batch = d.pick(1, 4, 7, 50)
    micro, held = min(d.pick(1, 2, 5, 50), batch, max(d.rows, 1)), d.pick(0, layout.moments)
    running = None
    if d.flip(0.3):
        running = d.memory.holding(d.random.integers(0, 2, d.models), np.float64)
    rate = RATE * (0.01 if near_half else 1) / (1 if mean else batch)
    hyper = hyper_of(d, rule, d.pick(0, 4), rate, **SETTINGS)
    w = d.memory.holding(parameters_of(d, layout, near_half), A)
    moments = None
    if rule.moments:
        moments = d.memory.holding(d.random.uniform(0, 0.01, (len(rule.moments), *w.shape)), A)
    groups = groups_of(d, layout.parameters, A)
    total = d.numbers((d.models, 3), np.float64, 1, 2)
    tail = (d.rows % batch or batch) if d.rows else batch
    parameters = {
        "x": x, "target": target, "order": order, "cursor": d.memory.holding([start], np.int64),
        "places": d.memory.holding(layout.places(micro, held), np.int32), "w": w, "g": d.numbers(w.shape, A),
        "moments": moments, "hyper": hyper, "groups": groups, "running": running,
        "numbers": d.memory.holding(numbers, np.float64), "loss_numbers": numbers.shape[1], "total": total,
        "samples": samples, "length": length, "rows": d.rows, "batch": batch, "inputs": d.cols,
        "target_cols": target.shape[1], "layers": len(layout.layers), "n": layout.parameters,
        "settings": hyper.shape[1], "count": len(rule.moments),
        "blocks": 0 if groups is None else groups.shape[1], "held": held, "micro": micro,
        "lanes": min(32, 1 << (outputs - 1).bit_length()),
        "scale": 1 / batch if mean else 1.0, "tail_scale": 1 / tail if mean else 1.0,
        "share": 1 / outputs if row.mean_over_outputs and not fused else 1.0,
        "accuracy": ACCURACY_KIND[accuracy], "takes": TAKES[fused],
    }  # fmt: skip
    if fused and row.mean_over_outputs:
        loss = dataclasses.replace(loss, mean_over_outputs=False)
    wanted = expected(d, layout, parameters, loss, rule, mean)
    return d.case((1, 1), parameters, wanted, shared=layout.size(micro, held))


def expected(
    d: Draw, layout: BlockLayout, given: dict[str, Any], loss: LossFormula, rule: UpdateRule, mean: bool
) -> dict[str, Near]:
    after = {name: exact(given[name]) for name in ("w", "moments", "hyper", "total")}
    places = np.minimum(given["cursor"][0] + np.arange(d.rows), given["length"] - 1)
    labelled = given["target"].dtype == np.int64
    for begin in range(0, d.rows, given["batch"]):
        chosen = np.array(given["order"])[:, places[begin : begin + given["batch"]]]
        target = np.array(given["target"])[chosen]
        target = target[..., 0] if labelled else target.astype("f8")
        scale = 1 / chosen.shape[1] if mean else 1.0
        x, numbers = exact(given["x"])[chosen], exact(given["numbers"])
        after["g"] = gradient(layout, after["w"], x, target, loss, numbers, scale, after["total"])
        state = after["w"], after["g"], after["moments"], rule, after["hyper"]
        after["hyper"][:, 0] += 1 if given["running"] is None else exact(given["running"]) != 0
        reference(numpy_ops.update, *state, exact(given["running"]), exact_groups(given["groups"]), None)
    if given["groups"] is not None and "g" in after:  # a frozen parameter's gradient stays what it was
        rates = np.repeat(exact(given["groups"])[0], BLOCK // given["w"].itemsize)[: given["w"].shape[1]]
        after["g"] = np.where(rates, after["g"], exact(given["g"]))
    rounding = 8 * d.tolerance(4 * d.rows * d.cols, given["w"].dtype)
    return {name: Near(a, rounding * (1 + abs(a))) for name, a in after.items() if a is not None}
