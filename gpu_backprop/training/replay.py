"""Running a plan again and again: operation by operation, or as one captured CUDA graph."""

from __future__ import annotations

import logging
import warnings

from gpu_backprop.backend.errors import DeviceError, one_line
from gpu_backprop.backend.plan import Plan
from gpu_backprop.backend.snapshot import Snapshot

LOG = logging.getLogger("gpu_backprop")

_said: set[str] = set()  # why graphs were given up in this process: a plan for each number of rows need not repeat it


class Replay:
    """A plan, and how it is run: `replay.run()` is one run of it, with no step of Python between where that is decided.

    Under "auto" the first run is eager, so that what runs once pays nothing. The second run, with graph=True the first,
    is eager too; then the same run is done again from the same state, as a graph. If that gives the same bits in all
    that the plan leaves behind, the graph serves from then on. If not, the plan stays eager. No operation may be added
    to it any more. `graph` is "auto", True or False; see `Trainer`.

    Attributes:
        replays: whether a run is the launch of a graph.
        reason: why, in a sentence.
    """

    def __init__(self, plan: Plan, graph: bool | str) -> None:
        self.plan, self.graph = plan, graph
        self.replays, self._ran = False, False
        self.reason = "it has not run often enough to be captured"
        if graph is False or not plan.device.has_graphs:
            self.reason = "graph=False" if graph is False else "graphs are for CUDA devices"
            self.run = plan.run  # type: ignore[method-assign]

    def run(self) -> None:
        """Runs the plan once; the device must be the current one. With graph=True, a DeviceError says that it cannot be
        captured, or that a replay gives something else; the run was done."""
        if self._ran or self.graph is True:
            self._run_checked()
        else:
            self.plan.run()
            self._ran = True

    def _run_checked(self) -> None:
        """Runs the plan eagerly, and does the same run again as a graph. It always leaves what one run leaves."""
        plan, device, outputs = self.plan, self.plan.device, self.plan.outputs()
        try:
            before, after = Snapshot(device, outputs), Snapshot(device, outputs)
        except DeviceError as error:
            plan.run()
            self._give_up(f"there is no memory to compare a replay with a run ({error})")
            return
        plan.run()
        after.take()
        try:
            before.restore()
            replay = device.capture(plan.operations)
            replay()
            pairs = [(array, after.copies[name]) for name, array in outputs.items()]
            if differing := [name for name, d in zip(outputs, device.differing(pairs), strict=True) if d]:
                raise DeviceError(f"a replay gives other values than a run in {', '.join(differing)}")
        except BaseException as error:
            after.restore()
            if not isinstance(error, Exception):  # Ctrl-C
                raise
            self._give_up(one_line(error), error)
            return
        self.run, self.replays = replay, True  # type: ignore[assignment,method-assign]
        self.reason = f"a replay of its {plan.cost()['launches']} launches gives what a run gives, bit for bit"
        LOG.info("%s: replayed as a CUDA graph of %d launches", self._what(), plan.cost()["launches"])

    def _give_up(self, reason: str, error: Exception | None = None) -> None:
        launches = self.plan.cost()["launches"]
        if self.graph is True:
            raise DeviceError(
                f"{self._what()} cannot be replayed as a CUDA graph: {reason}. Use graph='auto' or False, which then "
                f"gives the same with {launches} launches instead of one."
            ) from error
        self.run, self.reason = self.plan.run, reason  # type: ignore[method-assign]
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
        rows = self.plan.buffers["x"].shape[-2]
        return f"{self.plan.device.name}: a {'step' if self.plan.training else 'measurement'} of {rows:,} rows"
