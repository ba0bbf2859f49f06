"""1,797 handwritten digits of 8×8 pixels: real data that comes along, so that training needs no download."""

from __future__ import annotations

import gzip
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt


def load_digits() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Loads the bundled digits.

    Returns:
        x: float64 (1797, 64), the pixels of an image row by row, whole numbers from 0 (paper) to 16 (ink).
        labels: int64 (1797,), the digit written, 0 to 9; 174 to 183 images of each.

    Source: E. Alpaydin and C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository, https://doi.org/10.24432/C50P49, licensed under CC BY 4.0. The file is scikit-learn's digits.csv.gz.
    """
    packed = resources.files("gpu_backprop.data").joinpath("digits.csv.gz").read_bytes()
    table: npt.NDArray[Any] = np.loadtxt(gzip.decompress(packed).decode("ascii").splitlines(), delimiter=",")
    return np.ascontiguousarray(table[:, :64]), table[:, 64].astype(np.int64)
