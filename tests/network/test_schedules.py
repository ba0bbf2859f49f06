"""Schedules: their factors beside PyTorch's, what they are given and refuse, and how they are written down."""

from __future__ import annotations

import dataclasses
import pickle
import re

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.errors import InputError
from gpu_backprop.network.schedules import KINDS, SCHEDULES, describe, factors, schedule

# From PyTorch 2.13.0, torch.optim.lr_scheduler: param_groups[0]["lr"] of an SGD(lr=1) before each optimizer.step() and
# scheduler.step(), of StepLR(7, 0.3), ExponentialLR(0.9), PolynomialLR(12, 2), PolynomialLR(12, 1),
# CosineAnnealingLR(12, eta_min=0.1), CosineAnnealingWarmRestarts(3, 2) and (5), OneCycleLR(1, total_steps=20), its
# momentum/0.95, and SequentialLR([LinearLR(1/5, total_iters=4), CosineAnnealingLR(10)], [4]).
PYTORCH = [
    (gb.StepDecay(0.3, 7), [1.0] * 7 + [0.3] * 7 + [0.09] * 6),
    (
        gb.Exponential(0.9, every=1),
        [1.0, 0.9, 0.81, 0.729, 0.6561, 0.59049, 0.531441, 0.4782969, 0.43046721, 0.387420489, 0.3486784401,
         0.31381059609],
    ),
    (
        gb.Polynomial(2),
        [1.0, 0.840277777778, 0.694444444444, 0.5625, 0.444444444444, 0.340277777778, 0.25, 0.173611111111,
         0.111111111111, 0.0625, 0.0277777777778, 0.00694444444444],
    ),
    (
        SCHEDULES["linear"](),
        [1.0, 0.916666666667, 0.833333333333, 0.75, 0.666666666667, 0.583333333333, 0.5, 0.416666666667,
         0.333333333333, 0.25, 0.166666666667, 0.0833333333333],
    ),
    (
        gb.Cosine(end=0.1),
        [1.0, 0.98466662183, 0.939711431703, 0.868198051534, 0.775, 0.666468570296, 0.55, 0.433531429704, 0.325,
         0.231801948466, 0.160288568297, 0.11533337817],
    ),
    (
        gb.Cosine(3, 2),
        [1.0, 0.75, 0.25, 1.0, 0.933012701892, 0.75, 0.5, 0.25, 0.0669872981078, 1.0, 0.982962913145,
         0.933012701892, 0.853553390593, 0.75, 0.629409522551, 0.5, 0.370590477449, 0.25, 0.146446609407,
         0.0669872981078, 0.0170370868555],
    ),
    (gb.Cosine(5), [1.0, 0.904508497187, 0.654508497187, 0.345491502813, 0.0954915028125] * 4),
    (
        gb.OneCycle(),
        [0.04, 0.1316718427, 0.3716718427, 0.6683281573, 0.9083281573, 1.0, 0.987464006235, 0.950484632013,
         0.890916177571, 0.81174565395, 0.716943001791, 0.611262021936, 0.500002, 0.388741978064, 0.283060998209,
         0.18825834605, 0.109087822429, 0.0495193679865, 0.0125399937649, 4e-06],
    ),
    (
        gb.OneCycle(start=1, peak=0.85 / 0.95, end=1),
        [1.0, 0.989948262862, 0.963632473388, 0.931104368717, 0.904788579243, 0.894736842105, 0.896056425675,
         0.899949006953, 0.90621939566, 0.914553168323, 0.924532434783, 0.93565679295, 0.947368421053,
         0.959080049156, 0.970204407322, 0.980183673782, 0.988517446446, 0.994787835153, 0.998680416431, 1.0],
    ),
    (
        gb.Warmup(4, before="cosine"),
        [0.2, 0.4, 0.6, 0.8, 1.0, 0.975528258148, 0.904508497187, 0.793892626146, 0.654508497187, 0.5,
         0.345491502813, 0.206107373854, 0.0954915028125, 0.0244717418524],
    ),
]  # fmt: skip

ALL = [
    *(make() for make in SCHEDULES.values()), gb.Cosine(0.1, 3, 0.01), gb.Warmup(3, "coslog4"), gb.StepDecay(0.5, 0.2),
    gb.Warmup(1.0, gb.Warmup(0.5, gb.Exponential(0.5, 4))), gb.OneCycle(1), gb.OneCycle(1.0), gb.Constant(0.0),
]  # fmt: skip


@pytest.mark.parametrize(("one", "wanted"), PYTORCH, ids=lambda value: repr(value) if callable(value) else "")
def test_the_factors_are_pytorchs(one, wanted):
    np.testing.assert_allclose(one(np.arange(len(wanted)), len(wanted)), wanted, rtol=1e-10, atol=1e-12)


def test_coslog4_is_the_papers_formula():
    """Holzmüller et al. 2024: ½(1 − cos(2π log₂(1 + 15t))): 0 at t = 0, 1/15, 3/15, 7/15, and 1 between."""
    one, steps = gb.Coslog4(), 15
    np.testing.assert_allclose(one(np.array([0, 1, 3, 7]), steps), 0, atol=1e-15)
    np.testing.assert_allclose(one((2 ** (np.arange(4) + 0.5) - 1), steps), 1, rtol=1e-15)
    assert one(2, steps) == pytest.approx(0.5 * (1 - np.cos(2 * np.pi * np.log2(3))))


def test_flat_cosine_is_the_papers_formula():
    """Holzmüller et al. 2024: ½(1 + cos π(max(1, 2t) − 1))."""
    one, t = gb.FlatCosine(), np.arange(12) / 12
    np.testing.assert_allclose(one(np.arange(12), 12), (1 + np.cos(np.pi * (np.maximum(1, 2 * t) - 1))) / 2, atol=1e-15)
    assert (one(np.arange(7), 12) == 1).all() and one(9, 12) == pytest.approx(0.5) and one(12, 12) == 0


@pytest.mark.parametrize("one", ALL, ids=repr)
@pytest.mark.parametrize("steps", [1, 2, 10, 97])
def test_one_step_and_many_give_the_same(one, steps):
    many = factors(one, np.arange(steps), steps)
    assert many.shape == (steps,) and np.isfinite(many).all() and (many >= 0).all() and (many <= 1).all()
    np.testing.assert_allclose(many, [float(one(step, steps)) for step in range(steps)], rtol=1e-14)


@pytest.mark.parametrize("period", [1, 3, 5, 7])
@pytest.mark.parametrize("multiplier", [1, 2, 3, 5])
def test_every_period_begins_at_1_and_only_there(period, multiplier):
    """Also where the logarithm of a power of 3 or 5 is a little less than a whole number."""
    starts, begin = [], 0
    while begin < 5000:
        starts.append(begin)
        begin += period * multiplier ** (len(starts) - 1)
    found = gb.Cosine(period, multiplier)(np.arange(5000), 5000)
    assert np.flatnonzero(found == 1).tolist() == starts


def test_lengths_are_steps_or_shares():
    steps = np.arange(70)
    for whole, share in ((7, 0.1), (70, 1.0), (35, 0.5)):
        for make in (gb.StepDecay, gb.Exponential):
            assert (make(0.5, whole)(steps, 70) == make(0.5, share)(steps, 70)).all()
        for kind in (gb.Cosine, gb.OneCycle, gb.Warmup):
            assert (kind(whole)(steps, 70) == kind(share)(steps, 70)).all()
    assert gb.StepDecay(0.5, 1)(3, 70) == 0.125 and gb.StepDecay(0.5, 1.0)(3, 70) == 1


def test_a_warmup_leads_to_what_comes_after_it():
    steps, n = 40, 10
    for after in ("cosine", gb.Exponential(0.5, 3), gb.OneCycle(), lambda step, steps: 0.5 * (1 - step / steps)):
        found = gb.Warmup(0.25, after)(np.arange(steps), steps)
        rest = factors(schedule(after), np.arange(steps - n), steps - n)
        assert (found[n:] == rest).all()
        np.testing.assert_allclose(found[:n], rest[0] * np.arange(1, n + 1) / (n + 1), rtol=1e-15)


def test_a_function_may_give_one_a_member():
    several = factors(lambda step, steps: [1, step / steps], np.arange(4), 4)
    assert several.tolist() == [[1, 0], [1, 0.25], [1, 0.5], [1, 0.75]]
    warm = gb.Warmup(1, lambda step, steps: [1, 0.5])(np.arange(3), 3)
    assert warm.tolist() == [[0.5, 0.25], [1, 0.5], [1, 0.5]]


@pytest.mark.parametrize("given", [np.nan, np.inf, None, "1", [1, np.nan], [[1.0]]], ids=repr)
def test_what_a_function_may_not_give(given):
    with pytest.raises(InputError, match=r"a finite number, or one a member; at step 2 of 5: "):
        factors(lambda step, steps: given if step == 2 else 1.0, np.arange(5), 5)


def test_as_many_numbers_at_each_step():
    with pytest.raises(InputError, match="as many numbers at each step"):
        factors(lambda step, steps: [1.0] * (1 + step), np.arange(5), 5)


def test_there_may_be_one_a_member():
    several = schedule(["cosine", None, gb.Constant(0.5), {"name": "coslog4"}])
    assert several == (gb.Cosine(), None, gb.Constant(0.5), gb.Coslog4())
    assert schedule(describe(several)) == several and describe(several)[1] is None
    found = factors(several, np.arange(5), 5)
    assert found.shape == (5, 4) and (found[:, 1] == 1).all() and (found[:, 2] == 0.5).all()
    assert (found[:, 0] == gb.Cosine()(np.arange(5), 5)).all() and (factors(several, 3, 5) == found[3]).all()
    warm = gb.Warmup(1, [None, "linear"])
    assert schedule(describe(warm)) == warm and warm(np.arange(3), 3).tolist() == [[0.5, 0.5], [1, 1], [1, 0.5]]


# What they are, and are not -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", ALL, ids=repr)
def test_they_are_equal_by_their_numbers_and_plain_data(one):
    assert schedule(one) is one
    assert schedule(describe(one)) == one == pickle.loads(pickle.dumps(one)) == eval(repr(one), vars(gb))
    assert describe(one)["name"] in KINDS


def test_a_function_is_known_by_its_name_alone():
    def halved(step, steps):
        return 0.5

    assert schedule(halved) is halved and describe(halved) == {"name": "halved", "own": True}
    told = describe(gb.Warmup(3, halved))
    assert told == {"name": "warmup", "length": 3, "before": {"name": "halved", "own": True}}
    read = schedule(told)
    assert describe(read) == told
    with pytest.raises(InputError, match="'halved' was a function of your own.*set the schedule anew"):
        read(0, 10)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_name_makes_a_schedule(name):
    assert schedule(name) == SCHEDULES[name]()


REFUSED = [
    ("cosin", r"Did you mean cosine\?|unknown schedule 'cosin'"),
    (gb.Cosine, r"got the class Cosine: write Cosine\(\)"),
    (0.5, r"a name, a Schedule, a function of \(step, steps\), or a list of these, one a member, got float 0\.5"),
    (lambda step: 1.0, r"must be a function of \(step, steps\)"),
    ({"name": "cosine", "periods": 3}, "cannot be made of"),
    ({"name": "coslog5"}, "schedule 'coslog5'"),
    ([], r"a list of schedules must have one a member, got \[\]"),
    (["cosine", ["cosine"]], "a list of schedules must have one a member"),
    (["cosine", 3], "a schedule must be a name"),
]


@pytest.mark.parametrize(("spec", "said"), REFUSED)
def test_what_is_no_schedule(spec, said):
    with pytest.raises(InputError, match=said):
        schedule(spec)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_number_is_checked(kind):
    for name in (field.name for field in dataclasses.fields(kind)):
        for wrong in (-1, np.nan, "1", True, 0 if name in ("every", "period", "rise", "length", "power") else -0.5):
            if name != "before":
                with pytest.raises(InputError, match=re.escape(f"{name} of {kind.__name__} must be ")):
                    kind(**{name: wrong})
    with pytest.raises(InputError, match=r"as an int, or a share of the training, as a float in \(0, 1\], got 1\.5"):
        gb.Cosine(1.5)
