"""Progress: a bar in a terminal, lines in a log, or nothing."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from gpu_backprop.training import progress
from gpu_backprop.training.progress import BarProgress, LineProgress, Progress, open_progress


def row(epoch: int) -> dict[str, float]:
    return {
        "epoch": epoch,
        "loss": 1 / epoch,
        "accuracy": 0.5,
        "val_loss": 0.25,
        "val_accuracy": 0.75,
        "seconds": 2.0,
        "samples_per_second": 54321.0,
    }


def run(shown: Progress, epochs: int) -> None:
    with shown:
        for epoch in range(1, epochs + 1):
            shown.advance(100)
            shown.epoch(row(epoch))


def test_silence(capsys):
    run(open_progress(False, 3, 100), 3)
    assert capsys.readouterr() == ("", "")


def test_no_terminal_gets_a_line_an_epoch(capsys):
    run(open_progress(True, 3, 100), 3)
    first, _, last = capsys.readouterr().out.splitlines()
    measured = "accuracy 0.5000, val_loss 0.2500, val_accuracy 0.7500, 54,321 samples/s"
    assert first == f"epoch 1/3: loss 1.0000, {measured}"
    assert last == f"epoch 3/3: loss 0.3333, {measured}"


def test_colours_in_a_log_are_no_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(open_progress(True, 3, 100), LineProgress)


@pytest.mark.parametrize(
    ("epochs", "shown"),
    [
        (1, [1]),
        (25, list(range(1, 26))),
        (26, [1, *range(2, 27, 2)]),
        (77, [1, *range(5, 80, 5), 77]),
        (1000, [1, *range(50, 1001, 50)]),
    ],
)
def test_a_long_log_is_thinned(capsys, epochs, shown):
    run(LineProgress(epochs), epochs)
    lines = capsys.readouterr().out.splitlines()
    assert [int(re.match(r"epoch +(\d+)/", line)[1]) for line in lines] == shown


def test_a_further_run_counts_on(capsys):
    shown = open_progress(True, 2, 100, done=9)
    with shown:
        for epoch in (10, 11):
            shown.epoch(row(epoch))
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["epoch 10/11", "epoch 11/11"]


def test_slow_epochs_get_a_line_a_minute(capsys, monkeypatch):
    clock = iter(range(0, 10**6, 61))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    run(LineProgress(1000), 10)
    assert len(capsys.readouterr().out.splitlines()) == 10


def test_a_run_that_ends_early_shows_its_last_epoch(capsys):
    run(LineProgress(1000), 7)
    assert capsys.readouterr().out.splitlines()[-1].startswith("epoch    7/1000:")


def test_a_run_that_fails_shows_its_last_epoch(capsys):
    shown = LineProgress(1000)
    with pytest.raises(ZeroDivisionError), shown:
        for epoch in (1, 2, 3):
            shown.epoch(row(epoch))
        raise ZeroDivisionError
    assert capsys.readouterr().out.splitlines()[-1].startswith("epoch    3/1000:")


def test_a_terminal_gets_a_bar(terminal):
    output = terminal(100)
    shown = open_progress(True, 12, 100)
    assert isinstance(shown, BarProgress)
    run(shown, 12)
    text = output.getvalue()
    for part in ("epoch 12/12", "loss 0.0833", "val_accuracy 0.7500", "54,321 samples/s", "0:00:00"):
        assert part in text
    assert text.endswith("\n\x1b[?25h")  # the cursor is shown again
    output.truncate(0)
    with open_progress(True, 2, 100, done=12) as shown:
        shown.epoch(row(13))
    assert "epoch 13/14" in output.getvalue() and "epoch 14/14" in output.getvalue()


@pytest.mark.parametrize("metrics", [{}, {"val_accuracy": 0.9912}, {"val_accuracy": [0.5, 0.75]}], ids=len)
@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_a_bar_has_ten_characters_or_is_not_there(width, metrics):
    output = io.StringIO()
    with BarProgress(Console(file=output, force_terminal=True, width=width), 200, 100) as shown:
        for epoch in range(1, 101):
            shown.advance(100)
            shown.epoch({"epoch": epoch, "loss": 1e-5, "samples_per_second": 1234567.0, **metrics})
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.getvalue()).replace("\r", "\n").split("\n")[:-1]
    assert all("…" not in line and len(line) <= width for line in lines)
    bars = [len(re.findall("[━╸╺]", line)) for line in lines if "epoch" in line]
    assert bars and all(bar == 0 or bar >= 10 for bar in bars)
    assert ("samples/s" in lines[-1]) == (width >= 100 or (width == 80 and not metrics))
    assert bars[-1] or (width == 60 and metrics)
    assert "epoch 101/200" in lines[-1] and "loss 1.000e-05" in lines[-1]


def test_a_line_keeps_its_layout_while_a_loss_is_read_within_an_epoch():
    output = io.StringIO()
    with BarProgress(Console(file=output, force_terminal=True, width=60), 9, 100) as shown:
        shown.advance(100)
        shown.epoch(row(1))
        shown.step({"epoch": 2, "step": 3, "loss": 0.5})
    assert "━" not in output.getvalue().splitlines()[-1].rpartition("epoch")[2]


def test_a_bar_lets_the_cursor_go_when_training_fails(terminal):
    output = terminal(100)
    shown = open_progress(True, 12, 100)
    with pytest.raises(ZeroDivisionError), shown:
        shown.advance(100)
        raise ZeroDivisionError
    assert output.getvalue().endswith("\x1b[?25h")


def test_a_bar_looks_seldom_however_often_it_is_told(monkeypatch):
    console = Console(file=io.StringIO(), force_terminal=True)
    shown = BarProgress(console, 1, 10_000)
    looks = []
    monkeypatch.setattr(shown._bar, "update", lambda *_, **told: looks.append(told["completed"]))
    monkeypatch.setattr(progress.time, "monotonic", iter([0.001 * count for count in range(1000)]).__next__)
    for _ in range(1000):
        shown.advance(10)
    assert len(looks) == 10
    assert looks[-1] > 9000
