"""Sums of float32 numbers over ranks, one on each CUDA device of this machine, for bench/gpu_check.py."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any

import numpy as np

import gpu_backprop as gb
from gpu.timing import Extent
from gpu_backprop.backend.communicator import Communicator
from gpu_backprop.backend.device import Device
from gpu_backprop.backend.open_device import open_device
from gpu_backprop.training.reduction_model import NVLINK, all_reduce_seconds

SIZES = 1 << 10, 1 << 18, 1 << 24
"""Numbers in a sum: few, those of a small network, and those of a large one."""

SECONDS = 60
"""Within which ranks have to find each other, and to be done."""


def measure(ranks: int, extent: Extent) -> list[dict[str, Any]]:
    """Starts the ranks, and returns what the first one found."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # free in a moment
    launched = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    words = [sys.executable, "-m", "gpu.ranks", *map(str, SIZES if extent.bytes else SIZES[:1]), str(extent.steps)]
    processes = [
        subprocess.Popen(
            words, env=os.environ | launched | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, text=True,
            stdout=subprocess.PIPE,
        )
        for rank in range(ranks)
    ]  # fmt: skip
    try:
        told = [process.communicate(timeout=2 * SECONDS)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    if failed := [rank for rank, process in enumerate(processes) if process.returncode]:
        raise RuntimeError(f"ranks {failed} of {ranks} have failed; the log says how")
    rows: list[dict[str, Any]] = json.loads(told[0])
    return rows


def main(*sizes: int, times: int) -> None:
    """Is one of the ranks."""
    ranks = gb.distributed(SECONDS)
    device = open_device(ranks.device)
    nccl = ranks.on(device)
    with device.computing():
        rows = [_timed(nccl, device, size, times) for size in sizes]
    if ranks.rank == 0:
        print(json.dumps(rows))


def _timed(nccl: Communicator, device: Device, size: int, times: int) -> dict[str, Any]:
    array = device.from_host(np.full(size, 1.0 + nccl.rank, np.float32))
    (add,) = nccl.all_reduce(device, array)
    add()
    if (device.to_host(array) != nccl.ranks * (nccl.ranks + 1) / 2).any():
        raise SystemExit(f"rank {nccl.rank}: a sum of {size:,} numbers is wrong")
    begin = device.mark()
    for _ in range(times):
        add()
    us, model = device.microseconds(begin, device.mark()) / times, all_reduce_seconds(array.nbytes, nccl.ranks, *NVLINK)
    return {"ranks": nccl.ranks, "bytes": array.nbytes, "us": round(us, 2), "model_us": round(1e6 * model, 2)}


if __name__ == "__main__":
    *some, repeats = map(int, sys.argv[1:])
    main(*some, times=repeats)
