"""Dates and times as people write them, such as 2026-11-30T14:00Z or Nov 30, 2026: in which way a column has them, and
the numbers that are made of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any

import numpy as np

from gpu_backprop.data import stored
from gpu_backprop.data.categories import spelled
from gpu_backprop.data.files import Array
from gpu_backprop.data.messages import counted, shown
from gpu_backprop.data.table import Table

PARTS = (
    "days", "year", "month", "sin(month)", "cos(month)", "weekday", "sin(weekday)", "cos(weekday)",
    "hour", "sin(hour)", "cos(hour)",
)  # fmt: skip
"""The numbers of a date: days and years from the beginning of 2000 on, the month from 1, the weekday from 0 for Monday,
the hour with its fraction. Each of the last three comes with a pair that tells where in its circle it is, since
December lies beside January."""

DAY, EPOCH = 86_400, date(2000, 1, 1)

LEAST_DAYS = 10
"""Different numbers of eight digits from which it is no accident that all are dates."""

SAMPLE, LONGEST = 1000, 60
"""Different texts of a column by which its formats are chosen, and characters of a date."""

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_YEAR, _MONTH, _DAY = "(?P<year>[0-9]{4})", "(?P<month>[0-9]{1,2})", "(?P<day>[0-9]{1,2})"
_NAME = (
    "(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|"
    "oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
_WEEKDAY = "(?:(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?,? +)?"
TIME = re.compile(
    r"(?:t|,? +)(?P<hour>[0-9]{1,2}):(?P<minute>[0-5][0-9])(?::(?P<second>[0-5][0-9]|60)(?P<fraction>[.,][0-9]{1,9})?)?"
    r"(?: ?(?P<half>[ap])\.?m\.?)?(?: ?(?P<zone>z|utc|gmt|[-+][0-9]{2}:?(?:[0-9]{2})?))?",
    re.ASCII | re.IGNORECASE,
)
_DATES = {
    "2026-11-30": f"{_YEAR}-{_MONTH}-{_DAY}",
    "2026/11/30": f"{_YEAR}/{_MONTH}/{_DAY}",
    "2026.11.30": f"{_YEAR}[.]{_MONTH}[.]{_DAY}",
    "30.11.2026": f"{_DAY}[.] ?{_MONTH}[.] ?{_YEAR}",
    "30/11/2026": f"{_DAY}/{_MONTH}/{_YEAR}",
    "11/30/2026": f"{_MONTH}/{_DAY}/{_YEAR}",
    "30-11-2026": f"{_DAY}-{_MONTH}-{_YEAR}",
    "11-30-2026": f"{_MONTH}-{_DAY}-{_YEAR}",
    "30 Nov 2026": f"{_WEEKDAY}{_DAY}(?:st|nd|rd|th|[.])?[ -]{_NAME}[.]?,?[ -]{_YEAR}",
    "Nov 30, 2026": f"{_WEEKDAY}{_NAME}[.]? {_DAY}(?:st|nd|rd|th)?,? {_YEAR}",
    "20261130": "(?P<year>[0-9]{4})(?P<month>[0-9]{2})(?P<day>[0-9]{2})",
}
ORDERS = {order: re.compile(text, re.ASCII | re.IGNORECASE) for order, text in _DATES.items()}
"""Ways to write a date, each by that of 30 November 2026; a time may follow, and then a zone."""

ISO = re.compile(
    r"(?:(?!0000)[0-9]{4}-[01][0-9]-[0-3][0-9]"
    r"(?:[ T](?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:[.][0-9]{1,6})?)?)?\n)*+"
)
"""Lines of such dates as NumPy reads quickly and as they are meant here."""

SHORT = re.compile(
    r"(?:[12]?[0-9]|0[1-9]|3[01])([./-])(?:[12]?[0-9]|0[1-9]|3[01])\1[0-9]{2}(?:[ ,t].*)?", re.IGNORECASE
)
"""A date with a year of two digits, such as 30/11/26, or 26/11/30."""

FIRST = {"day_first": ("30/11/2026", "30-11-2026"), "month_first": ("11/30/2026", "11-30-2026")}
"""What `Encoding.dates` says of dates that can be read in two ways."""


@dataclass(frozen=True)
class DateFormat:
    """The way in which a column writes its dates.

    Attributes:
        order: a key of ORDERS.
        zone: whether each has a zone, as in 2026-11-30T14:00+01:00.
    """

    order: str
    zone: bool = False

    def __str__(self) -> str:
        return self.order + (" 14:00Z" if self.zone else "")

    def read(self, text: str) -> tuple[float, float] | None:
        """Returns the seconds from the beginning of 2000 on the clock that was read, and how many of them the clock is
        before that of UTC; None where the text is no such date."""
        if len(text) > LONGEST or (found := ORDERS[self.order].match(text)) is None:
            return None
        day, time = _day(self.order, found[0]), _time(text[found.end() :])
        if day is None or time is None or self.zone != (time[1] is not None):
            return None
        return DAY * day + time[0], time[1] or 0.0

    def to_dict(self) -> dict[str, Any]:
        """Returns it as plain data for JSON."""
        return {"order": self.order, "zone": self.zone}

    @classmethod
    def from_dict(cls, given: object) -> DateFormat:
        """Reads what to_dict gave."""
        return cls(stored.choice(given, "order", tuple(ORDERS)), stored.choice(given, "zone", (True, False)))


@dataclass(frozen=True)
class FoundDates:
    """What was found in a column of dates: the format that all have, or why they are left as text."""

    format: DateFormat | None
    why: str = ""


ISO_FORMAT, DIGITS = DateFormat("2026-11-30"), DateFormat("20261130")
FORMATS = tuple(DateFormat(order, zone) for order in ORDERS for zone in (False, True))


AS_TEXT = "so that they are text here, each a category"


def find_dates(table: Table, names: Collection[str], wanted: bool | str) -> dict[str, FoundDates]:
    """Finds the columns of text in which most texts are dates. Where text was asked for, these are dates of eight
    digits alone, which would be numbers otherwise.

    Args:
        wanted: `Encoding.dates`.
    """
    if not wanted:
        return {}
    texts = [name for name in names if table.columns[name].dtype == object]
    found = {name: _find(table, name, wanted) for name in texts}
    asked = {name for name in table.text if name in found}
    return {
        name: dates
        for name, dates in found.items()
        if dates is not None and (name not in asked or dates.format == DIGITS)
    }


def are_dates(values: Array) -> bool:
    """Tells whether all numbers of a column are dates of eight digits from 1900 to 2100, of ten days or more."""
    if values.dtype == object or not ((values >= 1900_01_01) & (values <= 2100_12_31)).all():
        return False
    different = np.unique(values)
    return len(different) >= LEAST_DAYS and all(DIGITS.read(f"{value:.15g}") is not None for value in different)


def read_dates(values: Array, format: DateFormat) -> tuple[Array, int | None]:
    """Reads the dates in a column; returns their PARTS, float64 (rows, parts), NaN where one is missing, and the first
    row that holds none, if there is one."""
    cells = spelled(values)
    there = np.array([text is not None for text in cells.tolist()], bool)
    clock, offset = np.full(len(cells), np.nan), np.zeros(len(cells))
    texts = cells[there].tolist()
    if format == ISO_FORMAT and (quick := _read_iso(texts)) is not None:
        clock[there] = quick
        return date_parts(clock, offset), None
    known = {text: format.read(text) or (np.nan, np.nan) for text in set(texts)}
    read = np.array([known[text] for text in texts]).reshape(-1, 2)
    if (wrong := np.isnan(read[:, 0])).any():
        return np.empty((0, len(PARTS))), int(np.flatnonzero(there)[wrong.argmax()])
    clock[there], offset[there] = read.T
    return date_parts(clock, offset), None


def date_parts(clock: Array, offset: Array) -> Array:
    """Returns the PARTS of dates, float64 (rows, parts), NaN for NaN.

    Args:
        clock, offset: as DateFormat.read returns them, (rows,) each. What is on the calendar and the clock is what was
            read; days are those of UTC, so that they tell which of two dates is the later one.
    """
    parts = np.full((len(clock), len(PARTS)), np.nan)
    there = ~np.isnan(clock)
    clock, offset = clock[there], offset[there]
    day = np.floor(clock / DAY)
    calendar = np.datetime64(EPOCH, "D") + day.astype("m8[D]")
    months = calendar.astype("M8[M]").astype(np.int64)
    year, month = months // 12 - 30, months % 12 + 1  # both count from 1970
    weekday, hour = (day + EPOCH.weekday()) % 7, (clock - DAY * day) / 3600
    circles = [
        np.stack([value, *np.round([np.sin(turn), np.cos(turn)], 12)])  # so that sin π is 0, and nothing to scale up
        for value, turn in (
            (month, 2 * np.pi * (month - 1) / 12),
            (weekday, 2 * np.pi * weekday / 7),
            (hour, 2 * np.pi * hour / 24),
        )
    ]
    parts[there] = np.concatenate([np.stack([(clock - offset) / DAY, year]), *circles]).T
    return parts


def _read_iso(texts: list[str]) -> Array | None:
    """Reads texts that are all dates, and times, as ISO 8601 has them without a zone; None where there is another."""
    if ISO.fullmatch("".join(f"{text}\n" for text in texts)) is None:
        return None
    try:
        seconds: Array = (np.array(texts, "M8[us]") - np.datetime64(EPOCH, "us")) / np.timedelta64(1, "s")
    except ValueError:  # the 30th of February
        return None
    return seconds


@lru_cache(1 << 16)
def _day(order: str, text: str) -> int | None:
    """Returns the days from the beginning of 2000 on; None where there is no such day."""
    parts = ORDERS[order].fullmatch(text)
    assert parts is not None
    month = parts["month"]
    number = int(month) if month.isdigit() else 1 + MONTHS.index(month[:3].lower())
    try:
        return (date(int(parts["year"]), number, int(parts["day"])) - EPOCH).days
    except ValueError:
        return None


@lru_cache(1 << 16)
def _time(text: str) -> tuple[float, float | None] | None:
    """Returns the seconds since midnight and those of the zone, None for no zone; None for a text that is no time."""
    if not text:
        return 0.0, None
    if (parts := TIME.fullmatch(text)) is None:
        return None
    hour, half, zone = int(parts["hour"]), parts["half"], parts["zone"]
    if hour > 23 or (half and not 0 < hour <= 12):
        return None
    if half:
        hour = hour % 12 + 12 * (half in "pP")
    fraction = float(f"0.{parts['fraction'][1:]}") if parts["fraction"] else 0.0
    seconds = 3600 * hour + 60 * int(parts["minute"]) + int(parts["second"] or 0) + fraction
    if zone is None or zone[0] not in "+-":
        return seconds, None if zone is None else 0.0
    digits = zone[1:].replace(":", "")
    return seconds, float(zone[0] + "1") * (3600 * int(digits[:2]) + 60 * int(digits[2:] or 0))


def _reading(text: str, formats: Iterable[DateFormat]) -> list[DateFormat]:
    """Returns those of the formats that read a text; no date has fewer than five digits."""
    if sum(map(str.isdecimal, text[:LONGEST])) < 5:
        return []
    return [format for format in formats if format.read(text) is not None]


def _find(table: Table, name: str, wanted: bool | str) -> FoundDates | None:
    cells = table.columns[name].tolist()
    texts = list(dict.fromkeys(text for text in cells if text is not None))
    sample = texts[:: 1 + len(texts) // SAMPLE]
    seen = [formats for text in sample if (formats := _reading(text, FORMATS))]
    if 2 * len(seen) <= len(sample):
        short = [text for text in sample if SHORT.fullmatch(text)]
        if 2 * len(short) <= len(sample):
            return None
        such = f"such as {shown(short[0])} in {table.place(cells.index(short[0]))}"
        return FoundDates(None, f"what may be dates with years of two digits, {such}, {AS_TEXT}; write the whole year")
    usual = [format for format in FORMATS if any(format in formats for formats in seen)]
    if ISO_FORMAT in usual and _read_iso(texts) is not None:
        return FoundDates(ISO_FORMAT)
    readings = {text: _reading(text, usual) or _reading(text, FORMATS) for text in texts}
    whole = [format for format in usual if all(format in formats for formats in readings.values())]
    asked = [format for format in whole if format.order in FIRST.get(str(wanted), ())]
    if len(whole) == 1 or asked:
        return FoundDates((asked or whole)[0])
    if whole:
        return FoundDates(
            None,
            f"dates such as {shown(texts[0])} in {table.place(cells.index(texts[0]))}, and in every row the day may be "
            f"the month, {AS_TEXT}; say which it is with --set dates=day_first or month_first (dates= of an "
            "Encoding in Python), or write the year first, as in 2026-11-30",
        )
    return FoundDates(None, _mixed(table, cells, readings))


def _mixed(table: Table, cells: list[str | None], readings: dict[str, list[DateFormat]]) -> str:
    """Says what there is besides dates in one format."""
    left, examples = dict(readings), list[str]()
    while found := [format for formats in left.values() for format in formats]:
        most = max(dict.fromkeys(found), key=found.count)
        text = next(text for text, formats in left.items() if most in formats)
        examples.append(f"{shown(text)} in {table.place(cells.index(text))}")
        left = {text: formats for text, formats in left.items() if most not in formats}
    if len(examples) > 1:
        several = f"dates in {len(examples)} formats, such as {', '.join(examples[:-1])} and {examples[-1]}"
        return f"{several}, {AS_TEXT}; write them all in one, best as 2026-11-30"
    stray = next(iter(left))
    rows = counted(sum(text in left for text in cells), "row")
    return (
        f"dates such as {examples[0]} in all but {rows}, {AS_TEXT}, because {table.place(cells.index(stray))} has "
        f"{shown(stray)}; correct it, or leave the field empty if it is missing"
    )
