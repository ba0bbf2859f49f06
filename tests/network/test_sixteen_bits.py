"""Networks in a 16-bit dtype: float32 parameters, gradients and moments, and a 16-bit copy of the weights beside them.

A CPU has no such networks. Here it gets some, in float16, to show where each number lives; the operations themselves
are tested on CUDA.
"""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend import open_device
from gpu_backprop.backend.errors import InputError
from gpu_backprop.commands.runs import load_run
from gpu_backprop.explanation.explain import explain

X = np.random.default_rng(0).normal(0, 1, (7, 3))
LABELS = np.array([0, 1, 0, 1, 1, 0, 1])
pytestmark = pytest.mark.usefixtures("half_on_a_cpu")
SHAPES = [gb.Dense(5, "tanh"), gb.Dropout(0.25), gb.Dense(2, "softmax")]


def network(dtype="float16", **settings):
    return gb.Network(3, SHAPES, device="cpu", dtype=dtype, **settings)


def test_what_is_kept_in_which_dtype():
    net, seen = network(), {}
    assert net.dtype == np.float16
    trainer = gb.Trainer(net, optimizer="adam")
    for _, written in trainer.trace(X, LABELS, np.ones(7)):
        seen |= {name: array.dtype.name for name, array in written.items()}
    half = {name for name, dtype in seen.items() if dtype == "float16"}
    assert half == {
        "z1", "y1", "mask2", "z2", "y2", "z3", "y3", "∇y3", "∇z3", "∇y2", "∇z2", "∇y1", "∇z1", "parameters (float16)"
    }  # fmt: skip
    assert {name for name, dtype in seen.items() if dtype == "float32"} == {
        "∇W1", "∇b1", "∇W3", "∇b3", "parameters", "moments"
    }  # fmt: skip
    assert {net.parameters.dtype, net.gradients.dtype} == {np.dtype(np.float32)}
    plan = trainer.plan(labels=False, weights=True)
    assert {plan.buffers[name].dtype.name for name in ("y*", "w")} == {"float32"}
    assert plan.buffers["x"].dtype == np.float16


def test_products_read_the_low_weights_and_everything_else_the_parameters():
    net = network()
    plan = gb.Trainer(net).plan()
    for operation in plan.operations:
        read = {name: array.dtype.name for name, array in operation.reads.items() if name[0] in "Wb"}
        assert set(read.values()) <= {"float16" if operation.name == "matmul" else "float32"}


def test_a_periodic_reads_its_parameters_in_full():
    """A frequency of 16 bits would be off by whole turns where numbers are large."""
    net = gb.Network(3, [gb.Periodic(2), gb.Dense(2, "softmax")], device="cpu", dtype="float16")
    trainer = gb.Trainer(net)
    reads = {o.name: {name: a.dtype.name for name, a in o.reads.items()} for o in trainer.plan().operations}
    assert reads["periodic"] == {"x": "float16", "W1 (float32)": "float32", "b1": "float32"}
    assert reads["periodic_gradient"] == reads["periodic"] | {"∇z1": "float16"}
    assert np.isfinite(float(trainer.step(X, LABELS))) and "W1 (float32)" in explain(trainer, X, LABELS)


def test_offsets_are_those_of_a_float32_network():
    half, single = network(), network("float32")
    half.refresh()
    assert half.places[-1][3] == single.places[-1][3]
    np.testing.assert_array_equal(half.parameters, single.parameters)
    for layer in (half.layers[0], half.layers[2]):
        np.testing.assert_array_equal(layer.product_weight, layer.weight.astype(np.float16))
        assert np.shares_memory(layer.product_weight, half.half_parameters)
    assert all(layer.product_weight is layer.weight for layer in single.layers[::2])
    assert single.half_parameters is None


def change_in_place(net):
    net.layers[0].weight[...] = 0.25


def change_a_view(net):
    net.layers[0].weight *= 2


def change_all(net):
    net.parameters = np.linspace(-1, 1, net.parameters.size)


@pytest.mark.parametrize("change", [change_in_place, change_a_view, change_all])
class TestChangesByHandAreSeen:
    def changed(self, change):
        net, single = network(), network("float32")
        net.forward(X), net.predict(X)  # plans are there already
        trainer = gb.Trainer(net, optimizer=gb.SGD(1e-30))
        trainer.step(X, LABELS)
        change(net)
        change(single)
        return net, single, trainer

    def test_by_forward_and_backward(self, change):
        net, single, _ = self.changed(change)
        np.testing.assert_allclose(net.forward(X), single.forward(X), atol=5e-3)
        grad_y = np.ones((7, 2)) * [1, -1]
        np.testing.assert_allclose(net.backward(grad_y), single.backward(grad_y), atol=5e-3)
        np.testing.assert_allclose(net.gradients, single.gradients, atol=2e-2)

    def test_by_predict(self, change):
        net, single, _ = self.changed(change)
        assert net.predict(X).dtype == np.float32
        np.testing.assert_allclose(net.predict(X), single.predict(X), atol=5e-3)

    def test_by_evaluate(self, change):
        _, single, trainer = self.changed(change)
        expected = gb.Trainer(single).evaluate(X, LABELS)["loss"]
        assert trainer.evaluate(X, LABELS)["loss"] == pytest.approx(expected, abs=5e-3)

    @pytest.mark.parametrize("how", ["step", "trace", "fit"])
    def test_by_training(self, change, how):
        net, _, trainer = self.changed(change)
        net.half_parameters[...] = np.nan
        if how == "step":
            assert np.isfinite(float(trainer.step(X, LABELS)))
        elif how == "trace":
            assert all(np.isfinite(w["E"]).all() for _, w in trainer.trace(X, LABELS) if "E" in w)
        else:
            assert np.isfinite(trainer.fit(X, LABELS, 1, progress=False)[0]["loss"])


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adagrad", "adam", "adamw"])
def test_it_learns_and_the_optimizer_keeps_the_copy(optimizer):
    net = gb.Network(3, [gb.Dense(8, "tanh"), gb.Dense(2, "softmax")], dtype="float16", device="cpu")
    y = (X[:, 0] > 0).astype(int)
    history = gb.Trainer(net, optimizer=optimizer, batch_size=3).fit(X, y, 30, progress=False)
    assert history[-1]["loss"] < history[0]["loss"]
    np.testing.assert_array_equal(net.half_parameters, net.parameters.astype(np.float16))


def test_after_a_divergence_both_are_those_of_the_last_good_step():
    net = gb.Network(3, [gb.Dense(2, "exp")], dtype="float16", device="cpu")
    trainer = gb.Trainer(net, "poisson", gb.SGD(50.0), batch_size=3)
    with pytest.raises(gb.DivergedError):
        trainer.fit(X, np.ones((7, 2)), 20, progress=False)
    assert np.isfinite(net.parameters).all()
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(net.half_parameters, net.parameters.astype(np.float16))


class TestTheLossIsScaled:
    """What the device decides is shown in tests/gpu/test_precision.py; here is what the trainer makes of it."""

    def test_the_plan_says_so(self):
        plan = gb.Trainer(network()).plan(weights=True)
        named = {o.name: o for o in plan.operations}
        assert named["softmax_cross_entropy"].formula == "∇z3 = (softmax(z3 + b3) − y*)·S·w/Σw, E += e"
        assert named["unscale"].formula == "1/S, or 0 where ∇ overflows"
        normalized = named["normalize_weights"]
        assert list(normalized.writes) == ["Σw ≠ 0", "S/Σw", "E"] and "S" in normalized.reads
        assert list(named["unscale"].writes) == ["loss scaling", "1/S"] and "Σw ≠ 0" in named["unscale"].reads
        assert "1/S" in named["update"].reads and "Σw ≠ 0" not in named["update"].reads
        single = {o.name: o for o in gb.Trainer(network("float32")).plan(weights=True).operations}
        assert single["softmax_cross_entropy"].formula == "∇z3 = (softmax(z3 + b3) − y*)·w/Σw, E += e"
        assert "unscale" not in single and list(single["normalize_weights"].writes) == ["Σw ≠ 0", "1/Σw", "E"]
        assert "Σw ≠ 0" in single["update"].reads

    def test_the_gradients_have_the_factor_and_the_step_has_not(self):
        """In float16, net.gradients are S·∇ after a step, and W moves by −η∇."""
        found = {}
        for dtype in ("float16", "float32"):
            net = gb.Network(3, [gb.Dense(5, "tanh"), gb.Dense(2, "softmax")], device="cpu", dtype=dtype)
            before = net.parameters.copy()
            trainer = gb.Trainer(net, optimizer=gb.SGD(0.5))
            scale = float(trainer.scaling.state[0]) if dtype == "float16" else 1.0
            trainer.step(X, LABELS)
            found[dtype] = net.gradients / scale, net.parameters - before
        assert abs(found["float32"][0]).max() > 0.01
        for half, single in zip(found["float16"], found["float32"], strict=True):
            np.testing.assert_allclose(half, single, 1e-2, 2e-3)

    def test_the_history_tells_of_it(self):
        net = gb.Network(3, [gb.Dense(2)], dtype="float16", device="cpu")
        history = gb.Trainer(net, optimizer=gb.SGD(1e-6), batch_size=3).fit(X, np.full((7, 2), 100), 4, progress=False)
        assert history["skipped"] == [3, 3, 1, 0] and history["loss_scale"] == [8192, 1024, 512, 512]
        assert "loss_scale 512, skipped 0" in repr(history)

    @pytest.mark.parametrize(
        ("steps", "scales", "skipped", "stuck"),
        [
            (3, [2**13, 2**10, 2**7, 2**4, 2, 1], [3] * 6, [False] * 5 + [True]),
            (16, [1, 1], [16, 16], [False, True]),
            (17, [1], [17], [True]),
            (17, [1, 1], [16, 17], [False, True]),
            (5, [2**11, 2**11], [5, 5], [False, False]),
        ],
    )  # fmt: skip
    def test_an_epoch_of_skipped_steps_is_the_end_where_no_scale_is_left(self, steps, scales, skipped, stuck):
        scaling, found = gb.Trainer(network()).scaling, []
        for scale, count in zip(scales, skipped, strict=True):
            assert scaling.measured(np.array([scale, 0.0, count]), steps) == {"loss_scale": scale, "skipped": count}
            found.append(scaling.stuck)
        assert found == stuck

    def test_one_member_is_enough(self):
        scaling = gb.Trainer(network(seed=[0, 1])).scaling
        row = scaling.measured(np.array([[65536.0, 20, 0], [1, 0, 20]]), 20)
        assert row == {"loss_scale": [65536, 1], "skipped": [0, 20]} and scaling.stuck


def test_values_beyond_float16_are_refused_in_x_and_not_in_targets():
    net = gb.Network(3, [gb.Dense(2)], dtype="float16", device="cpu")
    with pytest.raises(InputError, match=r"1 value is too large for float16 in x.*use a network with dtype='float32'"):
        gb.Trainer(net).fit(np.where(np.arange(3) == 1, 7e4, X[:1]), np.zeros((1, 2)), progress=False)
    gb.Trainer(net, "absolute_error").evaluate(X, np.full((7, 2), 7e4))


class TestFiles:
    def saved(self, tmp_path):
        net = network()
        gb.Trainer(net).fit(X, LABELS, 2, progress=False)
        gb.save(tmp_path / "m.safetensors", net)
        return net, tmp_path / "m.safetensors"

    def test_as_it_was(self, tmp_path):
        net, path = self.saved(tmp_path)
        again = gb.load(path, device="cpu")
        assert again.dtype == np.float16
        assert again.parameters.tobytes() == net.parameters.tobytes()
        np.testing.assert_array_equal(again.predict(X), net.predict(X))

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_in_another_dtype(self, tmp_path, dtype):
        net, path = self.saved(tmp_path)
        again = gb.load(path, device="cpu", dtype=dtype)
        assert again.dtype.name == again.architecture()["dtype"] == dtype
        for (_, a, _), (_, b, _) in zip(again.parameter_arrays(), net.parameter_arrays(), strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(again.predict(X), net.predict(X), atol=5e-3)

    def test_where_the_device_cannot(self, tmp_path, monkeypatch):
        _, path = self.saved(tmp_path)
        monkeypatch.setitem(open_device.DTYPES, "cpu", ("float32", "float64"))
        with pytest.raises(InputError, match=r"cannot load .*m\.safetensors as it was saved: .*float16.*load\(path, dtype='float32'\)"):  # fmt: skip  # noqa: E501
            gb.load(path, device="cpu")
        assert gb.load(path, device="cpu", dtype="float32").dtype == np.float32
        with pytest.raises(InputError, match="dtype must be one of"):
            gb.load(path, dtype="int8")

    def test_a_command_works_it_out_in_float32_where_the_device_cannot(self, tmp_path, monkeypatch, capsys):
        net, path = self.saved(tmp_path)
        monkeypatch.setitem(open_device.DTYPES, "cpu", ("float32", "float64"))
        again = load_run(path, "cpu")
        assert again.dtype == np.float32 and again.parameters.tobytes() == net.parameters.tobytes()
        assert capsys.readouterr().err == f"note: {path} was trained in 16 bits; here it is worked out in float32\n"


def test_summary_says_so():
    assert "parameters, float16 (kept in float32), on cpu" in str(network())
    assert "parameters, float32, on cpu" in str(network("float32"))


def test_a_copy_keeps_its_dtype_or_takes_another():
    net = network()
    assert net.copy().dtype == np.float16
    net.parameters[...] = np.float32(0.1)
    np.testing.assert_array_equal(net.copy("float64").layers[0].weight, np.float32(0.1))
    gb.check_gradients(net, None, X, LABELS)


def test_a_step_can_be_told():
    text = explain(gb.Trainer(network(), optimizer=gb.SGD(0.1)), X, LABELS)
    assert "z1 = x@W1" in text and "The loss of these samples was" not in text  # it has a Dropout
