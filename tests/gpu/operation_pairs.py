"""Runs an operation on CUDA and on NumPy in float64, from the same rounded inputs, and compares all that there is to
compare: values, what is written and what is not, the number of launches, and whether a second run gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from lib.kernel_instances import instances, prepare

import gpu_backprop as gb
from gpu_backprop.backend.open_device import open_device
from gpu_backprop.network.losses import FORMULAS
from gpu_backprop.training.optimizers import RULES

DTYPES = "float32", "float64", "float16", "bfloat16"
EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
ULPS = {"float64": 100, "float32": 100, "float16": 2, "bfloat16": 2}
"""How far a result may be off: sums of many terms and functions in float32 and float64; the rounding of a result, which
was worked out in float32, in the other two."""

MODELS_SHAPES = [(), (3,)]
"""One model; a models axis."""

SEVERAL_BLOCKS = 1000
"""Elements: from here on, several blocks may take part, whose order must not show."""

LOSSES = [*gb.LOSSES.values(), gb.CrossEntropy(label_smoothing=0.1), gb.Huber(delta=0.25), gb.Quantile(0.9)]

dtypes = pytest.mark.parametrize("dtype", DTYPES)


def compile_kernels(*files):
    """All kernels of these files, compiled together: one at a time would take ten times as long."""
    device = open_device("cuda")
    rows = gb.ACTIVATIONS.values(), FORMULAS, RULES
    prepare(device.kernels, (made for made in instances(*rows) if made.kernel.file in files))


@dataclass(eq=False)
class Given:
    """An argument of a binder: its values, in float64 where they are to be rounded.

    kind: "T", the dtype of z and y; "A", that of parameters; "", its own. out: whether the operation writes it.
    offset: where each model's part begins in a longer row, so that models lie apart; None: they lie together.
    """

    values: np.ndarray
    kind: str = ""
    out: bool = False
    offset: int | None = None
    grain: str = ""  # the kind that it is worked out in, if another

    def dtype(self, device, kind=None):
        return {"T": device.dtype, "A": device.master}.get(self.kind if kind is None else kind, self.values.dtype)

    def place(self, device):
        """An array on the device, and the memory it is a part of."""
        values = self.values.astype(self.dtype(device))
        if self.offset is None:
            array = device.copy(device.from_host(values))
            return array, array
        models, n = len(values), values[0].size
        whole = np.zeros((models, self.offset + n + 64), values.dtype)
        whole.view(np.uint8)[...] = 0xFF
        whole = device.copy(device.from_host(whole))
        array = whole[:, self.offset : self.offset + n].reshape(values.shape)
        device.copy_in(array, values)
        return array, whole


def t(values, out=False):
    return Given(np.asarray(values, np.float64), "T", out)


def a(values, out=False, **how):
    return Given(np.asarray(values, np.float64), "A", out, **how)


def to_be_written(shape, kind="T", **how):
    return Given(np.full(shape, np.nan), kind, True, **how)


def strided(models_shape, aligned=True):
    """How to place a parameter of each model: among others where there is a models axis."""
    return {"offset": 64 if aligned else 61} if models_shape else {}


def perform(device, binder, arguments, options):
    """Runs a binder; gives host copies of all that was given, of the memory around it, and the calls."""
    places = {id(g): g.place(device) for g in flatten(arguments)}
    bound = [substitute(argument, places) for argument in arguments]
    with device.computing():
        calls = list(getattr(device.ops, binder)(device, *bound, **options))
        for call in calls:
            call()
    got = {key: (device.to_host(array), device.to_host(whole)) for key, (array, whole) in places.items()}
    return got, calls


def flatten(arguments):
    for argument in arguments:
        if isinstance(argument, Given):
            yield argument
        elif isinstance(argument, list):
            yield from flatten(argument)


def substitute(argument: Any, places):
    if isinstance(argument, list):
        return [substitute(one, places) for one in argument]
    return places[id(argument)][0] if isinstance(argument, Given) else argument


def check(dtype, binder, *arguments, launches=1, reference="float64", device=None, **options):
    """The operation on CUDA gives what NumPy gives, the same bits again, and touches nothing else."""
    device = device or open_device("cuda", dtype)
    got, calls = perform(device, binder, arguments, options)
    assert len(calls) == launches
    large = any(g.values.size >= SEVERAL_BLOCKS for g in flatten(arguments))
    again = perform(device, binder, arguments, options)[0] if large else got
    rounded = [(g, Given(g.values.astype(g.dtype(device)).astype(g.values.dtype), "T" if g.kind else "", g.out))
               for g in dict.fromkeys(flatten(arguments))]  # fmt: skip
    stand_ins = {id(g): (other, None) for g, other in rounded}
    wanted, _ = perform(
        open_device("cpu", reference), binder, [substitute(argument, stand_ins) for argument in arguments], options
    )
    for given, other in rounded:
        (array, whole), (array_again, _) = got[id(given)], again[id(given)]
        assert array.tobytes() == array_again.tobytes(), f"{binder}: two runs differ"
        if given.offset is not None:
            for around in (whole[:, : given.offset], whole[:, given.offset + array[0].size :]):
                assert (np.ascontiguousarray(around).view(np.uint8) == 0xFF).all(), f"{binder} writes beside its result"
        if not given.out:
            assert array.tobytes() == given.values.astype(array.dtype).tobytes(), f"{binder} changes what it reads"
        else:
            grain = given.dtype(device, given.grain or given.kind).name
            agree(array, wanted[id(other)][0], grain, f"{binder} {dtype} {array.shape}")
    return got


def agree(got, want, dtype, what):
    if got.dtype.kind in "iu":
        np.testing.assert_array_equal(got, want, what)
        return
    got, want = got.astype(np.float64), want.astype(np.float64)
    finite = np.abs(want[np.isfinite(want)])
    tolerance = ULPS[dtype] * EPSILON[dtype]
    typical = finite.mean() if finite.size else 0
    np.testing.assert_allclose(got, want, tolerance, tolerance * typical + 1e-15, err_msg=what)


def random(*key):
    return np.random.default_rng([ord(c) for part in key for c in str(part)])
