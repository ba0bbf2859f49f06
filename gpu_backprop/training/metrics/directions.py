"""Which way each metric gets better."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from gpu_backprop.backend.errors import InputError

LARGER = {
    "accuracy": True, "balanced_accuracy": True, "f1": True, "f1_macro": True, "f1_weighted": True, "roc_auc": True,
    "average_precision": True, "label_accuracy": True, "exact_match": True, "top_k_accuracy": True, "r2": True,
    "loss": False, "log_loss": False, "brier_score": False, "calibration_error": False, "mae": False, "rmse": False,
    "median_absolute_error": False, "quantile_loss": False,
}  # fmt: skip


def larger_is_better(column: str, metrics: Iterable[str | Callable[..., Any]] = ()) -> bool:
    """Tells whether a larger value of a column of History is the better one: of a loss or metric, or its val_ twin.

    Args:
        metrics: those of the trainer; of a function among them, its attribute `larger_is_better` tells.

    Raises:
        InputError: of that column nobody has said it.
    """
    name = column.removeprefix("val_")
    for metric in metrics:
        if getattr(metric, "__name__", None) == name and hasattr(metric, "larger_is_better"):
            return bool(metric.larger_is_better)
    known = re.sub(r"^top_[1-9]\d*_", "top_k_", re.sub(r"^quantile_[\d.]+_", "quantile_", name))
    if known not in LARGER:
        raise InputError(
            f"whether a larger {column} is better, nobody has said. Of a function f of your own, say it by "
            "f.larger_is_better = True, or False."
        )
    return LARGER[known]
