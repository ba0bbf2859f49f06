"""The rows of each rank: of every minibatch its share, of every source, and as few as can be read from a file.

To choose rows, a communicator is enough that says which rank it is; where ranks meet, they are threads.
"""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from thread_ranks import on_threads

import gpu_backprop as gb
from gpu_backprop.backend.communicator import ALONE, Alone
from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.lazy_rows import LazyRows, SparseRows
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.arrays import check_finite
from gpu_backprop.network.samples import Samples
from gpu_backprop.training import streaming
from gpu_backprop.training.evaluation import Evaluation, minibatches_of
from gpu_backprop.training.minibatches import DataSet, minibatches
from gpu_backprop.training.streaming import StreamedData, WindowedData

ROWS, BATCH, INPUTS = 203, 8, 3
_random = np.random.default_rng(11)
X = _random.normal(0, 1, (ROWS, INPUTS)).astype("float32")
Y = _random.normal(0, 1, (ROWS, 2)).astype("float32")
WEIGHTS = _random.uniform(0.1, 2, ROWS).astype("float32")


class Rank(Alone):
    """One rank of several, which meets the others nowhere."""

    def __init__(self, rank, ranks):
        self.rank, self.ranks = rank, ranks


def mapped(tmp_path, array):
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.npy"
    np.save(path, array)
    return np.load(path, mmap_mode="r")


def arrays(_):
    return Samples(X, Y, WEIGHTS)


def maps(tmp_path):
    return Samples(*(mapped(tmp_path, array) for array in (X, Y, WEIGHTS)))


def lazy(tmp_path):
    return Samples(LazyRows(X.shape, X.dtype, lambda rows: X[rows].copy()), mapped(tmp_path, Y), WEIGHTS)


def sparse(_):
    return Samples(SparseRows(pytest.importorskip("scipy.sparse").csr_array(X)), Y, WEIGHTS)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Blocks and windows of 6 minibatches, stretches of 5 rows."""
    row = (INPUTS + 2 + 1) * 4
    for name, size in ("BLOCK", 6 * BATCH * row), ("WINDOW", 6 * BATCH * row), ("STRETCH", 5 * row):
        monkeypatch.setattr(streaming, name, size)


def trainer_of(seed):
    return gb.Trainer(gb.Network(INPUTS, [gb.Dense(2)], device="cpu", seed=seed), batch_size=BATCH)


def placed(kind, network, samples, sizes, communicator, shuffled):
    own = communicator.places(sizes)
    if kind is DataSet:
        return DataSet(network, samples, own=own, shuffled=shuffled)
    return kind(network, samples, BATCH, apart=shuffled, own=own)


def gathered(data, sizes, communicator, done=0):
    """x, y* and w of this rank's share of each minibatch: what the plans of its steps gather."""
    found, plans = [], {}
    with data.device.computing(), closing(data.parts(sizes, done)) as parts:
        for part in parts:
            for rows in part:
                if count := len(communicator.share(rows)):
                    if count not in plans:
                        plan = Plan(data.device)
                        plans[count] = plan, data.emit(plan, count)
                        data.emit_advance(plan, count)
                    plan, buffers = plans[count]
                    plan.run()
                    found.append([np.array(buffer) for buffer in buffers])
                else:
                    found.append(None)
    return found


def joined(of_ranks, members):
    """The minibatches that the shares make together."""
    for shares in zip(*of_ranks, strict=True):
        there = [share for share in shares if share is not None]
        yield [np.concatenate(parts, axis=members) for parts in zip(*there, strict=True)]


SOURCES = [
    (DataSet, arrays), (DataSet, maps), (StreamedData, arrays), (StreamedData, maps), (StreamedData, sparse),
    (WindowedData, maps), (WindowedData, lazy),
]  # fmt: skip
ALL, SOME, OF_MEMBERS = "all", "some", "of members"


def chosen(samples, rows):
    """All rows of the samples, some, or of each of two members its own, and not as many."""
    if rows == ALL:
        return samples
    if rows == SOME:
        return replace(samples, chosen=np.arange(0, ROWS, 2))
    counts = np.array([101, 58])
    own = np.random.default_rng(2).permuted(np.tile(np.arange(ROWS), (2, 1)), axis=1)
    return replace(samples, chosen=np.stack([np.resize(own[m, :count], 101) for m, count in enumerate(counts)]),
                   counts=counts)  # fmt: skip


@pytest.mark.parametrize(("seed", "rows"), [(3, ALL), (3, SOME), ([3, 4], ALL), ([3, 4], SOME), ([3, 4], OF_MEMBERS)])
@pytest.mark.parametrize("shuffled", [True, False])
@pytest.mark.parametrize(("kind", "form"), SOURCES)
def test_what_the_ranks_gather_is_together_what_one_gathers(kind, form, shuffled, seed, rows, tmp_path):
    if (kind, shuffled, rows) == (WindowedData, True, OF_MEMBERS):
        return  # which a fit refuses
    samples = chosen(form(tmp_path), rows)
    sizes = minibatches_of(samples.rows if shuffled or samples.counts is None else samples.counts, BATCH)

    def begun(communicator):
        trainer = trainer_of(seed)
        data = placed(kind, trainer.network, samples, sizes, communicator, shuffled)
        if shuffled:
            data.shuffle(trainer.training_step.shuffling)
        return data

    whole = gathered(begun(Rank(0, 1)), sizes, Rank(0, 1))
    for ranks in (3, 11):
        communicators = [Rank(rank, ranks) for rank in range(ranks)]
        sources = [begun(communicator) for communicator in communicators]
        for done in (0, 7):
            shares = [gathered(data, sizes, one, done) for data, one in zip(sources, communicators, strict=True)]
            for found, expected in zip(joined(shares, np.ndim(seed)), whole[done:], strict=True):
                for one, other in zip(found, expected, strict=True):
                    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_rank_reads_its_part_of_each_window_alone(ranks, monkeypatch):
    """Little more than one row in so many, and the ranks together all of them."""
    rows, batch, reads = 6000, 32, []
    monkeypatch.setattr(streaming, "WINDOW", 1600 * (INPUTS + 2) * 4)

    def read(rows):
        reads.append(rows)
        return np.zeros((rows.stop - rows.start, INPUTS), np.float32)

    x, y = LazyRows((rows, INPUTS), np.float32, read), np.zeros((rows, 2), np.float32)
    trainer, found = trainer_of(0), []
    for communicator in (Rank(rank, ranks) for rank in range(ranks)):
        sizes = [*minibatches(rows, batch)]
        data = WindowedData(trainer.network, Samples(x, y, None), batch, own=communicator.places(sizes))
        assert (data.block_rows, data.stretch) == (1600, 6)
        data.shuffle(trainer_of(0).training_step.shuffling)
        reads.clear()
        gathered(data, sizes, communicator)
        found.append(np.concatenate([np.arange(some.start, some.stop) for some in reads]))
    assert {*np.concatenate(found)} == {*range(rows)}
    assert max(map(len, found)) < rows / ranks * 1.1


# What is measured -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [3, 11])
@pytest.mark.parametrize("form", [arrays, maps, lazy])
def test_ranks_measure_together_what_one_measures(form, ranks, tmp_path):
    """Sums over the rows, and what needs the outputs of all of them."""
    samples, metrics = form(tmp_path), ["r2", "mae", "median_absolute_error"]

    def measured(communicator):
        network = trainer_of(5).network
        trainer = gb.Trainer(network, batch_size=BATCH, communicator=communicator)
        return trainer.evaluate(samples.x, samples.target, samples.weights, metrics=metrics)

    expected = measured(None)
    for found in on_threads(ranks, measured):
        assert found == pytest.approx(expected, rel=1e-6)


def test_members_with_rows_of_their_own_are_measured_together():
    samples = chosen(Samples(X, Y, None), OF_MEMBERS)

    def measured(communicator=ALONE):
        how = {"metrics": ["r2", "median_absolute_error"], "communicator": communicator}
        trainer = trainer_of([3, 4])
        return Evaluation(trainer.network, trainer.loss, samples, BATCH, **how).run()

    expected = measured()
    for found in on_threads(3, measured):
        assert found == {name: pytest.approx(values, rel=1e-6) for name, values in expected.items()}


def test_a_rank_measures_rows_that_lie_side_by_side():
    ranks, y = 4, np.zeros((ROWS, 2), np.float32)

    def measured(communicator):
        reads = []

        def read(rows):
            found = np.arange(ROWS)[rows]
            if threading.current_thread().name.startswith("gpu_backprop reader"):
                reads.append(found)
            return X[found]

        x, network = LazyRows(X.shape, X.dtype, read), trainer_of(0).network
        gb.Trainer(network, batch_size=BATCH, communicator=communicator).evaluate(x, y)
        return np.concatenate(reads)

    found = on_threads(ranks, measured)
    assert [(rows == np.arange(rows[0], rows[0] + len(rows))).all() for rows in found] == [True] * ranks
    assert np.concatenate(found).tolist() == [*range(ROWS)]


# What is looked at before ---------------------------------------------------------------------------------------------


def test_each_rank_looks_at_its_share_of_the_values():
    reads = []

    def read(rows):
        reads.append(np.arange(ROWS)[rows])
        return X[rows]

    for rank in range(3):
        check_finite(LazyRows(X.shape, X.dtype, read), "x", communicator=Rank(rank, 3))
    assert np.concatenate(reads).tolist() == [*range(ROWS)]


def test_what_one_rank_finds_wrong_is_told_to_all():
    wrong = X.copy()
    wrong[[70, 201], 1] = np.nan
    x = LazyRows(X.shape, X.dtype, lambda rows: wrong[rows])

    def refused(communicator):
        trainer = gb.Trainer(trainer_of(0).network, batch_size=BATCH, communicator=communicator)
        with pytest.raises(InputError) as not_trained:
            trainer.fit(x, Y, 1, progress=False)
        with pytest.raises(InputError) as not_measured:
            trainer.evaluate(x, Y)
        return str(not_trained.value), str(not_measured.value)

    first, *others = on_threads(3, refused)
    found = "2 values are NaN or infinite in x, the first one (nan) at row 70, column 1"
    assert all(one.startswith(found) for told in others for one in told)
    assert first[0].startswith(f"another rank cannot begin: rank 1: {found}")
    assert first[1].startswith(f"rank 1: {found}")
