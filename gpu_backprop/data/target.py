"""The target: what it is, classes or quantities, and how a network is to see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_backprop.data import stored
from gpu_backprop.data.categories import MOST_CATEGORIES, codes, distinct
from gpu_backprop.data.cells import MISSING, composed
from gpu_backprop.data.errors import DataError
from gpu_backprop.data.files import Array
from gpu_backprop.data.messages import counted, listed, nearest, shown
from gpu_backprop.data.number_format import Finding, NumberFormat, describe_finding, read_numbers, stored_format
from gpu_backprop.data.scaling import StandardScaling, stored_scaling
from gpu_backprop.data.table import Arrays, Table, missing

TASKS = ("auto", "classification", "regression")
FEW = 20
"""So many different whole numbers, or fewer, are taken for classes ..."""
FEWEST = 5
"""... and these few even where there are less than two rows of each."""

LARGEST_CLASS = 2**53
"""Below it float64, which a table has, tells whole numbers apart; 2⁵³ + 1 is 2⁵³ to it."""

CHOOSE = "choose --task {} (task= in Python)"
OVERRULE = "(--task regression takes them as numbers)"
EXACT = "as text, which is exact, with --text (text= in Python)"


@dataclass(frozen=True, eq=False)
class Classes:
    """A target that is one of several classes; a network has an output for each.

    Attributes:
        column: the column of a table; None: y of arrays.
        classes: sorted, all text or all whole numbers.
    """

    column: str | None
    classes: tuple[str | int, ...]

    task = "classification"

    @classmethod
    def fit(cls, data: Table | Arrays, column: str | None, rows: Array, finding: Finding | None) -> Classes:
        """Finds the classes among the given rows; `finding`: the numbers that were found in text."""
        values = class_values(data, column)[rows]
        found = distinct(values.tolist()) if values.dtype == object else np.unique(values).tolist()
        if len(found) == 1:
            raise DataError(
                f"{data.source}: {_name(column)} is {shown(_class(found[0]))} in every row, which leaves nothing to "
                "tell apart; give rows of two classes or more"
            )
        if len(found) > MOST_CATEGORIES:
            _refuse_doubtful(data, column, finding)
            raise DataError(
                f"{data.source}: {_name(column)} has {len(found):,} different values, more than the "
                f"{MOST_CATEGORIES:,} that can be classes; {CHOOSE.format('regression')}, or another target"
            )
        return cls(column, tuple(map(_class, found)))

    @property
    def outputs(self) -> int:
        return len(self.classes)

    def text_columns(self, data: Table) -> list[str]:
        """Returns the column, if it has to be read as text, even where it looks like numbers."""
        return [self.column] if self.column is not None and isinstance(self.classes[0], str) else []

    def describe(self) -> str:
        """Says what becomes of it."""
        return f"{counted(len(self.classes), 'class', 'classes')}: {listed(self.classes)}"

    def targets(self, data: Table | Arrays) -> Array:
        """Returns the labels, int64 (rows,)."""
        values = class_values(data, self.column)
        labels = codes(values, self.classes)
        if (labels < 0).any():
            row = int((labels < 0).argmax())
            raise DataError(
                f"{data.source}, {data.place(row)}: {_name(self.column)} is {shown(_class(values[row]))}, which is "
                f"none of the classes that were learned, {listed(self.classes)}; correct it, or take the row out"
            )
        return labels

    def inverse(self, y: Array, clip: bool = True) -> Array:
        """Returns the class of each row, (rows,), from its probabilities (rows, classes) or its label (rows,)."""
        names: Array = np.array(self.classes, object if isinstance(self.classes[0], str) else np.int64)
        chosen: Array = names[y.argmax(axis=-1) if y.ndim == 2 else y.astype(np.int64)]
        return chosen

    def to_dict(self) -> dict[str, Any]:
        """Returns it as plain data for JSON."""
        return {"task": self.task, "column": self.column, "classes": list(self.classes)}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Classes:
        """Reads what to_dict gave."""
        kind = type(stored.entries(entry, "classes")[0])
        stored.require(kind in (str, int), "the classes are neither text nor whole numbers")
        classes = stored.categories(entry, "classes", kind)
        stored.require(kind is str or max(map(abs, classes)) <= LARGEST_CLASS, "a class is too large a number")
        return cls(_stored_column(entry), classes)


@dataclass(frozen=True, eq=False)
class RegressionTarget:
    """A target of k numbers, which a network sees scaled: as they are where mean is 0 and std 1.

    Attributes:
        column: the column of a table; None: y of arrays.
        format: how its numbers are written, if not as programs write them.
        range: the least and the largest number of the training rows, (2, k), within which predictions are kept; None:
            they are not.
    """

    column: str | None
    scaling: StandardScaling
    format: NumberFormat | None = None
    range: Array | None = None

    task = "regression"
    classes = None

    @classmethod
    def fit(
        cls, data: Table | Arrays, column: str | None, rows: Array, standardise: bool, finding: Finding | None,
        clip: bool = False,
    ) -> RegressionTarget:  # fmt: skip
        """Fits the scaling to the given rows; `finding`: the numbers that were found in text; `clip`: whether
        predictions are kept within the range of these rows."""
        format = None if finding is None else finding.format
        if finding is not None and finding.why not in ("stray", "stored"):
            _refuse_doubtful(data, column, finding)
        values = _quantities(data, column, format)[rows]
        scaling = StandardScaling.fit(values)
        if not scaling.sound.all():
            raise DataError(
                f"{data.source}: {_name(column)} has numbers too large to be scaled; give it in other units"
            )
        if scaling.constant.all():
            where = " to float64" if abs(values[0, 0]) >= LARGEST_CLASS else ""
            raise DataError(
                f"{data.source}: {_name(column)} is {_class(values[0, 0].item())} in every row{where}, which leaves "
                f"nothing to learn; give rows that differ, or choose another target{where and f', or take it {EXACT}'}"
            )
        mean, std = scaling.center, np.where(scaling.constant, 1, scaling.spread)
        if not standardise:
            mean, std = np.zeros_like(mean), np.ones_like(std)
        range = np.stack([values.min(axis=0), values.max(axis=0)]) if clip else None
        return cls(column, StandardScaling(mean, std), format, range)

    @property
    def outputs(self) -> int:
        return len(self.scaling)

    def text_columns(self, data: Table) -> list[str]:
        """Returns the column, if it has to be read as text, even where it looks like numbers."""
        return [self.column] if self.column is not None and self.format is not None and data.lines is not None else []

    def describe(self) -> str:
        """Says what becomes of it."""
        formulas = self.scaling.describe()
        if self.range is not None:
            kept = "{}, and predictions are kept within {:.4g} … {:.4g}"
            formulas = [kept.format(*each) for each in zip(formulas, *self.range.tolist(), strict=True)]
        return "; ".join(formulas)

    def targets(self, data: Table | Arrays) -> Array:
        """Returns the scaled numbers, float64 (rows, k)."""
        values = _quantities(data, self.column, self.format)
        if values.shape[1] != self.outputs:
            raise DataError(
                f"{data.source}: y has {counted(values.shape[1], 'number')} a row, and that of the training data had "
                f"{self.outputs}; give the same"
            )
        return self.scaling.apply(values)

    def inverse(self, y: Array, clip: bool = True) -> Array:
        """Returns predictions (rows, k) in the units of the training data, float64, and with `clip` in their range, if
        that is known."""
        values = np.asarray(y, np.float64) * self.scaling.spread + self.scaling.center
        return values if self.range is None or not clip else np.clip(values, *self.range)

    def to_dict(self) -> dict[str, Any]:
        """Returns it as plain data for JSON."""
        format = {} if self.format is None else {"format": self.format.to_dict()}
        range = {} if self.range is None else {"low": self.range[0].tolist(), "high": self.range[1].tolist()}
        return {"task": self.task, "column": self.column, **self.scaling.to_dict(), **format, **range}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> RegressionTarget:
        """Reads what to_dict gave."""
        scaling = stored_scaling(entry, None)
        stored.require(isinstance(scaling, StandardScaling) and not scaling.clip, "a target is scaled as inputs are")
        assert isinstance(scaling, StandardScaling)
        stored.require(not scaling.constant.any(), "a target has the standard deviation 0")
        range = None
        if "low" in entry or "high" in entry:
            low, high = stored.numbers(entry, "low"), stored.numbers(entry, "high")
            stored.require(len(low) == len(high) == len(scaling), "a target's low and high have other lengths")
            stored.require(bool((low <= high).all()), "a target's low is above its high")
            range = np.stack([low, high])
        return cls(_stored_column(entry), scaling, stored_format(entry), range)


Target = Classes | RegressionTarget


def fit_target(
    data: Table | Arrays, column: str | None, rows: Array, task: str, standardise: bool, finding: Finding | None,
    clip: bool = False,
) -> tuple[Target, str]:  # fmt: skip
    """Fits the target to the given rows; returns it, and a sentence on why it is classification or regression.

    Args:
        finding: the numbers that were found in a target of text.
        clip: whether predicted quantities are kept within the range of these rows.
    """
    task, why = _decide(data, column, rows, task, finding)
    if task == "classification":
        classes = Classes.fit(data, column, rows, finding)
        return classes, f"{why}, so this is classification into {classes.outputs:,} classes"
    return RegressionTarget.fit(data, column, rows, standardise, finding, clip), f"{why}, so this is regression"


def _decide(
    data: Table | Arrays, column: str | None, rows: Array, task: str, finding: Finding | None
) -> tuple[str, str]:
    """Decides between classification and regression; returns that and the first half of the sentence."""
    if task not in TASKS:
        raise DataError(f"the task is {shown(task)}; choose one of {listed(TASKS)}")
    values, name = target_values(data, column), _name(column)
    if task == "regression":
        return task, "regression was asked for"
    why = "classification was asked for"
    if task == "auto" and isinstance(data, Arrays) and data.labelled:
        task, why = "classification", f"the labels in {data.source} are classes {OVERRULE}"
    elif task == "auto" and values.ndim == 2:
        if not _one_hot(values).all():
            return "regression", f"{name} has {values.shape[1]} columns"
        task, why = "classification", f"{name} is one-hot, 0 but for a single 1 in each row {OVERRULE}"
    if values.ndim == 2:
        values = class_values(data, column)
    fractional = np.zeros(len(values), bool) if values.dtype == object else ~_whole(values)
    if task == "classification":
        if fractional.any():
            row = int(fractional.argmax())
            large = f", take the column {EXACT}" if values[row].is_integer() else ""
            raise DataError(
                f"{data.source}, {data.place(row)}: {name} is {_class(values[row].item())}, and a class is a text or a "
                f"whole number{large and ' below 2⁵³'}; correct it{large}, or {CHOOSE.format('regression')}"
            )
        return task, why
    text = values.dtype == object
    if text:
        if finding is None or finding.numbers is None:
            return "classification", f"{name} is text"
        values = finding.numbers
        fractional = ~_whole(values)
    if fractional.any():
        whole = (values == np.floor(values)).all()
        return "regression", f"{name} has numbers {'of too many digits for classes' if whole else 'with fractions'}"
    different = len(np.unique(values[rows]))
    if different > FEW:
        return "regression", f"{name} has {different:,} different whole numbers, more than {FEW}"
    if different > max(FEWEST, len(rows) / 2):
        classes = "--task classification takes them as classes"
        return "regression", f"{name} has {different} different whole numbers in {len(rows)} rows ({classes})"
    if text:
        return "classification", f"{name} is text"
    return "classification", f"{name} has {counted(different, 'different whole number')}, no more than {FEW}"


def target_values(data: Table | Arrays, column: str | None) -> Array:
    """Returns the target as it was read, float64 (rows,) or (rows, k), or an object array of str (rows,), none missing.

    Raises:
        DataError: there is no such column, or no y; or a value is missing or infinite.
    """
    values = column_or_y(data, column)
    text = values.dtype == object
    values = values if text else values.astype(np.float64, copy=False)
    gone = missing(values)
    if gone.any():
        row, taken, how = int(np.argwhere(gone)[0][0]), "", ""
        if isinstance(data, Table) and column is not None:
            taken, how = data.taken_for_missing(column), " with --drop-missing-target (Table.take in Python)"
        raise DataError(
            f"{data.source}: {_name(column)}, the target, has {counted(int(gone.sum()), 'missing value')}, the "
            f"first in {data.place(row)}; fill them in, or leave these rows out{how}{taken}"
        )
    if not text and np.isinf(values).any():
        row = int(np.argwhere(np.isinf(values))[0][0])
        raise DataError(f"{data.source}, {data.place(row)}: {_name(column)}, the target, is infinite; correct it")
    return values


def _one_hot(values: Array) -> Array:
    """Marks the rows of (rows, k) that are 0 but for a single 1."""
    hot: Array = ((values == 1).sum(axis=1) == 1) & ((values == 0).sum(axis=1) == values.shape[1] - 1)
    return hot


def class_values(data: Table | Arrays, column: str | None) -> Array:
    """Returns the values of classes, (rows,): the target as it was read, or of one-hot rows the column of the 1."""
    values = target_values(data, column)
    if values.ndim == 1:
        return values
    hot = _one_hot(values)
    if not hot.all():
        raise DataError(
            f"{data.source}: y has the shape {values.shape}, and classification needs a class a row, (rows,), or "
            f"one-hot rows, 0 but for a single 1, which {data.place(int(hot.argmin()))} is not; give such, or "
            f"{CHOOSE.format('regression')}"
        )
    ones: Array = values.argmax(axis=1)
    return ones


def column_or_y(data: Table | Arrays, column: str | None) -> Array:
    """Returns the target as it was read; raises DataError where there is none."""
    if isinstance(data, Arrays):
        if column is not None:
            raise DataError(f"{data.source} holds arrays, whose target is y and has no name; leave {shown(column)} out")
        if data.y is None:
            raise DataError(f"{data.source} has no y, which would be the target; put it there")
        return data.y
    if column is None:
        raise DataError(
            f"{data.source}: which column is the target must be said with --target (target= in Python); it has "
            f"{listed(data.columns)}"
        )
    data.refuse_unusable([column])
    if column not in data.columns:
        raise DataError(
            f"{data.source} has no column {shown(column)}, the target; {nearest(column, data.columns)}"
            f"it has {listed(data.columns)}"
        )
    return data.columns[column]


def _quantities(data: Table | Arrays, column: str | None, format: NumberFormat | None) -> Array:
    """Returns the target as numbers, float64 (rows, k)."""
    values = target_values(data, column)
    found, wrong = read_numbers(values, format, data.missing if isinstance(data, Table) else MISSING)
    if wrong is not None:
        what = f"the text {shown(values[wrong])}" if values.dtype == object else f"{values[wrong]:g}"
        held = "numbers" if format is None else f"numbers such as {shown(format)}"
        raise DataError(
            f"{data.source}, {data.place(wrong)}: {_name(column)} is {what}, and regression needs {held}; correct it, "
            f"leave it out with --missing and --drop-missing-target, or {CHOOSE.format('classification')}"
        )
    return found.reshape(len(found), -1)


def _refuse_doubtful(data: Table | Arrays, column: str | None, finding: Finding | None) -> None:
    """Refuses text that looks like numbers but cannot be read as such beyond doubt."""
    if finding is not None and finding.why:
        assert isinstance(data, Table) and column is not None
        raise DataError(describe_finding(data, column, finding, "class"))


def _stored_column(entry: Mapping[str, Any]) -> str | None:
    return None if stored.field(entry, "column") is None else composed(stored.text(entry, "column"))


def _class(value: Any) -> str | int:
    """Returns the name of a class: 3 for the 3.0 that a table holds; other values as they are."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _whole(values: Array) -> Array:
    """Marks the numbers that can be classes."""
    whole: Array = (values == np.floor(values)) & (np.abs(values) < LARGEST_CLASS)
    return whole


def _name(column: str | None) -> str:
    return "y" if column is None else f"column {shown(column)}"
