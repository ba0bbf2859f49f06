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


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_it_is_auto_true_or_false(value):
    with pytest.raises(InputError, match=f"one_launch must be 'auto', True or False, got {value!r}"):
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
    assert block.fit(batch, memory) == (rows, 0) and rows <= MICRO_BATCH
    assert block.size(rows) <= memory


def test_a_network_that_does_not_fit(block):
    assert block.fit(20, block.size(1) - 1) == (0, 0)


@pytest.mark.parametrize(("batch", "less", "held"), [(20, 0, 2), (20, 4, 0), (100, 0, 2), (100, 1, 0)])
def test_moments_are_held_where_they_take_no_rows_their_room(batch, less, held):
    block = BlockLayout(LAYERS, PARAMETERS, 4, "softmax", moments=2)
    rows = min(batch, 50)
    memory = block.size(rows, 2) - less
    assert block.fit(batch, memory) == (rows, held)
    assert block.size(rows, 2) - block.size(rows) == 2 * 4 * PARAMETERS
    assert (block.places(rows, 2) - block.places(rows))[:, 4:7].tolist() == [[2 * PARAMETERS] * 3] * 3


def test_a_model_of_four_layers_keeps_its_moments_where_a_block_is_large():
    """64-64-64-10 with Adam at 32 rows: 227 KB of a block hold all, and 163 KB or 64 KB all but the moments."""
    net = gb.Network(64, [gb.Dense(64, "relu"), gb.Dense(64, "relu"), gb.Dense(10, "softmax")], device="cpu")
    found = layout(net, gb.Trainer(net).loss, 2)
    assert 165_000 < found.size(32, 2) < 175_000
    kilobytes = {227: (32, 2), 163: (32, 0), 99: (32, 0)}
    assert {of: found.fit(32, of * 1024 - 1024) for of in kilobytes} == kilobytes
    assert found.fit(32, 63 * 1024) == (0, 0)


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
