"""explain: every number it shows is the engine's, and every line of arithmetic comes out as it says."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.rule_functions import FUNCTIONS
from gpu_backprop.explanation import demo, explain
from gpu_backprop.explanation.board import Board, Exact, Rule, side_by_side, spell
from gpu_backprop.explanation.explain import WHY
from gpu_backprop.explanation.rules import ACTIVATIONS, loss_rule
from gpu_backprop.explanation.worked import OPERATIONS
from gpu_backprop.training.optimizer import symbol
from gpu_backprop.training.optimizers import RULES

X = np.array([[0.8, -0.3], [-0.5, 1.7], [1.1, 0.4]])
TARGETS = np.array([[0.25, 0.5], [0.7, 0.1], [0.05, 0.4]])
OUTPUT_FOR = {"cross_entropy": "softmax", "binary_cross_entropy": "sigmoid", "poisson": "exp", "focal": "softmax"}


def network(*layers: Any, dtype: str = "float64", inputs: int = 2, seed: int = 3) -> gb.Network:
    """A network whose biases are not 0, and factors not 1, so that they show."""
    net = gb.Network(inputs, layers, dtype=dtype, device="cpu", seed=seed)
    for layer in net.layers:
        if layer.bias is not None:
            layer.bias[...] = np.linspace(-0.2, 0.3, layer.bias.size).reshape(layer.bias.shape)
        if isinstance(layer, gb.Scale):
            layer.weight[...] = np.linspace(0.5, 1.25, layer.weight.size)
    return net


# What stands in the text ----------------------------------------------------------------------------------------------


def value(text: str) -> float:
    return float(text.replace("−", "-"))


def half_a_digit(text: str) -> float:
    """By how much a number may be off that is written like this."""
    if not math.isfinite(value(text)):
        return 0.0
    return 0.5 * 10.0 ** Decimal(text.replace("−", "-")).as_tuple().exponent * (1 + 1e-6)


def sections(text: str) -> Iterator[tuple[str, list[str]]]:
    """(formula, lines) of everything that has a number."""
    for part in re.split(r"\n\n(?=\()", text)[1:]:
        first, *rest = part.split("\n\nThat was")[0].splitlines()
        body = []
        for line in rest:
            if line and not line.startswith("    "):
                break  # the next heading
            body.append(line[4:])
        yield re.sub(r"^\(\d+\) ", "", first), body


def boards(lines: list[str]) -> list[tuple[str, list[list[str]]]]:
    """(name, rows of numbers) of each matrix, in the order in which they stand."""
    found = []
    for i, title in enumerate(lines[:-1]):
        if not lines[i + 1].startswith(("[", "→")) or title.startswith("["):
            continue
        rows: dict[int, list[list[str]]] = {}
        for line in lines[i + 1 :]:
            if not re.search(r"\[[^\]]*\]", line) or " = " in line:
                break
            for match in re.finditer(r"\[([^\]]*)\]", line):
                rows.setdefault(match.start(), []).append(match[1].split())
        found += [(re.split(r"  +", title[start:])[0].strip(), numbers) for start, numbers in rows.items()]
    return found


def equations(lines: list[str]) -> list[tuple[str, str, str, str]]:
    """(what, formula, numbers, result) of each line of arithmetic; numbers are empty where they are left out."""
    joined: list[str] = []
    for line in lines:
        if line.startswith(("    = ", "      ")) and joined:
            joined[-1] += " " + line.strip()
        elif line not in WHY.values():
            joined.append(line)
    found = []
    for line in joined:
        match = re.match(r"^([^\s=]+\[?\S*) (?:=|←) (.+)$", line)
        if match and not line.startswith("["):
            *middle, result = re.split(r" [=≈] ", match[2])
            if middle:
                found.append((match[1], middle[0], middle[1] if len(middle) > 1 else "", result))
    return found


def worked_out(numbers: str) -> float:
    """The arithmetic of a line, done by Python."""
    text = re.sub(r"\|([^|]*)\|", r"abs(\1)", numbers)
    text = re.sub(r"\[([^\]]*)\]", r"float(\1)", text)
    for sign, python in (("−", "-"), ("·", "*"), ("²", "**2"), ("³", "**3"), ("^", "**"), ("½", "0.5"), ("√", "sqrt"),
                         ("π", "pi"), ("≤", "<=")):  # fmt: skip
        text = text.replace(sign, python)
    functions = {name: getattr(math, name) for name in ("exp", "log", "tanh", "erf", "sqrt", "pi", "sin", "cos")}
    functions |= FUNCTIONS
    functions |= {
        "max": max,
        "min": min,
        "abs": abs,
        "sign": lambda v: math.copysign(1, v) if v else 0.0,
        "clip": lambda v, bound: max(-bound, min(v, bound)),
        "float": float,
    }
    return float(eval(text, {"__builtins__": {}}, functions))


def meant(symbols: str, known: dict[str, Any], settings: dict[str, Any]) -> float:
    """A formula's value, each name[i,j] in it being the engine's number."""

    def number(match: re.Match[str]) -> str:
        index = tuple(int(k) for k in match[2].split(","))
        return f"({np.asarray(known[match[1]], np.float64)[index]!r})".replace("np.float64", "")

    text = re.sub(r"([∇\w*]+)\[([\d,]+)\]", number, symbols)
    for sign, name in (("η", "learning_rate"), ("λ", "weight_decay"), ("ε", "epsilon"), ("Σw", "Σw"), ("/B", "B")):
        if sign in text:
            text = text.replace(sign, ("/" if sign == "/B" else "") + repr(settings[name]))
    return worked_out(text)


# What the engine says -------------------------------------------------------------------------------------------------


def engine(trainer: gb.Trainer, x: Any, y: Any, weights: Any) -> tuple[dict[str, Any], float]:
    """For each formula what was read and what was written, by name, and the loss."""
    before = dict(zip(*_parameters(trainer.network), strict=True))
    known: dict[str, Any] = before | {"x": x}
    found, loss = {}, 0.0
    for operation, written in trainer.trace(x, y, weights):
        read = {
            name: known.get(name, np.array(array.T if f"{name}ᵀ" in operation.formula else array))
            for name, array in operation.reads.items()
        }
        if operation.name == "update":
            names, after = _parameters(trainer.network)
            read = before | {"∇" + name: known["∇" + name] for name in before}
            written = dict(zip(names, after, strict=True))
        if operation.name == "loss_gradient":
            loss = float(trainer.loss.reduce(written["E"], len(x)))
            if y.ndim == 1:
                smoothing = trainer.loss.label_smoothing
                read["label"], read["y*"] = y, np.eye(trainer.network.outputs)[y] * (1 - smoothing) + smoothing / 3
        known |= read
        found[operation.formula] = SimpleNamespace(read=read, written=written, known=dict(known), name=operation.name)
        known |= written
    return found, loss


def _parameters(net: gb.Network) -> tuple[list[str], list[Any]]:
    return (
        [layer.symbol(name) for layer, name, _, _ in net.places],
        [getattr(layer, name).copy() for layer, name, _, _ in net.places],
    )


def check(make: Any, x: Any, y: Any, weights: Any = None, *, numbers: bool = True) -> str:
    """Explains a step of the trainer that `make` makes, and holds every number against the same step of another one."""
    text = explain(make(), x, y, weights)
    truth, loss = engine(make(), x, y, weights)
    seen = set()
    for formula, lines in sections(text):
        if "The identity: the same numbers, under their next name." in lines:
            continue
        while formula not in truth:  # it goes on in the next line
            formula += " " + lines.pop(0)
        operation = truth[formula]
        seen.add(formula)
        shown: dict[str, list[list[list[str]]]] = {}
        for name, rows in boards(lines):
            shown.setdefault(re.sub(r" \(.*\)$", "", name), []).append(rows)
        missing = {*operation.read, *operation.written} - set(shown)
        hidden = "E", "1/Σw", "Σw ≠ 0", "numbers"
        assert all(name in hidden or name.startswith(("random", "rates")) for name in missing), (formula, missing)
        if operation.name == "loss_gradient" and loss_rule(make().loss):
            assert "e" in shown
            if not any(isinstance(layer, gb.Dropout) for layer in make().network.layers):
                shown_e = [row[0] for row in shown["e"][0]]
                for i, text_e in enumerate(shown_e):
                    true_e = make().evaluate(x[i : i + 1], y[i : i + 1])["loss"]
                    assert value(text_e) == pytest.approx(true_e, rel=0, abs=half_a_digit(text_e) + 1e-12)
        for name, found in shown.items():
            for rows, array in zip(found, arrays(name, operation), strict=False):
                compare(f"{name} of {formula}", rows, array)
        for what, symbols, digits, result in equations(lines):
            assert digits or not numbers, f"{what} = {symbols} is not worked out"
            if digits and "…" not in digits:
                assert worked_out(digits) == pytest.approx(value(result), rel=0, abs=half_a_digit(result)), (
                    what,
                    digits,
                )
            of_others = operation.name == "update" and len([*make().optimizer.rule.lines_for()]) > 1
            if digits and "…" not in symbols and "e[" not in symbols and not of_others:
                settings = make().optimizer.settings | {
                    "B": len(x),
                    "Σw": 0 if weights is None else float(sum(weights)),
                }
                found = [
                    meant(symbols, order, settings)
                    for order in (operation.known | operation.written, operation.written | operation.known)
                ]
                assert any(abs(number - value(result)) <= half_a_digit(result) for number in found), (what, symbols)
            label, _, index = what.partition("[")
            if label in shown:
                place = (
                    [int(k) for k in index.rstrip("]").split(",")][-2:] if index else [0]
                )  # of several matrices in the first
                rows = shown[label][-1]
                cell = (
                    rows[place[0]][place[1]]
                    if len(place) == 2
                    else (rows[place[0]][0] if len(rows) > 1 else rows[0][place[0]])
                )
                assert cell == result, what
            elif label == "E":
                assert value(result) == pytest.approx(loss, rel=0, abs=half_a_digit(result))
    assert max(map(len, text.splitlines())) <= 100
    bookkeeping = {formula for formula, operation in truth.items() if operation.name == "advance"}
    assert seen == set(truth) - bookkeeping
    return text


def arrays(name: str, operation: SimpleNamespace) -> list[Any]:
    """What a name stands for: first what was read, then what was written."""
    return [source[name] for source in (operation.read, operation.written) if name in source]


def compare(what: str, rows: list[list[str]], array: Any) -> None:
    array = np.asarray(array, np.float64)
    array = array.reshape(1, 1) if array.size == 1 else array.reshape(1, -1) if array.ndim == 1 else array
    array = array.reshape(-1, array.shape[-1])  # matrices stand below each other
    if len(rows) > 1 and len(array) == 1:
        array = array.T  # one number a sample
    for i, row in enumerate(rows):
        row = [text for text in row if text != "…"]
        assert len(row) == min(array.shape[1], 6 if array.shape[1] <= 6 else 5), what
        for j, text in enumerate(row):
            assert value(text) == pytest.approx(array[i, j], rel=0, abs=half_a_digit(text) + 1e-12), f"{what}[{i},{j}]"


# The tests ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", gb.ACTIVATIONS)
def test_every_activation(name: str) -> None:
    check(lambda: gb.Trainer(network(gb.Dense(3, name), gb.Dense(2)), optimizer=gb.SGD(0.1)), X, TARGETS)


@pytest.mark.parametrize("name", gb.ACTIVATIONS)
def test_every_activation_at_the_output(name: str) -> None:
    check(lambda: gb.Trainer(network(gb.Dense(2, name)), "half_squared_error", gb.SGD(0.1)), X, TARGETS)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0]], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("loss", [type(loss) for loss in gb.LOSSES.values()])
def test_every_loss(loss: Any, weights: Any, reduction: str) -> None:
    y = np.array([[0.25, 0.75], [0.6, 0.4], [0.9, 0.1]])
    output = OUTPUT_FOR.get(loss.name, "identity")

    def make() -> gb.Trainer:
        return gb.Trainer(network(gb.Dense(3, "tanh"), gb.Dense(2, output)), loss(reduction=reduction), gb.SGD(0.1))

    check(make, X, y, None if weights is None else np.array(weights))


@pytest.mark.parametrize("loss", [gb.Huber(delta=0.05), gb.Quantile(0.9), gb.Quantile(0.05)], ids=repr)
def test_losses_with_settings(loss: Any) -> None:
    check(lambda: gb.Trainer(network(gb.Dense(2)), loss, gb.SGD(0.1)), X, TARGETS)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_labels(smoothing: float) -> None:
    def make() -> gb.Trainer:
        return gb.Trainer(network(gb.Dense(3, "softmax")), gb.CrossEntropy(label_smoothing=smoothing), gb.SGD(0.1))

    text = check(make, X, np.array([2, 0, 2]))
    assert "With cross_entropy behind softmax all this comes down to:" in text
    assert "label" in text


def trained(rule: gb.UpdateRule, steps: int, **settings: float) -> gb.Trainer:
    """A trainer that has taken so many steps."""
    trainer = gb.Trainer(network(gb.Dense(3, "tanh"), gb.Dense(2)), optimizer=gb.Optimizer(rule, **settings))
    for _ in range(steps):
        trainer.step(X, TARGETS)
    return trainer


def update_equations(text: str) -> dict[str, tuple[str, str]]:
    """Of each line of arithmetic in the update, what it is of, its formula and its result; its numbers give that."""
    *_, (_, lines) = sections(text)
    found = {}
    for what, symbols, digits, result in equations(lines[lines.index("") :]):  # what is before is the formula
        assert worked_out(digits) == pytest.approx(value(result), rel=0, abs=half_a_digit(result))
        found[what] = symbols, result
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@pytest.mark.parametrize("step", [1, 2, 12])
def test_every_optimizer(rule: gb.UpdateRule, step: int) -> None:
    others = {"weight_decay": 0.1, "l1": 0.01, "l2": 0.2, "clip_value": 0.05}
    settings = {name: value for name, value in others.items() if name in rule.settings}
    text = check(lambda: trained(rule, step - 1, learning_rate=0.03, **settings), X, TARGETS)
    names = ["g" if name == "g" else symbol(name) for name, *_ in rule.lines_for()]
    assert [*update_equations(text)] == [*names[:-1], "W1[0,0]"]


@pytest.mark.parametrize("clip_value", [0.05, 5.0])
def test_what_is_done_with_the_gradient(clip_value: float) -> None:
    """It is clipped, and the slopes of the penalties are added; those of another factor in another layer."""

    def make() -> gb.Trainer:
        net = network(gb.Dense(3, "tanh", penalty_factor={"weight": 0.5}), gb.Dense(2))
        return gb.Trainer(net, None, gb.SGD(0.1, weight_decay=0.2, l1=0.01, l2=0.3), clip_value=clip_value)

    text, w = check(make, X, TARGETS), make().network.layers[0].weight[0, 0]
    assert "g = clip(∇W, κ) + λ₂W + λ₁·sign(W), W ← W − ηλW − ηg" in text
    equations_of = update_equations(text)
    formula, result = equations_of["g"]
    assert formula == "clip(∇W1[0,0], κ) + 0.5·λ₂·W1[0,0] + 0.5·λ₁·sign(W1[0,0])"
    trainer = make()
    trainer.step(X, TARGETS)
    layer = trainer.network.layers[0]
    gradient = float(np.clip(layer.grad_weight[0, 0], -clip_value, clip_value))
    g = gradient + 0.15 * w + 0.005 * np.sign(w)
    assert value(result) == pytest.approx(g, abs=half_a_digit(result))
    assert equations_of["W1[0,0]"][0] == "W1[0,0] − η·λ·W1[0,0] − η·g"
    assert layer.weight[0, 0] == pytest.approx(0.98 * w - 0.1 * g, rel=1e-12)


def test_an_optimizer_of_ones_own() -> None:
    """Its moment is kept halved, and one line is read by others."""

    def update(w: Any, g: Any, change: Any, work: Any, half: Any, rate: Any, kept: Any) -> Iterator[Any]:
        yield lambda: np.multiply(half, kept, out=half)
        yield lambda: np.add(half, g, out=half)
        yield lambda: np.multiply(np.sign(half), rate, out=change)

    rule = gb.UpdateRule(
        "own", {"learning_rate": 0.1, "keep": 0.75}, {"half": "2.0"}, {"rate": "learning_rate", "kept": "keep"},
        update, "half = kept * half + g; change = rate * sign(half);",
        (("half", "{keep}·{half} + 2·{g}"), ("way_hat", "sign({half})"), ("w", "{w} − {learning_rate}·{way_hat}")),
    )  # fmt: skip
    text, stepped = explain(trained(rule, 1), X, TARGETS), trained(rule, 2)
    assert "half ← keep·half + 2∇W, w\u0302ay = sign(half), W ← W − η·w\u0302ay" in text
    found = update_equations(text)
    assert found["half"] == (
        "keep·half + 2·∇W1[0,0]",
        Board("", 2 * stepped.optimizer.moments["half"][0]).cell().text(),
    )
    assert found["w\u0302ay"][0] == "sign(half)" and found["W1[0,0]"][0] == "W1[0,0] − η·w\u0302ay"
    assert value(found["W1[0,0]"][1]) == pytest.approx(stepped.network.parameters[0], abs=5e-5)


def test_layers_that_are_frozen_or_have_factors() -> None:
    def make() -> gb.Trainer:
        factors = {"learning_rate_factor": {"weight": 0.5, "bias": 0}, "weight_decay_factor": 3}
        net = network(gb.Dense(3, "tanh", trainable=False), gb.Dense(2, **factors))
        trainer = gb.Trainer(net, optimizer=gb.AdamW(0.03, weight_decay=0.5))
        trainer.step(X, TARGETS)
        return trainer

    text, stepped = explain(make(), X, TARGETS), make()
    stepped.step(X, TARGETS)
    for name in ("W1", "b1"):
        assert f"{name} stays as it is: its layer is not trainable." in text
    assert "b2 stays as it is: the factor of its learning rate is 0." in text
    formula, result = update_equations(text)["W2[0,0]"]
    assert formula == "W2[0,0] − 1.5·η·λ·W2[0,0] − 0.5·η·m̂/(√(v̂) + ε)"
    assert value(result) == pytest.approx(stepped.network.layers[1].weight[0, 0], abs=5e-5)


@pytest.mark.usefixtures("half_on_a_cpu")
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0]], ids=["unweighted", "weighted"])
def test_the_scale_of_the_loss(weights: Any) -> None:
    """The gradients are S times as large until the update divides them; one that overflows stops it."""

    def half(optimizer: str) -> gb.Trainer:
        return gb.Trainer(network(gb.Dense(2), dtype="float16"), "squared_error", optimizer=optimizer)

    x, y = X.astype(np.float16), TARGETS.astype(np.float16)
    text = explain(half("sgd"), x, y, weights)
    assert "1/S, or 0 where ∇ overflows" in text and "g = ∇W/S, W ← W − ηg" in text
    [lines] = [lines for formula, lines in sections(text) if formula.startswith("g = ")]
    found = {what: (symbols, value(result)) for what, symbols, _, result in equations(lines)}
    step = half("sgd")
    before = step.network.layers[0].weight[0, 0].item()
    step.step(x, y, weights)
    after, gradient = step.network.layers[0].weight[0, 0].item(), step.network.layers[0].grad_weight[0, 0].item()
    assert found["g[0,0]"] == ("∇W1[0,0]/S", pytest.approx(gradient / 65536, rel=1e-3))
    assert found["W1[0,0]"] == ("W1[0,0] − η·g[0,0]", pytest.approx(after, rel=1e-3))
    assert after == pytest.approx(before - 0.1 * gradient / 65536, rel=1e-5)
    skipped = explain(half("adam"), x, y * 1e4, weights)
    assert "too large for float16. The step changes nothing" in skipped and "g = ∇W/S" not in skipped


@pytest.mark.parametrize(
    "layers",
    [
        [gb.Dense(3, "tanh", bias=False), gb.Dense(2, bias=False)],
        [gb.Bias("tanh"), gb.Dense(2, "softmax")],  # N4
        [gb.Bias(), gb.Dense(2)],
        [gb.Dense(2), gb.Bias("gelu")],
        [gb.Scale(), gb.Dense(2, "mish"), gb.Scale()],
        [gb.Dense(2), gb.Dense(2), gb.Bias()],
        [gb.Dense(4, "relu"), gb.Dropout(0.5), gb.Dense(2)],
        [gb.Dropout(0.3), gb.Dense(4, "silu"), gb.Dropout(0.0), gb.Dense(2)],
        [gb.Dense(2), gb.Dropout(0.5)],
        [gb.Dense(1), gb.Dense(1, "tanh"), gb.Dense(2)],
        [gb.Periodic(1, 2, 2), gb.Dense(2)],
        [gb.Dense(3, "tanh"), gb.Periodic(2), gb.Dense(2)],
        [gb.Dense(2), gb.Periodic(1, 8, 1), gb.Dense(2)],
    ],
    ids=repr,
)
def test_every_layer(layers: list[Any]) -> None:
    check(lambda: gb.Trainer(network(*layers), "squared_error", gb.SGD(0.1)), X, TARGETS)


@pytest.mark.parametrize("rows", [1, 2, 7, 30])
def test_any_number_of_samples(rows: int) -> None:
    stream = np.random.default_rng(rows)
    x, y = stream.normal(size=(rows, 2)), stream.normal(size=(rows, 2))
    check(lambda: gb.Trainer(network(gb.Dense(3, "tanh"), gb.Dense(2)), optimizer=gb.SGD(0.1)), x, y, np.ones(rows))


def test_large_matrices_are_cut_off_and_say_their_shape() -> None:
    x, labels = np.random.default_rng(0).normal(size=(40, 64)), np.arange(40) % 10

    def make() -> gb.Trainer:
        net = network(gb.Dense(100, "relu"), gb.Dense(10, "softmax"), inputs=64)
        return gb.Trainer(net, "cross_entropy", "sgd")

    text = check(make, x, labels)
    assert "W1 (64×100)" in text and "…" in text and "⋮" in text
    assert len(text.splitlines()) < 320


def test_single_precision() -> None:
    def make() -> gb.Trainer:
        return gb.Trainer(network(gb.Dense(5, "sigmoid"), gb.Dense(2, "softmax"), dtype="float32"), optimizer="adam")

    check(make, X.astype(np.float32), np.array([0, 1, 1]))


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1e6])
def test_numbers_of_any_size(scale: float) -> None:
    check(lambda: gb.Trainer(network(gb.Dense(3, "relu"), gb.Dense(2)), optimizer=gb.SGD(1e-3)), X * scale, TARGETS)


def test_activations_and_losses_of_ones_own_are_shown_and_not_worked_out() -> None:
    tanh = gb.ACTIVATIONS["tanh"]
    own = gb.Activation("mine", tanh.reads, tanh.numpy_value, tanh.numpy_gradient)
    posing = gb.Activation("sigmoid", tanh.reads, tanh.numpy_value, tanh.numpy_gradient)

    class Own(gb.HalfSquaredError):
        name = "own"

    class Posing(gb.HalfSquaredError):
        name = "squared_error"

    for activation in (own, posing):
        for loss in (Own(), Posing()):
            text = check(lambda: gb.Trainer(network(gb.Dense(2, activation)), loss, gb.SGD(0.1)), X, TARGETS)  # noqa: B023
            assert "exp(" not in text and "e[0]" not in text and "≈" not in text


def test_it_is_a_step() -> None:
    explained, stepped = (gb.Trainer(network(gb.Dense(3, "tanh"), gb.Dense(2)), optimizer="adam") for _ in range(2))
    for _ in range(3):
        explain(explained, X, TARGETS)
        stepped.step(X, TARGETS)
    np.testing.assert_allclose(explained.network.parameters, stepped.network.parameters, rtol=1e-12)


def test_the_losses_before_and_after_are_named() -> None:
    trainer = gb.Trainer(network(gb.Dense(3, "tanh"), gb.Dense(2)), optimizer=gb.SGD(0.1))
    before = trainer.evaluate(X, TARGETS)["loss"]
    text = explain(trainer, X, TARGETS)
    after = trainer.evaluate(X, TARGETS)["loss"]
    assert text.endswith(f"was {before:.6g}; with the new parameters it is {after:.6g}.")
    assert after < before


def test_what_cannot_be_explained_is_said_before_anything_happens() -> None:
    trainer = gb.Trainer(network(gb.Dense(2)), optimizer=gb.SGD(0.1))
    kept = trainer.network.parameters.copy()
    for x, y, weights, message in (
        (X, TARGETS[:2], None, "one target for each row"),
        (X * np.nan, TARGETS, None, "NaN"),
        (X, TARGETS, np.zeros(3), "all weights are 0"),
    ):
        with pytest.raises(gb.InputError, match=message):
            explain(trainer, x, y, weights)
    np.testing.assert_array_equal(trainer.network.parameters, kept)
    members = gb.Trainer(gb.Network(2, [gb.Dense(2)], seed=[0, 1], device="cpu"))
    with pytest.raises(gb.InputError, match="2 members"):
        explain(members, X, TARGETS)


# The demonstration ----------------------------------------------------------------------------------------------------


def test_the_demonstration_is_always_the_same_and_short_enough_to_read() -> None:
    text = demo()
    assert text == demo()
    assert len(text.splitlines()) < 150 and max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    "line",
    [
        "z1[0,0] = x[0,0]·W1[0,0] + x[0,1]·W1[1,0] = 1.0·1.0 + 0.5·(−0.9) = 0.55",
        "y1[0,0] = tanh(z1[0,0]) = tanh(0.65) = 0.5717",
        "E = (e[0] + e[1])/B = (0.1712 + 0.1524)/2 = 0.1618",
        "W1[0,0] ← W1[0,0] − η·∇W1[0,0] = 1.0 − 0.5·(−0.07651) = 1.0383",
    ],
)
def test_what_the_demonstration_works_out(line: str) -> None:
    assert f"    {line}\n" in demo()


def test_the_demonstration_has_everything_worked_out() -> None:
    spelled = [equation for _, lines in sections(demo()) for equation in equations(lines)]
    assert len(spelled) >= 14
    assert all(digits for _, _, digits, _ in spelled) and "≈" not in demo()


# Its parts ------------------------------------------------------------------------------------------------------------


def test_every_operation_of_a_step_can_be_told() -> None:
    binders = {name for name, _ in inspect.getmembers(numpy_ops, inspect.isfunction)}
    fused, evaluation = {"softmax_cross_entropy", "sigmoid_cross_entropy", "softmax_focal"}, {"residual_sums"}
    bookkeeping = {"gather", "advance", "copy", "sum_of_squares", "follow_schedule"}
    refused, after = {"clip_factor", "all_reduce"}, {"blend", "limit_norms"}
    others = {"loss_gradient", "unscale", "update"}
    assert binders - fused - evaluation - bookkeeping - refused - after == {*OPERATIONS, *others}


def test_no_reason_is_longer_than_a_line() -> None:
    assert max(map(len, WHY.values())) <= 96


def test_every_activation_and_loss_has_a_rule() -> None:
    assert set(gb.ACTIVATIONS) == {*ACTIVATIONS, "softmax"}
    assert all(loss_rule(loss) for loss in gb.LOSSES.values())


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1.0, 2.0], "[1 2]"),
        ([0.5, -1.0], "[ 0.5 −1.0]"),
        ([0.1234567, 1.0], "[0.1235 1.0000]"),
        ([0.012345678, -0.00001], "[ 0.01235 −0.00001]"),
        ([-0.0, -0.000001, 0.123456], "[0.0000 0.0000 0.1235]"),
        ([1.23456e-7, 0.0], "[1.235e−7        0]"),
        ([123456.7], "[1.235e5]"),
        ([np.nan, np.inf, -np.inf, 1.0], "[ nan  inf −inf    1]"),
        ([0.0, 0.0], "[0 0]"),
        ([0, 1, 7], "[0 1 7]"),
        (list(range(7)), "[0 1 2 3 4 …]"),
    ],
)
def test_how_numbers_are_written(values: list[float], text: str) -> None:
    assert Board("a", np.array(values)).lines()[1] == text


def test_a_float32_is_written_as_it_was_meant() -> None:
    assert Board("a", np.float32([0.1, -0.7])).lines() == ["a", "[ 0.1 −0.7]"]


def test_matrices_stand_beside_each_other_or_on_the_next_row() -> None:
    a, b = Board("a", np.array([[1.0, 2.0], [3.0, 4.0]])), Board("b", np.array([5.0]))
    assert side_by_side([a, "→", b]) == ["a         b", "[1 2]  →  [5]", "[3 4]"]
    wide = [Board(f"a{k}", np.full((1, 5), 0.12345)) for k in range(5)]
    assert [line.count("a") for line in side_by_side(wide)] == [2, 0, 0, 2, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("cells", "rule", "lines"),
    [
        ({"a": -0.5, "b": -2.0}, Rule("{a}·{b}", lambda a, b: a * b), ["c = a·b = −0.5·(−2) = 1"]),
        ({"a": -0.5}, Rule("{a}²", lambda a: a * a), ["c = a² = (−0.5)² = 0.25"]),
        ({"a": -0.5}, Rule("({a})²", lambda a: a * a), ["c = (a)² = (−0.5)² = 0.25"]),
        ({"a": 1 / 3}, Rule("{a}·30000", lambda a: a * 30000), ["c = a·30000 = 0.333333·30000 = 10000"]),
        ({"a": 0.0}, Rule("1/{a}", lambda a: 1 / a), ["c = 1/a = 7"]),  # what cannot be worked out is not
        ({"a": 1.0}, Rule("{a}", lambda a: a + 1), ["c = a = 7"]),
        ({"a": 1.0}, Rule("{a}", lambda a: 7.000001), ["c = a = 1 = 7"]),
    ],
)
def test_a_line_of_arithmetic(cells: dict[str, float], rule: Rule, lines: list[str]) -> None:
    operands = {name: Board(name, number).cell() for name, number in cells.items()}
    result = value(lines[0].split(" = ")[-1])
    assert spell(Board("c", result).cell(), rule, operands) == lines


def test_settings_are_written_as_they_were_given() -> None:
    assert [Exact("η", v).cell().text() for v in (0.001, 1e-8, 0.1, 3.0)] == ["0.001", "1e−8", "0.1", "3"]
