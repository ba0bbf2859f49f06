"""The update of an optimizer of one's own, worked out from assignments.

What an assignment makes of settings and of the number of the step alone becomes a coefficient, which is worked out once
a step; the rest is done for every parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.expression import MATHEMATICS, parse, to_text
from gpu_backprop.backend.expression_code import SLOTS, Program
from gpu_backprop.backend.expression_tree import Node, make, names_of, substitute
from gpu_backprop.backend.formula import Array, Calls, Work

OF_HOST = {
    "+": "({} + {})", "-": "({} - {})", "*": "({} * {})", "/": "({} / {})", "neg": "(-{})", "**": "power({}, {})",
    "sqrt": "root({})", "sign": "sign({})",
}  # fmt: skip
"""What a coefficient may be made of, as its text has it."""

Assignments = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class OwnUpdate:
    """The NumPy function of a rule that is made of assignments.

    Attributes:
        name: of the rule.
        settings: the names of its settings.
        assignments: name and text of each, that of "w" last.
        moments: the names that are kept from step to step.
        called, instead: what messages call it, and say where what it makes is not finite.
    """

    called: ClassVar[str] = "its update"
    instead: ClassVar[str] = "where(…), max and abs keep log, sqrt and / from what they are not defined for"

    name: str
    settings: tuple[str, ...]
    assignments: Assignments
    moments: tuple[str, ...]

    @property
    def trees(self) -> list[tuple[str, Node]]:
        """The assignments as `read_assignments` makes them of their texts."""
        return [(name, tree) for name, tree in read_assignments(self.name, self.settings, dict(self.assignments))]

    @cached_property
    def coefficients(self) -> dict[str, str]:
        """By name, the text of each coefficient."""
        return {name: _host_text(tree) for tree, name in self._hoisted[1].items()}

    @cached_property
    def programs(self) -> list[tuple[str, Program]]:
        """What each assignment works out; that of "w" the change."""
        return [(name, Program(tree)) for name, tree in self._hoisted[0]]

    @cached_property
    def _hoisted(self) -> tuple[list[tuple[str, Node]], dict[Node, str]]:
        found: dict[Node, str] = {}
        host = {*self.settings, "t"}
        trees = [(name, _change(tree, self.name) if name == "w" else tree) for name, tree in self.trees]
        return [(name, _hoist(tree, host, found)) for name, tree in trees], found

    def __call__(self, w: Array, g: Array, change: Array, work: Work, **arrays: Array) -> Calls:
        values, slots = {"w": w, "g": g, **arrays}, [*SLOTS]
        for name, program in self.programs:
            out = change if name == "w" else arrays[name] if name in self.moments else work.full(slots.pop())
            yield from program.calls(values, work, [out], slots)
            values[name] = out

    def cpp(self) -> str:
        """Writes the same as statements of C++."""
        text, count = "", 0
        for name, program in self.programs:
            statements, (result,) = program.cpp({}, count)
            count += len(program.steps)
            target = "change" if name == "w" else name if name in self.moments else f"const A {name}"
            text += f"{statements}{target} = {result}; "
        return text.rstrip()

    def lines(self) -> list[tuple[str, str]]:
        """Writes the same as formulas."""
        *others, (w, tree) = self.trees
        lines = [(name, to_text(of, MATHEMATICS)) for name, of in others]
        return [*lines, (w, f"{{w}} − {to_text(_change(tree, self.name), MATHEMATICS, 2)}")]

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("name", "settings", "assignments", "moments")}


def read_assignments(name: str, settings: Sequence[str], update: Mapping[str, str]) -> list[tuple[str, Node]]:
    """Reads assignments; InputError where one is not in the grammar."""
    names = dict.fromkeys(("w", "g", "t", *settings, *update))
    return [
        (target, parse(text, names, f"{target!r} of optimizer {name!r}", host=(*settings, "t")))
        for target, text in update.items()
    ]


def _change(tree: Node, name: str) -> Node:
    """Returns what w − … takes from w, of a sum of which w is the first term."""
    terms = list[tuple[str, Node]]()
    while tree.op in ("+", "-"):
        terms.insert(0, (tree.op, tree.args[1]))
        tree = tree.args[0]
    if tree != Node("name", ("w",)) or not terms:
        raise InputError(
            f"'w' of optimizer {name!r} must be 'w - ' what it changes by, such as 'w - learning_rate*g'; a decay of "
            "the weights is weight_decay, which every optimizer has."
        )
    (sign, change), *others = terms
    change = make("neg", change) if sign == "+" else change
    for sign, term in others:
        change = make("+" if sign == "-" else "-", change, term)
    return change


def _hoist(tree: Node, host: set[str], found: dict[Node, str]) -> Node:
    """Puts names in the places of what is made of these names alone, and can be a coefficient; found: by tree, such a
    name."""
    names = names_of(tree)
    if names and names <= host and _can_be_a_coefficient(tree):
        return Node("name", (found.setdefault(tree, f"_k{len(found)}"),))
    if not names & host:
        return tree
    if tree.op == "**" and tree.args[1].op != "number":
        raise InputError(
            f"{to_text(tree)!r} is worked out once a step, and there may have + - * / **, sqrt and sign alone; write "
            "it as exp(p * log(a))."
        )
    return _with(tree, [_hoist(a, host, found) if isinstance(a, Node) else a for a in tree.args])


def _can_be_a_coefficient(tree: Node) -> bool:
    if tree.op in ("number", "name"):
        return True
    return tree.op in OF_HOST and all(map(_can_be_a_coefficient, tree.args))


def _with(tree: Node, args: Sequence[Node]) -> Node:
    places = [Node("name", (f"_{k}",)) for k in range(len(args))]
    return substitute(Node(tree.op, tuple(places)), {f"_{k}": a for k, a in enumerate(args)})


def _host_text(tree: Node) -> str:
    if tree.op == "number":
        return repr(tree.args[0])
    if tree.op == "name":
        return "step" if tree.args[0] == "t" else str(tree.args[0])
    return OF_HOST[tree.op].format(*map(_host_text, tree.args))
