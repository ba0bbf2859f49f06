"""What the device was seen to do at most, and the least time of an operation that follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from gpu.timing import Extent, GraphClock, warm_up
from gpu_backprop.backend.cuda.device import CudaDevice
from gpu_backprop.backend.open_device import open_device
from gpu_backprop.backend.operation import Operation


@dataclass(frozen=True)
class Precision:
    """In what products are worked out."""

    name: str
    dtype: str
    tf32: bool = False


PRECISIONS = (
    Precision("float32", "float32"),
    Precision("tf32", "float32", tf32=True),
    Precision("bfloat16", "bfloat16"),
    Precision("float16", "float16"),
)


def cache_size(device: CudaDevice) -> int:
    """Bytes of the device's L2 cache."""
    return int(device.xp.cuda.runtime.getDeviceProperties(device.index)["l2CacheSize"])


@dataclass(frozen=True)
class Peaks:
    """What the device was seen to do.

    Attributes:
        memory: GB/s of a copy that lies beyond the L2 cache, read and written bytes together.
        cache: GB/s of a copy that stays in it, without the pause between two copies.
        cache_bytes: the size of the cache.
        node_us: the pause between two nodes of a CUDA graph, which no floor counts.
        products: TFLOP/s of a large square product, by precision.
    """

    memory: float
    cache: float
    cache_bytes: int
    node_us: float = 0.0
    products: Mapping[str, float] = field(default_factory=dict)

    def floor(self, operation: Operation, precision: str) -> tuple[float, str] | None:
        """The least µs of an operation, and what bounds it: "arithmetic", "cache" or "memory".

        Products have the peak of their precision; all else is worked out in float32. What fits into the cache may have
        come from it. None where the peak is not known.
        """
        kind = precision if "@" in operation.formula else "float32"
        if kind not in self.products:
            return None
        buffers = {array.data.ptr: array.nbytes for array in (*operation.reads.values(), *operation.writes.values())}
        inside = sum(buffers.values()) <= self.cache_bytes
        traffic = operation.bytes / 1e3 / (self.cache if inside else self.memory)
        arithmetic = operation.flops / 1e6 / self.products[kind]
        return (arithmetic, "arithmetic") if arithmetic >= traffic else (traffic, "cache" if inside else "memory")


def copy_us(device: CudaDevice, size: int, extent: Extent) -> float:
    """µs of a copy of so many bytes from one array to another, by CUDA or by a kernel, whichever is faster."""
    a, b = (device.zeros((size // 4,), np.float32) for _ in range(2))
    ways = [partial(b.data.copy_from_device_async, a.data, a.nbytes, device.stream)], device.ops.copy(device, a, b)
    return min(GraphClock(device, extent.rounds).alone(list(calls), extent.span_us) for calls in ways)


def measure_copies(extent: Extent) -> Peaks:
    """The two bandwidths. Two copies in the cache, one of them four times as large, tell the pause from the rate."""
    device = open_device("cuda", "float32")
    cache = cache_size(device)
    small, large = (cache // 32, cache // 8) if extent.bytes else (1024, 4096)
    beyond = max(extent.bytes, 4 * cache) if extent.bytes else large
    warm_up(device, extent)
    with device.computing():
        memory = 2 * beyond / 1e3 / copy_us(device, beyond, extent)
        small_us, large_us = copy_us(device, small, extent), copy_us(device, large, extent)
    more = large_us - small_us
    inside = 2 * (large - small) / 1e3 / more if more > 0 else 0.0
    pause = small_us - 2 * small / 1e3 / inside if inside else 0.0
    return Peaks(memory, max(inside, memory), cache, max(pause, 0.0))


def measure_product(precision: Precision, extent: Extent) -> tuple[float, str]:
    """TFLOP/s of a large square product, and which function computes products, and why."""
    device, n = open_device("cuda", precision.dtype, precision.tf32), extent.square
    warm_up(device, extent)
    with device.computing():
        some = np.random.default_rng(0).standard_normal(n * 32, np.float32)
        a, b = (device.from_host(np.resize(some, (n, n)), device.dtype) for _ in range(2))
        calls = device.blas.matmul(a, b, device.empty((n, n)), tf32=precision.tf32)
        us = GraphClock(device, extent.rounds).alone(calls, extent.span_us)
    return 2 * n**3 / 1e6 / us, device.blas.reason
