"""gpu-backprop doctor where there is a device: it trains there, compares, and says what is off."""

from __future__ import annotations

import re

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.errors import DeviceError
from gpu_backprop.backend.open_device import open_device
from gpu_backprop.cli import main
from gpu_backprop.commands import doctor, usual_kernels

pytestmark = pytest.mark.gpu

NAMES = ["gpu-backprop", "Python", "NumPy", "CPU", "cache", "CuPy", "driver", "device", "memory", "NVRTC", "cuBLAS"]
TRAINED = ["products", "epilogues", "kernels", "training"]


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0"])
def test_everything_works(capsys, device):
    assert main(["doctor", "--device", device]) == 0
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert [line.split()[:2] for line in lines[:-2]] == [[name, "ok"] for name in NAMES + TRAINED]
    assert lines[-1] == f"--device {device} takes cuda:0. It works."
    assert re.search(r"^kernels +ok +[1-9]\d* compiled, or found compiled, and run, in \d+\.\d s$", lines[-4])
    assert re.search(r"at most \d\.\de-\d\d from the CPU's parameters$", lines[-3])
    assert output.err == ""


def test_other_results_than_the_cpu_has(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "CLOSE", -1.0)
    assert main(["doctor"]) == 1
    assert "\ntraining      OFF  the parameters are " in capsys.readouterr().out


def test_kernels_that_do_not_compile(capsys, monkeypatch):
    def broken(*arguments, **parameters):
        raise DeviceError("the kernel does not compile:\n line 3")

    monkeypatch.setattr(open_device("cuda").kernels, "launch", broken)
    assert main(["doctor", "--device", "cuda"]) == 1
    output = capsys.readouterr().out
    assert "\ntraining      OFF  fails: DeviceError: the kernel does not compile: line 3\n" in output
    assert output.endswith("It does not work: fails: DeviceError: the kernel does not compile: line 3.\n")


def test_an_index_that_does_not_exist(capsys):
    assert main(["doctor", "--device", "cuda:99"]) == 1
    assert "device        OFF  there is no CUDA device 99; this machine has " in capsys.readouterr().out
    with pytest.raises(DeviceError, match="'cuda:99' cannot be used: there is no CUDA device 99"):
        open_device("cuda:99")


# Kernels compiled ahead -----------------------------------------------------------------------------------------------

HIDDEN = {
    "plain": [gb.Dense(16, "relu")],
    "dropout": [gb.Dropout(0.2), gb.Dense(7, "gelu"), gb.Dropout(0.5), gb.Dense(16, "tanh")],
    "bounded": [gb.Dense(16, "relu", max_norm=1.0)],
}
FITS = [
    ("plain", gb.Dense(3, "softmax"), {}),
    ("dropout", gb.Dense(10, "softmax"), {"optimizer": "adamw"}),
    ("plain", gb.Dense(1), {"optimizer": gb.SGD(0.1, 0.9)}),
    ("plain", gb.Dense(1, "sigmoid"), {"optimizer": "rmsprop"}),
    ("plain", gb.Dense(50, "softmax"), {"optimizer": "lion"}),
    ("bounded", gb.Dense(3, "softmax"), {"clip_norm": 1.0, "average": 0.9, "accumulate": 2}),
    ("plain", gb.Dense(9, "sigmoid"), {"loss": "focal", "optimizer": gb.Adam(schedule="cosine")}),
]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_usual_kernels_are_all_that_usual_fits_need(dtype, monkeypatch):
    kernels = open_device("cuda").kernels
    monkeypatch.setattr(kernels, "functions", {})
    known = usual_kernels.usual_kernels("cuda", dtype).keys() | kernels.functions.keys()
    rng = np.random.default_rng(0)
    for inputs, (hidden, last, options) in zip((8, 5) * len(FITS), FITS, strict=False):
        net = gb.Network(inputs, [*HIDDEN[hidden], last], device="cuda", dtype=dtype)
        trainer = gb.Trainer(net, batch_size=16, one_launch=False, **options)
        x = rng.integers(0, 2, (61, inputs), np.uint8) if inputs == 8 else rng.normal(size=(61, inputs))
        y = rng.integers(0, 3, 61) if last.activation.name == "softmax" else rng.uniform(size=(61, net.outputs))
        kernels.functions.clear()
        trainer.fit(x, y, 3, validation=(x, y), progress=False)
        assert kernels.functions and kernels.functions.keys() <= known, hidden


def test_kernels_are_compiled_ahead(capsys, monkeypatch):
    """Those that are not compiled yet; what cannot be compiled is an error."""
    fits = usual_kernels.usual_fits
    monkeypatch.setattr(usual_kernels, "usual_fits", lambda *how: [next(fits(*how))])
    kernels = open_device("cuda").kernels
    monkeypatch.setattr(kernels, "functions", {})
    for again in (False, True):
        assert main(["doctor", "--device", "cuda", "--compile"]) == 0
        line = r"^compiled +ok +(\d+) kernels of usual float32 networks, (\d+) now, in \d+\.\d s$"
        found = re.search(line, capsys.readouterr().out, re.MULTILINE)
        assert int(found[1]) > 5 and (int(found[2]) > 0) != again

    def broken(*arguments):
        raise DeviceError("the kernel does not compile")

    monkeypatch.setattr(usual_kernels, "usual_kernels", broken)
    assert main(["doctor", "--device", "cuda", "--compile"]) == 1
    output = capsys.readouterr().out
    assert "→ report this, with all lines above\n" in output
    assert output.endswith("--device cuda takes cuda:0. It works, but no kernels were compiled.\n")
