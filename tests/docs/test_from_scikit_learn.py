"""docs/from-scikit-learn.md is true: its examples run, in their order, in one session, and it leaves out nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import gpu_backprop as gb

PAGE = (Path(__file__).parents[2] / "docs" / "from-scikit-learn.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning"
)  # a page is to be read, and run, in seconds
def test_the_examples_run_in_their_order(tmp_path, monkeypatch):
    for package in ("sklearn", "pandas"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for example in EXAMPLES:
        exec(compile(example, "docs/from-scikit-learn.md", "exec"), names)
    for written in ("search.joblib", "digits.safetensors", "dear.safetensors"):
        assert (tmp_path / written).stat().st_size > 0
    assert names["clf"].score(names["X_test"], names["y_test"]) > 0.95
    assert names["stream"].score(names["X_val"], names["y_val"]) == names["stream"].best_validation_score_
    assert 0.8 < (names["upper"].predict(names["Xr"]) > names["yr"]).mean() < 0.97
    assert names["clf"].stopped_ in PAGE
    assert names["dear"].score(names["flats"], names["kind"]) > 0.8


def test_every_parameter_and_every_name_is_there():
    neural_network = pytest.importorskip("sklearn.neural_network")
    for name in ("MLPClassifier", "MLPRegressor"):
        theirs, ours = (getattr(package, name)().get_params() for package in (neural_network, gb))
        for parameter in ours.keys() - theirs.keys():
            assert f"{parameter}=" in PAGE, parameter
    for name in set(re.findall(r"gb\.(\w+)", PAGE)):
        assert hasattr(gb, name), name


@pytest.mark.parametrize(
    "issue",
    [
        28328, 5895, 13567, 14571, 14588, 30712, 11952, 26912, 10665, 30199, 14807, 10097, 6175, 7407, 9113, 10588,
        11723, 25326, 30155, 18507, 34976, 25693, 12505, 11758,
    ],
)  # fmt: skip
def test_what_was_asked_for_is_answered(issue):
    assert f"#{issue}" in PAGE
