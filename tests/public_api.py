"""What is public, as text: every public name with its parameters, the rows of the tables, and the command line.

    python tests/public_api.py            tells what is not as tests/public_api.txt says
    python tests/public_api.py --write    writes that file anew

Annotations are left out, which every version of Python writes in another way, and so is what classes of others bring.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import gpu_backprop as gb
from gpu_backprop.arguments.parser import _parser

RECORD = Path(__file__).with_suffix(".txt")
MODULES = (
    "data", "explanation", "recipes", "report",
    *(f"interop.{name}" for name in ("c_header", "jax", "keras", "onnx", "optuna", "pytorch", "sklearn")),
)  # fmt: skip
"""The public modules, beside `gpu_backprop` itself."""

SAME_EVERYWHERE = bool, int, float, str, bytes, type(None)
"""Types whose values look the same in every process, and in every version of Python."""


class Default:
    """A default value, whose repr has nothing in it that differs from one process or version to another."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        if isinstance(self.value, SAME_EVERYWHERE) or repr(self.value) == "<factory>":
            return repr(self.value)
        if isinstance(self.value, tuple):
            return repr(tuple(map(Default, self.value)))
        return getattr(self.value, "__name__", None) or f"<{type(self.value).__name__}>"


def parameters(function: Any, first: int = 0) -> str:
    """`(a, b=1, *, c=None)`, from the parameter number `first` on; (...) of what is made by Python itself."""
    if inspect.isclass(function) and not any(map(inspect.isfunction, (function.__init__, function.__new__))):
        return "(...)"
    shown = []
    for each in list(inspect.signature(function).parameters.values())[first:]:
        default = each.default if each.default is each.empty else Default(each.default)
        shown.append(each.replace(annotation=each.empty, default=default))
    return str(inspect.Signature(shown))


def attributes(cls: type) -> Iterator[str]:
    """The names that the body of a class declares and that its methods assign to self: `vars` has none of them."""
    tree = ast.parse(Path(inspect.getfile(cls)).read_text(encoding="utf-8"))
    [node] = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == cls.__name__]
    yield from (n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name))
    for part in ast.walk(node):
        match part:
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                yield name


def members(cls: type) -> dict[str, str]:
    """What a class itself has without an underscore, and how that is called."""
    found = dict.fromkeys(attributes(cls), "")
    for name, value in vars(cls).items():
        if isinstance(value, staticmethod):
            found[name] = parameters(value.__func__)
        elif isinstance(value, classmethod) or inspect.isfunction(value):
            found[name] = parameters(getattr(value, "__func__", value), first=1)
        elif not type(value).__module__.startswith("sklearn."):  # which gives each estimator methods of its own
            found.setdefault(name, "")
    return {name: how for name, how in sorted(found.items()) if not name.startswith("_")}


def names(module: ModuleType) -> dict[str, Any]:
    """The public names of a module: those that it lists, or else what it defines itself."""
    if hasattr(module, "__all__"):
        listed = dir(module) if module is gb else module.__all__  # where the estimators are too
        return {name: getattr(module, name) for name in listed}
    return {name: value for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}


def python() -> Iterator[str]:
    """Yields a line for each name of the package and each attribute of a class; what classes share stands once."""
    modules = [gb, *(importlib.import_module(f"gpu_backprop.{name}") for name in sorted(MODULES))]
    called: dict[int, str] = {}
    above: dict[str, type] = {}
    for module in modules:
        prefix = module.__name__.removeprefix("gpu_backprop").lstrip(".") + "." * (module is not gb)
        for name, value in sorted(names(module).items()):
            full, known = prefix + name, called.get(id(value))
            if name.startswith("_") or inspect.ismodule(value):
                continue
            if callable(value):
                called[id(value)] = known or full
            if known:
                yield f"{full} is {known}"
            elif inspect.isclass(value):
                yield from of_class(full, value)
                above |= {base.__name__: base for base in value.__mro__ if base.__module__.startswith("gpu_backprop.")}
            elif isinstance(value, dict):
                yield from (f"{full}[{key!r}]" for key in sorted(value))
            else:
                yield full + (parameters(value) if callable(value) else "")
    for name, base in sorted(above.items()):
        if id(base) not in called:
            yield from of_class(name, base)


def of_class(name: str, cls: type) -> Iterator[str]:
    """Yields how a class is called and what it is, and its attributes."""
    bases = ", ".join(base.__name__ for base in cls.__bases__ if base is not object)
    yield f"{name}{parameters(cls)}" + (bases and f" is {bases}")
    yield from (f"{name}.{member}{how}" for member, how in members(cls).items())


def command_line() -> Iterator[str]:
    """Yields a line for each command, with its arguments, and for each of its options."""
    [commands] = [action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]
    for command, parser in sorted(commands.choices.items()):
        shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
        yield " ".join(["gpu-backprop", command, *(str(a.metavar or a.dest) for a in shown if not a.option_strings)])
        for action in sorted((a for a in shown if a.option_strings), key=lambda action: action.option_strings[-1]):
            value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
            yield f"gpu-backprop {command} {', '.join(action.option_strings)}{value}"


def text() -> str:
    """What tests/public_api.txt should say."""
    return "".join(f"{line}\n" for line in [*python(), *command_line()])


def difference(before: str, now: str) -> str:
    """What has changed and what is to be done about it; empty where nothing has."""
    lines = difflib.unified_diff(before.splitlines(), now.splitlines(), n=0, lineterm="")
    changed = [line for line in lines if not line.startswith(("@@", "---", "+++"))]
    if not changed:
        return ""
    return "\n".join([
        "The public interface has changed (- was, + is):", *changed,
        "If that was not meant, undo it: others call it. If it was, say so in CHANGELOG.md under Unreleased, in the",
        "way of docs/versions.md, and run: python tests/public_api.py --write",
    ])  # fmt: skip


def main(arguments: list[str]) -> str | None:
    """Returns what is wrong, if anything."""
    if arguments == ["--write"]:
        RECORD.write_text(text(), encoding="utf-8", newline="\n")
        return None
    return __doc__ if arguments else difference(RECORD.read_text(encoding="utf-8"), text()) or None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
