"""What meets other libraries is there when it is asked for, and costs nothing before."""

from __future__ import annotations

import subprocess
import sys

import pytest

import gpu_backprop as gb

FRAMEWORKS = {"torch", "jax", "flax", "keras", "tensorflow", "safetensors", "sklearn", "optuna"}


@pytest.mark.parametrize("module", ["pytorch", "jax", "keras"])
def test_a_module_is_imported_when_it_is_asked_for_and_no_framework_with_it(module):
    code = (
        "import sys, gpu_backprop as gb\n"
        f"name = 'gpu_backprop.interop.{module}'\n"
        f"assert name not in sys.modules; gb.interop.{module}; assert name in sys.modules\n"
        f"print(sorted({FRAMEWORKS!r} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_what_there_is_not():
    assert {"jax", "keras", "pytorch", "sklearn"} <= set(dir(gb.interop))
    with pytest.raises(AttributeError, match=r"has no attribute 'tensorflow'\. It has .*keras, .*pytorch"):
        getattr(gb.interop, "tensorflow")  # noqa: B009 (as a statement it would do nothing)
    assert not hasattr(gb.interop, "__wrapped__")


def test_who_has_no_pytorch_is_told(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    net, pytorch = gb.Network(3, [gb.Dense(2)]), gb.interop.pytorch
    for call in pytorch.to_module, pytorch.state_dict, pytorch.from_module:
        with pytest.raises(gb.MissingExtraError, match="need PyTorch: pip install torch"):
            call(net)
    pytorch.write_safetensors(net, tmp_path / "net.safetensors")
    pytorch.read_safetensors(tmp_path / "net.safetensors", net)
    pytorch.load_state_dict(net, {"0.weight": net.layers[0].weight.T, "0.bias": [1.0, 2.0]})
    assert net.layers[0].bias.tolist() == [1, 2]
