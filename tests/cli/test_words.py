"""The command line's words: readable whatever data are called, as wide as a terminal, and an answer to near misses."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest

from gpu_backprop.cli import main
from gpu_backprop.commands import doctor as doctor_command
from gpu_backprop.report import confusion_text

WIDTHS = [60, 80, 100, 120, 200]
HELPED = ["train", "search", "evaluate", "predict", "export", "check", "explain", "doctor"]
HIDDEN = "\x1b[31mred\x1b[0m", "[red]x[/red]", "[/]", "\u202egnp.exe"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def screen(monkeypatch: pytest.MonkeyPatch, width: int, *argv: str) -> str:
    """What a terminal of so many columns is sent by a command, standard error included."""
    for name in ("TTY_COMPATIBLE", "TTY_INTERACTIVE", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(width))
    stream = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", stream)
        patch.setattr("sys.stderr", stream)
        with suppress(SystemExit):
            main(argv)
    return stream.getvalue()


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line that says what cannot be understood."""
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def write(path: str, header: list[str], rows: list[list[object]]) -> str:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run on classes with hostile names, and one on twelve classes with long ones, each with its data."""
    folder = tmp_path_factory.mktemp("words")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        generator = np.random.default_rng(0)
        rows = [
            [i % 4 + generator.normal(0, 0.1), "plain words" if i % 9 else HIDDEN[0], HIDDEN[i % 4]] for i in range(80)
        ]
        write(
            "hidden\x1b[1m.csv",
            ["length of a petal in millimetres, measured along its middle line", "co\x1b[2Jlour", "kind\u202e"],
            rows,
        )
        names = [f"a class {'of many words' if i % 2 else 'x'} {i}" for i in range(12)]
        write("many.csv", ["a", "b", "animal"], [[i % 12, i % 5, names[i % 12]] for i in range(240)])
        train = ["train", "--epochs", "2", "--layers", "4", "--quiet"]
        assert main([*train, "hidden\x1b[1m.csv", "--target", "kind\u202e", "--out", "hidden"]) == 0
        assert main([*train, "many.csv", "--target", "animal", "--out", "many"]) == 0
    return folder


@pytest.fixture(autouse=True)
def working_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)


class TestHiddenCharacters:
    """Nothing that data or options are called reaches a terminal raw."""

    @pytest.mark.parametrize(
        "argv",
        [
            ("train", "hidden\x1b[1m.csv", "--target", "kind\u202e", "--epochs", "2", "--out", "again", "--overwrite"),
            ("train", "hidden\x1b[1m.csv", "--target", "none\x1b[1m"),
            ("train", "hidden\x1b[1m.csv"),
            ("train", "no\x1b[1m\u202e.csv", "--target", "y"),
            ("train", "--loss", "\x1b[31mred"),
            ("train", "--device", "\x1b[31mred"),
            ("train", "--layers", "\x1b[31mred"),
            ("train", "--out", "\x1b[31mred\0"),
            ("train", "--\x1b[31mred"),
            ("\x1b[31mred",),
            ("evaluate", "hidden", "hidden\x1b[1m.csv"),
            ("evaluate", "hidden\x1b[1m", "hidden\x1b[1m.csv"),
            ("evaluate", "hidden", "many.csv"),
            ("check", "hidden", "hidden\x1b[1m.csv", "--rows", "2"),
            ("explain", "hidden", "hidden\x1b[1m.csv"),
            ("predict", "hidden", "hidden\x1b[1m.csv"),
            ("predict", "hidden", "hidden\x1b[1m.csv", "--output", "hidden\x1b[1m.csv"),
        ],
        ids=lambda argv: " ".join(argv).encode("unicode_escape").decode(),
    )
    def test_in_a_terminal(self, monkeypatch, argv):
        text = screen(monkeypatch, 80, *argv)
        assert text
        kept = {code for code in ESCAPES.findall(text) if not re.fullmatch(r"\x1b\[(\?25[lh]|2K|1A|[0-9;]*m)", code)}
        assert not kept and "\u202e" not in text
        assert not re.search(r"\x1b\[(31|1|2)m(?!\S* )", text) or "━" in text  # colours are the bar's own
        assert "\x1b[31mred" not in text

    def test_in_a_log(self, capsys):
        main(["train", "hidden\x1b[1m.csv", "--target", "kind\u202e", "--epochs", "1", "--out", "log", "--overwrite"])
        captured = capsys.readouterr()
        for text in captured:
            assert not {"\x1b", "\u202e"} & set(text)
        assert r"\x1b[31mred\x1b[0m (20), [/] (20), [red]x[/red] (20), \u202egnp.exe (20)" in captured.out

    def test_predictions_in_a_pipe_are_data(self):
        command = [sys.executable, "-m", "gpu_backprop", "predict", "hidden", "hidden\x1b[1m.csv"]
        done = subprocess.run(command, capture_output=True, check=True)
        header = next(csv.reader(io.StringIO(done.stdout.decode())))
        assert header == ["prediction", *sorted(HIDDEN)]
        assert b"\x1b" not in done.stderr


class TestWidth:
    """No line of ours is wider than the terminal, and no word is fitted."""

    @pytest.mark.parametrize("width", WIDTHS)
    @pytest.mark.parametrize(
        "argv",
        [
            *[(command, "--help") for command in HELPED],
            ("--help",),
            ("train", "many.csv", "--target", "animal", "--epochs", "3", "--out", "again", "--overwrite"),
            ("train", "many.csv"),
            ("evaluate", "many", "many.csv"),
            ("check", "many", "many.csv", "--rows", "2"),
            ("explain",),
            ("explain", "many", "many.csv"),
        ],
        ids=" ".join,
    )
    def test_lines_fit(self, monkeypatch, width, argv):
        text = ESCAPES.sub("", screen(monkeypatch, width, *argv)).replace("\r", "\n")
        assert [line for line in text.split("\n") if len(line) > width] == []

    @pytest.mark.parametrize("width", WIDTHS)
    def test_doctor(self, monkeypatch, width):
        monkeypatch.setattr(doctor_command, "examine_cuda", lambda index: iter(()))
        text = screen(monkeypatch, width, "doctor", "--device", "cpu")
        assert max(map(len, text.split("\n"))) <= width
        folded = [line for line in text.split("\n\n")[0].split("\n") if not line[:14].strip()]
        assert all(line.startswith(" " * 19) for line in folded)  # under what was found

    @pytest.mark.parametrize("command", HELPED)
    def test_help_says_the_same_at_any_width(self, monkeypatch, command):
        def words(width: int) -> list[str]:
            return sorted(screen(monkeypatch, width, command, "--help").replace("\\\n", "").split())

        assert words(60) == words(200)

    def test_an_example_that_does_not_fit_stays_one_command(self, monkeypatch):
        text = screen(monkeypatch, 60, "train", "--help")
        assert "\n  # the digits: seconds on a CPU\n  gpu-backprop train\n" in text
        assert "\n  gpu-backprop train people.csv --target pay --ignore id \\\n      --impute mean\n" in text

    def test_many_classes_are_numbered_and_then_their_mistakes_told(self, monkeypatch):
        assert " = 12 " in screen(monkeypatch, 80, "evaluate", "many", "many.csv")
        assert "the most frequent mistakes:" in screen(monkeypatch, 60, "evaluate", "many", "many.csv")
        wide = screen(monkeypatch, 300, "evaluate", "many", "many.csv")
        assert " = 12 " not in wide and "true" in wide

    def test_numbered_columns(self):
        matrix = np.array([[5, 0], [1, 7]])
        assert confusion_text(matrix, ["long name", "longer name"], 40).splitlines() == [
            "           true  1  2   recall",
            "  long name = 1  5  .    1.000",
            "longer name = 2  1  7    0.875",
        ]

    @pytest.mark.parametrize("width", WIDTHS)
    def test_the_table_and_the_bar_below_it_fit(self, monkeypatch, width):
        text = screen(
            monkeypatch,
            width,
            "train",
            "many.csv",
            "--target",
            "animal",
            "--out",
            "again",
            "--overwrite",
            "--epochs",
            "4",
        )
        lines = ESCAPES.sub("", text).replace("\r", "\n").split("\n")
        bars = [line for line in lines if re.match(r". *epoch \d", line)]
        table = [line for line in lines if re.match(r"epoch  | +\d/4 ", line)]
        assert bars and len(table) == 5
        assert all("…" not in line and len(line) <= width for line in [*bars, *table])
        assert all(len(re.findall("[━╸╺]", bar)) >= 10 for bar in bars)
        assert {"epoch", "loss", "val_loss", "val_accuracy", "samples/s"} <= set(table[0].split())


class TestNearMisses:
    """What other programs call things, and other ways of writing, get an answer that names ours."""

    @pytest.mark.parametrize(
        ("argv", "answer"),
        [
            (("train", "many.csv", "--lr", "0.1"), "--lr 0.1; did you mean '--learning-rate'?"),
            (("train", "many.csv", "--lr=0.1"), "--lr=0.1; did you mean '--learning-rate'?"),
            (("train", "--hidden", "64"), "did you mean '--layers'?"),
            (("train", "--max-iter", "64"), "did you mean '--epochs'?"),
            (("train", "--batch", "64"), "did you mean '--batch-size'?"),
            (("train", "--gpu"), "did you mean '--device'?"),
            (("train", "-e", "5"), "did you mean '--epochs'?"),
            (("train", "-o", "5"), "did you mean '--out'?"),
            (("train", "many.csv", "--layers", "64", "32"), "write --layers 64,32"),
            (("train", "--layers", "64", "32", "16"), "write --layers 64,32,16"),
            (("train", "--activation", "tanh", "relu"), "write --activation tanh,relu"),
            (("train", "--layers", "64,", "32"), "give units as in 300,100, without spaces, or none"),
            (("train", "--layers", "64x32"), "give units as in 300,100, without spaces, or none"),
            (("train", "many.csv", "animal"), "animal; to learn this column: --target animal"),
            (("train", "many.csv", "an animal"), "to learn this column: --target 'an animal'"),
            (("predict", "many", "many.csv", "out.csv"), "out.csv; to write to this file: --output out.csv"),
            (("train", "--loss", "mse"), "unknown loss 'mse'. Did you mean 'mean_squared_error'?"),
            (("train", "--optimizer", "SGD"), "unknown optimizer 'SGD'. Did you mean 'sgd'?"),
            (("train", "--activation", "relu,swish"), "unknown activation 'swish'. Did you mean 'silu'?"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
    )
    def test_an_answer(self, capsys, argv, answer):
        assert answer in refusal(capsys, *argv)

    def test_a_layer_and_a_file_that_is_called_like_one(self, capsys):
        write("32", ["a", "b", "animal"], [[i, i % 7, "xy"[i % 2]] for i in range(40)])
        assert main(["train", "--layers", "4", "32", "--target", "animal", "--epochs", "1", "--out", "number"]) == 0


class TestCounts:
    """What is counted agrees with what is shown."""

    def test_inputs_are_those_of_the_network(self, capsys):
        rows = [[i, f"town {i}", "xy"[i % 2]] for i in range(60)]
        write("towns.csv", ["a", "town", "kind"], rows)
        words = ["--recipe", "plain", "--epochs", "1", "--out", "towns", "--layers", "3"]
        assert main(["train", "towns.csv", "--target", "kind", *words]) == 0
        output = capsys.readouterr().out
        inputs, categories = re.search(r"^inputs: (\d+), from a, town \((\d+) categories\)$", output, re.M).groups()
        assert re.search(rf"^1 +Dense\(3, 'relu'\) +{inputs} ", output, re.M)
        assert int(inputs) == int(categories) + 1 == 48 + 1

    @pytest.mark.parametrize(
        ("rows", "conclusion"),
        [
            ([[i % 2, ["no", "yes"][i % 2]] for i in range(200)], ": the network does better"),
            (
                [[0, "yes" if i % 10 == 0 else "no"] for i in range(200)],
                "no better than chance allows for with 40 rows",
            ),
        ],
    )
    def test_what_a_baseline_means_is_said(self, capsys, rows, conclusion):
        write("baseline.csv", ["a", "kind"], rows)
        options = "--target", "kind", "--epochs", "40", "--out", "base", "--overwrite", "--dropout", "0"
        assert main(["train", "baseline.csv", *options]) == 0
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("always answering")]
        assert conclusion in line
