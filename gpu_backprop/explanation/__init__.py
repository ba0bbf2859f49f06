"""One minibatch of a small network, formula by formula with its numbers, as at a blackboard."""

from __future__ import annotations

from gpu_backprop.explanation.explain import demo, explain

__all__ = ["demo", "explain"]
