"""Where everything lies in the memory of a block, and refusals. Training itself: tests/gpu/test_one_launch.py."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.block_layout import MICRO_BATCH, BlockLayout, DenseShape
from gpu_backprop.backend.errors import InputError
from gpu_backprop.training.one_launch import layout

LAYERS = [
    DenseShape(5, 8, 0, 64, gb.ACTIVATIONS["gelu"]),
    DenseShape(8, 4, 128, None, gb.ACTIVATIONS["tanh"]),
    DenseShape(4, 3, 192, 256, gb.ACTIVATIONS["softmax"]),
]
PARAMETERS = 320


@pytest.fixture
def block():
    return BlockLayout(LAYERS, PARAMETERS, 4, "softmax")


def test_it_is_for_cuda():
    with pytest.raises(
        InputError, match=r"it is for CUDA devices.*on the CPU \(.*\)\. Change that, or use one_launch=False"
    ):
        gb.Trainer(gb.Network(2, [gb.Dense(1)], device="cpu"), one_launch=True)


@pytest.mark.parametrize("value", ["auto", 1, None])
def test_it_is_true_or_false(value):
    with pytest.raises(InputError, match=f"one_launch must be True or False, got {value!r}"):
        gb.Trainer(gb.Network(2, [gb.Dense(1)], device="cpu"), one_launch=value)


def test_each_layer_reads_what_the_one_below_has_written(block):
    rows = 6
    (*first, _), (*second, _), (*third, _) = block.places(rows).tolist()
    x = 2 * PARAMETERS
    y1 = x + rows * 5
    z1 = y1 + rows * 9
    y2 = z1 + rows * 9
    y3 = y2 + rows * 5
    assert first == [5, 8, 0, 64, x, y1, z1]
    assert second == [8, 4, 128, -1, y1, y2, y2]
    assert third == [4, 3, 192, 256, y2, y3, y3]
    assert block.size(rows) == 4 * (y3 + rows * 3)


def test_the_functions_and_their_numbers(block):
    assert [f.name for f in block.functions.activations] == ["gelu", "tanh", "identity"]
    assert block.places(1)[:, 7].tolist() == [0, 1, 2]
    alike = BlockLayout([LAYERS[1], LAYERS[1], LAYERS[0]], PARAMETERS, 4, "")
    assert [f.name for f in alike.functions.activations] == ["tanh", "gelu"]
    assert alike.places(1)[:, 7].tolist() == [0, 0, 1]


def test_what_a_block_has_to_have_at_least(block):
    assert block.needs == {"parameters": 1280, "gradients": 1280, "a row of activations": 4 * (5 + 9 + 9 + 5 + 3)}
    assert sum(block.needs.values()) == block.size(1)


@pytest.mark.parametrize(
    ("batch", "room", "rows"),
    [(1, 1000, 1), (20, 1000, 20), (20, 19, 10), (20, 9, 7), (100, 1000, 50), (64, 64, 64), (65, 1000, 33), (7, 1, 1)],
)
def test_the_rows_that_are_worked_on_at_once(block, batch, room, rows):
    """As many as fit, shared out evenly."""
    memory = block.size(room) + 3
    assert block.micro_batch(batch, memory) == rows <= MICRO_BATCH
    assert block.size(rows) <= memory


def test_a_network_that_does_not_fit(block):
    assert block.micro_batch(20, block.size(1) - 1) == 0


def test_the_layout_of_a_network():
    layers = [gb.Dense(8, "tanh"), gb.Dense(4, "relu", bias=False), gb.Dense(3, "softmax")]
    trainer = gb.Trainer(gb.Network(5, layers, dtype="float64", device="cpu", seed=[1, 2]))
    found, net = layout(trainer.network, trainer.loss), trainer.network
    flat = np.arange(net.parameters.shape[-1])
    net.parameters = np.broadcast_to(flat, net.parameters.shape)
    for shape, layer in zip(found.layers, net.layers, strict=True):
        assert shape.weight == layer.weight[0, 0, 0]
        assert shape.bias == (None if layer.bias is None else layer.bias[0, 0])
        assert (shape.inputs, shape.units) == layer.weight.shape[1:]
    assert (found.parameters, found.itemsize, found.fused) == (flat.size, 8, "softmax")
    assert layout(net, gb.LOSSES["poisson"]).fused == ""
