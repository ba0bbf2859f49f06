"""Prediction intervals: how wide they are, by plain counting, and how often a target lies within."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb

RNG = np.random.default_rng(7)


def test_the_width_is_a_residual_of_the_right_rank():
    sizes = np.arange(1, 20) / 10  # 19 of them
    residuals = RNG.permutation(sizes) * RNG.choice([-1, 1], 19)
    intervals = gb.Intervals.fit(residuals)
    assert (intervals.rows, intervals.outputs, intervals.most) == (19, 1, 0.95)
    for coverage, rank in ((0.05, 1), (0.051, 2), (0.5, 10), (0.9, 18), (0.949, 19), (0.95, 19), (1e-9, 1)):
        assert intervals.half_widths(coverage).tolist() == [sizes[rank - 1]], coverage
    two = gb.Intervals.fit(np.stack([residuals, 2 * residuals], axis=1))
    assert two.half_widths(0.9).tolist() == [sizes[17], 2 * sizes[17]]
    assert repr(two) == "<Intervals of 19 rows: ±1.8, ±3.6 at coverage 0.9>"
    assert "at coverage 0.5" in repr(gb.Intervals.fit([1.0]))


@pytest.mark.parametrize(("rows", "outputs", "kept"), [(1001, 1, 1000), (50_000, 1, 1000), (3000, 300, 333)])
def test_of_many_rows_some_are_kept_which_make_no_interval_too_narrow(rows, outputs, kept):
    residuals = RNG.normal(size=(rows, outputs))
    intervals = gb.Intervals.fit(residuals)
    assert intervals.residuals.shape == (outputs, kept)
    ordered = np.sort(abs(residuals), axis=0)
    np.testing.assert_array_equal(intervals.residuals[:, -1], ordered[-1])
    for coverage in (0.01, 0.5, 0.9, 0.95, intervals.most):
        rank = int(np.ceil(round((rows + 1) * coverage, 9)))
        widths = intervals.half_widths(coverage)
        assert (widths >= ordered[rank - 1]).all()
        assert (widths <= ordered[min(rows, rank + rows // kept) - 1]).all()


def test_the_coverage_is_what_was_promised():
    """Of 4,000 times that 30 residuals are drawn and one more: the mean over them is known to about 0.01."""
    draws = abs(RNG.standard_t(3, size=(4000, 31)))
    for coverage in (0.5, 0.8, 0.9):
        within = [draw[-1] <= gb.Intervals.fit(draw[:-1]).half_widths(coverage)[0] for draw in draws[:2000]]
        assert coverage - 0.02 <= np.mean(within) <= coverage + 1 / 31 + 0.02


def test_intervals_of_a_network():
    net = gb.Network(2, [gb.Dense(2)], dtype="float32")
    x = RNG.normal(size=(5, 2))
    with pytest.raises(gb.StateError, match=r"no intervals: fit it with gpu_backprop.ConformalIntervals\(\) among"):
        net.predict_interval(x)
    net.intervals = gb.Intervals.fit([[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]])
    low, high = net.predict_interval(x, 0.5)
    assert low.dtype == high.dtype == np.float64
    np.testing.assert_allclose(high - net.predict(x), [[2, 5]] * 5, rtol=1e-6)
    np.testing.assert_allclose(net.predict(x) - low, [[2, 5]] * 5, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gb.Intervals.fit([]), r"residuals must have the axes .* got the shape \(0,\)"),
        (lambda: gb.Intervals.fit([1.0, np.nan]), "1 value is NaN or infinite in residuals"),
        (lambda: gb.Intervals.fit(["a"]), "residuals must hold real numbers"),
        (lambda: gb.Intervals.fit([1.0] * 9).half_widths(1), "coverage must be a number between 0 and 1, .* got 1"),
        (lambda: gb.Intervals.fit([1.0] * 9).half_widths(90), "coverage must be a number between 0 and 1"),
        (lambda: gb.Intervals.fit([1.0] * 9).half_widths(0.95), "0.95 takes 19 rows .* were 9, .* enough for 0.9"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(gb.InputError, match=message):
        call()
