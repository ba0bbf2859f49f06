"""NumPy's operation where there is no compiled one."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.compiled.program import UnsupportedArguments
from gpu_backprop.backend.errors import DeviceError, OutOfMemoryError
from gpu_backprop.backend.formula import Calls

P = ParamSpec("P")


def or_numpy(compiled: Callable[P, Calls]) -> Callable[P, Calls]:
    """Marks a binder of kernel calls. Where it cannot take what it is given, because an array has another dtype, has
    gaps, or a formula is there for NumPy alone, the calls of numpy_ops's binder of the same name are bound instead."""
    of_numpy: Callable[P, Calls] = getattr(numpy_ops, compiled.__name__)

    @wraps(compiled)
    def bind(*args: P.args, **options: P.kwargs) -> Calls:
        try:
            calls = tuple(compiled(*args, **options))
        except OutOfMemoryError:
            raise
        except (UnsupportedArguments, DeviceError):
            calls = tuple(of_numpy(*args, **options))
        yield from calls

    return bind
