"""gpu-backprop report: the rows that a run held out are found again, and what the network makes of them is written."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.cli import main
from gpu_backprop.data import read

SMALL = ["--recipe", "plain", "--epochs", "8", "--layers", "8", "--dropout", "0", "--quiet"]


def rows(number: int, seed: int) -> list[str]:
    """What decides is the size; the noise says nothing."""
    generator = np.random.default_rng(seed)
    size, noise = generator.normal(size=number), generator.normal(size=number)
    return [
        "size,noise,kind",
        *(f"{s:.3f},{n:.3f},{'big' if s > 0 else 'small'}" for s, n in zip(size, noise, strict=True)),
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with data and a run of each kind; nobody writes in it."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "d.csv").write_text("\n".join(rows(200, 0)) + "\n")
    (folder / "other.csv").write_text("\n".join(rows(50, 1)) + "\n")
    (folder / "p.csv").write_text("a,b,price\n" + "".join(f"{k},{k % 7},{k * 1000}\n" for k in range(90)))
    x = np.random.default_rng(0).integers(0, 256, (60, 3, 3)).astype(np.uint8)
    np.savez(folder / "parts.npz", x_train=x[:40], y_train=np.arange(40) % 2, x_test=x[40:], y_test=np.arange(20) % 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(gb.History, "plot", lambda *_: None)  # which takes longer than all else
        for name, data in (
            ("held", ["d.csv", "--target", "kind", "--ignore", "noise", "--learning-rate", "0.05"]),
            ("none", ["d.csv", "--target", "kind", "--held-out", "0"]),
            ("file", ["d.csv", "--target", "kind", "--held-out-file", "other.csv"]),
            ("price", ["p.csv", "--target", "price"]),
            ("parts", ["parts.npz"]),
            ("several", ["d.csv", "--target", "kind", "--ensemble", "3"]),
            ("digits", ["digits"]),
        ):
            assert main(["train", *data, *SMALL, "--out", name]) == 0
    return folder


@pytest.fixture(autouse=True)
def working_folder(trained, tmp_path, monkeypatch):
    """Every test has a copy of it to write in; where the runs were trained, the data are not there any more."""
    shutil.copytree(trained, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")


def said(capsys, code, *arguments):
    """What a call prints, on standard output or, where it fails, on standard error."""
    capsys.readouterr()
    assert main(["report", *arguments]) == code
    printed = capsys.readouterr()
    return " ".join(printed.err.split()) if code else printed.out


def page(path="held/report.html") -> str:
    return Path(path).read_text(encoding="utf-8")


def test_the_rows_that_were_held_out(capsys):
    printed = said(capsys, 0, "held").splitlines()
    assert printed[0].endswith("d.csv, the 40 rows that held held out") and printed[-1] == "written to held/report.html"
    assert printed[3] == "column  rise of the log loss when it is shuffled      ±"
    assert printed[4].startswith("size") and float(printed[4].split()[1]) > 0.5
    shown = page()
    for part in ("Curves", "Confusion matrix", "Calibration", "Permutation importance", "Worst rows", "Settings"):
        assert f"<h2>{part}</h2>" in shown
    assert (
        "gpu-backprop train d.csv --target kind --ignore noise" in shown
        and "Measured here: the 40 rows that held held out." in shown
    )
    assert "learning_rate=0.05" in shown  # the settings are those of the run


def test_they_are_those_of_the_run(trained):
    net = gb.load("held/model.safetensors")
    split = np.load("held/split.npy")
    main(["report", "held", "--quiet"])
    found = gb.inspect_model(net, read("d.csv"), split)
    assert found.rows == 40
    assert all(f">{row.place}</td>" in page() for row in found.worst)


def test_quantities(capsys):
    printed = said(capsys, 0, "price", "--quiet")
    assert printed.startswith("column  rise of the RMSE when it is shuffled") and "\na " in printed
    assert "<h2>Residuals</h2>" in page("price/report.html") and "predicted − true" in page("price/report.html")


def test_where_nothing_was_held_out_it_says_so(capsys):
    assert "all 200 rows, because none held none of them out: it learned from them" in said(capsys, 0, "none")
    assert "Measured here: all 200 rows, because none held none of them out" in page("none/report.html")


def test_rows_of_another_file_that_were_held_out(capsys):
    assert "other.csv, all 50 rows, all of which file held out" in said(capsys, 0, "file")


def test_images_and_the_part_that_is_for_testing(capsys):
    printed = said(capsys, 0, "parts")
    assert "all 20 rows, all of which parts held out" in printed and "the columns are pixels" in printed
    assert "Permutation importance" not in page("parts/report.html") and "Worst rows" in page("parts/report.html")


def test_digits_are_images(capsys):
    printed = said(capsys, 0, "digits")
    assert printed.startswith("digits, the 359 rows that digits held out") and "the columns are pixels" in printed


def test_each_row_of_an_ensemble_is_answered_by_the_member_that_did_not_learn_from_it(capsys):
    trained, printed = page("several/report.html"), said(capsys, 0, "several")
    assert "d.csv, all 200 rows, each answered by the member of several that did not learn from it" in printed
    found = {
        shown: re.findall(r"<b>([^<]*)</b><span>(?:loss|accuracy) of 200 rows", shown)
        for shown in (trained, page("several/report.html"))
    }
    first, again = found.values()
    assert first == again and len(first) == 2  # out of fold, as training measured them
    assert f"log loss: {float(re.search(r'log loss: ([0-9.]+)', printed)[1]):.4f}" in page("several/report.html")
    assert "<h2>Curves</h2>" in page("several/report.html")


class TestOtherData:
    def test_of_other_rows_all(self, capsys):
        printed = said(capsys, 0, "held", "--data", "other.csv", "--out", "new.html")
        assert "other.csv, all 50 rows, which are not those of held: it may have learned from some" in printed
        assert "Measured here: all 50 rows" in page("new.html") and "Permutation importance" not in page()

    def test_of_the_same_rows_in_another_place_those_that_were_held_out(self, capsys, trained):
        shutil.copy("d.csv", "moved.csv")
        assert "moved.csv, the 40 rows that held held out" in said(capsys, 0, "held", "--data", "moved.csv")

    def test_without_the_target(self, capsys):
        Path("new.csv").write_text("size,noise\n1,2\n")
        assert "kind" in said(capsys, 1, "held", "--data", "new.csv")


class TestMistakes:
    @pytest.fixture(autouse=True)
    def data_of_its_own(self, trained):
        """A run whose data may go, or change."""
        shutil.copy("d.csv", "mine.csv")
        shutil.copytree("held", "mine")
        settings = Path("mine/settings.json")
        settings.write_text(settings.read_text().replace(str(trained / "d.csv"), str(Path("mine.csv").resolve())))

    def test_the_data_are_gone(self, capsys):
        Path("mine.csv").unlink()
        assert "mine.csv, with the rows of mine, is not there; if it was moved, name it" in said(capsys, 1, "mine")

    def test_the_data_have_changed(self, capsys):
        Path("mine.csv").write_text("\n".join(rows(200, 2)) + "\n")
        assert "mine.csv is not any more, row for row, what mine was trained on; name" in said(capsys, 1, "mine")

    def test_there_is_no_model(self, capsys):
        Path("mine/model.safetensors").unlink()
        assert "its training is not done; to go on: gpu-backprop train --resume mine" in said(capsys, 1, "mine")

    def test_a_folder_that_is_no_run(self, capsys):
        assert "holds no model.safetensors" in said(capsys, 1, ".")
        Path("mine/settings.json").unlink()
        assert "mine does not say how it was trained" in said(capsys, 1, "mine")

    def test_a_model_file(self, capsys):
        assert "is a file; give the folder" in said(capsys, 1, "mine/model.safetensors")

    @pytest.mark.parametrize("out", ["mine.csv", "mine/model.safetensors", "other.csv"])
    def test_what_is_read_is_not_overwritten(self, capsys, out):
        before = Path(out).read_bytes()
        given = ["--data", "other.csv"] if out == "other.csv" else []
        assert f"--out {out} would overwrite" in said(capsys, 2, "mine", "--out", out, *given)
        assert Path(out).read_bytes() == before

    def test_how_data_are_read_that_are_not_named(self, capsys):
        assert "about the rows of --data" in said(capsys, 2, "mine", "--part", "test")

    def test_more_than_memory(self, capsys, monkeypatch):
        monkeypatch.setattr("gpu_backprop.commands.report.larger_than_memory", lambda _: True)
        assert "takes more memory than it may" in said(capsys, 1, "mine")

    def test_a_run_that_was_stopped(self, capsys):
        Path("mine/checkpoints").mkdir()
        said(capsys, 0, "mine")
        assert "The training was stopped before its end." in page("mine/report.html")
