"""How the columns of a table become inputs: one record of all choices, made before anything is fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gpu_backprop.data.errors import DataError
from gpu_backprop.data.messages import listed, shown

NUMBERS = ("standard", "robust", "quantile")
"""How columns of numbers are brought to one size."""

BINARY = ("one_hot", "sign")
"""What a column of two categories becomes: an input for each, or one input that is −1 or 1."""

MANY = ("error", "hash")
"""What is done with a column of more different texts than can be inputs of their own."""

DATES = (False, True, "day_first", "month_first")
"""Whether dates are read, and which of two ways to read them is right."""


@dataclass(frozen=True)
class Encoding:
    """How columns become inputs; the defaults are those of `Preprocessing.fit`.

    Attributes:
        numbers: "standard": (v − mean)/std. "robust": (v − median)/(quartile distance), or twice over the range where
            the quartiles are one. "quantile": the normal score of v's rank. A constant column is 0 in all of them.
        clip: whether every input x, of categories too, becomes x/√(1 + (x/3)²), which is within ±3.
        binary: of a column of two categories, and of no missing ones: "one_hot" or "sign", which is ±1, clipped or not.
        indicator: whether a column with missing numbers in training gets one more input, 1 where the number is missing.
        rare: categories of fewer training rows are pooled in one input, where unseen texts go too; 0: none are.
        many: of columns of too many different texts: "error", or "hash", which `hashed=` does by name.
        ordinal: columns whose texts have an order, as one number each: {"size": ["small", "medium", "large"]}.
        dates: whether a column of dates or times in one format becomes year, month, weekday, hour and elapsed days;
            "day_first" or "month_first" where 1/2/2026 can be read in two ways, and no row tells which is right.
        numbers_first: whether the inputs of numbers, dates and orders come before those of texts, as Periodic wants.
        clip_target: whether predicted quantities are kept within the range of the training rows.
    """

    numbers: str = "standard"
    clip: bool = False
    binary: str = "one_hot"
    indicator: bool = False
    rare: int = 0
    many: str = "error"
    ordinal: Mapping[str, Sequence[str]] = field(default_factory=dict)
    dates: bool | str = False
    numbers_first: bool = False
    clip_target: bool = False

    def imputing(self, impute: str | None) -> str | None:
        """Returns what takes the place of missing numbers: where none was given and they are indicated, the mean of
        the column, or what else it is centred on, the median."""
        if impute is not None or not self.indicator:
            return impute
        return "mean" if self.numbers == "standard" else "median"

    def __post_init__(self) -> None:
        either = dict.fromkeys(("clip", "indicator", "clip_target"), (False, True))
        named = {"numbers": NUMBERS, "binary": BINARY, "many": MANY, "dates": DATES}
        for name, accepted in {**named, **either}.items():
            if (value := getattr(self, name)) not in accepted:
                raise DataError(f"{name} is {shown(value)}; choose one of {listed(accepted)}")
        if not isinstance(self.ordinal, Mapping):
            example = '{"size": ["small", "medium", "large"]}'
            raise DataError(f"ordinal is {shown(self.ordinal)}; give columns and their texts in order, as in {example}")
        if type(self.rare) is not int or self.rare < 0:
            raise DataError(f"rare is {shown(self.rare)}; give a whole number of rows, 0 for no category to be rare")


PLAIN = Encoding()
TABULAR = Encoding(
    numbers="robust",
    clip=True,
    binary="sign",
    indicator=True,
    rare=2,
    many="hash",
    dates=True,
    numbers_first=True,
    clip_target=True,
)
"""What the recipes for tables take; see recipes.py."""
