"""Networks to and from PyTorch: the same outputs, the same bits of the weights, and words for all that cannot be."""

from __future__ import annotations

import json

import numpy as np
import pytest
from own_formulas import EXPORTED_TEXTS

import gpu_backprop as gb
from gpu_backprop.backend.expression_tree import COMPARISONS, FUNCTIONS, OPERATORS
from gpu_backprop.interop import pytorch
from gpu_backprop.network.own_activations import activation_of_texts

pytestmark = pytest.mark.frameworks

X = np.random.default_rng(5).normal(size=(40, 4))
CLOSE = {"float32": 1e-5, "float64": 1e-12}


@pytest.fixture(scope="module")
def torch():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)  # on a machine that has other work to do, threads would wait for each other
    return torch


def network(*layers, dtype="float64", inputs=4, **how):
    """A network whose parameters are all other than at the beginning."""
    net = gb.Network(inputs, layers, dtype=dtype, device="cpu", seed=3, **how)
    generator = np.random.default_rng(7)
    net.parameters = net.parameters + np.where(net.parameters == 0, 0, 0.01)
    for layer in net.layers:
        if layer.bias is not None:
            layer.bias = generator.normal(size=layer.bias.shape) * 0.3
    return net


def outputs(torch, module, x=X):
    module = module.eval()
    with torch.no_grad():
        return module(torch.tensor(x, dtype=next(module.parameters()).dtype)).numpy()


def close(a, b, dtype="float64"):
    np.testing.assert_allclose(a, b, rtol=CLOSE[dtype], atol=CLOSE[dtype])


def every_layer(activation, dtype):
    return network(
        gb.Scale(), gb.Periodic(2, 5, 2), gb.Dense(6, activation, bias=False), gb.Bias(activation), gb.Dropout(0.3),
        gb.Dense(5), gb.Bias(), gb.Dense(3, activation), dtype=dtype,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("activation", gb.ACTIVATIONS)
def test_every_layer_and_activation_goes_there_and_back(torch, activation, dtype):
    from gpu_backprop.interop.exchange.torch_counterparts import COUNTERPARTS

    net = every_layer("tanh" if activation == "exp" else activation, dtype)  # e^e^z is too large for float32
    if activation == "exp":
        net = network(gb.Dense(3, "tanh"), gb.Dense(4, "exp"), gb.Bias("exp"), dtype=dtype)
    if activation not in {"identity", *COUNTERPARTS}:
        with pytest.raises(gb.InputError, match=r"^the activation of layer 3, .* has no counterpart in PyTorch"):
            pytorch.to_module(net)
        return
    module = pytorch.to_module(net)
    assert {p.dtype for p in module.parameters()} == {getattr(torch, dtype)}
    close(outputs(torch, module), net.predict(X), dtype)
    back = pytorch.from_module(module)
    assert repr(back.layers) == repr(net.layers)
    assert back.dtype == net.dtype
    assert back.parameters.tobytes() == net.parameters.tobytes()


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("name", EXPORTED_TEXTS)
def test_expressions_go_there_and_back(torch, name, dtype, tmp_path):
    """Registered or not: the values, the gradients, also at 0 where pieces meet, and what torch.save keeps."""
    from gpu_backprop.interop import torch_modules

    own = activation_of_texts(name, *EXPORTED_TEXTS[name])
    net = network(gb.Dense(6, own), gb.Bias("tanh"), gb.Dense(3, own), dtype=dtype)
    module = pytorch.to_module(net)
    close(outputs(torch, module), net.predict(X), dtype)
    back = pytorch.from_module(module)
    assert [layer.activation for layer in back.layers] == [layer.activation for layer in net.layers]
    assert back.parameters.tobytes() == net.parameters.tobytes()

    formula = module[1]
    torch.save(formula, tmp_path / "formula.pt")
    with torch.serialization.safe_globals([torch_modules.Formula]):
        again = torch.load(tmp_path / "formula.pt", weights_only=True)
    assert (again.value, again.slope) == (formula.value, formula.slope) and not again.state_dict()

    net = gb.Network(1, [gb.Bias(own)], dtype=dtype, device="cpu")
    x = (np.array([[-1], [1]]) * [0, 1e-7, 0.1, 0.7, 1, 2, 3, 20, 80, 1e3]).reshape(-1, 1).astype(dtype)
    z = torch.tensor(x, requires_grad=True)
    y = again(z)
    y.backward(torch.ones_like(y))
    assert y.dtype == getattr(torch, dtype)
    close(y.detach().numpy(), net.forward(x), dtype)
    close(z.grad.numpy(), net.backward(np.ones_like(x)), dtype)


def test_a_module_with_expressions_is_exported(torch):
    net = network(gb.Dense(3, activation_of_texts("pieces", *EXPORTED_TEXTS["pieces"])))
    module, x = pytorch.to_module(net).eval(), torch.tensor(X)
    exported = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("rows")},)).module()
    assert torch.equal(exported(x[:7]), module(x[:7]))


def test_the_gradient_of_an_expression_is_its_derivative(torch):
    """PyTorch's own is 0·∞ where a branch overflows that is not taken; with vmap, and the second too."""
    from gpu_backprop.interop import torch_modules

    own = activation_of_texts("clipped", "where(z < 0, 0.1*z, min(exp(z) - 1, 5))")
    f, z = (
        torch_modules.Formula(own.name, own.expression, own.derivative),
        torch.tensor([-1e3, -1, 0.5, 1e3], dtype=torch.float64),
    )
    once = torch.func.grad(f)
    assert torch.allclose(torch.func.vmap(once)(z), torch.tensor([0.1, 0.1, np.exp(0.5), 0], dtype=z.dtype))
    assert torch.allclose(torch.func.vmap(torch.func.grad(once))(z[1:3]), torch.tensor([0, np.exp(0.5)], dtype=z.dtype))


def test_torch_has_all_of_the_grammar(torch):
    from gpu_backprop.interop import torch_modules

    assert {*torch_modules.OPERATIONS} == {*COMPARISONS, *OPERATORS, *FUNCTIONS, "where"}


def test_a_formula_that_was_changed_is_read_again(torch):
    from gpu_backprop.interop import torch_modules

    formula = torch_modules.Formula("mine", "z**3", "3*z**2")
    assert repr(formula) == "Formula('mine', 'z**3')"
    formula.expression = "z.cube()"
    with pytest.raises(gb.InputError, match=r"^module 1 \(Formula\): the expression of activation 'mine': '\.' has no"):
        pytorch.from_module(torch.nn.Sequential(torch.nn.Linear(2, 2), formula))


def test_what_was_made_is_a_copy_and_draws_nothing(torch):
    net, state = network(gb.Dense(3, "relu")), torch.random.get_rng_state()
    module = pytorch.to_module(net)
    assert torch.equal(torch.random.get_rng_state(), state)
    before = net.parameters.tobytes()
    with torch.no_grad():
        module[0].weight += 1
    pytorch.state_dict(net)["0.weight"] += 1
    assert net.parameters.tobytes() == before
    net.parameters = 0 * net.parameters
    assert module[0].weight.abs().sum() > 0


def test_what_is_frozen_stays_frozen(torch):
    net = network(gb.Dense(3, "relu", trainable=False), gb.Dense(3, learning_rate_factor={"bias": 0}), gb.Dense(2))
    module = pytorch.to_module(net)
    assert [p.requires_grad for p in module.parameters()] == [False, False, True, False, True, True]
    back = pytorch.from_module(module)
    assert [layer.trainable for layer in back.layers] == [False, True, True]
    assert dict(back.layers[1].learning_rate_factor) == {"bias": 0}


def test_the_module_trains_there(torch):
    net = every_layer("tanh", "float32")
    module = pytorch.to_module(net).train()
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    x, y = torch.tensor(X, dtype=torch.float32), torch.tensor(X[:, :3], dtype=torch.float32)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = ((module(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    pytorch.load_state_dict(net, module.state_dict())
    close(outputs(torch, module), net.predict(X), "float32")


def test_a_member_of_a_population_goes_there_and_all_of_them_do_not(torch):
    net = gb.Network(4, [gb.Dense(2)], seed=[0, 1])
    for call in pytorch.to_module, pytorch.state_dict, lambda net: pytorch.write_safetensors(net, "never"):
        with pytest.raises(
            gb.InputError, match=r"2 members side by side, .*: give one of them, population\.member\(m\)"
        ):
            call(net)


def test_a_function_of_ones_own_is_refused(torch):
    own = gb.Activation(
        "own", "y", *(getattr(gb.ACTIVATIONS["tanh"], name) for name in ("numpy_value", "numpy_gradient"))
    )
    with pytest.raises(gb.InputError, match=r"^the activation of layer 2, Dense\(2, 'own'\), has no counterpart"):
        pytorch.to_module(network(gb.Dense(3), gb.Dense(2, own)))


# From modules ---------------------------------------------------------------------------------------------------------


def made(torch, build):
    """A module of float64 that is in eval mode, whose averages, factors and shifts are all their own."""
    torch.manual_seed(0)
    module = build(torch.nn).double()
    for one in module.modules():
        if isinstance(one, torch.nn.BatchNorm1d):
            for tensor in (one.running_mean, one.running_var, one.weight, one.bias):
                if tensor is not None:
                    tensor.data.uniform_(0.5, 2)
    return module.eval()


TAKEN = {
    "one Linear": (lambda nn: nn.Linear(4, 3), "[Dense(3, 'identity')]"),
    "nested": (
        lambda nn: nn.Sequential(nn.Sequential(nn.Linear(4, 3), nn.Tanh()), nn.Sequential(), nn.Linear(3, 2, False)),
        "[Dense(3, 'tanh'), Dense(2, 'identity', bias=False)]",
    ),
    "images": (lambda nn: nn.Sequential(nn.Flatten(), nn.Identity(), nn.Linear(4, 3)), "[Dense(3, 'identity')]"),
    "BatchNorm behind Linear": (
        lambda nn: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2)),
        "[Dense(3, 'relu'), Dense(2, 'identity')]",
    ),
    "BatchNorm behind Linear without bias": (
        lambda nn: nn.Sequential(nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3, affine=False)),
        "[Dense(3, 'identity')]",
    ),
    "BatchNorm elsewhere": (
        lambda nn: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3), nn.ELU(), nn.BatchNorm1d(3), nn.GELU()),
        "[Scale(), Bias('identity'), Dense(3, 'elu'), Scale(), Bias('gelu')]",
    ),
    "activations alone": (
        lambda nn: nn.Sequential(nn.Tanh(), nn.Linear(4, 3), nn.Dropout(0.25), nn.ReLU(), nn.Sigmoid()),
        "[Bias('tanh', trainable=False), Dense(3, 'identity'), Dropout(0.25), Bias('relu', trainable=False), "
        "Bias('sigmoid', trainable=False)]",
    ),
    "softplus as it is by itself": (lambda nn: nn.Sequential(nn.Linear(4, 3), nn.Softplus()), "[Dense(3, 'softplus')]"),
    "a module twice": (
        lambda nn: (lambda act, square: nn.Sequential(square, act, nn.Sequential(act, square), act, nn.Linear(4, 3)))(
            nn.Tanh(), nn.Linear(4, 4)
        ),
        "[Dense(4, 'tanh'), Bias('tanh', trainable=False), Dense(4, 'tanh'), Dense(3, 'identity')]",
    ),
    "softmax of rows": (lambda nn: nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)), "[Dense(3, 'softmax')]"),
}  # fmt: skip


@pytest.mark.parametrize(("build", "layers"), TAKEN.values(), ids=TAKEN)
def test_what_is_taken(torch, build, layers):
    module = made(torch, build)
    net = pytorch.from_module(module)
    assert repr(net.layers) == layers
    assert net.dtype == np.float64
    np.testing.assert_allclose(net.predict(X), outputs(torch, module), rtol=1e-8, atol=1e-8)


def test_averages_of_float32_stay_float32(torch):
    module = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)).eval()
    net = pytorch.from_module(module)
    assert net.dtype == np.float32
    close(net.predict(X), outputs(torch, module), "float32")


def test_log_softmax_at_the_end_becomes_softmax(torch):
    module = made(torch, lambda nn: nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(dim=1)))
    close(np.log(pytorch.from_module(module).predict(X)), outputs(torch, module))


def test_options_are_those_of_a_network(torch):
    module = torch.nn.Sequential(torch.nn.Linear(4, 2))
    with pytest.raises(gb.InputError, match=r"^seed must be one integer, .*, got \[0, 1\]\.$"):
        pytorch.from_module(module, seed=[0, 1])
    with pytest.raises(gb.InputError, match=r"^Network has no argument lr; use gb\.Trainer"):
        pytorch.from_module(module, lr=0.1)
    net = pytorch.from_module(module, 4, dtype="float64", device="cpu", seed=7)
    assert (net.dtype, net.device.name, net.seed) == (np.float64, "cpu", 7)
    for half in torch.float16, torch.bfloat16:
        net = pytorch.from_module(module.to(half))
        assert net.dtype == np.float32
        assert net.layers[0].weight.T.tolist() == module[0].weight.tolist()


def hooked(module, kind):
    getattr(module, f"register_{kind}")(lambda *given: None)
    return module


REFUSED = {
    "another module": (
        lambda nn: nn.Sequential(nn.Linear(4, 3), nn.ReLU6()),
        r"^module 1 \(ReLU6\) has no counterpart here\. A Sequential of Linear, .*, Softmax is taken",
    ),
    "one of ones own": (
        lambda nn: type("Mine", (nn.Module,), {})(),
        r"^the module \(Mine\) has no counterpart here\. .* What a forward of your own does cannot be read",
    ),
    "a subclass": (
        lambda nn: nn.Sequential(type("Linear", (nn.Linear,), {"forward": lambda self, x: x})(4, 3)),
        r"^module 0 \(Linear\) has no counterpart here",
    ),
    "an image": (lambda nn: nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 3))), r"^module 0\.0 \(Conv2d\) has no"),
    "a slope": (
        lambda nn: nn.Sequential(nn.Linear(4, 3), nn.LeakyReLU(0.2)),
        r"^module 1 \(LeakyReLU\) is LeakyReLU\(negative_slope=0\.2\), and here it is .*negative_slope=0\.01 alone",
    ),
    "columns": (
        lambda nn: nn.Sequential(nn.Linear(4, 3), nn.Softmax(0)), r"^module 1 \(Softmax\) is .* dim=-1 alone"
    ),
    "logs in the middle": (
        lambda nn: nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(-1), nn.Linear(3, 2)),
        r"^module 1 \(LogSoftmax\) must be the last module",
    ),
    "training": (
        lambda nn: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)),
        r"^module 1 \(BatchNorm1d\) normalizes each batch by itself, .*: call module\.eval\(\) first\.$",
    ),
    "no averages": (
        lambda nn: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)).eval(),
        r"^module 1 \(BatchNorm1d\) normalizes each batch by itself",
    ),
    "widths": (
        lambda nn: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(5, 2)),
        r"^module 2 \(Linear\) takes 5 numbers, and 3 come out of what is before it\.$",
    ),
    "widths of averages": (
        lambda nn: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(5)).eval(),
        r"^module 1 \(BatchNorm1d\) takes 5 numbers, and 3 come out of what is before it\.$",
    ),
    "no width": (lambda nn: nn.Sequential(nn.Tanh()), r"^no module says how many numbers .* give it as inputs=\.$"),
    "nothing": (lambda nn: nn.Sequential(), r"^no module says how many numbers"),
    "axes": (lambda nn: nn.Sequential(nn.Flatten(0), nn.Linear(4, 3)), r"^module 0 \(Flatten\) is .* rows are flat"),
    "all is dropped": (lambda nn: nn.Sequential(nn.Linear(4, 3), nn.Dropout(1.0)), r"^dropout rate must be"),
    "meta": (lambda nn: nn.Sequential(nn.Linear(4, 3)).to("meta"), r"^module lies on the device meta, where tensors"),
    "normed weights": (
        lambda nn: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))),
        r"^module 0 \(ParametrizedLinear\) has no counterpart here",
    ),
    "a hook": (
        lambda nn: nn.Sequential(hooked(nn.Linear(4, 3), "forward_hook"), nn.ReLU()),
        r"^module 0 \(Linear\) has forward hooks, and what they change cannot be read: remove them",
    ),
    "a hook before all": (
        lambda nn: hooked(nn.Sequential(nn.Linear(4, 3)), "forward_pre_hook"),
        r"^the module \(Sequential\) has forward hooks",
    ),
    "no module": (lambda nn: {"0.weight": 1}, r"^module must be a torch\.nn\.Module, got dict\.$"),
}  # fmt: skip


@pytest.mark.parametrize(("build", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(torch, build, said):
    with pytest.raises(gb.InputError, match=said):
        pytorch.from_module(build(torch.nn))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_module_that_has_diverged_is_refused(torch, bad):
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    module[1].bias.data[1] = bad
    with pytest.raises(gb.InputError, match=rf"in the bias of module 1 \(Linear\), the first one \({bad}\) at row 1"):
        pytorch.from_module(module)


def test_inputs_that_are_not_those_of_the_module(torch):
    with pytest.raises(gb.InputError, match=r"takes 4 numbers, and 5 come out of what is before it"):
        pytorch.from_module(torch.nn.Linear(4, 3), 5)
    with pytest.raises(gb.InputError, match="inputs must be an integer ≥ 1"):
        pytorch.from_module(torch.nn.Linear(4, 3), 0)
    net = pytorch.from_module(torch.nn.Sequential(torch.nn.Softsign()), 4)
    np.testing.assert_allclose(net.predict(X), X / (1 + abs(X)), rtol=1e-6)


# State dicts and files ------------------------------------------------------------------------------------------------


def test_names_and_shapes_are_those_of_a_sequential(torch):
    net = network(gb.Dense(5, "relu"), gb.Dropout(0.5), gb.Dense(3))
    module = torch.nn.Sequential(
        torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Dropout(), torch.nn.Linear(5, 3)
    ).double()  # fmt: skip
    module.load_state_dict(pytorch.state_dict(net))
    close(outputs(torch, module), net.predict(X))
    twin = gb.Network(4, net.layers, dtype="float64")
    for given in (
        module.state_dict(),
        dict(module.named_parameters()),
        {k: v.numpy() for k, v in module.state_dict().items()},
    ):
        twin.parameters = 0 * twin.parameters
        pytorch.load_state_dict(twin, given)
        assert twin.parameters.tobytes() == net.parameters.tobytes()


WRONG = {
    "missing": (lambda state: state.pop("0.bias"), r"^state_dict must have 0\.weight, .*; 0\.bias missing\.$"),
    "too much": (
        lambda state: state.update({"7.bias": state["0.bias"], "8": 1}), r"network; 7\.bias, 8 too much\.$"
    ),
    "both": (
        lambda state: state.update({"fc.weight": state.pop("2.weight")}),
        r"; 2\.weight missing and fc\.weight too much\. Where only names differ, give what you have these\.$",
    ),
    "transposed": (
        lambda state: state.update({"0.weight": state["0.weight"].T}),
        r"^0\.weight is the weight of layer 1, Dense\(5, 'relu'\), and must have the shape \(5, 4\), got \(4, 5\)\. "
        r"Its axes are the other way round",
    ),
    "shape": (lambda state: state.update({"2.bias": state["0.bias"]}), r"^2\.bias is .* shape \(3,\), got \(5,\)\.$"),
    "NaN": (lambda state: state["2.weight"].fill_(np.nan), r"^15 values are NaN or infinite in 2\.weight"),
    "meta": (lambda state: state.update({"0.bias": state["0.bias"].to("meta")}), r"^0\.bias cannot be read as an"),
    "complex": (lambda state: state.update({"0.bias": state["0.bias"] * 1j}), r"^0\.bias must hold real numbers"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_state_dict_changes_nothing(torch, spoil, said):
    net = network(gb.Dense(5, "relu"), gb.Dense(3))
    state, before = pytorch.state_dict(net), net.parameters.tobytes()
    for tensor in state.values():
        tensor += 1
    spoil(state)
    with pytest.raises(gb.InputError, match=said):
        pytorch.load_state_dict(net, state)
    assert net.parameters.tobytes() == before


def test_a_state_dict_of_bfloat16_is_read_as_it_is(torch):
    net = network(gb.Dense(3), dtype="float32")
    state = {name: tensor.bfloat16() for name, tensor in pytorch.state_dict(net).items()}
    pytorch.load_state_dict(net, state)
    assert net.layers[0].weight.T.tolist() == state["0.weight"].tolist()


def test_what_is_no_state_dict(torch):
    net = network(gb.Dense(3))
    with pytest.raises(gb.InputError, match=r"got Linear: give module\.state_dict\(\)\.$"):
        pytorch.load_state_dict(net, torch.nn.Linear(4, 3))
    with pytest.raises(gb.InputError, match=r"^1 value is too large for float32 in 0\.bias"):
        pytorch.load_state_dict(
            network(gb.Dense(1), dtype="float32"), {"0.weight": np.ones((1, 4)), "0.bias": np.array([1e300])}
        )


@pytest.mark.parametrize("dtype", CLOSE)
def test_a_file_goes_there_and_back(torch, tmp_path, dtype):
    safetensors = pytest.importorskip("safetensors.torch")
    net, path = every_layer("gelu", dtype), tmp_path / "net.safetensors"
    pytorch.write_safetensors(net, path)
    module = pytorch.to_module(gb.Network(4, net.layers, dtype=dtype))
    module.load_state_dict(safetensors.load_file(path))
    close(outputs(torch, module), net.predict(X), dtype)
    theirs = tmp_path / "theirs.safetensors"
    safetensors.save_file(module.state_dict(), theirs)
    for file in path, theirs:
        twin = gb.Network(4, net.layers, dtype=dtype)
        pytorch.read_safetensors(file, twin)
        assert twin.parameters.tobytes() == net.parameters.tobytes()


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # of its own code
def test_a_module_is_copied_stored_and_compiled_as_any_other(torch, tmp_path):
    net = every_layer("silu", "float32")
    module = pytorch.to_module(net)
    module.load_state_dict(pytorch.state_dict(net))
    assert "Periodic(2, frequencies=5, units=2)" in repr(module)
    assert "Scale(4)" in repr(module)
    assert "Bias(6)" in repr(module)
    compiled = torch.compile(module)  # which happens when it is called
    assert pytorch.from_module(compiled).parameters.tobytes() == net.parameters.tobytes()
    torch.save(module, tmp_path / "module.pt")
    again = torch.load(tmp_path / "module.pt", weights_only=False)
    close(outputs(torch, again), net.predict(X), "float32")
    assert json.loads(json.dumps(net.architecture()))["inputs"] == 4


# Training -------------------------------------------------------------------------------------------------------------

STEPS = {
    "sgd": (gb.SGD(0.1), lambda optim, p: optim.SGD(p, 0.1)),
    "momentum": (gb.SGD(0.1, momentum=0.9), lambda optim, p: optim.SGD(p, 0.1, momentum=0.9)),
    "nesterov": (
        gb.SGD(0.1, momentum=0.9, nesterov=True), lambda optim, p: optim.SGD(p, 0.1, momentum=0.9, nesterov=True)
    ),
    "adam": (gb.Adam(0.01), lambda optim, p: optim.Adam(p, 0.01)),
    "adam with a penalty": (gb.Adam(0.01, l2=0.1), lambda optim, p: optim.Adam(p, 0.01, weight_decay=0.1)),
    "adamw": (gb.AdamW(0.01, weight_decay=0.1), lambda optim, p: optim.AdamW(p, 0.01, weight_decay=0.1)),
    "nadam": (gb.NAdam(0.01), lambda optim, p: optim.NAdam(p, 0.01)),
    "radam": (gb.RAdam(0.01), lambda optim, p: optim.RAdam(p, 0.01)),
    "rmsprop": (gb.RMSprop(0.01, decay=0.99), lambda optim, p: optim.RMSprop(p, 0.01)),
    "adagrad": (gb.Adagrad(0.01), lambda optim, p: optim.Adagrad(p, 0.01)),
}  # fmt: skip
LOSSES = {
    "cross_entropy": ("softmax", lambda nn: nn.CrossEntropyLoss()),
    gb.CrossEntropy(label_smoothing=0.1): ("softmax", lambda nn: nn.CrossEntropyLoss(label_smoothing=0.1)),
    "mean_squared_error": ("identity", lambda nn: nn.MSELoss()),
    "absolute_error": ("identity", lambda nn: lambda y, t: 3 * nn.L1Loss()(y, t)),
    gb.Huber(0.5): ("identity", lambda nn: lambda y, t: 3 * nn.HuberLoss(delta=0.5)(y, t)),
    "binary_cross_entropy": ("sigmoid", lambda nn: lambda y, t: 3 * nn.BCEWithLogitsLoss()(y, t)),
}


def trained(torch, loss, optimizer, last, criterion, theirs):
    """The parameters after eight steps, here and there, from the same ones on the same rows."""
    hidden = gb.Dense(6, "tanh", penalty_factor=1)
    net = network(hidden, gb.Dense(3, last, penalty_factor=1))
    module = pytorch.to_module(network(hidden, gb.Dense(3)))
    pytorch.load_state_dict(net, module.state_dict())
    labels, stepper = np.arange(len(X)) % 3, theirs(torch.optim, module.parameters())
    y = labels if last == "softmax" else np.eye(3)[labels]
    trainer = gb.Trainer(net, loss, optimizer)
    for _ in range(8):
        trainer.step(X, y)
        stepper.zero_grad()
        criterion(torch.nn)(module(torch.tensor(X)), torch.tensor(y)).backward()
        stepper.step()
    return pytorch.state_dict(net), module.state_dict()


@pytest.mark.parametrize(("ours", "theirs"), STEPS.values(), ids=STEPS)
def test_optimizers_step_as_those_of_pytorch(torch, ours, theirs):
    found, expected = trained(torch, "cross_entropy", ours, *LOSSES["cross_entropy"], theirs)
    for name in expected:  # PyTorch has the product of the momenta of its NAdam in float32
        np.testing.assert_allclose(found[name], expected[name], atol=1e-8 if ours.name == "nadam" else 1e-12)


@pytest.mark.parametrize(("loss", "last", "criterion"), [(one, *row) for one, row in LOSSES.items()])
def test_losses_are_those_of_pytorch(torch, loss, last, criterion):
    found, expected = trained(torch, loss, gb.SGD(0.1), last, criterion, STEPS["sgd"][1])
    for name in expected:
        close(found[name], expected[name])
