"""Kernel texts are found where they are, joined once each, and formulas become structs."""

from __future__ import annotations

import re

import pytest

from gpu_backprop.backend import kernel_text
from gpu_backprop.backend.errors import DeviceError
from gpu_backprop.backend.formula import Functions
from gpu_backprop.backend.kernel_text import functor, functor_name, kernels_folder, source
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.losses import FORMULAS
from gpu_backprop.training.optimizers import RULES


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package folder somewhere else, without kernels."""
    module = tmp_path / "site-packages" / "gpu_backprop" / "backend" / "kernel_text.py"
    module.parent.mkdir(parents=True)
    monkeypatch.setattr(kernel_text, "__file__", str(module))
    return module.parents[1]


def kernels(folder, **files):
    folder.mkdir()
    for name, text in {"port": "// port\n", **files}.items():
        (folder / f"{name}.cuh").write_text(text)
    return folder


def test_the_folder_holds_the_texts():
    assert {"port.cuh", "philox.cuh"} <= {path.name for path in kernels_folder().iterdir()}


def test_a_wheel_has_the_texts_inside_the_package(installed):
    kernels(installed.parent / "kernels")
    inside = kernels(installed / "kernels")
    assert kernels_folder() == inside


def test_a_checkout_has_them_at_the_top(installed):
    at_the_top = kernels(installed.parent / "kernels")
    assert kernels_folder() == at_the_top


def test_another_package_called_kernels_is_not_ours(installed):
    (installed.parent / "kernels").mkdir()
    with pytest.raises(DeviceError, match=re.escape(str(installed / "kernels"))):
        kernels_folder()


def test_no_texts_at_all(installed):
    with pytest.raises(DeviceError, match=r"kernel texts are missing.*install gpu_backprop again"):
        kernels_folder()


def test_source_puts_each_include_in_once(installed):
    kernels(
        installed / "kernels",
        a='#include "port.cuh"\n  #  include "b.cuh"  // why\n#include <cuda_fp16.h>\nint a;\n#include "b.cuh"',
        b='#include "a.cuh"\n#include "port.cuh"\nint b;\n',
    )
    assert source("a.cuh") == "// port\nint b;\n#include <cuda_fp16.h>\nint a;\n"


@pytest.mark.parametrize("name", ["port.cuh", "dropout.cu"])
def test_a_joined_text_needs_no_file_beside_it(name):
    text = source(name)
    assert '#include "' not in text
    assert text.count("#define BP_DEV") == 1


def test_a_text_that_is_not_there(installed):
    kernels(installed / "kernels", a='#include "gone.cuh"\n')
    with pytest.raises(DeviceError, match=r"gone\.cuh cannot be read"):
        source("a.cuh")


ROWS = [row for row in ACTIVATIONS.values() if not row.rowwise] + [*FORMULAS]


@pytest.mark.parametrize("row", ROWS, ids=functor_name)
def test_a_functor_holds_both_formulas_under_a_safe_name(row):
    text = functor(row)
    assert re.fullmatch(r"struct [A-Za-z_][A-Za-z0-9_]* \{", text.splitlines()[0])
    assert f"return {row.cuda_value};" in text and f"return {row.cuda_slope};" in text


def test_functions_choose_by_number():
    f = [ACTIVATIONS[name] for name in ("relu", "tanh", "identity")]
    assert functor(Functions(tuple(f))) == (
        "struct functions_relu_or_tanh_or_identity {\n"
        "  template<class A> BP_DEV static A value(int f, A z) { return f == 0 ? activation_relu::value(z) : "
        "f == 1 ? activation_tanh::value(z) : activation_identity::value(z); }\n"
        "  template<class A> BP_DEV static A slope(int f, A s) { return f == 0 ? activation_relu::slope(s) : "
        "f == 1 ? activation_tanh::slope(s) : activation_identity::slope(s); }\n"
        "};\n"
    )
    assert "value(int f, A z) { return activation_tanh::value(z); }" in functor(Functions((f[1],)))


@pytest.mark.parametrize("rule", RULES, ids=functor_name)
def test_the_functor_of_an_update_rule_holds_its_coefficients_and_its_step(rule):
    text = functor(rule)
    assert text.startswith(f"struct {functor_name(rule)} {{\n")
    assert f"moments = {len(rule.moments)}, settings = {len(rule.settings)}, decays = {int(rule.decays)} }}" in text
    assert all(f"const double {name} = setting[{k}];" in text for k, name in enumerate(rule.settings))
    assert all(f"      {name} = A(C(" in text for name in rule.coefficients)
    assert all(f"A& {name} = all_moments[{k}];" in text for k, name in enumerate(rule.moments)) and rule.cuda in text


def test_functor_names_differ():
    names = [functor_name(row) for row in (*ROWS, *RULES)]
    assert len(set(names)) == len(names)


def test_a_row_without_a_cuda_formula_says_so():
    with pytest.raises(DeviceError, match=r"'softmax' has no CUDA formula.*device='cpu'"):
        functor(ACTIVATIONS["softmax"])
