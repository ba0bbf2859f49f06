"""Sparse matrices of scipy: whatever reads them gives the bits that it gives for the dense one, and never makes that.

That a CUDA device does the same is tested in tests/gpu/test_streaming.py.
"""

from __future__ import annotations

import logging
import tracemalloc

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend import lazy_rows
from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.lazy_rows import SparseRows, keep_sparse
from gpu_backprop.network.arrays import check_features
from gpu_backprop.training import streaming
from gpu_backprop.training.checkpoints.fingerprint import fingerprint

sparse = pytest.importorskip("scipy.sparse")

ROWS, INPUTS, BATCH = 53, 12, 8
_random = np.random.default_rng(6)
X = np.where(_random.uniform(size=(ROWS, INPUTS)) < 0.3, _random.normal(size=(ROWS, INPUTS)), 0.0)
X[5] = 0
BYTES = (X * 50).astype(np.int8).astype(np.uint8)
LABELS = _random.integers(0, 3, ROWS)
TAGS = (_random.uniform(size=(ROWS, 3)) < 0.4).astype(np.float32)
WEIGHTS = _random.uniform(0, 2, ROWS)
FORMATS = "bsr", "coo", "csc", "csr", "dia", "dok", "lil"


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Nothing is small enough to be made dense, and an epoch goes around the buffer more than once."""
    monkeypatch.setattr(lazy_rows, "SMALL", 0)
    monkeypatch.setattr(streaming, "BLOCK", 2 * BATCH * (4 * INPUTS + 8))


def trainer_of(y=LABELS, *, seed=1, dtype="float32", **options):
    net = gb.Network(
        INPUTS, [gb.Dense(6, "tanh"), gb.Dropout(0.2), gb.Dense(3, "softmax" if y.ndim == 1 else "sigmoid")],
        seed=seed, dtype=dtype, device="cpu",
    )  # fmt: skip
    return gb.Trainer(net, batch_size=BATCH, **options)


def fitted(x, y=LABELS, *, form=None, held_out=None, **how):
    trainer = trainer_of(TAGS if y.ndim == 2 else y, **(form or {}))
    how = {"validation": held_out, **how} if held_out else how
    history = trainer.fit(x, y, 3, progress=False, **how)
    rows = [{name: value for name, value in row.items() if "sec" not in name} for row in history]
    return trainer.network.parameters.tobytes(), rows, history.steps


@pytest.mark.parametrize("kind", ["matrix", "array"])
@pytest.mark.parametrize("form", FORMATS)
def test_every_format(form, kind):
    given = getattr(sparse, f"{form}_{kind}")(X)
    assert isinstance(keep_sparse(given), SparseRows)
    assert fitted(given) == fitted(X)
    assert abs(given - sparse.csr_array(X)).nnz == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "x", [BYTES, X > 0, X.astype(np.float32), X, (X * 9).astype(np.int64), (X * 9).astype(np.int16)],
    ids=["uint8", "bool", "float32", "float64", "int64", "int16"],
)  # fmt: skip
def test_every_dtype(x, dtype):
    given, form = sparse.csr_array(x), {"dtype": dtype}
    assert fitted(given, form=form) == fitted(x, form=form)
    trainer = trainer_of(dtype=dtype)
    assert np.array_equal(trainer.network.predict(given), trainer.network.predict(x))


@pytest.mark.parametrize("out", ["float16", "float32", "float64", "uint8"])
def test_rows_become_dense_in_any_dtype(out):
    rows = keep_sparse(sparse.csr_array(BYTES))
    for some in (slice(3, 9), slice(1, None, 5), np.array([4, 0, 52, 4]), slice(2, 2)):
        filled = np.full(BYTES[some].shape, 7, out)
        rows.fill(filled, some)
        assert np.array_equal(filled, BYTES[some].astype(out))
        assert np.array_equal(rows[some], BYTES[some]) and rows[some].dtype == np.uint8


CASES = {
    "weights": {"weights": WEIGHTS},
    "in order": {"shuffle": False},
    "validation split": {"validation_split": 0.3, "weights": WEIGHTS},
    "early stopping": {"early_stopping": True},
    "class weights": {"class_weight": "balanced"},
    "losses of steps": {"loss_every": 2},
    "members": {"form": {"seed": [1, 2]}},
    "folds": {"form": {"seed": [1, 2, 3]}, "folds": 3},
    "parts": {"form": {"accumulate": 3, "clip_norm": 0.5}},
}


@pytest.mark.parametrize("how", CASES.values(), ids=CASES)
def test_every_way_to_fit(how):
    assert fitted(sparse.csr_matrix(X), **how) == fitted(X, **how)


def test_validation_data_and_sparse_targets():
    x, tags = sparse.csr_array(X), sparse.csr_array(TAGS)
    assert fitted(x, held_out=(x[:20], LABELS[:20])) == fitted(X, held_out=(X[:20], LABELS[:20]))
    y, w = LABELS[:20], WEIGHTS[:20]
    assert fitted(X, held_out=(x[:20], y, w)) == fitted(X, held_out=(X[:20], y, w))
    assert fitted(x, tags, held_out=(x[:20], tags[:20])) == fitted(X, TAGS, held_out=(X[:20], TAGS[:20]))


def test_all_else_that_reads_rows():
    def found(x):
        trainer = trainer_of()
        net = trainer.network
        said = [float(trainer.step(x[:9], LABELS[:9], WEIGHTS[:9])), trainer.evaluate(x, LABELS)]
        said += [
            net.predict(x).tobytes(),
            net.predict(x, batch_size=7).tobytes(),
            net.forward(x).tobytes(),
            net.predict(x[:0]).shape,
        ]
        said += [array.tobytes() for _, wrote in trainer.trace(x[:9], LABELS[:9]) for array in wrote.values()]
        said += [trainer.find_learning_rate(x, LABELS, steps=20).losses.tobytes()]
        said += [str(trainer.diagnose(x, LABELS, validation=(x, LABELS)))]
        trainer.profile(x[:9], LABELS[:9], runs=1)
        gb.initialize_from_data(net, x)
        lbfgs = gb.Network(INPUTS, [gb.Dense(3, "softmax")], device="cpu", seed=1)
        gb.fit_lbfgs(lbfgs, x, LABELS, iterations=5, batch_size=BATCH, validation=(x, LABELS), progress=False)
        return [*said, net.parameters.tobytes(), lbfgs.parameters.tobytes()]

    assert found(sparse.csr_matrix(X)) == found(X)


def test_folds_are_scored_and_averaged():
    def found(x):
        trainer = trainer_of(seed=[1, 2, 3])
        trainer.fit(x, LABELS, 2, folds=3, progress=False)
        out = trainer.out_of_fold().tobytes(), trainer.evaluate_out_of_fold()
        trainer.network.averaged = True
        return *out, trainer.evaluate(x, LABELS), trainer.network.predict(x).tobytes()

    assert found(sparse.csr_matrix(X)) == found(X)


def test_a_matrix_that_is_not_in_order():
    """Duplicates are summed, zeros may be stored, and the matrix of the caller stays as it is."""
    rows, columns, values = np.array([1, 0, 1, 1, 2]), np.array([2, 3, 0, 2, 1]), np.array([0.5, 1.0, 2.0, 0.25, 0.0])
    given = sparse.coo_array((values, (rows, columns)), shape=(3, INPUTS))
    indptr = np.array([0, 1, 4, 5])
    csr = sparse.csr_array((values[[1, 0, 2, 3, 4]], columns[[1, 0, 2, 3, 4]], indptr), shape=(3, INPUTS))
    for matrix in (given, csr):
        assert np.array_equal(keep_sparse(matrix)[:], given.toarray())
    assert csr.nnz == 5 and csr.indices.tolist() == [3, 2, 0, 2, 1]


def test_a_small_one_is_made_dense_at_once(monkeypatch):
    monkeypatch.setattr(lazy_rows, "SMALL", X.nbytes)
    given, network = sparse.csc_matrix(X), trainer_of().network
    x = check_features(given, INPUTS, network.device, ())
    assert isinstance(x, np.ndarray) and x.flags.c_contiguous and np.array_equal(x, X)
    assert isinstance(check_features(sparse.vstack([given, given]), INPUTS, network.device, ()), SparseRows)


def test_what_is_not_x_is_made_dense():
    network = gb.Network(INPUTS, [gb.Dense(3)], device="cpu")
    network.layers[0].weight = sparse.csr_array(X[:INPUTS, :3])
    assert np.array_equal(network.layers[0].weight, X[:INPUTS, :3].astype(np.float32))
    y = network.forward(X)
    assert np.array_equal(network.backward(sparse.csr_array(TAGS)), network.backward(TAGS)) and y.shape == TAGS.shape


def test_a_checkpoint_of_the_dense_matrix_knows_it():
    assert fingerprint([keep_sparse(sparse.csr_array(X))]) == fingerprint([X])


def test_what_is_not_finite_is_named():
    for value in (np.nan, np.inf):
        wrong = X.copy()
        wrong[[20, 20, 31], [2, 7, 0]] = value
        said = rf"^3 values are NaN or infinite in x, the first one \({value}\) at row 20, column 2\. Remove"
        for x in (wrong, sparse.csr_array(wrong), sparse.coo_matrix(wrong)):
            with pytest.raises(InputError, match=said):
                trainer_of().fit(x, LABELS, 1, progress=False)
    large = sparse.csr_array(np.where(X > 1, 1e300, X))
    with pytest.raises(InputError, match=r"too large for float32 in x, the first one \(1e\+300\) at row"):
        trainer_of().fit(large, LABELS, 1, progress=False)
    with pytest.raises(InputError, match="^validation data: 3 values are NaN or infinite in x"):
        trainer_of().fit(X, LABELS, 1, validation=(sparse.csr_array(wrong), LABELS), progress=False)


def test_what_is_no_matrix_of_numbers():
    net = trainer_of().network
    for x, said in [
        (sparse.coo_array(X[0]), r"^x must have the axes \(rows, inputs\), got the shape \(12,\)\. One sample"),
        (sparse.csr_array(X[:, 1:]), "^x has 11 features a sample, but the network was made for inputs=12"),
        (sparse.csr_array(X * 1j), "^x must hold real numbers .*, got dtype complex128"),
    ]:
        with pytest.raises(InputError, match=said):
            net.predict(x)
    with pytest.raises(InputError, match="^x is empty: its shape is"):
        net.forward(sparse.csr_array((0, INPUTS)))
    with pytest.raises(InputError, match="^y must have one target for each row of x"):
        trainer_of().fit(sparse.csr_array(X), LABELS[1:], 1, progress=False)


def test_the_dense_form_is_never_there(monkeypatch, caplog):
    """As dense float64, x would take 80 GB."""
    monkeypatch.undo()
    caplog.set_level(logging.INFO, "gpu_backprop")
    rows, inputs, stored = 200_000, 50_000, 400_000
    places = _random.integers(0, rows, stored), _random.integers(0, inputs, stored)
    x = sparse.csr_array((np.ones(stored), places), shape=(rows, inputs))
    y = _random.integers(0, 2, rows)
    trainer = gb.Trainer(gb.Network(inputs, [gb.Dense(1, "sigmoid")], device="cpu"), batch_size=16)
    tracemalloc.start()
    try:
        history = trainer.fit(x, y, validation_split=0.1, callbacks=[Stop(3)], progress=False)
        trainer.evaluate(x[:64], y[:64])
        trainer.network.predict(x[:64])
        assert tracemalloc.get_traced_memory()[1] < 300 << 20
    finally:
        tracemalloc.stop()
    assert history.stopped.startswith("stopped in epoch 1")
    assert "training data: 180,000 sparse rows, made dense in blocks of 160; two take 61.0 MiB" in caplog.text


class Stop:
    """A callback that ends the training after some steps."""

    def __init__(self, steps):
        self.left = steps

    def on_step(self, state):
        self.left -= 1
        return not self.left
