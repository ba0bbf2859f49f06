"""Columns of text as inputs: one for each category, one for two categories, or one for each bucket of a hash."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_backprop.data import stored
from gpu_backprop.data.categories import MOST_INPUTS, buckets, codes, distinct, spelled
from gpu_backprop.data.cells import folded
from gpu_backprop.data.encoding import Encoding
from gpu_backprop.data.files import Array
from gpu_backprop.data.messages import counted, listed, shown
from gpu_backprop.data.table import Table

MOST_COUNTED = 100_000
"""Different texts of a column whose rows are counted; of one with more, no category is common enough to be told."""

Times = Mapping[str | None, int]
"""How many training rows have each text of a column; None: a missing one."""


@dataclass(frozen=True, eq=False)
class TextColumn:
    """A column of text, a feature for each category: 1 for the one that it is, else 0. None is a missing text.

    Attributes:
        rare: how many categories of few training rows are pooled in one more feature; texts that no training row had
            belong there too. 0: there is no such feature, and these texts are 0 in all.
        pooled: which these are; none where they are too many, and then it is not known what a training row had.
    """

    name: str
    categories: tuple[str | None, ...]
    rare: int = 0
    pooled: tuple[str, ...] = ()

    @property
    def features(self) -> list[str]:
        names = [f"{self.name} missing" if c is None else f"{self.name}={c}" for c in self.categories]
        return [*names, *([f"{self.name}=(rare)"] if self.rare else [])]

    @property
    def summary(self) -> str:
        pooled = [f"{counted(self.rare, 'rare text')} pooled"] if self.rare else []
        own = [counted(len(self.categories), "category", "categories")] if self.categories or not pooled else []
        return f"{self.name} ({', '.join([*own, *pooled])})"

    def describe(self) -> str:
        names = listed("none" if c is None else c for c in self.categories)
        texts = f"{counted(self.rare, 'text')} of few training rows, and what no training row had"
        more = f"{'; and ' * bool(names)}one for {texts}" if self.rare else ""
        return f"{counted(len(self.features), 'input')}, 1 for the category that it is, else 0: {names}{more}"

    def pack(self, table: Table, one: float) -> tuple[Array, int]:
        """Returns the number of each row's feature, (rows, 1), −1 for none, and how many rows have an unseen text."""
        code = codes(table.columns[self.name], (*self.categories, *self.pooled))
        unseen = 0 if self.rare and not self.pooled else int((code < 0).sum())
        if self.rare:
            code[(code < 0) | (code >= len(self.categories))] = len(self.categories)
        return code[:, None], unseen

    def to_dict(self) -> dict[str, Any]:
        pooled = {"pooled": list(self.pooled)} if self.pooled else {}
        return {"categories": list(self.categories), **({"rare": self.rare, **pooled} if self.rare else {})}

    @classmethod
    def from_dict(cls, name: str, given: Mapping[str, Any]) -> TextColumn:
        """Reads what to_dict gave."""
        rare = stored.count(given, "rare") if "rare" in given else 0
        pooled = stored.categories(given, "pooled", str) if "pooled" in given else ()
        empty = rare and stored.field(given, "categories") == []
        known = () if empty else stored.categories(given, "categories", str, type(None))
        stored.require(not pooled or len(pooled) == rare, "rare texts are other than were counted")
        stored.require(not {*known}.intersection(pooled), "a category is rare as well")
        return cls(name, known, rare, pooled)


@dataclass(frozen=True, eq=False)
class SignColumn:
    """A column of two categories, one feature: −1 for the first, 1 for the second, 0 for a text that is neither."""

    name: str
    categories: tuple[str, str]

    @property
    def features(self) -> list[str]:
        return [f"{self.name}={self.categories[1]}"]

    @property
    def summary(self) -> str:
        return f"{self.name} (2 categories)"

    def describe(self) -> str:
        return f"1 input, −1 for {shown(self.categories[0])}, 1 for {shown(self.categories[1])}"

    def pack(self, table: Table, one: float) -> tuple[Array, int]:
        """Returns the sign of each row, (rows, 1), and how many rows have an unseen text."""
        code = codes(table.columns[self.name], self.categories)[:, None]
        return np.where(code < 0, 0, 2 * code - 1), int((code < 0).sum())

    def to_dict(self) -> dict[str, Any]:
        return {"signs": list(self.categories)}

    @classmethod
    def from_dict(cls, name: str, given: Mapping[str, Any]) -> SignColumn:
        """Reads what to_dict gave."""
        signs = stored.categories(given, "signs", str)
        stored.require(len(signs) == 2, "signs are those of two categories")
        return cls(name, signs)


@dataclass(frozen=True, eq=False)
class HashedColumn:
    """A column of text, a feature for each of so many buckets: 1 for the one that its text is hashed to, else 0."""

    name: str
    buckets: int

    @property
    def features(self) -> list[str]:
        return [f"{self.name} hashed to {bucket}" for bucket in range(self.buckets)]

    @property
    def summary(self) -> str:
        return f"{self.name} (hashed)"

    def describe(self) -> str:
        return f"{counted(self.buckets, 'input')}, 1 for the one that the text is hashed to, else 0"

    def pack(self, table: Table, one: float) -> tuple[Array, int]:
        """Returns the bucket of each row, (rows, 1); no text is unseen."""
        return buckets(spelled(table.columns[self.name]), self.buckets)[:, None], 0

    def to_dict(self) -> dict[str, Any]:
        return {"buckets": self.buckets}

    @classmethod
    def from_dict(cls, name: str, given: Mapping[str, Any]) -> HashedColumn:
        """Reads what to_dict gave."""
        return cls(name, stored.count(given, "buckets"))


def count_texts(texts: Iterable[str | None]) -> Times:
    """Counts the rows of each text; of those that mean the same, the first stands for all."""
    times = Counter(texts)
    spelling = {folded(text): text for text in distinct(text for text in times if text is not None)}
    found = Counter[str | None]()
    for text, number in times.items():
        found[None if text is None else spelling[folded(text)]] += number
    return found


def fit_text(name: str, times: Times, encoding: Encoding) -> TextColumn | SignColumn | None:
    """Returns what a column becomes whose texts so many training rows have, as count_texts gives them; None where more
    than MOST_INPUTS of them would be inputs."""
    known = sorted(text for text in times if text is not None)
    if encoding.binary == "sign" and len(known) == 2 and None not in times:
        return SignColumn(name, (known[0], known[1]))
    common = [text for text in known if times[text] >= encoding.rare]
    if len(common) > MOST_INPUTS or (len(common) < len(known) and len(known) > MOST_COUNTED):
        return None
    rare = [text for text in known if times[text] < encoding.rare]
    missing = [None] if None in times else []
    return TextColumn(name, (*common, *missing), len(rare), tuple(rare) if len(rare) <= MOST_INPUTS else ())
