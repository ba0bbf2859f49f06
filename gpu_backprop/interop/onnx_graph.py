"""The nodes of an ONNX graph, and layers and activations in its operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import pi, sqrt
from typing import Any

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.expression import parse
from gpu_backprop.backend.expression_code import Program
from gpu_backprop.backend.expression_tree import COMPARISONS
from gpu_backprop.backend.formula import Array
from gpu_backprop.interop.exporting import known_activation, parameter
from gpu_backprop.network.activations import LEAK, SELU_ALPHA, SELU_SCALE
from gpu_backprop.network.gelu import ERFC_DOUBLE
from gpu_backprop.network.layer import Layer
from gpu_backprop.network.layers import Bias, Dense, Dropout, Scale
from gpu_backprop.network.network import Network
from gpu_backprop.network.periodic import Periodic

Operand = str | float | Array
"""What a node reads: the name of a value, or a constant."""

ML = "ai.onnx.ml"
"""The domain of the operators that are not about tensors of numbers, such as LabelEncoder."""


class Graph:
    """Collects nodes. A method with the name of an operator, such as `graph.MatMul(x, weight)`, adds a node and returns
    the name of its value; constants that are Python floats get the dtype of the network.

    Args:
        columns: the names of the inputs to come, which nothing else may have.

    Attributes:
        dtype: in which the network is worked out, float32 or float64.
    """

    def __init__(self, dtype: Any, columns: Iterable[str] = ()) -> None:
        self.dtype = np.dtype(dtype)
        self._nodes: list[Any] = []
        self._constants: dict[str, Array] = {}
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._taken, self._named, self._last = {*columns}, set[str](), Counter[str]()

    def __getattr__(self, operator: str) -> Callable[..., str]:
        if not operator[:1].isupper():
            raise AttributeError(operator)
        return partial(self.add, operator)

    def add(self, operator: str, *operands: Operand, name: str = "", domain: str = "", **attributes: Any) -> str:
        """Adds a node with one value, and returns its name."""
        from onnx import helper

        read = [operand if isinstance(operand, str) else self.constant(operand) for operand in operands]
        name = self._fresh(name or operator.lower())
        self._nodes.append(helper.make_node(operator, read, [name], name=name, domain=domain, **attributes))
        return name

    def constant(self, value: float | Array, name: str = "constant") -> str:
        """Adds a constant, a float or an array, and returns its name."""
        name = self._fresh(name)
        self._constants[name] = np.asarray(value, self.dtype if type(value) is float else None)
        return name

    def input(self, name: str, dtype: Any, width: int, told: str) -> str:
        """Adds an input (rows, width): of object for texts; `told` says what it takes."""
        from onnx import helper

        if not name or name in self._named:
            raise InputError(f"an input of the graph cannot be called {name!r}: give this column another name.")
        self._named.add(name)
        self._taken.add(name)
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self._inputs.append(helper.make_tensor_value_info(name, kind, ["rows", width], doc_string=told))
        return name

    def output(self, value: str, name: str, dtype: Any, *shape: int) -> None:
        """Makes a value (rows, ...) an output; where an input has its name, it is called `predicted NAME`."""
        from onnx import helper

        while name in self._taken:
            name = f"predicted {name}"
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self._outputs.append(helper.make_tensor_value_info(self.Identity(value, name=name), kind, ["rows", *shape]))

    def cast(self, value: str, dtype: Any) -> str:
        """Converts a value to another dtype."""
        from onnx import helper

        return self.add("Cast", value, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def finish(self, name: str) -> Any:
        """Returns the GraphProto, without what no output needs."""
        from onnx import helper, numpy_helper

        needed, kept = {output.name for output in self._outputs}, []
        for node in reversed(self._nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        constants = [numpy_helper.from_array(array, key) for key, array in self._constants.items() if key in needed]
        return helper.make_graph(kept[::-1], name, self._inputs, self._outputs, constants)

    def _fresh(self, name: str) -> str:
        """Returns a name that nothing has: the one that is wanted, or with a number."""
        wanted = name
        while name in self._taken:
            self._last[wanted] += 1
            name = f"{wanted}_{self._last[wanted]}"
        self._taken.add(name)
        return name


# Activations ----------------------------------------------------------------------------------------------------------


def _gelu(g: Graph, z: str) -> str:
    """z·Φ(z). ONNX Runtime has no erf in float64, where it is network/gelu.py's formula: max(z, 0) − a·e^(−a²/2)·t."""
    if g.dtype == np.float32:
        return g.Gelu(z)
    a = g.Min(g.Abs(z), 40.0)
    x = g.Mul(a, sqrt(0.5))
    t = g.Div(g.Sub(x, 3.0), g.Add(x, 3.0))
    tail = g.constant(ERFC_DOUBLE[-1])
    for coefficient in ERFC_DOUBLE[-2::-1]:
        tail = g.Add(g.Mul(tail, t), coefficient)
    tail = g.Div(tail, g.Add(g.Mul(x, 4.0), 2.0))
    return g.Sub(g.Relu(z), g.Mul(g.Mul(a, tail), g.Exp(g.Mul(g.Mul(a, a), -0.5))))


def _gelu_tanh(g: Graph, z: str) -> str:
    """½z·(1 + tanh u) = z·σ(2u), u = √(2/π)·(z + 0.044715 z³)"""
    u = g.Mul(g.Mul(z, g.Add(g.Mul(g.Mul(z, z), 0.044715), 1.0)), sqrt(8 / pi))
    return g.Mul(z, g.Sigmoid(u))


def _softplus(g: Graph, z: str) -> str:
    return g.Add(g.Relu(z), g.Log(g.Add(g.Exp(g.Neg(g.Abs(z))), 1.0)))


def _elu(g: Graph, z: str, alpha: float = 1.0) -> str:
    return g.Add(g.Relu(z), g.Mul(g.Sub(g.Exp(g.Min(z, 0.0)), 1.0), alpha))


FUNCTIONS: Mapping[str, Callable[[Graph, str], str]] = {
    "identity": lambda g, z: z,
    "sigmoid": lambda g, z: g.Sigmoid(z),
    "tanh": lambda g, z: g.Tanh(z),
    "relu": lambda g, z: g.Relu(z),
    "leaky_relu": lambda g, z: g.Max(z, g.Mul(z, LEAK)),
    "elu": _elu,
    "selu": lambda g, z: g.Mul(_elu(g, z, SELU_ALPHA), SELU_SCALE),
    "softplus": _softplus,
    "softsign": lambda g, z: g.Div(z, g.Add(g.Abs(z), 1.0)),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": lambda g, z: g.Div(z, g.Add(g.Exp(g.Neg(z)), 1.0)),
    "mish": lambda g, z: g.Mul(z, g.Tanh(_softplus(g, z))),
    "exp": lambda g, z: g.Exp(z),
    "softmax": lambda g, z: g.Softmax(z, axis=-1),
}
"""Activations in operators that ONNX Runtime has in float32 and float64; LeakyRelu, Elu, Selu, Softplus, Softsign and
Mish it has in float32 alone, and so what it makes of z·σ(z)."""


# Expressions ----------------------------------------------------------------------------------------------------------


def _log1p(g: Graph, a: str) -> str:
    """log(u)·a/(u − 1), u = 1 + a, in which the rounding of u cancels (Kahan); a where u − 1 is 0 or infinite."""
    u = g.Add(a, 1.0)
    d = g.Sub(u, 1.0)
    return g.Where(g.Equal(d, g.Add(d, d)), a, g.Mul(g.Log(u), g.Div(a, d)))


def _expm1(g: Graph, a: str) -> str:
    """tanh(a/2)·(eᵃ + 1), which subtracts nothing"""
    return g.Mul(g.Tanh(g.Mul(a, 0.5)), g.Add(g.Exp(a), 1.0))


OPERATIONS: Mapping[str, str | Callable[[Graph, str], str]] = {
    "+": "Add", "-": "Sub", "*": "Mul", "/": "Div", "neg": "Neg", "exp": "Exp", "expm1": _expm1, "log": "Log",
    "log1p": _log1p, "sqrt": "Sqrt", "abs": "Abs", "sign": "Sign", "tanh": "Tanh", "sin": "Sin",
    "cos": lambda g, a: cosine(g, a, g.dtype), "max": "Max", "min": "Min",
    "<": "Less", "<=": "LessOrEqual", ">": "Greater", ">=": "GreaterOrEqual",
}  # fmt: skip
"""The steps of a Program. It has sigmoid and softplus in parts: ONNX Runtime's Sigmoid in float32 is right to 5e-8,
also where it is less than that."""


def emit_expression(g: Graph, expression: str, z: str) -> str:
    """Adds an expression of z, in the steps in which NumPy works it out."""
    program, found = Program(parse(expression, "z")), list[Any]()
    for step in program.steps:
        operands = [found[place] for place in step.operands]
        if step.op in ("number", "name"):
            found.append(z if step.op == "name" else step.leaf)
            continue
        operation, read = OPERATIONS[step.op], 2 if step.op in COMPARISONS else len(operands)
        value = g.add(operation, *operands[:read]) if isinstance(operation, str) else operation(g, *operands)
        found.append(g.Where(value, *operands[2:]) if step.op in COMPARISONS else value)
    return str(found[program.roots[0]])


# Layers ---------------------------------------------------------------------------------------------------------------


def _dense(g: Graph, layer: Layer, x: str, weight: str, bias: str = "") -> str:
    z = g.MatMul(x, weight)
    return g.Add(z, bias) if bias else z


def _periodic(g: Graph, layer: Layer, x: str, weight: str, bias: str) -> str:
    """z = (Aᵀ·cos(2π·x_i·w + b) + a, x_i) of each number, then the other inputs; the axes are (..., numbers, rows, k)
    until they are (..., rows, numbers, k)."""
    assert isinstance(layer, Periodic)
    numbers, frequencies, models = layer.parameter_shapes()["weight"][0], layer.frequencies, len(layer.models_shape)
    axes = list(range(models))
    swap = [*axes, models + 1, models, models + 2]

    def part(value: str, first: int, end: int) -> str:
        return g.Slice(value, *(np.array([number]) for number in (first, end, -1)))

    embedded = g.Transpose(g.Unsqueeze(part(x, 0, numbers), np.array([-1])), perm=swap)
    frequency = g.Transpose(part(weight, 0, 1), perm=[*axes, models, models + 2, models + 1])
    shifted, after = (
        g.Unsqueeze(part(bias, *ends), np.array([-2])) for ends in ((0, frequencies), (frequencies, 1 << 31))
    )
    u = g.Add(g.Mul(embedded, g.Mul(frequency, 2 * pi)), shifted)
    e = g.Add(g.MatMul(cosine(g, u, g.dtype), part(weight, 1, 1 << 31)), after)
    joined = g.Transpose(g.Concat(e, embedded, axis=-1), perm=swap)
    flat = g.Reshape(joined, np.array([0] * (models + 1) + [numbers * (1 + layer.embedding)]))
    return g.Concat(flat, part(x, numbers, 1 << 31), axis=-1) if layer.inputs > numbers else flat


LAYERS: Mapping[type[Layer], Callable[..., str]] = {
    Dense: _dense,
    Bias: lambda g, layer, x, bias: g.Add(x, bias),
    Scale: lambda g, layer, x, weight: g.Mul(x, weight),
    Dropout: lambda g, layer, x: x,
    Periodic: _periodic,
}


def emit_network(g: Graph, network: Network, x: str) -> str:
    """Adds the network, and returns the name of y, (rows, outputs): of several members the mean."""
    if network.models_shape:
        x = g.Expand(x, np.array([*network.models_shape, 1, 1]))
    for place, layer in enumerate(network.layers):
        if type(layer) not in LAYERS:
            raise InputError(f"{layer!r} is a layer of your own, which ONNX has no operators for that are known here.")
        names = layer.parameter_shapes()
        arrays = {name: parameter(network, layer, name, g.dtype) for name in names}
        x = LAYERS[type(layer)](g, layer, x, *(g.constant(arrays[name], f"layers.{place}.{name}") for name in names))
        if text := layer.activation.expression:
            x = emit_expression(g, text, x)
        else:
            x = FUNCTIONS[known_activation(layer, FUNCTIONS)](g, x)
    return g.ReduceMean(x, np.array([0]), keepdims=0) if network.models_shape else x


def cosine(g: Graph, u: str, dtype: Any) -> str:
    """Adds cos u; ONNX Runtime 1.22 has no Cos in float64, and Sin it has."""
    return g.Cos(u) if dtype == np.float32 else g.Sin(g.Add(u, np.array(pi / 2)))


def joined(g: Graph, values: Sequence[str]) -> str:
    """Puts values side by side."""
    return values[0] if len(values) == 1 else g.Concat(*values, axis=-1)
