"""The pages point at things that exist: files, headings, and the functions that are named beside equations."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.explanation import explain

ROOT = Path(__file__).parents[2]
DERIVATION = ROOT / "docs" / "derivation.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def links(text: str) -> list[tuple[str, str]]:
    """(text, target) of every [text](target), images too; what stands in a block of code is no link."""
    return re.findall(r"\[([^\[\]]*)\]\(([^()\s]+)\)", FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them: lower case, letters, digits, - and _, spaces become -."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def names(source: str) -> set[str]:
    """`function`, `Class`, `Class.method` and `CONSTANT`, as a Python file defines them itself."""

    def defined(body: list[ast.stmt], prefix: str) -> set[str]:
        found = set()
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found.add(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                found |= defined(node.body, f"{prefix}{node.name}.")
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            found |= {prefix + target.id for target in targets if isinstance(target, ast.Name)}
        return found

    return defined(ast.parse(source).body, "")


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
        return None if name[1] in names(file.read_text(encoding="utf-8")) else "the file does not define it"
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


def test_links_anchors_and_names_are_read_rightly() -> None:
    assert links("a [`X.y`](../z.py) b\n```text\n[no](link)\n```\n![plot](p.svg)") == [
        ("`X.y`", "../z.py"),
        ("plot", "p.svg"),
    ]
    assert anchors("# 6. Columns, not rows: the δ\n## A_b-c") == {"6-columns-not-rows-the-δ", "a_b-c"}
    source = "A: int = 1\nB = 2\ndef f(): x = 1\nclass C:\n    d = 1\n    def m(self): pass"
    assert names(source) == {"A", "B", "f", "C", "C.d", "C.m"}


@pytest.mark.parametrize("table", [gb.ACTIVATIONS, gb.LOSSES], ids=["activations", "losses"])
def test_every_row_of_a_table_is_derived(table: dict[str, Any]) -> None:
    rows = re.findall(r"^\| `(\w+)`", DERIVATION.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(table) <= set(rows)


def test_the_table_of_optimizers_is_that_of_their_rules() -> None:
    names = runpy.run_path(str(ROOT / "docs" / "list_optimizers.py"))
    text = DERIVATION.read_text(encoding="utf-8")
    assert text == names["written"](text), "run python docs/list_optimizers.py"
    assert all(f"| `{name}` | " in text for name in gb.OPTIMIZERS)


def test_the_optimizer_of_ones_own_is_what_its_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "own_optimizer.md").read_text(encoding="utf-8")
    [code] = [body for language, body in FENCE.findall(text) if language == "python"]
    scope: dict[str, Any] = {}
    exec(code, scope)
    net, trainer = scope["net"], scope["trainer"]
    assert f"`{trainer.optimizer.formula}`" in text
    for part in trainer.optimizer.formula.split(", "):
        assert part in capsys.readouterr().out + str(trainer.plan())
    x, labels = np.random.default_rng(0).normal(size=(20, 64)).astype(np.float32), np.arange(20) % 10
    w, m = float(net.parameters[0]), 0.0
    for _ in range(3):  # Chen et al. 2023, algorithm 2
        trainer.step(x, labels)
        g = float(net.gradients[0])
        w -= 0.001 * (np.sign(0.9 * m + 0.1 * g) + 0.1 * w)
        m = 0.99 * m + 0.01 * g
        assert net.parameters[0] == pytest.approx(w, abs=1e-6)
    assert "sign(c)" in explain(trainer, x, labels)


def test_what_an_activation_reads_is_what_the_page_says() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| (\S+) \| [^|]*\|$", DERIVATION.read_text(encoding="utf-8"), re.MULTILINE)
    said = {name: reads.strip("$") for name, reads in rows if name in gb.ACTIVATIONS}
    assert said == {name: row.reads or "nothing" for name, row in gb.ACTIVATIONS.items()}


def test_the_example_of_a_scalar_from_outside_runs_and_lowers_it() -> None:
    (code,) = [body for language, body in FENCE.findall(DERIVATION.read_text(encoding="utf-8")) if language == "python"]
    net = gb.Network(3, [gb.Dense(4, "tanh"), gb.Dense(2)], dtype="float64", device="cpu")
    scope: dict[str, Any] = {"net": net, "np": np, "x": np.random.default_rng(0).normal(size=(5, 3))}
    seen = []
    for _ in range(3):
        exec(code, scope)
        seen.append(scope["E"])
    assert seen[0] > seen[1] > seen[2]
    assert scope["grad_x"].shape == (5, 3)
