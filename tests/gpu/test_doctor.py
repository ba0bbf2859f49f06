"""gpu-backprop doctor where there is a device: it trains there, compares, and says what is off."""

from __future__ import annotations

import re

import pytest

from gpu_backprop.backend.errors import DeviceError
from gpu_backprop.backend.open_device import open_device
from gpu_backprop.cli import main
from gpu_backprop.commands import doctor

pytestmark = pytest.mark.gpu

NAMES = ["gpu-backprop", "Python", "NumPy", "CPU", "CuPy", "driver", "device", "memory", "NVRTC", "cuBLAS"]
TRAINED = ["products", "kernels", "training"]


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
