"""The heads of the kernels are read from their texts, and those in kernels/ follow the grammar."""

from __future__ import annotations

import re

import pytest
from kernel_grammar import check_heads

from gpu_backprop.backend import kernel_text
from gpu_backprop.backend.errors import DeviceError
from gpu_backprop.backend.kernel_text import kernels_folder
from gpu_backprop.backend.signatures import heads

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
    const u8* c,           // [rows]
    double* total,         // [models, 3], three
    i64 b_step, i64 total_stride, i64 rows, int cols, float rate) {
  if (threadIdx.x < 3) return;
}
template<typename A> __global__ void short_one(A* a,  // [1]
                                               u64 n) {}
__global__ void plain(i64 rows, double by) {}
template<class F> BP_CPU void on_the_cpu(
    const float* x,  // [models, rows]? by rows, as all others
    i64 x_step, i64 models, i64 rows, i64 part,
    i64 parts) {}
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
    assert list(heads()) == ["full", "short_one", "plain", "on_the_cpu", "nothing"]
    full = heads()["full"]
    assert (full.name, full.file) == ("full", "file.cu")
    assert full.template == (("class", "T"), ("class", "F"), ("int", "V"))
    assert [(p.name, p.type, p.shape, p.nullable) for p in full.parameters if p.pointer] == [
        ("x", "T", ("models", "rows", "cols"), False),
        ("b", "acc<T>", ("models", "cols"), True),
        ("tickets", "u32", ("models", "gridDim.x"), False),
        ("c", "u8", ("rows",), False),
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


def test_a_head_for_the_cpu(texts):
    texts(file=HEADS)
    head = heads()["on_the_cpu"]
    assert head.template == (("class", "F"),) and head.given == ("x", "models", "rows")
    x, step, *_ = head.parameters
    assert (x.shape, x.nullable, x.constant, x.by_rows) == (("models", "rows"), True, True, True)
    assert step.of == "x" and not step.by_rows


def test_heads_come_from_all_files_but_not_from_headers(texts):
    texts(b="__global__ void two() {}", a="__global__ void one() {}", port="__global__ void none() {}")
    assert [(head.name, head.file) for head in heads().values()] == [("one", "a.cu"), ("two", "b.cu")]


def test_one_name_for_two_kernels(texts):
    texts(a="__global__ void same() {}", b="__global__ void same() {}")
    with pytest.raises(DeviceError, match="kernel same is in a.cu and in b.cu"):
        check_heads("*.cu")


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
    "an array on the CPU": ("BP_CPU void k(float x[3], i64 part, i64 parts) {", "'float x[3]' cannot be read"),
    "no parts": ("BP_CPU void k(i64 n) {", "its last parameters must be i64 part, i64 parts"),
    "not the CPU's": ("BP_CPU void k(int n, i64 part, i64 parts) {", "n has the unknown type 'int'; known: real"),
    "a lone byte": ("BP_CPU void k(u8 x, i64 part, i64 parts) {", "x has the unknown type 'u8'"),
    "the grid on the CPU": (
        "BP_CPU void k(\n real* x,  // [gridDim.x]\n i64 part, i64 parts) {",
        "x has the unknown size 'gridDim.x'",
    ),
    "by rows without models": (
        "BP_CPU void k(\n real* x,  // [n] by rows\n i64 n, i64 part, i64 parts) {",
        "x is not [models, rows",
    ),
    "unread on the CPU": ("BP_CPU int k(i64 part, i64 parts) {", "line 1: this kernel's head cannot be read"),
    "L alone": ("template<class L> __global__ void k(int n) {}", "L depends on T or A"),
}


@pytest.mark.parametrize("case", BAD_HEADS)
def test_a_head_that_does_not_follow_the_grammar(texts, case):
    text, said = BAD_HEADS[case]
    texts(file=text)
    with pytest.raises(DeviceError, match=re.escape(said)) as raised:
        check_heads("*.cu")
    assert str(raised.value).startswith("file.cu, ")


def test_the_kernels_follow_the_grammar():
    for files in ("*.cu", "cpu/*.[ch]pp"):
        check_heads(files)
    files = {path.name for path in kernels_folder().glob("*.cu")}
    assert files == {head.file for head in heads().values()}
