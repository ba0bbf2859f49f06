"""What `explain` and the command line say of formulas of one's own."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from own_formulas import ACTIVATION_ROWS, LOSS_CLASSES, RULE_ROWS

import gpu_backprop as gb
from gpu_backprop import explanation
from gpu_backprop.explanation.rules import activation_rules, loss_rule

X, Y = np.array([[0.5, -1.0], [0.25, 2.0]]), np.array([[1.0], [-1.0]])


@pytest.mark.parametrize("name", ACTIVATION_ROWS)
def test_the_rules_of_an_activation_are_what_the_engine_does(name):
    f = ACTIVATION_ROWS[name]
    value, slope = activation_rules(f)
    z, step = 0.7, 1e-6
    y = value.value(z=z)
    difference = (value.value(z=z + step) - value.value(z=z - step)) / (2 * step)
    assert slope.value(**{f.reads: {"y": y, "z": z}[f.reads]}) == pytest.approx(difference, rel=1e-6)


@pytest.mark.parametrize("name", LOSS_CLASSES)
def test_the_rules_of_a_loss(name):
    rule, step = loss_rule(LOSS_CLASSES[name]()), 1e-6
    difference = (rule.share.value(0.6 + step, 0.3) - rule.share.value(0.6 - step, 0.3)) / (2 * step)
    assert rule.slope.value(y=0.6, t=0.3) == pytest.approx(difference, rel=1e-6)


@pytest.mark.parametrize("rule", RULE_ROWS.values(), ids=lambda rule: rule.name)
def test_a_step_is_explained_in_full(rule):
    net = gb.Network(2, [gb.Dense(2, ACTIVATION_ROWS["snake"]), gb.Dense(1)], seed=0)
    text = explanation.explain(gb.Trainer(net, LOSS_CLASSES["own_huber"](delta=2), gb.Optimizer(rule)), X, Y)
    assert "y1[0,0] = z1[0,0] + sin(3·z1[0,0])²/3 = " in text and "·(1 + sin(6·z1[0,0])) = " in text
    assert "e[0] = where(abs(y2[0,0] − y*[0,0]) < 2, 0.5·(y2[0,0] − y*[0,0])², " in text.replace("\n      ", " ")


def test_the_command_line_takes_a_network_that_was_saved(tmp_path):
    csv = tmp_path / "data.csv"
    x = np.random.default_rng(0).normal(size=(30, 3)).round(3)
    csv.write_text("a,b,y\n" + "\n".join(",".join(map(str, row)) for row in x.tolist()), encoding="utf-8")
    command = [sys.executable, "-W", "error", "-m", "gpu_backprop"]

    def run(*arguments):
        return subprocess.run([*command, *arguments], capture_output=True, text=True, check=True, cwd=tmp_path).stdout

    run("train", csv, "--target", "y", "--out", "run", "--epochs", "1")
    net = gb.Network(2, [gb.Dense(2, ACTIVATION_ROWS["snake"]), gb.Dense(1)], seed=0)
    net.preprocessing = gb.load(tmp_path / "run" / "model.safetensors").preprocessing
    gb.save(tmp_path / "own.safetensors", net)
    assert "Dense(2, 'snake')" in run("check", "own.safetensors", csv)
    assert "sin(3·z1[0,0])²/3" in run("explain", "own.safetensors", csv)
    assert "half_squared_error" in run("evaluate", "own.safetensors", csv)
    assert run("predict", "own.safetensors", csv)
