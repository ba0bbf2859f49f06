"""What is wrong with a training, seen in one step: units that do not learn, gradients that vanish, steps of the wrong
size, data that nobody scaled. Each finding comes with advice."""

from __future__ import annotations

import math
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gpu_backprop.backend.communicator import Communicator
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.operation import Operation
from gpu_backprop.backend.text_table import format_table, terminal_width
from gpu_backprop.display.html import cell_output, table, tag
from gpu_backprop.network.layer import Layer
from gpu_backprop.network.network import Network
from gpu_backprop.network.samples import Samples
from gpu_backprop.training.history import History, number

ROWS = 1024
"""Rows of the step that is looked at, evenly spread over those that are given."""

FLAT, MOSTLY = 0.01, 0.95
"""A unit is saturated where |f′| is below FLAT in this share of the rows: of tanh that is |y| > 0.995."""

MANY = 0.1
"""The share of a layer's units that is worth a sentence where they are dead or saturated."""

VANISHING = 1e-3
"""∇z of the first layer beside that of the last; its inverse is exploding."""

RATIOS = 1e-6, 0.1
"""|ΔW|/|W| of one step; about 1e-3 is usual, and beyond these something is wrong with the learning rate. A layer's own
factor on it is meant, and taken off; weights that begin at 0 are small for a while, and measured by usual ones."""

UNBALANCED = 2 / 3
"""The share of the rows in one class from which accuracy says little."""

HEADS = "layer", "|y|", "|∇z|", "|∇W|", "|ΔW|/|W|", "dead", "saturated"

OVERFIT, WORSE = 1.5, 1.05
"""How much larger a validation loss is than the training's, or than the best one before, where new rows are another
matter than the ones that were learned."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong: of what kind, what was seen, and what to do about it, each a sentence."""

    kind: str
    seen: str
    advice: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.seen}. {self.advice}."


@dataclass(frozen=True)
class LayerFigures:
    """One layer in the step: root mean squares over rows, units and members.

    Attributes:
        layer: its number and what it is.
        y, grad_z, grad_weight: of y, ∇z and ∇W; None of what no step works out, as in frozen layers.
        ratio: |ΔW|/|W| of the step; None too where W is 0, as it may begin.
        dead, saturated: shares of the units that learn from no row, and from next to none.
    """

    layer: str
    y: float
    grad_z: float | None
    grad_weight: float | None
    ratio: float | None
    dead: float
    saturated: float
    step: float | None = None  # the ratio that tells whether the learning rate is too large, see RATIOS


class Diagnosis:
    """What `Trainer.diagnose` found; print it. It is true where something is wrong.

    Attributes:
        rows: of the step that was looked at.
        layers: the LayerFigures of each layer, the first one first.
        findings: a Finding for each thing that is wrong, the most likely cause first.
    """

    def __init__(self, rows: int, layers: list[LayerFigures], findings: list[Finding]) -> None:
        self.rows, self.layers, self.findings = rows, layers, findings

    def __bool__(self) -> bool:
        return bool(self.findings)

    def __str__(self) -> str:
        return self._text(None)

    def describe(self) -> None:
        """Prints it, fitted to the width of a terminal."""
        print(self._text(terminal_width(sys.stdout)))

    def __repr__(self) -> str:
        return f"<Diagnosis of {self.rows:,} rows: {', '.join(of.kind for of in self.findings) or 'nothing is wrong'}>"

    def _repr_html_(self) -> str:
        of = tag("p", f"one step of {self.rows:,} rows")
        found = tag("ul", *map(partial(tag, "li"), self.findings or ("nothing is wrong",)))
        return cell_output(table(self._cells(), HEADS), of, found)

    def _cells(self) -> list[tuple[str, ...]]:
        return [
            (
                of.layer,
                *map(_figure, (of.y, of.grad_z, of.grad_weight, of.ratio)),
                *map("{:.0%}".format, (of.dead, of.saturated)),
            )
            for of in self.layers
        ]

    def _text(self, width: int | None) -> str:
        rows = (f"one step of {self.rows:,} rows", *[""] * 6)
        said = [
            textwrap.fill(f"- {finding}", width or 100, subsequent_indent="  ", break_on_hyphens=False)
            for finding in self.findings
        ]
        return "\n".join([format_table([HEADS, *self._cells(), rows], 1, width), "", *(said or ["nothing is wrong"])])


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


# One step, from its arrays --------------------------------------------------------------------------------------------


def examine_step(
    network: Network, arrays: Mapping[str, Array], before: Array, after: Array, scale: Array
) -> tuple[list[LayerFigures], list[Finding]]:
    """Looks at what a step wrote, by the names of its plan, and at the parameters before and after it, on the host;
    scale: what the gradients were multiplied by, one number a model."""
    figures = [
        _layer_figures(network, layer, arrays, before, after, scale)
        for layer in network.layers
        if f"z{layer.number}" in arrays
    ]
    return figures, [*_units(figures), *_gradients(figures), *_steps(figures)]


def _layer_figures(
    network: Network, layer: Layer, arrays: Mapping[str, Array], before: Array, after: Array, scale: Array
) -> LayerFigures:
    n, grad_z, weight, ratio, step = layer.number, None, None, None, None
    y = arrays.get(f"y{n}", arrays[f"z{n}"])
    if (found := arrays.get(f"∇z{n}")) is not None:
        grad_z = rms(found.astype(np.float64) / scale[..., None, None])
    for of, name, shape, start in network.places:
        if of is layer and name == "weight" and layer.trainable:
            place = np.s_[..., start : start + math.prod(shape)]
            gradient = arrays["∇" + layer.symbol(name)].astype(np.float64)
            weight = rms(gradient / scale.reshape(*scale.shape, *[1] * len(shape)))
            change, size = rms(after[place].astype(np.float64) - before[place]), rms(before[place])
            ratio = change / size if size else None
            step = change / (max(size, _usual_size(shape)) or 1.0) / max(1.0, layer.factors("weight")[0])
    dead, saturated = 0.0, 0.0
    if layer is not network.last and found is not None and f"∇y{n}" in arrays:
        dead, saturated = _idle(y, arrays[f"∇y{n}"], found)
    return LayerFigures(f"{n} {layer!r}", rms(y), grad_z, weight, ratio, dead, saturated, step)


def _usual_size(shape: tuple[int, ...]) -> float:
    """Returns the size of weights that make numbers neither larger nor smaller: of a Scale 1, of a Dense 1/√inputs."""
    return 0.0 if len(shape) > 2 else 1.0 if len(shape) == 1 else shape[0] ** -0.5


def _idle(y: Array, grad_y: Array, grad_z: Array) -> tuple[float, float]:
    """Counts the shares of dead and saturated units. ∇z = ∇y ⊙ f′ shows f′ where ∇y is not 0. A dead unit gives 0 in
    every row and never learns; a saturated one gives a bound of f."""
    asked = grad_y != 0
    flat = asked & (np.abs(grad_z) < FLAT * np.abs(grad_y))
    dead = ((grad_z == 0) | ~asked).all(axis=-2) & asked.any(axis=-2) & (y == 0).all(axis=-2)
    bounded = (flat & (np.abs(y) > MANY)).sum(axis=-2) >= MOSTLY * np.maximum(asked.sum(axis=-2), 1)
    return float(dead.mean()), float((bounded & ~dead).mean())


def rms(values: Array) -> float:
    """Returns the root of the mean square."""
    with np.errstate(all="ignore"):
        return float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) if values.size else 0.0


def _units(figures: list[LayerFigures]) -> Iterator[Finding]:
    for of in figures:
        if of.dead >= MANY:
            yield Finding(
                "dead units", f"{of.dead:.0%} of the units of layer {of.layer} are 0 in every row and get no gradient",
                "Lower the learning rate and begin anew, or use leaky_relu, elu or gelu",
            )  # fmt: skip
        if of.saturated >= MANY:
            yield Finding(
                "saturated units", f"{of.saturated:.0%} of the units of layer {of.layer} are at a bound of their "
                "activation in nearly every row, where its slope is almost 0",
                "Scale the inputs, lower the learning rate, or use relu",
            )  # fmt: skip


def _gradients(figures: list[LayerFigures]) -> Iterator[Finding]:
    sizes = [(of.layer, of.grad_z) for of in figures if of.grad_z is not None]
    begins = any(of.ratio is None and of.step is not None for of in figures)  # W of 0 lets nothing through
    if len(sizes) < 2 or not sizes[-1][1] or (begins and not sizes[0][1]):
        return
    (first, size), (last, size_of_last) = sizes[0], sizes[-1]
    share = size / size_of_last
    seen = f"∇z of layer {first} is {share:.1e} times that of layer {last}"
    if share < VANISHING:
        yield Finding(
            "vanishing gradients", seen, "Use relu or gelu, fewer layers, or weights that begin larger (init=)"
        )
    elif share > 1 / VANISHING:
        yield Finding(
            "exploding gradients", seen, "Use clip_norm=1.0, weights that begin smaller (init=), or fewer layers"
        )


def _steps(figures: list[LayerFigures]) -> Iterator[Finding]:
    ratios = {of.layer: of.ratio for of in figures if of.ratio is not None}
    low, high = RATIOS
    large = next((of for of in figures if of.step is not None and not of.step <= high), None)  # NaN is none that fits
    if large is not None:
        size = "from 0" if large.ratio is None else f"by {large.ratio:.1%} of its size"
        yield Finding(
            "steps too large", f"one step changes W of layer {large.layer} {size}",
            "Lower the learning rate, about 0.1% is usual",
        )  # fmt: skip
    if ratios and max(ratios.values()) < low:
        yield Finding(
            "steps too small", f"no layer's W changes by more than {max(ratios.values()):.1e} of its size in a step",
            "Unless the training has come to its end, raise the learning rate, about 1e-3 is usual",
        )  # fmt: skip


# Data and history -----------------------------------------------------------------------------------------------------


def examine_data(data: Samples, network: Network, unscaled: str) -> Iterator[Finding]:
    """Looks at inputs and targets; `unscaled`: what `unscaled.describe_unscaled` says of them."""
    if unscaled:
        yield Finding(
            "unscaled data", unscaled,
            "Train on (v − mean)/std of each column, as gpu_backprop.data.Preprocessing does",
        )  # fmt: skip
    if (found := data.classes(network.device)) is None:
        return
    classes = network.outputs if network.outputs > 1 else 2
    counts = np.bincount(found.reshape(-1), minlength=classes)
    largest = int(counts.argmax())
    if (share := counts[largest] / counts.sum()) > UNBALANCED:
        yield Finding(
            "unbalanced classes", f"{share:.1%} of the rows are of class {largest}, which is right as often as that",
            'Look at balanced_accuracy and f1_macro, and train with fit(class_weight="balanced")',
        )  # fmt: skip
    if len(absent := np.flatnonzero(counts == 0)):
        yield Finding(
            "classes without rows", f"{len(absent)} of {classes} classes, the first of them {absent[0]}, have no row",
            "A network with fewer outputs is enough, or rows are missing",
        )  # fmt: skip


def examine_losses(training: Any, validation: Any) -> Iterator[Finding]:
    """Compares the losses of training and validation rows, one number or one a member."""
    inside, outside = np.asarray(training, np.float64), np.asarray(validation, np.float64)
    if np.any(outside > OVERFIT * np.abs(inside)):
        yield Finding(
            "overfitting", f"the loss is {number(training)} on the training rows and {number(validation)} on others",
            "Stop earlier (early_stopping=True), use Dropout, weight_decay or fewer units, or find more rows",
        )  # fmt: skip


def examine_history(history: History) -> Iterator[Finding]:
    """Looks for a validation loss that has risen again, where no early stopping knows of it."""
    losses = [(float(np.mean(row["val_loss"])), row["epoch"]) for row in history if "val_loss" in row]
    if not losses or history.best_epoch:
        return
    (best, epoch), (last, _) = min(losses), losses[-1]
    if last > best * WORSE and best > 0:
        yield Finding(
            "trained too long", f"val_loss was best after epoch {epoch}, {number(best)}, and is {number(last)} now",
            "fit(early_stopping=True) ends there and keeps the parameters of the best epoch",
        )  # fmt: skip


def spread(data: Samples, most: int = ROWS) -> Samples:
    """Chooses at most so many rows, evenly spread."""
    chosen = np.s_[:: -(-data.rows // most)]
    return Samples(data.x[chosen], data.target[chosen], None if data.weights is None else data.weights[chosen])


# What diverged first --------------------------------------------------------------------------------------------------


def find_first_nonfinite(
    network: Network, operations: Iterator[tuple[Operation, dict[str, Array]]], communicator: Communicator
) -> str:  # fmt: skip
    """Runs a traced step up to the operation that first wrote a number that is not finite, on any of the ranks, which
    all run it to its end; names that and its layer."""
    first: tuple[bool, int, str] | None = None
    for place, (operation, arrays) in enumerate(operations):
        wrong = [name for name, array in arrays.items() if not np.isfinite(array).all()]
        if wrong and first is None:
            name, common = wrong[0], operation.phase in ("reduce", "update")  # where ranks have it of each other
            told = name_nonfinite(network, arrays[name]) if name == "parameters" else _of_layer(network, name)
            first = common, place, told
        if first is not None and communicator.ranks == 1:
            break
    found = [one for one in communicator.gather(first) if one is not None]
    return str(min(found)[-1]) if found else ""


def name_nonfinite(network: Network, parameters: Array) -> str:
    """Names the first array of the parameters, on the host, that is not finite, and its layer; "" if all are."""
    for layer, name, shape, start in network.places:
        if not np.isfinite(parameters[..., start : start + math.prod(shape)]).all():
            return _of_layer(network, layer.symbol(name))
    return ""


def _of_layer(network: Network, name: str) -> str:
    """Adds to the name of a buffer, such as ∇W2, which layer that is."""
    if (number := re.search(r"\d+$", name)) is None:
        return "E, the loss itself" if name == "E" else name
    return f"{name}, of layer {number[0]}, {network.layers[int(number[0]) - 1]!r}"
