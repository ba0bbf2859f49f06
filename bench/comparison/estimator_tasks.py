"""What bench/estimators.py lets the estimators of gpu_backprop and of scikit-learn do, at equal settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.preprocessing import StandardScaler

from gpu_backprop.backend.formula import Array
from gpu_backprop.data.idx import read_idx_folder

OURS, THEIRS = "gpu_backprop", "scikit-learn"
MODULES = {OURS: "gpu_backprop", THEIRS: "sklearn.neural_network"}
"""Where each has MLPClassifier and MLPRegressor."""

DTYPES = "float32", "float64"

FIT, EARLY, FULL_BATCH = "fit", "fit, early stopping", "fit, lbfgs"
PREDICT, PARTIAL_FIT = "predict", "partial_fit, 200 rows a call"
SEARCH, SEARCH_IN_2 = "grid search", "grid search, n_jobs=2"
POPULATION_SEARCH = "search of 60 candidates"
SEARCHES = {SEARCH: None, SEARCH_IN_2: 2, POPULATION_SEARCH: 2}
"""The n_jobs of each, of scikit-learn's in the last one: ours is a PopulationSearchCV."""

GRID = {
    "hidden_layer_sizes": [(10,), (20,), (20, 10)],
    "activation": ["relu", "tanh"],
    "alpha": [1e-4, 1e-2],
    "learning_rate_init": [1e-3, 1e-2],
}
POPULATION_GRID = {
    "hidden_layer_sizes": [(8,), (16,), (64,)],
    "alpha": [1e-4, 1e-3, 1e-2, 1e-1],
    "learning_rate_init": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2],
    "activation": ["tanh"],
    "shuffle": [False],
}
"""Where rows keep their order, both do the same to rounding; a rectified unit would make more of that."""

FOLDS = 5
ROWS_A_CALL, CALLS = 200, 10
FULL_BATCH_ITERATIONS = 20

LOSS_TOLERANCE = 0.05, 0.01
"""How far apart two final losses may be: this share of one, and this of the loss that the fit began with. The order of
the rows is another in each library."""

SCORE_TOLERANCE = 0.02
"""How far apart the mean score of a candidate may be, in the mean over the candidates."""


# Tables ---------------------------------------------------------------------------------------------------------------


def digits(folder: Path | None) -> tuple[Any, Array]:
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)  # type: ignore[no-any-return]


def small(folder: Path | None) -> tuple[Any, Array]:
    from sklearn.datasets import make_classification

    return make_classification(1_000, 10, n_informative=6, flip_y=0.05, random_state=0)  # type: ignore[no-any-return]


def regression(folder: Path | None) -> tuple[Any, Array]:
    """Friedman's first function, and 25 columns that say nothing; the target has unit variance."""
    from sklearn.datasets import make_friedman1

    x, y = make_friedman1(100_000, 30, noise=1.0, random_state=0)
    return x, (y - y.mean()) / y.std()


def mnist(folder: Path | None) -> tuple[Any, Array]:
    assert folder is not None
    pixels, labels = read_idx_folder(folder, "train")
    return pixels.reshape(len(pixels), -1), labels.astype(np.int64)


def words(folder: Path | None) -> tuple[Any, Array]:
    """As counts of words: 2,000 rows of 10,000 columns, of which one in 200 is not 0; the class shifts which."""
    from scipy.sparse import csr_array

    rng, rows, columns, each = np.random.default_rng(0), 2_000, 10_000, 50
    labels = rng.integers(10, size=rows)
    chosen = (rng.geometric(1e-3, (rows, each)) + 400 * labels[:, None]) % columns
    counts = csr_array((np.ones(chosen.size), (np.repeat(np.arange(rows), each), chosen.ravel())), (rows, columns))
    return counts, labels


@dataclass(frozen=True)
class Table:
    """Rows, and how long a network learns from them.

    Attributes:
        load: given the folder of MNIST.
        iterations: of each fit that is timed.
        seeds: how many fits are scored, on a quarter of the rows that is another for each.
        until: the most epochs of these fits, which may end earlier by scikit-learn's own rule.
    """

    load: Callable[[Path | None], tuple[Any, Array]]
    estimator: str
    iterations: int
    ways: tuple[str, ...]
    seeds: int = 10
    until: int = 200


USUAL = FIT, EARLY, PREDICT, PARTIAL_FIT
TABLES: Mapping[str, Table] = {
    "digits": Table(digits, "MLPClassifier", 40, (*USUAL, FULL_BATCH)),
    "1,000 × 10": Table(small, "MLPClassifier", 50, (*USUAL, FULL_BATCH, *SEARCHES)),
    "regression, 100,000 × 30": Table(regression, "MLPRegressor", 3, USUAL, until=10),
    "MNIST, 60,000": Table(mnist, "MLPClassifier", 3, USUAL, seeds=3, until=10),
    "sparse, 2,000 × 10,000": Table(words, "MLPClassifier", 5, (FIT, PREDICT), seeds=0),
}
GOAL = tuple(name for name in TABLES if not name.startswith("sparse"))
"""Those in whose mean of fits the goal is measured."""


@dataclass(frozen=True)
class Task:
    """One kind of work on one table."""

    table: str
    dtype: str
    way: str
    quick: bool = False

    def __str__(self) -> str:
        return f"{self.table}, {self.dtype}, {self.way}"

    @property
    def iterations(self) -> int:
        if self.way == FULL_BATCH:  # with more, float32 can tell no progress any more, and scikit-learn's float64 can
            return 2 if self.quick else FULL_BATCH_ITERATIONS
        return 2 if self.quick else TABLES[self.table].iterations


def tasks(quick: bool, with_mnist: bool) -> Iterator[Task]:
    for name, table in TABLES.items():
        if table.load is not mnist or with_mnist:
            yield from (Task(name, dtype, way, quick) for way in table.ways for dtype in DTYPES)


@lru_cache(maxsize=1)
def load(table: str, folder: Path | None, quick: bool) -> tuple[Any, Array]:
    """Returns the rows of a table as they are; of a quick task the first 500. One table is kept for the next task."""
    x, y = TABLES[table].load(folder)
    return (x[:500], y[:500]) if quick else (x, y)


def rows(task: Task, folder: Path | None) -> tuple[Any, Array]:
    """Returns the rows of a task, scaled and of its dtype."""
    x, y = load(task.table, folder, task.quick)
    return scaled(x)[0].astype(task.dtype), y


def scaled(x: Any, other: Any = None) -> tuple[Any, Any]:
    """Scales the columns of x, and of another one by these, to a deviation of 1; of a dense x also to a mean of 0."""
    scaler = StandardScaler(with_mean=isinstance(x, np.ndarray)).fit(x)
    return scaler.transform(x), None if other is None else scaler.transform(other)


# Equal work -----------------------------------------------------------------------------------------------------------


def fault(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Tells in what two did other work; "" if in nothing. See `estimator_worker.Commands.load` for what they say."""
    for name, value in theirs["equal"].items():
        if ours["equal"].get(name) != value:
            return f"it does other work: {name} is {ours['equal'].get(name)}, of {THEIRS} {value}"
    if "scores" in theirs:
        apart = mean_distance(ours["scores"], theirs["scores"])
        return "" if apart <= SCORE_TOLERANCE else f"it does other work: scores are {apart:.3f} apart in the mean"
    share, of_first = LOSS_TOLERANCE
    if not abs(ours["loss"] - theirs["loss"]) <= share * abs(theirs["loss"]) + of_first * abs(theirs["first loss"]):
        return f"it does other work: the loss is {ours['loss']:.4g}, of {THEIRS} {theirs['loss']:.4g}"
    return ""


def mean_distance(a: Sequence[float], b: Sequence[float]) -> float:
    return float(np.abs(np.subtract(a, b)).mean())
