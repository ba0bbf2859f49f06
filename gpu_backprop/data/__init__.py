"""Data to train on: the bundled digits, reading files, making them numbers, and holding some of any data out."""

from __future__ import annotations

from gpu_backprop.data.digits import load_digits
from gpu_backprop.data.encoding import PLAIN, TABULAR, Encoding
from gpu_backprop.data.errors import DataError, MissingPyarrowError
from gpu_backprop.data.preprocessing import Preprocessing
from gpu_backprop.data.reading import read
from gpu_backprop.data.split import stratified_folds, stratified_split
from gpu_backprop.data.table import Arrays, Table

__all__ = [
    "PLAIN",
    "TABULAR",
    "Arrays",
    "DataError",
    "Encoding",
    "MissingPyarrowError",
    "Preprocessing",
    "Table",
    "load_digits",
    "read",
    "stratified_folds",
    "stratified_split",
]
