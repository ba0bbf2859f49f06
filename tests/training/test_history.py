"""History: its rows, its CSV file, also while it grows, and its curves."""

from __future__ import annotations

import csv
import os
import sys

import pytest

from gpu_backprop.backend.errors import InputError, MissingExtraError
from gpu_backprop.training.history import CsvLog, History, describe_row

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


def log_rows(log, rows):
    """Does what fit does with its rows."""
    for row in rows:
        log.history.append(row)
        log.write()


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


def test_a_log_is_on_disk_row_by_row(tmp_path):
    path = tmp_path / "history.csv"
    with CsvLog(path, History()) as log:
        assert path.exists()
        for count, row in enumerate(ROWS, start=1):
            log_rows(log, [row])
            assert len(read(path)) == count


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="there is no /dev/fd")
def test_a_log_is_added_to_an_open_file(tmp_path):
    """As /dev/stdout is where output is added to a file."""
    path = tmp_path / "history.csv"
    path.write_bytes(b"older\n")
    with open(path, "ab") as file, CsvLog(f"/dev/fd/{file.fileno()}", History()) as log:
        log_rows(log, LATER)
    again = b"epoch,loss,val_loss\n1,0.7,\n2,0.5,0.6\n"
    assert path.read_bytes() == b"older\nepoch,loss\n1,0.7\n" + again + b"3,0.4,\n"


def test_a_log_of_a_history_that_goes_on(history, tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("what stood here before")
    with CsvLog(path, history) as log:
        assert len(read(path)) == 3  # at once
        log_rows(log, [dict(ROWS[0], epoch=4)])
    assert [row["epoch"] for row in read(path)] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_new_column_replaces_the_file(tmp_path, before):
    """Whole or not at all: whoever has opened the older one still has it."""
    path, history = tmp_path / "history.csv", History()
    history.rows = LATER[:before]
    with CsvLog(path, history) as log:
        log_rows(log, LATER[before:])
        history.to_csv(tmp_path / "whole.csv")
        assert path.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["history.csv", "whole.csv"]


def test_a_new_column_that_cannot_be_written_leaves_the_older_rows(tmp_path, monkeypatch):
    path = tmp_path / "history.csv"

    def full(*_):
        raise OSError(28, "No space left on device")

    with CsvLog(path, History()) as log:
        log_rows(log, LATER[:1])
        monkeypatch.setattr("os.fsync", full)
        with pytest.warns(RuntimeWarning, match=r"cannot write '.*history.csv' any more .No space left"):
            log_rows(log, LATER[1:])
    assert path.read_bytes() == b"epoch,loss\n1,0.7\n"
    assert os.listdir(tmp_path) == ["history.csv"]


def test_a_log_keeps_its_rows_when_training_fails(tmp_path):
    path = tmp_path / "history.csv"
    with pytest.raises(ZeroDivisionError), CsvLog(path, History()) as log:
        log_rows(log, ROWS[:1])
        raise ZeroDivisionError
    assert len(read(path)) == 1


def test_no_path_no_log(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with CsvLog(None, History()) as log:
        log_rows(log, ROWS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["", "missing/history.csv", "file/history.csv"])
def test_a_log_that_cannot_be_written_says_so_at_once(where, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write '.*'.*give a path in a folder that exists"):
        CsvLog(tmp_path / where, History())


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
        loss, accuracy = ([list(line.get_ydata()) for line in axes.lines] for axes in figure.axes)
        assert loss == [history["loss"], history["val_loss"]]
        assert accuracy == [history["accuracy"], history["val_accuracy"]]

    def test_a_loss_alone(self, tmp_path):
        history = History()
        history.append({"epoch": 1, "loss": 0.5})
        figure = history.plot(tmp_path / "curves.png")
        assert [axes.get_ylabel() for axes in figure.axes] == ["loss"]
        assert figure.axes[0].lines[0].get_marker() == "o"  # a single point would be an invisible line

    def test_only_epochs_that_have_it_are_drawn(self, tmp_path):
        history = History()
        history.rows = LATER
        training, validation = history.plot(tmp_path / "curves.png").axes[0].lines
        assert (list(training.get_xdata()), list(training.get_ydata())) == ([1, 2, 3], [0.7, 0.5, 0.4])
        assert (list(validation.get_xdata()), list(validation.get_ydata())) == ([2], [0.6])
        assert (training.get_marker(), validation.get_marker()) == ("None", "o")

    def test_regression_draws_r2_of_the_validation_data(self, tmp_path):
        history = History()
        for epoch in (1, 2):
            history.append({"epoch": epoch, "loss": 0.5, "val_loss": 0.5, "val_r2": 0.9, "val_mae": 0.1})
        figure = history.plot(tmp_path / "curves.png")
        assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "r2"]

    def test_every_member_has_a_line_and_all_have_one_label(self, tmp_path):
        history = History()
        for epoch in (1, 2):
            history.append({"epoch": epoch, "loss": [0.5, 0.25, 1.0]})
        (axes,) = history.plot(tmp_path / "curves.png").axes
        assert len(axes.lines) == 3
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["training"]

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


class Full:
    """A file on a disk that is full after some bytes, which come out in two pieces."""

    name = "history.csv"

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        if not self.room:
            raise OSError(28, "No space left on device")
        some = min(len(data), self.room, max(1, len(data) // 2))
        self.room -= some
        return self.file.write(data[:some])

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [0, 10, 100])
def test_a_log_that_cannot_be_written_warns_once_and_keeps_whole_rows(tmp_path, room):
    path = tmp_path / "history.csv"
    with CsvLog(path, History()) as log:
        log._file = Full(log._file, room)
        with pytest.warns(RuntimeWarning, match="cannot write 'history.csv' any more .No space left") as caught:
            log_rows(log, ROWS * 10)
        assert len(caught) == 1
    assert {len(row) for row in read(path)} <= {6}
    assert path.read_bytes().endswith(b"\n") or path.read_bytes() == b""


def test_a_log_is_flushed_at_its_end(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr("os.fsync", flushed.append)
    with CsvLog(tmp_path / "history.csv", History()) as log:
        log_rows(log, ROWS)
        number = log._file.fileno()
    assert flushed == [number]
    with CsvLog(os.devnull, History()) as log:
        log_rows(log, LATER)
    assert len(flushed) == 1


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
