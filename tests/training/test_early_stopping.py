"""Early stopping: when a fit ends, which epoch is its best one, and that its parameters are what remains."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.training.callbacks import FitState

RNG = np.random.default_rng(5)
X, NOISE = RNG.normal(size=(90, 6)), RNG.normal(size=(90, 3))
LABELS = (X[:, :3] + 2 * NOISE).argmax(axis=1)
VALIDATION = X[60:], LABELS[60:]

DTYPES = ["float64", "float32"]
"""NumPy, and compiled kernels where there is a compiler."""


def trainer_of(dtype="float64", seed=1, rate=0.02, **options):
    layers = [gb.Dense(24, "tanh"), gb.Dropout(0.1), gb.Dense(3, "softmax")]
    net = gb.Network(6, layers, dtype=dtype, device="cpu", seed=seed)
    return gb.Trainer(net, optimizer=gb.Adam(rate), batch_size=16, **options)


def fit(trainer, epochs=40, early_stopping=True, **options):
    options = {"validation": VALIDATION, "progress": False} | options
    return trainer.fit(X[:60], LABELS[:60], epochs, early_stopping=early_stopping, **options)


# When it stops, by scripted values ------------------------------------------------------------------------------------


def scripted(values, **settings):
    """Plays a fit in which the monitored value of each epoch is given and every parameter is the epoch's number.
    Returns the last epoch, the best one, and what the parameters are after the fit; 0: those it began with."""
    values = np.asarray(values, np.float64)
    net = gb.Network(2, [gb.Dense(2)], device="cpu", seed=[*range(values.shape[1])] if values.ndim > 1 else 0)
    net.parameters[...] = 0
    trainer = gb.Trainer(net)
    stopper = gb.EarlyStopping(**settings)
    stopper.on_start(FitState(trainer, 1, 0, None))
    epoch = 0
    for epoch, value in enumerate(values, 1):
        net.parameters[...] = epoch
        row = {"epoch": epoch, stopper.monitor: value.tolist()}
        if stopper.on_epoch(FitState(trainer, epoch, 1, row)):
            break
    stopper.on_end(FitState(trainer, epoch, 1, None))
    return epoch, trainer.history.best_epoch, net.parameters[..., 0].tolist()


@pytest.mark.parametrize(
    ("values", "settings", "expected"),
    [
        ([3, 2, 1, 0], {}, (4, 4, 4)),
        ([3, 2, 2, 2.5, 2], {"patience": 3}, (5, 2, 2)),  # an equal value is no improvement
        ([3, 2, 2, 2.5, 1, 2], {"patience": 4}, (6, 5, 5)),
        ([1, 2, 0], {"patience": 1}, (2, 1, 1)),
        ([3, 2.9, 2.8, 2.7, 2.6], {"patience": 2, "min_delta": 0.15}, (5, 5, 5)),  # 3, 2.8 and 2.6 are improvements
        ([3, 2.95, 2.9, 2.0], {"patience": 2, "min_delta": 0.2}, (3, 3, 3)),  # and none of these but the first
        ([0.1, 0.5, 0.4, 0.3], {"patience": 2, "monitor": "val_accuracy"}, (4, 2, 2)),
        ([-np.inf, -1, -3, -2], {"patience": 2, "monitor": "val_r2"}, (4, 2, 2)),
        ([5, 7, 6, 6], {"patience": 2, "monitor": "val_gain", "mode": "max"}, (4, 2, 2)),
        ([np.nan, 2, np.nan, 3], {"patience": 2, "monitor": "loss"}, (4, 2, 2)),
        ([np.nan, np.nan, np.nan], {"patience": 2}, (2, None, 2)),
        ([3, 1, 2, 2], {"patience": 2, "restore_best": False}, (4, 2, 4)),
        ([3, 1, 2, 1], {"patience": 2, "ties": "last"}, (4, 4, 4)),  # the best, and no improvement
        ([np.inf, np.inf, np.nan], {"patience": 3, "ties": "last"}, (3, None, 3)),
    ],
    ids=str,
)  # fmt: skip
def test_epochs(values, settings, expected):
    assert scripted(values, **settings) == expected


def test_each_member_has_an_epoch_of_its_own():
    values = [[3, 9, np.nan], [2, 8, np.nan], [4, 7, 1], [3, 6, 1], [1, 5, 1], [1, 6, 1], [1, 6, 1]]
    assert scripted(values, patience=2) == (7, [2, 5, 0], [2, 5, 7])  # two have stopped when they would be better


def test_a_state_goes_on_where_it_was():
    """As in a fit that is resumed after its second epoch: before it begins, or once it has."""
    values = [3, 1, 2, 2, 2]
    trainer = gb.Trainer(gb.Network(2, [gb.Dense(2)], device="cpu", seed=0))
    net, history = trainer.network, trainer.history
    first, rows = gb.EarlyStopping(patience=3), [{"val_loss": value} for value in values]
    first.on_start(FitState(trainer, 1, 0, None))
    for epoch in (1, 2):
        net.parameters[...] = epoch
        assert first.on_epoch(FitState(trainer, epoch, 1, rows[epoch - 1])) is None
    saved = first.state()
    assert [saved[name].item() for name in ("best", "best_epoch", "improved", "running")] == [1, 2, 2, True]
    for early in (True, False):
        later, history.best_epoch = gb.EarlyStopping(patience=3), None
        if early:
            later.load_state(saved)
        later.on_start(FitState(trainer, 3, 0, rows[1]))
        if not early:
            later.load_state(saved)
        answers = []
        for epoch in (3, 4, 5):
            net.parameters[...] = epoch
            answers.append(later.on_epoch(FitState(trainer, epoch, 1, rows[epoch - 1])))
        assert answers == [None, None, "val_loss has not improved since epoch 2"]
        later.on_end(FitState(trainer, 5, 1, rows[-1]))
        assert history.best_epoch == 2
        assert (net.parameters == 2).all()


# What remains, in a real fit ------------------------------------------------------------------------------------------


class Noted:
    """A callback that keeps the parameters of every epoch, and does something after one of them."""

    def __init__(self, epoch=0, act=None):
        self.epoch, self.act, self.parameters = epoch, act, []

    def on_epoch(self, state):
        self.parameters.append(np.array(state.trainer.network.parameters))
        return self.act(state) if state.epoch == self.epoch else None


def check_best(trainer, noted, monitor="val_loss", best=min):
    """The parameters are those of the epoch whose value is the best, bit for bit."""
    history = trainer.history
    epoch = history[monitor].index(best(history[monitor])) + 1
    assert history.best_epoch == epoch < len(history)
    assert trainer.network.parameters.tobytes() == noted.parameters[epoch - 1].tobytes()
    return epoch


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_best_epoch_remains(dtype):
    trainer, noted = trainer_of(dtype), Noted()
    history = fit(trainer, callbacks=[noted], early_stopping=gb.EarlyStopping(patience=4))
    epoch = check_best(trainer, noted)
    assert len(history) == epoch + 4 < 40
    reason = f"val_loss has not improved since epoch {epoch}"
    assert history.stopped == (
        f"stopped after epoch {epoch + 4} by EarlyStopping ({reason}); the parameters are those of epoch {epoch}"
    )
    assert trainer.evaluate(*VALIDATION)["loss"] == min(history["val_loss"])


def test_another_monitor_and_a_fit_of_full_length():
    trainer, noted = trainer_of(), Noted()
    history = fit(trainer, 9, gb.EarlyStopping("val_accuracy", patience=50), callbacks=[noted])
    assert check_best(trainer, noted, "val_accuracy", max) < 9
    assert history.stopped is None
    assert len(history) == 9


def test_it_may_be_given_as_a_callback():
    trainer, noted = trainer_of(), Noted()
    fit(trainer, early_stopping=None, callbacks=[noted, gb.EarlyStopping(patience=3)])
    check_best(trainer, noted)


def raising(error):
    def act(state):
        raise error

    return act


def spoil(state):
    state.trainer.optimizer.learning_rate = 1e308


@pytest.mark.parametrize(
    ("act", "error", "stopped"),
    [
        (raising(KeyboardInterrupt()), KeyboardInterrupt, "interrupted in epoch 12"),
        (raising(ZeroDivisionError()), ZeroDivisionError, "ended in epoch 12 by ZeroDivisionError"),
        (lambda state: state.trainer.stop(), None, "stopped after epoch 12, as asked"),
        (lambda state: "enough", None, "stopped after epoch 12 by Noted (enough)"),
        (spoil, gb.DivergedError, "the loss became NaN or infinite in epoch 13, step 2"),
    ],
    ids=["Ctrl-C", "error", "stop", "callback", "divergence"],
)
def test_the_best_is_kept_however_a_fit_ends(act, error, stopped):
    trainer, noted = trainer_of(), Noted(12, act)
    stopper = gb.EarlyStopping(patience=30)
    if error is None:
        fit(trainer, early_stopping=stopper, callbacks=[noted])
    else:
        with pytest.raises(error) as raised:
            fit(trainer, early_stopping=stopper, callbacks=[noted])
        if error is gb.DivergedError:
            best = f"those of epoch {trainer.history.best_epoch}"
            assert raised.value.__notes__ == [f"Then early stopping brought back the best parameters: they are {best}."]
    epoch = check_best(trainer, noted)
    assert trainer.history.stopped == f"{stopped}; the parameters are those of epoch {epoch}"


def test_before_the_first_epoch_has_ended_there_is_no_best_one():
    trainer = trainer_of()
    with pytest.raises(gb.DivergedError) as raised:
        trainer.optimizer.learning_rate = 1e308
        fit(trainer)
    assert trainer.history.best_epoch is None
    assert not hasattr(raised.value, "__notes__")
    assert np.isfinite(trainer.network.parameters).all()


def test_each_fit_has_a_best_epoch_of_its_own():
    trainer = trainer_of()
    stopper = gb.EarlyStopping(patience=3)
    fit(trainer, early_stopping=stopper)
    first = len(trainer.history)
    fit(trainer, early_stopping=stopper)
    assert trainer.history.best_epoch > first
    fit(trainer, 1, early_stopping=False)
    assert trainer.history.best_epoch is None


def test_what_was_never_a_number_is_said():
    def undefined(y_true, y_pred):
        return np.nan

    trainer = trainer_of(metrics=[undefined])
    history = fit(trainer, early_stopping=gb.EarlyStopping("val_undefined", patience=2, mode="min"))
    assert "(val_undefined was NaN or infinite in every epoch)" in history.stopped and len(history) == 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_members_stop_as_they_do_alone(dtype):
    """The rates differ so much that the members' best epochs do."""
    seeds, rates, stopper = [1, 2, 3], [0.05, 0.01, 0.002], gb.EarlyStopping(patience=5)
    together = trainer_of(dtype, seeds, rates)
    fit(together, 60, stopper)
    epochs, tolerance = [], 1e-9 if dtype == "float64" else 2e-3
    for member, (seed, rate) in enumerate(zip(seeds, rates, strict=True)):
        alone = trainer_of(dtype, seed, rate)
        epochs.append(fit(alone, 60, stopper).best_epoch)
        found = together.network.parameters[member]
        np.testing.assert_allclose(found, alone.network.parameters, rtol=tolerance, atol=tolerance)
    assert together.history.best_epoch == epochs
    assert len(set(epochs)) == 3
    if len(together.history) < 60:
        assert "val_loss of no member has improved for 5 epochs" in together.history.stopped
        assert together.history.stopped.endswith("; the parameters are those of its best epoch")


def test_a_stopped_member_changes_no_more():
    """The first one, whose rate is large, gets worse from its second epoch on."""
    trainer, noted = trainer_of(seed=[1, 2], rate=[0.5, 0.002]), Noted()
    fit(trainer, 30, gb.EarlyStopping(patience=2, restore_best=False), callbacks=[noted])
    first, second = trainer.history.best_epoch
    assert first + 2 < second
    at_its_stop = noted.parameters[first + 1][0].tobytes()
    assert all(parameters[0].tobytes() == at_its_stop for parameters in noted.parameters[first + 1 :])
    assert trainer.network.parameters[0].tobytes() == at_its_stop
    assert len({parameters[1].tobytes() for parameters in noted.parameters[: second + 1]}) == second + 1
    trainer.step(X, LABELS)  # now both go on
    assert trainer.network.parameters[0].tobytes() != at_its_stop


def test_the_best_of_averages():
    """What is measured, and kept, is the moving average."""
    trainer = trainer_of(average=0.9)
    history = fit(trainer, early_stopping=gb.EarlyStopping(patience=3))
    assert history.best_epoch < len(history)
    assert trainer.evaluate(*VALIDATION)["loss"] == min(history["val_loss"])
    trainer, noted = trainer_of(average=0.9), Noted(12, spoil)
    with pytest.raises(gb.DivergedError):
        fit(trainer, early_stopping=gb.EarlyStopping(patience=30), callbacks=[noted])
    assert trainer.evaluate(*VALIDATION)["loss"] == min(trainer.history["val_loss"])


@pytest.mark.parametrize("seed", [1, [1, 2]])
def test_a_fit_that_is_resumed_ends_as_one_that_was_not(tmp_path, seed):
    whole, begun, resumed = (trainer_of(seed=seed) for _ in range(3))
    fit(whole, 30, gb.EarlyStopping(patience=4))
    ended = whole.history.best_epoch if isinstance(seed, int) else max(whole.history.best_epoch)
    saving, stop = gb.Checkpoint(tmp_path, every_steps=1, keep=1), Noted(ended + 1, lambda state: state.trainer.stop())
    fit(begun, 30, gb.EarlyStopping(patience=4), callbacks=[saving, stop])
    resumed.resume(tmp_path)
    fit(resumed, 30, gb.EarlyStopping(patience=4), callbacks=[gb.Checkpoint(tmp_path, every_steps=1, keep=1)])
    assert resumed.history.best_epoch == whole.history.best_epoch
    assert resumed.history["val_loss"] == whole.history["val_loss"]
    assert resumed.network.parameters.tobytes() == whole.network.parameters.tobytes()


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gb.EarlyStopping(patience=0), "patience must be an integer ≥ 1, got 0"),
        (lambda: gb.EarlyStopping(min_delta=-1), "min_delta must be a finite number ≥ 0, got -1"),
        (lambda: gb.EarlyStopping(restore_best="yes"), "restore_best must be True or False, got 'yes'"),
        (
            lambda: fit(trainer_of(), early_stopping=gb.EarlyStopping("val_gain")),
            "whether a larger val_gain is better, nobody .* Or give EarlyStopping\\('val_gain', mode='min'\\) or",
        ),
        (lambda: gb.EarlyStopping(None), "monitor must be the name of a column .*, got None"),
        (lambda: gb.EarlyStopping(mode="most"), "unknown mode 'most'. Known: min, max"),
        (lambda: gb.EarlyStopping(ties="newest"), "unknown ties 'newest'. Known: first, last"),
        (lambda: fit(trainer_of(), early_stopping=gb.EarlyStopping), "early_stopping must be True, False or a"),
        (
            lambda: fit(trainer_of(), callbacks=[gb.EarlyStopping()]),
            "a fit has one EarlyStopping, whose best parameters it keeps, but several were given",
        ),
        (
            lambda: fit(trainer_of(), early_stopping=None, callbacks=[gb.EarlyStopping()], validation=None),
            r"EarlyStopping monitors val_loss, but there are no validation data. Give validation=\(x, y\) or",
        ),
        (
            lambda: fit(trainer_of(), early_stopping=gb.EarlyStopping("val_mae")),
            "unknown monitor of early stopping 'val_mae'. Did you mean 'val_",
        ),
    ],
)  # fmt: skip
def test_what_is_refused(make, message):
    with pytest.raises(gb.InputError, match=message):
        make()
