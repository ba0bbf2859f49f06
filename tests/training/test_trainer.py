"""Trainer: an epoch is its minibatches stepped by hand, and whatever ends a run, what was learned is kept."""

from __future__ import annotations

import csv
import pickle
import signal
from contextlib import nullcontext

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.training import evaluation
from gpu_backprop.training import fit as fit_module
from gpu_backprop.training.progress import Progress

ROWS = 23
STREAM = np.random.default_rng(5)
X = STREAM.normal(size=(ROWS, 4))
Y = np.sin(X @ STREAM.normal(size=(4, 2)))
LABELS = np.abs(X).argmax(axis=1) % 3
WEIGHTS = STREAM.integers(0, 4, ROWS).astype(float)

OPTIMIZERS = {
    "sgd": gb.SGD(0.1),
    "momentum": gb.SGD(0.1, momentum=0.9),
    "nesterov": gb.SGD(0.1, momentum=0.9, nesterov=True),
    "rmsprop": gb.RMSprop(0.01),
    "adagrad": gb.Adagrad(0.1),
    "adam": gb.Adam(0.01),
    "adamw": gb.AdamW(0.01, weight_decay=0.1),
}


def classifier(seed=3, dtype="float64", dropout=0.0):
    hidden = [gb.Dense(5, "tanh"), *([gb.Dropout(dropout)] if dropout else [])]
    return gb.Network(4, [*hidden, gb.Dense(3, "softmax")], dtype=dtype, seed=seed)


def regression(seed=3, dtype="float64"):
    return gb.Network(4, [gb.Dense(5, "tanh"), gb.Dense(2)], dtype=dtype, seed=seed)


def fit(trainer, x=X, y=None, epochs=1, **options):
    y = (LABELS if trainer.loss.labels else Y) if y is None else y
    return trainer.fit(x, y, epochs, progress=False, **options)


def by_hand(trainer, orders, batch_size, y, weights=None, steps=None):
    """Steps through the rows in the given orders, an epoch each, and returns the losses with the weight of each."""
    losses = []
    for order in orders:
        for start in range(0, ROWS, batch_size):
            if len(losses) == steps:
                return losses
            rows = order[start : start + batch_size]
            if weights is None:
                losses.append((float(trainer.step(X[rows], y[rows])), len(rows)))
            else:
                losses.append((float(trainer.step(X[rows], y[rows], weights[rows])), weights[rows].sum()))
    return losses


def at_each_step(trainer, action):
    """Calls action(plan) at the end of every step of fit from now on, as the last operation of its plan."""
    build = trainer.training_step.build

    def build_and_plant(*args, **options):
        plan = build(*args, **options)
        plan.append(gb.Operation("planted", "", {}, {}, 0, 0, 1, plan.phase, lambda: (lambda: action(plan),)))
        return plan

    trainer.training_step.build = build_and_plant


def at_step(trainer, number, action):
    """Calls action() at the end of the step that the optimizer counts as this number, also when that is run again."""
    at_each_step(trainer, lambda plan: action() if trainer.optimizer.hyper[0] == number else None)


def state(trainer):
    """Everything that training changes, as bytes."""
    network, optimizer = trainer.network, trainer.optimizer
    arrays = [network.parameters, network.random, optimizer.hyper, *optimizer.moments.values()]
    return [array.tobytes() for array in arrays]


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class Spy(Progress):
    """A progress display that shows nothing and calls what it is given."""

    def __init__(self, monkeypatch, at_epoch=lambda row: None, at_advance=lambda: None):
        self.samples, self.rows = [], []
        self.at_epoch, self.at_advance = at_epoch, at_advance
        monkeypatch.setattr(fit_module, "open_progress", lambda *_: self)

    def advance(self, samples):
        self.samples.append(samples)
        self.at_advance()

    def epoch(self, row):
        self.rows.append(dict(row))
        self.at_epoch(row)


# An epoch and its minibatches -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("batch_size", [1, 5, 7, 22, 23, 100])
@pytest.mark.parametrize("make", [classifier, regression])
def test_epochs_are_their_minibatches_stepped_by_hand(make, batch_size, weights):
    """The last minibatch of an epoch has what is left, and counts by its rows."""
    y = LABELS if make is classifier else Y
    fitted, stepped = (gb.Trainer(make(), optimizer="adam", batch_size=batch_size) for _ in range(2))
    history = fit(fitted, epochs=2, shuffle=False, weights=weights)
    losses = by_hand(stepped, [np.arange(ROWS)] * 2, batch_size, y, weights)
    assert state(fitted) == state(stepped)
    per_epoch = np.reshape(losses, (2, -1, 2))
    want = (per_epoch[..., 0] * per_epoch[..., 1]).sum(axis=1) / per_epoch[..., 1].sum(axis=1)
    np.testing.assert_allclose(history["loss"], want, rtol=1e-13)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_same_with_every_optimizer_shuffling_and_dropout(optimizer):
    fitted, stepped = (gb.Trainer(classifier(dropout=0.4), optimizer=optimizer, batch_size=6) for _ in range(2))
    fit(fitted, epochs=3)
    stream = np.random.default_rng([3, 1])  # the stream of shuffling, of the seed of the network
    by_hand(stepped, [stream.permutation(ROWS) for _ in range(3)], 6, LABELS)
    assert state(fitted) == state(stepped)


def test_a_batch_size_beyond_the_data_is_one_step_of_all():
    fitted, stepped = (gb.Trainer(regression(), batch_size=1000) for _ in range(2))
    history = fit(fitted, shuffle=False)
    assert history[0]["loss"] == pytest.approx(float(stepped.step(X, Y)), rel=1e-14)
    assert state(fitted) == state(stepped)


def test_a_further_fit_goes_on():
    whole, parts = (gb.Trainer(classifier(dropout=0.3), batch_size=6) for _ in range(2))
    history = fit(whole, epochs=5)
    assert fit(parts, epochs=2) is fit(parts, epochs=3) is parts.history
    assert parts.history["loss"] == history["loss"]
    assert parts.history["epoch"] == [1, 2, 3, 4, 5]
    assert state(whole) == state(parts)
    parts.history = gb.History()
    assert fit(parts, epochs=2)["epoch"] == [1, 2]


def test_a_further_fit_continues_the_csv(tmp_path):
    """Of a trainer that has learned already, also one out of a pickle; a column that came later is blank before."""
    trainer, path = gb.Trainer(classifier(), batch_size=6), tmp_path / "history.csv"
    fit(trainer, epochs=2, csv=path)
    trainer = pickle.loads(pickle.dumps(trainer))
    fit(trainer, epochs=1, validation=(X, LABELS), csv=path)
    history = fit(trainer, epochs=1, csv=path)
    rows = read(path)
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["val_loss"] for row in rows] == ["", "", repr(history[2]["val_loss"]), ""]
    assert [row["loss"] for row in rows] == [repr(loss) for loss in history["loss"]]
    fit(gb.Trainer(classifier(), batch_size=6), csv=path)
    assert len(read(path)) == 1


def test_a_further_fit_numbers_steps_and_lines_on(capsys):
    trainer = gb.Trainer(classifier(), batch_size=6)
    fit(trainer, epochs=1, loss_every=3)
    trainer.fit(X, LABELS, 2, loss_every=3)
    assert [(row["epoch"], row["step"]) for row in trainer.history.steps] == [(1, 3), (2, 3), (3, 3)]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["epoch", "2/3", "3/3"]


# Shuffling ------------------------------------------------------------------------------------------------------------

ID = np.arange(ROWS)


def orders(seed=0, epochs=2, **options):
    """The rows that each minibatch of a fit sees, after it is checked that x, y* and w stay together."""
    trainer = gb.Trainer(gb.Network(1, [gb.Dense(1)], seed=seed), optimizer=gb.SGD(1e-9), batch_size=5)
    seen = []

    def look(plan):
        rows = plan.buffers["x"][:, 0]
        np.testing.assert_array_equal(plan.buffers["y*"][:, 0], -rows)
        np.testing.assert_array_equal(plan.buffers["w"], 2 * rows)
        seen.append(rows.astype(int).tolist())

    at_each_step(trainer, look)
    fit(trainer, ID[:, None], -ID, epochs, weights=2 * ID, **options)
    return seen


def test_every_epoch_has_every_row_once_in_a_new_order():
    seen = orders()
    assert [len(rows) for rows in seen] == [5, 5, 5, 5, 3] * 2
    first, second = np.split(np.concatenate(seen), 2)
    np.testing.assert_array_equal(np.sort(first), ID)
    np.testing.assert_array_equal(np.sort(second), ID)
    assert (first != second).any() and (first != ID).any()


def test_the_order_is_the_seeds():
    assert orders(seed=1) == orders(seed=1) != orders(seed=2)
    stream = np.random.default_rng([7, 1])
    drawn = [stream.permutation(ROWS) for _ in range(2)]
    np.testing.assert_array_equal(np.concatenate(orders(seed=7)), np.concatenate(drawn))


def test_without_shuffling_rows_come_as_they_are():
    np.testing.assert_array_equal(np.concatenate(orders(shuffle=False)), [*ID, *ID])


# Metrics and validation data ------------------------------------------------------------------------------------------


def test_accuracy_counts_right_answers_as_they_were_before_each_step():
    trainer, net = gb.Trainer(classifier(), batch_size=6), classifier()
    stepped, right = gb.Trainer(net, batch_size=6), 0
    for start in range(0, ROWS, 6):
        rows = slice(start, start + 6)
        right += (net.predict(X[rows]).argmax(axis=1) == LABELS[rows]).sum()
        stepped.step(X[rows], LABELS[rows])
    assert fit(trainer, shuffle=False)[0]["accuracy"] == right / ROWS


@pytest.mark.parametrize("weights", [None, WEIGHTS[:9]], ids=["plain", "weighted"])
@pytest.mark.parametrize("make", [classifier, regression])
def test_validation_data_are_measured_after_every_epoch_and_not_learned(make, weights):
    y = LABELS if make is classifier else Y
    held_out = (X[:9] * 2, y[:9]) if weights is None else (X[:9] * 2, y[:9], weights)
    measured, plain = (gb.Trainer(make(), batch_size=5) for _ in range(2))
    history = fit(measured, epochs=3, validation=held_out)
    want = []
    for _ in range(3):
        fit(plain)
        want.append(plain.evaluate(*held_out))
    names = ["loss", "accuracy"] if make is classifier else ["loss", "r2", "mae"]
    assert [{name: row[f"val_{name}"] for name in names} for row in history] == want
    assert state(measured) == state(plain)
    assert history.columns == ["epoch", *names[: 1 + (make is classifier)], *(f"val_{n}" for n in names), "seconds",
                               "samples_per_second"]  # fmt: skip


def test_a_row_of_the_history():
    trainer = gb.Trainer(regression(), batch_size=5)
    history = fit(trainer, epochs=4)
    assert history is trainer.history
    assert history["epoch"] == [1, 2, 3, 4]
    assert history["loss"] == sorted(history["loss"], reverse=True)
    assert all(isinstance(value, (int, float)) for row in history for value in row.values())
    assert all(row["samples_per_second"] == pytest.approx(ROWS / row["seconds"]) for row in history)
    assert history.stopped is None


def test_progress_is_told_of_every_sample_and_epoch(monkeypatch):
    spy = Spy(monkeypatch)
    history = gb.Trainer(regression(), batch_size=5).fit(X, Y, 3, validation=(X, Y))
    assert sum(spy.samples) == 3 * ROWS
    assert spy.rows == history.rows


def test_a_line_of_csv_is_there_as_soon_as_its_epoch_is_complete(monkeypatch, tmp_path):
    path, lines = tmp_path / "history.csv", []
    Spy(monkeypatch, at_epoch=lambda row: lines.append(read(path)))
    history = gb.Trainer(classifier(), batch_size=5).fit(X, LABELS, 3, validation=(X, LABELS), csv=path)
    assert [len(rows) for rows in lines] == [1, 2, 3]
    assert lines[-1] == read(path) == [{name: repr(value) for name, value in row.items()} for row in history]


# How a run may end early ----------------------------------------------------------------------------------------------


def planned(make=classifier, steps=0, **options):
    """A trainer with minibatches of 6 rows, 4 in an epoch, after so many steps in the order of the rows."""
    trainer = gb.Trainer(make(), batch_size=6, **options)
    by_hand(trainer, [np.arange(ROWS)] * 9, 6, LABELS if make is classifier else Y, steps=steps)
    return trainer


@pytest.mark.parametrize("step", [1, 2, 4, 5, 7, 12])
def test_ctrl_c_keeps_what_was_learned(step, tmp_path):
    trainer, path = planned(), tmp_path / "history.csv"
    at_step(trainer, step, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        fit(trainer, epochs=3, shuffle=False, csv=path)
    history, complete = trainer.history, (step - 1) // 4
    assert len(history) == len(read(path)) == complete
    assert history.stopped == f"interrupted in epoch {complete + 1}; what was learned until then is kept"
    assert state(trainer) == state(planned(steps=step))
    assert fit(trainer, epochs=2).stopped is None


def test_ctrl_c_while_validation_data_are_measured(monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation.Evaluation, "run", interrupted)
    trainer = planned()
    with pytest.raises(KeyboardInterrupt):
        fit(trainer, shuffle=False, validation=(X, LABELS))
    assert "interrupted in epoch 1" in trainer.history.stopped
    assert state(trainer) == state(planned(steps=4))


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7])
def test_stop_ends_after_the_running_step(step):
    trainer = planned()
    at_step(trainer, step, trainer.stop)
    history = fit(trainer, epochs=3, shuffle=False)
    assert history.stopped == f"stopped in epoch {1 + (step - 1) // 4}, as asked"
    assert len(history) == (step - 1) // 4
    assert state(trainer) == state(planned(steps=step))


def test_stop_ends_a_long_epoch_after_the_running_step_too():
    trainer = gb.Trainer(regression(), batch_size=1)
    at_step(trainer, 2, trainer.stop)
    trainer.fit(np.tile(X, (20, 1)), np.tile(Y, (20, 1)), 1, progress=False)
    assert trainer.optimizer.hyper[0] == 2


@pytest.mark.parametrize("step", [4, 8])
def test_stop_at_the_end_of_an_epoch_completes_it(step):
    trainer = planned()
    at_step(trainer, step, trainer.stop)
    history = fit(trainer, epochs=3, shuffle=False)
    assert history.stopped == f"stopped after epoch {step // 4}, as asked"
    assert len(history) == step // 4
    assert state(trainer) == state(planned(steps=step))


def test_stop_in_the_last_step_of_all_stops_nothing():
    trainer = planned()
    at_step(trainer, 8, trainer.stop)
    history = fit(trainer, epochs=2, shuffle=False)
    assert len(history) == 2 and history.stopped is None


def test_stop_is_meant_for_the_running_fit_only():
    trainer = planned()
    trainer.stop()
    assert fit(trainer).stopped is None
    at_step(trainer, 6, trainer.stop)
    assert fit(trainer).stopped is not None
    assert fit(trainer).stopped is None


def test_stop_counts_as_soon_as_fit_is_called(monkeypatch):
    trainer = planned()
    monkeypatch.setattr(fit_module, "Run", lambda *a, of=fit_module.Run: trainer.stop() or of(*a))
    assert fit(trainer).stopped == "stopped before epoch 1, as asked"
    assert state(trainer) == state(planned())


# Divergence -----------------------------------------------------------------------------------------------------------

DROPPED = [gb.Dense(5, "tanh"), gb.Dropout(0.5), gb.Dense(2)]


def with_dropout():
    return gb.Network(4, DROPPED, dtype="float64", seed=3)


def poisoned(step, batch_size=6):
    """Targets so large that their square overflows, in one row of the minibatch with this number."""
    y = Y.copy()
    y[min(batch_size * step, ROWS) - 1] = 1e200
    return y


@pytest.mark.filterwarnings("ignore:y is not scaled")
@pytest.mark.parametrize("step", [1, 2, 3, 4])
@pytest.mark.parametrize("make", [regression, with_dropout])
def test_divergence_is_found_at_its_step_and_leaves_the_last_state_whose_loss_was_finite(make, step):
    """A step's loss is of the parameters before it: of step s those that s − 1 steps made. If it is the first loss that
    is not finite, s − 2 steps made the last parameters that are known to be good."""
    trainer = planned(make)
    with pytest.raises(
        gb.DivergedError, match=f"the loss became NaN or infinite in epoch 1, step {step} of 4"
    ) as caught:
        fit(trainer, y=poisoned(step), epochs=3, shuffle=False)
    assert (caught.value.epoch, caught.value.step) == (1, step)
    assert state(trainer) == state(planned(make, steps=max(0, step - 2)))
    message = str(caught.value)
    assert ("those that fit began with" if step == 1 else "those of the last step whose loss was finite") in message
    assert "Lower the learning rate (now 0.001)" in message and "scale the inputs" in message


@pytest.mark.parametrize("step", [2, 3, 5, 6, 7, 8, 9])
def test_the_same_in_any_epoch_also_across_its_border(step):
    """The step before spoils the parameters without making them infinite; the loss of this step shows it."""
    trainer = planned(regression)

    def spoil():
        trainer.network.parameters[...] *= 1e300

    at_step(trainer, step - 1, spoil)
    with pytest.raises(gb.DivergedError) as caught:
        fit(trainer, epochs=3, shuffle=False)
    assert (caught.value.epoch, caught.value.step) == (1 + (step - 1) // 4, 1 + (step - 1) % 4)
    assert state(trainer) == state(planned(regression, steps=step - 2))


@pytest.mark.parametrize("step", [1, 3, 4, 8, 12])
def test_parameters_that_are_not_finite_are_found_at_the_end_of_their_epoch(step):
    """Also in the last step of all, whose parameters have no loss yet."""
    trainer = planned(regression)

    def spoil():
        trainer.network.parameters[3] = np.nan

    at_step(trainer, step, spoil)
    with pytest.raises(gb.DivergedError) as caught:
        fit(trainer, epochs=3, shuffle=False)
    last = step % 4 == 0
    found = step if last else step + 1
    assert (caught.value.epoch, caught.value.step) == (1 + (found - 1) // 4, 1 + (found - 1) % 4)
    assert f"the {'parameters' if last else 'loss'} became " in str(caught.value)
    assert state(trainer) == state(planned(regression, steps=step - 1))


def test_a_learning_rate_too_large_with_one_minibatch_an_epoch():
    """The loss grows by about the same factor in every epoch until it overflows."""

    def made():
        return gb.Trainer(regression(dtype="float32"), optimizer=gb.SGD(50.0), batch_size=ROWS)

    trainer = made()
    with pytest.raises(gb.DivergedError) as caught:
        fit(trainer, epochs=500, shuffle=False)
    epoch = caught.value.epoch
    assert epoch > 2 and caught.value.step == 1
    assert len(caught.value.history) == epoch - 1 and np.isfinite(caught.value.history["loss"]).all()
    again = made()
    fit(again, epochs=epoch - 2, shuffle=False)
    assert state(trainer) == state(again)
    assert np.isfinite(trainer.evaluate(X, Y)["loss"])


def test_after_a_divergence_the_trainer_learns_on_with_a_lower_learning_rate():
    trainer = gb.Trainer(regression(), optimizer=gb.SGD(1e3), batch_size=6)
    with pytest.raises(gb.DivergedError):
        fit(trainer, epochs=500)
    trainer.network.parameters = regression().parameters
    trainer.optimizer.learning_rate = 0.05
    done = len(trainer.history)
    losses = fit(trainer, epochs=20)["loss"][done:]
    assert losses[-1] < losses[0] / 2
    assert trainer.history.stopped is None


def test_a_parameter_that_no_loss_tells_of():
    """Compiled, relu makes 0 of NaN. What is left can be saved."""

    def make():
        net = gb.Network(4, [gb.Dense(5, "relu"), gb.Dense(2)], seed=3)
        return gb.Trainer(net, optimizer=gb.SGD(0.1), batch_size=6)

    trainer, expected = make(), make()
    by_hand(expected, [np.arange(ROWS)], 6, Y, steps=1)
    at_step(trainer, 2, lambda: trainer.network.layers[0].bias.__setitem__(0, np.nan))
    with pytest.raises(gb.DivergedError) as caught:
        fit(trainer, shuffle=False)
    assert np.isfinite(trainer.network.parameters).all()
    assert state(trainer) == state(expected)
    assert isinstance(caught.value.step, int)


def test_history_and_csv_of_a_run_that_diverged(tmp_path):
    trainer, path = planned(regression), tmp_path / "history.csv"
    at_step(trainer, 10, lambda: trainer.network.parameters.fill(1e300))
    with pytest.raises(gb.DivergedError) as caught:
        fit(trainer, epochs=5, csv=path)
    assert caught.value.history is trainer.history
    assert len(trainer.history) == len(read(path)) == 2
    assert trainer.history.stopped == "the loss became NaN or infinite in epoch 3, step 3"


@pytest.mark.filterwarnings("ignore:y is not scaled")
def test_a_further_fit_that_diverged_tells_its_own_epochs():
    trainer = planned(regression)
    fit(trainer, epochs=2, shuffle=False)
    for step, kept in ((1, "those that fit began with"), (2, "those of the last step whose loss was finite")):
        said = f"in epoch 3, step {step} of 4, first in E, the loss itself. The parameters are {kept}"
        with pytest.raises(gb.DivergedError, match=said) as caught:
            fit(trainer, y=poisoned(step), shuffle=False)
        assert (caught.value.epoch, caught.value.step, len(caught.value.history)) == (3, step, 2)
        assert state(trainer) == state(planned(regression, steps=8))
    at_step(trainer, 11, trainer.stop)
    fit(trainer, y=poisoned(2), shuffle=False)
    assert trainer.history.stopped.startswith("stopped in epoch 3, as asked, after its loss")
    assert trainer.history.stopped.endswith("the parameters are those that fit began with")


@pytest.mark.parametrize("kind", ["Ctrl-C", "stop"])
def test_ended_early_after_the_loss_became_nan(kind):
    """What is kept is from the epoch before; to find the very step would take the time that nobody has now."""
    trainer = planned(regression)

    def spoil():
        trainer.network.parameters[0] = np.nan

    at_step(trainer, 5, spoil)
    at_step(trainer, 7, trainer.stop if kind == "stop" else lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt) if kind == "Ctrl-C" else nullcontext():
        fit(trainer, epochs=3, shuffle=False)
    history = trainer.history
    assert len(history) == 1
    said = "stopped in epoch 2, as asked" if kind == "stop" else "interrupted in epoch 2"
    assert history.stopped == f"{said}, after its loss became NaN or infinite: the parameters are those of epoch 1"
    assert state(trainer) == state(planned(regression, steps=3))


@pytest.mark.filterwarnings("ignore:y is not scaled")
def test_ended_early_after_the_first_loss_became_nan():
    trainer = planned(regression)
    at_step(trainer, 3, trainer.stop)
    history = fit(trainer, y=poisoned(2), shuffle=False)
    assert history.stopped.endswith("the parameters are those that fit began with")
    assert state(trainer) == state(planned(regression))


def test_a_nan_of_validation_data_is_only_reported():
    trainer = gb.Trainer(regression(dtype="float32"), batch_size=6)
    history = fit(trainer, epochs=2, validation=(X, np.full_like(Y, 3e38)))
    assert history["val_loss"] == [np.inf, np.inf] and history.stopped is None


# What happens while fit runs ------------------------------------------------------------------------------------------


def test_a_learning_rate_may_change_while_fit_runs(monkeypatch):
    trainer, net = gb.Trainer(regression(), optimizer=gb.SGD(0.1), batch_size=6), regression()
    rates = iter([0.02, 0.5, 1.0])
    Spy(monkeypatch, at_epoch=lambda row: setattr(trainer.optimizer, "learning_rate", next(rates)))
    trainer.fit(X, Y, 3, shuffle=False)
    monkeypatch.undo()
    for rate in (0.1, 0.02, 0.5):
        fit(gb.Trainer(net, optimizer=gb.SGD(rate), batch_size=6), shuffle=False)
    np.testing.assert_array_equal(trainer.network.parameters, net.parameters)


def test_a_learning_rate_set_while_fit_runs_outlives_a_divergence(monkeypatch):
    trainer = gb.Trainer(regression(), optimizer=gb.SGD(0.1), batch_size=6)
    Spy(monkeypatch, at_epoch=lambda row: setattr(trainer.optimizer, "learning_rate", 0.02))
    at_step(trainer, 4, lambda: trainer.network.parameters.__imul__(1e300))
    with pytest.raises(gb.DivergedError, match=r"epoch 2, step 1 .*now 0\.02"):
        trainer.fit(X, Y, 3)
    assert trainer.optimizer.hyper.tolist() == [3, 0.02]


def test_fit_passes_over_a_batch_without_weight():
    weights = np.ones(ROWS)
    weights[6:12] = 0
    trainer, without = planned(), planned()
    history = fit(trainer, shuffle=False, weights=weights)
    for rows in (slice(0, 6), slice(12, 18), slice(18, 23)):
        without.step(X[rows], LABELS[rows], weights[rows])
    assert state(trainer) == state(without)
    assert np.isfinite(history[0]["loss"])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_where_all_weights_are_0_there_is_nothing_to_fit_or_measure(reduction):
    trainer, nothing = gb.Trainer(classifier(), gb.CrossEntropy(reduction=reduction)), np.zeros(ROWS)
    for what in (
        lambda: fit(trainer, weights=nothing),
        lambda: fit(trainer, validation=(X, LABELS, nothing)),
        lambda: trainer.evaluate(X, LABELS, nothing),
    ):
        with pytest.raises(gb.InputError, match="all weights are 0, so that no row counts"):
            what()
    assert float(trainer.step(X, LABELS, nothing)) == 0  # a minibatch without weight changes nothing


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [1e-300, 1e-40, 1e-38, 1e-30, 1e30, 1e37, 1e300])
def test_weights_count_relative_to_each_other(scale, dtype):
    def learned(weights):
        trainer = gb.Trainer(classifier(dtype=dtype), optimizer=gb.SGD(0.1), batch_size=6)
        history = fit(trainer, weights=weights, validation=(X, LABELS, weights), epochs=2)
        trainer.step(X, LABELS, weights)
        numbers = history[-1]["loss"], *trainer.evaluate(X, LABELS, weights).values()
        return np.array([*numbers, history[-1]["val_loss"], *trainer.network.parameters])

    np.testing.assert_allclose(learned(WEIGHTS * scale), learned(WEIGHTS), 1e-5, 1e-6)


def test_weights_too_far_apart_are_refused():
    weights = np.full(ROWS, 1e30)
    weights[3] = 1e-30
    with pytest.raises(gb.InputError, match=r"further apart than float32 numbers are.*1e\+30.*1e-30"):
        fit(gb.Trainer(classifier(dtype="float32")), weights=weights)
    fit(gb.Trainer(classifier(dtype="float64")), weights=weights)
