"""What the five tests share: the comparison of one-sample transcriptions with the batched engine, to 1e-12.

A transcription works on lists of floats with the math module alone and hands back one dictionary a sample:
    y             the network's output                          a list
    e             the loss of the sample                        a number
    grad_y        ∂e/∂y of the output                           a list
    grad_weights  ∂e/∂W of every layer, bottom first            nested lists, or None where a layer has no W
    grad_biases   ∂e/∂b of every layer, bottom first            lists, or None where a layer has no b
    grad_x        ∂e/∂x of the input                            a list
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import gpu_backprop as gb

Sample = dict[str, Any]


def assert_agree(got: Any, want: Any, what: str) -> None:
    """1e-12 of each number; where the terms of a sum nearly cancel, 1e-14 of the largest number beside it."""
    want = np.asarray(want, np.float64)
    assert np.shape(got) == want.shape, f"{what}: shape {np.shape(got)}, not {want.shape}"
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14 * np.max(np.abs(want)), err_msg=what)


def over_the_batch(parts: Sequence[Any]) -> Any:
    """Σ over the samples, number by number: ∇W = Σ xᵀ∇z, ∇b = Σ ∇z."""
    if isinstance(parts[0], list):
        return [over_the_batch([part[i] for part in parts]) for i in range(len(parts[0]))]
    return sum(parts)


def assert_gradients(net: gb.Network, samples: Sequence[Sample], column_vectors: bool) -> None:
    """Every ∇W and ∇b of the network is the sum of the samples' own."""
    for k, layer in enumerate(net.layers):
        for array, key in ((layer.grad_weight, "grad_weights"), (layer.grad_bias, "grad_biases")):
            if array is None:
                assert all(sample[key][k] is None for sample in samples)
                continue
            total = over_the_batch([sample[key][k] for sample in samples])
            # with column vectors the note's W is (outputs × inputs): its transpose is ours
            assert_agree(array.T if column_vectors else array, total, f"{key} of layer {k}")


def forget_gradients(net: gb.Network) -> None:
    """Whatever comes next has to write every one of them."""
    for layer in net.layers:
        for gradient in (layer.grad_weight, layer.grad_bias):
            if gradient is not None:
                gradient[...] = np.nan


@pytest.fixture
def agree() -> Callable[[Any, Any, str], None]:
    return assert_agree


@pytest.fixture
def random_biases() -> Callable[[gb.Network, int], None]:
    """Biases begin at zero, where a mistake would not show: give every layer other ones."""

    def fill(net: gb.Network, seed: int) -> None:
        stream = np.random.default_rng([seed, 99])
        for layer in net.layers:
            if layer.bias is not None:
                layer.bias[...] = stream.normal(0.0, 0.5, layer.bias.shape)

    return fill


@pytest.fixture
def engine_agrees() -> Callable[..., None]:
    def check(
        net: gb.Network, loss: Any, x: Any, target: Any, samples: Sequence[Sample], *, column_vectors: bool = False
    ) -> None:
        """The same batch three ways: forward and backward, driven by the note's ∂e/∂y; a step of the Trainer; a step
        in which nothing is fused and no buffer is shared."""
        assert_agree(net.forward(x), [sample["y"] for sample in samples], "y")
        grad_x = net.backward(np.array([sample["grad_y"] for sample in samples]))
        assert_agree(grad_x, [sample["grad_x"] for sample in samples], "∂e/∂x")
        assert_gradients(net, samples, column_vectors)

        before = net.parameters.copy()
        forget_gradients(net)
        step = gb.Trainer(net, loss, gb.SGD(0.5)).step(x, target)
        assert_agree(float(step), sum(sample["e"] for sample in samples), "Σ e")
        assert_gradients(net, samples, column_vectors)
        assert_agree(net.parameters, before - 0.5 * net.gradients, "W ← W − rate·∇W")

        net.parameters = before
        forget_gradients(net)
        *_, _ = gb.Trainer(net, loss, gb.SGD(0.5)).trace(x, target)
        assert_gradients(net, samples, column_vectors)
        net.parameters = before

    return check
