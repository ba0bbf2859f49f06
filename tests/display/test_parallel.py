"""Parallel coordinates: places on the axes, a line a candidate, the best above the others."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from gpu_backprop.display.parallel import MOST_LINES, choose_lines, parallel_coordinates, place_all, place_on_axis, rank


def texts(values: list[object]) -> list[str]:
    return [text for _, text in place_on_axis(values).ticks]


def test_numbers_that_span_a_decade_lie_on_a_logarithmic_axis():
    values, ticks = place_on_axis(np.geomspace(0.001, 0.7, 50).tolist())
    np.testing.assert_allclose(np.diff(values), values[1] - values[0])
    assert [text for _, text in ticks] == ["0.001", "0.01", "0.1"]
    assert values[0] == ticks[0][0] > 0 and values[-1] < 1
    values, ticks = place_on_axis(np.linspace(0, 9, 10).tolist())
    np.testing.assert_allclose(values, np.arange(10) / 10)
    assert [text for _, text in ticks] == ["0", "2", "4", "6", "8", "10"]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.01, 0.0001, 0.0, 0.01], ["0", "0.0001", "0.01"]), ([3, 3], ["3"]), (["tanh", "relu"], ["tanh", "relu"]),
        ([None, 0.1], ["None", "0.1"]), ([True, False], ["True", "False"]), ([(64,), (32, 8)], ["(64,)", "(32, 8)"]),
    ],
)  # fmt: skip
def test_few_numbers_and_other_values_lie_one_above_the_other(values, shown):
    assert texts(values) == shown
    places = [place for place, _ in place_on_axis(values).ticks]
    np.testing.assert_allclose(places, (np.arange(len(shown)) + 0.5) / len(shown))
    assert len(set(place_on_axis(values).values.tolist())) == len(shown)


def test_what_is_no_finite_number_is_not_on_the_axis():
    assert np.isnan(place_on_axis([math.nan, math.inf]).values).all()
    assert np.isnan(place_on_axis([1, math.nan, 2]).values).tolist() == [False, True, False]


def test_scores_keep_their_distances_however_few_they_are():
    placed = place_all({"a": [1, 2, 100]}, np.array([0.1, 0.2, 0.5]), "loss")
    first, second, third = placed["loss"].values
    assert third - second == pytest.approx(3 * (second - first))
    assert placed["a"].values.tolist() == pytest.approx([1 / 6, 1 / 2, 5 / 6])


def test_ranks():
    assert rank(np.array([0.1, 5, math.nan, 0.2]), larger_is_better=False).tolist()[:2] == [1, 0]
    assert rank(np.array([0.1, 5, 0.2]), larger_is_better=True).tolist() == [0, 1, 0.5]
    assert rank(np.array([0.3]), larger_is_better=True).tolist() == [0]


def test_the_first_of_the_best_is_the_last_line_however_many_there_are():
    ranks = np.array([0.5, 1, math.nan, 1, 0])
    assert choose_lines(ranks).tolist() == [2, 4, 0, 3, 1]
    many = np.random.default_rng(0).permutation(1000) / 999
    lines = choose_lines(many)
    assert len(lines) <= MOST_LINES and many[lines[-1]] == 1


def parsed(*given, **how) -> ET.Element:
    """The parts of a drawing, which is well-formed XML."""
    return ET.fromstring(parallel_coordinates(*given, **how))


def test_a_line_a_candidate_the_best_one_thick_and_a_failed_one_ends_before_the_score():
    settings = {"learning_rate": [1e-3, 1e-2, 1e-1], "layers": ["64", "64:128", "64"]}
    root = parsed(settings, np.array([0.5, 0.2, math.nan]), "val_loss")
    paths = root.findall(".//svg/path")
    assert [path.get("class") for path in paths] == ["failed", "scored", "scored thick"]
    assert [path.get("d").count("L") for path in paths] == [1, 2, 2]
    assert [path.get("style") for path in paths] == [None, "--good: 0%", "--good: 100%"]
    assert paths[-1].find("title").text == "val_loss 0.2: learning_rate 0.01, layers 64:128"
    names = [text.text for text in root.findall(".//svg/text[@class='name']")]
    assert names == ["learning_rate", "layers", "val_loss"]
    assert len(root.findall(".//svg/line[@class='axis']")) == 3
    assert "without a val_loss" in "".join(root.find("figcaption").itertext())


def test_large_scores_may_be_good_ones():
    root = parsed({"a": [1, 2]}, np.array([0.9, 0.5]), "accuracy", larger_is_better=True)
    assert root.findall(".//svg/path")[-1].find("title").text == "accuracy 0.9: a 1"


def test_hostile_and_many_candidates():
    rng = np.random.default_rng(0)
    settings = {"<b>": [f"<script>{k % 3}\x1b" for k in range(5000)], "rate": rng.random(5000).tolist()}
    shown = parallel_coordinates(settings, rng.random(5000), "loss")
    assert len(shown) < 100_000 and "<script" not in shown and "\x1b" not in shown
    assert "of 5,000 candidates are drawn" in shown


def test_where_all_failed():
    root = parsed({"a": [1, 2]}, np.array([math.nan, math.inf]), "loss")
    assert {path.get("class") for path in root.findall(".//svg/path")} == {"failed"}
