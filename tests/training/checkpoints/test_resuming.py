"""Going on from a checkpoint: to the same bits, with what was made as before, from the newest one that is whole."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext, suppress
from warnings import catch_warnings, simplefilter

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.errors import InputError, ModelFileError
from gpu_backprop.backend.lazy_rows import LazyRows
from gpu_backprop.training import streaming
from gpu_backprop.training.checkpoints import record_file
from gpu_backprop.training.checkpoints.folder import numbered

ROWS, STEPS, EPOCHS = 45, 6, 3  # minibatches of 8 rows, and one of 5
RNG = np.random.default_rng(3)
X, LABELS, WEIGHTS = RNG.normal(size=(ROWS, 4)), RNG.integers(0, 3, ROWS), RNG.uniform(0.5, 2, ROWS)

FORMS = {
    "NumPy": {"dtype": "float64"},
    "compiled": {"dtype": "float32"},
    "members": {"dtype": "float32", "seed": [4, 9]},
    "schedule": {"optimizer": gb.Adam(0.01, schedule={"learning_rate": "cosine", "beta1": lambda step, steps: 0.9})},
    "in parts, clipped, averaged": {"dtype": "float32", "accumulate": 3, "clip_norm": 0.5, "average": 0.9},
    "averaged members": {"seed": [4, 9], "average": [0.9, 0.5], "clip_norm": 0.5},
    "penalties": {"optimizer": gb.SGD(0.1, momentum=0.9, weight_decay=0.01, l1=1e-3, l2=0.01)},
    "Nesterov": {"dtype": "float64", "optimizer": gb.SGD(0.1, momentum=0.9, nesterov=True)},
}


@pytest.fixture(autouse=True)
def without_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda number: None)


class Killed(BaseException):
    """Ends a fit as nothing else does."""


class Kill:
    """Ends the fit after so many steps in all, and counts them."""

    only_reads = False

    def __init__(self, after):
        self.after, self.seen = after, 0

    def on_step(self, state):
        self.seen += 1
        if self.seen == self.after:
            raise Killed


class Count:
    """A callback with a state: it lowers the rate after every epoch, and counts what it has seen."""

    def __init__(self):
        self.epochs, self.seen = 0, np.zeros(2)

    def on_start(self, state):
        self.epochs, self.seen = 0, np.zeros(2)

    def on_epoch(self, state):
        self.epochs, self.seen = self.epochs + 1, self.seen + state.epoch
        state.trainer.optimizer.learning_rate = state.trainer.optimizer.learning_rate * 0.5

    def state(self):
        return {"epochs": self.epochs, "seen": self.seen}

    def load_state(self, state):
        self.epochs, self.seen = state["epochs"], state["seen"]


def trainer_of(dtype="float64", seed=3, units=5, optimizer="adam", batch_size=8, **options):
    layers = [gb.Dense(units, "tanh"), gb.Dropout(0.2), gb.Dense(3, "softmax")]
    return gb.Trainer(gb.Network(4, layers, dtype=dtype, seed=seed), None, optimizer, batch_size=batch_size, **options)


def fit(trainer, callbacks=(), epochs=EPOCHS, **options):
    given = {"weights": WEIGHTS, "validation": (X[:9], LABELS[:9]), "loss_every": 4} | options
    return trainer.fit(X, LABELS, epochs, progress=False, callbacks=callbacks, **given)


def left(trainer):
    """All that a fit leaves behind, but for times."""
    arrays, host = trainer.training_step.state()
    rows = [{k: v for k, v in row.items() if k not in ("seconds", "samples_per_second")} for row in trainer.history]
    history = rows, trainer.history.steps, trainer.history.stopped
    return {name: np.array(a).tobytes() for name, a in arrays.items()}, host, history, trainer.optimizer.describe()


def killed(folder, after, callbacks=(), every_steps=4, **form):
    """A folder of checkpoints that a fit left which was killed."""
    trainer = trainer_of(**form)
    with pytest.raises(Killed):
        fit(trainer, [*callbacks, gb.Checkpoint(folder, every_steps=every_steps), Kill(after)])
    return folder


# To the same bits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_fit_goes_on_to_the_same_bits(tmp_path, form):
    whole = trainer_of(**form)
    fit(whole)
    for after in (1, 4, STEPS, STEPS + 1, 2 * STEPS + 3, EPOCHS * STEPS):
        trainer = trainer_of(**form)
        folder = tmp_path / str(after)
        trainer.resume(killed(folder, after, **form))
        fit(trainer, [gb.Checkpoint(folder)])
        assert left(trainer) == left(whole)


FITS = {
    "validation_split": {"validation": None, "validation_split": 0.3},
    "class_weight": {"class_weight": "balanced"},
    "no shuffling": {"shuffle": False, "weights": None},
}


@pytest.mark.parametrize("options", FITS.values(), ids=FITS)
def test_a_fit_of_another_kind_goes_on_to_the_same_bits(tmp_path, options):
    whole, trainer = trainer_of(), trainer_of()
    fit(whole, **options)
    with pytest.raises(Killed):
        fit(trainer_of(), [gb.Checkpoint(tmp_path, every_steps=3), Kill(8)], **options)
    trainer.resume(tmp_path)
    fit(trainer, **options)
    assert left(trainer) == left(whole)


@pytest.mark.parametrize("lazy", [False, True], ids=["memory map", "lazy rows"])
def test_windows_of_data_larger_than_memory_go_on(tmp_path, monkeypatch, lazy):
    monkeypatch.setattr(streaming, "WINDOW", 2 * 8 * 6 * 8)  # of two minibatches, from stretches of a few rows
    monkeypatch.setattr(streaming, "STRETCH", 3 * 6 * 8)
    monkeypatch.setattr(streaming, "memory", lambda: 0)
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    x = LazyRows(X.shape, X.dtype, lambda rows: np.array(mapped[rows])) if lazy else mapped

    def windowed(trainer, callbacks=()):
        trainer.fit(x, LABELS, EPOCHS, progress=False, callbacks=callbacks)

    whole = trainer_of()
    windowed(whole)
    for after in (5, 9, 2 * STEPS + 1):
        folder, trainer = tmp_path / str(after), trainer_of()
        with pytest.raises(Killed):
            windowed(trainer_of(), [gb.Checkpoint(folder, every_steps=1), Kill(after)])
        trainer.resume(folder)
        windowed(trainer)
        assert left(trainer) == left(whole)
    in_memory = trainer_of()
    in_memory.fit(X, LABELS, EPOCHS, progress=False)
    assert left(in_memory) != left(whole)  # whose order is another one


@pytest.mark.parametrize("seed", [3, [3, 5]], ids=["one", "members"])
@pytest.mark.parametrize("monitor", ["val_loss", "loss"])
def test_early_stopping_goes_on(tmp_path, seed, monitor):
    def stopped(trainer, callbacks=()):
        stopping = gb.EarlyStopping(monitor, patience=2, min_delta=0.05)
        return fit(trainer, callbacks, 9, early_stopping=stopping)

    whole = trainer_of(seed=seed)
    stopped(whole)
    assert len(whole.history) < 9
    last = len(whole.history) * STEPS
    for after in (STEPS, 2 * STEPS + 3, last - 1, last):
        folder, trainer = tmp_path / str(after), trainer_of(seed=seed)
        with pytest.raises(Killed):
            stopped(trainer_of(seed=seed), [gb.Checkpoint(folder, every_steps=1), Kill(after)])
        trainer.resume(folder)
        stopped(trainer, [gb.Checkpoint(folder)])
        assert left(trainer) == left(whole)
        assert trainer.history.best_epoch == whole.history.best_epoch
    again = trainer_of(seed=seed)
    again.resume(folder)  # which is complete
    stopped(again)
    assert left(again) == left(whole)
    assert again.history.best_epoch == whole.history.best_epoch


@pytest.mark.parametrize("seed", [1, [1, 2]], ids=["one", "members"])
def test_halving_goes_on(tmp_path, seed):
    y = X[:, :2] - X[:, 2:]

    def made():
        net = gb.Network(4, [gb.Dense(6, "relu"), gb.Dropout(0.2), gb.Dense(2)], dtype="float64", seed=seed)
        return gb.Trainer(net, "squared_error", gb.SGD(64.0, momentum=0.5), batch_size=8)

    def halved(trainer, callbacks=()):
        trainer.fit(X, y, 3, progress=False, callbacks=callbacks, on_divergence="halve_rate")

    whole = made()
    with pytest.warns(RuntimeWarning, match="half the learning rate"):
        halved(whole)
    total = (sum(map(np.max, whole.history["rate_halved"][:1])) + 3) * STEPS
    for after in (5, 2 * STEPS + 2, total - STEPS - 2, total - 2):
        folder, trainer = tmp_path / str(after), made()
        with suppress(Killed), catch_warnings():
            simplefilter("ignore")
            halved(made(), [gb.Checkpoint(folder, every_steps=1), Kill(after)])
        trainer.resume(folder)
        with catch_warnings():
            simplefilter("ignore")
            halved(trainer)
        assert left(trainer) == left(whole)


def test_members_that_diverge_stay_stopped(tmp_path):
    """Also from the middle of the epoch, before it is known of them or after."""
    y = X[:, :2] - X[:, 2:]

    def made():
        net = gb.Network(4, [gb.Dense(6, "relu"), gb.Dropout(0.2), gb.Dense(2)], dtype="float64", seed=[1, 2, 3])
        return gb.Trainer(net, "squared_error", gb.SGD([0.01, 64.0, 0.3], momentum=0.5), batch_size=8, average=0.9)

    def stopped(trainer, callbacks=()):
        stopping = gb.EarlyStopping("loss", patience=2)
        options = {"early_stopping": stopping, "on_divergence": "stop", "callbacks": callbacks, "progress": False}
        with catch_warnings():
            simplefilter("ignore")
            trainer.fit(X, y, 4, **options)

    whole = made()
    stopped(whole)
    assert 0 == whole.history.diverged[0] < whole.history.diverged[1]
    folder = tmp_path / "all"
    stopped(made(), [gb.Checkpoint(folder, every_steps=1, keep=100)])
    for _, path in numbered(folder):
        trainer = made()
        trainer.resume(path)
        stopped(trainer)
        assert str(left(trainer)) == str(left(whole))  # NaN is not itself
        assert trainer.history.diverged == whole.history.diverged


def test_every_step_is_a_place_to_go_on_from(tmp_path):
    whole = trainer_of()
    fit(whole)
    folder = tmp_path / "all"
    fit(trainer_of(), [gb.Checkpoint(folder, every_steps=1, keep=100)])
    for _, path in numbered(folder):
        trainer = trainer_of()
        trainer.resume(path)
        fit(trainer)
        assert left(trainer) == left(whole)


def test_it_goes_on_twice(tmp_path):
    whole, folder = trainer_of(), killed(tmp_path / "c", 5, every_steps=2)
    fit(whole)
    for after in (4, 6):
        trainer = trainer_of()
        trainer.resume(folder)
        with pytest.raises(Killed):
            fit(trainer, [gb.Checkpoint(folder, every_steps=2), Kill(after)])
    trainer = trainer_of()
    trainer.resume(folder)
    fit(trainer)
    assert left(trainer) == left(whole)


def test_a_second_fit_goes_on_too(tmp_path):
    whole = trainer_of()
    fit(whole)
    fit(whole)
    first = trainer_of()
    fit(first)
    with pytest.raises(Killed):
        fit(first, [gb.Checkpoint(tmp_path, every_steps=5), Kill(8)])
    trainer = trainer_of()
    trainer.resume(tmp_path)
    assert len(fit(trainer)) == 2 * EPOCHS
    assert left(trainer) == left(whole)


def test_a_fit_that_is_complete_is_not_trained_again(tmp_path):
    whole, trainer = trainer_of(), trainer_of()
    fit(whole, [gb.Checkpoint(tmp_path)])
    trainer.resume(tmp_path)
    fit(trainer)
    assert left(trainer) == left(whole)
    assert len(fit(trainer)) == 2 * EPOCHS  # and the next fit is one of its own


def test_a_stopped_fit_goes_on(tmp_path):
    whole, trainer = trainer_of(), trainer_of()
    fit(whole)

    class Stop:
        def on_step(self, state):
            if (state.epoch, state.step) == (2, 3):
                state.trainer.stop()

    fit(trainer, [gb.Checkpoint(tmp_path), Stop()])
    assert len(trainer.history) == 1
    trainer = trainer_of()
    trainer.resume(tmp_path)
    fit(trainer)
    assert left(trainer) == left(whole)


def test_callbacks_go_on(tmp_path):
    counts = [Count(), Count()]
    whole = trainer_of()
    fit(whole, counts)
    trainer, twins = trainer_of(), [Count(), Count()]
    trainer.resume(killed(tmp_path / "c", 2 * STEPS + 2, [Count(), Count()]))
    fit(trainer, twins)
    assert left(trainer) == left(whole)
    assert [(twin.epochs, *twin.seen) for twin in twins] == [(3, 6, 6)] * 2
    assert trainer.optimizer.learning_rate == 0.001 / 4**EPOCHS


def test_a_falling_rate_goes_on(tmp_path):
    def plateau():
        return gb.ReduceOnPlateau("loss", factor=0.5, patience=1, min_delta=1.0)

    whole, trainer = trainer_of(), trainer_of()
    fit(whole, [plateau()], 5)
    with pytest.raises(Killed):
        fit(trainer_of(), [plateau(), gb.Checkpoint(tmp_path, every_steps=1), Kill(3 * STEPS + 2)], 5)
    trainer.resume(tmp_path)
    fit(trainer, [plateau()], 5)
    assert left(trainer) == left(whole)
    assert trainer.optimizer.learning_rate < 0.001


def test_where_a_callback_asked_to_end_it_stays_ended(tmp_path):
    whole = trainer_of()
    fit(whole, [lambda state: state.epoch == 2 and "enough", gb.Checkpoint(tmp_path)])
    trainer = trainer_of()
    trainer.resume(tmp_path)
    fit(trainer)
    assert left(trainer) == left(whole)
    assert trainer.history.stopped == "stopped after epoch 2 by <lambda> (enough)"


def test_what_was_set_goes_on(tmp_path):
    def set_all(state):
        trainer = state.trainer
        trainer.network.layers[1].rate = 0.1 * state.epoch
        trainer.network.layers[0].trainable = state.epoch == 2
        trainer.loss.label_smoothing = 0.01 * state.epoch
        trainer.clip_norm = 0.5 + state.epoch

    def smoothing():
        layers = [gb.Dense(5, "tanh", trainable=False), gb.Dropout(0.2), gb.Dense(3, "softmax")]
        return gb.Trainer(
            gb.Network(4, layers, dtype="float64"), gb.CrossEntropy(label_smoothing=0.2), batch_size=8, clip_norm=2.0
        )

    whole = smoothing()
    fit(whole, [set_all])
    trainer = smoothing()
    with pytest.raises(Killed):
        fit(trainer, [set_all, gb.Checkpoint(tmp_path, every_steps=3), Kill(2 * STEPS + 4)])
    trainer = smoothing()
    trainer.resume(tmp_path)
    assert trainer.network.layers[1].rate == 0.2
    assert trainer.network.layers[0].trainable
    fit(trainer, [set_all])
    assert left(trainer) == left(whole)


def test_a_divergence_is_found_again(tmp_path):
    stops = []
    for resumed in (False, True):
        trainer = trainer_of("float32", optimizer=gb.SGD(0.1))

        def spoil(state):
            if state.epoch == 1:
                state.trainer.optimizer.learning_rate = 1e38

        if resumed:
            trainer.resume(tmp_path)
        with pytest.raises(gb.DivergedError):
            fit(trainer, [spoil, gb.Checkpoint(tmp_path, every_steps=STEPS)], loss_every=None)
        stops.append((trainer.history.stopped, trainer.network.parameters.tobytes()))
    assert stops[0] == stops[1]
    assert "step" in stops[0][0] and "at the latest" not in stops[0][0]


def lower_all(state):
    """A callback that lowers what a trainer can be set."""
    trainer = state.trainer
    trainer.optimizer.learning_rate *= 0.5
    trainer.optimizer.momentum *= 0.5
    trainer.network.layers[1].rate *= 0.5
    trainer.loss.label_smoothing *= 0.5
    trainer.clip_norm, trainer.average = trainer.clip_norm * 0.5, trainer.average * 0.5


def set_after_making(rate=0.5):
    """A trainer whose settings are others than it was made with."""
    trainer = trainer_of(optimizer=gb.SGD(0.1, momentum=0.9), clip_norm=2.0, average=0.9)
    trainer.optimizer.learning_rate, trainer.optimizer.momentum = rate, 0.8
    trainer.network.layers[1].rate, trainer.loss.label_smoothing = 0.4, 0.2
    trainer.clip_norm, trainer.average = 3.0, 0.8
    return trainer


def test_what_was_set_after_making_goes_on(tmp_path):
    whole = set_after_making()
    fit(whole, [lower_all], 4)
    for after in (2, STEPS + 2, 2 * STEPS, 3 * STEPS + 1):
        folder = tmp_path / str(after)
        with pytest.raises(Killed):
            fit(set_after_making(), [lower_all, gb.Checkpoint(folder, every_steps=1), Kill(after)], 4)
        for times in (1, 2):  # of which the second is right after the first
            trainer = set_after_making()
            for _ in range(times):
                trainer.resume(folder)
            with pytest.raises(Killed):
                fit(trainer, [lower_all, gb.Checkpoint(folder, every_steps=1), Kill(2)], 4)
        trainer = set_after_making()
        trainer.resume(folder)
        fit(trainer, [lower_all], 4)
        assert left(trainer) == left(whole)


def test_what_a_fit_before_has_set_goes_on(tmp_path):
    first, whole = set_after_making(), set_after_making()
    for _ in range(2):
        fit(whole, [lower_all])
    fit(first, [lower_all])
    with pytest.raises(Killed):
        fit(first, [lower_all, gb.Checkpoint(tmp_path, every_steps=1), Kill(STEPS + 2)])
    made_anew, fitted = set_after_making(), set_after_making()
    fit(fitted, [lower_all])
    for trainer in (made_anew, fitted):
        trainer.resume(tmp_path)
        fit(trainer, [lower_all])
        assert left(trainer) == left(whole)


# What differs ---------------------------------------------------------------------------------------------------------

OTHERS = {
    "units": ({"units": 6}, "layers[0].units is 6 here, and 5 in the checkpoint"),
    "dtype": ({"dtype": "float32"}, "dtype is float32 here, and float64 in the checkpoint"),
    "optimizer": ({"optimizer": "sgd"}, "optimizer.name is sgd here, and adam in the checkpoint"),
    "clipping": ({"clip_norm": 1.0}, "clip_norm is 1.0 here, and None in the checkpoint"),
    "rate": ({"optimizer": gb.Adam(0.1)}, "optimizer.settings.learning_rate is 0.1 here, and 0.001 in the checkpoint"),
    "batch size": ({"batch_size": 9}, "batch_size is 9 here, and 8 in the checkpoint"),
    "seed": ({"seed": 4}, "seed is 4 here, and 3 in the checkpoint"),
}


@pytest.mark.parametrize(("form", "told"), OTHERS.values(), ids=OTHERS)
def test_another_trainer_is_refused(tmp_path, form, told):
    folder, trainer = killed(tmp_path / "c", 9), trainer_of(**form)
    before = left(trainer)
    with pytest.raises(InputError, match="is of another training") as refused:
        trainer.resume(folder)
    assert told in str(refused.value)
    assert left(trainer) == before


def test_other_layers_are_counted(tmp_path):
    folder = killed(tmp_path / "c", 9)
    trainer = gb.Trainer(gb.Network(4, [gb.Dense(3, "softmax")], dtype="float64", seed=3), batch_size=8)
    with pytest.raises(InputError, match="layers is 1 here, and 3 of them in the checkpoint"):
        trainer.resume(folder)
    with pytest.raises(InputError, match="other shapes, which cannot go on: layers is 1 here"):
        trainer.resume(folder, force=True)


def test_another_network_with_as_many_numbers_is_refused_also_where_it_is_forced(tmp_path):
    def made(inputs, *units):
        return gb.Trainer(gb.Network(inputs, [gb.Dense(n) for n in units], dtype="float64", seed=3), batch_size=8)

    with pytest.raises(Killed):
        made(4, 8, 2).fit(X, X[:, :2], 2, progress=False, callbacks=[gb.Checkpoint(tmp_path), Kill(9)])
    for other in (made(4, 9, 2), made(4, 2, 8), made(2, 4, 8)):
        before = left(other)
        with pytest.raises(InputError, match="of other shapes, which cannot go on: .* here, and .* in the checkpoint"):
            other.resume(tmp_path, force=True)
        assert left(other) == before


def test_what_differs_stays_where_it_is_forced(tmp_path):
    folder, trainer = killed(tmp_path / "c", 9), trainer_of(optimizer=gb.Adam(0.1), batch_size=9)
    trainer.resume(folder, force=True)
    assert (trainer.optimizer.learning_rate, trainer.batch_size) == (0.1, 9)
    history = fit(trainer)
    assert history["epoch"] == [1, 2, 3]


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_was_set_otherwise_is_refused(tmp_path, when):
    with pytest.raises(Killed):
        fit(set_after_making(), [lower_all, gb.Checkpoint(tmp_path), Kill(STEPS + 2)])
    for force in (False, True):
        trainer = set_after_making(0.3 if when == "before" else 0.5)
        refused = pytest.raises(InputError, match="learning_rate is 0.3 here, and 0.(5|25) in the checkpoint")
        with nullcontext() if force or when == "after" else refused:
            trainer.resume(tmp_path, force=force)
        if when == "after":
            trainer.optimizer.learning_rate = 0.3
            with nullcontext() if force else refused:
                fit(trainer, [lower_all])
    assert trainer.network.layers[1].rate == 0.4 / (2 if when == "before" else 2**EPOCHS)  # as in the checkpoint
    assert trainer.optimizer.learning_rate == 0.3 / (1 if when == "before" else 2 ** (EPOCHS - 1))


def metric(y_true, y_pred):
    return 1.0


PLATEAU = gb.ReduceOnPlateau("loss", patience=2)
GIVEN = {
    "validation": ({"validation": (X[9:18], LABELS[9:18])}, "validation x: other values"),
    "validation rows": (
        {"validation": (X[:8], LABELS[:8])},
        r"validation x: float64 .8, 4. here, and float64 .9, 4.",
    ),
    "validation weights": (
        {"validation": (X[:9], LABELS[:9], WEIGHTS[:9])},
        r"weights: float64 \(9,\) here, and none in",
    ),
    "none": (
        {"validation": None, "early_stopping": None},
        r"validation y: none here, and int64 \(9,\) in the checkpoint",
    ),
    "on_divergence": ({"on_divergence": "halve_rate"}, "on_divergence is halve_rate here, and raise in the checkpoint"),
    "monitor": (
        {"early_stopping": gb.EarlyStopping("val_accuracy")},
        "EarlyStopping.monitor is val_accuracy here, and v",
    ),
    "mode": ({"early_stopping": gb.EarlyStopping(mode="max")}, "EarlyStopping.mode is max here, and None in"),
    "no stopping": ({"early_stopping": None}, "there is no callback EarlyStopping, as there was"),
    "plateau": ({"callbacks": [gb.ReduceOnPlateau("loss")]}, "ReduceOnPlateau.patience is 10 here, and 2 in"),
    "a callback": ({"callbacks": [PLATEAU, Count()]}, "there was no callback Count"),
    "a second one": ({"callbacks": [PLATEAU, PLATEAU]}, "there was no callback ReduceOnPlateau 2"),
    "metrics": ({"metrics": ["f1_macro", metric]}, "metrics is f1_macro, metric here, and accuracy in the checkpoint"),
    "shuffle": ({"shuffle": False}, "shuffle is False here, and True in the checkpoint"),
    "one number": ({"x": X + (np.arange(4 * ROWS) == 4 * ROWS - 1).reshape(X.shape)}, "training x: other values"),
    "rows": (
        {"x": X[:9], "y": LABELS[:9], "weights": None},
        r"training x: float64 \(9, 4\) here, and float64 \(45, 4\) in",
    ),
    "dtype": ({"x": X.astype("float32")}, r"training x: float32 \(45, 4\) here, and float64 \(45, 4\) in"),
    "no weights": ({"weights": None}, r"training weights: none here, and float64 \(45,\) in the checkpoint"),
    "split": ({"validation": None, "validation_split": 0.2}, "training places of rows: int64 .36,. here, and none"),
}


def fit_as_given(trainer, *more, x=X, y=LABELS, callbacks=(PLATEAU,), metrics=None, **options):
    given = {"weights": WEIGHTS, "validation": (X[:9], LABELS[:9]), "early_stopping": True} | options
    trainer.metrics = metrics
    return trainer.fit(x, y, EPOCHS, progress=False, callbacks=[*callbacks, *more], **given)


@pytest.fixture(scope="module")
def given_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    with pytest.raises(Killed):
        fit_as_given(trainer_of(), gb.Checkpoint(folder), Kill(STEPS + 3))
    return folder


@pytest.mark.parametrize(("other", "told"), GIVEN.values(), ids=GIVEN)
def test_a_fit_that_is_given_something_else_is_refused(given_folder, other, told):
    trainer = trainer_of()
    trainer.resume(given_folder)
    before = left(trainer)
    with pytest.raises(InputError, match=told) as refused:
        fit_as_given(trainer, **other)
    assert len(str(refused.value)) < 800
    assert left(trainer) == before
    trainer.resume(given_folder, force=True)
    assert len(fit_as_given(trainer, **other)) == EPOCHS


def test_a_forced_callback_of_other_settings_begins_anew(given_folder):
    trainer, stopping = trainer_of(), gb.EarlyStopping("val_accuracy")
    trainer.resume(given_folder, force=True)
    fit_as_given(trainer, early_stopping=stopping)
    assert stopping.state()["best_epoch"] > 1


def test_the_best_of_another_column_is_none_of_this_one():
    first, other = gb.Checkpoint("c", best=True), gb.Checkpoint("c", best="val_accuracy")
    first.figure = 0.1
    other.load_state(first.state())
    assert other.figure is None


def test_warnings_name_the_line_that_resumes(tmp_path):
    folder, trainer = killed(tmp_path / "c", 9), trainer_of()
    paths = [path for _, path in numbered(folder)]
    paths[-1].write_bytes(b"")
    rewritten(paths[-2], lambda record: record.update(device="cuda"))
    with pytest.warns(RuntimeWarning) as warned:
        trainer.resume(folder)
    assert [warning.filename for warning in warned] == [__file__] * 2


def test_after_a_refusal_all_is_still_there(tmp_path):
    folder, trainer = killed(tmp_path / "c", 9), trainer_of()
    trainer.resume(folder)
    for _ in range(2):
        with pytest.raises(InputError, match="fit does not go on from"):
            fit(trainer, shuffle=False)
    fit(trainer)
    whole = trainer_of()
    fit(whole)
    assert left(trainer) == left(whole)


def test_other_data_where_it_is_forced(tmp_path):
    folder, trainer = killed(tmp_path / "c", STEPS + 3), trainer_of()
    trainer.resume(folder, force=True)
    history = trainer.fit(X[:20], LABELS[:20], EPOCHS, progress=False)
    assert history["epoch"] == [1, 2, 3]


# The newest good one --------------------------------------------------------------------------------------------------


def foreign(path):
    gb.save(path, trainer_of().network)


def newer(path):
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"format":"1"', b'"format":"2"'))


DAMAGE = {
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:-9]), "follow the header"),
    "cut off early": (lambda path: path.write_bytes(path.read_bytes()[:300]), "cut off after 300 bytes"),
    "empty": (lambda path: path.write_bytes(b""), "cut off after 0 bytes"),
    "altered": (lambda path: path.write_bytes(path.read_bytes()[:-99] + b"0" * 99), "SHA-256 is not right"),
    "foreign": (foreign, "no checkpoint"),
    "newer": (newer, "has format 2, and this version of gpu_backprop understands format 1"),
    "no file": (lambda path: (path.unlink(), path.mkdir()), "not a regular file"),
}


@pytest.mark.parametrize(("damage", "told"), DAMAGE.values(), ids=DAMAGE)
def test_the_newest_good_checkpoint_is_used(tmp_path, damage, told):
    folder, trainer, whole = killed(tmp_path / "c", 9), trainer_of(), trainer_of()
    paths = [path for _, path in numbered(folder)]
    damage(paths[-1])
    with pytest.warns(RuntimeWarning, match=told) as warned:
        trainer.resume(folder)
    assert f"{paths[-1]}: " in str(warned[0].message)
    assert f"{paths[-2].name}, is used" in str(warned[0].message)
    fit(trainer, [gb.Checkpoint(folder, keep=1)])
    fit(whole)
    assert left(trainer) == left(whole)


def test_no_good_checkpoint(tmp_path):
    trainer = trainer_of()
    with pytest.raises(ModelFileError, match="holds none"):
        trainer.resume(tmp_path)
    with pytest.raises(ModelFileError, match="No such file"):
        trainer.resume(tmp_path / "nowhere")
    (tmp_path / "checkpoint-000001.safetensors").write_bytes(b"?")
    with pytest.raises(ModelFileError, match="no checkpoint to go on from: .*000001.*not a safetensors file|cut off"):
        trainer.resume(tmp_path)


def rewritten(path, change):
    """A checkpoint that says something else, with the right SHA-256."""
    record = record_file.read_record(path)
    change(record)
    record_file.write_record(path, record, trainer_of().device)


WRONG = {
    "no position": lambda record: record.pop("position"),
    "a generator": lambda record: record["host"].update(shuffling=[{"bit_generator": "MT19937"}]),
    "no number": lambda record: record["position"].update(done="x"),
    "a shape": lambda record: record["arrays"].update(parameters=np.zeros(3)),
    "a setting": lambda record: record["now"]["optimizer"]["settings"].update(learning_rate=-1.0),
    "layers": lambda record: record["now"].update(layers=[]),
    "no beginning": lambda record: record["begun"].clear(),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_what_it_says_is_not_trusted(tmp_path, change):
    folder, trainer = killed(tmp_path / "c", 9), trainer_of()
    path = numbered(folder)[-1][1]
    before = left(trainer)
    rewritten(path, change)
    with pytest.raises((ModelFileError, InputError)):
        trainer.resume(path)
    assert left(trainer) == before


def test_a_checkpoint_is_a_safetensors_file(tmp_path):
    from safetensors.numpy import load_file

    path = numbered(killed(tmp_path / "c", 9))[-1][1]
    tensors = load_file(path)
    assert tensors[".arrays.parameters"].shape == trainer_of().network.parameters.shape
    told = json.loads(tensors["json"].tobytes())
    assert told["begun"][0]["batch_size"] == 8
    assert told["version"] == gb.__version__


def test_a_checkpoint_of_a_copied_folder(tmp_path):
    folder, trainer = killed(tmp_path / "c", 9), trainer_of()
    shutil.copytree(folder, tmp_path / "d")
    trainer.resume(tmp_path / "d")
    with pytest.raises(InputError, match="holds checkpoints"):
        fit(trainer, [gb.Checkpoint(folder)])
