"""Data that stay on the host: a thread reads the next block of minibatches while one is trained on."""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from gpu_backprop.backend.device import BUFFERS, Device, memory_size
from gpu_backprop.backend.formula import Array
from gpu_backprop.network.arrays import check_file, loaded, memory_map
from gpu_backprop.network.network import Network
from gpu_backprop.network.samples import Samples
from gpu_backprop.training.minibatches import BatchSource, DataSet, arrays_of, kept_dtypes

BLOCK = 32 << 20
"""Bytes of a block, unless one minibatch has more. To copy one takes over a millisecond at 25 GB/s, many times what it
costs to hand it over; and two of them, on the device and in the host's pinned memory, take little room."""

CONVERTED = 1 << 20
"""Bytes of rows that are converted, or put into another order, at a time."""

DENSE = 4
"""Where one row in so many of a file is wanted, all are copied from it at once: quicker than these one by one."""

MARGIN = 16
"""One part in so many of the free memory is left free: pools round up, and free memory is not all in one place."""

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
        self, network: Network, data: Samples, batch_size: int, *, apart: bool = True, device: Device | None = None
    ) -> None:
        super().__init__(network, data, device)
        device, models = self.device, math.prod(self.models_shape)
        self.host = arrays_of(data)
        self.orders = models if apart else 1
        kept, batch = list(zip(self.host, self.kept, strict=True)), min(batch_size, self.rows)
        row = self.orders * sum(math.prod(array.shape[1:]) * dtype.itemsize for array, dtype in kept)
        self.block_rows = batch * min(max(1, BLOCK // (row * batch)), -(-self.rows // batch))
        members, place = np.arange(models) if apart else np.zeros(models, np.int64), np.arange(self.block_rows)
        order = [(buffer * self.orders + members[:, None]) * self.block_rows + place for buffer in range(BUFFERS)]
        with device.kind("data"):
            self.buffer = device.double_buffer(
                [((self.orders * self.block_rows, *array.shape[1:]), dtype) for array, dtype in kept]
            )
            self.sources = self.buffer.arrays
            self._starts = device.from_host(np.arange(BUFFERS) * self.block_rows)
        with device.kind("row order"):
            self.permutation = device.from_host(np.concatenate(order, axis=1).reshape(*self.models_shape, -1))
        self._order: Array | None = None
        self.start()

    def start(self, order: Array | None = None) -> None:
        places = self._places(order)
        self._order = None if places is None else np.broadcast_to(places, (self.orders, self.rows))

    def parts(self, batch_sizes: Sequence[int], done: int = 0) -> Generator[Sequence[int]]:
        each, begin = max(1, self.block_rows // batch_sizes[0]), sum(batch_sizes[:done])
        blocks = [batch_sizes[start : start + each] for start in range(done, len(batch_sizes), each)]
        if not blocks:
            return
        try:
            with ThreadPoolExecutor(1, "gpu_backprop reader") as reader:
                coming = reader.submit(self._read, 0, begin, sum(blocks[0]))
                for number, block in enumerate(blocks):
                    buffer = number % BUFFERS
                    coming.result()
                    self.buffer.acquire(buffer)
                    self.device.copy_in(self.cursor, self._starts[buffer : buffer + 1])
                    begin += sum(block)
                    if begin < sum(batch_sizes):  # the other is free from the end of the block before, not sooner
                        coming = reader.submit(self._read, 1 - buffer, begin, sum(blocks[number + 1]))
                    try:
                        yield block
                    finally:
                        self.buffer.release(buffer)
        finally:
            for buffer in range(BUFFERS):  # copies that are under way have to end before the memory is used again
                self.buffer.acquire(buffer)

    def _read(self, buffer: int, begin: int, count: int) -> None:
        """Fills a buffer with the rows from place `begin` of the order on; the reader's thread."""
        with self.device.computing():
            for source, pinned in zip(self.host, self.buffer.pinned(buffer), strict=True):
                check_file(source)
                for number in range(self.orders):
                    start = number * self.block_rows
                    rows = slice(begin, begin + count)
                    chosen = rows if self._order is None else self._order[number, rows]
                    _bring(source, chosen, pinned[start : start + count])
            self.buffer.send(buffer, (self.orders - 1) * self.block_rows + count)


def place_data(
    network: Network, data: Samples, name: str, batch_size: int, *, stream: bool | str, room: int, shuffled: bool
) -> BatchSource:
    """Puts data on the device if they fit there, else lets them be streamed. The log says which and why.

    Args:
        room: bytes of the device that data may take, under stream="auto".
        shuffled: whether each member gets an order of its own.
    """
    device = network.device
    arrays, kept = arrays_of(data), kept_dtypes(data, device)
    held = "a memory map" if any(memory_map(array) is not None for array in arrays) else "host memory"
    if not device.streams:
        size = memory_size(sum(array.nbytes for array in arrays))
        LOG.debug("%s: %s rows, %s as %s, in %s", name, f"{data.rows:,}", size, data.x.dtype.name, held)
        return DataSet(network, data)
    told = f"{name}: {data.rows:,} rows, {memory_size(_size(device, data))} as {kept[0].name}"
    if not is_streamed(device, data, stream, room):
        given = "" if isinstance(data.x, np.ndarray) else ", where they were given"
        LOG.info("%s, on %s (%s free)%s", told, device.name, memory_size(device.memory()[0]), given)
        return DataSet(network, data)
    streamed = StreamedData(network, data.on_host(device), batch_size, apart=shuffled)
    why = "as asked" if stream is True else f"because {device.name} has room for {memory_size(max(0, room))} of data"
    LOG.info("%s, streamed from %s in blocks of %s rows, %s", told, held, f"{streamed.block_rows:,}", why)
    return streamed


def is_streamed(device: Device, data: Samples, stream: bool | str, room: int) -> bool:
    """Tells whether samples are streamed to a device, where there is so much room for them: see `place_data`."""
    on_host = isinstance(data.x, np.ndarray)
    return on_host and (stream is True or (stream == "auto" and _size(device, data) > room))


def _size(device: Device, data: Samples) -> int:
    """Counts the bytes that samples take on the device."""
    kept = zip(arrays_of(data), kept_dtypes(data, device), strict=True)
    return sum(array.size * dtype.itemsize for array, dtype in kept)


def _bring(source: Array, rows: Array | slice, out: Array) -> None:
    """Sets out = source[rows], without a copy of the source or a second one of the rows."""
    mapped = memory_map(source) is not None
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
