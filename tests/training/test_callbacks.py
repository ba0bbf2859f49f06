"""Callbacks of fit: when each is called, with what, what it may do, and how its wish or its error ends a fit."""

from __future__ import annotations

import csv
import functools
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.training import callbacks as callbacks_module
from gpu_backprop.training import evaluation

ROWS, STEPS = 23, 4  # minibatches of 6 rows
RNG = np.random.default_rng(8)
X, LABELS = RNG.normal(size=(ROWS, 4)), np.arange(ROWS) % 3

DTYPES = ["float64", "float32"]
"""NumPy, and compiled kernels where there is a compiler."""


def trainer_of(dtype="float64", seed=3, **options):
    layers = [gb.Dense(5, "tanh"), gb.Dropout(0.2), gb.Dense(3, "softmax")]
    return gb.Trainer(gb.Network(4, layers, dtype=dtype, seed=seed), optimizer=gb.SGD(0.1), batch_size=6, **options)


def fit(trainer, callbacks, epochs=2, **options):
    return trainer.fit(X, LABELS, epochs, progress=False, callbacks=callbacks, **options)


def state(trainer):
    arrays = [trainer.network.parameters, trainer.network.random, trainer.optimizer.hyper]
    return [array.tobytes() for array in (*arrays, *trainer.optimizer.moments.values())]


class Watch:
    """A callback that notes its calls and does something in some of them: method → function of the state."""

    def __init__(self, **actions):
        self.seen, self.actions = [], actions

    def _note(self, hook, state):
        self.seen.append((hook, state))
        return self.actions.get(hook, lambda _: None)(state)

    def on_start(self, state):
        return self._note("on_start", state)

    def on_epoch(self, state):
        return self._note("on_epoch", state)

    def on_step(self, state):
        return self._note("on_step", state)

    def on_end(self, state):
        return self._note("on_end", state)

    @property
    def calls(self):
        return [hook for hook, _ in self.seen]


def raising(error):
    def fail(state):
        raise error

    return fail


# When and with what ---------------------------------------------------------------------------------------------------


def test_the_calls_and_their_states():
    trainer, watch = trainer_of(), Watch()
    history = fit(trainer, [watch])
    epoch = [("on_step", step) for step in range(1, STEPS + 1)] + [("on_epoch", STEPS)]
    expected = [("on_start", 1, 0, None)]
    expected += [(hook, 1, step, history[0] if hook == "on_epoch" else None) for hook, step in epoch]
    expected += [(hook, 2, step, history[hook == "on_epoch"]) for hook, step in epoch]
    expected += [("on_end", 2, STEPS, history[1])]
    assert [(hook, state.epoch, state.step, state.row) for hook, state in watch.seen] == expected
    assert all(isinstance(state, gb.FitState) and state.trainer is trainer for _, state in watch.seen)
    watch.seen.clear()
    fit(trainer, [watch], 1)
    _, start = watch.seen[0]
    assert (start.epoch, start.step, start.row) == (3, 0, history[1])
    assert [state.epoch for _, state in watch.seen] == [3] * (STEPS + 3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_callbacks_that_only_look_change_nothing(dtype):
    trainer, alone = trainer_of(dtype), trainer_of(dtype)
    fit(alone, [])

    def look(state):
        state.trainer.network.predict(X)
        state.trainer.network.forward(X)
        state.trainer.evaluate(X, LABELS)

    fit(trainer, [Watch(on_start=look, on_epoch=look, on_step=look, on_end=look)])
    assert state(trainer) == state(alone)
    assert trainer.history["loss"] == alone.history["loss"]


def test_an_epoch_is_measured_and_logged_before_it_is_told(tmp_path):
    path, seen = tmp_path / "history.csv", []

    def look(state):
        with path.open(newline="") as file:
            seen.append(
                (len(list(csv.DictReader(file))), state.row["val_loss"], state.trainer.history[-1] is state.row)
            )

    history = fit(trainer_of(), [look], csv=path, validation=(X, LABELS))
    assert seen == [(1, history["val_loss"][0], True), (2, history["val_loss"][1], True)]


def test_of_members_a_row_has_lists():
    seen = []
    fit(trainer_of(seed=[1, 2]), [lambda state: seen.append(np.shape(state.row["loss"]))], 1)
    assert seen == [(2,)]


def test_the_time_of_callbacks_between_epochs_is_not_that_of_the_epochs():
    history = fit(trainer_of(), [lambda state: time.sleep(0.2)], 1)
    assert history[0]["seconds"] < 0.2


class Countdown:
    """A callable object with a method besides."""

    left, ended = 2, False

    def __call__(self, state):
        self.left -= 1
        return self.left == 0

    def on_end(self, state):
        self.ended = True


def test_a_callable_is_called_as_on_epoch():
    one = Countdown()
    assert fit(trainer_of(), [one], 5).stopped == "stopped after epoch 2 by Countdown" and one.ended
    log = []
    fit(trainer_of(), (log.append, functools.partial(log.append)), 1)
    assert [state.epoch for state in log] == [1, 1]


# What they may do -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_schedule_of_learning_rates(dtype):
    """Each rate counts from the next step on."""
    scheduled, by_hand = trainer_of(dtype), trainer_of(dtype)

    def each_step(state):
        state.trainer.optimizer.learning_rate = 0.1 / (1 + (state.epoch - 1) * STEPS + state.step)

    fit(scheduled, [Watch(on_step=each_step)], shuffle=False)
    for number in range(2 * STEPS):
        rows = slice(number % STEPS * 6, number % STEPS * 6 + 6)
        by_hand.optimizer.learning_rate = 0.1 / (1 + number)
        by_hand.step(X[rows], LABELS[rows])
    by_hand.optimizer.learning_rate = scheduled.optimizer.learning_rate
    assert state(scheduled) == state(by_hand)


def test_weights_that_are_set_are_trained_on():
    trainer, other, fresh = trainer_of(), trainer_of(), trainer_of().network.parameters.copy()

    def back(state):
        if state.epoch == 1:
            state.trainer.network.parameters = fresh

    fit(trainer, [back], shuffle=False)
    fit(other, [], 1, shuffle=False)
    other.network.parameters = fresh
    fit(other, [], 1, shuffle=False)
    assert state(trainer) == state(other)


@pytest.mark.parametrize("hook", ["on_epoch", "on_step"])
def test_a_layer_that_is_frozen_counts_from_the_next_epoch_on(hook):
    trainer, other = trainer_of(), trainer_of()

    def freeze(state):
        state.trainer.network.layers[0].trainable = False

    fit(trainer, [Watch(**{hook: freeze})])
    fit(other, [], 1)
    other.network.layers[0].trainable = False
    fit(other, [], 1)
    assert state(trainer) == state(other)


@pytest.mark.parametrize("hook", ["on_start", "on_epoch", "on_step", "on_end"])
def test_training_within_training_is_refused(hook):
    trainer, alone = trainer_of(), trainer_of()

    def meddle(state):
        for name, call in {
            "fit": lambda: fit(state.trainer, []),
            "step": lambda: state.trainer.step(X, LABELS),
            "forward": lambda: state.trainer.network.forward(X, training=True),
        }.items():
            with pytest.raises(gb.StateError, match=f"^{name} cannot begin: fit is at work on this network"):
                call()

    fit(trainer, [Watch(**{hook: meddle})])
    fit(alone, [])
    assert state(trainer) == state(alone)


# How they end a fit ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hook", "when", "epochs", "steps"),
    [("on_start", "before epoch 1", 0, 0), ("on_epoch", "after epoch 1", 1, 4), ("on_step", "in epoch 1", 0, 1)],
)
@pytest.mark.parametrize("why", [True, np.bool_(True), "as it likes"], ids=str)
def test_a_true_value_ends_the_training(hook, when, epochs, steps, why):
    trainer, watch, other = trainer_of(), Watch(**{hook: lambda state: why}), Watch(on_step=lambda state: None)
    history = fit(trainer, [other, watch], 9)
    assert history.stopped == f"stopped {when} by Watch" + (" (as it likes)" if isinstance(why, str) else "")
    assert (len(history), trainer.optimizer.hyper[0]) == (epochs, steps)
    assert watch.calls == other.calls and watch.calls[-1] == "on_end"
    assert fit(trainer, []).stopped is None


@pytest.mark.parametrize("hook", ["on_start", "on_epoch", "on_step"])
def test_a_callback_may_call_stop(hook):
    trainer = trainer_of()
    assert fit(trainer, [Watch(**{hook: lambda state: state.trainer.stop()})]).stopped.endswith("epoch 1, as asked")


def test_the_end_in_the_last_step_of_an_epoch_completes_it():
    trainer = trainer_of()
    history = fit(trainer, [Watch(on_step=lambda state: state.step == STEPS)], 3)
    assert history.stopped == "stopped after epoch 1 by Watch" and len(history) == 1


def test_the_end_after_the_last_epoch_ends_nothing_early():
    assert fit(trainer_of(), [lambda state: state.epoch == 2]).stopped is None


def test_the_first_who_asks_is_named():
    def first(state):
        return "one reason"

    def second(state):
        return "another"

    assert fit(trainer_of(), [first, second]).stopped == "stopped after epoch 1 by first (one reason)"


@pytest.mark.parametrize("hook", ["on_start", "on_epoch", "on_step"])
def test_an_error_leaves_trainer_history_and_csv(hook, tmp_path):
    trainer, path = trainer_of(), tmp_path / "history.csv"
    fit(trainer, [], 1)
    watch = Watch(**{hook: raising(ZeroDivisionError("mine"))})
    with pytest.raises(ZeroDivisionError, match="mine"):
        fit(trainer, [watch], csv=path)
    assert watch.calls[-1] == "on_end" and watch.calls.count("on_end") == 1
    assert trainer.history.stopped == "ended in epoch 2 by ZeroDivisionError"
    done = 2 if hook == "on_epoch" else 1
    assert len(trainer.history) == done and path.read_text().count("\n") == 1 + done
    path.unlink()  # on Windows only what is closed
    assert fit(trainer, [], 1).stopped is None and trainer.history["epoch"] == list(range(1, done + 2))


@pytest.mark.parametrize("hook", ["on_start", "on_epoch", "on_step"])
def test_ctrl_c_in_a_callback(hook):
    trainer, watch = trainer_of(), Watch(**{hook: raising(KeyboardInterrupt())})
    with pytest.raises(KeyboardInterrupt):
        fit(trainer, [watch])
    assert watch.calls[-1] == "on_end"
    assert trainer.history.stopped == "interrupted in epoch 1; what was learned until then is kept"


def test_the_end_is_told_of_ctrl_c_and_of_a_divergence(monkeypatch):
    said = []
    watch = Watch(on_end=lambda state: said.append((state.epoch, state.step, state.trainer.history.stopped)))
    trainer = trainer_of()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(evaluation.Evaluation, "run", raising(KeyboardInterrupt()))
        fit(trainer, [watch], validation=(X, LABELS))

    def spoil(state):
        if state.step == 2:
            state.trainer.network.layers[0].weight = np.full((4, 5), np.nan)

    with pytest.raises(gb.DivergedError):
        fit(trainer, [Watch(on_step=spoil), watch])
    assert said == [
        (1, STEPS, "interrupted in epoch 1; what was learned until then is kept"),
        (1, STEPS, trainer.history.stopped),
    ]
    assert trainer.history.stopped.startswith("the ")


def test_in_a_notebook_ctrl_c_ends_a_fit_with_its_history(monkeypatch):
    shell = SimpleNamespace(kernel=None)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    trainer, watch = trainer_of(), Watch(on_step=lambda state: state.epoch == 2 and raising(KeyboardInterrupt())(state))
    history = fit(trainer, [watch])
    assert history is trainer.history
    assert len(history) == 1
    assert history.stopped == "interrupted in epoch 2; what was learned until then is kept"
    assert watch.calls[-1] == "on_end"
    del shell.kernel  # IPython in a terminal
    with pytest.raises(KeyboardInterrupt):
        fit(trainer, [Watch(on_step=raising(KeyboardInterrupt()))])


@pytest.mark.parametrize("only_reads", [False, True])
def test_what_only_reads_comes_last_and_lets_a_divergence_be_found(only_reads):
    order = []
    first, second = (Watch(on_epoch=lambda _, name=name: order.append(name)) for name in "ab")
    first.only_reads = only_reads
    trainer = trainer_of("float32")
    fit(trainer, [first, second], 1)
    assert order == (["b", "a"] if only_reads else ["a", "b"])
    trainer.optimizer.learning_rate = 1e38
    with pytest.raises(gb.DivergedError) as diverged:
        trainer.fit(X, LABELS, 3, progress=False, callbacks=[first])
    assert ("at the latest" in str(diverged.value)) is not only_reads


def test_an_error_of_on_end_hides_no_other():
    trainer = trainer_of()
    bad, good = Watch(on_end=raising(KeyError("end"))), Watch()
    with pytest.raises(KeyError, match="end"):
        fit(trainer, [good, bad, good])
    assert good.calls.count("on_end") == 2 and len(trainer.history) == 2
    with pytest.raises(ZeroDivisionError) as caught:
        fit(trainer, [bad, raising(ZeroDivisionError())])
    assert caught.value.__notes__ == ["Then on_end of Watch raised KeyError: 'end'"]


def test_only_who_was_started_is_ended():
    first, second, third = Watch(), Watch(on_start=raising(ZeroDivisionError())), Watch()
    with pytest.raises(ZeroDivisionError):
        fit(trainer_of(), [first, second, third])
    assert first.calls == second.calls == ["on_start", "on_end"] and not third.calls


# Bad callbacks --------------------------------------------------------------------------------------------------------


class Misspelled:
    def on_epoch_end(self, state): ...


class Keras:
    def set_model(self, model): ...


BAD = {
    "no list": (print, "callbacks must be a list, got builtin_function_or_method: write callbacks=.print."),
    "one object": (Watch(), "callbacks must be a list, got Watch"),
    "none": (None, "callbacks must be a list, got NoneType"),
    "a class": ([Watch], r"callback 1 must be an object, got the class Watch: write Watch\(\)"),
    "nothing to call": ([print, Keras()], "callback 2 must be a function of a FitState, or an object .*, got Keras"),
    "a number": ([3], "callback 1 must be .* with any of the methods on_start, on_epoch, on_step, on_end, got int 3"),
    "misspelled": (
        [Misspelled()],
        "unknown method of callback Misspelled 'on_epoch_end'. Did you mean 'on_epoch'. Known: on_start, on_epoch",
    ),
    "no argument": ([lambda: None], r"<lambda> must be a function of one argument, a FitState \(too many positional"),
    "two arguments": ([lambda epoch, logs: None], "one argument, a FitState .missing a required argument: 'logs'"),
}


@pytest.mark.parametrize(("given", "says"), BAD.values(), ids=BAD)
def test_a_bad_callback_is_refused_before_anything_happens(given, says, tmp_path):
    trainer = trainer_of()
    before = state(trainer)
    with pytest.raises(gb.InputError, match=says):
        fit(trainer, given, csv=tmp_path / "history.csv")
    assert state(trainer) == before and trainer.history.rows == [] and not list(tmp_path.iterdir())


def test_a_method_that_is_none():
    class Half:
        on_epoch = None

        def on_end(self, state): ...

    with pytest.raises(gb.InputError, match="Half.on_epoch must be a function of one argument"):
        fit(trainer_of(), [Half()])


def test_steps_cannot_be_told_where_an_epoch_is_one_launch():
    trainer = trainer_of()
    vars(trainer)["one_launch"] = True
    callbacks_module.Callbacks(trainer, [print])
    with pytest.raises(gb.InputError, match=r"one_launch=True cannot be: no step ends .*, but Watch has on_step\. Use"):
        callbacks_module.Callbacks(trainer, [print, Watch()])
    seldom = Watch()
    seldom.each_step = False
    assert callbacks_module.Callbacks(trainer, [seldom]).each_step == []


def test_which_callbacks_are_called_after_each_step(tmp_path):
    timed, counted = gb.Checkpoint(tmp_path, every_seconds=60), gb.Checkpoint(tmp_path, every_steps=2)
    both, neither = gb.Checkpoint(tmp_path, every_steps=2, every_seconds=60), gb.Checkpoint(tmp_path)
    told = [callbacks_module.Callbacks(trainer_of(), [one]) for one in (timed, counted, both, neither, Watch())]
    assert [bool(one.each_step) for one in told] == [False, True, True, False, True]
    assert [one.have_on_step for one in told] == [True, True, True, False, True]


class Spoil:
    """Makes all parameters infinite after the first step of epoch 2, and may raise an error then."""

    def __init__(self, error=None):
        self.error = error

    def on_step(self, state):
        if (state.epoch, state.step) == (2, 1):
            state.trainer.network.parameters = np.full_like(state.trainer.network.parameters, np.inf)
            if self.error:
                raise self.error


def test_an_error_after_a_divergence_goes_back_to_the_epoch_before():
    trainer = trainer_of()
    with pytest.raises(ValueError, match="seen"):
        fit(trainer, [Spoil(ValueError("seen"))])
    assert trainer.history.stopped.endswith("the parameters are those of epoch 1")
    assert np.isfinite(trainer.network.parameters).all()


def test_steps_that_a_callback_changed_are_not_repeated():
    """The search for the step that diverged would take steps that never were."""
    trainer = trainer_of()
    with pytest.raises(gb.DivergedError, match="at the latest in step .*The parameters are those of epoch 1"):
        fit(trainer, [Spoil()])
    assert np.isfinite(trainer.network.parameters).all()
