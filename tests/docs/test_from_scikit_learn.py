"""docs/from-scikit-learn.md leaves out nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

import gpu_backprop as gb

PAGE = (Path(__file__).parents[2] / "docs" / "from-scikit-learn.md").read_text(encoding="utf-8")


def test_every_parameter_is_there():
    neural_network = pytest.importorskip("sklearn.neural_network")
    for name in ("MLPClassifier", "MLPRegressor"):
        theirs, ours = (getattr(package, name)().get_params() for package in (neural_network, gb))
        for parameter in ours.keys() - theirs.keys():
            assert f"{parameter}=" in PAGE, parameter


@pytest.mark.parametrize(
    "issue",
    [
        28328, 5895, 13567, 14571, 14588, 30712, 11952, 26912, 10665, 30199, 14807, 10097, 6175, 7407, 9113, 10588,
        11723, 25326, 30155, 18507, 34976, 25693, 12505, 11758,
    ],
)  # fmt: skip
def test_what_was_asked_for_is_answered(issue):
    assert f"#{issue}" in PAGE
