"""DeepEnsemble: mean, variance, disagreement and coverage are those of closed forms, and it is made of members of any
origin."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.data import Preprocessing

X = np.zeros((5, 2))


def constant(b, activation="identity", **options):
    """A network that gives f(b) for every row."""
    net = gb.Network(2, [gb.Dense(len(b), activation)], dtype="float64", device="cpu", **options)
    net.last.weight[...], net.last.bias[...] = 0, b
    return net


def of_probabilities(*members, activation="softmax"):
    """Members that give these probabilities for every row."""
    if activation == "sigmoid":
        return gb.DeepEnsemble([constant(np.log(p) - np.log1p(-np.array(p)), "sigmoid") for p in members])
    return gb.DeepEnsemble([constant(np.log(p), "softmax") for p in members])


def entropy(*p):
    return float(-sum(q * np.log(q) for q in p))


# What it predicts -----------------------------------------------------------------------------------------------------


def test_the_mean_and_the_variance_are_those_of_the_members():
    ensemble = gb.DeepEnsemble([constant([y, 2 * y]) for y in (1.0, 3.0, 8.0)])
    np.testing.assert_allclose(ensemble.predict(X), [[4, 8]] * 5)
    np.testing.assert_allclose(ensemble.predict_variance(X), [[26 / 3, 104 / 3]] * 5)


def test_the_variance_is_in_the_units_of_the_data():
    a = np.linspace(0, 1, 40)
    prepared = Preprocessing.fit({"a": a, "b": a**2}, 50 * a + 0.25)
    nets = [constant([y]) for y in (-1.0, 1.0)]
    for net in nets:
        net.preprocessing = prepared
    low, high = (float(prepared.inverse(np.array([[y]]))[0, 0]) for y in (-1.0, 1.0))
    np.testing.assert_allclose(gb.DeepEnsemble(nets).predict_variance(X), [[((high - low) / 2) ** 2]] * 5)
    assert high - low > 10


def test_members_that_are_sure_of_different_classes_disagree():
    ensemble = of_probabilities([0.9, 0.1], [0.1, 0.9])
    np.testing.assert_allclose(ensemble.predict(X), 0.5)
    np.testing.assert_allclose(ensemble.disagreement(X), np.log(2) - entropy(0.9, 0.1))
    np.testing.assert_allclose(
        of_probabilities([0.9], [0.1], activation="sigmoid").disagreement(X), np.log(2) - entropy(0.9, 0.1)
    )


def test_the_disagreement_is_the_mean_divergence_from_the_mean():
    members = np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.05, 0.9, 0.05]])
    divergences = (members * np.log(members / members.mean(axis=0))).sum(axis=1)
    np.testing.assert_allclose(of_probabilities(*members).disagreement(X), divergences.mean())


def test_members_that_are_unsure_alike_do_not_disagree():
    np.testing.assert_allclose(of_probabilities([0.5, 0.5], [0.5, 0.5]).disagreement(X), 0, atol=1e-15)


def test_probabilities_of_0_and_1_have_no_entropy():
    nets = [constant([900.0, -900.0], "softmax"), constant([-900.0, 900.0], "softmax")]
    np.testing.assert_allclose(gb.DeepEnsemble(nets).disagreement(X), np.log(2))


def test_the_disagreement_adds_up_over_labels():
    ensemble = of_probabilities([0.9, 0.6], [0.1, 0.6], activation="sigmoid")
    np.testing.assert_allclose(ensemble.disagreement(X), np.log(2) - entropy(0.9, 0.1))


# How far it can be relied on ------------------------------------------------------------------------------------------


def test_its_calibration_is_measured():
    ensemble = of_probabilities([0.8, 0.2], [0.6, 0.4])  # 0.7 and 0.3 in the mean
    found = ensemble.evaluate(X, [0, 0, 0, 1, 1])
    assert found["accuracy"] == pytest.approx(0.6) and found["calibration_error"] == pytest.approx(0.1)
    assert found["log_loss"] == found["loss"] == pytest.approx(-(3 * np.log(0.7) + 2 * np.log(0.3)) / 5)
    assert ensemble.evaluate(X, [0, 0, 0, 1, 1], metrics=["brier_score"]).keys() == {"loss", "brier_score"}


def test_it_learns_how_sure_to_be():
    rng = np.random.default_rng(0)
    y = (rng.random(400) < 0.3).astype(int)
    ensemble = of_probabilities([0.95, 0.05], [0.9, 0.1])
    before = ensemble.evaluate(np.zeros((400, 2)), y)
    after = ensemble.calibrate(np.zeros((400, 2)), y).evaluate(np.zeros((400, 2)), y)
    assert after["log_loss"] < before["log_loss"] and after["calibration_error"] < 0.02 < before["calibration_error"]
    assert after["accuracy"] == before["accuracy"]


def test_its_intervals_cover_what_they_promise():
    ensemble = gb.DeepEnsemble([constant([1.0]), constant([3.0])])
    off = np.arange(1, 100.0)
    ensemble.calibrate(np.zeros((99, 2)), 2 + off)
    low, high = ensemble.network.predict_interval(X, 0.9)
    np.testing.assert_allclose(low, 2 - 90)
    np.testing.assert_allclose(high, 2 + 90)
    found = ensemble.evaluate(X, [2.0, 91.9, -87.9, 92.1, -89.0])
    assert found["coverage"] == pytest.approx(3 / 5)
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean(np.square([0, 89.9, 89.9, 90.1, 91]))))
    assert ensemble.evaluate(X, [2.0, 91.9, -87.9, 92.1, -89.0], [1, 0, 0, 1, 0])["coverage"] == pytest.approx(0.5)
    assert ensemble.evaluate(X, [2.0, 91.9, -87.9, 92.1, -89.0], coverage=0.95)["coverage"] == 1


def test_without_intervals_there_is_no_coverage():
    assert gb.DeepEnsemble([constant([1.0]), constant([3.0])]).evaluate(X, [2.0] * 5).keys() == {
        "loss", "rmse", "mae", "r2",
    }  # fmt: skip


# What it is made of ---------------------------------------------------------------------------------------------------


def test_a_population_becomes_one_and_stays_as_it_is(tmp_path):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(60, 4)), rng.integers(3, size=60)
    settings = [{"seed": m, "dropout": 0.1 * m} for m in range(3)]
    layers = [gb.Dense(8, "relu"), gb.Dropout(0.5), gb.Dense(3, "softmax")]
    population = gb.Population(4, layers, settings, batch_size=20, device="cpu").fit(x, y, 2, progress=False)
    ensemble = gb.DeepEnsemble(population)
    np.testing.assert_allclose(ensemble.predict(x), population.predict(x).mean(axis=0), rtol=1e-5)
    assert not population.network.averaged and ensemble.network is not population.network
    some = gb.DeepEnsemble([population.member(m) for m in (2, 0)])
    np.testing.assert_allclose(some.predict(x), population.predict(x)[[2, 0]].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(gb.DeepEnsemble(population.network).predict(x), ensemble.predict(x))
    gb.save(tmp_path / "ensemble.safetensors", ensemble.network)
    np.testing.assert_array_equal(
        gb.load(tmp_path / "ensemble.safetensors", device="cpu").predict(x), ensemble.predict(x)
    )
    before = ensemble.predict(x)
    population.network.parameters[...] = 0
    np.testing.assert_array_equal(ensemble.predict(x), before)


def test_names_of_classes_are_kept():
    nets = [constant([1.0, 0.0], "softmax"), constant([3.0, 0.0], "softmax")]
    for net in nets:
        net.classes = ["no", "yes"]
    assert list(gb.DeepEnsemble(nets).network.predict_labels(X)) == ["no"] * 5


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([], r"members must be a Population, .* got \[\]"),
        (constant([1.0]), "got <|got Network"),
        ([constant([1.0]), 3], "or a list of Networks without"),
        ([constant([1.0])], "two members at least"),
        ([constant([1.0]), constant([1.0, 2.0])], "layers of member 1 differs"),
        ([constant([1.0]), constant([np.nan])], "member 1 has diverged"),
        (gb.Network(2, [gb.Dense(1)], seed=[0], device="cpu"), "two members at least"),
    ],
)
def test_members_that_cannot_be_one_are_refused(members, said):
    with pytest.raises(gb.InputError, match=said):
        gb.DeepEnsemble(members)


def test_members_of_other_classes_are_refused():
    one, other = (constant([1.0, 2.0], "softmax") for _ in range(2))
    one.classes, other.classes = ["a", "b"], ["b", "a"]
    with pytest.raises(gb.InputError, match="classes of member 1 differs"):
        gb.DeepEnsemble([one, other])


def test_numbers_have_no_disagreement():
    with pytest.raises(gb.InputError, match="use predict_variance"):
        gb.DeepEnsemble([constant([1.0]), constant([3.0])]).disagreement(X)
