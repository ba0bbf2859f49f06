"""The reference has every public name, each once, and the docstrings that it shows say what every argument means."""

from __future__ import annotations

import importlib
import inspect
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import gpu_backprop as gb
from gpu_backprop import data

pytest.importorskip("sklearn", reason="the estimators are part of the reference")

FOLDER = Path(__file__).parents[2] / "docs" / "reference"
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in sorted(FOLDER.glob("*.md")))
BLOCK = re.compile(r"^::: (\S+)\n((?:    .*\n)*)", re.MULTILINE)
MEMBERS = re.compile(r"^      members:((?:\s*- \w+)+|.*)", re.MULTILINE)
SHOWN = {path: re.findall(r"\w+", "".join(MEMBERS.findall(options))) for path, options in BLOCK.findall(TEXT)}
"""By the path of a name, which members of it are shown."""

PUBLIC = {f"gpu_backprop.{name}" for name in dir(gb)} | {f"gpu_backprop.data.{name}" for name in data.__all__}
PUBLIC |= {f"gpu_backprop.interop.{name}" for name in ("onnx", "c_header", "pytorch", "jax", "keras")}
PUBLIC |= {"gpu_backprop.from_mlp", "gpu_backprop.to_mlp"}  # of interop.sklearn


MADE_BY_US = {"gpu_backprop.SearchResult"}
"""Classes whose objects a function gives, and which nobody else makes."""


def found(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def callables() -> dict[str, tuple[Any, ...]]:
    """What is shown and takes arguments, and what else may say what they mean: a class and those above it."""
    every: dict[str, tuple[Any, ...]] = {}
    for path, members in SHOWN.items():
        thing = found(path)
        if inspect.isclass(thing) and issubclass(thing, BaseException):
            continue  # nobody makes them but us
        if callable(thing) and path not in MADE_BY_US:
            every[path] = (thing, *(thing.__mro__[1:-1] if inspect.isclass(thing) else ()))
        for name in members:
            member = getattr(thing, name)
            if callable(member):
                every[f"{path}.{name}"] = (member, thing)
    return every


CALLABLES = callables()


def test_every_public_name_stands_on_one_page() -> None:
    shown = Counter(re.sub(r"interop\.sklearn\.", "", path) for path, _ in BLOCK.findall(TEXT))
    assert PUBLIC - shown.keys() == set(), "to be put on a page of docs/reference/"
    assert shown.keys() - PUBLIC == set(), "no public name"
    assert {path for path, times in shown.items() if times > 1} == set()


@pytest.mark.parametrize("path", [path for path in SHOWN if not isinstance(found(path), (dict, data.Encoding))])
def test_it_and_its_members_say_what_they_are(path: str) -> None:
    thing = found(path)
    assert inspect.getdoc(thing)
    for name in SHOWN[path]:
        assert inspect.getdoc(getattr(thing, name)), name


def text_of(*things: Any) -> str:
    return "\n".join(inspect.getdoc(thing) or "" for thing in things)


def referred(text: str) -> list[Any]:
    """What a docstring sends its reader to, as in "as `Network.predict` takes them"."""
    names = [name.partition(".") for name in re.findall(r"`([A-Z]\w+(?:\.\w+)?)`", text)]
    things = [(getattr(gb, first, None), rest) for first, _, rest in names]
    return [getattr(thing, rest, None) if rest else thing for thing, rest in things]


@pytest.mark.parametrize("path", CALLABLES)
def test_every_argument_is_explained(path: str) -> None:
    """By its name in the docstring, in that of the class that it belongs to or comes from, or where one is sent."""
    thing, *others = CALLABLES[path]
    text = text_of(thing, *others) + text_of(*referred(text_of(thing)))
    arguments = [name for name in inspect.signature(thing).parameters if name not in {"self", "more"}]
    assert [name for name in arguments if not re.search(rf"\b{name}\b", text)] == []


def test_its_first_page_names_the_others() -> None:
    index = (FOLDER / "index.md").read_text(encoding="utf-8")
    assert [page.name for page in FOLDER.glob("*.md") if f"({page.name})" not in index] == ["index.md"]
