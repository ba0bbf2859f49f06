"""Data to train on: the bundled digits, and how to hold some of any data out."""

from __future__ import annotations

from gpu_backprop.data.digits import load_digits
from gpu_backprop.data.split import stratified_split

__all__ = ["load_digits", "stratified_split"]
