"""Initial weights against the formulas that their authors give."""

import copy
import json
import math
import pickle

import numpy as np
import pytest

from gpu_backprop.backend.errors import InputError
from gpu_backprop.network.initializers import INITIALIZERS, Initializer, constant, initializer

SHAPE = (600, 400)
VARIANCE = {"glorot": 2 / 1000, "he": 2 / 600, "lecun": 1 / 600}


def fill(name, shape=SHAPE, seed=0):
    return INITIALIZERS[name].fill(np.random.default_rng(seed), shape)


@pytest.mark.parametrize("family", VARIANCE)
def test_uniform_fills_its_interval(family):
    weight, bound = fill(f"{family}_uniform"), math.sqrt(3 * VARIANCE[family])
    assert abs(weight).max() <= bound
    quarters, _ = np.histogram(weight, bins=4, range=(-bound, bound))
    assert quarters / weight.size == pytest.approx(0.25, abs=0.005)  # five standard deviations are 0.0044


@pytest.mark.parametrize("family", VARIANCE)
def test_normal_has_its_variance_and_tails(family):
    weight, deviation = fill(f"{family}_normal"), math.sqrt(VARIANCE[family])
    assert weight.mean() == pytest.approx(0, abs=5 * deviation / math.sqrt(weight.size))
    assert weight.var() == pytest.approx(deviation**2, rel=0.015)  # five standard deviations are 0.0144
    assert (abs(weight) > 2 * deviation).mean() == pytest.approx(0.0455, abs=0.003)  # not cut off


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (5, 5), (1, 4), (4, 1), (1, 1)])
def test_orthogonal_keeps_lengths(shape):
    weight = fill("orthogonal", shape)
    product = weight.T @ weight if shape[0] >= shape[1] else weight @ weight.T
    np.testing.assert_allclose(product, np.eye(min(shape)), atol=1e-14)


def test_orthogonal_is_spread_evenly_over_the_rotations():
    signs = [np.sign(fill("orthogonal", (2, 2), seed)[0, 0]) for seed in range(200)]
    assert abs(sum(signs)) < 5 * math.sqrt(200)  # LAPACK's Q alone has the same sign in all 200


def test_ntp_draws_a_bias_too_and_slows_the_weight():
    generator, ntp = np.random.default_rng(0), INITIALIZERS["ntp"]
    weight, bias = ntp.fill(generator, SHAPE), ntp.fill_bias(generator, 40_000)
    assert weight.var() == pytest.approx(1 / 600, rel=0.015) and bias.shape == (40_000,)
    assert bias.mean() == pytest.approx(0, abs=0.025) and bias.var() == pytest.approx(1, rel=0.04)
    assert ntp.rate_factor(64) == 1 / 8
    for other in INITIALIZERS.values():
        if other is not ntp:
            assert other.fill_bias(generator, 3) is None and other.rate_factor(64) == 1


def test_zeros_and_constant():
    assert not fill("zeros").any()
    assert (constant(0.1).fill(np.random.default_rng(0), (3, 2)) == np.full((3, 2), 0.1)).all()


@pytest.mark.parametrize("row", [*INITIALIZERS.values(), constant(2)], ids=lambda row: row.name)
def test_a_seed_decides_and_float64_comes_out(row):
    first, again, other = (row.fill(np.random.default_rng(seed), (9, 4)) for seed in (3, 3, 4))
    assert first.dtype == np.float64 and first.shape == (9, 4)
    assert (first == again).all()
    assert (first == other).all() == (row.name in ("zeros", "constant"))


@pytest.mark.parametrize(
    ("activation", "name"),
    [(a, "he_uniform") for a in ("relu", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu", "mish", "softplus")]
    + [(a, "glorot_uniform") for a in ("identity", "sigmoid", "tanh", "softsign", "exp", "softmax")]
    + [("selu", "lecun_normal")],
)
def test_none_chooses_by_activation(activation, name):
    assert initializer(None, activation) is INITIALIZERS[name]


def test_the_choice_for_relu_keeps_the_signal_through_thirty_layers():
    generator = np.random.default_rng(0)
    he = glorot = generator.standard_normal((64, 256))
    for _ in range(30):
        he = np.maximum(he @ initializer(None, "relu").fill(generator, (256, 256)), 0)
        glorot = np.maximum(glorot @ INITIALIZERS["glorot_uniform"].fill(generator, (256, 256)), 0)
    assert 0.1 < (he**2).mean() < 10
    assert (glorot**2).mean() < 1e-7  # halved in each layer


def test_names_and_records_are_accepted():
    own = Initializer("own", lambda generator, shape: generator.random(shape))
    assert initializer("he_normal", "tanh") is INITIALIZERS["he_normal"]
    assert initializer(own, "tanh") is own


@pytest.mark.parametrize("row", [*INITIALIZERS.values(), constant(-0.25)], ids=lambda row: row.name)
def test_spec_is_json_and_makes_the_same_again(row):
    again = initializer(json.loads(json.dumps(row.spec())), "tanh")
    assert again.spec() == row.spec()
    assert (again.fill(np.random.default_rng(1), (5, 3)) == row.fill(np.random.default_rng(1), (5, 3))).all()


@pytest.mark.parametrize("row", [*INITIALIZERS.values(), constant(-0.25)], ids=lambda row: row.name)
def test_a_copy_is_no_other_initializer(row):
    assert copy.deepcopy(row).spec() == pickle.loads(pickle.dumps(row)).spec() == row.spec()


def test_of_an_own_function_the_name_is_stored_and_no_code():
    disguised = Initializer("glorot_uniform", lambda generator, shape: np.ones(shape))
    again = initializer(json.loads(json.dumps(disguised.spec())), "tanh")
    assert again.spec() == disguised.spec() == {"name": "glorot_uniform", "own": True}
    assert not again.fill(np.random.default_rng(0), (2, 2)).any()


def test_unknown_names_list_the_known_and_suggest_the_nearest():
    with pytest.raises(
        InputError, match=r"unknown initializer 'glorot_unifrom'. Did you mean 'glorot_uniform'\?.*zeros"
    ):
        initializer("glorot_unifrom", "tanh")


@pytest.mark.parametrize("spec", [3, "constant", {}, {"name": "constant"}, {"name": []}, {"name": "zeros", "value": 1}])
def test_what_is_no_initializer(spec):
    with pytest.raises(InputError, match="initializer"):
        initializer(spec, "tanh")


@pytest.mark.parametrize("value", [math.nan, math.inf, "1", None, True, [1.0]])
def test_constant_is_a_finite_number(value):
    with pytest.raises(InputError, match="finite number"):
        constant(value)


@pytest.mark.parametrize(
    "draw", [lambda g, shape: g.random(shape[::-1]), lambda g, shape: np.full(shape, np.nan), lambda g, shape: 1.0]
)
def test_an_own_function_that_draws_nonsense(draw):
    with pytest.raises(InputError, match=r"'mine' drew an array of shape .* for a weight of shape"):
        Initializer("mine", draw).fill(np.random.default_rng(0), (3, 2))
