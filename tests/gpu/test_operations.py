"""The operations of the layers on CUDA, against NumPy: each dtype and activation, odd shapes, strided views."""

from __future__ import annotations

import numpy as np
import pytest
from operation_pairs import (
    MODELS_SHAPES,
    Given,
    a,
    agree,
    check,
    compile_kernels,
    dtypes,
    perform,
    random,
    strided,
    t,
    to_be_written,
)

import gpu_backprop as gb
from gpu_backprop.backend.errors import DeviceError
from gpu_backprop.backend.formula import Activation
from gpu_backprop.backend.open_device import open_device
from gpu_backprop.network.samples import Samples
from gpu_backprop.training.minibatches import DataSet

pytestmark = pytest.mark.gpu

SHAPES = [(1, 1), (1, 33), (6, 1), (0, 5), (150, 33), (3, 1000), (60, 300), (2100, 3)]
BOTH = [(shape, ()) for shape in SHAPES] + [(shape, (3,)) for shape in [(1, 1), (0, 5), (70, 33), (70, 128)]]


def shapes_for(f):
    """All of them for functions that differ in what is read and launched; for others, of which the formula is another
    one and the rest the same text, one that is read by vectors and one that is not."""
    return BOTH if f.name in ("identity", "tanh", "gelu", "softmax") else [((150, 33), ()), ((70, 128), (3,))]


@pytest.fixture(scope="module", autouse=True)
def compiled():
    compile_kernels("layers.cu", "softmax.cu", "dropout.cu", "periodic.cu")


@dtypes
def test_matmul(dtype):
    rng = random(dtype)
    for models_shape in MODELS_SHAPES:
        x, w, g = (rng.normal(size=(*models_shape, *shape)) for shape in ((5, 7), (7, 3), (5, 3)))
        check(dtype, "matmul", t(x), t(w), to_be_written(g.shape))
        device = open_device("cuda", dtype)
        out = device.empty((*models_shape, 7, 3), device.master)
        xs, gs = device.from_host(x, device.dtype), device.from_host(g, device.dtype)
        with device.computing():
            for call in device.ops.matmul(device, xs.swapaxes(-1, -2), gs, out):
                call()
        want = device.to_host(xs).astype(np.float64).swapaxes(-1, -2) @ device.to_host(gs).astype(np.float64)
        agree(device.to_host(out), want, device.master.name, "matmul of a transposed view")


@dtypes
def test_add_bias(dtype):
    for shape, models_shape in BOTH:
        rng = random(dtype, shape, models_shape)
        x, b = rng.normal(size=(*models_shape, *shape)), rng.normal(size=(*models_shape, shape[1]))
        for aligned in (True, False):
            check(dtype, "add_bias", t(x), a(b, **strided(models_shape, aligned)), to_be_written(x.shape))


@dtypes
@pytest.mark.parametrize("f", gb.ACTIVATIONS.values(), ids=lambda f: f.name)
def test_bias_activate(f, dtype):
    """y = f(z + b), with and without a bias, and in place but for the functions whose gradient reads z."""
    for shape, models_shape in shapes_for(f):
        rng = random(f.name, dtype, shape, models_shape)
        z, bias = (
            rng.normal(size=(*models_shape, *shape)),
            a(rng.normal(size=(*models_shape, shape[1])), **strided(models_shape)),
        )
        for b in (bias, None):
            check(dtype, "bias_activate", t(z, out=b is not None), b, f, to_be_written(z.shape))
            if f.reads != "z":
                here = t(z, out=True)
                check(dtype, "bias_activate", here, b, f, here)


@dtypes
@pytest.mark.parametrize("f", gb.ACTIVATIONS.values(), ids=lambda f: f.name)
def test_activation_gradient(f, dtype):
    """∇z = ∇y ⊙ f′, in place and not, with and without ∇b. s is what f gives, or what it takes."""
    for shape, models_shape in shapes_for(f):
        rng = random(f.name, dtype, shape, models_shape)
        grad_y = rng.normal(size=(*models_shape, *shape))
        z = rng.normal(size=grad_y.shape)
        y = host_value(f, z)
        s = {"y": t(y), "z": t(z), "": None}[f.reads]
        for with_bias in (True, False):
            how = strided(models_shape, aligned=shape[0] % 2 == 0)
            bias = (
                to_be_written((*models_shape, shape[1]), "A", grain="T" if f.rowwise else "", **how)
                if with_bias
                else None
            )
            launches = 2 if with_bias and f.rowwise else 1
            here = t(grad_y, out=True)
            check(dtype, "activation_gradient", here, s, f, here, bias, launches=launches)
            there = to_be_written(grad_y.shape)
            check(dtype, "activation_gradient", t(grad_y), s, f, there, bias, launches=launches)


def host_value(f, z):
    cpu = open_device("cpu", "float64")
    y = np.empty_like(z)
    for call in cpu.ops.bias_activate(cpu, z.copy(), None, f, y):
        call()
    return y


@dtypes
@pytest.mark.parametrize("name", [name for name, f in gb.ACTIVATIONS.items() if name != "exp"])
def test_large_and_strange_arguments(name, dtype):
    """Finite as far as ±1e4, and NaN where NaN goes in."""
    f = gb.ACTIVATIONS[name]
    z = np.array([[1e4, -1e4, 0.0, 30.0], [-30.0, 0.0, 1e4, 1e4], [np.nan, 1.0, -1.0, 2.0]])
    y = to_be_written(z.shape)
    got, _ = check(dtype, "bias_activate", t(z), None, f, y)[id(y)]
    assert np.isfinite(got[:2].astype(np.float64)).all() and np.isnan(got[2, 0])


@dtypes
def test_scale_columns(dtype):
    """Both ways, in place and not, and the gradient of the factors alone."""
    for shape, models_shape in BOTH:
        rng = random(dtype, shape, models_shape)
        x, grad = rng.normal(size=(2, *models_shape, *shape))
        for aligned in (True, False):
            how = strided(models_shape, aligned)
            factors = a(rng.normal(size=(*models_shape, shape[1])), **how)
            out = to_be_written((*models_shape, shape[1]), "A", **how)
            check(dtype, "scale_columns", t(x), factors, to_be_written(x.shape))
            check(dtype, "scale_columns_gradient", t(x), t(grad), factors, to_be_written(x.shape), out)
            here = t(grad, out=True)
            check(dtype, "scale_columns_gradient", t(x), here, factors, here, out)
            check(dtype, "scale_columns_gradient", t(x), t(grad), None, None, out)


@dtypes
def test_column_sum(dtype):
    for shape, models_shape in [*BOTH, ((20_000, 1), ())]:
        rng = random(dtype, shape, models_shape)
        for aligned in (True, False):
            out = to_be_written((*models_shape, shape[1]), "A", **strided(models_shape, aligned))
            check(dtype, "column_sum", t(rng.normal(size=(*models_shape, *shape))), out)


@dtypes
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
def test_dropout_is_that_of_the_cpu_bit_for_bit(rate, dtype):
    """Masks of 16 bits are the float32 ones, rounded; each model has its own rate."""
    exact = dtype if dtype in ("float32", "float64") else "float32"
    device, cpu = open_device("cuda", dtype), open_device("cpu", exact)
    for shape, models_shape in BOTH:
        rng = random(rate, shape, models_shape)
        x = rng.normal(size=(*models_shape, *shape)).astype(device.dtype)
        words = rng.integers(0, 2**64, (*models_shape, 3), np.uint64)
        rates = np.clip(np.linspace(rate, rate + 0.2, max(models_shape, default=1)), 0, 0.95).reshape(models_shape)
        pairs = Given(np.stack([rates, 1 / (1 - rates)], axis=-1), **strided(models_shape))
        y, mask = to_be_written(x.shape), to_be_written(x.shape)
        further = [pairs, Given(words, **strided(models_shape)), y, mask]
        got, calls = perform(device, "dropout", [Given(x), *further], {})
        want, _ = perform(cpu, "dropout", [Given(x.astype(exact)), *further], {})
        y, mask, want_mask = got[id(y)][0], got[id(mask)][0], want[id(mask)][0].astype(device.dtype)
        assert len(calls) == 1
        assert mask.tobytes() == want_mask.tobytes()
        assert y.tobytes() == (x.astype(exact) * want_mask.astype(exact)).astype(device.dtype).tobytes()


@dtypes
def test_multiply(dtype):
    for shape, models_shape in BOTH:
        rng = random(dtype, shape, models_shape)
        left, right = rng.normal(size=(2, *models_shape, *shape))
        check(dtype, "multiply", t(left), t(right), to_be_written(left.shape))
        here = t(left, out=True)
        check(dtype, "multiply", here, t(right), here)


@dtypes
def test_periodic(dtype):
    """All inputs or some of them, in rows and units of every number; parameters that lie among others."""
    for rows, inputs, numbers, frequencies, units in (
        (1, 1, 1, 1, 1),
        (150, 33, 7, 16, 3),
        (0, 3, 2, 4, 2),
        (700, 5, 5, 3, 13),
    ):
        for models_shape in MODELS_SHAPES:
            rng = random(dtype, rows, models_shape)
            x, grad_y = (rng.normal(size=(*models_shape, rows, k)) for k in (inputs, inputs + numbers * units))
            w = rng.normal(0, 0.2, (*models_shape, numbers, frequencies, 1 + units))
            b = rng.normal(size=(*models_shape, numbers, frequencies + units))
            apart = strided(models_shape, aligned=False)
            given = t(x), a(w, **apart), a(b, **apart)
            check(dtype, "periodic", *given, to_be_written(grad_y.shape))
            check(dtype, "periodic_gradient_x", *given, t(grad_y), to_be_written(x.shape))
            grads = (to_be_written(like.shape, "A", **apart) for like in (w, b))
            check(dtype, "periodic_gradient", *given, t(grad_y), *grads)


def test_more_elements_than_threads():
    """A thread goes on to further elements."""
    rng = np.random.default_rng(0)
    f, loss = gb.ACTIVATIONS["relu"], gb.LOSSES["huber"]
    here = t(rng.normal(size=(65, 130, 33)), out=True)
    check("float32", "bias_activate", here, a(rng.normal(size=(65, 33))), f, here)
    y, target = rng.normal(size=(2, 8300, 17))
    check("float32", "bias_activate", t(y), None, gb.ACTIVATIONS["softmax"], to_be_written(y.shape))
    total = Given(np.zeros(3), out=True, grain="A")
    further = loss.formula, Given(loss.rows(())), 0.5, None, to_be_written(y.shape), total
    check("float32", "loss_gradient", t(y), a(target), None, *further)
    left, right = rng.normal(size=(2, 2048 * 256 + 5))
    check("float32", "multiply", t(left), t(right), to_be_written(left.shape))


def test_a_formula_that_cuda_does_not_have():
    device = open_device("cuda")
    z = device.zeros((2, 3))
    mine = Activation("mine", "y", None, None)
    with pytest.raises(DeviceError, match="'mine' has no CUDA formula .* or use device='cpu'"):
        list(device.ops.bias_activate(device, z, None, mine, z))
    rows = Activation("sparsemax", "y", None, None, rowwise=True)
    for calls in (
        device.ops.bias_activate(device, z, None, rows, z),
        device.ops.activation_gradient(device, z, z, rows, z, None),
    ):
        with pytest.raises(DeviceError, match="'sparsemax' takes whole rows, .* use device='cpu'"):
            list(calls)


# Plans ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("seed", [0, [0, 1]], ids=["one", "members"])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
@pytest.mark.parametrize(("output", "loss"), [("softmax", "cross_entropy"), ("sigmoid", "binary_cross_entropy"),
                                              ("softmax", "poisson"), ("identity", "huber")])  # fmt: skip
def test_the_launches_of_a_plan_are_its_calls(output, loss, weighted, seed, fuse):
    """What the audit claims is what is launched: each bound call is one kernel or one product."""
    layers = [gb.Dense(8, "tanh"), gb.Dropout(0.5), gb.Bias("gelu"), gb.Dense(4, "softmax"), gb.Dense(3, output)]
    net = gb.Network(5, layers, seed=seed, device="cuda")
    trainer = gb.Trainer(net, loss, "adam", batch_size=4)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 5)), rng.dirichlet(np.ones(3), 8)
    data = DataSet(net, Samples(x, y, np.ones(8) if weighted else None))
    plan = trainer.training_step.build(data, 4, net.device.zeros((*net.models_shape, 3), np.float64), fuse=fuse)
    for operation in plan.operations:
        assert len(operation.calls) == operation.launches, operation
