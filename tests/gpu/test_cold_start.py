"""The first steps of a process wait for no kernel but ours, and these are compiled several at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.cuda.kernel_library import KernelLibrary
from gpu_backprop.backend.open_device import open_device

pytestmark = pytest.mark.gpu

ROOT = Path(gb.__file__).parents[1]

FITS = """
import sys
from cupy.cuda import compiler

compile_now, ours = compiler._compile_module_with_cache, 0

def refuse(source, *arguments, **options):
    global ours
    if "#define BP_DEV" not in source:  # with which each text of ours begins
        raise AssertionError("CuPy compiles a kernel: " + source[-500:])
    ours += 1
    return compile_now(source, *arguments, **options)

compiler._compile_module_with_cache = refuse

import numpy as np
import gpu_backprop as gb
from gpu_backprop.cli import main

dtype = sys.argv[1]
assert main(["doctor"]) == 0
for seed in (0, [1, 2, 3]):
    layers = [gb.Dropout(0.25), gb.Dense(9, "relu"), gb.Dropout([0.5] * 3 if seed else 0.5), gb.Dense(3, "softmax")]
    net = gb.Network(6, layers, device="cuda", dtype=dtype, seed=seed)
    rate = [0.1, 0.2, 0.3] if seed else 0.1
    trainer = gb.Trainer(net, optimizer=gb.Adam(rate, schedule="cosine"), batch_size=8, clip_norm=1.0, average=0.9)
    x, y = np.random.default_rng(0).normal(size=(44, 6)), np.arange(44) % 3
    trainer.fit(x, y, 3, validation=(x, y), early_stopping=True, progress=False)
    trainer.fit(x.astype("f4"), y, 2, weights=np.ones(44), progress=False)
    trainer.optimizer.learning_rate = rate
    trainer.evaluate(x, y)
    net.predict(x)
    for _ in range(3):
        np.asarray(trainer.step(x[:5], y[:5]))
    trainer.__reduce__()  # what a checkpoint keeps
assert ours > 9
"""


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_nothing_is_compiled_by_cupy_for_itself(dtype):
    """Neither for doctor nor for fits with dropout, members, schedules, validation and replayed steps."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FITS, dtype], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]


def test_all_kernels_of_a_plan_are_compiled_together(monkeypatch):
    """Where nothing is compiled yet, binding finds all of them."""
    device = open_device("cuda")
    asked, compile_all = [], KernelLibrary.compile

    def compile_them(library, kernels):
        kernels = list(kernels)
        asked.append({made.name for made in kernels})
        return compile_all(library, kernels)

    monkeypatch.setattr(device.kernels, "functions", {})
    monkeypatch.setattr(KernelLibrary, "compile", compile_them)
    net = gb.Network(6, [gb.Dense(8, "relu"), gb.Dropout(0.5), gb.Dense(3, "softmax")], device="cuda")
    before = set(device.kernels.compiled)
    gb.Trainer(net).step(np.ones((4, 6)), [0, 1, 2, 0])
    (together,) = asked
    assert set(device.kernels.compiled) - before == together - before
    assert {name.partition("<")[0] for name in together} >= {"bias_activate", "dropout", "advance"}


# What replaced CuPy's kernels -----------------------------------------------------------------------------------------


def arrays(device, dtype, form):
    """Two arrays with the same bits: contiguous, of members that lie apart, or single numbers that do."""
    values = np.arange(1, 61).astype(dtype).reshape(4, 15)
    wide = {"whole": values, "members": np.concatenate([values, values], 1), "numbers": np.repeat(values, 2, 1)}[form]
    part = {"whole": np.s_[:], "members": np.s_[:, :15], "numbers": np.s_[:, ::2]}[form]
    return device.from_host(wide)[part], device.from_host(values)


@pytest.mark.parametrize("form", ["whole", "members", "numbers"])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64", "uint64"])
def test_one_bit_that_differs_is_found(dtype, form):
    device = open_device("cuda")
    for place in [None, (0, 0), (3, 14), (1, 7)]:
        a, b = arrays(device, dtype, form)
        if place:
            changed = device.to_host(b)
            changed.view(f"u{b.itemsize}")[place] ^= 1
            device.copy_in(b, changed)
        found = device.differing([(b, b), (a, b), (a, a)])
        assert found.tolist() == [False, place is not None, False]


def test_bits_are_compared_and_not_values():
    device = open_device("cuda")
    numbers = [np.array(v, np.float32) for v in ([np.nan], [0.0], [-0.0], [])]
    nan, zero, minus, nothing = map(device.from_host, numbers)
    pairs = [(nan, device.copy(nan)), (zero, minus), (nothing, nothing), (device.zeros(()), device.zeros(()))]
    assert device.differing(pairs).tolist() == [False, True, False, False]
    assert device.differing([]).tolist() == []
    large = np.zeros(1 << 22, np.uint8)  # more than a thread a byte
    whole, other = device.from_host(large), device.from_host(large)
    assert device.differing([(whole, other)]).tolist() == [False]
    other[-1] = 1
    assert device.differing([(whole, other)]).tolist() == [True]


@pytest.mark.parametrize("form", ["whole", "members", "numbers"])
def test_parts_that_lie_apart_are_copied(form):
    device = open_device("cuda")
    a, b = arrays(device, "float32", form)
    expected, beside = device.to_host(b), device.to_host(a.base if form != "whole" else a)
    assert (device.to_host(device.copy(a)) == expected).all() and (device.to_host(a) == expected).all()
    device.copy_in(a, device.from_host(-expected))
    assert (device.to_host(a) == -expected).all()
    device.copy_in(a, expected)
    assert (device.to_host(a) == expected).all()
    if form != "whole":
        assert (device.to_host(a.base) == beside).all()  # nothing else was written
    device.copy_in(b, a)
    assert (device.to_host(b) == expected).all()
