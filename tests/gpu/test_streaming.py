"""Streaming: data that stay on the host train and measure as data on the device do, bit for bit.

Blocks are tiny here, so that every epoch goes around the buffer several times. With CUDASIM_STREAMS=lazy an emulated
device does all work as late as it may: where a copy or a step does not wait for the other, the bits differ.
"""

from __future__ import annotations

import gc
import logging
import threading
from contextlib import closing, nullcontext

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend import lazy_rows
from gpu_backprop.backend.communicator import Alone
from gpu_backprop.backend.cuda import device
from gpu_backprop.backend.cuda.device import CudaDevice
from gpu_backprop.backend.errors import DivergedError, InputError, OutOfMemoryError
from gpu_backprop.backend.lazy_rows import LazyRows
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.samples import Samples
from gpu_backprop.training import streaming
from gpu_backprop.training.memory import fit_needs
from gpu_backprop.training.minibatches import DataSet, minibatches
from gpu_backprop.training.progress import Progress
from gpu_backprop.training.shuffling import Shuffling
from gpu_backprop.training.streaming import StreamedData, WindowedData

pytestmark = pytest.mark.gpu

ROWS, INPUTS, CLASSES, BATCH = 61, 5, 3, 4
_random = np.random.default_rng(3)
BYTES = _random.integers(0, 256, (ROWS, INPUTS)).astype(np.uint8)
X = _random.normal(0, 1, (ROWS, INPUTS)).astype(np.float32)
LABELS = _random.integers(0, CLASSES, ROWS)
NUMBERS = _random.normal(0, 1, (ROWS, 2))
WEIGHTS = _random.uniform(0, 2, ROWS)


@pytest.fixture(autouse=True)
def blocks_of_three_minibatches(monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK", 3 * BATCH * (4 * INPUTS + 8))


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def trainer_of(
    stream, *, y=LABELS, dtype="float32", seed=1, loss=None, graph=False, optimizer="adam", dropout=False, **options
):
    units, f = (CLASSES, "softmax") if y.ndim == 1 else (2, "identity")
    layers = [gb.Dense(6, "tanh"), *([gb.Dropout(0.3)] if dropout else []), gb.Dense(units, f)]
    net = gb.Network(INPUTS, layers, dtype=dtype, device="cuda", seed=seed)
    return gb.Trainer(net, loss, optimizer, batch_size=BATCH, stream=stream, graph=graph, **options)


def left(trainer, history):
    """All that a fit leaves behind."""
    net, to_host = trainer.network, trainer.device.to_host
    found = {name: to_host(moment) for name, moment in trainer.optimizer.moments.items()}
    found |= {"parameters": to_host(net.parameters), "random": to_host(net.random)}
    found["hyper"] = to_host(trainer.optimizer.hyper)
    timing = "seconds", "samples_per_second"
    rows = [{name: value for name, value in row.items() if name not in timing} for row in history]
    return {name: array.tobytes() for name, array in found.items()}, rows, history.steps, history.stopped


def both(x=X, y=LABELS, *, weights=None, validation=True, epochs=3, shuffle=True, loss_every=None, **form):
    """Fits with data on the device and streamed, and compares."""
    held_out = (x[:23], y[:23]) if weights is None else (x[:23], y[:23], weights[:23])
    results = []
    for stream in (False, True):
        trainer = trainer_of(stream, y=y, **form)
        history = trainer.fit(
            x, y, epochs, weights=weights, validation=held_out if validation else None, shuffle=shuffle,
            progress=False, loss_every=loss_every,
        )  # fmt: skip
        results.append(left(trainer, history))
    assert results[0] == results[1]
    assert len(results[0][1]) == epochs


def on_disk(tmp_path, array):
    mapped = np.memmap(tmp_path / f"{len(list(tmp_path.iterdir()))}.bin", array.dtype, "w+", shape=array.shape)
    mapped[...] = array
    mapped.flush()
    return np.memmap(mapped.filename, array.dtype, "r", shape=array.shape)


# Streamed is the same as on the device --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, [1, 2, 3]], ids=["one", "members"])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batches", [0, 1, 2, 5, 1000])
def test_blocks_of_any_size(batches, shuffle, seed, monkeypatch):
    orders = 3 if isinstance(seed, list) and shuffle else 1
    monkeypatch.setattr(streaming, "BLOCK", batches * orders * BATCH * (4 * INPUTS + 8))
    both(shuffle=shuffle, seed=seed)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("source", ["uint8", "bool", "float16", "float32", "float64", "int32", ">f4"])
def test_sources_of_any_dtype(source, dtype):
    both((BYTES > 99 if source == "bool" else X if "f" in source else BYTES).astype(source), dtype=dtype)


@pytest.mark.parametrize("weights", [None, WEIGHTS, WEIGHTS.astype(np.float32)], ids=["plain", "float64", "float32"])
@pytest.mark.parametrize(
    "y", [LABELS, LABELS.astype(np.uint8), NUMBERS, NUMBERS.astype(np.float32), (NUMBERS * 9).astype(int)],
    ids=["labels", "small labels", "numbers", "float32", "whole numbers"],
)  # fmt: skip
def test_targets_and_weights(y, weights):
    both(y=y, weights=weights, dropout=True)


@pytest.mark.parametrize("graph", [False, "auto"])
@pytest.mark.parametrize("seed", [1, [1, 2]], ids=["one", "members"])
def test_minibatches_in_parts(seed, graph):
    both(weights=WEIGHTS, seed=seed, dropout=True, graph=graph, accumulate=3, clip_norm=0.5, average=0.9)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("x", [BYTES, X, X.astype(np.float64)], ids=["uint8", "float32", "float64"])
def test_memory_maps(x, shuffle, tmp_path):
    both(on_disk(tmp_path, x), on_disk(tmp_path, LABELS), weights=on_disk(tmp_path, WEIGHTS), shuffle=shuffle)
    both(on_disk(tmp_path, x), on_disk(tmp_path, NUMBERS), shuffle=shuffle)


@pytest.mark.parametrize("seed", [1, [1, 2, 3]], ids=["one", "members"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "x", [np.where(X > 0, X, 0).astype(np.float64), BYTES * (BYTES > 99)], ids=["float64", "uint8"]
)
def test_sparse_matrices(x, dtype, seed, monkeypatch):
    """On the device, where they are made dense a block at a time, and streamed there."""
    sparse = pytest.importorskip("scipy.sparse")
    monkeypatch.setattr(lazy_rows, "SMALL", 0)
    monkeypatch.setattr(device, "BLOCK_BYTES", 7 * INPUTS * x.itemsize)
    results = []
    for given, stream in (x, False), (sparse.csr_array(x), False), (sparse.csc_matrix(x), True):
        trainer = trainer_of(stream, seed=seed, dtype=dtype)
        history = trainer.fit(given, LABELS, 2, weights=WEIGHTS, validation_split=0.2, progress=False)
        measured = trainer.evaluate(given, LABELS), trainer.network.predict(given).tobytes()
        results.append((*left(trainer, history), *measured, np.asarray(trainer.step(given[:9], LABELS[:9])).tobytes()))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("seed", [1, [1, 2, 3]], ids=["one", "members"])
def test_data_larger_than_memory(seed, monkeypatch):
    monkeypatch.setattr(streaming, "WINDOW", 3 * BATCH * (4 * INPUTS + 8))
    monkeypatch.setattr(streaming, "STRETCH", 2 * (4 * INPUTS + 8))
    x = LazyRows(X.shape, X.dtype, lambda rows: X[rows].copy())
    trainer, resident = trainer_of("auto", seed=seed), trainer_of(False, seed=seed)
    history = trainer.fit(x, LABELS, 3, validation=(x, LABELS), progress=False)

    def draw(shuffling, rows, out=None):
        orders = np.empty((np.size(seed), rows), np.int64)
        for number, drawn in enumerate(shuffling.draw_seeds()):
            order = streaming._DrawnOrder(drawn, rows, 2, BATCH)
            for begin in range(0, rows, 3 * BATCH):
                for some, to in order.window(begin, min(begin + 3 * BATCH, rows)):
                    orders[number, begin + to] = np.arange(some.start, some.stop)
        orders = orders.reshape(*trainer.network.models_shape, rows)
        return orders if out is None else np.copyto(out, orders) or out

    monkeypatch.setattr(Shuffling, "draw_order", draw)
    expected = resident.fit(X, LABELS, 3, validation=(X, LABELS), progress=False)
    assert left(trainer, history) == left(resident, expected)


@pytest.mark.parametrize("kind", [DataSet, StreamedData, WindowedData])
@pytest.mark.parametrize("seed", [1, [1, 2]], ids=["one", "members"])
def test_a_rank_gathers_its_rows_of_each_minibatch(kind, seed, monkeypatch):
    """The next order is drawn, and its first block read, while this epoch runs; the others' rows are not sent."""
    monkeypatch.setattr(streaming, "WINDOW", 3 * BATCH * (4 * INPUTS + 8))
    monkeypatch.setattr(streaming, "STRETCH", 2 * (4 * INPUTS + 8))
    ranks, samples = 3, Samples(X, LABELS, WEIGHTS.astype(np.float32))

    def gathered(rank, ranks):
        """x, y* and w of a rank's share of each minibatch of two epochs; None: of none."""
        communicator, found, plans, trainer = Alone(), [], {}, trainer_of(True, seed=seed)
        communicator.rank, communicator.ranks = rank, ranks
        sizes, shuffling = [*minibatches(ROWS, BATCH)], trainer.training_step.shuffling
        own = {"own": communicator.places(sizes)}
        if kind is DataSet:
            data = DataSet(trainer.network, samples, shuffled=True, **own)
        else:
            data = kind(trainer.network, samples, BATCH, **own)
            own_rows = len(data.sources[0]) // (streaming.BUFFERS * data.orders)
            assert 0 <= own_rows - data.block_rows // BATCH * len(communicator.share(BATCH)) < 2
        for share in {len(communicator.share(rows)) for rows in sizes} - {0}:
            plan = Plan(trainer.device)
            plans[share] = plan, data.emit(plan, share)
            data.emit_advance(plan, share)
        with shuffling.working_ahead():
            for epoch in range(2):
                data.shuffle(shuffling)
                with trainer.device.computing(), closing(data.parts(sizes, 0, None if epoch else shuffling)) as parts:
                    for rows in (rows for part in parts for rows in part):
                        plan, outs = plans.get(len(communicator.share(rows)), (None, []))
                        if plan is not None:
                            plan.run()
                        found.append([trainer.device.to_host(out) for out in outs])
        return found

    for expected, *shares in zip(gathered(0, 1), *(gathered(rank, ranks) for rank in range(ranks)), strict=True):
        for whole, *parts in zip(expected, *filter(None, shares), strict=True):
            np.testing.assert_array_equal(np.concatenate(parts, axis=np.ndim(seed)), whole)


def test_views_with_gaps(tmp_path):
    """Columns of a table, in memory and on disk: rows that do not lie side by side."""
    table = np.concatenate([X, LABELS[:, None]], axis=1)
    for given in (table, on_disk(tmp_path, table)):
        both(given[:, :INPUTS], given[:, INPUTS])
    both(X[::-1, ::-1], LABELS[::-1])


def test_members_with_everything(tmp_path):
    both(on_disk(tmp_path, BYTES), NUMBERS, weights=WEIGHTS, seed=[4, 5], dropout=True, loss_every=3)


def test_a_captured_step_replays_on_every_block():
    both(graph=True)
    both(graph="auto", seed=[1, 2], weights=WEIGHTS)


def test_the_loss_within_an_epoch():
    both(loss_every=1)
    both(loss_every=5, weights=WEIGHTS)


def test_a_second_fit_goes_on():
    results = []
    for stream in (False, True):
        trainer = trainer_of(stream)
        trainer.fit(X, LABELS, 2, progress=False)
        results.append(left(trainer, trainer.fit(X[:13], LABELS[:13], 2, progress=False)))
    assert results[0] == results[1]


def test_evaluate():
    for y in (LABELS, NUMBERS):
        on_device, streamed = (trainer_of(stream, y=y).evaluate(X, y, WEIGHTS) for stream in (False, True))
        assert on_device == streamed


# Runs that end early --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss_every", [None, 1, 4])
def test_the_search_for_a_divergence(loss_every):
    """It runs the epoch again, and finds the same step."""
    found = []
    for stream in (False, True):
        trainer = trainer_of(stream, y=NUMBERS, optimizer=gb.SGD(30.0), loss="squared_error")
        with pytest.raises(DivergedError) as caught:
            trainer.fit(X, NUMBERS, 50, progress=False, loss_every=loss_every)
        steps = [{**row, "loss": str(row["loss"])} for row in trainer.history.steps]
        found.append((str(caught.value), left(trainer, trainer.history)[:2], steps))
        trainer.optimizer.learning_rate = 1e-3
        assert len(trainer.fit(X, NUMBERS, 2, progress=False)) == 2
    assert found[0] == found[1]


class Watcher(Progress):
    """Does something after so many rows."""

    def __init__(self, rows, act):
        self.rows, self.act = rows, act

    def advance(self, samples):
        self.rows -= samples
        if self.rows == 0:
            self.act()


@pytest.mark.parametrize("way", ["stop", "Ctrl-C"])
@pytest.mark.parametrize("rows", [1 * BATCH, 3 * BATCH, 7 * BATCH, ROWS + 8 * BATCH])
def test_a_run_that_is_ended_goes_on_as_well(way, rows, monkeypatch):
    results = []
    for stream in (False, True):
        trainer = trainer_of(stream)

        def interrupt():
            raise KeyboardInterrupt

        watcher = Watcher(rows, trainer.stop if way == "stop" else interrupt)
        monkeypatch.setattr("gpu_backprop.training.fit.open_progress", lambda *_, shown=watcher: shown)
        with pytest.raises(KeyboardInterrupt) if way == "Ctrl-C" else nullcontext():
            trainer.fit(X, LABELS, 4)
        history = trainer.history
        assert history.stopped
        results.append([left(trainer, history), left(trainer, trainer.fit(X, LABELS, 2))])
    assert results[0] == results[1]


def test_an_error_while_reading(monkeypatch):
    """It comes out of fit, with what was learned, and the next fit works."""
    trainer, bring = trainer_of(True), streaming._bring
    blocks = []

    def read(source, rows, out):
        blocks.append(len(out))
        if len(blocks) == 7:  # a block is two arrays, x and y*
            raise OSError(5, "Input/output error")
        bring(source, rows, out)

    monkeypatch.setattr(streaming, "_bring", read)
    with pytest.raises(OSError, match="Input/output error"):
        trainer.fit(X, LABELS, 2, progress=False)
    monkeypatch.setattr(streaming, "_bring", bring)
    assert np.isfinite(trainer.device.to_host(trainer.network.parameters)).all()
    assert len(trainer.fit(X, LABELS, 2, progress=False)) == 2


def test_a_file_that_was_cut_off(tmp_path):
    """Reading on would end the process."""
    net = trainer_of(True).network
    x = on_disk(tmp_path, np.zeros((5000, INPUTS), np.float32))
    data = streaming.StreamedData(net, Samples(np.asarray(x), np.zeros(5000, np.int64), None), 2500)
    with net.device.computing():
        assert [list(part) for part in data.parts([2500, 2500])] == [[2500], [2500]]
        with open(x.filename, "r+b") as file:
            file.truncate(40)
        with pytest.raises(InputError, match=r"has 40 bytes, but had 100,000 when it was mapped"):
            list(data.parts([2500, 2500]))


# The buffer's memory --------------------------------------------------------------------------------------------------


def blocks_of(net, rows):
    """Samples that stream in blocks of so many rows each, one minibatch a block, and a plan that gathers them."""
    x = np.arange(5.0 * rows * INPUTS, dtype=np.float32).reshape(-1, INPUTS)
    data = streaming.StreamedData(net, Samples(x, np.zeros(len(x), np.int64), None), rows)
    assert data.block_rows == rows
    plan = Plan(net.device)
    out, *_ = data.emit(plan, rows)
    return x, data, plan, out


@pytest.fixture
def pool_of_its_own():
    """In which nothing is free but what the test gives back."""
    import cupy

    with cupy.cuda.using_allocator(cupy.cuda.MemoryPool().malloc):
        yield


def test_a_half_that_was_left_is_free_when_its_steps_are_done():
    net = trainer_of(True).network
    x, data, plan, out = blocks_of(net, 50)
    with net.device.computing():
        with closing(data.parts([50] * 5)) as parts:
            next(parts)
            plan.run()
            first = net.device.copy(out)
        data.start(np.arange(len(x))[::-1].copy())  # other rows at each place of the buffer
        for _ in data.parts([50] * 5):
            plan.run()
    np.testing.assert_array_equal(net.device.to_host(first), x[:50])
    np.testing.assert_array_equal(net.device.to_host(out), x[:50][::-1])


def test_the_memory_of_a_buffer_was_used_before(pool_of_its_own):
    """Work on it may still be queued when a buffer gets it from the pool."""
    net = trainer_of(True).network
    blocks_of(net, 300)  # compiles
    used = net.device.empty((600, INPUTS), np.float32)
    net.device.copy_in(used, np.full((600, INPUTS), -1, np.float32))
    address = net.device.address(used)
    del used
    x, data, plan, out = blocks_of(net, 300)
    assert net.device.address(data.sources[0]) == address
    seen = []
    with net.device.computing():
        for _ in data.parts([300] * 5):
            plan.run()
            seen.append(net.device.copy(out))
    np.testing.assert_array_equal(np.concatenate([net.device.to_host(part) for part in seen]), x)


def test_the_memory_of_a_buffer_is_used_again(pool_of_its_own):
    """A copy may be on its way when an epoch is left. It comes before all that is done with the memory next."""
    net = trainer_of(True).network
    _, data, _, _ = blocks_of(net, 300)
    address, copies = net.device.address(data.sources[0]), data.buffer._copies
    with net.device.computing(), closing(data.parts([300] * 5)) as parts:
        next(parts)
    del data, parts, _
    used = net.device.zeros((600, INPUTS), np.float32)
    assert net.device.address(used) == address
    net.device.synchronize()
    copies.synchronize()
    assert not net.device.to_host(used).any()


def test_no_pinned_memory():
    """The error is ours and in words, nothing is left of the fit, and the next one works."""
    import cupy

    trainer, twin = trainer_of(True), trainer_of(True)

    def refuse(size):
        raise cupy.cuda.runtime.CUDARuntimeError(2)

    gc.collect()  # what tests before this one left
    pool, before = cupy.get_default_pinned_memory_pool(), cupy.get_default_memory_pool().used_bytes()
    cupy.cuda.set_pinned_memory_allocator(refuse)
    try:
        with pytest.raises(OutOfMemoryError, match="the host cannot give 0.2 KiB of pinned memory") as raised:
            trainer.fit(X, LABELS, 1, progress=False)
    finally:
        cupy.cuda.set_pinned_memory_allocator(pool.malloc)
    assert "\n" not in str(raised.value) and raised.value.needs.keys() == {"pinned memory"}
    gc.collect()
    assert cupy.get_default_memory_pool().used_bytes() == before
    trainer.fit(X, LABELS, 1, progress=False)
    twin.fit(X, LABELS, 1, progress=False)
    assert left(trainer, trainer.history)[:3] == left(twin, twin.history)[:3]


# Which, and why -------------------------------------------------------------------------------------------------------


def messages(caplog, trainer, *data, **options):
    caplog.clear()
    with caplog.at_level(logging.INFO, "gpu_backprop"):
        trainer.fit(*data, epochs=1, progress=False, **options)
    return [record.getMessage() for record in caplog.records if "data" in record.getMessage()]


def test_the_log_says_where_the_data_are(caplog, tmp_path):
    (line,) = messages(caplog, trainer_of("auto"), BYTES, LABELS)
    assert line.startswith("training data: 61 rows, 0.8 KiB as uint8, on cuda:0 (") and line.endswith(" free)")
    lines = messages(caplog, trainer_of(True), on_disk(tmp_path, X), LABELS, validation=(X, LABELS))
    assert lines == [
        "training data: 61 rows, 1.7 KiB as float32, streamed from a memory map in blocks of 12 rows, as asked",
        "validation data: 61 rows, 1.7 KiB as float32, streamed from host memory in blocks of 12 rows, as asked",
    ]


def test_data_on_the_device_are_used_where_they_lie(caplog):
    import cupy

    trainer, on_device = trainer_of(True), trainer_of(False)
    (line,) = messages(caplog, trainer, cupy.asarray(X), LABELS)
    assert line.endswith(" free), where they were given")
    on_device.fit(X, LABELS, 1, progress=False)
    assert left(trainer, trainer.history)[0] == left(on_device, on_device.history)[0]


@pytest.mark.parametrize("room", [True, False])
def test_auto_streams_what_does_not_fit(room, caplog, monkeypatch):
    """The training data come first; what is left decides about the validation data."""
    rows = 100_000
    x, y = np.zeros((rows, INPUTS), np.float32), np.zeros(rows, np.int64)
    trainer = trainer_of("auto")
    trainer.batch_size = 20_000
    trainer.fit(X, LABELS, 1, progress=False)  # what is there once for all fits
    monkeypatch.setattr(streaming, "BLOCK", 1 << 20)
    settings = trainer.settings._replace(batch_size=20_000)
    held_out = Samples(x[:100], y[:100], None)
    needed = sum(fit_needs(trainer.training_step, settings, Samples(x, y, None), held_out).values())
    free = (needed if room else needed - (1 << 20)) * streaming.MARGIN // (streaming.MARGIN - 1) + streaming.MARGIN
    monkeypatch.setattr(CudaDevice, "memory", lambda self: (free, 8 << 30))
    lines = messages(caplog, trainer, x, y, validation=(x[:100], y[:100]))
    if room:
        assert [" on cuda:0 (" in line for line in lines] == [True, True]
    else:
        assert "streamed from host memory in blocks of 20,000 rows, because cuda:0 has room for " in lines[0]
        assert lines[1].startswith("validation data: 100 rows, 2.7 KiB as float32, on cuda:0 (")


def test_streaming_is_asked_for_in_vain_on_a_cpu():
    with pytest.raises(InputError, match="stream=True is for CUDA devices"):
        gb.Trainer(gb.Network(2, [gb.Dense(1)], device="cpu"), stream=True)
