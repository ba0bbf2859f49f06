"""The page about a training: whole, escaped, and asking nobody for anything."""

from __future__ import annotations

import getpass
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import gpu_backprop as gb

VOID = {"meta"}
EVIL = "<script>alert(1)</script>"

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 4)).astype(np.float32)
LABELS = (X[:, 0] > 0) + (X[:, 1] > 0).astype(np.int64)
NUMBERS = X[:, :2] * [2, -3] + 1


class Page(HTMLParser):
    """Reads a page: its elements have to be closed in order; it holds the texts below each heading."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open, self.tags, self.sections = [], [], {}
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] in (["h1"], ["h2"]):
            self.heading = data
            self.sections[data] = []
        elif data.strip() and "body" in self.open:
            self.sections[self.heading].append(data)


def trained(outputs, activation, y, epochs=3, x=X, **how):
    net = gb.Network(4, [gb.Dense(8, "tanh"), gb.Dense(outputs, activation)], seed=how.pop("seed", 0), device="cpu")
    net.classes = how.pop("classes", None)
    trainer = gb.Trainer(net, batch_size=16, **how)
    if epochs:
        trainer.fit(x, y, epochs, validation=(x, y), progress=False)
    return trainer


def written(tmp_path, *given, **how):
    path = tmp_path / "report.html"
    gb.write_report(path, *given, **how)
    return Page(path)


def test_of_classes(tmp_path):
    trainer = trained(3, "softmax", LABELS, classes=[EVIL, "a\u202eb", "c"])
    more = {"More": {EVIL: EVIL}}
    page = written(tmp_path, trainer, X, LABELS, title=EVIL, command=EVIL, remarks=[EVIL, ""], facts=more)
    assert list(page.sections) == [
        EVIL, "Curves", "Confusion matrix", "Calibration", "Network", "Data", "Settings", "Time", "Environment", "More"
    ]  # fmt: skip
    assert "script" not in {tag for tag, _ in page.tags} and "a\\u202eb" in page.source
    right = trainer.network.predict(X).argmax(axis=1)
    cells = page.sections["Confusion matrix"]
    for name, label in ((EVIL, 0), ("c", 2)):
        start = cells.index(name, cells.index("recall"))
        counts = [int(((label == LABELS) & (right == other)).sum()) for other in range(3)]
        assert cells[start + 1 : start + 4] == [str(count) if count else "·" for count in counts]
        assert cells[start + 4] == f"{counts[label] / sum(counts):.3f}"
    accuracy = trainer.evaluate(X, LABELS)["accuracy"]
    assert f"{accuracy:.4f}" in page.sections[EVIL]


def test_the_calibration_error_is_that_of_the_metric(tmp_path):
    trainer = trained(3, "softmax", LABELS)
    error = trainer.evaluate(X, LABELS, metrics=["calibration_error"])["calibration_error"]
    assert f"is off by {error:.3f} in the mean" in written(tmp_path, trainer, X, LABELS).source


def test_cards_are_scores_and_a_smoothed_loss_is_called_so(tmp_path):
    how = {"loss": gb.CrossEntropy(label_smoothing=0.1), "metrics": ["calibrated_log_loss", "accuracy"]}
    trainer = trained(3, "softmax", LABELS, **how)
    loss = trainer.evaluate(X, LABELS, metrics=["log_loss"])["log_loss"]
    for outputs in (None, trainer.network.predict(X)):
        page = written(tmp_path, trainer, X, LABELS, outputs=outputs)
        cards = page.sections["Training report"]
        assert cards[cards.index("log_loss of 60 rows") - 1] == f"{loss:.4f}"
        assert "loss with smoothed labels of 60 rows" in cards
        assert not any("calibrated" in said for said in cards)
    assert "val_calibrated_log_loss" in page.source  # in the history


def test_of_two_classes_with_one_output(tmp_path):
    labels = (LABELS > 0).astype(np.int64)
    page = written(tmp_path, trained(1, "sigmoid", labels[:, None]), X, labels[:, None])
    assert {"Confusion matrix", "Calibration"} <= set(page.sections)


def test_of_classes_without_probabilities(tmp_path):
    trainer = trained(3, "identity", np.eye(3)[LABELS], classes=["a", "b", "c"])
    page = written(tmp_path, trainer, X, np.eye(3)[LABELS])
    assert "Confusion matrix" in page.sections and "Calibration" not in page.sections


def test_of_many_classes_the_mistakes_are_listed(tmp_path):
    labels = np.arange(60) % 30
    page = written(tmp_path, trained(30, "softmax", labels), X, labels)
    assert "taken for" in page.sections["Confusion matrix"] and "confusion" not in {
        a.get("class") for _, a in page.tags
    }


def test_of_labels_each_by_itself(tmp_path):
    yes = (X[:, :3] > 0).astype(np.float32)
    page = written(tmp_path, trained(3, "sigmoid", yes), X, yes)
    assert page.sections["Labels"][4:6] == ["0", f"{yes[:, 0].mean():.3f}"] and "Calibration" in page.sections


def test_of_numbers_in_the_units_of_the_data(tmp_path):
    data = gb.data.Arrays("a.npz", X, NUMBERS * 100)
    preprocessing = gb.data.Preprocessing.fit(data)
    net = gb.Network(4, [gb.Dense(2)], seed=0, device="cpu")
    net.preprocessing = preprocessing
    trainer = gb.Trainer(net, optimizer=gb.Adam(0.1))
    x, y = preprocessing.transform(data), preprocessing.targets(data)
    trainer.fit(x, y, 20, progress=False)
    page = written(tmp_path, trainer, x, y)
    off = preprocessing.inverse(net.predict(x)) - NUMBERS * 100
    cells = page.sections["Residuals"]
    figures = cells[cells.index("y[0]") + 1 : cells.index("y[1]")]
    expected = [
        np.abs(off[:, 0]).mean(),
        np.sqrt((off[:, 0] ** 2).mean()),
        *np.quantile(off[:, 0], [0.05, 0.25, 0.5, 0.75, 0.95]),
    ]
    np.testing.assert_allclose([float(text) for text in figures[1:]], expected, rtol=1e-3, atol=1e-3)
    assert "x[0]" in page.sections["Data"] and "the target scaled as below" in page.source


@pytest.mark.parametrize("epochs", [0, 1, 3])
def test_of_members(tmp_path, epochs):
    page = written(tmp_path, trained(1, "identity", NUMBERS[:, :1], epochs, seed=[0, 1]), X, NUMBERS[:, :1])
    assert "Residuals" not in page.sections and ("Curves" in page.sections) is (epochs > 0)
    assert "2 models of" in page.source


def test_without_rows_nothing_is_measured(tmp_path):
    page = written(tmp_path, trained(3, "softmax", LABELS))
    assert not {"Confusion matrix", "Calibration", "Residuals"} & set(page.sections)


def test_it_asks_nobody_for_anything_and_tells_nothing_of_the_user(tmp_path):
    page = written(tmp_path, trained(3, "softmax", LABELS), X, LABELS)
    assert not re.search(r"\b(src|href)=|url\(|@import|https?:", page.source)
    assert "default-src 'none'" in page.source
    for private in (str(Path.home()), str(Path.cwd()), str(tmp_path), getpass.getuser() + "@"):
        assert private not in page.source


def test_a_step_that_takes_long_is_not_measured_again(tmp_path, monkeypatch):
    trainer = trained(3, "softmax", LABELS)
    trainer.history.rows[-1]["samples_per_second"] = 1.0
    monkeypatch.setattr(gb.Trainer, "profile", lambda *_, **__: pytest.fail("measured"))
    assert "µs" not in written(tmp_path, trainer, X, LABELS).sections["Time"]


def test_training_is_not_changed(tmp_path):
    trainer = trained(3, "softmax", LABELS)
    before = trainer.network.parameters.copy()
    written(tmp_path, trainer, X, LABELS)
    assert (trainer.network.parameters == before).all()
    again = trained(3, "softmax", LABELS)
    for each in (trainer, again):
        each.fit(X, LABELS, 1, progress=False)
    assert (trainer.network.parameters == again.network.parameters).all()


def test_why_it_ended_early_and_a_changed_rate_are_shown(tmp_path):
    trainer = trained(3, "softmax", LABELS)
    trainer.history.stopped = "stopped after epoch 3"
    for row, rate in zip(trainer.history.rows, (0.1, 0.1, 0.05), strict=True):
        row["learning_rate"] = rate
    shown = written(tmp_path, trainer).sections["Curves"]
    assert "It ended early: stopped after epoch 3." in shown and "learning rate" in shown


@pytest.mark.parametrize("where", ["no/report.html", "file/report.html"])
def test_a_file_that_cannot_be_written(tmp_path, where):
    (tmp_path / "file").touch()
    with pytest.raises(gb.InputError, match="cannot write the report to"):
        gb.write_report(tmp_path / where, trained(3, "softmax", LABELS, epochs=0))


@pytest.mark.parametrize("form", ["lists", "stored"])
def test_rows_in_other_forms(tmp_path, form):
    trainer = trained(1, "identity", NUMBERS[:, :1])
    given = X.tolist(), NUMBERS[:, :1].tolist()
    if form == "stored":
        np.save(tmp_path / "x.npy", X)
        given = (gb.open_rows(np.load(tmp_path / "x.npy", mmap_mode="r"), NUMBERS[:, :1]),)
    page = written(tmp_path, trainer, *given)
    assert f"{trainer.evaluate(X, NUMBERS[:, :1])['loss']:.4f}" in page.source and "operation" in page.sections["Time"]
