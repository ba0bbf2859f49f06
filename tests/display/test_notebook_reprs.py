"""What a notebook shows of an object: whole, escaped, small, and nothing that runs or is fetched."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.data import Arrays, Encoding, Preprocessing, Table
from gpu_backprop.recipes import RECIPES
from gpu_backprop.training.history import History

HOSTILE = "<script>alert(1)</script>\x1b[2J"
STREAM = np.random.default_rng(0)
X = STREAM.normal(size=(40, 3)).astype(np.float32)
LABELS = np.arange(40) % 4


def parsed(shown: object) -> ET.Element:
    """The parts of what a notebook shows, which is well-formed, also as XML, and asks for nothing."""
    source = shown._repr_html_()
    root = ET.fromstring(source)
    assert root.get("class") == "gpu-backprop"
    assert not {part.tag for part in root.iter()} & {"script", "link", "img", "iframe", "object"}
    assert not any(name.startswith("on") or name in ("href", "src") for part in root.iter() for name in part.attrib)
    assert not re.search(r"url\(|@import|https?:", source)
    assert "\x1b" not in source
    return root


def cells(root: ET.Element, row: str = "table/tbody/tr") -> list[list[str]]:
    return [["".join(cell.itertext()) for cell in line] for line in root.findall(f".//{row}")]


def text(root: ET.Element) -> str:
    return " ".join("".join(part.itertext()) for part in root if part.tag != "style")


def trainer(seed: int | list[int] = 0, epochs: int = 0) -> gb.Trainer:
    net = gb.Network(3, [gb.Dense(5, "relu"), gb.Dropout(0.1), gb.Dense(4, "softmax")], seed=seed)
    made = gb.Trainer(net, gb.CrossEntropy(), gb.AdamW(0.01, weight_decay=0.1), batch_size=8)
    if epochs:
        made.fit(X, LABELS, epochs, validation=(X, LABELS), progress=False)
    return made


def history(epochs: int, members: int = 0, **more: float) -> History:
    made = History()
    for epoch in range(1, epochs + 1):
        value = 1 / epoch + 1e-7 * (epoch - 5000) ** 2
        losses = dict.fromkeys(("loss", "val_loss"), [value + k for k in range(members)] if members else value)
        made.append({"epoch": epoch, **losses, "seconds": 0.0123, "samples_per_second": 123456.7, **more})
    return made


def test_a_network_is_a_table_of_its_layers():
    root = parsed(trainer().network)
    assert cells(root, "thead/tr") == [["", "layer", "in", "out", "parameters"]]
    assert cells(root) == [
        ["1", "Dense(5, 'relu')", "3", "5", "20"],
        ["2", "Dropout(0.1)", "5", "5", "0"],
        ["3", "Dense(4, 'softmax')", "5", "4", "24"],
    ]
    assert "44 parameters, float32, on " in text(root)
    assert "2 models of 44 parameters" in text(parsed(trainer([0, 1]).network))


@pytest.mark.parametrize("seed", [0, [0, 1]], ids=["one", "members"])
def test_a_trainer_tells_its_settings_and_what_the_last_fit_did(seed):
    fresh, fitted = parsed(trainer(seed)), trainer(seed, epochs=2)
    facts = dict(cells(fresh)[:-3])
    assert facts["loss"].startswith("CrossEntropy(") and "weight_decay=0.1" in facts["optimizer"]
    assert facts["batch size"] == "8" and facts["epochs"] == "0" and "last epoch" not in facts
    fitted.history.stopped = HOSTILE
    facts = dict(cells(parsed(fitted))[:-3])
    assert facts["epochs"] == "2" and "val_loss" in facts["last epoch"] and facts["best"].startswith("epoch ")
    assert facts["ended early"] == HOSTILE.replace("\x1b", "\\x1b")
    assert repr(fitted).startswith("Trainer(Network(3, ") and repr(fitted).endswith("batch_size=8)")


def test_an_empty_history():
    assert text(parsed(History())) == "no epochs yet"


@pytest.mark.parametrize("epochs", [1, 2, 9, 30])
@pytest.mark.parametrize("members", [0, 3])
def test_a_history_shows_first_best_and_last_epochs_and_a_curve(epochs, members):
    made = history(epochs, members)
    root = parsed(made)
    rows = cells(root)
    assert cells(root, "thead/tr") == [["epoch", "loss", "val_loss", "seconds", "samples_per_second", ""]]
    assert rows[0][0] == "1" and rows[-1][:1] == [str(epochs)] and rows[-1][3:5] == ["0.0123", "123,457"]
    assert len(rows) == (epochs if epochs <= 9 else 10)
    assert [row[0] for row in rows if row[-1] == "best"] == [str(epochs)]
    curves = root.findall(".//svg/path") or root.findall(".//svg/g/circle")
    assert len(curves) == 2 * max(members, 1)
    thick = " thick" if members else ""
    styles = {part.get("class") for part in root.findall(".//figcaption/span/i")}
    assert styles >= {f"training{thick}", f"validation{thick}"}


def test_a_long_history_is_small_and_loses_no_peak():
    made = history(10_000, **{HOSTILE: 0.5})
    made.rows[7777]["loss"], made.rows[8888]["val_loss"] = 90.0, math.nan
    assert len(made._repr_html_()) < 50_000
    assert len(history(3000, members=200)._repr_html_()) < 50_000
    root = parsed(made)
    assert [row[0] for row in cells(root)] == ["1", "⋮", "5,000", "⋮", *(f"{k:,}" for k in range(9993, 10_001))]
    training, validation = (path.get("d") for path in root.findall(".//svg/path"))
    assert min(float(y) for y in re.findall(r" ([\d.]+)", training)) < 30  # where 90 is
    assert validation.count("M") == 2  # where NaN is
    assert training.rpartition("L")[2].split()[0] == validation.rpartition("L")[2].split()[0]  # the last epoch


@pytest.mark.parametrize("loss", [math.nan, math.inf, [math.nan, 1.0]])
def test_a_history_of_what_diverged(loss):
    made = History()
    for epoch in (1, 2):
        made.append({"epoch": epoch, "loss": loss, "val_loss": loss})
    assert len(cells(parsed(made))) == 2 and parsed(made).findall(".//svg")


def test_a_history_without_a_loss():
    made = History()
    made.append({"epoch": 1, "accuracy": 0.5})
    assert cells(parsed(made)) == [["1", "0.5000", ""]]


def test_a_plan_is_a_table_by_phases():
    plan = trainer().plan()
    rows = cells(parsed(plan))
    groups = [row[0] for row in rows if len(row) == 1]
    assert groups == ["forward", "loss", "backward", "update"]
    assert len(rows) == len(groups) + len(plan.operations) + 1
    assert rows[-1] == [
        f"{len(plan.operations)} operations",
        "",
        "",
        *(f"{plan.cost()[k]:,}" for k in ("flops", "bytes")),
    ]
    assert rows[1][:2] == [plan.operations[0].name, plan.operations[0].formula] and " → " in rows[1][2]
    assert repr(plan) == f"<Plan of {len(plan.operations)} operations>"
    assert len(parsed(gb.Trainer(trainer([0, 1]).network).plan()).findall(".//tr")) > len(groups)


def test_a_profile_has_bars():
    measured = trainer().profile(X, LABELS, runs=2)
    root = parsed(measured)
    widths = [float(re.search(r"width: ([\d.]+)em", bar.get("style"))[1]) for bar in root.findall(".//td/i")]
    times = [timing.microseconds for timing in measured]
    np.testing.assert_allclose(widths, [6 * time / max(times) for time in times], atol=0.01)
    assert len({len(row) for row in cells(root)[:-1]}) == 1 == len(cells(root, "thead/tr"))
    assert re.fullmatch(rf"<Profile of {len(times)} operations: [\d,.]+ µs>", repr(measured))


def test_preprocessing_tells_what_the_network_sees_of_each_column():
    columns = {"area": np.arange(8.0), HOSTILE: np.array(["<b>", "&"] * 4, object), "price": np.arange(8.0) ** 2}
    prepared = Preprocessing.fit(Table("houses", columns), "price")
    root = parsed(prepared)
    assert [row[0] for row in cells(root)] == ["area", HOSTILE.replace("\x1b", "\\x1b")]
    assert "'<b>'" in cells(root)[1][1]
    assert text(root).endswith(f"3 inputs, for a regression of price: {prepared.describe()[-1][1]}")
    assert repr(prepared) == "<Preprocessing of 2 columns to 3 inputs, for a regression>"


@pytest.mark.parametrize("inputs", [40, 2000])
def test_preprocessing_of_many_columns_is_folded_and_small(inputs):
    prepared = Preprocessing.fit(Arrays("many", STREAM.normal(size=(8, inputs)), np.arange(8) % 2), encoding=Encoding())
    root = parsed(prepared)
    assert len(cells(root)) == min(inputs, 500)
    assert f"{min(inputs, 500) - 30:,} more columns" in text(root)
    assert ("1,500 further columns are not listed" in text(root)) == (inputs == 2000)
    assert len(prepared._repr_html_()) < 60_000
    assert repr(prepared) == f"<Preprocessing of arrays to {inputs:,} inputs, for a classification>"


def test_a_diagnosis_and_a_recipe():
    found = trainer().diagnose(X * 1e4, LABELS)
    root = parsed(found)
    assert [row[0] for row in cells(root)] == [of.layer for of in found.layers]
    assert [item.text for item in root.findall(".//li")] == [str(finding) for finding in found.findings]
    assert found.findings and found.findings[0].kind in repr(found)
    recipe = RECIPES["tabular"]("classification", 100, 3)
    assert dict(cells(parsed(recipe)))["optimizer"] == recipe.optimizer
