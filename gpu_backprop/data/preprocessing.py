"""The preprocessing of a network's data: fitted once, to the training rows, and stored with the network."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gpu_backprop.data import advice, limits, stored
from gpu_backprop.data.array_inputs import ArrayInputs, ByteInputs, fit_arrays
from gpu_backprop.data.categories import MOST_CATEGORIES
from gpu_backprop.data.cells import MISSING, composed
from gpu_backprop.data.dates import FoundDates, find_dates
from gpu_backprop.data.encoding import PLAIN, Encoding
from gpu_backprop.data.errors import DataError
from gpu_backprop.data.files import Array
from gpu_backprop.data.frames import add_target, as_data, with_target
from gpu_backprop.data.messages import listed, nearest, shown
from gpu_backprop.data.number_columns import LEAVE_OUT, checked_orders
from gpu_backprop.data.number_format import Finding, find_numbers
from gpu_backprop.data.scaling import IMPUTE, refuse_too_wide
from gpu_backprop.data.table import Arrays, Table
from gpu_backprop.data.table_inputs import TableInputs
from gpu_backprop.data.target import Classes, RegressionTarget, Target, fit_target
from gpu_backprop.display.html import cell_output, folded_table, tag

FORMAT = 1
Inputs = TableInputs | ArrayInputs | ByteInputs
INPUTS: dict[str, type[Inputs]] = {"table": TableInputs, "arrays": ArrayInputs, "bytes": ByteInputs}
TARGETS: dict[str, type[Target]] = {"classification": Classes, "regression": RegressionTarget}


class Preprocessing:
    """The conversion of rows of data to x and y: scaling, categories, imputation, and the names of the classes.

    A numeric column becomes (v − mean)/std, of the training rows; 0 if it has one value in all of them. `Encoding`
    lists the other ways, and what else can be done. A column of text becomes one feature for each category, 1 for the
    one that a row is and else 0; text that is numbers in one format throughout, such as $1,745.50 or 55 %, is a numeric
    column, and dates in one format can be several. Features of arrays are numeric columns; images of uint8 become
    v/255, or v over the largest pixel where all are dark.
    A class becomes its number in `classes`; quantities are scaled as columns are, unless that was not wanted.

    Attributes:
        task: "classification" or "regression".
        classes: what the labels 0, 1 ... stand for, sorted, all str or all int; None in a regression.
        inputs, outputs: how many numbers a row of x has, and how many outputs a network for this task has.
        features: what each input is, such as "age", "sex=female" or "x[7]".
        columns: the columns that a table must have for `transform`; empty for arrays.
        summaries: each of them with what it is where it is not numbers, such as "sex (2 categories)".
        target: the column of the target; None for arrays.
        why: a sentence that says why the task is what it is; empty in what from_dict gives.
        how: of arrays, how the inputs were scaled, in words; empty for tables, and likewise.
        warnings: a sentence for each thing that looks like a mistake in the training data; empty likewise.
        numeric: the columns of numbers, and those of dates; of arrays all features.
        unseen: of this thread's last transform, by column, how many rows have a text that is no known category, or
            none where no training row lacked one; the features of the column are all 0 there, or it is a rare one. In
            `numeric` columns how many rows lack a number where, as an Encoding with `indicator` tells, no training row
            did.
        extra: of this thread's last transform, the columns that were not used; the target is not among them.
        missing: the texts that stood for a missing value in the training data, and do in others.
    """

    def __init__(self, inputs: Inputs, target: Target) -> None:
        self._inputs, self._target = inputs, target
        self.features = inputs.features
        self.inputs, self.outputs = len(self.features), target.outputs
        self.task, self.target = target.task, target.column
        self.classes: list[str | int] | None = list(target.classes) if isinstance(target, Classes) else None
        self.columns = inputs.names if isinstance(inputs, TableInputs) else []
        self.summaries = inputs.summaries if isinstance(inputs, TableInputs) else []
        self.numeric = inputs.numeric if isinstance(inputs, TableInputs) else {*self.features}
        self.why = self.how = ""
        self.warnings: list[str] = []
        self.missing = MISSING
        self._last = _LastTransform()

    @property
    def numbers(self) -> int:
        """How many of the inputs, from the first on, are of numbers, dates or texts that have an order."""
        return self._inputs.numbers if isinstance(self._inputs, TableInputs) else self.inputs

    @property
    def images(self) -> bool:
        """Whether the inputs are the pixels of images, all divided by one number."""
        return not isinstance(self._inputs, TableInputs) and self._inputs.pixels

    @property
    def parts(self) -> tuple[Inputs, Target]:
        """What makes x of the data, and what makes y of the target, and of y what is predicted."""
        return self._inputs, self._target

    @property
    def unseen(self) -> dict[str, int]:
        return self._last.unseen

    @property
    def extra(self) -> list[str]:
        return self._last.extra

    @classmethod
    def fit(
        cls, data: Any, target: Any = None, *, task: str = "auto", impute: str | None = None,
        rows: npt.ArrayLike | None = None, ignore: Collection[str] = (), standardise_target: bool = True,
        hashed: Mapping[str, int] | None = None, encoding: Encoding = PLAIN,
    ) -> Preprocessing:  # fmt: skip
        """Fits to the training rows; other rows have no part in it, but are checked as well.

        Args:
            data: what `read` returns; a data frame of pandas or polars, a table of pyarrow or a dict of columns, which
                are read as CSV is; or a NumPy array (rows, ...).
            target: the column to be predicted; or the targets themselves, (rows,), where they are not among the
                columns. None for arrays that have y.
            task: "classification", "regression" or "auto": text, at most 20 different whole numbers of which there are
                two rows each, one-hot rows, and what is labelled as such, as in IDX files, are classes.
            impute: what takes the place of missing values: the "mean" or "median" of a column, or "constant", which is
                0; missing texts are a category of their own. None: they are an error, unless encoding.indicator is
                true: then the mean (of "standard" numbers) or the median. Targets must not be missing.
            rows: the training rows, as indices or a mask; None: all.
            ignore: columns that are not to be used.
            standardise_target: whether quantities are scaled; with losses or activations that give them a range of
                their own, such as poisson, binary_cross_entropy or sigmoid, they had better not be.
            hashed: columns that are text, of so many categories that each text is hashed to one of so many inputs
                instead of being one of its own: {"city": 256}.
            encoding: how columns become inputs.

        Raises:
            DataError: the data cannot be learned from, or an argument is not what is accepted.
        """
        if impute not in (None, *IMPUTE):
            raise DataError(f"impute is {shown(impute)}; choose one of {listed(IMPUTE)}")
        data, target = with_target(data, target)
        impute = encoding.imputing(impute)
        training, ignore = _rows(data, rows), [composed(str(name)) for name in ignore]
        hashed = checked_hashes(data, hashed)
        findings, dates, orders = dict[str, Finding](), dict[str, FoundDates](), dict[str, tuple[str, ...]]()
        refuse_too_wide(data, encoding)
        if isinstance(data, Table):
            free = [name for name in data.names if name not in ignore]
            orders = checked_orders(data, encoding.ordinal, [name for name in free if name != target])
            free = [name for name in free if name in data.columns and name not in {*hashed, *orders}]
            numbers = [name for name in (*hashed, *orders) if data.columns[name].dtype != object]
            if numbers and data.reread is not None:
                data = data.again([*numbers, *data.text], data.missing)
            dates = find_dates(data, [name for name in free if name != target], encoding.dates)
            findings = {name: found for name, found in find_numbers(data, free).items() if name not in dates}
        elif encoding.ordinal:
            columns = listed(encoding.ordinal)
            raise DataError(f"{data.source} holds arrays, which have no columns of texts in order; leave {columns} out")
        found = None if target is None else findings.get(target)
        chosen_target, why = fit_target(data, target, training, task, standardise_target, found, encoding.clip_target)
        inputs: Inputs
        how = ""
        if isinstance(data, Table):
            formats = {name: found.format for name, found in dates.items() if found.format is not None}
            names = input_names(data, target, ignore)
            inputs = TableInputs.fit(data, names, training, impute, findings, hashed, encoding, orders, formats)
        elif ignore:
            raise DataError(f"{data.source} holds arrays, which have no columns to ignore; leave {listed(ignore)} out")
        else:
            inputs, how = fit_arrays(data, training, impute, encoding)
        fitted = cls(inputs, chosen_target)
        fitted.why, fitted.how = why, how
        fitted.missing = data.missing if isinstance(data, Table) else MISSING
        doubted = [name for name in fitted.columns if name not in hashed and name not in dates]
        fitted.warnings = list(advice.warnings(data, doubted, training, chosen_target, findings))
        if isinstance(inputs, TableInputs):
            assert isinstance(data, Table)
            if encoding.dates:
                fitted.warnings += advice.about_dates(data, doubted)
            fitted.warnings += advice.about_encoding(data.source, inputs.hashed.difference(hashed), dates)
        return fitted

    def describe(self) -> list[tuple[str, str]]:
        """Says of each column, or of the arrays, and of the target, what becomes of it."""
        target = "the target" if self.target is None else self.target
        return [*self._inputs.describe(), (target, self._target.describe())]

    def __repr__(self) -> str:
        of = "arrays" if self.target is None else f"{len(self.columns):,} columns"
        return f"<Preprocessing of {of} to {self.inputs:,} inputs, for a {self.task}>"

    def _repr_html_(self) -> str:
        *inputs, target = self.describe()
        whole = f"{self.inputs:,} inputs, for a {self.task} of {target[0]}: {target[1]}"
        return cell_output(folded_table(inputs, ("column", "what the network sees"), "columns"), tag("p", whole))

    def transform(self, data: Any, memory_limit: int | str | None = None) -> npt.NDArray[np.float32]:
        """Returns x, float32 (rows, inputs); the columns of a table may be in any order, and the target may be absent.

        Args:
            data: as `fit` takes them.
            memory_limit: how much memory x may take, in bytes or as in "4GB"; None: half of what this program may use.

        Raises:
            DataError: a column is absent or of another kind, a value cannot be used, or x takes more memory.
        """
        data = self.as_in_training(data)
        widest = f", and {self._inputs.widest}," if isinstance(self._inputs, TableInputs) else ","
        what = f"{data.source}: {data.rows:,} rows of {self.inputs:,} inputs{widest}"
        with limits.memory_limit(memory_limit), limits.decoding(what):
            limits.take(4 * data.rows * self.inputs)
        x, self._last.unseen = self._inputs.apply(data)
        known = {*self.columns, self.target}
        self._last.extra = [name for name in data.names if name not in known] if isinstance(data, Table) else []
        return x

    def pack(self, data: Table | Arrays) -> tuple[Array, dict[str, int]]:
        """Returns what `unpack` makes x of, float32 (rows, numbers), which of columns of categories takes one number
        and no more, and `unseen`; the columns are as in the training data."""
        return self._inputs.pack(data) if isinstance(self._inputs, TableInputs) else self._inputs.apply(data)

    def unpack(self, packed: Array) -> Array:
        """Returns x, float32 (rows, inputs)."""
        return self._inputs.expand(packed) if isinstance(self._inputs, TableInputs) else packed

    def read_column(self, table: Table, name: str) -> Array:
        """Returns a column before it is scaled: numbers, float64 (rows,), NaN where one is missing, also where they are
        written as in $1,745, and dates as years, such as 2026.5; or texts, an object array (rows,), None where one is.

        The columns of the table are as in the training data, as `as_in_training` gives them.
        """
        assert isinstance(self._inputs, TableInputs)
        return self._inputs.read_column(table, name)

    def text_columns(self, table: Table) -> list[str]:
        """Returns the columns that have to be read as text, as in the training data, even where they look like
        numbers."""
        inputs = self._inputs.text_columns(table) if isinstance(self._inputs, TableInputs) else []
        return [*self._target.text_columns(table), *inputs]

    def targets(self, data: Any, y: Any = None) -> Array:
        """Returns y: labels, int64 (rows,), or quantities, float64 (rows, outputs).

        Args:
            data: as `fit` takes them.
            y: the targets, where they are not among the columns.

        Raises:
            DataError: the target is absent, or a value is missing, of another kind, or no known class.
        """
        if y is not None:
            data = add_target(as_data(data, self.target, self.missing), y, self.target or "")
        return self._target.targets(self.as_in_training(data))

    def as_in_training(self, data: Any) -> Table | Arrays:
        """Returns the data with each column read as that of the training data was.

        A file is read again where a column that was text looks like numbers, or where other texts stood for a missing
        value. `transform` and `targets` do this by themselves, each time.

        Raises:
            DataError: the file has changed since it was read, or is no longer there.
        """
        given = as_data(data, self.target, self.missing)
        if not isinstance(given, Table) or given.reread is None:
            return given
        found = given.columns
        text = [name for name in self.text_columns(given) if name in found and found[name].dtype != object]
        return given.again([*text, *given.text], self.missing) if text or given.missing != self.missing else given

    def inverse(self, y: npt.ArrayLike, clip: bool = True) -> Array:
        """Converts y, as `targets` or a network gives it, back to the classes or units of the data.

        Args:
            y: labels (rows,) or probabilities (rows, outputs) in a classification, else (rows, outputs).
            clip: whether quantities are kept within the range of the training rows, if that was wanted; True targets,
                unlike predictions, are not to be.

        Returns:
            The names of the classes, int64 or an object array of str (rows,), or quantities, float64 (rows, outputs).
        """
        return self._target.inverse(np.asarray(y), clip)

    def to_dict(self) -> dict[str, Any]:
        """Returns all that was fitted as plain data for JSON."""
        missing = {} if self.missing == MISSING else {"missing": sorted(self.missing)}
        return {"format": FORMAT, "inputs": self._inputs.to_dict(), "target": self._target.to_dict(), **missing}

    @classmethod
    def from_dict(cls, given: object) -> Preprocessing:
        """Reads what `to_dict` gave; it transforms alike to the last bit.

        Raises:
            DataError: it is damaged, or of another version.
        """
        try:
            stored.choice(given, "format", (FORMAT,))
            inputs, target = stored.field(given, "inputs"), stored.field(given, "target")
            kind, task = stored.choice(inputs, "kind", tuple(INPUTS)), stored.choice(target, "task", tuple(TARGETS))
            fitted = cls(INPUTS[kind].from_dict(inputs), TARGETS[task].from_dict(target))
            stored.require(fitted.target not in fitted.columns, "the target is an input as well")
            stored.require((fitted.target is None) == (kind != "table"), "the target does not fit the inputs")
            if isinstance(given, Mapping) and "missing" in given:
                fitted.missing = frozenset(stored.categories(given, "missing", str))
            return fitted
        except RecursionError:
            raise stored.damaged("it is nested too deeply") from None


class _LastTransform(threading.local):
    """The findings of a transform besides x; each thread has its own."""

    def __init__(self) -> None:
        self.unseen: dict[str, int] = {}
        self.extra: list[str] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (), vars(self)


def _rows(data: Table | Arrays, rows: npt.ArrayLike | None) -> Array:
    """Checks the training rows; returns them as indices."""
    if rows is None:
        return np.arange(data.rows)
    chosen = np.asarray(rows)
    if chosen.shape == (data.rows,) and chosen.dtype == bool:
        chosen = np.flatnonzero(chosen)
    if chosen.ndim != 1 or chosen.dtype.kind not in "iu" or not len(chosen):
        raise DataError(f"{data.source}: rows must be indices, or a mask, of one row at least")
    if chosen.min() < 0 or chosen.max() >= data.rows:
        raise DataError(
            f"{data.source}: rows are from 0 to {data.rows - 1}, and {chosen.min()} to {chosen.max()} were given"
        )
    return chosen


def checked_hashes(data: Table | Arrays, hashed: Mapping[str, int] | None) -> dict[str, int]:
    """Checks the columns that are to be hashed."""
    if not isinstance(data, Table) and hashed:
        raise DataError(f"{data.source} holds arrays, which have no columns to hash; leave {listed(hashed)} out")
    found = {composed(name): number for name, number in (hashed or {}).items()}
    for name, number in found.items():
        if isinstance(data, Table) and name not in data.columns:
            raise DataError(
                f"{data.source}: column {shown(name)}, which is to be hashed, is not there; "
                f"{nearest(name, data.names)}it has {listed(data.names)}"
            )
        if type(number) is not int or not 1 <= number <= MOST_CATEGORIES:
            raise DataError(
                f"column {shown(name)} is to be hashed to {shown(number)} inputs; give a number from 1 to "
                f"{MOST_CATEGORIES:,}"
            )
    return found


def input_names(table: Table, target: str | None, ignore: Collection[str]) -> list[str]:
    """Returns the columns to learn from."""
    for name in ignore:
        if name not in table.names or name == target:
            why = "is the target; " if name == target else f"is not there; {nearest(name, table.names)}"
            raise DataError(
                f"{table.source}: column {shown(name)}, which is to be ignored, {why}it has {listed(table.names)}"
            )
    names = [name for name in table.names if name != target and name not in ignore]
    table.refuse_unusable(names, f", or {LEAVE_OUT}")
    if not names and ignore:
        raise DataError(
            f"{table.source} has no column to learn from, because all but the target are ignored; ignore fewer"
        )
    if not names:
        raise DataError(
            f"{table.source} has no column to learn from but {listed(table.columns)}; if there is more in it, name the "
            "character between the columns with --delimiter (delimiter= in Python)"
        )
    return names
