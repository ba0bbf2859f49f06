"""README, and the pages that took over parts of it, say what the results say."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "bench" / "results"


def test_it_is_read_in_three_minutes() -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 15
    assert len(README.splitlines()) < 150
    assert re.search(r"^!\[.*\]\((\S+)\)$", README, re.MULTILINE).start() < 50
    for command in ("make train", "make test", "make docs"):
        assert command in README


def test_the_figures_are_those_of_the_results() -> None:
    results = json.loads((RESULTS / "digits.json").read_text(encoding="utf-8"))
    accuracies = list(results["test_accuracy"].values())
    said = f"five seeds read {results['mean']:.2%} on average ({min(accuracies):.2%} to {max(accuracies):.2%})"
    assert said.replace("%", " %") in " ".join(README.split())
    assert results["mean"] >= 0.97


def test_the_table_of_reproduced_results_is_that_of_the_file() -> None:
    page = (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")
    results = json.loads((RESULTS / "reproduce.json").read_text(encoding="utf-8"))
    for network in results["networks"]:
        published = network["published"]
        errors = network["test_error"].values()
        mean = sum(errors) / len(errors)
        assert mean <= published["error"]
        what = f"{network['network']} | {network['loss'].replace('_', ' ')}"
        claimed = f"{published['error']} % ({published['paper']})"
        row = f"| {what} | {claimed} | {mean:.2f} % ({min(errors):.2f} to {max(errors):.2f}) |"
        assert row in page
