"""Every kernel, with every argument that the tables allow, has a name and a text."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from lib.kernel_instances import instances, text_of

from gpu_backprop.backend import kernel_text
from gpu_backprop.backend.cuda import kernel_instance
from gpu_backprop.backend.cuda.kernel_instance import (
    SPELLING,
    TYPES,
    accumulator,
    instance,
)
from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Activation, Functions, LossFormula
from gpu_backprop.backend.kernel_text import functor, functor_name, source
from gpu_backprop.backend.signatures import heads
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.losses import FORMULAS, LOSSES
from gpu_backprop.training.optimizers import PLAIN, RULES

LOSS_FORMULAS = [*FORMULAS]
ELEMENTWISE = [row for row in ACTIVATIONS.values() if not row.rowwise]
TANH, HUBER = ACTIVATIONS["tanh"], LOSSES["huber"].formula

KERNELS = """#include "port.cuh"
template<class T, class F, int V> __global__ void apply(
    T* z,        // [n]
    acc<T>* sum, // [1]
    int n) {}
template<class T, class E, class L> __global__ void judge(
    const L* target,  // [n]
    i64 n) {}
template<class S, class A, int V> __global__ void cast(int n) {}
template<class A, class S, class N, class E> __global__ void whole(int n) {}
template<class T, class U> __global__ void move(
    acc<T>* w,  // [n]
    i64 n) {}
template<class A> __global__ void count(
    A* counter) { // [1]
}
__global__ void plain(
    double* total,  // [3]
    u64 n) {}
"""
LOST = '#include "port.cuh"\n__global__ void lost() {}\n'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Kernels of our own instead of the real ones."""
    for name, text in {"port.cuh": "// port\n", "a.cu": KERNELS, "b.cu": LOST}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(kernel_text, "kernels_folder", lambda: tmp_path)


@pytest.fixture
def bfloat16():
    return np.dtype(pytest.importorskip("ml_dtypes", reason="ml_dtypes, which brings bfloat16, is missing").bfloat16)


def test_the_name_is_that_of_cplusplus(folder):
    assert instance("apply", "float32", TANH, 4).name == "apply<float, activation_tanh, 4>"
    assert instance("apply", np.float64, TANH, 1).name == "apply<double, activation_tanh, 1>"
    assert instance("judge", np.dtype("float16"), HUBER, "int64").name == "judge<f16, loss_huber, i64>"
    assert instance("cast", "uint8", "float32", 4).name == "cast<u8, float, 4>"
    assert instance("count", "float64").name == "count<double>"
    assert instance("plain").name == "plain"


def test_bfloat16(folder, bfloat16):
    made = instance("judge", bfloat16, HUBER, "float32")
    assert made == instance("judge", "bfloat16", HUBER, "float32")
    assert made.name == "judge<bf16, loss_huber, float>"
    assert made.text.startswith("#define BP_16_BIT\n")


def test_the_types_of_a_head(folder):
    made = instance("judge", "float16", HUBER, "int64")
    assert [made.dtype(name) for name in ("T", "acc<T>", "L", "i64", "int", "u8", "double", "float")] == [
        np.dtype(name) for name in ("f2", "f4", "i8", "i8", "i4", "u1", "f8", "f4")
    ]
    assert instance("judge", "float64", HUBER, "float64").dtype("acc<T>") == np.float64
    assert accumulator(np.dtype("uint8")) == np.float32


def test_the_width(folder):
    assert instance("apply", "float16", TANH, 8).width == 8
    assert instance("plain").width == 1


def test_the_text_has_its_functor_behind_the_kernels(folder):
    text = instance("apply", "float32", TANH, 4).text
    assert text == source("a.cu") + functor(TANH)
    assert instance("plain").text == source("a.cu")


def test_sixteen_bits_bring_their_headers(folder):
    assert instance("apply", "float16", TANH, 8).text.startswith("#define BP_16_BIT\n// port\n")
    assert "BP_16_BIT" not in instance("apply", "float64", TANH, 2).text


def test_one_text_for_many(folder):
    made = [instance("apply", t, TANH, 1) for t in ("float32", "float64", "float16")] + [instance("plain")]
    made += [instance("judge", "float32", HUBER, "int64")]
    assert text_of(made) == "#define BP_16_BIT\n" + source("a.cu") + functor(TANH) + functor(HUBER)


def test_one_text_is_of_one_file(folder):
    with pytest.raises(InputError, match=r"one text come from one file, got 2: a\.cu, b\.cu"):
        text_of([instance("plain"), instance("lost")])


def test_one_text_has_one_formula_of_a_name(folder):
    other = replace(HUBER, cuda_slope="y - t")
    made = [instance("judge", "float32", formula, "int64") for formula in (HUBER, other)]
    with pytest.raises(InputError, match="two formulas called loss_huber"):
        text_of(made)


BAD = {
    "no such kernel": (("aply", "float32", TANH, 4), r"unknown kernel 'aply'\. Did you mean 'apply'\?"),
    "too few": (("apply", "float32", TANH), "apply has the template parameters T, F, V; got 2 arguments"),
    "too many": (("plain", "float32"), "plain has the template parameters none; got 1 arguments"),
    "dtype": (("apply", "int32", TANH, 1), "T must be one of float32, float64, float16, bfloat16, got 'int32'"),
    "no dtype": (("apply", "fl", TANH, 1), "T must be one of float32.*got 'fl'"),
    "formula for a dtype": (("count", TANH), "A must be one of float32, float64, got Activation"),
    "labels": (("judge", "float64", HUBER, "float32"), "L must be one of int64, float64, got 'float32'"),
    "width": (("apply", "float32", TANH, 2), r"V must be one of \(1, 4\), got 2"),
    "width of A": (("cast", "uint8", "float64", 4), r"V must be one of \(1, 2\), got 4"),
    "loss for an activation": (("apply", "float32", HUBER, 1), "F must be an Activation that is not rowwise, got Loss"),
    "rowwise": (("apply", "float32", ACTIVATIONS["softmax"], 1), "F must be an Activation that is not rowwise"),
    "loss for a rule": (("move", "float32", HUBER), "U must be an UpdateRule, got LossFormula"),
    "activation for a loss": (("judge", "float32", TANH, "int64"), "E must be a LossFormula, got Activation"),
}


@pytest.mark.parametrize("case", BAD)
def test_arguments_outside_the_domains(folder, case):
    arguments, said = BAD[case]
    with pytest.raises(InputError, match=said):
        instance(*arguments)


def test_instances_are_all_arguments_of_all_kernels(folder, bfloat16):
    made = list(instances(ACTIVATIONS.values(), iter(LOSS_FORMULAS), iter(RULES)))
    assert Counter(one.kernel.name for one in made) == {
        "apply": 4 * len(ELEMENTWISE) * 2,
        "judge": 4 * len(LOSS_FORMULAS) * 2,
        "cast": 5 * 2 * 2,
        "move": 4 * len(RULES),
        "whole": 2 * max(len(ELEMENTWISE), len(LOSS_FORMULAS)),
        "count": 2,
        "plain": 1,
        "lost": 1,
    }
    assert all(one == instance(one.kernel.name, *one.arguments) for one in made)
    assert {one.name for one in made if one.kernel.name == "cast"} == {
        f"cast<{source}, {work}, {width}>"
        for source in ("u8", "f16", "bf16", "float", "double")
        for work, vector in (("float", 4), ("double", 2))
        for width in (1, vector)
    }


def test_the_real_kernels_have_an_instance_for_every_row(bfloat16):
    made = list(instances(ACTIVATIONS.values(), LOSS_FORMULAS, RULES))
    assert len({one.name for one in made}) == len(made)
    used = Counter(name for one in made for name in one.functors if not name.startswith("functions_"))
    assert set(used) == {functor_name(row) for row in (*ELEMENTWISE, *LOSS_FORMULAS, *RULES)}
    assert {one.kernel for one in made} == set(heads().values())


def test_a_kernel_with_functions_has_a_sample_with_all_arguments(folder, bfloat16):
    made = [one for one in instances(ACTIVATIONS.values(), LOSS_FORMULAS, RULES) if one.kernel.name == "whole"]
    assert len(made) == 2 * max(len(ELEMENTWISE), len(LOSS_FORMULAS))
    assert all(one == instance("whole", *one.arguments) for one in made)
    for dtype in ("float", "double"):
        chosen = [one.chosen for one in made if one.name.startswith(f"whole<{dtype},")]
        assert {str(c["S"]) for c in chosen} == set(TYPES["S"])
        assert {c["E"].name for c in chosen} == {row.name for row in LOSS_FORMULAS}
        for place in range(3):
            assert {c["N"].activations[place].name for c in chosen} == {f.name for f in ELEMENTWISE}


def test_functions_bring_the_structs_they_choose_from(folder):
    one = instance("whole", "float32", "float32", Functions((TANH, ELEMENTWISE[0])), HUBER)
    assert one.name == "whole<float, float, functions_tanh_or_identity, loss_huber>"
    assert list(one.functors) == ["activation_tanh", "activation_identity", "functions_tanh_or_identity", "loss_huber"]


def test_a_new_row_of_a_table_has_instances_at_once(bfloat16):
    new = Activation("new one", "z", None, None, "z + A(1)", "A(1)")
    rare = LossFormula("rare", partial(list), "y", "A(1)")
    names = {one.name for one in instances([new], [rare], [replace(PLAIN, name="own")])}
    assert any(re.fullmatch(r"\w+<float, activation_new_one, 4>", name) for name in names)
    assert any("loss_rare" in name for name in names) and "update<float, update_own, 4>" in names


def test_every_type_has_a_spelling():
    assert {name for names in TYPES.values() for name in names} <= set(SPELLING)
    assert len(set(SPELLING.values())) == len(SPELLING)
    assert kernel_instance.VECTOR == 16
