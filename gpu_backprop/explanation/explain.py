"""explain: a traced step, operation by operation. The numbers that each formula read and wrote are the engine's own.

Of every kind of operation one number is worked out in full, by the rules of this folder and not by the engine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import SCALE, Array
from gpu_backprop.backend.operation import Operation
from gpu_backprop.backend.text_table import wrap
from gpu_backprop.explanation.board import WIDTH, Board, Cell, Rule, side_by_side, spell, wrapped
from gpu_backprop.explanation.rules import loss_rule
from gpu_backprop.explanation.update import spell_update
from gpu_backprop.explanation.worked import OPERATIONS, Batch, fused, work_out_loss
from gpu_backprop.network.layers import Dense, Dropout
from gpu_backprop.network.losses import CrossEntropy
from gpu_backprop.network.network import Network
from gpu_backprop.network.samples import Samples, one_hot, samples
from gpu_backprop.training.optimizers import SGD
from gpu_backprop.training.trainer import Trainer

NARROWEST, INDENT = 60, 4

HEADINGS = {
    "forward": "Forward: from the samples to what the network answers",
    "loss": "Loss: how wrong the answers are, in one number, and which way each of them should move",
    "backward": "Backward: the chain rule, from the last layer to the first",
    "update": "Update: every parameter goes a step downhill",
}

WHY = {
    "@": "Every output of a layer is a sum over its inputs, each with a weight of its own.",
    "ᵀ@": "∂z_j/∂w_ij = x_i: a weight is to blame in proportion to its input. The samples add up.",
    "@ᵀ": "∂z_j/∂x_i = w_ij: the blame of every z_j comes back over the weights by which x_i reached it.",
    "add_bias": "The bias shifts every sample alike.",
    "scale_columns": "Every unit gets a factor of its own, the same for all samples.",
    "scale_columns_gradient": "∂z_j/∂s_j = x_j: a factor is to blame in proportion to its input. The samples add up.",
    "bias_activate": "b shifts all samples alike, and f bends: without it, many layers would do no more than one.",
    "activate": "f bends: without it, many layers would do no more than one.",
    "dropout": "Chance leaves some numbers out of this step. The others are divided by 1 − rate: the mean stays.",
    "multiply": "What was left out has no part in the loss.",
    "activation_gradient": "∂E/∂z = ∂E/∂y · ∂y/∂z. ∂z/∂b = 1 for every sample, so ∇b is the sum over them.",
    "column_sum": "∂z/∂b = 1 for every sample, so ∇b is the sum over them.",
    "periodic": "W has (w, A) of each frequency, b has (b, a). A number's cosines bend where a line cannot.",
    "periodic_gradient": "cos′ = −sin, and ∂u/∂w = 2π·x: how far a wave leads or lags tells where to turn it.",
    "periodic_gradient_x": "x comes through as it is, and through every wave, with the slope 2π·w.",
    "normalize_weights": "Each sample counts with its weight.",
    "unscale": "float16 holds no number below 6e-8. So all gradients were S times as large; g is not.",
    "loss_gradient": "e is the loss of one sample, E that of all. The batch's factor stands here and nowhere else.",
}
"""The reason of each kind of operation, given where it comes for the first time."""


def explain(trainer: Trainer, x: Any, y: Any, weights: Any = None, *, width: int = 100) -> str:
    """Explains one step of a trainer, every formula with its names and then with its numbers.

    It is a real step: afterwards the network has learned from these samples, and the next explanation goes on there.

    Args:
        trainer: of a network without a models axis.
        x, y, weights: the minibatch, as `Trainer.step` takes it. Of matrices with more than six rows or columns the
            beginning is shown.
        width: columns of text, 60 or more; a number too long for a line has a longer one.

    Returns:
        The text. Every number is the engine's, rounded. ∇a stands for ∂E/∂a, indices begin at 0
        as in Python, and rows are samples.

    Raises:
        InputError: the samples cannot be trained on, there is more than one network in this one, or the trainer clips
            gradients by their norm or has several ranks.
    """
    network = trainer.network
    if network.models_shape:
        raise InputError(
            f"explain shows one network, but this one has {network.models_shape[0]} members: train one without "
            "--ensemble, or in Python with seed=0 in the place of a list of seeds."
        )
    if trainer.clip_norm is not None:
        raise InputError(
            f"explain shows a step that clips nothing, but the trainer has clip_norm={trainer.clip_norm}: make one "
            "without."
        )
    if trainer.communicator.ranks > 1:
        raise InputError("explain shows the step of one process, but the trainer has ranks: make one without.")
    data = samples(network, trainer.loss, x, y, weights, values=True).on_host(network.device)
    if data.weights is not None and not data.weights.any():
        raise InputError("all weights are 0, so a step would change nothing: give a sample a weight above 0.")
    token = WIDTH.set(max(width, NARROWEST) - INDENT)
    try:
        return "\n".join(StepExplanation(trainer, data).lines())
    finally:
        WIDTH.reset(token)


def demo(*, width: int = 100) -> str:
    """Explains the first step of a 2-3-2 network on two samples: always the same text."""
    net = Network(2, [Dense(3, "tanh"), Dense(2, "softmax")], dtype="float64", device="cpu", seed=4)
    for layer in net.layers:
        layer.weight[...] = np.round(layer.weight, 1)  # type: ignore[index,arg-type]  # a Dense layer has both
        layer.bias[...] = 0.1  # type: ignore[index]
    trainer = Trainer(net, "cross_entropy", SGD(0.5))
    return explain(trainer, np.array([[1.0, 0.5], [-0.5, 2.0]]), np.array([0, 1]), width=width)


class StepExplanation:
    """A step while it is explained: the numbers that are known so far, and the paragraphs under each heading."""

    def __init__(self, trainer: Trainer, data: Samples) -> None:
        self.trainer, self.data, self.network = trainer, data, trainer.network
        self.target = Board("y*", _dense_target(trainer.network, trainer.loss, data))
        weights = None if data.weights is None else Board("w", data.weights, column=True)
        state = trainer.scaling.state
        loss_scale = None if state is None else Board("S", float(trainer.device.to_host(state)[SCALE]))
        self.batch = Batch(data.rows, trainer.loss.reduction == "mean", weights, loss_scale)
        self.known: dict[str, Array] = {}
        self.names: dict[int, str] = {}  # what stands at an address, by its newest name
        self.explained: set[str] = set()
        self.paragraphs: dict[str, list[list[str]]] = {heading: [] for heading in HEADINGS}

    def lines(self) -> list[str]:
        """Takes the step and explains it."""
        trainer, data = self.trainer, self.data
        optimizer = trainer.optimizer
        before = {name: trainer.device.to_host(moment) for name, moment in optimizer.moments.items()}
        parameters = trainer.device.to_host(self.network.parameters)
        loss = 0.0
        for operation, written in trainer.trace(data.x, data.target, data.weights):
            if operation.name == "unscale":
                self._unscale(operation, written)
            elif operation.name == "update":
                self._update(operation, parameters, before, written)
            elif operation.name == "loss_gradient":
                loss = float(trainer.loss.reduce(written["E"], data.rows))
                self._loss(operation, self._read(operation), written, loss)
            elif operation.phase != "update":
                self._explain(operation, self._read(operation), written)
            self.known |= written
            for name, array in operation.writes.items():
                self.names[trainer.device.address(array)] = name
        return [*self._title(), *self._body(), *self._close(loss)]

    # What frames the operations ---------------------------------------------------------------------------------------

    def _title(self) -> list[str]:
        rows = "one sample" if self.data.rows == 1 else f"{self.data.rows} samples"
        layers = ", ".join(map(repr, self.network.layers))
        return [
            f"One step of training on {rows}",
            *wrapped(f"network    {self.network.inputs} inputs, {layers}", " " * 11),
            f"loss       {self.trainer.loss.name}",
            *wrapped(f"optimizer  {self.trainer.optimizer!r}", " " * 11),
            *wrapped("Rows are samples. ∇a is short for ∂E/∂a. Indices begin at 0. Numbers are rounded."),
        ]

    def _body(self) -> Iterator[str]:
        number = 0
        for heading, title in HEADINGS.items():
            yield from ("", *(lines := wrapped(title)), "─" * max(map(len, lines)))
            for first, *rest in self.paragraphs[heading]:
                number += 1
                yield from ("", *wrap(f"({number}) {first}", WIDTH.get() + INDENT, " " * INDENT))
                yield from (f"    {line}".rstrip() for line in rest)

    def _close(self, loss: float) -> Iterator[str]:
        yield ""
        if any(isinstance(layer, Dropout) and layer.active for layer in self.network.layers):
            yield from wrapped("That was one step. The next one draws other masks.")
            return
        now = self.trainer.evaluate(self.data.x, self.data.target, self.data.weights)["loss"]
        yield "That was one step."
        yield from wrapped(f"The loss of these samples was {loss:.6g}; with the new parameters it is {now:.6g}.")

    # One operation ----------------------------------------------------------------------------------------------------

    def _read(self, operation: Operation) -> dict[str, Array]:
        """Returns what the operation read. An array that none wrote is a parameter or a sample, or an earlier one that
        an identity passed on under another name, which is explained."""
        read, device = {}, self.trainer.device
        for name, array in operation.reads.items():
            if name not in self.known:
                older = self.names.get(device.address(array))
                self.known[name] = self.known[older] if older in self.known else device.to_host(array)
                if older in self.known:
                    self._add(
                        operation,
                        [f"{name} = {older}", *wrapped("The identity: the same numbers, under their next name.")],
                    )
            read[name] = self.known[name]
        return read

    def _add(self, operation: Operation, paragraph: list[str]) -> None:
        after = {"bias_activate": "forward", "activation_gradient": "backward", "column_sum": "backward"}
        self.paragraphs[after.get(operation.name, operation.phase)].append(paragraph)

    def _explain(self, operation: Operation, read: dict[str, Array], written: dict[str, Array]) -> None:
        """Explains an operation: the formula, why, its matrices, and one number of each that was written."""
        reads = {
            name: self._board(name, array) for name, array in read.items() if not name.startswith(("random", "rates"))
        }
        writes = {name: self._board(name, array) for name, array in written.items() if name != "E"}
        if self.batch.weights is not None and "Σw ≠ 0" in writes:
            writes["Σw ≠ 0"] = Board("Σw", self.batch.weights.values.sum())  # the engine adds it to E
        layer = self.network.layers[_number(next(iter(writes))) - 1]
        kind, lines = OPERATIONS[operation.name](operation, layer.activation, reads, writes)
        if layer is self.network.last and operation.name == "activation_gradient":
            lines += self._pair(writes[f"∇z{layer.number}"])
        drawn = [board for name, board in writes.items() if name.startswith("mask")]
        results = [board for board in writes.values() if board not in drawn]
        self._paragraph(operation, operation.formula, kind, [*reads.values(), *drawn, "→", *results], lines)

    def _paragraph(
        self, operation: Operation, title: str, kind: str, boards: list[Board | str], lines: list[str]
    ) -> None:
        """Adds an operation's formula and matrices; for the first of its kind why, and how a number is computed."""
        why = [] if kind.split()[0] in self.explained else wrapped(WHY[kind.split()[0]])
        spelled = [] if kind in self.explained or not lines else ["", *lines]
        self.explained |= {kind, kind.split()[0]}
        self._add(operation, [title, *why, "", *side_by_side(boards), *spelled])

    def _board(self, name: str, array: Array) -> Board:
        return Board(name, array, column=name == "w")

    def _loss(self, operation: Operation, read: dict[str, Array], written: dict[str, Array], loss: float) -> None:
        """Explains e of every sample, E and ∇y."""
        n, rule = self.network.last.number, loss_rule(self.trainer.loss)
        y, grad = self._board(f"y{n}", read[f"y{n}"]), self._board(f"∇y{n}", written[f"∇y{n}"])
        boards: list[Board | str] = [y]
        if self.data.labelled:
            boards.append(Board("label", self.data.target, column=True))
        boards += [self.target, *([self.batch.weights] if self.batch.weights is not None else []), "→"]
        lines = []
        if rule is not None:
            outputs = self.network.outputs
            value = rule.e(outputs).value
            e = Board("e", np.array([
                value(**{f"y{k}": float(v) for k, v in enumerate(ys)}, **{f"t{k}": float(v) for k, v in enumerate(ts)})
                for ys, ts in zip(y.values, self.target.values, strict=True)
            ]), column=True)  # fmt: skip
            boards.append(e)
            lines = work_out_loss(rule, self.batch, y, self.target, e, Board("E", loss).cell(), grad.cell(0, 0))
        self._paragraph(operation, operation.formula, "loss_gradient", [*boards, grad], lines)

    def _pair(self, grad_z: Board) -> list[str]:
        """Explains what output and loss amount to together, where the engine does both in one operation."""
        loss, last = self.trainer.loss, self.network.last
        if not loss.fused or loss.fused != last.activation.name or loss.operation is not None:
            return []
        y = self._board(f"y{last.number}", self.known[f"y{last.number}"])
        return [
            "",
            *wrapped(f"With {loss.name} behind {last.activation.name} all this comes down to:"),
            *fused(self.batch, y, self.target, grad_z.cell(0, 0)),
            "Outside of explain, that one operation runs instead.",
        ]

    def _unscale(self, operation: Operation, written: dict[str, Array]) -> None:
        """Explains the factor that takes S out of the gradients; or that they were too large with it."""
        lines = [operation.formula, *wrapped(WHY["unscale"])]
        if not written["1/S"]:
            lines += wrapped("Here one of them is too large for float16. The step changes nothing, and S is halved.")
        self._add(operation, lines)

    def _update(
        self, operation: Operation, parameters: Array, moments: dict[str, Array], written: dict[str, Array]
    ) -> None:
        """Explains the update: every parameter before and after, and how the first number that moves is computed."""
        if not self.known.get("1/S", True):
            return
        lines, spelled = [operation.formula], False
        for layer, name, shape, start in self.network.places:
            symbol, (rate, *factors) = layer.symbol(name), layer.factors(name)
            if not rate:
                why = "the factor of its learning rate is 0" if layer.trainable else "its layer is not trainable"
                lines += ["", *wrapped(f"{symbol} stays as it is: {why}.")]
                continue
            place = slice(start, start + int(np.prod(shape)))
            old, new = (self._board(symbol, flat[place].reshape(shape)) for flat in (parameters, written["parameters"]))
            grad = self._board(f"∇{symbol}", self.known[f"∇{symbol}"])
            lines += ["", *side_by_side([old, grad, "→", new])]
            if not spelled:
                at, spelled = (0,) * len(shape), True
                here = {
                    name: (float(before[start]), float(after[start]))
                    for (name, before), after in zip(moments.items(), written.get("moments", ()), strict=True)
                }
                g, scaled = self._unscaled(grad.cell(*at), at)
                step = round(float(self.known["t"]))
                lines += ["", *scaled]
                cells = old.cell(*at), g, new.cell(*at)
                lines += spell_update(self.trainer.optimizer, *cells, here, step, rate, *factors)
        self._add(operation, lines)

    def _unscaled(self, grad: Cell, at: tuple[int, ...]) -> tuple[Cell, list[str]]:
        """Returns a gradient without S, and how it is computed, where there is one."""
        if self.batch.loss_scale is None:
            return grad, []
        scale = self.batch.loss_scale.cell()
        g = Board("g", np.full((1,) * len(at), grad.value / scale.value)).cell(*at)
        return g, spell(g, Rule("{grad}/{scale}", lambda grad, scale: grad / scale), {"grad": grad, "scale": scale})


def _number(name: str) -> int:
    """Reads the layer's number in the name of one of its buffers."""
    found = re.search(r"[0-9]+$", name)
    return int(found[0]) if found else 0


def _dense_target(network: Network, loss: Any, data: Samples) -> Array:
    """Returns y* as the loss sees it: one column an output, and smoothed where that is asked for."""
    target = one_hot(data.target, network.outputs) if data.labelled else data.target.astype(network.device.master)
    share = cast(float, loss.label_smoothing) if isinstance(loss, CrossEntropy) else 0.0
    return target * (1 - share) + share / network.outputs if share else target
