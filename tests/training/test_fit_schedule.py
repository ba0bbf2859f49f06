"""A fit whose settings follow schedules: each step has the settings that the schedules say, and so has every other way
to come to it."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.errors import DivergedError, InputError
from gpu_backprop.training.fit_schedule import FitSchedule
from gpu_backprop.training.memory import fit_needs
from gpu_backprop.training.run import Settings

ROWS, BATCH, STEPS = 23, 8, 3
STREAM = np.random.default_rng(7)
X = STREAM.normal(size=(ROWS, 4))
LABELS = np.abs(X).argmax(axis=1) % 3

MAPPING = {"learning_rate": gb.Warmup(0.25, "cosine"), "momentum": gb.OneCycle(start=1, peak=0.8, end=1)}
MAPPING_OF_ADAM = {"learning_rate": gb.Warmup(3, "coslog4"), "beta1": gb.OneCycle(start=1, peak=0.9, end=1)}
OPTIMIZERS = {
    "a name": gb.SGD(0.1, schedule="one_cycle"),
    "a function": gb.Adam(0.01, schedule=lambda step, steps: 1 / (1 + step)),
    "two settings": gb.SGD(0.1, momentum=0.9, schedule=MAPPING),
    "the last setting": gb.AdamW(0.01, weight_decay=0.1, schedule={"weight_decay": "linear"}),
    "the first and the last": gb.AdamW(
        0.01, schedule={"weight_decay": gb.StepDecay(0.5, 2), "learning_rate": "cosine"}
    ),
}


def trainer_of(optimizer, seed=3, dtype="float64", dropout=None, **options):
    hidden = [gb.Dense(5, "tanh"), *([] if dropout is None else [dropout])]
    net = gb.Network(4, [*hidden, gb.Dense(3, "softmax")], dtype=dtype, seed=seed, device="cpu")
    return gb.Trainer(net, optimizer=copy.copy(optimizer), batch_size=BATCH, **options)


def fit(trainer, epochs=2, shuffle=False, **options):
    return trainer.fit(X, LABELS, epochs, progress=False, shuffle=shuffle, **options)


def by_hand(trainer, schedules, epochs, begin=0, end=None):
    """The same steps with settings that are set before each, and no schedule."""
    told = trainer.optimizer.schedule
    trainer.optimizer.schedule, base = None, dict(trainer.optimizer.settings)
    end = epochs * STEPS if end is None else end
    for step in range(begin, begin + epochs * STEPS):
        for name, one in schedules.items():
            setattr(trainer.optimizer, name, np.multiply(base[name], one(step, end)).tolist())
        start = step % STEPS * BATCH
        trainer.step(X[start : start + BATCH], LABELS[start : start + BATCH])
    for name in schedules:
        setattr(trainer.optimizer, name, base[name])
    trainer.optimizer.schedule = told


def same(one, other):
    assert one.network.parameters.tobytes() == other.network.parameters.tobytes()
    for name, moment in one.optimizer.moments.items():
        assert moment.tobytes() == other.optimizer.moments[name].tobytes()
    assert one.optimizer.hyper.tobytes() == other.optimizer.hyper.tobytes()


# What a step has ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [3, [3, 4]], ids=["one", "two members"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_fit_is_its_steps_with_the_settings_set_by_hand(optimizer, dtype, seed):
    scheduled, plain = (trainer_of(optimizer, seed, dtype) for _ in range(2))
    before = dict(scheduled.optimizer.settings)
    fit(scheduled, 4)
    by_hand(plain, optimizer.schedule, 4)
    same(scheduled, plain)
    assert dict(scheduled.optimizer.settings) == before
    still = trainer_of(optimizer, seed, dtype)
    still.optimizer.schedule = None
    fit(still, 4)
    assert still.network.parameters.tobytes() != scheduled.network.parameters.tobytes()


def test_each_member_has_what_a_function_gives_it_and_its_own_setting():
    def of_each(step, steps):
        return [1, 1 - step / steps]

    members = trainer_of(gb.Adam([0.01, 0.03], schedule=of_each), [3, 4])
    fit(members)
    assert members.history[-1]["learning_rate"] == [0.01, pytest.approx(0.03 / 6)]
    for member, (seed, rate) in enumerate(((3, 0.01), (4, 0.03))):
        alone = trainer_of(gb.Adam(rate, schedule=lambda step, steps, m=member: of_each(step, steps)[m]), seed)
        fit(alone)
        np.testing.assert_allclose(members.network.parameters[member], alone.network.parameters, rtol=1e-12)


OF_MEMBERS = [gb.Cosine(), None, "one_cycle", lambda step, steps: 1 / (1 + step)]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_each_member_may_have_a_schedule_of_its_own(dtype):
    seeds, rates = [3, 4, 5, 6], [0.01, 0.02, 0.03, 0.04]
    betas = ["linear", gb.Constant(0.9), None, gb.Warmup(3)]
    schedules = {"learning_rate": OF_MEMBERS, "beta1": betas}
    members = trainer_of(gb.Adam(rates, schedule=schedules), seeds, dtype, gb.Dropout(0.5, schedule=OF_MEMBERS))
    fit(members, shuffle=True)
    for member, (seed, rate) in enumerate(zip(seeds, rates, strict=True)):
        own = {name: several[member] for name, several in schedules.items() if several[member] is not None}
        alone = trainer_of(gb.Adam(rate, schedule=own), seed, dtype, gb.Dropout(0.5, schedule=OF_MEMBERS[member]))
        fit(alone, shuffle=True)
        tolerance = 1e-12 if dtype == "float64" else 1e-4
        np.testing.assert_allclose(
            members.network.parameters[member], alone.network.parameters, rtol=tolerance, atol=tolerance / 100
        )
        if own:
            assert members.history[-1]["learning_rate"][member] == alone.history.rows[-1].get("learning_rate", rate)


@pytest.mark.parametrize("several", [["cosine"], ["cosine"] * 3], ids=len)
def test_schedules_are_as_many_as_the_members(several):
    said = rf"must be one schedule, or 2, one a member, got a list of {len(several)}\."
    with pytest.raises(InputError, match=f"the schedule of learning_rate of SGD {said}"):
        trainer_of(gb.SGD(0.1, schedule=several), [3, 4])
    with pytest.raises(InputError, match=f"the schedule of a dropout rate {said}"):
        trainer_of("sgd", [3, 4], dropout=gb.Dropout(0.5, schedule=several))
    trainer = trainer_of("sgd", [3, 4])
    with pytest.raises(InputError, match=said):
        trainer.optimizer.schedule = several
    with pytest.raises(InputError, match="of SGD must be one schedule, got a list of"):
        trainer_of(gb.SGD(0.1, schedule=several))
    trainer.optimizer.schedule = gb.Warmup(2, several)  # whose own number is seen in the fit
    with pytest.raises(InputError, match="what the schedule of learning_rate of SGD gives must be one number, or 2"):
        fit(trainer)


def test_a_schedule_of_a_member_gives_one_number():
    trainer = trainer_of(gb.SGD(0.1, schedule=["cosine", lambda step, steps: [1, 2]]), [3, 4])
    with pytest.raises(InputError, match="the schedule <lambda> is of one member, and must give one number"):
        fit(trainer)


@pytest.mark.parametrize("seed", [3, [3, 4]], ids=["one", "two members"])
def test_dropout_follows_one_too(seed):
    rate = 0.5 if seed == 3 else [0.5, 0.0]
    trainer = trainer_of(gb.SGD(0.1), seed, dropout=gb.Dropout(rate, schedule="linear"))
    seen = []

    class Watcher:
        def on_step(self, state):
            seen.append(state.trainer.network.dropout_rates[..., 1, :].copy())

    fit(trainer, callbacks=[Watcher()])
    wanted = np.multiply.outer(1 - np.arange(6) / 6, rate)
    np.testing.assert_allclose(seen, np.stack([wanted, 1 / (1 - wanted)], axis=-1), rtol=1e-15)
    assert trainer.network.dropout_rates[..., 1, 0].tolist() == rate and trainer.network.layers[1].rate in (
        0.5,
        (0.5, 0),
    )


def test_dropout_at_a_factor_of_0_drops_nothing():
    none, without = (trainer_of(gb.SGD(0.1), dropout=d) for d in (gb.Dropout(0.9, schedule=gb.Constant(0)), None))
    fit(none)
    fit(without)
    np.testing.assert_array_equal(none.network.layers[0].weight, without.network.layers[0].weight)


def test_a_step_by_hand_has_the_settings_as_they_are_set():
    one, other = trainer_of(gb.SGD(0.1, schedule="cosine")), trainer_of(gb.SGD(0.1))
    fit(one)
    other.training_step.load_state(one.training_step.state())
    for trainer in (one, other):
        trainer.step(X, LABELS)
    same(one, other)


# Where a fit is -------------------------------------------------------------------------------------------------------


def test_a_further_fit_counts_on_and_ends_where_it_ends():
    continued, plain = (trainer_of(gb.SGD(0.1, schedule="linear")) for _ in range(2))
    fit(continued, 2)
    fit(continued, 1)
    by_hand(plain, plain.optimizer.schedule, 2)
    by_hand(plain, plain.optimizer.schedule, 1, begin=6, end=9)
    same(continued, plain)
    np.testing.assert_allclose(continued.history["learning_rate"], [0.1 * 4 / 6, 0.1 / 6, 0.1 / 9])
    continued.history = gb.History()
    fit(continued, 1)
    assert continued.history["learning_rate"] == [pytest.approx(0.1 / 3)]


def test_a_copy_goes_on_the_same(tmp_path):
    trainer = trainer_of(gb.Adam(0.01, schedule="cosine"))
    fit(trainer)
    twin = pickle.loads(pickle.dumps(trainer))
    assert twin.optimizer.schedule == {"learning_rate": gb.Cosine()}
    for one in (trainer, twin):
        fit(one)
    same(trainer, twin)


@pytest.mark.parametrize("members", [False, True], ids=["one", "one a member"])
@pytest.mark.parametrize("stop", [1, 4, 7], ids="after step {}".format)
def test_a_resumed_fit_goes_on_in_the_middle(stop, members, tmp_path):
    """Where it was, in the schedules of the fit that was ended, and with what a callback has set."""

    class Raises:
        only_reads = True

        def on_step(self, state):
            if (state.epoch - 1) * STEPS + state.step > stop:
                raise RuntimeError("the machine is gone")

    def made():
        several = [gb.Warmup(3), None]
        optimizer, dropout = gb.Adam(0.01, schedule=MAPPING_OF_ADAM), gb.Dropout(0.5, schedule="linear")
        if members:
            optimizer.schedule, dropout.schedule = {**MAPPING_OF_ADAM, "beta2": several}, several
        return trainer_of(optimizer, [3, 4] if members else 3, dropout=dropout)

    straight, ended, resumed = made(), made(), made()
    fit(straight, 4, shuffle=True)
    with pytest.raises(RuntimeError, match="the machine is gone"):
        fit(ended, 4, shuffle=True, callbacks=[gb.Checkpoint(tmp_path, every_steps=1), Raises()])
    resumed.resume(tmp_path)
    fit(resumed, 4, shuffle=True)
    same(resumed, straight)
    assert resumed.history["learning_rate"] == straight.history["learning_rate"]


@pytest.mark.parametrize(("made", "then"), [(None, gb.Cosine(0.5)), ("linear", None), ("linear", [None, "cosine"])])
def test_a_schedule_that_a_callback_has_set_is_resumed_too(tmp_path, made, then):
    """And one that was taken away is none."""

    def set_schedule(state):
        state.trainer.optimizer.schedule = then

    ended, resumed = (trainer_of(gb.SGD(0.1, schedule=made), [3, 4]) for _ in range(2))
    fit(ended, 1, callbacks=[set_schedule, gb.Checkpoint(tmp_path)])
    resumed.resume(tmp_path)
    assert resumed.optimizer.schedule == ended.optimizer.schedule


def test_an_epoch_with_half_the_rate_begins_at_its_place_in_the_schedule():
    y, seen = STREAM.normal(size=(ROWS, 2)), []

    class Watcher:
        only_reads = True

        def on_step(self, state):
            seen.append(float(state.trainer.optimizer.hyper[1]))

    net = gb.Network(4, [gb.Dense(2)], dtype="float64", seed=3, device="cpu")
    trainer = gb.Trainer(net, optimizer=gb.SGD(1e200, schedule="linear"), batch_size=BATCH)
    with pytest.raises(DivergedError), pytest.warns(RuntimeWarning, match="half the learning rate"):
        trainer.fit(X, y, 2, progress=False, shuffle=False, on_divergence="halve_rate", callbacks=[Watcher()])
    wanted = np.multiply.outer(1e200 / 2 ** np.arange(len(seen) // STEPS), [1, 5 / 6, 4 / 6])
    assert len(seen) > STEPS
    np.testing.assert_allclose(seen, wanted.ravel(), rtol=1e-15)


def test_what_is_set_meanwhile_is_what_the_schedule_multiplies():
    class Setter:
        rates: list[float]

        def on_start(self, state):
            self.rates = []

        def on_epoch(self, state):
            state.trainer.optimizer.learning_rate = 0.01

        def on_step(self, state):
            self.rates.append(state.trainer.optimizer.hyper[1])

    trainer, setter = trainer_of(gb.SGD(0.1, schedule="linear")), Setter()
    fit(trainer, callbacks=[setter])
    np.testing.assert_allclose(setter.rates, [0.1, 0.1 * 5 / 6, 0.1 * 4 / 6, 0.01 * 3 / 6, 0.01 * 2 / 6, 0.01 / 6])
    np.testing.assert_allclose(trainer.history["learning_rate"], [0.1 * 4 / 6, 0.01 / 6])
    assert trainer.optimizer.hyper[1] == 0.01


def test_a_divergence_is_found_where_it_was():
    """The epoch is run again from its beginning, and so is the schedule."""
    trainer = trainer_of(gb.SGD(0.1, schedule=lambda step, steps: 1e300 if step >= 4 else 1.0), dtype="float64")
    y = STREAM.normal(size=(ROWS, 2))
    net = gb.Network(4, [gb.Dense(2)], dtype="float64", seed=3, device="cpu")
    trainer = gb.Trainer(net, optimizer=trainer.optimizer, batch_size=BATCH)
    with pytest.raises(DivergedError, match="epoch 2, step 3 of 3") as caught:
        trainer.fit(X, y, 3, progress=False, shuffle=False)
    assert (caught.value.epoch, caught.value.step) == (2, 3)
    assert np.isfinite(net.parameters).all() and trainer.optimizer.hyper[1] == 0.1


def test_settings_are_back_after_an_error_in_a_callback():
    class Failing:
        def on_step(self, state):
            if state.epoch == 2:
                raise RuntimeError("no more")

    trainer = trainer_of(gb.SGD(0.1, schedule="linear"), dropout=gb.Dropout(0.5, schedule="linear"))
    with pytest.raises(RuntimeError, match="no more"):
        fit(trainer, callbacks=[Failing()])
    assert trainer.optimizer.hyper[1] == 0.1 and trainer.network.dropout_rates[1].tolist() == [0.5, 2.0]


# What it is told, and tells -------------------------------------------------------------------------------------------


def test_no_schedule_no_operation():
    trainer, seen = trainer_of(gb.SGD(0.1)), []
    assert not FitSchedule(trainer.network, trainer.optimizer, 1, 2, STEPS)
    fit(trainer, callbacks=[seen.append])
    assert "learning_rate" not in trainer.history.columns


WRONG = [
    ({"momentum": lambda step, steps: 1 + 0.2 * (step == 4)}, r"momentum of SGD must be a number in \[0, 1\), but the "
     r"schedule <lambda> makes it 1\.08 at step 4 of 6\. It is a factor on what is set, which is 0\.9\."),
    (lambda step, steps: -float(step == 2), "learning_rate of SGD must be a finite number ≥ 0.* -0.1 at step 2 of 6"),
    (lambda step, steps: [1, 2], r"of learning_rate of SGD gives must be one number, or 3, .* got \[1\.0, 2\.0\]"),
    (lambda step, steps: [1, 2, 1e308 * 10], "a finite number, or one a member; at step 0 of 6"),
]  # fmt: skip


@pytest.mark.parametrize(("schedule", "said"), WRONG, ids=range(len(WRONG)))
def test_nothing_is_trained_with_a_setting_that_cannot_be(schedule, said):
    trainer = trainer_of(gb.SGD(0.1, momentum=0.9, schedule=schedule), [1, 2, 3])
    before = trainer.network.parameters.copy()
    with pytest.raises(InputError, match=said):
        fit(trainer)
    assert (trainer.network.parameters == before).all() and not trainer.history.rows


def test_a_dropout_rate_that_cannot_be():
    trainer = trainer_of(gb.SGD(0.1), dropout=gb.Dropout(0.5, schedule=gb.Constant(2)))
    with pytest.raises(InputError, match=r"the rate of Dropout\(0\.5, .* must be a number in \[0, 1\).* makes it 1 at"):
        fit(trainer)


@pytest.mark.parametrize(
    ("given", "said"),
    [({"momentum": "cosine"}, "setting of sgd 'momentum'"), ("cosin", "schedule 'cosin'"), (3, "must be a name")],
    ids=repr,
)
def test_schedules_are_checked_when_they_are_given(given, said):
    with pytest.raises(InputError, match=said):
        gb.SGD(0.1, schedule=given)
    optimizer = gb.SGD(0.1)
    with pytest.raises(InputError, match=said):
        optimizer.schedule = given


@pytest.mark.parametrize("make", gb.OPTIMIZERS.values(), ids=gb.OPTIMIZERS)
def test_every_optimizer_takes_one(make):
    trainer = trainer_of(make(schedule="linear"))
    fit(trainer, 2)
    assert trainer.history["learning_rate"] == [pytest.approx(make().learning_rate * left) for left in (4 / 6, 1 / 6)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_they_are_described(optimizer):
    assert repr(gb.SGD(0.1, schedule="coslog4")) == "SGD(learning_rate=0.1, schedule={'learning_rate': Coslog4()})"
    told = optimizer.describe()["schedule"]
    assert told.keys() == optimizer.schedule.keys() and all("name" in one for one in told.values())


def test_a_model_file_keeps_that_of_dropout(tmp_path):
    for seed, dropped in ((3, gb.Warmup(3)), ([3, 4], (gb.Warmup(3), None))):
        trainer = trainer_of(gb.SGD(0.1, schedule="cosine"), seed, dropout=gb.Dropout(0.5, schedule=dropped))
        fit(trainer)
        gb.save(tmp_path / "net", trainer)
        net = gb.load(tmp_path / "net", device="cpu")
        assert net.layers[1].schedule == dropped
    assert net.trained_by["optimizer"]["settings"]["schedule"] == {
        "learning_rate": {"name": "cosine", "period": 1.0, "multiplier": 1.0, "end": 0.0}
    }


def test_the_table_is_counted():
    trainer = trainer_of(gb.SGD(0.1, momentum=0.9, schedule=MAPPING), dropout=gb.Dropout(0.5, schedule="linear"))
    step, data = trainer.training_step, trainer.manual_steps.minibatch(X, LABELS)
    schedule = FitSchedule(trainer.network, trainer.optimizer, 1, 10, STEPS)
    needs = fit_needs(step, Settings(BATCH), data, None, schedule=schedule)
    assert needs["schedule"] == 8 * (10 * STEPS * (2 + 1) + 1)
    smaller = fit_needs(step, Settings(BATCH // 2), data, None, schedule=schedule)
    assert smaller["schedule"] == 8 * (10 * 6 * (2 + 1) + 1)
