"""bench/prebuilt.py: from its wheel a network trains where there is no compiler."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import gpu_backprop as gb
from gpu_backprop.backend.compiled import compiler
from gpu_backprop.backend.compiled.library import BASE
from gpu_backprop.training.optimizers import ADAM

BENCH = Path(__file__).parents[2] / "bench"
UNITS = [*BASE, "losses", gb.ACTIVATIONS["relu"], ADAM]

TRAIN = """
import numpy as np
import gpu_backprop as gb

net = gb.Network(4, [gb.Dense(8, "relu"), gb.Dense(3, "softmax")], device="cpu", seed=0)
trainer = gb.Trainer(net, optimizer="adam")
x = np.random.default_rng(0).standard_normal((30, 4))
losses = [float(trainer.step(x, np.arange(30) % 3)) for _ in range(3)]
assert losses[2] < losses[0]
print(net.device.reason, len(trainer.manual_steps._replays))
"""


@pytest.fixture
def installed(tmp_path_factory, monkeypatch):
    """The folder of a package with few kernels prebuilt, for the processors that all others of 64 bits follow."""
    try:
        compiler.find()
    except compiler.NoCompilerError as error:
        pytest.skip(f"kernels cannot be compiled: {error}")
    monkeypatch.syspath_prepend(BENCH)
    prebuilt = importlib.import_module("prebuilt")
    (level, found), *_ = reversed([*prebuilt.LEVELS[prebuilt.platform.machine()].items()])
    monkeypatch.setattr(prebuilt, "LEVELS", {prebuilt.platform.machine(): {level: found}})
    monkeypatch.setattr(prebuilt, "DTYPES", ("float32",))
    folder = tmp_path_factory.mktemp("installed")
    backend = [sys.executable, "-c", "import sys, hatchling.build; hatchling.build.build_wheel(sys.argv[1])"]
    monkeypatch.setattr(prebuilt, "BUILD", backend)
    wheel = prebuilt.build(folder / "wheel", UNITS)
    zipfile.ZipFile(wheel).extractall(folder)
    return folder, level, wheel


def test_the_wheel_trains_without_a_compiler(installed, tmp_path):
    folder, level, wheel = installed
    assert "py3-none-manylinux_2_" in wheel.name
    found = list((folder / "gpu_backprop" / "prebuilt" / level).iterdir())
    assert len(found) == len(UNITS) and {path.suffix for path in found} == {".so"}
    environment = os.environ | {"PYTHONPATH": str(folder), "XDG_CACHE_HOME": str(tmp_path), "PATH": str(tmp_path)}
    for asked in "", "prebuilt":
        environment |= {"GPU_BACKPROP_COMPILER": asked, "CXX": ""}
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", TRAIN], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.stdout.startswith(f"as asked; prebuilt kernels for {level} compiled by "), done.stderr
    assert not list(tmp_path.rglob("*.so"))


def test_a_processor_that_is_too_old_for_all_of_them_has_none(installed, monkeypatch):
    prebuilt = importlib.import_module("gpu_backprop.backend.compiled.prebuilt")
    folder, level, _ = installed
    kernels = folder / "gpu_backprop" / "prebuilt"
    assert prebuilt._folder.__wrapped__(kernels) == kernels / level
    monkeypatch.setattr(compiler, "processor", lambda: "flags : fpu sse sse2")
    assert prebuilt._folder.__wrapped__(kernels) is None
    monkeypatch.setenv("GPU_BACKPROP_COMPILER", "prebuilt")
    with pytest.raises(compiler.NoCompilerError, match="=prebuilt, and none are installed for this processor"):
        prebuilt.find()
