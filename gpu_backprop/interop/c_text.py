"""The text of a C header: layers, activations and the preprocessing of numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.data import Preprocessing
from gpu_backprop.data.array_inputs import WHITE, ArrayInputs, ByteInputs
from gpu_backprop.data.messages import listed
from gpu_backprop.data.number_columns import NumberColumn
from gpu_backprop.data.scaling import BOUND, QuantileScaling, RobustScaling, StandardScaling
from gpu_backprop.data.target import RegressionTarget
from gpu_backprop.interop.exporting import class_names, known_activation, parameter
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.layer import Layer
from gpu_backprop.network.layers import Bias, Dense, Dropout, Scale
from gpu_backprop.network.network import Network
from gpu_backprop.network.periodic import Periodic

MATH = re.compile(r"\b(cos|erfc|exp|expm1|fabs|log|log1p|sin|sqrt|tanh)\(")
"""The functions of math.h that formulas call; those of float end in f."""

HELPERS = {
    "gelu": ("z", "A(0.5) * z * erfc(A(-0.7071067811865476) * z)"),
    "gated": ("z, w", "z / (A(1) + exp(-w))"),
    "cubic": ("z", "A(1.5957691216057308) * z * (A(1) + A(0.044715) * z * z)"),
    "mish": ("z", "z * tanh((z > A(0) ? z : A(0)) + log1p(exp(-fabs(z))))"),
}
"""What formulas of activations call besides, see kernels/formulas.cuh: arguments and value."""

LINE = 8
"""Numbers on a line."""


def quantise(weight: Array) -> tuple[Array, Array]:
    """Rounds weights (inputs, units) to whole numbers from −127 to 127 times a scale of each unit; returns both, int8
    and float32 (units,)."""
    scales = (np.abs(weight).max(axis=0) / 127).astype(np.float32)
    return np.rint(weight / np.where(scales > 0, scales, 1)).clip(-127, 127).astype(np.int8), scales


class Writer:
    """Writes the header of one network. In the bodies, `a` is what a layer reads, `b` what it writes."""

    def __init__(self, network: Network, name: str, int8: bool, preprocessing: bool) -> None:
        self.network, self.name, self.int8 = network, name, int8
        self.prepared: Preprocessing | None = network.preprocessing
        self.dtype = np.dtype(np.float64 if network.dtype == np.float64 else np.float32)
        self.number, self.suffix = ("double", "") if self.dtype == np.float64 else ("float", "f")
        self.reads_rows = self.prepared is not None and preprocessing
        self.classes = class_names(network)
        self.inputs, self.outputs = network.inputs, len(self.classes or [None] * network.outputs)
        self.arrays: list[str] = []
        self.fills = False
        self.used: dict[str, None] = {}
        self.own: dict[str, str] = {}

    def header(self, remark: str = "") -> str:
        """Returns the text of the file; `remark` ends the comment above."""
        network, name, number = self.network, self.name, self.number
        body = [self._read()]
        for place, layer in enumerate(network.layers):
            if type(layer) not in LAYERS:
                raise InputError(f"{layer!r} is a layer of your own, which cannot be written in C.")
            if written := LAYERS[type(layer)](self, layer, place):
                body.append(f"  /* layers[{place}], {type(layer).__name__} */\n{written}")
        body.append(self._write())
        width = max(network.inputs, *(layer.units for layer in network.layers))
        measured = f"\n\n   {remark}." if remark else ""
        return f"""\
/* {name}: a multi-layer perceptron that gpu_backprop wrote. C99 or C++11, with math.h and string.h.

   void {name}_predict(const {number} *x, {number} *y)
   x: {self.inputs} numbers{self._read_told()}
   y: {self.outputs} {self._told()}{measured} */

#ifndef {name.upper()}_H
#define {name.upper()}_H

#include <math.h>
#include <string.h>

#define {name}_INPUTS {self.inputs}
#define {name}_OUTPUTS {self.outputs}

{"".join(self.arrays)}
{"".join(self._helpers())}static inline void {name}_predict(const {number} *x, {number} *y) {{
  {number} first[{width}], second[{width}], *a = first, *b = second, *other;
  int i, j, k;
  (void)i, (void)j, (void)k, (void)other;
{"".join(body)}}}
{self._label()}
#endif
"""

    # Parts of the header ----------------------------------------------------------------------------------------------

    def array(self, name: str, kind: str, values: Iterable[str]) -> str:
        """Adds a constant array, and returns its name."""
        texts = list(values)
        lines = [", ".join(texts[first : first + LINE]) for first in range(0, len(texts), LINE)]
        self.arrays.append(
            f"static const {kind}{self.name}_{name}[{len(texts)}] = {{\n  " + ",\n  ".join(lines) + "\n};\n"
        )
        return f"{self.name}_{name}"

    def numbers(self, name: str, values: Array, dtype: Any = None) -> str:
        """Adds an array of numbers in some dtype, or that of the network."""
        dtype = self.dtype if dtype is None else np.dtype(dtype)
        kind = {"float32": "float ", "float64": "double ", "int8": "signed char ", "int32": "int "}[dtype.name]
        return self.array(name, kind, map(literal, np.asarray(values).astype(dtype).ravel()))

    def formula(self, text: str) -> str:
        """Writes a formula of a table, in which A is the type of its numbers, in C."""
        for name in HELPERS:
            if re.search(rf"\b{name}\(", text):
                self.used.setdefault(name)
                text = re.sub(rf"\b{name}\(", f"{self.name}_{name}(", text)
        text = re.sub(r"\bA\b", self.number, re.sub(r"\bA\(", f"({self.number})(", text))
        return MATH.sub(rf"\1{self.suffix}(", text)

    def _helpers(self) -> list[str]:
        """Writes the functions that the formulas call."""
        written = []
        for name in self.used:
            arguments, value = HELPERS[name]
            takes = ", ".join(f"{self.number} {argument}" for argument in arguments.split(", "))
            written.append(
                f"static inline {self.number} {self.name}_{name}({takes}) {{ return {self.formula(value)}; }}\n\n"
            )
        for body, name in self.own.items():
            lines = body.replace("; ", ";\n  ")
            written.append(f"static inline {self.number} {name}({self.number} z) {{\n  {lines}\n}}\n\n")
        return written

    def _read_told(self) -> str:
        if self.prepared is None:
            return ""
        if not self.reads_rows:
            return ", a row that is prepared already, as preprocessing.transform gives it"
        return ", a row of the data before any scaling" + ", NAN where a number is missing" * self.fills

    def _told(self) -> str:
        if self.classes is not None:
            return f"numbers, one for each of {self.name}_classes"
        return f"number{'s' * (self.network.outputs > 1)}{', in the units of the data' * (self.prepared is not None)}"

    def _label(self) -> str:
        """Writes what finds the largest output."""
        if self.classes is None:
            return ""
        return f"""
/* The number of the most probable class. */
static inline int {self.name}_label(const {self.number} *y) {{
  int j, best = 0;
  for (j = 1; j < {self.name}_OUTPUTS; ++j) best = y[j] > y[best] ? j : best;
  return best;
}}
"""

    # The body of predict ----------------------------------------------------------------------------------------------

    def _read(self) -> str:
        """Makes of x what the first layer reads."""
        if self.prepared is None or not self.reads_rows:
            return f"  memcpy(a, x, sizeof(*a) * {self.inputs});\n"
        inputs, _ = self.prepared.parts
        if isinstance(inputs, ByteInputs):
            return f"  for (i = 0; i < {self.inputs}; ++i) a[i] = x[i] / {WHITE};\n"
        if isinstance(inputs, ArrayInputs):
            scaling, indicated = inputs.scaling, set(inputs.indicated.tolist())
        else:
            columns = [column for column in inputs.columns if isinstance(column, NumberColumn)]
            if len(columns) < len(inputs.columns):
                others = listed(column.name for column in inputs.columns if not isinstance(column, NumberColumn))
                raise InputError(
                    f"a C header takes columns of numbers alone, and these are none: {others}. Export the network to "
                    "ONNX, or for rows that are prepared already, with preprocessing=False (--prepared)."
                )
            parts = [column.scaling for column in columns]
            scaling = type(parts[0]).concatenate(parts)
            indicated = {k for k, column in enumerate(columns) if column.indicator}
            self.array("columns", "char *const ", (c_string(column.name) for column in columns))
        self.inputs, one = len(scaling), inputs.one
        lines = ["double v = x[i];"]
        self.fills = scaling.fill is not None
        if scaling.fill is not None:
            lines.append(f"if (v != v) v = {self.numbers('fill', scaling.fill, np.float64)}[i];")
        if isinstance(scaling, QuantileScaling):
            ends = np.cumsum([0, *map(len, scaling.values)])
            first = self.numbers("first", ends, np.int32)
            points = self.numbers("points", np.concatenate(scaling.values), np.float64)
            scores = self.numbers("scores", np.concatenate(scaling.scores), np.float64)
            lines += [
                f"j = {first}[i], k = {first}[i + 1] - 1;",
                f"v = v < {points}[j] ? {points}[j] : v > {points}[k] ? {points}[k] : v;",
                f"while (j < k && {points}[j + 1] <= v) ++j;",
                f"v = j == k ? {scores}[j] : {scores}[j] + (v - {points}[j]) * ({scores}[j + 1] - {scores}[j]) "
                f"/ ({points}[j + 1] - {points}[j]);",
            ]
        else:
            assert isinstance(scaling, StandardScaling | RobustScaling)
            center = self.numbers("center", scaling.center, np.float64)
            spread = self.numbers("spread", scaling.spread, np.float64)
            lines.append(f"v = {spread}[i] > 0 ? (v - {center}[i]) / {spread}[i] : 0;")
        if scaling.clip:
            lines.append(f"v = v > 1e100 ? {BOUND} : v < -1e100 ? -{BOUND} : v / sqrt(1 + v * v / {BOUND**2});")
        lines.append("*other++ = (float)v;")
        if indicated:
            flags = self.numbers("indicated", np.isin(np.arange(len(scaling)), list(indicated)), np.int8)
            lines.append(f"if ({flags}[i]) *other++ = x[i] != x[i] ? (float){one!r} : 0;")
        inside = "".join(f"    {line}\n" for line in lines)
        return f"  other = a;\n  for (i = 0; i < {self.inputs}; ++i) {{\n{inside}  }}\n"

    def _write(self) -> str:
        """Makes y of what the last layer wrote."""
        network, target = self.network, None if self.prepared is None else self.prepared.parts[1]
        if self.classes is not None:
            texts = isinstance(self.classes[0], str)
            self.array(
                "classes", "char *const " if texts else "long long ", map(c_string if texts else str, self.classes)
            )
            if network.outputs == 1:
                return "  y[0] = 1 - a[0];\n  y[1] = a[0];\n"
        elif isinstance(target, RegressionTarget):
            mean = self.numbers("mean", target.scaling.center, np.float64)
            std = self.numbers("std", target.scaling.spread, np.float64)
            lines = [f"double v = a[j] * {std}[j] + {mean}[j];"]
            if target.range is not None:
                low, high = (
                    self.numbers(f"{k}", of, np.float64) for k, of in zip(("low", "high"), target.range, strict=True)
                )
                lines.append(f"v = v < {low}[j] ? {low}[j] : v > {high}[j] ? {high}[j] : v;")
            inside = "".join(f"    {line}\n" for line in [*lines, f"y[j] = ({self.number})v;"])
            return f"  for (j = 0; j < {network.outputs}; ++j) {{\n{inside}  }}\n"
        return f"  memcpy(y, a, sizeof(*y) * {network.outputs});\n"

    def activate(self, layer: Layer, *lines: str) -> str:
        """Writes b[j] = f(z) for all units; `lines` set z, a number that they find declared."""
        activation, n, exp = layer.activation, layer.units, f"exp{self.suffix}"
        if activation.expression:
            body = self.formula(activation.cuda_value)
            value = self.own.setdefault(body, f"{self.name}_formula{len(self.own)}") + "(z)"
        else:
            known_activation(layer, ACTIVATIONS)
            value = "z" if activation.rowwise else self.formula(activation.cuda_value)
        inside = "".join(f"    {line}\n" for line in [f"{self.number} z = {lines[0]};", *lines[1:], f"b[j] = {value};"])
        loop = f"  for (j = 0; j < {n}; ++j) {{\n{inside}  }}\n"
        if activation.rowwise:  # softmax
            loop += f"""\
  {{
    {self.number} most = b[0], sum = 0;
    for (j = 1; j < {n}; ++j) most = b[j] > most ? b[j] : most;
    for (j = 0; j < {n}; ++j) sum += b[j] = {exp}(b[j] - most);
    for (j = 0; j < {n}; ++j) b[j] /= sum;
  }}
"""
        return loop + SWAP

    def values(self, layer: Layer, place: int, name: str) -> str:
        """Adds an array of parameters."""
        return self.numbers(f"{name}{place}", parameter(self.network, layer, name, self.dtype))


SWAP = "  other = a, a = b, b = other;\n"
"""What a layer wrote is what the next one reads."""


def _dense(writer: Writer, layer: Layer, place: int) -> str:
    weight, more = parameter(writer.network, layer, "weight", writer.dtype), []
    if writer.int8:
        weight, scales = quantise(weight)
        more.append(f"z *= {writer.numbers(f'scale{place}', scales)}[j];")
    name = writer.numbers(f"weight{place}", weight.T, weight.dtype)
    if "bias" in layer.parameter_shapes():
        more.append(f"z += {writer.values(layer, place, 'bias')}[j];")
    n = layer.inputs
    return writer.activate(layer, "0", f"for (i = 0; i < {n}; ++i) z += a[i] * {name}[j * {n} + i];", *more)


def _bias(writer: Writer, layer: Layer, place: int) -> str:
    return writer.activate(layer, f"a[j] + {writer.values(layer, place, 'bias')}[j]")


def _scale(writer: Writer, layer: Layer, place: int) -> str:
    return writer.activate(layer, f"a[j] * {writer.values(layer, place, 'weight')}[j]")


def _periodic(writer: Writer, layer: Layer, place: int) -> str:
    """(Aᵀ·cos(2π·x_i·w + b) + a, x_i) of each number, then the other inputs."""
    assert isinstance(layer, Periodic)
    numbers, frequencies, more = layer.parameter_shapes()["weight"]
    units, weight, bias = more - 1, writer.values(layer, place, "weight"), writer.values(layer, place, "bias")
    return f"""\
  for (i = 0; i < {numbers}; ++i) {{
    const {writer.number} *w = {weight} + i * {frequencies * more}, *c = {bias} + i * {frequencies + units};
    for (k = 0; k < {units}; ++k) b[i * {more} + k] = c[{frequencies} + k];
    for (j = 0; j < {frequencies}; ++j) {{
      {writer.number} wave = cos{writer.suffix}(({writer.number}){2 * np.pi!r} * w[j * {more}] * a[i] + c[j]);
      for (k = 0; k < {units}; ++k) b[i * {more} + k] += w[j * {more} + 1 + k] * wave;
    }}
    b[i * {more} + {units}] = a[i];
  }}
  for (i = {numbers}; i < {layer.inputs}; ++i) b[i + {numbers * units}] = a[i];
{SWAP}"""


LAYERS: Mapping[type[Layer], Callable[[Writer, Layer, int], str]] = {
    Dense: _dense,
    Bias: _bias,
    Scale: _scale,
    Dropout: lambda writer, layer, place: "",
    Periodic: _periodic,
}


def literal(value: Any) -> str:
    """Writes a number so that C reads the same bits."""
    if isinstance(value, np.integer):
        return str(value)
    text = f"{value:.9g}" if isinstance(value, np.float32) else repr(float(value))
    return text + ".0" * text.lstrip("-").isdigit() + "f" * isinstance(value, np.float32)


def c_string(text: object) -> str:
    """Writes a text in C, as UTF-8: all but plain ASCII by its bytes, and ? too, which may begin a trigraph."""
    plain = set(range(32, 127)) - set(b'"\\?')
    encoded = str(text).encode("utf-8", "backslashreplace")
    written = "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in encoded)
    return f'"{written}"'
