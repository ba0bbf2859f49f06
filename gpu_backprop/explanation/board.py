"""Numbers as they stand on a blackboard: matrices side by side, and one line of arithmetic spelled out."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from string import Formatter

import numpy as np

from gpu_backprop.backend.formula import Array

DIGITS = 4
"""How many digits of a matrix' largest number are shown, after the point where it is above 1."""

MOST = 6
"""How many rows or columns of a matrix are shown; of a larger one, those in front and an ellipsis."""

WIDTH = ContextVar("WIDTH", default=96)
"""Columns of text, of the explanation that is being written; a formula stands four further to the right."""

MORE_DIGITS = range(0, 13, 2)
"""How many digits more than its matrix shows a number may get in a line of arithmetic, so that the line comes out."""


class Board:
    """An array under its name, all of it written with the same digits.

    Args:
        name: as in the formulas.
        values: a number, a row of them, a matrix, or several, which are written one below the other.
        column: whether one axis is written downwards, one number a sample.
    """

    def __init__(self, name: str, values: Array | float, column: bool = False) -> None:
        self.name, self.values, self.column = name, np.asarray(values), column
        if self.values.dtype.name in ("float16", "bfloat16"):
            self.values = self.values.astype(np.float32)
        sizes = np.abs(self.values[np.isfinite(self.values)].astype(np.float64))
        top = float(sizes.max(initial=0))
        self.scientific = top != 0 and not 1e-3 <= top < 1e5
        self.digits = DIGITS - 1
        if not self.scientific:
            zeros = max(0, -math.floor(math.log10(top)) - 1) if top else 0  # after the point
            self.digits = next((digits for digits in range(DIGITS) if self._exact(digits)), DIGITS + zeros)

    def _exact(self, digits: int) -> bool:
        """Tells whether so many digits say everything: integers need none."""
        kind = self.values.dtype
        tolerance = 4 * float(np.finfo(kind).eps) if kind.kind == "f" else 0.0
        return np.allclose(np.round(self.values, digits), self.values, rtol=tolerance, atol=0, equal_nan=True)

    def text(self, value: float, more: int = 0) -> str:
        """Writes a number as on this board, or with more digits."""
        if not math.isfinite(value) or (self.scientific and value == 0):
            return f"{value:g}".replace("-", "−")
        text = f"{value:.{self.digits + more}{'e' if self.scientific else 'f'}}"
        digits, _, exponent = text.partition("e")
        if more and "." in digits:
            digits = digits.rstrip("0").rstrip(".")
        if not digits.strip("-0."):
            digits = digits.removeprefix("-")
        return (digits + (f"e{int(exponent)}" if exponent else "")).replace("-", "−")

    def cell(self, *index: int) -> Cell:
        """Returns one of the numbers."""
        label = f"{self.name}[{','.join(map(str, index))}]" if index else self.name
        return Cell(self, label, float(self.values[index]))

    def lines(self) -> list[str]:
        """Writes the name, and below it the rows in brackets."""
        rows = self.values.reshape(-1, 1 if self.column else self.values.shape[-1] if self.values.ndim else 1)
        shown = [[self.text(float(v)) for v in row[: _shown(row.size)]] for row in rows[: _shown(len(rows))]]
        width = max(len(text) for row in shown for text in row)
        fitting = (WIDTH.get() - len("[ …]") + 1) // (width + 1)
        shown = [row[:fitting] for row in shown]
        more = " …" if rows.shape[1] > len(shown[0]) else ""
        body = [f"[{' '.join(text.rjust(width) for text in row)}{more}]" for row in shown]
        if len(rows) > MOST:
            body.append("⋮")
        cut = len(rows) > MOST or bool(more)
        return [f"{self.name} ({'×'.join(map(str, self.values.shape))})" if cut else self.name, *body]


class Exact(Board):
    """A setting, such as a learning rate: written as it was given."""

    def text(self, value: float, more: int = 0) -> str:
        digits, _, exponent = f"{value:.12g}".partition("e")
        return (digits + (f"e{int(exponent)}" if exponent else "")).replace("-", "−")


def _shown(count: int) -> int:
    return count if count <= MOST else MOST - 1


@dataclass(frozen=True)
class Cell:
    """One number of a board, and what it is called there."""

    board: Board
    label: str
    value: float

    def text(self, more: int = 0) -> str:
        return self.board.text(self.value, more)

    def operand(self, more: int) -> str:
        """Writes the number inside a formula."""
        text = self.text(more)
        return f"({text})" if text.startswith("−") else text

    def rounded(self, more: int) -> float:
        """Returns the number that a reader of the text sees."""
        return float(self.text(more).replace("−", "-"))


@dataclass(frozen=True)
class Rule:
    """Arithmetic in words and as a function of the same operands: Rule("{y}·(1 − {y})", lambda y: y * (1 - y)).

    Attributes:
        text: with the names of the operands in braces.
        value: of the operands by name.
        silent: operands for which an ellipsis stands in the text.
    """

    text: str
    value: Callable[..., float]
    silent: frozenset[str] = frozenset()

    @property
    def names(self) -> set[str]:
        return {name for _, name, _, _ in Formatter().parse(self.text) if name} | self.silent


def join_terms(terms: Sequence[str], sign: str = " + ") -> str:
    """Writes a sum, or with many terms its beginning and its end."""
    return sign.join(terms if len(terms) <= MOST else [*terms[:2], "…", terms[-1]])


def spell(target: Cell, rule: Rule, operands: Mapping[str, Cell], sign: str = "=") -> list[str]:
    """Writes target = formula = the same with numbers = result.

    The numbers have the digits of their matrices, or as many more as it takes for a reader who works the line out to
    arrive at the result. Where that cannot be, since the engine rounds in its own way, the line says ≈, or the formula
    stands alone.
    """
    used = {name: operands[name] for name in rule.names}
    formula, result = rule.text.format(**{name: cell.label for name, cell in used.items()}), target.text()
    for more in MORE_DIGITS:
        try:
            value = rule.value(**{name: cell.rounded(more) for name, cell in used.items()})
        except ArithmeticError:
            continue
        equal = "=" if target.board.text(value) == result else ""
        if not equal and more == MORE_DIGITS[-1] and math.isclose(value, target.value, rel_tol=1e-3, abs_tol=1e-6):
            equal = "≈"
        if equal:
            numbers = rule.text.format(**{name: cell.operand(more) for name, cell in used.items()})
            return _broken(f"{target.label} {sign} {formula}", f"= {_bare(numbers)} {equal} {result}")
    return _broken(f"{target.label} {sign} {formula}", f"= {result}")


_NEGATIVE = r"\((−[\d.]+(?:e−?\d+)?)\)"


def _bare(text: str) -> str:
    """Removes the parentheses of a negative number at the beginning or in other parentheses."""
    return re.sub(rf"^{_NEGATIVE}(?![²³^])", r"\1", re.sub(rf"\({_NEGATIVE}(?=[,)])", r"(\1", text))


def _broken(left: str, right: str) -> list[str]:
    """Breaks a line where it is too long."""
    if len(left) + 1 + len(right) <= WIDTH.get():
        return [f"{left} {right}"]
    return [*wrapped(left, " " * 6), *wrapped(f"    {right}", " " * 6)]


def wrapped(text: str, indent: str = "") -> list[str]:
    """Wraps text to lines, all but the first indented."""
    return textwrap.wrap(text, WIDTH.get(), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def side_by_side(boards: Iterable[Board | str]) -> list[str]:
    """Writes matrices side by side with signs between them, on as many rows of the page as they need."""
    pages: list[list[list[str]]] = [[]]
    for board in boards:
        block = ["", board] if isinstance(board, str) else board.lines()
        width = sum(_width(b) + 2 for b in pages[-1]) + _width(block)
        if pages[-1] and width > WIDTH.get():
            pages.append([])
        pages[-1].append(block)
    return [line for page in pages for line in ("", *_page(page))][1:]


def _width(block: list[str]) -> int:
    return max(map(len, block))


def _page(blocks: list[list[str]]) -> list[str]:
    height = max(map(len, blocks))
    filled = [[*block, *[""] * (height - len(block))] for block in blocks]
    return ["  ".join(b[row].ljust(_width(b)) for b in filled).rstrip() for row in range(height)]
