"""Initial weights: drawing the random numbers of a new network.

A weight W is (inputs, outputs). Its scale is chosen so that neither the values on their way up nor the gradients on
their way down grow or fade from layer to layer. All draws are float64 on the host: float32 and float64 networks, on
any device, begin alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from gpu_backprop.backend.errors import InputError, choose
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.suggestions import explain_arguments
from gpu_backprop.network.numbers import number

Shape = tuple[int, int]
Draw = Callable[["np.random.Generator", Shape], Array]  # in quotes: NumPy imports numpy.random when it is used


@dataclass(frozen=True)
class Initializer:
    """A rule by which a weight is filled.

    Attributes:
        name: what a summary shows.
        draw: (generator, (inputs, outputs)) -> an array of that shape. Your own function may stand here.
        value: what `constant` was given.
    """

    name: str
    draw: Draw
    value: float | None = None

    def fill(self, generator: np.random.Generator, shape: Shape) -> Array:
        """Draws a weight, float64 (inputs, outputs); raises InputError if `draw` gave anything else."""
        weight = np.asarray(self.draw(generator, shape), np.float64)
        if weight.shape != shape or not np.isfinite(weight).all():
            raise InputError(
                f"initializer {self.name!r} drew an array of shape {weight.shape} for a weight of shape {shape}; "
                "it has to return finite numbers, one for each (input, output)."
            )
        return weight

    def fill_bias(self, generator: np.random.Generator, units: int) -> Array | None:
        """Draws b, float64 (units,); None: it begins at 0."""
        return None

    def rate_factor(self, inputs: int) -> float:
        """Returns what the learning rate of W is multiplied by."""
        return 1.0

    def spec(self) -> str | dict[str, object]:
        """Returns it as plain data, from which `initializer` makes it again. Of your own function the name alone is
        kept: files hold data, never code, and the weights that it drew are among the data."""
        if INITIALIZERS.get(self.name) == self:
            return self.name
        return {"name": self.name, "own": True} if self.value is None else {"name": self.name, "value": self.value}


def _glorot(inputs: int, outputs: int) -> float:
    """Var W between what the values and what the gradients ask for: Glorot and Bengio 2010, equations 12 and 16."""
    return 2 / (inputs + outputs)


def _he(inputs: int, outputs: int) -> float:
    """Var W that makes up for the half of the variance that a rectifier cuts off: He et al. 2015, equation 10."""
    return 2 / inputs


def _lecun(inputs: int, outputs: int) -> float:
    """Var W with which z has the variance of x: LeCun et al. 1998, Efficient BackProp, equation 16."""
    return 1 / inputs


@dataclass(frozen=True)
class _Scaled:
    """Independent draws with mean 0 and the variance that a rule gives. A record, and no closure, so that copies of an
    initializer are equal."""

    distribution: str
    variance: Callable[[int, int], float]

    def __call__(self, generator: np.random.Generator, shape: Shape) -> Array:
        variance = self.variance(*shape)
        if self.distribution == "normal":
            return generator.normal(0.0, math.sqrt(variance), shape)
        bound = math.sqrt(3 * variance)  # U(−r, r) has the variance r²/3
        return generator.uniform(-bound, bound, shape)


def _orthogonal(generator: np.random.Generator, shape: Shape) -> Array:
    """WᵀW = 1, or WWᵀ = 1 where W is wide, so that lengths are kept at any depth: Saxe et al. 2014."""
    q, r = np.linalg.qr(generator.standard_normal((max(shape), min(shape))))
    q *= np.where(np.diagonal(r) < 0, -1.0, 1.0)  # else Q would not be spread evenly over the rotations: Mezzadri 2007
    return q if shape[0] >= shape[1] else q.T


@dataclass(frozen=True)
class _NeuralTangent(Initializer):
    """The neural tangent parametrization, z = x@V/√d + b with V and b ~ N(0, 1), of d inputs (Jacot et al. 2018), as a
    layer with W = V/√d: W ~ N(0, 1/d). Adam moves V by the same at any width; so W moves by d^(−½) of it, which is the
    factor of its learning rate. (It is exact but for ε, which is not multiplied by √d. SGD's factor would be 1/d.)"""

    def fill_bias(self, generator: np.random.Generator, units: int) -> Array | None:
        return generator.standard_normal(units)

    def rate_factor(self, inputs: int) -> float:
        return 1 / math.sqrt(inputs)


def _zeros(generator: np.random.Generator, shape: Shape) -> Array:
    return np.zeros(shape)


def _constant(value: float, generator: np.random.Generator, shape: Shape) -> Array:
    return np.full(shape, value)


INITIALIZERS: Mapping[str, Initializer] = {
    row.name: row
    for row in (
        Initializer("glorot_uniform", _Scaled("uniform", _glorot)),
        Initializer("glorot_normal", _Scaled("normal", _glorot)),
        Initializer("he_uniform", _Scaled("uniform", _he)),
        Initializer("he_normal", _Scaled("normal", _he)),
        Initializer("lecun_uniform", _Scaled("uniform", _lecun)),
        Initializer("lecun_normal", _Scaled("normal", _lecun)),
        _NeuralTangent("ntp", _Scaled("normal", _lecun)),
        Initializer("orthogonal", _orthogonal),
        Initializer("zeros", _zeros),
    )
}
"""By name. `zeros` is for an output layer: in a hidden one it would leave all units alike for ever."""

RECTIFIERS = ("relu", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu", "mish", "softplus")


@explain_arguments
def constant(value: float) -> Initializer:
    """Makes an initializer that fills a weight with `value`, a finite number."""
    value = number("constant's value", value, "a finite number", hint=": every weight gets it")
    return Initializer("constant", partial(_constant, value), value)


def initializer(spec: object, activation: str) -> Initializer:
    """Returns the initializer that `spec` asks for: a name, an Initializer, what `Initializer.spec()` gave, or None.

    None chooses by the activation above the weight. The rectifiers, sharp or smooth, pass one side of zero and hold
    back most of the other, so that about half of the variance is lost in each layer: he_uniform (He et al. 2015).
    selu brings mean 0 and variance 1 about by itself where W has the variance 1/inputs: lecun_normal (Klambauer et
    al. 2017). All others: glorot_uniform (Glorot and Bengio 2010).
    """
    match spec:
        case Initializer():
            return spec
        case None:
            default = "lecun_normal" if activation == "selu" else "glorot_uniform"
            return INITIALIZERS["he_uniform" if activation in RECTIFIERS else default]
        case {"name": "constant", "value": value, **rest} if not rest:
            return constant(value)
        case {"name": str(name), "own": True, **rest} if not rest:
            return Initializer(name, _zeros)
        case "constant":
            raise InputError("the initializer 'constant' needs its value: gpu_backprop.constant(0.1).")
        case _:
            return choose("initializer", spec, INITIALIZERS)
