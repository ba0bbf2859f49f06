"""Population-based training: the worst members become copies of the best ones, with settings a little different."""

import numpy as np
import pytest

import gpu_backprop as gb

RNG = np.random.default_rng(3)
X = RNG.normal(size=(64, 3))
Y = (X[:, 0] * X[:, 1] > 0).astype(int)
RATES = [0.05, 0.02, 1e-6, 0.01, 1e-7, 0.03, 1e-5, 0.04]


def trained(perturb, epochs=4, extra=(), **options):
    settings = [{"seed": seed, "learning_rate": rate} for seed, rate in enumerate(RATES)]
    layers = [gb.Dense(6, "tanh"), gb.Dense(2, "softmax")]
    population = gb.Population(3, layers, settings, batch_size=16, device="cpu", dtype="float64")
    return population.fit(X, Y, epochs, callbacks=[*extra, perturb], progress=False, **options)


def test_the_worst_become_copies_of_the_best():
    perturb = gb.Perturb(every=2, factors=(0.5, 2.0))
    population = trained(perturb, epochs=3)
    assert [copy["epoch"] for copy in perturb.log] == [2, 2]
    losses = np.array(population.history[1]["loss"])
    ranked = np.argsort(losses)
    assert {copy["member"] for copy in perturb.log} == set(ranked[-2:].tolist())
    for copy in perturb.log:
        assert copy["source"] in ranked[:2]
        assert copy["learning_rate"] / RATES[copy["source"]] in (0.5, 2.0)
        assert population.trainer.optimizer.learning_rate[copy["member"]] == copy["learning_rate"]
        assert population.history[2]["loss"][copy["member"]] < losses[copy["member"]] - 0.01


def test_a_copy_has_the_parameters_of_its_source():
    perturb = gb.Perturb(every=3)
    population = trained(perturb, epochs=3)
    for copy in perturb.log:
        member, source = (population.member(copy[which]) for which in ("member", "source"))
        np.testing.assert_array_equal(member.parameters, source.parameters)
        assert member.seed == copy["member"]


def test_the_same_seed_copies_the_same():
    logs = []
    for seed in (0, 0, 1):
        perturb = gb.Perturb(every=1, seed=seed)
        trained(perturb)
        logs.append(perturb.log)
    assert logs[0] == logs[1] != logs[2] and len(logs[0]) == 8


def test_members_that_have_stopped_take_no_part():
    perturb = gb.Perturb(every=1, share=0.5)
    trained(perturb, epochs=2, extra=[lambda population: population.stop([2, 4, 0])])
    taking_part = {copy[which] for copy in perturb.log for which in ("member", "source")}
    assert taking_part <= {1, 3, 5, 6, 7} and len(perturb.log) == 4


def test_of_a_population_that_was_made_smaller_the_settings_now_count():
    perturb = gb.Perturb(every=1, share=0.5, factors=[2.0])
    population = trained(perturb, epochs=4, extra=[lambda population: population.stop([1, 2, 3, 4, 6])])
    rates = dict(enumerate(RATES))
    for copy in perturb.log:
        rates[copy["member"]] = 2 * rates[copy["source"]]
        assert copy["learning_rate"] == rates[copy["member"]] and copy["member"] in (0, 5, 7)
    assert len(perturb.log) == 4 and [*population.trainer.optimizer.learning_rate] == [*rates.values()]


def test_validation_data_decide_and_the_largest_accuracy_is_the_best():
    perturb = gb.Perturb(every=1, metric="accuracy")
    population = trained(perturb, epochs=1, validation=(-X, Y))
    order = np.argsort(-np.array(population.history[0]["val_accuracy"]), kind="stable")
    assert [copy["member"] for copy in perturb.log] == order[-2:].tolist()


def test_a_setting_that_could_not_be_is_copied_as_it_is():
    perturb = gb.Perturb(every=1, settings=("beta1", "learning_rate"), factors=[1.25])
    trained(perturb, epochs=1)
    for copy in perturb.log:
        assert copy["beta1"] == 0.9 and copy["learning_rate"] == 1.25 * RATES[copy["source"]]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"every": 0}, "every must be an integer ≥ 1, got 0"),
        ({"share": 0.6}, "share must be a number in (0, 0.5], got 0.6"),
        ({"factors": 1.2}, "factors must be a list of numbers > 0, such as (0.8, 1.25), got 1.2"),
        ({"factors": (0.8, 0)}, "factors must be numbers > 0, got (0.8, 0)"),
        ({"factors": ()}, "factors must be a list of numbers > 0"),
        ({"settings": "learning_rate"}, "settings must be a list of names"),
        ({"settings": []}, "settings must be a list of names"),
    ],
)
def test_bad_input_is_told(options, said):
    with pytest.raises(gb.InputError) as raised:
        gb.Perturb(**options)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"settings": ["momentum"]}, "unknown setting of adam 'momentum'"),
        ({"metric": "acuracy"}, "unknown metric of Perturb 'acuracy'. Did you mean 'accuracy'"),
    ],
)
def test_a_fit_tells_what_is_not_there(options, said):
    with pytest.raises(gb.InputError, match=said):
        trained(gb.Perturb(every=1, **options), epochs=1)
