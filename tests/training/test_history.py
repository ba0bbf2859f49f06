"""History: its rows, its CSV file and its curves."""

from __future__ import annotations

import csv
import math
import os
import sys

import numpy as np
import pytest

from gpu_backprop.backend.errors import InputError, MissingExtraError
from gpu_backprop.training.history import (
    MOST_CURVES,
    History,
    describe_best,
    describe_row,
    draw_column,
    draw_curves,
    find_best,
    member_scores,
)

ROWS = [
    {"epoch": 1, "loss": 0.7, "accuracy": 0.5, "val_loss": 0.8, "val_accuracy": 0.4, "seconds": 0.1},
    {"epoch": 2, "loss": 0.1 + 0.2, "accuracy": 0.75, "val_loss": 0.6, "val_accuracy": 0.5, "seconds": 0.1},
    {"epoch": 3, "loss": 1e-9, "accuracy": 1.0, "val_loss": 0.5, "val_accuracy": 0.6, "seconds": 0.1},
]


@pytest.fixture
def history():
    made = History()
    for row in ROWS:
        made.append(row)
    return made


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_and_columns(history):
    assert len(history) == 3
    assert list(history) == history.rows == ROWS
    assert history[0] == ROWS[0]
    assert history[-1]["loss"] == 1e-9
    assert history[1:] == ROWS[1:]
    assert history["accuracy"] == [0.5, 0.75, 1.0]
    assert history.columns == list(ROWS[0])


def test_a_row_is_the_historys_own():
    row = dict(ROWS[0])
    history = History()
    history.append(row)
    row["loss"] = -1.0
    assert history[0]["loss"] == 0.7


def test_an_unknown_column_is_named_with_the_known(history):
    with pytest.raises(InputError, match=r"'val_los'.*'val_loss'.*Known: epoch, loss"):
        history["val_los"]


def test_a_history_without_epochs_has_empty_columns():
    assert History()["loss"] == []


def test_an_epoch_that_is_not_there(history):
    with pytest.raises(IndexError):
        history[3]


def test_the_best_epoch_is_that_of_early_stopping_or_has_the_lowest_loss(history):
    assert find_best(History()) is None and describe_best(History()) == ""
    assert find_best(history) == 3
    assert describe_best(history) == "epoch 3, val_loss 0.5000, val_accuracy 0.6000"
    history.best_epoch = 2
    assert describe_best(history) == "epoch 2, val_loss 0.6000, val_accuracy 0.5000"
    history = History()
    history.rows = [{"epoch": 1, "val_loss": math.nan}, {"epoch": 2, "val_loss": 0.5}, {"epoch": 3, "val_loss": 0.5}]
    assert describe_best(history) == "epoch 2, val_loss 0.5000"
    history.rows = [{"epoch": 1, "val_loss": [1.0, 2.0]}, {"epoch": 2, "val_loss": [0.5, 3.0]}]
    assert find_best(history) == [2, 1]


def test_without_validation_only_early_stopping_knows_a_best_epoch(history):
    history.append({"epoch": 4, "loss": 0.1, "mae": 0.2})
    assert find_best(history) is None and describe_best(history) == ""
    history.best_epoch = 4
    assert describe_best(history) == "epoch 4, loss 0.1000, mae 0.2000"


LATER = [{"epoch": 1, "loss": 0.7}, {"epoch": 2, "loss": 0.5, "val_loss": 0.6}, {"epoch": 3, "loss": 0.4}]


def test_a_column_that_only_some_epochs_have(tmp_path):
    history = History()
    history.rows = LATER
    assert history.columns == ["epoch", "loss", "val_loss"]
    assert history["val_loss"] == [None, 0.6, None]
    history.to_csv(tmp_path / "history.csv")
    assert (tmp_path / "history.csv").read_bytes() == b"epoch,loss,val_loss\n1,0.7,\n2,0.5,0.6\n3,0.4,\n"


def test_repr_says_how_it_ended(history):
    assert repr(History()) == "<History of 0 epochs>"
    text = "loss 1.000e-09, accuracy 1.0000, val_loss 0.5000, val_accuracy 0.6000"
    assert repr(history) == f"<History of 3 epochs: {text}>"
    history.stopped = "Ctrl-C in epoch 4"
    assert repr(history) == f"<History of 3 epochs: {text}; Ctrl-C in epoch 4>"


def test_describe_row_leaves_out_what_stands_elsewhere():
    row = {"epoch": 1, "loss": 0.0, "mae": 123456.0, "seconds": 0.5, "samples_per_second": 4.0}
    assert describe_row(row) == "loss 0.0000, mae 1.235e+05"


def test_describe_row_of_many_members_says_where_they_lie():
    assert describe_row({"epoch": 1, "loss": [0.5, 0.25, 1.0]}) == "loss 0.2500 to 1.0000"


def test_csv_gives_every_number_back(history, tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("what stood here before, and longer than what comes\n" * 100)
    history.to_csv(path)
    assert path.read_bytes().startswith(b"epoch,loss,accuracy,val_loss,val_accuracy,seconds\n1,0.7,")
    assert [{name: float(text) for name, text in row.items()} for row in read(path)] == ROWS


def test_csv_of_no_epochs_is_empty(tmp_path):
    History().to_csv(tmp_path / "history.csv")
    assert (tmp_path / "history.csv").read_bytes() == b""


def drawn(history, name):
    """A panel of the curves."""
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    draw_curves(history, axes, name)
    return axes


class TestPlot:
    """The curves, where matplotlib is installed."""

    @pytest.fixture(autouse=True)
    def matplotlib(self):
        pytest.importorskip("matplotlib", reason="matplotlib is not installed")

    @pytest.mark.parametrize("name", ["curves.png", "curves.svg"])
    def test_an_image_is_written(self, history, tmp_path, name):
        history.plot(tmp_path / name)
        assert (tmp_path / name).read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")

    def test_loss_and_metric_of_both_data_sets(self, history, tmp_path):
        figure = history.plot(tmp_path / "curves.png")
        assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy"]
        loss, accuracy = ([list(line.get_ydata()) for line in axes.lines[:2]] for axes in figure.axes)
        assert loss == [history["loss"], history["val_loss"]]
        assert accuracy == [history["accuracy"], history["val_accuracy"]]

    def test_a_loss_alone(self, tmp_path):
        history = History()
        history.append({"epoch": 1, "loss": 0.5})
        figure = history.plot(tmp_path / "curves.png")
        assert [axes.get_ylabel() for axes in figure.axes] == ["loss"]
        assert figure.axes[0].lines[0].get_marker() == "."  # a single point would be an invisible line

    def test_only_epochs_that_have_it_are_drawn(self, tmp_path):
        history = History()
        history.rows = LATER
        training, validation = history.plot(tmp_path / "curves.png").axes[0].lines
        assert (list(training.get_xdata()), list(training.get_ydata())) == ([1, 2, 3], [0.7, 0.5, 0.4])
        assert (list(validation.get_xdata()), list(validation.get_ydata())) == ([2], [0.6])

    def test_regression_draws_r2_of_the_validation_data(self, tmp_path):
        history = History()
        for epoch in (1, 2):
            history.append({"epoch": epoch, "loss": 0.5, "val_loss": 0.5, "val_r2": 0.9, "val_mae": 0.1})
        figure = history.plot(tmp_path / "curves.png")
        assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "r2"]

    def test_every_member_has_a_thin_line_and_the_best_a_thick_one(self, tmp_path):
        history = History()
        for epoch in (1, 2):
            history.append({"epoch": epoch, "val_loss": [0.5, 0.25 * epoch, 1 / epoch, 0.1 * epoch]})
        (axes,) = history.plot(tmp_path / "curves.png").axes
        *others, best, star = axes.lines
        assert [list(line.get_ydata()) for line in others] == [[0.5, 0.5], [0.25, 0.5], [1, 0.5]]
        assert list(best.get_ydata()) == [0.1, 0.2]
        assert max(line.get_linewidth() for line in others) < 1 < best.get_linewidth()
        told = [text.get_text() for text in axes.get_legend().get_texts()]
        assert told == ["validation", "best: member 3, epoch 1"]
        assert star.get_xydata().tolist() == [[1, 0.1]]

    @pytest.mark.parametrize("best", [0, 7, 999])
    def test_of_many_members_some_are_drawn_and_the_best(self, tmp_path, best):
        history = History()
        losses = np.linspace(1, 2, 1000)
        losses[best], losses[500] = 0.5, math.nan
        history.append({"epoch": 1, "loss": losses.tolist()})
        (axes,) = history.plot(tmp_path / "curves.png").axes
        assert 30 < len(axes.lines) <= MOST_CURVES and list(axes.lines[-1].get_ydata()) == [0.5]
        assert draw_column(history, "loss").count("<circle") == len(axes.lines)

    def test_the_best_member_is_that_of_its_best_epoch(self):
        history = History()
        for epoch in (1, 2):
            history.append({"epoch": epoch, "loss": [0.1, 0.2], "val_loss": [0.3 * epoch, 0.4]})
        assert member_scores(history).tolist() == [0.6, 0.4]
        history.best_epoch = [1, 2]
        assert member_scores(history).tolist() == [0.3, 0.4] and member_scores(history, "loss").tolist() == [0.1, 0.2]
        history.diverged = [0, 2]
        np.testing.assert_array_equal(member_scores(history), [0.3, np.nan])

    def test_a_rate_of_all_members_is_one_line(self, tmp_path):
        history = History()
        for epoch in (1, 2):
            history.append({"epoch": epoch, "val_loss": [0.5, 1 / epoch], "learning_rate": 0.1 / epoch})
        _, axes = history.plot(tmp_path / "curves.png").axes
        assert [line.get_ydata().tolist() for line in axes.lines] == [[0.1, 0.05]]

    @pytest.mark.parametrize("name", ["loss", "accuracy"])
    def test_the_best_epoch_is_marked(self, history, name):
        history.best_epoch = 2
        axes = drawn(history, name)
        assert list(axes.lines[-1].get_xdata()) == [2, 2]
        assert axes.get_legend().get_texts()[-1].get_text() == "best: epoch 2"

    @pytest.mark.parametrize(
        ("losses", "scale"),
        [([1, 0.02], "log"), ([1, 0.021], "linear"), ([1, 0], "linear"), ([1, -0.001], "linear"), ([5], "linear"),
         ([1, math.nan, 0.01], "log"), ([math.nan], "linear"), ([[1, 3], [2, 0.01]], "log")],
    )  # fmt: skip
    def test_a_wide_range_has_a_logarithmic_scale(self, losses, scale):
        history = History()
        for epoch, loss in enumerate(losses, 1):
            accuracy = [1e-6 / epoch] * 2 if isinstance(loss, list) else 1e-6 / epoch
            history.append({"epoch": epoch, "loss": loss, "accuracy": accuracy, "val_loss": loss})
        assert drawn(history, "loss").get_yscale() == scale
        assert drawn(history, "accuracy").get_yscale() == "linear"

    @pytest.mark.parametrize("rates", [[0.1, 0.1, 0.1], [0.1, 0.05, 0.1]])
    def test_a_learning_rate_that_changed_is_drawn(self, rates, tmp_path):
        history = History()
        for epoch, rate in enumerate(rates, 1):
            history.append({"epoch": epoch, "loss": 0.5, "learning_rate": rate})
        figure = history.plot(tmp_path / "curves.png")
        assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "learning rate"][: len(set(rates))]
        assert figure.axes[-1].lines[0].get_ydata().tolist() == rates or len(set(rates)) == 1

    @pytest.mark.parametrize(("epochs", "between"), [(1, 1), (3, 1), (9, 1), (60, 10), (1000, 200)])
    def test_ticks_are_whole_epochs(self, epochs, between):
        history = History()
        history.rows = [{"epoch": epoch, "loss": 0.5} for epoch in range(1, epochs + 1)]
        ticks = drawn(history, "loss").get_xticks()
        assert (ticks % between == 0).all() and (np.diff(ticks) == between).all()

    def test_a_file_needs_no_screen(self, history, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it would now fail
        history.plot(tmp_path / "curves.png")

    def test_on_screen_it_is_a_figure_of_pyplot(self, history):
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot

        figure = history.plot()
        assert pyplot.fignum_exists(figure.number)
        pyplot.close(figure)

    def test_in_a_notebook_it_is_shown_once(self, history, monkeypatch):
        from matplotlib import pyplot

        pyplot.switch_backend("agg")
        monkeypatch.setattr(pyplot, "get_backend", lambda: "inline")
        history.plot()
        assert pyplot.get_fignums() == []  # what is open at a cell's end is shown besides the cell's value

    @pytest.mark.parametrize("name", ["missing/curves.png", "curves.nonsense"])
    def test_an_image_that_cannot_be_written(self, history, tmp_path, name):
        with pytest.raises(InputError, match="cannot write the curves to"):
            history.plot(tmp_path / name)


def test_no_epochs_no_curves(tmp_path):
    with pytest.raises(InputError, match="no epochs to draw"):
        History().plot(tmp_path / "curves.png")


def test_without_matplotlib_the_extra_is_named(history, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'gpu-backprop\[plot\]'"):
        history.plot(tmp_path / "curves.png")


def test_a_csv_that_cannot_be_written_is_an_error_and_leaves_the_older_one(history, tmp_path, monkeypatch):
    path = tmp_path / "history.csv"
    history.to_csv(path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="cannot write '.*history.csv': No space left on device; give a path"):
        history.to_csv(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["history.csv"]


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_curves_appear_whole_and_keep_their_permissions(history, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    path = tmp_path / "curves.png"
    path.write_bytes(b"older")
    path.chmod(0o600)
    history.plot(path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_mode & 0o777 == 0o600
    history.plot(tmp_path / "plain")
    assert sorted(os.listdir(tmp_path)) == ["curves.png", "plain.png"]
    with pytest.raises(InputError, match="cannot write the curves"):
        history.plot(tmp_path / "curves.nothing")
    assert sorted(os.listdir(tmp_path)) == ["curves.png", "plain.png"]
