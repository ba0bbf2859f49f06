"""Data that stay on the host, or on its disk: a thread reads the next block of minibatches while one is trained on.

That holds from one epoch to the next too: the order that follows is drawn during an epoch, and its first block read
during the last one.

Data larger than memory have an order of their own, which no file is too slow for: see `WindowedData`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from gpu_backprop.backend.device import BUFFERS, Device, memory_size
from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.lazy_rows import HOST, LazyRows, SparseRows
from gpu_backprop.data.limits import memory
from gpu_backprop.data.stored_rows import StoredRows
from gpu_backprop.network.arrays import check_file, let_go, loaded, memory_map
from gpu_backprop.network.network import Network
from gpu_backprop.network.samples import Samples
from gpu_backprop.training.minibatches import BatchSource, DataSet, arrays_of, kept_dtypes
from gpu_backprop.training.shuffling import Shuffling

BLOCK = 32 << 20
"""Bytes of a block, unless one minibatch has more. To copy one takes over a millisecond at 25 GB/s, many times what it
costs to hand it over; and two of them, on the device and in the host's pinned memory, take little room."""

CONVERTED = 1 << 20
"""Bytes of rows that are converted, or put into another order, at a time."""

WINDOW, STRETCH = 64 << 20, 256 << 10
"""Bytes, of data larger than memory: of the window that is shuffled, for each member, and of what is read at once. The
first decides, with the size of a row, how far apart rows may be that meet in a minibatch; no machine's memory has part
in it, so that everywhere the same is learned. The second is as much as a disk reads while it looks for the next."""

DENSE = 4
"""Where one row in so many of a file is wanted, all are copied from it at once: quicker than these one by one."""

MARGIN = 16
"""One part in so many of the free memory is left free: pools round up, and free memory is not all in one place."""

Bring = Callable[[Array, Array], None]

_Coming = tuple[int, Future[None]]
"""A block that is being read: its buffer, and when it is there."""

LOG = logging.getLogger("gpu_backprop")


class StreamedData(BatchSource):
    """Samples that lie on the host, in arrays or memory maps, and reach the device in blocks of whole minibatches.

    On the device lies a double buffer, whose buffers are each as long as a block. Plans gather from it as from any
    sources: the permutation names its places in order, and the cursor begins each block at its buffer. A block has the
    rows that the epoch's order names, in that order; where members have orders of their own, those of each member.

    Args:
        apart: whether each member has an order of its own.

    Attributes:
        block_rows: how many rows of the data a block has, for each member.
    """

    def __init__(
        self, network: Network, data: Samples, batch_size: int, *, apart: bool = True, device: Device | None = None,
        own: Array | None = None,
    ) -> None:  # fmt: skip
        super().__init__(network, data, device, own)
        apart = apart or data.counts is not None or data.weighs_apart
        device, models = self.device, math.prod(self.models_shape)
        self.host = arrays_of(data)
        self.orders, self._weighs_apart = models if apart else 1, data.weighs_apart
        shapes, batch = [data.x.shape[1:], data.target.shape[1:], ()], min(batch_size, self.rows)
        row = sum(math.prod(shape) * dtype.itemsize for shape, dtype in zip(shapes, self.kept, strict=False))
        self._batch = batch
        self.block_rows = batch * min(max(1, self._rows_at_once(row) // batch), -(-self.rows // batch))
        self._own_rows = min(self.block_rows, self.rows)
        if own is not None:  # the most among so many rows, wherever they begin
            self._own_rows = int((self.at(own + self.block_rows) - np.arange(len(own))).max(initial=0))
        members, place = np.arange(models) if apart else np.zeros(models, np.int64), np.arange(self._own_rows)
        order = [(buffer * self.orders + members[:, None]) * self._own_rows + place for buffer in range(BUFFERS)]
        with device.kind("data"):
            self.buffer = device.double_buffer(
                [((self.orders * self._own_rows, *s), dtype) for s, dtype in zip(shapes, self.kept, strict=False)]
            )
            self.sources = self.buffer.arrays
            self._starts = device.from_host(np.arange(BUFFERS) * self._own_rows)
        with device.kind("row order"):
            self.permutation = device.from_host(np.concatenate(order, axis=1).reshape(*self.models_shape, -1))
        self._order: Any = None  # as _draw gives it; None: as the rows lie
        self._first: _Coming | None = None  # block of this epoch, where it is read already
        self._following: _Coming | None = None  # the first one of the next
        self.start()

    def start(self, order: Array | None = None) -> None:
        self._order, self._first = self._order_of(order), None

    def shuffle(self, shuffling: Shuffling) -> None:
        order = shuffling.take()
        self._first = None if order is None else self._following
        self._order = self._draw(shuffling) if order is None else order

    def _draw(self, shuffling: Shuffling) -> Any:
        """Draws the order of an epoch."""
        return self._order_of(shuffling.draw_order(self.counts))

    def _order_of(self, order: Array | None) -> Array | None:
        places = self._places(order)
        return None if places is None else np.broadcast_to(places, (self.orders, places.shape[-1]))

    def _rows_at_once(self, row: int) -> int:
        """Chooses how many rows a block has, where one takes so many bytes, but for whole minibatches."""
        return BLOCK // (row * self.orders)

    def parts(
        self, batch_sizes: Sequence[int], done: int = 0, following: Shuffling | None = None
    ) -> Generator[Sequence[int]]:
        if done == len(batch_sizes):
            return
        each = max(1, self.block_rows // max(batch_sizes))
        ends = [done, *range(done - done % each + each, len(batch_sizes), each), len(batch_sizes)]
        blocks = [batch_sizes[start:end] for start, end in pairwise(ends)]
        begin = sum(batch_sizes[:done])
        first, self._first, self._following = self._first, None, None
        order = None if following is None else following.work_ahead(self._draw)
        try:
            with ThreadPoolExecutor(1, "gpu_backprop reader") as reader:
                buffer, coming = first or (0, reader.submit(self._read, self._order, 0, begin, sum(blocks[0])))
                for block, after in pairwise([*blocks, []]):
                    coming.result()
                    self.buffer.acquire(buffer)
                    self.device.copy_in(self.cursor, self._starts[buffer : buffer + 1])
                    begin, other = begin + sum(block), 1 - buffer  # free from the end of the block before, not sooner
                    if after:
                        coming = reader.submit(self._read, self._order, other, begin, sum(after))
                    elif order is not None:
                        count = sum(batch_sizes[:each])
                        self._following = other, reader.submit(self._read_ahead, order, other, count)
                    try:
                        yield block
                    finally:
                        self.buffer.release(buffer)
                    buffer = other
        finally:
            for buffer in range(BUFFERS):  # copies that are under way have to end before the memory is used again
                self.buffer.acquire(buffer)

    def _read(self, order: Any, buffer: int, begin: int, count: int) -> None:
        """Fills a buffer with this rank's rows of so many, from place `begin` of an epoch on; the reader's thread."""
        first, last = map(int, self.at([begin, begin + count]))
        with self.device.computing():
            arrays = self.buffer.pinned(buffer)
            for number in range(self.orders):
                bring = self._bringer(order, number, begin, begin + count)
                outs = [pinned[number * self._own_rows :][: last - first] for pinned in arrays]
                for k, (source, out) in enumerate(zip(self.host, outs, strict=True)):
                    check_file(source)
                    bring(source[number] if k == 2 and self._weighs_apart else source, out)
                if len(outs) > 2 and isinstance(self.counts, np.ndarray):
                    outs[2][max(0, int(self.at(self.counts[number])) - first) :] = -0.0  # as `gather` does
            self.buffer.send(buffer, (self.orders - 1) * self._own_rows + last - first)

    def _read_ahead(self, order: Future[Any], buffer: int, count: int) -> None:
        """Does the same from the beginning of an order that may be drawn yet."""
        self._read(order.result(), buffer, 0, count)

    def _bringer(self, order: Any, number: int, begin: int, end: int) -> Bring:
        """Returns what fills an array with this rank's rows between two places of an epoch, from a source."""
        places = slice(*map(int, self.at([begin, end])))
        rows = places if order is None else order[number, places]
        return lambda source, out: _bring(source, rows, out)


class WindowedData(StreamedData):
    """Samples that lie in files and may be larger than memory: no more than two windows of them are there at a time.

    An epoch takes the stretches of the files, rows that follow each other, in a random order, of which a *window* is
    the next `block_rows` rows, and goes through it in as many equal parts as a minibatch has rows: each minibatch gets
    one row of every part, drawn at random. So a row comes up anywhere in an epoch, a minibatch is drawn from as many
    places of the file as a window has stretches, and a rank's rows of all minibatches of a window lie in one part of
    it, all that it reads. All of it follows from one number for each member and epoch, drawn from the seed: steps may
    begin anywhere, and neither time nor the number of ranks has part in it. A member sees the rows that it would see
    alone.

    Attributes:
        stretch: how many rows a stretch has.
    """

    def __init__(
        self, network: Network, data: Samples, batch_size: int, *, apart: bool = True, device: Device | None = None,
        own: Array | None = None,
    ) -> None:  # fmt: skip
        stored = sum(array.nbytes for array in arrays_of(data)) // len(data.x)
        self.stretch = max(1, STRETCH // max(1, stored))
        super().__init__(network, data, batch_size, apart=apart, device=device, own=own)

    def _rows_at_once(self, row: int) -> int:
        return WINDOW // row

    def _draw(self, shuffling: Shuffling) -> list[_DrawnOrder]:
        form = self.rows, self.stretch, self._batch
        return [_DrawnOrder(seed, *form) for seed in shuffling.draw_seeds()]

    def _bringer(self, order: Any, number: int, begin: int, end: int) -> Bring:
        if not isinstance(order, list):
            return super()._bringer(order, number, begin, end)
        window = begin - begin % self.block_rows
        own = np.arange(begin, end) if self.own is None else self.own[slice(*self.at([begin, end]))]
        among = np.full(self.block_rows, -1)
        among[own - window] = np.arange(len(own))
        drawn = order[number].window(window, min(window + self.block_rows, self.rows))
        parts = list(_wanted((rows, among[places]) for rows, places in drawn))

        def bring(source: Array, out: Array) -> None:
            for rows, to in parts:
                found = self._loaded(source, rows)
                if to.min() < 0:
                    found, to = found[to >= 0], to[to >= 0]
                out[to] = found
            let_go(source)

        return bring

    def _loaded(self, source: Array, rows: slice) -> Array:
        """Returns the rows of a stretch; where some of all were chosen, in the order of the file, they are near."""
        if self._chosen is None:
            return loaded(source, rows)
        chosen = self._chosen[rows]
        near: Array = loaded(source, slice(int(chosen[0]), int(chosen[-1]) + 1))[chosen - chosen[0]]
        return near


class _DrawnOrder:
    """The order of an epoch's rows in windows, which its seed says."""

    def __init__(self, seed: int, rows: int, stretch: int, batch: int) -> None:
        self._seed, self._batch = seed, batch
        starts = np.arange(0, rows, stretch)
        self._starts = np.random.default_rng([seed, 0]).permutation(starts)
        self._ends = np.cumsum(np.minimum(self._starts + stretch, rows) - self._starts)

    def window(self, begin: int, end: int) -> list[tuple[slice, Array]]:
        """Returns the rows from place `begin` to `end` of the order, in parts that follow each other in the files, and
        for each row its place in the window."""
        random, places = np.random.default_rng([self._seed, 1, begin]), np.arange(end - begin)
        within = places % self._batch
        sizes = np.minimum(self._batch, len(places) - (places - within))  # the last minibatch may be shorter
        places = np.argsort((within + random.random(len(places))) / sizes)
        first, last = np.searchsorted(self._ends, [begin, end - 1], side="right").tolist()
        parts, at = [], begin
        for stretch in range(first, last + 1):
            upto = min(end, int(self._ends[stretch]))
            low = int(self._starts[stretch]) + at - (int(self._ends[stretch - 1]) if stretch else 0)
            parts.append((slice(low, low + upto - at), places[at - begin : upto - begin]))
            at = upto
        return sorted(parts, key=lambda part: part[0].start)  # a disk is read in one direction


def _wanted(parts: Iterable[tuple[slice, Array]]) -> Iterator[tuple[slice, Array]]:
    """Yields of each part the rows from the first to the last that is wanted, and where they go: below 0, nowhere."""
    for rows, to in parts:
        if len(found := np.flatnonzero(to >= 0)):
            first, last = int(found[0]), int(found[-1]) + 1
            yield slice(rows.start + first, rows.start + last), to[first:last]


def given_rows(x: Any, y: Any, weights: Any) -> tuple[Any, Any, Any]:
    """Returns x, y and weights as `samples` takes them, where x may be the StoredRows of all three."""
    if not isinstance(x, StoredRows):
        return x, y, weights
    if y is not None or weights is not None:
        raise InputError("these rows have their targets and weights with them: give no y, and weights=None.")
    read = x.read if x.array is None else partial(_read_map, x.array)
    return LazyRows(x.shape, x.dtype, read), x.y, x.weights


def _read_map(source: Array, rows: slice | Array) -> Array:
    found = loaded(source, rows)
    let_go(source)
    return found


def place_data(
    network: Network, data: Samples, name: str, batch_size: int, *, stream: bool | str, room: int, shuffled: bool,
    own: Array | None = None,
) -> BatchSource:  # fmt: skip
    """Puts data on the device if they fit there, else lets them be streamed. The log says which and why.

    Args:
        room: bytes of the device that data may take, under stream="auto".
        shuffled: whether each member gets an order of its own, every epoch a new one.
        own: see BatchSource.
    """
    device = network.device
    arrays, kept = arrays_of(data), kept_dtypes(data, device)
    in_files = any(_made(array) or memory_map(array) is not None for array in arrays)
    held = "a memory map" if in_files else "host memory"
    if in_windows(data):
        windows = WindowedData(network, data.on_host(device), batch_size, apart=shuffled, own=own)
        size, rows = memory_size(sum(array.nbytes for array in windows.sources)), f"{windows.block_rows:,}"
        told = "%s: %s rows, read from disk in windows of %s rows; two take %s"
        LOG.info(told, name, f"{data.rows:,}", rows, size)
        return windows
    told = f"{name}: {data.rows:,} rows, {memory_size(_size(device, data))} as {kept[0].name}"
    if not device.streams and isinstance(data.x, SparseRows):
        streamed = StreamedData(network, data, batch_size, apart=shuffled, own=own)
        size, rows = memory_size(sum(array.nbytes for array in streamed.sources)), f"{streamed.block_rows:,}"
        LOG.info("%s: %s sparse rows, made dense in blocks of %s; two take %s", name, f"{data.rows:,}", rows, size)
        return streamed
    if not device.streams:
        size = memory_size(sum(array.nbytes for array in arrays))
        LOG.debug("%s: %s rows, %s as %s, in %s", name, f"{data.rows:,}", size, data.x.dtype.name, held)
        return DataSet(network, data, own=own, shuffled=shuffled)
    if not is_streamed(device, data, stream, room):
        given = "" if isinstance(data.x, HOST) else ", where they were given"
        LOG.info("%s, on %s (%s free)%s", told, device.name, memory_size(device.memory()[0]), given)
        return DataSet(network, data, own=own, shuffled=shuffled)
    streamed = StreamedData(network, data.on_host(device), batch_size, apart=shuffled, own=own)
    why = "as asked" if stream is True else f"because {device.name} has room for {memory_size(max(0, room))} of data"
    LOG.info("%s, streamed from %s in blocks of %s rows, %s", told, held, f"{streamed.block_rows:,}", why)
    return streamed


def in_windows(data: Samples) -> bool:
    """Tells whether samples are read from files in windows: where they were made for it, and where memory maps take
    more than half of the memory that this process may have."""
    arrays = arrays_of(data)
    mapped = sum(array.nbytes for array in arrays if isinstance(array, np.ndarray) and memory_map(array) is not None)
    return any(map(_made, arrays)) or mapped > memory() // 2


def _made(array: Array) -> bool:
    return isinstance(array, LazyRows) and not isinstance(array, SparseRows)


def is_streamed(device: Device, data: Samples, stream: bool | str, room: int) -> bool:
    """Tells whether samples are streamed to a device, where there is so much room for them: see `place_data`."""
    on_host = isinstance(data.x, HOST)
    return on_host and (stream is True or in_windows(data) or (stream == "auto" and _size(device, data) > room))


def _size(device: Device, data: Samples) -> int:
    """Counts the bytes that samples take on the device."""
    kept = zip(arrays_of(data), kept_dtypes(data, device), strict=True)
    return sum(array.size * dtype.itemsize for array, dtype in kept)


def _bring(source: Array, rows: Array | slice, out: Array) -> None:
    """Sets out = source[rows], without a copy of the source or a second one of the rows."""
    if isinstance(source, SparseRows):
        source.fill(out, rows)
        return
    mapped = isinstance(source, LazyRows) or memory_map(source) is not None
    if isinstance(rows, slice) and not mapped:
        np.copyto(out, source[rows], casting="unsafe")
        return
    each = max(1, CONVERTED * len(out) // max(1, out.nbytes))
    if isinstance(rows, slice):
        for start in range(0, len(out), each):
            begin = rows.start + start
            out[start : start + each] = loaded(source, slice(begin, min(begin + each, rows.stop)))
        return
    if not mapped and source.dtype == out.dtype and source.flags.c_contiguous and source.flags.aligned:
        source.take(rows, 0, out, "clip")  # which copies sources of any other kind as a whole
        return
    to = np.argsort(rows) if mapped else np.arange(len(rows))  # a file is read from its beginning to its end
    for start in range(0, len(rows), each):
        part = to[start : start + each]
        chosen = rows[part]
        low, span = chosen[0], chosen[-1] - chosen[0] + 1
        if mapped and span <= DENSE * len(chosen):
            out[part] = loaded(source, slice(low, low + span))[chosen - low]
        else:
            out[part] = loaded(source, chosen)
