"""What a release consists of says one thing: version, changelog, citation, the pages, the checks that run elsewhere."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import pytest
import yaml

import gpu_backprop as gb

ROOT = Path(__file__).parent.parent

# What says which version it is ----------------------------------------------------------------------------------------

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CHANGES = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
KINDS = "Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"
RELEASED = re.compile(r"(\d+\.\d+\.\d+) - (\d{4}-\d\d-\d\d)")


def number(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def test_the_version_is_three_numbers_in_one_place():
    assert re.fullmatch(r"\d+\.\d+\.\d+", gb.__version__) and PROJECT["dynamic"] == ["version"]


def faults_of_changes(text: str, version: str) -> list[str]:
    """What is wrong with a changelog, where the package has this version."""
    heads = re.findall(r"^## (.*)$", text, re.MULTILINE)
    faults = [] if heads[:1] == ["Unreleased"] else ["the first section is not Unreleased"]
    releases = [RELEASED.fullmatch(head) for head in heads[1:]]
    faults += [f"{head} is no VERSION - DATE" for head, found in zip(heads[1:], releases, strict=True) if not found]
    order = [(number(found[1]), found[2]) for found in releases if found]
    if order != sorted(order, reverse=True):
        faults.append("the newest release does not stand first")
    if order and order[0][0] > number(version):
        faults.append(f"it has a release newer than {version}, which __version__ is")
    if order and order[0][0] < number(version) and not re.search(r"^## Unreleased\n+[^#\n]", text, re.MULTILINE):
        faults.append(f"nothing says what is new in {version}")
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        kinds = re.findall(r"^### (.*)$", section, re.MULTILINE)
        if kinds != [kind for kind in KINDS if kind in kinds]:
            faults.append(f"{section.splitlines()[0]} has {kinds}, which are not some of {KINDS}, each once, in order")
    return faults


def test_the_changelog_is_in_order():
    assert faults_of_changes(CHANGES, gb.__version__) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("## 0.1.0 - 2026-01-01\n", "not Unreleased"),
        ("## Unreleased\n\n## 0.1.0\n", "0.1.0 is no VERSION"),
        ("## Unreleased\n\n## 0.0.9 - 2026-01-01\n\n## 0.1.0 - 2026-01-02\n", "newest release"),
        ("## Unreleased\n\n## 0.2.0 - 2026-01-01\n", "newer than 0.1.0"),
        ("## Unreleased\n\n## 0.0.9 - 2026-01-01\n", "nothing says what is new in 0.1.0"),
        ("## Unreleased\n\n### New\n", "some of"),
        ("## Unreleased\n\n### Fixed\n\n### Added\n", "in order"),
    ],
)
def test_a_changelog_that_is_not_in_order_is_found(text, fault):
    assert fault in " ".join(faults_of_changes(text, "0.1.0"))


def test_the_citation_is_that_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(cited)  # what the format wants; cffconvert has read it
    assert cited["version"] == gb.__version__ and cited["license"] == PROJECT["license"]
    assert cited["authors"] == PROJECT["authors"]
    released = {found[1]: found[2] for found in RELEASED.finditer(CHANGES)}
    assert cited.get("date-released") == released.get(gb.__version__)


# What runs elsewhere --------------------------------------------------------------------------------------------------

WORKFLOWS = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in (ROOT / ".github" / "workflows").iterdir()
}
PYTHONS = [
    name.removeprefix("Programming Language :: Python :: ") for name in PROJECT["classifiers"] if ":: 3." in name
]
CHECKED = runpy.run_path(str(ROOT / "bench" / "release_check.py"))


def commands(workflow: str) -> list[str]:
    return [step["run"] for job in WORKFLOWS[workflow]["jobs"].values() for step in job["steps"] if "run" in step]


def test_the_hosted_checks_do_what_is_done_here():
    assert "bash .ci/run" in commands("ci")
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    made = {target for name in WORKFLOWS for line in commands(name) for target in re.findall(r"make (\S+)", line)}
    assert made <= set(targets) and "dist" in made
    assert WORKFLOWS["ci"]["jobs"]["python"]["strategy"]["matrix"]["python"] == PYTHONS


def test_the_hosted_checks_may_read_and_no_more_but_for_the_one_that_publishes():
    assert all(workflow["permissions"] == {"contents": "read"} for workflow in WORKFLOWS.values())
    more = {job for flow in WORKFLOWS.values() for job, what in flow["jobs"].items() if "permissions" in what}
    assert more == {"publish"} and "secrets." not in str(WORKFLOWS)


def test_a_release_is_checked_on_every_python_that_we_name():
    assert list(CHECKED["OLDEST_NUMPY"]) == PYTHONS
    said = (ROOT / "docs" / "versions.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| (3\.\d+) \| (2\.\d+) \|", said, re.MULTILINE)) == CHECKED["OLDEST_NUMPY"]
    assert [name for name in CHECKED["TESTS"] if not (ROOT / name).exists()] == []
