"""The command line: what it writes and prints, what it refuses, and how it ends."""

from __future__ import annotations

import csv
import json
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.cli import main
from gpu_backprop.commands import sources
from gpu_backprop.data import load_digits, stratified_split

FILES = {"model.safetensors", "history.csv", "history.jsonl", "curves.png", "report.html", "settings.json", "split.npy"}


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    """Every test has an empty folder of its own to write in."""
    monkeypatch.chdir(tmp_path)


def train(*options: str) -> int:
    """A short run."""
    return main(["train", "--epochs", "2", "--layers", "16", *options])


def usage_error(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line that says what cannot be understood."""
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    return captured.err.rstrip("\n")


class TestTrain:
    """`gpu-backprop train` on the bundled digits."""

    def test_everything_is_said_and_written(self, capsys, tmp_path):
        pytest.importorskip("matplotlib", reason="matplotlib is not installed")
        assert train() == 0
        output = capsys.readouterr().out
        assert re.search(r"on (cpu|cuda:0) \(auto: .+\)$", output, re.MULTILINE)
        assert re.search(r"^epoch +loss +accuracy +val_loss +val_accuracy +seconds +samples/s$", output, re.MULTILINE)
        assert re.search(r"^  2/2( +[0-9.,]+){6} \*$", output, re.MULTILINE)
        assert output.count("relu") == 2  # in the network's summary, and in the recipe
        assert re.search(r"^ +true( +\d){10}   recall$", output, re.MULTILINE)
        assert re.search(r"^test accuracy: 0\.\d{4}$", output, re.MULTILINE)
        folder = tmp_path / "runs" / "digits-001"
        assert f"written to {folder.relative_to(tmp_path)}: " in output
        assert {path.name for path in folder.iterdir()} == FILES

    def test_the_accuracy_is_that_of_the_written_model(self, capsys):
        train("--out", "run", "--seed", "3", "--quiet")
        x, labels = load_digits()
        _, held_out = stratified_split(labels, 0.2, seed=3)
        predicted = gb.load("run/model.safetensors").predict(x[held_out] / 16).argmax(axis=1)
        assert f"test accuracy: {(predicted == labels[held_out]).mean():.4f}" in capsys.readouterr().out

    @pytest.mark.parametrize("quiet", [[], ["--quiet"]])
    def test_what_is_logged_while_it_trains_is_shown(self, quiet, capsys, monkeypatch):
        fit = gb.Trainer.fit

        def logged(*args, **options):
            logging.getLogger("gpu_backprop").info("training data: %d rows", 3)
            return fit(*args, **options)

        monkeypatch.setattr(gb.Trainer, "fit", logged)
        train("--out", "run", *quiet)
        logging.getLogger("gpu_backprop").info("afterwards")
        assert ("training data: 3 rows\n" in capsys.readouterr().out) is (not quiet)
        assert not logging.getLogger("gpu_backprop").handlers

    def test_quiet_prints_the_result_only(self, capsys):
        train("--quiet", "--out", "run")
        assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [
            "test accuracy",
            "test log loss",
            "test calibration error",
            "written to run",
        ]

    def test_the_history_has_a_line_an_epoch(self, tmp_path):
        train("--out", "run")
        with open("run/history.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["epoch"] for row in rows] == ["1", "2"]
        assert float(rows[1]["loss"]) < float(rows[0]["loss"])
        assert 0 < float(rows[1]["val_accuracy"]) <= 1

    def test_the_history_is_there_as_json_lines_too(self):
        train("--out", "run")
        with open("run/history.csv", newline="") as file:
            rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
        assert [json.loads(line) for line in Path("run/history.jsonl").read_text().splitlines()] == rows

    def test_the_report_has_the_command_and_the_result(self, capsys):
        train("--out", "run", "--seed", "3")
        output, page = capsys.readouterr().out, Path("run/report.html").read_text(encoding="utf-8")
        accuracy = re.search(r"^test accuracy: 0\.\d{4}$", output, re.MULTILINE)[0]
        assert "gpu-backprop train" in page and "--out run --seed 3" in page
        assert f"<p>{accuracy}</p>" in page and "always answering" in page
        assert str(Path.cwd()) not in page and str(Path.home()) not in page

    @pytest.mark.parametrize(
        ("options", "of_rate"),
        [
            (("--schedule", "linear"), [1 - 44 / 90, 1 - 89 / 90]),
            (("--schedule", "linear", "--warmup", "0.25"), [1 - 22 / 68, 1 - 67 / 68]),
            (("--warmup", "0.5"), [45 / 46, 1.0]),
            (("--schedule", "plateau"), [1.0, 1.0]),
            (("--schedule", "constant"), None),
        ],
    )
    def test_the_learning_rate_follows_a_schedule(self, options, of_rate):
        """Of 90 steps in two epochs, the last ones."""
        assert train("--out", "run", "--quiet", "--no-early-stopping", *options) == 0
        with open("run/history.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        if of_rate is None:
            assert "learning_rate" not in rows[0]
        else:
            np.testing.assert_allclose([float(row["learning_rate"]) for row in rows], np.multiply(of_rate, 0.003))

    def test_tensorboard_gets_a_file_of_events(self, capsys, monkeypatch):
        pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
        assert train("--out", "run", "--tensorboard", "events") == 0
        assert len(list(Path("events").iterdir())) == 1
        monkeypatch.setitem(sys.modules, "tensorboardX", None)
        assert train("--out", "another", "--tensorboard", "events") == 1
        assert "pip install 'gpu-backprop[tensorboard]'" in capsys.readouterr().err and not Path("another").exists()

    def test_a_seed_gives_the_same_model_again(self, tmp_path):
        for folder, seed in (("a", "1"), ("b", "1"), ("c", "2")):
            train("--out", folder, "--seed", seed)
        a, b, c = (gb.load(f"{folder}/model.safetensors").parameters for folder in "abc")
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)

    def test_options_shape_the_network(self):
        train("--out", "run", "--layers", "12, 8", "--dtype", "float64", "--dropout", "0")
        net = gb.load("run/model.safetensors")
        assert net.dtype == np.float64
        assert [layer.weight.shape for layer in net.layers if hasattr(layer, "weight")] == [(64, 12), (12, 8), (8, 10)]

    def test_options_shape_the_steps(self, monkeypatch):
        made, build = [], gb.Trainer.__init__
        monkeypatch.setattr(gb.Trainer, "__init__", lambda self, *a, **b: (made.append(self), build(self, *a, **b))[1])
        options = ("--clip-norm", "0.5", "--average", "0.9", "--accumulate", "2", "--max-norm", "1.5")
        train("--out", "run", "--layers", "12,8", *options)
        assert [(t.clip_norm, t.average, t.accumulate) for t in made] == [(0.5, 0.9, 2)]
        layers = [layer for layer in gb.load("run/model.safetensors").layers if hasattr(layer, "max_norm")]
        assert [layer.max_norm for layer in layers] == [1.5, 1.5, None]
        assert max(np.linalg.norm(layer.weight, axis=0).max() for layer in layers[:2]) < 1.5001

    def test_without_matplotlib_one_line_says_so(self, capsys, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        assert train("--out", "run") == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if "curves.png" in line]
        checkout = "(in a checkout: pip install -e '.[plot]')"
        assert lines == [f"no curves.png: drawing curves needs matplotlib: pip install 'gpu-backprop[plot]' {checkout}"]
        assert {path.name for path in (tmp_path / "run").iterdir()} == FILES - {"curves.png"}


class TestFolder:
    """Where a run is written, and that no other run is lost for it."""

    def test_each_run_has_a_new_folder(self, tmp_path):
        train("--quiet")
        train("--quiet")
        assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["digits-001", "digits-002"]

    @pytest.mark.parametrize("name", sorted(FILES))
    def test_a_folder_with_a_run_is_refused(self, capsys, tmp_path, name):
        (tmp_path / name).write_text("precious")
        assert train("--out", ".") == 1
        captured = capsys.readouterr()
        assert captured.err == (
            f"gpu-backprop: '.' already holds a run ({name}); choose another --out, or give --overwrite to replace it\n"
        )
        assert captured.out == ""
        assert (tmp_path / name).read_text() == "precious"

    def test_overwrite_replaces_a_run_and_nothing_else(self, tmp_path):
        for name in (*FILES, "notes.txt"):
            (tmp_path / name).write_text("old")
        assert train("--out", ".", "--overwrite") == 0
        assert {path.name for path in tmp_path.iterdir() if path.read_bytes() == b"old"} == {"notes.txt"}

    def test_a_folder_with_other_files_is_fine(self, tmp_path):
        (tmp_path / "notes.txt").touch()
        assert train("--out", ".") == 0

    @pytest.mark.parametrize("options", [("--out", "file"), ("--out", "file/run"), ()])
    def test_a_folder_that_cannot_be_written_is_found_before_training(self, capsys, tmp_path, monkeypatch, options):
        (tmp_path / "file").touch()
        (tmp_path / "runs").touch()
        monkeypatch.setattr(gb.Trainer, "fit", lambda *_, **__: pytest.fail("trained"))
        assert train(*options) == 1
        error = capsys.readouterr().err
        assert re.fullmatch(r"gpu-backprop: cannot write in '.*' \(.*\); choose a folder with --out\n", error)

    def test_a_device_that_is_not_there_leaves_no_folder(self, capsys, tmp_path):
        if gb.Network(1, [gb.Dense(1)]).device.name != "cpu":
            pytest.skip("there is a CUDA device")
        assert train("--device", "cuda:7") == 1
        assert capsys.readouterr().err.startswith("gpu-backprop: device 'cuda:7' cannot be used: ")
        assert list(tmp_path.iterdir()) == []


class TestEndings:
    """Runs that do not end as planned."""

    def test_a_loss_that_diverges_keeps_the_last_finite_parameters(self, capsys):
        assert train("--out", "run", "--learning-rate", "1e30") == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert error.startswith("gpu-backprop: ")
        assert re.search(r"epoch \d+.* step \d+.*finite parameters are in run.model\.safetensors\.$", error.strip())
        assert np.isfinite(gb.load("run/model.safetensors").parameters).all()

    def test_debug_shows_where_an_error_came_from(self, tmp_path):
        (tmp_path / "model.safetensors").touch()
        with pytest.raises(gb.InputError, match="already holds a run"):
            train("--out", ".", "--debug")

    def test_a_mistake_of_ours_is_one_line_too(self, capsys, monkeypatch):
        monkeypatch.setattr(sources, "load_digits", lambda: 1 / 0)
        assert train() == 1
        assert capsys.readouterr().err == (
            "gpu-backprop: unexpected ZeroDivisionError: division by zero (--debug shows where it came from)\n"
        )
        with pytest.raises(ZeroDivisionError):
            train("--debug")

    def test_ctrl_c_before_training(self, capsys, monkeypatch):
        monkeypatch.setattr(sources, "load_digits", lambda: signal.raise_signal(signal.SIGINT))
        assert train() == 130
        assert capsys.readouterr().err == "gpu-backprop: interrupted\n"


class TestUsage:
    """Options that can't be understood: exit code 2, and a line that says what is accepted."""

    @pytest.mark.parametrize(
        ("option", "value", "accepted"),
        [
            ("--epochs", "0", "whole number of at least 1"),
            ("--epochs", "2.5", "whole number of at least 1"),
            ("--batch-size", "-3", "whole number of at least 1"),
            ("--learning-rate", "0", "number above 0"),
            ("--learning-rate", "nan", "number above 0"),
            ("--learning-rate", "inf", "number above 0"),
            ("--learning-rate", "fast", "number above 0"),
            ("--dropout", "1", "from 0 to below 1"),
            ("--l2", "-1", "number of at least 0"),
            ("--weight-decay", "inf", "number of at least 0"),
            ("--clip-value", "0", "number above 0"),
            ("--max-norm", "0", "number above 0"),
            ("--clip-norm", "-1", "number above 0"),
            ("--average", "1", "from 0 to below 1"),
            ("--accumulate", "0", "whole number of at least 1"),
            ("--seed", "-1", "whole number of at least 0"),
            ("--layers", "128,,64", "whole number of at least 1"),
            ("--layers", "0", "whole number of at least 1"),
            ("--device", "gpu", "known: auto, cpu, cuda"),
            ("--dtype", "float8", "float16"),
        ],
    )
    def test_a_value_that_is_not_accepted(self, capsys, tmp_path, option, value, accepted):
        message = usage_error(capsys, "train", f"{option}={value}")
        assert message.startswith("gpu-backprop train: error: ")
        assert message.endswith(" (gpu-backprop train --help)")
        assert accepted in message
        assert repr(value) in message or option == "--layers"
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "arguments",
        [
            ("train", "--out", ""),
            ("train", "--out="),
            ("train", ""),
            ("train", "a.csv", "--held-out-file", ""),
            ("predict", "run", "a.csv", "--output", ""),
            ("predict", "", "a.csv"),
            ("predict", "run", ""),
        ],
        ids=" ".join,
    )
    def test_an_empty_name(self, capsys, arguments):
        """As a variable of the shell that is not set leaves one."""
        assert "it is empty, as a variable of the shell that is not set" in usage_error(capsys, *arguments)

    def test_tf32_on_a_cpu(self, capsys, tmp_path):
        assert main(["train", "--tf32", "--device", "cpu", "--out", str(tmp_path / "run")]) == 1
        assert "tf32=True is for CUDA devices; this device is the CPU" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    def test_no_command_shows_what_there_is(self, capsys):
        assert main([]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        for command in ("train", "evaluate", "predict", "export", "check", "explain", "doctor"):
            assert re.search(rf"^ +{command} +\w+ ", captured.err, re.MULTILINE)

    def test_an_unknown_command_or_option(self, capsys):
        assert "'trian'" in usage_error(capsys, "trian")
        for given in (["--epoch", "3"], ["--epoch=3"]):
            message = usage_error(capsys, "train", *given)
            assert message.startswith(f"gpu-backprop train: error: unrecognized arguments: {given[0]}; ")
            assert "did you mean '--epochs'?" in message
            assert message.endswith(" (gpu-backprop train --help)")
        assert usage_error(capsys, "train", "a.csv", "b.csv", "--target", "y").split(": ", 2)[2] == (
            "unrecognized arguments: b.csv (gpu-backprop train --help)"
        )
        assert usage_error(capsys, "--quick").endswith("arguments: --quick (gpu-backprop --help)")

    def test_help_explains_every_option(self, capsys):
        with pytest.raises(SystemExit) as stopped:
            main(["train", "--help"])
        assert stopped.value.code == 0
        text = capsys.readouterr().out
        for option in ("--out", "--overwrite", "--epochs", "--batch-size", "--seed", "--device", "--dtype", "--layers"):
            assert option in text
        assert "--tf32" in text
        assert "examples:" in text
        assert "passes over the training rows, at most (default: the recipe's)" in " ".join(text.split())

    def test_version(self, capsys):
        with pytest.raises(SystemExit) as stopped:
            main(["--version"])
        assert stopped.value.code == 0
        assert capsys.readouterr().out == f"gpu-backprop {gb.__version__}\n"

    def test_as_a_module(self):
        done = subprocess.run([sys.executable, "-m", "gpu_backprop", "--version"], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, f"gpu-backprop {gb.__version__}\n")

    def test_a_console_that_lacks_letters_gets_question_marks(self):
        environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
        command = [sys.executable, "-m", "gpu_backprop", "train", "--help"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0
        assert "8?8 pixels" in done.stdout
