"""What is not compiled is NumPy's."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from gpu_backprop.backend.compiled.program import UnsupportedArguments
from gpu_backprop.backend.errors import DeviceError, OutOfMemoryError
from gpu_backprop.backend.numpy_ops.scratch import Bound

P = ParamSpec("P")


def or_numpy(of_numpy: Callable[..., Bound]) -> Callable[[Callable[P, Bound]], Callable[P, Bound]]:
    """Marks a binder of compiled steps. Where one of them cannot take what it is given, because an array has another
    dtype, has gaps, or a formula is there for NumPy alone, NumPy's calls are bound instead."""

    def mark(compiled: Callable[P, Bound]) -> Callable[P, Bound]:
        @wraps(compiled)
        def bind(*args: P.args, **options: P.kwargs) -> Bound:
            try:
                calls = tuple(compiled(*args, **options))
            except OutOfMemoryError:
                raise
            except (UnsupportedArguments, DeviceError):
                calls = tuple(of_numpy(*args, **options))
            yield from calls

        return bind

    return mark
