"""float16, whose loss is scaled as the device finds out, and TF32: what changes, what stays, and what is learned."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.cuda import setup as cuda_setup
from gpu_backprop.backend.formula import SCALE, SKIPPED, STREAK
from gpu_backprop.backend.open_device import open_device
from gpu_backprop.cli import main
from gpu_backprop.explanation.explain import explain
from gpu_backprop.training.loss_scaling import LARGEST, PATIENCE, START

pytestmark = pytest.mark.gpu

_random = np.random.default_rng(7)
X = _random.normal(0, 1, (21, 5))
LABELS = _random.integers(0, 3, 21)
DENSE = _random.uniform(-1, 1, (21, 3))
LAYERS = [gb.Dense(8, "tanh"), gb.Dense(3, "softmax")]
NUMBERS = [gb.Dense(8, "tanh"), gb.Dense(3)]


def trainer_of(layers=LAYERS, loss=None, optimizer="adam", *, dtype="float16", seed=0, batch_size=8, **settings):
    net = gb.Network(5, layers, dtype=dtype, device="cuda", seed=seed)
    net.refresh()  # the 16-bit copy, which every step begins with
    return gb.Trainer(net, loss, optimizer, batch_size=batch_size, **settings)


def state(trainer):
    return trainer.device.to_host(trainer.scaling.state)


def put(trainer, column, values):
    trainer.device.copy_in(trainer.scaling.state[..., column], np.asarray(values, np.float64))


def left(trainer):
    """Host copies of all that a step may change but for the gradients and the scaling, as bytes."""
    net, optimizer = trainer.network, trainer.optimizer
    arrays = {"parameters": net.parameters, "half": net.half_parameters, "hyper": optimizer.hyper, **optimizer.moments}
    return {name: trainer.device.to_host(array).tobytes() for name, array in arrays.items()}


# The scale ------------------------------------------------------------------------------------------------------------


def test_it_begins_as_pytorchs():
    assert state(trainer_of()).tolist() == [START, 0, 0] == [65536, 0, 0]
    assert PATIENCE == 2000


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_no_other_dtype_is_scaled(dtype):
    trainer = trainer_of(dtype=dtype)
    assert trainer.scaling.state is None
    assert not {"unscale"} & {operation.name for operation in trainer.plan().operations}
    row = trainer.fit(X, LABELS, 1, progress=False)[0]
    assert not {"loss_scale", "skipped"} & set(row)


@pytest.mark.parametrize("outputs", [3, 33], ids=["head", "no head"])
def test_a_step_of_float16_is_one_launch_more(outputs):
    layers = [gb.Dense(8, "tanh"), gb.Dense(outputs, "softmax")]
    half, single = trainer_of(layers), trainer_of(layers, dtype="float32")
    assert half.plan().cost()["launches"] == single.plan().cost()["launches"] + 1
    assert half.plan(weights=True).cost()["launches"] == single.plan(weights=True).cost()["launches"] + 1


@pytest.mark.parametrize("optimizer", ["sgd", gb.SGD(0.1, 0.9), "rmsprop", "adagrad", "adam", "adamw"], ids=repr)
def test_an_overflow_halves_the_scale_and_changes_nothing_else(optimizer):
    """Targets of 1e4: S·∇ overflows until S has come down to where 21 rows · 1e4 · S is below 65,504."""
    trainer = trainer_of(NUMBERS, gb.HalfSquaredError(reduction="sum"), optimizer)
    target, before, scale = np.full((21, 3), 1e4), left(trainer), START
    while True:
        trainer.step(X, target)
        now = state(trainer)
        if now[STREAK]:
            break
        scale /= 2
        assert now.tolist() == [scale, 0, np.log2(START / scale)]
        assert left(trainer) == before
        assert not np.isfinite(trainer.device.to_host(trainer.network.gradients)).all()
    assert now.tolist() == [scale, 1, np.log2(START / scale)] and scale <= 4
    assert all(left(trainer)[name] != before[name] for name in before)


def test_it_never_falls_below_1():
    trainer = trainer_of(NUMBERS, gb.HalfSquaredError(reduction="sum"))
    put(trainer, SCALE, 2)
    for _ in range(3):
        trainer.step(X, np.full((21, 3), 1e6))
    assert state(trainer).tolist() == [1, 0, 3]


def test_it_doubles_after_a_long_streak_and_stops_growing():
    trainer = trainer_of()
    put(trainer, STREAK, PATIENCE - 2)
    found = []
    for _ in range(3):
        trainer.step(X, LABELS)
        found.append(state(trainer).tolist())
    assert found == [[START, PATIENCE - 1, 0], [2 * START, 0, 0], [2 * START, 1, 0]]
    put(trainer, STREAK, PATIENCE - 1), put(trainer, SCALE, LARGEST)
    trainer.step(np.zeros((21, 5)), np.full((21, 3), 1 / 3), np.full(21, 1e-3))  # whose gradient is almost 0
    assert state(trainer).tolist() == [LARGEST, 0, 0]


def test_an_overflow_ends_a_streak():
    trainer = trainer_of(NUMBERS)
    put(trainer, STREAK, 7)
    trainer.step(X, np.full((21, 3), 1e5))
    assert state(trainer).tolist() == [START / 2, 0, 1]


def test_weights_of_zero_count_for_nothing():
    """Neither as a good step nor, whatever the outputs are, as an overflow."""
    trainer = trainer_of(NUMBERS)
    for target in (DENSE, np.full((21, 3), 1e30)):
        before = left(trainer)
        trainer.step(X, target, np.zeros(21))
        assert state(trainer).tolist() == [START, 0, 0]
        assert left(trainer) == before


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weights", [None, np.arange(21) % 4 / 2], ids=["plain", "weighted"])
@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("seed", [0, [0, 3]], ids=["one", "members"])
def test_gradients_are_scaled_and_losses_are_not(labels, weights, reduction, seed):
    """∇ after a step is S·∇, and the loss never was scaled; beside float32."""
    loss = gb.CrossEntropy(reduction=reduction) if labels else gb.Huber(reduction=reduction)
    found = []
    for dtype in ("float16", "float32"):
        trainer = trainer_of(LAYERS if labels else NUMBERS, loss, dtype=dtype, seed=seed)
        scale = 2.0**10 if dtype == "float16" else 1.0
        if dtype == "float16":
            put(trainer, SCALE, scale)
        given = np.asarray(trainer.step(X, LABELS if labels else DENSE, weights))
        found.append((given, trainer.device.to_host(trainer.network.gradients) / scale))
    assert found[0][1].any()
    for half, single in zip(*found, strict=True):
        np.testing.assert_allclose(half, single, rtol=1e-2, atol=4e-3 * np.abs(single).max())


def test_small_gradients_arrive():
    """∇ of about 1e-9 is below all that float16 holds: with a scale of 1 nothing is left of it."""
    weights = np.full(21, 1e-7)
    gradients = {}
    for scale in (1.0, START):
        half = trainer_of(NUMBERS, gb.HalfSquaredError(reduction="sum"), gb.SGD(1.0))
        put(half, SCALE, scale)
        half.step(X, DENSE * 0.1, weights)
        gradients[scale] = half.device.to_host(half.network.layers[0].grad_weight) / scale
    single = trainer_of(NUMBERS, gb.HalfSquaredError(reduction="sum"), gb.SGD(1.0), dtype="float32")
    single.step(X, DENSE * 0.1, weights)
    expected = single.device.to_host(single.network.layers[0].grad_weight)
    assert 0 < np.abs(expected).max() < 1e-6
    np.testing.assert_allclose(gradients[START], expected, rtol=0.05, atol=0.02 * np.abs(expected).max())
    assert np.abs(gradients[1] - expected).max() > 0.2 * np.abs(expected).max()


def test_a_trace_shows_scaled_gradients():
    def traced(dtype):
        return {name: a for _, written in trainer_of(dtype=dtype).trace(X, LABELS) for name, a in written.items()}

    half, single = traced("float16"), traced("float32")
    assert set(half) - set(single) == {"1/S", "loss scaling", "parameters (float16)"}
    for name in ("∇y2", "∇z2", "∇W2", "∇b2", "∇y1", "∇z1", "∇W1", "∇b1"):
        near = 5e-3 * START * np.abs(single[name]).max()
        np.testing.assert_allclose(half[name], START * single[name], atol=near, err_msg=name)
    assert half["1/S"] == 1 / START


@pytest.mark.parametrize("weights", [None, np.arange(21) % 4 / 2], ids=["plain", "weighted"])
def test_an_explanation_tells_of_the_scale(weights):
    text = explain(trainer_of(optimizer=gb.SGD(0.5)), X, LABELS, weights)
    assert "∂e/∂y2·S" in text and "g = ∇W/S" in text and "·65536" in text
    skipped = explain(trainer_of(NUMBERS), X, np.full((21, 3), 1e6), weights)
    assert "too large for float16. The step changes nothing" in skipped and "W ← W" not in skipped


# Members --------------------------------------------------------------------------------------------------------------


def test_one_member_overflows_and_the_other_learns_on():
    """Each has data of its own; the second's are too large. The first is what it is alone, to rounding: products of two
    members and of one need not give the same bits."""
    xs, targets = np.stack([X, X]), np.stack([DENSE, np.full((21, 3), 1e4)])
    both, alone = trainer_of(NUMBERS, seed=[0, 1]), trainer_of(NUMBERS, seed=0)
    second = both.device.to_host(both.network.parameters)[1].tobytes()
    for _ in range(3):
        both.step(xs, targets), alone.step(X, DENSE)
    assert state(both).tolist() == [[START, 3, 0], [START / 8, 0, 3]]
    assert state(alone).tolist() == [START, 3, 0]
    net = both.network
    pairs = {"parameters": (net.parameters, alone.network.parameters)}
    pairs |= {name: (moment, alone.optimizer.moments[name]) for name, moment in both.optimizer.moments.items()}
    for name, (members, member) in pairs.items():
        expected = alone.device.to_host(member)
        near = 2e-3 * np.abs(expected).max()
        np.testing.assert_allclose(both.device.to_host(members)[0], expected, atol=near, err_msg=name)
    assert both.device.to_host(net.parameters)[1].tobytes() == second
    assert both.device.to_host(both.optimizer.hyper)[:, 0].tolist() == [3, 0]


# Whole fits -----------------------------------------------------------------------------------------------------------


def test_the_history_tells_the_scale_and_the_skipped_steps():
    trainer = trainer_of()
    put(trainer, STREAK, PATIENCE - 4)
    history = trainer.fit(X, LABELS, 3, progress=False)  # three steps an epoch, the last one of five rows
    assert [row["loss_scale"] for row in history] == [65536, 131072, 131072]
    assert [row["skipped"] for row in history] == [0, 0, 0]
    assert list(history[0]) == ["epoch", "loss", "accuracy", "loss_scale", "skipped", "seconds", "samples_per_second"]
    assert "loss_scale 131,072, skipped 0" in repr(history)


@pytest.mark.filterwarnings("ignore:y is not scaled")
def test_skipped_steps_are_counted_anew_in_each_epoch():
    trainer = trainer_of(NUMBERS, optimizer=gb.SGD(1e-6))
    history = trainer.fit(X, DENSE * 3e3, 6, progress=False)
    skipped = [row["skipped"] for row in history]
    assert skipped[0] == 3 and skipped[-1] == 0 and sum(skipped) == np.log2(START / history[-1]["loss_scale"])
    assert state(trainer)[SKIPPED] == 0


def test_a_list_a_member():
    history = trainer_of(seed=[0, 1, 2]).fit(X, LABELS, 1, progress=False)
    assert history[0]["loss_scale"] == [65536] * 3 and history[0]["skipped"] == [0] * 3


@pytest.mark.filterwarnings("ignore:y is not scaled:RuntimeWarning")
@pytest.mark.parametrize("batch_size", [8, 1, 21])
def test_what_float16_cannot_learn_is_said(batch_size):
    """With any number of steps an epoch: the scale comes down in 16 of them, and only then nothing is left to try."""
    trainer = trainer_of(NUMBERS, gb.HalfSquaredError(reduction="sum"), batch_size=batch_size)
    before = left(trainer)
    with pytest.raises(gb.DivergedError, match=r"was skipped: its gradients overflow float16.*'bfloat16'") as caught:
        trainer.fit(X, np.full((21, 3), 1e6), 50, progress=False)
    steps = -(-21 // batch_size)
    assert (caught.value.epoch, caught.value.step) == (-(-17 // steps), steps)
    assert left(trainer) == before
    assert trainer.history.stopped is not None and len(trainer.history) == caught.value.epoch - 1


@pytest.mark.parametrize("seed", [0, [4, 2]], ids=["one", "members"])
@pytest.mark.parametrize("weights", [None, np.arange(21) % 4 / 2], ids=["plain", "weighted"])
@pytest.mark.parametrize("optimizer", [gb.SGD(0.05, 0.9), gb.Adam(epsilon=1e-3)], ids=repr)
def test_fits_agree_with_float64_on_a_cpu(optimizer, weights, seed):
    def fitted(device, dtype):
        net = gb.Network(5, LAYERS, dtype=dtype, device=device, seed=seed)
        history = gb.Trainer(net, None, optimizer, batch_size=8).fit(X, LABELS, 5, weights=weights, progress=False)
        return *(net.device.to_host(array) for _, array, _ in net.parameter_arrays()), np.array(history["loss"])

    for half, double in zip(fitted("cuda", "float16"), fitted("cpu", "float64"), strict=True):
        np.testing.assert_allclose(half, double, rtol=1e-2, atol=1e-2)


def test_a_divergence_restores_the_scale():
    """All is as before the last step whose loss was finite, of which the twin knows nothing."""
    trainer, twin = (trainer_of([gb.Dense(3, "exp")], "absolute_error", gb.SGD(0.05, 0.9)) for _ in range(2))
    x, y = X * 3, np.abs(DENSE)
    with pytest.raises(gb.DivergedError, match="became NaN or infinite") as caught:
        trainer.fit(x, y, 50, shuffle=False, progress=False)
    minibatches = [slice(0, 8), slice(8, 16), slice(16, 21)]
    assert str(caught.value).endswith("float16 holds no number beyond 65,504; dtype='bfloat16' does.")
    taken = len(minibatches) * (caught.value.epoch - 1) + caught.value.step - 2
    assert taken >= 1
    for k in range(taken):
        rows = minibatches[k % len(minibatches)]
        twin.step(x[rows], y[rows])
    assert left(trainer) == left(twin)
    assert state(trainer)[[SCALE, STREAK]].tolist() == state(twin)[[SCALE, STREAK]].tolist()


# TF32 -----------------------------------------------------------------------------------------------------------------


def test_tf32_is_kept_where_it_was_asked_for(tmp_path):
    exact = gb.Network(5, LAYERS, device="cuda")
    rounded = gb.Network(5, LAYERS, device="cuda", tf32=True)
    assert (exact.device.tf32, rounded.device.tf32) == (False, True)
    np.testing.assert_allclose(exact.predict(X), rounded.predict(X), atol=2e-3)
    gb.save(tmp_path / "m", rounded)
    assert rounded.copy().device.tf32 and not rounded.copy("float64").device.tf32
    assert not gb.load(tmp_path / "m", "cuda").device.tf32
    again = gb.load(tmp_path / "m", "cuda", tf32=True)
    assert again.device.tf32 and again.predict(X).tobytes() == rounded.predict(X).tobytes()
    assert "float32 (products in TF32), on cuda:0" in str(rounded) and "TF32" not in str(exact)
    assert "tf32=True" in repr(rounded) and "tf32" not in repr(exact)


def test_tf32_rounds_large_products():
    """Forward and backward. cuBLAS may leave small ones as they are."""
    x = np.random.default_rng(1).normal(0, 1, (1024, 1024)).astype(np.float32)
    found = []
    for tf32 in (False, True):
        net = gb.Network(1024, [gb.Dense(1024, "tanh")], device="cuda", tf32=tf32)
        arrays = net.forward(x), net.backward(x), net.layers[0].grad_weight
        found.append([net.device.to_host(array) for array in arrays])
    for exact, rounded in zip(*found, strict=True):
        gap = np.abs(exact - rounded).max() / np.abs(exact).max()
        assert 2e-5 < gap < 2e-2


def test_tf32_learns():
    def fitted(tf32):
        net = gb.Network(5, LAYERS, device="cuda", tf32=tf32)
        gb.Trainer(net, batch_size=8).fit(X, LABELS, 3, progress=False)
        return net.device.to_host(net.parameters)

    np.testing.assert_allclose(fitted(True), fitted(False), atol=5e-3)


def test_tf32_from_the_command_line(tmp_path, capsys):
    open_device("cuda", tf32=True)  # where there is none, this says it
    data = tmp_path / "data.csv"
    data.write_text("a,b,c\n" + "".join(f"{a:.3f},{b:.3f},{a - b:.3f}\n" for a, b in X[:, :2]))
    assert main(["train", str(data), "--target", "c", "--epochs", "1", "--tf32", "--out", str(tmp_path / "run")]) == 0
    assert "parameters, float32 (products in TF32), on cuda:0" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_tf32_is_for_float32(dtype, tmp_path):
    with pytest.raises(gb.InputError, match=rf"tf32=True rounds the operands of float32 products; dtype {dtype} has"):
        gb.Network(5, LAYERS, device="cuda", dtype=dtype, tf32=True)
    gb.save(tmp_path / "m", gb.Network(5, LAYERS, device="cuda", dtype=dtype))
    with pytest.raises(gb.InputError, match=f"^tf32=True .*dtype {dtype} has none"):
        gb.load(tmp_path / "m", "cuda", tf32=True)
    assert gb.load(tmp_path / "m", "cuda", dtype="float32", tf32=True).device.tf32


def test_a_device_that_is_too_old_for_tf32(monkeypatch):
    monkeypatch.setattr(cuda_setup, "_capability", lambda cupy, index: (7, 5))
    with pytest.raises(
        gb.DeviceError, match=r"begins at compute capability 8\.0, and cuda:0 has 7\.5\. Use tf32=False"
    ):
        gb.Network(5, LAYERS, device="cuda", tf32=True)
    assert not gb.Network(5, LAYERS, device="cuda").device.tf32


@pytest.mark.parametrize("trainable", [True, False])
def test_parameters_that_a_callback_sets_are_those_of_the_next_step(trainable):
    """Products read a copy in 16 bits, which an optimizer does not renew in a frozen layer."""
    layers = [gb.Dense(8, "tanh", trainable=trainable), gb.Dense(3, "softmax")]
    net = gb.Network(4, layers, dtype="bfloat16", device="cuda")
    x, labels = np.random.default_rng(0).normal(size=(16, 4)), np.arange(16) % 3
    trainer = gb.Trainer(net, optimizer=gb.SGD(1e-30), batch_size=16)
    measured = []

    def triple(state):
        if state.epoch == 1:
            net.layers[0].weight = 3 * net.device.to_host(net.layers[0].weight)
            measured.append(trainer.evaluate(x, labels)["loss"])

    history = trainer.fit(x, labels, 2, callbacks=[triple], progress=False)
    assert history[1]["loss"] == pytest.approx(measured[0], rel=4e-3) != history[0]["loss"]
