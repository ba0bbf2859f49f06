"""Preprocessing in the operators of ONNX: columns become x, and y what is predicted."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.data import Preprocessing
from gpu_backprop.data.array_inputs import WHITE, ArrayInputs, ByteInputs
from gpu_backprop.data.categories import spelled
from gpu_backprop.data.cells import folded
from gpu_backprop.data.dates import DAY, EPOCH
from gpu_backprop.data.messages import shown
from gpu_backprop.data.number_columns import DateColumn, NumberColumn, OrdinalColumn
from gpu_backprop.data.scaling import BOUND, QuantileScaling, RobustScaling, Scaling, StandardScaling
from gpu_backprop.data.table import Arrays
from gpu_backprop.data.table_inputs import TableInputs
from gpu_backprop.data.target import RegressionTarget
from gpu_backprop.data.text_columns import SignColumn, TextColumn
from gpu_backprop.interop.onnx_graph import ML, Graph, cosine, joined

ARRAY = "x"
"""What the input is called where the data are no table."""

SINCE_1970 = float(DAY * (np.datetime64(EPOCH) - np.datetime64("1970-01-01")).astype(int))
"""Seconds from the beginning of 1970 to that of 2000, from where `DateFormat.read` counts."""

FAR = 1e100
"""What is further off is taken for it before it is clipped smoothly, so that its square is finite."""


def emit_x(g: Graph, preprocessing: Preprocessing) -> str:
    """Adds the inputs, and returns the name of x, (rows, inputs): of a table an input for each column."""
    inputs, _ = preprocessing.parts
    if isinstance(inputs, ByteInputs):
        pixels = g.input(ARRAY, np.uint8, inputs.inputs, f"pixels, from 0 to {WHITE}")
        return g.cast(g.Div(g.cast(pixels, np.float32), np.float32(WHITE)), g.dtype)
    if isinstance(inputs, ArrayInputs):
        v = g.input(ARRAY, np.float64, len(inputs.scaling), _number_told(inputs.scaling))
        x = g.cast(scale(g, v, inputs.scaling), np.float32)
        if len(indicated := inputs.indicated):
            flags = _indicate(g, g.Gather(v, indicated, axis=1), inputs.one)
            order = np.argsort([*range(len(inputs.scaling)), *(indicated + 0.5)], kind="stable")
            x = g.Gather(joined(g, [x, flags]), order, axis=1)
        return g.cast(x, g.dtype)
    parts = []
    for column, told in zip(inputs.columns, preprocessing.describe(), strict=False):
        if type(column) not in COLUMNS:
            raise InputError(
                f"column {shown(column.name)} is hashed, by BLAKE2b, which ONNX has no operator for. Leave it out with "
                "ignore= (--ignore) when you train, or export the network for rows that are prepared already, with "
                "preprocessing=False (--prepared): preprocessing.transform makes them."
            )
        parts.append(COLUMNS[type(column)](g, column, inputs, preprocessing.missing, told[1]))
    return g.cast(joined(g, parts), g.dtype)


def scale(g: Graph, v: str, scaling: Scaling) -> str:
    """Adds what `Scaling.apply` does to numbers, float64 (rows, k)."""
    if scaling.fill is not None:
        v = g.Where(g.IsNaN(v), scaling.fill, v)
    if isinstance(scaling, QuantileScaling):
        points = zip(scaling.values, scaling.scores, strict=True)
        x = joined(g, [_interpolate(g, v, k, *of) for k, of in enumerate(points)])
    else:
        assert isinstance(scaling, StandardScaling | RobustScaling)
        spread = np.where(scaling.constant, 1.0, scaling.spread)
        x = g.Div(g.Sub(v, scaling.center), spread)
        if scaling.constant.any():
            x = g.Where(scaling.constant, np.zeros(1), x)
    if not scaling.clip:
        return x
    x = g.Clip(x, np.float64(-FAR), np.float64(FAR))
    third = g.Div(x, np.float64(BOUND))
    return g.Div(x, g.Sqrt(g.Add(g.Mul(third, third), np.float64(1))))


def _interpolate(g: Graph, v: str, k: int, points: Array, scores: Array) -> str:
    """Adds the lines between points and scores, of column k of v: that of the last point that is not above v."""
    v = g.Clip(g.Gather(v, np.array([k]), axis=1), points[0], points[-1])
    slopes = np.append(np.diff(scores) / np.diff(points), 0.0)
    below = g.ReduceSum(g.cast(g.GreaterOrEqual(v, points), np.int64), np.array([1]), keepdims=1)
    at = g.Max(g.Sub(below, np.int64(1)), np.int64(0))
    start, slope, score = (g.Gather(array, at, axis=0) for array in (points, slopes, scores))
    return g.Add(g.Mul(g.Sub(v, start), slope), score)


def _indicate(g: Graph, v: str, one: float) -> str:
    """Adds what is `one` where v is missing, else 0."""
    return g.Where(g.IsNaN(v), np.float32(one), np.float32(0))


def _scaled(g: Graph, v: str, column: NumberColumn | OrdinalColumn | DateColumn, inputs: TableInputs) -> str:
    """Adds the features of numbers, float32."""
    x = g.cast(scale(g, v, column.scaling), np.float32)
    if not column.indicator:
        return x
    return joined(g, [x, _indicate(g, g.Gather(v, np.array([0]), axis=1), inputs.one)])


def _number_told(scaling: Scaling) -> str:
    return "numbers as they are, before any scaling" + ("" if scaling.fill is None else "; NaN where one is missing")


def _number(g: Graph, column: NumberColumn, inputs: TableInputs, missing: Iterable[str], told: str) -> str:
    v = g.input(column.name, np.float64, 1, f"{_number_told(column.scaling)}: {told}")
    return _scaled(g, v, column, inputs)


def _ordinal(g: Graph, column: OrdinalColumn, inputs: TableInputs, missing: Iterable[str], told: str) -> str:
    v = g.input(column.name, object, 1, f"texts, '' where one is missing: {told}")
    place = g.cast(
        _encode(g, v, {text: float(place) for place, text in enumerate(column.order)}, float("nan")), np.float64
    )
    x = _scaled(g, place, column, inputs)
    return g.Where(g.IsNaN(x), np.float32(0), x)


def _text(g: Graph, column: TextColumn, inputs: TableInputs, missing: Iterable[str], told: str) -> str:
    v = g.input(column.name, object, 1, f"texts, '' where one is missing: {told}")
    codes = {text: code for code, text in enumerate(column.categories) if text is not None}
    if None in column.categories:
        codes = dict.fromkeys(["", *sorted(missing)], column.categories.index(None)) | codes
    code = _encode(g, v, codes, len(column.categories))  # a rare one, or none of all
    same = g.cast(g.Equal(code, np.arange(len(column.features))), np.float32)
    return same if inputs.one == 1 else g.Mul(same, np.float32(inputs.one))


def _sign(g: Graph, column: SignColumn, inputs: TableInputs, missing: Iterable[str], told: str) -> str:
    v = g.input(column.name, object, 1, f"texts: {told}")
    return _encode(g, v, dict(zip(column.categories, (-1.0, 1.0), strict=True)), 0.0)


def _encode(g: Graph, texts: str, codes: Mapping[str, Any], default: Any) -> str:
    """Adds the code of each text, int64 or float32, however its letters are composed; true and false may be TRUE."""
    keys: dict[str, Any] = {}
    for text, code in codes.items():
        spellings = [unicodedata.normalize(form, text) for form in ("NFC", "NFD")]
        if folded(text) in ("true", "false"):
            spellings = [
                "".join(letters) for letters in itertools.product(*zip(text.lower(), text.upper(), strict=True))
            ]
        keys |= {spelling: keys.get(spelling, code) for spelling in spellings}
    keys |= codes  # what is spelled exactly so comes before what only means the same
    keys = keys or {"": default}  # a LabelEncoder has one at least
    kind = "int64" if isinstance(default, int) else "float"
    how = {"keys_strings": list(keys), f"values_{kind}s": list(keys.values()), f"default_{kind}": default}
    return g.LabelEncoder(texts, domain=ML, **how)


def _date(g: Graph, column: DateColumn, inputs: TableInputs, missing: Iterable[str], told: str) -> str:
    """Adds the parts of dates, as data/dates.py has them; the calendar by Hinnant's rule, whose years begin in March:
    then the days before a month are ⌊(153·month + 2)/5⌋, and leap days come last."""
    seconds = "seconds since 1970-01-01 00:00 on the clock that was read, NaN where it is missing"
    v = g.input(column.name, np.float64, 1, f"{seconds}: {told}")
    utc = v
    if column.format.zone:
        ahead = "seconds that the clock is ahead of UTC"
        utc = g.Sub(v, g.input(offset_name(column), np.float64, 1, f"{ahead}, of column {column.name}"))

    def number(value: float) -> Array:
        return np.array(float(value))

    def whole(value: str, of: float) -> str:
        return g.Floor(g.Div(value, number(of)))

    def less(value: str, times: float, taken: str) -> str:
        return g.Sub(value, g.Mul(taken, number(times)))

    clock = g.Sub(v, number(SINCE_1970))
    day = whole(clock, DAY)
    weekday = less(g.Add(day, number(EPOCH.weekday())), 7, whole(g.Add(day, number(EPOCH.weekday())), 7))
    hour = g.Div(less(clock, DAY, day), number(3600))
    since = g.Add(day, number(730_425))  # 0000-03-01
    era = whole(since, 146_097)
    of_era = less(since, 146_097, era)
    leap = g.Add(g.Sub(of_era, whole(of_era, 1460)), g.Sub(whole(of_era, 36_524), whole(of_era, 146_096)))
    year_of_era = whole(leap, 365)
    before = g.Sub(g.Add(g.Mul(year_of_era, number(365)), whole(year_of_era, 4)), whole(year_of_era, 100))
    of_year = g.Sub(of_era, before)
    march = whole(g.Add(g.Mul(of_year, number(5)), number(2)), 153)
    month = less(g.Add(march, number(3)), 12, g.cast(g.Greater(march, number(9)), np.float64))
    spring = g.Add(g.Mul(era, number(400)), year_of_era)
    year = g.Sub(g.Add(spring, g.cast(g.Less(month, number(3)), np.float64)), number(EPOCH.year))
    parts = {"days": g.Div(g.Sub(utc, number(SINCE_1970)), number(DAY)), "year": year}
    for name, value, first, around in (("month", month, 1, 12), ("weekday", weekday, 0, 7), ("hour", hour, 0, 24)):
        turn = g.Mul(g.Sub(value, number(first)), number(2 * np.pi / around))
        parts |= {name: value, f"sin({name})": g.Sin(turn), f"cos({name})": cosine(g, turn, np.float64)}
    return _scaled(g, joined(g, [parts[part] for part in column.parts]), column, inputs)


def offset_name(column: DateColumn) -> str:
    """Returns what the second input of a column of dates with a zone is called."""
    return f"{column.name} offset"


COLUMNS: Mapping[type[Any], Callable[..., str]] = {
    NumberColumn: _number,
    OrdinalColumn: _ordinal,
    DateColumn: _date,
    TextColumn: _text,
    SignColumn: _sign,
}


def emit_units(g: Graph, preprocessing: Preprocessing, y: str) -> str:
    """Adds what turns y into quantities in the units of the data, float64 (rows, outputs), as `inverse` does."""
    _, target = preprocessing.parts
    assert isinstance(target, RegressionTarget)
    values = g.Add(g.Mul(g.cast(y, np.float64), target.scaling.spread), target.scaling.center)
    return values if target.range is None else g.Min(g.Max(values, target.range[0]), target.range[1])


def feeds(preprocessing: Preprocessing, data: Any) -> dict[str, Array]:
    """Makes of rows of data what the graph takes, an array for each input, as `InferenceSession.run(None, feeds)` of
    ONNX Runtime wants it.

    Args:
        data: as `Preprocessing.transform` takes them: with numbers such as $1,745, dates and missing values.

    Raises:
        DataError: what `transform` raises.
    """
    preprocessing.transform(data)  # which refuses what training would have refused
    rows, (inputs, _) = preprocessing.as_in_training(data), preprocessing.parts
    if isinstance(rows, Arrays):
        kind = np.uint8 if isinstance(inputs, ByteInputs) else np.float64
        return {ARRAY: np.ascontiguousarray(rows.x, kind)}
    assert isinstance(inputs, TableInputs)
    fed: dict[str, Array] = {}
    for column in inputs.columns:
        values = spelled(rows.columns[column.name])
        if isinstance(column, NumberColumn):
            values = inputs.read_column(rows, column.name)
        elif isinstance(column, DateColumn):
            read = [(np.nan, 0.0) if text is None else column.format.read(text) for text in values.tolist()]
            clock, offset = np.array(read, np.float64).reshape(-1, 2).T
            values = clock + SINCE_1970
            fed |= {offset_name(column): offset[:, None]} if column.format.zone else {}
        else:
            values = np.array(["" if text is None else text for text in values.tolist()], object)
        fed[column.name] = values[:, None]
    return fed
