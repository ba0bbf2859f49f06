"""Export to ONNX, with the extra onnx: a network with its preprocessing, for whatever runs such files."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import numpy as np

from gpu_backprop.backend.errors import InputError, MissingExtraError, install
from gpu_backprop.backend.suggestions import explain_arguments
from gpu_backprop.backend.whole_file import new_file
from gpu_backprop.interop.exporting import check_exportable, class_names
from gpu_backprop.interop.onnx_columns import ARRAY, emit_units, emit_x, feeds
from gpu_backprop.interop.onnx_graph import ML, Graph, emit_network
from gpu_backprop.network.network import Network
from gpu_backprop.training.calibration import PROBABILITIES
from gpu_backprop.training.history import explained

__all__ = ["IR_VERSION", "ML_OPSET", "OPSET", "export", "feeds", "to_onnx"]

OPSET = 20
"""The first with Gelu. ONNX Runtime has read it since 1.17, of January 2024; nothing newer is needed."""

ML_OPSET = 3
"""That of ai.onnx.ml, from 2021: its LabelEncoder is all that is needed, and the newer ones, which some programs lack,
have nothing more for it."""

IR_VERSION = 9
"""The version of the file's own layout that came with opset 20, in ONNX 1.15: older readers refuse a newer one."""

LARGEST = 2**31 - 2**20
"""Bytes of parameters that fit into one file: protobuf has 2 GiB, and the rest takes some."""


@explain_arguments
def export(
    network: Network, path: str | os.PathLike[str], *, preprocessing: bool = True, coverage: float | None = None
) -> None:
    """Writes a network to an ONNX file, whole or not at all.

    Args:
        network, preprocessing, coverage: as in `to_onnx`, which says what is in the file.
        path: of the file, NAME.onnx.

    Raises:
        InputError: what `to_onnx` raises, or the file cannot be written there.
        MissingExtraError: onnx is not installed.
    """
    model = to_onnx(network, preprocessing=preprocessing, coverage=coverage)
    with explained(path), new_file(path) as file:
        file.write(model.SerializeToString(deterministic=True))


@explain_arguments
def to_onnx(network: Network, *, preprocessing: bool = True, coverage: float | None = None) -> Any:
    """Makes an ONNX model of a network, checked by `onnx.checker`. It computes what `predict` computes, in float64 if
    the network does, else in float32, which the parameters of a 16-bit network are.

    Inputs: with `network.preprocessing` the rows of the data, before any scaling: one input (rows, 1) for each column
    of a table, named by it, float64 for numbers, NaN where one is missing; texts as strings, without spaces around
    them, "" where one is missing; for dates float64, the seconds since 1970-01-01 00:00 on the clock that they tell,
    and where they have a zone `NAME offset`, the seconds by which that clock is ahead of UTC. Of arrays it is `x`,
    float64, or uint8 for images. Without a preprocessing `x` is (rows, inputs) in the network's dtype. `feeds` makes
    all of these of a file or a data frame.

    Outputs: of classes `label`, (rows,), strings or int64, and `probabilities`, (rows, classes), which are called
    `scores` where the last layer is neither softmax nor sigmoid; of quantities `prediction`, float64 (rows, outputs),
    in the units of the data, and where the network has intervals `low` and `high`; else `y`, (rows, outputs).

    Args:
        network: a single one, or of several members that are `averaged`, whose mean it gives.
        preprocessing: False: `x` are rows that are prepared already, as `network.preprocessing.transform` gives them.
        coverage: of the intervals, between 0 and 1; None: 0.9, or no intervals where that is more than was measured on
            enough rows.

    Returns:
        The onnx.ModelProto; its metadata name the columns, classes and coverage.

    Raises:
        InputError: a column, a layer or an activation has no operators in ONNX, which the message names; the network is
            several that are not averaged; or it is larger than 2 GiB.
        MissingExtraError: onnx is not installed.
    """
    try:
        from onnx import checker, helper
    except ImportError as error:
        raise MissingExtraError(f"export to ONNX needs onnx: {install('onnx')}") from error

    check_exportable(network)
    if network.parameters.nbytes > LARGEST:
        raise InputError(f"the parameters take {network.parameters.nbytes:,} bytes, and an ONNX file holds 2 GiB.")
    try:
        graph, known = _emit_graph(network, preprocessing, coverage)
    except UnicodeEncodeError as error:
        raise InputError(
            f"{error.object!r} is a text in the data that UTF-8, and so an ONNX file, cannot hold: correct it, and "
            "train again."
        ) from None
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(ML, ML_OPSET)]
    model = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opsets, doc_string=repr(network))
    model.producer_name, model.producer_version = "gpu_backprop", sys.modules["gpu_backprop"].__version__
    told = {name: value if isinstance(value, str) else json.dumps(value) for name, value in known.items() if value}
    helper.set_model_props(model, told)
    checker.check_model(model, full_check=True)
    return model


def _emit_graph(network: Network, preprocessing: bool, coverage: float | None) -> tuple[Any, dict[str, Any]]:
    """Returns the GraphProto, and what the metadata are to say."""
    prepared, dtype = network.preprocessing, np.float64 if network.dtype == np.float64 else np.float32
    known: dict[str, Any] = {"trained_by": network.trained_by}
    if prepared is not None:
        known |= {"task": prepared.task, "columns": prepared.columns, "inputs": prepared.features}
    if prepared is not None and preprocessing:
        g = Graph(dtype, prepared.columns)
        x = emit_x(g, prepared)
    else:
        g = Graph(dtype)
        x = g.input(ARRAY, dtype, network.inputs, "rows that are prepared" if prepared else "rows of numbers")
    y = emit_network(g, network, x)
    if (classes := class_names(network)) is None:
        known["coverage"] = _emit_quantities(g, network, y, coverage)
    elif coverage is None:
        _emit_classes(g, network, y, classes)
        known["classes"] = classes
    else:
        why = "the network predicts classes, whose probabilities say how sure it is"
        raise InputError(f"{why}, and has no intervals: leave coverage= (--interval) out.")
    return g.finish("network"), known


def _emit_classes(g: Graph, network: Network, y: str, names: list[str | int]) -> None:
    """Adds the label of each row, and its probabilities; of one output it is whether that is above ½."""
    if network.outputs == 1:
        y = g.Concat(g.Sub(1.0, y), y, axis=-1)
    kind = object if isinstance(names[0], str) else np.int64
    g.output(g.Gather(np.array(names, kind), g.ArgMax(y, axis=-1, keepdims=0)), "label", kind)
    called = "probabilities" if network.last.activation.name in PROBABILITIES else "scores"
    g.output(y, called, g.dtype, max(2, network.outputs))


def _emit_quantities(g: Graph, network: Network, y: str, coverage: float | None) -> float | None:
    """Adds the prediction, in the units of the data where they are known, and its interval; returns its coverage."""
    intervals, dtype, name = network.intervals, g.dtype, "y"
    if network.preprocessing is not None:
        y, dtype, name = emit_units(g, network.preprocessing, y), np.dtype(np.float64), "prediction"
    g.output(y, name, dtype, network.outputs)
    if coverage is None:
        coverage = 0.9 if intervals is not None and intervals.most >= 0.9 else None
    if coverage is None:
        return None
    if intervals is None:
        raise InputError("the network has no prediction intervals: leave coverage= (--interval) out.")
    width = intervals.half_widths(coverage)
    middle = g.cast(y, np.float64)
    g.output(g.Sub(middle, width), "low", np.float64, network.outputs)
    g.output(g.Add(middle, width), "high", np.float64, network.outputs)
    return coverage
