"""Parameters to and from JAX: by Flax's names and as lists."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.interop.jax import load_params, to_list, to_params

X = np.random.default_rng(5).normal(size=(20, 4)).astype(np.float32)


def network(*layers, seed=3):
    net = gb.Network(4, layers or [gb.Dense(5, "relu"), gb.Dropout(0.5), gb.Dense(6, "tanh"), gb.Dense(3)], seed=seed)
    for layer in net.layers:
        if layer.bias is not None:
            layer.bias = np.linspace(-1, 1, layer.bias.size).reshape(layer.bias.shape)
    return net


def zeroed(net):
    twin = net.copy()
    twin.parameters = 0 * net.parameters
    return twin


def test_names_are_those_of_flax():
    net = network(gb.Scale(), gb.Dense(5, "relu", bias=False), gb.Bias("tanh"), gb.Periodic(2), gb.Dense(3))
    shapes = {
        "Scale_0": {"scale": (4,)}, "Dense_0": {"kernel": (4, 5)}, "Bias_0": {"bias": (5,)},
        "Periodic_0": {"weight": (2, 16, 4), "bias": (2, 19)}, "Dense_1": {"kernel": (11, 3), "bias": (3,)},
    }  # fmt: skip
    found = to_params(net)
    assert {layer: {name: one.shape for name, one in arrays.items()} for layer, arrays in found.items()} == shapes
    assert list(to_params(net, sequential=True)) == ["layers_0", "layers_1", "layers_3", "layers_5", "layers_6"]


@pytest.mark.parametrize(
    "form",
    [
        to_params,
        lambda net: to_params(net, sequential=True),
        lambda net: {"params": to_params(net)},
        lambda net: dict(sorted(to_params(net, sequential=True).items(), reverse=True)),
        to_list,
        lambda net: tuple(map(list, to_list(net))),
    ],
)
def test_all_forms_go_there_and_back(form):
    net = network()
    given, twin = form(net), zeroed(net)
    load_params(twin, given)
    assert twin.parameters.tobytes() == net.parameters.tobytes()


def test_what_goes_out_is_a_copy():
    net = network()
    before = net.parameters.tobytes()
    to_params(net)["Dense_0"]["kernel"][...] = 7
    to_list(net)[0][1][...] = 7
    assert net.parameters.tobytes() == before


WRONG = {
    "missing": (lambda p: p.pop("Dense_2"), r"^params must have Dense_0/.*; Dense_2/kernel, Dense_2/bias missing"),
    "too much": (lambda p: p.update(Norm={"scale": 1}), r"; Norm/scale too much\.$"),
    "no layer": (lambda p: p.update(Dense_0=np.ones(3)), r"; Dense_0/kernel, Dense_0/bias missing and Dense_0/ too"),
    "shape": (
        lambda p: p["Dense_1"].update(kernel=np.ones((6, 5))),
        r"^Dense_1/kernel is the weight of layer 3, .* \(5, 6\), got \(6, 5\)\. Its axes are the other",
    ),
    "NaN": (lambda p: p["Dense_0"]["bias"].fill(np.nan), r"^5 values are NaN or infinite in Dense_0/bias"),
    "text": (lambda p: p["Dense_0"].update(bias=["a"] * 5), r"^Dense_0/bias must hold real numbers"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "said"), WRONG.values(), ids=WRONG)
def test_wrong_params_change_nothing(spoil, said):
    net = network()
    params, before = to_params(network(seed=4)), net.parameters.tobytes()
    spoil(params)
    with pytest.raises(gb.InputError, match=said):
        load_params(net, params)
    assert net.parameters.tobytes() == before


def test_what_is_no_list_of_parameters():
    net = network()
    with pytest.raises(gb.InputError, match=r"; params\[2\]\[0\], params\[2\]\[1\] missing\.$"):
        load_params(net, to_list(net)[:2])
    with pytest.raises(gb.InputError, match=r"; params\[0\]\[2\] too much\.$"):
        load_params(net, [(*to_list(net)[0], 1), *to_list(net)[1:]])
    with pytest.raises(
        gb.InputError, match=r"^params must be a list with \(W, b\) for each layer, got a ndarray in it"
    ):
        load_params(net, [array for pair in to_list(net) for array in pair])
    with pytest.raises(gb.InputError, match=r"^params\['params'\] must be a mapping of layers, got list\.$"):
        load_params(net, {"params": to_list(net)})
    with pytest.raises(gb.InputError, match=r"^params must be a mapping, or a list of \(W, b\), got ndarray"):
        load_params(net, net.parameters)
    with pytest.raises(gb.InputError, match="members side by side"):
        to_params(gb.Network(4, [gb.Dense(2)], seed=[0, 1]))


# With the libraries themselves ----------------------------------------------------------------------------------------


@pytest.mark.frameworks
def test_flax_computes_the_same_and_its_parameters_come_back():
    jax, nn = pytest.importorskip("jax"), pytest.importorskip("flax.linen")

    class MLP(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(5)(x))
            x = nn.tanh(nn.Dense(6)(x))
            return nn.Dense(3)(x)

    net = network()
    row = nn.Sequential([nn.Dense(5), nn.relu, lambda x: x, nn.Dense(6), nn.tanh, nn.Dense(3)])
    for module, sequential in (MLP(), False), (row, True):
        params = {"params": to_params(net, sequential=sequential)}
        np.testing.assert_allclose(module.apply(params, X), net.predict(X), rtol=1e-5, atol=1e-5)
        drawn, twin = module.init(jax.random.key(0), X), zeroed(net)
        load_params(twin, drawn)
        np.testing.assert_allclose(module.apply(drawn, X), twin.predict(X), rtol=1e-5, atol=1e-5)
        assert jax.tree.structure(drawn) == jax.tree.structure(params)


@pytest.mark.frameworks
def test_a_list_is_what_plain_jax_takes():
    jax = pytest.importorskip("jax")
    net = network()

    def predict(params, x):
        f = jax.nn.relu, jax.numpy.tanh, lambda z: z
        for (w, b), activate in zip(params, f, strict=True):
            x = activate(x @ w + b)
        return x

    params = to_list(net)
    np.testing.assert_allclose(jax.jit(predict)(params, X), net.predict(X), rtol=1e-5, atol=1e-5)
    slopes = jax.grad(lambda params: predict(params, X).sum())(params)
    stepped = jax.tree.map(lambda p, g: p - 0.1 * g, params, slopes)
    load_params(net, stepped)
    np.testing.assert_allclose(predict(stepped, X), net.predict(X), rtol=1e-5, atol=1e-5)
