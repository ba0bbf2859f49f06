"""Populations: members with settings of their own, that stop by themselves, and what comes after."""

from __future__ import annotations

import re

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.training.stage import COMPACTED

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 8))
Y = (X[:, 0] + 0.7 * RNG.normal(size=300) > 0).astype(int)
XV = RNG.normal(size=(100, 8))
VALIDATION = XV, (XV[:, 0] > 0).astype(int)
RATES = np.geomspace(3e-3, 0.3, 10).tolist()
LAYERS = [gb.Dense(16, "relu"), gb.Dropout(0.1), gb.Dense(2, "softmax")]
SHARED = {"l2": 1e-3, "clip_norm": 1.0, "average": 0.5}
EPOCHS, PATIENCE = 50, 3


def make(settings=None, **options):
    settings = settings or [{"seed": m, "learning_rate": rate, **SHARED} for m, rate in enumerate(RATES)]
    options = {"batch_size": 64, "dtype": "float64", "device": "cpu"} | options
    return gb.Population(8, LAYERS, settings, **options)


def fit(population, **options):
    return population.fit(
        X, Y, EPOCHS, validation=VALIDATION, early_stopping=gb.EarlyStopping(patience=PATIENCE), progress=False,
        **options,
    )  # fmt: skip


def host(network):
    return network.device.to_host(network.parameters)


@pytest.fixture(scope="module")
def stopped():
    """A population of which most have stopped early, and how many trained side by side in each epoch."""
    sizes = []
    return fit(make(), callbacks=[lambda p: sizes.append(len(p._now.members))]), sizes


def test_members_stop_as_they_do_alone_and_leave_a_smaller_population(stopped):
    population, sizes = stopped
    assert len(sizes) == EPOCHS and len(set(sizes)) == 3 and sorted(sizes, reverse=True) == sizes
    for m, rate in enumerate(RATES):
        net = gb.Network(8, LAYERS, seed=m, dtype="float64", device="cpu")
        optimizer = gb.Adam(rate, l2=1e-3)
        trainer = gb.Trainer(net, None, optimizer, batch_size=64, clip_norm=1.0, average=0.5)
        trainer.fit(
            X, Y, EPOCHS, validation=VALIDATION, early_stopping=gb.EarlyStopping(patience=PATIENCE), progress=False
        )
        np.testing.assert_allclose(host(population.member(m)), host(net), 1e-6, 1e-9)
        assert trainer.history.best_epoch == population.history.best_epoch[m]
        for name in ("loss", "val_loss", "val_accuracy"):
            found = [row[name][m] for row in population.history]
            alone = trainer.history[name]
            np.testing.assert_allclose(found[: len(alone)], alone, 1e-6)
            assert set(found[len(alone) :]) <= {found[len(alone) - 1]}  # it keeps its last
        assert population.scores[m] == pytest.approx(min(trainer.history["val_loss"]))
    assert population.best == population.scores.argmin()


@pytest.mark.parametrize("epoch", [4, 12, 20, 40])  # before, between and after it has become smaller
def test_it_goes_on_from_a_checkpoint_to_the_same_bits(stopped, epoch, tmp_path):
    class Stop(Exception):
        pass

    def interrupt(population):
        if len(population.history) == epoch:
            raise Stop

    with pytest.raises(Stop):
        fit(make(), callbacks=[interrupt], checkpoint=gb.Checkpoint(tmp_path))
    resumed, (whole, _) = make(), stopped
    resumed.resume(tmp_path)
    fit(resumed, checkpoint=gb.Checkpoint(tmp_path))
    assert host(resumed.network).tobytes() == host(whole.network).tobytes()
    assert resumed.history.best_epoch == whole.history.best_epoch
    timed = "seconds", "samples_per_second"
    for row, expected in zip(resumed.history, whole.history, strict=True):
        assert {k: v for k, v in row.items() if k not in timed} == {k: v for k, v in expected.items() if k not in timed}


OTHERS = {
    "optimizer.settings.learning_rate[0] is 0.5 here, and 0.01": {"settings": [{"learning_rate": 0.5}] * 4},
    "optimizer.name is sgd here, and adam": {"optimizer": "sgd"},
    "seed is 6 here, and 4": {"settings": [{"learning_rate": 0.01}] * 6},
    "seed is 2 here, and 4": {"settings": [{"learning_rate": 0.01}] * 2},
}


@pytest.fixture(scope="module", params=[False, True], ids=["all", "some have stopped"])
def folder(request, tmp_path_factory):
    """The checkpoints of a population of four, half of which may have stopped, after their rates were changed."""

    def follow(population):
        if len(population.history) == 1:
            for m, rate in enumerate((0.02, 0.03, 0.04, 0.05)):
                population.change(m, learning_rate=rate)
        if len(population.history) == 2 and request.param:
            population.stop([0, 1])
        assert [population.setting(m, "learning_rate") for m in range(4)] == [0.02, 0.03, 0.04, 0.05]

    path = tmp_path_factory.mktemp("checkpoints")
    population = make([{"learning_rate": 0.01}] * 4)
    return path, population.fit(X, Y, 4, progress=False, callbacks=[follow], checkpoint=gb.Checkpoint(path))


@pytest.mark.parametrize("said", OTHERS)
def test_a_checkpoint_of_another_population_is_told(folder, said):
    with pytest.raises(gb.InputError, match="of another training: .*" + re.escape(said)):
        make(**{"settings": [{"learning_rate": 0.01}] * 4} | OTHERS[said]).resume(folder[0])


def test_a_resumed_population_has_the_settings_of_all_members(folder):
    path, whole = folder
    resumed = make([{"learning_rate": 0.01}] * 4)
    resumed.resume(path)
    np.testing.assert_array_equal(host(resumed.network), host(whole.network))
    resumed.fit(X, Y, 4, progress=False)
    assert resumed.trainer.optimizer.settings == whole.trainer.optimizer.settings
    assert resumed.trainer.optimizer.learning_rate == (0.02, 0.03, 0.04, 0.05)
    with pytest.raises(gb.InputError, match="other members|does not fit"):
        make([{"learning_rate": 0.01}] * 6).resume(path, force=True)


def test_a_checkpoint_of_a_trainer_is_none_of_a_population(tmp_path):
    trainer = gb.Trainer(gb.Network(8, LAYERS, seed=[1, 2], device="cpu"))
    trainer.fit(X, Y, 1, progress=False, callbacks=[gb.Checkpoint(tmp_path)])
    with pytest.raises(gb.InputError, match=r"is of a trainer, not of a population: use trainer\.resume"):
        make([{}, {"seed": 1}]).resume(tmp_path)


def test_the_last_epoch_or_half_of_the_members_are_no_reason_to_begin_anew():
    def stop_half(population):
        population.stop([0, 1, 2])

    population = make([{"seed": m} for m in range(6)]).fit(X, Y, 1, progress=False, callbacks=[stop_half])
    assert population.history.stopped is None
    told = []
    population.fit(
        X, Y, 2, progress=False, callbacks=[stop_half, lambda p: told.append((*p.running, p._now.members.size))]
    )
    assert told[0] == (False, False, False, True, True, True, 6)
    assert COMPACTED not in (population.history.stopped or "")


def test_each_holds_out_what_it_does_alone_also_where_others_have_stopped():
    settings = [{"seed": m, "learning_rate": rate} for m, rate in enumerate(RATES[::-3])]
    population, sizes = make(settings), []
    stopping = {"early_stopping": True, "progress": False}
    population.fit(X, Y, 40, callbacks=[lambda p: sizes.append(len(p._now.members))], **stopping)
    assert len({*sizes}) > 1
    for m, own in enumerate(settings):
        net = gb.Network(8, LAYERS, seed=m, dtype="float64", device="cpu")
        trainer = gb.Trainer(net, None, gb.Adam(own["learning_rate"]), batch_size=64)
        trainer.fit(X, Y, 40, **stopping)
        assert trainer.history.best_epoch == population.history.best_epoch[m]
        np.testing.assert_allclose(host(population.member(m)), host(net), 1e-6, 1e-9)


def test_a_member_that_was_stopped_keeps_its_last_numbers_from_the_next_epoch_on():
    population = make([{"seed": m} for m in range(5)]).fit(X, Y, 3, progress=False, callbacks=[lambda p: p.stop(1)])
    first, *others = [row["loss"] for row in population.history]
    assert all(row[1] == first[1] and row[0] < first[0] for row in others)


SOME = RNG.random((4, 300)) < 0.7
WEIGHTS = RNG.uniform(0.5, 1, 300)


@pytest.mark.parametrize(
    ("given", "same"),
    [
        ({"rows": tuple(SOME)}, {"rows": SOME}),
        ({"rows": SOME.tolist()}, {"rows": SOME}),
        ({"rows": [np.flatnonzero(own) for own in SOME]}, {"rows": SOME}),
        ({"rows": "frame"}, {"rows": SOME}),
        ({"weights": WEIGHTS.tolist()}, {"weights": WEIGHTS}),
        ({"weights": (WEIGHTS * SOME).tolist()}, {"weights": WEIGHTS * SOME}),
        ({"validation": [*VALIDATION]}, {"validation": VALIDATION}),
    ],
)
def test_what_is_given_in_another_form_is_the_same_also_where_some_have_stopped(given, same):
    if given.get("rows") == "frame":
        given = {"rows": pytest.importorskip("pandas").DataFrame(SOME)}
    found = []
    for options in (given, same):
        population = make([{"seed": m} for m in range(4)])
        population.fit(X, Y, 3, progress=False, callbacks=[lambda p: p.stop([0, 2])], **options)
        found.append(host(population.network).tobytes())
    assert found[0] == found[1]


def test_of_a_row_that_is_there_twice_none_is_both_learned_and_held_out():
    population, found = make([{"seed": 1}, {"seed": 2}]), []
    rows = RNG.integers(0, 300, (2, 300))

    def look(population):
        running = population.trainer.running
        found.extend(zip(running.data.places(), running.held_out.places(), strict=True))

    population.fit(X, Y, 1, rows=rows, validation_split=0.3, callbacks=[look], progress=False)
    for own, (learned, held_out) in zip(rows, found, strict=True):
        assert not np.isin(learned, held_out).any() and {*learned, *held_out} == {*own}


def test_members_that_a_callback_stops_change_no_more_and_go_on_in_the_next_fit():
    def stop(population):
        if len(population.history) == 2:
            population.stop([0, 2, 3])

    population = make([{"seed": m} for m in range(4)])
    population.fit(X, Y, 5, progress=False, callbacks=[stop])
    short = make([{"seed": m} for m in range(4)]).fit(X, Y, 2, progress=False)
    long = make([{"seed": m} for m in range(4)]).fit(X, Y, 5, progress=False)
    for m in range(4):
        np.testing.assert_allclose(host(population.member(m)), host((long if m == 1 else short).member(m)), 1e-9, 1e-12)
    assert [row["loss"][0] for row in population.history][1:] == [population.history[1]["loss"][0]] * 4
    population.fit(X, Y, 3, progress=False)
    np.testing.assert_allclose(host(population.member(0)), host(long.member(0)), 1e-9, 1e-12)


def test_where_none_is_left_the_fit_ends():
    population = make([{"seed": m} for m in range(3)])
    population.fit(X, Y, 9, progress=False, callbacks=[lambda p: p.stop(range(3))])
    assert len(population.history) == 1 and "every member had ended" in population.history.stopped
    population.fit(X, Y, 9, progress=False, callbacks=[lambda p: len(p.history) == 4])
    assert len(population.history) == 4


def test_one_that_diverges_stops_alone():
    settings = [{"learning_rate": 0.1}, {"learning_rate": 1e300}, {"learning_rate": 0.05}]
    layers = [gb.Dense(6, "relu"), gb.Dense(1)]
    population = gb.Population(8, layers, settings, optimizer="sgd", dtype="float64", device="cpu")
    with pytest.warns(RuntimeWarning, match="member 1 became NaN or infinite in epoch 1"):
        population.fit(X, 10.0 * Y, 5, progress=False)
    assert population.history.diverged == [0, 1, 0] and np.isnan(population.scores).tolist() == [False, True, False]
    assert population.best in (0, 2)
    two = [settings[0], settings[2]]
    alone = gb.Population(8, layers, two, optimizer="sgd", dtype="float64", device="cpu")
    alone.fit(X, 10.0 * Y, 5, progress=False)
    for m, other in ((0, 0), (2, 1)):
        np.testing.assert_array_equal(host(population.member(m)), host(alone.member(other)))


@pytest.mark.parametrize("also", [(), (0, 1)])
def test_one_that_diverges_where_others_have_stopped_has_its_number_still(also, tmp_path):
    settings = [{"learning_rate": 1e300 if m in also else 0.05} for m in range(5)]
    layers = [gb.Dense(6, "relu"), gb.Dense(1)]

    def make_it():
        return gb.Population(8, layers, settings, optimizer="sgd", dtype="float64", device="cpu")

    def follow(population):
        epoch = len(population.history)
        if epoch == 1:
            population.stop([0, 1, 2] if not also else [2])
        for m in (3, 4):
            if epoch == m:
                population.change(m, learning_rate=1e300)

    def train(population, *callbacks, **options):
        population.fit(X, 10.0 * Y, 9, progress=False, callbacks=[follow, *callbacks], **options)

    population = make_it()
    with pytest.warns(RuntimeWarning) as told:
        train(population)
    said = [str(one.message) for one in told if "became NaN" in str(one.message)]
    assert [number in one for number, one in zip(("member 3 ", "member 4 "), said[-2:], strict=True)] == [True, True]
    assert population.history.diverged == [int(m in also) for m in (0, 1)] + [0, 4, 5]
    assert "every member had ended" in population.history.stopped

    class Stop(Exception):
        pass

    def interrupt(population):
        if len(population.history) == 4:
            raise Stop

    with pytest.warns(RuntimeWarning), pytest.raises(Stop):
        train(make_it(), interrupt, checkpoint=gb.Checkpoint(tmp_path))
    resumed = make_it()
    resumed.resume(tmp_path)
    with pytest.warns(RuntimeWarning):
        train(resumed)
    assert host(resumed.network).tobytes() == host(population.network).tobytes()
    with pytest.raises(gb.InputError, match=f"member {also[0] if also else 3} has diverged"):
        gb.DeepEnsemble(population)


def test_all_have_diverged_where_the_first_are_gone():
    settings = [{"learning_rate": 1e300}, {"learning_rate": 1e300}, {"learning_rate": 0.05}, {"learning_rate": 0.05}]
    layers = [gb.Dense(6, "relu"), gb.Dense(1)]
    population = gb.Population(8, layers, settings, optimizer="sgd", dtype="float64", device="cpu")

    def follow(population):
        if len(population.history) == 3:
            population.change(2, learning_rate=1e300)
            population.change(3, learning_rate=1e300)

    said = "every member has diverged, the last in epoch 4: the loss or parameters of members 2, 3 became"
    with pytest.warns(RuntimeWarning, match="members 0, 1"), pytest.raises(gb.DivergedError, match=said):
        population.fit(X, 10.0 * Y, 9, progress=False, callbacks=[follow])
    assert population.history.diverged == [1, 1, 4, 4]


def test_a_member_that_was_stopped_and_is_a_copy_of_one_that_trains_goes_on_after_a_checkpoint_too(tmp_path):
    def follow(population):
        if len(population.history) == 1:
            population.stop(0)
        if len(population.history) == 2:
            population.copy_member(1, 0)

    def train(population, epochs, **options):
        return population.fit(X, Y, epochs, progress=False, callbacks=[follow], **options)

    settings = [{"seed": m} for m in range(3)]
    whole = train(make(settings), 5)
    train(make(settings), 3, checkpoint=gb.Checkpoint(tmp_path))
    resumed = make(settings)
    resumed.resume(tmp_path)
    assert host(train(resumed, 5).network).tobytes() == host(whole.network).tobytes()


def test_a_callback_can_copy_and_change_members():
    def perturb(population):
        if len(population.history) == 2:
            population.copy_member(0, 2)
            population.change(2, learning_rate=0.01)

    population = make([{"seed": 5, "learning_rate": 0.02}, {"seed": 6}, {"seed": 7}], optimizer="adam")
    population.fit(X, Y, 2, progress=False, callbacks=[perturb])
    np.testing.assert_array_equal(host(population.member(2)), host(population.member(0)))
    assert population.trainer.optimizer.learning_rate == (0.02, 0.001, 0.01)
    with pytest.raises(gb.InputError, match=r"setting 'rate'\. .*Known: learning_rate"):
        population.change(0, rate=1)
    with pytest.raises(gb.StateError, match="member 3 is none of those that still train"):
        population.copy_member(3, 0)


def test_a_member_is_an_ordinary_network_that_knows_what_trained_it(stopped, tmp_path):
    population, _ = stopped
    network = population.member(3)
    np.testing.assert_array_equal(network.predict(X), population.predict(X)[3])
    assert network.seed == 3 and network.models_shape == ()
    gb.save(tmp_path / "member.safetensors", network)
    loaded = gb.load(tmp_path / "member.safetensors", device="cpu")
    assert loaded.trained_by["optimizer"]["settings"]["learning_rate"] == RATES[3]
    assert loaded.trained_by["best_epoch"] == population.history.best_epoch[3]
    found = population.evaluate(*VALIDATION)
    assert found["loss"] == pytest.approx(population.scores.tolist()) and len(found["accuracy"]) == 10


SETTINGS = {
    "settings is an empty list": [],
    "settings must be a list of dicts, one a member, got dict": {"seed": 1},
    "settings of member 1 must be a dict, got int 5": [{}, 5],
    "settings of member 0: Adam has no argument lr; use learning_rate=0.01": [{"lr": 0.1}],
    "dropout of member 0 must be one number, or 1, one for each Dropout, got [0.1, 0.2]": [{"dropout": [0.1, 0.2]}],
    "initial_scale of member 1 must be a finite number > 0, got 0": [{}, {"initial_scale": 0}],
    "initial_scale of member 0 must be a finite number > 0, got [1, 2]": [{"initial_scale": [1, 2]}],
    "seed must be an integer from 0 to 2**64 − 1": [{"seed": -1}],
    "learning_rate of Adam must be a finite number > 0": [{"learning_rate": 0.0}],
    "CrossEntropy's label_smoothing must be": [{"label_smoothing": 2}],
    "settings of member 1: members that train side by side have the same batch_size": [{}, {"batch_size": 32}],
    "gb.search tries several, those of one layers after": [{"layers": LAYERS}],
    "Adam has no argument nesterov": [{"nesterov": True}],
}


@pytest.mark.parametrize("message", SETTINGS)
def test_settings_that_cannot_be_are_explained(message):
    with pytest.raises(gb.InputError, match=re.escape(message)):
        gb.Population(8, LAYERS, SETTINGS[message], device="cpu")


def test_a_member_may_have_none_of_what_a_trainer_may_have_none_of():
    population = make([{"clip_norm": None, "average": 0.5}, {"clip_norm": 1.0, "average": None}])
    assert population.trainer.clip_norm == (np.inf, 1.0) and population.trainer.average == (0.5, 0.0)


def test_a_schedule_may_be_of_settings_by_name():
    optimizer = gb.Adam(0.01, weight_decay=0.1, schedule={"weight_decay": "linear"})
    of_each = [{"learning_rate": "cosine", "weight_decay": "one_cycle"}, "cosine", None]
    population = make([*({"schedule": one} for one in of_each), {}], optimizer=optimizer)
    population.fit(X, Y, 3, progress=False)
    for m, schedule in enumerate([*of_each, {"weight_decay": "linear"}]):
        net = gb.Network(8, LAYERS, seed=0, dtype="float64", device="cpu")
        alone = gb.Adam(0.01, weight_decay=0.1, schedule=schedule)
        gb.Trainer(net, None, alone, batch_size=64).fit(X, Y, 3, progress=False)
        np.testing.assert_allclose(host(population.member(m)), host(net), 1e-9, 1e-12)
    assert make([{"schedule": None}], optimizer=optimizer).trainer.optimizer.schedule == {}
    with pytest.raises(gb.InputError, match="rate"):
        make([{"schedule": {"rate": "cosine"}}])


def test_settings_that_an_optimizer_would_take_when_it_is_made():
    with pytest.raises(gb.InputError, match=r"has no momentum\. Give optimizer=gb\.SGD\(momentum=\.\.\.\) first"):
        make([{"momentum": 0.9}], optimizer="sgd")
    with pytest.raises(gb.InputError, match="there is no Dropout among the layers"):
        gb.Population(8, [gb.Dense(2, "softmax")], [{"dropout": 0.1}], device="cpu")


def test_what_fit_cannot_take_is_explained():
    population = make([{"seed": 1}, {"seed": 2}])
    with pytest.raises(gb.StateError, match="no scores before it was trained"):
        population.plot()
    for callbacks in ([3], print):
        with pytest.raises(gb.InputError, match="callbacks must be a list of functions of a Population"):
            population.fit(X, Y, callbacks=callbacks, progress=False)
    for rows, said in (([[0]], "got 1 of them"), ({0: [1], 1: [2]}, "got dict"), ([[0, 300]] * 2, "there is 300")):
        for share in (0.0, 0.5):
            with pytest.raises(gb.InputError, match=said):
                population.fit(X, Y, rows=rows, validation_split=share, progress=False)
    with pytest.raises(gb.InputError, match=r"or of each member, \(2, 300\), got the shape \(1, 300\)"):
        population.fit(X, Y, weights=np.ones((1, 300)), validation_split=0.2, progress=False)
    with pytest.raises(gb.InputError, match="members must be numbers from 0 to 1, got -1"):
        population.setting(-1, "learning_rate")
    for members in (2, [0, -1], "all"):
        with pytest.raises(gb.InputError, match="members must be numbers from 0 to 1"):
            population.stop(members)
    with pytest.raises(gb.InputError, match="epochs must be an integer ≥ 1"):
        population.fit(X, Y, 0, progress=False)
