"""Running a plan again and again: operation by operation, or as one captured CUDA graph."""

from __future__ import annotations

from gpu_backprop.backend.plan import Plan


class Replay:
    """A plan, and how it is run.

    Args:
        plan: what runs.
        graph: "auto", True or False; see `Trainer`.
    """

    def __init__(self, plan: Plan, graph: bool | str) -> None:
        self.plan, self.graph = plan, graph

    def __call__(self) -> None:
        self.plan.run()
