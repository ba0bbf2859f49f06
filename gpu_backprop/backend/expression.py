"""The grammar that formulas of one's own are written in: text to tree, tree to text, and the derivative of a tree.

A text may come from a file that somebody made up. It is read by the parser of this module alone, which makes a tree of
known operations, or says what is wrong; what runs is printed from the tree (expression_code.py).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NoReturn

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.expression_tree import (
    COMPARISONS,
    CONSTANTS,
    DEPTH,
    FUNCTIONS,
    KNOWN,
    LARGEST,
    OPERATORS,
    SMALLEST,
    Node,
    TooMuchError,
    make,
    names_of,
    number,
    raw,
    substitute,
)

LENGTH = 20_000
"""The most characters of a text: as many as a tree of the most operations may be written with."""

_OF_ROWS = re.compile("(log_?)?softmax|logsumexp|sum|mean|prod|norm|dot|argmax|var|std")
"""Names that somebody may look for, and that no expression has."""

_TOKEN = re.compile(
    r"(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)|(?P<name>[A-Za-z]\w*)|(?P<sign>\*\*|<=|>=|[-+*/^(),<>])",
    re.ASCII,
)


# To a tree ------------------------------------------------------------------------------------------------------------


def parse(text: object, names: Collection[str], what: str = "the expression", host: Collection[str] = ()) -> Node:
    """Reads a text of numbers, these names, the operators + - * / ** and FUNCTIONS.

    Args:
        what: what the text is of, for messages.
        host: names of numbers that are known on the host: of them alone, anything may be an exponent.

    Raises:
        InputError: it is no such text, or longer, larger or deeper than the limits of this module; says where.
    """
    if not isinstance(text, str):
        raise InputError(f"{what} must be text such as 'z * sigmoid(z)', got {type(text).__name__} {text!r:.60}.")
    if len(text) > LENGTH:
        raise InputError(f"{what} has {len(text)} characters, and may have {LENGTH}.")
    return _Parser(text, names, what, host).read()


class _Parser:
    def __init__(self, text: str, names: Collection[str], what: str, host: Collection[str]) -> None:
        self.text, self.names, self.what, self.host, self.place, self.depth = text, names, what, host, 0, 0
        self.tokens, at = [], 0
        while at < len(text):
            if text[at] == " ":
                at += 1
            elif found := _TOKEN.match(text, at):
                self.tokens.append((str(found.lastgroup), found[0], at))
                at = found.end()
            else:
                self.refuse(f"{text[at]!r} has no meaning here", at)
        self.tokens.append(("end", "", len(text)))

    def read(self) -> Node:
        try:
            found = self.sum()
        except TooMuchError as error:
            self.refuse(str(error))
        if self.kind != "end":
            self.refuse(f"{self.token!r} stands where an operator or the end should")
        return found

    @property
    def kind(self) -> str:
        return self.tokens[self.place][0]

    @property
    def token(self) -> str:
        return self.tokens[self.place][1]

    def take(self, *tokens: str) -> str:
        """Goes on behind the next token if it is one of these signs."""
        found = self.token if self.kind == "sign" and self.token in tokens else ""
        self.place += bool(found)
        return found

    def expect(self, sign: str, where: str) -> None:
        if not self.take(sign):
            self.refuse(f"{self.token or 'the end'!r} stands where {where} needs {sign!r}")

    def refuse(self, why: str, at: int | None = None, hint: str = "") -> NoReturn:
        at = self.tokens[self.place][2] if at is None else at
        about = f"{'…' * (at > 20)}{self.text[max(0, at - 20) : at + 20]}{'…' * (at + 20 < len(self.text))}"
        words = ", ".join((*KNOWN, *CONSTANTS))
        made_of = f"It is made of numbers, {', '.join(self.names)}, + - * / ** ( ) and {words}, on one line"
        raise InputError(f"{self.what}: {why}, at character {at + 1} of {about!r}.{hint} {made_of}.")

    def sum(self) -> Node:
        found = self.product()
        while sign := self.take("+", "-"):
            found = make(sign, found, self.product())
        return found

    def product(self) -> Node:
        found = self.signed()
        while sign := self.take("*", "/"):
            found = make(sign, found, self.signed())
        return found

    def signed(self) -> Node:
        self.depth += 1
        if self.depth > DEPTH:
            self.refuse(f"it is nested deeper than {DEPTH}")
        if sign := self.take("-", "+"):
            found = self.signed()
            found = make("neg", found) if sign == "-" else found
        else:
            found = self.atom()
            if self.take("**", "^"):
                exponent = self.signed()
                if exponent.op != "number" and (names_of(found) | names_of(exponent)) - {*self.host}:
                    self.refuse("an exponent must be a number; others are written exp(p * log(a))")
                found = make("**", found, exponent)
        self.depth -= 1
        return found

    def atom(self) -> Node:
        kind, token = self.kind, self.token
        if self.take("("):
            found = self.sum()
            self.expect(")", "a bracket")
            return found
        if kind == "number":
            value = float(token)
            if value and not SMALLEST <= value <= LARGEST:
                self.refuse(f"{token:.20} is not between {SMALLEST:g} and {LARGEST:g}")
            self.place += 1
            return number(value)
        if kind != "name":
            self.refuse(f"{token or 'the end'!r} stands where a number, a name or '(' should")
        if token in CONSTANTS:
            self.place += 1
            return number(CONSTANTS[token])
        if token in KNOWN:
            self.place += 1
            return self.function(token)
        if token not in self.names:
            near = difflib.get_close_matches(token[:40], [*self.names, *KNOWN], n=1, cutoff=0.6)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            if _OF_ROWS.fullmatch(token.lower()):
                hint = " An expression takes one number at a time; what mixes those of a row, as softmax does, is none."
            self.refuse(f"unknown name {token[:40]!r}", hint=hint)
        self.place += 1
        return Node("name", (token,))

    def function(self, name: str) -> Node:
        self.expect("(", name)
        args = [self.condition() if name == "where" else self.sum()]
        while self.take(","):
            args.append(self.sum())
        self.expect(")", name)
        arity = 3 if name == "where" else FUNCTIONS[name].arity
        if len(args) != arity:
            self.refuse(f"{name} takes {arity} argument{'s' * (arity > 1)}, got {len(args)}")
        return make(name, *args)

    def condition(self) -> Node:
        left = self.sum()
        if not (sign := self.take(*COMPARISONS)):
            self.refuse("where(…) begins with a comparison, such as z > 0")
        return raw(sign, left, self.sum())


# From a tree ----------------------------------------------------------------------------------------------------------


@cache
def _of_table(text: str) -> Node:
    return parse(text, ("a", "b", "da", "db"))


def derive(node: Node, by: str, what: str) -> Node:
    """Works out the derivative of a tree by one of its names; InputError where it is too large, of `what`."""
    try:
        return _differentiate(node, by)
    except TooMuchError as error:
        raise InputError(f"the derivative of {what} cannot be worked out: {error}; give it as text.") from None


def _differentiate(node: Node, by: str) -> Node:
    if node.op in ("number", "name"):
        return number(node.args == (by,))
    if node.op == "where":
        condition, a, b = node.args
        return make("where", condition, _differentiate(a, by), _differentiate(b, by))
    a, *others = node.args
    if node.op == "**":
        power = make("**", a, number(others[0].args[0] - 1))
        return make("*", make("*", others[0], power), _differentiate(a, by))
    operands = {"a": a, "da": _differentiate(a, by)}
    if others:
        operands |= {"b": others[0], "db": _differentiate(others[0], by)}
    row = OPERATORS.get(node.op) or FUNCTIONS[node.op]
    return substitute(_of_table(row.derivative), operands)


@dataclass(frozen=True)
class Notation:
    """How operations, numbers and names are written."""

    signs: Mapping[str, str]
    number: Callable[[float], str]
    name: str


PLAIN = Notation(
    {"+": " + ", "-": " - ", "*": " * ", "/": " / ", "neg": "-", "**": "**"}, lambda v: repr(v).removesuffix(".0"), "{}"
)
"""The grammar itself."""

MATHEMATICS = Notation(
    {"+": " + ", "-": " − ", "*": "·", "/": "/", "neg": "−", "**": "^", "sqrt": "√"},
    lambda v: np.format_float_positional(v, trim="-").replace("-", "−"),
    "{{{}}}",
)
"""That of the lines of update rules, and of `explain`, with names in braces."""

_LEVELS = {"+": 1, "-": 1, "*": 2, "/": 2, "neg": 3, "**": 4}


def to_text(node: Node, notation: Notation = PLAIN, outer: int = 0) -> str:
    """Writes a tree; in the grammar itself, as text of which `parse` makes the tree again.

    Args:
        outer: beside what it will stand: 0 nothing, 1 and 2 on the left and right of + and -, 2 and 3 of * and /.
    """
    if node.op == "name":
        return notation.name.format(node.args[0])
    if node.op == "number":
        text = notation.number(node.args[0])
        return f"({text})" if text[0] in "-−" and outer > 2 else text
    level = _LEVELS.get(node.op, 5)
    if level == 5:
        each = [to_text(a, notation) for a in node.args]
        return f" {node.op} ".join(each) if node.op in COMPARISONS else f"{_sign(node, notation)}({', '.join(each)})"
    if node.op == "neg":
        text = _sign(node, notation) + to_text(node.args[0], notation, 3)
    elif node.op == "**":
        base, exponent = (to_text(a, notation, 5) for a in node.args)
        text = f"{base}²" if notation is MATHEMATICS and exponent == "2" else base + _sign(node, notation) + exponent
    else:
        left, right = (to_text(a, notation, level + k) for k, a in enumerate(node.args))
        text = left + _sign(node, notation) + right
    return f"({text})" if level < outer or (level == 3 and outer > 2) else text


def _sign(node: Node, notation: Notation) -> str:
    return notation.signs.get(node.op, node.op)
