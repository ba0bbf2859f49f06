"""The texts of an update rule's lines, such as "{w} − {learning_rate}·{m_hat}/(√({v_hat}) + {epsilon})": read as
arithmetic, and written as a formula.

A text is made of + − · / ^ ² ( ), √(…), sign(…), FUNCTIONS, those of expression.py, numbers and {names}.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Collection, Sequence
from functools import cache, partial

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.expression_tree import KNOWN, work_out
from gpu_backprop.backend.rule_functions import FUNCTIONS

NAME = re.compile(r"\{(\w+)\}")
_READ = re.compile(rf"\{{\w+\}}|\d+(?:\.\d+)?|√(?=\()|(?:{'|'.join([*KNOWN, *FUNCTIONS])})(?=\()|[-+−·/^²(), ]|[<>]=?")
_PYTHON = str.maketrans({"−": "-", "·": "*", "²": "**2", "^": "**", "√": "root", "{": "", "}": ""})
_MATH = {
    "__builtins__": {},
    **{name: partial(work_out, name) for name in KNOWN},
    "root": lambda a: a**0.5,
    "sign": lambda a: float((a > 0) - (a < 0)),
    **FUNCTIONS,
    "clip": lambda a, bound: min(max(a, -bound), bound),  # of gradients, by a setting; an author's line has none
}

_SYMBOL = "∇?[^\\W\\d_]\u0302?[₀-₉]*"
_NEEDLESS_DOT = re.compile(
    rf"(?<![\w/^√∇.\u0302])({_SYMBOL}²?|[\d.]+|\([^()]*\))·(?=[(√]|{_SYMBOL}[²ᵗ]?(?![\w\u0302]))"
)


@cache
def arithmetic(text: str) -> Callable[..., float]:
    """Makes a function of the names in a text."""
    made: Callable[..., float] = eval(f"lambda {', '.join(dict.fromkeys(NAME.findall(text)))}: {_python(text)}", _MATH)
    return made


def write_formula(text: str, symbol: Callable[[str], str]) -> str:
    """Writes a text with symbols for its names, as one does by hand: ρv for ρ·v, √v for √(v), βᵗ for β^t."""
    text = re.sub(r"√\((\{\w+\})\)", r"√\1", text).replace("^{t}", "ᵗ")
    return _NEEDLESS_DOT.sub(r"\1", NAME.sub(lambda name: symbol(name[1]), text))


def check_lines(
    rule: str, settings: Collection[str], moments: Collection[str], lines: Sequence[tuple[str, str]]
) -> None:
    """Raises InputError unless each line can be worked out from what stands before it, each moment has one, and the
    last is of w: "{w} − " and one term."""
    known, results = {*settings, *moments, "w", "g", "t"}, list[str]()
    for result, text in lines:
        what = f"update rule {rule!r}: the line {(result, text)!r}"
        if not result.isidentifier() or result in (*settings, *results, "g", "t"):
            raise InputError(f"{what} must be of w, a moment or a new name, and each of them has one line.")
        if unread := _READ.sub("", text):
            raise InputError(
                f"{what} has {unread!r}; a line is made of + − · / ^ ² ( ), √(…), "
                f"{', '.join(f'{name}(…)' for name in (*KNOWN, *FUNCTIONS))}, numbers and {{names}}."
            )
        if unknown := {*NAME.findall(text)} - known:
            raise InputError(f"{what} reads {', '.join(sorted(unknown))}; what it may: {', '.join(sorted(known))}.")
        try:
            arithmetic(text)(**dict.fromkeys(NAME.findall(text), 0.5))
        except ArithmeticError:
            pass  # of these numbers
        except Exception as error:
            raise InputError(f"{what} cannot be worked out: {error}.") from None
        known.add(result)
        results.append(result)
    if missing := {*moments, "w"} - {*results}:
        raise InputError(f"update rule {rule!r}: a line is missing, of {', '.join(sorted(missing))}.")
    match results[-1], ast.parse(_python(text), mode="eval").body:
        case "w", ast.BinOp(ast.Name("w"), ast.Sub(), _) if text.startswith("{w} − "):
            return
    raise InputError(
        f"update rule {rule!r}: its last line must be ('w', '{{w}} − …') with one term behind the minus, a sum in "
        f"brackets; got {lines[-1]!r}."
    )


def _python(text: str) -> str:
    return text.translate(_PYTHON)
