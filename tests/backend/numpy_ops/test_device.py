"""NumPy alone: products in parts by threads of ours, while NumPy's BLAS has one thread."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from contextlib import contextmanager

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.numpy_blas import numpy_blas
from gpu_backprop.backend.numpy_ops import device as numpy_device
from gpu_backprop.backend.numpy_ops import parts
from gpu_backprop.backend.numpy_ops.device import NumpyDevice, _Blas

pytestmark = pytest.mark.skipif(numpy_blas().set_threads is None, reason="NumPy's BLAS is not OpenBLAS")


@pytest.fixture
def device(monkeypatch):
    """Two threads, and every product is large."""
    monkeypatch.setattr(numpy_device, "threads", lambda: 2)
    monkeypatch.setattr(parts, "LARGE", 0)
    return NumpyDevice("for a test", "float32")


@pytest.fixture
def blas():
    """The BLAS, with two threads."""
    blas = _Blas()
    before = blas._get()
    blas._set(2)
    yield blas
    blas._set(before)


def arrays(*shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def product(device, a, b, out):
    (call,) = numpy_ops.matmul(device, a, b, out)
    with device.computing():
        call()
    return call, out


@pytest.mark.parametrize("models", [(), (3,)], ids=str)
@pytest.mark.parametrize(("rows", "parted"), [(1, False), (31, False), (32, True), (77, True)])
def test_products_in_parts(device, models, rows, parted):
    a, b, out, again = arrays((*models, rows, 9), (*models, 9, 13), (*models, rows, 13), (*models, rows, 13))
    for left, right in (
        (a, b),
        (a.swapaxes(-1, -2).copy().swapaxes(-1, -2), b),
        (a, b.swapaxes(-1, -2).copy().swapaxes(-1, -2)),
    ):
        call, out = product(device, left, right, out)
        assert (call.func is parts._together) == parted
        np.testing.assert_allclose(out, a.astype(np.float64) @ b, 1e-5, 1e-5)
        np.testing.assert_array_equal(product(device, left, right, again)[1], out)


def test_what_is_not_finite_is_no_warning_of_a_thread(device):
    a, b, out = arrays((2, 64, 9), (2, 9, 13), (2, 64, 13))
    a[:, 50] = np.inf
    b[:, 3] = -b[:, 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        product(device, a, b, out)
    assert not np.isfinite(out[:, 50]).all()


def test_an_error_in_a_thread_is_raised_and_nobody_writes_any_more(device):
    done = threading.Event()

    def fails():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        parts._together(2, lambda: None, fails)
    with pytest.raises(ZeroDivisionError):
        parts._together(3, fails, done.set, done.set)
    assert done.is_set()


def test_where_there_are_no_threads_it_does_without(device, monkeypatch):
    a, b, out, alone = arrays((64, 9), (9, 13), (64, 13), (64, 13))
    product(device, a, b, alone)
    parts._pool.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda thread: (_ for _ in ()).throw(RuntimeError("no thread")))
        np.testing.assert_array_equal(product(device, a, b, out)[1], alone)
    parts._pool(2).shutdown()  # as when Python ends
    out[...] = 0
    np.testing.assert_array_equal(product(device, a, b, out)[1], alone)
    parts._pool.cache_clear()


FORK = """
import os
import numpy as np
from gpu_backprop.backend.numpy_ops import device as numpy_device
from gpu_backprop.backend.numpy_ops import parts
numpy_device.threads, parts.LARGE = lambda: 2, 0
device = numpy_device.NumpyDevice("", "float32")
def work():
    a = np.ones((64, 64), np.float32)
    out = np.empty_like(a)
    with device.computing():
        parts.in_parts(2, np.dot, a, a, out)()
    return bool((out == 64).all())
assert work()
with device.computing():
    child = os.fork()
    if child == 0:
        os._exit(work() and numpy_device._blas()._get() == 3)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), numpy_device._blas()._get())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only where processes fork")
def test_the_child_of_a_fork_has_threads_of_its_own():
    program = FORK.replace("def work", "numpy_device._blas()._set(3)\ndef work")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["1", "1"], done.stderr


# The BLAS -------------------------------------------------------------------------------------------------------------


@contextmanager
def limited(blas):
    me = object()
    try:
        blas.limit(me)
        yield
    finally:
        blas.release(me)


def test_it_has_one_thread_meanwhile(blas):
    with limited(blas):
        with limited(blas):
            assert blas._get() == 1
        assert blas._get() == 1
    assert blas._get() == 2


@pytest.mark.parametrize("compiler", ["none", ""], ids=["NumPy alone", "compiled"])
def test_what_a_user_sets_meanwhile_stays(blas, monkeypatch, compiler):
    monkeypatch.setenv("GPU_BACKPROP_COMPILER", compiler)
    device = gb.Network(2, [gb.Dense(1)], device="cpu").device
    with device.computing():
        with device.computing():
            blas._set(3)
        assert blas._get() == 3
    assert blas._get() == 3


def test_whoever_comes_and_goes_in_any_order(blas):
    """As fits in several threads do: the first that comes is not the last that goes."""
    first, second = limited(blas), limited(blas)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert blas._get() == 1
    second.__exit__(None, None, None)
    assert blas._get() == 2


@pytest.mark.parametrize("after", range(4))
def test_ctrl_c_at_any_call_leaves_it_its_threads(blas, monkeypatch, after):
    """At the next use, at the latest."""
    calls = []

    def interrupted(function):
        def call(*arguments):
            calls.append(function)
            if len(calls) == after + 1:
                raise KeyboardInterrupt
            return function(*arguments)

        return call

    get, told = blas._get, blas._set
    monkeypatch.setattr(blas, "_get", interrupted(get))
    monkeypatch.setattr(blas, "_set", interrupted(told))
    with pytest.raises(KeyboardInterrupt), limited(blas):
        pass
    with limited(blas):
        assert get() in (1, 2)
    assert get() == 2
