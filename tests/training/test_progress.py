"""Progress: lines that stay, above a bar in a terminal; a bar alone in a notebook; or nothing."""

from __future__ import annotations

import io
import itertools
import re
import sys
from types import ModuleType, SimpleNamespace

import pytest
from rich.console import Console

from gpu_backprop.training import progress
from gpu_backprop.training.epoch_table import HEAD_EVERY
from gpu_backprop.training.history import History, describe_row
from gpu_backprop.training.progress import BarProgress, LineProgress, NotebookProgress, Progress, open_progress

HEAD = "epoch       loss   accuracy   val_loss  val_accuracy    seconds  samples/s"


def row(epoch: int) -> dict[str, float]:
    return {
        "epoch": epoch,
        "loss": 1 / epoch,
        "accuracy": 0.5,
        "val_loss": 0.25 + abs(3 - epoch),
        "val_accuracy": 0.75,
        "seconds": 2.0,
        "samples_per_second": 54321.0,
    }


def run(shown: Progress, history: History, epochs: int) -> None:
    """Does what fit does."""
    with shown:
        for epoch in range(len(history) + 1, len(history) + epochs + 1):
            shown.advance(100)
            history.append(row(epoch))
            shown.epoch(history[-1])


def numbers(lines: list[str]) -> list[int]:
    """The epochs that have a line."""
    found = [re.match(r" *(\d+)/", line) for line in lines]
    return [int(match[1]) for match in found if match]


def plain(text: str) -> list[str]:
    """The lines of what a terminal was sent."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n").split("\n")


def test_silence(capsys):
    run(open_progress(False, 3, 100, History()), History(), 3)
    assert capsys.readouterr() == ("", "")


def test_no_terminal_gets_a_line_an_epoch(capsys):
    history = History()
    run(open_progress(True, 4, 100, history), history, 4)
    assert capsys.readouterr().out.splitlines() == [
        HEAD,
        "  1/4     1.0000     0.5000     2.2500        0.7500       2.00     54,321 *",
        "  2/4     0.5000     0.5000     1.2500        0.7500       2.00     54,321 *",
        "  3/4     0.3333     0.5000     0.2500        0.7500       2.00     54,321 *",
        "  4/4     0.2500     0.5000     1.2500        0.7500       2.00     54,321",
        "* best: epoch 3, val_loss 0.2500, val_accuracy 0.7500",
    ]


def test_colours_in_a_log_are_no_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert type(open_progress(True, 3, 100, History())) is LineProgress


def test_a_terminal_without_cursor_control_gets_lines_as_wide_as_it_is(terminal, monkeypatch):
    output, history = terminal(60), History()
    monkeypatch.setenv("TERM", "dumb")
    shown = open_progress(True, 4, 100, history)
    assert type(shown) is LineProgress
    run(shown, history, 4)
    lines = output.getvalue().splitlines()
    assert lines[0] == "epoch       loss   val_loss  val_accuracy  samples/s"
    assert len({len(line.removesuffix(" *")) for line in lines[:-1]}) == 1


@pytest.mark.parametrize(
    ("epochs", "shown"),
    [
        (1, [1]),
        (200, list(range(1, 201))),
        (201, [1, *range(2, 202, 2), 201]),
        (777, [1, *range(5, 780, 5), 777]),
        (100_000, [1, *range(500, 100_001, 500)]),
    ],
)
def test_a_very_long_log_is_thinned(capsys, monkeypatch, epochs, shown):
    monkeypatch.setattr(progress, "find_best", lambda history: 1)  # which takes long of many epochs
    monkeypatch.setattr(progress, "describe_best", lambda history: "1")
    history = History()
    run(LineProgress(epochs, history), history, epochs)
    lines = capsys.readouterr().out.splitlines()
    assert numbers(lines) == shown
    assert sum(line.lstrip().startswith("epoch") for line in lines) == -(-len(shown) // HEAD_EVERY)


def test_a_further_run_counts_on(capsys):
    history = History()
    run(LineProgress(9, history), history, 9)
    capsys.readouterr()
    run(open_progress(True, 2, 100, history), history, 2)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:3]] == ["10/11", "11/11"]


def test_slow_epochs_get_a_line_a_minute(capsys, monkeypatch):
    clock = iter(range(0, 10**6, 61))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    history = History()
    run(LineProgress(1000, history), history, 10)
    assert numbers(capsys.readouterr().out.splitlines()) == list(range(1, 11))


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_that_ends_early_shows_its_last_epoch(capsys, fails):
    history = History()
    with pytest.raises(ZeroDivisionError) if fails else open_progress(False, 1, 1, history):
        shown = LineProgress(1000, history)
        with shown:
            for epoch in range(1, 8):
                history.append(row(epoch))
                shown.epoch(history[-1])
            if fails:
                raise ZeroDivisionError
    *_, last, best = capsys.readouterr().out.splitlines()
    assert last.startswith("   7/1000 ") and best.startswith("* best: epoch 3,")


def test_an_epoch_whose_callback_fails_is_shown(capsys):
    history = History()
    with LineProgress(3, history):
        history.append(row(1))
    assert numbers(capsys.readouterr().out.splitlines()) == [1]


def test_the_best_epoch_of_early_stopping_goes_before(capsys):
    history = History()
    history.best_epoch = 1
    run(LineProgress(3, history), history, 3)
    lines = capsys.readouterr().out.splitlines()
    assert [line.endswith("*") for line in lines[1:4]] == [True, False, False]
    assert lines[-1].startswith("* best: epoch 1, val_loss 2.2500")


def test_without_validation_no_epoch_is_marked(capsys):
    history = History()
    with LineProgress(2, history) as shown:
        for epoch in (1, 2):
            history.append({"epoch": epoch, "loss": 1 / epoch})
            shown.epoch(history[-1])
    assert "*" not in capsys.readouterr().out


@pytest.mark.parametrize(("width", "best"), [(40, "* best: epoch 3, val_loss 0.2500"), (20, "* best: epoch 3")])
def test_the_line_of_the_best_epoch_fits_a_terminal(terminal, monkeypatch, width, best):
    output, history = terminal(width), History()
    monkeypatch.setenv("TERM", "dumb")
    run(open_progress(True, 4, 100, history), history, 4)
    assert output.getvalue().splitlines()[-1] == best


def test_of_many_members_the_best_epochs_are_counted(capsys):
    history = History()
    with LineProgress(2, history) as shown:
        for epoch, losses in ((1, [1.0, 2.0, 3.0]), (2, [2.0, 1.0, 1.0])):
            history.append({"epoch": epoch, "val_loss": losses})
            shown.epoch(history[-1])
    assert capsys.readouterr().out.splitlines() == [
        "epoch          val_loss",
        "  1/2  1.0000 to 3.0000 *3",
        "  2/2  1.0000 to 2.0000 *2",
        "* best: epoch 1 to 2, of each member by itself",
    ]


def test_a_new_column_and_a_wider_one_get_a_head_again(capsys):
    history = History()
    with LineProgress(3, history) as shown:
        for epoch, more in ((1, {}), (2, {"val_loss": 0.5}), (3, {"val_loss": -1.5e-10})):
            history.append({"epoch": epoch, "loss": 0.5, **more})
            shown.epoch(history[-1])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines if "loss" in line][:-1] == [
        ["epoch", "loss"], ["epoch", "loss", "val_loss"], ["epoch", "loss", "val_loss"],
    ]  # fmt: skip


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_lines_and_bar_fit_a_terminal(terminal, width):
    output, history = terminal(width), History()
    shown = open_progress(True, 12, 100, history)
    assert type(shown) is BarProgress
    run(shown, history, 12)
    text = output.getvalue()
    assert text.endswith("\n\x1b[?25h")  # the cursor is shown again
    assert "\x1b[1;32m *\x1b[0m" in text
    lines = plain(text)
    assert all("…" not in line and len(line) <= width for line in lines)
    assert numbers(lines) == list(range(1, 13))
    assert any(line.startswith("* best: epoch 3,") for line in lines)
    bar = [line for line in lines if line.strip()][-1]
    assert "epoch 12/12" in bar and " in 0:00:00" in bar and len(re.findall("[━╸╺]", bar)) >= 10
    assert any("seconds" in line for line in lines) is (width >= 80)


def test_without_colour_nothing_is_coloured(terminal, monkeypatch):
    output, history = terminal(80), History()
    monkeypatch.setenv("NO_COLOR", "1")
    run(open_progress(True, 2, 100, history), history, 2)
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", output.getvalue())


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_bar_tells_how_fast_it_goes_and_how_long_it_takes(width, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    output, history = io.StringIO(), History()
    shown = BarProgress(Console(file=output, force_terminal=True, width=width), 10, 100, history)
    shown._bar.get_time = shown._bar.tasks[0]._get_time = lambda: clock[0]
    with shown:
        for _ in range(9):
            clock[0] += 10
            shown.advance(50)
            shown.step({"epoch": 1, "step": 3, "loss": 0.5})
        line = [line for line in plain(output.getvalue()) if line.strip()][-1]
        assert all(text in line for text in ("epoch 1/10", "loss 0.5000", "0.1 steps/s", "0:01:50 left"))


def test_a_name_cannot_command_the_terminal(terminal):
    output, history = terminal(120), History()
    with open_progress(True, 1, 100, history) as shown:
        history.append({"epoch": 1, "loss": 0.5, "\x1b[2J[red]": 0.5})
        shown.epoch(history[-1])
    assert "\\x1b[2J[red]" in output.getvalue() and "\x1b[2J" not in output.getvalue()


class TestNotebook:
    """Jupyter, of which a stand-in is enough here; tests/docs/test_notebook.py has a real one."""

    @pytest.fixture
    def page(self, monkeypatch):
        """What the page shows: each state of the bar, as HTML and as text."""
        states = []

        class Handle:
            def update(self, line, raw):
                assert raw is True
                states.append(line)

        def display(line, raw, display_id):
            assert raw is True and display_id is True
            states.append(line)
            return Handle()

        ipython, module = ModuleType("IPython"), ModuleType("IPython.display")
        ipython.get_ipython = lambda: SimpleNamespace(kernel=None)
        module.display = display
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        monkeypatch.setitem(sys.modules, "IPython.display", module)
        return states

    def test_a_bar_ends_as_one_line(self, page, capsys):
        history = History()
        shown = open_progress(True, 4, 100, history)
        assert type(shown) is NotebookProgress
        run(shown, history, 4)
        assert capsys.readouterr().out == ""
        assert 'value="0" max="400"' in page[0]["text/html"] and page[0]["text/plain"] == "epoch 1/4"
        assert 'value="400" max="400"' in page[-1]["text/html"]
        told = page[-1]["text/plain"].split(" · ")
        assert told[:2] == ["epoch 4/4", describe_row(history[-1])] and told[3] == "in 0:00:00"
        assert told[2].endswith(" samples/s") and told[4].startswith("best: epoch ")
        assert all(f" {state['text/plain']}</div>" in state["text/html"] for state in page)

    def test_it_tells_how_fast_it_goes_and_how_long_it_takes(self, page, monkeypatch):
        clock = [0.0]
        monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
        with open_progress(True, 10, 100, History()) as shown:
            clock[0] = 10.0
            shown.step({"epoch": 1, "step": 3, "loss": 0.5})
            shown.advance(50)
            assert page[-1]["text/plain"] == "epoch 1/10 · loss 0.5000 · 5 samples/s · 0:03:10 left"

    def test_it_looks_seldom_however_often_it_is_told(self, page, monkeypatch):
        clock = itertools.count()
        monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock) / 1000)
        with open_progress(True, 1, 10_000, History()) as shown:
            for _ in range(1000):
                shown.advance(10)
        assert len(page) == 1 + 5 + 1

    def test_a_run_that_fails_or_goes_on_tells_what_was_done(self, page):
        history = History()
        history.append({"epoch": 1, "loss": 0.25})
        with pytest.raises(ZeroDivisionError), open_progress(True, 4, 100, history):
            raise ZeroDivisionError
        assert page[-1]["text/plain"].startswith("epoch 2/5 · 0 samples/s")

    def test_a_name_is_no_element(self, page):
        history = History()
        with open_progress(True, 1, 100, history):
            history.append({"epoch": 1, "<script>\x1b": 0.5})
        assert "&lt;script&gt;\\x1b 0.5" in page[-1]["text/html"] and "\x1b" not in page[-1]["text/plain"]


def test_a_bar_lets_the_cursor_go_when_training_fails(terminal):
    output = terminal(100)
    shown = open_progress(True, 12, 100, History())
    with pytest.raises(ZeroDivisionError), shown:
        shown.advance(100)
        raise ZeroDivisionError
    assert output.getvalue().endswith("\x1b[?25h")


def test_a_bar_looks_seldom_however_often_it_is_told(monkeypatch):
    console = Console(file=io.StringIO(), force_terminal=True)
    shown = BarProgress(console, 1, 10_000, History())
    looks = []
    monkeypatch.setattr(shown._bar, "update", lambda *_, **told: looks.append(told.get("completed")))
    monkeypatch.setattr(progress.time, "monotonic", iter([0.001 * count for count in range(1000)]).__next__)
    for _ in range(1000):
        shown.advance(10)
    assert len(looks) == 2 * 10
    assert looks[-2] > 9000
