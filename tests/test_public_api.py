"""Nothing public changes by accident: names, parameters, defaults, options of commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType

import public_api
import pytest

ROOT = Path(__file__).parents[1]


def test_the_public_interface_is_what_its_record_says() -> None:
    """In a process of its own, where no other test has registered a formula or changed a table."""
    done = subprocess.run([sys.executable, public_api.__file__], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr


def test_what_a_page_names_of_interop_is_public() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
    named = re.findall(r"gpu_backprop\.interop(?:\.| import )([a-z_]+(?:, [a-z_]+)*)", text)
    modules = {f"interop.{name}" for names in named for name in names.split(", ")}
    assert modules and modules <= set(public_api.MODULES)


def test_a_change_is_shown_with_what_to_do() -> None:
    told = public_api.difference("Adam(rate=0.1)\nLion()\n", "Adam(rate=0.2)\nLion()\n")
    assert "\n-Adam(rate=0.1)\n+Adam(rate=0.2)\n" in told and "Lion" not in told
    assert "CHANGELOG.md under Unreleased" in told and told.endswith("python tests/public_api.py --write")
    assert public_api.difference("Lion()\n", "Lion()\n") == ""


def by_number(a, /, b: int = 1, *more, c="x", d=(1, (None,)), **rest) -> None: ...


def by_object(a=object(), b=MappingProxyType({}), c=len, d=int, e=float("nan")) -> None: ...  # noqa: B008


class Shown:
    declared: int
    there = 1

    def __init__(self, first, *, second=2) -> None:
        self.first, self._second = first, second

    def method(self, a) -> None: ...

    @classmethod
    def made(cls, a=1) -> None: ...

    @staticmethod
    def free(a) -> None: ...

    @property
    def seen(self) -> int:
        return 1

    def _hidden(self) -> None: ...


@pytest.mark.parametrize(
    ("function", "shown"),
    [
        (by_number, "(a, /, b=1, *more, c='x', d=(1, (None,)), **rest)"),
        (by_object, "(a=<object>, b=<mappingproxy>, c=len, d=int, e=nan)"),
        (Shown, "(first, *, second=2)"),
        (KeyError, "(...)"),
    ],
)
def test_parameters_look_the_same_in_every_process_and_version(function: object, shown: str) -> None:
    assert public_api.parameters(function) == shown


def test_a_class_shows_what_it_has_without_an_underscore() -> None:
    called = {"free": "(a)", "made": "(a=1)", "method": "(a)"}
    assert public_api.members(Shown) == dict.fromkeys(("declared", "first", "seen", "there"), "") | called


def test_the_record_is_written_and_read(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(public_api, "RECORD", tmp_path / "api.txt")
    monkeypatch.setattr(public_api, "text", lambda: "Adam()\n")
    assert public_api.main(["--write"]) is None and public_api.main([]) is None
    monkeypatch.setattr(public_api, "text", lambda: "Lion()\n")
    assert "-Adam()\n+Lion()" in str(public_api.main([]))
    assert "--write" in str(public_api.main(["--help"]))
