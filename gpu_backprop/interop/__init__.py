"""What meets other libraries on their own ground: each module is imported when it is asked for, as
`gpu_backprop.interop.pytorch`, and what it needs besides when one of its functions is called, or with it."""

from typing import Any


def __getattr__(name: str) -> Any:
    from importlib import import_module
    from importlib.util import find_spec

    if name.startswith("_") or find_spec(f"{__name__}.{name}") is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}. It has {', '.join(__dir__())}.")
    return import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    from pkgutil import iter_modules

    return sorted(module.name for module in iter_modules(__path__))
