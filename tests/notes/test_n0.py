"""Note N0: row vectors, z = x@W + b, y = f(z), e = ½‖y − y*‖², in the four forms that the note gives.

Each form is transcribed on its own, for a network of any depth: "∂e/∂y_j ← ∂e/∂x_i" leads to the layer below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import gpu_backprop as gb

Vector = list[float]
Matrix = list[Vector]
Function = Callable[[float], float]


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def normal_area(z: float) -> float:
    return (1 + math.erf(z / math.sqrt(2))) / 2


def normal_density(z: float) -> float:
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def tanh_bend(z: float) -> float:
    return math.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))


SELU_SCALE, SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
F: dict[str, tuple[Function, Function]] = {  # f(z) and f′(z), both written in z as in the note
    "identity": (lambda z: z, lambda z: 1.0),
    "sigmoid": (sigmoid, lambda z: sigmoid(z) * sigmoid(-z)),
    "tanh": (math.tanh, lambda z: 1 / math.cosh(z) ** 2),
    "relu": (lambda z: max(z, 0.0), lambda z: 1.0 if z > 0 else 0.0),
    "leaky_relu": (lambda z: z if z > 0 else 0.01 * z, lambda z: 1.0 if z > 0 else 0.01),
    "elu": (lambda z: z if z > 0 else math.exp(z) - 1, lambda z: 1.0 if z > 0 else math.exp(z)),
    "selu": (
        lambda z: SELU_SCALE * (z if z > 0 else SELU_ALPHA * (math.exp(z) - 1)),
        lambda z: SELU_SCALE * (1.0 if z > 0 else SELU_ALPHA * math.exp(z)),
    ),
    "softplus": (lambda z: math.log(1 + math.exp(z)), sigmoid),
    "softsign": (lambda z: z / (1 + abs(z)), lambda z: 1 / (1 + abs(z)) ** 2),
    "gelu": (lambda z: z * normal_area(z), lambda z: normal_area(z) + z * normal_density(z)),
    "gelu_tanh": (
        lambda z: z / 2 * (1 + tanh_bend(z)),
        lambda z: (
            (1 + tanh_bend(z)) / 2
            + z / 2 * (1 - tanh_bend(z) ** 2) * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z * z)
        ),
    ),
    "silu": (lambda z: z * sigmoid(z), lambda z: sigmoid(z) + z * sigmoid(z) * sigmoid(-z)),
    "mish": (
        lambda z: z * math.tanh(math.log1p(math.exp(z))),
        lambda z: math.tanh(math.log1p(math.exp(z))) + z * sigmoid(z) / math.cosh(math.log1p(math.exp(z))) ** 2,
    ),
    "exp": (math.exp, math.exp),
}


# The four forms ------------------------------------------------------------------------------------------------------


def with_indices(x: Vector, y_star: Vector, W: list[Matrix], b: list[Vector], f: list[str]) -> dict[str, Any]:
    """The first form: every sum over an index written out, δ_j ≡ ∂e/∂z_j."""
    y, kept = x, []
    for layer in range(len(W)):
        x, w, inputs, outputs = y, W[layer], len(W[layer]), len(b[layer])
        # z_j = Σ_i x_i·w_ij + b_j
        z = [0.0] * outputs
        for j in range(outputs):
            for i in range(inputs):
                z[j] += x[i] * w[i][j]
            z[j] += b[layer][j]
        # y_j = f(z_j)
        y = [F[f[layer]][0](z[j]) for j in range(outputs)]
        kept.append((x, z))

    # e = ½ Σ_j (y_j − y*_j)²
    e = 0.0
    for j in range(len(y)):
        e += (y[j] - y_star[j]) ** 2 / 2
    # ∂e/∂y_j = y_j − y*_j
    de_dy = [y[j] - y_star[j] for j in range(len(y))]

    sample = {"y": y, "e": e, "grad_y": de_dy, "grad_weights": [], "grad_biases": []}
    for layer in reversed(range(len(W))):
        (x, z), w, inputs, outputs = kept[layer], W[layer], len(W[layer]), len(b[layer])
        # δ_j ≡ ∂e/∂z_j = ∂e/∂y_j · f′(z_j)
        delta = [de_dy[j] * F[f[layer]][1](z[j]) for j in range(outputs)]
        # ∂e/∂w_ij = x_i δ_j
        de_dw = [[x[i] * delta[j] for j in range(outputs)] for i in range(inputs)]
        # ∂e/∂b_j = δ_j
        de_db = [delta[j] for j in range(outputs)]
        # ∂e/∂x_i = Σ_j δ_j wᵀ_ji
        wT = [[w[i][j] for i in range(inputs)] for j in range(outputs)]
        de_dx = [0.0] * inputs
        for i in range(inputs):
            for j in range(outputs):
                de_dx[i] += delta[j] * wT[j][i]
        sample["grad_weights"].insert(0, de_dw)
        sample["grad_biases"].insert(0, de_db)
        # ∂e/∂y_j ← ∂e/∂x_i
        de_dy = de_dx
    return sample | {"grad_x": de_dx}


def with_nabla(x: Vector, y_star: Vector, W: list[Matrix], b: list[Vector], f: list[str]) -> dict[str, Any]:
    """The second form: the same indices, ∇ for "the derivative of e by"; one layer calls the next."""

    def layer(number: int, x: Vector) -> Vector:
        if number == len(W):
            sample["y"] = x
            # e = ½ Σ_j (y_j − y*_j)²
            sample["e"] = sum((x[j] - y_star[j]) ** 2 for j in range(len(x))) / 2
            # ∇y_j ≡ ∂e/∂y_j = y_j − y*_j
            sample["grad_y"] = [x[j] - y_star[j] for j in range(len(x))]
            return sample["grad_y"]
        w, above, below = W[number], range(len(b[number])), range(len(W[number]))
        # z_j = Σ_i x_i·w_ij + b_j
        z = [sum(x[i] * w[i][j] for i in below) + b[number][j] for j in above]
        # y_j = f(z_j)
        y = [F[f[number]][0](z[j]) for j in above]
        # ∇y_j ← ∇x_i of the layer above
        nabla_y = layer(number + 1, y)
        # ∇z_j ≡ ∂e/∂z_j = ∇y_j · f′(z_j)
        nabla_z = [nabla_y[j] * F[f[number]][1](z[j]) for j in above]
        # ∇w_ij = x_i ∇z_j
        sample["grad_weights"].insert(0, [[x[i] * nabla_z[j] for j in above] for i in below])
        # ∇b_j = ∇z_j
        sample["grad_biases"].insert(0, [nabla_z[j] for j in above])
        # ∇x_i = Σ_j ∇z_j wᵀ_ji
        return [sum(nabla_z[j] * w[i][j] for j in above) for i in below]

    sample: dict[str, Any] = {"grad_weights": [], "grad_biases": []}
    sample["grad_x"] = layer(0, x)
    return sample


def row_times_matrix(row: Vector, matrix: Matrix) -> Vector:
    """row@matrix"""
    product = [0.0] * len(matrix[0])
    for i in range(len(matrix)):
        for j in range(len(matrix[0])):
            product[j] += row[i] * matrix[i][j]
    return product


def column_times_row(column: Vector, row: Vector) -> Matrix:
    """xᵀ∇z: a column by a row is a matrix"""
    return [[column[i] * row[j] for j in range(len(row))] for i in range(len(column))]


def transpose(matrix: Matrix) -> Matrix:
    return [[matrix[i][j] for i in range(len(matrix))] for j in range(len(matrix[0]))]


def with_vectors(x: Vector, y_star: Vector, W: list[Matrix], b: list[Vector], f: list[str]) -> dict[str, Any]:
    """The third form: row vectors; @, ⊙ and ᵀ are the loops above."""
    xs, zs, y = [], [], x
    for k in range(len(W)):
        xs.append(y)
        # z = x@W + b
        zs.append([s + t for s, t in zip(row_times_matrix(xs[k], W[k]), b[k], strict=True)])
        # y = f(z)
        y = [F[f[k]][0](z) for z in zs[k]]
    # e = ½‖y − y*‖²
    e = 0.5 * math.hypot(*(s - t for s, t in zip(y, y_star, strict=True))) ** 2
    # ∇y ≡ ∂e/∂y = y − y*
    nabla_y = [s - t for s, t in zip(y, y_star, strict=True)]
    sample = {"y": y, "e": e, "grad_y": nabla_y, "grad_weights": [], "grad_biases": []}
    for k in reversed(range(len(W))):
        # ∇z = ∇y ⊙ f′(z)
        nabla_z = [s * F[f[k]][1](z) for s, z in zip(nabla_y, zs[k], strict=True)]
        # ∇W = xᵀ∇z
        sample["grad_weights"].insert(0, column_times_row(xs[k], nabla_z))
        # ∇b = ∇z
        sample["grad_biases"].insert(0, nabla_z)
        # ∇x = ∇z@Wᵀ
        nabla_x = row_times_matrix(nabla_z, transpose(W[k]))
        # ∇y ← ∇x
        nabla_y = nabla_x
    return sample | {"grad_x": nabla_x}


def with_arrows(x: Vector, y_star: Vector, W: list[Matrix], b: list[Vector], f: list[str]) -> dict[str, Any]:
    """The fourth form, "ver. 2": data flow. A → B puts A into the box B; the boxes are all there is."""
    boxes: list[dict[str, Any]] = [{"W": W[k], "b": b[k], "f": F[f[k]]} for k in range(len(W))]
    boxes[0]["x"] = x
    for k, box in enumerate(boxes):
        # x@W + b → z
        box["z"] = row_times_matrix(box["x"], box["W"])
        for j in range(len(box["z"])):
            box["z"][j] += box["b"][j]
        # f(z) → y
        box["y"] = [box["f"][0](z) for z in box["z"]]
        # y → x  (to Next layer)
        if k + 1 < len(boxes):
            boxes[k + 1]["x"] = box["y"]
    # E(y; y*) ≡ ½‖y − y*‖² → e
    e = sum((s - t) * (s - t) for s, t in zip(boxes[-1]["y"], y_star, strict=True)) / 2
    # ∇y ≡ ∂e/∂y = y − y*  (at Last layer)
    boxes[-1]["∇y"] = [s - t for s, t in zip(boxes[-1]["y"], y_star, strict=True)]
    for k in reversed(range(len(boxes))):
        box = boxes[k]
        # ∇y ⊙ f′(z) → ∇z
        box["∇z"] = [s * box["f"][1](z) for s, z in zip(box["∇y"], box["z"], strict=True)]
        # ∇z → ∇b,  xᵀ∇z → ∇W,  ∇z@Wᵀ → ∇x
        box["∇b"] = box["∇z"]
        box["∇W"] = column_times_row(box["x"], box["∇z"])
        box["∇x"] = row_times_matrix(box["∇z"], transpose(box["W"]))
        # ∇x → ∇y  (to Previous layer)
        if k > 0:
            boxes[k - 1]["∇y"] = box["∇x"]
    return {
        "y": boxes[-1]["y"],
        "e": e,
        "grad_y": boxes[-1]["∇y"],
        "grad_weights": [box["∇W"] for box in boxes],
        "grad_biases": [box["∇b"] for box in boxes],
        "grad_x": boxes[0]["∇x"],
        "boxes": boxes,
    }


# Against the engine --------------------------------------------------------------------------------------------------

FORMS = (with_indices, with_nabla, with_vectors, with_arrows)
SIZES = ((3, 2), (1, 1, 1), (4, 5, 3), (2, 6, 4, 5, 3))


def network(sizes: Sequence[int], f: Sequence[str], seed: int, random_biases: Any) -> gb.Network:
    layers = [gb.Dense(units, name) for units, name in zip(sizes[1:], f, strict=True)]
    net = gb.Network(sizes[0], layers, dtype="float64", device="cpu", seed=seed)
    random_biases(net, seed)
    return net


def batch(sizes: Sequence[int], rows: int, seed: int) -> tuple[Any, Any]:
    stream = np.random.default_rng([seed, rows])
    return stream.normal(size=(rows, sizes[0])), stream.normal(size=(rows, sizes[-1]))


def transcribed(form: Any, net: gb.Network, x: Any, target: Any, f: list[str]) -> list[dict[str, Any]]:
    W, b = [layer.weight.tolist() for layer in net.layers], [layer.bias.tolist() for layer in net.layers]
    return [form(row, y_star, W, b, f) for row, y_star in zip(x.tolist(), target.tolist(), strict=True)]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_note(
    form: Any, sizes: tuple[int, ...], rows: int, seed: int, engine_agrees: Any, random_biases: Any
) -> None:
    f = ["sigmoid", "tanh", "sigmoid", "tanh"][: len(sizes) - 1]
    net = network(sizes, f, seed, random_biases)
    x, target = batch(sizes, rows, seed)
    loss = gb.HalfSquaredError(reduction="sum")
    engine_agrees(net, loss, x, target, transcribed(form, net, x, target, f))


def test_a_trace_shows_the_boxes_of_the_fourth_form(agree: Any, random_biases: Any) -> None:
    """The named buffers of a step are the note's z, y, ∇y, ∇z, ∇W and ∇b, layer by layer."""
    f, sizes = ["sigmoid", "tanh", "softsign"], (3, 5, 4, 2)
    net = network(sizes, f, 0, random_biases)
    x, target = batch(sizes, 6, 0)
    boxes_of = [sample["boxes"] for sample in transcribed(with_arrows, net, x, target, f)]
    seen: dict[str, Any] = {}
    for _, written in gb.Trainer(net, gb.HalfSquaredError(reduction="sum"), gb.SGD(0.1)).trace(x, target):
        seen |= written
    for k in range(len(f)):
        for name in ("z", "y", "∇y", "∇z"):
            agree(seen[f"{name}{k + 1}"], [boxes[k][name] for boxes in boxes_of], f"{name} of layer {k + 1}")
        for name in ("∇W", "∇b"):
            parts = np.array([boxes[k][name] for boxes in boxes_of])
            agree(seen[f"{name}{k + 1}"], parts.sum(axis=0), f"{name} of layer {k + 1}")


@pytest.mark.parametrize("output", F)
@pytest.mark.parametrize("hidden", F)
def test_every_f_of_one_number(hidden: str, output: str, engine_agrees: Any, random_biases: Any) -> None:
    f, sizes = [hidden, output], (3, 4, 2)
    net = network(sizes, f, 3, random_biases)
    x, target = batch(sizes, 5, 3)
    loss = gb.HalfSquaredError(reduction="sum")
    engine_agrees(net, loss, x, target, transcribed(with_indices, net, x, target, f))


def test_the_mean_over_a_batch_is_in_the_gradient_of_the_loss_and_nowhere_else(agree: Any, random_biases: Any) -> None:
    """E = 1/B Σ e: ∇y gets the factor 1/B, and every equation below it stays as it is."""
    f, sizes, rows = ["tanh", "identity"], (3, 4, 2), 8
    net = network(sizes, f, 0, random_biases)
    x, target = batch(sizes, rows, 0)
    samples = transcribed(with_indices, net, x, target, f)

    net.forward(x)
    net.backward(np.array([sample["grad_y"] for sample in samples]) / rows)
    by_hand = net.gradients.copy()
    step = gb.Trainer(net, gb.HalfSquaredError(), gb.SGD(0.1)).step(x, target)

    agree(float(step), sum(sample["e"] for sample in samples) / rows, "1/B Σ e")
    agree(net.gradients, by_hand, "gradients of the mean")
    for k, layer in enumerate(net.layers):
        total = [sum(sample["grad_biases"][k][j] for sample in samples) for j in range(len(layer.grad_bias))]
        agree(layer.grad_bias, [s / rows for s in total], f"∇b of layer {k}")


@pytest.mark.parametrize("sizes", SIZES[2:], ids=str)
def test_training_lowers_e(sizes: tuple[int, ...], random_biases: Any) -> None:
    f = ["tanh"] * (len(sizes) - 2) + ["identity"]
    net = network(sizes, f, 0, random_biases)
    x, _ = batch(sizes, 40, 0)
    target = np.sin(x @ np.ones((sizes[0], sizes[-1])))
    trainer = gb.Trainer(net, "half_squared_error", gb.SGD(0.1), batch_size=8)
    history = trainer.fit(x, target, epochs=40, progress=False)

    def e() -> float:
        samples = transcribed(with_indices, net, x, target, f)
        return sum(sample["e"] for sample in samples) / len(samples)

    assert e() < 0.5 * history[0]["loss"]
    assert trainer.evaluate(x, target)["loss"] == pytest.approx(e(), rel=1e-12)
