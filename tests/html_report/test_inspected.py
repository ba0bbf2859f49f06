"""The sections about columns and the worst rows."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html import unescape

import numpy as np

from gpu_backprop.display.charts import LONGEST, NAMES, RIGHT, WIDTH, bars
from gpu_backprop.html_report.inspected import tell_inspection
from gpu_backprop.inspection import ColumnFindings, Dependence, Importance, Inspection, WorstRow

EVIL = "<script>alert(1)</script>"


def inspected(task="classification", outputs=("yes",), columns=True):
    y = np.linspace(0.2, 0.8, 5)[:, None] * np.ones(len(outputs))
    names = np.array([EVIL, "missing"], object)
    found = ColumnFindings(
        rows=20, loss=0.5, importances=[Importance(EVIL, 1.5, 0.25), Importance("noise", -0.002, 0.01)], averaged=10,
        outputs=outputs, mean=y.mean(axis=0), dependences=[
            Dependence("a", np.arange(5.0), y, np.arange(9) / 2, 0), Dependence("kind", names, y[:2], np.empty(0), 3),
            Dependence("gone", np.empty(0), y[:0], np.empty(0), 0),
        ],
    )  # fmt: skip
    regression = task == "regression"
    worst = WorstRow(
        "line 7", (12.5,) if regression else (EVIL,), (10.0,) if regression else ("no",), None if regression else 0.01,
        [(EVIL, None), ("a", 1.0)] if columns else [],
    )  # fmt: skip
    return Inspection(task, 30, "RMSE" if regression else "log loss", 0.4, [worst], found if columns else None)


def sections(*given, **how):
    found = dict(tell_inspection(inspected(*given, **how)))
    for section in found.values():
        ET.fromstring(f"<div>{section}</div>")  # elements are closed, in order
        assert "<script" not in section
    return found


def texts(section):
    return [unescape(text) for text in re.split(r"<[^>]*>", section) if text]


def test_the_importance_of_each_column_with_its_spread():
    found = texts(sections()["Permutation importance"])
    assert "By how much the log loss of 20 of the 30 rows, chosen at random, which is 0.5000, rises" in found[0]
    assert f"{EVIL}: 1.5 ± 0.25" in found
    row = found.index(EVIL, found.index("standard deviation"))
    assert found[row:] == [EVIL, "1.500", "0.250", "noise", "-0.002", "0.010"]


def test_a_dependence_is_a_line_of_numbers_or_bars_of_categories_and_nothing_without_values():
    found = ET.fromstring(f"<div>{sections()['Partial dependence']}</div>")
    number, category = found.findall("div/div")
    assert [part.find("h3").text for part in (number, category)] == ["a", "kind"]
    assert len(number.findall("figure/svg/path[@class='series1']")) == 1
    assert len(number.findall("figure/svg/line[@class='rug']")) == 9
    assert [rect.find("title").text for rect in category.findall("figure/svg/rect")] == [
        f"{EVIL}: 0.2",
        "missing: 0.35",
    ]
    assert "3 less frequent texts are left out." in "".join(category.itertext())
    assert number.find("figure/svg").get("aria-label") == "probability of yes over a"


def test_several_classes_have_a_legend_and_dashes_of_their_own():
    found = ET.fromstring(f"<div>{sections(outputs=['p', 'q', EVIL])['Partial dependence']}</div>")
    for figure in found.iter("figure"):
        assert [span.find("i").tail for span in figure.findall("figcaption/span")] == ["p", "q", EVIL]
        assert {f"series{k}" for k in (1, 2, 3)} <= {each.get("class") for each in figure.find("svg")}


def test_the_bars_of_a_regression_begin_at_the_mean():
    found = sections("regression", ["price"])
    assert "Bars begin at the mean prediction, 0.5000." in texts(found["Partial dependence"])
    assert "RMSE, in the units of the data, of 20" in found["Permutation importance"]


def test_targets_have_charts_of_their_own():
    found = ET.fromstring(f"<div>{sections('regression', ['p', 'q'])['Partial dependence']}</div>")
    names = [svg.get("aria-label") for svg in found.findall("div/div/figure/svg")]
    assert names[0] == "prediction, p over a" and names[2] == "prediction, q over a" and len(names) == 4


def test_the_worst_rows_with_their_values():
    found = texts(sections()["Worst rows"])
    assert found[-5:] == ["line 7", EVIL, "no", "0.01", f"{EVIL}: missing · a: 1"]
    found = texts(sections("regression", ["price"])["Worst rows"])
    assert found[-5:-1] == ["line 7", "12.5", "10", "-2.5"]


def test_of_pixels_it_says_why_there_is_nothing():
    found = sections(columns=False)
    assert list(found) == ["Columns", "Worst rows"] and "one by one they say nothing" in found["Columns"]
    assert "columns" not in found["Worst rows"]


def test_the_worst_images_are_drawn():
    found = inspected(columns=False)
    seen = found._replace(worst=[found.worst[0]._replace(pixels=np.array([[0.0, 1.0], [0.5, 0.49]]))])
    section = dict(tell_inspection(seen))["Worst rows"]
    svg = ET.fromstring(f"<div>{section}</div>").find(".//svg")
    assert svg.get("viewBox") == "0 0 2 2" and svg.get("aria-label") == "image of line 7"
    paths = {path.get("fill-opacity"): path.get("d") for path in svg.findall("path")}
    assert paths == {"0.5": "M0 1h1v1h-1zM1 1h1v1h-1z", "1": "M1 0h1v1h-1z"}


def test_no_row_is_wrong():
    assert (
        dict(tell_inspection(inspected()._replace(worst=[])))["Worst rows"]
        == "<p>The network answers every row rightly.</p>"
    )


def test_bars_end_where_their_numbers_are():
    figure = ET.fromstring(bars(["a" * 50, "b"], np.array([[4.0], [-2.0]]), "rise", {"": "training"}))
    first, second = figure.findall("svg/rect")
    unit = (WIDTH - RIGHT - NAMES) / 6
    for rect, x, width in ((first, NAMES + 2 * unit, 4 * unit), (second, NAMES, 2 * unit)):
        assert abs(float(rect.get("x")) - x) < 0.1 and abs(float(rect.get("width")) - width) < 0.1
    written = [text.text for text in figure.findall("svg/text")]
    assert "0" in written and "a" * (LONGEST[0] - 1) + "…" in written
