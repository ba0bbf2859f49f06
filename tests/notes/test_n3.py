"""Note N3: one linear layer as a module, column vectors, W is j × i. E is any scalar of the outputs.

The layer is handed ∂E/∂y from outside, finds ∂E/∂W and ∂E/∂b, hands ∂E/∂x on ("info of other layers is hidden in
∂E/∂y") and updates itself. Here no loss and no trainer of the engine takes part: net.forward and net.backward do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import gpu_backprop as gb

Vector = list[float]
Matrix = list[Vector]
Outer = Callable[[Matrix], tuple[float, Matrix]]


class LinearLayer:
    """The module of the note: y = Wx + b, one sample at a time; gradients add up until `update`."""

    def __init__(self, W: Matrix, b: Vector) -> None:
        self.W, self.b = W, b
        self.J, self.I = range(len(W)), range(len(W[0]))
        self.clear()

    def clear(self) -> None:
        self.dE_dW = [[0.0 for _ in self.I] for _ in self.J]
        self.dE_db = [0.0 for _ in self.J]

    def forward(self, x: Vector) -> Vector:
        # y_j = Σ_i w_ji x_i + b_j
        return [sum(self.W[j][i] * x[i] for i in self.I) + self.b[j] for j in self.J]

    def backward(self, x: Vector, dE_dy: Vector) -> Vector:
        for j in self.J:
            # ∂E/∂w_ji = ∂E/∂y_j · ∂y_j/∂w_ji = ∂E/∂y_j x_i,  as a matrix ∂E/∂y ⊗ x, "need j × i"
            for i in self.I:
                self.dE_dW[j][i] += dE_dy[j] * x[i]
            # ∂E/∂b_j = ∂E/∂y_j · ∂y_j/∂b_j = ∂E/∂y_j
            self.dE_db[j] += dE_dy[j]
        # ∂E/∂x_i = Σ_j ∂E/∂y_j · ∂y_j/∂x_i,  ∂y_j/∂x_i = w_ji:  ∂E/∂x = Wᵀ ∂E/∂y
        return [sum(dE_dy[j] * self.W[j][i] for j in self.J) for i in self.I]

    def update(self, learning_rate: float) -> None:
        # W ← W − L.R. · ∂E/∂W,  b the same way
        for j in self.J:
            for i in self.I:
                self.W[j][i] -= learning_rate * self.dE_dW[j][i]
            self.b[j] -= learning_rate * self.dE_db[j]
        self.clear()


# Scalars E of all the outputs of a batch, with ∂E/∂y: none of them is a loss of the engine ------------------------


def log_sum_exp(y: Matrix) -> tuple[float, Matrix]:
    """E = log Σ exp y over all samples and outputs: every sample takes part in every other one's gradient."""
    S = sum(math.exp(number) for row in y for number in row)
    return math.log(S), [[math.exp(number) / S for number in row] for row in y]


def sum_of_products(y: Matrix) -> tuple[float, Matrix]:
    """E = Σ over samples of Π_j (1 + y_j²): the outputs of a sample take part in each other's gradient."""
    E, dE_dy = 0.0, []
    for row in y:
        whole = math.prod(1 + number * number for number in row)
        E += whole
        dE_dy.append([2 * number * whole / (1 + number * number) for number in row])
    return E, dE_dy


def distance_from_a_circle(y: Matrix) -> tuple[float, Matrix]:
    """E = Σ (√(Σ_j y_j²) − 2)²: no target, only a shape."""
    E, dE_dy = 0.0, []
    for row in y:
        radius = math.sqrt(sum(number * number for number in row))
        E += (radius - 2) ** 2
        dE_dy.append([2 * (radius - 2) * number / radius for number in row])
    return E, dE_dy


OUTER = (log_sum_exp, sum_of_products, distance_from_a_circle)


def chain(net: gb.Network) -> list[LinearLayer]:
    """The correspondence: the note's W (outputs × inputs) is ours (inputs × outputs) transposed."""
    return [LinearLayer(layer.weight.T.tolist(), layer.bias.tolist()) for layer in net.layers]


def through(layers: list[LinearLayer], x: Matrix, E: Outer) -> tuple[Matrix, float, Matrix, Matrix]:
    """Forward, E, and back: (y, E, ∂E/∂y, ∂E/∂x). Every sample passes by itself."""
    passed = []
    for row in x:
        inputs = [row]
        for layer in layers:
            inputs.append(layer.forward(inputs[-1]))
        passed.append(inputs)
    y = [inputs[-1] for inputs in passed]
    scalar, dE_dy = E(y)
    dE_dx = []
    for inputs, gradient in zip(passed, dE_dy, strict=True):
        for k in reversed(range(len(layers))):
            # "pass this further": ∂E/∂x of a layer is ∂E/∂y of the layer before it
            gradient = layers[k].backward(inputs[k], gradient)
        dE_dx.append(gradient)
    return y, scalar, dE_dy, dE_dx


def network(sizes: tuple[int, ...], seed: int, random_biases: Any) -> gb.Network:
    net = gb.Network(sizes[0], [gb.Dense(units) for units in sizes[1:]], dtype="float64", device="cpu", seed=seed)
    random_biases(net, seed)
    return net


SIZES = ((3, 2), (1, 4), (3, 5, 2), (4, 2, 6, 3))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("E", OUTER)
def test_the_module(E: Outer, sizes: tuple[int, ...], rows: int, seed: int, agree: Any, random_biases: Any) -> None:
    net = network(sizes, seed, random_biases)
    layers = chain(net)
    x = np.random.default_rng([seed, rows]).normal(size=(rows, sizes[0]))
    y, _, dE_dy, dE_dx = through(layers, x.tolist(), E)

    agree(net.forward(x), y, "y")
    agree(net.backward(np.array(dE_dy)), dE_dx, "∂E/∂x")
    for k, layer in enumerate(net.layers):
        agree(layer.grad_weight.T, layers[k].dE_dW, f"∂E/∂W of layer {k}")
        agree(layer.grad_bias, layers[k].dE_db, f"∂E/∂b of layer {k}")


@pytest.mark.parametrize("rows", [1, 12])
@pytest.mark.parametrize("E", OUTER)
def test_it_updates_itself_and_lowers_E(E: Outer, rows: int, agree: Any, random_biases: Any) -> None:
    """Ten updates of the note beside ten of the engine, and E falls."""
    sizes, rate = (3, 4, 2), 0.05
    net = network(sizes, 0, random_biases)
    layers = chain(net)
    x = np.random.default_rng(rows).normal(size=(rows, 3)) / 2

    seen = []
    for _ in range(10):
        _, scalar, _, _ = through(layers, x.tolist(), E)
        for module in layers:
            module.update(rate / rows)

        value, grad_y = E(net.forward(x).tolist())
        net.backward(np.array(grad_y))
        for layer in net.layers:
            layer.weight -= rate / rows * layer.grad_weight
            layer.bias -= rate / rows * layer.grad_bias

        agree(value, scalar, "E")
        seen.append(value)

    for k, layer in enumerate(net.layers):
        agree(layer.weight.T, layers[k].W, f"W of layer {k}")
        agree(layer.bias, layers[k].b, f"b of layer {k}")
    assert all(later < earlier for earlier, later in pairwise(seen))


def test_a_module_alone_hands_its_gradient_to_a_second_one(agree: Any, random_biases: Any) -> None:
    """E → linear → linear as two networks of one layer: only ∂E/∂x passes between them."""
    lower, upper = network((3, 5), 1, random_biases), network((5, 2), 2, random_biases)
    x = np.random.default_rng(0).normal(size=(4, 3))
    layers = chain(lower) + chain(upper)
    y, _, dE_dy, dE_dx = through(layers, x.tolist(), sum_of_products)

    agree(upper.forward(lower.forward(x)), y, "y")
    agree(lower.backward(upper.backward(np.array(dE_dy))), dE_dx, "∂E/∂x")
    for net, module in ((lower, layers[0]), (upper, layers[1])):
        agree(net.layers[0].grad_weight.T, module.dE_dW, "∂E/∂W")
        agree(net.layers[0].grad_bias, module.dE_db, "∂E/∂b")
