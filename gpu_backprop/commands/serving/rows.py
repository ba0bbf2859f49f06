"""The rows of a request made into data, as a file of the same rows would be read."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.data import Arrays, Preprocessing, Table
from gpu_backprop.data.frames import as_table
from gpu_backprop.data.messages import counted, listed, nearest, shown

SOURCE = "the request"
"""What messages call it."""

NAMED = '{"rows": [{"COLUMN": VALUE, ...}, ...]}'
LISTED = '{"rows": [[NUMBER, ...], ...]}'
LONGEST = 300
"""Digits of a whole number, which float64 can hold."""

MOST_COLUMNS = 20_000
"""Of a request, unless the training data had as many: what is said of columns that are not known takes time."""

Cell = str | float | bool | None


def read_json(body: bytes) -> Any:
    """Read JSON; raise InputError where it is none, as with NaN, with two values of one name, or nested too deeply."""
    try:
        text = body.decode("utf-8")
        return json.loads(text, parse_int=_whole, parse_constant=_no_constant, object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise InputError(f"{SOURCE} is no UTF-8: byte {error.start + 1:,} is {body[error.start]:02x}") from None
    except json.JSONDecodeError as error:
        at = f"line {error.lineno:,}, column {error.colno:,}"
        raise InputError(f"{SOURCE} is no JSON ({error.msg}, {at}); give {NAMED}") from None
    except RecursionError:
        raise InputError(f"{SOURCE} is nested too deeply; give {NAMED}") from None


def read_rows(given: object, preprocessing: Preprocessing, most: int) -> Table | Arrays:
    """Make data of what a request says under "rows".

    Args:
        given: the request: rows as objects of columns, or as lists, of the columns in the order that training had.
        most: rows that it may have.

    Raises:
        InputError, DataError: these are no rows, or not such as the training data had.
    """
    form = NAMED if preprocessing.columns else LISTED
    rows = given.get("rows") if isinstance(given, dict) else None
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{SOURCE} has no rows; give {form}")
    if isinstance(given, dict) and len(given) > 1:
        raise InputError(f"{SOURCE} has {listed(given)}, and nothing is known but 'rows'; give {form}")
    refuse_more(len(rows), most)
    if not preprocessing.columns:
        return Arrays(SOURCE, _numbers(rows, preprocessing))
    named = [_named(row, number, preprocessing.columns) for number, row in enumerate(rows, 1)]
    names = list(named[0])
    refuse_wide(max(map(len, named)), preprocessing)
    for number, row in enumerate(named, 1):
        if absent := [name for name in names if name not in row]:
            raise InputError(
                f"{SOURCE}, row {number}: lacks column {shown(absent[0])}, which row 1 has; "
                f"{nearest(absent[0], row)}give null where a value is missing"
            )
        if extra := [name for name in row if name not in named[0]]:
            raise InputError(
                f"{SOURCE}, row {number}: has a column {shown(extra[0])}, which row 1 lacks; give all alike"
            )
    columns = {name: _column([row[name] for row in named], name) for name in names}
    return as_table(columns, missing=preprocessing.missing, source=SOURCE, target=preprocessing.target)


def refuse_more(rows: int, most: int) -> None:
    """Raise InputError where there are more rows than may be."""
    if rows > most:
        raise InputError(
            f"{rows:,} rows are more than the {most:,} of one request; send them in parts, or start the server with "
            "a larger --max-rows"
        )


def refuse_wide(columns: int, preprocessing: Preprocessing) -> None:
    """Raise InputError where there are more columns than anybody needs."""
    if columns > MOST_COLUMNS and columns > 2 * len(preprocessing.columns):
        raise InputError(
            f"{columns:,} columns are more than the {MOST_COLUMNS:,} of one request; leave those out that the network "
            "was not trained on"
        )


def _named(row: object, number: int, columns: Sequence[str]) -> dict[str, Cell]:
    """Return a row as a dict of columns; one that is a list has all columns of the training data in their order."""
    if isinstance(row, dict):
        return row
    if not isinstance(row, list):
        raise InputError(f"{SOURCE}, row {number}: {shown(row)} is no row; give {NAMED}")
    if len(row) != len(columns):
        raise InputError(
            f"{SOURCE}, row {number}: {counted(len(row), 'value')}, and the training data had "
            f"{counted(len(columns), 'column')}: {listed(columns)}; give one for each, or name them: {NAMED}"
        )
    return dict(zip(columns, row, strict=True))


def _column(cells: list[Cell], name: str) -> list[Cell]:
    """Check the cells of a column. Where one is text all are, as in CSV: then a number is spelled as it is there."""
    for number, cell in enumerate(cells, 1):
        if cell is not None and not isinstance(cell, str | float | int):
            raise InputError(
                f"{SOURCE}, row {number}: {shown(json.dumps(cell)[:40])} in column {shown(name)}; give a number, a "
                "text, true, false or null"
            )
    if not any(isinstance(cell, str) for cell in cells):
        return cells
    return [cell if cell is None or isinstance(cell, str) else _spelled(cell) for cell in cells]


def _spelled(cell: float) -> str:
    return f"{cell:.0f}" if isinstance(cell, float) and cell.is_integer() else str(cell)


def _numbers(rows: list[Any], preprocessing: Preprocessing) -> Any:
    """Return rows of numbers as an array; of images of uint8, as such."""
    width = len(rows[0]) if isinstance(rows[0], list) else 0
    for number, row in enumerate(rows, 1):
        if not isinstance(row, list) or len(row) != width or not width:
            raise InputError(
                f"{SOURCE}, row {number}: a row is a list of numbers, as long as the others; give {LISTED}"
            )
        for index, cell in enumerate(row):
            if cell is not None and type(cell) not in (int, float):
                raise InputError(f"{SOURCE}, row {number}: x[{index}] is {shown(cell)}; give a number, or null")
    x = np.array([[math.nan if cell is None else float(cell) for cell in row] for row in rows])
    if preprocessing.to_dict()["inputs"]["kind"] != "bytes":
        return x
    odd = np.argwhere(~((x >= 0) & (x <= 255) & (x == np.floor(x))))
    if len(odd):
        row, index = odd[0].tolist()
        raise InputError(
            f"{SOURCE}, row {row + 1}: x[{index}] is {x[row, index]:g}, and the training data had pixels, whole "
            "numbers from 0 to 255; give the same"
        )
    return x.astype(np.uint8)


def _whole(text: str) -> int:
    if len(text) > LONGEST:
        raise InputError(f"{SOURCE} has a number of {len(text):,} digits; give one that a float can hold")
    return int(text)


def _no_constant(name: str) -> NoReturn:
    raise InputError(f"{SOURCE} has {name}, which JSON has not; give null where a value is missing")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict[str, Any]()
    for name, value in pairs:
        if name in found:
            raise InputError(f"{SOURCE} has two values of {shown(name)}; give one")
        found[name] = value
    return found
