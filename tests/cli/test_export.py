"""gpu-backprop export: a run as a file for other programs."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.cli import main
from gpu_backprop.data import read
from gpu_backprop.interop.formats import FORMATS

ROWS = 80


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with two tables and a run on each; nobody writes in it."""
    folder, generator = tmp_path_factory.mktemp("trained"), np.random.default_rng(0)
    flowers, flats = ["length,colour,since,species"], ["area,rent"]
    for row in range(ROWS):
        length = f"{row % 3 * 4 + generator.normal():.2f}" if row % 9 else ""
        colour = ["blue", " white ", "NA"][row % 3] if row % 10 else "red"
        flowers.append(f'"{length}",{colour},2026-{row % 12 + 1:02}-{row % 28 + 1:02},{"ABC"[row % 3]}')
        area = generator.uniform(40, 200)
        flats.append(f'{area:.1f},"${area * 20 + 1000:,.2f}"')
    (folder / "flowers.csv").write_text("\n".join(flowers) + "\n", encoding="utf-8")
    (folder / "flats.csv").write_text("\n".join(flats) + "\n", encoding="utf-8")
    for name, target in (("flowers", "species"), ("flats", "rent")):
        words = ["train", str(folder / f"{name}.csv"), "--target", target, "--epochs", "3", "--quiet"]
        assert main([*words, "--out", str(folder / name)]) == 0
    return folder


@pytest.fixture(autouse=True)
def working_folder(trained, tmp_path, monkeypatch):
    """Every test has a folder to write in."""
    for entry in trained.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    monkeypatch.chdir(tmp_path)


def predicted(capsys, *words):
    """What predict prints, as rows of texts."""
    capsys.readouterr()
    assert main(["predict", *words]) == 0
    return list(csv.reader(io.StringIO(capsys.readouterr().out)))[1:]


def refused(capsys, code, *words):
    """The one line of an error."""
    assert main(["export", *words]) == code
    (line,) = capsys.readouterr().err.splitlines()
    return line


class TestOnnx:
    def run(self, file, run, rows):
        runtime = pytest.importorskip("onnxruntime")
        from gpu_backprop.interop.onnx import feeds

        session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
        fed = feeds(gb.load(Path(run) / "model.safetensors").preprocessing, read(rows))
        return dict(zip([one.name for one in session.get_outputs()], session.run(None, fed), strict=True))

    def test_it_gives_what_predict_gives(self, capsys):
        """Also for rows with texts that were never seen, and without a number."""
        new = Path("new.csv")
        new.write_text("since,length,colour\n2030-02-28,,violet\n2031-01-01,5,\n1999-12-31,1,blue\n", encoding="utf-8")
        assert main(["export", "flowers", "flowers.onnx"]) == 0
        assert capsys.readouterr().out == "written to flowers.onnx\n"
        for rows in "new.csv", "flowers.csv":
            found = self.run("flowers.onnx", "flowers", rows)
            labels, *probabilities = zip(*predicted(capsys, "flowers", rows), strict=True)
            assert found["label"].tolist() == list(labels)
            np.testing.assert_allclose(found["probabilities"], np.array(probabilities, float).T, atol=1e-6)

    def test_intervals(self, capsys):
        assert main(["export", "flats", "flats.onnx", "--interval", "0.5"]) == 0
        found = self.run("flats.onnx", "flats", "flats.csv")
        wanted = np.array(predicted(capsys, "flats", "flats.csv", "--interval", "0.5"), float)
        outputs = np.hstack([found["prediction"], found["low"], found["high"]])
        np.testing.assert_allclose(outputs, wanted, rtol=1e-5)
        assert "predicts classes" in refused(capsys, 1, "flowers", "no.onnx", "--interval", "0.5")

    def test_a_missing_package(self, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "onnx", None)
        assert "gpu-backprop[onnx]" in refused(capsys, 1, "flowers", "no.onnx")
        assert not Path("no.onnx").exists()


class TestC:
    def test_eight_bits_are_measured(self, capsys):
        assert main(["export", "flats", "flats.h"]) == 0
        assert capsys.readouterr().out == "written to flats.h\n"
        assert main(["export", "flats/model.safetensors", "flats.h", "--int8", "--rows", "flats.csv"]) == 0
        told, written = capsys.readouterr().out.splitlines()
        assert told.endswith("measured on 80 given rows") and written == "written to flats.h"
        assert f"{told}." in Path("flats.h").read_text(encoding="ascii")

    def test_texts(self, capsys):
        assert "these are none: 'since', 'colour'" in refused(capsys, 1, "flowers", "flowers.h")
        assert main(["export", "flowers", "flowers.h", "--prepared"]) == 0


def test_parameters_alone(capsys):
    assert main(["export", "flats", "flats.safetensors"]) == 0
    told, written = capsys.readouterr().out.splitlines()
    assert told == "it holds the parameters alone, and takes rows as the network's preprocessing makes them"
    assert written == "written to flats.safetensors"
    net = gb.load("flats/model.safetensors")
    twin = gb.Network.from_architecture(net.architecture(), draw=False)
    gb.interop.pytorch.read_safetensors("flats.safetensors", twin)
    assert twin.parameters.tobytes() == net.parameters.tobytes()
    assert "--int8 is not for the format safetensors" in refused(capsys, 2, "flats", "a.safetensors", "--int8")


def test_the_format_is_that_of_the_ending_or_the_one_that_is_named(capsys):
    assert main(["export", "flats", "flats.bin", "--format", "c"]) == 0
    assert Path("flats.bin").read_text(encoding="ascii").startswith("/* flats: ")
    message = refused(capsys, 2, "flats", "flats.txt")
    assert all(f"{known.ending} ({name})" in message for name, known in FORMATS.items())


@pytest.mark.parametrize("format", FORMATS)
def test_bad_input(capsys, format):
    ending = FORMATS[format].ending
    assert "No such file" in refused(capsys, 1, "nothing", f"a{ending}")
    assert "is not a safetensors file" in refused(capsys, 1, "flats.csv", f"a{ending}")
    assert "give a path in a folder that exists" in refused(capsys, 1, "flats", f"nowhere/a{ending}")
    assert "Is a directory" in refused(capsys, 1, "flats", ".", "--format", format)
    assert list(Path().glob("a*")) == []


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_there_is_replaced_but_for_what_is_read(capsys, format):
    file = Path(f"net{FORMATS[format].ending}")
    file.write_text("older", encoding="utf-8")
    assert main(["export", "flats", str(file)]) == 0
    assert file.stat().st_size > 100
    before = Path("flats/model.safetensors").read_bytes()
    message = refused(capsys, 2, "flats", "flats/model.safetensors", "--format", format)
    assert "would overwrite flats/model.safetensors, which is read" in message
    assert Path("flats/model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("a.onnx", "--int8"), "--int8 is not for the format onnx"),
        (("a.h", "--interval", "0.9"), "--interval is not for the format c"),
        (("a.h", "--int8", "--delimiter", ";"), "--part, --delimiter: about the rows of --rows; leave them out"),
        (("a.h", "--rows", "flats.csv"), "--rows are for measuring what --int8 changes; give both"),
        (("flats.csv", "--format", "c", "--int8", "--rows", "flats.csv"), "would overwrite flats.csv, which is read"),
    ],
)
def test_options_that_do_not_go_together(capsys, words, why):
    assert why in refused(capsys, 2, "flats", *words)


def test_several_networks(capsys):
    gb.save("two.safetensors", gb.Network(2, [gb.Dense(1)], seed=[1, 2]))
    assert "is 2 networks side by side" in refused(capsys, 1, "two.safetensors", "two.onnx")


def test_a_network_without_a_preprocessing(capsys):
    gb.save("bare.safetensors", gb.Network(2, [gb.Dense(1)]))
    for name in "bare.onnx", "bare.h":
        assert main(["export", "bare.safetensors", name]) == 0
    assert "leave --rows out" in refused(capsys, 2, "bare.safetensors", "b.h", "--int8", "--rows", "flats.csv")
