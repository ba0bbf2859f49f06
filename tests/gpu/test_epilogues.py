"""Products with an epilogue: what they give, where they serve, and that the plain operations do elsewhere."""

from __future__ import annotations

import ctypes
import itertools
import warnings

import numpy as np
import pytest
import test_audit
from graph_cases import Case, state
from tracing import TRACE, traced

import gpu_backprop as gb
from gpu_backprop.backend.cuda import epilogue_trial
from gpu_backprop.backend.cuda.cublas import CublasLibrary
from gpu_backprop.backend.cuda.cublaslt import CublasLt, UnsupportedEpilogueError, mask_bytes
from gpu_backprop.backend.cuda.epilogue_trial import AT_ZERO
from gpu_backprop.backend.cuda.epilogues import LONG, NOT_FASTER, VARIABLE, Epilogues
from gpu_backprop.backend.cuda.fusions.epilogues import join_epilogues
from gpu_backprop.backend.errors import DeviceError, InputError
from gpu_backprop.backend.open_device import open_device

pytestmark = pytest.mark.gpu

DTYPES = {"float32": 1e-5, "TF32": 2e-2, "float64": 1e-12, "float16": 4e-3, "bfloat16": 3e-2}
SHAPES = {"square": (8, 8, 8), "oblong": (5, 16, 24), "one row": (1, 3, 8), "many": (130, 33, 136)}
JOINED = ("matmul_activate", "matmul_activation_gradient", "matmul_column_sum")


@pytest.fixture(autouse=True)
def epilogues(monkeypatch, tmp_path):
    """A device that has tried nothing yet, and no file of choices; all that are equal serve."""
    monkeypatch.setenv(VARIABLE, "on")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # a trial takes for granted what every product does: sums that are exact in their dtype
    monkeypatch.setattr(CublasLibrary, "bind", getattr(CublasLibrary.bind, "plain", CublasLibrary.bind))
    shared = open_device("cuda")._shared
    fresh = Epilogues(shared.cupy, 0, shared.products.direct_library)
    monkeypatch.setattr(shared, "epilogues", fresh)
    return fresh


@pytest.fixture
def timed(monkeypatch):
    """As users have it; on an emulated device times mean nothing, so here an epilogue is faster."""
    monkeypatch.setenv(VARIABLE, "auto")
    monkeypatch.setattr(epilogue_trial.Trial, "is_faster", lambda _: True)
    monkeypatch.setattr(epilogue_trial, "LONG", float("inf"))


def device_of(dtype):
    return open_device("cuda", "float32" if dtype == "TF32" else dtype, dtype == "TF32")


class Arrays:
    """Random numbers on a device and, as they were rounded, in float64 on the host."""

    def __init__(self, device):
        self.device, self._rng = device, np.random.default_rng(0)

    def draw(self, *shape, dtype=None):
        values = self._rng.normal(0, 1, shape).astype(self.device.dtype if dtype is None else dtype)
        array = self.device.empty(shape, values.dtype)
        self.device.copy_in(array, values)
        return array, values.astype(np.float64)

    def run(self, name, *arguments):
        with self.device.computing():
            for call in getattr(self.device.ops, name)(self.device, *arguments):
                call()
        self.device.synchronize()

    def read(self, array):
        return self.device.to_host(array).astype(np.float64)


def gelu_tanh(z):
    return 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))


def gelu_tanh_slope(z):
    scale = np.sqrt(2 / np.pi)
    t = np.tanh(scale * (z + 0.044715 * z**3))
    return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * scale * (1 + 3 * 0.044715 * z**2)


CASES = [(d, s, m) for (d, s), m in zip(itertools.product(DTYPES, SHAPES), itertools.cycle([(), (3,), (), (1,)]))]
FORMS = pytest.mark.parametrize(("dtype", "shape", "models"), CASES)


@FORMS
@pytest.mark.parametrize("f", ["relu", "relu, mask", "gelu_tanh"])
def test_forward(dtype, shape, models, f):
    """y = f(x@W + b) in float64 on the host; x is shared by the members."""
    arrays, (rows, inner, units) = Arrays(device_of(dtype)), SHAPES[shape]
    (x, x_), (w, w_) = arrays.draw(rows, inner), arrays.draw(*models, inner, units)
    (b, b_), (y, _) = arrays.draw(*models, units), arrays.draw(*models, rows, units)
    aux = arrays.device.empty((*models, rows, mask_bytes(units)), np.uint8) if f == "relu, mask" else None
    if f == "gelu_tanh":
        aux = arrays.draw(*models, rows, units)[0]
    arrays.run("matmul_activate", x, w, b, gb.ACTIVATIONS[f.split(",")[0]], y, aux)
    z = x_ @ w_ + b_[..., None, :]
    expected = gelu_tanh(z) if f == "gelu_tanh" else np.maximum(z, 0)
    close = DTYPES[dtype] * np.sqrt(inner)
    np.testing.assert_allclose(arrays.read(y), expected, close, close)
    if f == "gelu_tanh":
        np.testing.assert_allclose(arrays.read(aux), z, close, close)
    if f == "relu, mask":
        bits = np.unpackbits(arrays.device.to_host(aux), axis=-1, bitorder="little")[..., :units]
        assert (bits == (z >= 0))[np.abs(z) > close].all()


@FORMS
@pytest.mark.parametrize("f", ["relu", "gelu_tanh"])
def test_gradient(dtype, shape, models, f):
    """∇z = (∇z₂@W₂ᵀ) ⊙ f′ and, where it has ∇z's dtype, ∇b, in float64 on the host."""
    device = device_of(dtype)
    arrays, (rows, above, units) = Arrays(device), SHAPES[shape]
    (g, g_), (w, w_) = arrays.draw(*models, rows, above), arrays.draw(*models, units, above)
    (aux, z), (out, _), (sums, _) = (arrays.draw(*models, *end) for end in ((rows, units), (rows, units), (units,)))
    slope = gelu_tanh_slope(z) if f == "gelu_tanh" else z > 0
    if f == "relu":
        packed = np.packbits(slope, axis=-1, bitorder="little")
        mask = np.zeros((*models, rows, mask_bytes(units)), np.uint8)
        mask[..., : packed.shape[-1]] = packed
        aux = device.empty(mask.shape, np.uint8)
        device.copy_in(aux, mask)
    summed = device.master == device.dtype
    arrays.run(
        "matmul_activation_gradient", g, w.swapaxes(-1, -2), aux, gb.ACTIVATIONS[f], out, sums if summed else None
    )
    expected = (g_ @ np.swapaxes(w_, -1, -2)) * slope
    close = DTYPES[dtype] * np.sqrt(above)
    np.testing.assert_allclose(arrays.read(out), expected, close, close)
    if summed:
        np.testing.assert_allclose(arrays.read(sums), expected.sum(axis=-2), close, close * np.sqrt(rows))


@FORMS
def test_sum(dtype, shape, models):
    """∇W = xᵀ@∇z and ∇b = Σ∇z, which is float32 where they have 16 bits."""
    arrays, (rows, inner, units) = Arrays(device_of(dtype)), SHAPES[shape]
    master = arrays.device.master
    (x, x_), (g, g_) = arrays.draw(rows, inner), arrays.draw(*models, rows, units)
    (out, _), (sums, _) = arrays.draw(*models, inner, units, dtype=master), arrays.draw(*models, units, dtype=master)
    arrays.run("matmul_column_sum", x.swapaxes(-1, -2), g, out, sums)
    close = DTYPES["TF32" if dtype == "TF32" else master.name] * np.sqrt(rows) * 4
    np.testing.assert_allclose(arrays.read(out), x_.T @ g_, close, close)
    np.testing.assert_allclose(arrays.read(sums), g_.sum(axis=-2), close, close)


# What of a plan is joined ---------------------------------------------------------------------------------------------


def step(*layers, **form):
    return test_audit.training_step(*layers, **form)


def names(plan):
    return [operation.name for operation in plan.operations]


def layers(f, count, outputs=40):
    """Of so many layers; more outputs than a kernel of the whole end of a step takes."""
    return *[gb.Dense(8, f)] * (count - 1), gb.Dense(outputs, "softmax")


@pytest.mark.parametrize("f", ["relu", "gelu_tanh"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_launches(monkeypatch, f, dtype, count):
    """Two fewer in each hidden layer, and one for ∇b of the last."""
    joined = step(*layers(f, count), dtype=dtype).plan
    monkeypatch.setenv(VARIABLE, "off")
    plain = step(*layers(f, count), dtype=dtype).plan
    assert plain.cost()["launches"] == 5 * count + 2
    assert joined.cost()["launches"] == 5 * count + 2 - 2 * (count - 1) - 1
    assert not {*JOINED} & {*names(plain)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_launches_with_the_head(monkeypatch, timed, dtype, count):
    """The formulas of docs/cost.md: 5L − 2, 4L − 1 without the mask of relu, 3L + 1 with it."""
    found = []
    for mode in ("off", "auto", "on"):
        monkeypatch.setenv(VARIABLE, mode)
        found.append(step(*layers("relu", count, 3), dtype=dtype).plan.cost()["launches"])
    assert found == [5 * count - 2, 4 * count - 1, 3 * count + 1]


def test_in_float16_relu_stays_apart():
    """Where a sum that overflows would no longer be seen."""
    assert "matmul_activate" not in names(step(*layers("relu", 3), dtype="float16").plan)
    assert "matmul_activate" in names(step(*layers("gelu_tanh", 3), dtype="float16").plan)


@pytest.mark.parametrize(
    "other",
    [
        (gb.Dense(8, "relu", bias=False),), (gb.Dense(8, "tanh"),), (gb.Dense(8, "gelu"),), (gb.Bias("relu"),),
        (gb.Dense(8, "relu", trainable=False),),
    ],
)  # fmt: skip
def test_what_has_no_epilogue(other):
    assert "matmul_activate" not in names(step(*other, gb.Dense(40, "softmax")).plan)


def test_gelu_has_rows_of_a_multiple_of_eight():
    assert not {*JOINED[:2]} & {*names(step(gb.Dense(9, "gelu_tanh"), gb.Dense(40, "softmax")).plan)}


def test_one_output_has_no_gradient_of_relu():
    """The library has none where the inner dimension of the product is 1."""
    plan = step(gb.Dense(8, "relu"), gb.Dense(1, "tanh"), loss="squared_error").plan
    assert "matmul_activate" in names(plan) and "matmul_activation_gradient" not in names(plan)


def test_dropout_stands_between():
    plan = step(gb.Dense(8, "relu"), gb.Dropout(0.5), gb.Dense(40, "softmax")).plan
    assert names(plan).count("matmul_activate") == 1 and "matmul_activation_gradient" not in names(plan)


def test_the_plan_names_what_it_does():
    plan = step(*layers("relu", 2)).plan
    formulas = {operation.name: operation.formula for operation in plan.operations}
    assert formulas["matmul_activate"] == "y1 = relu(x@W1 + b1)"
    assert formulas["matmul_activation_gradient"] == "∇z1 = (∇z2@W2ᵀ) ⊙ relu′(y1), ∇b1 = Σ∇z1"
    assert formulas["matmul_column_sum"] == "∇W2 = y1ᵀ@∇z2, ∇b2 = Σ∇z2"
    assert "[z1 ≥ 0]" in plan.buffers and plan.memory["forward"] > plan.buffers["z1"].nbytes


def test_keep_joins_nothing():
    assert not {*JOINED} & {*names(step(*layers("relu", 3), fuse=False).plan)}


AUDITED = {
    "relu": lambda: step(*layers("relu", 3)),
    "members": lambda: step(*layers("relu", 3), seed=[1, 2, 3], weighted=True),
    "bfloat16": lambda: step(*layers("relu", 3), dtype="bfloat16"),
    "gelu_tanh, float16": lambda: step(*layers("gelu_tanh", 3), dtype="float16"),
    "in parts": lambda: step(*layers("relu", 3), options={"accumulate": 3}),
}


@traced
@pytest.mark.parametrize("case", AUDITED)
def test_the_audit(case):
    """A launch each, and nothing beside."""
    audited = AUDITED[case]()
    assert {*JOINED} & {*names(audited.plan)}
    test_audit.check_trace(audited)
    test_audit.check_allocations(audited)


@traced
def test_the_epilogues_of_a_step():
    audited = step(*layers("relu", 2))
    audited.run()
    seen = [event.what for event in TRACE.of(audited.run) if event.what.startswith("gemm")]
    assert seen[:5] == ["gemm+relu_aux_bias", "gemm", "gemm+bgrada", "gemm+drelu_bgrad", "gemm"]


def test_a_dry_run_counts_the_same():
    net = gb.Network(8, [*layers("relu", 3)], device="cuda")
    trainer = gb.Trainer(net, batch_size=4)
    before = trainer.plan(4).cost()  # of a device on which nothing is there
    x, y = np.ones((8, 8)), np.zeros(8, int)
    trainer.fit(x, y, epochs=1, progress=False)
    assert trainer.plan(4).cost() == before and before["launches"] < 5 * 3 + 2


# Training -------------------------------------------------------------------------------------------------------------


def fitted(mode, monkeypatch, case, graph=False):
    monkeypatch.setenv(VARIABLE, mode)
    trainer = case.trainer(graph)
    x, y, weights = case.data(trainer.network.outputs)
    trainer.fit(x, y, 3, weights=weights, progress=False)
    return trainer


def training(f="relu", **form):
    return Case(gb.Dense(8, f), gb.Dense(8, f), gb.Dense(3, "softmax"), **form)


FITS = {
    "relu": training(), "gelu_tanh": training("gelu_tanh"), "members": training(seed=[1, 2, 3], weighted=True),
    "parts": training(options={"accumulate": 2, "clip_norm": 0.5}), "float64": training(dtype="float64"),
    "bfloat16": training(dtype="bfloat16"), "float16": training("gelu_tanh", dtype="float16"),
}  # fmt: skip


@pytest.mark.parametrize("name", FITS)
def test_a_fit_is_that_of_the_plain_operations(monkeypatch, name):
    plain, joined = (fitted(mode, monkeypatch, FITS[name]) for mode in ("off", "on"))
    parameters = (t.device.to_host(t.network.parameters) for t in (plain, joined))
    close = {"float64": 1e-9, "float32": 1e-5}.get(plain.network.dtype.name, 0.05)
    np.testing.assert_allclose(*parameters, rtol=close, atol=close)


@pytest.mark.parametrize("name", FITS)
def test_a_graph_gives_the_same_bits(monkeypatch, captured, name):
    eager, graph = (state(fitted("on", monkeypatch, FITS[name], graph)) for graph in (False, True))
    assert eager == graph and captured()


# What must stay visible -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["off", "on"])
@pytest.mark.parametrize("f", ["relu", "gelu_tanh"])
def test_a_divergence_is_reported(monkeypatch, mode, f):
    """From a learning rate that is far too large."""
    monkeypatch.setenv(VARIABLE, mode)
    net = gb.Network(5, [gb.Dense(8, f), gb.Dense(8, f), gb.Dense(2)], device="cuda")
    trainer = gb.Trainer(net, "squared_error", gb.SGD(1e12), batch_size=4)
    rng = np.random.default_rng(0)
    with pytest.raises(gb.DivergedError, match="became NaN or infinite in epoch"):
        trainer.fit(rng.normal(0, 1, (16, 5)), rng.normal(0, 1, (16, 2)), epochs=50, progress=False)
    assert np.isfinite(trainer.device.to_host(net.parameters)).all()


def nan_network():
    net = gb.Network(5, [*layers("relu", 3, 3)], device="cuda")
    with net.device.computing():
        net.layers[0].weight[...] = np.nan
    return net


def test_nan_that_no_loss_shows_is_reported():
    """relu makes 0 of it, so that the loss stays finite; the parameters do not."""
    trainer = gb.Trainer(nan_network(), batch_size=4)
    x, y, _ = training().data(3)
    with pytest.raises(gb.DivergedError, match="parameters became NaN or infinite in epoch 1, step 1"):
        trainer.fit(x, y, epochs=2, progress=False)


def test_a_step_by_hand_and_predictions_show_it():
    """Whoever makes steps sees the loss alone."""
    net = nan_network()
    x, y, _ = training().data(3)
    assert np.isnan(net.predict(x)).all()
    assert np.isnan(float(gb.Trainer(net).step(x, y)))


# Where epilogues differ -----------------------------------------------------------------------------------------------


def on_host(change):
    """A library whose products come out changed: `change(out, bias)` on the host."""
    bind = CublasLt.bind

    def changed(self, epilogue, a, b, out, shape, tf32, bias=None, aux=None):
        call = bind(self, epilogue, a, b, out, shape, tf32, bias, aux)

        def run():
            call()
            result, given = out.array.get(), None if bias is None else bias.get()
            change(result, given)
            out.array.set(result)
            if bias is not None:
                bias.set(given)

        return run

    return changed


def last_is_off(out, bias):
    out[..., -1, -1] += 1


def another_axis(out, bias):
    """The bias by rows: for square matrices only."""
    if bias is not None and out.shape[-1] == out.shape[-2]:
        out += bias[..., :, None] - bias[..., None, :]


def no_sum(out, bias):
    if bias is not None:
        bias[...] = 0


calls = itertools.count()


def another_each_time(out, bias):
    out *= 1 + next(calls) * 1e-6 * (np.abs(out) % 0.5 > 0.01)  # integers and halves stay what they are


def garbage_for_nan(out, bias):
    """Numbers where NaN has to be, and its neighbours gone as well."""
    if np.isnan(out).any():
        out[...] = np.nan


FAULTS = {
    "the last number": (last_is_off, layers("relu", 3), JOINED),
    "another axis": (another_axis, layers("relu", 3), JOINED[:2]),
    "no sum": (no_sum, layers("relu", 1), JOINED[2:]),
    "no sum of a gradient": (no_sum, layers("relu", 3), JOINED[1:]),
    "another each time": (another_each_time, layers("relu", 3), JOINED),
    "NaN that spreads": (garbage_for_nan, layers("gelu_tanh", 3), JOINED),
}
"""What is wrong, where, and the operations that do not serve for it."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_difference_is_found(monkeypatch, epilogues, fault):
    """One warning says so, and the plain operations serve."""
    change, network, absent = FAULTS[fault]
    monkeypatch.setattr(CublasLt, "bind", on_host(change))
    with pytest.warns(RuntimeWarning, match=r"are separate launches, .* the results (differ|of two)") as warned:
        plan = step(*network, rows=8).plan
    assert len(warned) == 1 and not {*absent} & {*names(plan)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(*network, rows=12)
    assert "not: the results" in epilogues.report()


def test_the_library_breaks_down(monkeypatch, epilogues):
    def broken(*_, **__):
        raise DeviceError("cuBLASLt reports status 14: internal error")

    monkeypatch.setattr(CublasLt, "bind", broken)
    with pytest.warns(RuntimeWarning, match="status 14"):
        plan = step(*layers("relu", 3)).plan
    assert not {*JOINED} & {*names(plan)}


def test_what_the_library_lacks_is_no_fault(monkeypatch, epilogues):
    def lacks(*_, **__):
        raise UnsupportedEpilogueError("cuBLASLt has no such product for this device")

    monkeypatch.setattr(CublasLt, "bind", lacks)
    assert not {*JOINED} & {*names(step(*layers("relu", 3)).plan)}
    assert "not: cuBLASLt has no such product" in epilogues.report()


def test_no_library(monkeypatch, epilogues):
    def missing(path):
        raise OSError("libcublasLt.so.13: cannot open shared object file")

    monkeypatch.setattr(ctypes, "PyDLL", missing)
    assert not {*JOINED} & {*names(step(*layers("relu", 3)).plan)}
    assert epilogues.report() == ("none: cuBLASLt cannot be called (libcublasLt.so.13: cannot open shared object file)")


def test_another_slope_at_zero(timed, epilogues):
    """relu′(0) is 1 there: the mask is not used, and what needs none is."""
    plan = step(*layers("relu", 3)).plan
    assert names(plan).count("matmul_activate") == 2 and "matmul_activation_gradient" not in names(plan)
    assert f"2 not: {AT_ZERO}" in epilogues.report()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_launches_without_the_mask(timed, count):
    plan = step(*layers("relu", count)).plan
    assert plan.cost()["launches"] == 5 * count + 2 - (count - 1) - 1


def test_a_zero_row_is_that_of_the_plain_operations(monkeypatch, timed):
    """b is 0 at first: z of a row of zeros is exactly 0."""

    def gradients(mode):
        monkeypatch.setenv(VARIABLE, mode)
        trainer = training().trainer(False)
        trainer.fit(np.zeros((4, 5)), np.arange(4) % 3, epochs=1, progress=False)
        return trainer.device.to_host(trainer.network.gradients)

    np.testing.assert_allclose(gradients("auto"), gradients("off"), rtol=1e-6, atol=1e-7)


# The choice -----------------------------------------------------------------------------------------------------------


def again(monkeypatch):
    """As a new process has it."""
    shared = open_device("cuda")._shared
    fresh = Epilogues(shared.cupy, 0, shared.products.direct_library)
    monkeypatch.setattr(shared, "epilogues", fresh)
    return fresh


def no_trial(*_):
    raise AssertionError("it was tried again")


@pytest.mark.parametrize("faster", [True, False])
def test_a_choice_is_remembered(monkeypatch, timed, epilogues, faster):
    monkeypatch.setattr(epilogue_trial.Trial, "is_faster", lambda _: faster)
    first = names(step(*layers("relu", 3)).plan)
    assert bool({*JOINED} & {*first}) == faster
    monkeypatch.setattr(epilogue_trial.Trial, "compare", no_trial)
    new = again(monkeypatch)
    assert names(step(*layers("relu", 3)).plan) == first
    told = new.report()
    assert ", remembered in " in told and (NOT_FASTER in told) != faster


def test_a_choice_that_was_deleted_is_made_anew(monkeypatch, timed, epilogues, tmp_path):
    first = names(step(*layers("relu", 3)).plan)
    (file,) = (tmp_path / "gpu_backprop").iterdir()
    file.unlink()
    monkeypatch.setattr(epilogue_trial.Trial, "is_faster", lambda _: False)
    again(monkeypatch)
    assert names(step(*layers("relu", 3)).plan) != first


def test_without_a_folder_the_plain_operations_serve(monkeypatch, timed):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/nowhere")
    fresh = again(monkeypatch)
    assert not {*JOINED} & {*names(step(*layers("relu", 3)).plan)}
    assert "no choice can be remembered" in fresh.report()


def test_long_products_are_not_tried(monkeypatch, timed, epilogues):
    monkeypatch.setattr(epilogue_trial, "LONG", 0.0)
    monkeypatch.setattr(epilogue_trial.Trial, "compare", no_trial)
    assert not {*JOINED} & {*names(step(*layers("relu", 3)).plan)}
    assert f"not: {LONG}" in epilogues.report()


def test_times_decide(monkeypatch, epilogues):
    """Whatever they are on an emulated device: they are taken, and something is chosen."""
    monkeypatch.setenv(VARIABLE, "auto")
    step(*layers("gelu_tanh", 2))
    assert " of 3 that were tried serve, remembered in " in epilogues.report()


def test_off(monkeypatch, epilogues):
    monkeypatch.setenv(VARIABLE, "off")
    monkeypatch.setattr(Epilogues, "_try", no_trial)
    assert not {*JOINED} & {*names(step(*layers("relu", 3)).plan)}
    assert epilogues.report() == "off, as GPU_BACKPROP_EPILOGUES says"


def test_a_wrong_value_is_refused(monkeypatch):
    monkeypatch.setenv(VARIABLE, "yes")
    with pytest.raises(InputError, match="GPU_BACKPROP_EPILOGUES must be auto, on or off, got 'yes'"):
        step(*layers("relu", 3))


def test_other_devices_have_no_part_in_it():
    assert join_epilogues not in open_device("cpu").fusions
