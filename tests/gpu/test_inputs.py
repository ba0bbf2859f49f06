"""Arrays that come from outside to a network on CUDA: NumPy's, CuPy's, and those of whoever speaks DLPack."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.training.minibatches import DataSet

try:
    import cupy
except ImportError:  # every test here is skipped then, with the reason
    cupy = None

pytestmark = pytest.mark.gpu

X = np.array([[0.5, -1.0, 2.0], [3.0, 0.25, -4.0], [1.0, 0.0, 7.0], [-2.0, 5.0, 6.0], [0.0, 1.0, -8.0]])
LABELS = np.array([0, 1, 1, 0, 1])
WEIGHTS = np.array([1.0, 0.0, 2.0, 0.5, 1.0])


class OnlyDlpack:
    """An array of another library: nothing about it but the protocol."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


class OnlyCudaArray:
    """An array of an older library, such as Numba's."""

    def __init__(self, array):
        self._array = array
        self.__cuda_array_interface__ = array.__cuda_array_interface__


def bfloat16(array):
    return cupy.asarray(array, np.float32).astype(pytest.importorskip("ml_dtypes").bfloat16)


FORMS = {
    "NumPy float64": lambda: X,
    "NumPy float16": lambda: X.astype(np.float16),
    "NumPy, other byte order": lambda: X.astype(">f4"),
    "NumPy, Fortran order": lambda: np.asfortranarray(X),
    "NumPy, DLPack": lambda: OnlyDlpack(X),
    "lists": X.tolist,
    "float64": lambda: cupy.asarray(X),
    "float32": lambda: cupy.asarray(X, np.float32),
    "float16": lambda: cupy.asarray(X, np.float16),
    "bfloat16": lambda: bfloat16(X),
    "Fortran order": lambda: cupy.asfortranarray(cupy.asarray(X, np.float32)),
    "every second row": lambda: cupy.repeat(cupy.asarray(X, np.float32), 2, axis=0)[::2],
    "part of the columns": lambda: cupy.pad(cupy.asarray(X, np.float32), ((0, 0), (1, 2)))[:, 1:4],
    "backwards": lambda: cupy.asarray(X[::-1].copy())[::-1],
    "not aligned": lambda: cupy.pad(cupy.asarray(X, np.float32).ravel(), (1, 0))[1:].reshape(X.shape),
    "DLPack": lambda: OnlyDlpack(cupy.asarray(X, np.float32)),
    "__cuda_array_interface__": lambda: OnlyCudaArray(cupy.asarray(X, np.float32)),
}

WHOLE = np.abs(X).astype(np.uint8)
WHOLE_FORMS = {
    "NumPy uint8": lambda: WHOLE,
    "uint8": lambda: cupy.asarray(WHOLE),
    "bool": lambda: cupy.asarray(WHOLE > 0),
    "int8": lambda: cupy.asarray(WHOLE, np.int8),
    "int64": lambda: cupy.asarray(WHOLE, np.int64),
    "uint64": lambda: cupy.asarray(WHOLE, np.uint64),
}


def network(dtype="float32", **settings):
    return gb.Network(3, [gb.Dense(4, "tanh"), gb.Dense(2, "softmax")], device="cuda", dtype=dtype, **settings)


def used(x, dtype, y=LABELS, weights=WEIGHTS):
    """Everything that x can be given to, as bits."""
    net = network(dtype)
    trainer = gb.Trainer(net, optimizer=gb.SGD(0.1), batch_size=2)
    seen = [net.forward(x), net.backward(np.ones((5, 2))), net.predict(x, batch_size=3)]
    seen.append(float(trainer.step(x, y, weights)))
    seen.append(trainer.fit(x, y, 1, weights=weights, validation=(x, y, weights), progress=False)[0]["val_loss"])
    seen.append(trainer.evaluate(x, y, weights)["loss"])
    seen.append(net.parameters)
    return [cupy.asnumpy(a).tobytes() if hasattr(a, "tobytes") else a for a in seen]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_x_gives_the_same_bits(form, dtype):
    assert used(form(), dtype) == used(X, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("form", WHOLE_FORMS.values(), ids=WHOLE_FORMS)
def test_whole_numbers_and_booleans_count_as_numbers(form, dtype):
    x = form()
    assert used(x, dtype) == used(cupy.asnumpy(x).astype(np.float64), dtype)


TARGETS = {
    "int64": lambda: cupy.asarray(LABELS),
    "uint8": lambda: cupy.asarray(LABELS, np.uint8),
    "bool": lambda: cupy.asarray(LABELS > 0),
    "every second": lambda: cupy.repeat(cupy.asarray(LABELS), 2)[::2],
    "DLPack": lambda: OnlyDlpack(cupy.asarray(LABELS)),
}


@pytest.mark.parametrize("y", TARGETS.values(), ids=TARGETS)
def test_every_form_of_labels(y):
    x, w = cupy.asarray(X, np.float32), cupy.asarray(WEIGHTS)
    assert used(x, "float32", y(), w) == used(X, "float32")
    assert used(X, "float32", y()) == used(X, "float32")


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_dense_targets_on_the_device(dtype):
    def learned(x, y, w):
        net = gb.Network(3, [gb.Dense(2)], device="cuda", dtype=dtype)
        trainer = gb.Trainer(net, "squared_error", gb.SGD(0.01), batch_size=2)
        history = trainer.fit(x, y, 2, weights=w, validation=(x, y, w), progress=False)
        row = {k: v for k, v in history[-1].items() if k not in ("seconds", "samples_per_second")}
        return row, float(trainer.step(x, y, w)), cupy.asnumpy(net.parameters).tobytes()

    y = X[:, :2] / 4
    expected = learned(X, y, WEIGHTS)
    assert {"val_r2", "val_mae"} <= set(expected[0])
    for there in (cupy.asarray(y), cupy.asarray(y, np.float32), bfloat16(y), cupy.asfortranarray(cupy.asarray(y))):
        assert learned(cupy.asarray(X), there, cupy.asarray(WEIGHTS)) == expected
        assert learned(X, there, WEIGHTS) == expected


def test_what_was_given_is_never_changed():
    x, y, w = cupy.asarray(X, np.float32), cupy.asarray(X[:, :2], np.float32), cupy.asarray(WEIGHTS, np.float32)
    given = [cupy.asnumpy(a) for a in (x, y, w)]
    net = gb.Network(3, [gb.Bias("exp"), gb.Dropout(0.5), gb.Dense(2)], device="cuda")
    trainer = gb.Trainer(net, optimizer=gb.SGD(1e-9), batch_size=3)
    trainer.fit(x, y, 2, weights=w, validation=(x, y, w), progress=False)
    trainer.step(x, y, w)
    trainer.evaluate(x, y, w)
    net.forward(x, training=True)
    net.backward(y)
    net.predict(x)
    for a, before in zip((x, y, w), given, strict=True):
        np.testing.assert_array_equal(cupy.asnumpy(a), before)


def test_results_are_new_arrays_on_the_device():
    net = network()
    y = net.forward(cupy.asarray(X))
    grad_x = net.backward(y)
    assert {type(a) for a in (y, grad_x, net.parameters, net.gradients, net.layers[0].weight)} == {cupy.ndarray}
    assert type(net.predict(cupy.asarray(X))) is np.ndarray
    kept = cupy.asnumpy(y)
    net.forward(2 * cupy.asarray(X))
    np.testing.assert_array_equal(cupy.asnumpy(y), kept)


# Where data sets lie --------------------------------------------------------------------------------------------------


def kept(x, dtype):
    """The array in which a data set on the device keeps x."""
    net = network(dtype)
    made = gb.network.samples.samples(net, gb.CrossEntropy(), x, LABELS, None, values=True)
    return DataSet(net, made).sources[0]


@pytest.mark.parametrize(
    ("given", "dtype", "expected"),
    [
        ("uint8", "float32", "uint8"),
        ("uint8", "float16", "uint8"),
        ("float16", "float32", "float16"),
        ("float32", "float32", "float32"),
        ("float32", "float64", "float32"),
        ("float64", "float64", "float64"),
        ("float64", "float32", "float32"),
        ("float32", "bfloat16", "bfloat16"),
        ("float16", "bfloat16", "float16"),
        ("int64", "float32", "float32"),
        ("int8", "float16", "float16"),
        ("bool", "float64", "float64"),
        (">f4", "float32", "float32"),
    ],
)
def test_x_is_kept_in_its_own_dtype_where_that_is_no_wider(given, dtype, expected):
    x = WHOLE.astype(given)
    for source in (x,) if given == ">f4" else (x, cupy.asarray(x)):
        there = kept(source, dtype)
        assert there.dtype.name == expected
        np.testing.assert_array_equal(cupy.asnumpy(there).astype(np.float64), x)


def test_an_array_on_the_device_is_used_where_it_lies():
    for dtype in ("uint8", "float16", "float32"):
        x = cupy.asarray(WHOLE, dtype)
        assert kept(x, "float32").data.ptr == x.data.ptr
        assert kept(OnlyDlpack(x), "float32").data.ptr == x.data.ptr


def test_arrays_from_another_stream_that_was_synchronized():
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        x = cupy.asarray(X) * 2
    stream.synchronize()
    assert used(x, "float32") == used(2 * X, "float32")


def test_results_are_there_for_whoever_reads_them_on_the_default_stream():
    net, fine = network(), network("float64")
    y = net.forward(cupy.asarray(X)) + 1  # CuPy's, on the default stream
    np.testing.assert_allclose(cupy.asnumpy(y), fine.predict(X) + 1, atol=1e-5)
    net.parameters[...] = net.parameters * 0
    np.testing.assert_array_equal(net.predict(X), 0.5)


# Assigning ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_parameters_and_views_take_arrays_from_everywhere(dtype):
    net, weight = network(dtype), np.arange(12.0).reshape(3, 4)
    there = cupy.asarray(weight)
    for form in (
        weight, weight.tolist(), there, there.astype(np.float16), bfloat16(weight), OnlyDlpack(there),
        cupy.asfortranarray(there),
    ):  # fmt: skip
        net.layers[0].weight[...] = -1
        net.layers[0].weight = form
        np.testing.assert_array_equal(cupy.asnumpy(net.layers[0].weight), weight)
    net.layers[0].weight += cupy.ones((3, 4), net.parameters.dtype)
    np.testing.assert_array_equal(cupy.asnumpy(net.layers[0].weight), weight + 1)
    net.gradients = cupy.full(net.gradients.shape, 2.0)
    assert (cupy.asnumpy(net.layers[1].grad_weight) == 2).all()
    net.parameters = np.zeros(net.parameters.shape)
    np.testing.assert_array_equal(net.predict(X), 0.5)
    with pytest.raises(gb.InputError, match=r"weight must have the shape \(3, 4\), got \(4, 3\)"):
        net.layers[0].weight = cupy.zeros((4, 3))


# Refused --------------------------------------------------------------------------------------------------------------


def bad(value, where, array=X):
    x = cupy.asarray(array, np.float64)
    x[where] = value
    return x


FAULTS = {
    "NaN": lambda: (bad(np.nan, (3, 1)), LABELS, None, r"NaN or infinite in x, .* \(nan\) at row 3, column 1"),
    "infinite": lambda: (bad(-np.inf, (0, 2)), LABELS, None, r"in x, the first one \(-inf\) at row 0, column 2"),
    "too large": lambda: (bad(1e39, (2, 0)), LABELS, None, r"too large for float32 in x, .* \(1e\+39\) at row 2"),
    "label": lambda: (X, cupy.asarray([0, 1, 2, 0, 1]), None, r"labels must be from 0 to 1, .* there is 2 at row 2"),
    "uint8 label": lambda: (X, cupy.asarray([0, 1, 0, 255, 1], np.uint8), None, "but there is 255 at row 3"),
    "half a label": lambda: (X, cupy.asarray([0, 0.5, 0, 1, 1]), None, r"whole numbers, but there is 0\.5 at row 1"),
    "shares": lambda: (X, cupy.full((5, 2), 0.75), None, r"must add up to 1, but row 0 adds up to 1\.5"),
    "weights": lambda: (X, LABELS, bad(-1, 4, WEIGHTS), r"weights must be ≥ 0, but there is -1\.0 at row 4"),
    "axes": lambda: (cupy.zeros(3), LABELS, None, r"x must have the axes \(rows, inputs\), got .* \(3,\)"),
    "features": lambda: (cupy.zeros((5, 4)), LABELS, None, "x has 4 features a sample"),
    "complex": lambda: (cupy.zeros((5, 3), np.complex64), LABELS, None, "x must hold real numbers .* complex64"),
    "rows": lambda: (cupy.asarray(X), cupy.asarray(LABELS[:4]), None, "y must have one target for each row of x"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_trained_on_is_refused_as_on_the_host(fault):
    x, y, weights, message = FAULTS[fault]()
    net = network()
    before = cupy.asnumpy(net.parameters)
    for call in (lambda t, *a: t.fit(*a, weights=weights, progress=False), lambda t, *a: t.evaluate(*a, weights)):
        with pytest.raises(gb.InputError, match=message):
            call(gb.Trainer(net), x, y)
        on_host = [cupy.asnumpy(a) for a in (x, y)]
        if weights is None:
            with pytest.raises(gb.InputError, match=message):
                call(gb.Trainer(net), *on_host)
    np.testing.assert_array_equal(cupy.asnumpy(net.parameters), before)


@pytest.mark.filterwarnings("ignore:x is not scaled")
def test_float16_holds_no_more_than_it_does():
    net = gb.Network(3, [gb.Dense(2)], device="cuda", dtype="float16")
    with pytest.raises(gb.InputError, match=r"too large for float16 in x.*\(70000\.0\).*dtype='float32'"):
        gb.Trainer(net).fit(bad(7e4, (0, 0)), np.zeros((5, 2)), progress=False)
    gb.Trainer(net, "absolute_error").evaluate(X, np.full((5, 2), 7e4))  # targets are kept in float32
    wide = gb.Network(3, [gb.Dense(2)], device="cuda", dtype="bfloat16")
    gb.Trainer(wide, optimizer=gb.SGD(1e-9)).fit(bad(7e4, (0, 0)), np.zeros((5, 2)), 1, progress=False)
    with pytest.raises(gb.InputError, match=r"too large for bfloat16 in x, the first one \(3\.4e\+38\)"):
        gb.Trainer(wide).fit(bad(3.4e38, (0, 0)), np.zeros((5, 2)), progress=False)


@pytest.mark.parametrize("wrap", [lambda a: a, OnlyDlpack, OnlyCudaArray], ids=["CuPy", "DLPack", "interface"])
def test_a_cpu_network_refuses_arrays_on_a_device(wrap):
    net = gb.Network(3, [gb.Dense(2, "softmax")], device="cpu")
    there, trainer = wrap(cupy.asarray(X)), gb.Trainer(net)
    for call in (
        lambda: net.forward(there),
        lambda: net.predict(there),
        lambda: trainer.step(there, LABELS),
        lambda: trainer.fit(there, LABELS, progress=False),
        lambda: trainer.evaluate(there, LABELS),
        lambda: gb.check_gradients(net, None, there, LABELS),
    ):
        with pytest.raises(gb.InputError, match=r"x lies on cuda.*, but the network is on the CPU\..*x\.get\(\)"):
            call()
    with pytest.raises(gb.InputError, match="y lies on cuda"):
        trainer.step(X, wrap(cupy.asarray(LABELS)))
    with pytest.raises(gb.InputError, match="weights lies? on cuda"):
        trainer.fit(X, LABELS, weights=wrap(cupy.asarray(WEIGHTS)), progress=False)
    with pytest.raises(gb.InputError, match="parameters lies? on cuda"):
        net.parameters = wrap(cupy.zeros(net.parameters.size))
    net.forward(X)
    with pytest.raises(gb.InputError, match="grad_y lies on cuda"):
        net.backward(wrap(cupy.ones((5, 2))))


def test_labels_for_one_hot_belong_on_the_host():
    with pytest.raises(gb.InputError, match=r"labels lie on cuda:0, but one_hot works on the host.*labels\.get\(\)"):
        gb.one_hot(cupy.asarray(LABELS))


def test_check_gradients_takes_arrays_on_the_device():
    y = cupy.asarray(LABELS)
    for x in (cupy.asarray(X), OnlyDlpack(cupy.asarray(X))):
        assert gb.check_gradients(network(), None, x, y, cupy.asarray(WEIGHTS), at_most=5).error < 1e-6
    members = network(seed=[0, 1])
    stacked = OnlyDlpack(cupy.stack([cupy.asarray(X)] * 2))
    assert gb.check_gradients(members, None, stacked, cupy.stack([y, y]), at_most=5).error < 1e-6
