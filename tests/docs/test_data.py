"""docs/data.md is true: its commands and programs are run in order, in one folder, and print what it says."""

from __future__ import annotations

import gzip
import re
import runpy
import shlex
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gpu_backprop.cli import main
from gpu_backprop.data import load_digits

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def steps() -> Iterator[tuple[str, str]]:
    """("python", a program) or (a command, what it prints), in the order of the page."""
    for language, body in BLOCKS:
        if language == "python":
            yield language, body
        else:
            for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                yield command, output


def agrees(said: str, printed: str) -> bool:
    """Whether the lines of the page are those that were printed, in order; … stands for anything."""
    parts = [line if line.strip("…") else "…" for line in said.splitlines()]
    pattern = "\n".join(re.escape(line).replace("…", ".*") for line in parts)
    pattern = re.sub(r"^(\.\*\n?)+", "(?:.*\n)*", pattern)  # a line of nothing else: any number of lines
    pattern = re.sub(r"\n(\.\*(\n|$))+", "\n(?:.*\n)*", pattern)
    return re.fullmatch(pattern + "\n*", printed) is not None


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the page's commands are typed: with the examples, a small MNIST, and the files that it speaks of."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "headless.csv").write_text("87,1962,1131\n40,1999,700\n", encoding="utf-8")
    (tmp_path / "later.csv").write_text(
        "district,m2,built,rent\nhill,60,2005,1020\nharbour,50,1950,450\nold town,100,1930,1100\n", encoding="utf-8"
    )
    x, labels = load_digits()
    (tmp_path / "mnist").mkdir()
    for part, rows in (("train", slice(0, 300)), ("t10k", slice(300, 400))):
        images = (x[rows] * 15).astype(np.uint8)
        write = {
            f"{part}-images-idx3-ubyte.gz": struct.pack(">4B3I", 0, 0, 8, 3, len(images), 8, 8) + images.tobytes(),
            f"{part}-labels-idx1-ubyte.gz": struct.pack(">4BI", 0, 0, 8, 1, len(images))
            + labels[rows].astype(np.uint8).tobytes(),
        }
        for name, content in write.items():
            (tmp_path / "mnist" / name).write_bytes(gzip.compress(content))
    return tmp_path


def test_every_command_and_program_does_what_the_page_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for what, said in steps():
        if what == "python":
            exec(compile(said, "docs/data.md", "exec"), {})
            capsys.readouterr()
            continue
        program, *arguments = shlex.split(what)
        if program == "python":
            runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")
        else:
            assert program == "gpu-backprop"
            assert main(arguments) == ("gpu-backprop: " in said), what
        printed = capsys.readouterr()
        assert agrees(said, printed.out + printed.err), f"{what}\n{printed.out}{printed.err}"
    assert (folder / "predicted.csv").read_text(encoding="utf-8").startswith("prediction,harbour,hill,old town\n")
    assert len((folder / "predicted.csv").read_text(encoding="utf-8").splitlines()) == 401
    assert f"`{(folder / 'flats.csv').read_text(encoding='utf-8').splitlines()[0]}`" in PAGE


def test_the_page_has_what_it_should() -> None:
    commands = [command.split()[1] for command, _ in steps() if command.startswith("gpu-backprop")]
    assert set(commands) == {"train", "evaluate", "predict", "check", "explain"}
    assert {language for language, _ in BLOCKS} == {"console", "python"}


@pytest.mark.parametrize(
    ("said", "printed", "agreed"),
    [
        ("a\n", "a\n", True),
        ("a\n", "b\na\n", False),
        ("a\n", "a\nb\n", False),
        ("…\na\n", "b\nc\na\n", True),
        ("…\na\n", "a\n", True),
        ("a\n…\n", "a\nb\nc\n", True),
        ("a\n…\nb\n", "a\nb\n", True),
        ("a\n…\nb\n", "a\nc\n\nd\nb\n", True),
        ("a\n…\nb\n", "a\nc\n", False),
        ("a …, b\n", "a 17, b\n", True),
        ("a …, b\n", "a 17, c\n", False),
        ("a …\n", "a\n", False),
        ("a.c\n", "abc\n", False),
    ],
)
def test_how_a_page_and_an_output_are_compared(said: str, printed: str, agreed: bool) -> None:
    assert agrees(said, printed) is agreed
