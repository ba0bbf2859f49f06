"""train --resume: a run that was stopped or killed goes on to the same network, with the options it was begun with."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.folder_lock import FolderLock
from gpu_backprop.cli import main
from gpu_backprop.commands.runs import NEW
from gpu_backprop.training.checkpoints.folder import numbered
from gpu_backprop.training.shuffling import Shuffling

SHORT = ["--epochs", "4", "--layers", "16", "--quiet"]
MODEL = "model.safetensors"


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    """Every test has an empty folder of its own to write in; curves are not drawn, nor is the disk waited for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gb.History, "plot", lambda history, path: path.write_bytes(b"curves"))
    monkeypatch.setattr("os.fsync", lambda number: None)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.replace(os.sep, "/")


def stopped(monkeypatch, epoch: int, *options: str) -> None:
    """A run that SIGTERM stops in an epoch, after its first step."""
    draw, drawn = Shuffling.draw_order, []

    def draw_order(shuffling: Shuffling, rows: int) -> object:
        drawn.append(shuffling)
        if len(drawn) == epoch:
            signal.raise_signal(signal.SIGTERM)
        return draw(shuffling, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Shuffling, "draw_order", draw_order)
        assert main(["train", *SHORT, *options]) == 143


def rows(run: str) -> list[dict[str, str]]:
    with open(Path(run) / "history.csv", newline="") as file:
        return [
            {k: v for k, v in row.items() if k not in ("seconds", "samples_per_second")} for row in csv.DictReader(file)
        ]


def flowers(name: str = "flowers.csv", number: int = 60, seed: int = 0) -> str:
    sizes = np.random.default_rng(seed).normal(np.arange(number) % 3, 0.5).round(3)
    lines = [f"{size},{'ABC'[row % 3]}\n" for row, size in enumerate(sizes)]
    Path(name).write_text("size,species\n" + "".join(lines))
    return name


def test_a_run_that_was_stopped_goes_on(capsys, monkeypatch):
    assert main(["train", *SHORT, "--out", "whole"]) == 0
    stopped(monkeypatch, 3, "--out", "run")
    assert "to go on: gpu-backprop train --resume run\n" in capsys.readouterr().out
    assert len(rows("run")) == 2
    assert main(["train", "--resume", "run"]) == 0
    assert "written to run: model.safetensors" in capsys.readouterr().out
    assert (Path("run") / MODEL).read_bytes() == (Path("whole") / MODEL).read_bytes()
    assert rows("run") == rows("whole")
    assert {path.name for path in Path("run").iterdir()} == {path.name for path in Path("whole").iterdir()}


def test_a_run_that_was_killed_goes_on(capsys):
    assert main(["train", *SHORT, "--out", "whole"]) == 0
    kill = (
        "import os, sys\nfrom gpu_backprop.cli import main\nfrom gpu_backprop.training.history import History\n"
        "append = History.append\n"
        "def dying(history, row):\n    append(history, row)\n    len(history) == 2 and os._exit(9)\n"
        "History.append = dying\nmain(sys.argv[1:])\n"
    )
    words = ["train", *SHORT, "--out", "run", "--checkpoint-every", "7steps"]
    assert subprocess.run([sys.executable, "-c", kill, *words]).returncode == 9
    assert not (Path("run") / MODEL).exists()
    assert main(["train", *SHORT, "--out", "run"]) == 1
    assert "or --resume run to finish it" in said(capsys)
    assert main(["train", "--resume", "run", "--quiet"]) == 0
    assert (Path("run") / MODEL).read_bytes() == (Path("whole") / MODEL).read_bytes()
    assert rows("run") == rows("whole")


def test_from_another_folder(capsys, monkeypatch):
    stopped(monkeypatch, 2, flowers(), "--target", "species", "--out", "run")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert main(["train", "--resume", "../run"]) == 0
    assert gb.load(f"../run/{MODEL}").classes == ["A", "B", "C"]


def test_a_run_that_was_to_replace_another(capsys, monkeypatch):
    assert main(["train", *SHORT, "--out", "run"]) == 0
    older = (Path("run") / MODEL).read_bytes()
    stopped(monkeypatch, 2, "--out", "run", "--seed", "5", "--overwrite")
    assert "to go on: gpu-backprop train --resume run/stopped-001" in capsys.readouterr().out.replace(os.sep, "/")
    shutil.copytree("run/stopped-001", "killed")
    assert main(["train", "--resume", "run/stopped-001"]) == 0
    assert gb.load(Path("run/stopped-001") / MODEL).seed == 5
    assert (Path("run") / MODEL).read_bytes() == older
    os.rename("killed", Path("run") / NEW)  # as where it was killed
    (Path("run") / NEW / MODEL).unlink()
    assert main(["train", "--resume", "run"]) == 0
    assert gb.load(Path("run") / MODEL).seed == 5
    assert not (Path("run") / NEW).exists()


def test_more_epochs(capsys, monkeypatch):
    assert main(["train", *SHORT, "--epochs", "6", "--out", "whole"]) == 0
    stopped(monkeypatch, 3, "--out", "run")
    assert main(["train", "--resume", "run", "--epochs", "6", "--quiet"]) == 0
    assert rows("run") == rows("whole")
    assert json.loads(Path("run/settings.json").read_text())["words"][-2:] == ["--epochs", "6"]


def test_fewer_epochs_than_are_done(capsys, monkeypatch):
    stopped(monkeypatch, 4, "--out", "run")
    settings = Path("run/settings.json").read_bytes()
    assert main(["train", "--resume", "run", "--epochs", "2"]) == 2
    assert "--epochs is 2, and 3 epochs of run are done: give as many at least, or leave it out" in said(capsys)
    assert Path("run/settings.json").read_bytes() == settings
    assert main(["train", "--resume", "run", "--quiet"]) == 0
    assert len(rows("run")) == 4


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--layers", "32"], "--layers is [32], and was [16] when the run was begun"),
        (["--seed", "7"], "--seed is 7, and was 0 when the run was begun"),
        (["--out", "x"], "with --resume, the run goes on in its own folder"),
        (["--overwrite"], "with --resume, the run goes on in its own folder"),
    ],
)
def test_other_options(capsys, monkeypatch, options, told):
    stopped(monkeypatch, 2, flowers(), "--target", "species", "--out", "run")
    before = {path.name: path.read_bytes() for path in Path("run").iterdir() if path.is_file()}
    assert main(["train", "--resume", "run", *options]) == 2
    assert told in said(capsys)
    assert {path.name: path.read_bytes() for path in Path("run").iterdir() if path.is_file()} == before
    same = [flowers(), "--target", "species", "--layers", "16", "--epochs", "4"]
    assert main(["train", "--resume", "run", *same, "--quiet"]) == 0


def test_other_data(capsys, monkeypatch):
    stopped(monkeypatch, 2, flowers(), "--target", "species", "--out", "run")
    flowers("other.csv", seed=1)
    assert main(["train", "--resume", "run", "other.csv"]) == 1
    assert "other.csv has not the rows that run was begun with" in said(capsys)
    flowers(seed=1)
    assert main(["train", "--resume", "run"]) == 1
    assert "flowers.csv has not the rows that run was begun with" in said(capsys)
    flowers()
    assert main(["train", "--resume", "run", "--quiet"]) == 0


def test_data_that_were_moved(capsys, monkeypatch):
    held_out = ["--held-out-file", flowers("later.csv", seed=1)]
    stopped(monkeypatch, 2, flowers(), "--target", "species", *held_out, "--out", "run")
    Path("moved").mkdir()
    os.rename("flowers.csv", "moved/renamed.csv")
    os.rename("later.csv", "moved/later.csv")
    monkeypatch.chdir("moved")
    assert main(["train", "--resume", "../run"]) == 1
    assert "flowers.csv" in said(capsys)
    stopped(monkeypatch, 1, "renamed.csv", "--held-out-file", "later.csv", "--resume", "../run")
    monkeypatch.chdir("..")
    assert main(["train", "--resume", "run", "--quiet"]) == 0  # which knows where they are now


def test_other_rows_in_the_held_out_file(capsys, monkeypatch):
    held_out = ["--held-out-file", flowers("later.csv", seed=1)]
    stopped(monkeypatch, 2, flowers(), "--target", "species", *held_out, "--out", "run")
    assert main(["evaluate", "run", "later.csv", "--quiet"]) == 0
    assert "warning" not in said(capsys)
    flowers("later.csv", seed=2)
    assert main(["train", "--resume", "run"]) == 1
    assert "later.csv has not the rows that run was begun with" in said(capsys)
    assert main(["train", "--resume", "run", "--held-out-file", "flowers.csv"]) == 1
    assert "flowers.csv has not the rows that run was begun with" in said(capsys)
    flowers("later.csv", seed=1)
    assert main(["train", "--resume", "run", "--quiet"]) == 0


def test_what_cannot_go_on(capsys, monkeypatch):
    assert main(["train", *SHORT, "--out", "run"]) == 0
    for folder in ("none", "empty"):
        assert main(["train", "--resume", "run"]) == 1
        assert "'run' holds no checkpoint to go on from: it is complete, or was begun with" in said(capsys), folder
        Path("run/checkpoints").mkdir(exist_ok=True)
    assert main(["train", "--resume", "nowhere"]) == 1
    assert "nowhere does not say how it was trained" in said(capsys)
    for text in ("{}", "[", "[1]", '{"program": "x"}', json.dumps({"program": "gpu_backprop run", "format": 2})):
        Path("run/settings.json").write_text(text)
        assert main(["train", "--resume", "run"]) == 1
        assert "settings.json cannot be used" in said(capsys)


def test_options_that_are_not_known(capsys, monkeypatch):
    stopped(monkeypatch, 2, "--out", "run")
    settings = json.loads(Path("run/settings.json").read_text())
    settings["words"].append("--bogus")
    Path("run/settings.json").write_text(json.dumps(settings))
    assert main(["train", "--resume", "run"]) == 1
    assert "run was begun with options that this version does not take" in said(capsys)


def test_all_checkpoints_are_damaged(capsys, monkeypatch):
    stopped(monkeypatch, 2, "--out", "run")
    model = (Path("run") / MODEL).read_bytes()
    for _, path in numbered(Path("run/checkpoints")):
        path.write_bytes(path.read_bytes()[:-1])
    assert main(["train", "--resume", "run"]) == 1
    assert "there is no checkpoint to go on from: run/checkpoints/checkpoint-000002" in said(capsys)
    assert (Path("run") / MODEL).read_bytes() == model


def test_never(capsys, monkeypatch):
    stopped(monkeypatch, 2, "--out", "run", "--checkpoint-every", "never")
    assert "to go on" not in capsys.readouterr().out
    assert not Path("run/checkpoints").exists()
    for name in ("as it was stopped", "as it was killed"):
        before = Path("run/history.csv").read_bytes()
        assert main(["train", "--resume", "run"]) == 1
        assert "'run' holds no checkpoint to go on from" in said(capsys), name
        assert Path("run/history.csv").read_bytes() == before
        (Path("run") / MODEL).unlink(missing_ok=True)


def test_killed_before_the_first_checkpoint(capsys):
    assert main(["train", *SHORT, "--out", "whole"]) == 0
    Path("run/checkpoints").mkdir(parents=True)
    for name in ("settings.json", "split.npy"):
        shutil.copy(Path("whole") / name, "run")
    Path("run/history.jsonl").touch()
    assert main(["train", "--resume", "run"]) == 0
    assert (Path("run") / MODEL).read_bytes() == (Path("whole") / MODEL).read_bytes()


@pytest.mark.parametrize("when", ["30s", "10min", "0.5h", "500steps", "epoch"])
def test_when(when):
    assert main(["train", *SHORT, "--epochs", "1", "--out", "run", "--checkpoint-every", when]) == 0
    assert not Path("run/checkpoints").exists()


@pytest.mark.parametrize("when", ["10", "min", "0s", "0steps", "1.5steps", "-1s", "1d"])
def test_when_it_is_not_understood(capsys, when):
    with pytest.raises(SystemExit):
        main(["train", f"--checkpoint-every={when}"])
    assert "is not 30s, 10min, 2h, 500steps, epoch, never or the like" in said(capsys)


def test_another_process_is_refused(capsys, monkeypatch):
    stopped(monkeypatch, 2, "--out", "run")
    with FolderLock(Path("run"), "it"):
        for words in (["--resume", "run"], ["--out", "run", "--overwrite"], ["--out", "run"]):
            assert main(["train", *words]) == 1
            assert "'run' is being written to by another process" in said(capsys)
    assert main(["train", "--resume", "run", "--quiet"]) == 0


def test_epochs_beside_resume_are_more_than_those_that_were_set(capsys, monkeypatch):
    """Also once more, and in a report."""
    monkeypatch.setitem(globals(), "SHORT", ["--layers", "16", "--quiet"])
    stopped(monkeypatch, 3, flowers(), "--target", "species", "--out", "run", "--set", "epochs=4")
    before = json.loads(Path("run/settings.json").read_text())
    assert main(["train", "--resume", "run", "--epochs", "6"]) == 0
    assert len(rows("run")) == 6
    assert before["words"] != json.loads(Path("run/settings.json").read_text())["words"]
    assert main(["report", "run", "--out", "again.html"]) == 0
