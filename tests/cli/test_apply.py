"""gpu-backprop evaluate, predict, check and explain: what a trained network does with new rows."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.cli import main
from gpu_backprop.commands.datasets import warnings_of
from gpu_backprop.commands.predict import spreadsheet_safe
from gpu_backprop.data import Preprocessing, read
from gpu_backprop.network import layers

HEADER = "length,width,colour,species"


def rows(number: int, seed: int) -> list[str]:
    """Flowers of three species, which differ in size; every tenth has a colour that nobody noted."""
    generator = np.random.default_rng(seed)
    sizes = generator.normal(np.arange(number)[:, None] % 3 * [4, 100], [0.5, 20]).round(3)
    colours = [["blue", "white", "red"][row % 3] if row % 10 else "NA" for row in range(number)]
    return [
        f"{length},{width},{colour},{'ABC'[row % 3]}"
        for row, ((length, width), colour) in enumerate(zip(sizes, colours, strict=True))
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with data and a run of each kind; nobody writes in it."""
    folder = tmp_path_factory.mktemp("trained")
    flowers, houses = folder / "flowers.csv", folder / "houses.csv"
    flowers.write_text("\n".join([HEADER, *rows(60, 0)]) + "\n", encoding="utf-8")
    area = np.random.default_rng(1).uniform(40, 200, 60).round(1)
    houses.write_text("area,price\n" + "".join(f"{a},{a * 2000.5:.2f}\n" for a in area), encoding="utf-8")
    np.savez(folder / "two.npz", x=np.eye(4), y=np.arange(8).reshape(4, 2) / 8)
    options = ["--epochs", "40", "--layers", "8", "--dropout", "0", "--quiet"]
    for data, more in (
        (flowers, ["--target", "species", "--impute", "median"]),
        (houses, ["--target", "price"]),
        (folder / "two.npz", ["--held-out", "0"]),
        ("digits", []),
    ):
        out = ["--out", str(folder / Path(data).stem)]
        assert main(["train", str(data), "--recipe", "plain", *more, *options, *out]) == 0
    return folder


@pytest.fixture(autouse=True)
def working_folder(trained, tmp_path, monkeypatch):
    """Every test has a copy of it to write in."""
    shutil.copytree(trained, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")


def write(name: str, lines: list[str]) -> str:
    Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return name


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an error."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


class TestPredict:
    def test_a_line_for_each_row(self, capsys):
        new = write("new.csv", [HEADER.rpartition(",")[0], *(line.rpartition(",")[0] for line in rows(20, 5))])
        assert main(["predict", "flowers", new]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        assert captured.out.startswith("prediction,A,B,C\n")
        found = table(captured.out)
        assert len(found) == 20
        assert sum(line["prediction"] == "ABC"[row % 3] for row, line in enumerate(found)) >= 18
        for line in found:
            shares = {name: float(line[name]) for name in "ABC"}
            assert sum(shares.values()) == pytest.approx(1, abs=1e-6)
            assert max(shares, key=lambda name: shares[name]) == line["prediction"]

    def test_they_are_those_of_python(self, capsys):
        main(["predict", "flowers", "flowers.csv"])
        net = gb.load("flowers/model.safetensors")
        y = net.predict(net.preprocessing.transform(read("flowers.csv")))
        found = table(capsys.readouterr().out)
        np.testing.assert_array_equal(np.array([[line[c] for c in "ABC"] for line in found], np.float32), y)

    def test_quantities_are_in_the_units_of_the_file(self, capsys):
        assert main(["predict", "houses", "houses.csv"]) == 0
        output = capsys.readouterr().out
        prices = read("houses.csv").columns["price"]
        assert output.startswith("prediction\n")
        predicted = np.array(output.split()[1:], float)
        assert predicted.shape == prices.shape
        assert np.abs(predicted / prices - 1).mean() < 0.2

    def test_what_was_kept_within_the_range_seen_in_training_is_counted(self, capsys):
        options = "--target", "price", "--epochs", "20", "--layers", "8", "--quiet", "--out", "kept"
        assert main(["train", "houses.csv", *options]) == 0
        net = gb.load("kept/model.safetensors")
        write("far.csv", ["area", *(str(100 + k) for k in range(1500))])
        capsys.readouterr()
        assert main(["predict", "kept", "far.csv"]) == 0
        printed = capsys.readouterr()
        y = net.predict(net.preprocessing.transform(read("far.csv")))
        kept = int((net.preprocessing.inverse(y) != net.preprocessing.inverse(y, clip=False)).sum())
        assert kept > 1
        warning = f"far.csv: {kept:,} predictions were kept within the range of the target that was seen in training"
        assert printed.err.count("warning: ") == 1 and warning in printed.err
        write("near.csv", ["area", "100", "120"])
        assert main(["predict", "kept", "near.csv"]) == 0
        assert not capsys.readouterr().err

    @pytest.mark.parametrize("unit", [1e-39, 1.0, 1e39], ids=["tiny", "time stamps", "huge"])
    def test_quantities_far_from_0_keep_their_differences(self, capsys, unit):
        """As a time stamp, of which float32 holds every 128th second only; or beyond what float32 holds at all."""
        a = np.linspace(-1, 1, 60)
        write("far.csv", ["a,t", *(f"{v:.3f},{(1.7e9 + 10 * v) * unit!r}" for v in a.tolist())])
        options = ["--epochs", "40", "--layers", "8", "--dropout", "0", "--quiet", "--out", "far"]
        assert main(["train", "far.csv", "--target", "t", *options]) == 0
        capsys.readouterr()
        assert main(["predict", "far", "far.csv"]) == 0
        predicted = np.array(capsys.readouterr().out.split()[1:], float)
        assert np.corrcoef(predicted / unit, a)[0, 1] > 0.9

    def test_intervals(self, capsys):
        """Of the shares that were asked for, about as many lie between the two ends; the prediction in the middle."""
        generator = np.random.default_rng(3)
        a = generator.normal(size=700)
        noise = generator.normal(size=700) * 10
        write("noisy.csv", ["a,t", *(f"{v:.4f},{t:.4f}" for v, t in zip(a, 1000 + 50 * a + noise, strict=True))])
        options = ["--epochs", "15", "--layers", "8", "--dropout", "0", "--validation", "0.4", "--quiet"]
        assert main(["train", "noisy.csv", "--target", "t", *options, "--out", "noisy"]) == 0
        true = read("noisy.csv").columns["t"]
        for coverage in (0.5, 0.9):
            capsys.readouterr()
            assert main(["predict", "noisy", "noisy.csv", "--interval", str(coverage)]) == 0
            found = table(capsys.readouterr().out)
            low, y, high = (np.array([line[name] for line in found], float) for name in ("low", "prediction", "high"))
            assert ((low < true) & (true < high)).mean() == pytest.approx(coverage, abs=0.06)
            np.testing.assert_allclose((low + high) / 2, y, rtol=1e-6)
        assert main(["predict", "noisy", "noisy.csv", "--interval", "0.9999"]) == 1
        assert "a coverage of 0.9999 takes 9,999 rows that were not learned from, and there were" in said(capsys)
        net = gb.load("two/model.safetensors")
        net.intervals = gb.Intervals.fit(np.arange(20).reshape(10, 2))
        gb.save("two/model.safetensors", net)
        assert main(["predict", "two", "two.npz", "--interval", "0.5"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "prediction 1,prediction 2,low 1,high 1,low 2,high 2"
        one, two, *ends = map(float, lines[1].split(","))
        np.testing.assert_allclose(ends, [one - 10, one + 10, two - 11, two + 11], rtol=1e-5)

    def test_no_intervals(self, capsys):
        assert main(["predict", "flowers", "flowers.csv", "--interval", "0.9"]) == 1
        assert "flowers has no prediction intervals: it predicts classes, whose probabilities say" in said(capsys)
        assert main(["predict", "two", "two.npz", "--interval", "0.9"]) == 1
        assert "two has no prediction intervals: train measures them for numbers, on validation rows" in said(capsys)

    def test_several_quantities(self, capsys):
        assert main(["predict", "two", "two.npz"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "prediction 1,prediction 2"
        assert len(lines) == 5

    def test_the_order_of_columns_does_not_matter_and_others_are_named(self, capsys):
        main(["predict", "flowers", "flowers.csv"])
        expected = capsys.readouterr().out
        fields = [line.split(",") for line in Path("flowers.csv").read_text().splitlines()]
        write(
            "other.csv",
            [";".join([line[2], line[1], "9" if number else "id", line[0]]) for number, line in enumerate(fields)],
        )
        assert main(["predict", "flowers", "other.csv"]) == 0
        captured = capsys.readouterr()
        assert captured.out == expected
        assert captured.err == "warning: other.csv: not used, because the network was not trained on it: 'id'\n"

    def test_unknown_categories_are_counted(self, capsys):
        new = write("new.csv", [HEADER, "1,2,violet,", "1,2,violet,", "1,2,,", "1,2,red,"])
        assert main(["predict", "flowers", new]) == 0
        captured = capsys.readouterr()
        assert len(captured.out.splitlines()) == 5
        assert captured.err == (
            "warning: new.csv: 2 of 4 rows have a text in column 'colour' that no training row had; to the network it "
            "is none of the categories that it knows\n"
        )

    def test_a_text_that_only_new_rows_lack_is_no_text(self, capsys):
        train = write("all.csv", ["colour,y", *(f"{colour},{y}" for colour, y in [("red", 1), ("blue", 2)] * 10)])
        options = ["--impute", "mean", "--epochs", "1", "--quiet", "--held-out", "0", "--out", "all"]
        assert main(["train", train, "--target", "y", *options]) == 0
        capsys.readouterr()
        assert main(["predict", "all", write("new.csv", ["id,colour", "1,violet", "2,", "3,NA", "4,red"])]) == 0
        assert capsys.readouterr().err.splitlines()[:2] == [
            "warning: new.csv: 1 of 4 rows has a text in column 'colour' that no training row had; to the network it "
            "is none of the categories that it knows",
            "warning: new.csv: 2 of 4 rows have no text in column 'colour', and every training row had one; to the "
            "network it is none of the categories that it knows",
        ]

    def test_missing_numbers_are_filled_in_as_in_training(self, capsys):
        middle = np.median([float(line.split(",")[0]) for line in rows(60, 0)])
        net = gb.load("flowers/model.safetensors")
        fill = net.preprocessing.to_dict()["inputs"]["columns"][0]["fill"]
        assert fill[0] == pytest.approx(middle, abs=1)  # of the training rows, which are most of all
        new = write("new.csv", [HEADER, ",100,red,", f"{fill[0]!r},100,red,"])
        main(["predict", "flowers", new])
        first, second = table(capsys.readouterr().out)
        assert first == second

    def test_missing_numbers_that_training_had_not(self, capsys):
        new = write("new.csv", ["area", "50", "NA", "60"])
        assert main(["predict", "houses", new]) == 1
        assert "column 'area' has 1 missing value, the first in line 3; " in said(capsys)
        quick = ["--set", "indicator=true", "--layers", "4", "--epochs", "1", "--out", "filled", "--quiet"]
        assert main(["train", "houses.csv", "--target", "price", "--recipe", "plain", *quick]) == 0
        capsys.readouterr()
        filled_in = "nothing in column 'area', and every training row had something; it is filled in, of which the netw"
        assert main(["predict", "filled", new]) == 0
        assert f"warning: new.csv: 1 of 3 rows has {filled_in}" in capsys.readouterr().err
        learned = gb.load("filled/model.safetensors").preprocessing
        assert next(warnings_of(learned, {"area": 2})).startswith(f"2 rows have {filled_in}")  # of rows in blocks

    def test_a_column_that_is_not_there(self, capsys):
        assert main(["predict", "flowers", write("new.csv", ["lenght,width,colour", "1,2,red"])]) == 1
        error = said(capsys)
        assert "new.csv lacks 1 column that the training data had: 'length'; did you mean 'lenght'?" in error

    def test_a_file_is_whole_or_not_there(self, capsys, monkeypatch):
        main(["predict", "flowers", "flowers.csv"])
        expected = capsys.readouterr().out
        assert main(["predict", "flowers", "flowers.csv", "--output", "p.csv"]) == 0
        assert capsys.readouterr().out == ""
        assert Path("p.csv").read_bytes() == expected.encode()

        monkeypatch.setattr(gb.Network, "predict", lambda *_: 1 / 0)
        before = sorted(os.listdir())
        assert main(["predict", "flowers", "flowers.csv", "--output", "p.csv"]) == 1
        assert main(["predict", "flowers", "flowers.csv", "--output", "q.csv"]) == 1
        assert sorted(os.listdir()) == before
        assert Path("p.csv").read_bytes() == expected.encode()

    @pytest.mark.skipif(not os.path.exists("/dev/stdout"), reason="there is no /dev/stdout")
    def test_standard_output_by_its_name(self):
        command = [sys.executable, "-m", "gpu_backprop", "predict", "flowers", "flowers.csv"]
        expected = subprocess.run(command, capture_output=True, check=True).stdout
        Path("p.csv").write_bytes(b"older\n")
        with open("p.csv", "ab") as file:
            subprocess.run([*command, "--output", "/dev/stdout"], stdout=file, check=True)
        assert Path("p.csv").read_bytes() == b"older\n" + expected
        end, beginning = os.pipe()
        os.close(end)  # as `head` does
        with open(beginning, "wb") as pipe:
            done = subprocess.run([*command, "--output", "/dev/stdout"], stdout=pipe, stderr=subprocess.PIPE)
        assert (done.returncode, done.stderr) == (0, b"")

    @pytest.mark.parametrize("output", ["flowers.csv", "flowers/model.safetensors"])
    def test_what_is_read_is_never_overwritten(self, capsys, output):
        before = Path(output).read_bytes()
        assert main(["predict", "flowers", "flowers.csv", "--output", output]) == 2
        assert said(capsys).startswith(f"gpu-backprop predict: error: --output {output} would overwrite {output}")
        assert Path(output).read_bytes() == before

    def test_a_place_that_cannot_be_written(self, capsys):
        assert main(["predict", "flowers", "flowers.csv", "--output", "nowhere/p.csv"]) == 1
        assert said(capsys) == (
            "gpu-backprop: cannot write 'nowhere/p.csv' (No such file or directory); choose another --output\n"
        )

    def test_names_of_any_kind_survive(self):
        names = ["größe, klein", 'sagt "ja"', "π", "two\nlines"]
        with open("odd.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["v", "kind"])
            writer.writerows([row % 4, names[row % 4]] for row in range(40))
        options = ["--target", "kind", "--out", "odd", "--layers", "none", "--epochs", "1", "--quiet"]
        assert main(["train", "odd.csv", *options]) == 0
        command = [sys.executable, "-m", "gpu_backprop", "predict", "odd", "odd.csv"]
        done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
        assert done.returncode == 0, done.stderr
        lines = list(csv.reader(io.StringIO(done.stdout.decode("utf-8"), newline="")))
        assert lines[0] == ["prediction", *sorted(names)]
        assert {line[0] for line in lines[1:]} <= set(names)

    @pytest.mark.parametrize(
        ("classes", "header"),
        [
            (["other", "prediction"], "prediction,other,probability of prediction"),
            (["prediction", "probability of prediction"], None),
            (["a", "caf\udce9"], "prediction,a,caf\\udce9"),
        ],
    )
    def test_names_that_would_make_trouble(self, classes, header):
        np.savez("odd.npz", x=np.arange(40.0).reshape(20, 2), y=np.array(classes * 10))
        assert main(["train", "odd.npz", "--out", "odd", "--layers", "none", "--epochs", "1", "--quiet"]) == 0
        assert main(["predict", "odd", "odd.npz", "--output", "p.csv"]) == 0
        text = Path("p.csv").read_text(encoding="utf-8")
        assert len(table(text)[0]) == 3  # different names
        assert header in (None, text.splitlines()[0])

    @pytest.mark.parametrize(
        ("name", "safe"),
        [
            ("=1+1", "'=1+1"),
            ("+a", "'+a"),
            ("-a", "'-a"),
            ("@a", "'@a"),
            ("a=b", "a=b"),
            ("\t=a", "'\t=a"),
            ("\r=a", "'\r=a"),
            ("'a", "'a"),
            ("-1", "-1"),
            (-1, "-1"),
            ("+2.5e3", "+2.5e3"),
        ],
    )
    def test_names_that_a_spreadsheet_would_run(self, name, safe):
        assert spreadsheet_safe(name) == safe

    def test_formulas_and_numbers(self, capsys):
        np.savez("odd.npz", x=np.arange(40.0).reshape(20, 2), y=np.array(["=1+1", "b"] * 10))
        assert main(["train", "odd.npz", "--out", "odd", "--layers", "none", "--epochs", "1", "--quiet"]) == 0
        for options, name in ([], "=1+1"), (["--spreadsheet-safe"], "'=1+1"):
            assert main(["predict", "odd", "odd.npz", "--output", "p.csv", *options]) == 0
            lines = table(Path("p.csv").read_text(encoding="utf-8"))
            assert set(lines[0]) == {"prediction", name, "b"}
            assert {line["prediction"] for line in lines} <= {name, "b"}
        np.savez("low.npz", x=np.arange(30.0), y=np.arange(30) / 8 - 1000)
        assert main(["train", "low.npz", "--out", "low", "--layers", "none", "--epochs", "1", "--quiet"]) == 0
        capsys.readouterr()
        assert main(["predict", "low", "low.npz", "--spreadsheet-safe"]) == 0
        assert capsys.readouterr().out.count("\n-") == 30

    @pytest.mark.skipif(sys.platform == "win32", reason="there are no such pipes on Windows")
    def test_a_reader_that_has_seen_enough(self):
        np.savez("many.npz", x=np.zeros((100_000, 4)))
        command = [sys.executable, "-m", "gpu_backprop", "predict", "two", "many.npz"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None and process.stderr is not None
            assert process.stdout.readline() == "prediction 1,prediction 2\n"
            process.stdout.close()
            assert process.stderr.read() == ""
        assert process.returncode == 0

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
    def test_a_full_disk(self):
        command = [sys.executable, "-m", "gpu_backprop", "predict", "two", "two.npz"]
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr) == (1, "gpu-backprop: No space left on device\n")


class TestEvaluate:
    def test_classes(self, capsys):
        assert main(["evaluate", "flowers", write("new.csv", [HEADER, *rows(30, 7)])]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "new.csv, all 30 rows"
        assert [line.split()[0] for line in lines[3:7]] == ["true", "A", "B", "C"]
        assert "always answering 'A' would be right for 0.3333: the network does better" in lines
        assert re.fullmatch(r"cross_entropy: 0\.\d{4}", lines[-4])
        assert re.fullmatch(r"accuracy: (0\.9\d{3}|1\.0000)", lines[-3])
        assert [line.split(":")[0] for line in lines[-2:]] == ["log loss", "calibration error"]

    def test_quantities(self, capsys):
        assert main(["evaluate", "houses", "houses.csv", "--loss", "absolute_error"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[:2] == ["houses.csv, the 12 rows that houses held out", ""]
        assert lines[2] == "always answering the mean would have an R² of 0: the network does better"
        figures = ["absolute_error", "R²", "MAE", "RMSE", "median absolute error"]
        assert [line.split(":")[0] for line in lines[3:]] == figures
        assert float(lines[4].split()[1]) > 0.9

    def test_only_what_was_held_out(self, capsys):
        """Whatever share is asked for, no row is measured that was learned from, unless all are asked for."""
        for options in ([], ["--held-out", "0.2"]):
            assert main(["evaluate", "digits", "digits", *options]) == 0
            assert capsys.readouterr().out.startswith("digits, the 359 rows that digits held out\n")
        assert main(["evaluate", "digits/model.safetensors", "digits", "--quiet"]) == 0
        measured = capsys.readouterr().out
        assert main(["evaluate", "digits", "digits", "--quiet"]) == 0
        assert capsys.readouterr().out == measured
        assert main(["evaluate", "digits", "digits", "--held-out", "0.3"]) == 2
        assert "digits held out 359 of these 1,797 rows, and has learned from the others" in said(capsys)
        assert main(["evaluate", "digits", "digits", "--all-rows"]) == 0
        assert capsys.readouterr().out.startswith("digits, all 1,797 rows, 1,438 of which digits learned from\n")
        assert main(["evaluate", "flowers", write("new.csv", [HEADER, *rows(30, 7)]), "--held-out", "0.2"]) == 2
        assert "new.csv has not the rows that flowers was trained on" in said(capsys)

    def test_rows_that_may_have_been_learned_from(self, capsys):
        """The same rows in another order, or one row less, are other data, as far as one can tell."""
        lines = Path("flowers.csv").read_text().splitlines()
        for some in ([lines[0], *lines[:0:-1]], lines[:-1]):
            assert main(["evaluate", "flowers", write("other.csv", some), "--quiet"]) == 0
            assert capsys.readouterr().err == (
                "warning: other.csv is not, row for row, what flowers was trained on: all of its rows are measured, "
                "and flowers may have learned from some of them\n"
            )

    def test_a_model_file_alone_knows_of_no_rows(self, capsys):
        shutil.copy("digits/model.safetensors", "alone.safetensors")
        assert main(["evaluate", "alone.safetensors", "digits"]) == 0
        assert capsys.readouterr().out.startswith("digits, all 1,797 rows\n")
        assert main(["evaluate", "alone.safetensors", "digits", "--held-out", "0.2"]) == 0
        output = capsys.readouterr().out
        assert output.startswith("digits, the 359 rows that training with --held-out 0.2 --seed 0 held out\n")

    @pytest.mark.parametrize("damage", [lambda data: data[:60], lambda data: b"{}", lambda data: b""])
    @pytest.mark.parametrize("name", ["settings.json", "split.npy"])
    def test_a_run_that_is_damaged(self, capsys, name, damage):
        path = Path("digits") / name
        path.write_bytes(damage(path.read_bytes()))
        assert main(["evaluate", "digits", "digits"]) == 1
        told = f"gpu-backprop: {path} cannot be used: it is damaged, or of another version of gpu_backprop\n"
        assert said(capsys).replace(os.sep, "/") == told

    def test_a_split_of_other_rows(self, capsys):
        for split in (np.zeros(5, np.bool_), np.zeros(1797)):
            np.save("digits/split.npy", split)
            assert main(["evaluate", "digits", "digits"]) == 1
            assert "split.npy cannot be used: it is not one truth value for each of 1,797 rows" in said(capsys)

    def test_classes_that_are_not_known(self, capsys):
        assert main(["evaluate", "flowers", write("new.csv", [HEADER, "1,2,red,D"])]) == 1
        assert "'D', which is none of the classes that were learned, 'A', 'B', 'C'" in said(capsys)

    def test_the_target_is_needed(self, capsys):
        assert main(["evaluate", "houses", write("new.csv", ["area", "5"])]) == 1
        assert "no column 'price', the target" in said(capsys)

    def test_parts_of_arrays(self, capsys):
        x = np.tile(np.eye(4), (3, 1))
        y = np.tile(np.arange(8).reshape(4, 2) / 8, (3, 1))
        np.savez("parts.npz", x_train=x, y_train=y, x_test=x[:5], y_test=y[:5])
        for part, number in (((), 5), (("--part", "test"), 5), (("--part", "train"), 12)):
            assert main(["evaluate", "two", "parts.npz", *part]) == 0
            assert capsys.readouterr().out.startswith(f"parts.npz, all {number} rows\n")
        assert main(["evaluate", "two", "two.npz", "--part", "test"]) == 2
        assert "--part is about data with a part for training" in said(capsys)
        assert main(["evaluate", "digits", "digits", "--part", "test"]) == 2
        assert "--delimiter and --part are about files" in said(capsys)


class TestCheck:
    @pytest.mark.parametrize(
        ("run", "data"), [("flowers", "flowers.csv"), ("houses", "houses.csv"), ("two", "two.npz")]
    )
    def test_gradients_agree(self, capsys, run, data):
        assert main(["check", run, data]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert re.fullmatch(r"gradients agree: \d+ derivatives checked, ∂E/∂x included", lines[-1])
        assert any(line.startswith("largest relative difference ") for line in lines)

    def test_a_network_that_has_learned_everything(self, capsys):
        """Its gradients are all but 0, where a difference of two losses is all rounding."""
        options = ["--layers", "32", "--dropout", "0", "--epochs", "150", "--quiet", "--out", "all"]
        assert main(["train", "digits", *options]) == 0
        assert main(["check", "all", "digits", "--at-most", "200", "--quiet"]) == 0
        assert "gradients agree" in capsys.readouterr().out

    def test_a_wrong_gradient_is_a_failure(self, capsys, monkeypatch):
        right = layers.Dense.linear_backward

        def wrong(layer, plan, grad_z, grad_x):
            twice = lambda: np.multiply(grad_z, 2, out=grad_z)  # noqa: E731
            plan.append(gb.Operation("spoil", "∇z ← 2∇z", {}, {}, 0, 0, 1, plan.phase, lambda: (twice,)))
            return right(layer, plan, grad_z, grad_x)

        monkeypatch.setattr(layers.Dense, "linear_backward", wrong)
        assert main(["check", "houses", "houses.csv"]) == 1
        assert "derivatives disagree; this is the worst" in said(capsys)

    def test_options(self, capsys):
        assert main(["check", "digits", "digits", "--rows", "2", "--at-most", "5", "--loss", "squared_error"]) == 0
        output = capsys.readouterr().out
        assert "squared_error of 2 rows of digits, each with another row's target, in float64\n" in output
        assert "gradients agree: 25 derivatives" in output

    def test_nothing_compared_is_no_success(self, capsys, monkeypatch):
        monkeypatch.setattr(
            gb, "check_gradients", lambda *_, **__: gb.GradientReport(0, 0.0, "", 0.0, 0.0, ["x[0, 0]"])
        )
        assert main(["check", "houses", "houses.csv"]) == 1
        assert "none of 1 derivatives could be compared" in said(capsys)


class TestExplain:
    def test_a_network_of_its_own(self, capsys):
        assert main(["explain"]) == 0
        assert "z1 = x@W1" in capsys.readouterr().out

    def test_a_network_of_ones_own(self, capsys):
        assert main(["explain", "houses", "houses.csv", "--rows", "3", "--optimizer", "adam"]) == 0
        output = capsys.readouterr().out
        assert "One step of training on 3 samples" in output
        assert "Dense(8, 'relu')" in output

    @pytest.mark.parametrize("option", ["--rows 3", "--optimizer adam", "--loss cross_entropy", "--device cuda"])
    def test_its_own_network_takes_no_options(self, capsys, option):
        assert main(["explain", *option.split()]) == 2
        name = option.split()[0]
        assert said(capsys).startswith(f"gpu-backprop explain: error: {name} is for a network of your own: give RUN")

    def test_a_run_needs_data(self, capsys):
        assert main(["explain", "houses"]) == 2
        assert said(capsys).startswith("gpu-backprop explain: error: DATA is missing")


class TestRuns:
    @pytest.mark.parametrize("run", ["flowers", "flowers/model.safetensors"])
    def test_a_folder_or_a_file(self, capsys, run):
        assert main(["evaluate", run, "flowers.csv", "--quiet"]) == 0

    @pytest.mark.parametrize(
        ("run", "message"),
        [
            (".", "holds no model.safetensors; did you mean two?"),
            ("empty", "empty holds no model.safetensors; give the folder that `gpu-backprop train` wrote"),
            ("nowhere", "cannot load nowhere: No such file or directory"),
            ("flowers.csv", "cannot load flowers.csv: it is not a safetensors file"),
            ("by-hand.safetensors", "does not say how rows of data become numbers"),
            ("members.safetensors", "holds 2 networks side by side"),
        ],
    )
    @pytest.mark.parametrize("command", ["evaluate", "predict", "check", "explain"])
    def test_what_is_no_run(self, capsys, run, message, command):
        os.mkdir("empty")
        gb.save("by-hand.safetensors", gb.Network(3, [gb.Dense(2)]))
        gb.save("members.safetensors", gb.Network(3, [gb.Dense(2)], seed=[0, 1]))
        assert main([command, run, "flowers.csv"]) == 1
        assert message in said(capsys)

    def test_one_output_that_says_yes_or_no(self, capsys):
        """As Python makes such networks, not this program."""
        net = gb.Network(2, [gb.Dense(1, "sigmoid")], seed=1)
        write("yes.csv", ["a,b,ok", "1,2,no", "2,1,yes", "3,5,yes", "4,4,no"])
        net.preprocessing = Preprocessing.fit(read("yes.csv"), "ok")
        net.classes = net.preprocessing.classes
        gb.save("yes.safetensors", net)
        assert main(["predict", "yes.safetensors", "yes.csv"]) == 0
        for line in table(capsys.readouterr().out):
            assert float(line["no"]) + float(line["yes"]) == pytest.approx(1)
            assert line["prediction"] == ("yes" if float(line["yes"]) > 0.5 else "no")
        for command in ("evaluate", "check"):
            assert main([command, "yes.safetensors", "yes.csv"]) == 0


@pytest.mark.parametrize("command", ["evaluate", "predict", "check", "explain"])
def test_help_has_examples(capsys, command):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert f"examples:\n\n  gpu-backprop {command} " in text
    assert "RUN is the folder that train wrote" in text


@pytest.mark.parametrize("command", ["evaluate", "predict", "check", "explain"])
@pytest.mark.parametrize(("limit", "what"), [("900", "cannot load"), ("300KB", "large.csv: ")])
def test_what_a_model_or_data_unpack_to_has_a_limit(command, limit, what, capsys):
    given = ["flowers", write("large.csv", [HEADER, *rows(9000, 2)]), "--memory-limit"]
    assert main([command, *given, limit]) == 1
    line = said(capsys)
    assert what in line and "bytes unpacked, more than the limit of" in line and "--memory-limit" in line
    assert main([command, *given, "2MB"]) == 0
