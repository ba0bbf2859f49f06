"""Activations of expressions: what they are, what is refused, and that they travel as text."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from own_formulas import ACTIVATION_ROWS, PLAIN, TEXTS, slope

import gpu_backprop as gb
from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.open_device import open_device
from gpu_backprop.network.own_activations import activation_of_texts, spell_activation
from gpu_backprop.training import model_file

PLACES = [s * z + 0.0003 for z in (0.0, 0.25, 0.9, 1.75, 3.0, 9.0, 36.0) for s in (1, -1)]


def run(dtype, name, *arguments):
    device = open_device("cpu", dtype)
    with device.computing():
        for call in list(getattr(numpy_ops, name)(device, *arguments)):
            call()


def network(f, **options):
    return gb.Network(3, [gb.Dense(4, f), gb.Dense(2, f), gb.Bias(f), gb.Dense(1)], seed=0, **options)


DATA = np.random.default_rng(0).normal(size=(7, 3)), np.random.default_rng(1).normal(size=(7, 1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", TEXTS)
def test_values_and_slopes(name, dtype):
    f, z = ACTIVATION_ROWS[name], np.array([PLACES], dtype)
    y, grad = np.full_like(z, np.nan), np.full_like(z, np.nan)
    run(dtype, "bias_activate", z, None, f, y)
    run(dtype, "activation_gradient", np.full_like(z, 2), {"y": y, "z": z}[f.reads], f, grad, None)
    eps = float(np.finfo(dtype).eps)
    values = [float(v) for v in z[0]]
    np.testing.assert_allclose(y, [[PLAIN[name](v) for v in values]], rtol=32 * eps, atol=32 * eps)
    slopes = [[2 * slope(PLAIN[name], v) for v in values]]
    np.testing.assert_allclose(grad, slopes, rtol=max(1e-6, 64 * eps), atol=max(1e-6, 64 * eps))


@pytest.mark.parametrize("name", TEXTS)
def test_a_network_of_it(name):
    """Gradients against central differences, and a registered name in place of the object."""
    gb.register_activation(name, *TEXTS[name])
    net = network(name)
    assert net.layers[0].activation == ACTIVATION_ROWS[name]
    gb.check_gradients(net, None, *DATA, tolerance=1e-4)  # of squared_relu the loss hardly changes
    trainer = gb.Trainer(net, optimizer="adam", batch_size=4)
    trainer.fit(*DATA, epochs=2, progress=False)
    assert np.isfinite(net.predict(DATA[0])).all()


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("big", [1e2, 1e4, 1e30])
def test_far_from_0_nothing_is_nan(name, big):
    f, z = ACTIVATION_ROWS[name], np.array([[-big, big]], np.float32)
    y, grad = np.empty_like(z), np.empty_like(z)
    run("float32", "bias_activate", z, None, f, y)
    run("float32", "activation_gradient", np.ones_like(z), {"y": y, "z": z}[f.reads], f, grad, None)
    assert not np.isnan([y, grad]).any() or (name, big) == ("gauss", 1e30)


def test_the_same_again_is_fine_and_another_text_is_not():
    made = gb.register_activation("wave", "sin(z)", "cos(z)")
    assert gb.register_activation("wave", "sin( z )", "cos(z)") is made is gb.ACTIVATIONS["wave"]
    with pytest.raises(gb.InputError, match=r"'wave' is registered already, as 'sin\(z\)' .* another name"):
        gb.register_activation("wave", "sin(2*z)")


@pytest.mark.parametrize("name", ["relu", "softmax", "identity", "logistic"])
def test_what_is_built_in_stays(name):
    with pytest.raises(gb.InputError, match=f"the activation '{name}' is built in; give yours another name"):
        gb.register_activation(name, "z")


@pytest.mark.parametrize(
    "name", ["", "1a", "a b", "a-b", "_a", "__init__", "é", "a" * 61, "a\n", "a.b", None, 3, ["a"], 'a"; //']
)
def test_names(name):
    with pytest.raises(gb.InputError, match=r"must be ASCII letters, digits and _|must be text"):
        gb.register_activation(name, "z**2")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            ("z**2", "3*z"),
            r"is wrong: at z = \S+ it gives \S+, and central differences in float64 give \S+\. 381 of",
        ),
        (("sin(z)", "cos(z) + 0.0001"), "is wrong: at z = "),
        (("where(z > 0, z, 0.1*z)", "where(z > 0, 1, 0.11)"), r"at z = -\S+ it gives 0.11, and .* give 0.1\d*"),
        (("tanh(z)", "1 - y"), "is wrong"),
        (("tanh(z)", "1 - y*tanh(z)"), "must be written in z or in y, got one in both"),
        (("3",), "must read z, got '3'"),
        (("sign(z)",), "is 0 everywhere"),
        (("log(z)",), "is -inf at z = 0, and must be a number there"),
        (("exp(z)*z/(exp(z) + 2)",), "is nan at z = 1086"),
        (("1/z",), "activation 'bad' is inf at z = 0"),
        (("sqrt(abs(z))",), "the derivative of activation 'bad' is nan at z = 0"),
        (("softsign(z)",), "unknown name 'softsign'"),
        (("z", "z."), "the derivative of activation 'bad': '.' has no meaning here"),
        (("z", 1), "derivative of an activation must be text, got int 1"),
        ((["z"],), "expression of an activation must be text, got list"),
        (("*".join(f"(z + {k}.5)" for k in range(30)),), "cannot be worked out|is wrong|more than"),
    ],
)
def test_what_is_wrong_with_one_is_said(texts, message):
    with pytest.raises(gb.InputError, match=message):
        gb.register_activation("bad", *texts)
    assert "bad" not in gb.ACTIVATIONS


def test_copies_and_pickles_are_the_same():
    for f in ACTIVATION_ROWS.values():
        again = pickle.loads(pickle.dumps(f))
        assert again == f == copy.deepcopy(f) and again.numpy_value == f.numpy_value
    net = network(ACTIVATION_ROWS["own_mish"])
    assert np.array_equal(pickle.loads(pickle.dumps(net)).predict(DATA[0]), net.predict(DATA[0]))


def test_a_saved_network_brings_its_texts_to_where_nobody_knows_the_name(tmp_path):
    f = gb.register_activation("snake", *TEXTS["snake"])
    net, path = network("snake"), tmp_path / "net.safetensors"
    gb.save(path, net)
    code = (
        "import sys, json, gpu_backprop as gb\n"
        "net = gb.load(sys.argv[1])\n"
        "assert 'snake' not in gb.ACTIVATIONS\n"
        "gb.save(sys.argv[1] + '2', net)\n"
        "print(json.dumps([net.predict(json.loads(sys.argv[2])).tolist(), net.layers[0].activation.derivative]))"
    )
    said = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, path, json.dumps(DATA[0].tolist())],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert json.loads(said) == [net.predict(DATA[0]).tolist(), f.derivative]
    assert path.read_bytes() == (tmp_path / "net.safetensors2").read_bytes()
    assert gb.load(path).layers[0].activation == f


def test_a_file_is_loaded_where_its_name_means_something_else(tmp_path):
    path = tmp_path / "net.safetensors"
    net = network(activation_of_texts("wave", "sin(z)"))
    gb.save(path, net)
    gb.register_activation("wave", "z + cos(z)")
    assert np.array_equal(gb.load(path).predict(DATA[0]), net.predict(DATA[0]))


SPELLED = {"name": "wave", "expression": "sin(z)", "derivative": "cos(z)"}


@pytest.mark.parametrize(
    "spec",
    [
        SPELLED | {"name": "relu"},
        SPELLED | {"name": "a; //"},
        SPELLED | {"expression": "__import__('os').system('true')"},
        SPELLED | {"expression": "z; } void f() {"},
        SPELLED | {"expression": "9**9**9**9"},
        SPELLED | {"expression": "(" * 5000},
        SPELLED | {"expression": "z" * 1_000_000},
        SPELLED | {"derivative": "sin(z)"},
        SPELLED | {"derivative": "A(1); system(0)"},
        SPELLED | {"derivative": None},
        SPELLED | {"cuda_value": "z"},
        {"name": "wave"},
        {},
        {"expression": {}},
        3,
        None,
        ["sin(z)"],
    ],
)
def test_a_file_that_somebody_made_up_is_refused_in_words(tmp_path, monkeypatch, spec):
    """With the right digest. Nothing of it runs or is compiled, and nothing else is raised."""
    net, path = network("tanh"), tmp_path / "bad.safetensors"
    told = net.architecture()
    layers = [{**layer, "activation": spec} if "activation" in layer else layer for layer in told["layers"]]
    tensors = {
        f"layers.{k}.{n}": getattr(layer, n) for k, layer in enumerate(net.layers) for n in layer.parameter_shapes()
    }
    model_file.write(path, json.dumps(told | {"layers": layers}), tensors | {"random": net.random}, {})
    with pytest.raises(gb.ModelFileError, match=r"cannot load .*bad\.safetensors: ") as caught:
        gb.load(path)
    assert len(str(caught.value)) < 1000


def test_a_file_cannot_have_more_of_them_than_are_read_in_a_moment(tmp_path):
    fs = [activation_of_texts("wave", f"sin({k}*z)/{k}") for k in range(1, 2 + model_file.OWN_ACTIVATIONS)]
    gb.save(tmp_path / "a", gb.Network(1, [gb.Dense(1, f) for f in fs]))
    with pytest.raises(gb.ModelFileError, match="it has 101 activations of expressions, and may have 100"):
        gb.load(tmp_path / "a")


def test_a_function_of_ones_own_is_told_how_to_become_data(tmp_path):
    f = gb.Activation("mine", "z", lambda z, y, work: (), lambda *_: ())
    with pytest.raises(gb.ModelFileError, match="make it with gpu_backprop.register_activation, of an expression"):
        gb.save(tmp_path / "a", gb.Network(1, [gb.Dense(1, f)]))
    assert spell_activation(f) == "mine" and spell_activation(ACTIVATION_ROWS["own_mish"])["name"] == "own_mish"


def test_members_of_a_population():
    gb.register_activation("snake", *TEXTS["snake"])
    several = gb.Trainer(gb.Network(3, [gb.Dense(4, "snake"), gb.Dense(1)], seed=[0, 1]), batch_size=4)
    several.fit(*DATA, epochs=2, progress=False)
    alone = gb.Trainer(gb.Network(3, [gb.Dense(4, "snake"), gb.Dense(1)], seed=1), batch_size=4)
    alone.fit(*DATA, epochs=2, progress=False)
    np.testing.assert_allclose(
        several.network.predict(DATA[0])[1], alone.network.predict(DATA[0]), rtol=1e-4, atol=1e-5
    )
