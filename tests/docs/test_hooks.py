"""What docs/hooks.py makes of links, and what it finds that a page would load; `make docs` tries the rest."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpu_backprop.cli import COMMANDS

ROOT = Path(__file__).parents[2]
HOOKS = runpy.run_path(str(ROOT / "docs" / "hooks.py"))


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("docs/training.md", "training.md"),
        ("docs/reference/index.md", "reference/index.md"),
        ("CHANGELOG.md", "source/CHANGELOG.md"),
        ("gpu_backprop/network/layers.py", "source/gpu_backprop/network/layers.py.md"),
        ("bench/results/compare.svg", "source/bench/results/compare.svg"),
        ("bench/results/compare.json", "source/bench/results/compare.json"),
        (".ci/run", "source/ci/run.md"),
        ("kernels", "source/kernels/index.md"),
        ("bench", "source/bench/README.md"),
    ],
)
def test_every_file_has_a_place(path: str, place: str) -> None:
    assert HOOKS["place"](path) == place
    if path.endswith(".md"):
        assert HOOKS["origin"](place) == path


def led(markdown: str, place: str) -> Any:
    page = SimpleNamespace(file=SimpleNamespace(src_uri=place))
    return HOOKS["on_page_markdown"](markdown, page=page, config=None, files=None)


@pytest.mark.parametrize(
    ("place", "link", "within"),
    [
        ("training.md", "data.md#1-from", "data.md#1-from"),
        ("training.md", "../CONTRIBUTING.md#a-layer", "source/CONTRIBUTING.md#a-layer"),
        ("training.md", "../gpu_backprop/recipes.py", "source/gpu_backprop/recipes.py.md"),
        ("reference/index.md", "../training.md", "../training.md"),
        ("reference/index.md", "../../tests/notes", "../source/tests/notes/index.md"),
        ("source/CONTRIBUTING.md", "docs/architecture.md", "../architecture.md"),
        ("source/CONTRIBUTING.md", "gpu_backprop/__init__.py", "gpu_backprop/__init__.py.md"),
        ("training.md", "https://semver.org", "https://semver.org"),
        ("training.md", "../nowhere.py", "../nowhere.py"),  # which the strict build refuses, as it does
        ("training.md", "../../outside/of.md", "../../outside/of.md"),
    ],
)
def test_a_link_leads_to_the_same_within_the_site(place: str, link: str, within: str) -> None:
    assert led(f"see [it]({link}), and [it]({link})", place) == f"see [it]({within}), and [it]({within})"
    code = f"```text\n[it]({link})\n```\n"
    assert led(code, place) == code


def test_a_page_that_is_named_by_its_file_is_named_by_its_title() -> None:
    assert led("[docs/data.md](../docs/data.md)", "source/bench/README.md") == "[“Your own data”](../../data.md)"


def test_the_page_of_a_file_has_its_text() -> None:
    page = HOOKS["shown"]("gpu_backprop/network/layers.py")
    assert (ROOT / "gpu_backprop/network/layers.py").read_text(encoding="utf-8") in page
    assert "`layers.cu`" in HOOKS["shown"]("kernels")


def test_the_page_of_commands_has_what_each_says_of_itself() -> None:
    page = HOOKS["commands"]()
    assert re.findall(r"^## (\S+)$", page, re.MULTILINE) == list(COMMANDS)
    assert page.count("usage: gpu-backprop ") == len(COMMANDS) and "--held-out" in page


@pytest.mark.parametrize(
    ("text", "loaded"),
    [
        ('<script src="https://cdn.example/x.js"></script>', ["https://cdn.example/x.js"]),
        ("<link rel=stylesheet href=//fonts.example/css>", ["//fonts.example/css"]),
        ("@font-face { src: url(http://fonts.example/a.woff2) }", ["http://fonts.example/a.woff2"]),
        ('<img alt="" src="https://badge.example/x.svg">', ["https://badge.example/x.svg"]),
        ('<a href="https://semver.org">a link is no load</a>', []),
        ('<script src="assets/x.js"></script><link href="a.css"> url(data:image/png;base64,//)', []),
    ],
)
def test_what_a_page_would_load_from_elsewhere_is_found(text: str, loaded: list[str]) -> None:
    assert HOOKS["elsewhere"](text) == loaded
