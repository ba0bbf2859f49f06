"""One part of what bench/gpu_check.py measures, in a process of its own: python -m gpu.measure PART SECONDS.

What is found is a line on stdout at once, MARK and JSON, so that it is known also where this process is ended. What
fails is told with its reason, and the rest goes on; what there is no time for is named.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from comparison.worker import end_with_parent
from lib.device_trace import DeviceTrace

from gpu.timing import FULL, TINY, Extent
from gpu_backprop.backend.errors import InputError, one_line
from gpu_backprop.backend.open_device import open_device

T = TypeVar("T")

MARK = "\x1e"
"""Begins a line for the process that started this one, as in RFC 7464."""

SHARE = 0.75
"""Of the part's time, after which nothing new begins."""


class Run:
    """The measurements of one part.

    Args:
        extent: how much is measured.
        seconds: the part's time.
        data: a folder with the files of MNIST; None: the bundled digits.
        peers: an interpreter that has PyTorch and JAX.
        tell: gets each finding: "add", lists by name, and "set", values.
    """

    def __init__(
        self, extent: Extent, seconds: float, data: Path | None = None, peers: str = sys.executable, *,
        tell: Callable[[dict[str, Any]], None],
    ) -> None:  # fmt: skip
        self.extent, self.data, self.peers, self.tell = extent, data, peers, tell
        self.last = time.monotonic() + SHARE * seconds

    def add(self, **rows: Sequence[Any]) -> None:
        """Appends rows to lists."""
        self.tell({"add": rows})

    def set(self, **values: Any) -> None:
        self.tell({"set": values})

    def attempt(self, what: str, measure: Callable[..., T], *arguments: Any) -> T | None:
        """Calls `measure` and gives its result; None where it fails, or there is no time, which is told."""
        if time.monotonic() > self.last:
            self.add(skipped=[{"what": what, "reason": "there was no time"}])
            return None
        print(f"… {what}", flush=True)
        gc.collect()  # what the last one held is free for this one
        try:
            return measure(*arguments)
        except KeyboardInterrupt:
            self.last, reason = 0.0, "it was interrupted: the time was up"
        except Exception as error:  # whatever a library or the device raises: the other measurements go on
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        self.add(failed=[{"what": what, "reason": reason}])
        return None

    def has(self, name: str, dtype: str, tf32: bool = False) -> bool:
        """Whether the device takes a dtype, in products too; that it does not is told."""
        try:
            open_device("cuda", dtype, tf32)
        except InputError as error:
            self.add(skipped=[{"what": name, "reason": one_line(error)}])
            return False
        return True

    def attempts(self, name: str, calls: Iterable[tuple[Any, ...]]) -> None:
        """Attempts what is given as (what, measure, arguments …); each gives a row of the list of that name, or more.
        What has yet to be done is told before, for the case that this process is killed."""
        left = list(calls)
        while left:
            self.set(todo=[what for what, *_ in left])
            found = self.attempt(*left.pop(0))
            if found is not None:
                self.add(**{name: found if isinstance(found, list) else [found]})
        self.set(todo=[])


# Each imports what it measures by here: without a device, or a library, the others go on. -----------------------------


def machine(run: Run) -> None:
    from gpu import machine as here

    try:
        run.set(**here.machine(), reading=here.management().reading())
    except Exception as error:  # what is missing, doctor says
        print(f"which device it is could not be found out: {one_line(error)}", flush=True)


def steps(run: Run) -> None:
    from dataclasses import replace

    from gpu import peaks, steps

    found = run.attempt("copies", peaks.measure_copies, run.extent)
    precisions = [one for one in peaks.PRECISIONS if run.has(one.name, one.dtype, one.tf32)]
    for precision in precisions:
        product = run.attempt(f"a square product, {precision.name}", peaks.measure_product, precision, run.extent)
        if product and found:
            found = replace(found, products={**found.products, precision.name: round(product[0], 3)})
            run.add(doors=[f"{precision.name}: {product[1]}"])
    if found:
        run.set(peaks={**vars(found), "products": dict(found.products)})
    run.attempts(
        "steps",
        (
            (f"step, {case}, {case.batch} rows, {precision.name}", steps.measure, case, precision, run.extent, found)
            for case in steps.cases(run.extent)
            for precision in precisions
        ),
    )


def kernels(run: Run) -> None:
    from gpu.kernels import DTYPES, Kernels, Shape

    kernels = run.attempt("copies", Kernels, run.extent)
    if kernels is None:
        return

    def measure(dtype: str, shape: Shape) -> list[dict[str, Any]]:
        rows = kernels.measure(dtype, shape)
        run.set(copies_gb_s=kernels.rates())
        return rows

    run.attempts(
        "kernels",
        (
            (f"kernels, {dtype}, {shape.rows} × {shape.cols}", measure, dtype, shape)
            for dtype in DTYPES
            if run.has(dtype, dtype)
            for shape in kernels.shapes
        ),
    )
    run.add(skipped=[{"what": f"kernel {name}", "reason": "no plan here has it alone"} for name in kernels.left_out()])


def one_launch(run: Run) -> None:
    from gpu import one_launch

    run.attempts(
        "one_launch",
        (
            (f"epochs in one launch, {task.name}, models: {n}", one_launch.measure, task, n, run.extent)
            for task in one_launch.tasks(run.extent)
            for n in one_launch.numbers_of_models(run.extent)
        ),
    )


def fits(run: Run) -> None:
    from gpu import fits

    images = run.attempt("the data", fits.Images.read, run.data, run.extent)
    if images is None:
        return
    run.set(data=images.name)
    with fits.start_peers(run.peers) as peers:
        run.attempts(
            "fits",
            ((f"epochs, {fit}", fits.measure, images, fit, peers, run.extent) for fit in fits.fits(run.extent)),
        )
        run.add(skipped=[{"what": name, "reason": reason} for name, reason in peers.gone.items()])


def ranks(run: Run) -> None:
    from gpu import ranks
    from gpu_backprop.backend.open_device import count_devices

    if (count := count_devices()) > 1:
        run.attempts("ranks", [(f"sums over {count} ranks", ranks.measure, count, run.extent)])
    else:
        run.add(skipped=[{"what": "sums over ranks by NCCL", "reason": "this machine has one CUDA device"}])


PARTS = {part.__name__: part for part in (machine, steps, kernels, one_launch, fits, ranks)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--peers", default=sys.executable)
    options = parser.parse_args(arguments)
    extent = TINY if DeviceTrace.is_there() else FULL
    PARTS[options.part](Run(extent, options.seconds, options.data, options.peers, tell=tell))
    return 0


def tell(finding: dict[str, Any]) -> None:
    sys.stdout.write(f"{MARK}{json.dumps(finding, ensure_ascii=False)}\n")  # at once: stderr goes the same way
    sys.stdout.flush()


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main())
