"""Numbers as people write them, such as $1,745, 55 % or 1.055,50: in which way a column has them, and what they are."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gpu_backprop.data import stored
from gpu_backprop.data.cells import is_number, numbers
from gpu_backprop.data.files import Array
from gpu_backprop.data.messages import counted, shown
from gpu_backprop.data.table import Table

SAMPLE = 1000
"""Different texts of a column by which its format is chosen, before all are read."""

LONGEST = 60
"""Characters of a number and all that is around it."""

MINUS = "\N{MINUS SIGN}"
CURRENCY = "$\u00a2-\u00a5\u20a0-\u20bf"
GROUPS = " ,.'_\N{RIGHT SINGLE QUOTATION MARK}\N{NO-BREAK SPACE}\N{THIN SPACE}\N{NARROW NO-BREAK SPACE}"
"""What may stand between thousands."""

CELL = re.compile(
    rf"(?P<open>\()?\s*(?P<sign>[-+{MINUS}])?\s*(?P<prefix>[A-Z]{{0,3}}[{CURRENCY}]|[A-Z]{{3}}(?=\s))?\s*(?P<inner>[-+{MINUS}])?"
    rf"(?P<body>[.,]?[0-9](?:[0-9{GROUPS}]*[0-9])?[.,]?)(?P<exponent>[eEdD][-+{MINUS}]?[0-9]{{1,3}})?"
    rf"(?P<suffix>\s*(?:[%‰{CURRENCY}]|°\s?[CFK]?|(?!(?:st|nd|rd|th)\b)[^\W\d_][^\d()]{{0,19}}[23]?))?\s*(?P<close>\))?"
)
"""(…) is a minus, as in accounts; a unit is a word, and may end in 2 or 3, as in m2; 9th is a name."""

BYTE = "(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])"
ADDRESS = re.compile(rf"{BYTE}(?:\.{BYTE}){{3}}")
"""Of the internet: 192.168.100.191."""

NAME_SUFFIX = re.compile(
    r"(?!(?:[KMGTP]B|K[GMW]|[CM]M|ML|HP|PS|[MG]W|VA|CC|KV|HZ|DB)$)[A-Z]{1,2}|[^\W\d_]\S*\s.+|(?i:jan(uary)?|feb(ruary)?|mar(ch)?|"
    r"apr(il)?|may|june?|july?|aug(ust)?|sept?(ember)?|oct(ober)?|nov(ember)?|dec(ember)?)\.?"
)
"""One or two capitals that are no unit, as in the postcode 6317 AB, words, and months: they may be part of a name."""

LIKE_NUMBER = re.compile(
    rf"(?P<before>[^0-9]*?)[-+{MINUS}\s]*"
    r"(?:[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}|[0-9]{1,3}(?:[ ,'_\u2019\u00a0\u2009\u202f][0-9]{3})+|[0-9]+)(?:[.,][0-9]+)?"
    r"\s*(?P<after>[^0-9]*)"
)
"""A number that no format reads, such as Rs. 118, 84+ or 1,81,34,063, as India groups it."""
MARKS = frozenset("-+~≈<>≤≥±*%‰?!.,/'\"′″–—" + MINUS)
MONEY = re.compile(
    "(rs|re|inr|kr|sek|nok|dkk|isk|s?fr|chf|usd|eur|gbp|jpy|cny|rmb|cad|aud|nzd|hkd|sgd|brl|mxn|pln|zł|czk|kč|huf|ft|rub|"
    "try|zar|krw|idr|rp|myr|rm|php|thb|aed|sar|ron|lei|bdt|tk|ngn|kes)?[.]?",
    re.IGNORECASE,
)
"""What may be around such a number; around a name it is other letters, as in A17 or room 12."""


@dataclass(frozen=True)
class NumberFormat:
    """The way in which a column writes its numbers.

    Attributes:
        prefix, suffix: what every cell has around its number: a currency, %, a unit; or nothing.
        group: what stands between thousands; or nothing.
        decimal: a point or a comma.
    """

    prefix: str = ""
    suffix: str = ""
    group: str = ""
    decimal: str = "."

    def number(self, cell: str) -> float:
        """Reads the number in a cell.

        Raises:
            ValueError: it is not written in this way.
        """
        parts = _parts(cell)
        if parts is None and self == NumberFormat() and is_number(cell):
            return float(cell)  # such as inf
        if parts is None or _affixes(parts) != (self.prefix, self.suffix):
            raise ValueError(cell)
        signs = [sign for sign in (parts["open"], parts["sign"], parts["inner"]) if sign]
        whole, _, fraction = parts["body"].partition(self.decimal)
        first, *others = whole.split(self.group) if self.group else [whole]
        digits, exponent = "".join([first, *others]), parts["exponent"] or "e0"
        sound = (
            len(signs) < 2
            and (parts["open"] is None) == (parts["close"] is None)
            and (not others or (0 < len(first) < 4 and first[0] != "0" and {len(other) for other in others} == {3}))
            and (digits + fraction).isdigit()
            and (exponent[0] in "eE" or self.decimal in parts["body"])  # 1.5D+00, as Fortran writes; a 3D is none
        )
        if not sound:
            raise ValueError(cell)
        value = float(f"{digits or 0}.{fraction or 0}e{exponent[1:].replace(MINUS, '-')}")
        return value if not signs or signs[0] == "+" else -value

    def __str__(self) -> str:
        """Gives an example."""
        number = "12" if not self.group and self.decimal == "." else f"1{self.group}234{self.decimal}5"
        return f"{self.prefix}{number}{' ' * self.suffix[:1].isalpha()}{self.suffix}"

    def to_dict(self) -> dict[str, str]:
        """Returns it as plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, given: object) -> NumberFormat:
        """Reads what to_dict gave."""
        found = cls(*(stored.text(given, key) for key in ("prefix", "suffix", "group", "decimal")))
        stored.require(found.decimal in (".", ",") and found.group in ("", *GROUPS), "a number has an unknown format")
        return found


@dataclass(frozen=True)
class Finding:
    """The numbers that were found among the texts of a column.

    Attributes:
        readings: the formats that read most of the cells; the more than one where they read them differently.
        row, text: the first cell that is no plain number, or that cannot be read; or the first cell.
        why: why it is left as text; empty: it is not.
        strays: how many cells are no such numbers, if they are the reason.
        word: whether these are one and the same text without a digit.
        other: the first cell in another currency, or with % or without, if that is the reason.
        numbers: the numbers of the column, float64 (rows,), NaN where one is missing, if they are beyond doubt.
    """

    readings: tuple[NumberFormat, ...]
    row: int
    text: str
    why: str
    numbers: Array | None
    strays: int = 0
    word: bool = False
    other: str = ""

    @property
    def format(self) -> NumberFormat | None:
        """The format that reads every cell beyond doubt."""
        return None if self.why else self.readings[0]


REMEDY = {
    "category": "leave the field empty if it is missing, or give --missing {} (missing= in Python)",
    "class": "take the row out, or give --missing {} (missing= in Python) and --drop-missing-target",
}


def describe_finding(table: Table, name: str, found: Finding, thing: str) -> str:
    """Says what was found in a column, and what becomes of it: each text a category, or a class."""
    text, place = shown(found.text), table.place(found.row)
    cells = table.columns[name].tolist()
    other = f"{shown(found.other)} in {table.place(cells.index(found.other))}" if found.other else ""
    values = [f"{value + 0:.15g}" for format in found.readings if (value := _value(format, found.text)) is not None]
    here = f"text here, each a {thing}"
    said = {
        "": f"such as {text} in {place}, which is read as {''.join(values[:1])}; --text {shown(name)} keeps such text "
        "(text= in Python)",
        "doubtful": f"such as {text} in {place}, which may be {' or '.join([*values, 'a name'][:2])}, so that they are "
        f"{here}; if they are quantities, write them as programs do",
        "stored": f"in every row, which are {here}, because the file stores text; store numbers if they are quantities",
        "unknown": f"such as {text} in {place}, in a way that is not known, so that they are {here}; if they are "
        "quantities, write them as programs do",
        "mixed": f"in more than one currency or unit, such as {text} in {place} and {other}, so that they are {here}; "
        "if they are quantities, convert all to one",
        "stray": f"in all but {counted(found.strays, 'row')}, which are {here}, because {place} has {text}; correct "
        + (f"it, or {REMEDY[thing].format(text)}" if found.word else "it" if found.strays == 1 else "them"),
    }[found.why]
    return f"{table.source}: column {shown(name)} has numbers {said}"


def find_numbers(table: Table, names: Collection[str], mark: str = "") -> dict[str, Finding]:
    """Finds the columns of text, where text was not asked for, in which most cells look like numbers.

    Args:
        mark: the decimal mark of the file; "": that which other columns of the table have, if they tell. It decides
            whether 5,041 is 5041 or 5.041.
    """
    texts = [name for name in names if table.columns[name].dtype == object and name not in table.text]
    findings = {name: found for name in texts if (found := _find(table.columns[name].tolist())) is not None}
    doubtful = [name for name, found in findings.items() if len(found.readings) > 1]
    if doubtful and (mark := mark or decimal_mark(table, findings)):
        settled = {name: _find(table.columns[name].tolist(), mark) for name in doubtful}
        findings |= {name: found for name, found in settled.items() if found is not None}
    return findings


def decimal_mark(table: Table, findings: Mapping[str, Finding]) -> str:
    """Tells by the columns beyond doubt whether a file has decimal points or commas; "" if they don't, or disagree."""
    formats = [found.readings[0] for found in findings.values() if not found.why]
    marks = {"." for format in formats if format.group == ","} | {"," for format in formats if format.decimal == ","}
    fractions = (values[np.isfinite(values)] % 1 for values in table.columns.values() if values.dtype != object)
    if table.lines is not None and any(part.any() for part in fractions):  # which were read by their decimal point
        marks.add(".")
    return marks.pop() if len(marks) == 1 else ""


def _find(cells: list[str | None], mark: str = "") -> Finding | None:
    times = Counter(cell for cell in cells if cell is not None)
    if all(ADDRESS.fullmatch(text) for text in times):
        return None
    readings = _readings(times)
    if not readings:
        if mixed := _mixed(times):
            return Finding((), cells.index(mixed[0]), mixed[0], "mixed", None, other=mixed[1])
        like = _like_numbers(times)
        return None if like is None else Finding((), cells.index(like), like, "unknown", None)
    values = {format: {text: _value(format, text) for text in times} for format in readings}
    whole = tuple(format for format in readings if None not in values[format].values())
    readings = whole or readings
    readings = tuple(format for format in readings if format.decimal == mark) or readings
    why, text = _doubt(values[readings[0]], readings)
    found = None if why else np.array([np.nan if cell is None else values[readings[0]][cell] for cell in cells])
    strays = [other for other, value in values[readings[0]].items() if value is None]
    word = len(strays) == 1 and not _has_digit(text)
    return Finding(readings, cells.index(text), text, why, found, sum(times[other] for other in strays), word)


def read_numbers(values: Array, format: NumberFormat | None, missing: frozenset[str]) -> tuple[Array, int | None]:
    """Reads the numbers in a column, float64 (rows,), and finds the first row that holds none, if there is one."""
    if values.dtype != object:
        bare = format is None or not (format.prefix or format.suffix)
        return values, None if bare or np.isnan(values).all() else int(np.isfinite(values).argmax())
    cells = ["" if text is None else text for text in values.tolist()]
    if format is None:
        if (found := numbers(cells, missing)) is not None:
            return found, None
        return values, next(row for row, cell in enumerate(cells) if cell and not is_number(cell))
    by_text = {cell: _value(format, cell) if cell else np.nan for cell in set(cells)}
    wrong = next((row for row, cell in enumerate(cells) if by_text[cell] is None), None)
    return (np.array([by_text[cell] for cell in cells]), None) if wrong is None else (values, wrong)


def _parts(cell: str) -> re.Match[str] | None:
    return CELL.fullmatch(cell) if len(cell) <= LONGEST else None


def _affixes(parts: re.Match[str]) -> tuple[str, str]:
    return parts["prefix"] or "", (parts["suffix"] or "").strip()


def _value(format: NumberFormat, text: str) -> float | None:
    try:
        return format.number(text)
    except ValueError:
        return None


def _readings(times: Mapping[str, int]) -> tuple[NumberFormat, ...]:
    """Finds the formats that read most cells of a sample, if more than half; those that agree count as one."""
    sample = dict(itertools.islice(times.items(), 0, None, 1 + len(times) // SAMPLE))
    found = {text: parts for text in sample if (parts := _parts(text)) is not None}
    affixes = Counter[tuple[str, str]]()
    for text, parts in found.items():
        affixes[_affixes(parts)] += sample[text]
    if not affixes:
        return ()
    around = affixes.most_common(1)[0][0]
    used = set("".join(parts["body"] for parts in found.values())).intersection(GROUPS)
    pairs = [(group, decimal) for group in ("", *sorted(used)) for decimal in ".," if group != decimal]
    most, best = sum(sample[text] for text in _with_digits(sample)) // 2, dict[Sequence[float | None], NumberFormat]()
    for group, decimal in pairs:
        format = NumberFormat(*around, group, decimal)
        values = tuple(_value(format, text) for text in found)
        read = sum(sample[text] for text, value in zip(found, values, strict=True) if value is not None)
        if read > most:
            most, best = read, {values: format}
        elif read == most and best:
            best.setdefault(values, format)
    return tuple(best.values())


def _mixed(times: Mapping[str, int]) -> list[str]:
    """Finds a text of each of the ways, such as $5 and €5, or 5% and 0.05, in which most texts have a symbol or none
    around a number; nothing if there is one way."""
    sample = _with_digits(list(itertools.islice(times, 0, None, 1 + len(times) // SAMPLE)))
    around = {text: _affixes(parts) for text in sample if (parts := _parts(text)) is not None}
    around = {text: ways for text, ways in around.items() if not any(map(str.isalpha, "".join(ways)))}
    first: dict[tuple[str, str], str] = {}
    for text, ways in around.items():
        first.setdefault(ways, text)
    return list(first.values()) if len(first) > 1 and 2 * len(around) > len(sample) else []


def _has_digit(text: str) -> bool:
    return any("0" <= character <= "9" for character in text)


def _with_digits(texts: Collection[str]) -> Collection[str]:
    """Returns the texts that have digits, if most have: the others may stand for missing values."""
    some = [text for text in texts if _has_digit(text)]
    return some if 2 * len(some) > len(texts) else texts


def _like_numbers(times: Mapping[str, int]) -> str | None:
    """Finds the first of the texts that look like numbers in a format that is not known, if most look alike."""
    sample = _with_digits(list(itertools.islice(times, 0, None, 1 + len(times) // SAMPLE)))
    around: dict[tuple[str, str], list[str]] = {}
    for text in sample:
        if len(text) <= LONGEST and (found := LIKE_NUMBER.fullmatch(text)) is not None:
            around.setdefault((found["before"].strip(), found["after"].strip()), []).append(text)
    alike, like = max(around.items(), key=lambda item: len(item[1]), default=((), []))
    known = all(MARKS.issuperset(part) or MONEY.fullmatch(part) for part in alike)
    return like[0] if known and 2 * len(like) > len(sample) else None


def _may_be_names(texts: Collection[str], format: NumberFormat) -> bool:
    """Tells whether such numbers may be names: a version, a telephone number, a date, an address."""
    if format.suffix or format.prefix or any(format.decimal in text for text in texts):
        return NAME_SUFFIX.fullmatch(format.suffix) is not None
    patterns = {re.sub("[0-9]", "0", text) for text in texts} if format.group.isspace() else ()
    return format.group == "." or len(patterns) == 1


def _doubt(values: Mapping[str, float | None], readings: Sequence[NumberFormat]) -> tuple[str, str]:
    """Says why texts are not read as numbers, or nothing; and returns the first text that shows it."""
    stray = [text for text, value in values.items() if value is None]
    odd = [text for text in values if not is_number(text)]
    if stray or not odd:
        return ("stray", stray[0]) if stray else ("stored", next(iter(values)))
    suffix = readings[0].suffix
    touching = [text for text in odd if suffix[:1].isalpha() and not text.rpartition(suffix)[0][-1:].isspace()]
    name = touching or readings[0].prefix.isalpha()  # 55kg is no name, and 55a or BMW 3 may be one
    in_brackets = all(text.startswith("(") for text in values)  # as in a list
    doubtful = len(readings) > 1 or name or in_brackets or _may_be_names(values, readings[0])
    return "doubtful" if doubtful else "", (touching or odd)[0]


def stored_format(entry: Mapping[str, Any]) -> NumberFormat | None:
    """Reads the format under "format", where there is one."""
    return NumberFormat.from_dict(entry["format"]) if "format" in entry else None
