"""Whoever lacks an optional package is told how to get it, with a checkout and without one, and in the same words."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import gpu_backprop
from gpu_backprop.display.extras import install

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
SOURCES = {path: path.read_text(encoding="utf-8") for path in Path(gpu_backprop.__file__).parent.rglob("*.py")}
NAMED = sorted({extra for text in SOURCES.values() for extra in re.findall(r"\binstall\(['\"]([\w-]+)['\"]\)", text)})
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
WITHOUT, WITHIN = (rf"{start}\[([\w,-]+)\]" for start in (r"gpu-backprop", r"-e [\"']?\."))


def test_errors_name_extras() -> None:
    assert {"plot", "lbfgs", "sklearn", "tensorboard", "mpi", "optuna", "data", "cuda12", "cuda13"} <= set(NAMED)


@pytest.mark.parametrize("extra", NAMED)
def test_an_extra_that_an_error_names_is_there_and_can_be_installed_in_two_ways(extra: str) -> None:
    assert extra in EXTRAS
    assert re.findall(WITHOUT, install(extra)) == re.findall(WITHIN, install(extra)) == [extra]


def test_no_error_says_it_in_words_of_its_own() -> None:
    said = {path.name for path, text in SOURCES.items() if re.search(r"gpu[-_]backprop\[\w|pip install -e", text)}
    assert said == {"extras.py"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_that_says_how_to_install_an_extra_says_it_for_a_checkout_too(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    without, within = (
        {extra for group in re.findall(start, text) for extra in group.split(",")} for start in (WITHOUT, WITHIN)
    )
    assert without <= within <= set(EXTRAS)
