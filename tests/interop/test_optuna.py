"""Studies of Optuna: each trial is told what its settings came to, and batches train side by side."""

from __future__ import annotations

import math
import sys

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

import gpu_backprop as gb
from gpu_backprop.interop.optuna import optimize
from gpu_backprop.training.population import Population

RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(40, 3)), RNG.integers(0, 2, 40)
DATA = {"validation": (X[:10] + 0.1, Y[:10]), "dtype": "float64", "device": "cpu", "epochs": 3, "batch_size": 16}


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def layers(units: int = 5) -> list[gb.Layer]:
    return [gb.Dense(units, "tanh"), gb.Dense(2, "softmax")]


def study(direction: str = "minimize", pruner: optuna.pruners.BasePruner | None = None) -> optuna.Study:
    sampler = optuna.samplers.RandomSampler(seed=0)
    return optuna.create_study(sampler=sampler, direction=direction, pruner=pruner or optuna.pruners.NopPruner())


def suggest(trial: optuna.Trial) -> dict[str, object]:
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 0.1, log=True)}


def solo(rate: float, seed: int = 0, units: int = 5) -> list[float]:
    """The validation loss after each epoch of what a trial trains."""
    net = gb.Network(3, layers(units), dtype="float64", device="cpu", seed=seed)
    trainer = gb.Trainer(net, optimizer=gb.Adam(rate), batch_size=16)
    return trainer.fit(X, Y, 3, validation=DATA["validation"], progress=False)["val_loss"]


def test_each_trial_is_told_what_a_solo_run_comes_to(monkeypatch):
    made: list[int] = []
    fit = Population.fit
    monkeypatch.setattr(Population, "fit", lambda self, *args, **how: (made.append(len(self)), fit(self, *args, **how)))
    found = study()
    optimize(found, X, Y, suggest, trials=5, batch=3, layers=layers(), seeds=2, **DATA)
    assert made == [6, 4]
    assert [trial.state for trial in found.trials] == [TrialState.COMPLETE] * 5
    for trial in found.trials:
        losses = [solo(trial.params["learning_rate"], seed) for seed in (0, 1)]
        assert trial.user_attrs == {"epochs": 3, "scores": pytest.approx([loss[-1] for loss in losses])}
        assert trial.value == pytest.approx(np.mean([loss[-1] for loss in losses]))
        assert trial.intermediate_values == pytest.approx(dict(enumerate(np.mean(losses, axis=0).tolist(), 1)))
    assert found.best_value == min(trial.value for trial in found.trials)


def test_layers_and_settings_may_depend_on_the_trial():
    def conditional(trial: optuna.Trial) -> dict[str, object]:
        units = trial.suggest_int("units", 3, 4)
        own = suggest(trial) if units == 3 else {}
        return {"layers": layers(units), **own}

    found = study()
    optimize(found, X, Y, conditional, trials=6, batch=6, **DATA)
    assert {trial.params["units"] for trial in found.trials} == {3, 4}
    for trial in found.trials:
        losses = solo(trial.params.get("learning_rate", 1e-3), units=trial.params["units"])
        assert trial.value == pytest.approx(losses[-1])


def test_a_large_score_may_be_the_better_one():
    found = study("maximize")
    optimize(found, X, Y, suggest, trials=3, layers=layers(), metric="accuracy", **DATA)
    assert all(0 <= trial.value <= 1 and len(trial.intermediate_values) == 3 for trial in found.trials)


class Pruner(optuna.pruners.BasePruner):
    """Prunes trial 1 after its second epoch."""

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return trial.number == 1 and trial.last_step == 2


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_pruned_trial_trains_no_further_and_is_told_as_such(direction):
    found = study(direction, Pruner())
    metric = "loss" if direction == "minimize" else "accuracy"
    optimize(found, X, Y, suggest, trials=3, layers=layers(), metric=metric, **DATA)
    assert [trial.state for trial in found.trials] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE]
    assert [len(trial.intermediate_values) for trial in found.trials] == [3, 2, 3]
    assert found.trials[1].value == found.trials[1].intermediate_values[2]
    assert found.trials[1].user_attrs["epochs"] == 2


def test_a_trial_may_be_pruned_before_it_trains():
    def picky(trial: optuna.Trial) -> dict[str, object]:
        if trial.number != 1:
            raise optuna.TrialPruned
        return suggest(trial)

    found = study()
    optimize(found, X, Y, picky, trials=4, batch=2, layers=layers(), **DATA)
    assert [trial.state.name for trial in found.trials] == ["PRUNED", "COMPLETE", "PRUNED", "PRUNED"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_diverged_trial_fails_and_the_others_go_on():
    rates = [1e-2, 1e300, 1e300, 1e300, 1e-3]
    found = study()
    how = {**DATA, "validation": (X[:10], X[:10, :1]), "layers": [gb.Dense(1)], "optimizer": "sgd"}
    optimize(found, X, X[:, :1], lambda trial: {"learning_rate": rates[trial.number]}, trials=5, batch=2, **how)
    assert [trial.state.name for trial in found.trials] == ["COMPLETE", "FAIL", "FAIL", "FAIL", "COMPLETE"]
    assert all(math.isfinite(trial.value) for trial in found.trials if trial.value is not None)


def test_an_error_leaves_no_trial_running():
    found = study()
    with pytest.raises(gb.InputError, match="learning_rat"):
        optimize(found, X, Y, lambda trial: {"learning_rat": 1}, trials=5, batch=2, layers=layers(), **DATA)
    assert [trial.state for trial in found.trials] == [TrialState.FAIL] * 2

    def broken(trial: optuna.Trial) -> dict[str, object]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        optimize(found, X, Y, broken, trials=5, batch=2, layers=layers(), **DATA)
    assert [trial.state for trial in found.trials] == [TrialState.FAIL] * 4


def test_bad_input():
    several = optuna.create_study(directions=["minimize", "minimize"])
    for made, options, said in [
        (study("maximize"), {}, "the direction of a study of loss must be minimize, got maximize"),
        (several, {}, "the direction of a study of loss must be minimize, got minimize, minimize"),
        (study(), {"trials": 0}, "trials must be an integer ≥ 1, got 0"),
        (study(), {"batch": 0}, "batch must be an integer ≥ 1, got 0"),
        (study(), {"folds": 3}, "validation data were given, and folds=3 too"),
        (study(), {"layers": None}, "layers are neither given nor in the space"),
        (study(), {"rows": [[0]]}, "a search divides the rows by itself"),
        (study(), {"seeds": 0}, "seeds must be an integer ≥ 1, got 0"),
        (study(), {"metric": "acuracy"}, "whether a larger acuracy is better, nobody has said"),
    ]:
        with pytest.raises(gb.InputError, match=said):
            optimize(made, X, Y, suggest, **{"trials": 1, "layers": layers(), **DATA, **options})
        assert all(trial.state == TrialState.FAIL for trial in made.trials)
    for given in (None, 3):
        with pytest.raises(gb.InputError, match="suggest must return the settings of a trial, a dict, got"):
            optimize(made := study(), X, Y, lambda _, given=given: given, trials=2, layers=layers(), **DATA)
        assert [trial.state for trial in made.trials] == [TrialState.FAIL] * 2
    with pytest.raises(gb.InputError, match=r"x must have the shape \(rows, inputs\), got \(40,\)"):
        optimize(study(), X[:, 0], Y, suggest, trials=1, layers=layers(), **DATA)


def test_without_optuna_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "gpu_backprop.interop.optuna")
    with pytest.raises(gb.MissingExtraError, match=r"studies need Optuna: pip install 'gpu-backprop\[optuna\]'"):
        import gpu_backprop.interop.optuna  # noqa: F401
