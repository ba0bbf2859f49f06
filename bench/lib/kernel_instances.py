"""Every instance of every kernel, and several of them in one text: for tests and for bench/kernels.py. A launch makes
the one instance that it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from gpu_backprop.backend.cuda.kernel_instance import INTEGERS, Argument, Instance, Key, accepted_types, accepted_widths
from gpu_backprop.backend.cuda.kernel_library import OPTIONS, KernelLibrary
from gpu_backprop.backend.device import storage
from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Activation, Functions, LossFormula
from gpu_backprop.backend.kernel_text import FORMULAS, source
from gpu_backprop.backend.signatures import heads
from gpu_backprop.backend.update_rule import UpdateRule

Tables = Mapping[str, Sequence[Argument]]
"""The formulas of each formula parameter."""


def instances(
    activations: Iterable[Activation], losses: Iterable[LossFormula], rules: Iterable[UpdateRule]
) -> Iterator[Instance]:
    """Yields every kernel with every argument that its parameters accept; one with Functions, of which there are
    infinitely many, with as few as have each argument together with each accumulator type, and one with formulas of an
    activation and a loss with a few of each type.

    Raises:
        MissingExtraError: ml_dtypes, which brings bfloat16, is not installed.
    """
    rows = tuple(row for row in activations if not row.rowwise)
    three = (tuple(rows[(k + j) % len(rows)] for j in range(3)) for k in range(len(rows)))
    tables: Tables = {"F": rows, "E": tuple(losses), "N": tuple(map(Functions, three)), "U": tuple(rules)}
    for head in heads().values():
        names = [name for _, name in head.template]
        for chosen in _form(names)(names, {}, tables):
            yield Instance(head, tuple(chosen.values()))


def _form(names: list[str]) -> Callable[[list[str], dict[str, Argument], Tables], Iterator[dict[str, Argument]]]:
    return _sample if "N" in names else _spread if {"E", "F"} <= {*names} else _choices


def _choices(names: list[str], chosen: dict[str, Argument], tables: Tables) -> Iterator[dict[str, Argument]]:
    if not names:
        yield chosen
        return
    name, *rest = names
    for value in _values(name, chosen, tables):
        yield from _choices(rest, {**chosen, name: value}, tables)


def _sample(names: list[str], chosen: dict[str, Argument], tables: Tables) -> Iterator[dict[str, Argument]]:
    """Yields, for each value of the first name, the fewest choices that have all values of every other name."""
    first, *rest = names
    for value in _values(first, chosen, tables):
        values = {name: _values(name, {first: value}, tables) for name in rest}
        for k in range(max(map(len, values.values()))):
            yield {first: value} | {name: of[k % len(of)] for name, of in values.items()}


def _spread(names: list[str], chosen: dict[str, Argument], tables: Tables) -> Iterator[dict[str, Argument]]:
    """Yields, for each value of the first name, eight choices that have all values of K with both widths and both types
    of targets; over all of them the values of every other name are spread."""
    first, *rest = names
    for start, value in enumerate(_values(first, chosen, tables)):
        values = {name: _values(name, {first: value}, tables) for name in rest}
        for k in range(8):
            places = {"K": k, "V": k // 4, "L": k + k // 4}
            yield {first: value} | {name: of[places.get(name, 8 * start + k) % len(of)] for name, of in values.items()}


def _values(name: str, chosen: Mapping[str, Argument], tables: Tables) -> Sequence[Argument]:
    if name in FORMULAS:
        return tables[name]
    if name == "V" or name in INTEGERS:
        return accepted_widths(chosen) if name == "V" else INTEGERS[name]
    return [storage(t) for t in accepted_types(name, chosen)]


def text_of(several: Sequence[Instance]) -> str:
    """Makes one text for instances of one file, each functor in it once.

    Raises:
        InputError: they come from several files, or need two functors of one name (a loss with two settings).
    """
    if len(files := {made.kernel.file for made in several}) != 1:
        raise InputError(f"the instances of one text come from one file, got {len(files)}: {', '.join(sorted(files))}.")
    functors: dict[str, str] = {}
    for made in several:
        for name, text in made.functors.items():
            if functors.setdefault(name, text) != text:
                raise InputError(f"one text cannot hold two formulas called {name}; make a text for each.")
    define = max((made.define for made in several), key=len)
    return "".join([define, source(files.pop()), *functors.values()])


def prepare(library: KernelLibrary, wanted: Iterable[Instance]) -> None:
    """Compiles many instances in as few modules as there can be: one at a time would take ten times as long."""
    modules: list[dict[Key, Instance]] = []
    for made in wanted:
        if made.key not in library.functions:
            module = next((m for m in modules if _fit_one_text(made, m.values())), None)
            if module is None:
                modules.append(module := {})
            module[made.key] = made
    for module in modules:
        names = [made.name for made in module.values()]
        with library.cupy.cuda.Device(library.index):
            compiled = library.cupy.RawModule(
                code=text_of([*module.values()]), options=OPTIONS, name_expressions=tuple(names)
            )
            library.functions |= {k: compiled.get_function(m.name).kernel for k, m in module.items()}


def _fit_one_text(made: Instance, others: Iterable[Instance]) -> bool:
    """Tells whether one text can hold an instance and others: one file, and no two formulas of one name."""
    return all(
        made.kernel.file == other.kernel.file
        and all(other.functors.get(name, text) == text for name, text in made.functors.items())
        for other in others
    )
