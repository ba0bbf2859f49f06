"""What a network hands out stays its own: assigning to a view copies the values in."""

import copy

import numpy as np
import pytest

import gpu_backprop as gb


def network(**settings: object) -> gb.Network:
    return gb.Network(3, [gb.Dense(4, "tanh"), gb.Bias("tanh"), gb.Dense(2)], **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["weight", "bias", "grad_weight", "grad_bias"])
def test_assigning_copies_into_the_flat_buffer(name: str) -> None:
    net = network()
    layer = net.layers[0]
    view = getattr(layer, name)
    setattr(layer, name, np.full(view.shape, 7.0))
    assert getattr(layer, name) is view
    flat = net.gradients if name.startswith("grad") else net.parameters
    assert (view == 7).all()
    assert np.shares_memory(view, flat)


def test_a_weight_that_was_assigned_is_trained() -> None:
    net = network(seed=1)
    net.layers[0].weight = 0.5 * np.ones((3, 4))
    before = net.layers[0].weight.copy()
    gb.Trainer(net, "squared_error", gb.SGD(0.1)).step(np.ones((2, 3)), np.ones((2, 2)))
    assert (net.layers[0].weight != before).any()


def test_in_place_arithmetic_works() -> None:
    net = network()
    expected = net.layers[2].weight - 1
    net.layers[2].weight -= 1
    np.testing.assert_array_equal(net.layers[2].weight, expected)


def test_a_wrong_shape_is_refused_and_changes_nothing() -> None:
    net = network()
    before = net.parameters.copy()
    with pytest.raises(gb.InputError, match=r"weight must have the shape \(3, 4\), got \(4, 3\)"):
        net.layers[0].weight = np.ones((4, 3))
    np.testing.assert_array_equal(net.parameters, before)


def test_a_layer_without_a_network_has_nothing_to_assign_to() -> None:
    with pytest.raises(gb.StateError, match="not part of a network yet"):
        gb.Dense(2).weight = np.ones((3, 2))
    assert gb.Dense(2).weight is None


@pytest.mark.parametrize("seed", [5, [5, 6]])
def test_a_copy_goes_its_own_way(seed: object) -> None:
    net = network(seed=seed, dtype="float64")
    net.layers[1].bias += 1
    for twin in (net.copy(), copy.deepcopy(net)):
        np.testing.assert_array_equal(twin.parameters, net.parameters)
        twin.layers[1].bias += 1
        assert (twin.layers[1].bias != net.layers[1].bias).all()
    single = net.copy("float32")
    assert single.dtype == np.float32
    np.testing.assert_array_equal(single.layers[0].weight, net.layers[0].weight.astype(np.float32))
