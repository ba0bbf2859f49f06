"""gpu-backprop doctor without a CUDA device: the CPU's side for certain, and what keeps CUDA from being used."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.check import Check
from gpu_backprop.backend.compiled import library_files
from gpu_backprop.backend.cuda import setup as cuda_setup
from gpu_backprop.cli import main
from gpu_backprop.commands import doctor, usual_kernels

FINE = Check("CuPy", True, "14.2.0, built for CUDA 13.2")
OFF = Check("driver", False, "there is no NVIDIA driver", "install one")


@pytest.fixture
def found(monkeypatch):
    """A function that makes these checks be what the examination yields."""

    def pretend(*checks):
        indices = []
        monkeypatch.setattr(cuda_setup, "examine", lambda index: indices.append(index) or iter(checks))
        return indices

    return pretend


@pytest.fixture
def trained_on_cuda(monkeypatch):
    """A function that makes these checks be what training on CUDA yields."""

    def pretend(*checks):
        monkeypatch.setattr(doctor, "_cuda", lambda name, expected: iter(checks))

    return pretend


def test_the_side_of_the_cpu(capsys, monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    assert main(["doctor", "--device", "cpu"]) == 0
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert [line.split()[:2] for line in lines[:4]] == [[n, "ok"] for n in ("gpu-backprop", "Python", "NumPy", "CPU")]
    assert lines[0].split()[2] == gb.__version__
    assert np.__version__ in lines[2] and re.search(r"products by \S+.*, \d+ cores, OPENBLAS_NUM_THREADS=3", lines[2])
    first, second = map(float, re.search(r"two steps of training: loss (\d\.\d+), then (\d\.\d+)$", lines[3]).groups())
    assert 0 < second < first
    assert [line for line in lines[4:] if not line.startswith("cache")] == [
        "",
        "--device cpu takes the CPU. It works.",
    ]
    assert output.err == ""


@pytest.mark.skipif(sys.platform != "linux", reason="kernels for the CPU are compiled on Linux only")
def test_where_compiled_kernels_are_kept(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(library_files, "folder", lambda: tmp_path)
    (tmp_path / f"old{library_files.SUFFIX}").write_bytes(bytes(5 << 20))
    (tmp_path / "old.log").write_bytes(bytes(9 << 20))
    assert library_files.kept() == 5 << 20
    monkeypatch.setattr(library_files, "kept", lambda: 3 << 19)
    main(["doctor", "--device", "cpu"])
    (told,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("cache")]
    assert told == f"cache         ok   compiled kernels in {tmp_path}, 1.5 of at most 64 MB"


@pytest.mark.parametrize(
    ("compiler", "found", "remedy"),
    [
        ("none", "NumPy alone: GPU_BACKPROP_COMPILER=none; two steps", ""),
        ("false", "NumPy alone: false fails: no message; two steps", "name another C++ compiler"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="kernels for the CPU are compiled on Linux only")
def test_a_cpu_without_kernels(capsys, monkeypatch, compiler, found, remedy):
    monkeypatch.setenv("GPU_BACKPROP_COMPILER", compiler)
    assert main(["doctor", "--device", "cpu"]) == 0
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert lines[3].startswith(f"CPU           ok   {found}") and remedy in lines[4]
    assert bool(remedy) == lines[4].lstrip().startswith("→") and output.err == ""


def test_auto_goes_on_without_cuda(capsys, found):
    assert found(FINE, OFF, Check("NVRTC", False, "no NVRTC")) == []
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()[4:]
    assert [line for line in lines if not line.startswith("cache")] == [
        "CuPy          ok   14.2.0, built for CUDA 13.2",
        "driver        OFF  there is no NVIDIA driver",
        "                   → install one",
        "NVRTC         OFF  no NVRTC",
        "",
        "--device auto takes the CPU, since there is no NVIDIA driver. It works.",
    ]


@pytest.mark.parametrize(("device", "index"), [("cuda", 0), ("cuda:1", 1)])
def test_cuda_that_was_asked_for_fails(capsys, found, device, index):
    asked = found(FINE, OFF)
    assert main(["doctor", "--device", device]) == 1
    assert asked == [index]
    end = f"--device {device} takes cuda:{index}. It does not work: there is no NVIDIA driver."
    assert capsys.readouterr().out.splitlines()[-1] == end


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_training_on_cuda_decides(capsys, found, trained_on_cuda, device):
    found(FINE)
    trained_on_cuda(Check("kernels", True, "5 compiled"), Check("training", True, "fine"))
    assert main(["doctor", "--device", device]) == 0
    assert capsys.readouterr().out.endswith(f"fine\n\n--device {device} takes cuda:0. It works.\n")
    trained_on_cuda(Check("training", False, "fails", "report this"))
    assert main(["doctor", "--device", device]) == 1
    assert capsys.readouterr().out.endswith(f"\n\n--device {device} takes cuda:0. It does not work: fails.\n")


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_cpu_that_fails(capsys, found, monkeypatch, device):
    def broken(name):
        raise RuntimeError("illegal instruction")

    found(OFF)
    monkeypatch.setattr(doctor, "_train", broken)
    assert main(["doctor", "--device", device]) == 1
    output = capsys.readouterr().out
    assert "CPU           OFF  training fails: RuntimeError: illegal instruction\n" in output
    assert output.endswith(". It does not work: training fails: RuntimeError: illegal instruction.\n")


def test_whatever_is_here_is_said(capsys):
    """The examination itself, unless a device is there: tests/gpu has that."""
    here = cuda_setup.obstacle(0)
    if here is None:
        pytest.skip("CUDA works here, and tests/gpu/test_doctor.py asks it")
    assert main(["doctor"]) == 0
    output = capsys.readouterr().out
    assert f"OFF  {here.found}\n                   → {here.remedy}\n" in output
    assert output.endswith(f"--device auto takes the CPU, since {here.found}. It works.\n")


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_kernels_are_compiled_for_a_device_only(capsys, found, device):
    found(OFF)
    assert main(["doctor", "--device", device, "--compile"]) == 1
    why = ", since there is no NVIDIA driver" if device == "auto" else ""
    output = capsys.readouterr().out
    assert "\ncompiled      OFF  --compile is for a CUDA device, and here the CPU was chosen\n" in output
    end = f"\n\n--device {device} takes the CPU{why}. It works, but no kernels were compiled.\n"
    assert output.endswith(end)


def test_what_does_not_work_compiles_nothing(capsys, found, trained_on_cuda, monkeypatch):
    asked = []
    monkeypatch.setattr(doctor, "compile_usual", lambda *how: asked.append(how) or [Check("compiled", True, "9")])
    found(FINE)
    trained_on_cuda(Check("training", False, "fails", "report this"))
    assert main(["doctor", "--device", "cuda:1", "--compile"]) == 1 and not asked
    trained_on_cuda(Check("training", True, "fine"))
    assert main(["doctor", "--device", "cuda:1", "--compile", "bfloat16"]) == 0
    assert asked == [("cuda:1", "bfloat16")]
    assert "\ncompiled      ok   9\n" in capsys.readouterr().out


def test_a_device_that_works_and_does_not_take_the_dtype(capsys, found, trained_on_cuda, monkeypatch):
    """The limit is told with what to do about it; nothing is to be reported, and the device does work."""

    def refuse(*asked):
        raise gb.DeviceError("dtype bfloat16 cannot be used: it begins at 8.0. Use float16, or float32.")

    found(FINE)
    trained_on_cuda(Check("training", True, "fine"))
    monkeypatch.setattr(usual_kernels, "open_device", refuse)
    assert main(["doctor", "--device", "cuda", "--compile", "bfloat16"]) == 1
    assert capsys.readouterr().out.splitlines()[-4:] == [
        "compiled      OFF  dtype bfloat16 cannot be used: it begins at 8.0. Use float16, or float32.",
        "                   → name another dtype, as in --compile float32",
        "",
        "--device cuda takes cuda:0. It works, but no kernels were compiled.",
    ]


def test_what_fails_ends_with_one_dot(capsys, found):
    found(Check("driver", False, "there is none. Install one."))
    assert main(["doctor", "--device", "cuda"]) == 1
    assert capsys.readouterr().out.endswith("It does not work: there is none. Install one.\n")
