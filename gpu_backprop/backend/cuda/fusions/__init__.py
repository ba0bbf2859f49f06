"""What of a plan CUDA does at once. The floors above know nothing of it: each fusion takes the operations that they
emitted, and puts one of its own in the place of several."""

from gpu_backprop.backend.cuda.fusions.epilogues import join_epilogues
from gpu_backprop.backend.cuda.fusions.head import join_head
from gpu_backprop.backend.device import Fusion

FUSIONS: tuple[Fusion, ...] = (join_head, join_epilogues)
"""In the order in which they are tried."""
