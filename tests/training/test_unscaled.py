"""fit warns once where columns of x or y look as if nobody had scaled them, and of nothing else."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend import lazy_rows
from gpu_backprop.commands.datasets import prepare
from gpu_backprop.data import Preprocessing, load_digits, read

RNG = np.random.default_rng(4)
ROWS = 200
X, Y = RNG.normal(size=(ROWS, 4)), RNG.normal(size=(ROWS, 2))
LABELS = np.arange(ROWS) % 3


def warned(x, y, net=None, **options):
    """What fit warns of."""
    outputs = 3 if y.ndim == 1 else y.shape[1]
    net = net or gb.Network(x.shape[1], [gb.Dense(outputs, "softmax" if y.ndim == 1 else "identity")])
    trainer = gb.Trainer(net, optimizer=gb.SGD(1e-30), batch_size=100)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(x, y, 2, progress=False, **options)
    assert all(entry.category is RuntimeWarning and entry.filename == __file__ for entry in caught)
    return [str(entry.message) for entry in caught]


def with_column(values, column=2):
    x = X.copy()
    x[:, column] = values
    return x


UNSCALED = {
    "a year": with_column(2020 + np.arange(ROWS) % 30),
    "an income": with_column(RNG.lognormal(10, 1, ROWS)),
    "a far mean": with_column(X[:, 2] + 1e4),
    "below": with_column(X[:, 2] - 1e4),
    "tiny": with_column(X[:, 2] * 1e-5),
    "nearly constant": with_column(5 + X[:, 2] * 1e-4),
    "float32": with_column(X[:, 2] * 1e6).astype(np.float32),
    "integers": with_column(RNG.integers(0, 10**6, ROWS)).astype(np.int64),
    "huge": with_column(X[:, 2] * 1e20),
    "a large constant": with_column(5000.0),
}

SCALED = {
    "standardised": X,
    "a constant": with_column(500.0),
    "a tiny constant": with_column(1e-9),
    "a bit off": with_column(X[:, 2] * 300 + 500),
    "a bit small": with_column(X[:, 2] * 0.01),
    "bytes": RNG.integers(0, 256, (ROWS, 4)).astype(np.uint8),
    "a rare category": with_column(np.arange(ROWS) == 7),
    "a rare small number": with_column((np.arange(ROWS) == 7) / 255),
    "truth values": X > 1,
    "two rows": np.array([[0.5, 0.5, 0.5, 0.5], [0.5001, 0.5002, 0.5001, 0.5]]),
}


@pytest.mark.parametrize("x", UNSCALED.values(), ids=UNSCALED)
def test_inputs_that_are_not_scaled(x):
    (message,) = warned(x, LABELS)
    assert message.startswith("x is not scaled: in 1 of its 4 columns") and "x[:, 2]" in message
    assert "y is not" not in message


@pytest.mark.parametrize("x", SCALED.values(), ids=SCALED)
def test_inputs_that_are(x):
    assert warned(x, LABELS[: len(x)]) == []


@pytest.mark.parametrize(("size", "filled", "columns"), [(0.002, 20, 0), (0.002, 50, 1), (1e-4, 20, 1), (1e5, 20, 1)])
def test_columns_of_zeros_and_some_numbers(size, filled, columns):
    """Rows so wide that 32 are looked at: their deviation does not show how rare those numbers are."""
    x = np.zeros((32, 20_000), np.float32)
    x[: 32 * filled // 64, 5] = size * np.linspace(0.5, 1, 32 * filled // 64)
    assert len(warned(x, LABELS[:32])) == columns


def test_a_sparse_matrix_is_to_keep_its_zeros(monkeypatch):
    sparse = pytest.importorskip("scipy.sparse")
    monkeypatch.setattr(lazy_rows, "SMALL", 0)
    (message,) = warned(sparse.csr_array(with_column(X[:, 2] * 1e6)), LABELS)
    assert "x is not scaled: in 1 of its 4 columns" in message and "MaxAbsScaler" in message and "mean)" not in message


def test_targets_too_and_in_one_warning():
    (message,) = warned(X, Y * 1e5)
    assert message.startswith("y is not scaled: in 2 of its 2 columns")
    (message,) = warned(X * 1e5, Y * [1, 1e5])
    assert "x is not scaled: in 4 of its 4 columns" in message and "y is not scaled: in 1 of its 2 columns" in message
    assert warned(X, gb.one_hot(np.arange(ROWS) == 7)) == []


def test_targets_that_have_a_range():
    """They cannot be standardised: what a loss bounds on both sides is left alone, and counts may only be too many."""
    shares, counts = RNG.dirichlet(np.full(2000, 5.0), 60), RNG.poisson(5000, (ROWS, 1))

    def of(loss, x, y, output, prepared=None):
        net = gb.Network(4, [gb.Dense(y.shape[1], output)])
        net.preprocessing = prepared
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            gb.Trainer(net, loss, gb.SGD(1e-30)).fit(x, y, 1, progress=False)
        return [str(entry.message) for entry in caught]

    assert of("cross_entropy", X[:60], shares, "softmax") == []
    assert of("binary_cross_entropy", X, np.full((ROWS, 1), 5e-5) * (1 + X[:, :1] / 100), "sigmoid") == []
    assert of("poisson", X, counts / 5000, "exp") == []
    for prepared in (None, object()):
        (message,) = of("poisson", X, counts, "exp", prepared)
        assert message.startswith("y is not scaled") and "divide it by a constant" in message


def test_what_a_loss_needs_of_y_is_said_where_y_is_not_scaled():
    (message,) = warned(X * 1e6, LABELS)
    assert message.endswith("brings predictions back).") and "y ≥" not in message


def test_a_range_test_warns_too():
    trainer = gb.Trainer(gb.Network(4, [gb.Dense(3, "softmax")]))
    with pytest.warns(RuntimeWarning, match="x is not scaled") as caught:
        trainer.find_learning_rate(X * 1e6, LABELS)
    assert caught[0].filename == __file__


def test_it_is_an_error_where_warnings_are_and_nothing_has_happened_then():
    trainer = gb.Trainer(gb.Network(4, [gb.Dense(3, "softmax")]))
    before = trainer.network.parameters.tobytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="is not scaled"):
            trainer.fit(X * 1e6, LABELS)
    assert trainer.network.parameters.tobytes() == before
    trainer.fit(X, LABELS, 1, progress=False)


def test_what_preprocessing_made_is_not_looked_at(tmp_path):
    rows = [f"{RNG.poisson(5e4)},{'ab'[k % 50 == 7]},{10 ** RNG.normal(4):.1f}\n" for k in range(100)]
    (tmp_path / "t.csv").write_text("count,kind,size\n" + "".join(rows))
    data = read(tmp_path / "t.csv")
    learned = Preprocessing.fit(data, "count", task="regression", standardise_target=False)
    samples = prepare(learned, data)
    net = gb.Network(learned.inputs, [gb.Dense(1, "exp")])
    net.preprocessing = learned
    assert warned(samples.x, samples.y, net) == []
    net.preprocessing = None
    (message,) = warned(samples.x, samples.y, net)
    assert message.startswith("y is not scaled")


def test_of_many_rows_and_columns_some_are_looked_at():
    x = RNG.normal(size=(3000, 300))
    x[:, 17] *= 1e4
    (message,) = warned(x, np.arange(3000) % 3)
    assert "in 1 of its 300 columns" in message and "x[:, 17]" in message


def test_the_digits():
    x, labels = load_digits()
    assert warned(x, labels % 3) == warned(x.astype(np.float32) / 255, labels % 3) == []
