"""Export to C: one header in C99, which C++11 takes too, that needs math.h and string.h and nothing else."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.suggestions import explain_arguments
from gpu_backprop.backend.whole_file import new_file
from gpu_backprop.interop.c_text import Writer, quantise
from gpu_backprop.interop.exporting import check_exportable, class_names
from gpu_backprop.network.layers import Dense
from gpu_backprop.network.network import Network
from gpu_backprop.training.history import explained

SAMPLE = 1000
"""Rows that are drawn to measure what int8 does, where none are given."""


@dataclass(frozen=True)
class Int8Error:
    """What 8-bit weights change in what a network predicts.

    Attributes:
        rows: in words, of which rows this was measured.
        largest, mean: of |difference|, over all outputs: of probabilities, or in the units of the data.
        relabelled: the share of the rows that get another class; None in a regression.
    """

    rows: str
    largest: float
    mean: float
    relabelled: float | None

    def __str__(self) -> str:
        classes = "" if self.relabelled is None else f", and {self.relabelled:.2%} of the rows get another class"
        moved = f"by at most {self.largest:.3g}, {self.mean:.3g} in the mean"
        return f"8-bit weights move an output {moved}{classes}, measured on {self.rows}"


@explain_arguments
def export(
    network: Network, path: str | os.PathLike[str], *, int8: bool = False, rows: Any = None, preprocessing: bool = True
) -> Int8Error | None:
    """Writes a network as a C header, whole or not at all. With NAME, the name of the file without its ending, it has
    `NAME_predict(const float *x, float *y)`, double for a network in float64, which computes what `predict` computes of
    one row, and allocates nothing: NAME_INPUTS numbers become NAME_OUTPUTS. With `network.preprocessing` x is a row of
    the data before any scaling, in the order of NAME_columns, NAN where a number is missing; y are the probabilities of
    NAME_classes, two of them also of a network with one output, or quantities in the units of the data.

    Args:
        network: a single one.
        path: of the file, NAME.h.
        int8: whether the weights of Dense layers have 8 bits, each unit's with a scale of its own, max |w|/127;
            activations stay float. The file is a third as long, and the program's data a quarter.
        rows: rows on which it is measured what int8 changes, as `Preprocessing.transform` takes them, or x where there
            is no preprocessing; None: a sample is drawn, 1,000 rows of the numbers that the network reads.
        preprocessing: False: x are rows that are prepared already, as `network.preprocessing.transform` gives them.

    Returns:
        With int8, what it changes, which stands in the header too; else None.

    Raises:
        InputError: a column is not of numbers, the network is several, or a layer, an activation or a parameter cannot
            be written in C; or the file cannot be written there.
    """
    check_exportable(network)
    if network.models_shape:
        raise InputError(
            f"the network is the mean of {network.models_shape[0]} members, and a header holds one: export it to ONNX, "
            "or a member of the population, population.member(m)."
        )
    if rows is not None and not int8:
        raise InputError("rows are for measuring what int8=True changes: leave rows out, or give int8=True.")
    name = re.sub(r"[^0-9A-Za-z_]", "_", Path(path).stem)
    writer = Writer(network, name if not name[:1].isdigit() else f"_{name}", int8, preprocessing)
    error = measure_int8(network, rows) if int8 else None
    with explained(path), new_file(path, encoding="ascii") as file:
        file.write(writer.header("" if error is None else str(error)))
    return error


def measure_int8(network: Network, rows: Any = None) -> Int8Error:
    """Measures what 8-bit weights change.

    Args:
        network, rows: as in `export`.
    """
    prepared, twin = network.preprocessing, network.copy()
    if rows is None:
        generator, shape = np.random.default_rng(0), (SAMPLE, network.inputs)
        pixels = prepared is not None and prepared.images
        x = generator.uniform(size=shape) if pixels else generator.normal(size=shape)
        told = f"{SAMPLE:,} rows of {'uniform' if pixels else 'standard normal'} numbers, as the network reads them"
    else:
        x = np.asarray(rows) if prepared is None else prepared.transform(rows)
        told = f"{len(x):,} given row{'s' * (len(x) != 1)}"
    for layer in twin.layers:
        if isinstance(layer, Dense):
            assert layer.weight is not None
            codes, scales = quantise(twin.device.to_host(layer.weight))
            twin.device.copy_in(layer.weight, (codes * scales).astype(twin.device.master))
    twin.refresh()
    if not len(x):
        raise InputError("there are no rows to measure what int8 changes on: give one at least, or leave rows out.")
    exact, rounded = network.predict(x), twin.predict(x)
    relabelled = None
    if class_names(network) is not None:
        labels, others = (y.argmax(axis=-1) if y.shape[-1] > 1 else y[:, 0] > 0.5 for y in (exact, rounded))
        relabelled = float((labels != others).mean())
    elif prepared is not None:
        exact, rounded = prepared.inverse(exact), prepared.inverse(rounded)
    difference = np.abs(exact.astype(np.float64) - rounded)
    return Int8Error(told, float(difference.max()), float(difference.mean()), relabelled)
