"""What docs/distributed.md tells to type does what it says, on two ranks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ranks import needs_mpi, run_ranks

pytestmark = needs_mpi

PAGE = (Path(__file__).parents[2] / "docs" / "distributed.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (mpiexec -n 2 )?(gpu-backprop|python) (.+)$", PAGE, re.MULTILINE)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(words: str, ranks: str = "mpiexec -n 2 ", **how: bool) -> tuple[str, str]:
    done = run_ranks(2 if ranks else 1, "-m", "gpu_backprop", *words.split(), **how)
    return done.stdout, done.stderr


def test_the_commands_train_and_know_what_is_complete() -> None:
    first, *again = [(ranks, words) for ranks, program, words in COMMANDS if program == "gpu-backprop"]
    out, _ = run(first[1])
    (accuracy,) = re.findall(r"^test accuracy: (\S+)$", out, re.MULTILINE)  # once: one rank prints
    assert float(accuracy) > 0.9 and Path("runs/two/model.safetensors").exists()
    assert [ranks for ranks, _ in again] == ["mpiexec -n 2 ", ""]
    for ranks, words in again:
        assert "it is complete" in run(words, ranks, check=False)[1]


def test_the_program_trains(tmp_path: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (name,) = (words for ranks, program, words in COMMANDS if program == "python")
    Path(name).write_text(code, encoding="utf-8")
    done = run_ranks(2, name)
    assert float(done.stdout.splitlines()[-1]) > 0.9 and Path("digits.safetensors").exists()
    assert done.stdout.count("epoch") == 2  # the head of a table, and the best one: one rank shows progress
