"""Without standard output or standard error, as with >&-, in a service or under pythonw, everything works, and what
would have been printed is nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="a shell is needed that closes descriptors")

TOWNS = "town,v,y\n" + "".join(f"Nice,{row}.5,p\nLyon,{60 - row}.5,q\n" for row in range(30))
FIT = """
import sys, numpy as np, gpu_backprop as gb
assert sys.stdout is None
net = gb.Network(2, [gb.Dense(1)])
gb.Trainer(net).fit(np.ones((9, 2)), np.ones((9, 1)), 2, csv="history.csv", progress=True)
print(net.summary())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table, and a network that knows it."""
    made = tmp_path_factory.mktemp("streams")
    (made / "t.csv").write_text(TOWNS)
    (made / "new.csv").write_text("town,v\nParis,3\n")  # a town that it does not know draws a warning
    options = ["t.csv", "--target", "y", "--epochs", "2", "--out", "run", "--quiet"]
    subprocess.run([sys.executable, "-m", "gpu_backprop", "train", *options], cwd=made, check=True, capture_output=True)
    return made


def run(folder: Path, closed: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


NONE, NO_OUTPUT, NO_ERRORS = "<&- >&- 2>&-", ">&-", "2>&-"
TRAIN = "train t.csv --target y --epochs 2 --out run --overwrite"


@pytest.mark.parametrize(
    ("words", "closed"),
    [
        (TRAIN, NONE),
        (TRAIN, NO_OUTPUT),
        ("evaluate run t.csv", NONE),
        ("predict run new.csv --output p.csv", NONE),
        ("predict run new.csv --output p.csv", NO_OUTPUT),
        ("predict run new.csv --output p.csv", NO_ERRORS),
        ("predict run new.csv", NONE),
        ("predict run new.csv", NO_ERRORS),
        ("check run t.csv", NONE),
        ("explain run t.csv", NONE),
        ("doctor --device cpu", NONE),
        ("--help", NONE),
    ],
)
def test_every_command_works(folder, words, closed):
    done = run(folder, closed, "-m", "gpu_backprop", *words.split())
    assert done.returncode == 0, done
    assert ">&-" not in closed.split() or done.stdout == ""
    assert "2>&-" not in closed.split() or done.stderr == ""
    assert "warning" not in done.stdout and "Traceback" not in done.stderr
    if "--output" in words:
        assert (folder / "p.csv").read_text().startswith("prediction,p,q\n")
        assert (folder / "p.csv").read_text().count("\n") == 2


def test_what_fails_still_fails(folder):
    assert run(folder, ">&- 2>&-", "-m", "gpu_backprop", "train", "nowhere.csv").returncode == 1
    assert run(folder, ">&- 2>&-", "-m", "gpu_backprop", "tarin").returncode == 2


def test_fit_in_python(folder):
    done = run(folder, "<&- >&-", "-c", FIT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (folder / "history.csv").read_text().count("\n") == 3
