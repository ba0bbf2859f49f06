"""How fast a network trains, beside the least that its own matrix products take.

    python bench/throughput.py 784-512-512-10 --batch 1024
    python bench/throughput.py 8-32-32-1 --batch 64 --activation tanh --loss half_squared_error --optimizer sgd
    python bench/throughput.py 1024x4-10 --batch 512 --device cuda --dtype float16 --json result.json

Three things are timed in turns, in several rounds: a step on a minibatch that already lies in its buffers; the matrix
products of that same step alone, which are its floor; and epochs of `fit`, with the drawing of an order, the gathering
of rows and the reading of the loss. All begin with the same parameters in every round. Then each operation of the step
is timed by itself. Times are those of the device's own clock: on CUDA, events of its stream.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lib import busy, record
from lib.held_memory import Growth, held
from lib.timing import Clock, ranged, spread
from lib.workload import Workload, widths

import gpu_backprop as gb
from gpu_backprop.arguments.command import Paragraphs, Parser
from gpu_backprop.arguments.values import device as device_name
from gpu_backprop.arguments.values import one_of, rate, share, some_of, whole
from gpu_backprop.backend.device import Device, memory_size
from gpu_backprop.backend.formula import Call
from gpu_backprop.backend.open_device import DTYPES, open_device
from gpu_backprop.backend.operation import Operation
from gpu_backprop.backend.plan import Plan
from gpu_backprop.backend.snapshot import Snapshot
from gpu_backprop.backend.text_table import columns
from gpu_backprop.commands.errors import Misuse
from gpu_backprop.training.replay import Replay

T = TypeVar("T")

ROUNDS = 7
WINDOW = 0.1
"""Seconds that one timing takes, about: as many runs are timed together."""

MOST_ROWS, MOST_BYTES = 60_000, 256 << 20
"""Of the data that epochs are timed on, unless two minibatches are more. They are chosen so that an epoch takes about
a window."""

FEWEST, MOST = 2, 20_000
"""Minibatches of an epoch, and runs of a step that are timed together."""

TRIES = 4
"""How often a round is measured at most, where other programs disturb it."""

PROFILED = 3, 200
"""How often each operation is timed by itself, at least and at most."""


# Measuring ------------------------------------------------------------------------------------------------------------


def measure(
    work: Workload, *, rounds: int = ROUNDS, steps: int | None = None, rows: int | None = None, window: float = WINDOW,
    end_to_end: bool = True, kinds: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """All figures of a network, as they go into a file.

    Args:
        steps: how many runs of the step, and of its products, are timed together; None: what a window has room for.
        rows: of the data that `fit` is given, rounded up to whole minibatches; None: what takes about a window.
        window: seconds.
        end_to_end: whether `fit` is timed.
        kinds: whether each operation is timed by itself.
    """
    grown = Growth(open_device(work.device, work.dtype))
    x, y = work.data(work.batch)
    grown.begin()
    trainer = work.trainer()
    replay = trainer.manual_steps.load(trainer.manual_steps.minibatch(x, y))
    plan, device = replay.plan, trainer.device
    with device.computing():
        for _ in range(3):  # on CUDA the second of them captures the graph
            replay.run()
        device.synchronize()
        memory = {**held(trainer, plan), **grown.told()}
        start = Snapshot(device, plan.outputs())
        floor = products_alone(replay)
        floor()
        step_us = Clock(device, 1).once(replay.run).device
    runs = steps or max(1, min(MOST, round(window * 1e6 / step_us)))
    epoch = Epoch(work, trainer, step_us, rows, window) if end_to_end else None

    def one_round() -> tuple[float, ...]:
        times = []
        with device.computing():
            clock = Clock(device, 1)
            for run in (replay.run, floor):
                start.restore()
                run()  # into the cache
                times.append(clock.once(run, runs).device)
            start.restore()
        if epoch is not None:
            times.append(epoch.once())
            start.restore()
        return tuple(times)

    of_rounds, calm = zip(*(undisturbed(one_round) for _ in range(rounds)), strict=True)
    step_times, floor_times, *epoch_times = zip(*of_rounds, strict=True)
    flops = plan.cost()["flops"]
    found = {
        **work.described(trainer),
        "operations by": operations_by(device),
        "rounds": rounds,
        "disturbed rounds": calm.count(False),
        "steps a round": runs,
        "replayed": replay.replays,
        "flops": flops,
        "step": rates(step_times, work, flops),
        "floor": {
            "products": [o.formula for o in products(plan)],
            "flops": (product_flops := sum(o.flops for o in products(plan))),
            **rates(floor_times, work, product_flops),
        },
        "step / floor": spread([a / b for a, b in zip(step_times, floor_times, strict=True)], 3),
        "memory": memory,
    }
    if epoch is not None:
        found["end to end"] = {"rows": len(epoch.x), "epochs a round": epoch.epochs, **rates(*epoch_times, work, flops)}
    if kinds:
        times = max(PROFILED[0], min(PROFILED[1], round(5 * window * 1e6 / step_us)))
        timed = trainer.profile(x, y, runs=times)
        found["kinds"] = {name: round(us, 2) for name, us in timed.by_name().items()}
    return found


def undisturbed(measured: Callable[[], T]) -> tuple[T, bool]:
    """Measures, again where other programs took the processors; gives the result, and whether it was undisturbed."""
    for _ in range(TRIES):
        clocks = busy.Clocks.now()
        found = measured()
        if not busy.disturbed(busy.Clocks.now().since(clocks), len(busy.processors())):
            return found, True
    return found, False


def products(plan: Plan) -> list[Operation]:
    """The matrix products of a plan."""
    return [operation for operation in plan.operations if operation.name == "matmul"]


def products_alone(replay: Replay) -> Call:
    """The matrix products of a step, run as the step is: as one graph where it is one."""
    alone = Plan(replay.plan.device)
    alone.operations += products(replay.plan)
    return alone.device.capture(alone.nodes()) if replay.replays else alone.run


def operations_by(device: Device) -> str:
    """Names the back end that computes the operations: numpy_ops, compiled or cuda."""
    return device.ops.__name__.split(".")[2]


def rates(times: Sequence[float], work: Workload, flops: int) -> dict[str, Any]:
    """Gives the spread of µs a step, and the rates of its median."""
    us = statistics.median(times)
    return {
        "us": spread(times),
        "samples_per_second": round(max(work.models, 1) * work.batch / us * 1e6, 1),
        "gflop_s": round(flops / us / 1e3, 3),
    }


class Epoch:
    """Epochs of `fit`, end to end; a fit's own first one is not counted, since its buffers are new.

    Attributes:
        x, y: the data.
        epochs: how many are timed together.
    """

    def __init__(self, work: Workload, trainer: gb.Trainer, step_us: float, rows: int | None, window: float) -> None:
        self.trainer, in_window = trainer, max(1.0, window * 1e6 / step_us)
        most = min(MOST_ROWS, MOST_BYTES // (trainer.device.dtype.itemsize * work.widths[0])) // work.batch
        steps = max(FEWEST, min(most, int(in_window)))
        self.steps = steps if rows is None else -(-rows // work.batch)
        self.x, self.y = work.data(self.steps * work.batch)
        self.epochs = max(1, round(in_window / self.steps))

    def once(self) -> float:
        """µs a step."""
        history = self.trainer.fit(self.x, self.y, 1 + self.epochs, progress=False)
        return 1e6 * statistics.fmean(history["seconds"][-self.epochs :]) / self.steps


# Telling --------------------------------------------------------------------------------------------------------------


def table(found: dict[str, Any]) -> Iterator[str]:
    """The figures as one reads them."""
    yield (
        f"{found['network']}, {', '.join(found['activations'])}, {found['loss']}, {found['optimizer']}\n"
        f"batches of {found['batch']:,}, {found['dtype']}, {found['parameters']:,} parameters"
        f"{', {} models'.format(found['models']) if found['models'] > 1 else ''}, on {found['device']} "
        f"({found['why this device']}) by {found['operations by']}{', as a CUDA graph' if found['replayed'] else ''}\n"
        f"medians of {found['rounds']} rounds, each of {found['steps a round']:,} steps (least to most)\n"
    )
    if found["disturbed rounds"]:
        yield f"OTHER PROGRAMS DISTURBED {found['disturbed rounds']} OF THE ROUNDS\n"
    rows = [("", "µs a step", "samples/s", "GFLOP/s")]
    for name, key in (("step", "step"), ("its products alone", "floor"), ("end to end", "end to end")):
        if key in found:
            one = found[key]
            rows.append((name, ranged(one["us"], 1), f"{one['samples_per_second']:,.0f}", f"{one['gflop_s']:,.1f}"))
    rows.append(("step / products alone", ranged(found["step / floor"], 3), "", ""))
    yield from columns(rows, 1)
    if "kinds" in found:
        whole_us = sum(found["kinds"].values()) or 1.0
        yield "\nby operation, each timed by itself"
        rows = [(name, f"{us:,.1f} µs", f"{us / whole_us:.0%}") for name, us in found["kinds"].items()]
        yield from (f"  {line}" for line in columns(rows, 1))
    yield "\nmemory"
    named = {
        "step": "buffers of the step", "parameters": "parameters", "gradients": "gradients", "moments": "moments",
        "scratch": "scratch, shared by all steps", "measured_growth": "measured, all that training brought",
    }  # fmt: skip
    rows = [(name, memory_size(found["memory"][key])) for key, name in named.items() if key in found["memory"]]
    yield from (f"  {line}" for line in columns(rows, 1))
    if "end to end" in found:
        yield f"\nend to end: epochs of {found['end to end']['rows']:,} rows, shuffled"


def _parser() -> Parser:
    parser = Parser(prog="throughput.py", description=str(__doc__), formatter_class=Paragraphs, allow_abbrev=False)
    add: Callable[..., Any] = parser.add_argument
    add("network", type=widths, help="inputs and units, as in 784-512-512-10 or 1024x4-10")
    add("--batch", type=whole(1), default=128, metavar="B", help="rows of a minibatch (default: 128)")
    whose = "of all hidden layers, or of each, as in tanh,relu; one more is for the output (default: relu)"
    add("--activation", type=some_of("activation", gb.ACTIVATIONS), default=(), metavar="NAMES", help=whose)
    add("--loss", type=one_of("loss", gb.LOSSES), default="cross_entropy", metavar="NAME", help=", ".join(gb.LOSSES))
    optimizer = one_of("optimizer", gb.OPTIMIZERS)
    add("--optimizer", type=optimizer, default="adam", metavar="NAME", help=", ".join(gb.OPTIMIZERS))
    add("--learning-rate", type=rate, metavar="R", help="default: the optimizer's own")
    add("--dropout", type=share, default=0.0, metavar="SHARE", help="of hidden units (default: 0)")
    add("--models", type=whole(1), default=0, metavar="M", help="networks that train side by side")
    add("--dtype", choices=DTYPES["cuda"], default="float32", metavar="T", help=", ".join(DTYPES["cuda"]))
    add("--device", type=device_name, default="auto", metavar="D", help="auto, cpu, cuda or cuda:1 (default: auto)")
    add("--rounds", type=whole(1), default=ROUNDS, metavar="N", help=f"default: {ROUNDS}")
    add("--steps", type=whole(1), metavar="N", help="steps timed together (default: what takes about 0.1 s)")
    add("--rows", type=whole(1), metavar="N", help="of the data of an epoch (default: what takes about 0.1 s)")
    add("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    started, parser = time.perf_counter(), _parser()
    given = vars(parser.parse_args(arguments))
    how = {name: given.pop(name) for name in ("rounds", "steps", "rows")}
    path = given.pop("json")
    work = Workload(given.pop("network"), **{**given, "activation": tuple(given["activation"])})
    if path is not None:
        if not path.parent.is_dir():
            parser.error(f"--json: the folder {path.parent} is not there")
        if path.is_dir():
            parser.error(f"--json: {path} is a folder; give a file")
    try:
        found = measure(work, **how)
    except (gb.GpuBackpropError, Misuse) as error:
        parser.error(str(error))
    print("\n".join(table(found)))
    if path is not None:
        only_json = argparse.ArgumentParser(add_help=False)
        only_json.add_argument("--json")
        typed = ["python", "bench/throughput.py", *only_json.parse_known_args(arguments)[1]]
        record.write(path, shlex.join(typed), time.perf_counter() - started, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
