"""What runs of an expression: NumPy calls that work in place, and statements of C++, both printed from its tree.

A `Program` has every operation of some trees once, in an order in which they can be worked out.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.expression_tree import COMPARISONS, FUNCTIONS, OPERATORS, Node, number
from gpu_backprop.backend.formula import Array, Call, Work, call

SLOTS = *range(6), *range(16, 26)
"""Which arrays of work there may be taken: those between are for other things."""


@dataclass(frozen=True)
class Step:
    """One operation on the results of earlier steps, by their places; of a "number" or a "name", what it is."""

    op: str
    operands: tuple[int, ...] = ()
    leaf: Any = None


class Program:
    """The operations of trees.

    Attributes:
        steps: one for each different operation.
        roots: the places of the trees' results.
    """

    def __init__(self, *trees: Node) -> None:
        self._places: dict[Step, int] = {}
        self.roots = [self._visit(tree, {}) for tree in trees]
        self.steps = [*self._places]

    def _step(self, op: str, *operands: int, leaf: Any = None) -> int:
        return self._places.setdefault(Step(op, operands, leaf), len(self._places))

    def _visit(self, node: Node, known: Mapping[str, int]) -> int:
        """Appends what a tree needs; known: the places of what the parts of a function are of."""
        if node.op in ("number", "name"):
            (leaf,) = node.args
            return known[leaf] if leaf in known else self._step(node.op, leaf=leaf)
        if node.op == "where":
            condition, *others = node.args
            operands = [self._visit(a, known) for a in (*condition.args, *others)]
            return self._step(condition.op, *operands)
        if node.op == "**":
            return self._power(self._visit(node.args[0], known), int(node.args[1].args[0]))
        places = {k: self._visit(a, known) for k, a in sorted(enumerate(node.args), key=lambda a: -a[1].size)}
        operands = [places[k] for k in range(len(places))]  # the larger one first, which takes fewer slots
        if node.op in FUNCTIONS and (parts := FUNCTIONS[node.op].parts) is not None:
            return self._visit(parts, {"a": operands[0]})
        return self._step(node.op, *operands)

    def _power(self, base: int, exponent: int) -> int:
        """Multiplies out: z⁷ = z·z²·z⁴."""
        if exponent < 0:
            return self._step("/", self._visit(number(1), {}), self._power(base, -exponent))
        half = self._power(base, exponent // 2) if exponent > 1 else base
        square = self._step("*", half, half) if exponent > 1 else base
        return self._step("*", square, base) if exponent > 1 and exponent % 2 else square

    def calls(
        self, values: Mapping[str, Array], work: Work, out: Sequence[Array | None], slots: Sequence[int]
    ) -> Generator[Call, None, list[Any]]:
        """Yields NumPy calls, and returns the results: arrays, or numbers.

        Args:
            values: by name, arrays that are read. One of them may be an array of `out`, which then is the last.
            out: where the result of each tree is to be; None: in a slot, which the caller may write on.
            slots: those of work.full that may be used.

        Raises:
            InputError: they are too few.
        """
        last = {place: at for at, step in enumerate(self.steps) for place in step.operands}
        last |= dict.fromkeys(self.roots, len(self.steps))  # kept to the end
        into = {root: array for root, array in zip(self.roots, out, strict=True) if array is not None}
        free, taken, found = [*slots], dict[int, int](), dict[int, Any]()
        for at, step in enumerate(self.steps):
            if step.op in ("number", "name"):
                found[at] = values[step.leaf] if step.op == "name" else step.leaf
                continue
            ending = [place for place in dict.fromkeys(step.operands) if place in taken and last[place] == at]
            direct = at in into and step.op not in COMPARISONS
            if step.op in COMPARISONS:  # what it takes where the condition holds is read last
                ending.sort(key=lambda place: place != step.operands[3])
                reused = ending[:1] if ending[:1] == [step.operands[3]] != [step.operands[2]] else []
            else:
                reused = [] if direct else ending[:1]
            if not direct:
                if not reused and not free:
                    raise InputError(
                        f"an expression needs more than {len(slots)} intermediate results: write it shorter."
                    )
                taken[at] = taken[reused[0]] if reused else free.pop(0)
            result = into[at] if direct else work.full(taken[at])
            yield from _calls_of(step, [found[k] for k in step.operands], result, work)
            found[at] = result
            free = sorted([*free, *(taken[place] for place in ending if place not in reused)])
        for root, array in into.items():
            if found[root] is not array:
                yield partial(np.copyto, array, found[root])
        return [into.get(root, found[root]) for root in self.roots]

    def cpp(self, names: Mapping[str, str], first: int = 0) -> tuple[str, list[str]]:
        """Writes statements of C++ that define every operation's result, and how each tree's is called.

        Args:
            names: others for the names of the expression.
            first: from which number on the results are counted.
        """
        found: list[str] = []
        text = ""
        for at, step in enumerate(self.steps):
            if step.op == "number":
                found.append(f"A({step.leaf!r})")
            elif step.op == "name":
                found.append(names.get(step.leaf, step.leaf))
            else:
                operands = [found[k] for k in step.operands]
                row = OPERATORS.get(step.op) or FUNCTIONS.get(step.op)
                form = row.cpp if row else f"{{0}} {step.op} {{1}} ? {{2}} : {{3}}"
                found.append(f"_{first + at}")
                text += f"const A {found[-1]} = {form.format(*operands)}; "
        return text, [found[root] for root in self.roots]

    def body(self, **names: str) -> str:
        """Writes the C++ of a function that returns the one tree's result."""
        text, (result,) = self.cpp(names)
        return f"{text}return {result};"


def _calls_of(step: Step, operands: list[Any], result: Array, work: Work) -> Generator[Call, None, None]:
    if step.op not in COMPARISONS:
        row = OPERATORS.get(step.op) or FUNCTIONS[step.op]
        assert row.ufunc is not None
        yield call(row.ufunc, *operands, out=result)
        return
    *compared, yes, no = operands
    mask = work.mask()
    yield call(COMPARISONS[step.op], *compared, out=mask)
    if no is not result:
        yield partial(np.copyto, result, no)
    yield partial(np.copyto, result, yes, where=mask)
