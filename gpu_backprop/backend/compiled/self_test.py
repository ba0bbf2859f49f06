"""Compares compiled kernels with NumPy before a plan uses them.

Operations without a formula are compared when the library is opened, those with an activation's or a loss's as soon as
that is loaded. Each comparison takes some ten milliseconds. So one that has passed is noted in a file beside the
library, by all that it depends on: the library, which stands for text, compiler and processor, NumPy, and our Python.
"""

from __future__ import annotations

import hashlib
import importlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.compiled import ops as compiled_ops
from gpu_backprop.backend.compiled.device import CpuDevice
from gpu_backprop.backend.compiled.library_files import Library, folder
from gpu_backprop.backend.compiled.operations_text import Unit
from gpu_backprop.backend.compiled.ops.minibatch import KINDS
from gpu_backprop.backend.compiled.program import SURELY_PARALLEL_NS, KernelCall, UnsupportedArguments
from gpu_backprop.backend.device import Device
from gpu_backprop.backend.errors import DeviceError
from gpu_backprop.backend.formula import Activation, Array, Calls, LossFormula, Work
from gpu_backprop.backend.update_rule import UpdateRule

CLOSE = {"float32": 1e-5, "float64": 1e-10}
"""By dtype, the tolerance, relative and absolute, between a result and NumPy's."""

PARTS = 4
"""The parts that an operation is split into, besides being done in one."""

EDGES = 0.0, -0.0, 1e-30, -1e-30, 1.0, -1.0, 30.0, -30.0, 89.0, -89.0, 1e4, -1e4, 1e30, -1e30, np.inf, -np.inf, np.nan

SHAPES: Sequence[tuple[int, ...]] = (1, 1), (37, 19), (2, 20, 16), (3, 5, 1)
"""Models, where there are some, rows and units."""

LONG, FLAT = (3, 1100), 5000
"""Rows, and a buffer, of more numbers than the kernels take at a time."""

_comparing = threading.Lock()

HOST, EXACT = (Device("cpu", "", dtype, np, numpy_ops) for dtype in ("float32", "float64"))

KEPT = 20
"""How many comparisons of a library are noted, besides the last."""

Case = tuple[str, list[Any], list[Array]]
"""The name of a binder, its arguments besides the device, and those arrays among them that it writes."""


def compare(device: CpuDevice, unit: Unit | None = None) -> None:
    """Compares the kernels of a unit with NumPy, or all that need no formula.

    Raises:
        DeviceError: a result is not the same to rounding; the message names the operation.
    """
    scratch: list[Array] = []  # an operation finds it 0, and has to leave it 0 for its next run
    device.zeros = lambda *of: scratch.append(Device.zeros(device, *of)) or scratch[-1]  # type: ignore
    close = CLOSE[device.library.dtype]
    host, convert = (HOST, lambda *case: case) if device.dtype == np.float32 else (EXACT, _in_float64)
    for k, cases_of in enumerate(zip(*(cases(unit) for _ in range(3)), strict=True)):
        (name, expected, wanted), *tried = (convert(*case) for case in cases_of)
        what = name if unit is None or isinstance(unit, str) else f"{name} of {unit.name}"
        _run_numpy(host, name, expected)
        for device.threads, (_, given, got) in zip((1, PARTS), tried, strict=True):
            try:
                _run(device, list(getattr(compiled_ops, name).__wrapped__(device, *given)))
            except UnsupportedArguments:  # in a plan too, NumPy does it
                continue
            if any(map(np.any, scratch)):
                raise DeviceError(f"{what} does not give what NumPy gives when it is run again")
            scratch.clear()
            if all(_all_near(*pair, close) for pair in zip(got, wanted, strict=True)):
                continue
            _, given, precise = _in_float64(*next(islice(cases(unit), k, None)))  # it may be NumPy that rounds
            _run_numpy(EXACT, name, given)
            for there, here, best in zip(got, wanted, precise, strict=True):
                wrong = np.flatnonzero(~(_near(there, here, close) | _near(there, best, close)))
                if len(wrong):
                    instead = f"{there.flat[wrong[0]]:g} instead of {best.flat[wrong[0]]:g}"
                    raise DeviceError(f"{what} does not give what NumPy gives: {instead}")


def check(device: CpuDevice, loaded: Library, unit: Unit) -> None:
    """Compares a unit with NumPy, unless it has passed before; with a user's own NumPy code, each time.

    Raises:
        DeviceError: as `compare`.
    """
    ours = all(str(getattr(f, "__module__", "")).startswith("gpu_backprop.") for f in _numpy_functions(unit))
    made_of = f"{loaded.digest} {_surroundings()} {device.library.threads > 1}"
    key, known = hashlib.sha256(made_of.encode()).hexdigest(), []
    passed = folder() / f"{loaded.path.stem}.checked"
    with suppress(OSError):
        known = passed.read_text("ascii", "replace").split()
    if ours and key in known:
        return
    with _comparing:  # comparisons share scratch memory
        compare(device, unit)
    if ours:
        with suppress(OSError):
            passed.write_text("\n".join([*known[-KEPT:], key]), "ascii")


def _numpy_functions(unit: Unit) -> Iterator[Any]:
    """Yields the NumPy functions of a row; a file has none."""
    for name in ("numpy_value", "numpy_gradient", "numpy"):
        if (function := getattr(unit, name, None)) is not None:
            yield function


@cache
def _surroundings() -> str:
    """Returns what a comparison depends on besides the library: NumPy and our Python, by size and time of the files."""
    package, found = Path(__file__).parents[2], [np.__version__]
    numpy = importlib.import_module("numpy._core._multiarray_umath").__file__
    parts = "backend", "backend/numpy_ops", "backend/compiled", "backend/compiled/ops", "network", "training"
    for file in (Path(numpy or ""), *(file for part in parts for file in sorted((package / part).glob("*.py")))):
        status = file.stat()
        found.append(f"{file} {status.st_size} {status.st_mtime_ns}")
    return "\0".join(found)


def _run(device: CpuDevice, calls: Sequence[KernelCall]) -> None:
    """Runs calls in device.threads parts, however small: one serially, two on threads, where the library has them."""
    if len(calls) > 1:
        device.threads = min(device.threads, device.library.threads)
    for call in calls:
        call.parts = call.record[1] = device.threads
        call.accesses = [access._replace(parts=call.parts) for access in call.accesses]
        call.work = SURELY_PARALLEL_NS if len(calls) > 1 else 0
    for joined in device.sequence(calls):
        joined()


def _run_numpy(host: Device, name: str, arguments: Sequence[Any]) -> None:
    with host.computing():
        for call in getattr(numpy_ops, name)(host, *arguments):
            call()


def _all_near(got: Array, wanted: Array, close: float) -> bool:
    with np.errstate(all="ignore"):
        return bool((abs(got - wanted) <= close).all() or _near(got, wanted, close).all())


def _near(got: Array, wanted: Array, close: float) -> Array:
    """Compares element by element; where NaN is wanted, infinity will do, since the loss is not finite either way, and
    where a number so large that factors in another order overflow."""
    largest = np.finfo(got.dtype).max / 16 if got.dtype.kind == "f" else 0
    with np.errstate(all="ignore"):
        near: Array = np.isclose(got, wanted.astype(got.dtype), close, close, equal_nan=True)
        return near | (np.isinf(got) & (np.isnan(wanted) | (np.sign(got) * wanted > largest)))


def _in_float64(name: str, given: list[Any], written: list[Array]) -> Case:
    """Converts a case; arguments that are one array stay one array."""
    found: dict[int, Array] = {}
    if name == "update" and (groups := given[6]) is not None:  # of blocks of bytes: there are twice as many
        found[id(groups)] = np.repeat(groups, 2, axis=-1).astype(np.float64)

    def exact(a: Any) -> Any:
        if isinstance(a, list):
            return list(map(exact, a))
        known = isinstance(a, np.ndarray) and a.dtype == np.float32
        return found.setdefault(id(a), a.astype(np.float64)) if known else a

    return name, exact(given), exact(written)


# Cases ----------------------------------------------------------------------------------------------------------------


def cases(unit: Unit | None) -> Iterator[Case]:
    """Yields small cases of all kinds: with and without models, rows and units that fill vectors or don't, optional
    arguments or none, numbers at the edges of float32. They are the same each time. None: of all files."""
    some = _Numbers()
    if isinstance(unit, Activation):
        yield from _of_activation(some, unit)
    elif isinstance(unit, UpdateRule):
        yield from _of_update(some, unit)
    elif isinstance(unit, LossFormula):
        outputs = [some(*shape, low=0.05, high=0.95) for shape in (*SHAPES, LONG)]
        wide = [_allowed(unit, y) for y in (some(37, 3), some.edges())]
        yield from _of_loss(some, "loss_gradient", [unit], [*outputs, *wide])
    elif isinstance(unit, str):
        yield from FILES[unit](some)
    else:
        for file in FILES:
            yield from cases(file)


class _Numbers:
    """Random numbers, always the same ones."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(0)

    def __call__(self, *shape: int, low: float = -4.0, high: float = 4.0, dtype: Any = np.float32) -> Array:
        return np.asarray(low + (high - low) * self.generator.random(shape, np.float32), dtype)

    def strided(self, models: Sequence[int], *shape: int) -> Array:
        """Returns numbers whose models, where there are some, lie apart in a larger buffer."""
        size = int(np.prod(shape))
        return self(*models, size + 3)[..., :size].reshape(*models, *shape)

    def edges(self) -> Array:
        """Returns a model for each of EDGES, with one row that has it among ordinary numbers: no sum has two."""
        z = self(len(EDGES), 1, 3, low=0.05, high=0.95)
        z[:, 0, 1] = EDGES
        return z


def _of_products(some: _Numbers) -> Iterator[Case]:
    """Yields the three products of a layer: with tiles of all kinds, of whole matrices and of copies of pieces."""
    shapes = ((), 37, 5, 19), ((), 1, 1, 1), ((), 45, 300, 270), ((2,), 37, 5, 19), ((2,), 3, 40, 33)
    for models, m, k, n in shapes:
        x, weight, grad = some(m, k, low=-1, high=1), some.strided(models, k, n), some.strided(models, k, n)
        z, y = some(*models, m, n, low=-1, high=1), some(*models, m, k, low=-1, high=1)
        weight *= np.float32(0.25)
        new_z, new_y = z.copy(), y.copy()  # no case reads what another one writes
        yield "matmul", [x, weight, new_z], [new_z]
        yield "matmul", [y.swapaxes(-1, -2), z, grad], [grad]
        yield "matmul", [z, weight.swapaxes(-1, -2), new_y], [new_y]


def _of_layers(some: _Numbers) -> Iterator[Case]:
    for *models, rows, units in (*SHAPES[1:], LONG):
        x, z, grad = some(rows, units), some(*models, rows, units), some(*models, units)
        yield "add_bias", [x, some.strided(models, units), z], [z]
        yield "column_sum", [z, grad], [grad]
        yield "multiply", [z, z + 1, z], [z]
    z, grad = some.edges(), some(len(EDGES), 3)
    yield "column_sum", [z, grad], [grad]


def _of_scales(some: _Numbers) -> Iterator[Case]:
    for *models, rows, units in (*SHAPES[1:], LONG):
        z, grad_z = some(*models, rows, units), some(*models, rows, units)
        factors, grad = some.strided(models, units), some.strided(models, units)
        yield "scale_columns", [z, factors, z], [z]
        yield "scale_columns_gradient", [z, grad_z, factors, grad_z, grad], [grad_z, grad]
        alone = some(*models, units)
        yield "scale_columns_gradient", [z, grad_z, None, None, alone], [alone]


def _of_dropout(some: _Numbers) -> Iterator[Case]:
    for *models, rows, units in (*SHAPES[1:], LONG):
        rates, random = some(*models, 2, low=0.2, high=0.9, dtype=np.float64), np.full((*models, 3), 1 << 60, np.uint64)
        x, y, mask = some(rows, units), some(*models, rows, units), some(*models, rows, units)
        yield "dropout", [x, rates, random, y, mask, 3], [y, mask]


def _of_embeddings(some: _Numbers) -> Iterator[Case]:
    """Yields numbers that are all of the inputs or some, one unit of each or more than are worked out together."""
    for *models, rows, inputs in (*SHAPES[1:], LONG):
        for numbers, frequencies, units in ((1, 3, 1), (min(inputs, 5), 16, 3), (min(inputs, 40), 2, 6)):
            x, outputs, form = some(rows, inputs, low=-1, high=1), inputs + numbers * units, (numbers, frequencies)
            weight, grad_weight = (some.strided(models, *form, 1 + units) for _ in range(2))
            bias, grad_bias = (some.strided(models, numbers, frequencies + units) for _ in range(2))
            grad_y, y = (some(*models, rows, outputs, low=-0.2, high=0.2) for _ in range(2))
            weight *= np.float32(0.1)
            yield "periodic", [x, weight, bias, y], [y]
            yield "periodic_gradient", [x, weight, bias, grad_y, grad_weight, grad_bias], [grad_weight, grad_bias]
            grad_x = some(*models, rows, inputs)
            yield "periodic_gradient_x", [x, weight, bias, grad_y, grad_x], [grad_x]


def _of_buffers(some: _Numbers) -> Iterator[Case]:
    for shape in ((FLAT,), (2, 17)):
        a = some(*shape)
        for counted in (None, np.array([0, 0.5]) if len(shape) > 1 else np.array(1.0)):
            numbers, to = some(*shape[:-1], 2, low=0, high=1, dtype=np.float64), some(*shape)
            yield "blend", [a, numbers, counted, to], [to]
    squares, factor = np.array([0, 0.5, 4, 1e200, np.inf, np.nan] * 3), np.zeros(18)
    for counted in (None, np.repeat([1, 0.25, 0], 6)):
        yield "clip_factor", [squares, np.full(18, 0.7), counted, factor], [factor]
    yield "clip_factor", [squares[:1], np.full(1, 0.7), None, factor[:1]], [factor]
    for *models, rows, units in (*SHAPES, LONG):
        for counted in (None, np.array([0, 1, 0.5][: models[0]] if models else 1.0)):
            weight = some.strided(models, rows, units)
            weight[..., 0, 0] = np.inf
            yield "limit_norms", [weight, some(*models, low=0.5, dtype=np.float64), counted, None], [weight]


def _of_minibatches(some: _Numbers) -> Iterator[Case]:
    for models, weights, counts in (((), [], None), ((2,), [some(30)], None), ((2,), [some(2, 30)], np.array([9, 50]))):
        sources = [some(30, 19), np.arange(30), *weights]
        outs = [np.zeros((*models, 37, 19)[: 1 + len(models) + (k == 0)], a.dtype) for k, a in enumerate(sources)]
        yield "gather", [sources, some.generator.integers(-1, 31, (*models, 40)), np.array([2]), outs, counts], outs
    order, w, to = some.generator.integers(0, 30, (2, 40)), some(2, 30), some(2, 37)
    yield "gather", [[None, None, w], order, np.array([2]), [None, None, to]], [to]
    x, out = some(30, 19), some(37, 19)
    yield "gather", [[x], some.generator.integers(0, 30, 40), np.array([1]), [out]], [out]
    counter, source, to = some.generator.integers(0, 9, 37), some(FLAT), some(FLAT)
    yield "advance", [counter, 3], [counter]
    position, steps = np.array([7]), some(2, 3, dtype=np.float64)
    random = some.generator.integers(0, 9, (2, 4, 3)).astype(np.uint64)
    for counted in (None, np.array([0, 0.5])):
        yield "advance", [None, 0, position, random[..., 2], steps[:, 0], counted], [position, random, steps]
    yield "advance", [None, 0, None, None, steps[0, :1], None], [steps]
    yield "copy", [source, to], [to]
    for a in (some(FLAT), some(2, 17)):
        out = np.zeros(a.shape[:-1])
        yield "sum_of_squares", [a, out], [out]


def _of_weights(some: _Numbers) -> Iterator[Case]:
    """Yields Σw of one model, and of several, one of which has none."""
    for models, counted, scales in (((), None, None), ((3,), None, np.zeros(3)), ((3,), np.array([0.5, 1, 0]), None)):
        weights, total, factor = some(*models, 37, low=0), some(*models, 3, dtype=np.float64), np.zeros(models)
        if models:
            weights[1] = 0
        written = [a for a in (factor, scales, total) if a is not None]
        yield "normalize_weights", [weights, None, counted, factor, scales, total], written


def _of_losses(some: _Numbers) -> Iterator[Case]:
    yield from _of_weights(some)
    yield from _of_cross_entropy(some, [*(some(*shape) for shape in SHAPES[1:]), some.edges()])


def _of_sigmoid(some: _Numbers) -> Iterator[Case]:
    outputs = [*(some(*shape) for shape in SHAPES[1:]), some.edges(), some(*LONG)]
    losses = [LossFormula("", lambda *_: (), "", "", accuracy=accuracy) for accuracy in ("threshold", "argmax", "")]
    yield from _of_loss(some, "sigmoid_cross_entropy", losses, outputs)


def _of_wide_softmax(some: _Numbers) -> Iterator[Case]:
    edges = some(len(EDGES), 2, 131)
    edges[:, 1, 1] = edges[:, 1, 20] = EDGES  # of equals, the first one is the answer
    yield from _of_cross_entropy(some, [some(9, 131), some(2, 7, 200), some(2, 7, 160), edges])


def _of_cross_entropy(some: _Numbers, outputs: Sequence[Array]) -> Iterator[Case]:
    right = LossFormula("", lambda *_: (), "", "", accuracy="argmax", smooths=True)
    losses = [right, replace(right, smooths=False), replace(right, accuracy="")]
    yield from _of_loss(some, "softmax_cross_entropy", losses, outputs)


def _of_schedules(some: _Numbers) -> Iterator[Case]:
    """Yields settings and dropout rates, with factors of all models or of each, at a position and beyond the last."""
    for models, own, pairs, position in (((), (), (), 1), ((3,), (), (2,), 3), ((3,), (3,), (), 9)):
        table, settings = (some(*shape, low=0, high=0.9, dtype=np.float64) for shape in ((4, *own, 5), (*models, 5)))
        values = np.zeros((*models, 5, *pairs))
        yield "follow_schedule", [table, np.array([position]), settings, values], [values]


def _of_update(some: _Numbers, rule: UpdateRule) -> Iterator[Case]:
    """Yields steps with all kinds of gradients and moments ≥ 0; with and without factors of gradients and groups.
    Settings whose default lies in [0, 1] are such that each of them is seen in what comes out."""
    edges = np.array([[a, abs(b)] for a in EDGES for b in EDGES if np.isfinite(b)], np.float32).T
    for shape, factor, blocks in (((17,), None, 0), ((3, 1100), [1, 0, 0.5], 18), (edges[0].shape, 1, 0)):
        w, g = some(*shape), some(*shape)
        moments = some(len(rule.moments), *shape, low=0.0) if rule.moments else None
        if not blocks and factor:
            g = edges[0].copy()
            if moments is not None:
                moments[-1] = edges[1]
        settings = np.array([2.0, *rule.settings.values()])
        hyper = some(*shape[:-1], len(settings), low=0.1, high=0.9, dtype=np.float64)
        np.copyto(hyper, settings, where=(settings < 0) | (settings > 1))
        groups = some.generator.choice(np.array([0, 0.5, 1, 2], np.float32), (3, blocks)) if blocks else None
        factors = None if factor is None else np.array(factor, np.float64)
        written = [w, *([] if moments is None else [moments])]
        yield "update", [w, g, moments, rule, hyper, factors, groups, None], written


def _of_activation(some: _Numbers, f: Activation) -> Iterator[Case]:
    """Yields forward and backward; slopes at finite numbers only, since an infinite one makes the loss infinite."""
    mixed = np.tile(np.array(EDGES, np.float32), 37).reshape(37, -1)
    inputs = [*(some(*shape) for shape in SHAPES), some.edges(), mixed]
    for k, z in enumerate(inputs):
        *models, _, units = z.shape
        given, apart = k < len(SHAPES) - 1, k % 2 == 0 or f.reads == "z"  # optional arguments; what may lie in place
        finite, of_z, grad, other = np.where(np.isinf(z), z.dtype.type(0), z), z.copy(), some(*z.shape), some(*z.shape)
        y = finite.copy()
        _run_numpy(HOST, "bias_activate", [finite, None, f, y])
        bias, grad_bias = (some.strided(models, units) if given else None for _ in range(2))
        to = other if apart else grad
        sums = [grad_bias] if grad_bias is not None else []
        yield "activation_gradient", [grad, {"y": y, "z": finite}.get(f.reads), f, to, grad_bias], [to, *sums]
        to = other.copy() if apart else of_z
        yield "bias_activate", [of_z, bias, f, to], [of_z, to]


def _numbers(loss: LossFormula, models: Sequence[int]) -> Array:
    """Returns label smoothing, where there is any, and the loss's own numbers, each model's between 0 and 1."""
    numbers = np.random.default_rng(0).uniform(0.05, 0.95, (*models, 1 + len(loss.numbers)))
    numbers[..., 0] *= 0.2 * loss.smooths
    return numbers


def _allowed(loss: LossFormula, y: Array) -> Array:
    """Replaces those outputs that are numbers and of which NumPy makes NaN."""
    each = y.reshape(-1, 1, 1)
    total, numbers = np.zeros((y.size, 3)), _numbers(loss, (y.size,))
    _run_numpy(HOST, "loss_gradient", [each, np.full_like(each, 0.5), None, loss, numbers, 1.0, None, None, total])
    return np.where(np.isnan(total[:, 0]).reshape(y.shape) & ~np.isnan(y), np.float32(0.5), y)


def _of_loss(
    some: _Numbers, name: str, losses: Sequence[LossFormula], outputs: Sequence[Array]
) -> Iterator[Case]:  # fmt: skip
    """Yields a loss with every other row right and, with models, labels of one out of range."""
    fused = name != "loss_gradient"
    for k, y in enumerate(outputs):
        *models, rows, units = y.shape
        for full in (True, False):
            loss, z, target = losses[(k + full) % len(losses)], y.copy(), some(*y.shape, low=0, high=1)
            target[..., 1::2, :] = y[..., 1::2, :] + 0.5 * fused
            if name != "sigmoid_cross_entropy" and loss.accuracy != "threshold" and full == (k % 2):
                target = some.generator.integers(0, units, y.shape[:-1])
                target[..., 1::2] = y.argmax(-1)[..., 1::2]
                if models:
                    target[0, ..., 0], target[0, ..., -1] = -1, units
            weights, scales = some(*models, rows, low=0, high=2), some(*models, low=0.5, dtype=np.float64)
            if models:
                weights[..., 3::4] = -0.0  # no row, and the answer would be right
            bias, grad, total = some.strided(models, units), some(*y.shape), some(*models, 3, dtype=np.float64)
            optional = [bias, weights, scales, grad] if full else [None, None, None, z if fused and k % 2 else None]
            bias_or_not = [optional[0]] if fused else []
            written = [a for a in (optional[3], total) if a is not None]
            first = [z, *bias_or_not, target, optional[1], loss, _numbers(loss, models)]
            yield name, [*first, 0.75, optional[2], optional[3], total], written


def _of_stored_numbers(some: _Numbers) -> Iterator[Case]:
    """Yields rows of all kinds of numbers, side by side or with gaps, and in the other order of bytes; labels, and
    weights of each model, with gaps."""
    order, cursor = some.generator.integers(0, 30, (2, 40)), np.array([2])
    for kind in filter(lambda kind: kind != "bfloat16", KINDS[1:]):
        for stored in (some(30, 19, low=0, high=100), some(30, 38, low=0, high=100)[::-1, ::2]):
            stored[:, 3] *= np.float32(1e-6)
            x, to = stored.astype(kind), some(2, 37, 19)
            for source in (x, x.astype(x.dtype.newbyteorder(">"))[:, ::-1]):
                yield "gather", [[source], order, cursor, [to]], [to]
    labels, weights = np.arange(60)[::2], some(2, 60, low=0)[:, ::2]
    outs = [np.zeros((2, 37), np.int64), some(2, 37)]
    yield "gather", [[None, labels, weights], order, cursor, [None, *outs], np.array([9, 50])], outs
    x, to = np.asarray(some(30, 19), ">f8"), some(37, 19)
    yield "gather", [[x], order[0], cursor, [to]], [to]


def _of_metrics(some: _Numbers) -> Iterator[Case]:
    for *models, rows, units in (*SHAPES, (2, 9, 131)):
        y, target, sums = some(*models, rows, units), some(*models, rows, units), np.ones((*models, 2, units))
        for weights in (None, some(*models, rows, low=0)):
            yield "residual_sums", [y, target, weights, sums], [sums]


def _of_softmax(some: _Numbers) -> Iterator[Case]:
    def value(z: Array, y: Array, work: Work) -> Calls:
        yield lambda: np.exp(z - z.max(-1, keepdims=True), out=y)
        yield lambda: np.divide(y, y.sum(-1, keepdims=True), out=y)

    def gradient(grad_y: Array, y: Array, grad_z: Array, work: Work) -> Calls:
        yield lambda: np.multiply(y, grad_y - (grad_y * y).sum(-1, keepdims=True), out=grad_z)

    yield from _of_activation(some, Activation("softmax", "y", value, gradient, rowwise=True))


def _of_focal(some: _Numbers) -> Iterator[Case]:
    focal = LossFormula("", lambda *_: (), "", "", accuracy="argmax", numbers=("gamma",))
    outputs = [*(some(*shape) for shape in (*SHAPES[1:], (9, 131))), some.edges()]
    yield from _of_loss(some, "softmax_focal", [focal, replace(focal, accuracy="")], outputs)


FILES: Mapping[str, Callable[[_Numbers], Iterator[Case]]] = {
    "program": _of_layers, "products": _of_products, "layers": _of_layers, "scales": _of_scales, "dropout": _of_dropout,
    "periodic": _of_embeddings, "optimizers": _of_buffers, "minibatch": _of_minibatches, "losses": _of_losses,
    "sigmoid": _of_sigmoid, "schedules": _of_schedules, "softmax": _of_softmax, "focal": _of_focal,
    "metrics": _of_metrics, "gather_numbers": _of_stored_numbers, "wide_softmax": _of_wide_softmax,
}  # fmt: skip
"""By file of kernels/cpu, the cases of its operations; of program.cpp, of some that it runs."""
