"""docs/from-pytorch.md is true: its examples run, in their order, in one session, and come to what it says."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.network.initializers import RECTIFIERS

PAGE = (Path(__file__).parents[2] / "docs" / "from-pytorch.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
CLAIM = re.compile(r"^(?!.* = )(.+?)  # (True|\[.*\])$")


@pytest.mark.frameworks
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")  # Keras
def test_the_examples_run_in_their_order(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    for package in ("torch", "keras", "jax", "flax", "sklearn", "safetensors"):
        pytest.importorskip(package)
    sys.modules["torch"].set_num_threads(1)  # on a machine that has other work to do, they would wait for each other
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    claims = 0
    for number, example in enumerate(EXAMPLES):
        exec(compile(example, f"docs/from-pytorch.md, example {number}", "exec"), names)
        for claimed in filter(None, map(CLAIM.match, example.splitlines())):
            assert eval(claimed[1], names) == eval(claimed[2]), claimed[0]
            claims += 1
        if "history =" in example:
            assert np.abs(names["net"].predict(names["x"]) - names["probabilities"].numpy()).max() < 1e-5
    assert claims == 4


def test_what_it_says_of_defaults_is_so():
    assert {gb.Dense(1, name).initializer.name for name in RECTIFIERS} == {"he_uniform"}
    assert gb.Dense(1, "selu").initializer.name == "lecun_normal"
    assert gb.Dense(1, "tanh").initializer.name == "glorot_uniform"
    defaults = {"adam": ("epsilon", 1e-8), "rmsprop": ("decay", 0.9), "sgd": ("learning_rate", 0.1)}
    for name, (setting, value) in defaults.items():
        assert gb.OPTIMIZERS[name]().settings[setting] == value
    for name in set(re.findall(r"gb\.(\w+)", PAGE)):
        assert hasattr(gb, name), name
