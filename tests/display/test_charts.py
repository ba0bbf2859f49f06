"""Charts: round ticks, points in their places, gaps, scales."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from gpu_backprop.display.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, Curve, chart

NAN = math.nan


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0, 1], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ([0.13, 0.97], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ([-3, 7], [-4, -2, 0, 2, 4, 6, 8]),
        ([1200, 2570], [1200, 1400, 1600, 1800, 2000, 2200, 2400, 2600]),
        ([5, 5], [2, 3, 4, 5, 6, 7, 8]),
        ([NAN, 0, 4, math.inf], [0, 1, 2, 3, 4]),
        ([NAN], [0, 0.2, 0.4, 0.6, 0.8, 1]),
    ],
)
def test_ticks_are_round_and_span_the_numbers(values, ticks):
    np.testing.assert_allclose(Axis(np.array(values, float), 0, 1).ticks, ticks, atol=1e-12)


@pytest.mark.parametrize(
    ("last", "ticks"), [(1, [1]), (3, [1, 2, 3]), (9, [2, 4, 6, 8]), (60, [10, 20, 30, 40, 50, 60])]
)  # fmt: skip
def test_ticks_of_epochs_are_whole(last, ticks):
    assert Axis(np.arange(1, last + 1.0), 0, 1, whole=True).ticks == ticks


@pytest.mark.parametrize(
    ("values", "ticks"),
    [([0.02, 2.3], [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2]), ([1e-9, 1], [1e-9, 1e-7, 1e-5, 1e-3, 1e-1]), ([3, 3], [2, 5])],
)
def test_ticks_of_a_logarithmic_scale(values, ticks):
    np.testing.assert_allclose(Axis(np.array(values, float), 0, 1, logarithmic=True).ticks, ticks)


def parsed(*curves, **how):
    """The parts of a chart, which is well-formed XML."""
    return ET.fromstring(chart(curves, "epoch", "loss", **how))


def test_a_line_goes_through_its_points_and_has_gaps():
    figure = parsed(Curve(np.arange(5.0), np.array([0, 1, NAN, 1, 0]), "training", "training"))
    (path,) = figure.findall("svg/path")
    strokes = [
        [tuple(map(float, point.split())) for point in stroke.split("L")] for stroke in path.get("d")[1:].split("M")
    ]
    step = (WIDTH - RIGHT - LEFT) / 4
    assert strokes == [
        [(LEFT, HEIGHT - BOTTOM), (LEFT + step, TOP)],
        [(LEFT + 3 * step, TOP), (LEFT + 4 * step, HEIGHT - BOTTOM)],
    ]


def test_one_point_is_a_dot():
    figure = parsed(Curve(np.array([1.0]), np.array([0.5]), "training", "training"), whole=True)
    assert len(figure.findall("svg/g/circle")) == 1 and not figure.findall("svg/path")


def test_a_logarithmic_scale_halves_between_powers():
    y = (
        parsed(Curve(np.arange(3.0), np.array([1.0, 10.0, 100.0]), "training"), logarithmic=True)
        .find("svg/path")
        .get("d")
    )
    first, middle, last = (float(place) for place in re.findall(r" ([\d.]+)", y))
    assert middle == pytest.approx((first + last) / 2, abs=0.1)


def test_the_legend_names_each_style_once_and_the_best_epoch():
    curves = [Curve(np.arange(3.0), np.arange(3.0) + k, "training", "training") for k in range(2)]
    figure = parsed(*curves, Curve(np.arange(3.0), np.arange(3.0), "validation", "validation"), marked=2)
    assert [span.find("i").tail for span in figure.findall("figcaption/span")] == [
        "training",
        "validation",
        "best: epoch 2",
    ]
    assert len(figure.findall("svg/line[@class='best']")) == 1


def test_a_long_curve_stays_small():
    assert len(chart([Curve(np.arange(1e5), np.random.default_rng(0).random(100_000), "training")], "x", "y")) < 40_000


def test_names_are_escaped():
    assert "<b>" not in chart([Curve(np.arange(2.0), np.arange(2.0), "training", "<b>")], "<b>", "<b>")
