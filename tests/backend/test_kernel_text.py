"""Kernel texts are found where they are, joined once each, their heads are read, and formulas become structs."""

from __future__ import annotations

import re

import pytest
from kernel_grammar import check_cuda_heads

from gpu_backprop.backend import kernel_text
from gpu_backprop.backend.cuda.signatures import heads
from gpu_backprop.backend.errors import DeviceError
from gpu_backprop.backend.formula import Functions, functor_name
from gpu_backprop.backend.kernel_text import functor, kernels_folder, source
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.losses import FORMULAS


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


@pytest.mark.parametrize("name", ["port.cuh", "philox.cuh"])
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


def test_functor_names_differ():
    names = [functor_name(row) for row in ROWS]
    assert len(set(names)) == len(names)


def test_a_row_without_a_cuda_formula_says_so():
    with pytest.raises(DeviceError, match=r"'softmax' has no CUDA formula.*device='cpu'"):
        functor(ACTIVATIONS["softmax"])


HEADS = """
// template<class T> __global__ void in_a_comment(T* z) {}
/* __global__ void in_another(int n) {} */
#include "port.cuh"
BP_DEV int helper(int n) { return n; }

template <class T, class F, int V>
__global__ void __launch_bounds__(256) full(
    const T* x,            // [models, rows, cols] any text (with brackets, too)
    const acc<T>* b,       // [models, cols]? null: none
    u32* tickets,          // [models, gridDim.x]
    const unsigned char* c,// [rows]
    double* total,         // [models, 3], three
    i64 b_step, i64 total_stride, i64 rows, int cols, float rate) {
  if (threadIdx.x < 3) return;
}
template<typename A> __global__ void short_one(A* a,  // [1]
                                               u64 n) {}
__global__ void plain(i64 rows, double by) {}
__global__ void nothing() {}
"""


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """Kernel texts of one's own: a function that writes them."""

    def write(**files):
        for name, text in {"port": "", **files}.items():
            (tmp_path / f"{name}.{'cuh' if name == 'port' else 'cu'}").write_text(text)
        monkeypatch.setattr(kernel_text, "kernels_folder", lambda: tmp_path)

    return write


def test_heads_say_what_the_text_says(texts):
    texts(file=HEADS)
    assert list(heads()) == ["full", "short_one", "plain", "nothing"]
    full = heads()["full"]
    assert (full.name, full.file) == ("full", "file.cu")
    assert full.template == (("class", "T"), ("class", "F"), ("int", "V"))
    assert [(p.name, p.type, p.shape, p.nullable) for p in full.parameters if p.pointer] == [
        ("x", "T", ("models", "rows", "cols"), False),
        ("b", "acc<T>", ("models", "cols"), True),
        ("tickets", "u32", ("models", "gridDim.x"), False),
        ("c", "unsigned char", ("rows",), False),
        ("total", "double", ("models", "3"), False),
    ]
    assert [(p.name, p.type, p.of) for p in full.parameters if not p.pointer] == [
        ("b_step", "i64", "b"),
        ("total_stride", "i64", "total"),
        ("rows", "i64", ""),
        ("cols", "int", ""),
        ("rate", "float", ""),
    ]
    assert full.given == ("x", "b", "tickets", "c", "total", "rows", "cols", "rate")
    assert full.vector_axis == "cols"


def test_short_heads(texts):
    texts(file=HEADS)
    short, plain, nothing = (heads()[name] for name in ("short_one", "plain", "nothing"))
    assert short.template == (("class", "A"),)
    assert [(p.name, p.shape) for p in short.parameters] == [("a", ("1",)), ("n", None)]
    assert plain.template == () and plain.given == ("rows", "by")
    assert nothing.parameters == ()


def test_heads_come_from_all_files_but_not_from_headers(texts):
    texts(b="__global__ void two() {}", a="__global__ void one() {}", port="__global__ void none() {}")
    assert [(head.name, head.file) for head in heads().values()] == [("one", "a.cu"), ("two", "b.cu")]


def test_one_name_for_two_kernels(texts):
    texts(a="__global__ void same() {}", b="__global__ void same() {}")
    with pytest.raises(DeviceError, match="kernel same is in a.cu and in b.cu"):
        check_cuda_heads()


BAD_HEADS = {
    "unread": ("\n__global__ int k(int n) {}", "file.cu, line 2: this kernel's head cannot be read"),
    "in a macro": ("__global__ void KERNEL(name)(int n) {}", "parameter 'name' cannot be read"),
    "no shape": ("__global__ void k(\n  float* x,  // its size is not said\n  int n) {}", "pointer x needs a line"),
    "no comment": ("__global__ void k(float* x, int n) {}", "kernel k: pointer x needs a line of its own"),
    "two on a line": ("__global__ void k(float* x, float* y) {  // [1]\n}", "pointer x needs a line of its own"),
    "no name": ("__global__ void k(int) {}", "kernel k: parameter 'int' cannot be read"),
    "a reference": ("__global__ void k(float& x) {}", "parameter 'float& x' cannot be read"),
    "unknown type": ("__global__ void k(half x) {}", "x has the unknown type 'half'; known: int, i64"),
    "T without a template": ("__global__ void k(T x) {}", "x has the unknown type 'T'"),
    "type of a formula": ("template<class F> __global__ void k(F x) {}", "x has the unknown type 'F'"),
    "acc of nothing": ("template<class T> __global__ void k(acc<S> x) {}", "unknown type 'acc<S>'"),
    "unknown entry": ("__global__ void k(\n  float* x,  // [row]\n  int rows) {}", "x has the unknown size 'row'"),
    "size is no integer": ("__global__ void k(\n  float* x,  // [n]\n  float n) {}", "x has the unknown size 'n'"),
    "empty shape": ("__global__ void k(\n  float* x,  // []\n  int n) {}", "x has the unknown size ''"),
    "step of nothing": (
        "__global__ void k(i64 x_step) {}",
        "x_step has to be an integer and tell of a pointer called x",
    ),
    "step is no integer": (
        "__global__ void k(\n  float* x,  // [models, 2]\n  float x_step) {}",
        "x_step has to be an integer",
    ),
    "step without models": (
        "__global__ void k(\n  float* x,  // [2, models]\n  i64 x_step) {}",
        "x_step tells of models; the shape of x has to begin with models",
    ),
    "step and stride": (
        "__global__ void k(\n  float* x,  // [models, 2]\n  i64 x_step, i64 x_stride) {}",
        "x has a step and a stride",
    ),
    "one name twice": ("__global__ void k(int n, i64 n) {}", "two parameters have one name among n, n"),
    "unknown template parameter": ("template<class Q> __global__ void k(int n) {}", "'class Q' is not one of class T"),
    "a type as a number": ("template<int T> __global__ void k(int n) {}", "'int T' is not one of"),
    "V before T": ("template<int V, class T> __global__ void k(int n) {}", "V depends on T or A"),
    "L alone": ("template<class L> __global__ void k(int n) {}", "L depends on T or A"),
}


@pytest.mark.parametrize("case", BAD_HEADS)
def test_a_head_that_does_not_follow_the_grammar(texts, case):
    text, said = BAD_HEADS[case]
    texts(file=text)
    with pytest.raises(DeviceError, match=re.escape(said)) as raised:
        check_cuda_heads()
    assert str(raised.value).startswith("file.cu, ")


def test_the_kernels_follow_the_grammar():
    check_cuda_heads()
    files = {path.name for path in kernels_folder().glob("*.cu")}
    assert files == {head.file for head in heads().values()}
