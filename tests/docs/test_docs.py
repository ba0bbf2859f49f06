"""The pages point at things that exist: files, headings, and the functions that are named beside equations."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

import gpu_backprop as gb

ROOT = Path(__file__).parents[2]
DERIVATION = ROOT / "docs" / "derivation.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
HOOKS = runpy.run_path(str(ROOT / "docs" / "hooks.py"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def links(text: str) -> list[tuple[str, str]]:
    """(text, target) of every [text](target), images too; what stands in a block of code is no link."""
    return re.findall(r"\[([^\[\]]*)\]\(([^()\s]+)\)", FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them: lower case, letters, digits, - and _, spaces become -."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def fault(page: Path, label: str, target: str) -> str | None:
    """What is wrong with a link, if anything."""
    if target.startswith(("https://", "http://", "mailto:")):
        return None
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    if not file.exists() or not file.is_relative_to(ROOT):
        return "no such file in the project"
    if anchor and anchor not in anchors(file.read_text(encoding="utf-8")):
        return "no such heading"
    name = re.fullmatch(r"`([\w.]+)`", label)
    if name and file.suffix == ".py" and file.name != Path(name[1]).name:
        return None if name[1] in HOOKS["lines"](file) else "the file does not define it"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    found = [(label, target, fault(page, label, target)) for label, target in links(page.read_text(encoding="utf-8"))]
    assert not [f"[{label}]({target}): {wrong}" for label, target, wrong in found if wrong]


@pytest.mark.parametrize(
    ("label", "target"),
    [
        ("gone", "gone.md"),
        ("outside", "../../../etc/hosts"),
        ("heading", "#17-nothing"),
        ("`Dense.gone`", "../gpu_backprop/network/layers.py"),
        ("`Dropout.own`", "../gpu_backprop/network/layers.py"),  # inherited: the reader would not find it there
    ],
)
def test_a_broken_link_is_found(label: str, target: str) -> None:
    assert fault(DERIVATION, label, target)


def test_links_and_anchors_are_read_rightly() -> None:
    assert links("a [`X.y`](../z.py) b\n```text\n[no](link)\n```\n![plot](p.svg)") == [
        ("`X.y`", "../z.py"),
        ("plot", "p.svg"),
    ]
    assert anchors("# 6. Columns, not rows: the δ\n## A_b-c") == {"6-columns-not-rows-the-δ", "a_b-c"}


def test_what_a_file_defines_is_found_at_its_line(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text("A: int = 1\nB = 2\ndef f(): x = 1\nclass C:\n    d = 1\n    def m(self): pass", encoding="utf-8")
    assert HOOKS["lines"](file) == {"A": 1, "B": 2, "f": 3, "C": 4, "C.d": 5, "C.m": 6}


@pytest.mark.parametrize("table", [gb.ACTIVATIONS, gb.LOSSES], ids=["activations", "losses"])
def test_every_row_of_a_table_is_derived(table: dict[str, Any]) -> None:
    rows = re.findall(r"^\| `(\w+)`", DERIVATION.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(table) <= set(rows)


def test_the_table_of_optimizers_is_that_of_their_rules() -> None:
    names = runpy.run_path(str(ROOT / "docs" / "list_optimizers.py"))
    text = DERIVATION.read_text(encoding="utf-8")
    assert text == names["written"](text), "run python docs/list_optimizers.py"
    assert all(f"| `{name}` | " in text for name in gb.OPTIMIZERS)


def test_what_an_activation_reads_is_what_the_page_says() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| (\S+) \| [^|]*\|$", DERIVATION.read_text(encoding="utf-8"), re.MULTILINE)
    said = {name: reads.strip("$") for name, reads in rows if name in gb.ACTIVATIONS}
    assert said == {name: row.reads or "nothing" for name, row in gb.ACTIVATIONS.items()}
