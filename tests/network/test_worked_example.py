"""Two minibatches of two samples through two layers, worked out by hand. The numbers were chosen to stay fractions."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

import gpu_backprop as gb


def exactly(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)


@pytest.fixture
def regression():
    """softsign, y = z/(1 + |z|), then identity: 2 inputs, 2 units, 1 output."""
    net = gb.Network(2, [gb.Dense(2, "softsign"), gb.Dense(1)], dtype="float64")
    first, second = net.layers
    first.weight[...], first.bias[...] = [[1, -1], [0, 1]], [0, 1]
    second.weight[...], second.bias[...] = [[2], [3]], [-1]
    return net


X = [[1, 2], [-1, 1]]
Y_STAR = [[1], [1 / 2]]
#                  sample 1                     sample 2
# z1 = x@W1 + b1   (1, 2)                       (−1, 3)
# y1 = softsign    (1/2, 2/3)                   (−1/2, 3/4)
# y  = y1@W2 + b2  1 + 2 − 1 = 2                −1 + 9/4 − 1 = 1/4
# e  = ½(y − y*)²  ½·1² = 1/2                   ½·(1/4)² = 1/32             E = (1/2 + 1/32)/2 = 17/64
# ∇y = (y − y*)/B  1/2                          −1/8                        B = 2, and nowhere else
# ∇W2 = y1ᵀ∇y      (1/2·1/2 + 1/2·1/8, 2/3·1/2 − 3/4·1/8) = (5/16, 23/96)
# ∇b2 = Σ∇y        1/2 − 1/8 = 3/8
# ∇y1 = ∇y@W2ᵀ     (1, 3/2)                     (−1/4, −3/8)
# f′ = (1 − |y1|)² (1/4, 1/9)                   (1/4, 1/16)
# ∇z1 = ∇y1 ⊙ f′   (1/4, 1/6)                   (−1/16, −3/128)
# ∇W1 = xᵀ∇z1      ((1/4 + 1/16, 1/6 + 3/128), (2/4 − 1/16, 2/6 − 3/128))
# ∇b1 = Σ∇z1       (3/16, 55/384)
# ∇x = ∇z1@W1ᵀ     (1/4 − 1/6, 1/6)             (−1/16 + 3/128, −3/128)
GRAD_W1, GRAD_B1 = [[5 / 16, 73 / 384], [7 / 16, 119 / 384]], [3 / 16, 55 / 384]
GRAD_W2, GRAD_B2 = [[5 / 16], [23 / 96]], [3 / 8]


def test_a_regression_by_hand(regression):
    exactly(regression.forward(X), [[2], [1 / 4]])
    exactly(regression.backward([[1 / 2], [-1 / 8]]), [[1 / 12, 1 / 6], [-5 / 128, -3 / 128]])
    first, second = regression.layers
    exactly(first.grad_weight, GRAD_W1)
    exactly(first.grad_bias, GRAD_B1)
    exactly(second.grad_weight, GRAD_W2)
    exactly(second.grad_bias, GRAD_B2)


def test_a_step_of_the_regression(regression):
    """W ← W − ½∇W"""
    loss = gb.Trainer(regression, "half_squared_error", gb.SGD(0.5)).step(X, Y_STAR)
    exactly(float(loss), 17 / 64)
    first, second = regression.layers
    exactly(first.weight, [[1 - 5 / 32, -1 - 73 / 768], [-7 / 32, 1 - 119 / 768]])
    exactly(first.bias, [-3 / 32, 1 - 55 / 768])
    exactly(second.weight, [[2 - 5 / 32], [3 - 23 / 192]])
    exactly(second.bias, [-1 - 3 / 16])


def test_the_trace_shows_the_numbers_above(regression):
    seen = {}
    for _, written in gb.Trainer(regression, "half_squared_error", gb.SGD(0.5)).trace(X, Y_STAR):
        seen |= written
    exactly(seen["z1"], [[1, 2], [-1, 3]])
    exactly(seen["y1"], [[1 / 2, 2 / 3], [-1 / 2, 3 / 4]])
    exactly(seen["y2"], [[2], [1 / 4]])
    exactly(seen["E"][0], 17 / 32)
    exactly(seen["∇y2"], [[1 / 2], [-1 / 8]])
    exactly(seen["∇y1"], [[1, 3 / 2], [-1 / 4, -3 / 8]])
    exactly(seen["∇z1"], [[1 / 4, 1 / 6], [-1 / 16, -3 / 128]])
    exactly(seen["∇W1"], GRAD_W1)
    exactly(seen["∇b1"], GRAD_B1)
    exactly(seen["∇W2"], GRAD_W2)
    exactly(seen["∇b2"], GRAD_B2)


@pytest.fixture
def classification():
    """exp, then softmax: with logarithms as weights all values are fractions."""
    net = gb.Network(1, [gb.Dense(2, "exp"), gb.Dense(2, "softmax")], dtype="float64")
    first, second = net.layers
    first.weight[...] = [[log(2), 0]]
    second.weight[...] = [[log(2), 0], [0, log(12)]]
    return net


#                   sample x = 1, class 0         sample x = 2, class 1
# y1 = exp(x@W1)    (2, 1)                        (4, 1)
# z2 = y1@W2        (log 4, log 12)               (log 16, log 12)
# y = softmax(z2)   (4, 12)/16 = (1/4, 3/4)       (16, 12)/28 = (4/7, 3/7)
# e = −log y_class  log 4                         log 7/3                   E = (log 4 + log 7/3)/2
# ∇z2 = (y − y*)/B  (−3/8, 3/8)                   (2/7, −2/7)
# ∇W2 = y1ᵀ∇z2      ((−6/8 + 8/7, 6/8 − 8/7), (−3/8 + 2/7, 3/8 − 2/7)) = ((11/28, −11/28), (−5/56, 5/56))
# ∇b2 = Σ∇z2        (−5/56, 5/56)
# ∇y1 = ∇z2@W2ᵀ     (−3/8·log 2, 3/8·log 12)      (2/7·log 2, −2/7·log 12)
# ∇z1 = ∇y1 ⊙ y1    (−3/4·log 2, 3/8·log 12)      (8/7·log 2, −2/7·log 12)
# ∇W1 = xᵀ∇z1       ((−3/4 + 16/7)·log 2, (3/8 − 4/7)·log 12)
# ∇b1 = Σ∇z1        ((−3/4 + 8/7)·log 2, (3/8 − 2/7)·log 12)
# ∇x = ∇z1@W1ᵀ      −3/4·log² 2                   8/7·log² 2
def assert_classification(first, second):
    exactly(first.grad_weight, [[43 / 28 * log(2), -11 / 56 * log(12)]])
    exactly(first.grad_bias, [11 / 28 * log(2), 5 / 56 * log(12)])
    exactly(second.grad_weight, [[11 / 28, -11 / 28], [-5 / 56, 5 / 56]])
    exactly(second.grad_bias, [-5 / 56, 5 / 56])


@pytest.mark.parametrize("labels", [[0, 1], [[1, 0], [0, 1]]], ids=["labels", "rows"])
def test_a_classification_by_hand(classification, labels):
    loss = gb.Trainer(classification, "cross_entropy", gb.SGD(0.1)).step([[1], [2]], labels)
    exactly(float(loss), (log(4) + log(7 / 3)) / 2)
    assert_classification(*classification.layers)


def test_the_classification_driven_from_outside(classification):
    """∂E/∂y = −y*/(B·y): (−1/2·4, 0) and (0, −1/2·7/3), through the Jacobian of softmax."""
    exactly(classification.forward([[1], [2]]), [[1 / 4, 3 / 4], [4 / 7, 3 / 7]])
    grad_x = classification.backward([[-2, 0], [0, -7 / 6]])
    exactly(grad_x, [[-3 / 4 * log(2) ** 2], [8 / 7 * log(2) ** 2]])
    assert_classification(*classification.layers)


def test_weights_of_samples(classification):
    """With w = (3, 1) the factor is w/Σw = 3/4 and 1/4 instead of ½ and ½ (rule 13)."""
    trainer = gb.Trainer(classification, "cross_entropy", gb.SGD(0.1))
    loss = trainer.step([[1], [2]], [0, 1], weights=[3, 1])
    exactly(float(loss), (3 * log(4) + log(7 / 3)) / 4)
    # ∇z2 = (−9/16, 9/16) and (1/7, −1/7)
    exactly(classification.layers[1].grad_bias, [-47 / 112, 47 / 112])
    exactly(classification.layers[1].grad_weight, [[-31 / 56, 31 / 56], [-47 / 112, 47 / 112]])
