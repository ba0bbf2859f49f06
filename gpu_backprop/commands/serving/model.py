"""A network that is asked for predictions: by rows of JSON, or by a file of CSV, as `gpu-backprop predict` reads it."""

from __future__ import annotations

import argparse
import csv
import io
import math
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpu_backprop as gb
from gpu_backprop.backend.errors import InputError
from gpu_backprop.commands.datasets import unlike_training
from gpu_backprop.commands.predict import half_widths, plain, predictions
from gpu_backprop.commands.serving.form import describe_model
from gpu_backprop.commands.serving.rows import LISTED, read_json, read_rows, refuse_more, refuse_wide
from gpu_backprop.commands.sources import Data, load_rows
from gpu_backprop.data import DataError
from gpu_backprop.data.csv_file import DELIMITERS
from gpu_backprop.data.files import GZIP_MAGIC
from gpu_backprop.data.limits import memory_limit
from gpu_backprop.data.messages import counted
from gpu_backprop.data.reading import kind_of

FILE = "rows.csv"
"""What messages call the file of a request."""

COVERAGE = 0.9
"""Of the intervals that answers in JSON have, unless another was asked for."""


@dataclass(frozen=True)
class ServedModel:
    """A network, and how it answers. Its methods may be called from any thread, but one at a time.

    Attributes:
        name: what the page calls it.
        interval: the coverage of the intervals in CSV; None: it has none, and JSON has those of COVERAGE.
        most_rows: rows that are predicted at one time.
    """

    net: gb.Network
    name: str
    interval: float | None
    most_rows: int

    @property
    def coverage(self) -> float | None:
        """The coverage of intervals in JSON; None where the network has none, or has seen too few rows for them."""
        intervals = self.net.intervals
        return self.interval or (COVERAGE if intervals is not None and intervals.most >= COVERAGE else None)

    def describe(self) -> dict[str, Any]:
        """Describe the network as plain data for JSON; see `describe_model`."""
        return {"name": self.name, **describe_model(self.net), "interval": self.coverage, "most_rows": self.most_rows}

    def predict_json(self, body: bytes) -> dict[str, Any]:
        """Predict the rows of a request in JSON.

        Returns:
            By name: "predictions", a class or a number each, or a list of several numbers; "probabilities" of classes,
            or "intervals" of numbers, where there are some; and "warnings".

        Raises:
            InputError, DataError: the rows cannot be read, or are not such as the training data had.
        """
        net, coverage = self.net, self.coverage
        with memory_limit(None):  # what this request takes is counted, and not what others took
            rows = read_rows(read_json(body), net.preprocessing, self.most_rows)
            (_, *lines), warnings = self._predict(net.preprocessing.as_in_training(rows), coverage)
        if net.classes is not None:
            classes = {plain(name): name for name in net.classes}
            answers = {
                "predictions": [classes[line[0]] for line in lines],
                "probabilities": [[_number(text) for text in line[1:]] for line in lines],
            }
            return {**answers, "warnings": warnings}
        values = [[_number(text) for text in line] for line in lines]
        outputs = net.outputs
        answers = {"predictions": [_alone(row[:outputs]) for row in values]}
        if coverage is not None:
            ends = range(outputs, 3 * outputs, 2)
            answers["intervals"] = [_alone([row[at : at + 2] for at in ends]) for row in values]
        return {**answers, "warnings": warnings}

    def predict_csv(self, body: bytes) -> tuple[str, list[str]]:
        """Predict the rows of a CSV file; return what `gpu-backprop predict` writes, and what it warns of.

        Raises:
            InputError, DataError: the file cannot be read, or is not such as the training data were.
        """
        if not self.net.preprocessing.columns:
            inputs = counted(describe_model(self.net)["inputs"], "number")
            raise InputError(
                f"the network learned from arrays, and takes no CSV; POST /predict with {LISTED}, {inputs} a row"
            )
        with tempfile.TemporaryDirectory(prefix="gpu-backprop-") as folder, memory_limit(None):
            path = Path(folder, FILE)
            path.write_bytes(body)
            try:
                if body.startswith(GZIP_MAGIC) or kind_of(path) != "csv":
                    raise InputError(f"{path} is no text; give CSV that is not packed")
                header = re.split(rb"[\r\n]", body.lstrip(), maxsplit=1)[0]
                refuse_wide(max(map(header.count, DELIMITERS.encode())), self.net.preprocessing)
                options = argparse.Namespace(data=str(path), delimiter=None, part=None)
                data = load_rows(options, self.net.preprocessing)
                refuse_more(data.rows, self.most_rows)
                lines, warnings = self._predict(data, self.interval)
            except (DataError, InputError) as error:
                raise type(error)(str(error).replace(f"{folder}{os.sep}", "")) from None
        written = io.StringIO()
        csv.writer(written, lineterminator="\n").writerows(lines)
        return written.getvalue(), [warning.replace(f"{folder}{os.sep}", "") for warning in warnings]

    def _predict(self, data: Data, coverage: float | None) -> tuple[list[Sequence[str]], list[str]]:
        """Return the header and the fields of each row as `gpu-backprop predict` writes them, and its warnings."""
        net, lines = self.net, list[Sequence[str]]()
        x = net.preprocessing.transform(data)
        warnings = list(unlike_training(net.preprocessing, data))
        widths = None if coverage is None else half_widths(net, self.name, coverage)
        return lines, warnings + predictions(net, [x], lines.extend, data.source, plain, widths)


def _number(text: str) -> float | None:
    """Read a number as it stands in CSV; None for one that JSON has not."""
    return value if math.isfinite(value := float(text)) else None


def _alone(values: list[Any]) -> Any:
    """Return the value of a network's only output, or those of all."""
    return values[0] if len(values) == 1 else values
