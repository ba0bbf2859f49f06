"""gpu-backprop train on data of one's own: what it says, what it stores, what it refuses, and how it ends."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.errors import InputError, OutOfMemoryError
from gpu_backprop.cli import main
from gpu_backprop.data import Preprocessing, Table, read, stratified_split
from gpu_backprop.training import memory, row_logs

MNIST = Path(__file__).parents[3] / "shared" / "data" / "mnist"


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    """Every test has an empty folder of its own to write in."""
    monkeypatch.chdir(tmp_path)


def flowers(path: str = "flowers.csv", rows: int = 90) -> str:
    """Three species that differ in size and colour; some colours are missing."""
    generator = np.random.default_rng(0)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["length", "width", "colour", "species"])
        for row in range(rows):
            kind = row % 3
            colour = "" if row % 10 == 9 else ["blue", "white", "red"][kind if generator.random() < 0.8 else 0]
            writer.writerow([*generator.normal([3 * kind, 1000 * kind], [0.5, 300]).round(3), colour, "ABC"[kind] * 2])
    return path


def houses(path: str = "houses.csv", rows: int = 120) -> str:
    """A price that depends on area and district."""
    generator = np.random.default_rng(1)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["area", "district", "price"])
        for _ in range(rows):
            area, hill = generator.uniform(40, 200), generator.random() < 0.5
            writer.writerow([f"{area:.1f}", "hill" if hill else "harbour", f"{area * (3 if hill else 2) * 1000.5:.2f}"])
    return path


def train(*options: str) -> int:
    words = ["--epochs", "30", "--layers", "16", "--dropout", "0", "--out", "run"]
    return main(["train", "--recipe", "plain", *words, *options])


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an error."""
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


class TestClassification:
    def test_what_is_said(self, capsys):
        assert train(flowers(), "--target", "species", "--impute", "mean", "--epochs", "60") == 0
        captured = capsys.readouterr()
        lines = captured.out.splitlines()
        assert lines[:4] == [
            "flowers.csv: 90 rows, 4 columns",
            "column 'species' is text, so this is classification into 3 classes",
            "classes (rows): AA (30), BB (30), CC (30)",
            "inputs: 6, from length, width, colour (4 categories)",
        ]
        assert "72 rows to learn from, 18 held out" in lines
        settings = (
            "cross_entropy, Adam(learning_rate=0.003, beta1=0.9, beta2=0.999, epsilon=1e-08), 60 epochs, 32 rows a"
        )
        assert f"{settings} step" in lines
        assert re.search(r"^ +true +AA +BB +CC   recall$", captured.out, re.MULTILINE)
        assert re.search(r"^test accuracy: (0\.[89]\d{3}|1\.0000)$", captured.out, re.MULTILINE)
        assert "always answering 'AA' would be right for 0.3333: the network does better" in lines
        assert captured.err == ""

    def test_the_network_knows_its_data(self):
        train(flowers(), "--target", "species", "--impute", "mean")
        net = gb.load("run/model.safetensors")
        assert net.classes == ["AA", "BB", "CC"]
        x = net.preprocessing.transform(read("flowers.csv"))
        assert x.shape == (90, 6)
        names = net.preprocessing.inverse(net.predict(x))
        assert (names == read("flowers.csv").columns["species"]).mean() > 0.8

    def test_the_accuracy_is_of_rows_that_no_scaling_has_seen(self, capsys):
        train(flowers(), "--target", "species", "--impute", "mean", "--seed", "4", "--quiet")
        printed = capsys.readouterr().out.splitlines()[:-1]
        assert main(["evaluate", "run", "flowers.csv", "--held-out", "0.2", "--quiet"]) == 0
        assert [f"test {line}" for line in capsys.readouterr().out.splitlines()] == printed
        learned = gb.load("run/model.safetensors").preprocessing.to_dict()
        table = read("flowers.csv")
        rows, _ = stratified_split([str(name) for name in table.columns["species"]], 0.2, seed=4)
        assert learned == Preprocessing.fit(table, "species", impute="mean", rows=rows).to_dict()

    @pytest.mark.parametrize("loss", ["half_squared_error", "binary_cross_entropy", "squared_error", "huber"])
    def test_a_loss_that_knows_no_labels(self, capsys, loss):
        assert train(flowers(), "--target", "species", "--impute", "mean", "--loss", loss, "--quiet") == 0
        assert re.match(r"test accuracy: (0\.[789]|1\.0)", capsys.readouterr().out)

    def test_many_classes_have_their_mistakes_told(self, capsys):
        with open("many.csv", "w", encoding="utf-8") as file:
            file.write("v,kind\n" + "".join(f"{row % 5},kind number {row % 25:02}\n" for row in range(200)))
        train("many.csv", "--target", "kind", "--epochs", "1")
        output = capsys.readouterr().out
        assert "kind number 19 (8) and 5 more\n" in output
        assert re.search(r"the most frequent mistakes:\n  \d: kind number \d\d taken for kind number", output)

    def test_whole_numbers_are_classes_and_may_be_made_quantities(self, capsys):
        with open("dice.csv", "w", encoding="utf-8") as file:
            file.write("v,eyes\n" + "".join(f"{row / 7},{row % 6 + 1}\n" for row in range(60)))
        assert train("dice.csv", "--target", "eyes", "--epochs", "1") == 0
        assert "6 different whole numbers, no more than 20, so this is classification" in capsys.readouterr().out
        assert gb.load("run/model.safetensors").classes == [1, 2, 3, 4, 5, 6]
        assert train("dice.csv", "--target", "eyes", "--epochs", "1", "--task", "regression", "--overwrite") == 0
        assert "\ntest R²: " in capsys.readouterr().out


class TestRegression:
    def test_what_is_said(self, capsys):
        assert train(houses(), "--target", "price", "--epochs", "100") == 0
        output = capsys.readouterr().out
        assert "column 'price' has numbers with fractions, so this is regression\n" in output
        assert "while it trains, losses and MAE are in standard deviations of the target\n" in output
        r2 = re.search(r"^test R²: (0\.\d{4})$", output, re.MULTILINE)
        mae = re.search(r"^test MAE: (\d+\.\d{4})$", output, re.MULTILINE)
        assert r2 is not None and float(r2[1]) > 0.9
        assert mae is not None and 100 < float(mae[1]) < 40_000  # in the units of the file

    def test_the_figures_are_those_of_the_written_model(self, capsys):
        train(houses(), "--target", "price", "--held-out-file", houses("later.csv", 30), "--quiet")
        net, table = gb.load("run/model.safetensors"), read("later.csv")
        assert net.classes is None
        true = table.columns["price"]
        predicted = net.preprocessing.inverse(net.predict(net.preprocessing.transform(table)))[:, 0]
        r2 = 1 - ((true - predicted) ** 2).sum() / ((true - true.mean()) ** 2).sum()
        assert capsys.readouterr().out.splitlines()[:2] == [
            f"test R²: {r2:.4f}",
            f"test MAE: {np.abs(true - predicted).mean():.4f}",
        ]

    @pytest.mark.parametrize(
        ("options", "output"),
        [
            ((), "identity"),
            (("--loss", "poisson"), "exp"),
            (("--activation", "tanh,softplus"), "softplus"),
            (("--loss", "poisson", "--activation", "tanh,softplus"), "softplus"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:y is not scaled:RuntimeWarning")  # poisson has prices as they are
    def test_a_target_is_scaled_only_for_outputs_of_any_size(self, options, output):
        assert train(houses(), "--target", "price", "--epochs", "1", "--quiet", *options) == 0
        net = gb.load("run/model.safetensors")
        assert net.last.activation.name == output
        assert (net.preprocessing.inverse([[1.0]]) == 1.0).all() == (output != "identity")

    def test_several_quantities(self, capsys):
        x = np.random.default_rng(0).standard_normal((50, 3))
        np.savez("two.npz", x=x, y=np.stack([x[:, 0] * 5, x[:, 1] - 7], axis=1))
        assert train("two.npz", "--quiet") == 0
        assert gb.load("run/model.safetensors").outputs == 2
        assert re.match(r"test R²: \S+\ntest MAE: ", capsys.readouterr().out)


class TestHeldOut:
    def test_nothing_held_out(self, capsys, tmp_path):
        assert (
            train(flowers(), "--target", "species", "--impute", "mean", "--held-out", "0", "--no-early-stopping") == 0
        )
        output = capsys.readouterr().out
        assert "90 rows to learn from, 0 held out" in output
        assert "\nnothing was held out, so nothing was measured\n" in output
        assert "val_loss" not in (tmp_path / "run" / "history.csv").read_text()

    @pytest.mark.parametrize("share", ["0.1", "0.5"])
    def test_a_share(self, capsys, share):
        train(flowers(), "--target", "species", "--impute", "mean", "--held-out", share)
        held_out = round(90 * float(share))
        assert f"{90 - held_out} rows to learn from, {held_out} held out" in capsys.readouterr().out

    def test_a_share_of_the_digits(self, capsys):
        assert main(["train", "--held-out", "0.5", "--epochs", "1", "--layers", "8"]) == 0
        assert "899 digits to learn from, 898 held out" in capsys.readouterr().out

    def test_too_few_rows(self, capsys, tmp_path):
        (tmp_path / "few.csv").write_text("v,kind\n1,a\n2,b\n")
        assert train("few.csv", "--target", "kind") == 1
        assert "2 rows in 2 classes are too few to hold out 0.2 of them" in capsys.readouterr().err

    def test_a_file(self, capsys):
        options = ("--target", "species", "--impute", "mean", "--held-out-file", flowers("later.csv", 30))
        assert train(flowers(), *options) == 0
        assert "90 rows to learn from, 30 held out" in capsys.readouterr().out

    def test_the_test_part_of_arrays(self, capsys):
        x = np.random.default_rng(0).standard_normal((50, 3))
        y = (x[:, 0] > 0).astype(int)
        np.savez("parts.npz", x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:])
        assert train("parts.npz") == 0
        assert "40 rows to learn from, 10 held out" in capsys.readouterr().out
        assert train("parts.npz", "--held-out", "0.25", "--overwrite") == 0
        assert "30 rows to learn from, 10 held out" in capsys.readouterr().out

    def test_images(self, capsys):
        if not MNIST.is_dir():
            pytest.skip("the files of MNIST are not in ../shared/data/mnist")
        small = ("--epochs", "1", "--batch-size", "512", "--layers", "32")
        assert main(["train", str(MNIST), "--out", "run", *small]) == 0
        output = capsys.readouterr().out
        assert f"{MNIST}: 60,000 rows of 784 numbers (uint8)\n" in output
        assert "60,000 rows to learn from, 10,000 held out\n" in output
        result = re.search(r"^test (accuracy: 0\.(\d{4}))$", output, re.MULTILINE)
        assert result is not None and int(result[2]) > 8500
        assert main(["evaluate", "run", str(MNIST), "--quiet"]) == 0
        assert capsys.readouterr().out.splitlines()[0] == result[1]


class TestArrays:
    def test_bytes_that_are_no_pixels_are_learned_as_other_numbers_are(self, capsys):
        x = np.random.default_rng(1).integers(0, 2, (60, 8))
        said = []
        for dtype in ("uint8", "int8"):
            np.savez("yes_or_no.npz", x=x.astype(dtype), y=x[:, 0] ^ x[:, 1])
            assert train("yes_or_no.npz", "--epochs", "3", "--overwrite") == 0
            said.append(capsys.readouterr().out)
        assert "inputs: 8, each brought to mean 0 and standard deviation 1\n" in said[1]
        hint = " (for pixels, give x the axes rows, height, width)"
        assert said[0].replace(hint, "").replace("(uint8)", "(int8)").split("cross_entropy")[0] in said[1]
        assert said[0].split("held-out")[1] == said[1].split("held-out")[1]

    def test_images_in_an_archive_and_one_hot_rows(self, capsys):
        rng = np.random.default_rng(0)
        np.savez("a.npz", x=rng.integers(0, 256, (40, 4, 4)).astype(np.uint8), y=np.eye(2)[np.arange(40) % 2])
        assert train("a.npz", "--epochs", "1") == 0
        assert capsys.readouterr().out.splitlines()[:4] == [
            "a.npz: 40 rows of 16 numbers (uint8)",
            "y is one-hot, 0 but for a single 1 in each row (--task regression takes them as numbers), so this is "
            "classification into 2 classes",
            "classes (rows): 0 (20), 1 (20)",
            "inputs: 16, pixels, divided by 255",
        ]
        assert train("a.npz", "--epochs", "1", "--overwrite", "--task", "classification", "--quiet") == 0
        assert capsys.readouterr().out.startswith("test accuracy: ")
        assert train("a.npz", "--epochs", "1", "--overwrite", "--task", "regression", "--quiet") == 0
        assert capsys.readouterr().out.startswith("test R²: ")


class TestColumns:
    def test_what_is_ignored_may_be_of_any_type(self, capsys):
        """Then the rows that the network is applied to may have it as well."""
        pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        from pyarrow import parquet

        columns = {
            "a": [1.5, 2, 7, 9] * 5,
            "took": pyarrow.array(range(20), pyarrow.duration("s")),
            "y": list("ppqq") * 5,
        }
        parquet.write_table(pyarrow.table(columns), "t.parquet")
        assert train("t.parquet", "--target", "y") == 1
        assert said(capsys) == (
            "gpu-backprop: t.parquet: column 'took' has the type duration[s]; save it as numbers or text, or leave it "
            "out with --ignore (ignore= in Python)\n"
        )
        assert train("t.parquet", "--target", "y", "--ignore", "took", "--epochs", "1") == 0
        captured = capsys.readouterr()
        assert captured.out.startswith("t.parquet: 20 rows, 3 columns\n")
        assert captured.err == ""
        assert main(["evaluate", "run", "t.parquet", "--quiet"]) == 0
        assert "not used, because the network was not trained on it: 'took'\n" in capsys.readouterr().err

    def test_suspicions_and_unknown_categories_go_to_standard_error(self, capsys, tmp_path):
        lines = Path(flowers()).read_text().splitlines()
        numbered = [f"{number},{line}" for number, line in enumerate(lines[1:])]
        (tmp_path / "numbered.csv").write_text("\n".join([f"id,{lines[0]}", *numbered, "99,1,1,violet,AA"]) + "\n")
        options = ("--target", "species", "--impute", "mean", "--quiet")
        assert train("flowers.csv", *options, "--held-out-file", "numbered.csv") == 0
        captured = capsys.readouterr()
        assert captured.err.splitlines() == [
            "warning: numbered.csv: 1 of 91 rows has a text in column 'colour' that no training row had; to the "
            "network it is none of the categories that it knows",
            "warning: numbered.csv: not used, because the network was not trained on it: 'id'",
        ]
        assert [line.split(":")[0] for line in captured.out.splitlines()][::3] == ["test accuracy", "written to run"]
        assert train("numbered.csv", *options, "--overwrite") == 0
        assert "column 'id' has another value in every row" in capsys.readouterr().err

    def test_ignored_columns_are_not_mentioned(self, capsys):
        options = ("--target", "species", "--ignore", "colour", "--ignore", "width")
        assert train(flowers(), *options, "--held-out-file", flowers("later.csv")) == 0
        captured = capsys.readouterr()
        assert "inputs: 1, from length\n" in captured.out
        assert captured.err == ""


def write(path: str, *lines: str) -> str:
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class TestTextAndNumbers:
    def test_a_text_that_training_had_is_that_text_whatever_else_is_in_the_file(self, capsys):
        labels = {"3.1": "old", "3.10": "new", "dev": "odd"}
        rows = [f"{text},{row % 7},{labels[text]}" for row in range(40) for text in labels]
        train(write("train.csv", "release,load,label", *rows), "--target", "label", "--quiet")
        answers = []
        for rows in ["3.1,0,old", "3.10,0,new"], ["3.1,0,old", "3.10,0,new", "dev,0,odd"]:
            capsys.readouterr()
            new = write("new.csv", "release,load,label", *rows)
            assert main(["predict", "run", new]) == 0
            answers.append(capsys.readouterr().out.splitlines()[1:3])
            assert main(["evaluate", "run", new, "--quiet"]) == 0
            assert capsys.readouterr().out.startswith("accuracy: 1.0000\n")
            assert main(["check", "run", new, "--quiet"]) == 0
        assert answers[0] == answers[1]
        assert [line.split(",")[0] for line in answers[0]] == ["old", "new"]

    @pytest.mark.parametrize(
        ("cells", "what"),
        [
            (
                lambda v: f'"{v * 40:,}"',
                "such as '2,200' in line 2, which is read as 2200",
            ),
            (lambda v: f"{v}%", "such as '55%' in line 2, which is read as 55"),
            (lambda v: f"${v}", "such as '$55' in line 2, which is read as 55"),
            (lambda v: f"{v} kg", "such as '55 kg' in line 2, which is read as 55"),
            (lambda v: f"{v / 50:.1f}D+00", "such as '1.1D+00' in line 2, which is read as 1.1"),
            (lambda v: f'"1.0{v},50"', "such as '1.055,50' in line 2, which is read as 1055.5"),
            (
                lambda v: "?" if v == 62 else v,
                "in all but 4 rows, which are text here, each a %, because line 3 has '?'",
            ),
        ],
    )
    @pytest.mark.parametrize("target", [False, True])
    def test_numbers_that_programs_write_otherwise(self, capsys, cells, what, target):
        values = [25 + (30 + 7 * row) % 60 for row in range(240)]  # 55, 62, 69 ...
        write("t.csv", "v,w", *(f"{cells(v)},{v}.5" for v in values))
        assert train("t.csv", "--target", "v" if target else "w", "--epochs", "1", "--quiet") == 0
        expected = (
            f"warning: t.csv: column 'v' has numbers {what.replace('%,', ('class' if target else 'category') + ',')}"
        )
        assert expected in capsys.readouterr().err
        task = gb.load("run/model.safetensors").preprocessing.task
        assert task == ("classification" if target and "text" in what else "regression")

    def test_few_rows_with_many_whole_numbers(self, capsys):
        rows = [f"{row},{jumps}" for row, jumps in enumerate([*range(25, 195, 10), 60, 60, 40])]
        assert train(write("t.csv", "a,jumps", *rows), "--target", "jumps", "--epochs", "1") == 0
        assert "19 different whole numbers in 20 rows (--task classification takes" in capsys.readouterr().out
        rows = [f"{row}.5,{row % 9}" for row in range(18)]
        assert train(write("u.csv", "a,jumps", *rows), "--target", "jumps", "--held-out", "0.9", "--out", "other") == 1
        assert "(--held-out; 0 learns from all rows; --task regression if these are quantities)" in said(capsys)

    def test_sodium_is_not_missing(self, capsys):
        write("t.csv", "lambda,y", *(f"{58 + row / 7},{'Na' if row % 2 else 'K'}" for row in range(40)), "3,")
        assert train("t.csv", "--target", "y") == 1
        assert "has 21 missing values, the first in line 3; fill them in, or leave these rows out with --drop-m" in (
            error := said(capsys)
        )
        assert (
            "; 'Na' in line 3 was taken for one, and with --missing '' (missing= in Python) only an empty fie" in error
        )
        assert train("t.csv", "--target", "y", "--missing", "", "--drop-missing-target", "--quiet") == 0
        assert capsys.readouterr().err == "t.csv: 1 of 41 rows left out, whose target is missing\n"
        assert gb.load("run/model.safetensors").classes == ["K", "Na"]
        assert main(["evaluate", "run", "t.csv"]) == 1
        assert "'y', the target, has 1 missing value, the first in line 42" in said(capsys)
        assert main(["evaluate", "run", "t.csv", "--drop-missing-target"]) == 0
        captured = capsys.readouterr()
        assert "t.csv, the 8 rows that run held out" in captured.out
        assert captured.err == "t.csv: 1 of 41 rows left out, whose target is missing\n"
        assert main(["predict", "run", "t.csv"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 42

    def test_no_row_has_a_target(self, capsys):
        write("t.csv", "a,y", "1,", "2,")
        assert train("t.csv", "--target", "y", "--drop-missing-target") == 1
        assert "the target, column 'y', is missing in every row" in capsys.readouterr().err
        np.savez("a.npz", x=np.eye(4), y=np.arange(4))
        assert train("a.npz", "--drop-missing-target") == 2
        assert "--drop-missing-target is about tables" in said(capsys)

    def test_postcodes_are_categories_where_that_is_asked_for(self, capsys):
        write("t.csv", "plz,y", *(f"{'01067' if row % 2 else '1067'},{row % 2}.5" for row in range(40)))
        assert train("t.csv", "--target", "y", "--text", "plz") == 0
        assert "inputs: 2, from plz (2 categories)\n" in capsys.readouterr().out
        assert main(["evaluate", "run", "t.csv", "--quiet"]) == 0
        assert capsys.readouterr().out.startswith("R²: 0.9")

    def test_letters_in_another_form(self, capsys):
        rows = [f"{row % 5},{'Orléans' if row % 2 else 'Nice'},{'pq'[row % 2]}" for row in range(40)]
        write("t.csv", "qualité,ville,réponse", *rows)
        assert train("t.csv", "--target", "re\u0301ponse", "--ignore", "qualite\u0301", "--quiet") == 0
        write("n.csv", "ville,re\u0301ponse", "Orle\u0301ans,q", "Nice,p")
        capsys.readouterr()
        assert main(["evaluate", "run", "n.csv", "--quiet"]) == 0
        printed = capsys.readouterr()
        assert printed.out.startswith("accuracy: 1.0000\n")
        assert printed.err.startswith("warning: n.csv is not, row for row, what") and printed.err.count("\n") == 1


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "layers"),
        [
            ((), "Dense(16, 'relu'), Dense(3, 'softmax')"),
            (("--layers", "none"), "Dense(3, 'softmax')"),
            (("--layers", "none", "--activation", "sigmoid"), "Dense(3, 'sigmoid')"),
            (
                ("--layers", "8,4", "--dropout", "0.2"),
                "Dense(8, 'relu'), Dropout(0.2), Dense(4, 'relu'), Dropout(0.2), ",
            ),
            (("--layers", "8,4", "--activation", "tanh"), "Dense(8, 'tanh'), Dense(4, 'tanh'), Dense(3, 'softmax')"),
            (("--layers", "8,4", "--activation", "tanh,elu"), "Dense(8, 'tanh'), Dense(4, 'elu'), Dense(3, 'softmax')"),
            (("--layers", "8", "--activation", "tanh, sigmoid"), "Dense(8, 'tanh'), Dense(3, 'sigmoid')"),
            (("--loss", "poisson"), "Dense(3, 'exp')"),
        ],
    )
    def test_layers_and_activations(self, options, layers):
        small = ("--target", "species", "--impute", "mean", "--epochs", "1", "--quiet")
        assert train(flowers(), *small, *options) == 0
        assert layers in repr(gb.load("run/model.safetensors"))

    @pytest.mark.parametrize(
        ("options", "shown"),
        [
            (("--optimizer", "sgd"), "SGD(learning_rate=0.1)"),
            (("--optimizer", "adamw"), "AdamW(learning_rate=0.003, "),
            (("--optimizer", "rmsprop", "--learning-rate", "0.02"), "RMSprop(learning_rate=0.02, "),
            (("--loss", "huber", "--batch-size", "7"), "huber, Adam("),
            (("--optimizer", "lion"), "Lion(learning_rate=0.0001, beta1=0.9, beta2=0.99)"),
            (("--l2", "0.1", "--l1", "0", "--clip-value", "2"), "epsilon=1e-08, l2=0.1, clip_value=2.0)"),
            (("--optimizer", "adamw", "--weight-decay", "0.1"), "epsilon=1e-08, weight_decay=0.1)"),
        ],
    )
    def test_how_it_is_trained(self, capsys, options, shown):
        assert train(houses(), "--target", "price", *options) == 0
        assert shown in capsys.readouterr().out

    def test_many_rows_are_seen_less_often(self, capsys):
        np.savez("many.npz", x=np.zeros((15_001, 1), np.uint8), y=np.arange(15_001) % 2)
        words = ["train", "many.npz", "--recipe", "plain", "--layers", "none", "--held-out", "0"]
        assert main(words) == 0
        assert ", 78 epochs, 128 rows a step\n" in capsys.readouterr().out
        assert main([*words, "--no-early-stopping"]) == 0
        assert ", 39 epochs, 128 rows a step\n" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("flowers.csv",), "--target is missing, the column to be learned; flowers.csv has 'length', 'width', "),
            (("arrays.npz", "--target", "y"), "--target is about tables, and arrays.npz holds arrays"),
            (("--target", "y"), "--target: about data of your own"),
            (("--impute", "mean", "--task", "regression"), "--impute, --task: about data of your own"),
            (
                ("flowers.csv", "--target", "species", "--activation", "relu,relu,relu"),
                "--activation names 3 functions for 1 hidden layers; give one for all",
            ),
            (
                ("flowers.csv", "--target", "length", "--impute", "mean", "--loss", "cross_entropy"),
                "--loss cross_entropy is for classes, and this is regression",
            ),
        ],
    )
    def test_options_that_do_not_go_together(self, capsys, tmp_path, options, message):
        flowers()
        np.savez("arrays.npz", x=np.eye(4), y=np.arange(4))
        assert train(*options) == 2
        error = said(capsys)
        assert error.startswith("gpu-backprop train: error: " + message)
        assert error.endswith("(gpu-backprop train --help)\n")
        assert not (tmp_path / "run").exists()

    def test_either_a_share_or_a_file(self, capsys):
        with pytest.raises(SystemExit) as stopped:
            train(flowers(), "--target", "species", "--held-out", "0.2", "--held-out-file", "x.csv")
        assert stopped.value.code == 2
        assert "not allowed with" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("option", "value", "hint"),
        [
            ("--activation", "relu,tahn", "unknown activation 'tahn'. Did you mean 'tanh'?"),
            ("--loss", "hubber", "unknown loss 'hubber'. Did you mean 'huber'?"),
            ("--optimizer", "adan", "unknown optimizer 'adan'. Did you mean 'adam'?"),
            ("--held-out", "1", "'1' is not a number from 0 to below 1"),
            ("--task", "auto-magic", "invalid choice"),
        ],
    )
    def test_a_value_that_is_not_accepted(self, capsys, option, value, hint):
        with pytest.raises(SystemExit) as stopped:
            main(["train", f"{option}={value}"])
        assert stopped.value.code == 2
        assert hint in capsys.readouterr().err.splitlines()[-1]


class TestBadData:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("xyz.parquet",), "xyz.parquet does not exist; check the name"),
            (("flowers.cs", "--target", "species"), "did you mean 'flowers.csv'?"),
            (("flowers.csv", "--target", "specie"), "did you mean 'species'? it has 'length', 'width', "),
            (("flowers.csv", "--target", "species"), "column 'colour' has 9 missing values, the first in line 11; "),
            (("flowers.csv", "--target", "species", "--ignore", "color"), "did you mean 'colour'?"),
            (
                ("flowers.csv", "--target", "length", "--impute", "mean", "--loss", "poisson"),
                "y must be ≥ 0 for poisson",
            ),
        ],
    )
    def test_one_line_says_what_to_do(self, capsys, tmp_path, options, message):
        flowers()
        assert train(*options, "--quiet") == 1
        error = said(capsys)
        assert error.startswith("gpu-backprop: ") and message in error
        assert not (tmp_path / "run").exists()

    def test_debug_shows_where_it_came_from(self):
        with pytest.raises(ValueError, match="does not exist"):
            train("nowhere.csv", "--target", "species", "--debug")


class TestAccidents:
    """Whatever ends training, what was learned is kept."""

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (OSError(28, "No space left on device"), "No space left on device"),
            (BrokenPipeError(), "standard output was closed"),
            (MemoryError(), "there is not enough memory"),
            (OutOfMemoryError("cuda:0 cannot give 2 MiB.", needs={}), "cuda:0 cannot give 2 MiB"),
            (InputError("x.npy has 40 bytes: it was cut off."), "x.npy has 40 bytes: it was cut off"),
            (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        ],
    )
    def test_the_network_is_saved(self, capsys, monkeypatch, error, reason):
        def write(log: row_logs.CsvLog) -> None:
            if len(log.history) == 3:
                raise error

        monkeypatch.setattr(row_logs.CsvLog, "write", write)
        assert train(flowers(), "--target", "species", "--impute", "mean", "--quiet") == 1
        where = os.path.join("run", "model.safetensors")
        what = f"training ended after 3 epochs: {reason}; what was learned until then is in {where}"
        assert said(capsys) == f"gpu-backprop: {what}\n"
        learned = gb.load(where)
        assert learned.classes == ["AA", "BB", "CC"]
        assert train("flowers.csv", "--target", "species", "--impute", "mean", "--epochs", "3", "--overwrite") == 1
        np.testing.assert_array_equal(learned.parameters, gb.load(where).parameters)

    def test_no_memory_to_begin_with(self, capsys, monkeypatch, tmp_path):
        """Which batch size would fit is told, line by line, and no run is left that has learned nothing."""

        def refuse(*_: object) -> None:
            raise OutOfMemoryError("A fit needs 3 MiB:\n  data  3 MiB\nA batch size of 7 would fit.", needs={})

        monkeypatch.setattr(memory, "require_fit", refuse)
        assert train(flowers(), "--target", "species", "--impute", "mean", "--quiet") == 1
        assert (
            capsys.readouterr().err == "gpu-backprop: A fit needs 3 MiB:\n  data  3 MiB\nA batch size of 7 would fit.\n"
        )
        assert not (tmp_path / "run").exists()

    def test_where_it_cannot_be_saved(self, capsys, monkeypatch):
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        def write(*_: object) -> None:
            monkeypatch.setattr(os, "fsync", full)
            full()

        monkeypatch.setattr(row_logs.CsvLog, "write", write)
        assert train(flowers(), "--target", "species", "--impute", "mean", "--quiet") == 1
        assert "after 1 epoch: No space left on device; what was learned is lost: cannot save" in said(capsys)

    def test_a_network_that_is_spoilt_is_saved_all_the_same(self, capsys, monkeypatch):
        def fit(trainer: gb.Trainer, *_: object, **__: object) -> None:
            trainer.history.stopped = "ended in epoch 1 by ZeroDivisionError"  # as where it has begun
            trainer.network.parameters[0] = np.nan
            raise ZeroDivisionError("division by zero")

        monkeypatch.setattr(gb.Trainer, "fit", fit)
        assert train(flowers(), "--target", "species", "--impute", "mean", "--quiet") == 1
        assert "what was learned until then is in run" in said(capsys)
        with pytest.warns(RuntimeWarning, match="1 parameter is NaN or infinite"):
            gb.load("run/model.safetensors")

    @pytest.mark.parametrize("kind", [gb.InputError, RuntimeError])
    def test_curves_that_cannot_be_drawn_are_no_failure(self, capsys, monkeypatch, kind):
        def plot(*_: object) -> None:
            raise kind("cannot write the curves to 'run/curves.png': No space left on device")

        monkeypatch.setattr(gb.History, "plot", plot)
        assert train(flowers(), "--target", "species", "--impute", "mean", "--quiet") == 0
        assert "no curves.png: cannot write the curves" in capsys.readouterr().out

    @pytest.mark.skipif(sys.platform == "win32", reason="there are no such pipes on Windows")
    def test_a_reader_that_goes_away(self, monkeypatch):
        monkeypatch.setenv("PYTHONUNBUFFERED", "")  # what is printed before the first epoch arrives together with it
        options = ["--out", "run", "--epochs", "25", "--layers", "400,400"]  # a line an epoch, and some time for each
        command = [sys.executable, "-m", "gpu_backprop", "train", *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None and process.stderr is not None
            assert any(line.startswith("epoch") for line in process.stdout)  # not before: it has to be training
            process.stdout.close()
            errors = process.stderr.read()
        assert process.returncode == 1
        assert re.fullmatch(
            r"gpu-backprop: training ended after \d+ epochs?: standard output was closed; what .*\n", errors
        )
        assert gb.load("run/model.safetensors").outputs == 10


@pytest.mark.parametrize("step", ["load_train_test", "_introduce"])
def test_a_reader_that_goes_away_before_training(capsys, monkeypatch, step):
    """Nothing was trained, so that it is no success."""

    def closed(*given, **named):
        raise BrokenPipeError

    monkeypatch.setattr(f"gpu_backprop.commands.train.{step}", closed)
    assert train(flowers(), "--target", "species", "--impute", "mean") == 1
    assert "gpu-backprop: nothing was trained: standard output was closed" in capsys.readouterr().err
    assert not Path("run").exists()


def test_a_file_is_read_once(monkeypatch):
    """Reading is the slow part of a large one."""
    reads = []
    original = Table.__post_init__
    monkeypatch.setattr(Table, "__post_init__", lambda table: (reads.append(table.source), original(table))[1])
    train(flowers(), "--target", "species", "--impute", "mean", "--quiet", "--epochs", "1")
    assert reads == ["flowers.csv"]


# Memory ---------------------------------------------------------------------------------------------------------------


def test_a_limit_for_what_a_file_unpacks_to(capsys):
    assert train(flowers(), "--target", "species", "--memory-limit", "5 KB") == 1
    assert re.match(
        r"gpu-backprop: flowers\.csv: [0-9,]+ bytes unpacked, more than the limit of 5,000; use a part of it, or allow "
        r"more with --memory-limit", said(capsys)
    )  # fmt: skip
    assert not Path("run").exists()
    assert train(flowers(), "--target", "species", "--impute", "mean", "--memory-limit", "1MB", "--quiet") == 0


@pytest.mark.parametrize("size", ["4 XB", "0", "-1", "lots"])
def test_a_limit_that_is_no_size(size, capsys):
    with pytest.raises(SystemExit) as ended:
        train("flowers.csv", f"--memory-limit={size}")
    assert ended.value.code == 2
    assert "a memory limit is a number of bytes, or a size such as 4GB or 500 MiB, not" in capsys.readouterr().err
