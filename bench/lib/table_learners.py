"""What bench/tables.py measures: ours, and each peer as its users call it, with everybody's defaults.

A learner reads the rows to learn from and the rows to predict from CSV files. It returns probabilities (rows, classes)
in the order of the sorted classes, or numbers (rows,).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gpu_backprop.arguments.parser import parse
from gpu_backprop.commands.building import build, choose_encoding, choose_fit_options, read_design, targets
from gpu_backprop.commands.datasets import load_train_test
from gpu_backprop.data import read
from lib.real_tables import Split, Table

Array = npt.NDArray[Any]


class Learner(NamedTuple):
    """The package that it is from, and what learns: (table, split, seed, threads) to predictions."""

    package: str
    learn: Callable[[Table, Split, int, int], Array]


def ours(table: Table, split: Split, seed: int, words: tuple[str, ...] = ()) -> Array:
    """Trains as `gpu-backprop train TRAINING --target TARGET` does with these words, and predicts the other rows."""
    given = ["train", str(split.training), "--target", table.target, "--held-out", "0", "--seed", str(seed)]
    options = parse([*given, "--device", "cpu", "--quiet", *words])
    design = read_design(options)
    with redirect_stderr(io.StringIO()):  # its advice on the columns
        data = load_train_test(options, design.any_number, choose_encoding(options))
        recipe, trainer = build(options, design, data.preprocessing, data.training.x)
        net, how = trainer.network, choose_fit_options(options, recipe, len(data.training))
        trainer.fit(data.training.x, targets(trainer.loss, net, data.training), **how, progress=False)
        predicted = np.asarray(net.predict(data.preprocessing.transform(read(split.testing))), np.float64)
    if net.classes is None:
        return np.asarray(data.preprocessing.inverse(predicted))[:, 0]
    return predicted[:, np.argsort([str(name) for name in net.classes])]


def _frames(table: Table, split: Split) -> tuple[Any, Any, Any, list[str]]:
    """Returns x to learn from, x to predict and y as data frames, and the names of the columns of text."""
    import pandas as pd

    text = {table.target: str} if table.classes else None
    x, other = (
        pd.read_csv(path, keep_default_na=False, na_values=[""], dtype=text) for path in (split.training, split.testing)
    )
    y = x.pop(table.target)
    x = x[[name for name in x if x[name].notna().any()]]
    names = [name for name in x if not pd.api.types.is_numeric_dtype(x[name]) or x[name].dtype == bool]
    return x, other[list(x)], y.to_numpy(object if table.classes else float), names


def _categories(x: Any, other: Any, names: list[str]) -> tuple[Any, Any]:
    """Makes the columns of text categorical, with the categories of the rows to learn from."""
    for name in names:
        x[name] = x[name].astype("category")
        other[name] = other[name].astype(x[name].dtype)
    return x, other


def _predict(model: Any, x: Any, table: Table) -> Array:
    if not table.classes:
        return np.asarray(model.predict(x), np.float64).reshape(-1)
    return np.asarray(model.predict_proba(x), np.float64)[:, np.argsort([str(name) for name in model.classes_])]


def scikit_learn_mlp(table: Table, split: Split, seed: int, threads: int) -> Array:
    """MLPClassifier or MLPRegressor behind imputed means, StandardScaler and OneHotEncoder; a quantity is scaled."""
    from sklearn.compose import TransformedTargetRegressor, make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    x, other, y, names = _frames(table, split)
    numbers = [name for name in x if name not in names]
    columns = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), numbers), (OneHotEncoder(handle_unknown="ignore"), names)
    )
    if table.classes:
        last: Any = MLPClassifier(random_state=seed)
    else:
        last = TransformedTargetRegressor(MLPRegressor(random_state=seed), transformer=StandardScaler())
    return _predict(make_pipeline(columns, last).fit(x, y), other, table)


def boosting(table: Table, split: Split, seed: int, threads: int) -> Array:
    """HistGradientBoosting, which takes categories and missing values itself."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    x, other, y, names = _frames(table, split)
    x, other = _categories(x, other, names)
    kind = HistGradientBoostingClassifier if table.classes else HistGradientBoostingRegressor
    return _predict(kind(categorical_features="from_dtype", random_state=seed).fit(x, y), other, table)


def lightgbm(table: Table, split: Split, seed: int, threads: int) -> Array:
    """LightGBM, which takes categories and missing values itself."""
    from lightgbm import LGBMClassifier, LGBMRegressor

    x, other, y, names = _frames(table, split)
    x, other = _categories(x, other, names)
    x.columns = other.columns = [f"x{number}" for number in range(x.shape[1])]  # it takes no signs in a name
    kind = LGBMClassifier if table.classes else LGBMRegressor
    return _predict(kind(random_state=seed, n_jobs=threads, verbose=-1).fit(x, y), other, table)


def real_mlp(table: Table, split: Split, seed: int, threads: int) -> Array:
    """RealMLP-TD-S (Holzmüller et al. 2024) as in pytabkit; it takes categories, and numbers without gaps: medians."""
    import pytabkit
    from sklearn.impute import SimpleImputer

    x, other, y, names = _frames(table, split)
    x, other = _categories(x, other, names)
    numbers = [name for name in x if name not in names]
    if numbers:
        medians = SimpleImputer(strategy="median").set_output(transform="pandas").fit(x[numbers])
        x[numbers], other[numbers] = medians.transform(x[numbers]), medians.transform(other[numbers])
    kind = getattr(pytabkit, f"RealMLP_TD_S_{'Classifier' if table.classes else 'Regressor'}")
    model = kind(device="cpu", random_state=seed, n_threads=threads, verbosity=0)
    return _predict(model.fit(x, y, cat_col_names=names), other, table)


OURS, OTHER, ENSEMBLE = "ours", "ours, other settings", "ours, ensemble of 8"
SCIKIT_LEARN, BOOSTING, LIGHTGBM, REALMLP = "scikit-learn MLP", "HistGradientBoosting", "LightGBM", "RealMLP-TD-S"
PACKAGES = {"scikit-learn": "sklearn", "lightgbm": "lightgbm", "pytabkit": "pytabkit", "torch": "torch"}
"""Each package of the peers, and what it is imported as."""

PEERS = {
    SCIKIT_LEARN: Learner("scikit-learn", scikit_learn_mlp),
    BOOSTING: Learner("scikit-learn", boosting),
    LIGHTGBM: Learner("lightgbm", lightgbm),
    REALMLP: Learner("pytabkit", real_mlp),
}


def with_words(*words: str) -> Learner:
    """Returns ours with more words of the command line."""
    return Learner("gpu-backprop", lambda table, split, seed, threads: ours(table, split, seed, words))


def installed(*words: str) -> dict[str, Learner]:
    """Returns ours, with more words of the command line, and the peers whose packages are there."""
    peers = {name: peer for name, peer in PEERS.items() if find_spec(PACKAGES[peer.package])}
    return {OURS: with_words(*words), ENSEMBLE: with_words("--ensemble", "8", *words), **peers}


def versions() -> dict[str, str]:
    """Returns the version of each package that is there."""
    return {name: version(name) for name, module in PACKAGES.items() if find_spec(module)}


def quietly(learner: Learner, table: Table, split: Split, seed: int, threads: int) -> Array:
    """Learns and predicts without the warnings of others, which are about convergence and names of columns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return learner.learn(table, split, seed, threads)
