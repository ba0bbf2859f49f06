"""Note N2, "Back propagation, in a nutshell": y = f(x@W) without a bias, e = |y − y*|², and two loops over L layers."""

# ruff: noqa: E741  (l counts layers, as in the note)
from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import gpu_backprop as gb

Vector = list[float]
Matrix = list[Vector]

F = {  # f and f′, of one number
    "tanh": (math.tanh, lambda z: 1 - math.tanh(z) ** 2),
    "sigmoid": (
        lambda z: math.exp(z) / (math.exp(z) + 1),
        lambda z: math.exp(z) / (math.exp(z) + 1) ** 2,
    ),
    "softplus": (lambda z: math.log1p(math.exp(z)), lambda z: math.exp(z) / (math.exp(z) + 1)),
    "relu": (lambda z: z if z > 0 else 0.0, lambda z: 1.0 if z > 0 else 0.0),
}


def at(row: Vector, matrix: Matrix) -> Vector:
    """row@matrix"""
    return [sum(row[i] * matrix[i][j] for i in range(len(row))) for j in range(len(matrix[0]))]


def nutshell(input_vector: Vector, y_star: Vector, W: dict[int, Matrix], f_name: str) -> dict[str, Any]:
    """The note's program, line by line; layers are counted 1…L."""
    f, f_prime = F[f_name]
    L = len(W)

    # y(0) ← inputVector
    y_of = {0: input_vector}
    x_of = {}
    # for l = 1:L
    for l in range(1, L + 1):
        # x, W = y(l−1), W(l)
        x_of[l] = x = y_of[l - 1]
        # y = f(x@W)
        y = [f(z) for z in at(x, W[l])]
        # y(l) = y
        y_of[l] = y
    # y(L) → outputVector
    # y = y(L)
    y = y_of[L]
    # e = |y − y*|²
    e = sum((y[j] - y_star[j]) ** 2 for j in range(len(y)))
    # ∂e/∂y = [∂e/∂y₁, …, ∂e/∂y_J] = 2(y − y*)
    de_dy = [2 * (y[j] - y_star[j]) for j in range(len(y))]
    at_the_output = de_dy

    de_dW = {}
    # for l = L:1
    for l in range(L, 0, -1):
        # x, W = x(l), W(l)
        x = x_of[l]
        # g = ∂e/∂y ⊙ f′(x@W)
        z = at(x, W[l])
        g = [de_dy[j] * f_prime(z[j]) for j in range(len(z))]
        # ∂e/∂W = xᵀ@g
        de_dW[l] = [[x[i] * g[j] for j in range(len(g))] for i in range(len(x))]
        # ∂e/∂x = g@Wᵀ   (the note's box has ∂e/∂z here: x is meant)
        de_dx = [sum(g[j] * W[l][i][j] for j in range(len(g))) for i in range(len(x))]
        # ∂e/∂y(l−1) = ∂e/∂x(l),  that is ∂e/∂y ← ∂e/∂x
        de_dy = de_dx

    return {
        "y": y,
        "e": e,
        "grad_y": at_the_output,
        "grad_weights": [de_dW[l] for l in range(1, L + 1)],
        "grad_biases": [None] * L,
        "grad_x": de_dx,
    }


SIZES = ((2, 3), (3, 1, 2), (4, 5, 3), (3, 7, 6, 5, 4, 2))


def network(sizes: tuple[int, ...], f: str, seed: int) -> gb.Network:
    layers = [gb.Dense(units, f, bias=False) for units in sizes[1:]]
    return gb.Network(sizes[0], layers, dtype="float64", device="cpu", seed=seed)


def transcribed(net: gb.Network, x: Any, target: Any, f: str) -> list[dict[str, Any]]:
    W = {l: layer.weight.tolist() for l, layer in enumerate(net.layers, start=1)}
    return [nutshell(row, y_star, W, f) for row, y_star in zip(x.tolist(), target.tolist(), strict=True)]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("rows", [1, 2, 9])
@pytest.mark.parametrize("f", F)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_nutshell(sizes: tuple[int, ...], f: str, rows: int, seed: int, engine_agrees: Any) -> None:
    net = network(sizes, f, seed)
    stream = np.random.default_rng([seed, rows])
    x, target = stream.normal(size=(rows, sizes[0])), stream.normal(size=(rows, sizes[-1]))
    assert [layer.bias for layer in net.layers] == [None] * (len(sizes) - 1)
    engine_agrees(net, gb.SquaredError(reduction="sum"), x, target, transcribed(net, x, target, f))


def test_its_e_is_twice_that_of_n0() -> None:
    net = network((3, 4, 2), "tanh", 0)
    stream = np.random.default_rng(0)
    x, target = stream.normal(size=(5, 3)), stream.normal(size=(5, 2))
    whole = gb.Trainer(net, "squared_error").evaluate(x, target)["loss"]
    half = gb.Trainer(net, "half_squared_error").evaluate(x, target)["loss"]
    assert whole == pytest.approx(2 * half, rel=1e-15)


@pytest.mark.parametrize("sizes", SIZES[2:], ids=str)
def test_training_lowers_e(sizes: tuple[int, ...]) -> None:
    net, f = network(sizes, "tanh", 0), "tanh"
    stream = np.random.default_rng(0)
    x = stream.normal(size=(60, sizes[0]))
    target = np.tanh(x @ stream.normal(size=(sizes[0], sizes[-1])))
    before = sum(sample["e"] for sample in transcribed(net, x, target, f))
    gb.Trainer(net, "squared_error", gb.SGD(0.05), batch_size=10).fit(x, target, epochs=60, progress=False)
    after = sum(sample["e"] for sample in transcribed(net, x, target, f))
    assert after < 0.5 * before
