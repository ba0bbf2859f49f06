"""Note N4: y₀ = f(x + b₀), y_pre = g(y₀·w₁ + b₁), J = Σ(y_pre − y)², where f and g are functions of whole vectors.

∂f/∂h and ∂g/∂t are formed as full matrices, as the note does; the engine never forms them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import gpu_backprop as gb

Vector = list[float]
Matrix = list[Vector]


# f(h), and its Jacobian with ∂f_r/∂h_p in row r, column p ------------------------------------------------------------


def softmax(t: Vector) -> Vector:
    """g_p = e^t_p / Σ_i e^t_i"""
    S = sum(math.exp(t_i) for t_i in t)
    return [math.exp(t_p) / S for t_p in t]


def softmax_jacobian(t: Vector) -> Matrix:
    """e^t_i (S − e^t_i)/S² on the diagonal, −e^t_i e^t_k/S² beside it. (The note's corner (1, n) is garbled.)"""
    S = sum(math.exp(t_i) for t_i in t)
    n = range(len(t))
    return [
        [math.exp(t[i]) * (S - math.exp(t[i])) / S**2 if i == k else -math.exp(t[i]) * math.exp(t[k]) / S**2 for k in n]
        for i in n
    ]


def tanh(h: Vector) -> Vector:
    return [(math.exp(s) - math.exp(-s)) / (math.exp(s) + math.exp(-s)) for s in h]


def tanh_jacobian(h: Vector) -> Matrix:
    """diag(1 − f²)"""
    f = tanh(h)
    return [[1 - f[r] ** 2 if r == p else 0.0 for p in range(len(h))] for r in range(len(h))]


def sigmoid(h: Vector) -> Vector:
    return [1 / (1 + math.exp(-s)) for s in h]


def sigmoid_jacobian(h: Vector) -> Matrix:
    """diag(f(1 − f))"""
    f = sigmoid(h)
    return [[f[r] * (1 - f[r]) if r == p else 0.0 for p in range(len(h))] for r in range(len(h))]


def identity(h: Vector) -> Vector:
    return list(h)


def identity_jacobian(h: Vector) -> Matrix:
    return [[1.0 if r == p else 0.0 for p in range(len(h))] for r in range(len(h))]


VECTOR_FUNCTIONS = {
    "softmax": (softmax, softmax_jacobian),
    "tanh": (tanh, tanh_jacobian),
    "sigmoid": (sigmoid, sigmoid_jacobian),
    "identity": (identity, identity_jacobian),
}


# The two layers of the note ------------------------------------------------------------------------------------------


def equal(a: int, b: int) -> float:
    """Kronecker's δ: ∂t_k/∂b_1,p, ∂h_s/∂b_0,p and ∂w_z,k/∂w_p,q are ones and zeros."""
    return 1.0 if a == b else 0.0


def forward(x: Vector, b0: Vector, w1: Matrix, b1: Vector, f: str, g: str) -> tuple[Vector, Vector, Vector, Vector]:
    """(h, y₀, t, y_pre)"""
    # h_s = x_s + b_0,s;  y₀ = f(h)
    h = [x[s] + b0[s] for s in range(len(x))]
    y0 = VECTOR_FUNCTIONS[f][0](h)
    # t_k = y₀·w_1,k + b_1,k;  y_pre = g(t)
    t = [sum(y0[z] * w1[z][k] for z in range(len(y0))) + b1[k] for k in range(len(b1))]
    return h, y0, t, VECTOR_FUNCTIONS[g][0](t)


def with_sums(x: Vector, y: Vector, b0: Vector, w1: Matrix, b1: Vector, f: str, g: str) -> dict[str, Any]:
    """①, ② and ③ as the sums that the note begins with, every factor in its place."""
    h, y0, t, y_pre = forward(x, b0, w1, b1, f, g)
    df_dh, dg_dt = VECTOR_FUNCTIONS[f][1](h), VECTOR_FUNCTIONS[g][1](t)
    m, n = range(len(x)), range(len(y))

    # ① ∂J/∂b_1,p = Σ_i 2(y_pre,i − y_i) Σ_k ∂g_i/∂t_k · ∂t_k/∂b_1,p
    dJ_db1 = [0.0 for _ in n]
    for p in n:
        for i in n:
            for k in n:
                dJ_db1[p] += 2 * (y_pre[i] - y[i]) * dg_dt[i][k] * equal(k, p)

    # ② ∂J/∂w_1,p,q = Σ_i 2(y_pre,i − y_i) Σ_k ∂g_i/∂t_k Σ_z y_0,z · ∂w_1,z,k/∂w_1,p,q
    dJ_dw1 = [[0.0 for _ in n] for _ in m]
    for p in m:
        for q in n:
            for i in n:
                for k in n:
                    for z in m:
                        dJ_dw1[p][q] += 2 * (y_pre[i] - y[i]) * dg_dt[i][k] * y0[z] * equal(z, p) * equal(k, q)

    # ③ ∂J/∂b_0,p = Σ_i 2(y_pre,i − y_i) Σ_k ∂g_i/∂t_k Σ_r w_1,r,k · ∂y_0,r/∂b_0,p,  ∂y_0,r/∂b_0,p = ∂f_r/∂h_p
    dJ_db0 = [0.0 for _ in m]
    for p in m:
        for i in n:
            for k in n:
                for r in m:
                    dJ_db0[p] += 2 * (y_pre[i] - y[i]) * dg_dt[i][k] * w1[r][k] * df_dh[r][p]

    return {
        "y": y_pre,
        # J = Σ_i (y_pre,i − y_i)²
        "e": sum((y_pre[i] - y[i]) ** 2 for i in n),
        "grad_y": [2 * (y_pre[i] - y[i]) for i in n],
        "grad_weights": [None, dJ_dw1],
        "grad_biases": [dJ_db0, dJ_db1],
        "grad_x": dJ_db0,  # h = x + b₀: x and b₀ stand in the same place
    }


def row_times(row: Vector, matrix: Matrix) -> Vector:
    return [sum(row[i] * matrix[i][k] for i in range(len(row))) for k in range(len(matrix[0]))]


def transpose(matrix: Matrix) -> Matrix:
    return [[matrix[i][k] for i in range(len(matrix))] for k in range(len(matrix[0]))]


def with_matrices(x: Vector, y: Vector, b0: Vector, w1: Matrix, b1: Vector, f: str, g: str) -> dict[str, Any]:
    """①, ② and ③ as the products that the note ends with."""
    h, y0, t, y_pre = forward(x, b0, w1, b1, f, g)
    df_dh, dg_dt = VECTOR_FUNCTIONS[f][1](h), VECTOR_FUNCTIONS[g][1](t)
    residual = [2 * (y_pre[i] - y[i]) for i in range(len(y))]
    # ① ∂J/∂b₁ = 2(y_pre − y)·∂g/∂t
    dJ_db1 = row_times(residual, dg_dt)
    # ② ∂J/∂w₁ = 2 y₀ᵀ (y_pre − y)·∂g/∂t
    dJ_dw1 = [[y0[p] * dJ_db1[q] for q in range(len(y))] for p in range(len(y0))]
    # ③ ∂J/∂b₀ = 2(y_pre − y)·∂g/∂t·w₁ᵀ·∂f/∂h
    dJ_db0 = row_times(row_times(row_times(residual, dg_dt), transpose(w1)), df_dh)
    return {
        "y": y_pre,
        "e": sum((y_pre[i] - y[i]) ** 2 for i in range(len(y))),
        "grad_y": residual,
        "grad_weights": [None, dJ_dw1],
        "grad_biases": [dJ_db0, dJ_db1],
        "grad_x": dJ_db0,
    }


# J and ∂J/∂y_pre, the row on the left of every product. The note's J is the first; another J puts another row there.
COSTS = {
    "squared_error": (
        lambda y_pre, y: sum((y_pre[i] - y[i]) ** 2 for i in range(len(y))),
        lambda y_pre, y: [2 * (y_pre[i] - y[i]) for i in range(len(y))],
    ),
    "cross_entropy": (
        lambda y_pre, y: -sum(y[i] * math.log(y_pre[i]) for i in range(len(y))),
        lambda y_pre, y: [-y[i] / y_pre[i] for i in range(len(y))],
    ),
}


def deeper(
    x: Vector, y: Vector, b: list[Vector], w: list[Matrix], f: list[str], J: str = "squared_error"
) -> dict[str, Any]:
    """③ carried on through any number of layers: ∂J/∂y_pre·∂g/∂t·w₂ᵀ·∂f₁/∂h₁·w₁ᵀ·∂f₀/∂h₀."""
    h, below = [[x[s] + b[0][s] for s in range(len(x))]], []
    y_of = [VECTOR_FUNCTIONS[f[0]][0](h[0])]
    for k in range(1, len(f)):
        below.append(y_of[-1])
        h.append([s + t for s, t in zip(row_times(below[-1], w[k - 1]), b[k], strict=True)])
        y_of.append(VECTOR_FUNCTIONS[f[k]][0](h[-1]))
    dJ_dy = COSTS[J][1](y_of[-1], y)
    row, grad_weights, grad_biases = dJ_dy, [], []
    for k in reversed(range(len(f))):
        row = row_times(row, VECTOR_FUNCTIONS[f[k]][1](h[k]))
        grad_biases.insert(0, row)
        if k > 0:
            grad_weights.insert(0, [[s * t for t in row] for s in below[k - 1]])
            row = row_times(row, transpose(w[k - 1]))
    return {
        "y": y_of[-1],
        "e": COSTS[J][0](y_of[-1], y),
        "grad_y": dJ_dy,
        "grad_weights": [None, *grad_weights],
        "grad_biases": grad_biases,
        "grad_x": row,
    }


# Against the engine --------------------------------------------------------------------------------------------------


def network(inputs: int, units: list[int], f: list[str], seed: int, random_biases: Any) -> gb.Network:
    dense = [gb.Dense(n, name) for n, name in zip(units, f[1:], strict=True)]
    net = gb.Network(inputs, [gb.Bias(f[0]), *dense], dtype="float64", device="cpu", seed=seed)
    random_biases(net, seed)
    return net


def batch(net: gb.Network, rows: int, seed: int) -> tuple[Any, Any]:
    """Targets are distributions over the outputs, as a softmax could say them."""
    stream = np.random.default_rng([seed, rows])
    return stream.normal(size=(rows, net.inputs)), stream.dirichlet(np.ones(net.outputs), rows)


def transcribed(
    form: Any, net: gb.Network, x: Any, y: Any, f: list[str], J: str = "squared_error"
) -> list[dict[str, Any]]:
    b, w = [layer.bias.tolist() for layer in net.layers], [layer.weight.tolist() for layer in net.layers[1:]]
    pairs = zip(x.tolist(), y.tolist(), strict=True)
    if form is deeper:
        return [deeper(row, target, b, w, f, J) for row, target in pairs]
    return [form(row, target, b[0], w[0], b[1], *f) for row, target in pairs]


def test_the_two_ways_to_write_a_softmax_jacobian(agree: Any) -> None:
    """The quotients are diag(g) − g gᵀ."""
    t = [0.3, -1.2, 2.0, 0.0]
    g = softmax(t)
    n = range(len(t))
    agree(softmax_jacobian(t), [[equal(i, k) * g[i] - g[i] * g[k] for k in n] for i in n], "diag(g) − g gᵀ")


@pytest.mark.parametrize("form", [with_sums, with_matrices, deeper])
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize(("m", "n"), [(1, 2), (3, 3), (4, 2)])
@pytest.mark.parametrize("g", VECTOR_FUNCTIONS)
@pytest.mark.parametrize("f", VECTOR_FUNCTIONS)
def test_full_jacobians(
    f: str, g: str, m: int, n: int, rows: int, form: Any, engine_agrees: Any, random_biases: Any
) -> None:
    for seed in (0, 1):
        net = network(m, [n], [f, g], seed, random_biases)
        x, y = batch(net, rows, seed)
        engine_agrees(net, gb.SquaredError(reduction="sum"), x, y, transcribed(form, net, x, y, [f, g]))


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("f", [["tanh", "softmax", "softmax"], ["softmax", "tanh", "softmax", "sigmoid"]], ids="-".join)
def test_a_deeper_chain_of_jacobians(f: list[str], rows: int, engine_agrees: Any, random_biases: Any) -> None:
    for seed in (0, 1):
        net = network(3, [4, 3, 2][: len(f) - 1], f, seed, random_biases)
        x, y = batch(net, rows, seed)
        engine_agrees(net, gb.SquaredError(reduction="sum"), x, y, transcribed(deeper, net, x, y, f))


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("f", [["tanh", "softmax"], ["softmax", "sigmoid", "softmax"]], ids="-".join)
def test_cross_entropy_meets_the_same_jacobian(f: list[str], rows: int, engine_agrees: Any, random_biases: Any) -> None:
    """One operation in the engine, ∇t = y_pre − y; here −y/y_pre goes through diag(g) − g gᵀ."""
    for seed in (0, 1):
        net = network(3, [5, 4][3 - len(f) :], f, seed, random_biases)
        x, y = batch(net, rows, seed)
        samples = transcribed(deeper, net, x, y, f, "cross_entropy")
        engine_agrees(net, gb.CrossEntropy(reduction="sum"), x, y, samples)


@pytest.mark.parametrize("f", [["tanh", "softmax"], ["softmax", "tanh"], ["tanh", "tanh", "softmax"]], ids="-".join)
def test_training_lowers_J(f: list[str], random_biases: Any) -> None:
    net = network(4, [6, 3][3 - len(f) :], f, 0, random_biases)
    stream = np.random.default_rng(0)
    x = stream.normal(size=(60, 4))
    y = gb.one_hot(np.argmax(x[:, :3], axis=1), 3)
    before = sum(sample["e"] for sample in transcribed(deeper, net, x, y, f))
    gb.Trainer(net, "squared_error", gb.SGD(0.2), batch_size=12).fit(x, y, epochs=40, progress=False)
    after = sum(sample["e"] for sample in transcribed(deeper, net, x, y, f))
    assert after < 0.7 * before
