"""on_divergence: an epoch that diverges begins again with half the learning rate; or members that diverge stop."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.training import fit as fit_module
from gpu_backprop.training.checkpoints.folder import numbered
from gpu_backprop.training.progress import Progress

RNG = np.random.default_rng(3)
X = RNG.normal(size=(50, 4))
Y = X @ RNG.normal(size=(4, 2))

DTYPES = ["float64", "float32"]
"""NumPy, and compiled kernels where there is a compiler."""


class Watch:
    """A callback after every step: none of them can be done again to look for the one that diverged."""

    def on_step(self, state):
        pass


def trainer_of(rate, dtype="float64", seed=1, batch_size=8, **options):
    net = gb.Network(4, [gb.Dense(6, "relu"), gb.Dropout(0.2), gb.Dense(2)], dtype=dtype, device="cpu", seed=seed)
    return gb.Trainer(net, "squared_error", gb.SGD(rate, momentum=0.5), batch_size=batch_size, **options)


def fit(trainer, epochs=1, **options):
    return trainer.fit(X, Y, epochs, progress=False, **options)


def warns(epoch):
    return pytest.warns(RuntimeWarning, match=f"NaN or infinite in epoch {epoch}, which begins again with half")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "options", [{}, {"loss_every": 2}, {"callbacks": [Watch()]}], ids=["", "loss_every", "on_step"]
)
def test_the_epoch_is_what_the_smaller_rate_makes_of_it(dtype, options):
    """Order and masks are those of its first beginning."""
    trainer = trainer_of(64.0, dtype)
    with warns(1) as caught:
        history = fit(trainer, on_divergence="halve_rate", **options)
    assert [warning.filename for warning in caught] == [__file__]  # once, and where fit was called
    halvings = history[0]["rate_halved"]
    assert halvings > 3
    assert trainer.optimizer.learning_rate == 64 / 2**halvings
    twin = trainer_of(trainer.optimizer.learning_rate, dtype)
    assert fit(twin)["loss"] == history["loss"]
    assert twin.network.parameters.tobytes() == trainer.network.parameters.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_was_far_off_before_the_epoch_is_not_gone_on_from(dtype):
    """One step an epoch: the loss grows without bounds for epochs before it is infinite. Each time it begins anew from
    what the epoch with the least loss began with."""
    trainer = trainer_of(1.0, dtype, batch_size=50)
    with pytest.warns(RuntimeWarning, match="so will every epoch that does, 10 times at most"):
        history = fit(trainer, 20, on_divergence="halve_rate")
    again = [row["epoch"] for row in history if "rate_halved" in row]
    assert len(again) == 2
    assert max(history["loss"][: again[0] - 1]) > 1e10 > 20 > history[-1]["loss"]
    assert "rate_halved" in history.columns
    assert max(history["loss"][epoch - 1] for epoch in again) < 20


@pytest.mark.parametrize("dtype", DTYPES)
def test_members_that_did_not_diverge_go_on_as_they_would(dtype):
    together, calm = trainer_of([0.01, 64.0, 1.0], dtype, [1, 2, 3]), trainer_of(0.01, dtype, [1, 2, 3])
    with warns(1):
        fit(together, 5, on_divergence="halve_rate")
    fit(calm, 5)
    assert together.optimizer.learning_rate[0] == 0.01
    assert max(together.optimizer.learning_rate) <= 0.25
    assert together.network.parameters[0].tobytes() == calm.network.parameters[0].tobytes()
    assert np.isfinite(together.history[-1]["loss"]).all()


def test_it_gives_up_after_ten_halvings():
    trainer = trainer_of(1e20)
    with pytest.raises(gb.DivergedError, match=r"now 9.765625e\+16"), warns(1):
        fit(trainer, on_divergence="halve_rate")
    assert not len(trainer.history)
    assert np.isfinite(trainer.network.parameters).all()


def test_a_fit_that_does_not_diverge_is_the_same():
    one, other = trainer_of(0.01), trainer_of(0.01)
    assert fit(one, on_divergence="halve_rate")["loss"] == fit(other)["loss"]
    assert "rate_halved" not in one.history.columns


def test_the_progress_has_as_many_rows_as_there_are():
    shown = []

    class Counter(Progress):
        def advance(self, samples):
            shown.append(samples)

    trainer = trainer_of(64.0)
    with pytest.MonkeyPatch.context() as patch, warns(1):
        patch.setattr(fit_module, "open_progress", lambda *_: Counter())
        fit(trainer, on_divergence="halve_rate")
    assert sum(shown) == 50


def test_only_these():
    with pytest.raises(gb.InputError, match="unknown on_divergence 'half'. Known: raise, halve_rate, stop"):
        fit(trainer_of(0.1), on_divergence="half")
    with pytest.raises(gb.InputError, match="there is no models axis: use 'raise'"):
        fit(trainer_of(0.1), on_divergence="stop")


# Members that stop ----------------------------------------------------------------------------------------------------


class Spoil:
    """Gives some members a rate that is too large after some epochs, and keeps the state after each epoch."""

    def __init__(self, epochs):
        self.epochs, self.states, self.running = epochs, [], []

    def on_epoch(self, state):
        trainer = state.trainer
        arrays = trainer.training_step.state().arrays
        self.states.append({name: np.array(array) for name, array in arrays.items()})
        self.running.append(arrays["running"].tolist())
        large = 1e37 if trainer.network.dtype == np.float32 else 1e300
        trainer.optimizer.learning_rate = [large if self.epochs.get(m) == state.epoch else 0.01 for m in range(3)]


ON_STOP = {
    "": {},
    "loss_every": {"loss_every": 2},
    "on_step": {"callbacks": [Watch()]},
    "one step an epoch": {"batch_size": 50},
    "averaged, clipped": {"average": 0.9, "clip_norm": 10.0},
    "validation": {"validation": (X[:9], Y[:9])},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", ON_STOP.values(), ids=ON_STOP)
def test_members_that_diverge_stop_and_the_others_never_know(dtype, options):
    of_trainer = {name: value for name, value in options.items() if name in ("average", "clip_norm", "batch_size")}
    of_fit = {name: value for name, value in options.items() if name not in of_trainer}
    stopping, calm = (trainer_of(0.01, dtype, [1, 2, 3], **of_trainer) for _ in range(2))
    spoil, noted = Spoil({1: 2, 2: 3}), Spoil({})
    with pytest.warns(RuntimeWarning, match="or parameters of member [12] became NaN or infinite in epoch") as caught:
        history = fit(
            stopping, 6, **of_fit | {"callbacks": [*of_fit.get("callbacks", ()), spoil]}, on_divergence="stop"
        )
    fit(calm, 6, **of_fit | {"callbacks": [*of_fit.get("callbacks", ()), noted]})
    assert [warning.filename for warning in caught] == [__file__] * 2
    first, second = (history.diverged[member] for member in (1, 2))
    assert history.diverged[0] == 0 and first in (3, 4) and second in (4, 5)  # the step may show in the epoch after
    lost = np.array([[epoch >= (end or 9) for end in history.diverged] for epoch in range(1, 7)])
    assert (np.isnan(history["loss"]) == lost).all()
    assert np.array(history["loss"])[:, 0].tolist() == np.array(calm.history["loss"])[:, 0].tolist()
    for epoch, (found, wanted) in enumerate(zip(spoil.states, noted.states, strict=True), 1):
        for name, array in found.items():
            assert array[0].tobytes() == wanted[name][0].tobytes(), name
            for member, end in ((1, first), (2, second)):
                if epoch >= end and name not in ("random", "running"):
                    before = spoil.states[end - 2][name][member]
                    assert array[member].tobytes() == before.tobytes(), (epoch, name)
    assert spoil.running[-1] == [1, 0, 0] and stopping.training_step.running.tolist() == [1, 1, 1]
    assert np.isfinite(stopping.network.parameters).all()
    if "validation" in options:
        assert np.isfinite(history["val_loss"]).all()
    if "loss_every" in options:
        assert all(np.isnan(row["loss"][1]) for row in history.steps if row["epoch"] > first)
    assert "nan" not in repr(history) + history._repr_html_()


def test_every_fit_begins_with_all_members():
    trainer = trainer_of([0.01, 64.0], "float64", [1, 2])
    with pytest.warns(RuntimeWarning, match="member 1 became NaN or infinite in epoch 1, and the parameters stay"):
        fit(trainer, on_divergence="stop")
    before, trainer.optimizer.learning_rate = trainer.network.parameters.copy(), 0.01
    fit(trainer, on_divergence="stop")
    assert trainer.history.diverged is None and np.isfinite(trainer.history[-1]["loss"]).all()
    assert (trainer.network.parameters != before).any(axis=1).all()


def test_where_every_member_diverges_it_is_an_error():
    trainer, spoil = trainer_of(0.01, "float64", [1, 2, 3]), Spoil({0: 1, 1: 2, 2: 1})
    some = pytest.warns(RuntimeWarning, match="of members 0, 2 became NaN or infinite")
    with pytest.raises(gb.DivergedError, match="every member has diverged, the last in epoch") as raised, some:
        fit(trainer, 6, callbacks=[spoil], on_divergence="stop")
    assert raised.value.epoch == max(trainer.history.diverged) and len(trainer.history) == raised.value.epoch - 1
    assert np.isfinite(trainer.network.parameters).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_best_parameters_of_early_stopping_remain(dtype):
    """Of a member that has diverged too; and the fit ends where each has stopped or diverged."""
    trainer, spoil = trainer_of(0.01, dtype, [1, 2, 3], batch_size=50), Spoil({1: 3})
    stopper = gb.EarlyStopping("loss", patience=3, min_delta=0.1)
    with pytest.warns(RuntimeWarning, match="of member 1 became"):
        history = fit(trainer, 300, callbacks=[spoil], early_stopping=stopper, on_divergence="stop")
    assert len(history) < 300 and "loss of no member has improved for 3 epochs" in history.stopped
    best, end = history.best_epoch, history.diverged[1]
    assert best[1] < end and len(history) == max(np.flatnonzero(~np.isnan(history["loss"]).all(axis=1))) + 1
    for member in range(3):
        wanted = spoil.states[best[member] - 1]["parameters"][member]
        assert trainer.network.parameters[member].tobytes() == wanted.tobytes()
    assert all(running[1] == 0 for running in spoil.running[end - 1 :])


@pytest.mark.parametrize("stopping", [None, gb.EarlyStopping("loss", patience=9)], ids=["", "early stopping"])
def test_a_callback_may_end_members(stopping, tmp_path):
    """For the rest of the fit, whatever early stopping says, also where it goes on in another process; all of them end
    it."""

    def end(state):
        step = state.trainer.training_step
        step.ended = step.ended | (np.arange(3) < state.epoch - 1)
        if state.epoch < 4:
            seen.append(step.running.tolist())
            parameters.append(np.array(state.trainer.network.parameters))

    seen, parameters = [], []
    options = {"early_stopping": stopping, "callbacks": [end, gb.Checkpoint(tmp_path, keep=9)]}
    trainer, resumed = (trainer_of(0.01, "float64", [1, 2, 3]) for _ in range(2))
    history = fit(trainer, 9, **options)
    assert seen == [[1, 1, 1], [0, 1, 1], [0, 0, 1]] and "every member had ended after epoch 4" in history.stopped
    assert np.isfinite(history["loss"]).all() and len(history) == 4 and history.diverged is None
    assert parameters[2][0].tobytes() == parameters[1][0].tobytes() != parameters[0][0].tobytes()
    assert trainer.training_step.running.tolist() == [1, 1, 1]
    resumed.resume(numbered(tmp_path)[3][1])  # that of epoch 3
    seen.clear()
    fit(resumed, 9, **options)
    assert resumed.network.parameters.tobytes() == trainer.network.parameters.tobytes() and not seen


def test_an_epoch_that_is_ended_stops_them_too():
    class Stop:
        def on_step(self, state):
            return state.epoch == 2 and state.step == 4

    trainer, spoil = trainer_of(0.01, "float64", [1, 2, 3]), Spoil({2: 1})
    history = fit(trainer, 6, callbacks=[spoil, Stop()], on_divergence="stop")
    assert "stopped in epoch 2 by Stop, after the loss or parameters of member 2 became NaN" in history.stopped
    assert history.diverged == [0, 0, 2] and len(history) == 1
    before = spoil.states[0]["parameters"]
    assert trainer.network.parameters[2].tobytes() == before[2].tobytes()
    assert trainer.network.parameters[1].tobytes() != before[1].tobytes()


def test_in_float16_too(half_on_a_cpu):
    trainer = trainer_of([0.01, 1e30], "float16", [1, 2])
    with pytest.warns(RuntimeWarning, match="of member 1 became"):
        fit(trainer, 4, on_divergence="stop")
    assert np.isfinite(trainer.history[-1]["loss"][0]) and np.isfinite(trainer.network.parameters).all()
