"""Note N1: column vectors, z⁽ˡ⁺¹⁾ = W⁽ˡ⁾a⁽ˡ⁾ + b⁽ˡ⁾, a = f(z), any cost J(W, b; x, y), and the recursion of δ = ∂J/∂z.

W⁽ˡ⁾ has s⁽ˡ⁺¹⁾ rows and s⁽ˡ⁾ columns, (outputs × inputs): the transpose of the engine's. Vectors are lists of lists
with one column, so that every product below is a product of matrices in the note's own order.
"""

# ruff: noqa: E741  (l counts layers, as in the note)
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpu_backprop as gb

Matrix = list[list[float]]
F: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {  # f, f′
    "identity": (lambda z: z, lambda z: 1.0),
    "tanh": (math.tanh, lambda z: 1 - math.tanh(z) ** 2),
    "sigmoid": (lambda z: 1 / (1 + math.exp(-z)), lambda z: math.exp(-z) / (1 + math.exp(-z)) ** 2),
    "softplus": (lambda z: math.log1p(math.exp(z)), lambda z: 1 / (1 + math.exp(-z))),
    "exp": (math.exp, math.exp),
}


def sign(r: float) -> float:
    return math.copysign(1.0, r)


# Costs of one output a against its y, and ∂J/∂a. J of a sample is their sum over the outputs.
J: dict[str, tuple[Callable[[float, float], float], Callable[[float, float], float]]] = {
    "half_squared_error": (lambda a, y: (a - y) ** 2 / 2, lambda a, y: a - y),
    "squared_error": (lambda a, y: (a - y) ** 2, lambda a, y: 2 * (a - y)),
    "absolute_error": (lambda a, y: abs(a - y), lambda a, y: sign(a - y)),
    "huber": (
        lambda a, y: (a - y) ** 2 / 2 if abs(a - y) <= 0.7 else 0.7 * (abs(a - y) - 0.35),
        lambda a, y: a - y if abs(a - y) <= 0.7 else 0.7 * sign(a - y),
    ),
    "quantile": (
        lambda a, y: 0.9 * (y - a) if y > a else 0.1 * (a - y),
        lambda a, y: -0.9 if y > a else 0.1,
    ),
    "binary_cross_entropy": (
        lambda a, y: -y * math.log(a) - (1 - y) * math.log(1 - a),
        lambda a, y: (a - y) / (a * (1 - a)),
    ),
    "poisson": (lambda a, y: a - y * math.log(a), lambda a, y: 1 - y / a),
}
LOSSES = {
    "half_squared_error": gb.HalfSquaredError(reduction="sum"),
    "squared_error": gb.SquaredError(reduction="sum"),
    "absolute_error": gb.AbsoluteError(reduction="sum"),
    "huber": gb.Huber(0.7, reduction="sum"),
    "quantile": gb.Quantile(0.9, reduction="sum"),
    "binary_cross_entropy": gb.BinaryCrossEntropy(reduction="sum"),
    "poisson": gb.Poisson(reduction="sum"),
}


def product(left: Matrix, right: Matrix) -> Matrix:
    rows, inner, columns = len(left), len(right), len(right[0])
    result = [[0.0] * columns for _ in range(rows)]
    for i in range(rows):
        for j in range(columns):
            for k in range(inner):
                result[i][j] += left[i][k] * right[k][j]
    return result


def transpose(matrix: Matrix) -> Matrix:
    return [[matrix[i][j] for i in range(len(matrix))] for j in range(len(matrix[0]))]


def column(numbers: list[float]) -> Matrix:
    return [[number] for number in numbers]


def plain(vector: Matrix) -> list[float]:
    return [row[0] for row in vector]


def with_matrices(x: Matrix, y: Matrix, W: list[Matrix], b: list[Matrix], f: list[str], cost: str) -> dict[str, Any]:
    """The "vector-matrix notation". Layers are counted from 0 here: a[0] = x, and W[l] leads from a[l] to a[l + 1]."""
    a: list[Matrix] = [x]
    z: list[Matrix] = [[]]
    for l in range(len(W)):
        # z⁽ˡ⁺¹⁾ = W⁽ˡ⁾ a⁽ˡ⁾ + b⁽ˡ⁾
        z.append([[t[0] + c[0]] for t, c in zip(product(W[l], a[l]), b[l], strict=True)])
        # a = f(z)
        a.append([[F[f[l]][0](t[0])] for t in z[l + 1]])
    L = len(W)
    dJ_da = column([J[cost][1](s[0], t[0]) for s, t in zip(a[L], y, strict=True)])
    # δ⁽ᴸ⁾ = ∂J/∂z⁽ᴸ⁾ = ∂J/∂a⁽ᴸ⁾ ∘ f′(z⁽ᴸ⁾)
    delta = {L: [[g[0] * F[f[L - 1]][1](t[0])] for g, t in zip(dJ_da, z[L], strict=True)]}
    for l in range(L - 1, 0, -1):
        # δ⁽ˡ⁾ = (W⁽ˡ⁾)ᵀ δ⁽ˡ⁺¹⁾ ∘ f′(z⁽ˡ⁾)
        back = product(transpose(W[l]), delta[l + 1])
        delta[l] = [[g[0] * F[f[l - 1]][1](t[0])] for g, t in zip(back, z[l], strict=True)]
    return {
        "y": plain(a[L]),
        "e": sum(J[cost][0](s[0], t[0]) for s, t in zip(a[L], y, strict=True)),
        "grad_y": plain(dJ_da),
        # ∂J/∂W⁽ˡ⁾ = δ⁽ˡ⁺¹⁾ (a⁽ˡ⁾)ᵀ
        "grad_weights": [product(delta[l + 1], transpose(a[l])) for l in range(L)],
        # ∂J/∂b⁽ˡ⁾ = δ⁽ˡ⁺¹⁾
        "grad_biases": [plain(delta[l + 1]) for l in range(L)],
        # the same recursion at the input, where a⁽⁰⁾ = x has no f: ∂J/∂x = (W⁽⁰⁾)ᵀ δ⁽¹⁾
        "grad_x": plain(product(transpose(W[0]), delta[1])),
    }


def with_indices(x: Matrix, y: Matrix, W: list[Matrix], b: list[Matrix], f: list[str], cost: str) -> dict[str, Any]:
    """The derivation itself, one partial derivative a line."""
    L, a, z = len(W), [plain(x)], [[]]
    for l in range(L):
        # z_i⁽ˡ⁺¹⁾ = W_i1 a_1 + W_i2 a_2 + … + b_i
        z.append([sum(W[l][i][j] * a[l][j] for j in range(len(a[l]))) + b[l][i][0] for i in range(len(W[l]))])
        a.append([F[f[l]][0](t) for t in z[l + 1]])

    dJ_da = [J[cost][1](a[L][i], y[i][0]) for i in range(len(y))]
    delta = {L: [dJ_da[i] * F[f[L - 1]][1](z[L][i]) for i in range(len(y))]}
    for l in range(L - 1, 0, -1):
        delta[l] = []
        for i in range(len(z[l])):
            # ∂z_j⁽ˡ⁺¹⁾/∂a_i⁽ˡ⁾ = w_ji,  ∂a_i/∂z_i = f′(z_i):  δ_i⁽ˡ⁾ = (Σ_j w_ji δ_j⁽ˡ⁺¹⁾) f′(z_i⁽ˡ⁾)
            total = 0.0
            for j in range(len(z[l + 1])):
                total += delta[l + 1][j] * W[l][j][i]
            delta[l].append(total * F[f[l - 1]][1](z[l][i]))

    grad_weights, grad_biases = [], []
    for l in range(L):
        rows, columns = range(len(z[l + 1])), range(len(a[l]))
        # ∂J/∂W_ij = ∂J/∂z_i · ∂z_i/∂W_ij = δ_i⁽ˡ⁺¹⁾ a_j⁽ˡ⁾
        grad_weights.append([[delta[l + 1][i] * a[l][j] for j in columns] for i in rows])
        # ∂J/∂b_i = ∂J/∂z_i · ∂z_i/∂b_i = δ_i⁽ˡ⁺¹⁾ · 1
        grad_biases.append([delta[l + 1][i] * 1 for i in rows])
    return {
        "y": a[L],
        "e": sum(J[cost][0](a[L][i], y[i][0]) for i in range(len(y))),
        "grad_y": dJ_da,
        "grad_weights": grad_weights,
        "grad_biases": grad_biases,
        "grad_x": [sum(delta[1][j] * W[0][j][i] for j in range(len(z[1]))) for i in range(len(x))],
    }


def network(sizes: tuple[int, ...], f: list[str], seed: int, random_biases: Any) -> gb.Network:
    layers = [gb.Dense(units, name) for units, name in zip(sizes[1:], f, strict=True)]
    net = gb.Network(sizes[0], layers, dtype="float64", device="cpu", seed=seed)
    random_biases(net, seed)
    return net


def transcribed(form: Any, net: gb.Network, x: Any, y: Any, f: list[str], cost: str) -> list[dict[str, Any]]:
    # The correspondence: the note's W is ours transposed, its columns x and y are rows of our batch.
    W = [transpose(layer.weight.tolist()) for layer in net.layers]
    b = [column(layer.bias.tolist()) for layer in net.layers]
    return [form(column(s), column(t), W, b, f, cost) for s, t in zip(x.tolist(), y.tolist(), strict=True)]


def targets(cost: str, shape: tuple[int, int], stream: np.random.Generator) -> Any:
    if cost == "binary_cross_entropy":
        return stream.integers(0, 2, shape).astype(np.float64)
    return stream.poisson(2.0, shape).astype(np.float64) if cost == "poisson" else stream.normal(size=shape)


PAIRS = (
    ("half_squared_error", "identity"),
    ("half_squared_error", "sigmoid"),
    ("squared_error", "tanh"),
    ("absolute_error", "identity"),
    ("huber", "tanh"),
    ("quantile", "softplus"),
    ("binary_cross_entropy", "sigmoid"),  # a fused pair in the engine: here ∂J/∂a and f′ one after the other
    ("poisson", "exp"),
    ("poisson", "softplus"),
)


@pytest.mark.parametrize("form", [with_matrices, with_indices])
@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("sizes", [(3, 2), (2, 4, 3), (4, 3, 5, 2, 3)], ids=str)
@pytest.mark.parametrize(("cost", "output"), PAIRS)
def test_the_delta_recursion(
    cost: str, output: str, sizes: tuple[int, ...], rows: int, form: Any, engine_agrees: Any, random_biases: Any
) -> None:
    f = [*["tanh", "sigmoid", "softplus"][: len(sizes) - 2], output]
    for seed in (0, 1):
        net = network(sizes, f, seed, random_biases)
        stream = np.random.default_rng([seed, rows])
        x, y = stream.normal(size=(rows, sizes[0])), targets(cost, (rows, sizes[-1]), stream)
        samples = transcribed(form, net, x, y, f, cost)
        engine_agrees(net, LOSSES[cost], x, y, samples, column_vectors=True)


@pytest.mark.parametrize(("cost", "output"), PAIRS)
def test_training_lowers_J(cost: str, output: str, random_biases: Any) -> None:
    sizes, f = (3, 8, 2), ["tanh", output]
    net = network(sizes, f, 0, random_biases)
    stream = np.random.default_rng(0)
    x = stream.normal(size=(64, 3))
    y = targets(cost, (64, 2), stream)
    y[:, 0] = x[:, 0] > 0  # something to learn that every cost accepts

    def mean_cost() -> float:
        samples = transcribed(with_matrices, net, x, y, f, cost)
        return sum(sample["e"] for sample in samples) / len(samples)

    before = mean_cost()
    gb.Trainer(net, cost, gb.SGD(0.1), batch_size=16).fit(x, y, epochs=30, progress=False)
    assert mean_cost() < 0.95 * before
