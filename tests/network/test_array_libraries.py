"""Arrays of PyTorch, JAX and the array API's strict one are taken wherever NumPy's are, and ours are taken there."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.network.arrays import host_array

pytestmark = pytest.mark.frameworks

RNG = np.random.default_rng(5)
X = RNG.normal(size=(24, 3)).astype(np.float32)
LABELS, WEIGHTS = RNG.integers(0, 2, 24), RNG.uniform(0.5, 2, 24).astype(np.float32)
LIBRARIES = {"torch": ("torch", "tensor"), "jax": ("jax.numpy", "asarray"), "strict": ("array_api_strict", "asarray")}


def maker(library):
    """What makes an array of a library from one of NumPy."""
    module, name = LIBRARIES[library]
    return getattr(pytest.importorskip(module), name)


def layers():
    return [gb.Dense(4, "tanh"), gb.Dense(2, "softmax")]


def fit(a):
    trainer, held_out = gb.Trainer(gb.Network(3, layers()), batch_size=10), (a(X), a(LABELS), a(WEIGHTS))
    return trainer.fit(a(X), a(LABELS), 2, weights=a(WEIGHTS), validation=held_out, progress=False)["val_loss"]


def step_and_evaluate(a):
    trainer = gb.Trainer(gb.Network(3, layers()))
    return float(trainer.step(a(X), a(LABELS), a(WEIGHTS))), trainer.evaluate(a(X), a(LABELS), a(WEIGHTS))


def forward_and_backward(a):
    net = gb.Network(3, layers())
    return [
        net.forward(a(X)),
        net.backward(a(np.ones((24, 2), np.float32))),
        net.predict(a(X)),
        net.predict_labels(a(X)),
    ]


def assign(a):
    net = gb.Network(3, layers())
    net.layers[0].weight, net.parameters = a(X[:3, [0, 1, 2, 0]]), a(2 * net.parameters)
    net.gradients = a(net.parameters)
    return [net.parameters, net.gradients]


def population(a):
    trained = gb.Population(3, layers(), [{"seed": 0}, {"seed": 1}], batch_size=10)
    trained.fit(a(X), a(LABELS), 1, progress=False)
    return trained.predict(a(X))


def others(a):
    net = gb.Network(3, layers(), dtype="float64")
    gb.initialize_from_data(net, a(X))
    gb.fit_lbfgs(net, a(X), a(LABELS), iterations=3, progress=False)
    worst = gb.check_gradients(net, "cross_entropy", a(X), a(LABELS)).worst
    return [net.parameters, gb.one_hot(a(LABELS)), worst]


def estimators(a):
    pytest.importorskip("sklearn")
    model = gb.MLPClassifier(
        (4,), random_state=0, dtype="float32"
    )  # else scikit-learn makes float64 of all but NumPy's
    return model.partial_fit(a(X), a(LABELS), classes=[0, 1]).predict_proba(a(X))


CALLS = fit, step_and_evaluate, forward_and_backward, assign, population, others, estimators


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
@pytest.mark.parametrize("library", LIBRARIES)
def test_an_array_of_any_library_is_the_numbers_that_it_holds(library, call):
    found, expected = call(maker(library)), call(np.asarray)
    for one, other in zip(found, expected, strict=True) if isinstance(expected, list) else [(found, expected)]:
        np.testing.assert_equal(one, other)


TENSORS = {
    "transposed": lambda t: t.T.contiguous().T,
    "every second row": lambda t: t.repeat_interleave(2, 0)[::2],
    "expanded": lambda t: t[:1].expand(24, 3),
    "backwards": lambda t: t.flip(0),
    "not at the beginning": lambda t: t.repeat(2, 2)[24:, 3:],
    "half": lambda t: t.half(),
    "booleans": lambda t: t > 0,
    "detached": lambda t: t.clone().requires_grad_().detach(),
    "no rows": lambda t: t[:0],
}


@pytest.mark.parametrize("change", TENSORS.values(), ids=TENSORS)
def test_tensors_of_every_kind(change):
    tensor = change(maker("torch")(X))
    net = gb.Network(3, layers())
    np.testing.assert_array_equal(net.predict(tensor), net.predict(tensor.contiguous().numpy()))


REFUSED = {
    "trained": (
        lambda t: t.requires_grad_(),
        r"Tensor: Can't export tensors that require gradient, use tensor\.detach",
    ),
    "bfloat16": (
        lambda t: t.bfloat16(),
        r"NumPy has no bfloat16\. Give it as float32: x\.float\(\) of PyTorch, .* JAX\.$",
    ),
    "float8": (lambda t: t.to(pytest.importorskip("torch").float8_e5m2), r"NumPy has no float8_e5m2\. Give it as"),
    "elsewhere": (lambda t: t.to("meta"), r"Tensor: .*meta\.$"),
    "sparse": (lambda t: t.to_sparse(), r"Tensor: .*layout"),
    "complex": (lambda t: t + 0j, r"^x must hold real numbers .*, got dtype complex64"),
}


@pytest.mark.parametrize(("change", "said"), REFUSED.values(), ids=REFUSED)
def test_tensors_that_cannot_be_read(change, said):
    tensor = change(maker("torch")(X))
    net = gb.Network(3, layers())
    for call in net.predict, net.forward, lambda x: gb.Trainer(net).fit(x, LABELS, 1, progress=False):
        with pytest.raises(gb.InputError, match=said):
            call(tensor)


def test_arrays_of_jax_are_read_only_and_not_copied():
    made = maker("jax")
    array = host_array(made(X), "x")
    assert not array.flags.writeable
    assert array.ctypes.data == np.from_dlpack(made(X)).ctypes.data or array.base is not None
    net = gb.Network(3, layers())
    np.testing.assert_array_equal(net.predict(made(X)[::-1]), net.predict(X[::-1]))
    with pytest.raises(gb.InputError, match=r"NumPy has no bfloat16"):
        net.predict(made(X, "bfloat16"))


def test_ours_are_taken_without_a_copy():
    torch = pytest.importorskip("torch")
    net = gb.Network(3, layers(), device="cpu")
    y = net.forward(X)
    for array in net.parameters, net.gradients, net.layers[1].weight, net.layers[0].grad_bias, y, net.predict(X):
        for taken in torch.from_dlpack(array).numpy(), np.from_dlpack(array):
            assert taken.ctypes.data == array.ctypes.data
            assert taken.shape == array.shape
    torch.from_dlpack(net.layers[0].weight).zero_()
    assert not net.layers[0].weight.any()
    np.testing.assert_array_equal(pytest.importorskip("jax.numpy").from_dlpack(y), y)
