"""How a case of a kernel is made: its arguments, its launch, and what numpy_ops gives in float64. The kernels of the
losses and of the optimizers are in files of their own."""

from __future__ import annotations

import numpy as np
from kernel_cases import Array, Case, Exactly, Near, reference
from kernel_draws import Draw, exact

from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.formula import Activation
from gpu_backprop.network.activations import ACTIVATIONS

SOFTMAX = ACTIVATIONS["softmax"]


def value_of(f: Activation, v: Array) -> Array:
    y = np.empty_like(v)
    reference(numpy_ops.bias_activate, v.copy(), None, f, y)
    return y


def bias_activate(d: Draw, f: Activation | None = None) -> Case:
    f = f or d.chosen["F"]
    z, b = d.numbers(d.shape, d.T), d.per_model(d.cols, d.A) if d.flip() else None
    in_place = d.flip(0.3)
    keep, y = d.flip() and not in_place, z if in_place else d.empty(d.shape, d.T)
    v = exact(z) + (0 if b is None else exact(b)[:, None, :])
    expected = value_of(f, v)
    wanted = {"y": Near(expected, d.tolerance(d.cols if f.rowwise else 0) * (1 + abs(expected)))}
    if keep:
        wanted["z"] = Near(v, d.tolerance())
    grid = (d.groups, 1) if f.rowwise else (d.column_groups, d.groups)
    return d.case(grid, {"z": z, "b": b, "y": y, "rows": d.rows, "cols": d.cols, "store_z": int(keep)}, wanted)


def softmax(d: Draw) -> Case:
    return bias_activate(d, SOFTMAX)


def activation_gradient(d: Draw) -> Case:
    f = d.chosen["F"]
    grad_y, s = d.numbers(d.shape, d.T), None
    if f.reads or d.flip():
        z = d.random.uniform(-4, 4, d.shape)
        s = d.memory.holding(value_of(f, z) if f.reads == "y" else z, d.T)
    grad_z = grad_y if d.flip(0.3) else d.empty(d.shape, d.T)
    expected, grad_bias, sums = exact(grad_y), None, np.empty((d.models, d.cols))
    reference(numpy_ops.activation_gradient, exact(grad_y), exact(s), f, expected, sums)
    parameters = {"grad_y": grad_y, "s": s, "grad_z": grad_z, "grad_bias": None, "partial": None, "tickets": None}
    wanted = {"grad_z": Near(expected, d.tolerance() * (1 + abs(expected)))}
    if d.flip(0.7):
        grad_bias = d.memory.models(d.models, d.cols, d.A, gap=d.pick(0, 3))
        parameters |= {
            "grad_bias": grad_bias,
            "partial": d.empty((d.models, d.groups, d.cols), d.A),
            "tickets": d.tickets(d.models, d.column_groups),
        }
        wanted["grad_bias"] = Near(sums, d.tolerance(d.rows) * (1 + (1 + abs(expected)).sum(1)))
    return d.case((d.column_groups, d.groups), parameters | {"rows": d.rows, "cols": d.cols}, wanted)


def softmax_gradient(d: Draw) -> Case:
    grad_y = d.numbers(d.shape, d.T)
    y = d.memory.holding(value_of(SOFTMAX, d.random.uniform(-4, 4, d.shape)), d.T)
    grad_z = grad_y if d.flip(0.3) else d.empty(d.shape, d.T)
    expected = exact(grad_y)
    reference(numpy_ops.activation_gradient, exact(grad_y), exact(y), SOFTMAX, expected, None)
    parameters = {"grad_y": grad_y, "y": y, "grad_z": grad_z, "rows": d.rows, "cols": d.cols}
    return d.case((d.groups, 1), parameters, {"grad_z": Near(expected, d.tolerance(d.cols))})


def column_sum(d: Draw) -> Case:
    grad_z, grad_bias = d.numbers(d.shape, d.T), d.memory.models(d.models, d.cols, d.A, gap=d.pick(0, 3))
    sums = np.empty((d.models, d.cols))
    reference(numpy_ops.column_sum, exact(grad_z), sums)
    parameters = {
        "grad_z": grad_z, "grad_bias": grad_bias, "partial": d.empty((d.models, d.groups, d.cols), d.A),
        "tickets": d.tickets(d.models, d.column_groups), "rows": d.rows, "cols": d.cols,
    }  # fmt: skip
    near = Near(sums, d.tolerance(d.rows) * abs(exact(grad_z)).sum(1))
    return d.case((d.column_groups, d.groups), parameters, {"grad_bias": near})


def scale_columns(d: Draw) -> Case:
    x, factors = d.numbers(d.shape, d.T), d.per_model(d.cols, d.A)
    z = x if d.flip(0.4) else d.empty(d.shape, d.T)
    product = exact(x) * exact(factors)[:, None, :]
    parameters = {"x": x, "factors": factors, "z": z, "rows": d.rows, "cols": d.cols}
    return d.case((d.column_groups, d.groups), parameters, {"z": Near(product, d.tolerance() * abs(product))})


def scale_columns_gradient(d: Draw) -> Case:
    x, grad_z, factors, grad_x = d.numbers(d.shape, d.T), d.numbers(d.shape, d.T), None, None
    grad_factors = d.memory.models(d.models, d.cols, d.A, gap=d.pick(0, 3))
    sums, of_x, near = np.empty((d.models, d.cols)), None, {}
    terms = abs(exact(x) * exact(grad_z)).sum(1)
    if d.flip(0.7):
        factors, of_x = d.per_model(d.cols, d.A), np.empty(d.shape)
        grad_x = grad_z if d.flip() else d.empty(d.shape, d.T)
    reference(numpy_ops.scale_columns_gradient, exact(x), exact(grad_z), exact(factors), of_x, sums)
    if of_x is not None:
        near["grad_x"] = Near(of_x, d.tolerance() * abs(of_x))
    parameters = {
        "x": x, "grad_z": grad_z, "factors": factors, "grad_x": grad_x, "grad_factors": grad_factors,
        "partial": d.empty((d.models, d.groups, d.cols), d.A), "tickets": d.tickets(d.models, d.column_groups),
        "rows": d.rows, "cols": d.cols,
    }  # fmt: skip
    near["grad_factors"] = Near(sums, d.tolerance(d.rows) * terms)
    return d.case((d.column_groups, d.groups), parameters, near)


def flat(d: Draw) -> tuple[tuple[int, int], int]:
    """The grid and the size of a kernel that has no models of its own."""
    n, d.models = d.models * d.cols, 1
    return (d.groups, 1), n


def multiply(d: Draw) -> Case:
    grid, n = flat(d)
    a, b = d.numbers((n,), d.T), d.numbers((n,), d.T)
    out = d.pick(a, b) if d.flip(0.4) else d.empty((n,), d.T)
    product = exact(a) * exact(b)
    return d.case(grid, {"a": a, "b": b, "out": out, "n": n}, {"out": Near(product, d.tolerance() * abs(product))})


def dropout(d: Draw) -> Case:
    x, rate = d.numbers(d.shape, d.T), np.array([d.pick(0.0, 0.3, 0.5, 0.9) for _ in range(d.models)])
    rates = d.memory.models(d.models, 2, np.float64, np.stack([rate, 1 / (1 - rate)], axis=-1), d.pick(0, 4))
    random = d.memory.models(d.models, 3, np.uint64, d.random.integers(1, 2**63, (d.models, 3)), d.pick(0, 1))
    y, mask = d.empty(d.shape, d.T), d.empty(d.shape, d.T)
    kept, masks, first_row = np.empty(d.shape), np.empty(d.shape), d.pick(0, 1, 2**40)
    reference(numpy_ops.dropout, exact(x), np.array(rates), np.array(random), kept, masks, first_row)
    rounded = masks.astype(d.A).astype(d.T)
    product = exact(x) * rounded.astype("f8")
    parameters = {
        "x": x, "rates": rates, "rng_state": random, "y": y, "mask": mask, "first_row": first_row, "rows": d.rows,
        "cols": d.cols,
    }  # fmt: skip
    wanted = {"mask": Exactly(rounded), "y": Near(product, d.tolerance() * abs(product))}
    blocks = (d.cols + 7) // 8
    groups = -(-blocks // d.block[0])
    return d.case((groups, d.groups), parameters, wanted)


def gather(d: Draw) -> Case:
    S, T, L = d.chosen["S"], d.T, d.chosen["L"]
    samples, places, target_cols = d.rows + d.pick(1, 7), d.rows + d.pick(0, 1, 20), d.pick(1, 3, 40)
    x = d.numbers((samples, d.cols), S, *((0, 255) if S == "u1" else (-4, 4)))
    target = d.numbers((samples, target_cols), L, 0, 9) if d.flip(0.8) else None
    order = d.memory.holding(d.random.integers(0, samples, (d.models, places)), np.int64)
    start = int(d.random.integers(0, places - d.rows + 3))  # some run over the end, where the last place stands in
    rows = np.array(order)[:, np.minimum(start + np.arange(d.rows), places - 1)]
    kept = d.pick(None, (samples,), (d.models, samples))
    weights = None if kept is None else d.numbers(kept, d.A, 0, 2)
    own = weights is not None and weights.ndim > 1
    x = None if weights is not None and d.flip(0.3) else x
    counts = None if weights is None else d.memory.holding(d.random.integers(0, places + 1, d.models), np.int64)
    parameters = {
        "x": x, "x_out": None if x is None else d.empty(d.shape, T), "target": target,
        "target_out": None if target is None else d.empty((*d.shape[:2], target_cols), L),
        "weights": None if own else weights, "own_weights": weights if own else None,
        "weights_out": None if weights is None else d.empty(d.shape[:2], d.A), "order": order,
        "cursor": d.memory.holding([start], np.int64), "row_counts": counts, "samples": samples, "places": places,
        "rows": d.rows, "cols": d.cols, "target_cols": 0 if target is None else target_cols,
    }  # fmt: skip
    wanted = {} if x is None else {"x_out": Near(exact(x)[rows], d.tolerance())}
    if target is not None:
        wanted["target_out"] = Exactly(np.array(target)[rows])
    if weights is not None:
        found = np.take_along_axis(np.broadcast_to(weights, (d.models, samples)), rows, 1)
        found[start + np.arange(d.rows) >= np.array(counts)[:, None]] = -0.0
        wanted["weights_out"] = Exactly(found)
    return d.case((d.column_groups, d.groups), parameters, wanted)


def advance(d: Draw) -> Case:
    """Each counter by itself, those of models in columns of longer rows, or none."""
    count, layers, rows = d.models * d.cols, d.pick(0, 1, 3), int(d.random.integers(1, 2**40))
    d.models = 1

    def counters(n: int, dtype: str, stride: int) -> Array | None:
        base = d.memory.holding(d.random.integers(0, 2**50, (n, stride)), dtype)
        column = stride - 1 if n else 0  # an empty one of NumPy's lies where it would, in no buffer
        return base[:, column] if d.flip(0.6) else None

    made = {"cursor": counters(1, "i8", 1), "position": counters(1, "i8", 1)}
    made |= {"random": counters(layers * count, "u8", d.pick(1, 3)), "step": counters(count, "f8", d.pick(1, 4))}
    counted = d.memory.holding(d.random.integers(0, 2, count), "f8") if d.flip(0.7) else None
    after = {name: None if array is None else np.array(array) for name, array in made.items()}
    if after["random"] is not None:
        after["random"] = after["random"].reshape(count, layers)
    reference(numpy_ops.advance, after["cursor"], rows, *[*after.values()][1:], counted)
    parameters = {**made, "counted": counted, "rows": rows, "randoms": layers * count, "count": count}
    return d.case((d.groups, 1), parameters, {name: Exactly(a.ravel()) for name, a in after.items() if a is not None})


def copy(d: Draw) -> Case:
    grid, n = flat(d)
    S = d.chosen["S"]
    source, destination = d.numbers((n,), S, *((0, 255) if S == "u1" else (-4, 4))), d.empty((n,), d.T)
    twice = 2.0**-24 if S == "f8" and d.A == "f4" else 0  # float64 is rounded to what T is worked in first
    near = Near(exact(source), twice * abs(exact(source)))
    return d.case(grid, {"source": source, "destination": destination, "n": n}, {"destination": near})


def compare(d: Draw) -> Case:
    """Bytes that are the same, or one that differs in one bit: the first, the last or another."""
    grid, n = (d.groups, 1), d.cols
    values = d.random.integers(0, 256, (d.models, n))
    others = values.copy()
    different = n > 0 and d.flip(0.7)
    if different:
        others[d.random.integers(d.models), d.pick(0, n - 1, n // 2)] ^= 1 << d.random.integers(8)
    a, b = (d.memory.models(d.models, n, np.uint8, of, gap=d.pick(0, 3)) for of in (values, others))
    differing = d.memory.holding([5], np.uint32)
    return d.case(grid, {"a": a, "b": b, "differing": differing, "n": n}, {"differing": Exactly([5 + different])})


def follow_schedule(d: Draw) -> Case:
    """Factors of all models or of each; settings and values that lie in longer rows; positions beyond the last."""
    steps, pairs, own = d.pick(1, 5), d.flip(), d.models if d.flip() else 1
    table = d.numbers((steps, own * d.cols), np.float64, 0, 1)
    position = d.memory.holding([d.random.integers(0, steps + 2)], "i8")
    settings = d.per_model(d.cols, np.float64, 0, 0.9)
    values = d.memory.models(d.models, d.cols * (1 + pairs), np.float64, gap=d.pick(0, 3))
    expected = np.empty((d.models, d.cols, 2) if pairs else (d.models, d.cols))
    factors = np.array(table).reshape(steps, own, d.cols)
    reference(numpy_ops.follow_schedule, factors, np.array(position), np.array(settings), expected)
    parameters = {
        "table": table, "position": position, "settings": settings, "values": values, "steps": steps,
        "row": own * d.cols, "n": d.cols, "size": d.cols * (1 + pairs),
    }  # fmt: skip
    near = Near(expected.reshape(values.shape), 8 * np.finfo(float).eps * expected.reshape(values.shape))
    return d.case((d.groups, 1), parameters, {"values": near})


def sum_of_squares(d: Draw) -> Case:
    a = d.numbers((d.models, d.cols), d.T)
    parameters = {
        "a": a, "out": d.empty((d.models,), np.float64), "partial": d.empty((d.models, d.groups), np.float64),
        "tickets": d.tickets(d.models), "n": d.cols,
    }  # fmt: skip
    sums = np.empty(d.models)
    reference(numpy_ops.sum_of_squares, exact(a), sums)
    return d.case((d.groups, 1), parameters, {"out": Near(sums, d.tolerance(d.cols) * sums)})


def residual_sums(d: Draw) -> Case:
    y, target, weights = d.numbers(d.shape, d.T), d.numbers(d.shape, d.A), d.maybe(d.shape[:2], d.A, 0, 2)
    sums = d.numbers((d.models, 2, d.cols), np.float64)
    expected = exact(sums)
    reference(numpy_ops.residual_sums, exact(y), exact(target), exact(weights), expected)
    parameters = {
        "y": y, "target": target, "weights": weights, "sums": sums,
        "partial": d.memory.empty((d.models, d.groups, d.cols, 2), np.float64, 2),  # both sums of a column at once
        "tickets": d.tickets(d.models, d.column_groups), "rows": d.rows, "cols": d.cols,
    }  # fmt: skip
    near = Near(expected, d.tolerance() * (4 + expected))
    return d.case((d.column_groups, d.groups), parameters, {"sums": near})
