"""Populations on CUDA: members equal their solo runs, and a step's launches do not grow with them."""

from __future__ import annotations

import numpy as np
import population_grid
import pytest

import gpu_backprop as gb

pytestmark = pytest.mark.gpu

RNG = np.random.default_rng(1)
X, Y = RNG.normal(size=(70, 6)).astype(np.float32), RNG.integers(0, 3, 70)
LAYERS = [gb.Dense(8, "relu"), gb.Dense(7, "tanh"), gb.Dense(3, "softmax")]
FOLDS = RNG.permutation(np.repeat(np.arange(5), 14))[None] != np.arange(5)[:, None]


@pytest.mark.parametrize("number", range(0, 20, 3))
def test_a_member_equals_its_solo_run(number):
    population_grid.check(population_grid.draw(number, "float32"), "cuda", 2e-3, 2e-4)


@pytest.mark.parametrize("options", [{"one_launch": True}, {"graph": True, "one_launch": False}], ids=str)
def test_members_in_one_launch_or_in_a_graph_equal_solo_runs_on_a_cpu(options):
    settings = [{"seed": m, "learning_rate": 0.002 * (m + 1), "l2": 0.001 * m} for m in range(5)]
    population = gb.Population(6, LAYERS, settings, batch_size=16, device="cuda", **options)
    population.fit(X, Y, 6, rows=FOLDS, validation="rest", early_stopping=gb.EarlyStopping(patience=1), progress=False)
    for m, one in enumerate(settings):
        net = gb.Network(6, LAYERS, seed=m, device="cpu")
        trainer = gb.Trainer(net, None, gb.Adam(one["learning_rate"], l2=one["l2"]), batch_size=16)
        held_out = X[~FOLDS[m]], Y[~FOLDS[m]]
        trainer.fit(
            X[FOLDS[m]], Y[FOLDS[m]], 6, validation=held_out, early_stopping=gb.EarlyStopping(patience=1),
            progress=False,
        )  # fmt: skip
        assert population.history.best_epoch[m] == trainer.history.best_epoch
        np.testing.assert_allclose(population.predict(X)[m], net.predict(X), 2e-3, 2e-4)


def test_a_population_becomes_smaller_on_the_device_and_goes_on_from_a_checkpoint(tmp_path):
    class Stop(Exception):
        pass

    def fit(population, **more):
        return population.fit(
            X, Y, 12, validation=(X[:20], Y[:20]), early_stopping=gb.EarlyStopping(patience=1), progress=False, **more
        )

    def interrupt(population):
        if len(population.history) == 8:
            raise Stop

    settings = [{"seed": m, "learning_rate": rate} for m, rate in enumerate(np.geomspace(0.01, 1, 6).tolist())]
    whole, ended, resumed = (gb.Population(6, LAYERS, settings, batch_size=16, device="cuda") for _ in range(3))
    sizes = []
    fit(whole, callbacks=[lambda population: sizes.append(int(population.running.sum()))])
    assert sizes[-1] <= 3
    with pytest.raises(Stop):
        fit(ended, callbacks=[interrupt], checkpoint=gb.Checkpoint(tmp_path))
    resumed.resume(tmp_path)
    fit(resumed, checkpoint=gb.Checkpoint(tmp_path))
    assert resumed.history.best_epoch == whole.history.best_epoch
    found, expected = (one.network.device.to_host(one.network.parameters) for one in (resumed, whole))
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("weighted", [False, True])
def test_the_launches_of_a_step_do_not_grow_with_the_members(weighted):
    launches = set()
    for members in (1, 2, 64, 300):
        settings = [{"seed": m, "learning_rate": 0.001 * (m + 1), "clip_norm": 1.0} for m in range(members)]
        trainer = gb.Population(6, LAYERS, settings, batch_size=16, device="cuda").trainer
        launches.add(trainer.plan(weights=weighted).cost()["launches"])
    assert len(launches) == 1
