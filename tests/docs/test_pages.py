"""Every page is true: its programs and commands run in their order, in one session and one folder, and print what it
says.

A page is tested because it is there. What a few of them need besides, and what has to hold afterwards, is in tables.
"""

from __future__ import annotations

import ast
import gzip
import re
import runpy
import shlex
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.cli import main
from gpu_backprop.data import load_digits
from gpu_backprop.explanation import explain

ROOT = Path(__file__).parents[2]
PAGES = {page.relative_to(ROOT).as_posix(): page for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]}
TEXTS = {name: page.read_text(encoding="utf-8") for name, page in PAGES.items()}
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$(?:\n\n```\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
"""A program or commands; behind a program, in a block without a language, what it prints."""

ELSEWHERE = {
    "docs/cuda.md": "gpu/test_examples.py", "docs/distributed.md": "distributed/test_page.py",
    "docs/deploy.md": "docs/test_deploy.py", "docs/from-pytorch.md": "docs/test_from_pytorch.py",
    "docs/serving.md": "docs/test_serving.py", "docs/own-formulas.md": "docs/test_own_formulas.py",
}  # fmt: skip
"""Pages whose programs want a CUDA device, several ranks, a C compiler, other libraries or a server, or print what is
read more closely; and the file in tests/ that runs them there."""

SHORTER = {"docs/populations.md": {"epochs=100": "epochs=15", "seeds=2": "seeds=1"}}
"""By page, what is replaced so that a page is run in seconds."""

MARKS = {"docs/from-scikit-learn.md": pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")}

NAMED = {
    "docs/training.md": (
        *gb.SCHEDULES, "early_stopping", "class_weight", "clip_norm", "average", "accumulate", "max_norm",
    ),
    "docs/data.md": tuple(f"$ gpu-backprop {name} " for name in ("train", "evaluate", "predict", "check", "explain")),
}  # fmt: skip
"""What a page has to name, because it promises to leave nothing out."""


class Ran(NamedTuple):
    """What a page has done: the names that its programs have made, what all of it printed, and where it ran."""

    names: dict[str, Any]
    printed: str
    folder: Path


def steps(page: str) -> Iterator[tuple[str, str]]:
    """A program or a command, "$ …", and what it prints; … where a page does not say; in the order of the page."""
    for language, body, printed in BLOCK.findall(TEXTS[page]):
        if language == "python":
            yield body, printed or "…\n"
        else:
            for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                command, _, said = part.partition("\n")
                yield f"$ {command}", said


RUN = [name for name in PAGES if name not in ELSEWHERE and any(steps(name))]


def agrees(said: str, printed: str) -> bool:
    """Whether the lines of the page are those that were printed, in order; … stands for anything."""
    parts = [line if line.strip("…") else "…" for line in said.splitlines()]
    pattern = "\n".join(re.escape(line).replace("…", ".*") for line in parts)
    pattern = re.sub(r"^(\.\*\n?)+", "(?:.*\n)*", pattern)  # a line of nothing else: any number of lines
    pattern = re.sub(r"\n(\.\*(\n|$))+", "\n(?:.*\n)*", pattern)
    return re.fullmatch(pattern + "\n*", re.sub(r" +$", "", printed, flags=re.MULTILINE)) is not None


def packages(page: str) -> set[str]:
    """What the programs of a page import that is not everybody's."""
    found: set[str] = set()
    for program, _ in steps(page):
        for node in ast.walk(ast.parse(program)) if not program.startswith("$ ") else ():
            modules = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {module.partition(".")[0] for module in modules}
    return found - {"gpu_backprop", "numpy", ""} - set(sys.stdlib_module_names)


@pytest.mark.parametrize("page", [pytest.param(name, marks=MARKS.get(name, ()), id=name) for name in RUN])
def test_it_does_what_it_says(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in packages(page):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    BEFORE.get(page, lambda folder: None)(tmp_path)
    ran = Ran({"__name__": "__main__"}, "", tmp_path)
    for what, said in steps(page):
        if not what.startswith("$ "):
            for long, short in SHORTER.get(page, {}).items():
                what = what.replace(long, short)
            exec(compile(what, page, "exec"), ran.names)
        else:
            program, *arguments = shlex.split(what[2:], comments=True)
            if program == "python":
                runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")
            else:
                assert program == "gpu-backprop", f"{what}: only python FILE and gpu-backprop are run"
                assert main(arguments) == ("gpu-backprop: " in said), what
        captured = capsys.readouterr()
        printed = captured.out + captured.err
        assert agrees(said, printed), f"{what}\n{printed}"
        ran = ran._replace(printed=ran.printed + printed)
    AFTER.get(page, lambda ran: None)(ran)


@pytest.mark.parametrize("page", PAGES)
def test_every_name_is_there(page: str) -> None:
    text = TEXTS[page]
    told = {name for name in re.findall(r"\bgb\.(\w+)", text) if not hasattr(gb, name)}
    kinds = ("trainer", gb.Trainer), ("population", gb.Population), ("net", gb.Network)
    of_objects = {
        f"{words}.{name}"
        for words, kind in kinds
        for name in re.findall(rf"`{words}\.(\w+)\(", text)
        if not hasattr(kind, name)
    }
    left_out = {name for name in NAMED.get(page, ()) if name not in text}
    assert not told | of_objects and not left_out


def test_what_runs_elsewhere_is_run_there() -> None:
    for page, file in ELSEWHERE.items():
        assert page.rpartition("/")[2] in (ROOT / "tests" / file).read_text(encoding="utf-8")


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
        ("…\n", "", True),
        ("…\n", "a\nb\n", True),
        ("a\n", "a  \n", True),
    ],
)
def test_how_a_page_and_an_output_are_compared(said: str, printed: str, agreed: bool) -> None:
    assert agrees(said, printed) is agreed


# What pages find in their folder -----------------------------------------------------------------------------------


def files_of_data(folder: Path) -> None:
    """A small MNIST, and the tables of which docs/data.md shows no making."""
    (folder / "headless.csv").write_text("87,1962,1131\n40,1999,700\n", encoding="utf-8")
    (folder / "later.csv").write_text(
        "district,m2,built,rent\nhill,60,2005,1020\nharbour,50,1950,450\nold town,100,1930,1100\n", encoding="utf-8"
    )
    x, labels = load_digits()
    (folder / "mnist").mkdir()
    for part, rows in (("train", slice(0, 300)), ("t10k", slice(300, 400))):
        images = (x[rows] * 15).astype(np.uint8)
        write = {
            f"{part}-images-idx3-ubyte.gz": struct.pack(">4B3I", 0, 0, 8, 3, len(images), 8, 8) + images.tobytes(),
            f"{part}-labels-idx1-ubyte.gz": struct.pack(">4BI", 0, 0, 8, 1, len(images))
            + labels[rows].astype(np.uint8).tobytes(),
        }
        for name, content in write.items():
            (folder / "mnist" / name).write_bytes(gzip.compress(content))


BEFORE: dict[str, Callable[[Path], None]] = {"docs/data.md": files_of_data}


# What holds afterwards ---------------------------------------------------------------------------------------------


def digits_are_learned(ran: Ran) -> None:
    assert ran.names["history"][-1]["val_accuracy"] > 0.95
    assert gb.load("digits.safetensors").inputs == 64


def files_of_training(ran: Ran) -> None:
    for written in ("rates.png", "curves.png", "report.html", "history.jsonl", "digits.safetensors"):
        assert (ran.folder / written).stat().st_size > 0
    history = ran.names["trainer"].history
    assert len(history) == 3 and history.stopped is None


def tables_are_predicted(ran: Ran) -> None:
    lines = (ran.folder / "predicted.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "prediction,harbour,hill,old town" and len(lines) == 401
    assert f"`{(ran.folder / 'flats.csv').read_text(encoding='utf-8').splitlines()[0]}`" in TEXTS["docs/data.md"]


def the_search_finds(ran: Ran) -> None:
    result = ran.names["result"]
    assert len(result.trials) == 36 and result.trials[0]["score"] < 0.65
    assert 40 < ran.names["error"] < 65 and ran.names["outputs"].shape == (3, 89, 1)
    assert (ran.folder / "trials.csv").stat().st_size > 0 and gb.load("winner.safetensors").trained_by["epochs"] > 0


def estimators_learn(ran: Ran) -> None:
    names = ran.names
    for written in ("search.joblib", "digits.safetensors", "dear.safetensors"):
        assert (ran.folder / written).stat().st_size > 0
    assert names["clf"].score(names["X_test"], names["y_test"]) > 0.95
    assert names["stream"].score(names["X_val"], names["y_val"]) == names["stream"].best_validation_score_
    assert 0.8 < (names["upper"].predict(names["Xr"]) > names["yr"]).mean() < 0.97
    assert names["clf"].stopped_ in TEXTS["docs/from-scikit-learn.md"]
    assert names["dear"].score(names["flats"], names["kind"]) > 0.8


def the_scalar_falls(ran: Ran) -> None:
    first, second, third = map(float, ran.printed.split())
    assert first > second > third and ran.names["grad_x"].shape == (5, 3)


def the_rule_is_that_of_its_authors(ran: Ran) -> None:
    net, trainer = ran.names["net"], ran.names["trainer"]
    assert f"`{trainer.optimizer.formula}`" in TEXTS["docs/own_optimizer.md"]
    for part in trainer.optimizer.formula.split(", "):
        assert part in ran.printed
    x, labels = np.random.default_rng(0).normal(size=(20, 64)).astype(np.float32), np.arange(20) % 10
    w, m = float(net.parameters[0]), 0.0
    for _ in range(3):  # Chen et al. 2023, algorithm 2
        trainer.step(x, labels)
        g = float(net.gradients[0])
        w -= 0.001 * (np.sign(0.9 * m + 0.1 * g) + 0.1 * w)
        m = 0.99 * m + 0.01 * g
        assert net.parameters[0] == pytest.approx(w, abs=1e-6)
    assert "sign(c)" in explain(trainer, x, labels)


AFTER: dict[str, Callable[[Ran], None]] = {
    "README.md": digits_are_learned,
    "docs/index.md": digits_are_learned,
    "docs/training.md": files_of_training,
    "docs/data.md": tables_are_predicted,
    "docs/populations.md": the_search_finds,
    "docs/from-scikit-learn.md": estimators_learn,
    "docs/derivation.md": the_scalar_falls,
    "docs/own_optimizer.md": the_rule_is_that_of_its_authors,
}
