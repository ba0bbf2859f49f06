"""Gradients clipped by their norm, and the moving average of the parameters: against PyTorch; what may be set."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.errors import DivergedError
from gpu_backprop.explanation.explain import explain

X = np.array([[1.0, 0.5, -1.0], [0.0, 2.0, 1.5], [-1.5, 1.0, 0.5], [2.0, -0.5, 1.0]])
Y = np.array([[1.0, 0.0], [3.0, -2.0], [-1.0, 1.0], [0.5, 2.0]])
LIMITS = 0.5, 0.5, 4.0, 100.0
PYTORCH = [
    [0.539663021674, -0.12029119939, 1.036447100998, 0.564548574335, -0.437289546813, 0.184877606305, 0.107503814911,
     -0.212327695926],
    [0.581959814715, 0.005238780233, 1.073252357735, 0.375975122182, -0.370842357799, 0.124693644677, 0.108180393591,
     -0.213212690576],
    [0.751676821946, 0.443065619279, 1.212451904686, -0.340210084256, -0.105366235937, -0.072299295374, 0.072713686836,
     -0.154752698569],
    [0.80074155682, 0.300260364706, 1.228719741868, -0.414923454742, -0.029157270832, 0.037027083643, -0.09541046597,
     0.11020245254],
]  # fmt: skip
"""W and b after each of four steps of a Linear(3, 2) in float64: of ½Σ(y − y*)² averaged over the rows, by
torch.nn.utils.clip_grad_norm_ with LIMITS and SGD(lr=0.5), PyTorch 2.13."""

AVERAGED = [
    [0.509915755419, -0.217572799848, 1.009111775249, 0.703637143584, -0.484322386703, 0.233719401576, 0.101875953728,
     -0.203081923981],
    [0.527926770243, -0.161869904828, 1.025146920871, 0.621721638233, -0.455952379477, 0.206462962351, 0.103452063694,
     -0.20561461563],
    [0.583864283168, -0.010636023801, 1.071973166825, 0.381238707611, -0.368305843592, 0.13677239792, 0.095767469479,
     -0.192899136365],
    [0.638083601581, 0.067088073326, 1.111159810586, 0.182198167023, -0.283518700402, 0.111836069351, 0.047972985617,
     -0.117123739139],
]  # fmt: skip
"""Their average: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.75)) of torch.optim.swa_utils, which was
updated before the first step and after each."""


def linear(seed=0, dtype="float64", **options):
    net = gb.Network(3, [gb.Dense(2)], dtype=dtype, device="cpu", seed=seed)
    net.layers[0].weight = np.broadcast_to([[0.5, -0.25], [1.0, 0.75], [-0.5, 0.25]], (*net.models_shape, 3, 2))
    net.layers[0].bias = np.broadcast_to([0.1, -0.2], (*net.models_shape, 2))
    return gb.Trainer(net, "half_squared_error", gb.SGD(0.5), batch_size=4, **options)


def learned(trainer, flat=None):
    """W and b in a row, of each member; of the parameters, or of what lies as they do."""
    flat = trainer.network.parameters if flat is None else flat
    shapes = trainer.network.places
    return np.concatenate([flat[..., start : start + math.prod(shape)] for _, _, shape, start in shapes], axis=-1)


# Clipping -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, [0, 1]])
def test_steps_as_pytorchs(seed):
    """A limit that is set takes effect from the next step on; the plan stays the same."""
    trainer = linear(seed, clip_norm=LIMITS[0], average=0.75)
    for limit, parameters, average in zip(LIMITS, PYTORCH, AVERAGED, strict=True):
        trainer.clip_norm = limit
        trainer.step(X, Y)
        np.testing.assert_allclose(learned(trainer), np.broadcast_to(parameters, learned(trainer).shape), atol=1e-11)
        found = learned(trainer, trainer.training_step.averaging.average)
        np.testing.assert_allclose(found, np.broadcast_to(average, found.shape), atol=1e-11)


def test_each_member_has_a_norm_and_a_limit():
    trainer, alone = linear([0, 1], clip_norm=[0.5, math.inf]), (linear(clip_norm=0.5), linear())
    for _ in range(2):
        for one in (trainer, *alone):
            one.step(X, Y)
    np.testing.assert_allclose(learned(trainer), [learned(one) for one in alone], rtol=1e-12)
    assert trainer.clip_norm == (0.5, math.inf)


def test_weights_and_float16_enter_the_norm(half_on_a_cpu):
    """counted·√Σ∇² is the norm, with S in the gradients; and where nothing counts, nothing moves."""
    narrow, wide = (linear(dtype=dtype, clip_norm=0.5) for dtype in ("float16", "float32"))
    weights = np.array([1.0, 2.0, 0.0, 1.0])
    narrow.step(X, Y, weights)  # which overflows
    for trainer in (narrow, wide):
        trainer.step(X, Y, weights)
        before = learned(trainer)
        trainer.step(X, Y, 0 * weights)
        np.testing.assert_array_equal(learned(trainer), before)
    assert narrow.scaling.state[0] == 32768
    np.testing.assert_allclose(learned(narrow), learned(wide), atol=2e-3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_gradient_that_is_not_finite_is_seen(dtype):
    trainer = linear(dtype=dtype, clip_norm=1.0)
    trainer.network.parameters[...] = np.finfo(dtype).max / 4
    with pytest.raises(DivergedError, match="became NaN or infinite in epoch 1, step 1"):
        trainer.fit(X, Y, 2, progress=False)
    trainer.step(X, np.full_like(Y, np.inf))
    assert np.isnan(learned(trainer)).all()


def test_what_cannot_be():
    for value in (0, -1.0, math.nan, "1", True):
        with pytest.raises(
            gb.InputError, match="clip_norm must be a number > 0, or one a member; math.inf clips nothi"
        ):
            linear(clip_norm=value)
    with pytest.raises(gb.InputError, match="clip_norm must be one number, got"):
        linear(clip_norm=[1.0, 2.0])
    with pytest.raises(gb.InputError, match=r"cannot be set, since this trainer was made without.*clip_norm=math\.inf"):
        linear().clip_norm = 1.0
    with pytest.raises(gb.InputError, match=r"explain shows a step that clips nothing, but .* has clip_norm=1\.0"):
        explain(linear(clip_norm=1.0), X, Y)
    for value in (1, -0.1, math.nan, "0.9"):
        with pytest.raises(gb.InputError, match=r"average must be a number in \[0, 1\), such as 0\.999"):
            linear(average=value)
    with pytest.raises(gb.InputError, match="average cannot be set, since this trainer was made without"):
        linear().average = 0.9


# The average ----------------------------------------------------------------------------------------------------------


def test_validation_measures_the_average_and_the_end_keeps_it():
    """Loss by loss; a further fit goes on from the average."""
    trainer, epochs = linear(average=0.5), 3
    plain, average, expected = linear(), learned(linear()), []
    for _ in range(epochs):
        plain.step(X, Y)
        average += 0.5 * (learned(plain) - average)
        expected.append(average.copy())
    held_out = X[:3] + 1, Y[:3]
    history = trainer.fit(X, Y, epochs, validation=held_out, progress=False)
    np.testing.assert_allclose(learned(trainer), expected[-1], rtol=1e-12)
    for row, parameters in zip(history, expected, strict=True):
        weight, bias = np.reshape(parameters[:6], (3, 2)), parameters[6:]
        loss = ((held_out[0] @ weight + bias - held_out[1]) ** 2).sum() / 2 / 3
        assert row["val_loss"] == pytest.approx(loss, rel=1e-12)
    assert trainer.evaluate(*held_out)["loss"] == pytest.approx(history[-1]["val_loss"], rel=1e-12)
    before = learned(trainer)
    trainer.fit(X, Y, 1, progress=False)
    plain.network.parameters = trainer.network.parameters
    assert np.abs(learned(trainer) - before).max() > 1e-3


def test_parameters_that_are_set_between_fits_begin_a_new_average():
    trainer, fresh = linear(average=0.9), linear(average=0.9)
    trainer.fit(X, Y, 2, progress=False)
    trainer.network.parameters = fresh.network.parameters
    for one in (trainer, fresh):
        one.fit(X, Y, 1, progress=False)
    np.testing.assert_array_equal(learned(trainer), learned(fresh))


def test_the_average_of_steps_by_hand_begins_with_the_first():
    """As the parameters are then, whatever was measured before."""
    trainer, fresh = linear(average=0.9), linear(average=0.9)
    trainer.profile(X, Y, runs=1)
    for one in (trainer, fresh):
        one.network.layers[0].bias = np.array([3.0, -1.0])
        one.step(X, Y)
        average = 0.9 * np.r_[0.5, -0.25, 1.0, 0.75, -0.5, 0.25, 3.0, -1.0] + 0.1 * learned(one)
        np.testing.assert_allclose(learned(one, one.training_step.measured_parameters), average, rtol=1e-12)


def test_a_fit_that_is_stopped_or_interrupted_keeps_the_average():
    for ending in (lambda state: True, lambda state: (_ for _ in ()).throw(KeyboardInterrupt)):
        trainer, whole = linear(average=0.9), linear(average=0.9)
        try:
            trainer.fit(X, Y, 5, callbacks=[ending], progress=False)
        except KeyboardInterrupt:
            assert trainer.history.stopped.startswith("interrupted in epoch 1")
        whole.fit(X, Y, 1, progress=False)
        np.testing.assert_array_equal(learned(trainer), learned(whole))


def test_after_a_divergence_the_parameters_are_those_of_the_last_finite_step():
    trainer, plain = (linear(**options) for options in ({"average": 0.9}, {}))
    for one in (trainer, plain):
        one.optimizer.learning_rate = 1e200
        with pytest.raises(DivergedError), np.errstate(all="ignore"):
            one.fit(X, Y, 5, progress=False)
    np.testing.assert_array_equal(learned(trainer), learned(plain))


def test_early_stopping_keeps_the_best_average():
    trainer = linear([0, 1], average=0.5)
    averages = []
    noted = lambda state: averages.append(learned(trainer, trainer.training_step.measured_parameters))  # noqa: E731
    history = trainer.fit(
        X, Y, 30, validation=(X + 0.3, Y), early_stopping=gb.EarlyStopping(patience=2), callbacks=[noted],
        progress=False,
    )  # fmt: skip
    assert history.best_epoch[0] < len(history)
    for member, epoch in enumerate(history.best_epoch):
        np.testing.assert_array_equal(learned(trainer)[member], averages[epoch - 1][member])


def test_a_copy_goes_on_alike():
    trainer = linear(clip_norm=0.5, average=0.9, accumulate=2)
    trainer.step(X, Y)
    twin = copy.deepcopy(trainer)
    assert (twin.clip_norm, twin.average, twin.accumulate) == (0.5, 0.9, 2)
    for one in (trainer, twin):
        one.fit(X, Y, 3, progress=False)
    assert twin.network.parameters.tobytes() == trainer.network.parameters.tobytes()


# Stopped members ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_stopped_member_stays_as_it_is(weighted, dtype, half_on_a_cpu):
    """Parameters, moments, step number, average and loss scale; the others go on as if it were not there."""
    layers = [gb.Dense(5, "tanh", max_norm=0.5), gb.Dropout(0.3), gb.Dense(2)]
    nets = [gb.Network(3, layers, seed=[4, 5, 6], dtype=dtype, device="cpu") for _ in range(2)]
    stopped, whole = (gb.Trainer(net, "half_squared_error", batch_size=2, clip_norm=0.5, average=0.9) for net in nets)
    made = stopped, whole
    weights = np.array([1.0, 2.0, 0.5, 1.0]) if weighted else None
    for one in (*made, *made, *made, *made):  # until no gradient overflows
        one.step(X, Y, weights)
    stopped.training_step.running = np.array([True, False, True])
    before = {name: np.array(array) for name, array in stopped.training_step.state().arrays.items()}
    for one in made:
        one.step(X, Y, weights)
    after, others = (one.training_step.state().arrays for one in made)
    for name, array in after.items():
        if name in ("random", "running"):
            continue
        axis = array.ndim - 2 if name in stopped.optimizer.moments else 0
        if name not in stopped.optimizer.moments:
            assert array[1].tobytes() == before[name][1].tobytes(), name
        assert np.delete(array, 1, axis).tobytes() == np.delete(others[name], 1, axis).tobytes(), name
    assert not np.array_equal(after["parameters"][0], before["parameters"][0])
    stopped.training_step.running = [True] * 3
    stopped.step(X, Y, weights)
    assert not np.array_equal(stopped.network.parameters[1], before["parameters"][1])


def test_who_can_be_stopped():
    with pytest.raises(gb.InputError, match="no member can be stopped: there is no models axis"):
        linear().training_step.running = [False]
    assert linear().training_step.running is None
    for wrong in ([True], [1, 0], [[True, False]]):
        with pytest.raises(gb.InputError, match="running must be 2 truth values, one a member"):
            linear([0, 1]).training_step.running = wrong
