"""What the upper floors hand down to the backend: rows of their tables, as plain records.

A row says the same formula twice: as bound NumPy calls, which work in place, and as C++ expressions, from which
kernel_text makes a functor for the kernels of CUDA and of the CPU alike. A test runs both and compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Concatenate, Protocol

import numpy as np
import numpy.typing as npt

from gpu_backprop.backend.errors import InputError

Array = npt.NDArray[Any]
"""An array of the device's array module: numpy.ndarray or cupy.ndarray."""

Call = Callable[[], object]
"""A bound call: every argument was decided when the plan was built."""

Calls = Iterable[Call]


class Work(Protocol):
    """Scratch memory for the time of one operation."""

    def full(self, slot: int = 0) -> Array:
        """An array of the operand's shape."""

    def rows(self, slot: int = 0) -> Array:
        """One number a row, shaped (..., rows, 1)."""

    def mask(self) -> Array:
        """Booleans of the operand's shape."""

    def zeros(self) -> Array:
        """Zeros of the operand's shape, not to be written: numpy.maximum takes a third of the time with them that it
        takes with one 0."""


@dataclass(frozen=True)
class Activation:
    """y = f(z) and its gradient ∇z = ∇y ⊙ f′ (or ∇y · ∂f/∂z where f takes whole rows).

    There is one derivative signature: `numpy_gradient(grad_y, s, grad_z, work)`, where s is the array that f′ is
    written in, y or z, as `reads` says. grad_z may be grad_y, and y may be z.

    Args:
        name: what it is called in layers and files.
        reads: "y" or "z", what f′ is written in; "" where ∇z is ∇y.
        numpy_value: (z, y, work) -> calls without arguments that fill y, in place, at every step.
        numpy_gradient: as above; its calls fill grad_z.
        cuda_value: f as a C++ expression of z, an `A`; "" leaves it to NumPy on a CPU.
        cuda_slope: f′ as one of s.
        rowwise: whether f takes whole rows, as softmax does; numpy_gradient then gives the product with its Jacobian.
    """

    name: str
    reads: str  # what f′ is written in: "y", "z", or "" where it is 1
    numpy_value: Callable[[Array, Array, Work], Calls] | None  # (z, y, work); None: y = z
    numpy_gradient: Callable[[Array, Array, Array, Work], Calls] | None  # (grad_y, s, grad_z, work); None: ∇z = ∇y
    cuda_value: str = ""  # expression of `z`, or statements that return it
    cuda_slope: str = ""  # the same of `s`
    rowwise: bool = False  # f mixes the units of a row (softmax), so its kernels are its own
    expression: str = ""  # f and f′ in the grammar of expression.py, where all of the above comes from them
    derivative: str = ""

    kind: ClassVar[str] = "activation"


IDENTITY = Activation("identity", "", None, None, "z", "A(1)")


@dataclass(frozen=True)
class Functions:
    """The activations of a network whose layers are worked out in one kernel, which finds them by their numbers."""

    activations: tuple[Activation, ...]

    kind: ClassVar[str] = "functions"

    @property
    def name(self) -> str:
        return " or ".join(f.name for f in self.activations)


AROUND_A_LOSS = "y", "t", "A", "numbers", "of", "value", "slope"
"""What the C++ text of a loss stands among."""


@dataclass(frozen=True)
class LossFormula:
    """e(y, y*) of one sample, summed over its outputs, and ∂e/∂y: value and gradient come together."""

    name: str
    numpy: Callable[Concatenate[Array, Array, Array | None, Array, Work, ...], Calls]
    """(y, target, grad_y or None, e of each row, work, and each of the numbers): fills e, and grad_y where it is asked
    for. A number is an array in the dtype of y that has one for each model and fits (..., rows, units)."""
    cuda_value: str  # expression of `y`, `t` and the numbers, or statements that return it: one output's share of e
    cuda_slope: str  # its derivative by `y`
    mean_over_outputs: bool = False  # e and ∂e/∂y are divided by the number of outputs
    accuracy: str = ""  # what is right: the "argmax", or each on its side of the "threshold" ½; ""
    smooths: bool = False  # whether labels may be smoothed: y* ← (1 − s)·y* + s/outputs
    numbers: tuple[str, ...] = ()  # what its own numbers are called in C++

    kind: ClassVar[str] = "loss"

    def __post_init__(self) -> None:
        for name in self.numbers:
            if not name.isidentifier() or not name.isascii() or name in AROUND_A_LOSS:
                raise InputError(
                    f"a number of the loss {self.name} must be a name of ASCII letters, digits and _, and not "
                    f"{', '.join(AROUND_A_LOSS)}, got {name!r}."
                )

    def share(self, outputs: int) -> float:
        """Returns the factor of the sum over the outputs."""
        return 1 / outputs if self.mean_over_outputs else 1.0


ACCURACY_KIND = {"": 0, "argmax": 1, "threshold": 2}
"""What the kernels call each way to count right answers."""


CORRECT, WEIGHT, LOSS = 2, 1, 0
"""The columns of a total, float64 (..., 3): Σ w·e, Σ w where weights are given, and the number of right answers."""

SCALE, STREAK, SKIPPED = 0, 1, 2
"""The columns of what the scaling of a loss keeps, float64 (..., 3): the scale S, the steps in a row without overflow,
and the number of steps that were skipped for one."""


def call(function: Callable[..., object], *inputs: Array | float, out: Array, **options: Any) -> Call:
    """function(*inputs, out), bound; a float becomes an array of the operands' dtype now, not at every step."""
    dtype = next((a.dtype for a in inputs if isinstance(a, np.ndarray)), out.dtype)
    bound = tuple(np.asarray(a, dtype) if isinstance(a, float) else a for a in inputs)
    if isinstance(function, np.ufunc) and function not in (np.maximum, np.minimum):
        return partial(function, *bound, out, **options)  # a tenth faster than out=, which NumPy wants of the other two
    return partial(function, *bound, out=out, **options)


def row_sum(a: Array, out: Array) -> Call:
    """out = Σa over the last axis, (..., rows, 1): as a product with ones, because add.reduce takes several times as
    long for short rows. Both lie in memory without gaps."""
    return partial(np.dot, a.reshape(-1, a.shape[-1]), np.ones(a.shape[-1], a.dtype), out.reshape(-1))
