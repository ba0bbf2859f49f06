"""The page about a search: whole, escaped, and with every candidate."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.html_report.search_page import write_search_report

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)
HOW = {"layers": [gb.Dense(4, "tanh"), gb.Dense(2, "softmax")], "validation": (X, Y), "epochs": 9, "progress": False}


def parsed(result, path) -> ET.Element:
    """The body of the page, which is well-formed XML."""
    write_search_report(path, result, title="<title>", command="search --grid '<b>'", remarks=["a & b"])
    page = path.read_text(encoding="utf-8")
    return ET.fromstring(page[page.index("<body>") :].removesuffix("</html>\n"))


def section(body: ET.Element, name: str) -> ET.Element:
    return next(part for part in body.findall("section") if part.find("h2").text == name)


def cells(part: ET.Element) -> list[list[str]]:
    return [["".join(cell.itertext()) for cell in row] for row in part.findall(".//tbody/tr")]


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_candidates_are_told_best_first(tmp_path, metric):
    result = gb.search(X, Y, {"learning_rate": [0.001, 0.01, 0.1]}, metric=metric, seeds=2, strategy="halving", **HOW)
    body = parsed(result, tmp_path / "search.html")
    best = result.trials[0]
    assert cells(section(body, "The best candidate")) == [["learning_rate", str(best["settings"]["learning_rate"])]]
    rows = cells(section(body, "All candidates"))
    assert [row[:2] for row in rows] == [
        [str(place), str(trial["settings"]["learning_rate"])] for place, trial in enumerate(result.trials, 1)
    ]
    assert [row[-1] for row in rows] == ["", "stopped after epoch 3", "stopped after epoch 3"]
    figures = [figure.text for figure in body.findall("div[@class='tiles']/div/b")]
    assert figures[1:3] == ["3", "6"]
    assert len(section(body, "Candidates").findall(".//svg/path")) == 3
    curves = [path.get("class") for path in section(body, "Curves").findall(".//svg/path")]
    assert curves == ["validation thin"] * 4 + ["training thick"] * 2
    assert "a & b" in "".join(body.itertext()) and body.find("h1").text == "<title>"


def test_a_diverged_candidate_and_many_members(tmp_path):
    how = {**HOW, "layers": [gb.Dense(1)], "validation": (X, X[:, :1]), "optimizer": "sgd", "dtype": "float64"}
    space = {"learning_rate": [0.01, 1e300], "l2": [0.0, 0.1]}
    result = gb.search(X, X[:, :1], space, seeds=60, **{**how, "epochs": 2})
    body = parsed(result, tmp_path / "search.html")
    assert [row[-1] for row in cells(section(body, "All candidates"))] == ["", "", "diverged", "diverged"]
    assert (tmp_path / "search.html").stat().st_size < 200_000


def test_a_file_that_cannot_be_written_is_told(tmp_path):
    result = gb.search(X, Y, {"learning_rate": [0.01, 0.1]}, **{**HOW, "epochs": 1})
    with pytest.raises(gb.InputError, match="cannot write the report"):
        write_search_report(tmp_path / "nowhere" / "s.html", result, title="", command="", remarks=[])
