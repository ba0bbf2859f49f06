"""docs/reliability.md tells what docs/proof.md, which a command writes, says of the last run."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
PAGE, PROOF = ((DOCS / f"{name}.md").read_text(encoding="utf-8") for name in ("reliability", "proof"))
ROW = re.compile(r"^\| `(bench/assault/\w+\.py)` \| .+? \| (.+?) \| (\S+) \| (\w+) \|$", re.MULTILINE)


def test_the_figures_are_those_of_the_proof() -> None:
    told = {}
    for section in PROOF.split("\n## "):
        if found := re.search(r"^\$ python (bench/assault/\w+\.py)\n(.*?)\n```", section, re.MULTILINE | re.DOTALL):
            when = re.search(r"^passed in \d+ s: (\S+), commit (\w+)", section, re.MULTILINE)
            assert when is not None, f"{found[1]} did not pass"
            told[found[1]] = (" ".join(found[2].split("\n")), *when.groups())
    assert {command: tuple(row) for command, *row in ROW.findall(PAGE)} == told
