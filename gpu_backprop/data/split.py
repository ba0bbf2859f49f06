"""Holding rows out, so that a network is scored on what it has not seen."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SPLIT_STREAM = 2
"""The stream of the seed that splits draw from; a network's own streams are elsewhere."""


def stratified_split(
    labels: npt.ArrayLike, fraction: float, seed: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Hold out a fraction of the rows, of every class alike.

    Of n rows round(fraction · n) are held out, shared among the classes by the largest remainder, so that each
    gives fraction · (its rows), rounded down or up. Every class keeps at least one row to train on.

    Args:
        labels: (n,), the class of each row; numbers or strings.
        fraction: how much to hold out, above 0 and below 1.
        seed: which rows; the same seed holds the same rows out.

    Returns:
        train_rows, held_out_rows: row numbers in ascending order; together they are every row once.

    Raises:
        ValueError: labels that are not one per row, a fraction outside (0, 1), or too few rows for it.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(f"labels have the shape {labels.shape}; give one label per row, (rows,)")
    classes, member = np.unique(labels, return_inverse=True)
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction!r}; what is held out must be above 0 and below 1, such as 0.2")

    counts = np.bincount(member, minlength=len(classes))
    held_out = _largest_remainder(counts, fraction)
    if held_out is None:
        among, kept = (f" in {len(classes)} classes", "every class a row") if len(classes) > 1 else ("", "rows")
        few = "1 row is" if len(member) == 1 else f"{len(member)} rows{among} are"
        raise ValueError(
            f"{few} too few to hold out {fraction:g} of them and leave {kept} to train on; give more rows or another "
            "fraction"
        )

    rng = np.random.default_rng([seed, SPLIT_STREAM])
    out = np.zeros(len(member), dtype=bool)
    for index, number in enumerate(held_out):
        out[rng.permutation(np.flatnonzero(member == index))[:number]] = True
    return np.flatnonzero(~out), np.flatnonzero(out)


def stratified_folds(labels: npt.ArrayLike, folds: int, seed: int) -> npt.NDArray[np.intp]:
    """Divide the rows into folds, of every class alike: for each row the number of its fold, from 0.

    Folds differ by at most one in how many rows they have, and in how many of each class: the rows, class by class and
    shuffled within each, are dealt to them in turn. A class may have fewer rows than there are folds.

    Args:
        labels: (n,), the class of each row; numbers or strings.
        folds: how many, at least 2.
        seed: which rows; the same seed gives the same folds.

    Raises:
        ValueError: labels that are not one per row, less than two folds, or fewer rows than folds.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(f"labels have the shape {labels.shape}; give one label per row, (rows,)")
    if not 2 <= folds <= len(labels):
        raise ValueError(f"{len(labels)} rows cannot be {folds} folds; give at least 2 folds, and a row for each")
    rng = np.random.default_rng([seed, SPLIT_STREAM])
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(np.unique(labels, return_inverse=True)[1][shuffled], kind="stable")]
    fold = np.empty(len(labels), np.intp)
    fold[by_class] = rng.permutation(folds)[np.arange(len(labels)) % folds]
    return fold


def is_held_out(first: int, count: int, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Tells of so many rows, from number `first` on, which are held out of data that are too many to be looked at as a
    whole: each by itself, with the probability `fraction`, by the bits that its number and the seed are mixed to
    (splitmix64: Steele, Lea and Flood, 2014). Nothing need be stored, and rows that are added change none of it.
    """
    start = np.random.default_rng([seed, SPLIT_STREAM]).integers(1 << 63, dtype=np.uint64)
    z = (np.arange(first + 1, first + 1 + count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) + start
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    held_out: npt.NDArray[np.bool_] = (z ^ (z >> np.uint64(31))) < np.uint64(int(fraction * 2**64))
    return held_out


def _largest_remainder(counts: npt.NDArray[np.intp], fraction: float) -> npt.NDArray[np.intp] | None:
    """Computes how many rows of each class to hold out; None where that would leave a class without a row."""
    total = round(fraction * int(counts.sum()))
    share: npt.NDArray[np.intp] = np.floor(fraction * counts).astype(np.intp)
    remainder = fraction * counts - share
    remainder[share + 1 == counts] = 0  # these have no further row to give
    missing = total - int(share.sum())
    if total == 0 or missing > np.count_nonzero(remainder):
        return None
    share[np.argsort(-remainder, kind="stable")[:missing]] += 1
    return share
