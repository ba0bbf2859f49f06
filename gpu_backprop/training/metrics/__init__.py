"""What is measured besides the loss: metrics by name, as scikit-learn calls them, and a user's own functions."""

from __future__ import annotations

from gpu_backprop.training.metrics.directions import larger_is_better as larger_is_better
