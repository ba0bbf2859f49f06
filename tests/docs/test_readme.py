"""README is true: its example runs, its table is what a plan prints, its figures are those of the results."""

import json
import re
from pathlib import Path

import pytest

import gpu_backprop as gb

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


BLOCKS = dict(re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE))
"""The text of the last block in each language; that of none is the table."""


def test_the_example_runs_and_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = BLOCKS["python"]
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    history = names["history"]
    assert isinstance(history, gb.History)
    assert history[-1]["val_accuracy"] > 0.95
    assert gb.load("digits.safetensors").inputs == 64
    assert len([line for line in example.splitlines() if line.strip()]) <= 15


def test_the_table_is_what_a_plan_prints() -> None:
    net = gb.Network(64, [gb.Dense(128, "relu"), gb.Dense(10, "softmax")])
    trainer = gb.Trainer(net, loss="cross_entropy", optimizer="adam", batch_size=128)
    printed = "\n".join(line.rstrip() for line in str(trainer.plan()).splitlines())
    assert BLOCKS[""].strip() == printed


def test_the_figures_are_those_of_the_results() -> None:
    results = json.loads((ROOT / "bench" / "results" / "digits.json").read_text(encoding="utf-8"))
    accuracies = list(results["test_accuracy"].values())
    said = f"five seeds read {results['mean']:.2%} on average ({min(accuracies):.2%} to {max(accuracies):.2%})"
    assert said.replace("%", " %") in " ".join(README.split())
    assert results["mean"] >= 0.97


def test_the_table_of_reproduced_results_is_that_of_the_file() -> None:
    results = json.loads((ROOT / "bench" / "results" / "reproduce.json").read_text(encoding="utf-8"))
    for network in results["networks"]:
        published = network["published"]
        errors = network["test_error"].values()
        mean = sum(errors) / len(errors)
        assert mean <= published["error"]
        what = f"{network['network']} | {network['loss'].replace('_', ' ')}"
        claimed = f"{published['error']} % ({published['paper']})"
        row = f"| {what} | {claimed} | {mean:.2f} % ({min(errors):.2f} to {max(errors):.2f}) |"
        assert row in README
