"""Running a plan again and again: operation by operation, or as one captured CUDA graph."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.errors import DeviceError, one_line
from gpu_backprop.backend.formula import Array, Call
from gpu_backprop.backend.plan import Plan
from gpu_backprop.backend.snapshot import Snapshot

LOG = logging.getLogger("gpu_backprop")

STEPS_AT_ONCE = 8
"""In one graph, where nothing has to be done after each: the next minibatch is gathered while a step still updates."""

T = TypeVar("T")

_said: set[str] = set()  # why graphs were given up in this process: a plan for each number of rows need not repeat it


class Replay:
    """A plan, and how it is run: `replay.run()` is one run of it, with no step of Python between where that is decided.

    Under "auto" the first run is eager, so that what runs once pays nothing. The second run, with graph=True the first,
    is eager too; then the same run is done again from the same state, as a graph. If that gives the same bits in all
    that the plan leaves behind, the graph serves from then on. If not, the plan stays eager. No operation may be added
    to it any more. `graph` is "auto", True or False; see `Trainer`.

    Args:
        repeats: so many times a run goes through the plan: what the next time needs need not wait for all of this one.

    Attributes:
        replays: whether a run is the launch of a graph.
        reason: why, in a sentence.
    """

    def __init__(self, plan: Plan, graph: bool | str, repeats: int = 1) -> None:
        self.plan, self.graph, self.repeats = plan, graph, repeats
        self.replays, self._ran = False, False
        self._eagerly: Callable[[], None] = plan.run if repeats == 1 else partial(plan.run, repeats=repeats)
        self._often: dict[int, Replay] = {}
        self.reason = "it has not run often enough to be captured"
        if graph is False or not plan.device.has_graphs:
            self.reason = "graph=False" if graph is False else "graphs are for CUDA devices"
            self.run = self._eagerly  # type: ignore[method-assign]

    def run(self) -> None:
        """Runs the plan once; the device must be the current one. With graph=True, a DeviceError says that it cannot be
        captured, or that a replay gives something else; the run was done."""
        if self._ran or self.graph is True:
            self._run_checked()
        else:
            self._eagerly()
            self._ran = True

    def at_once(self, count: int, left: int) -> int:
        """Returns how many of the runs that are left of so many, with nothing to be done between them, are the next
        one: what `often` is given. A graph of several is captured only where it serves more than twice."""
        if self.graph is False or not self.plan.device.has_graphs:
            return max(1, min(self.plan.at_once, (count - 1) // 2, left))
        return STEPS_AT_ONCE if count > 2 * STEPS_AT_ONCE and left >= STEPS_AT_ONCE else 1

    def often(self, repeats: int) -> Replay:
        """Returns what goes through the plan so many times at once, the same every time it is asked for."""
        if repeats == 1:
            return self
        if repeats not in self._often:
            self._often[repeats] = Replay(self.plan, self.graph, repeats)
        return self._often[repeats]

    def _run_checked(self) -> None:
        """Runs the plan eagerly, and does the same run again as a graph. It always leaves what one run leaves."""
        plan, device, outputs = self.plan, self.plan.device, self.plan.outputs()
        snapshots, error = self._tried(lambda: [Snapshot(device, outputs) for _ in range(2)])
        self._eagerly()
        if snapshots is None:
            self._give_up(f"there is no memory to compare a replay with a run ({error})")
            return
        before, after = snapshots
        after.take()
        try:
            before.restore()
            replay, error = self._tried(lambda: device.capture(plan.nodes(self.repeats)))
            if replay is not None:
                _, error = self._tried(partial(_check, replay, device, outputs, after.copies))
        except BaseException:  # Ctrl-C
            after.restore()
            raise
        if error is not None:
            after.restore()
            self._give_up(one_line(error), error)
            return
        assert replay is not None
        self.run, self.replays = replay, True  # type: ignore[assignment,method-assign]
        self.reason = f"a replay of its {self._launches()} launches gives what a run gives, bit for bit"
        LOG.info("%s: replayed as a CUDA graph of %d launches", self._what(), self._launches())

    def _tried(self, make: Callable[[], T]) -> tuple[T | None, Exception | None]:
        """Returns what was made; or None, and why it could not be, on this rank or another: none goes on without the
        others."""
        made, error = None, None
        try:
            made = make()
        except Exception as caught:
            error = caught
        reason = self.plan.communicator.first_reason(None if error is None else one_line(error))
        if reason is None:
            return made, None
        return None, error or DeviceError(reason)

    def _launches(self) -> int:
        return self.repeats * int(self.plan.cost()["launches"])

    def _give_up(self, reason: str, error: Exception | None = None) -> None:
        launches = self._launches()
        if self.graph is True:
            raise DeviceError(
                f"{self._what()} cannot be replayed as a CUDA graph: {reason}. Use graph='auto' or False, which then "
                f"gives the same with {launches} launches instead of one."
            ) from error
        self.run, self.reason = self._eagerly, reason  # type: ignore[method-assign]
        LOG.info("%s: launched operation by operation, %d launches, since %s", self._what(), launches, reason)
        if reason not in _said:
            _said.add(reason)
            said = (
                f"{self.plan.device.name}: steps are not replayed as CUDA graphs: {reason}. Their operations are "
                f"launched one by one, which gives the same and costs the host more time: {launches} launches where it "
                "could be one. graph=False does so without a warning."
            )
            warnings.warn(said, RuntimeWarning, stacklevel=2)

    def _what(self) -> str:
        rows = self.plan.buffers["x"].shape[-2] if "x" in self.plan.buffers else 0  # those of this rank
        one = "step" if self.plan.training else "measurement"
        runs = f"a {one}" if self.repeats == 1 else f"{self.repeats} {one}s"
        return f"{self.plan.device.name}: {runs} of {rows:,} rows"


def _check(replay: Call, device: Device, outputs: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    """Replays, and raises DeviceError where that gives something else than was expected."""
    replay()
    differs = device.differing([(array, expected[name]) for name, array in outputs.items()])
    if found := [name for name, differing in zip(outputs, differs, strict=True) if differing]:
        raise DeviceError(f"a replay gives other values than a run in {', '.join(found)}")
