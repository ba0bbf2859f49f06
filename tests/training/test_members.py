"""Some members of a network with a models axis: taken, they go on as they would have; and one in another's place."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.data import Preprocessing
from gpu_backprop.training.members import copy_member, member_network, take_members

RNG = np.random.default_rng(5)
X = RNG.normal(size=(45, 6))
LABELS = (X[:, :3] + RNG.normal(size=(45, 3))).argmax(axis=1)
VALIDATION = X[30:], LABELS[30:]
SEEDS = [4, 7, 9, 11]

DTYPES = ["float64", "float32"]
"""NumPy, and compiled kernels where there is a compiler."""

TAKEN = [[2, 0], [1], [3, 2, 1, 0]]


def of_each(step, steps):
    return [1, 0.5, 1 - step / (2 * steps), 0.25]


def trainer_of(dtype, member=None, plain=False, **more):
    """A trainer whose settings are one a member wherever they can be; or one of what a single member has of them."""

    def own(*values):
        return values if member is None else values[member]

    def beta(step, steps):
        return own(*of_each(step, steps))

    schedules = {"learning_rate": own("cosine", None, gb.Warmup(4, "linear"), gb.Constant(0.5)), "beta1": beta}
    schedules["beta2"] = gb.Warmup(2, beta)
    optimizer = gb.Adam(own(0.01, 0.02, 0.03, 0.04), weight_decay=own(0.01, 0.1, 0.02, 0.03))
    optimizer.schedule = {name: one for name, one in schedules.items() if one is not None}
    dropout = gb.Dropout(own(0.1, 0.2, 0.3, 0.4), schedule=own(None, "linear", None, gb.Constant(0.5)))
    layers = [gb.Dense(8, "tanh", max_norm=own(1.0, 2.0, 0.5, 3.0)), dropout, gb.Dense(3, "softmax")]
    net = gb.Network(6, layers, dtype=dtype, device="cpu", seed=own(*SEEDS))
    options = {"clip_norm": own(0.5, 1.0, 2.0, 0.1), "clip_value": own(1.0, 0.5, 0.1, 0.2)}
    options |= {"average": own(0.5, 0.9, 0.8, 0.7), "batch_size": 8, "metrics": ["accuracy", "log_loss"]} | more
    return gb.Trainer(net, gb.CrossEntropy(label_smoothing=own(0.0, 0.1, 0.0, 0.2)), optimizer, **options)


def fit(trainer, epochs=6, callbacks=(), **options):
    options = {"validation": VALIDATION, "progress": False, "early_stopping": gb.EarlyStopping(patience=2)} | options
    return trainer.fit(X[:30], LABELS[:30], epochs, callbacks=callbacks, **options)


class Take:
    """Takes some members after an epoch."""

    only_reads = True

    def __init__(self, epoch, members):
        self.epoch, self.members, self.taken = epoch, members, None

    def on_epoch(self, state):
        if state.epoch == self.epoch:
            self.taken = take_members(state.trainer, self.members)


def same(found, wanted, members):
    """All that training has come to is the same, bit for bit, and so is the history."""
    arrays, whole = (trainer.training_step.state().arrays for trainer in (found, wanted))
    assert arrays.keys() == whole.keys()
    for name, array in arrays.items():
        assert array.tobytes() == whole[name][members].tobytes(), name
    for row, other in zip(found.history, wanted.history, strict=True):
        for name, value in other.items():
            if isinstance(value, list):
                assert np.array(row[name]).tobytes() == np.array([value[m] for m in members]).tobytes(), name
    for name in ("best_epoch", "diverged"):
        values = getattr(wanted.history, name)
        assert getattr(found.history, name) == (None if values is None else [values[m] for m in members])


# A trainer of some members --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("members", TAKEN, ids=str)
@pytest.mark.parametrize("more", [{}, {"accumulate": 3}, {"seed": 3}], ids=str)
def test_what_is_taken_in_a_fit_goes_on_in_it(dtype, members, more):
    whole, take = trainer_of(dtype, **more), Take(3, members)
    plateau = gb.ReduceOnPlateau(patience=1)
    fit(whole, callbacks=[take, plateau])
    taken = take.taken
    assert taken.network.models_shape == (len(members),) and len(taken.history) == 3
    fit(taken, callbacks=[gb.ReduceOnPlateau(patience=1)])
    if len(taken.history) < len(whole.history):  # where all that are left have stopped
        assert taken.history.best_epoch == [whole.history.best_epoch[m] for m in members]
        assert taken.network.parameters.tobytes() == whole.network.parameters[members].tobytes()
    else:
        same(taken, whole, members)
        rates = whole.optimizer.learning_rate
        assert taken.optimizer.learning_rate == tuple(rates[m] for m in members)
        assert taken.training_step.shuffling.states == [whole.training_step.shuffling.states[m] for m in members]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("members", TAKEN, ids=str)
def test_what_is_taken_after_a_fit_goes_on_as_all_do(dtype, members):
    whole = trainer_of(dtype)
    fit(whole, 3)
    taken = take_members(whole, members)
    for trainer in (whole, taken):
        fit(trainer, 2, early_stopping=False)
        trainer.step(X, LABELS)
    same(taken, whole, members)
    twice = take_members(taken, [0])
    for trainer in (whole, twice):
        fit(trainer, 1, early_stopping=False)
    same(twice, whole, members[:1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("member", range(4))
def test_a_member_that_is_taken_is_what_it_is_alone(dtype, member):
    """To rounding: its settings, schedules and history are its own."""
    whole, alone, take = trainer_of(dtype), trainer_of(dtype, member), Take(3, [member])
    for trainer in (whole, alone):
        fit(trainer, early_stopping=False, callbacks=[take] if trainer is whole else ())
    fit(take.taken, early_stopping=False)
    tolerance = 1e-10 if dtype == "float64" else 1e-3
    found = take.taken.network.parameters[0]
    np.testing.assert_allclose(found, alone.network.parameters, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(take.taken.history["val_loss"], np.array(alone.history["val_loss"])[:, None], tolerance)
    assert take.taken.clip_norm == (alone.clip_norm,) and take.taken.average == (alone.average,)
    assert take.taken.loss.label_smoothing == (alone.loss.label_smoothing,)


def test_those_that_have_ended_stay_so():
    """The one that diverged, and the one that early stopping has stopped: neither changes in what is taken."""
    whole, take = trainer_of("float64"), Take(4, [3, 0, 1])
    stopping = gb.EarlyStopping(patience=2, min_delta=0.02, restore_best=False)
    whole.optimizer.schedule = None
    whole.optimizer.learning_rate = [0.01, 1e200, 0.01, 1e-6]
    options = {"early_stopping": stopping, "on_divergence": "stop"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        fit(whole, callbacks=[take], **options)
        before = take.taken.training_step.measured_parameters.copy()
        assert take.taken.training_step.running.tolist() == [0, 1, 0]
        fit(take.taken, **options)
    same(take.taken, whole, [3, 0, 1])
    changed = (take.taken.network.parameters != before).any(axis=1)
    assert changed.tolist() == [False, True, False] and take.taken.history.diverged[2] > 0


def test_float16_goes_on_too(half_on_a_cpu):
    whole, take = trainer_of("float16"), Take(2, [2, 1])
    fit(whole, 4, callbacks=[take], early_stopping=False)
    fit(take.taken, 4, early_stopping=False)
    same(take.taken, whole, [2, 1])


def test_nothing_of_the_whole_changes_and_nothing_is_shared():
    whole, twin = trainer_of("float64"), trainer_of("float64")
    for trainer in (whole, twin):
        fit(trainer, 2)
    taken = take_members(whole, [1, 3])
    fit(taken, 2)
    for trainer in (whole, twin):
        fit(trainer, 1)
    same(whole, twin, [0, 1, 2, 3])
    assert (taken.batch_size, taken.metrics, taken.accumulate) == (8, ("accuracy", "log_loss"), 1)
    assert repr(taken.network.layers[1]).startswith("Dropout([0.2, 0.4]") and taken.network.seed == [7, 11]


@pytest.mark.parametrize("wrong", [[], [4], [-1], [0, 1.5], [True], ["0"]], ids=str)
def test_members_that_are_none(wrong):
    trainer = trainer_of("float64")
    with pytest.raises(gb.InputError, match="members must be numbers from 0 to 3, at least one"):
        take_members(trainer, wrong)
    for use in (lambda m: member_network(trainer.network, m), lambda m: copy_member(trainer, 0, m)):
        with pytest.raises(gb.InputError, match="members must be numbers from 0 to 3"):
            use(wrong[-1] if wrong else None)


def test_there_must_be_members_and_no_epoch_under_way():
    alone = trainer_of("float64", 0)
    for use in (
        lambda: take_members(alone, [0]),
        lambda: member_network(alone.network, 0),
        lambda: copy_member(alone, 0, 0),
    ):
        with pytest.raises(gb.InputError, match="the network has no members: there is no models axis"):
            use()

    class InAStep:
        def on_step(self, state):
            take_members(state.trainer, [0])

    said, take = "takes what an epoch leaves, and one is under way: call it in on_epoch", Take(2, [0, 1])
    with pytest.raises(gb.StateError, match=said):
        fit(trainer_of("float64"), callbacks=[InAStep()])
    fit(trainer_of("float64"), callbacks=[take])
    with pytest.raises(gb.StateError, match=said):
        take_members(take.taken, [0])  # which has to go on first


# One member -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_member_is_an_ordinary_network(dtype, tmp_path):
    trainer = trainer_of(dtype)
    trainer.network.preprocessing = Preprocessing.fit(X, np.array(["a", "b", "c"])[LABELS])
    trainer.network.classes = ["a", "b", "c"]
    fit(trainer, 3)
    trainer.network.averaged = True
    trainer.network.trained_by = {"epochs": 3, "best_epoch": trainer.history.best_epoch}
    y = trainer.network.predict_members(X)
    for member, seed in enumerate(SEEDS):
        net = member_network(trainer.network, member)
        assert (net.models_shape, net.seed, net.averaged, net.classes) == ((), seed, False, ["a", "b", "c"])
        assert net.trained_by == {"epochs": 3, "best_epoch": trainer.history.best_epoch[member]}
        assert net.preprocessing is not trainer.network.preprocessing
        assert net.layers[1].rate == (0.1, 0.2, 0.3, 0.4)[member] and net.layers[0].max_norm == (1, 2, 0.5, 3)[member]
        assert net.layers[1].schedule == (None, gb.Polynomial(power=1), None, gb.Constant(0.5))[member]
        tolerance = 1e-12 if dtype == "float64" else 1e-5
        np.testing.assert_allclose(net.predict(X), y[member], rtol=tolerance, atol=tolerance)
        masks = [np.array(one.forward(X, training=True)) for one in (net, trainer.network.copy())]
        np.testing.assert_allclose(masks[0], masks[1][member], rtol=tolerance, atol=tolerance)


# One in the place of another ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_copied_member_has_the_others_training_and_its_own_settings(dtype):
    trainer = trainer_of(dtype)
    fit(trainer, 2)
    before, settings = (
        {n: np.array(a) for n, a in trainer.training_step.state().arrays.items()},
        repr(trainer.optimizer),
    )
    trainer.step(X, LABELS)
    before = {n: np.array(a) for n, a in trainer.training_step.state().arrays.items()}
    copy_member(trainer, 2, 0)
    for name, array in trainer.training_step.state().arrays.items():
        assert array[0].tobytes() == before[name][0 if name in ("random", "running") else 2].tobytes(), name
        assert array[1:].tobytes() == before[name][1:].tobytes(), name
    assert repr(trainer.optimizer) == settings
    trainer.step(X, LABELS)
    assert (trainer.network.parameters[0] != trainer.network.parameters[2]).any()  # whose masks and rates are others


def test_a_copy_in_the_place_of_one_that_diverged_goes_on():
    class Replace:
        def on_epoch(self, state):
            if state.epoch == 2:
                state.trainer.optimizer.learning_rate = 0.01
                copy_member(state.trainer, 0, 1)

    trainer = trainer_of("float64")
    trainer.optimizer.schedule, trainer.optimizer.learning_rate = None, [0.01, 1e200, 0.01, 0.01]
    with pytest.warns(RuntimeWarning, match="member 1 became NaN"):
        fit(trainer, 4, callbacks=[Replace()], early_stopping=False, on_divergence="stop")
    losses = np.array(trainer.history["loss"])
    assert np.isnan(losses[:, 1]).tolist() == [True, True, False, False] and np.isfinite(losses[:, [0, 2, 3]]).all()
    assert trainer.history.diverged == [0, 0, 0, 0]
